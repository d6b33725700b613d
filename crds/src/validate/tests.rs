//! One test per refusal, and the manifest of the documentation, which is accepted.

use crate::{ManifestError, parse};

const FULL: &str = "
apiVersion: synod.dev/v1alpha1
kind: ReplicatedService
metadata:
  name: notes
spec:
  placement:
  - {cluster: us-east, voters: 1}
  - {cluster: eu-west, voters: 1}
  - {cluster: ap-south, voters: 1, observers: 1, witnesses: 0, overrides: {storageClassName: fast, nodeSelector: {}, tolerations: [], imagePullSecrets: [], imageRegistry: ''}}
  acknowledgedRisks: []
  template:
    spec:
      containers:
      - name: notes
        image: registry.example/notes:1.4
        ports: [{name: http, containerPort: 8080}, {name: metrics, containerPort: 9090}]
  app:
    container: notes
    port: http
    protocol: HTTP1
    applyTimeout: 30s
    passthroughPorts: [{port: metrics, acknowledge: ReadOnly}]
  bootstrap: {type: Empty}
  log:
    volumeClaim: {spec: {resources: {requests: {storage: 10Gi}}}}
    maxSize: 8Gi
  state:
    type: Ephemeral
    snapshot:
      type: HTTP
      http: {save: {method: GET, path: /admin/dump}, restore: {method: PUT, path: /admin/dump}}
      every: {slots: 100000, logSize: 1Gi}
      transferRate: 64Ki
    maxReplay: 10m
  volumeClaimRetentionPolicy: {whenDeleted: Retain, whenScaled: Delete}
  defaultConsistency: ByMethod
  routes:
  - {name: health, matches: [{path: {type: Exact, value: /healthz}, method: GET}], consistency: Bypass}
  - {name: reports, matches: [{path: {type: PathPrefix, value: /reports}, method: GET}], consistency: BoundedStale, maxStaleness: 5s}
  - {name: search, matches: [{path: {type: Exact, value: /search}, method: POST}], consistency: Linearizable}
  ordering:
    idempotency: {header: Idempotency-Key, principal: {headers: [Authorization], cookies: []}, keepFor: 24h, maxSize: 32Mi}
    maxBodySize: 16Mi
    queueTimeout: 10s
    responseTimeout: 35s
    lanes: []
  divergence: {action: Quarantine, ignoreHeaders: [], ignoreJSONPointers: []}
  poison: {skip: WhenAllFailed}
  reads: {protocol: Lease}
  leader: {preferredRegions: [us-east-1]}
  update: {strategy: Rolling}
  network: {mode: Flat}
  service: {name: notes, type: ClusterIP, port: 80, annotations: {}, labels: {}, export: false}
  sidecar: {resources: {requests: {cpu: 100m, memory: 64Mi}}, ports: {http: 7480, peer: 7443, admin: 7420}, update: WhenRestarted}
  paused: false
";

/// A service with the given lines in its `spec`, besides a template.
fn with(spec: &str) -> Result<crate::Manifest, ManifestError> {
    parse(&format!(
        "apiVersion: synod.dev/v1alpha1\nkind: ReplicatedService\nmetadata: {{name: notes}}\nspec:\n  template: {{spec: {{containers: [{{name: app, ports: [{{name: http, containerPort: 8080}}]}}, {{name: side}}]}}}}\n{spec}\n"
    ))
}

/// The paths that are refused.
fn refused(spec: &str) -> Vec<String> {
    match with(spec).expect_err(spec) {
        ManifestError::Invalid(problems) => {
            assert!(
                problems.iter().all(|it| it.message.len() > 15),
                "{problems:?}"
            );
            problems.into_iter().map(|it| it.path).collect()
        }
        other => panic!("{other}"),
    }
}

#[test]
fn the_full_manifest_is_accepted_and_survives_a_round_trip() {
    let service = parse(FULL).expect("valid");
    let text = serde_yaml::to_string(&service).expect("plain");
    assert_eq!(parse(&text).expect("valid again"), service);
    assert_eq!(service.spec.votes(), 3);
}

