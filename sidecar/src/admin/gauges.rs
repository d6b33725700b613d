//! What is published and what the agreement says, as metrics, read at the moment somebody asks.
//! Labels are bounded: members of the group, and the words of `waiting_on`.

use std::fmt::Error;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use synod_paxos::{PeerStatus, Slot};
use tokio::sync::watch;

use super::status::WAITING_ON;
use crate::apply::{ApplyStatus, Verified};
use crate::copies::Found;
use crate::node::{Description, NodeStatus};
use crate::poison;

/// Reads all of it.
#[derive(Debug)]
pub(super) struct Gauges {
    pub(super) node: watch::Receiver<NodeStatus>,
    pub(super) apply: watch::Receiver<ApplyStatus>,
    pub(super) found: watch::Receiver<Found>,
    pub(super) verified: watch::Receiver<Verified>,
    pub(super) poison: watch::Receiver<poison::Found>,
    pub(super) details: watch::Receiver<Option<Arc<Description>>>,
    pub(super) waiting: watch::Receiver<Option<&'static str>>,
    pub(super) log_max_bytes: u64,
}

// === impl Gauges ===

impl Collector for Gauges {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let node = self.node.borrow().clone();
        let apply = self.apply.borrow().clone();
        let mut page = Page(encoder);
        published(&mut page, &node, &apply)?;
        compared(&mut page, &self.found.borrow(), &self.verified.borrow())?;
        undecided(&mut page, &self.poison.borrow())?;
        let waiting = *self.waiting.borrow();
        let on = WAITING_ON.map(|on| (on, i64::from(waiting == Some(on))));
        page.labelled("node_waiting_on", "It waits for this", None, "on", &on)?;
        let max = count(self.log_max_bytes);
        page.gauge("log_max", "Most that the log may have", BYTES, max)?;
        let details = self.details.borrow().clone();
        match details {
            Some(details) => described(&mut page, &node, &details),
            None => Ok(()),
        }
    }
}

const BYTES: Option<&Unit> = Some(&Unit::Bytes);
const SECONDS: Option<&Unit> = Some(&Unit::Seconds);

fn compared(page: &mut Page<'_>, found: &Found, verified: &Verified) -> Result<(), Error> {
    let diverged: usize = found.diverged.iter().map(|it| it.members.len()).sum();
    for (name, help, value) in [
        (
            "copies_diverged",
            "Copies that answered differently and were not made anew yet, at the leader",
            diverged as u64,
        ),
        (
            "copies_not_deterministic",
            "Parts of responses that differ on all copies and are not compared, at the leader",
            found.not_deterministic.len() as u64,
        ),
        (
            "copies_verified_slot",
            "A majority of the copies has answered as this one up to this slot",
            verified.slot().0,
        ),
    ] {
        page.gauge(name, help, None, count(value))?;
    }
    Ok(())
}

fn undecided(page: &mut Page<'_>, found: &poison::Found) -> Result<(), Error> {
    let slot = found.undecided.as_ref().map_or(0, |it| it.slot);
    let help = "Slot of the request that no copy gets past, at the leader; 0: there is none";
    page.gauge("poison_undecided_slot", help, None, count(slot))?;
    let last = found.skipped.last().map_or(0, |it| it.slot);
    let help =
        "Slot of the last request that was skipped, as far as known since the start; 0: none";
    page.gauge("poison_skipped_slot", help, None, count(last))
}

fn published(page: &mut Page<'_>, node: &NodeStatus, apply: &ApplyStatus) -> Result<(), Error> {
    let leads = node.group.is_some() && node.leader == Some(node.member);
    let lag = node.commit.0.saturating_sub(apply.applied.0);
    for (name, help, value) in [
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
            "node_skewed_clocks",
            "Voters whose wall clocks are off by more than a second",
            node.skewed.len() as u64,
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
    ] {
        page.gauge(name, help, None, count(value))?;
    }
    page.counter(
        "app_starts",
        "Starts of the app that were seen",
        apply.app_starts,
    )
}

