//! Members that come, go and are made anew while clients write and processes die; groups that begin
//! with a state.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::sleep_until;

use super::Settings;
use super::agreement::{conclude, tell_traffic};
use super::poison;
use super::states::{BY_HTTP, every, every_slots};
use super::waiting::in_memory;
use crate::app::Fate;
use crate::client::{Client, request};
use crate::group::{self, Group, MemberStatus, Options, Part};
use crate::nemesis;
use crate::process::{Process, eventually};
use crate::report::{Distribution, Report};
use crate::workload::{Plan, Try, Workload, latencies};

const SECOND: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(50);
/// At these the apps of all copies end, and hang.
const POISONS: [&str; 2] = ["/r/poison-dies", "/r/poison-hangs"];
/// How often one is sent.
const POISON_EVERY: Duration = Duration::from_secs(60);
/// A person looks after one that is waited for so long.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(20);
/// Faults and changes may keep a member away that must say what it did.
const SKIPPED_WITHIN: Duration = Duration::from_secs(120);
/// Voters at least, and members at most.
const SIZES: (usize, usize) = (3, 5);
/// Of states in a third of the run, if nothing happens meanwhile.
const SNAPSHOTS: u64 = 16;
/// Between two snapshots of a member as many slots are agreed on as between this many of the group, whose
/// members take turns, at most; and two are kept.
const TURNS: u64 = 2 * (SIZES.1 as u64 + 2);
/// Of a sidecar, in bytes: logs, windows and snapshots are on disk, or bounded.
const MEMORY: u64 = 1 << 30;

/// A change of the members, as it went.
pub(super) struct Step {
    pub(super) what: &'static str,
    pub(super) began_ns: u64,
    pub(super) ended_ns: u64,
}

impl Step {
    pub(super) fn overlaps(&self, one: &Try) -> bool {
        self.began_ns <= one.ended_ns && one.begun_ns <= self.ended_ns
    }

    pub(super) fn milliseconds(&self) -> f64 {
        (self.ended_ns - self.began_ns) as f64 / 1e6
    }
}

/// Members are added, removed and made anew while processes are killed and stopped, whole members too,
/// and requests come at which the apps of all copies end or hang.
pub(super) async fn come_and_go(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let state = format!(
        "{{snapshot: {{{BY_HTTP}, {}}}}}",
        every(settings, SNAPSHOTS)
    );
    let spec = format!("app: {{applyTimeout: 1s}}\n  state: {state}");
    // One file of all members, of those that come later too.
    let fates = ["--fates", "{data}/../../fates"];
    let mut group = Group::start(&Options::with_spec(&fates, &spec)?).await?;
    let [dies, hangs] = POISONS;
    let text = [Fate::Dies.line(dies), Fate::Hangs.line(hangs)].concat();
    fs::write(group.data().join("fates"), text)?;
    let plan = Plan {
        rate: settings.rate,
        seed: settings.seed.wrapping_mul(31).wrapping_add(7),
        may_lose_responses: true,
        ..Plan::default()
    };
    let workload = Workload::start(&group.all_addresses(), plan);
    let span = Duration::from_secs(settings.fault_seconds / 2);
    let mut random = StdRng::seed_from_u64(settings.seed);
    let begun = Instant::now();
    let (deeds, steps, skips) = tokio::join!(
        nemesis::torment(&group, &workload, &mut random, span),
        change(&group, &workload, settings.seed, span),
        send_poison(&group, &workload, span),
    );
    let seconds = begun.elapsed().as_secs_f64();
    let recorded = workload.finish_through(&group.numbers()).await?;
    tell_traffic(&recorded, seconds, report);
    match deeds {
        Ok(deeds) => report.say(format!(
            "{} faults, {} of whole members",
            deeds.faults.len(),
            deeds.faults.iter().filter(|it| it.whole).count()
        )),
        Err(error) => report.fail(format!("faults: {error:#}")),
    }
    match steps {
        Ok(steps) => tell_steps(&steps, &recorded.tries, span, report),
        Err(error) => report.fail(format!("members: {error:#}")),
    }
    match skips {
        Ok((skips, given_up)) => {
            report.say(format!("requests that fail everywhere: {skips}"));
            for told in given_up {
                report.say(format!("given up by a person: {told}"));
            }
        }
        Err(error) => report.fail(format!("requests that fail everywhere: {error:#}")),
    }
    tell_memory(&group, report);
    conclude(settings, &mut group, "come-and-go", recorded, report).await?;
    let bound = TURNS * every_slots(settings, SNAPSHOTS);
    let bounded = eventually(30 * SECOND, LOOK, async || {
        let members = group.status().await.unwrap_or_default();
        let is_cut = |it: &MemberStatus| it.base > 0 && it.commit - it.base <= bound;
        !members.is_empty() && members.iter().all(is_cut)
    });
    let bounded = bounded.await;
    let members = group.status().await?;
    let longest = members.iter().map(|it| it.commit.saturating_sub(it.base));
    let longest = longest.max().unwrap_or_default();
    report.say(format!(
        "{longest} slots in a log at most, of {bound} that may be"
    ));
    report.expect(bounded, format!("a log was not cut: {members:?}"));
    group.stop().await?;
    Ok(())
}