#[test]
fn a_template_is_enough() {
    let service = with("").expect("valid");
    assert_eq!(service.spec.votes(), 3);
    assert_eq!(service.spec.replicas, None);
}

#[test]
fn an_even_number_of_votes_is_refused_unless_acknowledged() {
    assert_eq!(refused("  replicas: 2"), ["spec.replicas"]);
    assert_eq!(
        refused("  placement: [{cluster: a, voters: 2, witnesses: 2, observers: 1}]"),
        ["spec.placement"]
    );
    assert!(with("  replicas: 2\n  acknowledgedRisks: [EvenVoters]").is_ok());
    assert!(with("  placement: [{cluster: a, voters: 2}, {cluster: b, witnesses: 1}]").is_ok());
}

#[test]
fn too_few_and_too_many_members_are_refused() {
    assert_eq!(refused("  replicas: 0"), ["spec.replicas"]);
    assert_eq!(refused("  replicas: 11"), ["spec.replicas"]);
    assert_eq!(refused("  placement: []"), ["spec.placement"]);
    assert_eq!(
        refused("  placement: [{cluster: a, voters: 1}, {cluster: b}]"),
        ["spec.placement[1]"]
    );
    assert_eq!(
        refused("  placement: [{cluster: a, witnesses: 1}]"),
        ["spec.placement"]
    );
    assert_eq!(
        refused("  placement: [{cluster: a, voters: 1, observers: 40}]"),
        ["spec.placement", "spec.placement[0].observers"]
    );
    assert_eq!(
        refused("  placement: [{cluster: a, voters: 4294967295, witnesses: 4294967295}]"),
        [
            "spec.placement",
            "spec.placement",
            "spec.placement[0].voters",
            "spec.placement[0].witnesses"
        ]
    );
}

#[test]
fn witnesses_are_refused_where_no_state_might_be_left() {
    let refused = |voters: u32, witnesses: u32| {
        let places = format!("{{cluster: a, voters: {voters}, witnesses: {witnesses}}}");
        let risks = "  acknowledgedRisks: [EvenVoters]";
        let found = with(&format!("  placement: [{places}]\n{risks}"));
        found.err().map(|it| it.to_string()).unwrap_or_default()
    };
    for (voters, witnesses) in [(2, 1), (3, 1), (3, 2), (2, 2), (4, 1), (5, 4), (1, 0)] {
        assert_eq!(refused(voters, witnesses), "", "{voters} {witnesses}");
    }
    for (voters, witnesses) in [(1, 1), (1, 2), (2, 3), (3, 4)] {
        let words = refused(voters, witnesses);
        assert!(words.contains("spec.placement: "), "{words}");
        assert!(words.contains("add voters"), "{words}");
    }
}

#[test]
fn the_statefulset_of_witnesses_has_a_name_that_is_not_too_long() {
    let cluster = "c".repeat(40);
    let of = |members: &str| {
        format!(
            "  placement: [{{cluster: {cluster}, voters: 2, {members}}}, {{cluster: b, voters: 1}}]"
        )
    };
    assert!(with(&of("observers: 1")).is_ok());
    assert_eq!(
        refused(&of("witnesses: 2")),
        ["spec.placement[0].witnesses"],
        "its pods carry its name and a digest in a label"
    );
}

#[test]
fn replicas_and_placement_exclude_each_other() {
    assert_eq!(
        refused("  replicas: 3\n  placement: [{cluster: a, voters: 3}]"),
        ["spec.replicas"]
    );
}

#[test]
fn a_cluster_is_named_once_and_fits_into_names() {
    assert_eq!(
        refused("  placement: [{cluster: a, voters: 1}, {cluster: a, voters: 2}]"),
        ["spec.placement[1].cluster"]
    );
    assert_eq!(
        refused("  placement: [{cluster: A, voters: 1}]"),
        ["spec.placement[0].cluster"]
    );
    let yaml = FULL.replace(
        "name: notes\nspec",
        &format!("name: {}\nspec", "n".repeat(40)),
    );
    let yaml = yaml.replace("us-east", &"c".repeat(12));
    let text = parse(&yaml).expect_err("too long together").to_string();
    assert!(text.starts_with("spec.placement[0].cluster: "), "{text}");
}

