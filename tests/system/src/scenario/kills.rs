//! Members die by SIGKILL at each named step of what they do (`synod-failpoint`): whatever is half done
//! then, nothing acknowledged is lost or done twice, all copies are equal, and nobody stays out.
//!
//! A run arms one point in one member of a living group that serves clients, has it happen, and waits until
//! that member is back. A group lives for some runs; then all is held against what clients saw.

mod provoke;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fmt::{self, Display, Formatter};
use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rustix::process::Signal;
use synod_failpoint::Point;
use tokio::process::Command;
use tokio::time::sleep;

use self::provoke::{Provocation, Way, Who};
use super::Settings;
use super::agreement::{conclude, keep};
use super::poison;
use super::states::BY_HTTP;
use crate::app::Fate;
use crate::client::{Client, request};
use crate::group::{self, Group, MEMBERS, Options, Part};
use crate::process::{Process, eventually};
use crate::report::{Distribution, Report};
use crate::workload::{Plan, Workload};

const SECOND: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(20);
/// Runs that a group lives for.
const RUNS_OF_A_GROUP: usize = 20;
/// A point that is not reached by then is not reached at all.
const REACHED_WITHIN: Duration = Duration::from_secs(25);
/// So often a point is tried that is not reached: when its time comes depends on the others.
const TRIES: u32 = 3;
/// A member that is not back by then stays out for ever.
const BACK_WITHIN: Duration = Duration::from_secs(30);
/// Until then a sidecar may say that it serves though its app is gone.
const NOTICED_WITHIN: Duration = Duration::from_millis(300);
/// A request that fails everywhere has been skipped by then, whoever died meanwhile.
const SKIPPED_WITHIN: Duration = Duration::from_secs(60);
/// The same for a member that begins anew.
const REPLACED_WITHIN: Duration = Duration::from_secs(60);
/// Of one segment of a log: it is full soon.
const SEGMENT_BYTES: &str = "1048576";
/// Nothing of the workload's: whatever becomes of it, no register changes.
const POISON: &str = "/poison";
/// The same, with an answer that depends on nothing an app that starts anew could have forgotten.
const BULK: &str = "/which";

/// Where the apps of a group keep their state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// In memory.
    Memory,
    /// In a folder that is put back to the last snapshot.
    RolledBack,
    /// In a folder, with the slot of what was written last.
    Applied,
}

/// What happens once.
#[derive(Debug)]
struct Run {
    point: Point,
    way: Way,
    hits: u64,
    /// The app dies, not its sidecar.
    app: bool,
    /// Who dies.
    victim: u32,
    /// Who is to lead, or begins anew.
    subject: u32,
    /// What dies as soon as that has happened.
    besides: Option<(u32, Part)>,
}

/// How runs at one point went.
#[derive(Debug, Default)]
struct Tally {
    reached: u32,
    missed: u32,
    back_ms: Vec<f64>,
}

/// The members at which a run is done.
struct Stage<'a> {
    group: &'a Group,
    random: &'a mut StdRng,
    /// Counts requests that are to fail.
    poisons: &'a mut u64,
}

