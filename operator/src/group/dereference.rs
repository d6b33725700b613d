//! Everything that a group's work looks at, read from the API server.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Event, PersistentVolumeClaim, Pod};
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, Client, ResourceExt};

use super::build::Kind;
use super::names;
use super::pods::PodView;
use super::validate::{Stall, Valid};
use crate::conditions;
use crate::inject::names as pod_names;

/// What is there.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// Objects that have the name of a child, ours or not.
    pub(crate) children: BTreeMap<(Kind, String), DynamicObject>,
    /// Pods of the StatefulSet.
    pub(crate) pods: Vec<PodView>,
    /// Claims with the names that the StatefulSet's will have; read while there is none.
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
    let selector = names::selector(valid.name, &valid.group.spec.cluster);
    let selector = selector.map(|(key, value)| format!("{key}={value}"));
    let pods: Api<Pod> = Api::namespaced(client.clone(), valid.namespace);
    let list = pods
        .list(&ListParams::default().labels(&selector.join(",")))
        .await?;
    live.pods = list.iter().map(PodView::new).collect();
    // A pod that merely carries the labels is no member.
    live.pods.retain(|it| valid.ordinal(&it.name).is_some());
    live.pods.sort_by(|one, two| one.name.cmp(&two.name));
    say_why(client, valid, &mut live.pods).await?;
    let workload = (Kind::StatefulSet, valid.workload.clone());
    if !live.children.contains_key(&workload) {
        live.claims = claims(client, valid).await?;
    }
    Ok(live)
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
    ];
    if spec.network.mode == synod_api::NetworkMode::PerPodService {
        wanted
            .extend((0..valid.replicas()).map(|it| (Kind::Service, names::pod_service(name, it))));
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
    let mut found = Vec::new();
    for member in &valid.group.spec.members {
        found.extend(api.get_opt(&pod_names::log_claim(&member.name)).await?);
    }
    Ok(found)
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
        let newest = list.into_iter().max_by_key(|it| {
            let last = it.last_timestamp.as_ref().map(|it| it.0);
            last.or(it.event_time.as_ref().map(|it| it.0))
        });
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

/// Objects of others that have the names of our children, and data of an earlier service: nothing
/// is taken over.
pub(crate) fn conflicts(valid: &Valid<'_>, live: &Live) -> Result<(), Stall> {
    let foreign: Vec<_> = live
        .children
        .iter()
        .filter(|(_, it)| !is_ours(it, valid.uid))
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
    let owner = &valid.group.spec.owner;
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
                "claims of an earlier service of this name hold its data: {}; delete them (kubectl \
                 -n {} delete pvc {}) to begin empty, or choose another name for the service; \
                 starting from retained claims is not supported by this version",
                earlier.join(", "),
                valid.namespace,
                earlier.join(" ")
            ),
        ));
    }
    Ok(())
}

fn is_ours(object: &DynamicObject, uid: &str) -> bool {
    object
        .owner_references()
        .iter()
        .any(|it| it.uid == uid && it.controller == Some(true))
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

    pub(crate) fn pod(&self, name: &str) -> Option<&PodView> {
        self.pods.iter().find(|it| it.name == name)
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
