//! Requests at which the apps of all copies end or hang, or those of some: the service goes on without
//! them, their clients are told, and nothing that anybody was told is undone.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::Signal;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Settings;
use super::agreement::{conclude, start};
use super::states::BY_HTTP;
use crate::app::Fate;
use crate::client::{Answer, Client, request};
use crate::group::{Group, MEMBERS, Options, Part};
use crate::process::eventually;
use crate::report::Report;

const SECOND: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(50);
/// No member of the workload's keys.
const PATH: &str = "/r/poison";
/// The member that is away, where one is.
const AWAY: u32 = 3;

async fn group(state: &str) -> anyhow::Result<Group> {
    let arguments = ["--fates", "{data}/../fates"];
    let spec = format!("app: {{applyTimeout: 1s}}\n  state: {state}");
    Group::start(&Options::with_spec(&arguments, &spec)?).await
}

/// What becomes of the request at the copies of these members.
fn decree(group: &Group, members: impl IntoIterator<Item = u32>, fate: Fate) -> anyhow::Result<()> {
    for index in members {
        fs::write(group.member_folder(index).join("fates"), fate.line(PATH))?;
    }
    Ok(())
}

/// Sends the request through a member until it is known what became of it.
fn send(group: &Group, index: u32, key: &str) -> JoinHandle<anyhow::Result<Answer>> {
    let client = Client::new(group.address(index));
    let key = key.to_owned();
    tokio::spawn(async move { send_through(&client, PATH, &key, 90 * SECOND).await })
}

/// The same with a write of any path, at most so long.
pub(super) async fn send_through(
    client: &Client,
    path: &str,
    key: &str,
    patience: Duration,
) -> anyhow::Result<Answer> {
    send_by(client, "PUT", path, key, patience).await
}

/// The same by any method.
pub(super) async fn send_by(
    client: &Client,
    method: &str,
    path: &str,
    key: &str,
    patience: Duration,
) -> anyhow::Result<Answer> {
    let begun = Instant::now();
    loop {
        let mut put = request(method, path, "1");
        let key = format!("\"{key}\"").parse()?;
        put.headers_mut().insert("idempotency-key", key);
        match client.send(put, 15 * SECOND).await {
            Ok(answer) if !matches!(answer.outcome(), Some("not-ordered" | "unknown")) => {
                return Ok(answer);
            }
            other => ensure!(begun.elapsed() < patience, "{other:?}"),
        }
        sleep(LOOK).await;
    }
}

fn expect_skipped(answer: &Answer, report: &mut Report) {
    report.expect(
        answer.status == 502 && answer.outcome() == Some("skipped"),
        format!("its client got {} {}", answer.status, answer.text()),
    );
}

/// What all members tell that was skipped, once they tell so many.
async fn expect_told(group: &Group, count: usize, report: &mut Report) -> anyhow::Result<()> {
    for index in 1..=MEMBERS {
        let mut told = Value::Null;
        let all = eventually(30 * SECOND, LOOK, async || {
            told = group.tell(index).await.unwrap_or_default();
            told["skipped"]
                .as_array()
                .is_some_and(|it| it.len() == count)
        });
        let all = all.await;
        report.expect(all, format!("member {index} tells {}", told["skipped"]));
    }
    Ok(())
}

/// Mixed load, while requests come that are the end of every copy.
pub(super) async fn kills_all(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    under_load(settings, Fate::Dies, "poison-kills", report).await
}

/// The same with requests that no copy ever answers.
pub(super) async fn hangs_all(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    under_load(settings, Fate::Hangs, "poison-hangs", report).await
}

async fn under_load(
    settings: &Settings,
    fate: Fate,
    name: &str,
    report: &mut Report,
) -> anyhow::Result<()> {
    let state = format!("{{snapshot: {{{BY_HTTP}, every: {{slots: 500}}}}}}");
    let mut group = group(&state).await?;
    decree(&group, 1..=MEMBERS, fate)?;
    // While nothing is taken all of it comes again and again.
    let gentle = Settings {
        rate: settings.rate / 4,
        ..settings.clone()
    };
    let workload = start(&gentle, &group, 4);
    let begun = Instant::now();
    for number in 1..=MEMBERS {
        sleep(6 * SECOND).await;
        let sent = Instant::now();
        let answer = send(&group, number, &format!("poison-{number}")).await??;
        report.say(format!(
            "{fate:?} {number}: {} {:?} after {:.1} s",
            answer.status,
            answer.outcome(),
            sent.elapsed().as_secs_f64()
        ));
        expect_skipped(&answer, report);
        // Whoever asks again gets no other answer, and nothing is executed.
        let again = send(&group, number % MEMBERS + 1, &format!("poison-{number}")).await??;
        expect_skipped(&again, report);
        group.wait_until_all_serve(60 * SECOND).await?;
    }
    sleep(6 * SECOND).await;
    let seconds = begun.elapsed().as_secs_f64();
    let recorded = workload.finish().await?;
    report.say(format!(
        "{} operations in {seconds:.0} s, {} of unknown outcome",
        recorded.history.completed(),
        recorded.history.unknown()
    ));
    for (answer, times) in &recorded.unexpected {
        report.fail(format!(
            "{times} times an answer that no client should get: {answer}"
        ));
    }
    expect_told(&group, MEMBERS as usize, report).await?;
    conclude(settings, &mut group, name, recorded, report).await?;
    group.stop().await?;
    Ok(())
}

