//! Pods are replaced: the planner's step is taken. Comes in: what was seen of the members. It asks for
//! the group's disruption token where members are elsewhere, hands leadership over, evicts or deletes.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, EvictParams, Preconditions};
use serde_json::Value;
use synod_api::MemberRole;

use super::apply::words;
use super::build::Kind;
use super::disruptions;
use super::members::{AskError, Asker, address};
use super::observe::Observed;
use super::plan::{Care, Desired, Elsewhere, Step, next};
use super::pods::PodView;
use super::reconcile::Work;
use super::revise;
use super::status::Report;
use super::validate::Valid;

// === impl Work ===

impl Work<'_> {
    /// The next step of a rolling restart, and the token that it needs.
    pub(super) async fn roll(&self, report: &mut Report, asker: &Asker) {
        let client = &self.process.client;
        if !self.is_observed() {
            let _nothing_to_take =
                disruptions::look(client, self.valid, report, asker, false).await;
            return;
        }
        let seen: Vec<_> = report.members.iter().map(Observed::seen).collect();
        let plan = |elsewhere| next(&self.desired(elsewhere), &seen, Timestamp::now());
        let hoped = plan(Elsewhere::hoped(voters_elsewhere(self.valid)));
        let wanted = hoped.needs_token();
        let may = disruptions::look(client, self.valid, report, asker, wanted).await;
        let step = match may {
            _ if !wanted || self.valid.alone() => hoped,
            Ok(elsewhere) => plan(elsewhere),
            Err(why) => Step::Wait(why),
        };
        let step = held_by_change(step, self.valid.group.spec.change.is_some());
        match self.take(step, report, asker).await {
            Ok(step) => report.step = Some(step),
            Err((step, words)) => {
                report.step = Some(step);
                report.failure = Some(words);
            }
        }
    }

    fn desired(&self, elsewhere: Elsewhere) -> Desired {
        let spec = &self.valid.group.spec;
        Desired {
            formed: spec.genesis.is_some(),
            rollout: spec.rollout,
            revision: spec.revision,
            rolls: revise::silent_of(self.valid.group).is_some(),
            along: revise::along(self.valid.group).map(str::to_owned),
            elsewhere,
        }
    }

    /// Goes out: the step that was taken, or what is waited for instead.
    async fn take(
        &self,
        step: Step,
        report: &Report,
        asker: &Asker,
    ) -> Result<Step, (Step, String)> {
        let taken = match &step {
            Step::Done | Step::Wait(_) => Ok(None),
            Step::Transfer { from, to } => self.transfer(from, to, report, asker).await,
            Step::Delete { pod, .. } if self.waits_for_budget(&step) => {
                Ok(Some(format!("the budget does not let {pod} go yet")))
            }
            Step::Delete { .. } => self.remove(&step, report, asker).await,
        };
        match taken {
            Ok(None) => Ok(step),
            Ok(Some(why)) => Ok(Step::Wait(why)),
            Err(words) => Err((step, words)),
        }
    }

    async fn transfer(
        &self,
        from: &str,
        to: &str,
        report: &Report,
        asker: &Asker,
    ) -> Result<Option<String>, String> {
        let member = report.members.iter().find(|it| it.name == from);
        let place = member
            .and_then(|it| it.pod.as_ref())
            .and_then(|it| address(&it.ip, self.valid.group.spec.sidecar.ports.peer));
        let place = place.ok_or_else(|| format!("{from} has no address"))?;
        tracing::info!(service = self.valid.name, member = %from, to, "leadership is handed over");
        let done = asker.prepare_shutdown(from, place, to).await;
        done.map(|()| None)
            .map_err(|error| format!("leadership was not handed over: {error}"))
    }

    /// Nobody is asked to hand over before its pod can go.
    fn waits_for_budget(&self, step: &Step) -> bool {
        let Step::Delete { care, .. } = step else {
            return false;
        };
        let budget = self
            .live
            .child(Kind::PodDisruptionBudget, &self.valid.workload);
        *care == Care::Budget && !budget.is_some_and(|it| lets_go(&it.data))
    }

    async fn remove(
        &self,
        step: &Step,
        report: &Report,
        asker: &Asker,
    ) -> Result<Option<String>, String> {
        let Step::Delete {
            pod,
            uid,
            why,
            care,
        } = step
        else {
            return Ok(None);
        };
        self.prepare(pod, report, asker).await?;
        tracing::info!(service = self.valid.name, member = %pod, why, "pod is replaced");
        let pods: Api<Pod> = Api::namespaced(self.process.client.clone(), self.valid.namespace);
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid.clone()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let done = if *care == Care::Budget {
            let params = EvictParams {
                delete_options: Some(params),
                ..EvictParams::default()
            };
            pods.evict(pod, &params).await.map(drop)
        } else {
            pods.delete(pod, &params).await.map(drop)
        };
        match done {
            Ok(()) => Ok(None),
            // It is another one by now, or none.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
            // Another eviction was first.
            Err(kube::Error::Api(status)) if status.code == 429 => {
                Ok(Some(format!("the budget does not let {pod} go yet")))
            }
            Err(error) => Err(format!("cannot replace pod {pod}: {}", words(&error))),
        }
    }

    /// It may have become the leader since it was looked at.
    async fn prepare(&self, name: &str, report: &Report, asker: &Asker) -> Result<(), String> {
        let Some((member, pod)) = in_pod(&report.members, name) else {
            return Ok(());
        };
        let Some(place) = address(&pod.ip, self.valid.group.spec.sidecar.ports.peer) else {
            return Ok(());
        };
        prepared(pod, asker.prepare_shutdown(member, place, "").await)
    }
}

