//! One AdmissionReview. Comes in: its bytes. Goes out: the answer's. Nothing that they say may panic:
//! the release build would take the whole operator along.

use std::time::{Duration, Instant};

use http::StatusCode;
use kube::Client;
use kube::core::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation};
use serde_json::Value;

use super::lookup::{Facts, lookup};
use super::metrics::Metrics;
use super::mutate::mutate;
use crate::inject::{SidecarImage, names};

/// For what is asked of the API server meanwhile, which itself waits for five seconds.
const PATIENCE: Duration = Duration::from_secs(4);

/// Answers reviews.
pub(super) struct Reviewer {
    pub(super) client: Client,
    pub(super) image: SidecarImage,
    pub(super) metrics: Metrics,
}

/// What becomes of a pod.
struct Verdict {
    response: AdmissionResponse,
    outcome: &'static str,
}

// === impl Reviewer ===

impl Reviewer {
    /// The answer to a body.
    pub(super) async fn review(&self, body: &[u8]) -> (StatusCode, Vec<u8>) {
        let start = Instant::now();
        let (status, verdict) = match parse(body) {
            Ok((request, pod)) => (StatusCode::OK, self.judge(&request, &pod).await),
            Err(words) => {
                let response = AdmissionResponse::invalid(words);
                let outcome = "unreadable";
                (StatusCode::BAD_REQUEST, Verdict { response, outcome })
            }
        };
        self.metrics.reviewed(verdict.outcome, start.elapsed());
        let body = serde_json::to_vec(&verdict.response.into_review());
        body.map_or_else(
            |_| (StatusCode::INTERNAL_SERVER_ERROR, Vec::new()),
            |body| (status, body),
        )
    }

    async fn judge(&self, request: &AdmissionRequest<DynamicObject>, pod: &Value) -> Verdict {
        let service = pod
            .pointer("/metadata/labels")
            .and_then(|it| it.get(names::INJECT_LABEL))
            .and_then(Value::as_str);
        let is_pod = request.kind.group.is_empty() && request.kind.kind == "Pod";
        // More than was asked for may be shown, but only this is our business.
        let (true, Operation::Create, Some(service)) = (is_pod, &request.operation, service) else {
            return Verdict {
                response: request.into(),
                outcome: "passed",
            };
        };
        let namespace = request.namespace.as_deref().unwrap_or_default();
        let facts = if is_name(service) {
            let facts = lookup(&self.client, namespace, service);
            match tokio::time::timeout(PATIENCE, facts).await {
                Ok(Ok(facts)) => facts,
                Ok(Err(error)) => return failed(request, service, &error.to_string()),
                Err(_) => return failed(request, service, "no answer in time"),
            }
        } else {
            Facts {
                service: service.to_owned(),
                namespace: namespace.to_owned(),
                ..Facts::default()
            }
        };
        decide(request, pod, &facts, &self.image)
    }
}

/// Objects of other names are not asked for: a label's value may hold what a path takes for another.
fn is_name(service: &str) -> bool {
    let good = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || b"-.".contains(&it);
    !service.is_empty() && service.bytes().all(good) && !service.contains("..")
}

fn parse(body: &[u8]) -> Result<(AdmissionRequest<DynamicObject>, Value), String> {
    let value: Value =
        serde_json::from_slice(body).map_err(|error| format!("this is no JSON: {error}"))?;
    // As it was sent: a typed copy has no fields that are not known here, and paths of a patch are
    // those of what was sent.
    let pod = value
        .pointer("/request/object")
        .cloned()
        .unwrap_or_default();
    let review: AdmissionReview<DynamicObject> = serde_json::from_value(value)
        .map_err(|error| format!("this is no AdmissionReview: {error}"))?;
    let request = review
        .try_into()
        .map_err(|_| "this AdmissionReview has no request".to_owned())?;
    Ok((request, pod))
}

