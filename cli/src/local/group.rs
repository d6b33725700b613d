//! A whole group on this machine, from its folder to its end. Comes in: checked settings. Runs until
//! a signal; starts what is missing, tells what happens, and leaves nothing behind.

use std::path::Path;
use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use synod_sidecar::admin::status::Status;
use synod_sidecar::config::peers::{PeerAddress, PeerTable};
use synod_sidecar::identity::Who;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep};

use super::certificates::Certificates;
use super::folder::{Folder, Group};
use super::formation;
use super::keeper::{Context, Event, HOPELESS, Keeper, Part, What};
use super::member::{Member, names, plan};
use super::ports::somebody_listens;
use super::screen::Screen;
use super::settings::{Settings, pairs};
use super::table::{self, Line};
use super::{relay, words};
use crate::exit::Failure;
use crate::guard::Guard;
use crate::http::call;

const STATUS_PERIOD: Duration = Duration::from_millis(250);
const STATUS_LIMIT: Duration = Duration::from_secs(1);
const RENEWAL_PERIOD: Duration = Duration::from_secs(3600);
/// Without a quorum for this long after the apps should listen, the reasons are told.
const SLOW_START: Duration = Duration::from_secs(10);

/// How far the group is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The members have not all said who they are.
    Forming,
    /// There is no quorum yet.
    Starting,
    Running,
}

struct Running {
    settings: Settings,
    folder: Folder,
    certificates: Certificates,
    members: Vec<Member>,
    statuses: Vec<Option<Status>>,
    /// Who has answered before.
    known: Vec<bool>,
    /// What was told about each member's state, so that changes are told once.
    told: Vec<String>,
    told_leader: Option<String>,
    /// Whose app runs and does not listen.
    silent: Vec<bool>,
    phase: Phase,
    since: Instant,
    /// A higher protocol was asked for.
    raised: bool,
    slow_told: bool,
    screen: Screen,
}

/// The signals that end the group.
struct Stop(Vec<Signal>);

/// Runs a group until a signal ends it.
pub(super) async fn run(settings: Settings) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let folder = Folder::open(
        settings.data.as_deref(),
        Group::new(
            &settings.service,
            settings.members,
            settings.state_given.clone(),
        ),
    )?;
    let formed = formation::is_formed(&folder)?;
    let members = plan(&settings, &folder).await?;
    let certificates = Certificates::new(folder.ca(), names(&settings.service));
    certificates.ensure(&everybody(&members), SystemTime::now())?;
    for member in &members {
        member.write_config(&settings, &folder, &certificates)?;
    }
    write_peers(&members, &settings.rtts).await?;
    let own = Path::new(crate::OWN_PROGRAM);
    let guard = Guard::start(own, folder.is_temporary().then(|| folder.path()))
        .map_err(|error| Failure::failed(format!("cannot start this program again: {error}")))?;
    let (events, mut happened) = mpsc::unbounded_channel();
    let context = Context {
        own: own.to_owned(),
        guard,
        app_timeout: settings.app_timeout,
        events,
    };
    let mut running = Running {
        statuses: vec![None; members.len()],
        known: vec![false; members.len()],
        told: vec!["Starting".to_owned(); members.len()],
        told_leader: None,
        silent: vec![false; members.len()],
        phase: if formed {
            Phase::Starting
        } else {
            Phase::Forming
        },
        since: Instant::now(),
        raised: false,
        slow_told: false,
        screen: Screen::new(),
        settings,
        folder,
        certificates,
        members,
    };
    running
        .screen
        .say(&words::introduction(&running.settings, &running.folder));
    let kept = formation::has_changed(&running.folder, &running.settings.policy);
    if formed && !running.settings.policy_given && kept {
        running.screen.say(words::POLICY_KEPT);
    }
    let keepers: Vec<_> = running
        .members
        .iter()
        .map(|it| {
            Keeper::start(
                it.clone(),
                running.settings.command.as_deref(),
                context.clone(),
            )
        })
        .collect();
    let result = running.keep(&mut happened, &mut stop).await;
    running.finish(keepers, &mut stop).await;
    drop(context);
    running.screen.close();
    let kept = (!running.folder.is_temporary()).then(|| running.folder.path().to_owned());
    let closed = running.folder.close();
    result?;
    closed?;
    running.screen.say(&match kept {
        Some(path) => format!("stopped; everything is in {}", path.display()),
        None => "stopped; the temporary folder is removed".to_owned(),
    });
    Ok(())
}

fn everybody(members: &[Member]) -> Vec<Who> {
    members
        .iter()
        .map(|it| Who::Member(it.name.clone()))
        .chain([Who::Operator])
        .collect()
}

