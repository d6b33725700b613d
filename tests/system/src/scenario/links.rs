//! Members whose links are cut, one way too, or are as long as those between regions: a majority that hears
//! each other serves again soon, no read is stale and nothing acknowledged is lost.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use synod_sidecar::config::peers::PeerTable;
use tokio::time::sleep;

use super::Settings;
use super::agreement::{ALL, conclude, finish_since, served_again};
use super::kills::BULK;
use crate::client::{Client, request};
use crate::group::{Group, MEMBERS, Options, Part, number_of};
use crate::links::{Links, Quality};
use crate::process::eventually;
use crate::report::{Distribution, Report};
use crate::workload::{Plan, Workload};

const SECOND: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(50);
/// Four election timeouts of members that have not measured anything yet (rule E4).
const BACK_WITHIN_MS: f64 = 2_000.0;
/// Until all members serve once nothing is cut any more.
const HEALED_WITHIN: Duration = Duration::from_secs(10);
/// A run counts with one cut in so many seconds.
const SECONDS_OF_A_CUT: u64 = 12;
/// And so many operations a second.
const LEAST_RATE: f64 = 60.0;
const LEAST_RATE_FAR: f64 = 15.0;
/// Each is read once more at the end through each member, which takes a round trip.
const KEYS_FAR: u64 = 60;
/// Round trips between regions, in milliseconds, and what is lost on the way.
const ROUND_TRIPS: [(u32, u32, u64); 3] = [(1, 2, 65), (1, 3, 75), (2, 3, 135)];
const LOSS: f64 = 0.001;
/// A leader that is killed is done without by then, however far the others are from each other.
const FAILED_OVER_WITHIN_MS: f64 = 10_000.0;

/// What is cut, as seen from who leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// It hears the others, and they do not hear it.
    FromLeader,
    /// They hear it, and it does not hear them.
    ToLeader,
    /// Neither.
    Leader,
    /// One does not hear it.
    FromLeaderToOne,
    /// It does not hear one.
    FromOneToLeader,
    /// It and one do not hear each other, and the third hears both.
    LeaderAndOne,
    /// The two that do not lead do not hear each other.
    Followers,
    /// One of them hears nobody, and nobody it.
    One,
}

impl Cut {
    const ALL: [Self; 8] = [
        Self::FromLeader,
        Self::ToLeader,
        Self::Leader,
        Self::FromLeaderToOne,
        Self::FromOneToLeader,
        Self::LeaderAndOne,
        Self::Followers,
        Self::One,
    ];

    /// From whom to whom nothing comes through.
    fn links(self, leader: u32, [one, other]: [u32; 2]) -> Vec<(u32, u32)> {
        let both = |a, b| [(a, b), (b, a)];
        match self {
            Self::FromLeader => vec![(leader, one), (leader, other)],
            Self::ToLeader => vec![(one, leader), (other, leader)],
            Self::Leader => [both(leader, one), both(leader, other)].concat(),
            Self::FromLeaderToOne => vec![(leader, one)],
            Self::FromOneToLeader => vec![(one, leader)],
            Self::LeaderAndOne => both(leader, one).to_vec(),
            Self::Followers => both(one, other).to_vec(),
            Self::One => [both(one, leader), both(one, other)].concat(),
        }
    }

    /// Who hears a majority that hears it.
    fn serve(self, leader: u32, [one, other]: [u32; 2]) -> Vec<u32> {
        match self {
            Self::FromLeader | Self::ToLeader | Self::Leader => vec![one, other],
            Self::Followers => vec![leader, one, other],
            _ => vec![leader, other],
        }
    }
}

/// A cut that was made.
struct Made {
    cut: Cut,
    serve: Vec<u32>,
    at_ns: u64,
    healed_ns: u64,
    /// Packets that did not come through on the link that lost fewest.
    lost: u64,
    /// Until all served once it was healed.
    healed: Duration,
}

