//! The clusters that services may be placed in. Comes in: Secrets with the label
//! `synod.dev/cluster`, in the operator's namespace, and this cluster itself. Goes out: a client for
//! each, and whether its API server answers. Entries come and go while the operator runs.

mod circuit;
mod kubeconfig;
mod plan;
mod watch;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use kube::Client;
use tokio::sync::watch as latest;
use tokio_util::sync::CancellationToken;

pub use circuit::{Circuit, Reachability};
pub use kubeconfig::{Refusal, check};
pub use watch::{ask, connect, run};

/// On Secrets: name of the cluster that they register.
pub const CLUSTER_LABEL: &str = "synod.dev/cluster";
/// Key in such a Secret: the kubeconfig.
pub const KUBECONFIG_KEY: &str = "kubeconfig";
/// Key in such a Secret: the cluster's region.
pub const REGION_KEY: &str = "region";

/// All clusters that are known now. Cheap to clone; all clones see the same.
#[derive(Clone)]
pub struct Clusters(Arc<Inner>);

struct Inner {
    entries: Mutex<BTreeMap<String, Entry>>,
    changes: latest::Sender<u64>,
}

/// A cluster that is registered.
#[derive(Clone)]
pub enum Entry {
    /// It can be talked to, or at least tried.
    Usable(Cluster),
    /// Its registration cannot be used.
    Refused {
        /// Version of the Secret that says so.
        version: String,
        /// Why, and the way out.
        problem: String,
    },
}

/// A cluster that can be talked to.
#[derive(Clone)]
pub struct Cluster {
    /// Its name, as placements have it.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Of its API server.
    pub client: Client,
    /// Whether its API server answers.
    pub circuit: Circuit,
    /// Cancelled when this entry is replaced or removed: watches on it end.
    pub gone: CancellationToken,
    /// Version of what this entry was made from.
    version: String,
}

// === impl Clusters ===

impl Clusters {
    /// Only this cluster, to begin with.
    pub fn new(local: Cluster) -> Self {
        let entries = BTreeMap::from([(local.name.clone(), Entry::Usable(local))]);
        Self(Arc::new(Inner {
            entries: Mutex::new(entries),
            changes: latest::Sender::new(0),
        }))
    }

    /// What is known under this name.
    pub fn get(&self, name: &str) -> Option<Entry> {
        self.lock().get(name).cloned()
    }

    /// All that can be talked to.
    pub fn usable(&self) -> Vec<Cluster> {
        let entries = self.lock();
        let usable = entries.values().filter_map(|it| match it {
            Entry::Usable(cluster) => Some(cluster.clone()),
            Entry::Refused { .. } => None,
        });
        usable.collect()
    }

    /// The names of all, whether they can be talked to or not.
    pub fn names(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    /// Changes when a cluster comes, goes, becomes reachable or unreachable.
    pub fn changes(&self) -> latest::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Tells everybody that something has changed.
    fn changed(&self) {
        self.0.changes.send_modify(|it| *it += 1);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Entry>> {
        // Nothing panics while it is held.
        self.0
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Cluster ===

impl Cluster {
    /// A cluster that this client is for; not known yet whether it answers.
    pub fn new(name: &str, region: &str, client: Client, version: &str) -> Self {
        Self {
            name: name.to_owned(),
            region: region.to_owned(),
            client,
            circuit: Circuit::default(),
            gone: CancellationToken::new(),
            version: version.to_owned(),
        }
    }

    /// Whether this is the same entry, not a later one under the same name.
    pub fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.version == other.version
    }
}

impl Entry {
    fn version(&self) -> &str {
        match self {
            Self::Usable(cluster) => &cluster.version,
            Self::Refused { version, .. } => version,
        }
    }
}

/// Whether a cluster may be called so.
pub fn check_name(text: &str) -> Result<(), String> {
    let inner = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || it == b'-';
    let good = !text.is_empty()
        && text.len() <= 40
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if good {
        Ok(())
    } else {
        Err(format!(
            "`{text}` is not a name of a cluster: use at most 40 lower-case letters, digits and `-`"
        ))
    }
}
