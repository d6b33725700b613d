//! One member, put together: log, agreement, apply, app, clients' port, peers' port, admin port.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus_client::registry::Registry;
use synod_failpoint::{Point, hit};
use synod_paxos::{Base, Boot, GroupId, Recovered, Settings, Slot};
use synod_wal::{OpenError, Wal};
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Status};

use super::log::{self, FormError};
use crate::admin::{self, AdminParts, LogIdentity};
use crate::app::{self, App};
use crate::apply::handle::spool_dir;
use crate::apply::{self, ApplyError, ApplyHandle, FeedSender};
use crate::backup;
use crate::config::genesis::GenesisFile;
use crate::config::peers::{self, PeerTable};
use crate::config::state::{SnapshotKind, StateKind};
use crate::config::{Config, ConfigError, Protocol, Revision, limits};
use crate::copies::{self, Comparison};
use crate::identity::{self, Caller, Identity, IdentityError, Who};
use crate::ingress::{self, Handles, Limits, Reads};
use crate::keeper::{self, Keeper, KeeperError};
use crate::net::TcpListener;
use crate::node::wire::PROTOCOL;
use crate::node::{
    self, Channels, Control, Facts, LogSource, NodeEnd, NodeHandle, PeerDoor, Running, Seat,
};
use crate::poison;
use crate::revision;
use crate::snapshot::{blocking, transfer};

