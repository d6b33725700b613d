//! Retries with an `Idempotency-Key` through another member, while leaders die: each key takes
//! effect once, and both answers are the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use http::HeaderValue;
use rustix::process::Signal;
use synod_history::Value;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Settings;
use crate::app;
use crate::client::{Answer, Client, request};
use crate::group::{Group, MEMBERS, Options, Part};
use crate::report::Report;

/// Keys a second.
const RATE: u32 = 200;
/// Keys in flight.
const CONCURRENCY: usize = 256;
/// Elements of one list.
const PER_LIST: u64 = 50;
/// An answer is waited for that long, all tries together.
const LIMIT: Duration = Duration::from_secs(60);

/// See the module.
pub(super) async fn retries(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let mut group = Group::start(&Options::sample_app()?).await?;
    let clients: Arc<Vec<Client>> =
        Arc::new(group.addresses().into_iter().map(Client::new).collect());
    let keys = settings.idempotent_keys;
    let done = Arc::new(AtomicU64::new(0));
    let over = AtomicBool::new(false);
    let begun = Instant::now();

    let drive = async {
        let result = drive(&clients, keys, &done).await;
        over.store(true, Ordering::Release);
        result
    };
    let (told, kills) = tokio::join!(drive, kill_leaders(&group, &over));
    let (told, kills) = (told?, kills?);
    report.say(format!(
        "{keys} keys, each sent at least twice through different members, in {:.0} s; {} of them \
         at once; leader killed {} times, {} changes of leader",
        begun.elapsed().as_secs_f64(),
        told.concurrent,
        kills.kills,
        kills.changes,
    ));
    report.say(format!(
        "answered first as {:?}, again as {:?}",
        told.first, told.again
    ));
    report.expect(
        kills.changes * 1_500 >= keys,
        format!(
            "only {} changes of leader: the run is invalid",
            kills.changes
        ),
    );
    for problem in told.problems.iter().take(10) {
        report.fail(problem);
    }
    report.expect(
        told.problems.len() <= 10,
        format!("{} keys were answered wrongly", told.problems.len()),
    );

    group.wait_until_level(Duration::from_secs(60)).await?;
    for (index, copy) in group.ask_copies("/dump").await?.iter().enumerate() {
        check_copy(index + 1, copy, keys, report)?;
    }
    for panic in group.panics() {
        report.fail(format!("a process panicked: {panic}"));
    }
    group.stop().await?;
    Ok(())
}

#[derive(Default)]
struct Told {
    problems: Vec<String>,
    concurrent: u64,
    first: HashMap<String, u64>,
    again: HashMap<String, u64>,
}

#[derive(Default)]
struct Kills {
    kills: u64,
    changes: u64,
}

async fn drive(
    clients: &Arc<Vec<Client>>,
    keys: u64,
    done: &Arc<AtomicU64>,
) -> anyhow::Result<Told> {
    let permits = Arc::new(Semaphore::new(CONCURRENCY));
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    let mut tasks = JoinSet::new();
    for key in 0..keys {
        ticks.tick().await;
        let permit = Arc::clone(&permits).acquire_owned().await?;
        let clients = Arc::clone(clients);
        let done = Arc::clone(done);
        tasks.spawn(async move {
            let result = twice(&clients, key).await;
            done.fetch_add(1, Ordering::AcqRel);
            drop(permit);
            (key, result)
        });
    }
    let mut told = Told::default();
    while let Some(joined) = tasks.join_next().await {
        let (key, (first, again)) = joined?;
        told.concurrent += u64::from(is_concurrent(key));
        for (answer, counts) in [(&first, &mut told.first), (&again, &mut told.again)] {
            let outcome = match answer {
                Ok(answer) => format!("{:?}", answer.outcome().unwrap_or("none")),
                Err(_) => "nothing".to_owned(),
            };
            *counts.entry(outcome).or_default() += 1;
        }
        match (first, again) {
            (Ok(first), Ok(again)) => {
                if let Err(problem) = same(&first, &again) {
                    told.problems.push(format!("key {key}: {problem}"));
                }
            }
            (first, again) => {
                let error = first.err().or(again.err()).unwrap_or_default();
                told.problems
                    .push(format!("key {key} was not answered: {error}"));
            }
        }
    }
    Ok(told)
}

/// Every tenth key is sent through two members at the same time.
fn is_concurrent(key: u64) -> bool {
    key.is_multiple_of(10)
}

