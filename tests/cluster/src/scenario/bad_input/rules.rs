//! What the API server itself refuses: a manifest for each rule of the custom resources, and the words
//! that come back.

use anyhow::Result;
use futures::future::try_join_all;
use serde_json::{Value, json};
use synod_api::{FIELD_RULES, FieldRule};
use synod_system::report::Report;

use super::{CLUSTER, manifest};
use crate::Cluster;
use crate::product::REGISTERS;

/// How somebody gets to break a rule.
enum Attempt {
    /// A new service with this put into a good manifest.
    New(Value),
    /// This put into an object that is there, such as `rsvc/notes`.
    Change(String, Value),
}

/// Of the rule whose message begins so.
struct Case {
    message: &'static str,
    attempt: Attempt,
}

/// A service that has a volume, and of which nothing is made.
const WITH_VOLUME: &str = "volume";

/// Breaks every rule once. `formed` is a service that is Ready.
pub(super) async fn each(cluster: &Cluster, formed: &str, report: &mut Report) -> Result<()> {
    let state = json!({"type": "Volume", "volume": {"mountPath": "/data"}});
    let mut volume = manifest(WITH_VOLUME, REGISTERS);
    merge(
        &mut volume,
        &json!({"spec": {"paused": true, "state": state}}),
    );
    let apply = ["apply", "--filename=-"];
    cluster.kubectl_with(apply, &volume.to_string()).await?;

    let cases: Vec<_> = new().into_iter().chain(changes(formed)).collect();
    for rule in FIELD_RULES {
        let those = cases
            .iter()
            .filter(|it| rule.message.starts_with(it.message));
        report.expect(
            those.count() == 1,
            format!("not one manifest, but more or none, for {}", rule.message),
        );
    }
    let said = try_join_all(cases.iter().map(|it| said(cluster, &it.attempt))).await?;
    let mut refused = 0;
    for (case, said) in cases.iter().zip(said) {
        let rule = FIELD_RULES
            .iter()
            .find(|it| it.message.starts_with(case.message));
        let Some(rule) = rule else {
            report.fail(format!("no rule says {:?}", case.message));
            continue;
        };
        let path = path(rule);
        report.expect(
            said.contains(rule.message) && said.contains(&path),
            format!("{:?} at {path:?} is told as {said:?}", rule.message),
        );
        refused += 1;
    }
    report.say(format!(
        "{refused} manifests are refused with the field and the way out"
    ));

    let said = said_of(cluster, json!({"spec": {"replica": 3}})).await?;
    report.expect(
        said.contains("unknown field \"spec.replica\""),
        format!("an unknown field is told as {said:?}"),
    );
    let delete = ["delete", "rsvc", WITH_VOLUME, "--timeout=60s"];
    cluster.kubectl(delete).await?;
    Ok(())
}

/// The field as the server's own words have it; our cases break the first of a list.
fn path(rule: &FieldRule) -> String {
    let path = format!("{}{}", rule.at, rule.field).replace("[]", "[0]");
    path.trim_start_matches('.').to_owned()
}

/// What kubectl complains about; empty when it does not.
async fn said(cluster: &Cluster, attempt: &Attempt) -> Result<String> {
    match attempt {
        Attempt::New(change) => said_of(cluster, change.clone()).await,
        Attempt::Change(object, change) => {
            let patch = format!("--patch={change}");
            let arguments = ["patch", object, "--type=merge", "--dry-run=server", &patch];
            Ok(complaint(cluster.kubectl(arguments).await))
        }
    }
}

async fn said_of(cluster: &Cluster, change: Value) -> Result<String> {
    let mut text = manifest("refused", REGISTERS);
    merge(&mut text, &change);
    let arguments = ["apply", "--dry-run=server", "--filename=-"];
    let applied = cluster.kubectl_with(arguments, &text.to_string()).await;
    Ok(complaint(applied))
}

fn complaint(result: Result<String>) -> String {
    result.map_or_else(|error| format!("{error:#}"), |_| String::new())
}

