//! Everything that a service refers to or has left behind: its groups, its record, its authority, the
//! workload that it takes its template from. Only this reads; nothing is judged here.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, ApiResource, DynamicObject};
use kube::{Resource, ResourceExt as _};
use serde_json::{Map, Value};
use synod_api::{RawObject, ReplicatedService, WorkloadRef};

use super::authority;
use super::error::PlacementError;
use super::genesis::{self, GENESIS_KEY, MEMBERS_KEY};
use super::groups::{Groups, Key, Seen};
use super::members;
use super::validate::Formed;
use super::view::{Access, View};
use crate::inject;
use crate::registry::{Clusters, Entry};
use crate::run::Context;

/// What was found.
pub(crate) struct Found {
    /// The clusters of the placement, of the record, and those that have a group of this service.
    pub(crate) views: Vec<View>,
    /// The pod template.
    pub(crate) template: Option<RawObject>,
    /// The workload that the template is from.
    pub(crate) workload: Option<Workload>,
    /// The workload is gone; the template is the one that runs.
    pub(crate) kept_template: bool,
    /// Whether the service was formed.
    pub(crate) formed: Formed,
    /// The record is lost, though groups have its text.
    pub(crate) record_lost: bool,
    /// The authority's Secret: its content and its version.
    pub(crate) authority: Option<(BTreeMap<String, String>, Secret)>,
}

/// A workload that a service takes its template from.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    /// How many pods it should have.
    pub(crate) replicas: u64,
    /// Its version.
    pub(crate) version: Option<String>,
    template: Option<RawObject>,
}

/// Reads.
pub(crate) async fn dereference(
    context: &Context,
    clusters: &Clusters,
    groups: &Groups,
    service: &ReplicatedService,
    key: &Key,
    uid: &str,
) -> Result<Found, PlacementError> {
    let record = record(context, key, uid).await?;
    let mut names: Vec<String> = members::placement(&service.spec, &context.flags.cluster)
        .into_iter()
        .map(|it| it.cluster)
        .collect();
    if let Some(Formed::Genesis(text) | Formed::Earlier(text)) = &record
        && let Ok(file) = genesis::GenesisFile::parse(text)
        && let Some(recorded) = members::recorded(&key.1, &file)
    {
        names.extend(recorded.into_iter().map(|it| it.cluster));
    }
    let mut views = Vec::new();
    for name in names {
        if views.iter().all(|it: &View| it.cluster != name) {
            views.push(view(clusters, groups, &name, key));
        }
    }
    for cluster in groups.clusters_of(key) {
        if views.iter().all(|it| it.cluster != cluster.name) {
            let view = view(clusters, groups, &cluster.name, key);
            if view.own(uid).is_some() {
                views.push(view);
            }
        }
    }
    let handed_out = views
        .iter()
        .find_map(|it| it.own(uid)?.spec.genesis.clone())
        .map(Formed::Genesis);
    let record_lost = record.is_none() && handed_out.is_some();
    let formed = record.or(handed_out).unwrap_or(Formed::No);
    let mut found = Found {
        template: service.spec.template.clone(),
        workload: None,
        kept_template: false,
        authority: authority_secret(context, key, uid).await?,
        views,
        formed,
        record_lost,
    };
    if let Some(reference) = &service.spec.workload_ref {
        found.workload = workload(context, &key.0, reference).await?;
        found.template = found.workload.as_ref().and_then(|it| it.template.clone());
        if found.template.is_none() && found.formed != Formed::No {
            let mut own = found.views.iter().filter_map(|it| it.own(uid));
            found.template = own.next().map(|it| it.spec.template.clone());
            found.kept_template = found.template.is_some();
        }
    }
    Ok(found)
}

