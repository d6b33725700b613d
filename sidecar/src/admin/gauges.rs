//! The published status as metrics, read at the moment somebody asks for them.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::apply::ApplyStatus;
use crate::node::NodeStatus;

#[derive(Debug)]
struct Gauges {
    node: watch::Receiver<NodeStatus>,
    apply: watch::Receiver<ApplyStatus>,
}

/// Makes slots, leadership and the state of the copy known to a registry whose prefix is `synod`.
pub fn register(
    registry: &mut Registry,
    node: watch::Receiver<NodeStatus>,
    apply: watch::Receiver<ApplyStatus>,
) {
    registry.register_collector(Box::new(Gauges { node, apply }));
}

// === impl Gauges ===

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let node = self.node.borrow().clone();
        let apply = self.apply.borrow().clone();
        let leads = node.group.is_some() && node.leader == Some(node.member);
        let lag = node.commit.0.saturating_sub(apply.applied.0);
        let gauges: [(&str, &str, u64); 13] = [
            (
                "node_epoch",
                "Number of the membership configuration",
                node.epoch.0,
            ),
            ("node_last_slot", "Last slot of the log", node.last.0),
            (
                "node_commit_slot",
                "Last slot known to be chosen",
                node.commit.0,
            ),
            ("node_leads", "This member is the leader", leads.into()),
            (
                "node_has_leader",
                "This member follows a leader",
                node.leader.is_some().into(),
            ),
            (
                "node_log_counts",
                "The log has caught up since the start",
                node.log_counts.into(),
            ),
            (
                "node_serving_members",
                "Members known to have a copy that answers clients",
                node.serving.len() as u64,
            ),
            (
                "apply_applied_slot",
                "Last slot that the app has executed",
                apply.applied.0,
            ),
            (
                "apply_sent_slot",
                "Highest slot sent to the app",
                apply.sent.0,
            ),
            (
                "apply_lag_slots",
                "Chosen slots that the app has not executed",
                lag,
            ),
            (
                "apply_serving",
                "The copy answers clients",
                apply.serving.into(),
            ),
            (
                "apply_rebuilding",
                "The copy replays after a start",
                apply.rebuilding.into(),
            ),
            (
                "apply_app_stalled",
                "The app does not answer",
                apply.app_stalled.into(),
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        let starts = ConstCounter::new(apply.app_starts);
        let help = "Starts of the app that were seen";
        let metric = encoder.encode_descriptor("app_starts", help, None, starts.metric_type())?;
        starts.encode(metric)
    }
}
