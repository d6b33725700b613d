//! Members that are pods of a user's own StatefulSet, whose template has the label
//! `synod.dev/inject`: what such a StatefulSet must be like, and what its pods become. Comes in: the
//! group and the StatefulSets of its namespace. Goes out: one of them, or why it cannot be. Pure.

use k8s_openapi::api::apps::v1::StatefulSet;
use kube::ResourceExt as _;
use serde_json::Value;
use synod_api::{ReplicaGroup, ReplicaGroupSpec, State, StateType};

use super::build::made_from;
use super::names;
use super::validate::Stall;
use crate::conditions;
use crate::inject::{self, Injection, LogVolume, SidecarImage, names as pod};

/// On StatefulSets: when its controller was last asked to look again.
pub(crate) const RETRY_ANNOTATION: &str = "synod.dev/retry";

/// The service whose members the pods of this StatefulSet ask to be.
pub(crate) fn asked(set: &StatefulSet) -> Option<&str> {
    let metadata = set.spec.as_ref()?.template.metadata.as_ref()?;
    let label = metadata.labels.as_ref()?.get(pod::INJECT_LABEL)?;
    Some(label)
}

/// The service's template asks for pods of the user's own StatefulSet.
pub(crate) fn is_labelled(spec: &ReplicaGroupSpec) -> bool {
    inject::asked(&spec.template.0).is_some()
}

/// The one StatefulSet among those of the namespace whose pods are to be the members.
pub(crate) fn find<'a>(
    sets: &'a [StatefulSet],
    service: &str,
    namespace: &str,
) -> Result<&'a StatefulSet, Stall> {
    let asking: Vec<_> = sets
        .iter()
        .filter(|it| asked(it) == Some(service))
        .collect();
    match asking[..] {
        [one] => Ok(one),
        [] => Err(Stall::new(
            &conditions::WORKLOAD_NOT_FOUND,
            format!(
                "no StatefulSet in namespace {namespace} has the label {}={service} in its pod \
                 template: create it, or put the label there",
                pod::INJECT_LABEL
            ),
        )),
        _ => {
            let names: Vec<_> = asking.iter().map(|it| it.name_any()).collect();
            Err(Stall::new(
                &conditions::WORKLOAD_NOT_ADOPTABLE,
                format!(
                    "several StatefulSets have the label {}={service} in their pod templates: {}; \
                     take it out of all but one",
                    pod::INJECT_LABEL,
                    names.join(", ")
                ),
            ))
        }
    }
}

/// Whether pods of this StatefulSet can be members; otherwise why not, and what to do.
pub(crate) fn adoptable(set: &StatefulSet, group: &ReplicaGroupSpec) -> Result<(), String> {
    let name = set.name_any();
    let namespace = set.namespace().unwrap_or_default();
    let kubectl = format!("kubectl -n {namespace}");
    let spec = set.spec.clone().unwrap_or_default();
    let strategy = spec.update_strategy.and_then(|it| it.type_);
    let mut problems = Vec::new();
    if spec.pod_management_policy.as_deref() != Some("Parallel") {
        problems.push(format!(
            "its pods start in order, and would wait for one that waits for a quorum. It cannot be \
             changed in place; this makes it anew and leaves its pods running: `{kubectl} patch \
             statefulset {name} --dry-run=client -o yaml -p '{{\"spec\":{{\"podManagementPolicy\":\
             \"Parallel\",\"updateStrategy\":{{\"type\":\"OnDelete\",\"rollingUpdate\":null}}}}}}' > \
             {name}.yaml && {kubectl} delete statefulset {name} --cascade=orphan && {kubectl} \
             create -f {name}.yaml`"
        ));
    } else if strategy.as_deref() != Some("OnDelete") {
        problems.push(format!(
            "it replaces pods by itself, without regard to the others; let the operator do it: \
             `{kubectl} patch statefulset {name} -p '{{\"spec\":{{\"updateStrategy\":{{\"type\":\
             \"OnDelete\",\"rollingUpdate\":null}}}}}}'`"
        ));
    }
    if spec.ordinals.and_then(|it| it.start).unwrap_or(0) != 0 {
        problems.push(format!(
            "its pods are not numbered from 0: `{kubectl} patch statefulset {name} -p \
             '{{\"spec\":{{\"ordinals\":null}}}}'`"
        ));
    }
    if group.state.kind == StateType::Ephemeral
        && let Some(volume) = kept_volume(set, &group.app.container)
    {
        problems.push(format!(
            "container {} mounts `{volume}`, which keeps what it holds while the log is replayed over \
             it: if the app keeps its state there, take the label away, let spec.workloadRef name it, \
             and set spec.state to {{type: Volume, volume: {{mountPath: ..}}}}, which begins with empty \
             claims; otherwise remove the mount, or let it be readOnly",
            group.app.container
        ));
    }
    if group.state.kind == StateType::Volume {
        problems.push(format!(
            "its claims are its own, and spec.state.type is Volume, for which this version makes the \
             claims itself: let spec.workloadRef name it without the label {}, or use Ephemeral",
            pod::INJECT_LABEL
        ));
    }
    if problems.is_empty() {
        return Ok(());
    }
    Err(format!("StatefulSet {name}: {}", problems.join("; ")))
}

