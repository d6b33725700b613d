//! The claim from which a group begins. Comes in: the claim, and the pods of its namespace. Goes out:
//! why nothing can begin from it. It is looked at before the first pod is made, and never written to.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use synod_api::{BootstrapType, GroupFounding, Quantity};

use super::apply::words;
use super::build::{Kind, STATE_SIZE};
use super::reconcile::Work;
use super::validate::{Stall, Valid};
use crate::conditions;

// === impl Work ===

impl Work<'_> {
    /// Whether the first member can make a state from the claim. Once its pod is made, it says itself
    /// what it cannot.
    pub(super) async fn source(&self) -> Result<(), Stall> {
        let valid = self.valid;
        let founding = valid.group.spec.founding.as_ref();
        let Some(founding) = founding.filter(|it| !it.claim.is_empty()) else {
            return Ok(());
        };
        if self
            .live
            .child(Kind::StatefulSet, &valid.workload)
            .is_some()
        {
            return Ok(());
        }
        let client = &self.process.client;
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), valid.namespace);
        let pods: Api<Pod> = Api::namespaced(client.clone(), valid.namespace);
        let unread = |error: kube::Error| {
            let words = format!(
                "claim {} cannot be looked at: {}",
                founding.claim,
                words(&error)
            );
            Stall::new(&conditions::OPERATOR_ERROR, words)
        };
        let claim = claims.get_opt(&founding.claim).await.map_err(unread)?;
        let pods = pods.list(&ListParams::default()).await.map_err(unread)?;
        let size = wanted_size(valid);
        match problem(
            founding,
            valid.namespace,
            claim.as_ref(),
            &pods.items,
            size.as_ref(),
        ) {
            None => Ok(()),
            Some(words) => Err(Stall::new(&conditions::BOOTSTRAP_IMPOSSIBLE, words)),
        }
    }
}

/// What each member's claim for the app's volume asks for.
fn wanted_size(valid: &Valid<'_>) -> Option<Quantity> {
    let volume = valid.group.spec.state.volume.as_ref()?;
    let given = volume.volume_claim.as_ref();
    let given = given.and_then(|it| it.spec.pointer("/resources/requests/storage").cloned());
    serde_json::from_value(given.unwrap_or_else(|| json!(STATE_SIZE))).ok()
}

