//! One run: who comes to which point, what happens there, and that all are back after it.

use std::fmt::{self, Display, Formatter, Write as _};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rustix::process::Signal;
use synod_failpoint::Point;
use tokio::time::sleep;

use super::super::poison;
use super::provoke::{Provocation, Way, Who};
use super::{BULK, Deed, LOOK, SECOND};
use crate::app::Fate;
use crate::client::{Client, request};
use crate::group::{Group, MEMBERS, Part};
use crate::process::{Process, eventually};

/// A point that is not reached by then is not reached at all.
const REACHED_WITHIN: Duration = Duration::from_secs(25);
/// A member that is not back by then stays out for ever.
const BACK_WITHIN: Duration = Duration::from_secs(30);
/// Until then a sidecar may say that it serves though its app is gone.
const NOTICED_WITHIN: Duration = Duration::from_millis(300);
/// A member that can write nothing more has ended by then.
const ENDED_WITHIN: Duration = Duration::from_secs(5);
/// A request that fails everywhere has been skipped by then, whoever died meanwhile.
const SKIPPED_WITHIN: Duration = Duration::from_secs(60);
/// The same for a member that begins anew.
const REPLACED_WITHIN: Duration = Duration::from_secs(60);
/// A step takes so many milliseconds longer: a slow disk, or a machine that stands still.
const DELAYS: [std::ops::Range<u64>; 2] = [20..300, 300..3_000];
/// Nothing of the workload's: whatever becomes of it, no register changes.
const POISON: &str = "/poison";

/// What happens at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// The process gets SIGKILL.
    Kill,
    /// The step takes so much longer.
    Delay(Duration),
    /// It fails.
    Fail,
}

/// What happens once.
#[derive(Debug)]
pub(super) struct Run {
    point: Point,
    way: Way,
    hits: u64,
    pub(super) act: Act,
    /// The app dies, not its sidecar.
    app: bool,
    /// Who comes to the point.
    victim: u32,
    /// Who is to lead, or begins anew.
    subject: u32,
    /// What dies as soon as that has happened.
    besides: Option<(u32, Part)>,
}

/// The members at which a run is done.
pub(super) struct Stage<'a> {
    pub(super) group: &'a Group,
    pub(super) deed: Deed,
    pub(super) random: &'a mut StdRng,
    /// Counts requests that are to fail.
    pub(super) poisons: &'a mut u64,
}

/// Once the point is reached; what was killed.
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
        match self.act {
            Act::Kill => {}
            Act::Delay(time) => write!(f, " takes {time:.1?} longer")?,
            Act::Fail => f.write_str(" fails")?,
        }
        match self.besides {
            Some((member, part)) => write!(f, ", and then the {part:?} of member {member}"),
            None => Ok(()),
        }
    }
}

impl Run {
    /// The member does not know any more what of its log or ledger is on the disk (rule W3).
    pub(super) fn ends_itself(&self) -> bool {
        self.act == Act::Fail
            && matches!(
                self.point,
                Point::WalBeforeWrite
                    | Point::WalRecordsWritten
                    | Point::WalBeforeSync
                    | Point::WalBeforeState
                    | Point::WalStateHalf
                    | Point::WalSegmentPaged
                    | Point::WalSegmentRenamed
                    | Point::WalBeginningHalf
                    | Point::WalFileWritten
                    | Point::WalSegmentRemoved
                    | Point::RecoveryRead
                    | Point::ApplyBeforeLedger
            )
    }
}

// === impl Stage ===

impl Stage<'_> {
    /// What happens to whom where, this time; `new`: nothing has happened there yet.
    pub(super) async fn draw(&mut self, point: Point, new: bool) -> anyhow::Result<Run> {
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
        let act = self.act(point, new);
        let app = way.app && act == Act::Kill && self.random.random_range(0..3) == 0;
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
            act,
            app,
            victim,
            subject,
            besides,
        })
    }

    /// What can fail does so at first, and later takes long now and then.
    fn act(&mut self, point: Point, new: bool) -> Act {
        if self.deed == Deed::Kill {
            return Act::Kill;
        }
        if point.can_fail() && (new || self.random.random_range(0..3) > 0) {
            return Act::Fail;
        }
        let range = DELAYS[self.random.random_range(0..DELAYS.len())].clone();
        Act::Delay(Duration::from_millis(self.random.random_range(range)))
    }

    /// How long it took until all were back; `None`: the point was not reached.
    pub(super) async fn play(&mut self, run: &Run) -> anyhow::Result<Option<Duration>> {
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
        let mut dying: Vec<Process> = besides?.into_iter().collect();
        if run.act == Act::Kill || run.ends_itself() {
            dying.push(old);
        }
        let dead = eventually(ENDED_WITHIN, LOOK, async || {
            !reached || dying.iter().all(|it| !it.lives())
        });
        ensure!(dead.await, "it was reached, and one of {dying:?} lives");
        if let (true, Act::Delay(time)) = (reached, run.act) {
            sleep(time).await;
        }
        if run.app || run.besides.is_some() || run.act != Act::Kill {
            // A status from before that was noticed says nothing.
            sleep(NOTICED_WITHIN).await;
        }
        self.group.whole_again(BACK_WITHIN).await?;
        if !reached {
            return Ok(None);
        }
        let renamed = fs::metadata(&fired)?;
        let renamed = Duration::new(renamed.ctime().cast_unsigned(), renamed.ctime_nsec() as u32);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        Ok(Some(now.saturating_sub(renamed)))
    }

    /// From now on it happens when the victim comes there.
    async fn arm(&self, run: &Run) -> anyhow::Result<()> {
        let app = self.living(run.victim, Part::App).await?;
        let sidecar = self.living(run.victim, Part::Sidecar).await?;
        let action = match run.act {
            Act::Kill if run.app => format!("kill({})", app.pid()),
            Act::Kill => "kill".to_owned(),
            Act::Delay(time) => format!("delay({})", time.as_millis()),
            Act::Fail => "fail".to_owned(),
        };
        let mut orders = format!("{}={}*{action}", run.point.name(), run.hits);
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