/// Sends a request that no copy survives every minute, or four in a shorter time, and waits until it is
/// skipped; how long that takes, and what a person had to give up.
async fn send_poison(
    group: &Group,
    workload: &Workload,
    span: Duration,
) -> anyhow::Result<(Distribution, Vec<String>)> {
    let end = Instant::now() + span;
    let every = POISON_EVERY.min(span / 4);
    let mut times = Vec::new();
    let mut given_up = Vec::new();
    let mut due = Instant::now() + every / 2;
    while due < end {
        sleep_until(due.into()).await;
        let number = times.len();
        let path = POISONS[number % POISONS.len()];
        let began_ns = workload.now_ns();
        loop {
            // Through whoever is there now: members go.
            let numbers = group.numbers();
            ensure!(!numbers.is_empty(), "the group's record cannot be read");
            let through = numbers[number % numbers.len()];
            let client = Client::new(group.address(through));
            let key = format!("poison-{number}");
            let answer = poison::send_through(&client, path, &key, 15 * SECOND).await;
            if let Ok(answer) = answer {
                ensure!(
                    answer.status == 502 && answer.outcome() == Some("skipped"),
                    "{path} {number}: {} {}",
                    answer.status,
                    answer.text()
                );
                break;
            }
            let waited = Duration::from_nanos(workload.now_ns() - began_ns);
            if waited > GIVEN_UP_AFTER {
                given_up.extend(give_up(group).await?);
            }
            ensure!(
                waited < SKIPPED_WITHIN,
                "{path} {number}: {answer:?} after {waited:?}"
            );
        }
        times.push((workload.now_ns() - began_ns) as f64 / 1e6);
        due += every;
    }
    ensure!(!times.is_empty(), "none was sent: the run is invalid");
    Ok((Distribution::new(times), given_up))
}

/// What the guide tells a person to do about a request that is waited for, because a member cannot be asked
/// what it did; what was waited for.
async fn give_up(group: &Group) -> anyhow::Result<Vec<String>> {
    let mut given_up = Vec::new();
    for number in group.numbers() {
        let told = group.tell(number).await.unwrap_or_default();
        if let Some(slot) = told["undecided"]["slot"].as_u64() {
            let output = group
                .command(&["skip", "--slot", &slot.to_string()])
                .await?;
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            let moot = ["no copy fails", "leads", "answers"].iter();
            let mut moot = moot.filter(|it| error.contains(**it));
            ensure!(
                output.status.success() || moot.next().is_some(),
                "synod skip --slot {slot}: {error}"
            );
            if output.status.success() {
                given_up.push(told["undecided"].to_string());
            }
        }
    }
    Ok(given_up)
}

/// Changes one after another, until the time is over.
async fn change(
    group: &Group,
    workload: &Workload,
    seed: u64,
    span: Duration,
) -> anyhow::Result<Vec<Step>> {
    let mut random = StdRng::seed_from_u64(seed ^ 0x4e4);
    let end = Instant::now() + span;
    let mut steps = Vec::new();
    while Instant::now() < end {
        let numbers = group.numbers();
        let any = numbers[random.random_range(0..numbers.len())];
        let leader = group.leader().await.unwrap_or(any);
        let name = |number: u32| format!("registers-{number}");
        let voters = voters(group).await;
        let is_spare = |number: u32| {
            numbers.len() > SIZES.0
                && voters
                    .as_ref()
                    .is_some_and(|it| it.len() > SIZES.0 || !it.contains(&name(number)))
        };
        let (what, arguments) = match random.random_range(0..10) {
            0..3 if numbers.len() < SIZES.1 => ("added", vec!["members", "add"]),
            3 if numbers.len() < SIZES.1 => {
                ("added as an observer", vec!["members", "add", "--observer"])
            }
            0..4 if is_spare(any) => ("removed", vec!["members", "remove"]),
            4..6 if is_spare(leader) => ("removed as the leader", vec!["members", "remove"]),
            8 => ("asked to lead", vec!["members", "lead"]),
            9 => ("had save its state", vec!["snapshot", "take"]),
            _ => ("made anew", vec!["members", "replace"]),
        };
        let who = match what {
            "removed" | "made anew" => Some(name(any)),
            "removed as the leader" => Some(name(leader)),
            _ => None,
        };
        let arguments: Vec<&str> = arguments.into_iter().chain(who.as_deref()).collect();
        let began_ns = workload.now_ns();
        let output = group.command(&arguments).await?;
        let ended_ns = workload.now_ns();
        if output.status.success() {
            steps.push(Step {
                what,
                began_ns,
                ended_ns,
            });
        } else {
            // A member that was just killed, or a quorum that is not heard, is no reason to stop.
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            let temporary = [
                "quorum",
                "up to date",
                "answers",
                "leads",
                "saved no state",
                "speak",
            ];
            ensure!(
                temporary.iter().any(|it| error.contains(it)),
                "synod {arguments:?}: {error}"
            );
        }
    }
    Ok(steps)
}

