//! The children of one example, as text that people can read and compare.

use serde_yaml::Value as Yaml;
use synod_api::ReplicaGroup;

use super::*;
use crate::group::validate::validate;

mod witnesses;

const GROUP: &str = include_str!("testdata/group.yaml");
const CHILDREN: &str = include_str!("testdata/children.yaml");

fn group(text: &str) -> ReplicaGroup {
    serde_yaml::from_str(text).expect("a group")
}

fn image() -> SidecarImage {
    SidecarImage {
        image: "synod-sidecar:1".to_owned(),
        pull_policy: None,
    }
}

fn input<'a>(valid: &'a Valid<'a>, image: &'a SidecarImage) -> Input<'a> {
    Input {
        valid,
        image,
        token: "secret",
        claims: None,
        disruptions: 1,
    }
}

/// All children, as a stream of documents.
fn rendered(group: &ReplicaGroup) -> String {
    let valid = validate(group, "us-east").expect("valid");
    let image = image();
    let input = input(&valid, &image);
    let mut children = vec![config_map(&valid)];
    children.extend(surroundings(&input));
    children.push(workload(&input).expect("rendered").child);
    children.push(genesis(&valid, "{}"));
    children
        .iter()
        .map(|it| serde_yaml::to_string(&it.value).expect("YAML"))
        .collect::<Vec<_>>()
        .join("---\n")
}

#[test]
fn the_children_of_the_example_are_these() {
    let found = rendered(&group(GROUP));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/src/group/build/testdata/children.yaml"
        );
        std::fs::write(path, &found).expect("written");
    }
    assert!(
        found == CHILDREN,
        "the children differ from testdata/children.yaml (UPDATE_GOLDEN=1 writes it):\n{found}"
    );
}

#[test]
fn how_to_get_in_is_where_members_look_for_it_once_they_know_of_that() {
    let mut group = group(GROUP);
    let data = |group: &ReplicaGroup| {
        let valid = validate(group, "us-east").expect("valid");
        config_map(&valid).value["data"].clone()
    };
    let path = "join: /etc/synod/config/join.json";
    let first = data(&group);
    assert!(
        !first["config.yaml"]
            .as_str()
            .expect("a text")
            .contains("join:")
    );
    group.spec.epoch = 7;
    let changed = data(&group);
    assert!(
        changed["config.yaml"]
            .as_str()
            .expect("a text")
            .contains(path)
    );
    assert_eq!(changed["join.json"], serde_json::Value::Null);
    group.spec.join = Some("how to get in".to_owned());
    assert_eq!(data(&group)["join.json"], "how to get in");
}

#[test]
fn every_child_has_the_group_as_its_owner_and_the_labels_by_which_it_is_found() {
    for document in rendered(&group(GROUP)).split("---\n") {
        let child: Yaml = serde_yaml::from_str(document).expect("YAML");
        let metadata = &child["metadata"];
        assert_eq!(metadata["ownerReferences"][0]["uid"], "uid-of-group");
        assert_eq!(metadata["labels"]["app.kubernetes.io/managed-by"], "synod");
        assert_eq!(metadata["labels"]["synod.dev/service"], "notes");
        assert_eq!(metadata["namespace"], "default");
    }
}

/// Which template the pods would have been made from.
fn template_of(group: &ReplicaGroup, image: &SidecarImage) -> String {
    let valid = validate(group, "us-east").expect("valid");
    workload(&input(&valid, image)).expect("rendered").template
}

#[test]
fn a_new_sidecar_replaces_no_pod_by_itself_but_a_new_app_does() {
    let group_ = group(GROUP);
    let before = template_of(&group_, &image());
    let newer = SidecarImage {
        image: "synod-sidecar:2".to_owned(),
        pull_policy: None,
    };
    assert_eq!(template_of(&group_, &newer), before);
    let other = group(&GROUP.replace("notes:1.4", "notes:1.5"));
    assert_ne!(template_of(&other, &image()), before);
    // The order of fields means nothing.
    let mut turned = group_.clone();
    let fields: Vec<_> = turned.spec.template.0.clone().into_iter().collect();
    turned.spec.template.0 = fields.into_iter().rev().collect();
    assert_eq!(template_of(&turned, &image()), before);
}

