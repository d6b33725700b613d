//! What is rendered is compared, whole, with files beside this one: `testdata/<name>.in.yaml` and
//! `.out.yaml`. `SYNOD_UPDATE_GOLDEN=1` writes the latter anew; read the difference before it is
//! committed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::json;
use synod_api::{AppProtocol, SidecarPorts};

use super::*;

fn injection() -> Injection {
    Injection {
        service: "notes".into(),
        cluster: "us-east".into(),
        region: "us-east-1".into(),
        image: "registry.example/synod-sidecar:0.1.0".into(),
        pull_policy: None,
        way: Way::Rendered,
        member: Member::PodName,
        app: InjectedApp {
            container: "notes".into(),
            port: 8080,
            protocol: AppProtocol::Http1,
        },
        revision: 0,
        ports: SidecarPorts::default(),
        resources: None,
        token: "3f9a".into(),
        log: LogVolume::ClaimTemplate,
        state: AppState::Ephemeral,
        source: None,
        labels: BTreeMap::new(),
    }
}

fn volume() -> Injection {
    Injection {
        state: AppState::Volume {
            mount_path: "/data".into(),
        },
        pull_policy: Some("Never".into()),
        ..injection()
    }
}

fn labelled() -> Injection {
    Injection {
        way: Way::Labelled,
        member: Member::Named("notes-us-east-1".into()),
        log: LogVolume::Claim(names::log_claim("notes-us-east-1")),
        labels: [("app.kubernetes.io/managed-by".into(), "synod".into())].into(),
        ..injection()
    }
}