fn view(clusters: &Clusters, groups: &Groups, name: &str, key: &Key) -> View {
    let mut view = View {
        cluster: name.to_owned(),
        region: String::new(),
        access: Access::Unknown,
        group: None,
    };
    match clusters.get(name) {
        None => {}
        Some(Entry::Refused { problem, .. }) => view.access = Access::Refused(problem),
        Some(Entry::Usable(cluster)) => {
            view.region.clone_from(&cluster.region);
            view.access = match cluster.circuit.get() {
                Some(it) if !it.reachable => Access::Unreachable {
                    since: it.since,
                    problem: it.problem,
                },
                Some(_) => Access::Open,
                None => Access::Starting,
            };
            match groups.get(&cluster, key) {
                Seen::Starting if view.access == Access::Open => view.access = Access::Starting,
                Seen::Starting | Seen::Absent => {}
                Seen::Present(group) => view.group = Some(group),
                Seen::Unreadable(problem) => {
                    view.access = Access::Refused(format!(
                        "its ReplicaGroup cannot be read, it may be of another version of the operator: {problem}"
                    ));
                }
            }
        }
    }
    view
}

/// Whether an object was made for the service with this UID.
pub(crate) fn is_ours(object: &impl Resource, uid: &str) -> bool {
    object.owner_references().iter().any(|it| it.uid == uid)
}

async fn record(context: &Context, key: &Key, uid: &str) -> Result<Option<Formed>, PlacementError> {
    let name = genesis::record_name(&key.1);
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &key.0);
    let what = format!("ConfigMap {name}");
    let Some(map) = api
        .get_opt(&name)
        .await
        .map_err(PlacementError::read(&what))?
    else {
        return Ok(None);
    };
    if !is_ours(&map, uid) {
        return Err(PlacementError::NotOurs { what });
    }
    let text = |key: &str| map.data.as_ref()?.get(key).cloned();
    Ok(text(GENESIS_KEY)
        .map(Formed::Genesis)
        .or_else(|| text(MEMBERS_KEY).map(Formed::Earlier))
        // Whatever it says, it is there: nothing is formed a second time.
        .or(Some(Formed::Earlier(String::new()))))
}

async fn authority_secret(
    context: &Context,
    key: &Key,
    uid: &str,
) -> Result<Option<(BTreeMap<String, String>, Secret)>, PlacementError> {
    let name = authority::secret_name(&key.1);
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &key.0);
    let what = format!("Secret {name}");
    let Some(secret) = api
        .get_opt(&name)
        .await
        .map_err(PlacementError::read(&what))?
    else {
        return Ok(None);
    };
    if !is_ours(&secret, uid) {
        return Err(PlacementError::NotOurs { what });
    }
    let data = secret.data.clone().unwrap_or_default();
    let data = data
        .into_iter()
        .map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned()))
        .collect();
    Ok(Some((data, secret)))
}

/// The template as it was before `synod inject` put the sidecar into it.
fn bare(template: &Value) -> Option<Map<String, Value>> {
    match inject::remove(template) {
        Ok(Value::Object(bare)) => Some(bare),
        // What is wrong with it is told where it is used.
        _ => template.as_object().cloned(),
    }
}

async fn workload(
    context: &Context,
    namespace: &str,
    reference: &WorkloadRef,
) -> Result<Option<Workload>, PlacementError> {
    let resource = match (reference.api_version.as_str(), reference.kind.as_str()) {
        ("apps/v1", "Deployment") => ApiResource::erase::<Deployment>(&()),
        ("apps/v1", "StatefulSet") => ApiResource::erase::<StatefulSet>(&()),
        _ => return Ok(None),
    };
    // As it was written: typed copies would drop fields that they do not know.
    let api: Api<DynamicObject> =
        Api::namespaced_with(context.client.clone(), namespace, &resource);
    let found = api
        .get_opt(&reference.name)
        .await
        .map_err(PlacementError::read(format!(
            "{} {}",
            reference.kind, reference.name
        )))?;
    Ok(found.map(|it| Workload {
        version: it.resource_version(),
        replicas: it
            .data
            .pointer("/spec/replicas")
            .and_then(Value::as_u64)
            .unwrap_or(1),
        template: it
            .data
            .pointer("/spec/template")
            .and_then(bare)
            .map(RawObject),
    }))
}
