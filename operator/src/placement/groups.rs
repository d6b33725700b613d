//! The ReplicaGroups of all clusters, watched. Comes in: the registry's clusters. Goes out: what was
//! last seen of each group, and which service to look at when one changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use kube::ResourceExt as _;
use kube::api::Api;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use synod_api::ReplicaGroup;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::registry::{Cluster, Clusters};

/// Namespace and name of a service.
pub(crate) type Key = (String, String);
/// A group that another version of the operator wrote may not be readable: it must not hide others.
type Guarded = DeserializeGuard<ReplicaGroup>;

/// Cheap to clone; all clones see the same.
#[derive(Clone)]
pub(crate) struct Groups {
    inner: Arc<Mutex<Inner>>,
    triggers: mpsc::Sender<Key>,
}

#[derive(Default)]
struct Inner {
    watched: BTreeMap<String, Watched>,
    /// Answers to our own writes, which caches may not have yet.
    written: HashMap<(String, Key), Arc<ReplicaGroup>>,
}

struct Watched {
    cluster: Cluster,
    store: Store<Guarded>,
    synced: bool,
}

/// What was last seen of one group.
pub(crate) enum Seen {
    /// The cluster has not been listed yet.
    Starting,
    /// There is none.
    Absent,
    /// This.
    Present(Arc<ReplicaGroup>),
    /// One that cannot be read.
    Unreadable(String),
}

// === impl Groups ===

impl Groups {
    /// Nothing is seen yet. Keys of services to look at go to `triggers`.
    pub(crate) fn new(triggers: mpsc::Sender<Key>) -> Self {
        Self {
            inner: Arc::default(),
            triggers,
        }
    }

    /// Watches all clusters, as they come and go, until told to stop.
    pub(crate) async fn run(self, clusters: Clusters, stop: CancellationToken) {
        let mut changes = clusters.changes();
        loop {
            changes.mark_unchanged();
            for cluster in clusters.usable() {
                self.watch(cluster, &stop);
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }

    /// The group of a service in a cluster.
    pub(crate) fn get(&self, cluster: &Cluster, key: &Key) -> Seen {
        let inner = self.lock();
        let Some(watched) = inner
            .watched
            .get(&cluster.name)
            .filter(|it| it.synced && it.cluster.is_same(cluster))
        else {
            return Seen::Starting;
        };
        let reference = ObjectRef::new(&key.1).within(&key.0);
        let cached = watched.store.get(&reference);
        let written = inner.written.get(&(cluster.name.clone(), key.clone()));
        match cached.as_deref().map(|it| &it.0) {
            Some(Err(error)) => Seen::Unreadable(error.error.clone()),
            Some(Ok(group)) => {
                let newer = written.filter(|it| {
                    it.uid() == group.uid() && it.metadata.generation > group.metadata.generation
                });
                Seen::Present(newer.map_or_else(|| Arc::new(group.clone()), Clone::clone))
            }
            // Deletion is seen by watching only.
            None => written.map_or(Seen::Absent, |it| Seen::Present(it.clone())),
        }
    }

    /// Takes note of the answer to a write.
    pub(crate) fn wrote(&self, cluster: &Cluster, key: &Key, group: ReplicaGroup) {
        self.lock()
            .written
            .insert((cluster.name.clone(), key.clone()), Arc::new(group));
    }

    /// Clusters in which there is a group of this key, whoever's.
    pub(crate) fn clusters_of(&self, key: &Key) -> Vec<Cluster> {
        let reference = ObjectRef::new(&key.1).within(&key.0);
        self.lock()
            .watched
            .values()
            .filter(|it| it.store.get(&reference).is_some())
            .map(|it| it.cluster.clone())
            .collect()
    }

    fn watch(&self, cluster: Cluster, stop: &CancellationToken) {
        let (store, writer) = reflector::store::<Guarded>();
        let mut inner = self.lock();
        if inner
            .watched
            .get(&cluster.name)
            .is_some_and(|it| it.cluster.is_same(&cluster))
        {
            return;
        }
        inner.written.retain(|(name, _), _| *name != cluster.name);
        inner.watched.insert(
            cluster.name.clone(),
            Watched {
                cluster: cluster.clone(),
                store: store.clone(),
                synced: false,
            },
        );
        drop(inner);
        let this = self.clone();
        let stop = stop.clone();
        tokio::spawn(async move {
            let api: Api<Guarded> = Api::all(cluster.client.clone());
            let config = watcher::Config::default();
            let events = watcher::watcher(api, config)
                .backoff(Patience(0))
                .reflect(writer);
            tokio::pin!(events);
            loop {
                let event = tokio::select! {
                    () = stop.cancelled() => return,
                    () = cluster.gone.cancelled() => break,
                    event = events.next() => event,
                };
                match event {
                    Some(Ok(event)) => this.seen(&cluster, &store, event).await,
                    // Whether the cluster answers is the circuit's matter.
                    Some(Err(error)) => tracing::debug!(
                        cluster = cluster.name,
                        %error,
                        "groups cannot be watched now"
                    ),
                    None => break,
                }
            }
            let mut inner = this.lock();
            if inner
                .watched
                .get(&cluster.name)
                .is_some_and(|it| it.cluster.is_same(&cluster))
            {
                inner.watched.remove(&cluster.name);
            }
        });
    }

    async fn seen(&self, cluster: &Cluster, store: &Store<Guarded>, event: Event<Guarded>) {
        let keys = match event {
            Event::Init | Event::InitApply(_) => return,
            Event::InitDone => {
                let mut inner = self.lock();
                if let Some(watched) = inner.watched.get_mut(&cluster.name) {
                    watched.synced = true;
                }
                // What was deleted while nobody watched is not there any more.
                inner.written.retain(|(name, _), _| *name != cluster.name);
                drop(inner);
                store.state().iter().map(|it| key(it)).collect()
            }
            Event::Apply(group) => vec![key(&group)],
            Event::Delete(group) => {
                let key = key(&group);
                self.lock()
                    .written
                    .remove(&(cluster.name.clone(), key.clone()));
                vec![key]
            }
        };
        for key in keys {
            // Full only while services are looked at more slowly than they change.
            if self.triggers.send(key).await.is_err() {
                return;
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(group: &Guarded) -> Key {
    (group.namespace().unwrap_or_default(), group.name_any())
}

/// A region that comes back should be seen soon: 0.5, 1, 2, 4, then 8 s.
struct Patience(u32);

impl Iterator for Patience {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = Duration::from_millis(500 << self.0.min(4));
        self.0 = self.0.saturating_add(1);
        Some(wait)
    }
}

impl Backoff for Patience {
    fn reset(&mut self) {
        self.0 = 0;
    }
}