fn decide(
    request: &AdmissionRequest<DynamicObject>,
    pod: &Value,
    facts: &Facts,
    image: &SidecarImage,
) -> Verdict {
    let response = AdmissionResponse::from(request);
    let service = &facts.service;
    match mutate(pod, facts, image) {
        Ok(rendered) if rendered == *pod => Verdict {
            response,
            outcome: "unchanged",
        },
        Ok(rendered) => match response.with_patch(json_patch::diff(pod, &rendered)) {
            Ok(response) => Verdict {
                response,
                outcome: "injected",
            },
            Err(error) => failed(request, service, &error.to_string()),
        },
        Err(refusal) => {
            let (outcome, namespace) = (refusal.outcome(), &facts.namespace);
            tracing::info!(service, namespace, outcome, %refusal, "a pod is refused");
            Verdict {
                response: response.deny(refusal),
                outcome,
            }
        }
    }
}

fn failed(request: &AdmissionRequest<DynamicObject>, service: &str, error: &str) -> Verdict {
    tracing::warn!(
        service,
        error,
        "a pod is refused: its service cannot be looked up"
    );
    let words = format!("the operator cannot look up {service} now, try again: {error}");
    Verdict {
        response: AdmissionResponse::from(request).deny(words),
        outcome: "error",
    }
}

#[cfg(test)]
mod tests {
    use super::super::mutate::tests::{facts, image, pod};
    use super::*;

    fn body(pod: &Value) -> Vec<u8> {
        let review = serde_json::json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "u1",
                "kind": {"group": "", "version": "v1", "kind": "Pod"},
                "resource": {"group": "", "version": "v1", "resource": "pods"},
                "name": "web-1",
                "namespace": "default",
                "operation": "CREATE",
                "userInfo": {"username": "controller"},
                "object": pod,
                "dryRun": false,
            },
        });
        serde_json::to_vec(&review).expect("JSON")
    }

    /// What the API server sees.
    fn answer(pod: &Value, facts: &Facts) -> Value {
        let (request, pod) = parse(&body(pod)).expect("a review");
        let verdict = decide(&request, &pod, facts, &image());
        serde_json::to_value(verdict.response.into_review()).expect("JSON")
    }

    #[test]
    fn the_patch_makes_the_pod_what_was_rendered_and_a_second_one_changes_nothing() {
        let answer = answer(&pod(), &facts());
        assert_eq!(answer["response"]["uid"], "u1");
        assert_eq!(answer["response"]["allowed"], true);
        assert_eq!(answer["response"]["patchType"], "JSONPatch");
        let patch: Vec<u8> =
            serde_json::from_value(answer["response"]["patch"].clone()).expect("bytes");
        let patch: json_patch::Patch = serde_json::from_slice(&patch).expect("a patch");
        let mut patched = pod();
        json_patch::patch(&mut patched, &patch).expect("it fits");
        assert_eq!(patched, mutate(&pod(), &facts(), &image()).expect("taken"));
        let again = self::answer(&patched, &facts());
        assert_eq!(again["response"]["allowed"], true);
        assert!(again["response"].get("patch").is_none(), "{again}");
    }

    #[test]
    fn a_refusal_says_why() {
        let answer = answer(
            &pod(),
            &Facts {
                group: None,
                ..facts()
            },
        );
        assert_eq!(answer["response"]["allowed"], false);
        let words = answer["response"]["status"]["message"].as_str();
        assert!(
            words.is_some_and(|it| it.contains("ReplicatedService notes")),
            "{answer}"
        );
    }

    #[test]
    fn what_is_no_review_is_told_so() {
        for bad in [
            "",
            "[]",
            "{",
            "{\"kind\":\"AdmissionReview\"}",
            "null",
            "\"\\u0000\"",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad}");
        }
        // A pod of any shape is refused, not stumbled over.
        for shape in [
            serde_json::json!({"metadata": {"labels": []}, "spec": []}),
            serde_json::json!({"metadata": [], "spec": {"containers": {}}}),
        ] {
            let mut bent = pod();
            for (key, value) in shape.as_object().into_iter().flatten() {
                bent[key] = value.clone();
            }
            assert!(mutate(&bent, &facts(), &image()).is_err(), "{bent}");
        }
    }

    #[test]
    fn only_names_of_objects_are_looked_up() {
        for (name, good) in [
            ("notes", true),
            ("notes-2.a", true),
            ("", false),
            ("../secrets", false),
            ("a..b", false),
            ("A", false),
        ] {
            assert_eq!(is_name(name), good, "{name}");
        }
    }
}
