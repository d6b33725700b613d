//! The end of a service: its groups go in all clusters, and then the object itself.

use std::collections::BTreeSet;

use kube::ResourceExt as _;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use synod_api::ReplicaGroup;

use super::apply::{Only, delete, in_time};
use super::groups::Key;
use crate::registry::{Cluster, Clusters, Entry};

/// On services: the hub has something to do before they are gone.
pub(crate) const FINALIZER: &str = "synod.dev/placement";

/// One step towards the end; what is still in the way, in words. Empty: nothing.
///
/// A cluster that is not registered (any more) is not in the way: taking the registration away is
/// how a person says that it will not come back.
pub(crate) async fn remove_groups(
    clusters: &Clusters,
    names: &BTreeSet<String>,
    key: &Key,
    uid: &str,
) -> Vec<String> {
    let mut left = Vec::new();
    for name in names {
        let Some(entry) = clusters.get(name) else {
            continue;
        };
        let words = match entry {
            Entry::Refused { problem, .. } => Some(problem),
            Entry::Usable(cluster) => match cluster.circuit.get() {
                Some(it) if !it.reachable => Some(format!(
                    "it does not answer ({}); to leave there what is there: synod cluster remove {name} --force",
                    it.problem
                )),
                _ => remove_group(&cluster, key, uid).await,
            },
        };
        if let Some(words) = words {
            left.push(format!("cluster {name}: {words}"));
        }
    }
    left
}

/// Asks the cluster itself: a cache may not have seen yet what was just made.
async fn remove_group(cluster: &Cluster, key: &Key, uid: &str) -> Option<String> {
    let api: Api<ReplicaGroup> = Api::namespaced(cluster.client.clone(), &key.0);
    let group = match in_time(api.get_opt(&key.1)).await {
        Ok(group) => group.filter(|it| it.spec.owner == uid)?,
        Err(problem) => return Some(problem),
    };
    if group.metadata.deletion_timestamp.is_none()
        && let Err(problem) = delete(cluster, key, &group, Only::TheOne).await
    {
        return Some(problem);
    }
    Some("members are being removed".to_owned())
}

/// Puts the finalizer on, or takes it off.
pub(crate) async fn set<K>(api: &Api<K>, object: &K, present: bool) -> Result<(), kube::Error>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut finalizers = object.finalizers().to_vec();
    if finalizers.iter().any(|it| it == FINALIZER) == present {
        return Ok(());
    }
    finalizers.retain(|it| it != FINALIZER);
    if present {
        finalizers.push(FINALIZER.to_owned());
    }
    // With its version: another's finalizer that comes at the same moment is not lost.
    let patch = json!({"metadata": {
        "finalizers": finalizers,
        "resourceVersion": object.resource_version(),
    }});
    let name = object.name_any();
    match api
        .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
        .await
    {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if !present && status.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}