/// Their names; `None`: no quorum tells.
async fn voters(group: &Group) -> Option<Vec<String>> {
    let output = group.command(&["members", "list", "-o", "json"]).await;
    let told: Value = serde_json::from_slice(&output.ok()?.stdout).ok()?;
    let voters = told["members"].as_array()?.iter();
    let voters = voters.filter(|it| it["role"] == "voter");
    voters
        .map(|it| Some(it["name"].as_str()?.to_owned()))
        .collect()
}

fn tell_steps(steps: &[Step], tries: &[Try], span: Duration, report: &mut Report) {
    let mut kinds: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for step in steps {
        kinds
            .entry(step.what)
            .or_default()
            .push(step.milliseconds());
    }
    for (what, times) in kinds {
        report.say(format!("members {what}: {}", Distribution::new(times)));
    }
    let within = |one: &Try| steps.iter().any(|it| it.overlaps(one));
    let (during, beside): (Vec<Try>, Vec<Try>) = tries.iter().copied().partition(within);
    let p99 = |tries: &[Try]| latencies(tries, true).value_at_quantile(0.99) as f64 / 1e3;
    report.say(format!(
        "writes during changes: p99 {:.1} ms; beside them: {:.1} ms",
        p99(&during),
        p99(&beside)
    ));
    let least = span.as_secs() / 20;
    report.expect(
        steps.len() as u64 >= least,
        format!(
            "only {} changes: the run is invalid below {least}",
            steps.len()
        ),
    );
}

fn tell_memory(group: &Group, report: &mut Report) {
    let mut most = 0;
    for index in group.numbers() {
        let process = group.process(index, Part::Sidecar);
        let peak = process.and_then(Process::peak_memory);
        most = most.max(peak.unwrap_or(0));
    }
    report.say(format!("memory of a sidecar: {} MiB at most", most >> 20));
    report.expect(
        most < MEMORY,
        format!("a sidecar has taken {most} bytes of memory"),
    );
}

// === groups that begin with a state ===

