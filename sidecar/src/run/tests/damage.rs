//! Snapshots that are damaged or wrong, and copies that must be made anew all the same.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use synod_paxos::Slot;
use synod_proto::v1::TakeSnapshotRequest;

use super::snapshots::line;
use super::{Group, PATIENCE, Quirk, name};
use crate::apply::{Found, Ledger, Record};
use crate::keeper;
use crate::snapshot::{Snapshot, Store};

/// Bytes of the end of a snapshot, in front of which its state lies.
const END_BYTES: usize = 112;

impl Group {
    /// Whose snapshots are taken on request, and read by nobody unless they are needed.
    fn unread() -> Self {
        Self {
            scrub_seconds: 0,
            ..Self::on_request()
        }
    }

    fn on_request() -> Self {
        Self {
            log_bytes: 64 << 20,
            ..Self::with_snapshots(1_000)
        }
    }

    fn snapshots_of(&self, number: usize) -> PathBuf {
        keeper::snapshots(&self.path(&name(number)))
    }

    /// What this member has, oldest first.
    fn kept(&self, number: usize) -> Vec<Snapshot> {
        loop {
            // Unless one goes while they are looked at.
            if let Ok(store) = Store::source(&self.snapshots_of(number)) {
                return store.list();
            }
        }
    }