/// Links are cut and healed, one set of them after another.
pub(super) async fn cut(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let mut group = Group::start(&Options::sample_app()?).await?;
    let links = Links::make(settings.seed)?;
    lead_over(&group).await?;
    let workload = start(settings, &group, settings.rate / 2, 300);
    let begun = Instant::now();
    let end = begun + Duration::from_secs(settings.fault_seconds);
    let mut random = StdRng::seed_from_u64(settings.seed);
    let mut next: Vec<Cut> = Vec::new();
    let mut made = Vec::new();
    while Instant::now() < end {
        if next.is_empty() {
            next = Cut::ALL.to_vec();
            next.shuffle(&mut random);
        }
        sleep(Duration::from_millis(random.random_range(1_500..2_500))).await;
        let cut = next.remove(0);
        match play(&group, &links, &workload, cut, &mut random).await {
            Ok(one) => made.push(one),
            Err(error) => {
                report.fail(format!("{error:#}"));
                break;
            }
        }
    }
    let recorded = finish_since(begun, LEAST_RATE, workload, report).await?;
    let mut all = Vec::new();
    for one in &made {
        let back = served_again(one.at_ns, one.serve.iter().copied(), ALL, &recorded.tries);
        let back = back.filter(|it| *it < one.healed_ns);
        let back_ms = back.map_or(f64::INFINITY, |it| (it - one.at_ns) as f64 / 1e6);
        report.say(format!(
            "{:?} for {:.1} s, {} packets lost: {:?} serve after {back_ms:.0} ms, all {:.1?} after it",
            one.cut,
            (one.healed_ns - one.at_ns) as f64 / 1e9,
            one.lost,
            one.serve,
            one.healed
        ));
        report.expect(
            back_ms <= BACK_WITHIN_MS,
            format!("{:?}: {:?} serve after {back_ms:.0} ms", one.cut, one.serve),
        );
        report.expect(
            one.lost > 0,
            format!("{:?}: nothing was lost: the run is invalid", one.cut),
        );
        all.push(back_ms);
    }
    report.say(format!(
        "served again after a cut: {}",
        Distribution::new(all)
    ));
    let least = (settings.fault_seconds / SECONDS_OF_A_CUT).max(2);
    report.expect(
        made.len() as u64 >= least,
        format!("only {} cuts: the run is invalid below {least}", made.len()),
    );
    conclude(settings, &mut group, "links-cut", recorded, report).await?;
    group.stop().await?;
    Ok(())
}

async fn play(
    group: &Group,
    links: &Links,
    workload: &Workload,
    cut: Cut,
    random: &mut StdRng,
) -> anyhow::Result<Made> {
    let leader = group.leader().await.context("nobody leads")?;
    let mut followers: Vec<u32> = (1..=MEMBERS).filter(|it| *it != leader).collect();
    followers.shuffle(random);
    let followers = [followers[0], followers[1]];
    let ways = cut.links(leader, followers);
    let lost = || -> Vec<u64> { ways.iter().map(|way| links.count(*way).lost).collect() };
    let before = lost();
    let at_ns = workload.now_ns();
    for way in &ways {
        links.cut(*way, true);
    }
    sleep(Duration::from_millis(random.random_range(3_000..6_000))).await;
    let since = lost().into_iter().zip(before).map(|(now, then)| now - then);
    let lost = since.min().unwrap_or_default();
    let healed_ns = workload.now_ns();
    for way in &ways {
        links.cut(*way, false);
    }
    let healed = Instant::now();
    for member in 1..=MEMBERS {
        let through = Client::new(group.address(member));
        let serves = eventually(HEALED_WITHIN, LOOK, async || {
            let answer = through.send(request("POST", BULK, "x"), SECOND).await;
            answer.is_ok_and(|it| it.status.is_success())
        });
        ensure!(
            serves.await,
            "{cut:?} of member {leader}, with {followers:?}, is healed, and member {member} does not serve \
             after {HEALED_WITHIN:?}"
        );
    }
    Ok(Made {
        cut,
        serve: cut.serve(leader, followers),
        at_ns,
        healed_ns,
        lost,
        healed: healed.elapsed(),
    })
}

