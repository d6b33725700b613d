//! Faults of processes under load: nothing acknowledged is lost, nothing applied twice, no read is
//! stale, all copies are equal at the end, and the service is soon back.

use std::fs::{self, File};
use std::io::BufWriter;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use synod_history::{effects, linearizable, witnessed};
use tokio::time::sleep;

use super::Settings;
use crate::app;
use crate::group::{Group, MEMBERS, Options, Part};
use crate::nemesis::{self, Act, Deeds, Fault};
use crate::report::{Distribution, Report};
use crate::workload::{Plan, Recorded, Try, Workload, latencies};

/// What is promised: traffic that makes the run count, and how soon the service is back.
const LEAST_RATE: f64 = 300.0;
const BACK_WITHIN_MS: f64 = 2_000.0;

/// Mixed load while single processes are killed and stopped.
pub(super) async fn single_faults(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let mut group = Group::start(&Options::sample_app()?).await?;
    let span = Duration::from_secs(settings.fault_seconds);
    torment(settings, &mut group, "single-faults", span, report).await?;
    group.stop().await?;
    Ok(())
}

/// The load, the faults and the checks of such a run; `name` is where it is kept if it fails.
pub(super) async fn torment(
    settings: &Settings,
    group: &mut Group,
    name: &str,
    span: Duration,
    report: &mut Report,
) -> anyhow::Result<()> {
    let workload = start(settings, group, 1);
    let mut random = StdRng::seed_from_u64(settings.seed);
    let begun = Instant::now();
    let deeds = nemesis::torment(group, &workload, &mut random, span).await;
    let seconds = begun.elapsed().as_secs_f64();
    let recorded = workload.finish().await?;
    let deeds = match deeds {
        Ok(deeds) => deeds,
        Err(error) => {
            report.fail(format!("{error:#}"));
            Deeds::default()
        }
    };
    tell_traffic(&recorded, seconds, report);
    tell_faults(&deeds, &recorded.tries, report);
    let least = span.as_secs() / 8;
    let many = deeds.faults.len() as u64;
    report.expect(
        many >= least,
        format!("only {many} faults in {seconds:.0} s: the run is invalid below {least}"),
    );
    conclude(settings, group, name, recorded, report).await
}

/// Mixed load while all processes die together, several times.
pub(super) async fn all_at_once(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let mut group = Group::start(&Options::sample_app()?).await?;
    let workload = start(settings, &group, 2);
    let mut random = StdRng::seed_from_u64(settings.seed ^ 0xa11);
    let begun = Instant::now();
    let mut back = Vec::new();
    let mut killed_ns = Vec::new();
    for _ in 0..settings.kill_all_times {
        let before = workload.completed();
        sleep(Duration::from_millis(random.random_range(3_000..5_000))).await;
        let done = workload.completed() - before;
        report.expect(
            done > 300,
            format!("only {done} operations between two kills: invalid"),
        );
        killed_ns.push(workload.now_ns());
        nemesis::kill_all(&group).await?;
        let took = group.wait_until_all_serve(Duration::from_secs(60)).await?;
        back.push(took.as_secs_f64() * 1_000.0);
    }
    sleep(Duration::from_secs(2)).await;
    let seconds = begun.elapsed().as_secs_f64();
    let recorded = workload.finish().await?;
    let first_write = |at: &u64| {
        let writes = recorded.tries.iter().filter(|one| one.write && one.served);
        let after = writes.filter(|one| one.begun_ns >= *at);
        after
            .map(|one| (one.ended_ns - at) as f64 / 1e6)
            .min_by(f64::total_cmp)
    };
    let served = Distribution::new(killed_ns.iter().filter_map(first_write).collect());
    report.say(format!(
        "all killed {} times; first write served: {served}; all copies back: {}",
        killed_ns.len(),
        Distribution::new(back)
    ));
    tell_traffic(&recorded, seconds, report);
    conclude(settings, &mut group, "all-at-once", recorded, report).await?;
    group.stop().await?;
    Ok(())
}