#[test]
fn a_name_that_leaves_no_room_for_children_is_refused() {
    for (name, word) in [
        ("n".repeat(41).as_str(), "shorter"),
        ("''", "missing"),
        ("Notes", "lower-case"),
        ("1notes", "letter"),
        ("notes-", "letter"),
        ("no.tes", "letter"),
    ] {
        let yaml = FULL.replace("name: notes\nspec", &format!("name: {name}\nspec"));
        let text = parse(&yaml).expect_err(name).to_string();
        assert!(
            text.starts_with("metadata.name: ") && text.contains(word),
            "{text}"
        );
    }
}

#[test]
fn a_risk_is_named_once() {
    assert_eq!(
        refused("  acknowledgedRisks: [NoSnapshot, NoSnapshot]"),
        ["spec.acknowledgedRisks[1]"]
    );
}

#[test]
fn a_response_timeout_shorter_than_the_apply_timeout_is_refused() {
    assert_eq!(
        refused("  ordering: {responseTimeout: 29s}"),
        ["spec.ordering.responseTimeout"]
    );
    assert_eq!(
        refused("  app: {applyTimeout: 36s}"),
        ["spec.ordering.responseTimeout"]
    );
    assert!(with("  app: {applyTimeout: 35s}").is_ok());
}

#[test]
fn times_and_sizes_out_of_bounds_are_refused() {
    for (spec, path) in [
        (
            "  ordering: {queueTimeout: 0s}",
            "spec.ordering.queueTimeout",
        ),
        (
            "  ordering: {queueTimeout: 2h}",
            "spec.ordering.queueTimeout",
        ),
        (
            "  ordering: {responseTimeout: 25h}",
            "spec.ordering.responseTimeout",
        ),
        ("  app: {applyTimeout: 0s}", "spec.app.applyTimeout"),
        (
            "  ordering: {maxBodySize: 17Mi}",
            "spec.ordering.maxBodySize",
        ),
        (
            "  ordering: {idempotency: {keepFor: 1ms}}",
            "spec.ordering.idempotency.keepFor",
        ),
        (
            "  ordering: {idempotency: {maxSize: 1Ki}}",
            "spec.ordering.idempotency.maxSize",
        ),
        (
            "  ordering: {idempotency: {header: 'a b'}}",
            "spec.ordering.idempotency.header",
        ),
        (
            "  ordering: {idempotency: {header: Synod-Key}}",
            "spec.ordering.idempotency.header",
        ),
        (
            "  ordering: {idempotency: {principal: {headers: ['']}}}",
            "spec.ordering.idempotency.principal.headers[0]",
        ),
        (
            "  ordering: {idempotency: {principal: {cookies: ['a;b']}}}",
            "spec.ordering.idempotency.principal.cookies[0]",
        ),
        (
            "  ordering: {lanes: [{key: {}, count: 1}]}",
            "spec.ordering.lanes[0].key",
        ),
        (
            "  ordering: {lanes: [{key: {pathSegment: 0}, count: 1}]}",
            "spec.ordering.lanes[0].key.pathSegment",
        ),
        (
            "  ordering: {lanes: [{key: {jsonPointer: id}, count: 1}]}",
            "spec.ordering.lanes[0].key.jsonPointer",
        ),
        (
            "  ordering: {lanes: [{key: {header: X-Id}, count: 0}]}",
            "spec.ordering.lanes[0].count",
        ),
        ("  log: {maxSize: 100Mi}", "spec.log.maxSize"),
        ("  log: {maxSize: 11Gi}", "spec.log.maxSize"),
        (
            "  log: {volumeClaim: {spec: {resources: {requests: {storage: 4Gi}}}}}",
            "spec.log.maxSize",
        ),
        (
            "  log: {volumeClaim: {spec: {resources: {requests: {storage: big}}}}}",
            "spec.log.volumeClaim.spec.resources.requests.storage",
        ),
        ("  state: {maxReplay: 0s}", "spec.state.maxReplay"),
        ("  service: {port: 0}", "spec.service.port"),
        ("  service: {name: '1a'}", "spec.service.name"),
        ("  sidecar: {ports: {http: 0}}", "spec.sidecar.ports.http"),
        (
            "  sidecar: {ports: {peer: 7480}}",
            "spec.sidecar.ports.peer",
        ),
        (
            "  divergence: {ignoreJSONPointers: [a]}",
            "spec.divergence.ignoreJSONPointers[0]",
        ),
    ] {
        assert_eq!(refused(spec), [path], "{spec}");
    }
}

