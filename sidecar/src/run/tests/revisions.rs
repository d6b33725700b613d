//! The app is changed while it serves (rule V1): `which` is answered differently by each revision.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Method, StatusCode};
use synod_proto::v1::{ReviseRequest, ReviseResponse};
use tonic::{Code, Status};

use super::{Group, PATIENCE, http};

impl Group {
    async fn revise(
        &self,
        number: usize,
        request: ReviseRequest,
    ) -> Result<ReviseResponse, Status> {
        let mut control = self.control(number).await;
        control
            .revise(request)
            .await
            .map(tonic::Response::into_inner)
    }

    /// What a supervisor of the app does: one look at one member. `may_run`: what becomes of the start of
    /// a revision.
    async fn attend(&self, number: usize, may_run: &dyn Fn(u64) -> bool) {
        let running = self.running(number);
        let list = &running.list;
        if list.instance.load(Ordering::SeqCst) != 0 {
            if !self.is_live(number).await {
                list.stop();
                self.until(number, |copy| copy.condemned.is_none()).await;
            }
            return;
        }
        let admin = running.member.addresses().admin;
        let due = http(admin, Method::GET, "/lifecycle/app-revision", "").await;
        let Ok((StatusCode::OK, due)) = due else {
            return;
        };
        let due: u64 = due.trim().parse().expect("a number");
        if may_run(due) {
            let file = self.path(&format!("revision-{number}"));
            std::fs::write(file, due.to_string()).expect("written");
            list.revision.store(due, Ordering::SeqCst);
            list.start();
            running.member.apply().app_started();
        }
    }

