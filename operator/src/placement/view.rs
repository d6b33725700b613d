//! What is known of one service in the clusters, put side by side. Comes in from `dereference`.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use synod_api::{ClusterStatus, GroupMemberStatus, ReplicaGroup};

/// One cluster, as far as one service is concerned.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// Its name.
    pub(crate) cluster: String,
    /// Its region.
    pub(crate) region: String,
    /// Whether it can be worked with.
    pub(crate) access: Access,
    /// The service's group there, as it was last seen.
    pub(crate) group: Option<Arc<ReplicaGroup>>,
}

/// Whether a cluster can be worked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It answers.
    Open,
    /// It has not been looked at yet.
    Starting,
    /// It does not answer.
    Unreachable {
        /// Since when.
        since: Timestamp,
        /// Why.
        problem: String,
    },
    /// Its registration cannot be used, and why.
    Refused(String),
    /// It is not registered.
    Unknown,
}

// === impl View ===

impl View {
    /// The group, if it is of the service with this UID.
    pub(crate) fn own(&self, uid: &str) -> Option<&ReplicaGroup> {
        self.group.as_deref().filter(|it| it.spec.owner == uid)
    }

    /// Whether what its operator says is about what it was last told.
    pub(crate) fn is_settled(&self, uid: &str) -> bool {
        self.own(uid).is_some_and(|it| {
            let observed = it.status.as_ref().and_then(|it| it.observed_generation);
            observed.is_some() && observed == it.metadata.generation
        })
    }

    /// Whether it answers.
    pub(crate) fn is_open(&self) -> bool {
        self.access == Access::Open
    }
}

/// What members report of themselves, by name; of clusters that do not answer, what they said last.
pub(crate) fn reported<'a>(
    views: &'a [View],
    uid: &str,
) -> BTreeMap<&'a str, &'a GroupMemberStatus> {
    of(views.iter(), uid)
}

/// The same, of clusters that answer only.
pub(crate) fn current<'a>(
    views: &'a [View],
    uid: &str,
) -> BTreeMap<&'a str, &'a GroupMemberStatus> {
    of(views.iter().filter(|it| it.is_open()), uid)
}

fn of<'a>(
    views: impl Iterator<Item = &'a View>,
    uid: &str,
) -> BTreeMap<&'a str, &'a GroupMemberStatus> {
    views
        .filter(|it| it.own(uid).is_some())
        .filter_map(|it| it.group.as_deref()?.status.as_ref())
        .flat_map(|it| &it.members)
        .map(|it| (it.name.as_str(), it))
        .collect()
}

/// The one of this name.
pub(crate) fn find<'a>(views: &'a [View], cluster: &str) -> Option<&'a View> {
    views.iter().find(|it| it.cluster == cluster)
}

/// The clusters themselves, as the status tells of them.
pub(crate) fn clusters(views: &[View]) -> Vec<ClusterStatus> {
    views
        .iter()
        .map(|it| ClusterStatus {
            name: it.cluster.clone(),
            region: it.region.clone(),
            reachable: it.is_open(),
        })
        .collect()
}
