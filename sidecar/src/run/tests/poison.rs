//! Requests at which the app of every copy fails, or of some.

use std::time::Duration;

use http::{Method, StatusCode};
use synod_proto::v1::poison_client::PoisonClient;
use synod_proto::v1::poison_policy::Skip;
use synod_proto::v1::{
    PoisonAskRequest, PoisonPolicy, PoisonTerm, Policy, ProposePolicyRequest, SkipRequest,
    StatusRequest,
};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Code;

use super::{Group, List, Member, PATIENCE, Running, http, name, policy};
use crate::admin::status::Status;
use crate::identity::Who;
use crate::identity::testing::names;
use crate::node::NodeStatus;

const POISON: &str = "poison";

/// Starts the app of a member again whenever it has ended, and ends it when it may not go on.
fn supervise(group: &Group, number: usize) -> JoinHandle<()> {
    let list = group.running(number).list.clone();
    let admin = group.running(number).member.addresses().admin;
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(30)).await;
            if list.instance.load(std::sync::atomic::Ordering::SeqCst) == 0 {
                list.start();
                continue;
            }
            let live = http(admin, Method::GET, "/app-health/app/livez", "").await;
            if live.is_ok_and(|(status, _)| status != StatusCode::OK) {
                list.stop();
            }
        }
    })
}

impl Group {
    async fn supervised(skip: Skip) -> Self {
        Self::supervised_with(Self::new(), skip).await
    }

    async fn supervised_with(mut group: Self, skip: Skip) -> Self {
        group.start_all().await;
        for number in 1..=3 {
            drop(supervise(&group, number));
        }
        group.form().await;
        group.add(1, "a").await;
        group.set(skip).await;
        group
    }

    async fn set(&self, skip: Skip) {
        let policy = Policy {
            apply_timeout_ms: 300,
            poison: Some(PoisonPolicy { skip: skip.into() }),
            ..policy()
        };
        let proposing = ProposePolicyRequest {
            policy: Some(policy),
            expected_version: 1,
            epoch: 0,
        };
        let mut control = self.control(1).await;
        control.propose_policy(proposing).await.expect("agreed on");
        for number in 1..=3 {
            let known = self.until_status(number, |it| it.policy_version == 2);
            known.await;
        }
    }

    fn all_die(&self) {
        for running in self.members.iter().flatten() {
            die(&running.list);
        }
    }

    /// Sends a line through member 1, in the background.
    fn send(&self, line: &'static str) -> JoinHandle<(StatusCode, String)> {
        let address = self.running(1).member.addresses().http;
        tokio::spawn(async move {
            let answer = http(address, Method::POST, "/list", line).await;
            answer.expect("answers")
        })
    }