/// The member in the pod of this name, if it answers. The two are not always called alike.
fn in_pod<'a>(members: &'a [Observed], name: &str) -> Option<(&'a str, &'a PodView)> {
    let found = members.iter().find_map(|it| {
        let pod = it.pod.as_ref().filter(|pod| pod.name == name)?;
        Some((it, pod))
    });
    let (member, pod) = found?;
    member.said().map(|_| (member.name.as_str(), pod))
}

/// Whether the pod may go. One that is not ready goes anyway: that may be what helps it.
fn prepared(pod: &PodView, said: Result<(), AskError>) -> Result<(), String> {
    match said {
        Err(error) if pod.ready => Err(format!("{} is not replaced yet: {error}", pod.name)),
        Err(error) => {
            tracing::warn!(member = pod.name, %error, "is replaced without handing over");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// A change of the members counts on every voter that is there: none is taken away until it is made.
fn held_by_change(step: Step, changing: bool) -> Step {
    if changing && step.needs_token() {
        return Step::Wait("the members are being changed".to_owned());
    }
    step
}

/// Voters of other clusters.
fn voters_elsewhere(valid: &Valid<'_>) -> usize {
    let spec = &valid.group.spec;
    let here = |name: &str| spec.members.iter().any(|it| it.name == name);
    let peers = spec.peers.iter().filter(|it| !here(&it.name));
    peers.filter(|it| it.role != MemberRole::Observer).count()
}

/// Whether a budget lets a pod go, as far as its controller has seen.
fn lets_go(budget: &Value) -> bool {
    let allowed = budget.pointer("/status/disruptionsAllowed");
    allowed.and_then(Value::as_u64).is_some_and(|it| it > 0)
}

/// How many pods of this cluster may be evicted at once: as many as leave a majority of voters. When
/// other clusters have voters too, whose evictions this one does not know of, it is one, while the
/// group's token for that is held here.
pub(super) fn disruptions(valid: &Valid<'_>, now: Timestamp) -> u32 {
    if !valid.alone() {
        return u32::from(disruptions::is_open(valid, now));
    }
    // Other copies are there, and answer nobody.
    if revise::silent_of(valid.group).is_some() && revise::answering(valid.group) < 2 {
        return 0;
    }
    // While the members change, as many as leave one before the change and after it.
    let spare = |voters: usize| voters - (voters / 2 + 1).min(voters);
    let (before, after) = (valid.voters(), valid.voters_after_change());
    u32::try_from(spare(before).min(spare(after))).expect("bounded by the schema")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_is_ready_goes_only_when_another_leads() {
        let refused = || {
            Err(AskError::Refused {
                member: "notes-local-0".to_owned(),
                problem: "nobody took over".to_owned(),
            })
        };
        let mut pod = PodView {
            name: "notes-local-0".to_owned(),
            ready: true,
            ..PodView::default()
        };
        assert_eq!(prepared(&pod, Ok(())), Ok(()));
        let words = prepared(&pod, refused()).expect_err("stays");
        assert!(words.contains("nobody took over"), "{words}");
        pod.ready = false;
        assert_eq!(prepared(&pod, refused()), Ok(()));
    }

    #[test]
    fn whoever_goes_is_asked_by_its_own_name_and_found_by_that_of_its_pod() {
        let pod = PodView {
            name: "notes-local-witness-100".to_owned(),
            ..PodView::default()
        };
        let mut members = [Observed {
            name: "notes-local-100".to_owned(),
            role: MemberRole::Witness,
            pod: Some(pod),
            updated: true,
            newest: true,
            heard: Some(Ok(synod_proto::v1::StatusResponse::default())),
            snapshot: None,
            endpoint: String::new(),
        }];
        let found = in_pod(&members, "notes-local-witness-100");
        assert_eq!(found.map(|it| it.0), Some("notes-local-100"));
        assert!(in_pod(&members, "notes-local-100").is_none());
        members[0].heard = None;
        assert!(in_pod(&members, "notes-local-witness-100").is_none());
    }

    #[test]
    fn no_vote_is_taken_away_while_the_members_are_being_changed() {
        let delete = |care| Step::Delete {
            pod: "notes-local-0".to_owned(),
            uid: "uid".to_owned(),
            why: "it does not work",
            care,
        };
        for care in [Care::Votes, Care::Budget] {
            assert_eq!(held_by_change(delete(care), false), delete(care));
            assert!(matches!(held_by_change(delete(care), true), Step::Wait(_)));
        }
        assert_eq!(held_by_change(delete(Care::None), true), delete(Care::None));
        assert_eq!(held_by_change(Step::Done, true), Step::Done);
    }

    #[test]
    fn a_budget_fits_the_members_before_a_change_and_after_it() {
        let mut group: synod_api::ReplicaGroup =
            serde_yaml::from_str(include_str!("build/testdata/group.yaml")).expect("a group");
        let member = |id: u32, role| synod_api::GroupMember {
            name: format!("notes-us-east-{}", id - 1),
            id,
            role,
            incarnation: String::new(),
            discard: String::new(),
        };
        group.spec.peers.clear();
        let open = |group: &synod_api::ReplicaGroup| {
            let valid = super::super::validate::validate(group, "us-east").expect("valid");
            disruptions(&valid, Timestamp::now())
        };
        let mut five: Vec<_> = (1..=5).map(|id| member(id, MemberRole::Voter)).collect();
        group.spec.members.clone_from(&five);
        assert_eq!(open(&group), 2);
        group.spec.change = Some(synod_api::MembersChange {
            epoch: 7,
            leave: vec![5],
            ..synod_api::MembersChange::default()
        });
        assert_eq!(open(&group), 1, "of four, three must stay");
        five[4].role = MemberRole::Observer;
        group.spec.members = five;
        let voter = synod_api::RoleChange {
            id: 5,
            role: MemberRole::Voter,
        };
        group.spec.change = Some(synod_api::MembersChange {
            epoch: 7,
            roles: vec![voter],
            ..synod_api::MembersChange::default()
        });
        assert_eq!(open(&group), 1, "four are there until it is made");
        group.spec.change = None;
        assert_eq!(open(&group), 1);
    }

    #[test]
    fn observers_elsewhere_have_no_vote() {
        let mut group: synod_api::ReplicaGroup =
            serde_yaml::from_str(include_str!("build/testdata/group.yaml")).expect("a group");
        let elsewhere = |group: &synod_api::ReplicaGroup| {
            let valid = super::super::validate::validate(group, "us-east").expect("valid");
            voters_elsewhere(&valid)
        };
        assert_eq!(elsewhere(&group), 1, "nothing is said of its role");
        group.spec.peers[0].role = MemberRole::Observer;
        assert_eq!(elsewhere(&group), 0);
    }

    #[test]
    fn a_budget_lets_a_pod_go_once_its_controller_says_so() {
        let budget = |allowed: u32| serde_json::json!({"status": {"disruptionsAllowed": allowed}});
        assert!(lets_go(&budget(1)));
        assert!(!lets_go(&budget(0)) && !lets_go(&Value::Null));
    }
}
