//! A whole group on this machine, from its folder to its end. Comes in: checked settings. Runs until
//! a signal; starts what is missing, tells what happens, and leaves nothing behind.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use synod_api::members::{Plan, Step, Until};
use synod_sidecar::admin::status::Status;
use synod_sidecar::identity::Who;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, interval, sleep};

use super::certificates::Certificates;
use super::commands::Commands;
use super::folder::{Folder, Group};
use super::formation;
use super::founding;
use super::keeper::{Context, Event, HOPELESS, Keeper, Part, What};
use super::member::{Member, names, plan};
use super::membership::{self, Look};
use super::peers::Relays;
use super::ports::somebody_listens;
use super::rolling;
use super::screen::Screen;
use super::settings::Settings;
use super::table::{self, Line};
use super::words;
use crate::exit::Failure;
use crate::guard::Guard;
use crate::http::call;

const STATUS_PERIOD: Duration = Duration::from_millis(250);
const STATUS_LIMIT: Duration = Duration::from_secs(1);
/// How often the members are looked at while they are as they should be.
const LOOK_PERIOD: Duration = Duration::from_secs(1);
/// A member that was asked to run another revision has this time to begin with it.
const ALONG_PERIOD: Duration = Duration::from_secs(10);
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
    context: Context,
    /// By number.
    places: BTreeMap<u32, Place>,
    statuses: mpsc::Sender<(u32, Option<Status>)>,
    told_leader: Option<String>,
    phase: Phase,
    since: Instant,
    /// A higher protocol was asked for.
    raised: bool,
    slow_told: bool,
    /// The app was changed since the group began.
    is_revised: bool,
    /// When another member may be asked to run a revision along.
    along_at: Instant,
    relays: Relays,
    /// The look at the members that is under way.
    looking: JoinSet<anyhow::Result<Plan>>,
    /// When the next look is due.
    look_at: Instant,
    /// What was told last about the members.
    told_step: String,
    screen: Screen,
}

/// A member that is kept running.
struct Place {
    member: Member,
    keeper: Keeper,
    status: Option<Status>,
    /// It has answered before.
    known: bool,
    /// What was told about its state, so that changes are told once.
    told: String,
    /// Its app runs and does not listen.
    silent: bool,
    /// Asks for its status until this is dropped.
    _asking: JoinSet<()>,
}

/// The signals that end the group.
struct Stop(Vec<Signal>);