#[test]
fn route_names_are_unique_labels() {
    assert_eq!(
        refused("  routes: [{name: a}, {name: a}]"),
        ["spec.routes[1].name"]
    );
    assert_eq!(refused("  routes: [{name: A b}]"), ["spec.routes[0].name"]);
    let many = (0..65)
        .map(|it| format!("{{name: r{it}}}"))
        .collect::<Vec<_>>();
    assert_eq!(
        refused(&format!("  routes: [{}]", many.join(", "))),
        ["spec.routes"]
    );
}

#[test]
fn unsafe_methods_past_the_order_are_refused_unless_acknowledged() {
    for consistency in ["Bypass", "Local"] {
        for matches in [
            "",
            ", matches: [{method: POST}]",
            ", matches: [{method: GET}, {path: {value: /a}}]",
        ] {
            let spec = format!("  routes: [{{name: a, consistency: {consistency}{matches}}}]");
            assert_eq!(refused(&spec), ["spec.routes[0].consistency"], "{spec}");
            assert!(with(&format!("{spec}\n  acknowledgedRisks: [UnorderedWrites]")).is_ok());
        }
        let spec = format!(
            "  routes: [{{name: a, consistency: {consistency}, matches: [{{method: GET}}, {{method: PROPFIND}}]}}]"
        );
        assert!(with(&spec).is_ok());
    }
}

#[test]
fn a_bound_on_staleness_goes_with_bounded_stale_only() {
    let path = ["spec.routes[0].maxStaleness"];
    assert_eq!(refused("  routes: [{name: a, maxStaleness: 1s}]"), path);
    assert_eq!(
        refused("  routes: [{name: a, consistency: Linearizable, maxStaleness: 1s}]"),
        path
    );
    assert_eq!(
        refused("  routes: [{name: a, consistency: BoundedStale}]"),
        path
    );
    assert_eq!(
        refused("  routes: [{name: a, consistency: BoundedStale, maxStaleness: 0s}]"),
        path
    );
}

#[test]
fn a_stream_is_never_ordered() {
    for route in [
        "{name: a, streaming: true, consistency: Ordered}",
        "{name: a, streaming: true}",
        "{name: a, streaming: true, matches: [{method: POST}]}",
    ] {
        assert_eq!(
            refused(&format!("  routes: [{route}]")),
            ["spec.routes[0].streaming"]
        );
    }
    let get = "  routes: [{name: a, streaming: true, matches: [{method: GET}]}]";
    assert!(with(get).is_ok());
    assert_eq!(
        refused(&format!("{get}\n  defaultConsistency: Ordered")),
        ["spec.routes[0].streaming"]
    );
}

#[test]
fn paths_and_methods_that_cannot_match_are_refused() {
    for value in [
        "a", "/a?b", "/a#b", "/a/../b", "/a//b", "/%2e/a", "/a%2Fb", "/a\\b", "/ä", "''",
    ] {
        let spec = format!("  routes: [{{name: a, matches: [{{path: {{value: {value}}}}}]}}]");
        assert_eq!(
            refused(&spec),
            ["spec.routes[0].matches[0].path.value"],
            "{spec}"
        );
    }
    for method in ["get", "CONNECT", "TRACE", "'A B'", "''"] {
        let spec = format!("  routes: [{{name: a, matches: [{{method: {method}}}]}}]");
        assert_eq!(
            refused(&spec),
            ["spec.routes[0].matches[0].method"],
            "{spec}"
        );
    }
}

