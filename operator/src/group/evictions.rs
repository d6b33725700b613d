//! Evictions, where members are in several clusters: no cluster's budget knows what another's is just
//! doing, so all are closed, and the one whose node is being emptied opens its own while it holds the
//! group's disruption token. Comes in: nodes of the members here, how all members are. Goes out: the
//! fact by which the budget is open. It asks the leader for the token, wherever that is.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use synod_proto::v1::StatusResponse;

use super::apply::words;
use super::members::{Asker, address};
use super::observe::Observed;
use super::status::Report;
use super::validate::Valid;

/// In a group's facts while this cluster holds the token: whether its budget is open.
const FACT: &str = "evictions";
const OPEN: &str = "open";
const CLOSED: &str = "closed";
/// The token is asked for again at every look, and this is many looks.
const LEASE: Duration = Duration::from_secs(60);

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
pub(super) fn is_open(valid: &Valid<'_>) -> bool {
    let status = valid.group.status.as_ref();
    status
        .and_then(|it| it.facts.get(FACT))
        .is_some_and(|it| it == OPEN)
}

/// Asks for the token, keeps it, or gives it back, and notes whether the budget may be open.
pub(super) async fn look(client: &Client, valid: &Valid<'_>, report: &mut Report, asker: &Asker) {
    let before = report.facts.get(FACT).cloned();
    let held = before.is_some();
    if valid.alone() || valid.group.spec.genesis.is_none() {
        report.facts.remove(FACT);
        return;
    }
    let cordoned = match cordoned(client, report).await {
        Ok(cordoned) => cordoned,
        Err(error) => {
            report.failure = Some(format!("cannot read nodes: {}", words(&error)));
            BTreeSet::new()
        }
    };
    let well = report.members.iter().all(|it| it.seen().is_well());
    let now = match wish(!cordoned.is_empty(), held, well) {
        Wish::Nothing => None,
        Wish::Release => {
            release(valid, report, asker).await;
            None
        }
        Wish::Hold => {
            let about: Vec<_> = cordoned.into_iter().collect();
            hold(valid, report, asker, &about.join(", "), well).await
        }
    };
    match &now {
        Some(now) => drop(report.facts.insert(FACT.to_owned(), (*now).to_owned())),
        None => drop(report.facts.remove(FACT)),
    }
    report.soon |= before.as_deref() != now;
}

/// `cordoned`: a member's node is; `held`: the token is ours, as far as is known here; `well`: every
/// member here is.
fn wish(cordoned: bool, held: bool, well: bool) -> Wish {
    match (cordoned, held, well) {
        (true, _, _) | (_, true, false) => Wish::Hold,
        (false, true, true) => Wish::Release,
        (false, false, _) => Wish::Nothing,
    }
}

/// Nodes of members here that shall be empty.
async fn cordoned(client: &Client, report: &Report) -> kube::Result<BTreeSet<String>> {
    let nodes: BTreeSet<_> = report
        .members
        .iter()
        .filter_map(|it| it.pod.as_ref())
        .map(|it| it.node.clone())
        .filter(|it| !it.is_empty())
        .collect();
    let api: Api<Node> = Api::all(client.clone());
    let mut cordoned = BTreeSet::new();
    for name in nodes {
        let node = api.get_opt(&name).await?;
        let spec = node.and_then(|it| it.spec);
        if spec.is_some_and(|it| it.unschedulable == Some(true)) {
            cordoned.insert(name);
        }
    }
    Ok(cordoned)
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

/// What the fact should be: whether the budget may be open, or none without the token.
async fn hold(
    valid: &Valid<'_>,
    report: &mut Report,
    asker: &Asker,
    nodes: &str,
    well: bool,
) -> Option<&'static str> {
    let Some((leader, place, epoch)) = leader(valid, report) else {
        report.blocked = blocked(nodes, "no member here follows a leader");
        return None;
    };
    let holder = holder(valid);
    let asked = asker.acquire_disruption(&leader, place, epoch, LEASE, &holder);
    match asked.await {
        Ok(answer) if answer.granted_ms > 0 => {}
        Ok(answer) if answer.holder.is_empty() => {
            let seconds = answer.wait_ms.div_ceil(1_000);
            let why =
                format!("{leader} leads so lately that it grants no eviction for {seconds} s");
            report.blocked = blocked(nodes, &why);
            return None;
        }
        Ok(answer) => {
            let cluster = answer
                .holder
                .split('/')
                .next()
                .unwrap_or_default()
                .to_owned();
            let why = format!("a member in cluster {cluster} may be evicted now");
            report.blocked = blocked(nodes, &why);
            return None;
        }
        Err(error) => {
            report.blocked = blocked(nodes, &error.to_string());
            return None;
        }
    }
    // Asked after the token was granted: whoever held it before has its members back.
    let away = away(valid, report, asker).await;
    if !away.is_empty() {
        report.blocked = blocked(nodes, &format!("not well: {}", away.join(", ")));
    }
    let open = well && away.is_empty() && !nodes.is_empty();
    Some(if open { OPEN } else { CLOSED })
}

/// Members of other clusters that are not well.
async fn away(valid: &Valid<'_>, report: &Report, asker: &Asker) -> Vec<String> {
    let here = |name: &str| report.members.iter().any(|it| it.name == name);
    let elsewhere = valid.group.spec.peers.iter();
    let asked = elsewhere.filter(|it| !here(&it.name)).map(|peer| async {
        let place = peer.address.parse().ok();
        let said = match place {
            Some(place) => asker.status(&peer.name, place).await.ok(),
            None => None,
        };
        (!said.is_some_and(|it| is_well(&it))).then(|| peer.name.clone())
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// It votes, and its copy answers.
fn is_well(said: &StatusResponse) -> bool {
    said.ready && !said.leader.is_empty() && (said.serving || said.role == "Witness")
}

fn blocked(nodes: &str, why: &str) -> Option<String> {
    (!nodes.is_empty()).then(|| format!("members on {nodes} are not to be evicted yet: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_held_from_the_cordon_until_all_is_well_again() {
        for (cordoned, held, well, expected) in [
            (false, false, true, Wish::Nothing),
            // A member that is away by itself is nobody's eviction.
            (false, false, false, Wish::Nothing),
            (true, false, true, Wish::Hold),
            (true, true, false, Wish::Hold),
            // The node is back, the member is not yet.
            (false, true, false, Wish::Hold),
            (false, true, true, Wish::Release),
        ] {
            let case = (cordoned, held, well);
            assert_eq!(wish(cordoned, held, well), expected, "{case:?}");
        }
    }

    #[test]
    fn a_member_without_a_leader_or_a_copy_is_not_well() {
        let good = StatusResponse {
            ready: true,
            serving: true,
            leader: "notes-us-0".to_owned(),
            role: "Voter".to_owned(),
            ..StatusResponse::default()
        };
        assert!(is_well(&good));
        for broken in [
            |it: &mut StatusResponse| it.ready = false,
            |it: &mut StatusResponse| it.serving = false,
            |it: &mut StatusResponse| it.leader.clear(),
        ] {
            let mut said = good.clone();
            broken(&mut said);
            assert!(!is_well(&said), "{said:?}");
        }
        let witness = StatusResponse {
            serving: false,
            role: "Witness".to_owned(),
            ..good
        };
        assert!(is_well(&witness), "it runs no copy");
    }
}