pub(super) async fn at_every_step(settings: &Settings, report: &mut Report) -> anyhow::Result<()> {
    let program = group::binary("synod-failpoints", "SYNOD_FAILPOINTS_BIN")?;
    expect_same_points(&program).await?;
    let mut random = StdRng::seed_from_u64(settings.seed);
    let end = Instant::now() + Duration::from_secs(settings.kill_seconds);
    let points: Vec<Point> = Point::ALL
        .iter()
        .copied()
        .filter(|it| {
            settings.kill_points.is_empty()
                || settings
                    .kill_points
                    .iter()
                    .any(|name| it.name().contains(name))
        })
        .collect();
    ensure!(
        !points.is_empty(),
        "no step is named like {:?}",
        settings.kill_points
    );
    let mut tallies: BTreeMap<Point, Tally> = BTreeMap::new();
    let (mut runs, mut groups, mut poisons) = (0, 0, 0);
    let states = [State::Memory, State::RolledBack, State::Applied];
    while Instant::now() < end && report.problems().is_empty() {
        let left = settings.kill_runs.saturating_sub(runs) as usize;
        let mut of_state = if left > 0 {
            points.clone()
        } else {
            missed(&tallies, 1..TRIES)
        };
        if of_state.is_empty() {
            break;
        }
        let state = states[groups % states.len()];
        groups += 1;
        of_state.retain(|it| Way::to(*it).states.contains(&state));
        if of_state.is_empty() {
            continue;
        }
        of_state.shuffle(&mut random);
        of_state.sort_by_key(|it| tallies.get(it).map_or(0, |it| it.reached));
        of_state.truncate(RUNS_OF_A_GROUP.min(if left > 0 { left } else { usize::MAX }));
        of_state.shuffle(&mut random);
        let mut group = start(&program, state).await?;
        let plan = Plan {
            rate: 60,
            keys: 300,
            read_percent: 40,
            seed: settings.seed.wrapping_mul(977).wrapping_add(groups as u64),
            // All three may have been killed between the first try and the next.
            may_lose_responses: true,
            ..Plan::default()
        };
        let workload = Workload::start(&group.addresses(), plan);
        wait_until_cut(&group).await?;
        let since = Instant::now();
        for point in of_state {
            if Instant::now() >= end {
                break;
            }
            runs += 1;
            let mut stage = Stage {
                group: &group,
                random: &mut random,
                poisons: &mut poisons,
            };
            let run = stage.draw(point).await?;
            let tally = tallies.entry(point).or_default();
            match stage.play(&run).await {
                Ok(Some(back)) => {
                    tally.reached += 1;
                    tally.back_ms.push(back.as_secs_f64() * 1e3);
                    println!("    {runs}: {run}: all back after {back:.1?}");
                }
                Ok(None) => {
                    tally.missed += 1;
                    println!("    {runs}: {run}: not reached");
                }
                Err(error) => {
                    report.fail(format!(
                        "run {runs}, group {groups} ({state:?}), seed {}: {run}: {error:#}",
                        settings.seed
                    ));
                    break;
                }
            }
        }
        let seconds = since.elapsed().as_secs_f64();
        let recorded = workload.finish().await?;
        let completed = recorded.history.completed();
        report.expect(
            completed as f64 > seconds * 10.0,
            format!(
                "group {groups}: {completed} operations in {seconds:.0} s: the runs are invalid"
            ),
        );
        for (answer, times) in &recorded.unexpected {
            report.fail(format!(
                "{times} times an answer that no client should get: {answer}"
            ));
        }
        if !report.problems().is_empty() {
            keep(settings, &group, "kills", &recorded, &[])?;
            keep_data(settings, &group)?;
        }
        let mut of_group = Report::default();
        conclude(settings, &mut group, "kills", recorded, &mut of_group).await?;
        if !of_group.problems().is_empty() {
            keep_data(settings, &group)?;
        }
        for problem in of_group.problems() {
            report.fail(format!(
                "group {groups} ({state:?}), until run {runs}, seed {}: {problem}",
                settings.seed
            ));
        }
        group.stop().await?;
    }
    tell(&points, &tallies, runs, settings, report);
    Ok(())
}

/// What the program can be ended at is what is known here.
async fn expect_same_points(program: &Path) -> anyhow::Result<()> {
    let output = Command::new(program)
        .arg("failpoints")
        .stdin(Stdio::null())
        .output()
        .await?;
    let listed = String::from_utf8(output.stdout)?;
    let listed: BTreeSet<&str> = listed.lines().collect();
    let known: BTreeSet<&str> = Point::ALL.iter().map(|it| it.name()).collect();
    ensure!(
        output.status.success() && listed == known,
        "{} has other failpoints than this harness: {:?}; build it with `--features failpoints`",
        program.display(),
        listed.symmetric_difference(&known)
    );
    Ok(())
}

async fn start(program: &Path, state: State) -> anyhow::Result<Group> {
    let every = "every: {slots: 60}";
    let volume =
        format!("type: Volume, volume: {{mountPath: /data}}, snapshot: {{type: Volume, {every}}}");
    let (state, kept) = match state {
        State::Memory => (format!("{{snapshot: {{{BY_HTTP}, {every}}}}}"), None),
        State::RolledBack => (format!("{{{volume}}}"), Some("{data}")),
        State::Applied => (
            format!(
                "{{{volume}, onUncleanCrash: AppliedHeader, applied: {{method: GET, path: /applied}}}}"
            ),
            Some("{data}"),
        ),
    };
    let spec =
        format!("app: {{applyTimeout: 1s}}\n  ordering: {{maxBodySize: 256Ki}}\n  state: {state}");
    let mut arguments = vec!["--fates", "{data}/../fates", "--lag-ms", "1"];
    if let Some(folder) = kept {
        arguments.extend(["--keep", folder]);
    }
    let mut options = Options::with_spec(&arguments, &spec)?;
    options.program = Some(program.to_owned());
    options.environment = vec![(
        "SYNOD_FAILPOINTS_SEGMENT_BYTES".to_owned(),
        SEGMENT_BYTES.to_owned(),
    )];
    Group::start(&options).await
}