/// Runs a group until a signal ends it.
pub(super) async fn run(mut settings: Settings) -> Result<(), Failure> {
    let mut stop = Stop::new()?;
    let folder = Folder::open(
        settings.data.as_deref(),
        Group::new(
            &settings.service,
            settings.members,
            settings.state_given.clone(),
        )
        .with_witnesses(settings.witnesses),
    )?;
    settings.command = Commands::begin(folder.path(), settings.command.take())?;
    let mut formed = formation::is_formed(&folder)?;
    if let Some(from) = &settings.import {
        if formed {
            return Err(Failure::usage(format!(
                "--import: the group in {} has begun already, with another state: leave it out, or use another folder",
                folder.path().display()
            )));
        }
        println!("importing {} ..", from.display());
        let imported = founding::import(&folder, from, &settings.policy, settings.log_max_bytes)?;
        println!("imported: {} bytes", imported.state_bytes);
        formed = true;
    }
    let mut members = Vec::new();
    let mut taken = BTreeSet::new();
    for number in folder.numbers() {
        let member = plan(&settings, &folder, number, &taken).await?;
        taken.extend(member.ports());
        members.push(member);
    }
    let certificates = Certificates::new(folder.ca(), names(&settings.service));
    let own = Path::new(crate::OWN_PROGRAM);
    let guard = Guard::start(own, folder.is_temporary().then(|| folder.path()))
        .map_err(|error| Failure::failed(format!("cannot start this program again: {error}")))?;
    let (events, mut happened) = mpsc::unbounded_channel();
    let (sender, mut statuses) = mpsc::channel(64);
    let mut running = Running {
        context: Context {
            own: own.to_owned(),
            guard,
            app_timeout: settings.app_timeout,
            events,
        },
        places: BTreeMap::new(),
        statuses: sender,
        told_leader: None,
        phase: if formed {
            Phase::Starting
        } else {
            Phase::Forming
        },
        since: Instant::now(),
        raised: false,
        slow_told: false,
        is_revised: Commands::read(folder.path())?.is_revised(),
        along_at: Instant::now(),
        relays: Relays::new(&settings.rtts, &folder.numbers()),
        looking: JoinSet::new(),
        look_at: Instant::now(),
        told_step: String::new(),
        screen: Screen::new(),
        settings,
        folder,
        certificates,
    };
    running
        .screen
        .say(&words::introduction(&running.settings, &running.folder));
    let kept = formation::has_changed(&running.folder, &running.settings.policy);
    if formed && !running.settings.policy_given && kept {
        running.screen.say(words::POLICY_KEPT);
    }
    running.start(members).await?;
    let result = running.keep(&mut happened, &mut statuses, &mut stop).await;
    running.finish(&mut stop).await;
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

// === impl Running ===

impl Running {
    /// Starts members that have their folders and ports.
    async fn start(&mut self, members: Vec<Member>) -> Result<(), Failure> {
        let new: Vec<u32> = members.iter().map(|it| it.number).collect();
        let old = self.places.values().map(|it| it.member.clone());
        let all: Vec<Member> = old.chain(members.clone()).collect();
        self.certificates
            .ensure(&everybody(&all), SystemTime::now())?;
        for member in &members {
            member.write_config(&self.settings, &self.folder, &self.certificates)?;
        }
        self.relays.write_peers(&all).await?;
        for (member, number) in members.into_iter().zip(new) {
            let command = self.settings.command.as_deref();
            let mut asking = JoinSet::new();
            asking.spawn(ask(number, member.listen.admin, self.statuses.clone()));
            let place = Place {
                keeper: Keeper::start(member.clone(), command, self.context.clone()),
                member,
                status: None,
                known: false,
                told: "Starting".to_owned(),
                silent: false,
                _asking: asking,
            };
            self.places.insert(number, place);
        }
        Ok(())
    }

    /// Watches over the group until a signal comes, or it turns out that it can never run.
    async fn keep(
        &mut self,
        happened: &mut mpsc::UnboundedReceiver<Event>,
        statuses: &mut mpsc::Receiver<(u32, Option<Status>)>,
        stop: &mut Stop,
    ) -> Result<(), Failure> {
        let mut ticks = interval(STATUS_PERIOD);
        let mut renewals = interval(RENEWAL_PERIOD);
        loop {
            tokio::select! {
                () = stop.recv() => return Ok(()),
                Some(event) = happened.recv() => self.happened(event)?,
                Some((number, status)) = statuses.recv() => {
                    if let Some(place) = self.places.get_mut(&number) {
                        place.known |= status.is_some();
                        place.status = status;
                    }
                }
                Some(looked) = self.looking.join_next() => {
                    tokio::select! {
                        () = self.looked(looked) => {}
                        () = stop.recv() => return Ok(()),
                    }
                }
                _ = ticks.tick() => {
                    tokio::select! {
                        result = self.advance() => result?,
                        () = stop.recv() => return Ok(()),
                    }
                    self.show();
                }
                _ = renewals.tick() => {
                    let all: Vec<Member> = self.members().cloned().collect();
                    if let Err(error) = self.certificates.ensure(&everybody(&all), SystemTime::now()) {
                        self.screen.say(&format!("certificates cannot be renewed: {error:#}"));
                    }
                }
            }
        }
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.places.values().map(|it| &it.member)
    }

    /// Goes on to the next phase when its time has come.
    async fn advance(&mut self) -> Result<(), Failure> {
        if self.phase == Phase::Forming
            && formation::form(&self.folder, &self.said(), &self.settings.policy)?
        {
            self.phase = Phase::Starting;
        }
        let is_up = |place: &&Place| {
            let there = |it: &Status| it.ready && it.leader.is_some();
            let status = place.status.as_ref().filter(|it| there(it));
            status.is_some_and(|it| it.serving || place.member.witness)
        };
        let up: Vec<Member> = self
            .places
            .values()
            .filter(is_up)
            .map(|it| it.member.clone())
            .collect();
        let copy = up.iter().find(|it| !it.witness).cloned();
        if let Some(copy) = copy
            && self.phase == Phase::Starting
            && up.len() > self.folder.group().members.len() / 2
        {
            self.phase = Phase::Running;
            self.take_over_policy(&copy).await;
            let members: Vec<&Member> = self.members().collect();
            let text = words::invitation(&self.settings, &members);
            self.screen.say(&text);
        }
        if self.phase == Phase::Running {
            self.raise_protocol().await;
            self.run_along();
        }
        // A group that began with a state has one member at first.
        if self.phase != Phase::Forming {
            self.look_at_members().await?;
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

    /// Who is wanted may have changed, and so may who is there.
    async fn look_at_members(&mut self) -> Result<(), Failure> {
        if self.folder.look_again()? {
            self.look_at = Instant::now();
        }
        let marked = self.places.iter();
        let marked = marked.filter(|(_, it)| it.member.folder.replace_mark().exists());
        for number in marked.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.begin_anew(number).await;
        }
        if !self.looking.is_empty() || Instant::now() < self.look_at {
            return Ok(());
        }
        let lines = self.lines();
        let leader = table::leader(&lines);
        let Some(leader) = self.members().find(|it| Some(it.name.as_str()) == leader) else {
            return Ok(());
        };
        let there = self.places.values().map(|it| {
            let process = it.status.as_ref().and_then(membership::process);
            (it.member.name.clone(), (it.member.folder.clone(), process))
        });
        let mut statuses = self.places.values().filter_map(|it| it.status.as_ref());
        let look = Look {
            held: statuses.any(|it| it.undecided.is_some()),
            certificates: self.certificates.clone(),
            names: names(&self.settings.service),
            group: self.folder.group().clone(),
            leader: (leader.name.clone(), leader.listen.peer),
            there: there.collect(),
        };
        self.looking.spawn(look.step());
        Ok(())
    }

    /// Does what a look at the members has shown to be necessary.
    async fn looked(&mut self, looked: Result<anyhow::Result<Plan>, JoinError>) {
        self.look_at = Instant::now() + STATUS_PERIOD;
        let plan = match looked {
            Ok(Ok(plan)) => plan,
            Ok(Err(error)) => return self.tell_step(format!("members: {error:#}")),
            Err(error) => return self.tell_step(format!("members: {error}")),
        };
        let number = |it: &String| self.folder.group().number(it);
        let start: Vec<u32> = plan.start.iter().filter_map(number).collect();
        let gone: Vec<u32> = plan.take_away.iter().filter_map(number).collect();
        let empty: Vec<u32> = plan.empty.iter().filter_map(number).collect();
        match &plan.step {
            Step::Nothing if start.is_empty() && gone.is_empty() && empty.is_empty() => {
                self.look_at = Instant::now() + LOOK_PERIOD;
                self.told_step.clear();
            }
            Step::Nothing
            | Step::Wait {
                until: Until::Settled,
                ..
            } => {}
            step => self.tell_step(step.to_string()),
        }
        for number in start {
            self.add(number).await;
        }
        for number in gone {
            self.take_away(number).await;
        }
        for number in empty {
            self.begin_anew(number).await;
        }
    }

    fn tell_step(&mut self, text: String) {
        if self.told_step != text {
            self.screen.say(&text);
            self.told_step = text;
        }
    }

    /// Starts a member that is new.
    async fn add(&mut self, number: u32) {
        let taken = self.members().flat_map(Member::ports).collect();
        let started = match plan(&self.settings, &self.folder, number, &taken).await {
            Ok(member) => self.start(vec![member]).await,
            Err(error) => Err(error),
        };
        if let Err(error) = started {
            self.tell_step(format!("members: {error}"));
        }
    }

    /// Ends a member that nobody needs any more; what it has goes with it.
    async fn take_away(&mut self, number: u32) {
        let Some(place) = self.places.remove(&number) else {
            return;
        };
        place.keeper.stop().await;
        let name = &place.member.name;
        let text = match place.member.folder.remove() {
            Ok(()) => format!("{name} has left, and its folder is removed"),
            Err(error) => format!("{name} has left, and its folder cannot be removed: {error}"),
        };
        self.screen.say(&text);
    }

    /// Starts a member with nothing: the group takes it in as a new one.
    async fn begin_anew(&mut self, number: u32) {
        let Some(place) = self.places.remove(&number) else {
            return;
        };
        place.keeper.stop().await;
        let name = &place.member.name;
        match place.member.folder.empty() {
            Ok(()) => {
                self.screen
                    .say(&format!("{name} begins anew, with nothing"));
                self.add(number).await;
            }
            Err(error) => self.tell_step(format!("{name}: its folder cannot be emptied: {error}")),
        }
    }

    /// What the members say, by number.
    fn said(&self) -> Vec<Option<&Status>> {
        self.places.values().map(|it| it.status.as_ref()).collect()
    }

    /// A folder of an earlier version: the group goes on by what all members of this one speak.
    async fn raise_protocol(&mut self) {
        let all: Option<Vec<&Status>> = self.said().into_iter().collect();
        let all = all.unwrap_or_default();
        let speak = all.iter().map(|it| it.protocol[1]).min().unwrap_or(0);
        let in_force = all.iter().map(|it| it.protocol_in_force).max();
        let leader = all.iter().find_map(|it| it.leader.as_ref());
        let leader = self.members().find(|it| Some(&it.name) == leader).cloned();
        let (Some(in_force @ 1..), Some(leader)) = (in_force, leader) else {
            return;
        };
        if speak <= in_force || self.raised {
            return;
        }
        self.raised = true;
        let service = &self.settings.service;
        let raised = formation::raise_protocol(&self.certificates, service, &leader, speak).await;
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

    /// One member after another runs a revision along that is to take over.
    fn run_along(&mut self) {
        if Instant::now() < self.along_at {
            return;
        }
        let places = self.places.iter();
        let members = places.map(|(number, place)| {
            let name = place.member.name.as_str();
            (*number, name, place.status.as_ref())
        });
        let Some((number, revision)) = rolling::next(members) else {
            return;
        };
        self.is_revised = true;
        self.along_at = Instant::now() + ALONG_PERIOD;
        self.places[&number].keeper.run_along(revision);
    }

    async fn take_over_policy(&mut self, member: &Member) {
        let policy = &self.settings.policy;
        if !self.settings.policy_given || !formation::has_changed(&self.folder, policy) {
            return;
        }
        let text = match formation::propose(&self.folder, &self.certificates, member, policy).await
        {
            Ok(version) => format!("the changed manifest is in force as policy {version}"),
            Err(error) => format!("{error:#}; the last policy stays in force"),
        };
        self.screen.say(&text);
    }

    fn happened(&mut self, event: Event) -> Result<(), Failure> {
        let Some(place) = self.places.get_mut(&event.member) else {
            // It was taken away meanwhile.
            return Ok(());
        };
        // A later revision of the app can be taken back, as long as the members run.
        let may_be_changed = event.part == Part::App && self.is_revised;
        let hopeless = match &event.what {
            _ if may_be_changed => false,
            What::Ended { quick_deaths, .. } => *quick_deaths >= HOPELESS,
            What::CannotStart(_) => true,
            _ => false,
        };
        let text = words::event(&event, &place.member);
        if hopeless && self.phase != Phase::Running {
            return Err(Failure::failed(text));
        }
        if event.part == Part::App {
            place.silent = matches!(event.what, What::NotListening(_));
        }
        let is_silent = |it: &&Place| it.silent && !somebody_listens(it.member.app.port());
        let silent = self.places.values().filter(is_silent).count();
        let count = self.places.len();
        let copies = self.members().filter(|it| !it.witness).count();
        let is_hopeless = count - silent <= count / 2 || silent == copies;
        if self.phase != Phase::Running && !self.is_revised && is_hopeless {
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
        let places = self.places.values();
        let line = |place: &Place| Line {
            name: place.member.name.clone(),
            url: place.member.url(),
            status: place.status.clone(),
            known: place.known,
        };
        places.map(line).collect()
    }

    /// The table on a terminal; elsewhere a line for each change.
    fn show(&mut self) {
        let lines = self.lines();
        if self.screen.is_terminal() {
            self.screen
                .show(table::render(&lines, self.screen.colors()));
            return;
        }
        for (line, place) in lines.iter().zip(self.places.values_mut()) {
            if line.state() != place.told {
                line.state().clone_into(&mut place.told);
                self.screen.say(&format!("{}: {}", line.name, place.told));
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
    async fn finish(&mut self, stop: &mut Stop) {
        let lines = self.lines();
        let leader = table::leader(&lines).map(str::to_owned);
        self.screen.close();
        self.screen.say("stopping ..");
        let mut order: Vec<Place> = std::mem::take(&mut self.places).into_values().collect();
        order.sort_by_key(|it| Some(&it.member.name) == leader.as_ref());
        let all = async {
            for place in order {
                place.keeper.stop().await;
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
    number: u32,
    admin: std::net::SocketAddr,
    statuses: mpsc::Sender<(u32, Option<Status>)>,
) {
    loop {
        let status = status(admin).await;
        if statuses.send((number, status)).await.is_err() {
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

fn everybody(members: &[Member]) -> Vec<Who> {
    members
        .iter()
        .map(|it| Who::Member(it.name.clone()))
        .chain([Who::Operator])
        .collect()
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
