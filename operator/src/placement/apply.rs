//! Writes what was planned. Everything can be written again: after a crash at any point the next
//! look writes what is missing.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Resource as _, ResourceExt as _};
use serde_json::json;
use synod_api::{ReplicaGroup, ReplicaGroupSpec, ReplicatedService, WorkloadRef};

use super::error::PlacementError;
use super::groups::{Groups, Key};
use super::plan::{Plan, Record};
use super::view::{self, View};
use super::{MANAGER, authority, genesis};
use crate::registry::{Cluster, Clusters, Entry};
use crate::run::Context;

/// One request to another cluster.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What belongs to a service, in the hub.
pub(crate) struct Own<'a> {
    pub(crate) context: &'a Context,
    pub(crate) service: &'a ReplicatedService,
    pub(crate) key: &'a Key,
}

// === impl Own ===

impl Own<'_> {
    /// Writes the record, if nobody else was faster (rule M5: once, create-only). The caller reads
    /// it again before it goes on: what is there counts, not what was written.
    pub(crate) async fn record(&self, record: &Record) -> Result<(), PlacementError> {
        let name = genesis::record_name(&self.key.1);
        let api: Api<ConfigMap> = Api::namespaced(self.context.client.clone(), &self.key.0);
        let map = ConfigMap {
            metadata: self.metadata(&name),
            data: Some(BTreeMap::from([(
                record.key.to_owned(),
                record.text.clone(),
            )])),
            immutable: Some(true),
            ..ConfigMap::default()
        };
        match api.create(&post(), &map).await {
            Ok(_) => {
                tracing::info!(service = self.key.1, "the first configuration is recorded");
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            Err(error) => Err(PlacementError::write(format!("ConfigMap {name}"))(error)),
        }
    }

    /// Writes the authority's Secret. With the version that was read: of two that write a new root
    /// at once, one is refused, and nothing that was issued is of a lost root.
    pub(crate) async fn authority(
        &self,
        data: &BTreeMap<String, String>,
        before: Option<&Secret>,
    ) -> Result<(), PlacementError> {
        let name = authority::secret_name(&self.key.1);
        let api: Api<Secret> = Api::namespaced(self.context.client.clone(), &self.key.0);
        let mut secret = Secret {
            metadata: self.metadata(&name),
            data: Some(
                data.iter()
                    .map(|(key, value)| (key.clone(), ByteString(value.clone().into_bytes())))
                    .collect(),
            ),
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        };
        let result = match before {
            None => api.create(&post(), &secret).await,
            Some(before) => {
                secret.metadata.resource_version = before.resource_version();
                api.replace(&name, &post(), &secret).await
            }
        };
        result
            .map(|_| ())
            .map_err(PlacementError::write(format!("Secret {name}")))
    }

    /// Scales the workload that the template was taken from down to nothing. Whether that was done.
    pub(crate) async fn scale_down(&self, workload: &WorkloadRef) -> Result<(), PlacementError> {
        let patch = Patch::Merge(json!({"spec": {"replicas": 0}}));
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let client = self.context.client.clone();
        let (namespace, name) = (&self.key.0, &workload.name);
        let result = if workload.kind == "Deployment" {
            let api: Api<Deployment> = Api::namespaced(client, namespace);
            api.patch_scale(name, &params, &patch).await
        } else {
            let api: Api<StatefulSet> = Api::namespaced(client, namespace);
            api.patch_scale(name, &params, &patch).await
        };
        result.map(|_| ()).map_err(PlacementError::write(format!(
            "the scale of {} {name}",
            workload.kind
        )))
    }

    /// Goes with the service.
    fn metadata(&self, name: &str) -> ObjectMeta {
        let owner = OwnerReference {
            api_version: ReplicatedService::api_version(&()).into_owned(),
            kind: ReplicatedService::kind(&()).into_owned(),
            name: self.key.1.clone(),
            uid: self.service.uid().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        };
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(self.key.0.clone()),
            labels: Some(labels(&self.key.1)),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        }
    }
}

fn post() -> PostParams {
    PostParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PostParams::default()
    }
}

