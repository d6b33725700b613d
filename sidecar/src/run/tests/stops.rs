//! Who may have an app stopped that still runs, and when.

use std::sync::atomic::Ordering;
use std::time::Duration;

use http::{Method, StatusCode};

use super::{Group, Member, PATIENCE, Running, http, name};
use crate::apply::ApplyStatus;

impl Group {
    /// What a supervisor of the app asks: may it go on?
    pub(super) async fn is_live(&self, number: usize) -> bool {
        let address = self.running(number).member.addresses().admin;
        let asked = http(address, Method::GET, "/app-health/app/livez", "").await;
        asked.expect("answers").0 == StatusCode::OK
    }

    /// Waits until one of these is to be stopped.
    pub(super) async fn first_to_stop(&self, numbers: &[usize]) -> usize {
        let asking = async {
            loop {
                for number in numbers {
                    if !self.is_live(*number).await {
                        return *number;
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let asked = tokio::time::timeout(PATIENCE, asking).await;
        asked.expect("one of them is to be stopped")
    }

    pub(super) async fn until(&self, number: usize, wanted: impl FnMut(&ApplyStatus) -> bool) {
        let mut status = self.running(number).member.apply().status();
        let waiting = tokio::time::timeout(PATIENCE, status.wait_for(wanted));
        waiting.await.expect("in time").expect("the member runs");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_that_lose_the_same_request_are_stopped_one_after_another() {
    let mut group = Group::new();
    group.start_all().await;
    group.form().await;
    group.add(1, "a").await;
    for number in 1..=3 {
        group
            .until(number, |copy| copy.serving && copy.applied.0 > 0)
            .await;
        let list = &group.running(number).list;
        list.breaks_off.store(true, Ordering::SeqCst);
    }
    // Its client waits until the first copy is back.
    let entrance = group.running(1).member.addresses().http;
    let client = tokio::spawn(async move { http(entrance, Method::POST, "/list", "b").await });
    for number in 1..=3 {
        group.until(number, |copy| copy.condemned.is_some()).await;
    }
    let mut left = vec![1, 2, 3];
    while !left.is_empty() {
        let number = group.first_to_stop(&left).await;
        left.retain(|it| *it != number);
        let list = &group.running(number).list;
        list.stop();
        group
            .until(number, |copy| copy.condemned.is_none() && !copy.serving)
            .await;
        // As long as its member needs to ask twice for what another has.
        for _ in 0..20 {
            for other in &left {
                assert!(
                    group.is_live(*other).await,
                    "{number} and {other} are stopped"
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        list.start();
        group.until(number, |copy| copy.serving).await;
    }
    let (status, list) = client.await.expect("runs").expect("answered");
    assert_eq!((status, list.as_str()), (StatusCode::CREATED, "a,b"));
    for number in 1..=3 {
        assert_eq!(group.running(number).list.text(), "a,b", "member {number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_no_app_that_runs_is_stopped() {
    let mut group = Group::new();
    group.start_all().await;
    group.form().await;
    group.add(1, "a").await;
    group.until(3, |copy| copy.serving).await;
    for number in [1, 2] {
        let running = group.members[number - 1].take().expect("runs");
        running.member.kill().await;
    }
    // Its sidecar finds an app of which it does not know what it was sent.
    let running = group.members[2].take().expect("runs");
    running.member.kill().await;
    std::fs::remove_file(group.path(&name(3)).join("ledger")).expect("removed");
    let started = Member::start(group.config(3), running.list.clone(), running.list.clone());
    let member = started.await.expect("starts");
    let list = running.list;
    group.members[2] = Some(Running { member, list });
    group.until(3, |copy| copy.condemned.is_some()).await;
    for _ in 0..20 {
        assert!(group.is_live(3).await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let status = group.admin_status(3).await;
    assert_eq!(status.waiting_on.expect("waits").on, "quorum");
    for number in [1, 2] {
        group.start(number).await;
    }
    assert_eq!(group.first_to_stop(&[3]).await, 3);
}
