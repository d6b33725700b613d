//! Copies that do not answer alike.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use synod_proto::v1::copies_client::CopiesClient;
use synod_proto::v1::divergence_policy::Action;
use synod_proto::v1::propose_policy_response::Result as Outcome;
use synod_proto::v1::{
    CompareRequest, DivergencePolicy, Policy, ProposePolicyRequest, TransferLeadershipRequest,
};
use tokio::time::timeout;
use tonic::Code;

use super::{Group, PATIENCE, Quirk, name, names, policy};
use crate::copies::{Diverged, Found, Noise};
use crate::identity::Who;

/// A copy that goes astray is found within this time.
const FOUND_WITHIN: Duration = Duration::from_secs(1);

impl Group {
    /// Three members with one list, all of whose copies serve.
    async fn compared() -> Self {
        let mut group = Self::new();
        group.start_all().await;
        group.form().await;
        group.add(1, "a").await;
        group.all_verified(1).await;
        group
    }

    /// Waits until all that was executed so far is vouched for, on every copy.
    async fn all_verified(&self, lines: usize) {
        for number in 1..=3 {
            self.until(number, |copy| copy.serving).await;
            let running = self.running(number);
            let apply = running.member.apply();
            let verified = async {
                let mut verified = apply.verified();
                while running.list.len() < lines
                    || verified.borrow_and_update().slot() < apply.status().borrow().applied
                {
                    // How far the copy is tells no watcher of the other.
                    let _ = timeout(Duration::from_millis(20), verified.changed()).await;
                }
            };
            let verified = timeout(PATIENCE, verified).await;
            verified.unwrap_or_else(|_| panic!("member {number} is not vouched for"));
        }
    }

    /// The number of the leader.
    pub(super) async fn leads(&self) -> usize {
        let mut status = self.running(1).member.node().status();
        let known = timeout(PATIENCE, status.wait_for(|it| it.leader.is_some())).await;
        let leader = known.expect("in time").expect("it runs").leader;
        leader.expect("somebody leads").0 as usize
    }