fn labels(service: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/managed-by", "synod"),
        ("app.kubernetes.io/instance", service),
        ("synod.dev/service", service),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// Writes the groups of a plan into their clusters; what failed, in words.
pub(crate) async fn groups(
    clusters: &Clusters,
    groups: &Groups,
    key: &Key,
    uid: &str,
    views: &[View],
    plan: Plan,
) -> Vec<String> {
    let mut failures = Vec::new();
    let formed = plan.groups.iter().any(|(_, it)| it.genesis.is_some());
    let several = plan.groups.len() > 1;
    for (name, mut spec) in plan.groups {
        let Some((cluster, view)) = open(clusters, views, &name) else {
            continue;
        };
        let before = view.own(uid);
        if before.is_some_and(|it| it.spec == spec) {
            continue;
        }
        let gains = spec.rollout && before.is_none_or(|it| !it.spec.rollout);
        if gains && several && formed && !others_have_none(clusters, key, views, uid, &name).await {
            spec.rollout = false;
        }
        match put(&cluster, key, spec).await {
            Ok(group) => groups.wrote(&cluster, key, group),
            Err(problem) => failures.push(format!("cluster {name}: {problem}")),
        }
    }
    for name in plan.surplus {
        if let Some((cluster, view)) = open(clusters, views, &name)
            && let Some(group) = view.own(uid)
            && let Err(problem) = delete(&cluster, key, group).await
        {
            failures.push(format!("cluster {name}: {problem}"));
        }
    }
    failures
}

fn open<'a>(clusters: &Clusters, views: &'a [View], name: &str) -> Option<(Cluster, &'a View)> {
    let view = view::find(views, name).filter(|it| it.is_open())?;
    match clusters.get(name) {
        Some(Entry::Usable(cluster)) => Some((cluster, view)),
        _ => None,
    }
}

async fn put(cluster: &Cluster, key: &Key, spec: ReplicaGroupSpec) -> Result<ReplicaGroup, String> {
    let mut group = ReplicaGroup::new(&key.1, spec);
    group.metadata.namespace = Some(key.0.clone());
    group.metadata.labels = Some(labels(&key.1));
    let api: Api<ReplicaGroup> = Api::namespaced(cluster.client.clone(), &key.0);
    let params = PatchParams::apply(MANAGER).force();
    let patch = Patch::Apply(&group);
    in_time(api.patch(&key.1, &params, &patch)).await
}

/// Caches lag behind: before a cluster is let replace pods, the others are asked themselves. One
/// that does not answer counts with what it was last told, which was by us.
async fn others_have_none(
    clusters: &Clusters,
    key: &Key,
    views: &[View],
    uid: &str,
    but: &str,
) -> bool {
    for view in views
        .iter()
        .filter(|it| it.cluster != but && it.own(uid).is_some())
    {
        let Some((cluster, _)) = open(clusters, views, &view.cluster) else {
            continue;
        };
        let api: Api<ReplicaGroup> = Api::namespaced(cluster.client.clone(), &key.0);
        let Ok(group) = in_time(api.get(&key.1)).await else {
            return false;
        };
        let observed = group.status.as_ref().and_then(|it| it.observed_generation);
        if group.spec.rollout || observed != group.metadata.generation {
            return false;
        }
    }
    true
}

/// Deletes a group and, before it is gone, all that was made for it. Only the very one that was
/// looked at.
pub(crate) async fn delete(
    cluster: &Cluster,
    key: &Key,
    group: &ReplicaGroup,
) -> Result<(), String> {
    let api: Api<ReplicaGroup> = Api::namespaced(cluster.client.clone(), &key.0);
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: group.uid(),
            resource_version: None,
        }),
        ..DeleteParams::foreground()
    };
    match in_time(api.delete(&key.1, &params)).await {
        Ok(_) => Ok(()),
        Err(problem) if problem.contains("404") => Ok(()),
        Err(problem) => Err(problem),
    }
}

/// With a limit, and an error in words.
pub(crate) async fn in_time<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, String> {
    match tokio::time::timeout(TIMEOUT, request).await {
        Ok(Ok(it)) => Ok(it),
        Ok(Err(kube::Error::Api(status))) => Err(format!("{} ({})", status.message, status.code)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
    }
}
