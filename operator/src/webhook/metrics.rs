//! Numbers about the webhook.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

/// Seconds; the API server waits for five.
const BUCKETS: [f64; 8] = [0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 2.0, 5.0];

/// Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    requests: Family<Labels, Counter>,
    seconds: Histogram,
    ends: Gauge,
    bare: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
}

// === impl Metrics ===

impl Metrics {
    pub(super) fn new(all: &crate::run::Metrics) -> Self {
        let metrics = Self {
            requests: Family::default(),
            seconds: Histogram::new(BUCKETS),
            ends: Gauge::default(),
            bare: Gauge::default(),
        };
        all.register(|registry| {
            registry.register(
                "webhook_requests",
                "Pods that were shown to the webhook, by what became of them",
                metrics.requests.clone(),
            );
            registry.register(
                "webhook_seconds",
                "How long the webhook took for one pod",
                metrics.seconds.clone(),
            );
            registry.register(
                "webhook_certificate_end_timestamp_seconds",
                "When the certificate that the webhook serves with ends",
                metrics.ends.clone(),
            );
            registry.register(
                "pods_without_sidecar",
                "Labelled pods that run without a sidecar, as the instance that writes sees them",
                metrics.bare.clone(),
            );
        });
        metrics
    }

    /// One pod was shown. `outcome` is one of a few words.
    pub(super) fn reviewed(&self, outcome: &'static str, took: Duration) {
        self.requests.get_or_create(&Labels { outcome }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// When the certificate ends.
    pub(super) fn ends(&self, second: i64) {
        self.ends.set(second);
    }

    /// How many pods have no sidecar.
    pub(super) fn bare(&self, count: usize) {
        self.bare.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
}
