//! Apps that keep their state, and snapshots of it: what is saved is put back with what came after it,
//! the log behind it is cut, and no crash of an app or a sidecar loses or repeats anything.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures::future::join_all;
use http::Request;
use http_body_util::Full;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use serde_json::Value;
use tokio::time::sleep;

use super::Settings;
use super::agreement::{conclude, start, tell_traffic, torment};
use crate::client::{Client, request};
use crate::group::{Group, MEMBERS, Options, Part};
use crate::process::eventually;
use crate::report::Report;

const SECOND: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(50);
/// An app in memory that saves itself.
pub(super) const BY_HTTP: &str =
    "type: HTTP, http: {save: {method: GET, path: /state}, restore: {method: PUT, path: /state}}";

/// Snapshots that are due in a run, however long and hard that is.
const IN_A_RUN: u64 = 8;
/// The same where whoever is killed executes all again that came after the last: seconds' worth of it
/// would last into the next fault.
const IN_A_RUN_ROLLED_BACK: u64 = 32;

pub(super) fn every(settings: &Settings, in_a_run: u64) -> String {
    format!("every: {{slots: {}}}", every_slots(settings, in_a_run))
}

pub(super) fn every_slots(settings: &Settings, in_a_run: u64) -> u64 {
    let writes = u64::from(settings.rate) / 2 * span(settings).as_secs();
    (writes / in_a_run).max(20)
}

fn span(settings: &Settings) -> Duration {
    Duration::from_secs(settings.fault_seconds / 3)
}

/// The sample app in a folder, of which snapshots are taken; who is killed has often kept a write that it
/// has not answered. `more` belongs to the state.
fn in_folder(settings: &Settings, in_a_run: u64, more: &str) -> anyhow::Result<Options> {
    let every = every(settings, in_a_run);
    let snapshot = format!("snapshot: {{type: Volume, {every}}}");
    let state = format!("{{type: Volume, volume: {{mountPath: /data}}, {snapshot}{more}}}");
    Options::with_state(&["--keep", "{data}", "--lag-ms", "1"], &state)
}

/// Single faults while snapshots are taken and the log is cut.
pub(super) async fn faults_in_memory(
    settings: &Settings,
    report: &mut Report,
) -> anyhow::Result<()> {
    let state = format!("{{snapshot: {{{BY_HTTP}, {}}}}}", every(settings, IN_A_RUN));
    let options = Options::with_state(&[], &state)?;
    under_faults(settings, &options, "states-in-memory", report).await
}

/// A copy whose app was killed goes back to its last snapshot.
pub(super) async fn faults_rolled_back(
    settings: &Settings,
    report: &mut Report,
) -> anyhow::Result<()> {
    let options = in_folder(settings, IN_A_RUN_ROLLED_BACK, "")?;
    under_faults(settings, &options, "states-rolled-back", report).await
}

/// A copy whose app was killed goes on from the slot that its app tells.
pub(super) async fn faults_with_applied(
    settings: &Settings,
    report: &mut Report,
) -> anyhow::Result<()> {
    let applied = ", onUncleanCrash: AppliedHeader, applied: {method: GET, path: /applied}";
    let options = in_folder(settings, IN_A_RUN, applied)?;
    under_faults(settings, &options, "states-with-applied", report).await
}

async fn under_faults(
    settings: &Settings,
    options: &Options,
    name: &str,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut group = Group::start(options).await?;
    torment(settings, &mut group, name, span(settings), report).await?;
    expect_cut_logs(&group, report).await;
    group.stop().await?;
    Ok(())
}

/// Every member has a snapshot, and most have two by now and a log that begins behind the older.
async fn expect_cut_logs(group: &Group, report: &mut Report) {
    let mut members = Vec::new();
    let cut = eventually(20 * SECOND, LOOK, async || {
        members = group.status().await.unwrap_or_default();
        let with = members.iter().filter(|it| it.snapshot > 0).count();
        let cut = members.iter().filter(|it| it.base > 0).count();
        with == MEMBERS as usize && cut > with / 2
    });
    let cut = cut.await;
    for member in &members {
        report.say(format!(
            "{}: log behind slot {}, newest snapshot at {}, applied {}",
            member.name, member.base, member.snapshot, member.applied
        ));
    }
    report.expect(
        cut,
        "not every member has a snapshot, or most have not cut their logs",
    );
}

