//! What goes wrong between clusters: registrations that do not work, clusters that do not answer, two
//! hubs that want the same service, nodes emptied in two places at once. Each is said in words, does no
//! harm, and ends when it is put right.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use synod_system::report::Report;

use super::bad_input::told;
use super::regions::install;
use super::trace::Picture;
use super::{Settings, finish};
use crate::product::{NAMESPACE, Product, REGISTERS};
use crate::service::{Service, member_pods};
use crate::{Cluster, Clusters};

/// How long a thing may take that usually takes seconds.
const PATIENCE: Duration = Duration::from_secs(180);
/// Name of the service.
const NAME: &str = "spread";
/// How long a leader grants no eviction, and a drain beside.
const QUIET: Duration = Duration::from_secs(66 + 60);

pub(super) async fn what_goes_wrong(settings: &Settings, report: &mut Report) -> Result<()> {
    let before = Picture::take()?;
    let product = Product::assemble(&settings.images())?;
    let clusters = settings.clusters(3, 1, Duration::ZERO).await?;
    // Those of services that are gone are not used again.
    install(&product, &clusters, 10).await?;
    registrations(&product, &clusters, report).await?;
    let service = unreachable_at_creation(&clusters, report).await?;
    two_hubs(&product, &clusters, &service, report).await?;
    other_members(&service, report).await?;
    unreachable_later(&clusters, &service, report).await?;
    drains(&clusters, &service, report).await?;
    removal(&product, &clusters, &service, report).await?;
    finish(clusters, report)?;
    Picture::take()?.compare(&before, report);
    Ok(())
}

/// A service with a member in each of these clusters, by its manifest.
fn manifest(name: &str, clusters: &[&str]) -> Value {
    let placement: Vec<_> = clusters
        .iter()
        .map(|it| json!({"cluster": it, "voters": 1}))
        .collect();
    json!({
        "apiVersion": "synod.dev/v1alpha1",
        "kind": "ReplicatedService",
        "metadata": {"name": name},
        "spec": {
            "placement": placement,
            "acknowledgedRisks": ["NoSnapshot"],
            "network": {"mode": "PerPodService"},
            "template": {"spec": {
                "terminationGracePeriodSeconds": 2,
                "containers": [{
                    "name": "app",
                    "image": REGISTERS,
                    "ports": [{"name": "http", "containerPort": 8080}],
                }],
            }},
        },
    })
}

async fn apply(cluster: &Cluster, object: &Value) -> Result<()> {
    let apply = ["apply", "--filename=-"];
    cluster.kubectl_with(apply, &object.to_string()).await?;
    Ok(())
}

/// Kubeconfigs that are refused or do not work, by name, and what is said of each.
async fn registrations(product: &Product, clusters: &Clusters, report: &mut Report) -> Result<()> {
    let (hub, other) = (clusters.first(), &clusters.all()[1]);
    let (good, stranger) = (view(other).await?, view(hub).await?);
    let server = good["clusters"][0]["cluster"].clone();
    let mut insecure = server.clone();
    insecure["insecure-skip-tls-verify"] = json!(true);
    let mut wrong = server.clone();
    wrong["certificate-authority-data"] =
        stranger["clusters"][0]["cluster"]["certificate-authority-data"].clone();
    let token = json!({"token": "expired"});
    let cases = [
        (
            "exec",
            &server,
            json!({"exec": {"command": "aws", "apiVersion": "client.authentication.k8s.io/v1"}}),
            "a program (exec)",
        ),
        ("file", &server, json!({"tokenFile": "/token"}), "tokenFile"),
        (
            "insecure",
            &insecure,
            token.clone(),
            "insecure-skip-tls-verify",
        ),
        ("expired", &server, token.clone(), "(401)"),
        ("wrong", &wrong, token, "is not this cluster's"),
    ];
    for (name, cluster, user, _) in &cases {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "x",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        });
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": format!("synod-cluster-{name}"),
                "namespace": NAMESPACE,
                "labels": {"synod.dev/cluster": name},
            },
            "data": {
                "kubeconfig": STANDARD.encode(config.to_string()),
                "region": STANDARD.encode(name),
            },
        });
        apply(hub, &secret).await?;
    }
    let list = product.cluster(hub, &["list", "--output=json"]).await?;
    let list: Value = serde_json::from_str(&list)?;
    for (name, _, _, words) in &cases {
        let entries = list["clusters"].as_array().into_iter().flatten();
        let problem = entries
            .filter(|it| it["name"] == *name)
            .find_map(|it| it["problem"].as_str())
            .unwrap_or_default();
        report.expect(
            problem.contains(words),
            format!("`synod cluster list` says of {name}: {problem:?}"),
        );
    }
    // What the hub itself says to whoever uses them.
    for (name, _, _, words) in &cases {
        let astray = Service { hub, name };
        apply(hub, &manifest(name, &[&hub.name, &other.name, name])).await?;
        told(&astray, "Ready", &[words, name], report).await?;
        hub.kubectl(["delete", "rsvc", name, "--wait=false"])
            .await?;
        let secret = format!("synod-cluster-{name}");
        hub.kubectl(["delete", "secret", "--namespace", NAMESPACE, &secret])
            .await?;
        let gone = format!("rsvc/{name}");
        hub.kubectl(["wait", &gone, "--for=delete", "--timeout=120s"])
            .await?;
    }
    Ok(())
}