    /// What whoever leads has found, once it is as wanted.
    async fn found(&self, wanted: impl Fn(&Found) -> bool) -> Found {
        let mut last = Found::default();
        let looking = async {
            loop {
                let leader = self.leads().await;
                last = self.running(leader).member.apply().found().borrow().clone();
                if wanted(&last) {
                    return last.clone();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let found = timeout(PATIENCE, looking).await;
        found.unwrap_or_else(|_| panic!("{last:?}"))
    }

    /// What a kubelet does once the app may be stopped.
    async fn made_anew(&self, number: usize) {
        assert_eq!(self.first_to_stop(&[number]).await, number);
        let list = &self.running(number).list;
        list.stop();
        self.until(number, |copy| copy.condemned.is_none()).await;
        list.start();
        self.until(number, |copy| copy.serving).await;
    }

    /// That a copy goes astray at the next request is found, and the copy is back in the end.
    async fn goes_astray(&self, odd: usize, quirk: Quirk, line: &str) {
        let entrance = odd % 3 + 1;
        let before = self.running(entrance).list.text();
        let applied = self.running(entrance).member.apply().status();
        let applied = applied.borrow().applied;
        self.running(odd).list.behave(quirk);
        let list = self.add(entrance, line).await;
        assert_eq!(list, format!("{before},{line}"));
        let condemned = self.until(odd, |copy| copy.condemned.is_some());
        let in_time = timeout(FOUND_WITHIN, condemned).await;
        in_time.unwrap_or_else(|_| panic!("member {odd} is found in time, {quirk:?}"));
        let told = self.found(|it| !it.diverged.is_empty()).await;
        let slot = told.diverged[0].slot;
        assert!(slot > applied.0, "that of the line");
        let expected = Diverged {
            slot,
            route: String::new(),
            members: vec![name(odd)],
            part: "body".into(),
            measure: "Quarantine".into(),
        };
        assert_eq!(told.diverged, [expected]);
        let status = self.admin_status(odd).await;
        assert_eq!(status.state, "Quarantined");
        assert!(!status.serving && status.verified < slot, "{status:?}");
        assert_eq!(self.show(odd).await, list, "another copy answers for it");
        self.made_anew(odd).await;
        assert_eq!(self.running(odd).list.text(), list, "nothing is lost");
        self.found(|it| it.diverged.is_empty()).await;
        self.all_verified(1).await;
        for number in 1..=3 {
            assert_eq!(self.running(number).list.text(), list, "member {number}");
        }
    }

    async fn on_divergence(&self, action: Action) {
        let mut divergence = DivergencePolicy::default();
        divergence.set_action(action);
        let change = ProposePolicyRequest {
            policy: Some(Policy {
                divergence: Some(divergence),
                ..policy()
            }),
            expected_version: 1,
            epoch: 1,
        };
        let leader = self.leads().await;
        let mut control = self.control(leader).await;
        let done = control.propose_policy(change).await.expect("agreed");
        assert_eq!(done.into_inner().result(), Outcome::Done);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_answers_or_stores_one_thing_differently_is_found_made_anew_and_back() {
    let group = Group::compared().await;
    let leader = group.leads().await;
    let follower = leader % 3 + 1;
    group.goes_astray(follower, Quirk::Answers, "b").await;
    group.goes_astray(follower, Quirk::Stores, "c").await;
    let leader = group.leads().await;
    group.goes_astray(leader, Quirk::Answers, "d").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_goes_on_comparing() {
    let group = Group::compared().await;
    let leader = group.leads().await;
    let successor = leader % 3 + 1;
    let mut control = group.control(leader).await;
    let to = TransferLeadershipRequest {
        to: name(successor),
    };
    control.transfer_leadership(to).await.expect("moved");
    group.goes_astray(leader, Quirk::Answers, "b").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_noisy_on_every_copy_is_told_and_left_alone() {
    let group = Group::compared().await;
    for number in 1..=3 {
        group.running(number).list.behave(Quirk::Noisy);
    }
    for line in ["b", "c", "d"] {
        group.add(1, line).await;
    }
    group.all_verified(4).await;
    let leader = group.leads().await;
    let noise = Noise {
        route: String::new(),
        part: "header x-session".into(),
    };
    let told = group.found(|it| !it.not_deterministic.is_empty()).await;
    assert_eq!(told.not_deterministic, std::slice::from_ref(&noise));
    assert_eq!(told.diverged, []);
    let status = group.admin_status(leader).await;
    assert_eq!(status.not_deterministic, [noise]);
    for number in 1..=3 {
        group.until(number, |copy| copy.app_starts == 1).await;
        let status = group.admin_status(number).await;
        assert_eq!(status.state, "CaughtUp");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_no_majority_agrees_nobody_is_taken_out_and_a_person_decides() {
    let group = Group::compared().await;
    let odd = [StatusCode::ACCEPTED, StatusCode::INTERNAL_SERVER_ERROR];
    for (number, status) in [2, 3].into_iter().zip(odd) {
        group.running(number).list.behave(Quirk::Status(status));
    }
    group.add(1, "b").await;
    let told = group.found(|it| !it.diverged.is_empty()).await;
    let [tie] = &told.diverged[..] else {
        panic!("{told:?}");
    };
    assert_eq!(tie.members, [name(1), name(2), name(3)]);
    assert_eq!(
        (tie.measure.as_str(), tie.part.as_str()),
        ("Tie", "status class")
    );
    for number in 1..=3 {
        let list = &group.running(number).list;
        assert_eq!(list.text(), "a,b");
        list.behave(Quirk::None);
    }
    group.add(1, "c").await;
    for number in 1..=3 {
        let status = group.admin_status(number).await;
        assert_eq!((status.app_starts, status.serving), (1, true));
        assert!(status.verified < tie.slot, "{status:?}");
    }
    // A person restarts those that are wrong.
    for number in [2, 3] {
        let list = &group.running(number).list;
        list.stop();
        group.until(number, |copy| !copy.serving).await;
        list.start();
        group.until(number, |copy| copy.serving).await;
    }
    group.found(|it| it.diverged.is_empty()).await;
    group.all_verified(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_to_stand_still_executes_nothing_more_and_one_that_is_told_goes_on() {
    for action in [Action::Halt, Action::Alert] {
        let group = Group::compared().await;
        group.on_divergence(action).await;
        let leader = group.leads().await;
        let odd = leader % 3 + 1;
        group.running(odd).list.behave(Quirk::Answers);
        group.add(leader, "b").await;
        group.until(odd, |copy| copy.astray.is_some()).await;
        let told = group.found(|it| !it.diverged.is_empty()).await;
        assert_eq!(told.diverged[0].measure, format!("{action:?}"));
        group.add(leader, "c").await;
        if action == Action::Halt {
            group.until(odd, |copy| !copy.serving).await;
            let status = group.admin_status(odd).await;
            assert_eq!(status.waiting_on.expect("waits").on, "divergence");
            assert_eq!(group.running(odd).list.text(), "a,b");
            assert_eq!(group.show(odd).await, "a,b,c", "others answer for it");
        } else {
            group.until(odd, |copy| copy.serving).await;
            assert_eq!(group.show(odd).await, "a,b,c");
        }
        group.until(odd, |copy| copy.condemned.is_none()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_leader_that_a_member_follows_says_what_becomes_of_its_copy() {
    let group = Group::compared().await;
    let leader = group.leads().await;
    let (follower, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let node = group.running(follower).member.node().status();
    let (id, ballot) = (node.borrow().group.expect("formed"), node.borrow().promised);
    let request = CompareRequest {
        group: Bytes::copy_from_slice(&id.0),
        term: Some(crate::node::wire::term(ballot)),
        ..CompareRequest::default()
    };
    let ask = async |own: Who, request: CompareRequest| {
        let files = group
            .authority
            .issue(&group.path("asks"), &[names().of(&own)]);
        let channel = group.channel(follower, &files, own).await;
        let answer = CopiesClient::new(channel).compare(request).await;
        answer.map_err(|error| error.code())
    };
    let as_leader = Who::Member(name(leader));
    assert!(ask(as_leader.clone(), request.clone()).await.is_ok());
    let refused = [
        (Who::Operator, request.clone(), Code::PermissionDenied),
        (
            Who::Member(name(other)),
            request.clone(),
            Code::FailedPrecondition,
        ),
        (
            as_leader.clone(),
            CompareRequest {
                term: Some(synod_proto::v1::Ballot {
                    round: 99,
                    ..crate::node::wire::term(ballot)
                }),
                ..request.clone()
            },
            Code::FailedPrecondition,
        ),
        (
            as_leader.clone(),
            CompareRequest {
                group: Bytes::from_static(&[7; 16]),
                ..request.clone()
            },
            Code::PermissionDenied,
        ),
        (
            as_leader,
            CompareRequest {
                release: u64::MAX,
                ..request
            },
            Code::InvalidArgument,
        ),
    ];
    for (own, request, code) in refused {
        let answer = ask(own.clone(), request).await;
        assert_eq!(answer.expect_err("refused"), code, "{own:?}");
    }
}