/// Tells every member where the others are; with round-trip times, that is where a relay is.
async fn write_peers(members: &[Member], rtts: &[Duration]) -> Result<(), Failure> {
    let count = u32::try_from(members.len()).expect("a few members");
    for own in members {
        let mut table = PeerTable::default();
        for peer in members {
            let pair = (own.number.min(peer.number), own.number.max(peer.number));
            let at = pairs(count).iter().position(|it| *it == pair);
            let mut address = peer.listen.peer;
            if let Some(rtt) = at.and_then(|it| rtts.get(it)) {
                address = relay::start(address, *rtt)
                    .await
                    .map_err(|error| Failure::failed(format!("cannot start a relay: {error}")))?;
            }
            table.members.push(PeerAddress {
                name: peer.name.clone(),
                address: address.to_string(),
            });
        }
        table.write(&own.folder.peers()).map_err(Failure::failed)?;
    }
    Ok(())
}

// === impl Running ===

impl Running {
    /// Watches over the group until a signal comes, or it turns out that it can never run.
    async fn keep(
        &mut self,
        happened: &mut mpsc::UnboundedReceiver<Event>,
        stop: &mut Stop,
    ) -> Result<(), Failure> {
        let (sender, mut statuses) = mpsc::channel(64);
        for (member, index) in self.members.iter().zip(0..) {
            tokio::spawn(ask(index, member.listen.admin, sender.clone()));
        }
        let mut ticks = interval(STATUS_PERIOD);
        let mut renewals = interval(RENEWAL_PERIOD);
        loop {
            tokio::select! {
                () = stop.recv() => return Ok(()),
                Some(event) = happened.recv() => self.happened(event)?,
                Some((index, status)) = statuses.recv() => {
                    self.known[index] |= status.is_some();
                    self.statuses[index] = status;
                }
                _ = ticks.tick() => {
                    tokio::select! {
                        result = self.advance() => result?,
                        () = stop.recv() => return Ok(()),
                    }
                    self.show();
                }
                _ = renewals.tick() => {
                    if let Err(error) = self.certificates.ensure(&everybody(&self.members), SystemTime::now()) {
                        self.screen.say(&format!("certificates cannot be renewed: {error:#}"));
                    }
                }
            }
        }
    }

    /// Goes on to the next phase when its time has come.
    async fn advance(&mut self) -> Result<(), Failure> {
        if self.phase == Phase::Forming
            && formation::form(&self.folder, &self.statuses, &self.settings.policy)?
        {
            self.phase = Phase::Starting;
        }
        let serving = |it: &Status| it.ready && it.serving && it.leader.is_some();
        let up: Vec<usize> = (0..self.members.len())
            .filter(|it| self.statuses[*it].as_ref().is_some_and(serving))
            .collect();
        if self.phase == Phase::Starting && up.len() > self.members.len() / 2 {
            self.phase = Phase::Running;
            self.take_over_policy(up[0]).await;
            self.screen
                .say(&words::invitation(&self.settings, &self.members));
        }
        if self.phase == Phase::Running {
            self.raise_protocol().await;
        }
        let slow = self.settings.app_timeout + SLOW_START;
        if self.phase != Phase::Running && !self.slow_told && self.since.elapsed() > slow {
            self.slow_told = true;
            let table = table::render(&self.lines(), false);
            self.screen.say(&format!(
                "there is no quorum yet; it goes on trying. The members say:\n{table}"
            ));
        }
        Ok(())
    }

    /// A folder of an earlier version: the group goes on by what all members of this one speak.
    async fn raise_protocol(&mut self) {
        let all: Option<Vec<&Status>> = self.statuses.iter().map(Option::as_ref).collect();
        let all = all.unwrap_or_default();
        let speak = all.iter().map(|it| it.protocol[1]).min().unwrap_or(0);
        let in_force = all.iter().map(|it| it.protocol_in_force).max();
        let leader = all.iter().find_map(|it| it.leader.as_ref());
        let leader = self.members.iter().find(|it| Some(&it.name) == leader);
        let (Some(in_force @ 1..), Some(leader)) = (in_force, leader) else {
            return;
        };
        if speak <= in_force || self.raised {
            return;
        }
        self.raised = true;
        let service = &self.settings.service;
        let raised = formation::raise_protocol(&self.certificates, service, leader, speak).await;
        let text = match raised {
            Ok(()) => format!(
                "the group speaks protocol {speak} now: earlier versions of synod cannot run it any more"
            ),
            Err(error) => format!(
                "{error:#}; the group goes on with protocol {in_force}, and the next start tries again"
            ),
        };
        self.screen.say(&text);
    }

    async fn take_over_policy(&mut self, through: usize) {
        let policy = &self.settings.policy;
        if !self.settings.policy_given || !formation::has_changed(&self.folder, policy) {
            return;
        }
        let member = &self.members[through];
        let text = match formation::propose(&self.folder, &self.certificates, member, policy).await
        {
            Ok(version) => format!("the changed manifest is in force as policy {version}"),
            Err(error) => format!("{error:#}; the last policy stays in force"),
        };
        self.screen.say(&text);
    }

