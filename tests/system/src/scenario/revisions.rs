//! The app of a running group is changed: what each request was answered by follows from its slot, and
//! nothing is lost.

use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Settings;
use super::agreement::{conclude, start};
use super::states::BY_HTTP;
use crate::client::{Answer, Client, request};
use crate::group::{Group, MEMBERS, Options};
use crate::nemesis;
use crate::report::Report;

const SECOND: Duration = Duration::from_secs(1);
const GAP: Duration = Duration::from_millis(20);

/// The sample app, as this revision of it.
fn options(revision: u64) -> anyhow::Result<Options> {
    let arguments = ["--revision", &revision.to_string()];
    let state = format!("{{snapshot: {{{BY_HTTP}, every: {{slots: 500}}}}}}");
    Options::with_state(&arguments, &state)
}

/// Who has answered at which slot, in the order in which a client saw it, and the longest time without.
#[derive(Default)]
struct Heard {
    answers: Vec<(u64, u64)>,
    longest: Duration,
}

/// Asks a member which revision answers, in the agreed order, until it is told to end.
fn listen(group: &Group, index: u32, ends: &Arc<AtomicBool>) -> JoinHandle<anyhow::Result<Heard>> {
    let (client, ends) = (Client::new(group.address(index)), ends.clone());
    tokio::spawn(async move {
        let (mut heard, mut last) = (Heard::default(), Instant::now());
        while !ends.load(Ordering::SeqCst) {
            let asked = client
                .send(request("POST", "/which", "{}"), 15 * SECOND)
                .await;
            if let Ok(answer) = asked
                && answer.status == 200
            {
                heard.answers.push(read(&answer)?);
                heard.longest = heard.longest.max(last.elapsed());
                last = Instant::now();
            }
            sleep(GAP).await;
        }
        Ok(heard)
    })
}

fn read(answer: &Answer) -> anyhow::Result<(u64, u64)> {
    let slot = answer.headers.get("synod-slot").context("no Synod-Slot")?;
    let slot = slot
        .to_str()?
        .split(';')
        .next()
        .unwrap_or_default()
        .parse()?;
    let body: Value = serde_json::from_slice(&answer.body)?;
    let revision = body["revision"].as_u64().context("no revision")?;
    Ok((slot, revision))
}

/// The slot that a switch names.
fn barrier(output: &Output) -> anyhow::Result<u64> {
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().find(|it| it.contains("follows slot "));
    let line = line.with_context(|| format!("it says no slot: {said}{error}"))?;
    let slot = line.rsplit(' ').next().unwrap_or_default();
    Ok(slot.parse()?)
}

fn expect_switched(output: &Output, report: &mut Report) -> anyhow::Result<u64> {
    let said = String::from_utf8_lossy(&output.stdout);
    report.expect(
        output.status.success(),
        format!("{said}{}", String::from_utf8_lossy(&output.stderr)),
    );
    barrier(output)
}

/// To another behaviour and back to the first, while processes of all kinds are killed and stopped.
pub(super) async fn changed(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let first = options(0)?;
    let mut group = Group::start(&first).await?;
    let gentle = Settings {
        rate: settings.rate / 2,
        ..settings.clone()
    };
    let ends = Arc::new(AtomicBool::new(false));
    let listeners: Vec<_> = (1..=MEMBERS).map(|it| listen(&group, it, &ends)).collect();
    let workload = start(&gentle, &group, 9);
    let begun = Instant::now();
    let mut random = StdRng::seed_from_u64(settings.seed);
    let span = Duration::from_secs(settings.fault_seconds).min(60 * SECOND);
    let switches = async {
        let mut barriers = Vec::new();
        for command in [options(1)?.command, first.command.clone()] {
            sleep(6 * SECOND).await;
            barriers.push((group.switch_app(&[], &command).await?, Instant::now()));
        }
        anyhow::Ok(barriers)
    };
    let (deeds, switched) = tokio::join!(
        nemesis::torment(&group, &workload, &mut random, span),
        switches
    );
    sleep(3 * SECOND).await;
    ends.store(true, Ordering::SeqCst);
    let seconds = begun.elapsed().as_secs_f64();
    let recorded = workload.finish().await?;
    report.say(format!(
        "{} operations in {seconds:.0} s, {} of unknown outcome; {} faults",
        recorded.history.completed(),
        recorded.history.unknown(),
        deeds?.faults.len()
    ));
    let mut barriers = Vec::new();
    for (output, _) in switched? {
        barriers.push(expect_switched(&output, report)?);
    }
    let [to_second, back] = barriers[..] else {
        anyhow::bail!("two switches");
    };
    ensure!(to_second < back, "{barriers:?}");
    let mut counts = [0_usize; 3];
    for listener in listeners {
        let heard = listener.await??;
        report.say(format!(
            "{} answers in order, at most {:.1} s apart",
            heard.answers.len(),
            heard.longest.as_secs_f64()
        ));
        report.expect(
            heard.answers.is_sorted_by_key(|it| it.0),
            "a client saw slots out of order",
        );
        for (slot, revision) in heard.answers {
            let part = usize::from(slot > to_second) + usize::from(slot > back);
            counts[part] += 1;
            let expected = u64::from(part == 1);
            report.expect(
                revision == expected,
                format!("slot {slot} was answered by {revision}, barriers {barriers:?}"),
            );
        }
    }
    report.say(format!(
        "barriers {barriers:?}; answers between them {counts:?}"
    ));
    report.expect(
        counts.iter().all(|it| *it >= 20),
        format!("too few answers for a verdict: {counts:?}"),
    );
    conclude(settings, &mut group, "revisions", recorded, report).await?;
    group.stop().await?;
    Ok(())
}

/// A command that ends at once, and the way back.
pub(super) async fn taken_back(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let first = options(0)?;
    let mut group = Group::start(&first).await?;
    let gentle = Settings {
        rate: settings.rate / 4,
        ..settings.clone()
    };
    let workload = start(&gentle, &group, 10);
    sleep(3 * SECOND).await;
    let broken = ["false".to_owned()];
    let tried = group.switch_app(&["--timeout", "8s"], &broken).await?;
    let error = String::from_utf8_lossy(&tried.stderr).into_owned();
    report.expect(
        !tried.status.success(),
        "a command that ends at once took over",
    );
    report.expect(
        error.contains("0 of 3 copies run") && error.contains("--take-back"),
        format!("the way back is not told: {error}"),
    );
    let refused = group.switch_app(&[], &first.command).await?;
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    report.expect(
        !refused.status.success() && error.contains("or take it back"),
        format!("it is not refused: {error}"),
    );
    let back = group.switch_app(&["--take-back"], &first.command).await?;
    expect_switched(&back, report)?;
    sleep(3 * SECOND).await;
    let recorded = workload.finish().await?;
    conclude(settings, &mut group, "revisions-back", recorded, report).await?;
    // It comes back with the command that runs.
    group.interrupt().await?;
    let again = Options {
        command: Vec::new(),
        ..first
    };
    group.start_again(&again).await?;
    let answer = Client::new(group.address(1));
    let answer = answer
        .send(request("POST", "/which", "{}"), 15 * SECOND)
        .await?;
    report.expect(
        read(&answer)?.1 == 0,
        format!("after a new start: {}", answer.text()),
    );
    group.stop().await?;
    Ok(())
}
