//! Logs that are cut behind snapshots, and copies that begin behind one.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use synod_paxos::GroupId;
use synod_proto::v1::{KeptSnapshot, KeptSnapshotsRequest, TakeSnapshotRequest};
use tokio::net::TcpListener;
use tonic::Code;

use super::{Group, List, PATIENCE, name};
use crate::admin::status::Status;
use crate::backup::{self, BackupError, Extent, Found};
use crate::config::state::{Call, Every, HttpSnapshot, Snapshot, SnapshotKind, State};
use crate::identity::testing::names;
use crate::identity::{Connector, Identity, Who};

/// A list's state, by HTTP, at an address of its own.
pub(super) async fn serve(list: List) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("accepts");
            let list = list.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let list = list.clone();
                async move { Ok::<_, Infallible>(Response::new(state(&list, request).await)) }
            });
            let serving = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(serving);
        }
    });
    address
}

async fn state(list: &List, request: Request<Incoming>) -> Full<Bytes> {
    if request.method() == Method::GET {
        return Full::new(list.lines.lock().expect("list").join("\n").into());
    }
    let body = request.into_body().collect().await.expect("all of it");
    let text = String::from_utf8(body.to_bytes().into()).expect("text");
    let lines = text.lines().map(str::to_owned).collect();
    *list.lines.lock().expect("list") = lines;
    Full::default()
}

fn by_http(slots: u64) -> State {
    let call = |method: &str| Call {
        method: method.to_owned(),
        path: "/state".to_owned(),
    };
    State {
        snapshot: Snapshot {
            kind: SnapshotKind::Http,
            http: Some(HttpSnapshot {
                save: call("GET"),
                restore: call("PUT"),
                settle: None,
                timeout_ms: 5_000,
                max_bytes: 1 << 30,
            }),
            every: Every {
                slots,
                ..Every::default()
            },
            ..Snapshot::default()
        },
        ..State::default()
    }
}

/// Lines so long that few of them fill the log.
pub(super) fn line(number: usize) -> String {
    format!("{number}-{}", "x".repeat(200_000))
}

impl Group {
    /// Whose logs are so small that they are soon half full.
    pub(super) fn with_snapshots(slots: u64) -> Self {
        Self {
            log_bytes: 16 << 20,
            state: by_http(slots),
            ..Self::new()
        }
    }