/// All logs begin behind a snapshot: whoever begins anew needs one.
async fn wait_until_cut(group: &Group) -> anyhow::Result<()> {
    let cut = eventually(60 * SECOND, LOOK, async || {
        let members = group.status().await.unwrap_or_default();
        members.len() == MEMBERS as usize && members.iter().all(|it| it.base > 0)
    });
    ensure!(
        cut.await,
        "not all logs are cut: {:#?}",
        group.status().await
    );
    Ok(())
}

/// All that the members have on their disks.
fn keep_data(settings: &Settings, group: &Group) -> anyhow::Result<()> {
    let to = settings.out.join("kills/data");
    if to.exists() {
        fs::remove_dir_all(&to)?;
    }
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .arg(group.data())
        .arg(&to)
        .status()?;
    ensure!(
        copied.success(),
        "what the members have was not kept: {copied}"
    );
    Ok(())
}

/// What was tried so often, and never reached.
fn missed(tallies: &BTreeMap<Point, Tally>, times: Range<u32>) -> Vec<Point> {
    let never = |it: &Tally| it.reached == 0 && times.contains(&it.missed);
    let missed = tallies.iter().filter(|(_, it)| never(it));
    missed.map(|(point, _)| *point).collect()
}

fn tell(
    points: &[Point],
    tallies: &BTreeMap<Point, Tally>,
    runs: u32,
    settings: &Settings,
    report: &mut Report,
) {
    let mut all = Vec::new();
    let mut reached = 0;
    for (point, tally) in tallies {
        all.extend(&tally.back_ms);
        reached += u32::from(tally.reached > 0);
        report.say(format!(
            "{}: {} times, not reached {}, back {}",
            point.name(),
            tally.reached,
            tally.missed,
            Distribution::new(tally.back_ms.clone())
        ));
    }
    let never = missed(tallies, 1..u32::MAX);
    let never: Vec<&str> = never.iter().map(|it| it.name()).collect();
    let back = Distribution::new(all);
    report.say(format!(
        "kills: runs={runs} points={reached}/{} back p50={:.1}s max={:.1}s violations={} seed={}",
        points.len(),
        back.quantile(0.5) / 1e3,
        back.max() / 1e3,
        report.problems().len(),
        settings.seed
    ));
    report.expect(never.is_empty(), format!("never reached: {never:?}"));
    report.expect(reached > 0, "no point was reached: the run is invalid");
}

/// Once the victim was killed; what was.
async fn kill_besides(group: &Group, run: &Run, fired: &Path) -> anyhow::Result<Option<Process>> {
    let Some((member, part)) = run.besides else {
        return Ok(None);
    };
    if !eventually(REACHED_WITHIN, LOOK, async || fired.exists()).await {
        return Ok(None);
    }
    let process = group.process(member, part);
    if let Some(process) = process {
        // It may be down already, by what had the victim come there.
        let _ = process.signal(Signal::KILL);
    }
    Ok(process)
}

// === impl Run ===

impl Display for Run {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let whose = if self.app { "the app" } else { "the sidecar" };
        let (point, hits) = (self.point.name(), self.hits);
        write!(f, "{point} hit {hits}: {whose} of member {}", self.victim)?;
        match self.besides {
            Some((member, part)) => write!(f, ", and then the {part:?} of member {member}"),
            None => Ok(()),
        }
    }
}

// === impl Stage ===