/// Somebody deletes everything; a new group begins with what was there before.
pub(super) async fn restored(_: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let state = format!("{{snapshot: {{{BY_HTTP}, every: {{slots: 50}}}}}}");
    let options = Options::with_state(&[], &state)?;
    let mut group = Group::start(&options).await?;
    let client = Client::new(group.address(1));
    for number in 0..120 {
        put(&client, number % 40, number).await?;
    }
    let cut = eventually(30 * SECOND, LOOK, async || {
        let members = group.status().await.unwrap_or_default();
        members.iter().any(|it| it.snapshot > 0 && it.verified)
    });
    ensure!(cut.await, "no snapshot may be used");
    let wanted = client
        .send(request("GET", "/dump", ""), 10 * SECOND)
        .await?
        .text();
    // Everything is overwritten.
    let mut mistake = 0;
    for key in 0..40 {
        let slot = put(&client, key, 0).await?;
        if key == 0 {
            mistake = slot;
        }
    }
    let backups = tempfile::tempdir()?;
    let to = backups.path().join("all").display().to_string();
    let made = group.command(&["backup", "create", "--to", &to]).await?;
    ensure!(
        made.status.success(),
        "no backup: {}",
        String::from_utf8_lossy(&made.stderr)
    );
    let mut found = fs::read_dir(&to)?;
    let backup = found.next().context("no backup")??.path();
    group.interrupt().await?;

    let data = backups.path().join("restored");
    let early = restore(&backup, &data, 1).await;
    let early = early.expect_err("refused").to_string();
    report.expect(
        early.contains("not in this backup"),
        format!("what cannot be restored is refused with {early:?}"),
    );
    report.expect(!data.exists(), "a refused restore leaves a folder");
    restore(&backup, &data, mistake).await?;
    let begun = Instant::now();
    let mut group = Group::start_on(&options, &data).await?;
    let client = Client::new(group.address(2));
    let shown = client
        .send(request("GET", "/dump", ""), 10 * SECOND)
        .await?
        .text();
    report.say(format!(
        "restored to before slot {mistake}, three members after {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    report.expect(shown == wanted, "the state is not that before the mistake");
    put(&client, 3, 4711).await?;
    group.wait_until_level(30 * SECOND).await?;
    let copies = group.ask_copies("/dump").await?;
    report.expect(
        copies.iter().all(|copy| *copy == copies[0]),
        "the copies differ",
    );
    for panic in group.panics() {
        report.fail(format!("a process panicked: {panic}"));
    }
    group.stop().await?;
    Ok(())
}

/// The slot of a write.
async fn put(client: &Client, key: u64, number: u64) -> anyhow::Result<u64> {
    let put = request("PUT", &format!("/r/{key}"), number.to_string());
    let answer = client.send(put, 15 * SECOND).await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    answer.slot().context("no slot")
}

async fn restore(backup: &Path, data: &Path, before: u64) -> anyhow::Result<()> {
    let output = Command::new(group::synod()?)
        .args(["backup", "restore"])
        .arg(backup)
        .arg("--data")
        .arg(data)
        .args(["--before", &before.to_string()])
        .stdin(Stdio::null())
        .output()
        .await?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// What an app has stored on its own becomes the state of three copies, to the last byte.
pub(super) async fn imported(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    // Mostly it is on another file system than the group.
    let place = in_memory(2 * settings.import_bytes);
    let folder = tempfile::tempdir_in(place.unwrap_or_else(std::env::temp_dir))?;
    let from = folder.path().join("used");
    let files = fill(&from, settings.import_bytes)?;
    let mut options = Options::with_state(
        &["--keep", "{data}"],
        "{type: Volume, volume: {mountPath: /data}, snapshot: {type: Volume}}",
    )?;
    options.arguments = vec!["--import".to_owned(), from.display().to_string()];
    options.patience = Some(Duration::from_secs(600));
    let begun = Instant::now();
    let mut group = Group::start(&options).await?;
    report.say(format!(
        "{} bytes in {files} files are the state of three copies after {:.1} s",
        settings.import_bytes,
        begun.elapsed().as_secs_f64()
    ));
    let client = Client::new(group.address(3));
    put(&client, 1, 1).await?;
    group.wait_until_level(60 * SECOND).await?;
    let wanted = tree(&from)?;
    for index in group.numbers() {
        let mut copy = tree(&group.member_folder(index).join("data"))?;
        // What the write has added.
        copy.remove("journal");
        report.expect(
            copy == wanted,
            format!(
                "member {index} has {} of {} files as they were",
                copy.len(),
                wanted.len()
            ),
        );
    }
    let counts = client.send(request("GET", "/counts", ""), SECOND).await?;
    let counts: Value = serde_json::from_slice(&counts.body)?;
    report.say(format!("{counts}"));
    for panic in group.panics() {
        report.fail(format!("a process panicked: {panic}"));
    }
    group.stop().await?;
    Ok(())
}

/// Files of many sizes, some 50 KiB each on average; how many.
pub(super) fn fill(folder: &Path, bytes: u64) -> anyhow::Result<u64> {
    let mut random = StdRng::seed_from_u64(bytes);
    let mut left = bytes;
    let mut files = 0;
    while left > 0 {
        let size = random.random_range(1..100 << 10).min(left);
        let parent = folder.join(format!("folder-{}", files % 97));
        fs::create_dir_all(&parent)?;
        let mut content = vec![0; size as usize];
        random.fill(&mut content[..]);
        fs::write(parent.join(format!("file-{files}")), content)?;
        left -= size;
        files += 1;
    }
    Ok(files)
}

/// Hashes of all files, by their paths in the folder.
pub(super) fn tree(folder: &Path) -> anyhow::Result<BTreeMap<String, blake3::Hash>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(folder)?.display().to_string();
            found.insert(name, blake3::hash(&fs::read(&path)?));
        }
    }
    Ok(found)
}