    async fn attend_until(
        &self,
        members: &[usize],
        may_run: &dyn Fn(u64) -> bool,
        wanted: impl Fn(&crate::admin::status::Status) -> bool,
    ) {
        let attending = async {
            loop {
                let mut all = true;
                for number in members {
                    self.attend(*number, may_run).await;
                    all &= wanted(&self.admin_status(*number).await);
                }
                if all {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, attending).await.is_err() {
            for number in members {
                eprintln!("{:?}", self.admin_status(*number).await);
            }
            panic!("not in time");
        }
    }

    async fn until_over(&self, members: &[usize], revision: u64) {
        let over = |it: &crate::admin::status::Status| {
            it.serving && it.revision.running == Some(revision) && !it.revision.unfinished
        };
        self.attend_until(members, &|_| true, over).await;
    }
}

/// From the revision that this is the number of to the next.
fn from(revision: u64) -> ReviseRequest {
    ReviseRequest {
        expected_revision: revision,
        ..ReviseRequest::default()
    }
}

fn taking_back(revision: u64) -> ReviseRequest {
    ReviseRequest {
        takes_back: true,
        ..from(revision)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_copy_passes_to_the_next_revision_at_one_slot_and_nothing_is_lost() {
    let mut group = Group::with_snapshots(1_000);
    group.start_all().await;
    group.form().await;
    group.add(1, "a").await;
    // Clients go on meanwhile.
    let entrance = group.running(2).member.addresses().http;
    let ends = Arc::new(AtomicBool::new(false));
    let clients = tokio::spawn({
        let ends = ends.clone();
        async move {
            let mut acknowledged = 0;
            while !ends.load(Ordering::SeqCst) {
                let sent = http(entrance, Method::POST, "/list", "which").await;
                acknowledged += usize::from(sent.is_ok_and(|it| it.0 == StatusCode::CREATED));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            acknowledged
        }
    });
    group.add(2, "which").await;
    group.add(1, "b").await;
    let revised = group.revise(1, from(0)).await.expect("agreed");
    assert_eq!(revised.revision, 1);
    group.until_over(&[1, 2, 3], 1).await;
    let status = group.admin_status(3).await;
    assert_eq!((status.revision.in_force, status.revision.due), (1, 1));
    assert_eq!(status.revision.barrier, revised.barrier);
    group.add(3, "which").await;
    ends.store(true, Ordering::SeqCst);
    let acknowledged = clients.await.expect("runs");
    let shown = group.show(1).await;
    for number in 1..=3 {
        assert_eq!(group.show(number).await, shown);
        group
            .until_status(number, |it| {
                it.applied == it.commit && it.applied == it.last
            })
            .await;
        assert_eq!(group.running(number).list.text(), shown, "member {number}");
    }
    let lines: Vec<&str> = shown
        .split(',')
        .filter(|it| it.starts_with("of-"))
        .collect();
    assert!(lines.len() > acknowledged && acknowledged > 0);
    assert!(lines.is_sorted(), "first the old, then the new: {shown}");
    assert_eq!((lines[0], *lines.last().expect("one")), ("of-0", "of-1"));
    // A member that starts anew, with all that it has lost but its disk, comes back with the new one.
    let gone = group.members[1].take().expect("runs");
    gone.member.kill().await;
    group.start(2).await;
    group.until_over(&[1, 2, 3], 1).await;
    assert_eq!(group.show(2).await, shown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_during_two_changes_comes_through_both() {
    let mut group = Group::with_snapshots(1_000);
    group.start_all().await;
    group.form().await;
    group.add(1, "which").await;
    group.until_over(&[1, 2, 3], 0).await;
    let away = group.members[2].take().expect("runs");
    away.member.kill().await;
    let leader = if group.admin_status(1).await.leader.as_deref() == Some("notes-1") {
        1
    } else {
        2
    };
    for revision in 0..2 {
        group.revise(leader, from(revision)).await.expect("agreed");
        group.until_over(&[1, 2], revision + 1).await;
        group.add(1, "which").await;
    }
    group.start(3).await;
    group.until_over(&[1, 2, 3], 2).await;
    let shown = group.show(3).await;
    assert_eq!(shown, "of-0,of-1,of-2");
    group.until_status(3, |it| it.applied == it.commit).await;
    assert_eq!(group.running(3).list.text(), shown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_that_does_not_start_is_taken_back_and_what_waited_is_answered() {
    let mut group = Group::with_snapshots(1_000);
    group.start_all().await;
    group.form().await;
    group.add(1, "which").await;
    group.until_over(&[1, 2, 3], 0).await;
    group.revise(1, from(0)).await.expect("agreed");
    let fails = |revision: u64| revision != 1;
    group
        .attend_until(&[1, 2, 3], &fails, |it| it.revision.due == 1)
        .await;
    // Chosen, and executed by nobody yet.
    let entrance = group.running(2).member.addresses().http;
    let waits = tokio::spawn(async move { http(entrance, Method::POST, "/list", "which").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!group.admin_status(2).await.serving);
    let refused = group.revise(1, from(1)).await.expect_err("not finished");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("take it back"), "{refused}");
    let revised = group.revise(1, taking_back(1)).await.expect("agreed");
    assert_eq!(revised.revision, 2);
    group
        .attend_until(&[1, 2, 3], &fails, |it| {
            it.serving && it.revision.running == Some(2) && !it.revision.unfinished
        })
        .await;
    let waited = waits.await.expect("runs").expect("answered");
    let shown = group.show(1).await;
    if waited.0 == StatusCode::CREATED {
        assert_eq!(shown, "of-0,of-2");
    } else {
        assert_eq!(waited.0, StatusCode::SERVICE_UNAVAILABLE, "{waited:?}");
    }
    let refused = group.revise(1, taking_back(2)).await.expect_err("finished");
    assert!(refused.message().contains("has taken over"), "{refused}");
    let refused = group.revise(1, from(0)).await.expect_err("older");
    assert_eq!(refused.code(), Code::Aborted);
    let refused = ReviseRequest {
        epoch: 7,
        ..from(2)
    };
    let refused = group.revise(1, refused).await.expect_err("another epoch");
    assert!(refused.message().contains("epoch"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_way_to_save_the_state_there_is_no_other_revision() {
    let mut group = Group::new();
    group.start_all().await;
    group.form().await;
    group.add(1, "a").await;
    let refused = group.revise(1, from(0)).await.expect_err("no method");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("state.snapshot.type"),
        "{refused}"
    );
    assert_eq!(group.add(1, "b").await, "a,b");
}