#[test]
fn claims_that_are_there_stay_and_those_that_should_differ_are_named() {
    let group_ = group(GROUP);
    let valid = validate(&group_, "us-east").expect("valid");
    let image = image();
    let first = workload(&input(&valid, &image)).expect("rendered");
    let there = first.child.value["spec"]["volumeClaimTemplates"].clone();
    let there = there.as_array().expect("a list");
    let mut larger = group_.clone();
    larger.spec.log.volume_claim = Some(
        serde_yaml::from_str("{spec: {resources: {requests: {storage: 20Gi}}}}").expect("a claim"),
    );
    for (group, kept) in [(&group_, vec![]), (&larger, vec!["synod-log".to_owned()])] {
        let valid = validate(group, "us-east").expect("valid");
        let mut input = input(&valid, &image);
        input.claims = Some(there);
        let again = workload(&input).expect("rendered");
        assert_eq!(
            again.child.value["spec"]["volumeClaimTemplates"],
            Value::Array(there.clone())
        );
        assert_eq!(again.kept_claims, kept);
    }
}

#[test]
fn a_service_per_pod_is_there_where_pods_of_other_clusters_are_out_of_reach() {
    let mut group_ = group(GROUP);
    group_.spec.network.mode = synod_api::NetworkMode::PerPodService;
    let valid = validate(&group_, "us-east").expect("valid");
    let image = image();
    let children = surroundings(&input(&valid, &image));
    let services: Vec<_> = children
        .iter()
        .filter(|it| it.kind == Kind::Service && it.name.starts_with("notes-m-"))
        .collect();
    assert_eq!(services.len(), 2);
    let selector = &services[1].value["spec"]["selector"];
    assert_eq!(
        selector["statefulset.kubernetes.io/pod-name"],
        "notes-us-east-1"
    );
    assert_eq!(services[1].value["spec"]["type"], "NodePort");
}

#[test]
fn groups_that_cannot_be_worked_on_are_refused_with_the_way_out() {
    let group_ = group(GROUP);
    let reason = |group: &ReplicaGroup, cluster: &str| {
        validate(group, cluster).expect_err("refused").reason.name
    };
    assert_eq!(reason(&group_, "eu-west"), "UnknownCluster");
    let mut gap = group_.clone();
    gap.spec.members.remove(0);
    assert_eq!(reason(&gap, "us-east"), "InvalidSpec");
    let mut mode = group_.clone();
    mode.spec.network.mode = synod_api::NetworkMode::Static;
    assert_eq!(reason(&mode, "us-east"), "Unsupported");
    let mut clash = group_.clone();
    clash.spec.service.name = Some("notes-members".to_owned());
    assert_eq!(reason(&clash, "us-east"), "NameConflict");
}

#[test]
fn members_of_this_cluster_are_found_by_name_and_others_where_they_said() {
    let group_ = group(GROUP);
    let valid = validate(&group_, "us-east").expect("valid");
    assert!(!valid.alone());
    let table: Value = serde_json::from_str(&peers(&valid)).expect("JSON");
    assert_eq!(
        table,
        json!({"members": [
            {"name": "notes-eu-west-0", "address": "10.2.0.5:7443"},
            {"name": "notes-us-east-0", "address": "notes-us-east-0.notes-members.default.svc:7443"},
            {"name": "notes-us-east-1", "address": "notes-us-east-1.notes-members.default.svc:7443"},
        ]})
    );
}

