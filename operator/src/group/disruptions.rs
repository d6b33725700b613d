//! Who takes a member away, where members are in several clusters: no cluster knows what another is
//! just doing, so all budgets are closed, and a cluster whose node is being emptied, or whose pods are
//! replaced, first takes the group's disruption token. Comes in: nodes of the members here, how all
//! members are, whether the planner wants one away. Goes out: whether it may be, and the fact by which
//! the budget is open. It asks the leader for the token, wherever that is.

mod fact;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Node, NodeSpec};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{Api, Client};
use synod_api::{GroupPeer, MemberRole, ReplicaGroup};
use synod_proto::v1::StatusResponse;

use super::apply::words;
use super::members::{Asker, address};
use super::observe::Observed;
use super::plan::Elsewhere;
use super::revise::{runs_along, silent_of};
use super::status::Report;
use super::validate::Valid;
use fact::Fact;

/// What is asked for. A leader gives no more.
const LEASE: Duration = Duration::from_secs(60);
/// Long enough to know that it can be had.
const GLIMPSE: Duration = Duration::from_secs(1);
/// It is renewed when no more than this is left: not at every look, since each is noted.
const RENEWAL: SignedDuration = SignedDuration::from_secs(40);
/// What must be left of it when a pod is taken away: handing over takes up to fifteen seconds.
const MARGIN: SignedDuration = SignedDuration::from_secs(20);
/// Taints of nodes that whoever scales a cluster is about to remove.
const EMPTIED: [&str; 3] = [
    "ToBeDeletedByClusterAutoscaler",
    "karpenter.sh/disrupted",
    "karpenter.sh/disruption",
];

/// What follows from what is seen here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wish {
    /// Nobody wants a member away, and none is.
    Nothing,
    /// The token is to be given back.
    Release,
    /// The token is to be asked for, or kept.
    Hold,
}

/// Whether the budget of a group with members elsewhere is open now.
pub(super) fn is_open(valid: &Valid<'_>, now: Timestamp) -> bool {
    let status = valid.group.status.as_ref();
    status
        .and_then(|it| Fact::read(&it.facts))
        .is_some_and(|it| it.open && it.holds(now))
}

/// Asks for the token, keeps it, or gives it back, and notes whether the budget may be open.
/// `wanted`: the planner wants a pod away. Goes out, if it may be: how members elsewhere are, as they
/// said after the token was ours; otherwise why not.
pub(super) async fn look(
    client: &Client,
    valid: &Valid<'_>,
    report: &mut Report,
    asker: &Asker,
    wanted: bool,
) -> Result<Elsewhere, String> {
    let before = Fact::read(&report.facts);
    if valid.alone() || valid.group.spec.genesis.is_none() {
        Fact::forget(&mut report.facts);
        return Ok(Elsewhere::default());
    }
    let emptied = match emptied(client, report).await {
        Ok(emptied) => emptied,
        Err(error) => {
            report.failure = Some(format!("cannot read nodes: {}", words(&error)));
            BTreeSet::new()
        }
    };
    let well = report.members.iter().all(|it| it.seen().is_well());
    let drained = !emptied.is_empty();
    // One whose turn to be replaced has not come is not one that was taken away.
    let revision = valid.group.spec.revision;
    let mut seen = report.members.iter().map(Observed::seen);
    let back = seen.all(|it| it.is_well() || it.is_to_be_revised(revision));
    let (now, may) = match wish(drained || wanted, before.is_some(), back) {
        Wish::Nothing => (None, Err("nobody wants a member away".to_owned())),
        Wish::Release => {
            let left = give_back(valid, report, asker, before).await;
            (left, Err("nobody wants a member away".to_owned()))
        }
        Wish::Hold => match hold(valid, report, asker, before).await {
            Err(why) => (None, Err(why)),
            Ok(until) => {
                // Asked while the token is ours: whoever held it before has its members back.
                let elsewhere = elsewhere(valid, report, asker).await;
                if well && !elsewhere.unwell.is_empty() {
                    // Of no use here, and whoever mends them may need it.
                    let open = before.is_some_and(|it| it.open);
                    let left = give_back(valid, report, asker, Some(Fact { open, until })).await;
                    let late = elsewhere.unwell.join(", ");
                    return note(report, &emptied, before, left, Err(unwell(&late)));
                }
                let last = is_last(valid.group, &report.members, &elsewhere);
                let open = well && elsewhere.unwell.is_empty() && !last && (drained || wanted);
                let left = until.duration_since(Timestamp::now());
                let may = if left < MARGIN {
                    Err("the group's disruption token ends too soon".to_owned())
                } else {
                    Ok(elsewhere)
                };
                (Some(Fact { open, until }), may)
            }
        },
    };
    note(report, &emptied, before, now, may)
}