fn described(page: &mut Page<'_>, node: &NodeStatus, it: &Description) -> Result<(), Error> {
    page.gauge(
        "log_size",
        "Synced bytes of the log",
        BYTES,
        count(it.log_bytes),
    )?;
    let full = i64::from(it.log_full);
    page.gauge("log_full", "The log takes no requests", None, full)?;
    let counters = &it.counters;
    for (name, help, value) in [
        ("elections", "Elections begun here", counters.elections),
        (
            "elections_won",
            "Elections won here",
            counters.elections_won,
        ),
        (
            "step_downs",
            "Times that leadership was given up here",
            counters.step_downs,
        ),
        (
            "leader_changes",
            "Leaders that were followed since the start",
            it.leader_changes,
        ),
        (
            "prepares_ignored",
            "Prepares ignored because the leader works",
            counters.prepares_ignored,
        ),
        ("resends", "Commands sent again", counters.resends),
        (
            "rewinds",
            "Times that entries were sent again to a follower",
            counters.rewinds,
        ),
        ("repairs", "Entries repaired from peers", counters.repairs),
        (
            "read_rounds",
            "Rounds of heartbeats that proved leadership for reads",
            counters.read_rounds,
        ),
        (
            "foreign_messages",
            "Messages of another group, member or incarnation",
            counters.foreign_messages,
        ),
        (
            "impossible_messages",
            "Messages that no honest member sends",
            counters.impossible_messages,
        ),
        (
            "stale_messages",
            "Messages that came too late to matter",
            counters.stale_messages,
        ),
    ] {
        page.counter(&format!("paxos_{name}"), help, value)?;
    }
    peers(page, node, it)
}

/// The other members as this one sees them.
fn peers(page: &mut Page<'_>, node: &NodeStatus, it: &Description) -> Result<(), Error> {
    let members = node.configuration.iter().flat_map(|it| &it.members);
    let peers: Vec<(&str, &PeerStatus)> = members
        .filter_map(|member| {
            let peer = it
                .status
                .peers
                .iter()
                .find(|peer| peer.member == member.id)?;
            Some((member.name.as_str(), peer))
        })
        .collect();
    let last = it.status.last;
    let round_trips = peers.iter().map(|(name, peer)| {
        let time = Duration::from_nanos(peer.rtt_ns);
        (*name, time.as_secs_f64())
    });
    page.labelled(
        "peer_round_trip",
        "Smoothed time of a message there and back",
        SECONDS,
        "peer",
        &round_trips.collect::<Vec<_>>(),
    )?;
    let each = |value: &dyn Fn(&PeerStatus) -> i64| -> Vec<(&str, i64)> {
        peers
            .iter()
            .map(|(name, peer)| (*name, value(peer)))
            .collect()
    };
    for (name, help, unit, values) in [
        (
            "peer_heard",
            "Its heartbeats come",
            None,
            each(&|peer| peer.heard.into()),
        ),
        (
            "peer_log_lag_slots",
            "Slots of our log that it has not told to have synced",
            None,
            each(&|peer| count(behind(last, peer))),
        ),
        (
            "peer_applied_slot",
            "Last slot that its app has executed",
            None,
            each(&|peer| count(peer.applied.0)),
        ),
        (
            "peer_in_flight",
            "Bytes that the leader has sent it and that it has not acknowledged",
            BYTES,
            each(&|peer| count(peer.in_flight_bytes)),
        ),
    ] {
        page.labelled(name, help, unit, "peer", &values)?;
    }
    Ok(())
}

/// By what it acknowledged to us as its leader, or else by its heartbeats.
fn behind(last: Slot, peer: &PeerStatus) -> u64 {
    last.0
        .saturating_sub(peer.acknowledged.unwrap_or(peer.last).0)
}

fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The page as it is written.
struct Page<'a>(DescriptorEncoder<'a>);

// === impl Page ===

impl Page<'_> {
    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        value: i64,
    ) -> Result<(), Error> {
        let gauge = ConstGauge::new(value);
        let kind = MetricType::Gauge;
        gauge.encode(self.0.encode_descriptor(name, help, unit, kind)?)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        let counter = ConstCounter::new(value);
        let kind = MetricType::Counter;
        counter.encode(self.0.encode_descriptor(name, help, None, kind)?)
    }

    /// One gauge for each value of one label.
    fn labelled<N: EncodeGaugeValue + Copy>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        label: &str,
        values: &[(&str, N)],
    ) -> Result<(), Error> {
        if values.is_empty() {
            return Ok(());
        }
        let kind = MetricType::Gauge;
        let mut family = self.0.encode_descriptor(name, help, unit, kind)?;
        for (of, value) in values {
            let labels = [(label, *of)];
            ConstGauge::new(*value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
