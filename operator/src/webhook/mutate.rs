//! A labelled pod beside what is known of its service: the pod with the sidecar, or why not. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt as _;
use serde_json::Value;

use super::lookup::Facts;
use crate::group::adopt::{self, Ordinal};
use crate::inject::{self, SidecarImage, names};

/// Why a pod cannot be made. Each one says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// There is no such service.
    #[error("{0}")]
    NoService(String),
    /// It is no pod of a StatefulSet that can be taken.
    #[error("{0}")]
    NotAdoptable(String),
    /// Not yet.
    #[error("{0}")]
    NotReady(String),
    /// The pod cannot have a sidecar as it is.
    #[error("{0}")]
    Template(String),
}

/// The pod with its sidecar.
pub(super) fn mutate(pod: &Value, facts: &Facts, image: &SidecarImage) -> Result<Value, Refusal> {
    let Facts {
        service, namespace, ..
    } = facts;
    let Some(group) = &facts.group else {
        return Err(Refusal::NoService(format!(
            "there is no ReplicatedService {service} with members in namespace {namespace}: create \
             it first, or take the label {} out of the pod's template",
            names::INJECT_LABEL
        )));
    };
    if !adopt::is_labelled(&group.spec) {
        return Err(Refusal::NotAdoptable(format!(
            "the members of {service} are pods that the operator makes: take the label {} out of \
             this template, or, before {service} is formed, name its StatefulSet in \
             spec.workloadRef",
            names::INJECT_LABEL
        )));
    }
    let set = facts.owner(pod)?;
    adopt::adoptable(set, &group.spec).map_err(Refusal::NotAdoptable)?;
    let name = pod.pointer("/metadata/name").and_then(Value::as_str);
    let (name, set_name) = (name.unwrap_or_default(), set.name_any());
    let prefix = format!("{service}-{}", group.spec.cluster);
    let member = adopt::member(&prefix, &set_name, name)
        .filter(|it| group.spec.members.iter().any(|member| member.name == *it))
        .ok_or_else(|| {
            let count = group.spec.members.len();
            Refusal::NotAdoptable(format!(
                "{service} has {count} members here, and {name} would be another: kubectl -n \
                 {namespace} scale statefulset {set_name} --replicas={count}"
            ))
        })?;
    let Some(token) = facts
        .token
        .as_ref()
        .filter(|_| facts.certified.contains(&member))
    else {
        return Err(Refusal::NotReady(format!(
            "the operator is still preparing {service}: it has the pod made again when it is done"
        )));
    };
    let ordinal = Ordinal {
        pod: name,
        member: &member,
    };
    let injection = adopt::injection(group, image, token, set, &ordinal);
    let mut rendered = inject::render(pod, &injection)
        .map_err(|error| Refusal::Template(format!("this pod cannot have the sidecar: {error}")))?;
    adopt::note_template(&mut rendered, &injection, &group.spec.state);
    Ok(rendered)
}

// === impl Facts ===

impl Facts {
    /// The StatefulSet that makes the pod, and that is the service's.
    fn owner(&self, pod: &Value) -> Result<&k8s_openapi::api::apps::v1::StatefulSet, Refusal> {
        let owners = pod.pointer("/metadata/ownerReferences").cloned();
        let owners: Vec<OwnerReference> = owners
            .and_then(|it| serde_json::from_value(it).ok())
            .unwrap_or_default();
        let owner = owners.iter().find(|it| it.controller == Some(true));
        let refuse = |what: String| {
            Refusal::NotAdoptable(format!(
                "{what}: each copy needs a name and a volume that stay with it, so only pods of a \
                 StatefulSet with podManagementPolicy Parallel and updateStrategy OnDelete can be \
                 members; a Deployment is taken over by spec.workloadRef, without the label"
            ))
        };
        let Some(owner) = owner else {
            return Err(refuse("this pod belongs to no workload".to_owned()));
        };
        if owner.kind != "StatefulSet" {
            return Err(refuse(format!(
                "this pod belongs to {} {}",
                owner.kind, owner.name
            )));
        }
        let found = adopt::find(&self.sets, &self.service, &self.namespace)
            .map_err(|stall| Refusal::NotAdoptable(stall.message))?;
        if found.metadata.uid.as_ref() != Some(&owner.uid) {
            return Err(Refusal::NotAdoptable(format!(
                "this pod belongs to StatefulSet {}, but it is the pods of StatefulSet {} that are \
                 members of {}",
                owner.name,
                found.name_any(),
                self.service
            )));
        }
        Ok(found)
    }
}

// === impl Refusal ===

impl Refusal {
    /// In one of a few words.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::NoService(_) => "no-service",
            Self::NotAdoptable(_) => "not-adoptable",
            Self::NotReady(_) => "not-ready",
            Self::Template(_) => "template",
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const POD: &str = include_str!("testdata/pod.yaml");
    const SET: &str = include_str!("testdata/statefulset.yaml");
    const GROUP: &str = include_str!("testdata/group.yaml");

    pub(in crate::webhook) fn image() -> SidecarImage {
        SidecarImage {
            image: "synod-sidecar:1".to_owned(),
            pull_policy: None,
        }
    }

