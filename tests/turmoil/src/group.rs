//! Three members, each on a host of its own with its app beside it, and the clients' host.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use synod_paxos::MemberId;
use synod_proto::v1::route_match::Path;
use synod_proto::v1::{Consistency, IdempotencyPolicy, Policy, Route, RouteMatch};
use synod_sidecar::app::Client;
use synod_sidecar::apply::ApplyHandle;
use synod_sidecar::apply::handle::spool_dir;
use synod_sidecar::config::genesis::{GenesisFile, GenesisMember, GenesisRole};
use synod_sidecar::config::peers::{PeerAddress, PeerTable};
use synod_sidecar::config::{self, Config, Protocol, Revision, state};
use synod_sidecar::node::NodeHandle;
use synod_sidecar::run::Member;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::app::{self, Copy};
use crate::authority::{self, Authority};
use crate::client;
use crate::log::Log;
use crate::relay::{self, Line};

pub(crate) const HTTP: u16 = 7480;
pub(crate) const PEER: u16 = 7443;
pub(crate) const ADMIN: u16 = 7420;
pub(crate) const APP: u16 = 8080;

/// Of all waiting for what must come, in the simulation's time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// As long as certificates last that are not to expire.
pub(crate) const LONG: Duration = Duration::from_secs(86_400);
/// A real wait for each step of the simulation: logs are written by threads, which know nothing of its
/// time, and are to have some.
const PACE: Duration = Duration::from_micros(50);

/// What is special about a group.
#[derive(Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) seed: u64,
    /// Members reach each other by lines of the relay.
    pub(crate) relayed: bool,
    /// How long the members' first certificates last.
    pub(crate) all_last: Duration,
    /// That of the third.
    pub(crate) third_lasts: Duration,
}

impl Setting {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            relayed: false,
            all_last: LONG,
            third_lasts: LONG,
        }
    }

    /// With a relay on each connection.
    pub(crate) fn relayed(seed: u64) -> Self {
        Self {
            relayed: true,
            ..Self::new(seed)
        }
    }
}

/// The group; cheap to clone.
#[derive(Clone)]
pub(crate) struct Group {
    inner: Rc<Inner>,
}

struct Inner {
    folder: TempDir,
    authority: Authority,
    places: Vec<Rc<Place>>,
    /// From each member to each other, and from clients to each member.
    lines: Vec<Rc<Line>>,
    log: Log,
    /// What is to become of packets between two members, from the next step on.
    latencies: RefCell<Vec<(usize, usize, Duration)>>,
}

/// A member's host.
pub(crate) struct Place {
    pub(crate) copy: Rc<Copy>,
    running: RefCell<Option<Running>>,
}

/// What runs there.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) node: NodeHandle,
    pub(crate) apply: ApplyHandle,
}

/// Runs `scenario` beside a group that has a leader and whose copies serve. Returns what it says.
pub(crate) fn run<F: Future<Output = String> + 'static>(
    setting: Setting,
    scenario: impl FnOnce(Group) -> F + 'static,
) -> turmoil::Result<String> {
    let group = Group::new(setting);
    let _listens = group.inner.log.listen();
    let mut network = turmoil::Builder::new()
        .rng_seed(setting.seed)
        .simulation_duration(Duration::from_secs(600))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(4))
        .build();
    for number in 1..=3 {
        let group = group.clone();
        network.host(name(number), move || group.clone().host(number));
    }
    let lines = group.clone();
    network.host(relay::HOST, move || {
        let lines = lines.inner.lines.clone();
        async move {
            let serving = lines.into_iter().map(Line::serve);
            futures::future::join_all(serving).await;
            Ok(())
        }
    });
    let watched = group.clone();
    let said = Rc::new(RefCell::new(String::new()));
    let says = said.clone();
    network.client("clients", async move {
        group.form().await;
        *says.borrow_mut() = scenario(group).await;
        Ok(())
    });
    while !network.step()? {
        for (one, two, latency) in watched.inner.latencies.take() {
            network.set_link_latency(name(one), name(two), latency);
        }
        std::thread::sleep(PACE);
    }
    Ok(said.take())
}

/// A member's name, which is that of its host, too.
pub(crate) fn name(number: usize) -> String {
    format!("notes-{number}")
}

/// Where clients find a member.
pub(crate) fn entrance(number: usize) -> String {
    format!("{}:{HTTP}", name(number))
}