/// The copies that cannot execute what another has get its state.
pub(super) async fn one_executes(_: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let mut group = group(&format!("{{snapshot: {{{BY_HTTP}}}}}")).await?;
    decree(&group, 2..=MEMBERS, Fate::Dies)?;
    let begun = Instant::now();
    let answer = send(&group, 2, "kept").await??;
    report.expect(
        answer.status == 200,
        format!("its client got {} {}", answer.status, answer.text()),
    );
    group.wait_until_level(90 * SECOND).await?;
    report.say(format!(
        "all copies have it after {:.1} s",
        begun.elapsed().as_secs_f64()
    ));
    let copies = group.ask_copies(PATH).await?;
    let all = copies.iter().all(|it| it.contains("\"value\":1"));
    report.expect(
        all,
        format!("a copy lacks what was acknowledged: {copies:?}"),
    );
    expect_told(&group, 0, report).await?;
    end(group, report).await
}

/// Stops the sidecar of one member, sends the request that kills every copy, and waits until the others
/// wait for that member.
async fn one_away(
    report: &mut Report,
) -> anyhow::Result<(Group, u64, JoinHandle<anyhow::Result<Answer>>)> {
    let group = group("{}").await?;
    let away = group
        .process(AWAY, Part::Sidecar)
        .context("it does not run")?;
    away.signal(Signal::STOP)?;
    decree(&group, 1..=MEMBERS, Fate::Dies)?;
    let sent = send(&group, 1, "away");
    let mut told = Value::Null;
    let waits = eventually(60 * SECOND, LOOK, async || {
        for index in 1..AWAY {
            told = group.tell(index).await.unwrap_or_default()["undecided"].clone();
            if told["waits_for"].to_string().contains("registers-3") {
                return true;
            }
        }
        false
    });
    report.expect(
        waits.await,
        format!("nobody waits for the member by name: {told}"),
    );
    report.say(format!("waits for: {}", told["waits_for"]));
    report.expect(told["path"] == PATH, format!("{told}"));
    let slot = told["slot"].as_u64().unwrap_or_default();
    for index in 1..AWAY {
        let waits = eventually(5 * SECOND, LOOK, async || {
            let told = group.tell(index).await.unwrap_or_default();
            told["waiting_on"]["on"] == "poison" && told["waiting_on"]["slot"] == slot
        });
        report.expect(
            waits.await,
            format!("member {index} does not say what it waits for"),
        );
        let client = Client::new(group.address(index));
        let put = client
            .send(request("PUT", "/r/other", "1"), 5 * SECOND)
            .await?;
        report.expect(
            put.status == 503
                && put.header("retry-after").is_some()
                && put.text().contains("poison"),
            format!("a new request got {} {}", put.status, put.text()),
        );
    }
    Ok((group, slot, sent))
}

/// It is waited for, and asked when it is back; all others are killed meanwhile, and keep their promises.
pub(super) async fn away_and_back(_: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let (mut group, slot, sent) = one_away(report).await?;
    for _ in 0..2 {
        for index in 1..AWAY {
            let process = group
                .process(index, Part::Sidecar)
                .context("it does not run")?;
            process.signal(Signal::KILL)?;
        }
        sleep(4 * SECOND).await;
        for index in 1..AWAY {
            let held = eventually(30 * SECOND, LOOK, async || {
                let told = group.tell(index).await.unwrap_or_default();
                told["waiting_on"]["on"] == "poison" && told["waiting_on"]["slot"] == slot
            });
            report.expect(
                held.await,
                format!("member {index} has forgotten its promise"),
            );
        }
    }
    let away = group
        .process(AWAY, Part::Sidecar)
        .context("it does not run")?;
    away.signal(Signal::CONT)?;
    expect_skipped(&sent.await??, report);
    expect_told(&group, 1, report).await?;
    group.wait_until_level(60 * SECOND).await?;
    end(group, report).await
}

/// A person does not wait for it.
pub(super) async fn given_up(_: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let (mut group, slot, sent) = one_away(report).await?;
    let refused = group.command(&["skip", "--slot", "1"]).await?;
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    report.expect(
        !refused.status.success() && error.contains("no copy fails at slot 1"),
        format!("another slot: {error}"),
    );
    let given_up = group
        .command(&["skip", "--slot", &slot.to_string()])
        .await?;
    let said = String::from_utf8_lossy(&given_up.stdout).into_owned();
    let error = String::from_utf8_lossy(&given_up.stderr);
    report.say(said.trim());
    report.expect(
        given_up.status.success() && said.contains("may have been acknowledged"),
        format!("{said} {error}"),
    );
    expect_skipped(&sent.await??, report);
    let client = Client::new(group.address(2));
    // What is refused meanwhile says when to try again.
    let mut said = String::new();
    let taken = eventually(10 * SECOND, SECOND, async || {
        let put = client.send(request("PUT", "/r/other", "1"), 15 * SECOND);
        match put.await {
            Ok(put) => {
                said = format!("{} {}", put.status, put.text());
                put.status == 200
            }
            Err(error) => {
                said = error.to_string();
                false
            }
        }
    });
    report.expect(taken.await, format!("then {said}"));
    let away = group
        .process(AWAY, Part::Sidecar)
        .context("it does not run")?;
    away.signal(Signal::CONT)?;
    expect_told(&group, 1, report).await?;
    group.wait_until_level(60 * SECOND).await?;
    end(group, report).await
}

async fn end(group: Group, report: &mut Report) -> anyhow::Result<()> {
    let copies = group.ask_copies("/dump").await?;
    report.expect(
        copies.iter().all(|copy| *copy == copies[0]),
        format!("the copies differ: {copies:?}"),
    );
    for panic in group.panics() {
        report.fail(format!("a process panicked: {panic}"));
    }
    group.stop().await?;
    Ok(())
}