/// Takes note of what follows from a look.
fn note(
    report: &mut Report,
    emptied: &BTreeSet<String>,
    before: Option<Fact>,
    now: Option<Fact>,
    may: Result<Elsewhere, String>,
) -> Result<Elsewhere, String> {
    if !emptied.is_empty() {
        let nodes: Vec<_> = emptied.iter().map(String::as_str).collect();
        report.blocked = blocked(&nodes.join(", "), &may);
    }
    report.soon |= before.map(|it| it.open) != now.map(|it| it.open);
    match now {
        Some(now) => now.write(&mut report.facts),
        None => Fact::forget(&mut report.facts),
    }
    may
}

fn unwell(names: &str) -> String {
    format!("not well in other clusters: {names}")
}

/// An open budget is closed first, by the next look: what is left of the token until then.
fn closing(before: Option<Fact>) -> Option<Fact> {
    let open = before.filter(|it| it.open);
    open.map(|it| Fact { open: false, ..it })
}

/// Gives the token back once the budget is closed. Goes out: what is left of it.
async fn give_back(
    valid: &Valid<'_>,
    report: &Report,
    asker: &Asker,
    before: Option<Fact>,
) -> Option<Fact> {
    let left = closing(before);
    if left.is_none() {
        release(valid, report, asker).await;
    }
    left
}

/// `wanted`: a member is to go; `held`: the token is ours, as far as is known here; `back`: nobody whom
/// we have taken away is still missing.
fn wish(wanted: bool, held: bool, back: bool) -> Wish {
    match (wanted, held, back) {
        (true, _, _) | (_, true, false) => Wish::Hold,
        (false, true, true) => Wish::Release,
        (false, false, _) => Wish::Nothing,
    }
}

/// Nodes of members here that shall be empty.
async fn emptied(client: &Client, report: &Report) -> kube::Result<BTreeSet<String>> {
    let nodes: BTreeSet<_> = report
        .members
        .iter()
        .filter_map(|it| it.pod.as_ref())
        .map(|it| it.node.clone())
        .filter(|it| !it.is_empty())
        .collect();
    let api: Api<Node> = Api::all(client.clone());
    let mut emptied = BTreeSet::new();
    for name in nodes {
        let node = api.get_opt(&name).await?;
        if node
            .and_then(|it| it.spec)
            .is_some_and(|it| is_emptied(&it))
        {
            emptied.insert(name);
        }
    }
    Ok(emptied)
}

fn is_emptied(node: &NodeSpec) -> bool {
    let mut taints = node.taints.iter().flatten();
    node.unschedulable == Some(true) || taints.any(|it| EMPTIED.contains(&it.key.as_str()))
}

/// The leader, as members here know it, and the epoch.
fn leader(valid: &Valid<'_>, report: &Report) -> Option<(String, SocketAddr, u64)> {
    let said = report.members.iter().filter_map(Observed::said);
    let said = said.filter(|it| !it.leader.is_empty());
    let newest = said.max_by_key(|it| (it.epoch, it.commit))?;
    let place = place(valid, report, &newest.leader)?;
    Some((newest.leader.clone(), place, newest.epoch))
}

/// Where a member of any cluster can be asked.
fn place(valid: &Valid<'_>, report: &Report, member: &str) -> Option<SocketAddr> {
    if let Some(here) = report.members.iter().find(|it| it.name == member) {
        let port = valid.group.spec.sidecar.ports.peer;
        return address(&here.pod.as_ref()?.ip, port);
    }
    let mut peers = valid.group.spec.peers.iter();
    peers.find(|it| it.name == member)?.address.parse().ok()
}

fn holder(valid: &Valid<'_>) -> String {
    format!("{}/{}", valid.group.spec.cluster, valid.uid)
}

async fn release(valid: &Valid<'_>, report: &Report, asker: &Asker) {
    let Some((leader, place, _)) = leader(valid, report) else {
        return;
    };
    // Otherwise it ends by itself.
    if let Err(error) = asker
        .release_disruption(&leader, place, &holder(valid))
        .await
    {
        tracing::debug!(service = valid.name, %error, "the disruption token is not given back");
    }
}

/// What a leader says of the token.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    /// It is ours until then.
    Ours(Timestamp),
    /// It is another's.
    Theirs(String),
    /// Nothing can be said of it now: nobody leads, or does so too lately, or does not answer.
    Nothing(String),
}

/// Whether pods could be replaced now, one by one: what follows from a new revision of the app must not
/// have to wait. The token is taken for a moment only.
pub(super) async fn could(valid: &Valid<'_>, report: &Report, asker: &Asker) -> Result<(), String> {
    let now = Timestamp::now();
    let held = Fact::read(&report.facts).is_some_and(|it| it.holds(now));
    if valid.alone() || held {
        return Ok(());
    }
    match ask(valid, report, asker, GLIMPSE, now).await {
        Said::Ours(_) => Ok(()),
        Said::Theirs(why) | Said::Nothing(why) => Err(why),
    }
}