/// Mixed load at the rate that was asked for; `salt` makes one run's different from another's.
pub(super) fn start(settings: &Settings, group: &Group, salt: u64) -> Workload {
    let plan = Plan {
        rate: settings.rate,
        seed: settings.seed.wrapping_mul(31).wrapping_add(salt),
        ..Plan::default()
    };
    Workload::start(&group.addresses(), plan)
}

pub(super) fn tell_traffic(recorded: &Recorded, seconds: f64, report: &mut Report) {
    tell_traffic_of(LEAST_RATE, recorded, seconds, report);
}

/// The same for a run that counts with less traffic, in operations a second.
pub(super) fn tell_traffic_of(least: f64, recorded: &Recorded, seconds: f64, report: &mut Report) {
    let completed = recorded.history.completed();
    let unknown = recorded.history.unknown();
    let rate = completed as f64 / seconds;
    report.say(format!(
        "{completed} operations in {seconds:.0} s ({rate:.0}/s), {unknown} of unknown outcome"
    ));
    if recorded.left_out > 0 {
        report.say(format!("{} more were left out", recorded.left_out));
    }
    for (what, writes) in [("writes", true), ("reads", false)] {
        let times = latencies(&recorded.tries, writes);
        let millis = |quantile| times.value_at_quantile(quantile) as f64 / 1_000.0;
        report.say(format!(
            "{what}: p50 {:.1} ms, p99 {:.1} ms, max {:.0} ms",
            millis(0.5),
            millis(0.99),
            millis(1.0)
        ));
    }
    report.expect(
        rate >= least,
        format!("{rate:.0} operations/s: the run is invalid below {least}"),
    );
    for (answer, times) in &recorded.unexpected {
        report.fail(format!(
            "{times} times an answer that no client should get: {answer}"
        ));
    }
}

fn tell_faults(deeds: &Deeds, tries: &[Try], report: &mut Report) {
    let faults = &deeds.faults;
    let count = |part, act| {
        let like = |fault: &&Fault| fault.part == part && fault.act == act;
        faults.iter().filter(like).count()
    };
    report.say(format!(
        "{} faults ({} on the leader, {} on a member still down): sidecars killed {}, stopped {}; \
         apps killed {}, stopped {}; waited {} ms for a quorum beside the victim",
        faults.len(),
        faults.iter().filter(|fault| fault.leader).count(),
        faults.iter().filter(|fault| fault.again).count(),
        count(Part::Sidecar, Act::Kill),
        count(Part::Sidecar, Act::Pause),
        count(Part::App, Act::Kill),
        count(Part::App, Act::Pause),
        deeds.waited_ms,
    ));
    let replays = |act| {
        let like = faults.iter().filter(|fault| fault.act == act);
        let times = like.filter_map(|fault| fault.replay_ms);
        Distribution::new(times.map(|ms| ms as f64).collect())
    };
    report.say(format!(
        "own copy serves again after a kill: {}",
        replays(Act::Kill)
    ));
    report.say(format!(
        "own copy serves again after a stop: {}",
        replays(Act::Pause)
    ));

    let mut kills = Vec::new();
    for (label, wanted) in [
        (
            "a kill of a follower's sidecar",
            (Part::Sidecar, Act::Kill, Some(false)),
        ),
        (
            "a kill of the leader's sidecar",
            (Part::Sidecar, Act::Kill, Some(true)),
        ),
        ("a kill of an app", (Part::App, Act::Kill, None)),
        ("a stop of a sidecar", (Part::Sidecar, Act::Pause, None)),
        ("a stop of an app", (Part::App, Act::Pause, None)),
    ] {
        let (part, act, leader) = wanted;
        let like = faults.iter().filter(|fault| {
            fault.part == part
                && fault.act == act
                && leader.is_none_or(|leader| fault.leader == leader)
        });
        let gaps: Vec<f64> = like
            .filter_map(|fault| back_after(fault, faults, tries))
            .collect();
        let distribution = Distribution::new(gaps.clone());
        report.say(format!(
            "service back through every other member after {label}: {distribution}"
        ));
        if act == Act::Kill {
            kills.extend(gaps);
        }
    }
    for fault in faults {
        if back_after(fault, faults, tries).is_some_and(|ms| ms > BACK_WITHIN_MS) {
            tell_slow(fault, tries, report);
        }
    }
    let kills = Distribution::new(kills);
    report.say(format!(
        "service back after a single kill, all kinds: {kills}"
    ));
    report.expect(!kills.is_empty(), "no kill was followed by service");
    report.expect(
        kills.max() <= BACK_WITHIN_MS,
        format!("service was back only {:.0} ms after a kill", kills.max()),
    );
}

