//! The StatefulSet of the witnesses: a sidecar alone in each pod, and a claim for its log. What the app is
//! has no part in it, so another revision of that replaces none of these pods.

use serde_json::{Value, json};
use synod_api::FIRST_WITNESS;

use super::template::place;
use super::workload::{log_claim, set};
use super::{Input, Workload, digest, labels, selector, state};
use crate::group::names;
use crate::group::validate::Valid;
use crate::inject::{self, AppState, Injection, Member, names as pod};

pub(super) fn stateful_set(input: &Input<'_>) -> Workload {
    let valid = input.valid;
    let spec = &valid.group.spec;
    let mut injection = Injection::rendered(valid.name, spec, input.image, input.token);
    injection.member = Member::Numbered(valid.workload.clone());
    injection.state = AppState::Ephemeral;
    injection.revision = 0;
    injection.source = None;
    injection.labels = labels(valid);
    injection
        .labels
        .insert(pod::ROLE_LABEL.to_owned(), pod::WITNESS.to_owned());
    let bare = place(valid);
    let port = client_port(valid);
    let template = made_from(
        &bare,
        &injection,
        port,
        state::section(&spec.state).as_ref(),
    );
    let mut rendered = inject::witness(&bare, &injection, port);
    rendered["metadata"]["annotations"][names::TEMPLATE_ANNOTATION] = json!(template);
    let mut selector = selector(valid);
    selector[pod::ROLE_LABEL] = json!(pod::WITNESS);
    let (mut child, kept_claims) = set(
        input,
        &valid.witnesses,
        valid.witness_pods(),
        &selector,
        &rendered,
        vec![log_claim(valid)],
    );
    child.value["spec"]["ordinals"] = json!({"start": FIRST_WITNESS});
    Workload {
        child,
        template,
        kept_claims,
    }
}

/// A witness hands on whatever comes, and cannot hand upgrades on: clients get there only where nobody runs
/// the app.
fn client_port(valid: &Valid<'_>) -> &'static str {
    if valid.copies() > 0 {
        pod::WITNESS_PORT
    } else {
        pod::CLIENT_PORT
    }
}

/// What users decide about such a pod: not which sidecar it has, and nothing of the app.
fn made_from(bare: &Value, injection: &Injection, port: &str, state: Option<&Value>) -> String {
    let ports = injection.ports;
    digest(&json!([
        bare,
        injection.region,
        [ports.http, ports.peer, ports.admin],
        injection.resources.as_ref().map(|it| &it.0),
        injection.token,
        port,
        state,
    ]))
}
