//! What members are asked to do while they run: to agree on a policy, to raise their protocol, to make
//! a snapshot. Comes in: what the hub asks for, and what was seen of the members. Goes out: what came
//! of it, for the status.

use std::net::SocketAddr;

use synod_api::{SnapshotAnswer, SnapshotRequest};
use synod_proto::v1::StatusResponse;
use synod_proto::v1::propose_policy_response::Result as Outcome;

use super::members::{Asker, address};
use super::policy;
use super::reconcile::Work;
use super::status::Report;
use super::validate::Stall;
use crate::conditions::{self, shorten};

/// Longest reason why there is no snapshot, in bytes.
const WORDS: usize = 1_000;

// === impl Work ===

impl Work<'_> {
    /// The member that leads, if it is one of this cluster.
    pub(super) fn leader_here(
        &self,
        report: &Report,
    ) -> Option<(String, SocketAddr, StatusResponse)> {
        report.members.iter().find_map(|it| {
            let said = it.said()?;
            let leads = !said.group.is_empty() && said.leader == it.name;
            let port = self.valid.group.spec.sidecar.ports.peer;
            let place = address(&it.pod.as_ref()?.ip, port)?;
            leads.then(|| (it.name.clone(), place, said.clone()))
        })
    }

    /// The policy, by the cluster whose member leads.
    pub(super) async fn policy(&self, report: &mut Report, asker: &Asker) {
        let spec = &self.valid.group.spec;
        let Some((leader, place, said)) = self.leader_here(report) else {
            return;
        };
        let done = report.facts.get("policy").map(String::as_str);
        let proposal =
            policy::proposal(&spec.policy, said.policy_version, &said.policy_digest, done);
        let proposal = match proposal {
            Ok(Some(proposal)) => proposal,
            Ok(None) => return,
            Err(words) => {
                report.stall = Some(Stall::new(&conditions::INVALID_SPEC, words));
                return;
            }
        };
        let version = proposal.expected_version;
        let answer = asker
            .propose_policy(&leader, place, proposal.policy, version, said.epoch)
            .await;
        match answer {
            Ok(answer) if answer.result() == Outcome::Done => {
                tracing::info!(
                    service = self.valid.name,
                    member = leader,
                    version = answer.version,
                    "a policy is in force"
                );
                let fact = policy::remember(&proposal.digest, answer.version);
                report.facts.insert("policy".to_owned(), fact);
            }
            // Another was in force: it is looked at again.
            Ok(_) => {}
            Err(error) => report.failure = Some(format!("the policy is not in force yet: {error}")),
        }
    }

    /// The protocol, by the cluster whose member leads. It is asked for once all members of all
    /// clusters speak it; the leader looks at that once more.
    pub(super) async fn raise(&self, report: &mut Report, asker: &Asker) {
        let wanted = self.valid.group.spec.protocol;
        let Some((leader, place, said)) = self.leader_here(report) else {
            return;
        };
        let rolled = report.members.iter().all(|it| it.updated);
        if said.protocol == 0 || said.protocol >= wanted || !rolled {
            return;
        }
        match asker.raise_protocol(&leader, place, wanted).await {
            Ok(version) => {
                tracing::info!(
                    service = self.valid.name,
                    member = leader,
                    version,
                    "the protocol is raised"
                );
                report.raised = Some(version);
                report.soon = true;
            }
            Err(error) => report.failure = Some(format!("the protocol is not raised yet: {error}")),
        }
    }

    /// A snapshot that somebody asks for, once.
    pub(super) async fn snapshot(&self, report: &mut Report, asker: &Asker) {
        let status = self.valid.group.status.as_ref();
        let before = status.and_then(|it| it.snapshot.as_ref());
        let Some(request) = due(self.valid.group.spec.snapshot.as_ref(), before) else {
            return;
        };
        let port = self.valid.group.spec.sidecar.ports.peer;
        let member = report.members.iter().find(|it| it.name == request.member);
        let place = member
            .and_then(|it| it.pod.as_ref())
            .and_then(|it| address(&it.ip, port));
        let made = match place {
            None => Err("it has no pod now".to_owned()),
            Some(place) => asker
                .take_snapshot(&request.member, place)
                .await
                .map(|made| made.map(|it| it.slot))
                .map_err(|error| error.to_string()),
        };
        tracing::info!(
            service = self.valid.name,
            member = request.member,
            ?made,
            "a snapshot was asked for"
        );
        report.snapshot = Some(answer(request, made));
    }
}

/// The request, unless it was answered.
fn due<'a>(
    request: Option<&'a SnapshotRequest>,
    before: Option<&SnapshotAnswer>,
) -> Option<&'a SnapshotRequest> {
    request.filter(|it| before.is_none_or(|before| before.word != it.word))
}

/// `made`: its slot; none while it is still being made.
fn answer(request: &SnapshotRequest, made: Result<Option<u64>, String>) -> SnapshotAnswer {
    let (slot, problem) = match made {
        Ok(slot) => (slot, String::new()),
        Err(words) => (None, shorten(words, WORDS)),
    };
    SnapshotAnswer {
        word: request.word.clone(),
        member: request.member.clone(),
        slot,
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_asked_for_once_for_each_word() {
        let request = SnapshotRequest {
            word: "before-upgrade".to_owned(),
            member: "notes-local-1".to_owned(),
        };
        assert_eq!(due(None, None), None);
        assert_eq!(due(Some(&request), None), Some(&request));
        let done = answer(&request, Ok(Some(7)));
        assert_eq!(due(Some(&request), Some(&done)), None);
        let failed = answer(&request, Err("it is busy".to_owned()));
        assert_eq!(
            due(Some(&request), Some(&failed)),
            None,
            "nor when it failed"
        );
        let next = SnapshotRequest {
            word: "again".to_owned(),
            ..request
        };
        assert_eq!(due(Some(&next), Some(&failed)), Some(&next));
    }
}