/// A claim that the app writes to, by the name of its volume.
fn kept_volume(set: &StatefulSet, container: &str) -> Option<String> {
    let spec = set.spec.as_ref()?;
    let pod = spec.template.spec.as_ref()?;
    let templates = spec.volume_claim_templates.iter().flatten();
    let templates = templates.filter_map(|it| it.metadata.name.as_deref());
    let claims = pod.volumes.iter().flatten().filter_map(|it| {
        let claim = it.persistent_volume_claim.as_ref()?;
        (claim.read_only != Some(true)).then_some(it.name.as_str())
    });
    let kept: Vec<_> = templates.chain(claims).collect();
    let app = pod.containers.iter().find(|it| it.name == container)?;
    let mounts = app.volume_mounts.iter().flatten();
    let mut writable = mounts.filter(|it| it.read_only != Some(true));
    let found = writable.find(|it| kept.contains(&it.name.as_str()))?;
    Some(found.name.clone())
}

/// Whether it has as many pods as the service has members here; otherwise what to do.
pub(crate) fn fits_in_number(set: &StatefulSet, members: usize) -> Result<(), String> {
    let asks = set.spec.as_ref().and_then(|it| it.replicas).unwrap_or(1);
    if usize::try_from(asks) == Ok(members) {
        return Ok(());
    }
    let (name, namespace) = (set.name_any(), set.namespace().unwrap_or_default());
    Err(format!(
        "StatefulSet {name} asks for {asks} pods, the service for {members} members here: `kubectl \
         -n {namespace} scale statefulset {name} --replicas={members}`"
    ))
}

/// The member that a pod of the StatefulSet is.
pub(crate) fn member(workload: &str, set: &str, pod: &str) -> Option<String> {
    let ordinal = pod.strip_prefix(set)?.strip_prefix('-')?;
    let number: u32 = ordinal.parse().ok()?;
    // No other spelling of it.
    (number.to_string() == ordinal).then(|| format!("{workload}-{number}"))
}

/// Whether a log comes from the StatefulSet's own claim template.
pub(crate) fn has_log_claim(set: &StatefulSet) -> bool {
    let claims = set
        .spec
        .as_ref()
        .and_then(|it| it.volume_claim_templates.as_ref());
    claims
        .into_iter()
        .flatten()
        .any(|it| it.metadata.name.as_deref() == Some(pod::LOG_VOLUME))
}

/// What the sidecar of one pod is made from.
pub(crate) fn injection(
    group: &ReplicaGroup,
    image: &SidecarImage,
    token: &str,
    set: &StatefulSet,
    ordinal: &Ordinal<'_>,
) -> Injection {
    let service = group.metadata.name.as_deref().unwrap_or_default();
    let mut injection = Injection::labelled(service, &group.spec, image, token, ordinal.member);
    if has_log_claim(set) {
        // As the StatefulSet's controller names it, which looks for it in the pod.
        injection.log = LogVolume::Claim(pod::log_claim(ordinal.pod));
    }
    injection
}

/// One pod, and the member that it is.
pub(crate) struct Ordinal<'a> {
    pub(crate) pod: &'a str,
    pub(crate) member: &'a str,
}

/// What decides, besides the StatefulSet's own revision, whether a pod must be replaced.
pub(crate) fn template(injection: &Injection, state: &State) -> String {
    made_from(&Value::Null, injection, state)
}

