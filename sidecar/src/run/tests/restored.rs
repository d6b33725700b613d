//! New groups that begin with what a backup of an old one has.

use std::path::Path;

use http::{Method, StatusCode};
use synod_paxos::Slot;

use super::snapshots::line;
use super::{Group, http, name};
use crate::backup::{self, BackupError, Extent, Manifest};
use crate::founding::{self, Founder, FoundingError};

/// The slot of the request with this body.
fn slot_of(backup: &Path, body: &str) -> Slot {
    let (_, mut entries) = backup::open(backup).expect("a backup");
    while let Some(entry) = entries.next_entry().expect("whole") {
        let payload = &entry.command.payload;
        if payload.windows(body.len()).any(|it| it == body.as_bytes()) {
            return entry.slot;
        }
    }
    panic!("{body} is not behind the snapshot");
}

impl Group {
    /// A backup of what this member knows to be chosen.
    async fn back_up(&self, number: usize, into: &Path) -> Manifest {
        let group = self.running(number).member.node().status().borrow().group;
        let group = group.expect("formed");
        let member = self.operators_connector(number);
        let made = backup::create(&member, group, "notes", Extent::Chosen, into, |_| {}).await;
        made.expect("made")
    }

    fn restore(&self, from: &Path, before: Option<Slot>) -> Result<(), FoundingError> {
        let config = self.config(1);
        let founder = Founder {
            service: "notes",
            member: &name(1),
            region: "",
            data: &config.data,
            log: &config.log,
        };
        let founded = founding::restore(from, before, &founder)?;
        let genesis = founded.genesis.write_create_only(&config.genesis);
        genesis.expect("written");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_goes_on_from_the_slot_before_a_mistake_with_other_members() {
    let mut old = Group::with_snapshots(6);
    old.start_all().await;
    old.form().await;
    let mut lines = old.fill(0, &[1, 2, 3], 0).await;
    // Members came and went before: their numbers are not used again.
    old.start(4).await;
    old.add_member(4).await;
    old.remove_member(1).await;
    lines += 1;
    old.add(4, &line(lines)).await;
    let wanted = old.add(2, "good").await;
    old.add(3, "mistake").await;
    old.add(4, "after").await;
    let folder = tempfile::tempdir().expect("folder");
    let into = folder.path().join("backup");
    let group = old.running(2).member.node().status().borrow().group;
    let manifest = old.back_up(2, &into).await;

    let mistake = slot_of(&into, "mistake");
    let mut new = Group::with_snapshots(6);
    let early = new.restore(&into, Some(Slot(manifest.snapshot_slot)));
    let early = early.expect_err("refused").to_string();
    assert!(early.contains("not in this backup"), "{early}");
    let late = new.restore(&into, Some(Slot(manifest.through + 2)));
    late.expect_err("refused");
    new.restore(&into, Some(mistake)).expect("restored");

    // The old group is still there, and they have nothing to do with each other.
    new.start(1).await;
    assert!(new.show(1).await == wanted, "all before the mistake");
    for number in [2, 3] {
        new.start(number).await;
        new.add_member(number).await;
    }
    let all = format!("{wanted},new");
    // One that is killed on its way in, when it has nothing but the way.
    new.start(4).await;
    let leader = new.let_in(4).await;
    new.members[leader - 1]
        .take()
        .expect("runs")
        .member
        .kill()
        .await;
    let group_of = async |number| new.admin_status(number).await.group;
    while group_of(4).await.is_none() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    new.members[3].take().expect("runs").member.kill().await;
    new.start(4).await;
    new.start(leader).await;
    assert!(new.show(4).await == wanted);
    assert!(new.add(3, "new").await == all);
    for number in 1..=3 {
        assert!(new.show(number).await == all, "member {number}");
        let status = new.admin_status(number).await;
        assert_ne!(status.group, group.map(|it| it.to_string()));
        assert!(status.id > Some(4), "{status:?}");
    }
    let last = old.show(3).await;
    assert!(last.ends_with("good,mistake,after"), "the old one goes on");

    // And it survives the loss of its founder, as any group does.
    new.members[0].take().expect("runs").member.kill().await;
    new.add(2, "more").await;
    new.ask(3, Method::GET, "", StatusCode::OK).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_a_backup_can_be_restored_and_a_founder_begins_once() {
    let mut old = Group::with_snapshots(6);
    old.start_all().await;
    old.form().await;
    old.fill(0, &[1, 2, 3], 0).await;
    let wanted = old.add(1, "last").await;
    let folder = tempfile::tempdir().expect("folder");
    let into = folder.path().join("backup");
    old.back_up(1, &into).await;
    drop(old);

    let mut new = Group::with_snapshots(6);
    new.restore(&into, None).expect("restored");
    let again = new.restore(&into, None).expect_err("refused");
    assert!(matches!(again, FoundingError::NotEmpty(_)), "{again}");
    new.start(1).await;
    assert!(new.show(1).await == wanted);
    new.members[0].take().expect("runs").member.kill().await;
    new.start(1).await;
    assert!(new.show(1).await == wanted, "again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_lost_a_majority_goes_on_with_all_that_one_member_has_accepted() {
    let mut old = Group::with_snapshots(6);
    old.start_all().await;
    old.form().await;
    old.fill(0, &[1, 2, 3], 0).await;
    let acknowledged = old.add(1, "acknowledged").await;
    let status = old.admin_status(1).await;
    let leader = (1..=3).find(|it| status.leader.as_ref() == Some(&name(*it)));
    let leader = leader.expect("leads");
    let member = old.operators_connector(leader);
    let node = old.running(leader).member.node().status();
    let group = node.borrow().group.expect("formed");
    let folder = tempfile::tempdir().expect("folder");
    let create = async |extent, name: &str| {
        let into = folder.path().join(name);
        let made = backup::create(&member, group, "notes", extent, &into, |_| {}).await;
        made.map(|manifest| (into, manifest))
    };
    let early = create(Extent::Accepted, "early").await;
    let early = early.expect_err("refused");
    assert!(
        matches!(&early, BackupError::Refused(words) if words.contains("follows a leader")),
        "{early}"
    );

    for number in (1..=3).filter(|it| *it != leader) {
        let gone = old.members[number - 1].take().expect("runs");
        gone.member.kill().await;
    }
    let address = old.running(leader).member.addresses().http;
    let unanswered = http(address, Method::POST, "/list", "accepted");
    let unanswered = tokio::time::timeout(std::time::Duration::from_secs(1), unanswered).await;
    assert!(!matches!(unanswered, Ok(Ok((status, _))) if status.is_success()));
    let mut status = old.running(leader).member.node().status();
    let alone = status
        .wait_for(|it| it.leader.is_none())
        .await
        .expect("runs");
    assert!(alone.last > alone.commit, "it has taken it");
    drop(alone);

    let (into, manifest) = create(Extent::Chosen, "chosen").await.expect("made");
    assert_eq!(manifest.survivor, None);
    let mut new = Group::with_snapshots(6);
    new.restore(&into, None).expect("restored");
    new.start(1).await;
    assert!(new.show(1).await == acknowledged);

    let (into, manifest) = create(Extent::Accepted, "accepted").await.expect("made");
    assert!(
        manifest
            .survivor
            .is_some_and(|it| it.chosen < manifest.through)
    );
    assert_eq!(backup::check(&into).expect("good"), manifest);
    let mut new = Group::with_snapshots(6);
    new.restore(&into, None).expect("restored");
    new.start(1).await;
    assert!(new.show(1).await == format!("{acknowledged},accepted"));
    assert_ne!(new.admin_status(1).await.group, Some(group.to_string()));
}
