//! Members that come and go while the group serves.

use std::path::PathBuf;

use http::{Method, StatusCode};
use synod_proto::v1::control_client::ControlClient;
use synod_proto::v1::member_change::Change;
use synod_proto::v1::{
    ChangeMembersRequest, GroupMember, MemberChange, MemberRole, MembersRequest, MembersResponse,
    NewMember, NewRole,
};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::snapshots::line;
use super::{Group, name, names};
use crate::identity::Who;

/// A member that says it leads.
pub(super) struct Leader {
    pub(super) number: usize,
    control: ControlClient<Channel>,
    pub(super) members: MembersResponse,
}

impl Group {
    /// Among those that run.
    pub(super) async fn members_of_leader(&self) -> Leader {
        loop {
            for number in 1..=self.members.len() {
                if self.members[number - 1].is_none() {
                    continue;
                }
                let mut control = self.control(number).await;
                let Ok(members) = control.members(MembersRequest {}).await else {
                    continue;
                };
                let members = members.into_inner();
                if members.leads && members.settled {
                    return Leader {
                        number,
                        control,
                        members,
                    };
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Asks the leader, again while it says that the time has not come.
    pub(super) async fn change(&self, changes: impl Fn(&MembersResponse) -> Vec<Change>) -> Leader {
        let changing = async {
            loop {
                let mut leader = self.members_of_leader().await;
                let changes = changes(&leader.members);
                let asked = ask(&mut leader, changes).await;
                match asked {
                    Ok(()) => return self.members_of_leader().await,
                    Err(status) if status.message().contains("nothing was done") => {}
                    Err(status) => panic!("{status}"),
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(super::PATIENCE, changing)
            .await
            .expect("in time")
    }

    /// As an observer that has an empty disk.
    pub(super) async fn newcomer(&self, number: usize) -> NewMember {
        NewMember {
            name: name(number),
            incarnation: self.admin_status(number).await.incarnation,
            role: MemberRole::Observer.into(),
            region: String::new(),
        }
    }

    pub(super) fn join_file(&self, number: usize) -> PathBuf {
        self.path(&format!("join-{number}.json"))
    }

    /// It runs, is added as an observer, and then made a voter.
    pub(super) async fn add_member(&self, number: usize) {
        self.let_in(number).await;
        self.promote(number).await;
    }

    /// It runs, and is added as an observer. Returns who leads.
    pub(super) async fn let_in(&self, number: usize) -> usize {
        let newcomer = self.newcomer(number).await;
        let leader = self.change(|_| vec![Change::Add(newcomer.clone())]).await;
        std::fs::write(self.join_file(number), &leader.members.join).expect("written");
        leader.number
    }

    async fn promote(&self, number: usize) {
        let promoted = self.change(|members| vec![role(members, number, MemberRole::Voter)]);
        promoted.await;
    }

    pub(super) async fn remove_member(&self, number: usize) {
        self.change(|members| vec![Change::Remove(id(members, number))])
            .await;
    }
}

pub(super) async fn ask(leader: &mut Leader, changes: Vec<Change>) -> Result<(), Status> {
    let changes = changes
        .into_iter()
        .map(|it| MemberChange { change: Some(it) });
    let request = ChangeMembersRequest {
        epoch: leader.members.epoch,
        changes: changes.collect(),
    };
    leader.control.change_members(request).await.map(drop)
}

pub(super) fn id(members: &MembersResponse, number: usize) -> u32 {
    let found = members.members.iter().find(|it| it.name == name(number));
    found.unwrap_or_else(|| panic!("{members:?}")).id
}

pub(super) fn role(members: &MembersResponse, number: usize, role: MemberRole) -> Change {
    Change::Role(NewRole {
        id: id(members, number),
        role: role.into(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_comes_in_and_others_go_and_the_list_goes_on() {
    let mut group = Group::new();
    group.start_all().await;
    group.form().await;
    group.add(1, "a").await;
    group.start(4).await;
    group.add_member(4).await;
    assert_eq!(group.add(4, "b").await, "a,b");
    // The leader goes, whoever that is, and then the next: two of four are left.
    for left in ["a,b", "a,b,c"] {
        let leader = group.members_of_leader().await.number;
        let stays = |it: &usize| *it != leader && group.members[it - 1].is_some();
        let other = (1..=4).rev().find(stays).expect("two at least");
        assert_eq!(group.show(other).await, left);
        group.remove_member(leader).await;
        let gone = group.admin_status(leader).await;
        assert!(!gone.ready && gone.removed.is_some(), "{gone:?}");
        // Whoever still asks it is sent away at once.
        group
            .ask(
                leader,
                Method::POST,
                "late",
                StatusCode::SERVICE_UNAVAILABLE,
            )
            .await;
        let running = group.members[leader - 1].take().expect("runs");
        running.member.kill().await;
        group
            .add(other, if left == "a,b" { "c" } else { "d" })
            .await;
    }
    for number in (1..=4).filter(|it| group.members[it - 1].is_some()) {
        assert_eq!(group.show(number).await, "a,b,c,d");
    }
    let members = group.members_of_leader().await.members;
    assert_eq!((members.members.len(), members.former.len()), (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lost_its_disk_is_replaced_by_one_with_another_number() {
    let mut group = Group::new();
    group.start_all().await;
    group.form().await;
    group.add(1, "a").await;
    let lost = group.members_of_leader().await.number % 3 + 1;
    group.members[lost - 1]
        .take()
        .expect("runs")
        .member
        .kill()
        .await;
    std::fs::remove_dir_all(group.path(&name(lost))).expect("lost");
    group.add(lost % 3 + 1, "b").await;
    group.start(lost).await;
    // It knows that there is a group, and takes no part in it by itself.
    assert_eq!(group.admin_status(lost).await.group, None);
    let newcomer = group.newcomer(lost).await;
    let replaced = |members: &MembersResponse| {
        vec![
            Change::Remove(id(members, lost)),
            Change::Add(newcomer.clone()),
        ]
    };
    let leader = group.change(replaced).await;
    assert_eq!(id(&leader.members, lost), 4);
    std::fs::write(group.join_file(lost), &leader.members.join).expect("written");
    group.promote(lost).await;
    assert_eq!(group.add(lost, "c").await, "a,b,c");
    // It is a voter like the others: with it, one of the others may go.
    let other = lost % 3 + 1;
    group.members[other - 1]
        .take()
        .expect("runs")
        .member
        .kill()
        .await;
    assert_eq!(group.add(lost, "d").await, "a,b,c,d");
    // And it starts again from its own log, whatever the file says.
    std::fs::write(group.join_file(lost), "nothing").expect("written");
    group.members[lost - 1]
        .take()
        .expect("runs")
        .member
        .stop()
        .await;
    group.start(lost).await;
    group.start(other).await;
    for number in 1..=3 {
        assert_eq!(group.show(number).await, "a,b,c,d");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_may_not_be_is_refused_with_its_reason_and_does_nothing() {
    let mut group = Group::new();
    group.start_all().await;
    group.form().await;
    group.add(1, "a").await;
    group.start(4).await;
    group.start(5).await;
    let (fourth, fifth) = (group.newcomer(4).await, group.newcomer(5).await);
    let both = vec![Change::Add(fourth.clone()), Change::Add(fifth)];
    let leader = group.change(|_| both.clone()).await;
    for number in [4, 5] {
        std::fs::write(group.join_file(number), &leader.members.join).expect("written");
    }
    for number in [4, 5] {
        group.show(number).await;
    }
    let mut leader = group.members_of_leader().await;
    let members = leader.members.clone();
    let mut refused = async |epoch: u64, changes: Vec<Change>| {
        leader.members.epoch = epoch;
        ask(&mut leader, changes).await.expect_err("refused")
    };
    let voter = |number| role(&members, number, MemberRole::Voter);
    let gone = |number| Change::Remove(id(&members, number));

    let old = refused(1, vec![gone(4)]).await;
    assert_eq!(old.code(), Code::FailedPrecondition);
    assert!(old.message().contains("epoch 2"), "{old}");
    let two = refused(2, vec![voter(4), voter(5)]).await;
    assert_eq!(two.code(), Code::InvalidArgument, "{two}");
    let again = refused(2, vec![Change::Add(fourth.clone())]).await;
    assert_eq!(again.code(), Code::InvalidArgument, "{again}");
    let all = refused(2, vec![gone(1), gone(2), gone(3)]).await;
    assert!(all.message().contains("voter"), "{all}");
    let nobody = refused(2, vec![Change::Remove(9)]).await;
    assert!(nobody.message().contains("member 9"), "{nobody}");

    let follower = leader.number % 3 + 1;
    leader.control = group.control(follower).await;
    leader.members.epoch = 2;
    let asked = ask(&mut leader, vec![gone(4)]).await;
    let elsewhere = asked.expect_err("does not lead");
    assert!(elsewhere.message().contains("ask notes-"), "{elsewhere}");
    let who = Who::Member(name(4));
    let files = group
        .authority
        .issue(&group.path("member"), &[names().of(&who)]);
    leader.control = ControlClient::new(group.channel(leader.number, &files, who).await);
    let asked = ask(&mut leader, vec![gone(4)]).await;
    assert_eq!(
        asked.expect_err("no operator").code(),
        Code::PermissionDenied
    );

    let now = group.members_of_leader().await.members;
    assert_eq!((now.epoch, now.members.len()), (2, 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_change_leaves_fewer_than_a_quorum_that_is_heard() {
    let mut group = Group::new();
    group.start_all().await;
    group.form().await;
    group.add(1, "a").await;
    let mut leader = group.members_of_leader().await;
    let dead = leader.number % 3 + 1;
    let alive = dead % 3 + 1;
    group.members[dead - 1]
        .take()
        .expect("runs")
        .member
        .kill()
        .await;
    let heard = |it: &GroupMember| it.name == name(dead) && it.heard;
    while leader.members.members.iter().any(heard) {
        leader = group.members_of_leader().await;
    }
    // Without the one that lives, the leader would have to wait for the dead one.
    let gone = Change::Remove(id(&leader.members, alive));
    let refused = ask(&mut leader, vec![gone]).await.expect_err("refused");
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains(&name(dead)), "{refused}");
    group.remove_member(dead).await;
    assert_eq!(group.add(alive, "b").await, "a,b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_member_begins_behind_a_snapshot_when_the_log_does() {
    let mut group = Group::with_snapshots(20);
    group.start_all().await;
    group.form().await;
    let mut last = String::new();
    for number in 0..120 {
        last = group.add(number % 3 + 1, &line(number)).await;
    }
    for number in 1..=3 {
        group.until_status(number, |it| it.base > 0).await;
    }
    group.start(4).await;
    group.add_member(4).await;
    assert!(group.show(4).await == last, "all of it, in its order");
    let status = group.admin_status(4).await;
    assert!(status.base > 0, "{status:?}");
    assert!(
        group
            .running(4)
            .list
            .executed
            .load(std::sync::atomic::Ordering::SeqCst)
            < 120
    );
}
