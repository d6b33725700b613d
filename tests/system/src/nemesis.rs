//! Kills and stops processes of a running group, never so that a quorum is missing, and notes what
//! it did and how long members took to come back.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::RngExt;
use rand::rngs::StdRng;
use rustix::process::Signal;
use serde::Serialize;
use tokio::time::sleep;

use crate::group::{Group, MemberStatus, Part, number_of};
use crate::process::{Process, eventually};
use crate::workload::Workload;

/// How often members are asked how they are.
const LOOK: Duration = Duration::from_millis(50);
/// A member that is not back after this time is not coming back.
const PATIENCE: Duration = Duration::from_secs(90);

/// What was done to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Act {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGCONT after a while.
    Pause,
}

/// One fault that really happened.
#[derive(Clone, Debug, Serialize)]
pub struct Fault {
    /// When, in nanoseconds of the history's clock.
    pub at_ns: u64,
    /// Whose process, from 1.
    pub member: u32,
    /// Which.
    pub part: Part,
    /// What.
    pub act: Act,
    /// The member's app was killed with its sidecar.
    pub whole: bool,
    /// The member led the group then.
    pub leader: bool,
    /// The victim was not serving yet since an earlier fault.
    pub again: bool,
    /// For a pause, its length in milliseconds.
    pub pause_ms: u64,
    /// Until the victim's own copy served again, in milliseconds: start and replay. `None` when the
    /// next fault hit it before that.
    pub replay_ms: Option<u64>,
}

/// What the nemesis did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Deeds {
    /// In order of time.
    pub faults: Vec<Fault>,
    /// Time spent waiting for a quorum beside every possible victim, in milliseconds.
    pub waited_ms: u64,
}

/// Hits one process after another for `span`, 2 to 3 s apart, waiting only for what keeps a quorum.
pub async fn torment(
    group: &Group,
    workload: &Workload,
    random: &mut StdRng,
    span: Duration,
) -> anyhow::Result<Deeds> {
    let end = Instant::now() + span;
    let mut deeds = Deeds::default();
    let mut hurt: Option<Hurt> = None;
    loop {
        let due = Instant::now() + Duration::from_millis(random.random_range(2_000..3_000));
        while Instant::now() < due {
            watch(group, &mut hurt, &mut deeds).await?;
            sleep(LOOK).await;
        }
        if Instant::now() >= end {
            break;
        }
        // A victim that has not come back may be hit again, or be waited for.
        let patient = random.random_range(0..2) == 0;
        let waiting = Instant::now();
        let victim = loop {
            let members = watch(group, &mut hurt, &mut deeds).await?;
            let victims = possible_victims(group, &members);
            let all = victims.len() == group.numbers().len();
            if !victims.is_empty() && (all || !patient) {
                break victims[random.random_range(0..victims.len())];
            }
            ensure!(
                waiting.elapsed() < PATIENCE,
                "no quorum serves: {members:?}"
            );
            sleep(LOOK).await;
        };
        deeds.waited_ms += waiting.elapsed().as_millis() as u64;
        let fault = hit(group, workload, random, victim, hurt.is_some()).await?;
        let Some(fault) = fault else {
            continue;
        };
        hurt = Some(Hurt::new(group, deeds.faults.len(), &fault));
        deeds.faults.push(fault);
    }
    let healed = eventually(PATIENCE, LOOK, async || {
        watch(group, &mut hurt, &mut deeds).await.is_ok() && hurt.is_none()
    });
    ensure!(
        healed.await,
        "the last victim did not come back within {PATIENCE:?}"
    );
    Ok(deeds)
}

/// Kills every process of every member at once.
pub async fn kill_all(group: &Group) -> anyhow::Result<()> {
    let mut processes = Vec::new();
    for part in [Part::Sidecar, Part::App] {
        for index in group.numbers() {
            let process = group.process(index, part);
            processes.push(process.with_context(|| format!("{part:?} {index} does not run"))?);
        }
    }
    for process in &processes {
        process.signal(Signal::KILL)?;
    }
    let dead = eventually(
        Duration::from_secs(5),
        Duration::from_millis(5),
        async || processes.iter().all(|process| !process.lives()),
    );
    ensure!(dead.await, "a process survived SIGKILL");
    Ok(())
}

