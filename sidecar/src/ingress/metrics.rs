//! What ingress counts.
//!
//! In: finished requests. Out: metrics in a registry. Labels are bounded: routes come from the
//! policy, never from paths.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::StatusCode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::budget::TakenBytes;

/// Of a request that was refused before it was known how to serve it.
pub(super) const NO_CLASS: &str = "none";

/// Handles on the metrics of this room.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    duration: Family<ClassLabels, Histogram, fn() -> Histogram>,
    handed_over: Counter,
    in_flight: Gauge,
    connections: Gauge,
    refused_connections: Counter<u64, AtomicU64>,
    /// Budgets of [`super::room::Room`], in bytes that are taken.
    pub(super) body_memory: TakenBytes,
    pub(super) body_disk: TakenBytes,
    pub(super) command_memory: TakenBytes,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    class: &'static str,
    route: RouteName,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabels {
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct RouteName(Arc<str>);

/// Counts one thing up now and down when it goes.
#[derive(Debug)]
pub(super) struct Held(Gauge);

/// From 0.25 ms to 33 s, each bound twice the last.
const BOUNDS: [f64; 18] = [
    0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024,
    2.048, 4.096, 8.192, 16.384, 32.768,
];

// === impl Metrics ===

impl Metrics {
    /// Makes them known to a registry whose prefix is `synod`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(BOUNDS)),
            handed_over: Counter::default(),
            in_flight: Gauge::default(),
            connections: Gauge::default(),
            refused_connections: Counter::default(),
            body_memory: TakenBytes::default(),
            body_disk: TakenBytes::default(),
            command_memory: TakenBytes::default(),
        };
        let room = registry.sub_registry_with_prefix("ingress");
        room.register(
            "requests",
            "Requests answered, by consistency, route and status",
            metrics.requests.clone(),
        );
        room.register_with_unit(
            "duration",
            "Time from a request's head to its response's head, by consistency",
            Unit::Seconds,
            metrics.duration.clone(),
        );
        room.register(
            "handed_over_reads",
            "Reads that another member served for this one",
            metrics.handed_over.clone(),
        );
        room.register(
            "in_flight_requests",
            "Requests whose response head has not been sent",
            metrics.in_flight.clone(),
        );
        room.register(
            "connections",
            "Open connections of clients",
            metrics.connections.clone(),
        );
        room.register(
            "refused_connections",
            "Connections closed for malformed or slow requests",
            metrics.refused_connections.clone(),
        );
        for (name, help, gauge) in [
            (
                "body_memory",
                "Memory taken for small bodies of requests",
                &metrics.body_memory,
            ),
            (
                "body_disk",
                "Disk taken for larger bodies of requests",
                &metrics.body_disk,
            ),
            (
                "command_memory",
                "Memory taken for larger bodies until they are agreed on",
                &metrics.command_memory,
            ),
        ] {
            room.register_with_unit(name, help, Unit::Bytes, gauge.clone());
        }
        metrics
    }

    pub(crate) fn answered(
        &self,
        class: &'static str,
        route: &Arc<str>,
        status: StatusCode,
        took: Duration,
    ) {
        self.count(class, route, status);
        self.duration
            .get_or_create(&ClassLabels { class })
            .observe(took.as_secs_f64());
    }

    fn count(&self, class: &'static str, route: &Arc<str>, status: StatusCode) {
        let labels = RequestLabels {
            class,
            route: RouteName(route.clone()),
            status: status.as_u16(),
        };
        self.requests.get_or_create(&labels).inc();
    }

    pub(super) fn handed_over(&self) {
        self.handed_over.inc();
    }

    /// A connection was refused before there was a request on it; it has no class and no time.
    pub(super) fn refused(&self, no_route: &Arc<str>, status: StatusCode) {
        self.count(NO_CLASS, no_route, status);
        self.refused_connections.inc();
    }

    pub(super) fn request(&self) -> Held {
        Held::new(&self.in_flight)
    }

    pub(super) fn connection(&self) -> Held {
        Held::new(&self.connections)
    }
}

// === impl Held ===

impl Held {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

// === impl RouteName ===

impl EncodeLabelValue for RouteName {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.write_str(&self.0)
    }
}