async fn twice(clients: &[Client], key: u64) -> (Result<Answer, String>, Result<Answer, String>) {
    let member = key as usize % clients.len();
    let other = (member + 1 + (key / 3) as usize % (clients.len() - 1)) % clients.len();
    if is_concurrent(key) {
        return tokio::join!(
            until_answered(clients, member, key),
            until_answered(clients, other, key)
        );
    }
    let first = until_answered(clients, member, key).await;
    (first, until_answered(clients, other, key).await)
}

/// Sends the key through `member`, and through others in turn, until an outcome is told.
async fn until_answered(clients: &[Client], mut member: usize, key: u64) -> Result<Answer, String> {
    let end = Instant::now() + LIMIT;
    loop {
        let list = key / PER_LIST;
        let mut request = request("POST", &format!("/l/{list}"), key.to_string());
        let name = HeaderValue::try_from(format!("\"retry-{key}\"")).expect("it is text");
        request.headers_mut().insert("idempotency-key", name);
        let result = clients[member].send(request, Duration::from_secs(12)).await;
        let last = match result {
            Ok(answer) if answer.status.is_success() => return Ok(answer),
            Ok(answer) if matches!(answer.status.as_u16(), 503 | 504) => {
                format!("{} {}", answer.status, answer.text())
            }
            Ok(answer) => return Err(format!("{} {}", answer.status, answer.text())),
            Err(error) => error.to_string(),
        };
        if Instant::now() > end {
            return Err(format!("nothing else than this for {LIMIT:?}: {last}"));
        }
        sleep(Duration::from_millis(20)).await;
        member = (member + 1) % clients.len();
    }
}

/// Both answers are the app's one answer: only who said it, and as what, may differ.
fn same(first: &Answer, again: &Answer) -> Result<(), String> {
    let headers = |answer: &Answer| {
        let mut headers = answer.headers.clone();
        headers.remove("synod-member");
        headers.remove("synod-outcome");
        // Where the app sends none, the member that answers adds its own.
        headers.remove("date");
        headers
    };
    if first.status != again.status || first.body != again.body || headers(first) != headers(again)
    {
        return Err(format!("two answers: {first:?} and {again:?}"));
    }
    if first.slot().is_none() {
        return Err(format!("no slot: {first:?}"));
    }
    let executed = [first, again]
        .iter()
        .filter(|a| a.outcome() == Some("executed"))
        .count();
    if executed > 1 {
        return Err(format!("executed {executed} times"));
    }
    Ok(())
}

/// Kills the leader's sidecar again and again, each time all members serve.
async fn kill_leaders(group: &Group, over: &AtomicBool) -> anyhow::Result<Kills> {
    let mut kills = Kills::default();
    while !over.load(Ordering::Acquire) {
        sleep(Duration::from_millis(1_500)).await;
        let Some(leader) = group.leader().await else {
            continue;
        };
        let members = group.status().await?;
        if members.iter().filter(|m| m.serving && m.ready).count() < MEMBERS as usize {
            continue;
        }
        let Some(process) = group.process(leader, Part::Sidecar) else {
            continue;
        };
        process.signal(Signal::KILL)?;
        kills.kills += 1;
        let change = async {
            loop {
                if group.leader().await.is_some_and(|next| next != leader) {
                    break;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        kills.changes += u64::from(timeout(Duration::from_secs(10), change).await.is_ok());
    }
    Ok(kills)
}

fn check_copy(index: usize, copy: &str, keys: u64, report: &mut Report) -> anyhow::Result<()> {
    let mut times: HashMap<u64, u64> = HashMap::new();
    for (list, cell) in app::parse_dump(copy.as_bytes())? {
        let Some(Value::List(elements)) = cell.value else {
            report.fail(format!("copy {index} holds no list at {list}"));
            continue;
        };
        for element in elements {
            *times.entry(element).or_default() += 1;
        }
    }
    let once = (0..keys).filter(|key| times.get(key) == Some(&1)).count() as u64;
    let total: u64 = times.values().sum();
    let worst = times
        .iter()
        .max_by_key(|(_, times)| **times)
        .context("nothing was applied")?;
    report.say(format!(
        "copy {index}: {once} of {keys} keys applied once, {total} effects in all"
    ));
    report.expect(
        once == keys && total == keys,
        format!("copy {index}: {once} of {keys} keys once, {total} effects; key {worst:?} most"),
    );
    Ok(())
}
