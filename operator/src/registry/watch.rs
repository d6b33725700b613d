//! Keeps [`Clusters`] as the Secrets are, and looks whether each cluster answers.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, reflector};
use kube::{Client, Config};
use synod_api::ReplicaGroup;

use super::plan::{Registration, registrations};
use super::{CLUSTER_LABEL, Cluster, Clusters, Entry};
use crate::run::{Context, Metrics};

/// How often a cluster is asked whether it is there.
const PERIOD: Duration = Duration::from_secs(5);
/// How long it may take to answer.
const TIMEOUT: Duration = Duration::from_secs(4);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(4);

/// Runs until told to stop.
pub async fn run(context: Arc<Context>, clusters: Clusters) -> anyhow::Result<()> {
    for cluster in clusters.usable() {
        tokio::spawn(look(cluster, clusters.clone(), context.metrics.clone()));
    }
    let latch = context.readiness.latch("registrations of clusters");
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &context.flags.namespace);
    let (store, writer) = reflector::store();
    let events = watcher::watcher(api, watcher::Config::default().labels(CLUSTER_LABEL))
        .default_backoff()
        .reflect(writer)
        .take_until(context.stop.clone().cancelled_owned());
    tokio::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init | Event::InitApply(_)) => continue,
            Ok(Event::InitDone) => latch.set(),
            Ok(Event::Apply(_) | Event::Delete(_)) => {}
            Err(error) => {
                tracing::warn!(%error, "registrations of clusters cannot be watched");
                continue;
            }
        }
        let secrets: Vec<Secret> = store.state().iter().map(|it| (**it).clone()).collect();
        let wanted = registrations(&secrets, &context.flags.cluster);
        let mut changed = remove(&clusters, &context, |name| wanted.contains_key(name));
        for (name, registration) in wanted {
            changed |= put(&clusters, &context.metrics, &name, registration).await;
        }
        if changed {
            clusters.changed();
        }
    }
    Ok(())
}

/// Forgets entries that are wanted no more, except that of this cluster.
fn remove(clusters: &Clusters, context: &Context, wanted: impl Fn(&str) -> bool) -> bool {
    let local = &context.flags.cluster;
    let mut entries = clusters.lock();
    let before = entries.len();
    entries.retain(|name, entry| {
        let keep = name == local || wanted(name);
        if !keep {
            tracing::info!(cluster = name, "a cluster is registered no more");
            if let Entry::Usable(cluster) = entry {
                cluster.gone.cancel();
            }
            context.metrics.reachable(name, None);
        }
        keep
    });
    entries.len() != before
}

/// Makes one entry as it is wanted. Whether it was another before.
async fn put(clusters: &Clusters, metrics: &Metrics, name: &str, wanted: Registration) -> bool {
    if clusters
        .get(name)
        .is_some_and(|it| it.version() == wanted.version)
    {
        return false;
    }
    let made = match wanted.content {
        Ok((region, config)) => connect(config)
            .await
            .map(|client| Cluster::new(name, &region, client, &wanted.version))
            .map_err(|problem| format!("the Secret {}: {problem}", wanted.secret)),
        Err(problem) => Err(problem),
    };
    let entry = match made {
        Ok(cluster) => {
            tracing::info!(
                cluster = name,
                region = cluster.region,
                "a cluster is registered"
            );
            tokio::spawn(look(cluster.clone(), clusters.clone(), metrics.clone()));
            Entry::Usable(cluster)
        }
        Err(problem) => {
            tracing::warn!(cluster = name, problem, "a registration is refused");
            metrics.reachable(name, Some(false));
            Entry::Refused {
                version: wanted.version,
                problem,
            }
        }
    };
    if let Some(Entry::Usable(old)) = clusters.lock().insert(name.to_owned(), entry) {
        old.gone.cancel();
    }
    true
}

/// A client for the cluster of a registration. Errors name no credential: the library's own words
/// about them might.
pub async fn connect(config: Kubeconfig) -> Result<Client, String> {
    let mut config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
        .await
        .map_err(|_| {
            "the address or a credential in the kubeconfig cannot be decoded".to_owned()
        })?;
    config.connect_timeout = Some(CONNECT);
    Client::try_from(config)
        .map_err(|_| "a certificate or key in the kubeconfig cannot be used".to_owned())
}

/// Asks a cluster again and again whether it is there, until its entry is gone. A watch alone does
/// not tell: one that hears nothing is the same as one that has nothing to hear.
async fn look(cluster: Cluster, clusters: Clusters, metrics: Metrics) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cluster.gone.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let result = match tokio::time::timeout(TIMEOUT, ask(&cluster.client)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
        };
        if cluster.gone.is_cancelled() {
            return;
        }
        let problem = result.clone().err();
        let changed = cluster.circuit.note(result, Timestamp::now());
        let reachable = cluster.circuit.is_closed();
        metrics.reachable(&cluster.name, Some(reachable));
        if changed {
            if reachable {
                tracing::info!(cluster = cluster.name, "the cluster answers");
            } else {
                tracing::warn!(
                    cluster = cluster.name,
                    problem,
                    "the cluster does not answer"
                );
            }
            clusters.changed();
        }
    }
}

/// What the operator needs there, in small: an answer says that the address, the credentials, the
/// rights and the kind of object are all as they should be.
pub async fn ask(client: &Client) -> Result<(), String> {
    let api: Api<ReplicaGroup> = Api::all(client.clone());
    match api.list_metadata(&ListParams::default().limit(1)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(match status.code {
            401 => "it does not accept the credentials (401): run `synod cluster join` again, they have ended or are of another cluster".to_owned(),
            403 => format!("the credentials lack rights on replicagroups (403): run `synod cluster join` again ({})", status.message),
            404 => "it knows no ReplicaGroups (404): install the operator there, or correct the address".to_owned(),
            code => format!("it answers {code}: {}", status.message),
        }),
        Err(error) => {
            let words = chain(&error);
            // What the libraries say first about every connection says nothing.
            let words = words
                .trim_start_matches("ServiceError: ")
                .replace("client error (Connect): ", "");
            // In rustls' words: another authority, another name, or past its time.
            let hint = if words.contains("invalid peer certificate") {
                ": the certificate at this address is not this cluster's: correct the address or the certificate authority, as `synod cluster join --server` does"
            } else {
                ""
            };
            Err(format!("{words}{hint}"))
        }
    }
}

/// An error with its causes: the first one alone often says nothing.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(cause) = at {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        at = cause.source();
    }
    text
}