/// Nothing but apps are killed, so that it shows what a new one is given.
pub(super) async fn restored_in_memory(
    settings: &Settings,
    report: &mut Report,
) -> anyhow::Result<()> {
    let state = format!("{{snapshot: {{{BY_HTTP}, every: {{slots: 400}}}}}}");
    let mut group = Group::start(&Options::with_state(&[], &state)?).await?;
    let workload = start(settings, &group, 3);
    let begun = Instant::now();
    let long = eventually(120 * SECOND, LOOK, async || {
        let members = group.status().await.unwrap_or_default();
        let far = members
            .iter()
            .filter(|it| it.base > 0 && it.applied > 1_500);
        far.count() == MEMBERS as usize
    });
    report.expect(long.await, "no log is cut");
    for index in 1..=MEMBERS {
        let process = group.process(index, Part::App).context("no app")?;
        process.signal(Signal::KILL)?;
        let mut counts = Value::Null;
        let restored = eventually(30 * SECOND, LOOK, async || {
            counts = counts_of(&group, index).await.unwrap_or_default();
            counts["restored"] == 1
        });
        report.expect(
            restored.await,
            format!("the app of member {index} was not given a state: {counts}"),
        );
        group.wait_until_all_serve(30 * SECOND).await?;
        let counts = counts_of(&group, index).await?;
        let applied = group.status().await?.first().map_or(0, |it| it.applied);
        report.say(format!(
            "member {index}: {counts} after its start, of {applied} slots"
        ));
        report.expect(
            counts["writes"]
                .as_u64()
                .is_some_and(|it| it + 400 < applied),
            format!("the app of member {index} executed more than the tail: {counts}"),
        );
    }
    let seconds = begun.elapsed().as_secs_f64();
    let recorded = workload.finish().await?;
    tell_traffic(&recorded, seconds, report);
    conclude(settings, &mut group, "restored", recorded, report).await?;
    group.stop().await?;
    Ok(())
}

async fn counts_of(group: &Group, index: u32) -> anyhow::Result<Value> {
    let client = Client::new(group.app_address(index)?);
    let answer = client.send(request("GET", "/counts", ""), SECOND).await?;
    Ok(serde_json::from_slice(&answer.body)?)
}

/// By hand, through the command line.
pub(super) async fn on_request(_: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let state = format!("{{snapshot: {{{BY_HTTP}}}}}");
    let group = Group::start(&Options::with_state(&[], &state)?).await?;
    for number in 1..=20 {
        write(&group, number).await?;
    }
    for member in ["1", "2"] {
        let taken = group
            .command(&["snapshot", "take", "--member", member])
            .await?;
        let said = String::from_utf8_lossy(&taken.stdout).into_owned();
        let error = String::from_utf8_lossy(&taken.stderr);
        report.say(said.trim());
        report.expect(taken.status.success(), format!("not taken: {error}"));
    }
    let listed = group.command(&["snapshot", "list"]).await?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    report.say(listed.trim());
    for name in ["registers-1", "registers-2"] {
        report.expect(listed.contains(name), format!("{name} is not in the list"));
    }
    let members = group.status().await?;
    let with = members.iter().filter(|it| it.snapshot > 0).count();
    report.expect(with >= 2, format!("the status tells of {with} snapshots"));
    group.stop().await?;
    Ok(())
}

/// An ordered request through member 1.
pub(super) async fn write(group: &Group, number: u64) -> anyhow::Result<()> {
    let client = Client::new(group.address(1));
    let put = request("PUT", "/r/0", number.to_string());
    let answer = client.send(put, 15 * SECOND).await?;
    ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
    Ok(())
}

/// The bundled example on a volume, unchanged as it were.
pub(super) async fn example_rolled_back(
    settings: &Settings,
    report: &mut Report,
) -> anyhow::Result<()> {
    example(settings, &["--state", "volume"], report).await
}

/// The bundled example, which stores the slot with each change and tells it.
pub(super) async fn example_with_applied(
    settings: &Settings,
    report: &mut Report,
) -> anyhow::Result<()> {
    let arguments = ["--state", "volume", "--applied", "GET /synod/applied"];
    example(settings, &arguments, report).await
}

/// Notes are written while apps, sidecars and both are killed, everything is stopped and started
/// again: each note that was acknowledged is there once, on every copy.
async fn example(
    settings: &Settings,
    arguments: &[&str],
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut options = Options {
        arguments: arguments.iter().map(|it| (*it).to_owned()).collect(),
        ..Options::default()
    };
    let mut group = Group::start(&options).await?;
    let mut random = StdRng::seed_from_u64(settings.seed ^ 0x7e5);
    let mut written = Vec::new();
    for round in 0..6 {
        let parts: &[Part] = match round % 3 {
            0 => &[Part::App],
            1 => &[Part::Sidecar],
            _ => &[Part::App, Part::Sidecar],
        };
        let victim = random.random_range(1..=MEMBERS);
        // Through another, so that each note is answered.
        let entrance = Client::new(group.address(victim % MEMBERS + 1));
        for number in 0..30 {
            if number == 15 {
                for part in parts {
                    let process = group.process(victim, *part).context("it does not run")?;
                    process.signal(Signal::KILL)?;
                }
            }
            let text = format!("note {round}-{number}");
            note(&entrance, &text).await?;
            written.push(text);
        }
        group.wait_until_level(60 * SECOND).await?;
    }
    let taken = group
        .command(&["snapshot", "take", "--member", "2"])
        .await?;
    let error = String::from_utf8_lossy(&taken.stderr);
    report.expect(taken.status.success(), format!("no snapshot: {error}"));

    group.interrupt().await?;
    options.arguments.clear();
    group.start_again(&options).await?;
    note(&Client::new(group.address(1)), "after the restart").await?;
    written.push("after the restart".to_owned());
    group.wait_until_level(60 * SECOND).await?;

    let copies = group.ask_copies("/notes?limit=10000").await?;
    report.expect(
        copies.iter().all(|copy| *copy == copies[0]),
        "the copies differ",
    );
    let board: Value = serde_json::from_str(&copies[0])?;
    let notes = board["notes"].as_array().context("no notes")?;
    let mut texts: Vec<_> = notes.iter().filter_map(|it| it["text"].as_str()).collect();
    texts.reverse();
    let there: BTreeSet<_> = texts.iter().copied().collect();
    report.say(format!(
        "{} notes written, {} there",
        written.len(),
        texts.len()
    ));
    report.expect(there.len() == texts.len(), "a note is there twice");
    let lost: Vec<_> = written
        .iter()
        .filter(|it| !there.contains(it.as_str()))
        .collect();
    report.expect(lost.is_empty(), format!("notes are lost: {lost:?}"));
    report.expect(
        texts.len() == written.len(),
        format!("{} notes for {} requests", texts.len(), written.len()),
    );
    for panic in group.panics() {
        report.fail(format!("a process panicked: {panic}"));
    }
    group.stop().await?;
    Ok(())
}