#[test]
fn members_that_are_pods_of_a_users_own_statefulset_find_each_other_by_services_of_their_own() {
    let mut group = group(GROUP);
    group.spec.template = serde_yaml::from_str(
        "{metadata: {labels: {synod.dev/inject: notes}}, spec: {containers: [{name: notes, image: i, ports: [{name: web, containerPort: 8080}]}]}}",
    )
    .expect("a template");
    let valid = validate(&group, "us-east").expect("valid");
    let image = image();
    let children = surroundings(&input(&valid, &image));
    let child = |name: &str| {
        let found = children
            .iter()
            .find(|it| it.kind == Kind::Service && it.name == name);
        &found.expect(name).value["spec"]
    };
    let own = child("notes-m-1");
    assert_eq!(own["clusterIP"], "None");
    assert_eq!(own["selector"]["apps.kubernetes.io/pod-index"], "1");
    assert_eq!(child("notes")["ports"][0]["targetPort"], "web");
    let table = peers(&valid);
    assert!(table.contains("notes-m-1.default.svc:7443"), "{table}");
    let claims = log_claims(&valid);
    let names: Vec<_> = claims.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(
        names,
        ["synod-log-notes-us-east-0", "synod-log-notes-us-east-1"]
    );
    let claim = &claims[0].value;
    assert_eq!(
        claim["metadata"]["labels"]["synod.dev/owner"],
        "uid-of-service"
    );
    assert!(
        claim["metadata"].get("ownerReferences").is_none(),
        "it is kept"
    );
    assert_eq!(claim["spec"]["accessModes"][0], "ReadWriteOncePod");
}

#[test]
fn a_template_that_asks_for_another_services_sidecar_is_refused() {
    let mut group = group(GROUP);
    group.spec.template = serde_yaml::from_str(
        "{metadata: {labels: {synod.dev/inject: other}}, spec: {containers: []}}",
    )
    .expect("a template");
    let stall = validate(&group, "us-east").expect_err("another's");
    assert_eq!(stall.reason.name, "InvalidSpec");
}

#[test]
fn another_way_to_save_the_state_is_another_template() {
    let mut group = group(GROUP);
    let usual = template_of(&group, &image());
    group.spec.state = serde_yaml::from_str(
        "{snapshot: {type: HTTP, http: {save: {method: GET, path: /s}, restore: {method: PUT, path: /s}}}}",
    )
    .expect("a state");
    assert_ne!(
        template_of(&group, &image()),
        usual,
        "sidecars read it when they start"
    );
}

#[test]
fn an_app_with_a_volume_has_a_claim_for_it_that_is_kept_like_the_logs() {
    let mut group = group(GROUP);
    group.spec.state = serde_yaml::from_str(
        "{type: Volume, volume: {mountPath: /data, volumeClaim: {spec: {resources: {requests: {storage: 3Gi}}}}}, snapshot: {type: Volume}}",
    )
    .expect("a state");
    group.spec.template = serde_yaml::from_str(
        "{spec: {containers: [{name: notes, image: i, securityContext: {runAsUser: 1000}}]}}",
    )
    .expect("a template");
    let valid = validate(&group, "us-east").expect("valid");
    let image = image();
    let rendered = workload(&input(&valid, &image))
        .expect("rendered")
        .child
        .value;
    let claims = &rendered["spec"]["volumeClaimTemplates"];
    assert_eq!(claims[0]["metadata"]["name"], "synod-log");
    let state = &claims[1];
    assert_eq!(state["metadata"]["name"], "synod-state");
    assert_eq!(
        state["metadata"]["labels"]["synod.dev/owner"],
        "uid-of-service"
    );
    assert_eq!(state["spec"]["accessModes"][0], "ReadWriteOncePod");
    assert_eq!(state["spec"]["resources"]["requests"]["storage"], "3Gi");
    let pod = &rendered["spec"]["template"]["spec"];
    let mount = &pod["containers"][0]["volumeMounts"][0];
    assert_eq!(
        *mount,
        json!({"name": "synod-state", "mountPath": "/data", "subPath": "data"})
    );
    let text = config_map(&valid).value["data"]["config.yaml"].clone();
    let config: Value = serde_yaml::from_str(text.as_str().expect("text")).expect("YAML");
    assert_eq!(config["state"]["volume"]["path"], "/var/lib/synod-app/data");
}

#[test]
fn another_protocol_of_the_app_is_another_template() {
    let mut group = group(GROUP);
    let template = |group: &ReplicaGroup| {
        let valid = validate(group, "us-east").expect("valid");
        let image = image();
        workload(&input(&valid, &image)).expect("rendered").template
    };
    group.spec.app.protocol = synod_api::AppProtocol::Http1;
    let usual = template(&group);
    group.spec.app.protocol = synod_api::AppProtocol::H2c;
    assert_ne!(template(&group), usual, "sidecars read it when they start");
}