/// Longest wait for another leader when this one leaves.
const HAND_OVER: Duration = Duration::from_secs(3);
/// Longest wait for the requests that run when this member leaves.
const DRAIN: Duration = Duration::from_secs(10);
/// Longest wait for peers' calls that run, and for tasks to end.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// Why a member did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address.
    #[error("{field}: cannot listen on {address}: {error}; choose another or end who uses it")]
    Port {
        /// The field of the configuration.
        field: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// The certificate files.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The data folder.
    #[error("data: cannot use the folder {path}: {error}")]
    Data {
        /// Where.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The log.
    #[error("the log in {path}: {error}")]
    Log {
        /// Where.
        path: PathBuf,
        /// What is wrong with it.
        error: OpenError,
    },
    /// The state with which the group begins.
    #[error(transparent)]
    Beginning(#[from] super::founding::BeginningError),
    /// Ledger or spool.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Snapshots or the app's volume.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
}

/// Why a member that had started has ended.
#[derive(Debug, thiserror::Error)]
pub enum MemberEnd {
    /// It was asked to.
    #[error("the member was stopped")]
    Stopped,
    /// Its log never got its first record.
    #[error(transparent)]
    Form(#[from] FormError),
    /// What its log holds is not what this program can begin with.
    #[error(transparent)]
    Begin(#[from] synod_paxos::StartError),
    /// The agreement ended.
    #[error(transparent)]
    Node(#[from] NodeEnd),
    /// Apply ended.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// A part of this program failed.
    #[error("{0} failed; the process ends to begin anew")]
    Failed(String),
}

/// A member at work.
#[derive(Debug)]
pub struct Member {
    node: NodeHandle,
    apply: ApplyHandle,
    addresses: Addresses,
    stops: Stops,
    life: JoinHandle<MemberEnd>,
}

/// Where a member listens, with the ports that the system chose where the configuration said 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// Clients.
    pub http: SocketAddr,
    /// Peers.
    pub peer: SocketAddr,
    /// Admin.
    pub admin: SocketAddr,
}

/// The steps of an orderly end, in their order.
#[derive(Clone, Debug, Default)]
struct Stops {
    /// Not ready any more.
    leaving: CancellationToken,
    /// Clients: finish what runs.
    clients: CancellationToken,
    /// The agreement and all that is left.
    rest: CancellationToken,
}

/// What runs from the start on, and what the group needs once it is there.
struct Whole<R> {
    config: Config,
    wal: Wal,
    recovered: Recovered,
    seat: Seat,
    snapshots: keeper::Handle,
    /// Of the newest snapshot.
    newest: Option<Base>,
    channels: Arc<Channels>,
    feed: FeedSender,
    elsewhere: watch::Sender<Slot>,
    identity: Identity,
    peers: watch::Receiver<PeerTable>,
    door: PeerDoor,
    clients: TcpListener,
    ingress: Arc<ingress::Server<Handles<R>>>,
    apply: ApplyHandle,
    apply_task: JoinHandle<Result<(), ApplyError>>,
    stops: Stops,
    /// Everything that ends with the member.
    tasks: JoinSet<()>,
    grpc: JoinHandle<Result<(), tonic::transport::Error>>,
}

/// What the admin port tells of.
struct Told<'a> {
    config: &'a Config,
    recovered: &'a Recovered,
    node: NodeHandle,
    apply: ApplyHandle,
    app_stops: node::Stops,
    snapshots: keeper::Handle,
    board: poison::Board,
    leaving: CancellationToken,
}

// === impl Member ===

impl Member {
    /// Starts a member whose ordered requests `app` executes and whose reads go to `reads`. It
    /// listens on all its ports and has its log open when this returns; it serves clients once its
    /// group is there.
    pub async fn start<A: App, R: Reads>(
        config: Config,
        app: A,
        reads: R,
    ) -> Result<Self, StartError> {
        Self::start_with(NodeHandle::new(), config, app, reads).await
    }

    /// The same around a handle on the agreement that is there already.
    pub(super) async fn start_with<A: App, R: Reads>(
        (node, seat): (NodeHandle, Seat),
        config: Config,
        app: A,
        reads: R,
    ) -> Result<Self, StartError> {
        config.check()?;
        let (http, http_address) = bind("listen.http", config.listen.http).await?;
        let (peer, peer_address) = bind("listen.peer", config.listen.peer).await?;
        let (admin, admin_address) = bind("listen.admin", config.listen.admin).await?;
        let who = Who::Member(config.member.clone());
        let identity = Identity::load(&config.tls, &config.names(), who)?;
        hit(Point::StartIdentity);
        make_folder(&config.data)?;
        {
            let config = config.clone();
            blocking(move || super::founding::begin(&config)).await?;
        }
        let (wal, recovered) = open_log(&config).await?;
        let app = Arc::new(app);
        let beginning = {
            let (config, app, node) = (config.clone(), app.clone(), node.clone());
            let (log, maker) = (wal.reader(), recovered.identity.incarnation);
            let group = recovered.genesis.as_ref().map(|it| it.group);
            blocking(move || keeper::begin(&config, app, node, log, maker, group)).await?
        };
        hit(Point::StartKeeper);
        let (feed, apply_feed) = apply::feed();
        let (elsewhere, elsewhere_receiver) = watch::channel(Slot::ZERO);
        let proof = {
            let node = node.clone();
            async move { node.read_index().await }
        };
        let (apply, apply_task) = apply::start(apply::Parts {
            data: config.data.clone(),
            incarnation: recovered.identity.incarnation,
            is_first: recovered.boot == Boot(1),
            feed: apply_feed,
            log: Arc::new(LogSource(wal.reader())),
            elsewhere: elsewhere_receiver.clone(),
            proof: Box::pin(proof),
            app,
            witness: config.witness,
            state: config.state_type(),
            revision: {
                let app = config.app.clone();
                Arc::new(move || app.read_revision())
            },
            changes_in_place: matches!(config.app.revision, Revision::InFile(_)),
            states: beginning.states.clone(),
        })?;
        let snapshots = keeper::Handle::new(&beginning, &config, apply.clone(), node.clone());
        let stops = Stops::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(identity.clone().keep_fresh());
        let mut registry = Registry::with_prefix("synod");
        let metrics = ingress::Metrics::register(&mut registry);
        let app_stops = node::Stops::new(node.clone());
        let table = peers::follow(config.peers.clone());
        let channels = Channels::new(identity.clone(), table.clone(), node.status());
        let channels = Arc::new(channels);
        let (watch, board) = poison::Watch::new(poison::Parts {
            node: node.clone(),
            apply: apply.clone(),
            channels: channels.clone(),
            log: Arc::new(LogSource(wal.reader())),
            snapshots: snapshots.clone(),
            has_snapshots: config.state.snapshot.kind != SnapshotKind::None,
        });
        tasks.spawn(watch.run());
        let told = Told {
            config: &config,
            recovered: &recovered,
            node: node.clone(),
            apply: apply.clone(),
            app_stops: app_stops.clone(),
            snapshots: snapshots.clone(),
            board: board.clone(),
            leaving: stops.leaving.clone(),
        };
        let admin_parts = told.into_parts(registry);
        let outsiders = admin_parts.outsiders.clone();
        tasks.spawn(admin::serve(admin, admin_parts, stops.rest.clone()));
        tasks.spawn(app_stops.clone().run(apply.status(), channels.clone()));
        let comparison = Comparison::new(node.clone(), apply.clone(), channels.clone());
        tasks.spawn(comparison.run());
        let taking_over = revision::TakingOver::new(
            node.clone(),
            apply.clone(),
            channels.clone(),
            Arc::new(LogSource(wal.reader())),
        );
        tasks.spawn(taking_over.run());
        let ingress = Arc::new(ingress::Server::new(ingress::Parts {
            backend: Handles::new(
                node.clone(),
                apply.clone(),
                elsewhere_receiver,
                board.clone(),
                reads,
            ),
            peers: channels.clone(),
            member: config.member.clone(),
            app: (config.app.protocol == Protocol::Http1).then_some(config.app.address),
            witness: config.witness,
            spool: spool_dir(&config.data),
            limits: Limits {
                drain: DRAIN,
                ..Limits::default()
            },
            metrics,
        }));
        let door = PeerDoor::default();
        let facts = Facts {
            service: config.service.clone(),
            member: config.member.clone(),
            incarnation: recovered.identity.incarnation,
            boot: recovered.boot.0,
            log: config.log.clone(),
            genesis: recovered.genesis.as_ref().map_or_else(String::new, |it| {
                GenesisFile::of(it, &config.service).text()
            }),
        };
        let handover = InterceptedService::new(ingress.handover(), only_members);
        let grpc = tonic::transport::Server::builder()
            .initial_stream_window_size(identity::WINDOW)
            .initial_connection_window_size(identity::WINDOW)
            // Of a dead connection the kernel hears nothing if something in between keeps it up.
            .http2_keepalive_interval(Some(identity::KEEPALIVE_AFTER))
            .http2_keepalive_timeout(Some(identity::USER_TIMEOUT))
            .add_service(door.service())
            .add_service(Control::service(
                Arc::new(facts),
                node.clone(),
                apply.clone(),
                app_stops,
                channels.clone(),
                outsiders,
                snapshots.clone(),
                board.clone(),
            ))
            .add_service(handover)
            .add_service(transfer::service(
                beginning.store.clone(),
                group_of(&node),
                config.state.snapshot.transfer_bytes_per_second,
            ))
            .add_service(backup::service(node.clone(), wal.reader()))
            .add_service(keeper::Turns::service(snapshots.clone(), channels.clone()))
            .add_service(copies::service(node.clone(), apply.clone()))
            .add_service(poison::service(
                node.clone(),
                apply.clone(),
                board,
                snapshots.clone(),
                channels.clone(),
            ))
            .serve_with_incoming_shutdown(
                identity::accept(peer, identity.clone()),
                stops.rest.clone().cancelled_owned(),
            );
        let whole = Whole {
            config,
            wal,
            recovered,
            seat,
            snapshots,
            newest: beginning.newest,
            channels,
            feed,
            elsewhere,
            identity,
            peers: table,
            door,
            clients: http,
            ingress,
            apply: apply.clone(),
            apply_task,
            stops: stops.clone(),
            tasks,
            grpc: tokio::spawn(grpc),
        };
        Ok(Self {
            node,
            apply,
            addresses: Addresses {
                http: http_address,
                peer: peer_address,
                admin: admin_address,
            },
            stops,
            life: tokio::spawn(whole.live()),
        })
    }

    /// The agreement.
    pub fn node(&self) -> &NodeHandle {
        &self.node
    }

    /// The copy.
    pub fn apply(&self) -> &ApplyHandle {
        &self.apply
    }

    /// Where it listens.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Returns when it has ended by itself. Cancel-safe.
    pub async fn ended(&mut self) -> MemberEnd {
        match (&mut self.life).await {
            Ok(end) => end,
            Err(error) => MemberEnd::Failed(error.to_string()),
        }
    }

    /// Ends it in order: not ready, leadership handed over, requests that run answered, then all
    /// the rest. Each step has a limit; together at most a quarter of a minute.
    pub async fn stop(mut self) -> MemberEnd {
        tracing::info!("leaving");
        self.stops.leaving.cancel();
        if timeout(HAND_OVER, self.node.prepare_shutdown())
            .await
            .is_err()
        {
            tracing::warn!("nobody took leadership over in time");
        }
        self.stops.clients.cancel();
        self.ended().await
    }

    /// Ends it at once, as a crash would, except that what was given to the log is written.
    pub async fn kill(mut self) -> MemberEnd {
        self.stops.rest.cancel();
        self.ended().await
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.stops.rest.cancel();
    }
}

// === impl Whole ===

impl<R: Reads> Whole<R> {
    /// The whole life of the member behind its start.
    async fn live(mut self) -> MemberEnd {
        let forming = log::form(&self.config, self.wal, self.recovered);
        let formed = tokio::select! {
            formed = forming => formed,
            () = self.stops.clients.cancelled() => {
                self.stops.rest.cancel();
                return MemberEnd::Stopped;
            }
            () = self.stops.rest.cancelled() => return MemberEnd::Stopped,
            end = apply_end(&mut self.apply_task) => return end,
        };
        let (wal, recovered, policy) = match formed {
            Ok(formed) => formed,
            Err(error) => return error.into(),
        };
        hit(Point::StartNode);
        let started = node::start(node::Parts {
            settings: settings(&self.config),
            policy,
            recovered,
            wal,
            snapshot: self.newest,
            seat: self.seat,
            feed: self.feed,
            apply: self.apply.status(),
            elsewhere: self.elsewhere,
            identity: self.identity,
            peers: self.peers,
            door: self.door.clone(),
            scrub: self.config.log.scrub(),
        });
        let mut node = match started {
            Ok(node) => node,
            Err(error) => return error.into(),
        };
        let keeper = Keeper::new(self.snapshots, self.channels, &self.config);
        self.tasks.spawn(keeper.run());
        let (drained, mut all_answered) = oneshot::channel();
        let (ingress, stop, clients) = (self.ingress, self.stops.clients.clone(), self.clients);
        self.tasks.spawn(async move {
            ingress.serve(clients, stop).await;
            // Its receiver is gone when the member ends without order.
            let _ = drained.send(());
        });
        let end = tokio::select! {
            end = node.ended() => return end.into(),
            end = apply_end(&mut self.apply_task) => end,
            _ = &mut all_answered => MemberEnd::Stopped,
            () = self.stops.rest.cancelled() => MemberEnd::Stopped,
        };
        self.stops.rest.cancel();
        self.door.close();
        finish(node, self.apply_task, self.grpc).await;
        end
    }
}

/// Stops what is left; nobody waits for it any more.
async fn finish(
    node: Running,
    apply: JoinHandle<Result<(), ApplyError>>,
    grpc: JoinHandle<Result<(), tonic::transport::Error>>,
) {
    node.stop().await;
    // Its end may be what has ended the member: it is not there to be waited for a second time.
    let apply_ended = apply.is_finished() || timeout(LAST_CALLS, apply).await.is_ok();
    for (what, ended) in [
        ("apply", apply_ended),
        ("the peer port", timeout(LAST_CALLS, grpc).await.is_ok()),
    ] {
        if !ended {
            tracing::debug!("{what} was cut off");
        }
    }
}

async fn apply_end(task: &mut JoinHandle<Result<(), ApplyError>>) -> MemberEnd {
    match task.await {
        Ok(Ok(())) => MemberEnd::Failed("apply ended before the agreement, which".to_owned()),
        Ok(Err(error)) => error.into(),
        Err(error) => MemberEnd::Failed(error.to_string()),
    }
}

fn settings(config: &Config) -> Settings {
    Settings {
        window_bytes: limits::WINDOW_BYTES,
        max_body_bytes: limits::largest_body(&config.log),
        transport_bytes: limits::MESSAGE_BYTES,
        segment_bytes: config.log.segment_bytes,
        preference: config.leader.preference(&config.region),
        protocol_min: *PROTOCOL.start(),
        protocol_max: *PROTOCOL.end(),
        ..Settings::default()
    }
}

impl Told<'_> {
    fn into_parts(self, registry: Registry) -> AdminParts {
        let Self {
            config,
            recovered,
            node,
            apply,
            app_stops,
            snapshots,
            board,
            leaving,
        } = self;
        let log = OnceLock::new();
        let identity = LogIdentity {
            incarnation: recovered.identity.incarnation,
            boot: recovered.boot,
        };
        assert!(log.set(identity).is_ok(), "a new cell is empty");
        let (signalled, waiting, starting) = (apply.clone(), apply.clone(), snapshots.clone());
        let poison = board.found();
        let (revision, formed) = (apply.status(), recovered.genesis.is_some());
        let along = apply.status();
        AdminParts {
            service: config.service.clone(),
            member: config.member.clone(),
            log: Arc::new(log),
            protocol: [*PROTOCOL.start(), *PROTOCOL.end()],
            node: node.status(),
            apply: apply.status(),
            policy: apply.policy(),
            apply_waits: Box::new(move || board.waiting_on().or_else(|| waiting.waiting_on())),
            may_stop: Box::new(move |instance| app_stops.allows(instance)),
            app_started: Box::new(move || signalled.app_started()),
            witness: config.witness,
            has_volume: config.state.kind == StateKind::Volume,
            let_start: Box::new(move || starting.let_start()),
            revision_due: Box::new(move || {
                let known = revision.borrow().revision;
                // A group that is to begin does so with the first.
                let due = known.is_known.then_some(known.due);
                due.or((!formed).then_some(0))
            }),
            revision_may: Box::new(move || along.borrow().revision.may),
            snapshot: Box::new(move || snapshots.newest()),
            apply_durations: apply.durations(),
            registry,
            agreement: node,
            log_max_bytes: config.log.max_bytes,
            token: config.app.token.clone(),
            outsiders: if config.witness {
                // Nobody can go past it.
                watch::channel(None).1
            } else {
                app::outsiders(config.app.address)
            },
            found: apply.found(),
            verified: apply.verified(),
            poison,
            leaving,
        }
    }
}

/// As far as it is known at each time.
fn group_of(node: &NodeHandle) -> impl Fn() -> Option<GroupId> + Send + Sync + 'static {
    let status = node.status();
    move || status.borrow().group
}

/// Hand-over is between members: an operator's certificate opens control only.
fn only_members(request: Request<()>) -> Result<Request<()>, Status> {
    Caller::member(&request, "only members hand requests over")?;
    Ok(request)
}

async fn bind(
    field: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |error| StartError::Port {
        field,
        address,
        error,
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Mode 0700: log and ledger hold what clients sent (rule W6).
fn make_folder(path: &Path) -> Result<(), StartError> {
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(path);
    made.map_err(|error| StartError::Data {
        path: path.to_owned(),
        error,
    })
}

async fn open_log(config: &Config) -> Result<(Wal, Recovered), StartError> {
    let owned = config.clone();
    let opened = tokio::task::spawn_blocking(move || log::open(&owned)).await;
    let path = config.data.join("log");
    match opened {
        Ok(Ok(opened)) => Ok(opened),
        Ok(Err(error)) => Err(StartError::Log { path, error }),
        Err(error) => Err(StartError::Data {
            path,
            error: std::io::Error::other(error),
        }),
    }
}
