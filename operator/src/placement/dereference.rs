//! Everything that a service refers to or has left behind: its groups, its record, its authority, the
//! workload that it takes its template from. Only this reads; nothing is judged here.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, ApiResource, DynamicObject};
use kube::{Resource, ResourceExt as _};
use serde_json::{Map, Value};
use synod_api::{
    ClusterStatus, RawObject, ReplicaGroup, ReplicatedServiceSpec, ReplicatedServiceStatus,
    WorkloadRef,
};

use super::authority;
use super::error::PlacementError;
use super::genesis::{self, GENESIS_KEY, MEMBERS_KEY};
use super::groups::{Groups, Key, Seen};
use super::members;
use super::revisions;
use super::roster::{Formed, Roster};
use super::view::{Access, View};
use crate::inject;
use crate::registry::{Clusters, Entry};
use crate::run::Context;

/// What was found.
pub(crate) struct Found {
    /// The clusters of the placement, of the record, and those that have or may have a group of this
    /// service.
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
    /// What the numbers of the app's revisions stand for.
    pub(crate) revisions: revisions::Record,
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

/// Reads. `spec` is `None` when it cannot be read, `told` has the names of clusters that the status
/// tells of.
pub(crate) async fn dereference(
    context: &Context,
    clusters: &Clusters,
    groups: &Groups,
    spec: Option<&ReplicatedServiceSpec>,
    told: &[ClusterStatus],
    key: &Key,
    uid: &str,
) -> Result<Found, PlacementError> {
    let record = record(context, key, uid).await?;
    let mut views: Vec<View> = Vec::new();
    for name in needed(spec, &context.flags.cluster, record.as_ref(), key, uid) {
        views.push(view(clusters, groups, &name, key));
    }
    let cached = groups.clusters_of(key).into_iter().map(|it| it.name);
    for name in cached.chain(told.iter().map(|it| it.name.clone())) {
        if views.iter().all(|it| it.cluster != name) {
            views.push(view(clusters, groups, &name, key));
            views.retain(|it| it.cluster != name || may_hold(it, uid));
        }
    }
    let handed_out = views
        .iter()
        .find_map(|it| it.own(uid)?.spec.genesis.clone())
        .map(Formed::Genesis);
    let record_lost = record.is_none() && handed_out.is_some();
    let formed = record.or(handed_out).unwrap_or(Formed::No);
    let placed = placed(spec, &context.flags.cluster);
    let standing = Roster::standing(&key.1, uid, &formed, &views);
    views.retain(|it| !is_left(it, &placed, standing.as_ref(), uid));
    let mut found = Found {
        template: spec.and_then(|it| it.template.clone()),
        workload: None,
        kept_template: false,
        authority: authority_secret(context, key, uid).await?,
        revisions: revisions(context, key, uid).await?,
        views,
        formed,
        record_lost,
    };
    if let Some(reference) = spec.and_then(|it| it.workload_ref.as_ref()) {
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

/// Clusters that members belong into, each once: by the placement, and by the record.
fn needed(
    spec: Option<&ReplicatedServiceSpec>,
    local: &str,
    record: Option<&Formed>,
    key: &Key,
    uid: &str,
) -> Vec<String> {
    let roster = record.and_then(|it| Roster::recorded(&key.1, uid, it));
    let members = roster.into_iter().flat_map(|it| it.members);
    let mut names: Vec<String> = Vec::new();
    let placed = placed(spec, local).into_iter();
    for name in placed.chain(members.map(|it| it.cluster)) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn placed(spec: Option<&ReplicatedServiceSpec>, local: &str) -> Vec<String> {
    let placement = spec.map(|it| members::placement(it, local));
    let places = placement.into_iter().flatten();
    places.map(|it| it.cluster).collect()
}

/// Whether the members that the record places there have all gone to others, and their group with them.
fn is_left(view: &View, placed: &[String], standing: Option<&Roster>, uid: &str) -> bool {
    let members = standing.into_iter().flat_map(|it| &it.members);
    let mut clusters = members.map(|it| &it.cluster);
    view.is_open()
        && !may_hold(view, uid)
        && !placed.contains(&view.cluster)
        && clusters.all(|it| *it != view.cluster)
}

/// Whether a group of this service is there, or may be. A cluster that is not registered any more was
/// given up by a person.
fn may_hold(view: &View, uid: &str) -> bool {
    match view.access {
        Access::Unknown => false,
        Access::Open => view.own(uid).is_some(),
        Access::Starting | Access::Unreachable { .. } | Access::Refused(_) => {
            view.group.is_none() || view.own(uid).is_some()
        }
    }
}

/// Clusters that may hold a group of this service, as far as anybody knows: those to ask before it is
/// gone. With a spec or a record that cannot be read that may be any.
pub(crate) async fn concerned(
    context: &Context,
    clusters: &Clusters,
    groups: &Groups,
    spec: Option<&ReplicatedServiceSpec>,
    status: &ReplicatedServiceStatus,
    key: &Key,
    uid: &str,
) -> Result<BTreeSet<String>, PlacementError> {
    let record = match record(context, key, uid).await {
        // The next service of this name has one already.
        Err(PlacementError::NotOurs { .. }) => None,
        record => record?,
    };
    let local = &context.flags.cluster;
    let needed = readable(spec, local, record.as_ref(), key, uid);
    let needed = needed.unwrap_or_else(|| clusters.names());
    let cached = groups.clusters_of(key).into_iter().filter(|it| {
        let others = |it: &ReplicaGroup| it.spec.owner != uid;
        !matches!(groups.get(it, key), Seen::Present(group) if others(&group))
    });
    Ok(to_ask(needed, status, cached.map(|it| it.name)))
}

/// Clusters that members belong into; `None` when spec or record cannot be read, so that nobody knows.
fn readable(
    spec: Option<&ReplicatedServiceSpec>,
    local: &str,
    record: Option<&Formed>,
    key: &Key,
    uid: &str,
) -> Option<Vec<String>> {
    let known = record.is_none_or(|it| Roster::recorded(&key.1, uid, it).is_some());
    (spec.is_some() && known).then(|| needed(spec, local, record, key, uid))
}

/// All that anybody knows of.
fn to_ask(
    needed: Vec<String>,
    status: &ReplicatedServiceStatus,
    cached: impl Iterator<Item = String>,
) -> BTreeSet<String> {
    let told = status.clusters.iter().map(|it| it.name.clone());
    let members = status.members.iter().map(|it| it.cluster.clone());
    needed
        .into_iter()
        .chain(told)
        .chain(members)
        .chain(cached)
        .collect()
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

async fn revisions(
    context: &Context,
    key: &Key,
    uid: &str,
) -> Result<revisions::Record, PlacementError> {
    let name = revisions::record_name(&key.1);
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &key.0);
    let what = format!("ConfigMap {name}");
    let found = api.get_opt(&name).await;
    let Some(map) = found.map_err(PlacementError::read(&what))? else {
        return Ok(revisions::Record::default());
    };
    if !is_ours(&map, uid) {
        return Err(PlacementError::NotOurs { what });
    }
    let data = map.data.clone().unwrap_or_default();
    Ok(revisions::Record {
        list: revisions::read(&data),
        version: map.resource_version(),
        keys: data.into_keys().collect(),
    })
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

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::super::plan::tests::{formed, taken_up, three, valid};
    use super::super::validate::tests::{open, spec};
    use super::super::{authority::Issued, plan};
    use super::*;

    fn key() -> Key {
        ("default".to_owned(), "notes".to_owned())
    }

    fn told(names: &[&str]) -> ReplicatedServiceStatus {
        let one = |name: &&str| ClusterStatus {
            name: (*name).to_owned(),
            region: String::new(),
            reachable: true,
        };
        ReplicatedServiceStatus {
            clusters: names.iter().map(one).collect(),
            ..ReplicatedServiceStatus::default()
        }
    }

    #[test]
    fn the_end_of_a_service_waits_for_no_cluster_that_never_had_a_part_of_it() {
        let local = spec("replicas: 3");
        let needed = readable(Some(&local), "local", None, &key(), "uid-1").expect("known");
        let asked = to_ask(needed.clone(), &told(&["local"]), std::iter::empty());
        assert_eq!(Vec::from_iter(asked), ["local"]);
        // A status tells of one that the manifest does not name any more, a cache of another.
        let asked = to_ask(needed, &told(&["eu"]), ["ap".to_owned()].into_iter());
        assert_eq!(Vec::from_iter(asked), ["ap", "eu", "local"]);
    }

    #[test]
    fn what_cannot_be_read_may_have_members_anywhere() {
        assert_eq!(
            readable(None, "local", Some(&formed()), &key(), "uid-1"),
            None
        );
        let local = spec("replicas: 3");
        let broken = Formed::Earlier(String::new());
        assert_eq!(
            readable(Some(&local), "local", Some(&broken), &key(), "uid-1"),
            None
        );
    }

    #[test]
    fn members_belong_where_the_placement_and_where_the_record_say() {
        let moved =
            spec("placement: [{cluster: asia, voters: 3}, {cluster: us, voters: 0, observers: 1}]");
        let names = needed(Some(&moved), "local", Some(&formed()), &key(), "uid-1");
        assert_eq!(names, ["asia", "us", "eu", "ap"]);
        let names = needed(None, "local", Some(&formed()), &key(), "uid-1");
        assert_eq!(
            names,
            ["us", "eu", "ap"],
            "though the manifest cannot be read"
        );
    }

    #[test]
    fn a_cluster_is_left_when_its_members_and_their_group_have_gone() {
        let mut standing = Roster::recorded("notes", "uid-1", &formed()).expect("formed");
        let us = open("us", "us-1");
        let (here, elsewhere) = (["us".to_owned()], ["asia".to_owned()]);
        let left = |view: &View, placed: &[String], standing: &Roster| {
            is_left(view, placed, Some(standing), "uid-1")
        };
        assert!(!left(&us, &elsewhere, &standing), "a member is still there");
        standing.members.retain(|it| it.cluster != "us");
        assert!(left(&us, &elsewhere, &standing));
        assert!(!left(&us, &here, &standing), "members are wanted there");
        let plan = plan::plan(&valid(formed()), &three(), &Issued::default(), "a.example");
        let group = &taken_up(&plan, three())[0];
        assert_eq!(group.cluster, "us");
        assert!(!left(group, &elsewhere, &standing), "its group is there");
        let silent = View {
            access: Access::Starting,
            ..us
        };
        assert!(!left(&silent, &elsewhere, &standing), "its group may be");
    }

    #[test]
    fn a_cluster_is_kept_in_sight_while_a_group_may_be_there() {
        let mut view = open("us", "us-1");
        assert!(!may_hold(&view, "uid-1"), "it says that there is none");
        view.access = Access::Unreachable {
            since: Timestamp::UNIX_EPOCH,
            problem: String::new(),
        };
        assert!(may_hold(&view, "uid-1"));
        view.access = Access::Unknown;
        assert!(!may_hold(&view, "uid-1"), "a person has given it up");
        let plan = plan::plan(&valid(formed()), &three(), &Issued::default(), "a.example");
        let there = &taken_up(&plan, three())[0];
        assert!(may_hold(there, "uid-1") && !may_hold(there, "uid-2"));
    }
}
