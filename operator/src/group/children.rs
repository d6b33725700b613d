//! The children of a group, as they are brought to where they should be. Comes in: what they should be,
//! and what is there. It writes them, in the order in which pods need them, and deletes Services of
//! ours that nobody asks for any more.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, ResourceExt as _};
use serde_json::Value;

use super::apply::{ApplyError, apply, words};
use super::build::{self, Child, Kind, Workloads};
use super::certificates::Certificates;
use super::dereference::{is_ours, may_be_the_users};
use super::reconcile::Work;
use super::status::Report;
use super::validate::{Stall, Valid};
use super::{adopt, disruptions, names};
use crate::certs::{CertError, Pair, random};
use crate::conditions;
use crate::inject::names as pod_names;

// === impl Work ===

impl Work<'_> {
    /// A budget that was opened while the group's token was held is closed when that has ended,
    /// whatever else keeps this look from its end.
    pub(super) async fn close_budget(&self) -> Result<(), String> {
        let valid = self.valid;
        if valid.alone() || disruptions::is_open(valid, Timestamp::now()) {
            return Ok(());
        }
        let live = self.live.child(Kind::PodDisruptionBudget, &valid.workload);
        let Some(live) = live.filter(|it| is_ours(it, valid.uid)) else {
            return Ok(());
        };
        if !is_budget_open(&live.data, valid.replicas()) {
            return Ok(());
        }
        let closed = build::closed_budget(&self.input("", None));
        let applied = apply(&self.process.client, valid.namespace, &closed, Some(live)).await;
        applied.map(drop).map_err(|error| error.to_string())
    }

    /// What ends by itself if nobody looks after it: certificates and the peer table. Returns whether
    /// all of it is as it should be.
    pub(super) async fn keep_up(
        &self,
        report: &mut Report,
        certificates: &Certificates,
        token: Option<&str>,
    ) -> bool {
        let mut children = match self.secrets(certificates, token) {
            Ok(children) => children,
            Err(error) => {
                report.failure = Some(error.to_string());
                return false;
            }
        };
        children.push(build::config_map(self.valid));
        self.apply_all(report, &children).await
    }

    /// Everything else. Returns whether all of it is as it should be.
    pub(super) async fn bring(
        &self,
        report: &mut Report,
        certificates: &Certificates,
        token: Option<&str>,
        workloads: &Workloads,
    ) -> bool {
        let mut children = build::surroundings(&self.input("", None));
        if let Some(text) = &self.valid.group.spec.genesis {
            if let Err(stall) = self.same_genesis(text) {
                report.stall = Some(stall);
                return false;
            }
            children.push(build::genesis(self.valid, text));
        }
        // Kubelet asks for a missing Secret less and less often: pods come after their certificates.
        let may_start = certificates.members.is_some();
        let (copies, witnesses) = (&workloads.copies, &workloads.witnesses);
        let both = || copies.iter().chain(witnesses);
        children.extend(both().filter(|_| may_start).map(|it| it.child.clone()));
        if let Some(set) = self.live.set()
            && !adopt::has_log_claim(set)
        {
            children.extend(build::log_claims(self.valid));
        }
        children.retain(|it| !self.is_the_users(it));
        if !self.apply_all(report, &children).await {
            return false;
        }
        self.sweep(report, &children).await;
        if copies.is_some() {
            let kept: BTreeSet<_> = both().flat_map(|it| &it.kept_claims).collect();
            say_what_is_kept(report, &kept);
        }
        (may_start && copies.is_some())
            || (self.live.set().is_some() && token.is_some() && certificates.members.is_some())
    }

    async fn apply_all(&self, report: &mut Report, children: &[Child]) -> bool {
        for child in children {
            let live = self.live.child(child.kind, &child.name);
            if child.kind == Kind::PersistentVolumeClaim && self.has_claim(&child.name) {
                continue;
            }
            match apply(&self.process.client, self.valid.namespace, child, live).await {
                Ok(changed) => {
                    if changed {
                        let (kind, name) = (child.kind.name(), &child.name);
                        tracing::info!(service = self.valid.name, kind, name, "applied");
                    }
                }
                Err(ApplyError::Refused(stall)) => {
                    report.stall = Some(stall);
                    return false;
                }
                Err(error) => {
                    report.failure = Some(error.to_string());
                    return false;
                }
            }
        }
        true
    }

    /// Deletes Services that were made for what the manifest asked for before.
    async fn sweep(&self, report: &mut Report, children: &[Child]) {
        let services = children.iter().filter(|it| it.kind == Kind::Service);
        let wanted: BTreeSet<_> = services.map(|it| it.name.as_str()).collect();
        for service in unwanted(self.valid, &self.live.services, &wanted) {
            let name = service.name_any();
            let api: Api<Service> =
                Api::namespaced(self.process.client.clone(), self.valid.namespace);
            let params = DeleteParams {
                preconditions: Some(Preconditions {
                    uid: service.uid(),
                    resource_version: service.resource_version(),
                }),
                ..DeleteParams::default()
            };
            match api.delete(&name, &params).await {
                Ok(_) => tracing::info!(service = self.valid.name, name, "Service is deleted"),
                // It is another one by now, or none: the next look finds it.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => {
                    report.failure =
                        Some(format!("cannot delete Service {name}: {}", words(&error)));
                }
            }
        }
    }

    fn has_claim(&self, name: &str) -> bool {
        let mut claims = self.live.claims.iter();
        claims.any(|it| it.metadata.name.as_deref() == Some(name))
    }

    /// A Service of this name is there, and leads to the user's pods.
    fn is_the_users(&self, child: &Child) -> bool {
        let live = self.live.child(child.kind, &child.name);
        may_be_the_users(self.valid, child.kind, &child.name)
            && live.is_some_and(|it| !is_ours(it, self.valid.uid))
    }

    fn secrets(
        &self,
        certificates: &Certificates,
        token: Option<&str>,
    ) -> Result<Vec<Child>, CertError> {
        let valid = self.valid;
        let secret = |name: &str, content: BTreeMap<String, String>, once: bool| {
            build::secret(valid, name, &content, once)
        };
        let one = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let mut secrets = vec![secret(
            &names::issuer_secret(valid.name),
            one("tls.key", &certificates.issuer_key),
            true,
        )];
        if token.is_none() {
            let fresh = random_hex()?;
            let name = pod_names::token_secret(valid.name);
            secrets.push(secret(&name, one("token", &fresh), true));
        }
        if let Some(members) = &certificates.members {
            let name = pod_names::tls_secret(valid.name);
            secrets.push(secret(&name, members.clone(), false));
        }
        if let Some(Pair { cert, key }) = &certificates.operator {
            let content = BTreeMap::from([
                ("tls.crt".to_owned(), cert.clone()),
                ("tls.key".to_owned(), key.clone()),
            ]);
            secrets.push(secret(&names::operator_secret(valid.name), content, false));
        }
        Ok(secrets)
    }

    /// A genesis is never written a second time (rule M5).
    fn same_genesis(&self, text: &str) -> Result<(), Stall> {
        let name = pod_names::genesis_map(self.valid.name);
        let there = self
            .live
            .child(Kind::ConfigMap, &name)
            .and_then(|it| it.data.pointer("/data/genesis.json"))
            .and_then(Value::as_str);
        match there {
            Some(there) if there != text => Err(Stall::new(
                &conditions::OWNED_BY_ANOTHER,
                format!(
                    "ConfigMap {name} holds another genesis than the hub sends: this group was \
                     formed before, and is never formed again"
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// Services of this group that are not `wanted`. One by which peers still find a member stays: the hub
/// makes a new table first.
fn unwanted<'a>(
    valid: &'a Valid<'_>,
    services: &'a [Service],
    wanted: &'a BTreeSet<&str>,
) -> impl Iterator<Item = &'a Service> {
    let own = |it: &&Service| {
        let mut owners = it.owner_references().iter();
        owners.any(|it| it.uid == valid.uid && it.controller == Some(true))
    };
    let peers = &valid.group.spec.peers;
    let used = |it: &&Service| {
        let ports = it.spec.iter().flat_map(|it| it.ports.iter().flatten());
        let mut ends = ports.filter_map(|it| it.node_port.map(|it| format!(":{it}")));
        ends.any(|end| peers.iter().any(|it| it.address.ends_with(&end)))
    };
    services
        .iter()
        .filter(|it| it.metadata.deletion_timestamp.is_none())
        .filter(own)
        .filter(|it| !wanted.contains(it.name_any().as_str()))
        .filter(move |it| !used(it))
}

/// Whether a budget lets any of so many pods go.
fn is_budget_open(budget: &Value, replicas: u32) -> bool {
    let least = budget.pointer("/spec/minAvailable").and_then(Value::as_u64);
    least.is_none_or(|it| it < u64::from(replicas))
}

fn say_what_is_kept(report: &mut Report, kept: &BTreeSet<&String>) {
    if kept.is_empty() {
        report.facts.remove("claims");
        return;
    }
    let names: Vec<_> = kept.iter().map(|it| it.as_str()).collect();
    let words = format!(
        "{} stay as they are: this version does not change claims of members",
        names.join(", ")
    );
    report.facts.insert("claims".to_owned(), words);
}

fn random_hex() -> Result<String, CertError> {
    use std::fmt::Write as _;
    let bytes = random::<16>()?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use synod_api::ReplicaGroup;

    use super::super::validate::validate;
    use super::*;

    fn service(name: &str, owner: &str, port: &str) -> Service {
        let text = format!(
            "metadata: {{name: {name}, ownerReferences: [{{apiVersion: synod.dev/v1alpha1, kind: \
             ReplicaGroup, name: notes, uid: {owner}, controller: true}}]}}\n\
             spec: {{ports: [{{port: 7443{port}}}]}}"
        );
        serde_yaml::from_str(&text).expect("a Service")
    }

    #[test]
    fn services_of_ours_that_nobody_asks_for_any_more_are_deleted() {
        let group: ReplicaGroup =
            serde_yaml::from_str(include_str!("build/testdata/group.yaml")).expect("a group");
        let valid = validate(&group, "us-east").expect("valid");
        let services = [
            service("notes", "uid-of-group", ""),
            service("old-name", "uid-of-group", ""),
            service("of-somebody", "uid-of-another", ""),
            service("notes-m-0", "uid-of-group", ", nodePort: 30001"),
            // In the peer table, which the hub has not made anew yet.
            service("notes-m-1", "uid-of-group", ", nodePort: 7443"),
        ];
        let wanted = BTreeSet::from(["notes"]);
        let names: Vec<_> = unwanted(&valid, &services, &wanted)
            .map(kube::ResourceExt::name_any)
            .collect();
        assert_eq!(names, ["old-name", "notes-m-0"]);
    }

    #[test]
    fn a_budget_is_open_unless_every_pod_must_stay() {
        let budget = |least: u32| json!({"spec": {"minAvailable": least}});
        assert!(is_budget_open(&budget(1), 2));
        assert!(!is_budget_open(&budget(2), 2));
        assert!(is_budget_open(&json!({}), 2), "it is put right");
    }
}
