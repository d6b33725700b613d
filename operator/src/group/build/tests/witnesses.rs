//! What is made for witnesses.

use super::*;

const WITNESS: &str = "- {name: notes-us-east-1, id: 2, role: Observer}\n  - {name: notes-us-east-100, id: 3, role: Witness}";

/// A voter, an observer and a witness.
fn witnessed() -> ReplicaGroup {
    group(&GROUP.replace("- {name: notes-us-east-1, id: 2, role: Observer}", WITNESS))
}

fn set(group: &ReplicaGroup) -> Workload {
    let valid = validate(group, "us-east").expect("valid");
    witnesses(&input(&valid, &image()))
}

fn config_of(group: &ReplicaGroup, file: &str) -> Value {
    let valid = validate(group, "us-east").expect("valid");
    let text = config_map(&valid).value["data"][file].clone();
    serde_yaml::from_str(text.as_str().unwrap_or("null")).expect("YAML")
}

#[test]
fn a_witness_has_a_pod_with_the_sidecar_alone_and_a_claim_for_its_log_alone() {
    let mut group = witnessed();
    group.spec.state = serde_yaml::from_str(
        "{type: Volume, volume: {mountPath: /data}, snapshot: {type: Volume}}",
    )
    .expect("a state");
    group.spec.revision = 3;
    let child = set(&group).child;
    assert_eq!(child.name, "notes-us-east-witness");
    let spec = &child.value["spec"];
    assert_eq!(spec["replicas"], 1);
    assert_eq!(spec["ordinals"]["start"], 100);
    assert_eq!(spec["serviceName"], "notes-members");
    let claims = spec["volumeClaimTemplates"].as_array().expect("a list");
    assert_eq!(claims.len(), 1);
    assert_eq!(claims[0]["metadata"]["name"], "synod-log");
    let pod = &spec["template"]["spec"];
    assert_eq!(pod.get("initContainers"), None);
    let containers = pod["containers"].as_array().expect("a list");
    assert_eq!(containers.len(), 1);
    let sidecar = &containers[0];
    assert_eq!(sidecar["name"], "synod");
    assert_eq!(sidecar.get("restartPolicy"), None);
    let command = [
        "synod-sidecar",
        "--config",
        "/etc/synod/config/witness.yaml",
    ];
    assert_eq!(sidecar["command"], json!(command));
    assert_eq!(sidecar["env"][1]["value"], "notes-us-east-$(SYNOD_INDEX)");
    assert_eq!(sidecar["startupProbe"]["httpGet"]["path"], "/live");
    let volumes = pod["volumes"].to_string();
    assert!(
        !volumes.contains("synod-state") && !volumes.contains("synod-pod"),
        "{volumes}"
    );
    // The StatefulSet of the copies has the others, and never takes these.
    let labels = &spec["template"]["metadata"]["labels"];
    assert_eq!(labels["synod.dev/service"], "notes");
    assert_eq!(labels["synod.dev/role"], "witness");
    assert_eq!(spec["selector"]["matchLabels"]["synod.dev/role"], "witness");
    let group = witnessed();
    let valid = validate(&group, "us-east").expect("valid");
    let copies = workload(&input(&valid, &image())).expect("rendered").child;
    assert_eq!(copies.value["spec"]["replicas"], 2);
}

#[test]
fn the_sidecar_of_a_witness_is_told_so_and_of_no_app() {
    let group = witnessed();
    let config = config_of(&group, "witness.yaml");
    assert_eq!(config["witness"], true);
    assert_eq!(config.get("app"), None);
    assert_eq!(config_of(&group, "config.yaml").get("witness"), None);
    assert_eq!(config_of(&self::group(GROUP), "witness.yaml"), Value::Null);
    let valid = validate(&group, "us-east").expect("valid");
    let table = peers(&valid);
    let address = "notes-us-east-witness-100.notes-members.default.svc:7443";
    assert!(table.contains(address), "{table}");
    let found = valid.witness_of("notes-us-east-witness-100");
    assert_eq!(found.as_deref(), Some("notes-us-east-100"));
    assert_eq!(valid.witness_of("notes-us-east-100"), None);
}

