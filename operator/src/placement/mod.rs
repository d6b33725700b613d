//! The hub: from a ReplicatedService to one ReplicaGroup per cluster, and back to its status. Comes
//! in: services, the groups of all clusters, the registry. Goes out: groups, the record of how each
//! service was formed, its certificate authority, status and events. One cluster is a placement with
//! one entry: there is no other path for it.
//!
//! `dereference` reads, `validate` and `plan` judge, `apply` and `status` write.

mod along;
mod apply;
mod authority;
mod available;
mod dereference;
mod error;
mod events;
mod finalize;
mod findings;
mod founding;
mod genesis;
mod groups;
mod members;
mod membership;
mod plan;
mod reconcile;
mod revisions;
mod rollout;
mod roster;
mod snapshots;
mod status;
mod tally;
mod unsupported;
mod validate;
mod view;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use kube::api::{Api, ApiResource, DynamicObject, ListParams, PartialObjectMeta};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Resource, ResourceExt as _};
use synod_api::ReplicatedService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tokio_util::sync::CancellationToken;

use crate::registry::{self, Cluster, Clusters};
use crate::run::{Context, Latch};
use error::PlacementError;
use groups::{Groups, Key};

/// Who writes, for server-side apply.
const MANAGER: &str = "synod-placement";
/// Its name in metrics.
const NAME: &str = "placement";
/// How often a service is looked at when nothing happens: certificates come of age.
const RESYNC: Duration = Duration::from_secs(600);
/// Services that wait to be looked at because a group of theirs changed.
const TRIGGERS: usize = 1024;
/// Services that are looked at at the same time.
const CONCURRENCY: u16 = 8;

/// Changes that come together are looked at once.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Between two attempts to list services at the start.
const PATIENCE: Duration = Duration::from_secs(2);
/// Looks in a row that may fail before the status tells.
const TOLD_AFTER: u32 = 2;

/// What all looks at services share.
pub(crate) struct Hub {
    pub(crate) context: Arc<Context>,
    pub(crate) clusters: Clusters,
    pub(crate) groups: Groups,
    pub(crate) resource: ApiResource,
    /// Looks in a row that failed.
    failures: Mutex<HashMap<Key, u32>>,
}

/// Runs until told to stop.
pub async fn run(context: Arc<Context>) -> anyhow::Result<()> {
    let flags = &context.flags;
    let local = Cluster::new(
        &flags.cluster,
        &flags.region,
        context.client.clone(),
        "local",
    );
    let clusters = Clusters::new(local);
    let (triggers, triggered) = mpsc::channel(TRIGGERS);
    let groups = Groups::new(triggers);
    let hub = Arc::new(Hub {
        resource: ApiResource::erase::<ReplicatedService>(&()),
        context: context.clone(),
        clusters: clusters.clone(),
        groups: groups.clone(),
        failures: Mutex::default(),
    });
    tokio::join!(
        control(hub, triggered),
        groups.run(clusters.clone(), context.stop.clone()),
        async {
            if let Err(error) = registry::run(context.clone(), clusters).await {
                tracing::error!(%error, "the registry of clusters has ended");
            }
        },
    );
    Ok(())
}

async fn control(hub: Arc<Hub>, triggered: mpsc::Receiver<Key>) {
    let context = &hub.context;
    let client = context.client.clone();
    let resource = hub.resource.clone();
    // Untyped: one object that cannot be read must not hide all others.
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    tokio::spawn(listed(
        api.clone(),
        context.readiness.latch("services"),
        context.stop.clone(),
    ));
    let controller = Controller::new_with(api, watcher::Config::default(), resource.clone())
        .with_config(
            kube::runtime::controller::Config::default()
                .concurrency(CONCURRENCY)
                .debounce(DEBOUNCE),
        );
    let store = controller.store();
    let one = resource.clone();
    let triggers = ReceiverStream::new(triggered)
        .map(move |(namespace, name)| reference(&namespace, &name, &one));
    // A cluster comes, goes or answers again; this instance may write from now on.
    let changes = WatchStream::from_changes(hub.clusters.changes()).map(|_| ());
    let leads = stream::unfold(context.leadership.clone(), |mut leadership| async {
        leadership.gained().await;
        Some(((), leadership))
    });
    let stop = context.stop.clone();
    controller
        .reconcile_on(triggers)
        .reconcile_all_on(changes)
        .reconcile_all_on(leads)
        .watches_stream(
            watcher(
                Api::<PartialObjectMeta<Deployment>>::all(client.clone()),
                watcher::Config::default(),
            )
            .default_backoff()
            .touched_objects(),
            refers("Deployment", store.clone(), resource.clone()),
        )
        .watches_stream(
            watcher(
                Api::<PartialObjectMeta<StatefulSet>>::all(client),
                watcher::Config::default(),
            )
            .default_backoff()
            .touched_objects(),
            refers("StatefulSet", store, resource),
        )
        .graceful_shutdown_on(async move { stop.cancelled().await })
        .run(look, again, hub.clone())
        .for_each(|_| std::future::ready(()))
        .await;
}