/// Each member is in a region of its own, and who leads is killed now and then.
pub(super) async fn regions(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let mut group = Group::start(&Options::sample_app()?).await?;
    let links = Links::make(settings.seed)?;
    for (one, other, round_trip) in ROUND_TRIPS {
        let quality = Quality {
            delay: Duration::from_millis(round_trip) / 2,
            loss: LOSS,
            cut: false,
        };
        links.set((one, other), quality);
        links.set((other, one), quality);
    }
    lead_over(&group).await?;
    let workload = start(settings, &group, 60, KEYS_FAR);
    let begun = Instant::now();
    let end = begun + Duration::from_secs(settings.fault_seconds);
    let mut kills = Vec::new();
    while Instant::now() < end || kills.len() < 2 {
        sleep(5 * SECOND).await;
        match kill_leader(&group, &workload).await {
            Ok(kill) => kills.push(kill),
            Err(error) => {
                report.fail(format!("{error:#}"));
                break;
            }
        }
    }
    let recorded = finish_since(begun, LEAST_RATE_FAR, workload, report).await?;
    let mut failovers = Vec::new();
    for (leader, at_ns) in kills {
        let others = (1..=MEMBERS).filter(|it| *it != leader);
        let back = served_again(at_ns, others, ALL, &recorded.tries);
        let back_ms = back.map_or(f64::INFINITY, |it| (it - at_ns) as f64 / 1e6);
        report.expect(
            back_ms <= FAILED_OVER_WITHIN_MS,
            format!("without member {leader} the others serve after {back_ms:.0} ms"),
        );
        failovers.push(back_ms);
    }
    let failovers = Distribution::new(failovers);
    report.say(format!(
        "served again by both others after a kill of the leader: {failovers}, p99 {:.0} ms",
        failovers.quantile(0.99)
    ));
    let writes = recorded.tries.iter().filter(|one| one.served && one.write);
    let shortest = writes.map(|one| one.ended_ns - one.begun_ns).min();
    let shortest_ms = shortest.unwrap_or_default() as f64 / 1e6;
    let least_ms = ROUND_TRIPS
        .map(|(.., it)| it as f64)
        .into_iter()
        .fold(f64::MAX, f64::min);
    report.say(format!("the quickest write took {shortest_ms:.1} ms"));
    report.expect(
        shortest_ms >= least_ms,
        format!("a write took {shortest_ms:.1} ms, less than a round trip: the run is invalid"),
    );
    conclude(settings, &mut group, "regions", recorded, report).await?;
    group.stop().await?;
    Ok(())
}

fn start(settings: &Settings, group: &Group, rate: u32, keys: u64) -> Workload {
    let plan = Plan {
        rate,
        keys,
        seed: settings.seed.wrapping_mul(31).wrapping_add(keys),
        ..Plan::default()
    };
    Workload::start(&group.addresses(), plan)
}

/// Who that was, and when; all serve again.
async fn kill_leader(group: &Group, workload: &Workload) -> anyhow::Result<(u32, u64)> {
    let leader = group.leader().await.context("nobody leads")?;
    let at_ns = workload.now_ns();
    kill(group, leader).await?;
    group.whole_again(3 * HEALED_WITHIN).await?;
    Ok((leader, at_ns))
}

/// Has members find each other over the links, for which every sidecar begins anew.
async fn lead_over(group: &Group) -> anyhow::Result<()> {
    for from in 1..=MEMBERS {
        let file = group.member_folder(from).join("peers.json");
        let mut table = PeerTable::read(&file)?;
        for peer in &mut table.members {
            let to = number_of(&peer.name).context("a name without a number")?;
            if to != from {
                let port = peer.address.rsplit(':').next().context("no port")?;
                peer.address = format!("{}:{port}", Links::place(from, to));
            }
        }
        table.write(&file)?;
    }
    for index in 1..=MEMBERS {
        kill(group, index).await?;
    }
    group.whole_again(3 * HEALED_WITHIN).await
}

async fn kill(group: &Group, index: u32) -> anyhow::Result<()> {
    let process = group.process(index, Part::Sidecar);
    let process = process.with_context(|| format!("the sidecar of member {index} does not run"))?;
    process.signal(Signal::KILL)?;
    let dead = eventually(5 * SECOND, LOOK, async || !process.lives());
    ensure!(dead.await, "the sidecar of member {index} survived SIGKILL");
    Ok(())
}