/// Where they find each.
pub(crate) fn entrances() -> Vec<String> {
    (1..=3).map(entrance).collect()
}

// === impl Group ===

impl Group {
    fn new(setting: Setting) -> Self {
        let between = pairs().map(|(from, to)| {
            let port = 7000 + (10 * from + to) as u16;
            Line::new(port, format!("{}:{PEER}", name(to)))
        });
        let clients = (1..=3).map(|to| Line::new(8000 + to as u16, format!("{}:{HTTP}", name(to))));
        let group = Self {
            inner: Rc::new(Inner {
                folder: folder(),
                authority: Authority::new(),
                places: (1..=3)
                    .map(|_| {
                        Rc::new(Place {
                            copy: Rc::default(),
                            running: RefCell::default(),
                        })
                    })
                    .collect(),
                lines: between.chain(clients).collect(),
                log: Log::default(),
                latencies: RefCell::default(),
            }),
        };
        for number in 1..=3 {
            let own = if number == 3 {
                setting.third_lasts
            } else {
                LONG
            };
            group.issue(number, own.min(setting.all_last));
            let members = (1..=3).map(|to| PeerAddress {
                name: name(to),
                address: if setting.relayed && to != number {
                    group.between(number, to).address()
                } else {
                    format!("{}:{PEER}", name(to))
                },
            });
            let members = members.collect();
            let table = PeerTable { members };
            let path = group.path(&format!("peers-{number}"));
            table.write(&path).expect("written");
        }
        group
    }

    /// Gives a member a new certificate.
    pub(crate) fn issue(&self, number: usize, lasts: Duration) {
        let authority = &self.inner.authority;
        authority.issue(&self.tls(number), &name(number), lasts, &[authority]);
    }

    /// Where a member's certificate is.
    pub(crate) fn tls(&self, number: usize) -> PathBuf {
        self.path(&format!("tls-{number}"))
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.inner.authority
    }

    fn path(&self, name: &str) -> PathBuf {
        self.inner.folder.path().join(name)
    }

    fn config(&self, number: usize) -> Config {
        let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        Config {
            founding: None,
            service: "notes".into(),
            member: name(number),
            region: String::new(),
            trust_domain: "synod.local".into(),
            namespace: "local".into(),
            data: self.path(&name(number)),
            genesis: self.path("genesis.json"),
            join: None,
            peers: self.path(&format!("peers-{number}")),
            tls: authority::files(&self.tls(number)),
            listen: config::Listen {
                http: any(HTTP),
                peer: any(PEER),
                admin: any(ADMIN),
            },
            witness: false,
            app: config::App {
                address: SocketAddr::from((Ipv4Addr::LOCALHOST, APP)),
                protocol: Protocol::Http1,
                token: None,
                revision: Revision::default(),
            },
            log: config::Log {
                max_bytes: 1 << 30,
                segment_bytes: 16 << 20,
                scrub_seconds: 0,
            },
            leader: config::Leader::default(),
            state: state::State::default(),
        }
    }

    /// A member with its app, for ever.
    async fn host(self, number: usize) -> turmoil::Result {
        let config = self.config(number);
        let client = Client::new(
            config.app.address,
            config.app.protocol,
            spool_dir(&config.data),
        );
        let mut member = Member::start(config, client.clone(), client).await?;
        let (node, apply) = (member.node().clone(), member.apply().clone());
        let place = self.inner.places[number - 1].clone();
        let app = app::keep(place.copy.clone(), apply.clone());
        place.running.replace(Some(Running { node, apply }));
        tokio::select! {
            end = member.ended() => Err(format!("member {number}: {end}").into()),
            never = app => match never {},
        }
    }

    /// Makes the group of the three, and waits until it serves.
    async fn form(&self) {
        let mut members = Vec::new();
        for number in 1..=3 {
            let address = format!("{}:{ADMIN}", name(number));
            let status = loop {
                match client::get(&address, "/status").await {
                    Ok(answer) => break answer.body,
                    Err(_) => sleep(LOOK).await,
                }
            };
            let status: serde_json::Value = serde_json::from_slice(&status).expect("a status");
            let incarnation = status["incarnation"].as_str().expect("a text");
            members.push(GenesisMember {
                id: number as u32,
                name: name(number),
                incarnation: incarnation.to_owned(),
                role: GenesisRole::Voter,
                region: String::new(),
            });
        }
        let file = GenesisFile::new("notes", 2, members, &policy());
        let written = file.write_create_only(&self.path("genesis.json"));
        written.expect("written");
        self.until("all serve", || {
            (1..=3).all(|it| self.running(it).apply.status().borrow().serving)
                && self.leader().is_some()
        })
        .await;
    }