    pub(super) async fn until_status(
        &self,
        number: usize,
        wanted: impl Fn(&Status) -> bool,
    ) -> Status {
        let asking = async {
            loop {
                let status = self.admin_status(number).await;
                if wanted(&status) {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let asked = tokio::time::timeout(PATIENCE, asking).await;
        let Ok(status) = asked else {
            panic!("member {number}: {:?}", self.admin_status(number).await);
        };
        status
    }

    /// Adds lines until the logs of these members begin behind that slot; how many.
    pub(super) async fn fill(&self, mut lines: usize, members: &[usize], behind: u64) -> usize {
        for added in 0..100 {
            let mut bases = Vec::new();
            for number in members {
                bases.push(self.admin_status(*number).await.base);
            }
            if bases.iter().all(|base| *base > behind) {
                return lines;
            }
            // What saves gives way to all else: on a full machine it gets its turn here.
            if added > 30 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            lines += 1;
            self.add(members[0], &line(lines)).await;
        }
        panic!("the logs are not cut: {:?}", self.admin_status(1).await);
    }

    /// An operator's connection to a member.
    pub(super) fn operators_connector(&self, number: usize) -> Connector {
        let files = self
            .authority
            .issue(&self.path("operator"), &[names().operator()]);
        let identity = Identity::load(&files, &names(), Who::Operator).expect("good");
        let address = self.running(number).member.addresses().peer.to_string();
        Connector::fixed(identity, Who::Member(name(number)), address)
    }

    /// Until that copy has executed so many.
    async fn until_lines(&self, number: usize, lines: usize) {
        let executed = async {
            while self.lines_of(number) != lines {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let executed = tokio::time::timeout(PATIENCE, executed).await;
        assert!(executed.is_ok(), "{} of {lines}", self.lines_of(number));
    }

    fn lines_of(&self, number: usize) -> usize {
        self.running(number).list.lines.lock().expect("list").len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_cut_and_an_app_that_starts_anew_is_given_the_newest_snapshot() {
    let mut group = Group::with_snapshots(6);
    group.start_all().await;
    group.form().await;
    let lines = group.fill(0, &[1, 2, 3], 0).await;
    let list = &group.running(3).list;
    list.stop();
    group.until_status(3, |it| !it.serving).await;
    let before = list.executed.swap(0, Ordering::SeqCst);
    list.start();
    let status = group.until_status(3, |it| it.serving).await;
    assert_eq!(group.lines_of(3), lines);
    assert!(
        list.executed.load(Ordering::SeqCst) < before,
        "not all was executed again"
    );
    let newest = status.snapshot.as_ref().expect("one is kept");
    assert!(newest.slot >= status.base && status.base > 0, "{status:?}");
    // What was acknowledged is on each copy, in one order.
    group.add(2, "last").await;
    let shown = group.show(1).await;
    assert_eq!(group.show(3).await, shown);
    assert_eq!(shown.split(',').count(), lines + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_for_too_long_gets_a_snapshot_and_survives_a_kill_behind_it() {
    let mut group = Group::with_snapshots(6);
    group.start_all().await;
    group.form().await;
    for number in 1..=3 {
        group.until_status(number, |it| it.serving).await;
    }
    let away = group.members[2].take().expect("runs");
    let last = away.member.node().status().borrow().last.0;
    away.member.kill().await;
    let lines = group.fill(0, &[1, 2], last + 1).await;
    group.start(3).await;
    group
        .until_status(3, |it| {
            it.serving && it.applied >= it.base && it.base > last
        })
        .await;
    group.until_lines(3, lines).await;
    // Its log and its ledger go with the snapshot.
    let away = group.members[2].take().expect("runs");
    away.member.kill().await;
    group.start(3).await;
    group.until_status(3, |it| it.serving).await;
    group.until_lines(3, lines).await;
    let shown = group.add(1, "last").await;
    assert_eq!(group.show(3).await, shown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_taken_on_request_of_an_operator_only_and_said_to_be_there() {
    let mut group = Group {
        log_bytes: 64 << 20,
        ..Group::with_snapshots(1_000)
    };
    group.start_all().await;
    group.form().await;
    group.add(1, "a").await;
    let mut control = group.control(2).await;
    assert_eq!(group.show(2).await, "a");
    // None is taken before the copy has executed all that was chosen at its start; the read may have been
    // answered by another.
    group.until_status(2, |it| it.serving).await;
    let taken = control.take_snapshot(TakeSnapshotRequest {}).await;
    let taken = taken.expect("taken").into_inner().snapshot.expect("one");
    assert_eq!((taken.state_bytes, &*taken.standing), (1, "Uncompared"));
    // Soon all three have said what they answered.
    let is_verified = |it: &Status| it.snapshot.as_ref().is_some_and(|it| it.verified);
    let status = group.until_status(2, is_verified).await;
    assert_eq!(status.snapshot.map(|it| it.slot), Some(taken.slot));
    let kept = control.kept_snapshots(KeptSnapshotsRequest {}).await;
    let verified = KeptSnapshot {
        standing: "Verified".to_owned(),
        ..taken.clone()
    };
    assert_eq!(kept.expect("answers").into_inner().snapshots, [verified]);
    // Nothing has changed since.
    let again = control.take_snapshot(TakeSnapshotRequest {}).await;
    if let Ok(again) = again {
        assert_eq!(again.into_inner().snapshot.expect("one").slot, taken.slot);
    }
    // A member's certificate is not enough.
    let files = group.config(1).tls;
    let channel = group.channel(2, &files, Who::Member(name(1))).await;
    let mut member = synod_proto::v1::control_client::ControlClient::new(channel);
    let refused = member.take_snapshot(TakeSnapshotRequest {}).await;
    assert_eq!(refused.expect_err("refused").code(), Code::PermissionDenied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_method_a_snapshot_is_refused_with_the_way_out() {
    let mut group = Group::new();
    group.start_all().await;
    group.form().await;
    group.add(1, "a").await;
    let taken = group
        .control(1)
        .await
        .take_snapshot(TakeSnapshotRequest {})
        .await;
    let refused = taken.expect_err("refused");
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("state.snapshot.type"));
}

// === backups ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_a_snapshot_and_the_log_behind_it_and_damage_to_it_is_noticed() {
    let mut group = Group::with_snapshots(6);
    group.start_all().await;
    group.form().await;
    group.add(2, "a").await;
    let member = group.operators_connector(2);
    let folder = tempfile::tempdir().expect("folder");
    let into = folder.path().join("first");
    let id = group.running(2).member.node().status().borrow().group;
    let id = id.expect("formed");
    let error = backup::create(&member, id, "notes", Extent::Chosen, &into, |_| {}).await;
    assert!(matches!(error, Err(BackupError::NoSnapshot)), "{error:?}");
    assert!(backup::list(folder.path()).expect("listed").is_empty());

    group.fill(0, &[1, 2, 3], 0).await;
    let into = folder.path().join("second");
    let manifest = backup::create(&member, id, "notes", Extent::Chosen, &into, |_| {}).await;
    let manifest = manifest.expect("made");
    let status = group.admin_status(2).await;
    assert!(manifest.snapshot_slot >= status.base && manifest.through >= manifest.snapshot_slot);
    assert_eq!(backup::check(&into).expect("good"), manifest);
    let listed = backup::list(folder.path()).expect("listed");
    let [
        Found {
            path,
            manifest: Ok(found),
        },
    ] = &listed[..]
    else {
        panic!("{listed:?}");
    };
    assert_eq!((path, found), (&into, &manifest));
    let again = backup::create(&member, id, "notes", Extent::Chosen, &into, |_| {}).await;
    assert!(matches!(again, Err(BackupError::Exists(_))), "{again:?}");

    let entries = into.join("entries");
    let good = std::fs::read(&entries).expect("read");
    let mut bad = good.clone();
    *bad.last_mut().expect("some") ^= 1;
    std::fs::write(&entries, &bad).expect("written");
    assert!(backup::check(&into).is_err());
    std::fs::write(&entries, &good).expect("written");
    backup::check(&into).expect("good again");

    // Nobody else's log is given.
    let other = folder.path().join("third");
    let strange = GroupId([7; 16]);
    let error = backup::create(&member, strange, "notes", Extent::Chosen, &other, |_| {}).await;
    let error = error.expect_err("refused").to_string();
    assert!(error.contains("another group"), "{error}");
}
