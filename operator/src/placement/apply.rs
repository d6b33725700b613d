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
use synod_api::{
    GroupMember, GroupRevision, ReplicaGroup, ReplicaGroupSpec, ReplicatedService, WorkloadRef,
};

use super::error::PlacementError;
use super::groups::{Groups, Key};
use super::plan::{Plan, Record};
use super::view::{self, View};
use super::{MANAGER, authority, genesis, revisions};
use crate::registry::{Cluster, Clusters, Entry};
use crate::run::Context;

/// One request to another cluster.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What belongs to a service, in the hub.
pub(crate) struct Own<'a> {
    pub(crate) context: &'a Context,
    /// UID of the service.
    pub(crate) uid: &'a str,
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

    /// Writes what the numbers of the app's revisions stand for, over what was read. The caller reads it
    /// again before it goes on.
    pub(crate) async fn revisions(
        &self,
        list: &[GroupRevision],
        before: &revisions::Record,
    ) -> Result<(), PlacementError> {
        let name = revisions::record_name(&self.key.1);
        let api: Api<ConfigMap> = Api::namespaced(self.context.client.clone(), &self.key.0);
        let data = revisions::text(list);
        let result = if let Some(version) = &before.version {
            let gone = before.keys.iter().filter(|it| !data.contains_key(*it));
            let gone = gone.map(|it| (it.clone(), serde_json::Value::Null));
            let mut changed: serde_json::Map<_, _> = gone.collect();
            changed.extend(data.into_iter().map(|(key, text)| (key, json!(text))));
            let patch = Patch::Merge(json!({
                "metadata": {"resourceVersion": version},
                "data": changed,
            }));
            let params = PatchParams {
                field_manager: Some(MANAGER.to_owned()),
                ..PatchParams::default()
            };
            api.patch(&name, &params, &patch).await
        } else {
            let map = ConfigMap {
                metadata: self.metadata(&name),
                data: Some(data),
                ..ConfigMap::default()
            };
            api.create(&post(), &map).await
        };
        let newest = list.last().map(|it| it.number);
        tracing::info!(
            service = self.key.1,
            revision = newest,
            "what the app's revisions are is recorded"
        );
        result
            .map(drop)
            .map_err(PlacementError::write(format!("ConfigMap {name}")))
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

    /// Scales the workload that the template was taken from down to nothing, unless it has changed
    /// since it was read: somebody may have gone back to it.
    pub(crate) async fn scale_down(
        &self,
        workload: &WorkloadRef,
        version: Option<&str>,
    ) -> Result<(), PlacementError> {
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": version},
            "spec": {"replicas": 0},
        }));
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
            uid: self.uid.to_owned(),
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

/// What came of a plan.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// What failed, in words.
    pub(crate) failures: Vec<String>,
    /// A group has changed since it was looked at: nothing was written over that. The change itself
    /// brings the next look.
    pub(crate) overtaken: bool,
}

/// Writes the groups of a plan into their clusters.
pub(crate) async fn groups(
    clusters: &Clusters,
    groups: &Groups,
    key: &Key,
    uid: &str,
    views: &[View],
    plan: Plan,
) -> Written {
    let mut written = Written::default();
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
        if gains && several && formed && !others_are_well(clusters, key, views, uid, &name).await {
            spec.rollout = false;
        }
        match put(&cluster, key, spec, before).await {
            Ok(Some(group)) => groups.wrote(&cluster, key, group),
            Ok(None) => written.overtaken = true,
            Err(problem) => written.failures.push(format!("cluster {name}: {problem}")),
        }
    }
    for name in plan.surplus {
        if let Some((cluster, view)) = open(clusters, views, &name)
            && let Some(group) = view.own(uid)
            && let Err(problem) = delete(&cluster, key, group, Only::AsItWas).await
        {
            written.failures.push(format!("cluster {name}: {problem}"));
        }
    }
    written
}

fn open<'a>(clusters: &Clusters, views: &'a [View], name: &str) -> Option<(Cluster, &'a View)> {
    let view = view::find(views, name).filter(|it| it.is_open())?;
    match clusters.get(name) {
        Some(Entry::Usable(cluster)) => Some((cluster, view)),
        _ => None,
    }
}

/// Only over what the plan was made from. What an earlier leader of the hub has sent may arrive late,
/// from another region much later: it must not bring back an old plan.
async fn put(
    cluster: &Cluster,
    key: &Key,
    spec: ReplicaGroupSpec,
    before: Option<&ReplicaGroup>,
) -> Result<Option<ReplicaGroup>, String> {
    let mut group = ReplicaGroup::new(&key.1, spec);
    group.metadata.namespace = Some(key.0.clone());
    group.metadata.labels = Some(labels(&key.1));
    group.metadata.uid = before.and_then(kube::ResourceExt::uid);
    group.metadata.resource_version = before.and_then(kube::ResourceExt::resource_version);
    let api: Api<ReplicaGroup> = Api::namespaced(cluster.client.clone(), &key.0);
    let params = PatchParams::apply(MANAGER).force();
    let patch = Patch::Apply(&group);
    in_time(async {
        match api.patch(&key.1, &params, &patch).await {
            Ok(group) => Ok(Some(group)),
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(None),
            Err(error) => Err(error),
        }
    })
    .await
}