#[test]
fn the_template_names_the_app_and_leaves_our_ports_free() {
    assert_eq!(refused("  app: {container: other}"), ["spec.app.container"]);
    assert_eq!(refused("  app: {port: web}"), ["spec.app.port"]);
    for port in ["0", "70000", "-80"] {
        let error = with(&format!("  app: {{port: {port}}}")).expect_err(port);
        assert!(error.to_string().contains("use 1 to 65535"), "{error}");
    }
    assert_eq!(refused("  app: {container: side}"), ["spec.app.port"]);
    assert!(with("  app: {container: side, port: 9000}").is_ok());
    assert_eq!(
        refused("  app: {passthroughPorts: [{port: metrics, acknowledge: ReadOnly}]}"),
        ["spec.app.passthroughPorts[0].port"]
    );
    assert_eq!(
        refused("  sidecar: {ports: {http: 8080}}"),
        ["spec.template.spec.containers[0].ports[0].containerPort"]
    );
    let yaml = FULL
        .replace("- name: notes", "- name: synod")
        .replace("container: notes", "container: synod");
    let text = parse(&yaml).expect_err("our name").to_string();
    assert!(
        text.starts_with("spec.template.spec.containers[0].name"),
        "{text}"
    );
}

#[test]
fn there_is_one_source_of_the_template() {
    let head =
        "apiVersion: synod.dev/v1alpha1\nkind: ReplicatedService\nmetadata: {name: notes}\nspec:\n";
    let text = parse(&format!("{head}  replicas: 3\n"))
        .expect_err("none")
        .to_string();
    assert!(text.starts_with("spec.template: "), "{text}");
    let reference = "  workloadRef: {apiVersion: apps/v1, kind: Deployment, name: notes, scaleDown: OnSuccess}\n";
    assert!(parse(&format!("{head}{reference}")).is_ok());
    assert_eq!(refused(reference), ["spec.workloadRef"]);
    let text = parse(&format!(
        "{head}{}",
        reference.replace("Deployment", "DaemonSet")
    ))
    .expect_err("unsupported")
    .to_string();
    assert!(text.starts_with("spec.workloadRef.kind: "), "{text}");
    let text = parse(&format!("{head}  template: {{spec: {{}}}}\n"))
        .expect_err("no container")
        .to_string();
    assert!(
        text.starts_with("spec.template.spec.containers: "),
        "{text}"
    );
}

#[test]
fn a_state_is_accepted_when_what_belongs_together_is_there() {
    let volume = "type: Volume, volume: {mountPath: /data}";
    let http = "save: {method: GET, path: /a}, restore: {method: PUT, path: /a}";
    for state in [
        volume.to_owned(),
        format!("{volume}, onUncleanCrash: AtLeastOnce, snapshot: {{type: Volume}}"),
        format!("{volume}, onUncleanCrash: AppliedHeader, applied: {{method: GET, path: /slot}}"),
        format!(
            "snapshot: {{type: HTTP, http: {{{http}, settle: {{method: GET, path: /settled}}}}}}"
        ),
    ] {
        with(&format!("  state: {{{state}}}")).expect(&state);
    }
}