/// Writes a note until it is known to be there.
async fn note(client: &Client, text: &str) -> anyhow::Result<()> {
    let mut last = String::new();
    let key = format!("\"{text}\"").try_into().context("a header value")?;
    let key: http::HeaderValue = key;
    let done = eventually(60 * SECOND, LOOK, async || {
        let mut post = request("POST", "/notes", format!("{{\"text\":\"{text}\"}}"));
        post.headers_mut().insert("idempotency-key", key.clone());
        match client.send(post, 15 * SECOND).await {
            Ok(answer) if answer.status == 201 => true,
            Ok(answer) => {
                last = format!("{} {}", answer.status, answer.text());
                false
            }
            Err(error) => {
                last = error.to_string();
                false
            }
        }
    });
    ensure!(done.await, "{text} was not taken: {last}");
    Ok(())
}

/// Writes that are replayed.
const REPLAYED: u64 = 30_000;
/// Of an app's own one-connection rate, the least that a replay reaches.
const REPLAY_SHARE: f64 = 0.9;

/// An app that begins anew is handed all requests as fast as anybody could over one connection.
pub(super) async fn replayed_fast(_: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let mut group = Group::start(&Options::sample_app()?).await?;
    let clients: Vec<Client> = group.addresses().into_iter().map(Client::new).collect();
    let done: Vec<anyhow::Result<()>> = join_all((0..64_u64).map(async |lane| {
        let client = &clients[lane as usize % clients.len()];
        for number in (lane..REPLAYED).step_by(64) {
            let answer = client.send(small_write(number), 30 * SECOND).await?;
            ensure!(answer.status == 200, "{} {}", answer.status, answer.text());
        }
        Ok(())
    }))
    .await;
    done.into_iter().collect::<anyhow::Result<()>>()?;
    group.wait_until_level(60 * SECOND).await?;
    let mut shares = Vec::new();
    for index in 1..=MEMBERS {
        // The app alone, as one who is level, over one connection; then it is made anew.
        let alone = Client::new(group.app_address(index)?);
        let begun = Instant::now();
        for number in 0..REPLAYED / 2 {
            alone.send(small_write(number), 10 * SECOND).await?;
        }
        let own = (REPLAYED / 2) as f64 / begun.elapsed().as_secs_f64();
        let process = group.process(index, Part::App).context("no app")?;
        process.signal(Signal::KILL)?;
        // From a tenth on, so that the start of the process is not counted.
        let mut at = applied_within(&group, index, REPLAYED / 10, |it| it < REPLAYED / 2).await?;
        let first = at;
        while at.0 < REPLAYED {
            at = applied_within(&group, index, at.0 + 1, |_| true).await?;
        }
        let replayed = (at.0 - first.0) as f64 / (at.1 - first.1).as_secs_f64();
        report.say(format!(
            "member {index}: replay {replayed:.0}/s, the app alone over one connection {own:.0}/s: {:.0} %",
            100.0 * replayed / own
        ));
        shares.push(replayed / own);
    }
    let best = shares.into_iter().fold(0.0, f64::max);
    report.expect(
        best >= REPLAY_SHARE,
        format!("a replay reaches {:.0} % at best", 100.0 * best),
    );
    group.stop().await?;
    Ok(())
}

fn small_write(number: u64) -> Request<Full<Bytes>> {
    request("PUT", &format!("/r/{}", number % 100), number.to_string())
}

/// The first slot from `least` on that a member says to have executed, and when.
async fn applied_within(
    group: &Group,
    index: u32,
    least: u64,
    wanted: impl Fn(u64) -> bool,
) -> anyhow::Result<(u64, Instant)> {
    let begun = Instant::now();
    loop {
        let told = group.tell(index).await.unwrap_or_default();
        let applied = told["applied"].as_u64().unwrap_or(0);
        if applied >= least && wanted(applied) {
            return Ok((applied, Instant::now()));
        }
        ensure!(
            begun.elapsed() < 60 * SECOND,
            "member {index} stays at {applied}"
        );
        sleep(Duration::from_millis(5)).await;
    }
}
