//! An admin port whose member is played by the test.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use http::StatusCode;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use synod_paxos::{Boot, Incarnation, MemberId};
use synod_proto::v1::Policy;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::status::Waiting;
use super::{AdminParts, LogIdentity};
use crate::app::{Instance, Outsider};
use crate::apply::{ApplyStatus, Verified};
use crate::copies::Found;
use crate::node::{NodeHandle, NodeStatus, Seat};

/// The member's side.
pub(super) struct Control {
    pub(super) node: watch::Sender<NodeStatus>,
    pub(super) apply: watch::Sender<ApplyStatus>,
    seat: Seat,
    signals: Arc<AtomicU32>,
    outsiders: watch::Sender<Option<Outsider>>,
}

pub(super) fn parts() -> (AdminParts, Control) {
    let (node, node_receiver) = watch::channel(NodeStatus::default());
    let (apply, apply_receiver) = watch::channel(ApplyStatus::default());
    let (outsiders, outsiders_receiver) = watch::channel(None);
    let (_, policy) = watch::channel(Arc::new(Policy {
        version: 4,
        ..Policy::default()
    }));
    let mut registry = Registry::with_prefix("synod");
    let ingress = crate::ingress::Metrics::register(&mut registry);
    let took = std::time::Duration::ZERO;
    ingress.answered("ordered", &"notes".into(), StatusCode::CREATED, took);
    let durations = Histogram::new([0.001, 1.0]);
    durations.observe(0.5);
    let signals = Arc::new(AtomicU32::new(0));
    let counted = signals.clone();
    let log = LogIdentity {
        incarnation: Incarnation(0xab),
        boot: Boot(3),
    };
    let (agreement, seat) = NodeHandle::new();
    let (_, found) = watch::channel(Found::default());
    let (_, verified) = watch::channel(Verified::default());
    let (_, poison) = watch::channel(crate::poison::Found::default());
    let parts = AdminParts {
        service: "notes".into(),
        member: "notes-a".into(),
        log: Arc::new(OnceLock::from(log)),
        protocol: [1, 1],
        node: node_receiver,
        apply: apply_receiver,
        policy,
        apply_waits: Box::new(|| {
            Some(Waiting {
                on: "app".into(),
                slot: 10,
                age_ms: 5,
            })
        }),
        may_stop: Box::new(|_| true),
        witness: false,
        has_volume: false,
        let_start: Box::new(|| true),
        revision_due: Box::new(|| Some(0)),
        revision_may: Box::new(|| None),
        snapshot: Box::new(|| None),
        app_started: Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        }),
        apply_durations: durations,
        registry,
        agreement,
        log_max_bytes: 64 << 20,
        token: None,
        outsiders: outsiders_receiver,
        found,
        verified,
        poison,
        leaving: CancellationToken::new(),
    };
    let control = Control {
        node,
        apply,
        seat,
        signals,
        outsiders,
    };
    (parts, control)
}

impl Control {
    /// How often the start signal came.
    pub(super) fn signals(&self) -> u32 {
        self.signals.load(Ordering::Relaxed)
    }

    /// The member leads, and nobody takes that over.
    pub(super) fn lead(&self) {
        self.seat.status.send_modify(|status| {
            (status.member, status.leader) = (MemberId(1), Some(MemberId(1)));
        });
    }

    /// The app's state is not known any more.
    pub(super) fn condemn(&self) {
        let instance = Some(Instance(NonZeroU64::MIN));
        self.apply.send_modify(|apply| apply.condemned = instance);
    }

    /// Somebody went past the sidecar.
    pub(super) fn bypassed(&self, address: IpAddr) {
        let seen = Instant::now();
        self.outsiders
            .send_replace(Some(Outsider { address, seen }));
    }
}
