//! Everything that a group's work looks at, read from the API server.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod, Service};
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;
use synod_api::{BootstrapType, StateType, is_witness};

use super::build::Kind;
use super::pods::PodView;
use super::validate::{Stall, Valid};
use super::{adopt, names};
use crate::conditions;
use crate::inject::{self, names as pod_names};

/// In a group's facts: the StatefulSet whose pods the members are.
pub(crate) const WORKLOAD_FACT: &str = "workload";

/// What is there.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// Objects that have the name of a child, ours or not.
    pub(crate) children: BTreeMap<(Kind, String), DynamicObject>,
    /// Pods of the members.
    pub(crate) pods: Vec<PodView>,
    /// Pods that should be members' and have no sidecar.
    pub(crate) bare: Vec<PodView>,
    /// The user's own StatefulSet, or why there is none to be taken.
    pub(crate) adopted: Option<Result<StatefulSet, Stall>>,
    /// All Services of the namespace.
    pub(crate) services: Vec<Service>,
    /// Claims with the names that the members' logs have; read while there is no StatefulSet of ours.
    pub(crate) claims: Vec<PersistentVolumeClaim>,
}

/// Reads what is there.
pub(crate) async fn dereference(client: &Client, valid: &Valid<'_>) -> kube::Result<Live> {
    let mut live = Live::default();
    for (kind, name) in wanted(valid) {
        let found = api(client, kind, valid.namespace).get_opt(&name).await?;
        if let Some(found) = found {
            live.children.insert((kind, name), found);
        }
    }
    let services: Api<Service> = Api::namespaced(client.clone(), valid.namespace);
    live.services = services.list(&ListParams::default()).await?.items;
    if valid.labelled {
        let sets: Api<StatefulSet> = Api::namespaced(client.clone(), valid.namespace);
        let sets = sets.list(&ListParams::default()).await?.items;
        live.adopted = Some(adopt::find(&sets, valid.name, valid.namespace).cloned());
    }
    read_pods(client, valid, &mut live).await?;
    say_why(client, valid, &mut live.pods).await?;
    let workload = (Kind::StatefulSet, valid.workload.clone());
    if !live.children.contains_key(&workload) {
        live.claims = claims(client, valid).await?;
    }
    Ok(live)
}

async fn read_pods(client: &Client, valid: &Valid<'_>, live: &mut Live) -> kube::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), valid.namespace);
    let selector = names::selector(valid.name, &valid.group.spec.cluster);
    let selector = selector.map(|(key, value)| format!("{key}={value}"));
    let mut found = list_pods(&pods, &selector.join(",")).await?;
    let asking = format!("{}={}", pod_names::INJECT_LABEL, valid.name);
    // Whoever asks for a sidecar should have one, and so should whoever belongs to the StatefulSet.
    found.extend(list_pods(&pods, &asking).await?);
    let set = live.adopted.as_ref().and_then(|it| it.as_ref().ok());
    if let Some(selector) = set.and_then(|it| it.spec.as_ref()?.selector.match_labels.as_ref()) {
        let pairs: Vec<_> = selector
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        found.extend(list_pods(&pods, &pairs.join(",")).await?);
    }
    found.sort_by_key(kube::ResourceExt::name_any);
    found.dedup_by(|one, two| one.metadata.uid == two.metadata.uid);
    let set = set.map(|it| (it.name_any(), it.metadata.uid.clone()));
    for pod in &found {
        sort_pod(valid, set.as_ref(), pod, live);
    }
    Ok(())
}

async fn list_pods(pods: &Api<Pod>, selector: &str) -> kube::Result<Vec<Pod>> {
    let list = pods.list(&ListParams::default().labels(selector)).await?;
    Ok(list.items)
}

/// Whether a pod is a member's, or should be, or neither.
fn sort_pod(valid: &Valid<'_>, set: Option<&(String, Option<String>)>, pod: &Pod, live: &mut Live) {
    let mut view = PodView::new(pod);
    let owner = pod
        .owner_references()
        .iter()
        .find(|it| it.controller == Some(true));
    let of_set = set.is_some_and(|(_, uid)| owner.map(|it| &it.uid) == uid.as_ref());
    if valid.labelled {
        view.member = set
            .filter(|_| of_set)
            .and_then(|(name, _)| adopt::member(&valid.workload, name, &view.name))
            .unwrap_or_default();
    }
    if let Some(witness) = valid.witness_of(&view.name) {
        view.member = witness;
    }
    let asks = view.labels.get(pod_names::INJECT_LABEL).map(String::as_str) == Some(valid.name);
    let finished = matches!(view.phase.as_str(), "Succeeded" | "Failed");
    if view.sidecar.is_none() && (asks || of_set) {
        if !view.leaving && !finished {
            live.bare.push(view);
        }
        return;
    }
    let own = names::selector(valid.name, &valid.group.spec.cluster);
    let own = own
        .iter()
        .all(|(key, value)| view.labels.get(*key) == Some(value));
    // A pod that merely carries the labels is no member.
    if own && valid.ordinal(&view.member).is_some() {
        live.pods.push(view);
    }
}

