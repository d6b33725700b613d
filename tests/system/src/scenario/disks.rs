//! Disks of one member that are full, or that change what was written: the others go on, nothing
//! acknowledged is lost, and the member comes back, by itself or by being made anew.

mod rot;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use tokio::time::sleep;

use self::rot::Rot;
use super::Settings;
use super::agreement::{ALL, READS, conclude, finish_since, served_again};
use super::kills::{self, BULK, State};
use crate::client::{Client, request};
use crate::disk::SmallDisk;
use crate::group::{self, Group, MEMBERS, Part};
use crate::process::eventually;
use crate::report::{Distribution, Report};
use crate::workload::{Plan, Workload};

const SECOND: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(50);
/// Of the small file system: what is kept free for the log besides snapshots, and some more.
const DISK_BYTES: u64 = 320 << 20;
/// The segment in reserve is used up by then.
const FULL_WITHIN: Duration = Duration::from_secs(40);
/// The others are back by then if the member led; and it, once there is room.
const BACK_WITHIN: Duration = Duration::from_secs(30);
/// What counts, in operations a second.
const LEAST_RATE: f64 = 40.0;
/// A member that cannot come back by itself is made anew in this time.
const REPLACED_WITHIN: Duration = Duration::from_secs(60);
/// How long a member is away while its disk changes.
const AWAY: Duration = Duration::from_millis(500);
/// A round of rot lasts about so many seconds.
const SECONDS_OF_A_ROUND: u64 = 10;

/// The disk of one member is full, first while it follows and then while it leads, and has room again. Who
/// leads without room refuses writes for all (rule W4), and reads go on.
pub(super) async fn full(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let program = group::binary("synod-failpoints", "SYNOD_FAILPOINTS_BIN")?;
    let options = kills::options(&program, State::Memory)?;
    let mut random = StdRng::seed_from_u64(settings.seed);
    let mut group = Group::start(&options).await?;
    group.interrupt().await?;
    let victim = random.random_range(1..=MEMBERS);
    let disk = SmallDisk::under(&group.member_folder(victim).join("sidecar"), DISK_BYTES)?;
    group.start_again(&options).await?;
    let workload = start(settings, &group, 11);
    let begun = Instant::now();
    let mut rounds = Vec::new();
    let span = SECOND * (settings.fault_seconds / 8).clamp(3, 30) as u32;
    for leads in [false, true] {
        match round(&group, &disk, victim, leads, span, &workload).await {
            Ok(round) => rounds.push(round),
            Err(error) => {
                report.fail(format!("{error:#}"));
                break;
            }
        }
    }
    let recorded = finish_since(begun, LEAST_RATE, workload, report).await?;
    let kinds = [
        ("a follower", "requests", ALL),
        ("the leader", "reads", READS),
    ];
    for (round, (whose, what, kinds)) in rounds.iter().zip(kinds) {
        let others = (1..=MEMBERS).filter(|it| *it != victim);
        let back = served_again(round.full_ns, others, kinds, &recorded.tries);
        let back = back.filter(|it| *it < round.room_ns);
        report.say(format!(
            "the disk of {whose} is full for {:.1} s, the others serve {what} after {:?} ms; with room all \
             serve after {:.1?}",
            (round.room_ns - round.full_ns) as f64 / 1e9,
            back.map(|it| (it - round.full_ns) / 1_000_000),
            round.back
        ));
        report.expect(
            back.is_some(),
            format!("with a full disk of {whose} the others do not serve {what}"),
        );
    }
    conclude(settings, &mut group, "full-disk", recorded, report).await?;
    group.stop().await?;
    Ok(())
}

/// How it went.
struct Round {
    /// On the history's clock.
    full_ns: u64,
    room_ns: u64,
    /// Until the member served again, once there was room.
    back: Duration,
}

async fn round(
    group: &Group,
    disk: &SmallDisk,
    victim: u32,
    leads: bool,
    span: Duration,
    workload: &Workload,
) -> anyhow::Result<Round> {
    let other = victim % MEMBERS + 1;
    have_lead(group, if leads { victim } else { other }).await?;
    disk.fill()?;
    let is_full = async || group.metric(victim, "synod_log_full").await != Some(0.0);
    let through = Client::new(group.address(other));
    let full = eventually(FULL_WITHIN, LOOK, async || {
        // It goes through the log of every member.
        let body = "x".repeat(200 << 10);
        let _ = through.send(request("POST", BULK, body), 2 * SECOND).await;
        is_full().await
    });
    ensure!(
        full.await,
        "the log of member {victim} never says that it is full"
    );
    let full_ns = workload.now_ns();
    sleep(span).await;
    ensure!(
        is_full().await,
        "the log of member {victim} has room though its disk has none: the run is invalid"
    );
    let room_ns = workload.now_ns();
    disk.make_room()?;
    let since = Instant::now();
    let open = eventually(BACK_WITHIN, LOOK, async || !is_full().await);
    ensure!(
        open.await,
        "the log of member {victim} has no room again after {BACK_WITHIN:?}"
    );
    group.whole_again(BACK_WITHIN).await?;
    Ok(Round {
        full_ns,
        room_ns,
        back: since.elapsed(),
    })
}