/// Why nothing can begin from the claim, and what to do. `size`: of the claims that its content is
/// copied to.
fn problem(
    founding: &GroupFounding,
    namespace: &str,
    claim: Option<&PersistentVolumeClaim>,
    pods: &[Pod],
    size: Option<&Quantity>,
) -> Option<String> {
    let name = &founding.claim;
    let (path, what) = match founding.kind {
        BootstrapType::Snapshot => ("spec.bootstrap.snapshot.claim", "a backup"),
        _ => ("spec.bootstrap.claim.name", "the app's files"),
    };
    let Some(claim) = claim else {
        return Some(format!(
            "{path}: there is no claim {name} in namespace {namespace}: correct the name, or create it \
             with {what} in it"
        ));
    };
    if claim.metadata.deletion_timestamp.is_some() {
        return Some(format!(
            "{path}: claim {name} is being deleted: keep it until the service is ready"
        ));
    }
    let status = claim.status.as_ref();
    let phase = status
        .and_then(|it| it.phase.as_deref())
        .unwrap_or("Pending");
    if phase != "Bound" {
        return Some(format!(
            "{path}: claim {name} is {phase}, not bound to a volume, so there is nothing in it: give \
             the claim with {what}"
        ));
    }
    let uses = |pod: &&Pod| {
        let phase = pod.status.as_ref().and_then(|it| it.phase.as_deref());
        let over = matches!(phase, Some("Succeeded" | "Failed"));
        let volumes = pod.spec.iter().flat_map(|it| it.volumes.iter().flatten());
        let mut claims = volumes.filter_map(|it| it.persistent_volume_claim.as_ref());
        !over && claims.any(|it| it.claim_name == *name)
    };
    let users: Vec<_> = pods.iter().filter(uses).map(Pod::name_any).collect();
    // A backup is written once; an app's files must not change while they are copied.
    if founding.kind == BootstrapType::Claim && !users.is_empty() {
        return Some(format!(
            "{path}: claim {name} is in use by {}: what is in it must not change while it is copied. \
             Scale the workload down to 0 (kubectl -n {namespace} scale deployment NAME --replicas=0); \
             the service begins by itself when its pods are gone",
            users.join(", ")
        ));
    }
    // What was asked for on both sides: volumes may be larger, and it is told if they are too small.
    let spec = claim.spec.as_ref();
    let asked = spec.and_then(|it| it.resources.as_ref()?.requests.as_ref()?.get("storage"));
    let asked =
        asked.and_then(|it| serde_json::from_value::<Quantity>(Value::String(it.0.clone())).ok());
    match (asked, size) {
        (Some(has), Some(size))
            if founding.kind == BootstrapType::Claim && has.bytes() > size.bytes() =>
        {
            Some(format!(
                "{path}: claim {name} asks for {has}, and each member's own for {size}: let \
                 spec.state.volume.volumeClaim ask for at least {has}"
            ))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn founding(kind: BootstrapType) -> GroupFounding {
        GroupFounding {
            kind,
            claim: "data".to_owned(),
            path: String::new(),
            before: None,
        }
    }

    fn claim(phase: &str) -> PersistentVolumeClaim {
        let value = json!({
            "metadata": {"name": "data"},
            "spec": {"resources": {"requests": {"storage": "5Gi"}}},
            "status": {"phase": phase, "capacity": {"storage": "20Gi"}},
        });
        serde_json::from_value(value).expect("a claim")
    }

    fn pod(name: &str, phase: &str, claim: &str) -> Pod {
        let value = json!({
            "metadata": {"name": name},
            "spec": {"containers": [], "volumes": [
                {"name": "a", "emptyDir": {}},
                {"name": "b", "persistentVolumeClaim": {"claimName": claim}},
            ]},
            "status": {"phase": phase},
        });
        serde_json::from_value(value).expect("a pod")
    }

    fn of(claim: Option<&PersistentVolumeClaim>, pods: &[Pod], size: u64) -> Option<String> {
        let size = Quantity::gibibytes(size);
        problem(
            &founding(BootstrapType::Claim),
            "default",
            claim,
            pods,
            Some(&size),
        )
    }

    #[test]
    fn a_claim_that_is_there_bound_unused_and_not_too_large_will_do() {
        let bound = claim("Bound");
        assert_eq!(of(Some(&bound), &[], 5), None);
        let others = [
            pod("other", "Running", "another"),
            pod("done", "Succeeded", "data"),
            pod("failed", "Failed", "data"),
        ];
        assert_eq!(of(Some(&bound), &others, 5), None);
    }

    #[test]
    fn what_is_wrong_with_a_claim_is_told_with_the_way_out() {
        let told = |found: Option<String>, words: &[&str]| {
            let found = found.expect("a problem");
            for word in words {
                assert!(found.contains(word), "{found}");
            }
        };
        told(
            of(None, &[], 5),
            &["spec.bootstrap.claim.name", "no claim data", "default"],
        );
        told(
            of(Some(&claim("Pending")), &[], 5),
            &["Pending", "nothing in it"],
        );
        told(of(Some(&claim("Lost")), &[], 5), &["Lost"]);
        let mut leaving = claim("Bound");
        leaving.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
                k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
            ));
        told(of(Some(&leaving), &[], 5), &["being deleted"]);
        let bound = claim("Bound");
        let user = [
            pod("notes-7d-x", "Running", "data"),
            pod("p", "Pending", "data"),
        ];
        told(
            of(Some(&bound), &user, 5),
            &["notes-7d-x, p", "--replicas=0"],
        );
        told(of(Some(&bound), &[], 4), &["5Gi", "4Gi", "volumeClaim"]);
    }

    #[test]
    fn a_backup_may_be_larger_than_what_it_becomes_and_be_looked_at_meanwhile() {
        let founding = founding(BootstrapType::Snapshot);
        let size = Quantity::gibibytes(1);
        let users = [pod("shell", "Running", "data")];
        let bound = claim("Bound");
        let found = problem(&founding, "default", Some(&bound), &users, Some(&size));
        assert_eq!(found, None);
        let found = problem(&founding, "default", None, &[], None).expect("missing");
        assert!(found.contains("spec.bootstrap.snapshot.claim"), "{found}");
    }
}