impl Stage<'_> {
    /// Who dies where, this time.
    async fn draw(&mut self, point: Point) -> anyhow::Result<Run> {
        let way = Way::to(point);
        let mut leader = None;
        eventually(BACK_WITHIN, LOOK, async || {
            leader = self.group.leader().await;
            leader.is_some()
        })
        .await;
        let leader = leader.context("nobody leads")?;
        let mut followers: Vec<u32> = (1..=MEMBERS).filter(|it| *it != leader).collect();
        followers.shuffle(self.random);
        let [first, second] = followers[..] else {
            bail!("three members are expected");
        };
        let (victim, subject) = match way.who {
            Who::Anybody => (
                [leader, first, second][self.random.random_range(0..3)],
                first,
            ),
            Who::Leader => (leader, first),
            Who::Follower | Who::Bystander => (second, first),
            Who::Subject => (first, first),
        };
        let app = way.app && self.random.random_range(0..3) == 0;
        let others: Vec<u32> = (1..=MEMBERS).filter(|it| *it != victim).collect();
        let other = others[self.random.random_range(0..others.len())];
        let besides = match self.random.random_range(0..8) {
            0 if !app => Some((victim, Part::App)),
            1 => Some((other, Part::Sidecar)),
            2 => Some((other, Part::App)),
            _ => None,
        };
        Ok(Run {
            point,
            way,
            hits: self.random.random_range(1..=way.hits),
            app,
            victim,
            subject,
            besides,
        })
    }

    /// How long the victim was away; `None`: the point was not reached.
    async fn play(&mut self, run: &Run) -> anyhow::Result<Option<Duration>> {
        let part = if run.app { Part::App } else { Part::Sidecar };
        let old = self.living(run.victim, part).await?;
        let fired = self.file(run.victim, "fired");
        if fired.exists() {
            fs::remove_file(&fired)?;
        }
        self.arm(run).await?;
        let begun = Instant::now();
        let besides = kill_besides(self.group, run, &fired);
        let (provoked, besides) = tokio::join!(self.provoke(run, &fired), besides);
        let left = REACHED_WITHIN.saturating_sub(begun.elapsed());
        let reached = eventually(left, LOOK, async || fired.exists()).await;
        if !reached {
            // It may just be reached.
            let _ = fs::remove_file(self.file(run.victim, "failpoints"));
            sleep(LOOK).await;
        }
        provoked?;
        let mut old = vec![old];
        old.extend(besides?);
        let dead = eventually(5 * SECOND, LOOK, async || {
            !reached || old.iter().all(|it| !it.lives())
        });
        ensure!(dead.await, "it was reached, and one of {old:?} lives");
        if run.app || run.besides.is_some() {
            // A status from before that was noticed says nothing.
            sleep(NOTICED_WITHIN).await;
        }
        let mut last = Vec::new();
        let back = eventually(BACK_WITHIN, LOOK, async || {
            last = self.group.status().await.unwrap_or_default();
            let whole =
                last.len() == MEMBERS as usize && last.iter().all(|it| it.serving && it.ready);
            let runs = (1..=MEMBERS).all(|it| {
                [Part::Sidecar, Part::App]
                    .iter()
                    .all(|part| self.group.process(it, *part).is_some())
            });
            whole && runs
        });
        ensure!(
            back.await,
            "not all are back after {BACK_WITHIN:?}: {last:#?}"
        );
        if !reached {
            return Ok(None);
        }
        let renamed = fs::metadata(&fired)?;
        let renamed = Duration::new(renamed.ctime().cast_unsigned(), renamed.ctime_nsec() as u32);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        Ok(Some(now.saturating_sub(renamed)))
    }

    /// From now on the victim dies when it comes there.
    async fn arm(&self, run: &Run) -> anyhow::Result<()> {
        let app = self.living(run.victim, Part::App).await?;
        let sidecar = self.living(run.victim, Part::Sidecar).await?;
        let whom = if run.app {
            format!("kill({})", app.pid())
        } else {
            "kill".to_owned()
        };
        let mut orders = format!("{}={}*{whom}", run.point.name(), run.hits);
        let first = match run.way.provocation {
            Provocation::StartInFlight => Some((Point::ApplyBeforeSend, sidecar)),
            Provocation::AppEnd => Some((Point::AppBytesSent, app)),
            _ => None,
        };
        if let Some((point, process)) = first {
            let _ = write!(orders, ";{}=2*kill({})", point.name(), process.pid());
        }
        let new = self.file(run.victim, "failpoints-new");
        fs::write(&new, orders)?;
        fs::rename(&new, self.file(run.victim, "failpoints"))?;
        Ok(())
    }

    fn file(&self, member: u32, extension: &str) -> PathBuf {
        let config = self.group.member_folder(member).join("sidecar.yaml");
        config.with_extension(extension)
    }

    async fn living(&self, member: u32, part: Part) -> anyhow::Result<Process> {
        let mut found = None;
        eventually(BACK_WITHIN, LOOK, async || {
            found = self.group.process(member, part);
            found.is_some()
        })
        .await;
        found.with_context(|| format!("{part:?} {member} does not run"))
    }

    /// Has happen what leads there, again and again until it has led there.
    async fn provoke(&mut self, run: &Run, fired: &Path) -> anyhow::Result<()> {
        let begun = Instant::now();
        let name = format!("registers-{}", run.subject);
        while !fired.exists() && begun.elapsed() < REACHED_WITHIN {
            match run.way.provocation {
                Provocation::Traffic | Provocation::StartInFlight => sleep(LOOK).await,
                Provocation::AppEnd => {
                    // A request that only reads ends with no doubt.
                    self.until_next(run.victim, Part::App, fired).await?;
                    if !fired.exists() {
                        self.arm(run).await?;
                    }
                }
                Provocation::FullSegments => self.fill().await,
                Provocation::Start => self.kill(run.victim, Part::Sidecar, fired).await?,
                Provocation::AppStart => self.kill(run.victim, Part::App, fired).await?,
                Provocation::HandOver => {
                    // Whoever leads by now.
                    let other = match self.group.leader().await {
                        Some(leader) if leader == run.subject => run.subject % MEMBERS + 1,
                        _ => run.subject,
                    };
                    let name = format!("registers-{other}");
                    // It may have died of that.
                    self.group.command(&["members", "lead", &name]).await?;
                    eventually(SECOND, LOOK, async || fired.exists()).await;
                }
                Provocation::Replacement => {
                    let patience = format!("{}s", REPLACED_WITHIN.as_secs());
                    let arguments = ["members", "replace", &name, "--timeout", &patience];
                    let asked = Instant::now();
                    let output = self.group.command(&arguments).await?;
                    if !output.status.success() {
                        let error = String::from_utf8_lossy(&output.stderr).into_owned();
                        ensure!(
                            asked.elapsed() < REPLACED_WITHIN,
                            "{name} does not come in: {error}"
                        );
                        // A member that was just killed, or a quorum that is not heard.
                        sleep(SECOND / 4).await;
                    }
                }
                Provocation::Poison => self.poison(run).await?,
            }
        }
        Ok(())
    }

    /// Some of a segment.
    async fn fill(&mut self) {
        let through = self.random.random_range(1..=MEMBERS);
        let client = Client::new(self.group.address(through));
        for _ in 0..2 {
            let body = "x".repeat(200 << 10);
            // Who dies meanwhile does not answer.
            let _ = client.send(request("POST", BULK, body), 2 * SECOND).await;
        }
    }

    /// Ends a process, and waits for the next.
    async fn kill(&self, member: u32, part: Part, fired: &Path) -> anyhow::Result<()> {
        let process = self.living(member, part).await?;
        // It may just have ended by itself.
        let _ = process.signal(Signal::KILL);
        self.until(process, member, part, fired).await;
        Ok(())
    }

    async fn until_next(&self, member: u32, part: Part, fired: &Path) -> anyhow::Result<()> {
        let process = self.living(member, part).await?;
        self.until(process, member, part, fired).await;
        Ok(())
    }

    /// Another process is in this one's place, and all serve; or the point is reached.
    async fn until(&self, process: Process, member: u32, part: Part, fired: &Path) {
        eventually(8 * SECOND, LOOK, async || {
            if fired.exists() {
                return true;
            }
            let next = self.group.process(member, part);
            next.is_some_and(|it| it != process) && {
                let members = self.group.status().await.unwrap_or_default();
                members.len() == MEMBERS as usize && members.iter().all(|it| it.serving)
            }
        })
        .await;
    }

    async fn poison(&mut self, run: &Run) -> anyhow::Result<()> {
        *self.poisons += 1;
        for index in 1..=MEMBERS {
            let fates = self.group.member_folder(index).join("fates");
            fs::write(fates, Fate::Dies.line(POISON))?;
        }
        let through = if run.victim == run.subject {
            run.victim % MEMBERS + 1
        } else {
            run.subject
        };
        let client = Client::new(self.group.address(through));
        let key = format!("poison-{}", self.poisons);
        let answer = poison::send_by(&client, "POST", POISON, &key, SKIPPED_WITHIN).await;
        let answer = answer.context("a request that fails everywhere")?;
        ensure!(
            answer.status == 502 && answer.outcome() == Some("skipped"),
            "a request that fails everywhere: {} {}",
            answer.status,
            answer.text()
        );
        for index in 1..=MEMBERS {
            let fates = self.group.member_folder(index).join("fates");
            fs::remove_file(fates)?;
        }
        Ok(())
    }
}
