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
            // A version that answers otherwise is heard, too; who refuses a request is no version.
            if let Ok(answer) = asked
                && let Some(said) = read(&answer)?
            {
                heard.answers.push(said);
                heard.longest = heard.longest.max(last.elapsed());
                last = Instant::now();
            }
            sleep(GAP).await;
        }
        Ok(heard)
    })
}

/// The slot, and the version that has answered; `None`: it is no answer of the app's.
fn read(answer: &Answer) -> anyhow::Result<Option<(u64, u64)>> {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let Some(revision) = body["revision"].as_u64() else {
        ensure!(answer.status != 200, "no revision in {body}");
        return Ok(None);
    };
    let slot = answer.headers.get("synod-slot").context("no Synod-Slot")?;
    let slot = slot
        .to_str()?
        .split(';')
        .next()
        .unwrap_or_default()
        .parse()?;
    Ok(Some((slot, revision)))
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
    let ends = Arc::new(AtomicBool::new(false));
    let listeners: Vec<_> = (1..=MEMBERS).map(|it| listen(&group, it, &ends)).collect();
    let workload = start(&gently(settings, 2), &group, 9);
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
    let workload = start(&gently(settings, 4), &group, 10);
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
        read(&answer)?.is_some_and(|(_, version)| version == 0),
        format!("after a new start: {}", answer.text()),
    );
    group.stop().await?;
    Ok(())
}

/// Both run side by side while processes of all kinds are killed and stopped: which one has answered follows
/// from the slot.
pub(super) async fn rolled(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let mut group = Group::start(&options(0)?).await?;
    let ends = Arc::new(AtomicBool::new(false));
    let listeners: Vec<_> = (1..=MEMBERS).map(|it| listen(&group, it, &ends)).collect();
    let workload = start(&gently(settings, 2), &group, 11);
    let mut random = StdRng::seed_from_u64(settings.seed);
    let span = Duration::from_secs(settings.fault_seconds).min(60 * SECOND);
    let next = options(1)?.command;
    let roll = async {
        sleep(6 * SECOND).await;
        let begun = Instant::now();
        let rolled = group.roll_app(&[], &next).await?;
        anyhow::Ok((rolled, begun.elapsed()))
    };
    let (deeds, rolled) =
        tokio::join!(nemesis::torment(&group, &workload, &mut random, span), roll);
    sleep(3 * SECOND).await;
    ends.store(true, Ordering::SeqCst);
    let recorded = workload.finish().await?;
    let (output, took) = rolled?;
    report.say(format!(
        "{} operations, {} of unknown outcome; {} faults; taken over after {:.1} s",
        recorded.history.completed(),
        recorded.history.unknown(),
        deeds?.faults.len(),
        took.as_secs_f64()
    ));
    let barrier = expect_switched_along(&output, report)?;
    let heard = heard(listeners, report).await?;
    let of = |wanted: u64| {
        let all = heard.iter().filter(move |it| it.1 == wanted);
        all.map(|it| it.0)
    };
    let last_old = of(0).max().context("no answer of the old one")?;
    let first_new = of(1).min().context("no answer of the new one")?;
    report.say(format!(
        "barrier {barrier}; the last answer of the old at {last_old}, the first of the new at {first_new}; \
         {} and {} answers",
        of(0).count(),
        of(1).count()
    ));
    report.expect(
        barrier < last_old && last_old < first_new,
        "the new version answered before it had taken over, or the old one after",
    );
    let along = of(0).filter(|it| *it > barrier).count();
    report.expect(
        along >= 20 && of(1).count() >= 20,
        format!("too few answers for a verdict: {along} while both ran"),
    );
    conclude(settings, &mut group, "revisions-rolled", recorded, report).await?;
    group.stop().await?;
    Ok(())
}

/// It refuses what the old one accepts: clients never see that.
pub(super) async fn disagrees(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let mut group = Group::start(&options(0)?).await?;
    let ends = Arc::new(AtomicBool::new(false));
    let listeners: Vec<_> = (1..=MEMBERS).map(|it| listen(&group, it, &ends)).collect();
    let workload = start(&gently(settings, 4), &group, 12);
    sleep(3 * SECOND).await;
    let mut refuses = options(1)?.command;
    refuses.extend(["--which", "500"].map(str::to_owned));
    let rolled = group.roll_app(&["--timeout", "90s"], &refuses).await?;
    let error = String::from_utf8_lossy(&rolled.stderr).into_owned();
    report.expect(
        !rolled.status.success()
            && error.contains("POST /which")
            && error.contains("status 200")
            && error.contains("--take-back"),
        format!("it is not stopped, or not told why: {error}"),
    );
    let refused = group.roll_app(&[], &options(2)?.command).await?;
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    report.expect(
        !refused.status.success() && error.contains("take it back"),
        format!("another one is not refused: {error}"),
    );
    let back = group.roll_app(&["--take-back"], &[]).await?;
    report.expect(
        back.status.success(),
        String::from_utf8_lossy(&back.stderr).into_owned(),
    );
    sleep(5 * SECOND).await;
    // The next one is good.
    let rolled = group.roll_app(&[], &options(3)?.command).await?;
    expect_switched_along(&rolled, report)?;
    sleep(2 * SECOND).await;
    ends.store(true, Ordering::SeqCst);
    let recorded = workload.finish().await?;
    let heard = heard(listeners, report).await?;
    report.say(format!("{} answers in order", heard.len()));
    report.expect(
        heard.iter().all(|it| it.1 != 1),
        "a client got an answer of the version that was taken back",
    );
    let first_new = heard.iter().filter(|it| it.1 == 3).map(|it| it.0).min();
    let last_old = heard.iter().filter(|it| it.1 == 0).map(|it| it.0).max();
    report.expect(
        last_old < first_new,
        format!("the old one answered up to {last_old:?}, the new one from {first_new:?} on"),
    );
    conclude(settings, &mut group, "revisions-disagree", recorded, report).await?;
    group.stop().await?;
    Ok(())
}

/// With a part of the traffic.
fn gently(settings: &Settings, part: u32) -> Settings {
    Settings {
        rate: settings.rate / part,
        ..settings.clone()
    }
}

fn expect_switched_along(output: &Output, report: &mut Report) -> anyhow::Result<u64> {
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    report.expect(output.status.success(), format!("{said}{error}"));
    let line = said
        .lines()
        .find(|it| it.contains("runs along behind slot "));
    let line = line.with_context(|| format!("it says no slot: {said}{error}"))?;
    let slot = line.rsplit(' ').next().unwrap_or_default();
    Ok(slot.parse()?)
}

/// All that the listeners have heard; each in order.
async fn heard(
    listeners: Vec<JoinHandle<anyhow::Result<Heard>>>,
    report: &mut Report,
) -> anyhow::Result<Vec<(u64, u64)>> {
    let mut all = Vec::new();
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
        all.extend(heard.answers);
    }
    Ok(all)
}