/// Ready once services can be listed: the definitions are installed, and the rights are there. The
/// controller's own cache cannot be asked: it wakes one waiter only, and that is the controller.
async fn listed(api: Api<DynamicObject>, latch: Latch, stop: CancellationToken) {
    let params = ListParams::default().limit(1);
    while let Err(error) = api.list_metadata(&params).await {
        tracing::warn!(%error, "services cannot be listed: are the definitions installed, and the rights there?");
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(PATIENCE) => {}
        }
    }
    latch.set();
}

fn reference(namespace: &str, name: &str, resource: &ApiResource) -> ObjectRef<DynamicObject> {
    ObjectRef::new_with(name, resource.clone()).within(namespace)
}

/// Services that take their template from a workload of this kind.
fn refers<K>(
    kind: &'static str,
    services: Store<DynamicObject>,
    resource: ApiResource,
) -> impl Fn(PartialObjectMeta<K>) -> Vec<ObjectRef<DynamicObject>>
where
    K: Resource,
{
    move |workload| {
        let (namespace, name) = (
            workload.metadata.namespace.clone().unwrap_or_default(),
            workload.metadata.name.clone().unwrap_or_default(),
        );
        let text = |it: &DynamicObject, path: &str| {
            it.data
                .pointer(path)
                .and_then(|it| it.as_str())
                .map(str::to_owned)
        };
        services
            .state()
            .iter()
            .filter(|it| it.namespace().as_ref() == Some(&namespace))
            .filter(|it| text(it, "/spec/workloadRef/kind").as_deref() == Some(kind))
            .filter(|it| text(it, "/spec/workloadRef/name").as_ref() == Some(&name))
            .map(|it| reference(&namespace, &it.name_any(), &resource))
            .collect()
    }
}

async fn look(service: Arc<DynamicObject>, hub: Arc<Hub>) -> Result<Action, PlacementError> {
    let key = (service.namespace().unwrap_or_default(), service.name_any());
    let work = step(&service, &hub, &key);
    // Caches are kept by every instance, so that one that takes over knows everything. It looks at
    // all of it when it begins to lead.
    let result = hub.context.leadership.while_leading(work).await;
    result.unwrap_or_else(|| Ok(Action::await_change()))
}

async fn step(service: &DynamicObject, hub: &Hub, key: &Key) -> Result<Action, PlacementError> {
    let start = Instant::now();
    let result = Box::pin(reconcile::reconcile(hub, service, key)).await;
    let word = result
        .as_ref()
        .map_or_else(PlacementError::category, |_| "ok");
    hub.context.metrics.reconciled(NAME, word, start.elapsed());
    match &result {
        Ok(_) => {
            hub.failures().remove(key);
        }
        // One that heals by itself is no news. What a cluster refuses is in the status already.
        Err(PlacementError::Clusters(_)) => {}
        Err(error) => {
            let before = hub.failures().get(key).copied().unwrap_or(0);
            if before >= TOLD_AFTER
                && let Err(error) = reconcile::tell(hub, service, key, error).await
            {
                tracing::debug!(service = key.1, %error, "nor can its status be written");
            }
        }
    }
    result
}

fn again(service: Arc<DynamicObject>, error: &PlacementError, hub: Arc<Hub>) -> Action {
    let key = (service.namespace().unwrap_or_default(), service.name_any());
    let mut failures = hub.failures();
    let attempt = failures.entry(key.clone()).or_default();
    let wait = error.backoff(*attempt);
    *attempt = attempt.saturating_add(1);
    tracing::warn!(namespace = key.0, service = key.1, %error, wait_s = wait.as_secs(), "a look at a service failed");
    Action::requeue(wait)
}

// === impl Hub ===

impl Hub {
    fn failures(&self) -> std::sync::MutexGuard<'_, HashMap<Key, u32>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