/// Which objects a group has or may have.
fn wanted(valid: &Valid<'_>) -> Vec<(Kind, String)> {
    let name = valid.name;
    let spec = &valid.group.spec;
    let client = spec.service.name.clone();
    let mut wanted = vec![
        (Kind::ConfigMap, pod_names::config_map(name)),
        (Kind::ConfigMap, pod_names::genesis_map(name)),
        (Kind::Secret, pod_names::tls_secret(name)),
        (Kind::Secret, pod_names::token_secret(name)),
        (Kind::Secret, names::issuer_secret(name)),
        (Kind::Secret, names::operator_secret(name)),
        (Kind::Service, names::headless(name)),
        (Kind::Service, client.unwrap_or_else(|| name.to_owned())),
        (Kind::NetworkPolicy, name.to_owned()),
        (Kind::PodDisruptionBudget, valid.workload.clone()),
        (Kind::StatefulSet, valid.workload.clone()),
        (Kind::StatefulSet, valid.witnesses.clone()),
    ];
    if valid.labelled || spec.network.mode == synod_api::NetworkMode::PerPodService {
        let members = spec.members.iter();
        let numbers = members.filter_map(|it| valid.ordinal(&it.name));
        wanted.extend(numbers.map(|it| (Kind::Service, names::pod_service(name, it))));
    }
    wanted
}

/// Where objects of a kind are found.
pub(crate) fn api(client: &Client, kind: Kind, namespace: &str) -> Api<DynamicObject> {
    let (group, version) = kind
        .api_version()
        .split_once('/')
        .unwrap_or(("", kind.api_version()));
    let gvk = kube::core::GroupVersionKind::gvk(group, version, kind.name());
    let plural = match kind {
        Kind::NetworkPolicy => "networkpolicies".to_owned(),
        _ => format!("{}s", kind.name().to_lowercase()),
    };
    let resource = ApiResource::from_gvk_with_plural(&gvk, &plural);
    Api::namespaced_with(client.clone(), namespace, &resource)
}

async fn claims(client: &Client, valid: &Valid<'_>) -> kube::Result<Vec<PersistentVolumeClaim>> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), valid.namespace);
    let state = state_volume(valid);
    let mut found = Vec::new();
    for member in &valid.group.spec.members {
        let pod = valid.pod_of(&member.name);
        found.extend(api.get_opt(&pod_names::log_claim(&pod)).await?);
        if let Some(volume) = state.as_ref().filter(|_| !is_witness(&member.name)) {
            found.extend(api.get_opt(&format!("{volume}-{}", member.name)).await?);
        }
    }
    Ok(found)
}

/// The claim template for the app's volume, by which its claims are named.
pub(super) fn state_volume(valid: &Valid<'_>) -> Option<String> {
    let spec = &valid.group.spec;
    let volume = spec.state.volume.as_ref()?;
    let own = spec.state.kind == StateType::Volume && !valid.labelled;
    let template = Value::Object(spec.template.0.clone());
    own.then(|| inject::state_volume(&template, &spec.app.container, &volume.mount_path))
}

/// What kubelet waits for besides images and programs (volumes, Secrets) is in events only.
async fn say_why(client: &Client, valid: &Valid<'_>, pods: &mut [PodView]) -> kube::Result<()> {
    if !pods.iter().any(|it| it.waits_silently) {
        return Ok(());
    }
    let api: Api<Event> = Api::namespaced(client.clone(), valid.namespace);
    for pod in pods.iter_mut().filter(|it| it.waits_silently) {
        let fields = format!("involvedObject.uid={},type=Warning", pod.uid);
        let list = match api.list(&ListParams::default().fields(&fields)).await {
            Ok(list) => list,
            // The words are a help, nothing depends on them.
            Err(error) => {
                tracing::debug!(member = %pod.name, %error, "cannot read events");
                return Ok(());
            }
        };
        let newest = newest(list.items);
        if let Some(event) = newest {
            pod.problem = format!(
                "{}: {}",
                event.reason.unwrap_or_default(),
                event.message.unwrap_or_default()
            );
        }
    }
    Ok(())
}

/// The last word. That a sidecar is not ready is no reason why its app does not start: it is so
/// because of that.
fn newest(events: Vec<Event>) -> Option<Event> {
    let reasons = events
        .into_iter()
        .filter(|it| it.reason.as_deref() != Some("Unhealthy"));
    reasons.max_by_key(|it| {
        let last = it.last_timestamp.as_ref().map(|it| it.0);
        last.or(it.event_time.as_ref().map(|it| it.0))
    })
}

/// Beside a StatefulSet of the user's own there may be a Service of the same name as the service, and
/// its own name may be what ours would be called.
pub(crate) fn may_be_the_users(valid: &Valid<'_>, kind: Kind, name: &str) -> bool {
    let client = valid
        .group
        .spec
        .service
        .name
        .as_deref()
        .unwrap_or(valid.name);
    let workload = kind == Kind::StatefulSet && name == valid.workload;
    valid.labelled && (workload || (kind == Kind::Service && name == client))
}