#[test]
fn another_app_replaces_no_witness_and_another_place_does() {
    let mut group = witnessed();
    let before = set(&group).template;
    let mut newer = witnessed();
    newer.spec.revision = 7;
    newer.spec.app.port = 9999;
    let template = "{spec: {containers: [{name: notes, image: j, env: [{name: A, value: b}]}]}}";
    newer.spec.template = serde_yaml::from_str(template).expect("a template");
    assert_eq!(set(&newer).template, before);
    group.spec.overrides.node_selector.clear();
    assert_ne!(set(&group).template, before);
    let mut larger = witnessed();
    let resources = "{requests: {cpu: 1}}";
    larger.spec.sidecar.resources = Some(serde_yaml::from_str(resources).expect("resources"));
    assert_ne!(set(&larger).template, before);
}

#[test]
fn a_witness_runs_where_the_users_pods_may_and_apart_from_them() {
    let mut group = witnessed();
    let template = "
metadata: {labels: {app: notes}}
spec:
  priorityClassName: high
  nodeSelector: {arch: arm64}
  affinity:
    nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}}
    podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: []}
  volumes: [{name: a, emptyDir: {}}]
  containers: [{name: notes, image: i}]";
    group.spec.template = serde_yaml::from_str(template).expect("a template");
    let rendered = set(&group).child.value["spec"]["template"].clone();
    let pod = &rendered["spec"];
    assert_eq!(pod["priorityClassName"], "high");
    assert_eq!(pod["nodeSelector"], json!({"arch": "arm64", "disk": "ssd"}));
    assert_eq!(pod["tolerations"][0]["key"], "dedicated");
    assert_eq!(pod["imagePullSecrets"][0]["name"], "mirror");
    assert!(pod["affinity"].get("nodeAffinity").is_some());
    assert_eq!(pod["affinity"].get("podAffinity"), None);
    assert_eq!(rendered["metadata"]["labels"].get("app"), None);
    let spread = &pod["topologySpreadConstraints"][0];
    let counted = &spread["labelSelector"]["matchLabels"];
    let all = json!({"synod.dev/service": "notes", "synod.dev/cluster": "us-east"});
    assert_eq!(counted, &all, "copies count too");
}

#[test]
fn clients_come_to_a_witness_only_where_nobody_runs_the_app() {
    let port = |group: &ReplicaGroup| {
        let template = set(group).child.value["spec"]["template"].clone();
        template["spec"]["containers"][0]["ports"][0]["name"].clone()
    };
    let mut group = witnessed();
    let valid = validate(&group, "us-east").expect("valid");
    let client = services::client_port(&valid);
    assert_ne!(port(&group), json!(client));
    group.spec.members.retain(|it| it.name.ends_with("-100"));
    assert_eq!(port(&group), json!(client));
}

#[test]
fn the_budget_counts_the_pods_of_witnesses_and_each_has_a_service_where_it_needs_one() {
    let mut group = witnessed();
    group.spec.network.mode = synod_api::NetworkMode::PerPodService;
    let valid = validate(&group, "us-east").expect("valid");
    let children = surroundings(&input(&valid, &image()));
    let budget = children
        .iter()
        .find(|it| it.kind == Kind::PodDisruptionBudget);
    let budget = &budget.expect("there is one").value["spec"];
    assert_eq!(budget["minAvailable"], 2, "of three, one may be away");
    let own = children.iter().find(|it| it.name == "notes-m-100");
    let selector = &own.expect("it has one").value["spec"]["selector"];
    let pod = &selector["statefulset.kubernetes.io/pod-name"];
    assert_eq!(pod, "notes-us-east-witness-100");
}

#[test]
fn witnesses_are_numbered_without_gaps_too() {
    let mut group = witnessed();
    group.spec.members[2].name = "notes-us-east-101".to_owned();
    let stall = validate(&group, "us-east").expect_err("a gap");
    assert!(
        stall.message.contains("notes-us-east-100"),
        "{}",
        stall.message
    );
}