    /// What members have told so far, that a person reads.
    pub(crate) fn log(&self) -> String {
        self.inner.log.text()
    }

    pub(crate) fn place(&self, number: usize) -> &Place {
        &self.inner.places[number - 1]
    }

    pub(crate) fn running(&self, number: usize) -> Running {
        let running = self.place(number).running.borrow();
        running.clone().expect("it was started")
    }

    /// Whom all follow.
    pub(crate) fn leader(&self) -> Option<usize> {
        let led_by = |number| self.running(number).node.status().borrow().leader;
        let MemberId(leader) = led_by(1)?;
        let same = (2..=3).all(|it| led_by(it) == Some(MemberId(leader)));
        same.then_some(leader as usize)
    }

    /// The same, once it is so.
    pub(crate) async fn until_led(&self) -> usize {
        self.until("all follow one", || self.leader().is_some())
            .await;
        self.leader().expect("seen just now")
    }

    /// Members that do not lead, when one does.
    pub(crate) fn followers(&self) -> Vec<usize> {
        let leader = self.leader();
        (1..=3).filter(|it| Some(*it) != leader).collect()
    }

    /// The line between two members.
    pub(crate) fn between(&self, from: usize, to: usize) -> &Rc<Line> {
        let at = pairs()
            .position(|it| it == (from, to))
            .expect("two of three");
        &self.inner.lines[at]
    }

    /// The line from clients to a member.
    pub(crate) fn to(&self, number: usize) -> &Rc<Line> {
        &self.inner.lines[pairs().count() + number - 1]
    }

    /// Each packet between these two takes so long.
    pub(crate) fn set_latency(&self, one: usize, two: usize, latency: Duration) {
        self.inner.latencies.borrow_mut().push((one, two, latency));
    }

    /// Waits for something, and says how long it took.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn() -> bool) -> Duration {
        let begun = Instant::now();
        while !is_so() {
            assert!(
                begun.elapsed() < PATIENCE,
                "{what}: not within {PATIENCE:?}"
            );
            sleep(LOOK).await;
        }
        begun.elapsed()
    }

    /// Waits until all copies have executed all that was chosen; returns what they hold, which is the same.
    pub(crate) async fn settled(&self) -> Vec<String> {
        let lines = |number: usize| self.place(number).copy.lines.borrow().clone();
        self.until("copies are equal", || {
            let commits: Vec<_> = (1..=3)
                .map(|it| {
                    let Running { node, apply } = self.running(it);
                    let applied = apply.status().borrow().applied;
                    (node.status().borrow().commit, applied)
                })
                .collect();
            let (commit, _) = commits[0];
            commits.iter().all(|it| *it == (commit, commit)) && self.leader().is_some()
        })
        .await;
        for number in 2..=3 {
            assert_eq!(lines(1), lines(number), "copies 1 and {number}");
        }
        lines(1)
    }
}

/// All pairs of two members.
pub(crate) fn pairs() -> impl Iterator<Item = (usize, usize)> {
    (1..=3).flat_map(|from| {
        (1..=3)
            .map(move |to| (from, to))
            .filter(|(from, to)| from != to)
    })
}

/// In memory where there is such a place: how long a real disk takes has nothing to do with the time here.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .expect("a folder")
}

fn policy() -> Policy {
    let route = |name: &str, path: &str| Route {
        name: name.into(),
        matches: vec![RouteMatch {
            method: String::new(),
            path: Some(Path::Exact(path.into())),
        }],
        consistency: Consistency::Bypass.into(),
        ..Route::default()
    };
    Policy {
        version: 1,
        classes_version: 1,
        routes: vec![route("much", "/much"), route("sink", "/sink")],
        idempotency: Some(IdempotencyPolicy {
            header: "idempotency-key".into(),
            keep_for_ms: 3_600_000,
            max_bytes: 1 << 20,
            ..IdempotencyPolicy::default()
        }),
        max_body_bytes: 1 << 20,
        queue_timeout_ms: 10_000,
        response_timeout_ms: 35_000,
        apply_timeout_ms: 30_000,
        service: "notes".into(),
        ..Policy::default()
    }
}