/// RFC 7396.
fn merge(into: &mut Value, change: &Value) {
    let Value::Object(change) = change else {
        *into = change.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in change {
        if value.is_null() {
            into.as_object_mut().expect("made one above").remove(key);
        } else {
            merge(&mut into[key], value);
        }
    }
}

fn new() -> Vec<Case> {
    let of = |message, change| Case {
        message,
        attempt: Attempt::New(change),
    };
    let spec = |message, spec: Value| of(message, json!({"spec": spec}));
    let placed = |message, placement: Value| {
        spec(message, json!({"replicas": null, "placement": placement}))
    };
    let long = "a".repeat(40);
    let many = |observers: u32, voters: u32| {
        let one = |it: &str| json!({"cluster": it, "observers": observers, "voters": voters});
        json!(["a", "b", "c", "d", "e"].map(one))
    };
    vec![
        of(
            "metadata.name: at most",
            json!({"metadata": {"name": "a".repeat(41)}}),
        ),
        of(
            "metadata.name: pods",
            json!({"metadata": {"name": "1notes"}}),
        ),
        of(
            "spec.placement: the name of the service",
            json!({"metadata": {"name": long}, "spec": {
                "replicas": null,
                "placement": [{"cluster": "c".repeat(12), "voters": 1}],
            }}),
        ),
        spec(
            "spec.replicas: it excludes",
            json!({"placement": [{"cluster": CLUSTER, "voters": 1}]}),
        ),
        spec("spec.replicas: an even", json!({"replicas": 2})),
        placed(
            "spec.placement: an even",
            json!([{"cluster": CLUSTER, "voters": 2}]),
        ),
        placed("spec.placement: more than 9 votes", many(0, 3)),
        placed(
            "spec.placement: no voter",
            json!([{"cluster": CLUSTER, "witnesses": 1}]),
        ),
        placed("spec.placement: more than 32 members", many(9, 1)),
        placed(
            "spec.placement[]: no member",
            json!([{"cluster": "empty"}, {"cluster": CLUSTER, "voters": 1}]),
        ),
        placed(
            "spec.placement[].cluster",
            json!([{"cluster": "Local", "voters": 1}]),
        ),
        spec("spec.template: give either", json!({"template": null})),
        spec(
            "spec.workloadRef: name",
            json!({"template": null, "workloadRef": {
                "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "x",
            }}),
        ),
        spec(
            "spec.ordering.responseTimeout",
            json!({"app": {"applyTimeout": "60s"}}),
        ),
        spec(
            "spec.ordering.maxBodySize",
            json!({"ordering": {"maxBodySize": "17Mi"}}),
        ),
        spec(
            "spec.ordering.lanes[].key",
            json!({"ordering": {"lanes": [
                {"key": {"header": "Tenant", "jsonPointer": "/tenant"}, "count": 2},
            ]}}),
        ),
        spec("spec.log.maxSize", json!({"log": {"maxSize": "1Mi"}})),
        spec(
            "spec.state.volume: it is needed",
            json!({"state": {"type": "Volume"}}),
        ),
        spec(
            "spec.state.snapshot.type",
            json!({"state": {"snapshot": {"type": "Volume"}}}),
        ),
        spec(
            "spec.state.onUncleanCrash",
            json!({"state": {"onUncleanCrash": "Rollback"}}),
        ),
        spec(
            "spec.state.applied",
            json!({"state": {"applied": {"method": "GET", "path": "/slot"}}}),
        ),
        spec(
            "spec.state.snapshot.http",
            json!({"state": {"snapshot": {"type": "HTTP"}}}),
        ),
        spec(
            "spec.state.snapshot.every",
            json!({"state": {"snapshot": {"every": {"slots": 9}}}}),
        ),
        spec(
            "spec.bootstrap.claim",
            json!({"bootstrap": {"type": "Claim"}}),
        ),
        spec(
            "spec.bootstrap.snapshot",
            json!({"bootstrap": {"type": "Snapshot"}}),
        ),
        spec(
            "spec.bootstrap.type",
            json!({"bootstrap": {"type": "Claim", "claim": {"cluster": "a", "name": "b"}}}),
        ),
        spec("spec.routes[].name", json!({"routes": [{"name": "A_b"}]})),
        spec(
            "spec.routes[].maxStaleness",
            json!({"routes": [{"name": "a", "consistency": "BoundedStale"}]}),
        ),
        spec(
            "spec.routes[].streaming",
            json!({"routes": [{"name": "a", "consistency": "Ordered", "streaming": true}]}),
        ),
    ]
}

fn changes(formed: &str) -> Vec<Case> {
    let of = |message, object: String, spec: Value| Case {
        message,
        attempt: Attempt::Change(object, json!({"spec": spec})),
    };
    let service = format!("rsvc/{formed}");
    let group = format!("rgrp/{formed}");
    vec![
        of(
            "spec.state.type: it cannot",
            service.clone(),
            json!({"state": {"type": "Volume", "volume": {"mountPath": "/data"}}}),
        ),
        of(
            "spec.state.volume.mountPath",
            format!("rsvc/{WITH_VOLUME}"),
            json!({"state": {"volume": {"mountPath": "/other"}}}),
        ),
        of(
            "spec.bootstrap: the service was formed",
            service,
            json!({"bootstrap": {"type": "Existing"}}),
        ),
        of(
            "spec.owner",
            group.clone(),
            json!({"owner": "somebody else"}),
        ),
        of(
            "spec.cluster",
            group.clone(),
            json!({"cluster": "elsewhere"}),
        ),
        of("spec.genesis", group, json!({"genesis": "{}"})),
    ]
}