/// A victim that is not known to be back.
struct Hurt {
    fault: usize,
    member: u32,
    since: Instant,
    /// Processes that a kill must have replaced.
    old: Option<(Part, Process)>,
}

impl Hurt {
    fn new(group: &Group, index: usize, fault: &Fault) -> Self {
        let old = group.process(fault.member, fault.part);
        Self {
            fault: index,
            member: fault.member,
            since: Instant::now(),
            // Killed and seen dead, so what runs now is already the next one.
            old: old
                .filter(|_| fault.act == Act::Pause)
                .map(|process| (fault.part, process)),
        }
    }
}

/// Asks all members how they are, and notes when the victim is back.
async fn watch(
    group: &Group,
    hurt: &mut Option<Hurt>,
    deeds: &mut Deeds,
) -> anyhow::Result<Vec<MemberStatus>> {
    let members = group.status().await?;
    // One that is to leave need not come back.
    hurt.take_if(|it| !group.numbers().contains(&it.member));
    let Some(victim) = hurt.as_ref() else {
        return Ok(members);
    };
    // A status from before the fault was noticed says nothing.
    let noticed = victim.since.elapsed() > Duration::from_millis(300);
    let stopped = victim.old.is_some_and(|(_, process)| process.is_stopped());
    let runs = [Part::Sidecar, Part::App].map(|part| group.process(victim.member, part).is_some());
    let serves = |member: &MemberStatus| {
        number_of(&member.name) == Some(victim.member) && member.serving && member.ready
    };
    if noticed && !stopped && runs == [true; 2] && members.iter().any(serves) {
        deeds.faults[victim.fault].replay_ms = Some(victim.since.elapsed().as_millis() as u64);
        *hurt = None;
    }
    Ok(members)
}

/// Members without which a quorum still serves.
fn possible_victims(group: &Group, members: &[MemberStatus]) -> Vec<u32> {
    let serving: Vec<u32> = members
        .iter()
        .filter(|member| member.serving && member.ready)
        .filter_map(|member| number_of(&member.name))
        .collect();
    let numbers = group.numbers();
    let quorum = numbers.len() / 2 + 1;
    numbers
        .into_iter()
        .filter(|index| serving.iter().filter(|other| *other != index).count() >= quorum)
        .collect()
}

/// `None`: the member has left just now.
async fn hit(
    group: &Group,
    workload: &Workload,
    random: &mut StdRng,
    member: u32,
    again: bool,
) -> anyhow::Result<Option<Fault>> {
    let part = if random.random_range(0..2) == 0 {
        Part::Sidecar
    } else {
        Part::App
    };
    let act = if random.random_range(0..3) == 0 {
        Act::Pause
    } else {
        Act::Kill
    };
    let leader = group.leader().await == Some(member);
    // Just restarted, it may not have its new process yet.
    let mut found = None;
    eventually(
        Duration::from_secs(10),
        Duration::from_millis(10),
        async || {
            found = group.process(member, part);
            found.is_some()
        },
    )
    .await;
    if found.is_none() && !group.numbers().contains(&member) {
        return Ok(None);
    }
    let process = found.with_context(|| format!("{part:?} {member} does not run"))?;
    let whole = (part, act) == (Part::Sidecar, Act::Kill) && random.random_range(0..3) == 0;
    let at_ns = workload.now_ns();
    let mut pause_ms = 0;
    if whole && let Some(app) = group.process(member, Part::App) {
        app.signal(Signal::KILL)?;
    }
    match act {
        Act::Kill => {
            process.signal(Signal::KILL)?;
            let dead = eventually(
                Duration::from_secs(5),
                Duration::from_millis(1),
                async || !process.lives(),
            );
            ensure!(dead.await, "process {} survived SIGKILL", process.pid());
        }
        Act::Pause => {
            pause_ms = random.random_range(300..2_500);
            process.signal(Signal::STOP)?;
            let stopped = eventually(
                Duration::from_secs(5),
                Duration::from_millis(1),
                async || process.is_stopped() || !process.lives(),
            );
            ensure!(stopped.await, "process {} did not stop", process.pid());
            tokio::spawn(async move {
                sleep(Duration::from_millis(pause_ms)).await;
                let _ = process.signal(Signal::CONT);
            });
        }
    }
    Ok(Some(Fault {
        at_ns,
        member,
        part,
        act,
        whole,
        leader,
        again,
        pause_ms,
        replay_ms: None,
    }))
}
