//! Numbers about the controllers, in the OpenMetrics text format.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Seconds that one look at an object may take.
const BUCKETS: [f64; 9] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0];

/// Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    reconciles: Family<ReconcileLabels, Counter>,
    seconds: Family<ControllerLabels, Histogram, fn() -> Histogram>,
    leader: Gauge,
    reachable: Family<ClusterLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileLabels {
    controller: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ControllerLabels {
    controller: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterLabels {
    cluster: String,
}

// === impl Metrics ===

impl Metrics {
    /// One look at one object has ended. `result` is `ok` or a category of errors: a bounded set.
    pub fn reconciled(&self, controller: &'static str, result: &'static str, took: Duration) {
        self.reconciles
            .get_or_create(&ReconcileLabels { controller, result })
            .inc();
        self.seconds
            .get_or_create(&ControllerLabels { controller })
            .observe(took.as_secs_f64());
    }

    /// Whether this instance writes.
    pub fn leader(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// Whether another cluster's API server answers; `None`: it is registered no more.
    pub fn reachable(&self, cluster: &str, reachable: Option<bool>) {
        let labels = ClusterLabels {
            cluster: cluster.to_owned(),
        };
        match reachable {
            Some(reachable) => {
                self.reachable.get_or_create(&labels).set(reachable.into());
            }
            None => {
                self.reachable.remove(&labels);
            }
        }
    }

    /// Adds a part's own numbers; names begin with `synod_operator_`.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn encode(&self) -> String {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        encode(&mut text, &registry).expect("a string takes everything");
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("synod_operator");
        let reconciles = Family::default();
        registry.register(
            "reconciles",
            "Looks at one object, by how they ended",
            reconciles.clone(),
        );
        let seconds: Family<_, _, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        registry.register(
            "reconcile_seconds",
            "How long looks at one object took",
            seconds.clone(),
        );
        let leader = Gauge::default();
        registry.register(
            "leader",
            "This instance is the one that writes",
            leader.clone(),
        );
        let reachable = Family::default();
        registry.register(
            "cluster_reachable",
            "The cluster's API server answers",
            reachable.clone(),
        );
        Self {
            registry: Arc::new(Mutex::new(registry)),
            reconciles,
            seconds,
            leader,
            reachable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_encoded_with_their_labels() {
        let metrics = Metrics::default();
        metrics.reconciled("placement", "ok", Duration::from_millis(20));
        metrics.reachable("eu", Some(false));
        metrics.leader(true);
        let text = metrics.encode();
        for line in [
            "synod_operator_reconciles_total{controller=\"placement\",result=\"ok\"} 1",
            "synod_operator_cluster_reachable{cluster=\"eu\"} 0",
            "synod_operator_leader 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        metrics.reachable("eu", None);
        assert!(!metrics.encode().contains("cluster=\"eu\""));
    }
}