/// Who was served when, after a fault that was felt for long.
fn tell_slow(fault: &Fault, tries: &[Try], report: &mut Report) {
    let seconds = |ns: u64| (ns as f64 - fault.at_ns as f64) / 1e9;
    report.say(format!(
        "slow, {:.1} s into the run: {fault:?}",
        fault.at_ns as f64 / 1e9
    ));
    for member in 1..=MEMBERS {
        for write in [true, false] {
            let what = if write { "writes" } else { "reads" };
            let begun = tries.iter().filter(|one| {
                let near = seconds(one.begun_ns).abs() < 12.0;
                one.member == member && one.write == write && near
            });
            let (after, before): (Vec<&Try>, Vec<&Try>) =
                begun.partition(|one| one.begun_ns >= fault.at_ns);
            let ends = |tries: &[&Try], served| {
                let like = tries.iter().filter(|one| one.served == served);
                like.map(|one| seconds(one.ended_ns)).collect::<Vec<_>>()
            };
            let first = ends(&after, true).into_iter().fold(f64::INFINITY, f64::min);
            let failed = ends(&after, false)
                .into_iter()
                .filter(|&end| end < first)
                .count();
            let last = ends(&before, true)
                .into_iter()
                .fold(f64::NEG_INFINITY, f64::max);
            report.say(format!(
                "  {what} through {member}: of those begun before, the last was served at \
                 {last:+.3} s; of those begun after, {failed} failed and the first was served at \
                 {first:+.3} s"
            ));
        }
    }
}

/// Milliseconds until writes and reads that began after the fault were served through each member
/// but the victim. `None` when another fault came before that.
fn back_after(fault: &Fault, faults: &[Fault], tries: &[Try]) -> Option<f64> {
    let next = faults
        .iter()
        .map(|other| other.at_ns)
        .find(|&at| at > fault.at_ns);
    let others = (1..=MEMBERS).filter(|&member| member != fault.member);
    let last = served_again(fault.at_ns, others, ALL, tries)?;
    if next.is_some_and(|next| last > next) {
        // Not back before the next fault: at least as long as that took.
        return next.map(|next| (next - fault.at_ns) as f64 / 1e6);
    }
    Some((last - fault.at_ns) as f64 / 1e6)
}

/// Ends the load. Every key is read once more through each member, unless something has gone wrong: one that
/// does not serve would be waited for at each.
pub(super) async fn finish(workload: Workload, report: &Report) -> anyhow::Result<Recorded> {
    if report.problems().is_empty() {
        workload.finish().await
    } else {
        workload.finish_through(&[]).await
    }
}

/// The same, and tells of the traffic since `begun`, which counts with `least` operations a second.
pub(super) async fn finish_since(
    begun: Instant,
    least: f64,
    workload: Workload,
    report: &mut Report,
) -> anyhow::Result<Recorded> {
    let seconds = begun.elapsed().as_secs_f64();
    let recorded = finish(workload, report).await?;
    tell_traffic_of(least, &recorded, seconds, report);
    Ok(recorded)
}

/// Kinds of requests: whether they are writes.
pub(super) const ALL: &[bool] = &[true, false];
pub(super) const READS: &[bool] = &[false];