    /// The member that leads, as soon as it tells of a request that no copy gets past.
    async fn undecided(&self, wanted: impl Fn(&Status) -> bool) -> (usize, Status) {
        let asking = async {
            loop {
                for number in 1..=3 {
                    if self.members[number - 1].is_none() {
                        continue;
                    }
                    let status = self.admin_status(number).await;
                    if status.undecided.is_some() && wanted(&status) {
                        return (number, status);
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.expect("told")
    }
}

fn die(list: &List) {
    *list.dies_of.lock().expect("list") = Some(POISON.to_owned());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_kills_every_copy_is_skipped_and_its_client_told() {
    let group = Group::supervised(Skip::WhenAllFailed).await;
    group.all_die();
    let (status, body) = group.send(POISON).await.expect("runs");
    assert_eq!(status, StatusCode::BAD_GATEWAY, "{body}");
    assert!(body.contains("\"outcome\":\"skipped\""), "{body}");
    let list = group.add(2, "b").await;
    assert_eq!(list, "a,b");
    for number in 1..=3 {
        let told = group.until_status(number, |it| !it.skipped.is_empty() && it.serving);
        let told = told.await;
        assert_eq!(told.skipped.len(), 1);
        let skipped = &told.skipped[0];
        assert_eq!((&*skipped.method, &*skipped.path), ("POST", "/list"));
        assert!(!skipped.may_have_been_acknowledged);
        assert_eq!(group.show(number).await, "a,b");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_hangs_every_copy_is_skipped() {
    let group = Group::supervised(Skip::WhenAllFailed).await;
    for running in group.members.iter().flatten() {
        *running.list.hangs_at.lock().expect("list") = Some(POISON.to_owned());
    }
    let (status, body) = group.send(POISON).await.expect("runs");
    assert_eq!(status, StatusCode::BAD_GATEWAY, "{body}");
    assert_eq!(group.add(3, "b").await, "a,b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_down_is_waited_for_by_name_and_nothing_new_is_taken_meanwhile() {
    let mut group = Group::supervised(Skip::WhenAllFailed).await;
    let away = group.members[2].take().expect("runs");
    away.member.kill().await;
    group.all_die();
    let poisoned = group.send(POISON);
    let names = |it: &Status| {
        let waits = &it.undecided.as_ref().expect("it is").waits_for;
        waits.iter().any(|it| it.starts_with(&name(3)))
    };
    let (leader, status) = group.undecided(names).await;
    let waiting = status.waiting_on.expect("waits");
    assert_eq!(waiting.on, "poison");
    let other = 3 - leader;
    group
        .until_status(other, |it| {
            it.waiting_on.as_ref().is_some_and(|it| it.on == "poison")
        })
        .await;
    for number in [1, 2] {
        let address = group.running(number).member.addresses().http;
        let (status, body) = http(address, Method::POST, "/list", "b")
            .await
            .expect("answers");
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains("\"waiting_on\":\"poison\""), "{body}");
    }
    // All come back with new processes, and what was promised still holds.
    for number in [1, 2] {
        let Running { member, list } = group.members[number - 1].take().expect("runs");
        member.kill().await;
        let member = Member::start(group.config(number), list.clone(), list.clone()).await;
        let member = member.expect("starts");
        group.members[number - 1] = Some(Running { member, list });
        drop(supervise(&group, number));
    }
    drop(poisoned);
    group.start(3).await;
    die(&group.running(3).list);
    drop(supervise(&group, 3));
    for number in 1..=3 {
        group.until_status(number, |it| it.skipped.len() == 1).await;
    }
    assert_eq!(group.add(1, "c").await, "a,c");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_copy_has_executed_is_not_skipped_and_the_others_get_its_state() {
    let group = Group::supervised_with(Group::with_snapshots(1_000), Skip::WhenAllFailed).await;
    for number in [2, 3] {
        die(&group.running(number).list);
    }
    let (status, body) = group.send(POISON).await.expect("runs");
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let slot = group.running(1).member.node().status().borrow().commit.0;
    for number in [2, 3] {
        group
            .until_status(number, |it| it.serving && it.applied >= slot)
            .await;
        assert_eq!(group.running(number).list.text(), "a,poison");
    }
    assert_eq!(group.add(3, "b").await, "a,poison,b");
    for number in 1..=3 {
        assert_eq!(group.show(number).await, "a,poison,b");
        assert!(group.admin_status(number).await.skipped.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_an_operator_gives_up_a_request_and_only_one_that_no_copy_gets_past() {
    let group = Group::supervised(Skip::Never).await;
    group.all_die();
    drop(group.send(POISON));
    let (leader, status) = group.undecided(|_| true).await;
    let undecided = status.undecided.expect("it is");
    assert!(
        undecided.waits_for[0].contains("synod skip"),
        "{undecided:?}"
    );
    let mut control = group.control(leader).await;
    let slot = undecided.slot;
    // An operator is told the same.
    let said = control.status(StatusRequest {}).await.expect("answers");
    assert_eq!(said.into_inner().undecided, Some(undecided.into()));
    let refused = control.skip(SkipRequest { slot: slot - 1 }).await;
    assert_eq!(
        refused.expect_err("refused").code(),
        Code::FailedPrecondition
    );
    let mut elsewhere = group.control(leader % 3 + 1).await;
    let refused = elsewhere.skip(SkipRequest { slot }).await;
    assert_eq!(
        refused.expect_err("refused").code(),
        Code::FailedPrecondition
    );
    let files = group.config(1).tls;
    let channel = group.channel(leader, &files, Who::Member(name(1))).await;
    let mut member = synod_proto::v1::control_client::ControlClient::new(channel);
    let refused = member.skip(SkipRequest { slot }).await;
    assert_eq!(refused.expect_err("refused").code(), Code::PermissionDenied);
    let skipped = control.skip(SkipRequest { slot }).await;
    let skipped = skipped.expect("skipped").into_inner();
    assert_eq!((&*skipped.method, &*skipped.path), ("POST", "/list"));
    assert!(!skipped.may_have_been_acknowledged);
    // What is undecided is told as it was when the leader looked last.
    let said = async {
        loop {
            let said = control.status(StatusRequest {}).await.expect("answers");
            let said = said.into_inner();
            if said.undecided.is_none() {
                return said;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let said = timeout(PATIENCE, said).await.expect("it is decided");
    assert_eq!((said.skipped.len(), said.skipped[0].slot), (1, slot));
    assert_eq!(group.add(2, "b").await, "a,b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_leader_that_a_member_follows_asks_it() {
    let group = Group::supervised(Skip::WhenAllFailed).await;
    let leader = group.leads().await;
    let (follower, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let mut status = group.running(follower).member.node().status();
    let follows = |it: &NodeStatus| it.leader.is_some_and(|it| it.0 as usize == leader);
    let status = timeout(PATIENCE, status.wait_for(follows)).await;
    let status = status.expect("in time").expect("it runs").clone();
    let term = |group: &[u8], round| PoisonTerm {
        group: group.to_vec().into(),
        ballot: Some(synod_proto::v1::Ballot {
            round,
            ..crate::node::wire::term(status.promised)
        }),
    };
    let id = status.group.expect("formed").0;
    let round = status.promised.round;
    let ask = async |own: Who, term: PoisonTerm, slot: u64| {
        let files = group
            .authority
            .issue(&group.path("asks"), &[names().of(&own)]);
        let channel = group.channel(follower, &files, own).await;
        let request = PoisonAskRequest {
            term: Some(term),
            slot,
            number: 1,
        };
        let answer = PoisonClient::new(channel).ask(request).await;
        answer.map_err(|error| error.code())
    };
    let as_leader = Who::Member(name(leader));
    let answer = ask(as_leader.clone(), term(&id, round), 1).await;
    assert!(answer.is_ok(), "{answer:?}");
    for (own, term, slot, code) in [
        (Who::Operator, term(&id, round), 9, Code::PermissionDenied),
        (
            Who::Member(name(other)),
            term(&id, round),
            9,
            Code::FailedPrecondition,
        ),
        (
            as_leader.clone(),
            term(&id, round + 1),
            9,
            Code::FailedPrecondition,
        ),
        (
            as_leader.clone(),
            term(&[7; 16], round),
            9,
            Code::PermissionDenied,
        ),
        (as_leader, term(&id, round), 0, Code::InvalidArgument),
    ] {
        let answer = ask(own.clone(), term, slot).await;
        assert_eq!(answer.expect_err("refused"), code, "{own:?}");
    }
    // Nothing was promised: it executes what comes.
    assert_eq!(group.add(follower, "b").await, "a,b");
}