#[test]
fn state_and_bootstrap_say_the_same_in_all_fields() {
    for (spec, path) in [
        ("  state: {type: Volume}", "spec.state.volume"),
        ("  state: {volume: {mountPath: /data}}", "spec.state.volume"),
        (
            "  state: {type: Volume, volume: {mountPath: data}}",
            "spec.state.volume.mountPath",
        ),
        (
            "  state: {onUncleanCrash: Rollback}",
            "spec.state.onUncleanCrash",
        ),
        (
            "  state: {type: Volume, volume: {mountPath: /data}, onUncleanCrash: AppliedHeader}",
            "spec.state.applied",
        ),
        (
            "  state: {type: Volume, volume: {mountPath: /data}, applied: {method: GET, path: /slot}}",
            "spec.state.applied",
        ),
        (
            "  state: {type: Volume, volume: {mountPath: /data}, onUncleanCrash: AppliedHeader, applied: {method: GET, path: slot}}",
            "spec.state.applied.path",
        ),
        (
            "  state: {snapshot: {type: HTTP}}",
            "spec.state.snapshot.http",
        ),
        (
            "  state: {snapshot: {type: Volume}}",
            "spec.state.snapshot.type",
        ),
        (
            "  state: {snapshot: {every: {slots: 1}}}",
            "spec.state.snapshot.every",
        ),
        (
            "  state: {snapshot: {type: HTTP, http: {save: {method: get, path: /a}, restore: {method: PUT, path: /a}}}}",
            "spec.state.snapshot.http.save.method",
        ),
        (
            "  state: {snapshot: {type: HTTP, http: {save: {method: GET, path: /a}, restore: {method: PUT, path: a}}}}",
            "spec.state.snapshot.http.restore.path",
        ),
        (
            "  state: {snapshot: {type: HTTP, http: {save: {method: GET, path: /a}, restore: {method: PUT, path: /a}, settle: {method: GET, path: a}}}}",
            "spec.state.snapshot.http.settle.path",
        ),
        (
            "  state: {snapshot: {type: HTTP, transferRate: 1Ki, http: {save: {method: GET, path: /a}, restore: {method: PUT, path: /a}}}}",
            "spec.state.snapshot.transferRate",
        ),
        (
            "  state: {snapshot: {type: None, transferRate: 1Mi}}",
            "spec.state.snapshot.transferRate",
        ),
        (
            "  state: {snapshot: {type: HTTP, every: {logSize: 5Gi}, http: {save: {method: GET, path: /a}, restore: {method: PUT, path: /a}}}}",
            "spec.state.snapshot.every.logSize",
        ),
        (
            "  state: {type: Volume, volume: {mountPath: /data}, snapshot: {type: Volume}}\n  bootstrap: {type: Claim}",
            "spec.bootstrap.claim",
        ),
        (
            "  bootstrap: {type: Claim, claim: {cluster: a, name: b}}",
            "spec.bootstrap.type",
        ),
        (
            "  state: {type: Volume, volume: {mountPath: /data}}\n  bootstrap: {type: Claim, claim: {cluster: a, name: b}}",
            "spec.bootstrap.type",
        ),
        (
            "  bootstrap: {type: Snapshot, snapshot: {cluster: a, claim: b, path: c}}",
            "spec.bootstrap.type",
        ),
        (
            "  bootstrap: {snapshot: {cluster: a, claim: b, path: c}}",
            "spec.bootstrap.snapshot",
        ),
        (
            "  state: {type: Volume, volume: {mountPath: /data}, snapshot: {type: Volume}}\n  bootstrap: {type: Snapshot, snapshot: {cluster: a, claim: b, path: c/../d}}",
            "spec.bootstrap.snapshot.path",
        ),
        (
            "  bootstrap: {claim: {cluster: a, name: b}}",
            "spec.bootstrap.claim",
        ),
        (
            "  state: {type: Volume, volume: {mountPath: /data}, snapshot: {type: Volume}}\n  bootstrap: {type: Snapshot}",
            "spec.bootstrap.snapshot",
        ),
    ] {
        assert_eq!(refused(spec), [path], "{spec}");
    }
}

#[test]
fn a_port_of_the_sidecar_is_none_of_the_apps() {
    let ports = "  sidecar: {ports: {http: 9999, peer: 7443, admin: 7420}}";
    assert_eq!(
        refused(&format!("{ports}\n  app: {{port: 9999}}")),
        ["spec.app.port"]
    );
    let reached = "  app: {port: http, passthroughPorts: [{port: 7420, acknowledge: ReadOnly}]}";
    assert_eq!(refused(reached), ["spec.app.passthroughPorts[0].port"]);
}

#[test]
fn regions_are_named_as_sidecars_take_them() {
    let long = "\u{1f600}".repeat(16);
    let regions =
        format!("  leader: {{preferredRegions: [\"a\\tb\", 'Frankfurt (Main)', {long}]}}");
    assert_eq!(
        refused(&regions),
        [
            "spec.leader.preferredRegions[0]",
            "spec.leader.preferredRegions[2]"
        ]
    );
}