    pub(in crate::webhook) fn pod() -> Value {
        serde_yaml::from_str(POD).expect("a pod")
    }

    pub(in crate::webhook) fn facts() -> Facts {
        Facts {
            service: "notes".to_owned(),
            namespace: "default".to_owned(),
            group: Some(serde_yaml::from_str(GROUP).expect("a group")),
            sets: vec![serde_yaml::from_str(SET).expect("a StatefulSet")],
            token: Some("3f9a".to_owned()),
            certified: ["notes-local-0", "notes-local-1"].map(str::to_owned).into(),
        }
    }

    fn refusal(change: impl FnOnce(&mut Value, &mut Facts)) -> Refusal {
        let (mut pod, mut facts) = (pod(), facts());
        change(&mut pod, &mut facts);
        mutate(&pod, &facts, &image()).expect_err("refused")
    }

    #[test]
    fn a_pod_gets_the_sidecar_of_its_member_and_once_only() {
        let once = mutate(&pod(), &facts(), &image()).expect("taken");
        let sidecar = &once["spec"]["initContainers"][0];
        assert_eq!(sidecar["name"], "synod");
        assert_eq!(sidecar["env"][0]["value"], "notes-local-1");
        assert_eq!(sidecar["ports"][0]["name"], "web");
        assert_eq!(
            once["metadata"]["labels"]["app.kubernetes.io/instance"], "shop",
            "a label that the StatefulSet selects by"
        );
        let volumes = once["spec"]["volumes"].as_array().expect("volumes");
        let log = volumes.iter().find(|it| it["name"] == "synod-log");
        let claim = &log.expect("a log")["persistentVolumeClaim"]["claimName"];
        assert_eq!(claim, "synod-log-notes-local-1");
        let twice = mutate(&once, &facts(), &image()).expect("taken");
        assert_eq!(once, twice);
    }

    #[test]
    fn a_log_of_the_statefulsets_own_claims_is_the_one_that_its_controller_looks_for() {
        let mut facts = facts();
        let spec = facts.sets[0].spec.as_mut().expect("a spec");
        spec.volume_claim_templates = Some(vec![
            serde_yaml::from_str("metadata: {name: synod-log}").expect("a claim"),
        ]);
        let mut pod = pod();
        pod["spec"]["volumes"] = serde_json::json!([
            {"name": "synod-log", "persistentVolumeClaim": {"claimName": "synod-log-web-1"}},
        ]);
        // As `synod inject` left the template; a volume of that name alone is somebody else's.
        let error = mutate(&pod, &facts, &image()).expect_err("not ours");
        assert_eq!(error.outcome(), "template");
        pod["spec"]
            .as_object_mut()
            .expect("a spec")
            .remove("volumes");
        let taken = mutate(&pod, &facts, &image()).expect("taken");
        let text = taken.to_string();
        assert!(text.contains("\"claimName\":\"synod-log-web-1\""), "{text}");
    }

    #[test]
    fn what_is_missing_is_told_with_the_way_out() {
        let gone = refusal(|_, facts| facts.group = None);
        assert_eq!(gone.outcome(), "no-service");
        assert!(
            gone.to_string().contains("ReplicatedService notes"),
            "{gone}"
        );
        for (early, part) in [
            (refusal(|_, facts| facts.token = None), "preparing"),
            (refusal(|_, facts| facts.certified.clear()), "preparing"),
        ] {
            assert_eq!(early.outcome(), "not-ready");
            assert!(early.to_string().contains(part), "{early}");
        }
        let taken = refusal(|pod, _| pod["spec"]["hostNetwork"] = true.into());
        assert_eq!(taken.outcome(), "template");
        assert!(taken.to_string().contains("spec.hostNetwork"), "{taken}");
    }

    #[test]
    fn pods_of_anything_but_the_services_statefulset_are_refused() {
        let cases = [
            (
                refusal(|pod, _| {
                    pod["metadata"]["ownerReferences"][0]["kind"] = "ReplicaSet".into();
                }),
                "belongs to ReplicaSet web",
            ),
            (
                refusal(|pod, _| pod["metadata"]["ownerReferences"] = Value::Null),
                "no workload",
            ),
            (
                refusal(|pod, _| pod["metadata"]["ownerReferences"] = "x".into()),
                "no workload",
            ),
            (
                refusal(|pod, _| pod["metadata"]["ownerReferences"][0]["uid"] = "other".into()),
                "members of notes",
            ),
            (
                refusal(|pod, _| pod["metadata"]["name"] = "web-3".into()),
                "--replicas=3",
            ),
            (
                refusal(|_, facts| {
                    let spec = facts.sets[0].spec.as_mut().expect("a spec");
                    spec.pod_management_policy = Some("OrderedReady".to_owned());
                }),
                "--cascade=orphan",
            ),
            (
                refusal(|_, facts| {
                    let group = facts.group.as_mut().expect("a group");
                    group.spec.template.0.shift_remove("metadata");
                }),
                "spec.workloadRef",
            ),
        ];
        for (refused, part) in cases {
            assert_eq!(refused.outcome(), "not-adoptable", "{refused}");
            assert!(refused.to_string().contains(part), "{part}: {refused}");
        }
    }
}