/// A cluster's kubeconfig.
async fn view(cluster: &Cluster) -> Result<Value> {
    let view = ["config", "view", "--raw", "--output=json"];
    Ok(serde_json::from_str(&cluster.kubectl(view).await?)?)
}

/// Nothing is formed while one of the clusters is out of reach.
async fn unreachable_at_creation<'a>(
    clusters: &'a Clusters,
    report: &mut Report,
) -> Result<Service<'a>> {
    let hub = clusters.first();
    let far = &clusters.all()[2];
    let names: Vec<_> = clusters.all().iter().map(|it| it.name.as_str()).collect();
    let service = Service { hub, name: NAME };
    clusters.cut(&far.region)?;
    apply(hub, &manifest(NAME, &names)).await?;
    let words = ["ClusterUnreachable", far.name.as_str()];
    told(&service, "Ready", &words, report).await?;
    let genesis = format!("configmap/{NAME}-genesis-record");
    let formed = hub.kubectl(["get", &genesis, "--ignore-not-found"]).await?;
    report.expect(
        formed.is_empty(),
        "a group was formed without one of its clusters",
    );
    clusters.heal(&far.region)?;
    let took = service.wait("Ready", PATIENCE).await?;
    report.say(format!(
        "Ready {:.1} s after the last cluster came into reach",
        took.as_secs_f64()
    ));
    Ok(service)
}

/// The other cluster becomes a hub, and wants a service of the same name.
async fn two_hubs(
    product: &Product,
    clusters: &Clusters,
    service: &Service<'_>,
    report: &mut Report,
) -> Result<()> {
    let other = &clusters.all()[1];
    let generation = generation(other).await?;
    let values = |hub: &str| {
        [
            format!("cluster.name={}", other.name),
            format!("cluster.region={}", other.region),
            format!("hub={hub}"),
        ]
    };
    let own = values("true");
    let own: Vec<_> = own.iter().map(String::as_str).collect();
    product.install(other, &own).await?;
    apply(other, &manifest(NAME, &[&other.name])).await?;
    let second = Service {
        hub: other,
        name: NAME,
    };
    let words = ["OwnedByAnother", "another hub", other.name.as_str()];
    told(&second, "Ready", &words, report).await?;
    other
        .kubectl(["delete", "rsvc", NAME, "--timeout=120s"])
        .await?;
    let own = values("false");
    let own: Vec<_> = own.iter().map(String::as_str).collect();
    product.install(other, &own).await?;
    service.wait("Ready", PATIENCE).await?;
    report.expect(
        generation == self::generation(other).await?,
        "a second hub changed the work of the first",
    );
    Ok(())
}

/// Of the work in a cluster: changes with each change of it.
async fn generation(cluster: &Cluster) -> Result<String> {
    let name = format!("rgrp/{NAME}");
    let form = "--output=jsonpath={.metadata.uid} {.metadata.generation}";
    cluster.kubectl(["get", &name, form]).await
}