    /// Has this member save its state twice, until both may be used and its log begins behind the older one;
    /// how many lines there are.
    async fn two_snapshots(&self, number: usize) -> usize {
        let both = async {
            let mut lines = 0;
            for count in [1, 2] {
                // Of more than one piece, so that what is damaged at its end is put back in part.
                for _ in 0..6 {
                    lines += 1;
                    self.add(number, &line(lines)).await;
                }
                self.take(number).await;
                let are_usable = |kept: &[Snapshot]| {
                    kept.len() == count && kept.iter().all(|it| it.standing.usable())
                };
                while !are_usable(&self.kept(number)) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            lines
        };
        let both = tokio::time::timeout(PATIENCE, both).await;
        let lines = both.expect("in time");
        let kept = self.kept(number);
        let (older, newer) = (kept[0].head.slot, kept[1].head.slot);
        self.until(number, |copy| copy.base == newer).await;
        self.until_status(number, |it| it.base == older.0).await;
        lines
    }

    /// Has this member save its state.
    async fn take(&self, number: usize) {
        let mut control = self.control(number).await;
        let taking = async {
            while control.take_snapshot(TakeSnapshotRequest {}).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let taken = tokio::time::timeout(PATIENCE, taking).await;
        taken.expect("a snapshot is taken");
    }

    /// One bit of its state flips.
    fn flip_a_bit(&self, number: usize, snapshot: &Snapshot) {
        let file = format!("{:016x}.snapshot", snapshot.head.slot.0);
        let path = self.snapshots_of(number).join(file);
        let mut bytes = fs::read(&path).expect("read");
        let at = bytes.len() - END_BYTES - 2;
        bytes[at] ^= 1;
        fs::write(&path, bytes).expect("written");
    }

    fn base(&self, number: usize) -> Slot {
        let status = self.running(number).member.apply().status();
        status.borrow().base
    }

    fn applied(&self, number: usize) -> Slot {
        let status = self.running(number).member.apply().status();
        status.borrow().applied
    }

    /// Those that were set aside.
    fn aside(&self, number: usize) -> usize {
        let names = fs::read_dir(self.snapshots_of(number)).expect("a folder");
        let names = names.map(|it| it.expect("an entry").file_name());
        let aside = names.filter(|it| it.to_string_lossy().contains("damaged"));
        aside.count()
    }

    /// The app ends and starts, and is stopped and started again as often as that is asked for; how often.
    async fn comes_back(&self, number: usize) -> usize {
        let list = &self.running(number).list;
        list.stop();
        self.until(number, |copy| !copy.serving).await;
        list.start();
        let mut restarts = 0;
        let coming_back = async {
            loop {
                let apply = self.running(number).member.apply().status();
                if apply.borrow().serving {
                    return restarts;
                }
                if apply.borrow().condemned.is_some() && !self.is_live(number).await {
                    restarts += 1;
                    list.stop();
                    self.until(number, |copy| copy.condemned.is_none()).await;
                    list.start();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let back = tokio::time::timeout(PATIENCE, coming_back).await;
        back.expect("the copy is back")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_newest_snapshot_is_damaged_the_older_one_takes_its_place() {
    let mut group = Group::unread();
    group.start_all().await;
    group.form().await;
    let lines = group.two_snapshots(3).await;
    let kept = group.kept(3);
    group.flip_a_bit(3, &kept[1]);
    assert_eq!(group.comes_back(3).await, 1, "what began was in vain once");
    assert_eq!(group.aside(3), 1);
    assert_eq!(group.running(3).list.len(), lines);
    assert_ne!(group.base(3), kept[1].head.slot);
    let shown = group.add(2, "last").await;
    assert_eq!(group.show(3).await, shown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_all_snapshots_are_damaged_another_members_takes_their_place() {
    let mut group = Group::unread();
    group.start_all().await;
    group.form().await;
    let lines = group.two_snapshots(3).await;
    for snapshot in group.kept(3) {
        group.flip_a_bit(3, &snapshot);
    }
    group.comes_back(3).await;
    assert_eq!(group.aside(3), 2);
    assert_eq!(group.running(3).list.len(), lines);
    assert!(!group.kept(3).is_empty());
    let shown = group.add(2, "last").await;
    assert_eq!(group.show(3).await, shown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_nobody_has_met_is_found_and_nothing_is_begun_with_it() {
    let mut group = Group::on_request();
    group.start_all().await;
    group.form().await;
    let lines = group.two_snapshots(3).await;
    let kept = group.kept(3);
    group.flip_a_bit(3, &kept[1]);
    let found = async {
        while group.aside(3) == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, found).await;
    found.expect("somebody reads it");
    group.until(3, |copy| copy.base != kept[1].head.slot).await;
    assert_eq!(group.comes_back(3).await, 0, "another one is good");
    assert_eq!(group.running(3).list.len(), lines);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_does_not_begin_with_what_its_copy_saved_after_it_went_astray() {
    let mut group = Group::unread();
    group.start_all().await;
    group.form().await;
    let lines = group.two_snapshots(3).await;
    let newest = group.kept(3).pop().expect("there are two");
    let away = group.members[2].take().expect("runs");
    let node = away.member.node().status();
    let configuration = node.borrow().configuration.clone().expect("formed");
    let incarnation = configuration.members[2].incarnation;
    away.member.kill().await;
    let (store, _) = Store::open(&group.snapshots_of(3), 0).expect("a good folder");
    store.mark_unverified(newest.id).expect("marked");
    drop(store);
    let data = group.path(&name(3));
    let (mut ledger, found) = Ledger::open(&data, incarnation).expect("a ledger");
    let Found::Record(record) = found else {
        panic!("{found:?}");
    };
    let astray = Some(newest.head.slot);
    let record = Record { astray, ..record };
    ledger.write(&record).expect("written");
    drop(ledger);

    group.start(3).await;
    group.until(3, |copy| copy.serving).await;
    assert_ne!(group.base(3), newest.head.slot);
    assert_eq!(group.aside(3), 1);
    assert_eq!(group.running(3).list.len(), lines);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_one_is_away_and_two_differ_no_log_is_cut_however_full_it_is() {
    let mut group = Group::with_snapshots(6);
    group.start_all().await;
    group.form().await;
    group.add(1, "a").await;
    let first = group.applied(1);
    for number in 2..=3 {
        group
            .until(number, |copy| copy.serving && copy.applied >= first)
            .await;
    }
    let away = group.members[2].take().expect("runs");
    away.member.kill().await;
    let mut status = group.running(1).member.node().status();
    let leads = |it: &crate::node::NodeStatus| it.leader.is_some_and(|it| it.0 < 3);
    let leader = status.wait_for(leads).await.expect("runs").leader;
    let leader = leader.expect("one of two").0 as usize;
    let odd = 3 - leader;
    group.add(leader, "b").await;
    let agreed = group.applied(leader);
    group.running(odd).list.behave(Quirk::Stores);
    for number in 1..=45 {
        group.add(leader, &line(number)).await;
    }
    // Long enough for any of them to think that there is nobody to wait for.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let is_used = |it: &Snapshot| it.standing.usable() && it.head.slot > agreed;
    for number in [1, 2] {
        let status = group
            .running(number)
            .member
            .node()
            .status()
            .borrow()
            .clone();
        assert!(status.log_used_bytes > 8 << 20, "it is half full");
        assert!(status.base <= agreed, "{}", status.base);
        assert_eq!(group.kept(number).iter().find(|it| is_used(it)), None);
    }
    // Whoever comes back decides.
    group.start(3).await;
    group.until(odd, |copy| copy.condemned.is_some()).await;
    let wanted = group.show(leader).await;
    assert_eq!(group.first_to_stop(&[odd]).await, odd);
    let list = &group.running(odd).list;
    list.stop();
    group.until(odd, |copy| copy.condemned.is_none()).await;
    list.start();
    for number in 1..=3 {
        group.until(number, |copy| copy.serving).await;
        assert!(group.show(number).await == wanted, "member {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_can_compare_waits_as_long_as_there_is_room_whatever_is_reserved() {
    let mut group = Group {
        log_bytes: 16 << 20,
        ..Group::on_request()
    };
    group.start_all().await;
    group.form().await;
    group.add(1, "a").await;
    for number in [2, 3] {
        group.until(number, |copy| copy.serving).await;
        group.running(number).list.stop();
        group.until(number, |copy| !copy.serving).await;
    }
    group.add(1, "b").await;
    group.take(1).await;
    let taken = group.kept(1).last().expect("one").head.slot;
    // Long enough for the others to be away.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let node = group.running(1).member.node().status();
    let (reserved, used) = {
        let node = node.borrow();
        (node.log_bytes, node.log_used_bytes)
    };
    let half = group.log_bytes / 2;
    assert!(
        reserved >= half && used < half,
        "{used} of {reserved} bytes"
    );
    let is_used = |it: &Snapshot| it.standing.usable() && it.head.slot >= taken;
    let are_used = || group.kept(1).iter().any(is_used);
    assert!(!are_used(), "{:?}", group.kept(1));
    for number in 1..=45 {
        group.add(1, &line(number)).await;
    }
    let used = async {
        while !are_used() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let used = tokio::time::timeout(PATIENCE, used).await;
    used.expect("there is no more room to wait");
}
