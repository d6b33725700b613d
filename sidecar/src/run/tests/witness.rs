//! Members that vote and run no app.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use synod_proto::v1::copies_client::CopiesClient;
use synod_proto::v1::member_change::Change;
use synod_proto::v1::poison_client::PoisonClient;
use synod_proto::v1::{MemberRole, MembersResponse, NewMember};
use tonic::Code;

use super::members::{ask, id, role};
use super::snapshots::line;
use super::{Group, Member, MemberEnd, NodeHandle, PATIENCE, http, name};
use crate::admin::status::Status;
use crate::app::NoApp;
use crate::config;
use crate::identity::Who;
use crate::identity::testing::names;
use crate::run::FormError;
use crate::snapshot::Store;

/// Of three members.
const WITNESS: usize = 3;

impl Group {
    /// Two copies and a witness.
    async fn with_a_witness(mut self) -> Self {
        self.witnesses = vec![WITNESS];
        self.start_all().await;
        self.form().await;
        self
    }

    async fn kill(&mut self, number: usize) {
        let running = self.members[number - 1].take().expect("runs");
        running.member.kill().await;
    }

    /// What the admin port of a member says there.
    async fn admin(&self, number: usize, path: &str) -> (StatusCode, String) {
        let address = self.running(number).member.addresses().admin;
        http(address, Method::GET, path, "").await.expect("answers")
    }

    /// What a member keeps: how many, and how many of them with a state.
    fn tables_and_states(&self, number: usize) -> (usize, usize) {
        let folder = crate::keeper::snapshots(&self.path(&name(number)));
        let all = Store::source(&folder).expect("a folder").list();
        let states = all.iter().filter(|it| it.has_state()).count();
        (all.len(), states)
    }

    /// The newest snapshot that a member has.
    async fn newest_state(&self, number: usize) -> Option<u64> {
        let snapshot = self.admin_status(number).await.snapshot;
        snapshot.map(|it| it.slot)
    }

    async fn new_witness(&self, number: usize) -> NewMember {
        NewMember {
            role: MemberRole::Witness.into(),
            ..self.newcomer(number).await
        }
    }