    fn happened(&mut self, event: Event) -> Result<(), Failure> {
        let member = &self.members[event.member as usize - 1];
        let hopeless = match &event.what {
            What::Ended { quick_deaths, .. } => *quick_deaths >= HOPELESS,
            What::CannotStart(_) => true,
            _ => false,
        };
        let text = words::event(&event, member);
        if hopeless && self.phase != Phase::Running {
            return Err(Failure::failed(text));
        }
        if event.part == Part::App {
            let silent = matches!(event.what, What::NotListening(_));
            self.silent[event.member as usize - 1] = silent;
        }
        let silent = self.silent.iter().zip(&self.members);
        let silent = silent.filter(|(silent, it)| **silent && !somebody_listens(it.app.port()));
        let others = self.members.len() - silent.count();
        if self.phase != Phase::Running && others <= self.members.len() / 2 {
            let text = format!("{text}\n{}", words::HOPELESSLY_SILENT);
            return Err(Failure::failed(text));
        }
        let is_start = matches!(event.what, What::Started { .. });
        if !(is_start && self.screen.is_terminal()) {
            self.screen.say(&text);
        }
        Ok(())
    }

    fn lines(&self) -> Vec<Line> {
        self.members
            .iter()
            .zip(self.statuses.iter().zip(&self.known))
            .map(|(member, (status, known))| Line {
                name: member.name.clone(),
                url: member.url(),
                status: status.clone(),
                known: *known,
            })
            .collect()
    }

    /// The table on a terminal; elsewhere a line for each change.
    fn show(&mut self) {
        let lines = self.lines();
        if self.screen.is_terminal() {
            self.screen
                .show(table::render(&lines, self.screen.colors()));
            return;
        }
        for (line, told) in lines.iter().zip(&mut self.told) {
            if line.state() != told.as_str() {
                line.state().clone_into(told);
                self.screen.say(&format!("{}: {told}", line.name));
            }
        }
        let leader = table::leader(&lines);
        if leader.is_some() && leader != self.told_leader.as_deref() {
            self.told_leader = leader.map(str::to_owned);
            self.screen
                .say(&format!("{} leads", leader.unwrap_or_default()));
        }
    }

    /// Followers first, the leader last: the least work for everybody. A second signal ends it all
    /// at once; nothing acknowledged is lost by that.
    async fn finish(&mut self, keepers: Vec<Keeper>, stop: &mut Stop) {
        let lines = self.lines();
        let leader = table::leader(&lines).map(str::to_owned);
        self.screen.close();
        self.screen.say("stopping ..");
        let mut order: Vec<_> = keepers.into_iter().zip(&self.members).collect();
        order.sort_by_key(|(_, member)| Some(&member.name) == leader.as_ref());
        let all = async {
            for (keeper, _) in order {
                keeper.stop().await;
            }
        };
        tokio::select! {
            () = all => {}
            () = stop.recv() => {}
        }
    }
}

/// Asks one member for its status, again and again.
async fn ask(
    index: usize,
    admin: std::net::SocketAddr,
    statuses: mpsc::Sender<(usize, Option<Status>)>,
) {
    loop {
        let status = status(admin).await;
        if statuses.send((index, status)).await.is_err() {
            return;
        }
        sleep(STATUS_PERIOD).await;
    }
}

/// What a member says of itself; `None` when it does not answer.
pub(crate) async fn status(admin: std::net::SocketAddr) -> Option<Status> {
    match call(admin, Method::GET, "/status", STATUS_LIMIT).await {
        Ok((StatusCode::OK, body)) => serde_json::from_slice(&body).ok(),
        _ => None,
    }
}

// === impl Stop ===

impl Stop {
    fn new() -> Result<Self, Failure> {
        let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
        // Under `nohup` the end of the terminal is not to end the group.
        if !is_ignored(SignalKind::hangup()) {
            kinds.push(SignalKind::hangup());
        }
        let signals = kinds
            .into_iter()
            .map(signal)
            .collect::<Result<_, _>>()
            .map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")))?;
        Ok(Self(signals))
    }

    async fn recv(&mut self) {
        std::future::poll_fn(|context| {
            let mut ready = self.0.iter_mut().map(|it| it.poll_recv(context).is_ready());
            if ready.any(|it| it) {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
    }
}

/// Whether this process was started to ignore a signal.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|it| it.strip_prefix("SigIgn:"));
    mask.and_then(|it| u64::from_str_radix(it.trim(), 16).ok())
        .is_some_and(|it| it & (1 << (kind.as_raw_value() - 1)) != 0)
}