/// Objects of others that have the names of our children, and data of an earlier service: nothing
/// is taken over.
pub(crate) fn conflicts(valid: &Valid<'_>, live: &Live) -> Result<(), Stall> {
    let foreign: Vec<_> = live
        .children
        .iter()
        .filter(|((kind, name), it)| {
            // Without witnesses nobody needs that name.
            let unused =
                *kind == Kind::StatefulSet && *name == valid.witnesses && valid.witness_pods() == 0;
            !is_ours(it, valid.uid) && !may_be_the_users(valid, *kind, name) && !unused
        })
        .map(|((kind, name), it)| format!("{} {name} ({})", kind.name(), whose(it)))
        .collect();
    if !foreign.is_empty() {
        return Err(Stall::new(
            &conditions::NAME_CONFLICT,
            format!(
                "these objects are there already and belong to others: {}; remove or rename them, \
                 or choose another name for the service",
                foreign.join(", ")
            ),
        ));
    }
    moved(valid, live)?;
    let spec = &valid.group.spec;
    let founding = spec.founding.as_ref();
    if founding.is_some_and(|it| it.kind == BootstrapType::Existing) {
        return Ok(());
    }
    let owner = &spec.owner;
    let earlier: BTreeSet<_> = live
        .claims
        .iter()
        .filter(|it| it.labels().get(names::OWNER_LABEL) != Some(owner))
        .map(ResourceExt::name_any)
        .collect();
    if !earlier.is_empty() {
        let earlier: Vec<_> = earlier.into_iter().collect();
        return Err(Stall::new(
            &conditions::EXISTING_DATA,
            format!(
                "claims of an earlier service of this name hold its data: {}; set `bootstrap: {{type: \
                 Existing}}` to go on with it, delete them (kubectl -n {} delete pvc {}) to begin \
                 empty, or choose another name for the service",
                earlier.join(", "),
                valid.namespace,
                earlier.join(" ")
            ),
        ));
    }
    Ok(())
}

pub(crate) fn is_ours(object: &DynamicObject, uid: &str) -> bool {
    object
        .owner_references()
        .iter()
        .any(|it| it.uid == uid && it.controller == Some(true))
}

/// Members do not move between StatefulSets.
fn moved(valid: &Valid<'_>, live: &Live) -> Result<(), Stall> {
    let own = live
        .child(Kind::StatefulSet, &valid.workload)
        .is_some_and(|it| is_ours(it, valid.uid));
    let status = valid.group.status.as_ref();
    let adopted = status.and_then(|it| it.facts.get(WORKLOAD_FACT));
    let label = format!("{}={}", pod_names::INJECT_LABEL, valid.name);
    let words = match (valid.labelled, adopted) {
        (true, _) if own => format!(
            "the members are pods of the operator's own StatefulSet {}, and stay so in this \
             version: take the label {label} out of the pod template",
            valid.workload
        ),
        (false, Some(adopted)) if valid.group.spec.genesis.is_some() => format!(
            "the members are pods of StatefulSet {adopted}, and stay so in this version: put the \
             label {label} back into its pod template"
        ),
        _ => return Ok(()),
    };
    Err(Stall::new(&conditions::WORKLOAD_NOT_ADOPTABLE, words))
}

fn whose(object: &DynamicObject) -> String {
    let owners = object.owner_references();
    owners
        .iter()
        .find(|it| it.controller == Some(true))
        .map_or_else(
            || "without an owner".to_owned(),
            |it| format!("of {} {}", it.kind, it.name),
        )
}

// === impl Live ===

impl Live {
    pub(crate) fn child(&self, kind: Kind, name: &str) -> Option<&DynamicObject> {
        self.children.get(&(kind, name.to_owned()))
    }

    pub(crate) fn pod(&self, member: &str) -> Option<&PodView> {
        self.pods.iter().find(|it| it.member == member)
    }

    /// The user's own StatefulSet.
    pub(crate) fn set(&self) -> Option<&StatefulSet> {
        self.adopted.as_ref()?.as_ref().ok()
    }

    /// Content of a Secret; empty when there is none. What is no text is left out.
    pub(crate) fn secret(&self, name: &str) -> BTreeMap<String, String> {
        let Some(object) = self.child(Kind::Secret, name) else {
            return BTreeMap::new();
        };
        let data = object.data.get("data").cloned().unwrap_or_default();
        let data: BTreeMap<String, k8s_openapi::ByteString> =
            serde_json::from_value(data).unwrap_or_default();
        data.into_iter()
            .filter_map(|(key, value)| Some((key, String::from_utf8(value.0).ok()?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    #[test]
    fn that_a_sidecar_is_not_ready_is_not_why_its_app_does_not_start() {
        let event = |reason: &str, second: i64| Event {
            reason: Some(reason.to_owned()),
            last_timestamp: Some(Time(Timestamp::from_second(second).expect("in range"))),
            ..Event::default()
        };
        let events = vec![
            event("FailedScheduling", 1),
            event("FailedMount", 2),
            event("Unhealthy", 3),
        ];
        let said = newest(events).expect("there is one").reason;
        assert_eq!(said.as_deref(), Some("FailedMount"));
        assert!(newest(vec![event("Unhealthy", 3)]).is_none());
    }
}