/// Until when the token is ours, or why it is not.
async fn hold(
    valid: &Valid<'_>,
    report: &Report,
    asker: &Asker,
    before: Option<Fact>,
) -> Result<Timestamp, String> {
    let now = Timestamp::now();
    if let Some(fact) = before.filter(|it| it.until.duration_since(now) > RENEWAL) {
        return Ok(fact.until);
    }
    kept(before, ask(valid, report, asker, LEASE, now).await, now)
}

/// A leader that knows nothing of an earlier one's grant gives the token to nobody for longer than
/// that lasts, so what was granted stays ours until it ends.
fn kept(before: Option<Fact>, said: Said, now: Timestamp) -> Result<Timestamp, String> {
    match (said, before.filter(|it| it.holds(now))) {
        (Said::Ours(until), _) => Ok(until),
        (Said::Nothing(_), Some(fact)) => Ok(fact.until),
        (Said::Theirs(why), _) | (Said::Nothing(why), None) => Err(why),
    }
}

/// `now` is from before it is asked: a lease counts from then.
async fn ask(
    valid: &Valid<'_>,
    report: &Report,
    asker: &Asker,
    lease: Duration,
    now: Timestamp,
) -> Said {
    let Some((leader, place, epoch)) = leader(valid, report) else {
        return Said::Nothing("no member here follows a leader".to_owned());
    };
    let holder = holder(valid);
    let asked = asker.acquire_disruption(&leader, place, epoch, lease, &holder);
    match asked.await {
        Ok(answer) if answer.granted_ms > 0 => {
            let granted = Duration::from_millis(answer.granted_ms).min(lease);
            // Whole seconds, rounded down.
            let until = now.as_second() + granted.as_secs().cast_signed();
            Said::Ours(Timestamp::from_second(until).unwrap_or(now))
        }
        Ok(answer) if answer.holder.is_empty() => {
            let seconds = answer.wait_ms.div_ceil(1_000);
            Said::Nothing(format!(
                "{leader} leads so lately that it lets no member go for {seconds} s"
            ))
        }
        Ok(answer) => {
            let cluster = answer.holder.split('/').next().unwrap_or_default();
            Said::Theirs(format!(
                "a member in cluster {cluster} may be away or replaced now"
            ))
        }
        Err(error) => Said::Nothing(error.to_string()),
    }
}

/// How members of other clusters are.
async fn elsewhere(valid: &Valid<'_>, report: &Report, asker: &Asker) -> Elsewhere {
    let here = |name: &str| report.members.iter().any(|it| it.name == name);
    let peers = valid.group.spec.peers.iter();
    let asked = peers.filter(|it| !here(&it.name)).map(|peer| async move {
        let said = match peer.address.parse() {
            Ok(place) => asker.status(&peer.name, place).await.ok(),
            Err(_) => None,
        };
        (peer, said)
    });
    count(&join_all(asked).await)
}

/// Others run along silently, so whoever answers may be the only one: that one stays.
fn is_last(group: &ReplicaGroup, here: &[Observed], elsewhere: &Elsewhere) -> bool {
    let here = here.iter().filter_map(Observed::said);
    let answering = here.filter(|it| it.serving).count() + elsewhere.answering;
    silent_of(group).is_some() && answering < 2
}

fn count(members: &[(&GroupPeer, Option<StatusResponse>)]) -> Elsewhere {
    let votes = |said: &StatusResponse| said.ready && !said.leader.is_empty();
    let answers = |said: &StatusResponse| votes(said) && said.serving;
    let has_none = |said: &StatusResponse| said.role == "Witness" || runs_along(said);
    let well = |said: &StatusResponse| answers(said) || (votes(said) && has_none(said));
    let voters = || {
        members
            .iter()
            .filter(|(it, _)| it.role != MemberRole::Observer)
    };
    Elsewhere {
        voters: voters().count(),
        voting: voters()
            .filter(|(_, said)| said.as_ref().is_some_and(votes))
            .count(),
        answering: members
            .iter()
            .filter(|(_, said)| said.as_ref().is_some_and(answers))
            .count(),
        unwell: members
            .iter()
            .filter(|(_, said)| !said.as_ref().is_some_and(well))
            .map(|(it, _)| it.name.clone())
            .collect(),
    }
}

/// Why members on nodes that shall be empty must stay.
fn blocked(nodes: &str, may: &Result<Elsewhere, String>) -> Option<String> {
    let why = match may {
        Ok(elsewhere) if elsewhere.unwell.is_empty() => return None,
        Ok(elsewhere) => unwell(&elsewhere.unwell.join(", ")),
        Err(why) => why.clone(),
    };
    Some(format!(
        "members on {nodes} are not to be evicted yet: {why}"
    ))
}

#[cfg(test)]
mod tests;