async fn have_lead(group: &Group, member: u32) -> anyhow::Result<()> {
    let name = format!("registers-{member}");
    let leads = eventually(BACK_WITHIN, LOOK, async || {
        let asked = group.command(&["members", "lead", &name]).await;
        asked.is_ok() && group.leader().await == Some(member)
    });
    ensure!(leads.await, "{name} does not lead");
    Ok(())
}

/// Bits change in what a member has written, while it does not run.
pub(super) async fn flipped(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let program = group::binary("synod-failpoints", "SYNOD_FAILPOINTS_BIN")?;
    let mut random = StdRng::seed_from_u64(settings.seed);
    let states = [State::Memory, State::RolledBack, State::Applied];
    let state = states[random.random_range(0..states.len())];
    let mut group = Group::start(&kills::options(&program, state)?).await?;
    let workload = start(settings, &group, 12);
    kills::wait_until_cut(&group).await?;
    let begun = Instant::now();
    let end = begun + Duration::from_secs(settings.fault_seconds);
    let mut rot = Rot::new(settings.seed);
    let mut rounds = Vec::new();
    let least = (settings.fault_seconds / SECONDS_OF_A_ROUND / 2).max(2);
    while Instant::now() < end || (rounds.len() as u64) < least {
        let victim = random.random_range(1..=MEMBERS);
        match change(&group, victim, &mut rot).await {
            Ok(changed) => rounds.push(changed),
            Err(error) => {
                report.fail(format!("{error:#}"));
                break;
            }
        }
    }
    let recorded = finish_since(begun, LEAST_RATE, workload, report).await?;
    let noticed = rounds.iter().filter(|it| it.noticed).count();
    let anew = rounds.iter().filter(|it| it.anew).count();
    let back = rounds.iter().map(|it| it.back.as_secs_f64() * 1e3);
    report.say(format!(
        "bits changed {} times ({state:?}), noticed at once {noticed} times, {anew} members made anew; all \
         back: {}",
        rounds.len(),
        Distribution::new(back.collect())
    ));
    report.expect(noticed > 0, "no change was noticed: the run is invalid");
    conclude(settings, &mut group, "flipped-bits", recorded, report).await?;
    group.stop().await?;
    Ok(())
}

/// What has become of a member whose bits changed.
struct Changed {
    /// It was told, or repaired.
    noticed: bool,
    /// It was made anew.
    anew: bool,
    back: Duration,
}

async fn change(group: &Group, victim: u32, rot: &mut Rot) -> anyhow::Result<Changed> {
    let log = group.member_folder(victim).join("sidecar.log");
    let told_before = std::fs::read(&log)?.len();
    let files = spoil(group, victim, rot).await?;
    let since = Instant::now();
    let anew = group.whole_again(BACK_WITHIN).await.is_err();
    let told = std::fs::read(&log)?.split_off(told_before);
    let told = String::from_utf8_lossy(&told);
    if anew {
        ensure!(
            told.contains("ERROR"),
            "member {victim} stays out without saying why, after changes in {files:?}"
        );
        replace(group, victim).await?;
        group.whole_again(BACK_WITHIN).await?;
    }
    let back = since.elapsed();
    let repairs = group.metric(victim, "synod_paxos_repairs_total").await;
    let is_told = told.contains("damaged") || told.contains("lost records");
    let how = if anew { "made anew" } else { "back" };
    println!("    member {victim}, {files:?}: {how} after {back:.1?}");
    Ok(Changed {
        noticed: anew || is_told || repairs > Some(0.0),
        anew,
        back,
    })
}

/// Changes bits of a member that is held down meanwhile; which files that were.
async fn spoil(group: &Group, victim: u32, rot: &mut Rot) -> anyhow::Result<Vec<String>> {
    let folder = group.member_folder(victim);
    let (config, away) = (folder.join("sidecar.yaml"), folder.join("sidecar.away"));
    // Whatever starts now ends before it touches anything.
    std::fs::rename(&config, &away)?;
    // As a machine that went down: what the app has comes from the disk too.
    for part in [Part::Sidecar, Part::App] {
        let process = group.process(victim, part);
        let process = process.with_context(|| format!("{part:?} {victim} does not run"))?;
        process.signal(Signal::KILL)?;
        let dead = eventually(5 * SECOND, LOOK, async || !process.lives());
        ensure!(dead.await, "{part:?} {victim} survived SIGKILL");
    }
    sleep(AWAY).await;
    let changed = rot.spoil(&folder.join("sidecar"))?;
    std::fs::rename(&away, &config)?;
    Ok(changed)
}

async fn replace(group: &Group, victim: u32) -> anyhow::Result<()> {
    let (name, patience) = (
        format!("registers-{victim}"),
        format!("{}s", REPLACED_WITHIN.as_secs()),
    );
    let arguments = ["members", "replace", &name, "--timeout", &patience];
    let output = group.command(&arguments).await?;
    ensure!(
        output.status.success(),
        "{name} cannot be made anew: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn start(settings: &Settings, group: &Group, salt: u64) -> Workload {
    let plan = Plan {
        rate: 100,
        keys: 300,
        seed: settings.seed.wrapping_mul(31).wrapping_add(salt),
        may_lose_responses: true,
        ..Plan::default()
    };
    Workload::start(&group.addresses(), plan)
}