/// An observer comes and goes where it is asked for.
async fn other_members(service: &Service<'_>, report: &mut Report) -> Result<()> {
    let patch = |count: u8| {
        json!([{"op": "add", "path": "/spec/placement/0/observers", "value": count}]).to_string()
    };
    let name = format!("rsvc/{NAME}");
    let apply = async |count: u8| {
        let patch = patch(count);
        let arguments = ["patch", &name, "--type=json", "--patch", &patch];
        service.hub.kubectl(arguments).await
    };
    for count in [1, 0] {
        let before = member_pods(service.hub, NAME).await?.len();
        apply(count).await?;
        if count == 1 {
            let words = ["MemberJoining", service.hub.name.as_str()];
            told(service, "Ready", &words, report).await?;
        }
        let began = Instant::now();
        while member_pods(service.hub, NAME).await?.len() == before {
            anyhow::ensure!(began.elapsed() < PATIENCE, "as many pods as before");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        service.wait("Ready", PATIENCE).await?;
    }
    Ok(())
}

/// A cluster that is out of reach later: that is said, and the service goes on.
async fn unreachable_later(
    clusters: &Clusters,
    service: &Service<'_>,
    report: &mut Report,
) -> Result<()> {
    let far = &clusters.all()[2];
    clusters.cut(&far.region)?;
    let words = ["ClusterUnreachable", far.name.as_str()];
    told(service, "Degraded", &words, report).await?;
    let said = service.conditions().await?.remove("Available");
    report.expect(
        said.as_ref().is_some_and(|it| it.starts_with("True")),
        format!("with one of three clusters cut off, Available is {said:?}"),
    );
    clusters.heal(&far.region)?;
    service.wait("Ready", PATIENCE).await?;
    Ok(())
}

/// Two nodes in two clusters are emptied at the same time: one after the other.
async fn drains(clusters: &Clusters, service: &Service<'_>, report: &mut Report) -> Result<()> {
    let began = Instant::now();
    let (one, two) = (&clusters.all()[1], &clusters.all()[2]);
    let drained = tokio::try_join!(drain(one), drain(two));
    let failed = drained.err().map(|it| format!("{it:#}"));
    let node = |cluster: &Cluster| format!("node/{}-1", cluster.name);
    // Each has one node, so the first of them has nowhere to go; the second is not let go.
    let mut away = 0;
    for cluster in [one, two] {
        let pods = member_pods(cluster, NAME).await?;
        away += usize::from(pods.iter().any(|it| it.node.is_empty()));
    }
    report.expect(
        away == 1
            && failed
                .as_ref()
                .is_some_and(|it| it.contains("disruption budget")),
        format!("of two members that were to be evicted at once, {away} went: {failed:?}"),
    );
    let said = service.conditions().await?;
    report.say(format!("meanwhile: {said:#?}"));
    report.expect(
        said.get("Available")
            .is_some_and(|it| it.starts_with("True")),
        format!("two drains took the quorum: {said:#?}"),
    );
    for cluster in [one, two] {
        cluster.kubectl(["uncordon", &node(cluster)]).await?;
    }
    service.wait("Ready", PATIENCE).await?;
    report.say(format!(
        "of two nodes drained in two clusters one was emptied; all well {:.1} s after both began",
        began.elapsed().as_secs_f64()
    ));
    Ok(())
}

async fn drain(cluster: &Cluster) -> Result<()> {
    let node = format!("{}-1", cluster.name);
    let timeout = format!("--timeout={}s", QUIET.as_secs());
    let selector = format!("--pod-selector=synod.dev/service={NAME}");
    let arguments = [
        "drain",
        &node,
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        &selector,
        &timeout,
    ];
    cluster.kubectl(arguments).await?;
    Ok(())
}

/// The service goes in all clusters, and one of them goes out.
async fn removal(
    product: &Product,
    clusters: &Clusters,
    service: &Service<'_>,
    report: &mut Report,
) -> Result<()> {
    let (hub, other) = (clusters.first(), &clusters.all()[1]);
    let refused = product.cluster(hub, &["remove", &other.name]).await;
    report.expect(
        refused
            .as_ref()
            .is_err_and(|it| format!("{it:#}").contains(NAME)),
        format!("a cluster with members was taken out: {refused:?}"),
    );
    let began = Instant::now();
    hub.kubectl(["delete", "rsvc", service.name, "--timeout=120s"])
        .await?;
    for cluster in clusters.all() {
        loop {
            let pods = member_pods(cluster, NAME).await?;
            let groups = cluster.kubectl(["get", "rgrp", "--output=name"]).await?;
            if pods.is_empty() && groups.is_empty() {
                break;
            }
            if began.elapsed() > PATIENCE {
                bail!("left in {}: {groups} {pods:?}", cluster.name);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    product
        .cluster(hub, &["remove", &other.name])
        .await
        .context("taking a cluster out that has no members any more")?;
    Ok(())
}