    async fn let_witness_in(&self, number: usize, old: bool) {
        let new = self.new_witness(number).await;
        let changes = |members: &MembersResponse| {
            let out = old.then(|| Change::Remove(id(members, number)));
            out.into_iter().chain([Change::Add(new.clone())]).collect()
        };
        let leader = self.change(changes).await;
        std::fs::write(self.join_file(number), &leader.members.join).expect("written");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_witness_either_of_two_copies_may_go_and_its_entrance_hands_everything_on() {
    let mut group = Group::new().with_a_witness().await;
    assert_eq!(group.add(WITNESS, "a").await, "a");
    assert_eq!(group.show(WITNESS).await, "a");
    let status = group.until_status(WITNESS, |it| it.ready).await;
    assert_eq!(
        (status.role.as_str(), status.state.as_str(), status.serving),
        ("Witness", "CaughtUp", false)
    );
    assert_eq!(
        (status.applied, status.waiting_on, status.snapshot),
        (0, None, None)
    );
    for path in ["/lifecycle/app-may-start", "/app-health/notes/readyz"] {
        let (code, words) = group.admin(WITNESS, path).await;
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(words.contains("witness"), "{words}");
    }
    assert_eq!(group.admin(WITNESS, "/ready").await.0, StatusCode::OK);
    let mut lines = "a".to_owned();
    for gone in [1, 2] {
        group.kill(gone).await;
        lines = format!("{lines},without-{gone}");
        let added = group.add(WITNESS, &format!("without-{gone}")).await;
        assert_eq!(added, lines);
        assert_eq!(group.show(WITNESS).await, lines);
        let status = group.until_status(WITNESS, |it| it.leader.is_some()).await;
        assert_eq!(status.leader, Some(name(3 - gone)), "not the witness");
        group.start(gone).await;
        let own = async {
            while group.running(gone).list.text() != lines {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, own).await.expect("its copy");
    }
    assert_eq!(group.running(WITNESS).list.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w5_a_witness_forgets_only_what_both_copies_have_in_snapshots() {
    let mut group = Group::with_snapshots(10);
    let copies_log = group.log_bytes;
    group.witnesses = vec![WITNESS];
    group.start(1).await;
    group.start(2).await;
    group.log_bytes = 64 << 20;
    group.start(WITNESS).await;
    group.log_bytes = copies_log;
    group.form().await;
    let lines = group.fill(0, &[1, 2, WITNESS], 20).await;
    // It is bounded.
    let status = group
        .until_status(WITNESS, |it| it.last - it.base < 60)
        .await;
    let (kept, states) = group.tables_and_states(WITNESS);
    assert!(kept > 1 && states == 0, "{kept}, {states} with a state");
    // While one is away, the other cuts its own log, and the witness keeps what only that one has.
    group.kill(2).await;
    let lines = group.fill(lines, &[1], status.last + 20).await;
    group.kill(1).await;
    group.start(2).await;
    let shown = group.show(2).await;
    assert_eq!(
        shown.split(',').count(),
        lines,
        "nothing is lost with the other"
    );
    assert_eq!(group.show(WITNESS).await, shown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_behind_everybodys_log_gets_the_tables_of_a_snapshot_and_no_state() {
    let mut group = Group::with_snapshots(10).with_a_witness().await;
    group.add(WITNESS, "first").await;
    group.kill(WITNESS).await;
    let lines = group.fill(1, &[1, 2], 30).await;
    group.start(WITNESS).await;
    let status = group
        .until_status(WITNESS, |it| it.base > 30 && it.state == "CaughtUp")
        .await;
    let (kept, states) = group.tables_and_states(WITNESS);
    assert!(kept > 0 && states == 0, "{kept}, {states} with a state");
    assert_eq!(status.policy_version, 1);
    for number in [1, 2] {
        group.kill(number).await;
        let other = 3 - number;
        group.add(other, "more").await;
        group.start(number).await;
        group.until_status(number, |it| it.serving).await;
    }
    // And it begins from its own tables.
    group.kill(WITNESS).await;
    group.start(WITNESS).await;
    group
        .until_status(WITNESS, |it| it.state == "CaughtUp")
        .await;
    let shown = group.show(WITNESS).await;
    assert_eq!(shown.split(',').count(), lines + 2);
    group.kill(1).await;
    group.add(WITNESS, "last").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn w5_a_new_witness_begins_behind_nothing_that_too_few_copies_have() {
    let mut group = Group::with_snapshots(10).with_a_witness().await;
    let mut lines = group.fill(0, &[1, 2], 0).await;
    // A copy that saves nothing any more. Its log goes on, and the other one's is cut beyond what it saved.
    group.running(2).list.stop();
    group.until_status(2, |it| !it.serving).await;
    group.kill(WITNESS).await;
    std::fs::remove_dir_all(group.path(&name(WITNESS))).expect("lost");
    let mut saved = 0;
    // What was under way it may still have got.
    while let Some(newer) = group.newest_state(2).await.filter(|it| *it > saved) {
        saved = newer;
        lines = group.fill(lines, &[1], saved).await;
    }
    group.start(WITNESS).await;
    group.let_witness_in(WITNESS, true).await;
    // It waits, or begins with what both have, if that one hands it its log.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let status = group.admin_status(WITNESS).await;
    let has = group.newest_state(2).await.unwrap_or_default();
    assert!(status.base <= has, "behind {has}: {status:?}");
    let waits = status.last == 0;
    assert!(!(waits && status.ready), "it votes for nothing: {status:?}");
    group.running(2).list.start();
    let lines = group.fill(lines, &[1, 2], status.commit.max(saved)).await;
    // What it lacks when a copy dies, the other one may have in no log any more.
    let last = group.admin_status(1).await.last;
    group
        .until_status(WITNESS, |it| it.base > 0 && it.last >= last)
        .await;
    group.kill(1).await;
    let shown = group.show(WITNESS).await;
    assert_eq!(shown.split(',').count(), lines);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_comes_in_is_replaced_when_its_disk_is_lost_and_never_becomes_a_copy() {
    let mut group = Group::new();
    group.start_all().await;
    group.form().await;
    group.add(1, "a").await;
    group.witnesses = vec![4];
    group.start(4).await;
    group.let_witness_in(4, false).await;
    group
        .until_status(4, |it| it.ready && it.role == "Witness")
        .await;
    // In the place of a copy: two and the witness are left.
    group.remove_member(3).await;
    group.kill(3).await;
    assert_eq!(group.add(4, "b").await, "a,b");
    let mut leader = group.members_of_leader().await;
    for (number, other) in [
        (4, MemberRole::Voter),
        (4, MemberRole::Observer),
        (2, MemberRole::Witness),
    ] {
        let change = role(&leader.members, number, other);
        let refused = ask(&mut leader, vec![change]).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains(&name(number)), "{refused}");
    }
    group.kill(4).await;
    std::fs::remove_dir_all(group.path(&name(4))).expect("lost");
    group.start(4).await;
    group.let_witness_in(4, true).await;
    group
        .until_status(4, |it| it.ready && it.role == "Witness")
        .await;
    for gone in [1, 2] {
        group.kill(gone).await;
        group.add(4, "c").await;
        group.start(gone).await;
        group.until_status(gone, |it| it.serving).await;
    }
    assert_eq!(group.show(4).await, "a,b,c,c");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn witnesses_lead_while_no_voter_with_an_app_does_and_give_it_back() {
    let mut group = Group::new();
    group.witnesses = vec![2, 3];
    group.start_all().await;
    group.form().await;
    group.add(1, "a").await;
    group.start(4).await;
    group.let_in(4).await;
    group.until_status(4, |it| it.serving).await;
    group.kill(1).await;
    assert_eq!(group.add(2, "b").await, "a,b", "the observer answers");
    let led = |it: &Status| it.leader.clone();
    let leader = led(&group.until_status(4, |it| it.leader.is_some()).await);
    assert!(
        [Some(name(2)), Some(name(3))].contains(&leader),
        "{leader:?}"
    );
    group.start(1).await;
    group.until_status(4, |it| led(it) == Some(name(1))).await;
    assert_eq!(group.show(3).await, "a,b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_not_what_the_group_counts_on_does_not_begin() {
    for witness in [false, true] {
        let mut group = Group::new();
        group.start(1).await;
        group.start(2).await;
        group.witnesses = if witness { vec![3] } else { Vec::new() };
        group.start(3).await;
        group.witnesses = if witness { Vec::new() } else { vec![3] };
        group.form().await;
        let third = group.members[2].as_mut().expect("runs");
        let ended = tokio::time::timeout(PATIENCE, third.member.ended()).await;
        let end = ended.expect("in time");
        let MemberEnd::Form(FormError::Role { counted }) = end else {
            panic!("{end}");
        };
        assert_eq!(counted, !witness);
        // Nothing was written: as what it is to the group it begins.
        group.start(3).await;
        group.until_status(3, |it| it.ready).await;
        group.kill(3).await;
        // And from its own log it is refused, too.
        let mut config = group.config(3);
        config.witness = witness;
        if witness {
            config.app = config::App::default();
        }
        let mut member = Member::start_with(NodeHandle::new(), config, NoApp, NoApp)
            .await
            .expect("starts");
        let ended = tokio::time::timeout(PATIENCE, member.ended()).await;
        let end = ended.expect("in time");
        assert!(
            matches!(end, MemberEnd::Form(FormError::Role { .. })),
            "{end}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_witness_takes_no_snapshot_and_offers_none() {
    let group = Group::with_snapshots(10).with_a_witness().await;
    group.add(1, &line(1)).await;
    group.fill(1, &[1, 2, WITNESS], 20).await;
    let mut control = group.control(WITNESS).await;
    let asked = control
        .take_snapshot(synod_proto::v1::TakeSnapshotRequest {})
        .await;
    let refused = asked.expect_err("it has no state");
    assert!(refused.message().contains("witness"), "{refused}");
    let offered = control
        .kept_snapshots(synod_proto::v1::KeptSnapshotsRequest {})
        .await;
    let offered = offered.expect("answers").into_inner().snapshots;
    assert!(offered.is_empty(), "{offered:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k1_n2_a_witness_says_nothing_about_requests_and_copies() {
    let group = Group::new().with_a_witness().await;
    group.add(1, "a").await;
    let group_id = group.running(1).member.node().status().borrow().group;
    let group_id = Bytes::copy_from_slice(&group_id.expect("formed").0);
    let own = Who::Member(name(1));
    let files = group
        .authority
        .issue(&group.path("asks"), &[names().of(&own)]);
    let channel = group.channel(WITNESS, &files, own).await;
    let term = synod_proto::v1::PoisonTerm {
        group: group_id.clone(),
        ballot: None,
    };
    let ask = synod_proto::v1::PoisonAskRequest {
        term: Some(term),
        slot: 1,
        number: 1,
    };
    let asked = PoisonClient::new(channel.clone()).ask(ask).await;
    let compare = synod_proto::v1::CompareRequest {
        group: group_id,
        ..Default::default()
    };
    let compared = CopiesClient::new(channel).compare(compare).await;
    for refused in [
        asked.expect_err("it has no copy"),
        compared.expect_err("it has no copy"),
    ] {
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(refused.message().contains("witness"), "{refused}");
    }
}