/// Caches lag behind: before a cluster is let replace pods, the others are asked themselves, whether
/// they may as well, and how their members are. One that does not answer may have a vote away.
async fn others_are_well(
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
            return false;
        };
        let api: Api<ReplicaGroup> = Api::namespaced(cluster.client.clone(), &key.0);
        let Ok(group) = in_time(api.get(&key.1)).await else {
            return false;
        };
        if !is_well(&group) {
            return false;
        }
    }
    true
}

/// It may replace no pods and has taken note of that, and all its members have a vote now.
fn is_well(group: &ReplicaGroup) -> bool {
    let Some(status) = &group.status else {
        return false;
    };
    let ready = |it: &&GroupMember| {
        let mut reports = status.members.iter();
        reports.any(|report| report.name == it.name && report.ready)
    };
    !group.spec.rollout
        && status.observed_generation == group.metadata.generation
        && group.spec.members.iter().all(|it| ready(&it))
}

/// Which group may be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Only {
    /// The very one that was looked at, unless it has changed: it may be wanted again by now.
    AsItWas,
    /// The very one that was looked at, whatever became of it: its service is being deleted.
    TheOne,
}

/// Deletes a group and, before it is gone, all that was made for it.
pub(crate) async fn delete(
    cluster: &Cluster,
    key: &Key,
    group: &ReplicaGroup,
    only: Only,
) -> Result<(), String> {
    let api: Api<ReplicaGroup> = Api::namespaced(cluster.client.clone(), &key.0);
    let version = group.resource_version().filter(|_| only == Only::AsItWas);
    let params = DeleteParams {
        preconditions: Some(Preconditions {
            uid: group.uid(),
            resource_version: version,
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

#[cfg(test)]
mod tests {
    use http::{Request, Response};
    use http_body_util::BodyExt as _;
    use kube::Client;
    use kube::client::Body;
    use serde_json::Value;
    use synod_api::ReplicaGroupStatus;
    use tokio::sync::mpsc;

    use super::super::authority::Issued;
    use super::super::plan;
    use super::super::plan::tests::{three, valid};
    use super::super::roster::Formed;
    use super::*;

    /// An API server that answers everything with this, and the bodies that it was sent.
    fn server(code: u16, answer: Value) -> (Client, mpsc::UnboundedReceiver<Value>) {
        let (sender, bodies) = mpsc::unbounded_channel();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (sender, answer) = (sender.clone(), answer.clone());
            async move {
                let body = request.into_body().collect().await?.to_bytes();
                let _ = sender.send(serde_json::from_slice(&body).unwrap_or_default());
                let response = Response::builder().status(code);
                let body = Body::from(answer.to_string().into_bytes());
                Ok::<_, kube::Error>(response.body(body).expect("a response"))
            }
        });
        (Client::new(service, "default"), bodies)
    }

    fn group() -> ReplicaGroup {
        let plan = plan::plan(
            &valid(Formed::No),
            &three(),
            &Issued::default(),
            "a.example",
        );
        let (_, spec) = plan.groups.into_iter().next().expect("a group");
        let mut group = ReplicaGroup::new("notes", spec);
        group.metadata.uid = Some("uid-1".to_owned());
        group.metadata.resource_version = Some("7".to_owned());
        group
    }

    #[tokio::test]
    async fn a_group_is_written_only_over_the_version_that_was_looked_at() {
        let (client, mut bodies) = server(
            409,
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Conflict",
                   "message": "the object has been modified", "code": 409}),
        );
        let cluster = Cluster::new("eu", "", client, "1");
        let key = ("default".to_owned(), "notes".to_owned());
        let before = group();
        let written = put(&cluster, &key, before.spec.clone(), Some(&before)).await;
        assert_eq!(written.expect("no failure"), None);
        let sent = bodies.recv().await.expect("sent");
        assert_eq!(sent["metadata"]["uid"], "uid-1");
        assert_eq!(sent["metadata"]["resourceVersion"], "7");
    }

    #[test]
    fn a_group_counts_as_well_when_it_says_so_of_each_member_and_of_now() {
        let mut group = group();
        group.metadata.generation = Some(2);
        group.spec.rollout = false;
        assert!(!is_well(&group), "it says nothing");
        let mut member = plan::tests::member("notes-us-0", 1);
        member.ready = true;
        group.status = Some(ReplicaGroupStatus {
            observed_generation: Some(2),
            members: vec![member],
            ..ReplicaGroupStatus::default()
        });
        assert!(is_well(&group));
        for spoil in [
            |it: &mut ReplicaGroup| it.spec.rollout = true,
            |it: &mut ReplicaGroup| it.metadata.generation = Some(3),
            |it: &mut ReplicaGroup| it.status.as_mut().expect("there").members.clear(),
            |it: &mut ReplicaGroup| it.status.as_mut().expect("there").members[0].ready = false,
        ] {
            let mut group = group.clone();
            spoil(&mut group);
            assert!(!is_well(&group));
        }
    }

    #[tokio::test]
    async fn a_group_that_has_changed_is_not_deleted_unless_its_service_is() {
        let (client, mut bodies) = server(200, json!({"kind": "Status", "status": "Success"}));
        let cluster = Cluster::new("eu", "", client, "1");
        let key = ("default".to_owned(), "notes".to_owned());
        for (only, version) in [(Only::AsItWas, json!("7")), (Only::TheOne, Value::Null)] {
            delete(&cluster, &key, &group(), only).await.expect("gone");
            let sent = bodies.recv().await.expect("sent");
            assert_eq!(sent["preconditions"]["uid"], "uid-1");
            assert_eq!(
                sent["preconditions"]["resourceVersion"], version,
                "{only:?}"
            );
        }
    }
}