/// Notes it on a pod.
pub(crate) fn note_template(pod: &mut Value, injection: &Injection, state: &State) {
    let digest = template(injection, state);
    pod["metadata"]["annotations"][names::TEMPLATE_ANNOTATION] = digest.into();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(spec: &str) -> StatefulSet {
        let text = format!("metadata: {{name: web, namespace: shop}}\nspec: {spec}");
        serde_yaml::from_str(&text).expect("a StatefulSet")
    }

    fn group() -> ReplicaGroupSpec {
        let group: ReplicaGroup =
            serde_yaml::from_str(include_str!("build/testdata/group.yaml")).expect("a group");
        group.spec
    }

    const LABELLED: &str = "{serviceName: web, selector: {}, podManagementPolicy: Parallel, \
        updateStrategy: {type: OnDelete}, template: {metadata: {labels: {synod.dev/inject: notes}}}}";

    #[test]
    fn only_parallel_and_on_delete_is_taken_and_the_commands_to_get_there_are_told() {
        assert_eq!(adoptable(&set(LABELLED), &group()), Ok(()));
        let ordered = LABELLED.replace("podManagementPolicy: Parallel, ", "");
        let words = adoptable(&set(&ordered), &group()).expect_err("in order");
        for part in [
            "kubectl -n shop patch statefulset web --dry-run=client -o yaml -p '{\"spec\":\
             {\"podManagementPolicy\":\"Parallel\",\"updateStrategy\":{\"type\":\"OnDelete\",\
             \"rollingUpdate\":null}}}' > web.yaml",
            "kubectl -n shop delete statefulset web --cascade=orphan",
            "kubectl -n shop create -f web.yaml",
        ] {
            assert!(words.contains(part), "{part} is not in {words}");
        }
        let rolling = LABELLED.replace("OnDelete", "RollingUpdate");
        let words = adoptable(&set(&rolling), &group()).expect_err("by itself");
        assert!(
            words.contains(
                "kubectl -n shop patch statefulset web -p '{\"spec\":{\"updateStrategy\""
            ) && !words.contains("delete"),
            "{words}"
        );
        let later = LABELLED.replace("serviceName", "ordinals: {start: 1}, serviceName");
        assert!(adoptable(&set(&later), &group()).is_err());
    }

    #[test]
    fn the_state_of_an_app_on_a_volume_is_not_taken_from_a_users_own_claims() {
        let mut group = group();
        group.state =
            serde_yaml::from_str("{type: Volume, volume: {mountPath: /data}}").expect("a state");
        let words = adoptable(&set(LABELLED), &group).expect_err("refused");
        assert!(
            words.contains("spec.workloadRef") && words.contains("Volume"),
            "{words}"
        );
    }

    #[test]
    fn an_app_without_state_on_a_volume_must_write_to_no_claim() {
        let with = |claims: &str, pod: &str| {
            let labelled = LABELLED.replace("serviceName", &format!("{claims} serviceName"));
            set(&labelled.replace("notes}}}", &format!("notes}}}}, spec: {{{pod}}}}}")))
        };
        let mounts = "containers: [{name: notes, volumeMounts: [{name: d, mountPath: /data}]}]";
        let template = "volumeClaimTemplates: [{metadata: {name: d}, spec: {}}],";
        let claim = "volumes: [{name: d, persistentVolumeClaim: {claimName: c}}]";
        for found in [
            with(template, mounts),
            with("", &format!("{mounts}, {claim}")),
        ] {
            let words = adoptable(&found, &group()).expect_err("old data");
            assert!(
                words.contains("mounts `d`") && words.contains("spec.state"),
                "{words}"
            );
        }
        let read = mounts.replace("/data", "/data, readOnly: true");
        let other = mounts.replace("name: d", "name: e");
        for found in [
            with(template, &read),
            with(template, &other),
            with(
                "",
                &format!("{mounts}, volumes: [{{name: d, emptyDir: {{}}}}]"),
            ),
        ] {
            assert_eq!(adoptable(&found, &group()), Ok(()));
        }
    }

    #[test]
    fn exactly_one_statefulset_is_the_services() {
        let other = set("{serviceName: web, selector: {}, template: {}}");
        let asking = set(LABELLED);
        let both = [other.clone(), asking.clone()];
        let found = find(&both, "notes", "shop").expect("one");
        assert_eq!(asked(found), Some("notes"));
        let none = find(&[other], "notes", "shop").expect_err("none");
        assert_eq!(none.reason.name, "WorkloadNotFound");
        let two = find(&[asking.clone(), asking], "notes", "shop").expect_err("two");
        assert_eq!(two.reason.name, "WorkloadNotAdoptable");
    }

    #[test]
    fn a_pods_number_tells_which_member_it_is() {
        let member = |pod| member("notes-eu", "web", pod);
        assert_eq!(member("web-2").as_deref(), Some("notes-eu-2"));
        for pod in [
            "web", "web-", "web-x", "web-02", "web-+2", "other-1", "web-1-2",
        ] {
            assert_eq!(member(pod), None, "{pod}");
        }
    }

    #[test]
    fn another_number_of_pods_than_members_is_told_with_the_command() {
        let set = set(LABELLED);
        assert_eq!(fits_in_number(&set, 1), Ok(()));
        let words = fits_in_number(&set, 3).expect_err("one is asked for");
        assert!(
            words.contains("scale statefulset web --replicas=3"),
            "{words}"
        );
    }
}