/// When requests of these kinds that began after a time were served through each of these members, in
/// nanoseconds of the history's clock; `None`: some never were.
pub(super) fn served_again(
    since_ns: u64,
    members: impl Iterator<Item = u32>,
    kinds: &[bool],
    tries: &[Try],
) -> Option<u64> {
    let mut last = since_ns;
    for member in members {
        for &write in kinds {
            let served = tries.iter().filter(|one| {
                one.served && one.member == member && one.write == write && one.begun_ns >= since_ns
            });
            last = last.max(served.map(|one| one.ended_ns).min()?);
        }
    }
    Some(last)
}

/// The checks that every run ends with.
pub(super) async fn conclude(
    settings: &Settings,
    group: &mut Group,
    name: &str,
    recorded: Recorded,
    report: &mut Report,
) -> anyhow::Result<()> {
    if let Err(error) = group.wait_until_level(Duration::from_secs(60)).await {
        report.fail(format!("{error:#}"));
    }
    let copies = group.ask_copies("/dump").await?;
    report.expect(
        copies.iter().all(|copy| *copy == copies[0]),
        "the copies' contents differ at the end",
    );
    let contents = app::parse_dump(copies[0].as_bytes())?;
    check_history(&recorded, &contents, true, report);
    for panic in group.panics() {
        report.fail(format!("a process panicked: {panic}"));
    }
    if !report.problems().is_empty() {
        keep(settings, group, name, &recorded, &copies)?;
        report.say(format!(
            "history, dumps and logs kept in {}",
            settings.out.display()
        ));
    }
    Ok(())
}

/// Holds what clients saw against the promises. `witnessed`: slots were told.
pub fn check_history(
    recorded: &Recorded,
    contents: &std::collections::BTreeMap<String, synod_history::Observed>,
    slots: bool,
    report: &mut Report,
) {
    let begun = Instant::now();
    let history = &recorded.history;
    match linearizable::check(history) {
        Ok(summary) => report.say(format!(
            "linearizable without trusting slots: {} answers on {} keys, {} unknown, longest key {}",
            summary.answered, summary.keys, summary.unknown, summary.longest
        )),
        Err(error) => report.fail(format!("black-box check: {error}")),
    }
    if slots {
        match witnessed::check(history) {
            Ok(summary) => report.say(format!(
                "consistent with the slots told: {} writes, {} reads, last slot {}",
                summary.writes, summary.reads, summary.last_slot
            )),
            Err(violations) => tell("check by slots", &violations, report),
        }
    }
    match effects::check(history, contents) {
        Ok(summary) => report.say(format!(
            "effects: {} acknowledged writes each there once; {} of {} unknown ones happened",
            summary.acknowledged, summary.unknown_applied, summary.unknown
        )),
        Err(violations) => tell("effects", &violations, report),
    }
    report.say(format!("checked in {:.1} s", begun.elapsed().as_secs_f64()));
}

fn tell(check: &str, violations: &[impl std::fmt::Display], report: &mut Report) {
    for violation in violations.iter().take(5) {
        report.fail(format!("{check}: {violation}"));
    }
    if violations.len() > 5 {
        report.fail(format!("{check}: and {} more", violations.len() - 5));
    }
}

/// Keeps what there is to find out what went wrong.
pub(super) fn keep(
    settings: &Settings,
    group: &Group,
    name: &str,
    recorded: &Recorded,
    copies: &[String],
) -> anyhow::Result<()> {
    let folder = settings.out.join(name);
    fs::create_dir_all(&folder)?;
    let file = File::create(folder.join("history.jsonl"))?;
    recorded.history.write_to(BufWriter::new(file))?;
    for (index, copy) in copies.iter().enumerate() {
        fs::write(folder.join(format!("dump-{}.json", index + 1)), copy)?;
    }
    fs::write(folder.join("synod.log"), group.said())?;
    for index in group.numbers() {
        let entries = fs::read_dir(group.member_folder(index));
        for entry in entries.context("the member's folder")?.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let name = entry.file_name().to_string_lossy().into_owned();
                fs::copy(&path, folder.join(format!("member-{index}-{name}")))?;
            }
        }
    }
    ensure!(folder.is_dir(), "nothing was kept");
    Ok(())
}