fn golden() -> [(&'static str, Injection); 5] {
    [
        ("plain", injection()),
        ("rich", injection()),
        ("exec", injection()),
        ("volume", volume()),
        ("labelled", labelled()),
    ]
}

fn file(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/testdata");
    folder.join(name)
}

fn input(name: &str) -> Value {
    let text = std::fs::read_to_string(file(&format!("{name}.in.yaml"))).expect("a file");
    serde_yaml::from_str(&text).expect("YAML")
}

/// The template with one place changed.
fn with(pointer: &str, value: Value) -> Value {
    let mut template = input("rich");
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    match template.pointer_mut(parent).expect("a place") {
        Value::Array(list) => list[key.parse::<usize>().expect("an index")] = value,
        parent => parent[key] = value,
    }
    template
}

fn refusal(template: &Value, injection: &Injection) -> String {
    render(template, injection)
        .expect_err("refused")
        .to_string()
}

#[test]
fn what_is_rendered_is_what_the_files_say() {
    for (name, injection) in golden() {
        let rendered = render(&input(name), &injection).expect(name);
        let path = file(&format!("{name}.out.yaml"));
        if std::env::var_os("SYNOD_UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, serde_yaml::to_string(&rendered).expect("YAML")).expect("write");
        }
        let expected: Value =
            serde_yaml::from_str(&std::fs::read_to_string(&path).expect("a file")).expect("YAML");
        assert_eq!(rendered, expected, "{name}");
    }
}

#[test]
fn rendering_what_was_rendered_changes_nothing_and_taking_it_out_gives_what_was() {
    for (name, injection) in golden() {
        let template = input(name);
        let once = render(&template, &injection).expect(name);
        assert_eq!(render(&once, &injection).expect(name), once, "{name}");
        assert_eq!(remove(&once).expect(name), template, "{name}");
        assert_eq!(remove(&template).expect(name), template, "{name}");
    }
}

#[test]
fn what_was_rendered_for_one_service_can_be_rendered_for_another() {
    let other = Injection {
        service: "wiki".into(),
        image: "registry.example/synod-sidecar:0.2.0".into(),
        ..injection()
    };
    for (name, injection) in golden() {
        let template = input(name);
        let before = render(&template, &injection).expect(name);
        let direct = render(&template, &other).expect(name);
        assert_eq!(render(&before, &other).expect(name), direct, "{name}");
    }
}

#[test]
fn what_another_admission_added_meanwhile_stays() {
    let mut template = render(&input("labelled"), &labelled()).expect("rendered");
    template["spec"]["containers"][0]["volumeMounts"]
        .as_array_mut()
        .expect("a list")
        .push(json!({"name": "agent", "mountPath": "/agent"}));
    template["spec"]["containers"][0]["env"] = json!([{"name": "AGENT", "value": "on"}]);
    template["spec"]["initContainers"]
        .as_array_mut()
        .expect("a list")
        .insert(0, json!({"name": "agent", "image": "agent"}));
    let again = render(&template, &labelled()).expect("rendered");
    assert_eq!(again["spec"]["containers"], template["spec"]["containers"]);
    assert_eq!(again["spec"]["initContainers"][0]["name"], "synod");
    assert_eq!(again["spec"]["initContainers"][1]["name"], "agent");
    assert_eq!(
        again["spec"]["initContainers"].as_array().map(Vec::len),
        Some(2)
    );
}

#[test]
fn a_refusal_names_the_field_and_the_way_out() {
    let app = "/spec/containers/1";
    for (pointer, value, words) in [
        (
            "/spec/hostNetwork".to_owned(),
            json!(true),
            &["spec.hostNetwork", "remove it"][..],
        ),
        (
            "/spec/restartPolicy".to_owned(),
            json!("Never"),
            &["spec.restartPolicy", "Always"],
        ),
        (
            "/spec/os".to_owned(),
            json!({"name": "windows"}),
            &["spec.os.name", "linux"],
        ),
        (
            "/spec/containers/0/name".to_owned(),
            json!("synod"),
            &["spec.containers[0].name", "choose another"],
        ),
        (
            "/spec/initContainers/0/name".to_owned(),
            json!("synod"),
            &["spec.initContainers[0].name", "choose another"],
        ),
        (
            "/spec/volumes/0/name".to_owned(),
            json!("synod-tls"),
            &["spec.volumes[0].name", "another name"],
        ),
        (
            "/spec/containers/0/ports/0/containerPort".to_owned(),
            json!(7480),
            &[
                "spec.containers[0].ports[0].containerPort",
                "spec.sidecar.ports.http",
            ],
        ),
        (
            "/spec/containers/0/ports/0/name".to_owned(),
            json!("http"),
            &["spec.containers[0].ports[0].name", "choose another"],
        ),
        (
            "/spec/containers/0/ports/0/name".to_owned(),
            json!("synod-admin"),
            &["spec.containers[0].ports[0].name", "choose another"],
        ),
        (
            format!("{app}/ports/0/hostPort"),
            json!(80),
            &[
                "spec.containers[1].ports[0].hostPort",
                "past the sidecar",
                "remove it",
            ],
        ),
        (
            format!("{app}/env/0/value"),
            json!("7443"),
            &["spec.containers[1].env[0].value", "spec.sidecar.ports.peer"],
        ),
        (
            format!("{app}/name"),
            json!("wiki"),
            &["spec.containers", "`notes`", "exporter, wiki"],
        ),
        (
            format!("{app}/lifecycle/preStop/httpGet/scheme"),
            json!("HTTPS"),
            &[
                "spec.containers[1].lifecycle.preStop.httpGet.scheme",
                "exec",
            ],
        ),
        (
            format!("{app}/lifecycle/postStart/httpGet/host"),
            json!("10.0.0.1"),
            &[
                "spec.containers[1].lifecycle.postStart.httpGet.host",
                "remove it",
            ],
        ),
        (
            format!("{app}/lifecycle/postStart/httpGet/port"),
            json!("gone"),
            &[
                "spec.containers[1].lifecycle.postStart.httpGet.port",
                "gone",
            ],
        ),
        (
            format!("{app}/ports"),
            json!(7),
            &["spec.containers[1].ports", "no list"],
        ),
        (
            format!("{app}/livenessProbe"),
            json!([]),
            &["spec.containers[1].livenessProbe", "no object"],
        ),
        (
            "/spec/containers/0".to_owned(),
            json!("x"),
            &["spec.containers[0]", "no object"],
        ),
        ("/spec".to_owned(), json!([]), &["spec", "a pod's spec"]),
        (
            "/metadata".to_owned(),
            json!("x"),
            &["metadata", "no object"],
        ),
    ] {
        let said = refusal(&with(&pointer, value), &injection());
        for word in words {
            assert!(
                said.contains(word),
                "{pointer}: {said:?} should say {word:?}"
            );
        }
    }
    let mut on_ours = injection();
    on_ours.app.port = 7420;
    let said = refusal(&input("plain"), &on_ours);
    assert!(said.contains("spec.sidecar.ports.admin"), "{said}");
}

/// All members would mount the same one, or begin with what each has kept.
#[test]
fn a_claim_that_the_app_writes_to_is_refused_unless_it_is_the_copys_own() {
    let template = |mount: Value, claim: Value| {
        let mut template = input("plain");
        template["spec"]["containers"][0]["volumeMounts"] = json!([mount]);
        template["spec"]["volumes"] = json!([{"name": "d", "persistentVolumeClaim": claim}]);
        template
    };
    let shared = || json!({"claimName": "notes-data"});
    let mount = |path: &str| json!({"name": "d", "mountPath": path});
    for (path, injection) in [
        ("/data", injection()),
        ("/data", labelled()),
        ("/other", volume()),
    ] {
        let said = refusal(&template(mount(path), shared()), &injection);
        for word in ["volumeMounts[0]", "`notes-data`", path, "type: Volume"] {
            assert!(said.contains(word), "{said:?} should say {word:?}");
        }
    }
    let read = json!({"name": "d", "mountPath": "/data", "readOnly": true});
    let published = json!({"claimName": "notes-data", "readOnly": true});
    for (template, injection) in [
        (
            {
                let mut template = template(mount("/data"), shared());
                template["spec"]["securityContext"] = json!({"runAsUser": 7});
                template
            },
            volume(),
        ),
        (template(read, shared()), injection()),
        (template(mount("/data"), published), injection()),
    ] {
        render(&template, &injection).expect("taken");
    }
}

#[test]
fn every_problem_is_said_at_once() {
    let mut template = with("/spec/hostNetwork", json!(true));
    template["spec"]["containers"][0]["name"] = json!("synod");
    let error = render(&template, &injection()).expect_err("refused");
    let paths: Vec<_> = error.problems.iter().map(|it| it.path.as_str()).collect();
    assert_eq!(paths, ["spec.hostNetwork", "spec.containers[0].name"]);
}

#[test]
fn an_annotation_without_the_container_is_dropped_and_brings_nothing_back() {
    let mut forged = render(&input("plain"), &injection()).expect("rendered");
    forged["spec"]["initContainers"] = json!([]);
    let rendered = render(&forged, &injection()).expect_err("its volumes are still there");
    assert!(
        rendered.to_string().contains("spec.volumes[0].name"),
        "{rendered}"
    );
    let mut template = input("plain");
    let annotation = json!({names::ORIGINAL_ANNOTATION: "{\"container\":\"notes\"}"});
    template["metadata"] = json!({"annotations": annotation});
    let clean = render(&input("plain"), &injection()).expect("rendered");
    assert_eq!(render(&template, &injection()).expect("rendered"), clean);
}

#[test]
fn what_stays_inside_the_container_is_told_as_a_weakness() {
    let weak = [Weakness::StartSignalWeak, Weakness::RestartWeak];
    assert_eq!(weaknesses(&input("exec"), "notes"), weak);
    let rendered = render(&input("exec"), &injection()).expect("rendered");
    assert_eq!(weaknesses(&rendered, "notes"), weak);
    for name in ["plain", "rich", "volume"] {
        assert_eq!(weaknesses(&input(name), "notes"), [], "{name}");
    }
    assert_eq!(weaknesses(&input("exec"), "other"), []);
}

#[test]
fn a_volume_that_the_template_mounts_already_keeps_its_name() {
    let mut template = input("volume");
    assert_eq!(state_volume(&template, "notes", "/data"), "synod-state");
    template["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "mine", "mountPath": "/data"}]);
    assert_eq!(state_volume(&template, "notes", "/data"), "mine");
    let rendered = render(&template, &volume()).expect("rendered");
    let mounts = &rendered["spec"]["containers"][0]["volumeMounts"];
    let expected = json!([{"name": "mine", "mountPath": "/data", "subPath": "data"}]);
    assert_eq!(mounts, &expected);
}

#[test]
fn no_container_but_the_sidecar_sees_more_of_the_apps_volume_than_the_apps_folder() {
    let mut template = input("volume");
    template["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "mine", "mountPath": "/data", "subPath": "data/own"}]);
    template["spec"]["initContainers"] =
        json!([{"name": "seed", "volumeMounts": [{"name": "mine", "mountPath": "/seed"}]}]);
    let rendered = render(&template, &volume()).expect("rendered");
    let spec = &rendered["spec"];
    let of = |key: &str, at: usize| spec[key][at]["volumeMounts"].clone();
    assert_eq!(of("containers", 0)[0]["subPath"], "data/data/own");
    assert_eq!(of("initContainers", 1)[0]["subPath"], "data");
    let sidecar = of("initContainers", 0);
    let mounts = sidecar.as_array().expect("a list");
    let whole = json!({"name": "mine", "mountPath": "/var/lib/synod-app"});
    assert!(mounts.contains(&whole), "{sidecar}");
    assert_eq!(remove(&rendered).expect("taken out"), template);
}

#[test]
fn an_app_with_a_volume_is_started_when_the_sidecar_says_so_and_its_files_are_the_sidecars() {
    let sidecar = |injection: &Injection, template: &Value| {
        let rendered = render(template, injection).expect("rendered");
        rendered["spec"]["initContainers"][0].clone()
    };
    let with_volume = sidecar(&volume(), &input("volume"));
    let probe = &with_volume["startupProbe"]["httpGet"];
    assert_eq!(probe["path"], "/lifecycle/app-may-start?revision=0");
    assert_eq!(probe["httpHeaders"][0]["value"], "3f9a");
    assert_eq!(with_volume["securityContext"]["runAsUser"], 1000);
    let without = sidecar(&injection(), &input("volume"));
    assert_eq!(without["startupProbe"]["httpGet"]["path"], "/live");
    assert_eq!(without["securityContext"]["runAsUser"], names::USER);
    // The pod's word counts where the container has none.
    let mut template = input("volume");
    template["spec"]["containers"][0]["securityContext"] = json!({});
    template["spec"]["securityContext"] = json!({"runAsUser": 0, "runAsGroup": 5});
    let as_root = &sidecar(&volume(), &template)["securityContext"];
    assert_eq!(
        (
            &as_root["runAsUser"],
            &as_root["runAsGroup"],
            &as_root["runAsNonRoot"]
        ),
        (&json!(0), &json!(5), &json!(false))
    );
    template["spec"]["securityContext"] = json!({});
    let said = refusal(&template, &volume());
    assert!(
        said.contains("spec.containers[0].securityContext.runAsUser"),
        "{said}"
    );
    render(&template, &injection()).expect("it has no volume");
    let mut template = input("volume");
    template["spec"]["containers"][1]["volumeMounts"] =
        json!([{"name": "synod-state", "mountPath": "/x", "subPathExpr": "$(A)"}]);
    let said = refusal(&template, &volume());
    assert!(
        said.contains("spec.containers[1].volumeMounts[0].subPathExpr"),
        "{said}"
    );
}

/// Templates as users write them: any mixture of what `render` touches, and things that it does not.
fn templates() -> impl Strategy<Value = Value> {
    let handler = prop::sample::select(vec![
        json!({"httpGet": {"path": "/x", "port": 8080}}),
        json!({"httpGet": {"path": "/a?b=c%20d", "port": 9000, "httpHeaders": [{"name": "A", "value": "b"}]}}),
        json!({"exec": {"command": ["x"]}}),
        json!({"sleep": {"seconds": 1}}),
    ]);
    let probe = prop::sample::select(vec![
        json!({"httpGet": {"path": "/x", "port": "web"}, "periodSeconds": 3}),
        json!({"tcpSocket": {"port": 8080}, "failureThreshold": 9}),
        json!({"grpc": {"port": 8080}}),
        json!({"exec": {"command": ["x"]}}),
    ]);
    let ports = prop::sample::select(vec![
        json!([{"name": "http", "containerPort": 8080}]),
        json!([{"name": "web", "containerPort": 8080}, {"name": "synod-app", "containerPort": 8080}]),
        json!([{"containerPort": 8080}, {"name": "x", "containerPort": 9000}]),
    ]);
    let context = prop::sample::select(vec![
        json!({"fsGroup": 7}),
        json!({"runAsUser": 7}),
        json!({"fsGroupChangePolicy": "Always"}),
    ]);
    let labels = prop::sample::select(vec![
        json!({"app": "x"}),
        json!({names::SERVICE_LABEL: "theirs", names::CLUSTER_LABEL: "x"}),
    ]);
    let mounts = prop::sample::select(vec![
        json!([{"name": "s", "mountPath": "/tmp"}]),
        json!([{"name": "s", "mountPath": "/data"}]),
        json!([{"name": "s", "mountPath": "/data", "subPath": "data/own"}, {"name": "s", "mountPath": "/x"}]),
    ]);
    let some = |it| prop::option::of(it);
    (
        (some(handler.clone().boxed()), some(handler.boxed())),
        prop::collection::vec(some(probe.boxed()), 3),
        (
            some(ports.boxed()),
            some(context.boxed()),
            some(labels.boxed()),
            some(mounts.boxed()),
        ),
        (any::<bool>(), any::<bool>(), any::<bool>()),
    )
        .prop_map(
            |((start, stop), probes, (ports, context, labels, mounts), (init, volumes, first))| {
                let mut app = json!({
                    "name": "notes", "image": "x", "unknown": {"a": [null]},
                    "securityContext": {"runAsUser": 7},
                });
                let fields = ["startupProbe", "readinessProbe", "livenessProbe"];
                let fields = fields.into_iter().zip(probes);
                for (key, value) in fields.chain([("ports", ports), ("volumeMounts", mounts)]) {
                    if let Some(value) = value {
                        app[key] = value;
                    }
                }
                for (key, value) in [("postStart", start), ("preStop", stop)] {
                    if let Some(value) = value {
                        app["lifecycle"][key] = value;
                    }
                }
                let mut containers =
                    vec![json!({"name": "other", "ports": [{"name": "m", "containerPort": 1}]})];
                containers.insert(usize::from(!first), app);
                let mut template = json!({"spec": {"containers": containers, "unknown": 1}});
                if let Some(context) = context {
                    template["spec"]["securityContext"] = context;
                }
                if let Some(labels) = labels {
                    template["metadata"]["labels"] = labels;
                }
                if init {
                    template["spec"]["initContainers"] = json!([{"name": "i"}]);
                }
                if volumes {
                    template["spec"]["volumes"] = json!([{"name": "s", "emptyDir": {}}]);
                }
                template
            },
        )
}

proptest! {
    #[test]
    fn any_template_is_rendered_once_and_for_all_and_can_be_had_back(template in templates()) {
        for injection in [injection(), volume(), labelled()] {
            let once = render(&template, &injection).expect("it can have a sidecar");
            prop_assert_eq!(&render(&once, &injection).expect("again"), &once);
            prop_assert_eq!(&remove(&once).expect("without"), &template);
            let first = &once["spec"]["initContainers"][0];
            prop_assert_eq!(&first["name"], "synod");
            prop_assert_eq!(&first["restartPolicy"], "Always");
        }
    }
}

#[test]
fn the_sidecar_of_another_revision_has_another_configuration_and_lets_no_other_app_start() {
    let template = json!({"spec": {"containers": [{
        "name": "notes", "image": "i", "ports": [{"containerPort": 8080}],
        "volumeMounts": [{"name": "files", "mountPath": "/data"}],
        "securityContext": {"runAsUser": 1000},
    }]}});
    for revision in [0, 3] {
        let injection = Injection {
            revision,
            ..volume()
        };
        let pod = render(&template, &injection).expect("rendered");
        let sidecar = &pod["spec"]["initContainers"][0];
        let file = sidecar["command"][2].as_str().expect("a path");
        assert_eq!(names::revision_of(file), Some(revision));
        let probe = &sidecar["startupProbe"]["httpGet"]["path"];
        assert_eq!(
            *probe,
            format!("/lifecycle/app-may-start?revision={revision}")
        );
    }
    assert_eq!(names::revision_of("/etc/synod/config/peers.json"), None);
}
