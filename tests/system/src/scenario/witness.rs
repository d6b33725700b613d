//! Two copies and a witness: with either copy gone the others go on, nothing acknowledged is lost with it,
//! and the witness, which runs nothing, hands its clients on and forgets what both copies have saved.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use tokio::time::sleep;

use super::Settings;
use super::agreement::{conclude, tell_traffic};
use super::states::{BY_HTTP, every, every_slots};
use crate::group::{Group, MEMBERS, MemberStatus, Options, Part, number_of};
use crate::process::eventually;
use crate::report::{Distribution, Report};
use crate::workload::{Plan, Workload};

const SECOND: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(50);
/// The last member is the witness.
const WITNESS: u32 = MEMBERS;
/// Of states in a third of the run, if nothing happens meanwhile.
const SNAPSHOTS: u64 = 16;
/// The witness keeps what is behind the older of its two tables, each saved once both copies have gone
/// further, and the next turns of both copies may be under way.
const TURNS: u64 = 8;
/// A witness that leads hands over to a copy that can lead within this time.
const LEADS_WITHIN: Duration = Duration::from_secs(5);

/// One copy after the other is lost, with its sidecar and all.
pub(super) async fn either_copy(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let state = format!(
        "state: {{snapshot: {{{BY_HTTP}, {}}}}}",
        every(settings, SNAPSHOTS)
    );
    let mut options = Options::with_spec(&[], &state)?;
    options.witnesses = 1;
    let mut group = Group::start(&options).await?;
    ensure!(
        group.process(WITNESS, Part::App).is_none(),
        "an app runs beside the witness"
    );
    let plan = Plan {
        rate: settings.rate,
        seed: settings.seed.wrapping_mul(31).wrapping_add(11),
        may_lose_responses: true,
        ..Plan::default()
    };
    let workload = Workload::start(&group.addresses(), plan);
    let span = Duration::from_secs(settings.fault_seconds / 2);
    let begun = Instant::now();
    let (lost, led) = tokio::join!(
        lose_copies(&group, settings.seed, span),
        watch_leader(&group, span),
    );
    let seconds = begun.elapsed().as_secs_f64();
    let recorded = workload.finish().await?;
    tell_traffic(&recorded, seconds, report);
    match lost {
        Ok(lost) => {
            report.say(format!("copies lost, until they served again: {lost}"));
            let least = span.as_secs() / 20;
            let text = format!("fewer than {least} copies were lost: the run is invalid");
            report.expect(lost.len() as u64 >= least, text);
        }
        Err(error) => report.fail(format!("losing copies: {error:#}")),
    }
    report.say(format!(
        "the witness led for {:.1} s at most while a copy served",
        led.as_secs_f64()
    ));
    report.expect(led < LEADS_WITHIN, format!("it led for {led:?}"));
    conclude(settings, &mut group, "witness", recorded, report).await?;
    let bound = TURNS * every_slots(settings, SNAPSHOTS);
    let is_cut = |it: &MemberStatus| it.base > 0 && it.commit - it.base <= bound;
    let bounded = eventually(30 * SECOND, LOOK, async || {
        let members = group.status().await.unwrap_or_default();
        members.len() == MEMBERS as usize && members.iter().all(is_cut)
    });
    let bounded = bounded.await;
    let members = group.status().await?;
    let witness = members.iter().find(|it| it.is_witness);
    let witness = witness.context("the witness does not say what it is")?;
    report.say(format!(
        "{} slots in the witness' log, of {bound} that may be",
        witness.commit.saturating_sub(witness.base)
    ));
    report.expect(bounded, format!("a log was not cut: {members:?}"));
    report.expect(
        witness.applied == 0 && witness.snapshot == 0 && !witness.serving,
        format!("the witness has a copy: {witness:?}"),
    );
    group.stop().await?;
    Ok(())
}

/// Kills both processes of one copy or the other, and waits until it serves again.
async fn lose_copies(group: &Group, seed: u64, span: Duration) -> anyhow::Result<Distribution> {
    let mut random = StdRng::seed_from_u64(seed ^ 0x317);
    let end = Instant::now() + span;
    let mut times = Vec::new();
    while Instant::now() < end {
        sleep(Duration::from_millis(random.random_range(1_000..3_000))).await;
        let victim = random.random_range(1..WITNESS);
        let before = boot_when_asked(group, victim).await?;
        for part in [Part::Sidecar, Part::App] {
            if let Some(process) = group.process(victim, part) {
                process.signal(Signal::KILL)?;
            }
        }
        let killed = Instant::now();
        let back = eventually(90 * SECOND, LOOK, async || {
            let again = boot_of(group, victim).await.is_some_and(|it| it > before);
            let members = group.status().await.unwrap_or_default();
            let serves = |it: &MemberStatus| it.ready && it.serving;
            let mut copies = members.iter().filter(|it| !it.is_witness);
            again && copies.all(serves)
        });
        ensure!(back.await, "copy {victim} does not come back");
        times.push(killed.elapsed().as_secs_f64() * 1e3);
    }
    Ok(Distribution::new(times))
}

/// How often its sidecar was started, asked until it answers: on a busy machine it takes its time now and then.
async fn boot_when_asked(group: &Group, member: u32) -> anyhow::Result<u64> {
    let end = Instant::now() + 10 * SECOND;
    loop {
        if let Some(boot) = boot_of(group, member).await {
            return Ok(boot);
        }
        ensure!(Instant::now() < end, "copy {member} says nothing");
        sleep(LOOK).await;
    }
}

/// How often its sidecar was started; `None`: it does not answer.
async fn boot_of(group: &Group, member: u32) -> Option<u64> {
    let members = group.status().await.ok()?;
    let mut found = members.iter();
    found
        .find(|it| number_of(&it.name) == Some(member))
        .map(|it| it.boot)
}

/// For how long the witness led at a stretch while a copy served.
async fn watch_leader(group: &Group, span: Duration) -> Duration {
    let end = Instant::now() + span;
    let mut longest = Duration::ZERO;
    let mut since: Option<Instant> = None;
    while Instant::now() < end {
        let members = group.status().await.unwrap_or_default();
        let leads = |it: &MemberStatus| it.leader.as_deref().and_then(number_of) == Some(WITNESS);
        let serves = |it: &MemberStatus| it.ready && it.serving && leads(it);
        if members.iter().any(serves) {
            let since = *since.get_or_insert_with(Instant::now);
            longest = longest.max(since.elapsed());
        } else {
            since = None;
        }
        sleep(LOOK).await;
    }
    longest
}
