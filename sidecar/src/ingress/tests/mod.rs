//! Ingress as a whole, over real sockets, with doubles for the rest of the member.

mod bad_input;
mod bodies;
mod elsewhere;
mod fuzz;
mod ordered;
mod reads;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body_util::{BodyExt, Full};
use prometheus_client::registry::Registry;
use prost::Message;
use synod_paxos::{AgreedTime, Boot, CommandId, CommandKind, GroupId, MemberId, NotTaken, Slot};
use synod_proto::v1::{Consistency, Policy, Request, Route, RouteMatch, route_match};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::backend::{AppBody, AppError, Backend};
use super::body::RequestBody;
use super::{Limits, Metrics, Parts, PeerChannels, Server};
use crate::app::Pool;
use crate::apply::handle::KeyOutcome;
use crate::apply::{Answer, ApplyStatus, Outcome, StoredBody, StoredResponse};
use crate::node::handle::{Held, ProposeError};
use crate::node::{Decided, NodeStatus, Proposed};

/// Longer than any step of a test takes; reached only when a test fails.
const TOO_LONG: Duration = Duration::from_secs(10);

/// What the agreement and apply do with a proposal.
#[derive(Clone)]
enum Plan {
    /// Chosen and done at once.
    Answer(Outcome, Option<Box<StoredResponse>>),
    /// Chosen, not done.
    Choose,
    /// Neither.
    Hold,
    Withdraw,
    Refuse(ProposeError),
}

/// What the app does with a read.
#[derive(Clone)]
enum App {
    /// Says what it was asked.
    Echo,
    NotSent,
    Lost,
    Respond(Box<StoredResponse>),
    /// A body that never ends after its first piece.
    Stream,
}

/// Stands for the rest of one member.
struct Double {
    id: MemberId,
    sequence: AtomicU64,
    node: watch::Sender<NodeStatus>,
    apply: watch::Sender<ApplyStatus>,
    policy: watch::Sender<Arc<Policy>>,
    receivers: (
        watch::Receiver<NodeStatus>,
        watch::Receiver<ApplyStatus>,
        watch::Receiver<Arc<Policy>>,
    ),
    /// What agreed time is taken to be.
    clock: Mutex<AgreedTime>,
    /// The last slot that another copy has executed.
    elsewhere: Mutex<Slot>,
    /// `None`: nobody leads.
    index: watch::Sender<Option<Slot>>,
    state: Mutex<State>,
    changed: Notify,
}

type Hook = Arc<dyn Fn(&Double) + Send + Sync>;

#[derive(Default)]
struct State {
    plans: Vec<Plan>,
    app: Option<App>,
    proposed: Vec<(CommandId, Request)>,
    answers: HashMap<CommandId, Answer>,
    /// Kept so that what is undecided stays so.
    undecided: Vec<(oneshot::Sender<Decided>, Held)>,
    read: Vec<String>,
    keys: HashMap<(Bytes, Bytes), Answer>,
    /// Called when the index was answered, before the read goes on.
    on_index: Option<Hook>,
    /// Called with each proposal.
    on_propose: Option<Hook>,
    /// Called before each look at the copy.
    on_status: Option<Hook>,
}

/// Chosen, and executed with this response.
fn executed(response: StoredResponse) -> Plan {
    Plan::Answer(Outcome::Executed, Some(Box::new(response)))
}

impl Double {
    fn new(id: u32) -> Self {
        let node = watch::channel(NodeStatus {
            group: Some(GroupId([0x5f; 16])),
            member: MemberId(id),
            ..NodeStatus::default()
        });
        let apply = watch::channel(ApplyStatus {
            applied: Slot(40),
            sent: Slot(42),
            serving: true,
            ..ApplyStatus::default()
        });
        let policy = watch::channel(Arc::new(policy()));
        Self {
            id: MemberId(id),
            sequence: AtomicU64::new(1),
            node: node.0,
            apply: apply.0,
            policy: policy.0,
            receivers: (node.1, apply.1, policy.1),
            clock: Mutex::new(AgreedTime(1_000_000_000)),
            elsewhere: Mutex::new(Slot::ZERO),
            index: watch::channel(Some(Slot(40))).0,
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// What happens to the next proposals, in order; the last one stays.
    fn plan(&self, plans: impl IntoIterator<Item = Plan>) {
        self.state().plans = plans.into_iter().collect();
    }

    fn app(&self, app: App) {
        self.state().app = Some(app);
    }

    fn answered(&self, id: CommandId, outcome: Outcome, response: Option<StoredResponse>) {
        let answer = answer(Slot(1042), outcome, response);
        self.state().answers.insert(id, answer);
        self.changed.notify_waiters();
    }

    /// The id of the first proposal, once there is one.
    async fn first_proposed(&self) -> CommandId {
        let first = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some((id, _)) = self.state().proposed.first() {
                    return *id;
                }
                changed.await;
            }
        };
        timeout(TOO_LONG, first)
            .await
            .expect("something is proposed")
    }

    fn requests(&self) -> Vec<Request> {
        let state = self.state();
        state
            .proposed
            .iter()
            .map(|(_, request)| request.clone())
            .collect()
    }

    fn next_plan(&self) -> Plan {
        let plans = &mut self.state().plans;
        match plans.len() {
            0 => executed(response("done")),
            1 => plans[0].clone(),
            _ => plans.remove(0),
        }
    }
}

impl Backend for Arc<Double> {
    fn propose(
        &self,
        kind: CommandKind,
        payload: Bytes,
        held: Held,
    ) -> Result<Proposed, ProposeError> {
        assert_eq!(kind, CommandKind::REQUEST);
        let then = self.state().on_propose.clone();
        if let Some(then) = then {
            then(self);
        }
        let plan = self.next_plan();
        if let Plan::Refuse(error) = plan {
            return Err(error);
        }
        let id = CommandId {
            member: self.id,
            boot: Boot(1),
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed),
        };
        let request = Request::decode(payload).unwrap();
        self.state().proposed.push((id, request));
        let (decide, decided) = oneshot::channel();
        match plan {
            Plan::Answer(outcome, response) => {
                decide.send(Decided::Chosen(Slot(1042))).unwrap();
                self.answered(id, outcome, response.map(|it| *it));
            }
            Plan::Choose => decide.send(Decided::Chosen(Slot(1042))).unwrap(),
            Plan::Withdraw => decide.send(Decided::Withdrawn(NotTaken::DiskFull)).unwrap(),
            Plan::Hold => self.state().undecided.push((decide, held)),
            Plan::Refuse(_) => unreachable!(),
        }
        self.changed.notify_waiters();
        Ok(Proposed { id, decided })
    }

    async fn read_index(&self) -> Slot {
        let mut index = self.index.subscribe();
        let index = index.wait_for(Option::is_some).await.unwrap().unwrap();
        let then = self.state().on_index.clone();
        if let Some(then) = then {
            then(self);
        }
        index
    }

    fn node_status(&self) -> &watch::Receiver<NodeStatus> {
        &self.receivers.0
    }

    fn agreed_now(&self) -> AgreedTime {
        *self.clock.lock().unwrap()
    }

    async fn answer(&self, id: CommandId) -> Answer {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(answer) = self.state().answers.get(&id) {
                return answer.clone();
            }
            changed.await;
        }
    }

    async fn wait_applied(&self, slot: Slot) {
        let mut status = self.apply.subscribe();
        status
            .wait_for(|status| status.applied >= slot)
            .await
            .unwrap();
    }

    async fn key_outcome(&self, principal: Bytes, key: Bytes) -> KeyOutcome {
        match self.state().keys.get(&(principal, key)) {
            Some(answer) => KeyOutcome::Known(answer.clone()),
            None => KeyOutcome::Unknown,
        }
    }

    fn policy(&self) -> &watch::Receiver<Arc<Policy>> {
        &self.receivers.2
    }

    fn executed(&self) -> Slot {
        let applied = self.apply.borrow().applied;
        applied.max(*self.elsewhere.lock().unwrap())
    }

    fn apply_status(&self) -> &watch::Receiver<ApplyStatus> {
        let first = self.state().on_status.clone();
        if let Some(first) = first {
            first(self);
        }
        &self.receivers.1
    }

    async fn send_read(
        &self,
        request: http::Request<RequestBody>,
        _: Pool,
    ) -> Result<http::Response<AppBody>, AppError> {
        let app = self.state().app.clone().unwrap_or(App::Echo);
        let (parts, body) = request.into_parts();
        let line = format!("{} {}", parts.method, parts.uri);
        self.state().read.push(line.clone());
        match app {
            App::NotSent => Err(AppError::NotSent),
            App::Lost => Err(AppError::Lost),
            App::Respond(stored) => {
                let StoredBody::Memory(data) = stored.body else {
                    unreachable!()
                };
                let full = Full::new(data).map_err(|never| match never {});
                let mut response = http::Response::new(AppBody::new(full));
                *response.status_mut() = stored.status;
                *response.headers_mut() = stored.headers;
                Ok(response)
            }
            App::Stream => {
                let first = Ok(http_body::Frame::data(Bytes::from_static(b"event\n")));
                let pieces = futures::StreamExt::chain(
                    futures::stream::iter([first]),
                    futures::stream::pending(),
                );
                let body = http_body_util::StreamBody::new(pieces);
                Ok(http::Response::new(AppBody::new(body)))
            }
            App::Echo => {
                let body = body.collect().await.map_err(|_| AppError::Lost)?.to_bytes();
                let mut text = format!("{line}\n");
                for (name, value) in &parts.headers {
                    let value = String::from_utf8_lossy(value.as_bytes());
                    writeln!(text, "{name}: {value}").unwrap();
                }
                write!(text, "\n{}", String::from_utf8_lossy(&body)).unwrap();
                let full = Full::new(Bytes::from(text)).map_err(|never| match never {});
                Ok(http::Response::new(AppBody::new(full)))
            }
        }
    }
}

fn answer(slot: Slot, outcome: Outcome, response: Option<StoredResponse>) -> Answer {
    Answer {
        slot,
        outcome,
        // Where there is another member, it is the one that answered the first.
        first_answerer: (outcome == Outcome::Replayed).then_some(MemberId(2)),
        response: response.map(Arc::new),
    }
}

/// A response of the app that tries to speak in our name, too.
fn response(body: &'static str) -> StoredResponse {
    let mut headers = HeaderMap::new();
    headers.insert("x-app", HeaderValue::from_static("yes"));
    headers.insert("synod-outcome", HeaderValue::from_static("forged"));
    headers.insert("synod-anything", HeaderValue::from_static("forged"));
    StoredResponse {
        status: StatusCode::CREATED,
        headers,
        body: StoredBody::Memory(Bytes::from_static(body.as_bytes())),
        trailers: HeaderMap::new(),
    }
}

fn route(name: &str, path: &str, consistency: Consistency) -> Route {
    Route {
        name: name.into(),
        matches: vec![RouteMatch {
            method: String::new(),
            path: Some(route_match::Path::Prefix(path.into())),
        }],
        consistency: consistency.into(),
        max_staleness_ms: 60_000,
        streaming: name == "stream",
    }
}

fn policy() -> Policy {
    Policy {
        version: 7,
        classes_version: 7,
        routes: vec![
            route("bypass", "/bypass", Consistency::Bypass),
            route("local", "/local", Consistency::Local),
            route("session", "/session", Consistency::Session),
            route("stale", "/stale", Consistency::BoundedStale),
            route("stream", "/stream", Consistency::Unspecified),
        ],
        max_body_bytes: 100_000,
        queue_timeout_ms: 300,
        response_timeout_ms: 300,
        ..Policy::default()
    }
}

/// Connections to the members that were told.
#[derive(Default)]
struct Peers(Mutex<HashMap<MemberId, Channel>>);

impl PeerChannels for Peers {
    fn channel(&self, member: MemberId) -> Option<Channel> {
        self.0.lock().unwrap().get(&member).cloned()
    }
}

/// One member under test.
struct Bench {
    double: Arc<Double>,
    peers: Arc<Peers>,
    server: Arc<Server<Arc<Double>>>,
    address: SocketAddr,
    stop: CancellationToken,
    served: JoinHandle<()>,
    registry: Registry,
    metrics: Metrics,
    spool: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        Self::with(1, Limits::default(), None).await
    }

    async fn with(id: u32, limits: Limits, app: Option<SocketAddr>) -> Self {
        let double = Arc::new(Double::new(id));
        let peers = Arc::new(Peers::default());
        let spool = tempfile::tempdir().unwrap();
        let mut registry = Registry::with_prefix("synod");
        let metrics = Metrics::register(&mut registry);
        let server = Arc::new(Server::new(Parts {
            backend: double.clone(),
            peers: peers.clone(),
            member: format!("notes-{id}"),
            app,
            witness: false,
            spool: spool.path().into(),
            limits,
            metrics: metrics.clone(),
        }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let served = {
            let (server, stop) = (server.clone(), stop.clone());
            tokio::spawn(async move { server.serve(listener, stop).await })
        };
        Self {
            double,
            peers,
            server,
            address,
            stop,
            served,
            registry,
            metrics,
            spool,
        }
    }

    /// Sends bytes as they are and reads until the other side closes.
    async fn raw(&self, bytes: impl AsRef<[u8]>) -> Reply {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes.as_ref()).await.unwrap();
        read_to_end(&mut stream).await
    }

    /// Sends one request on a connection of its own.
    async fn send(&self, line: &str, fields: &[(&str, &str)], body: &str) -> Reply {
        let mut request = format!("{line} HTTP/1.1\r\nHost: notes\r\nConnection: close\r\n");
        for (name, value) in fields {
            write!(request, "{name}: {value}\r\n").unwrap();
        }
        if !body.is_empty() {
            write!(request, "Content-Length: {}\r\n", body.len()).unwrap();
        }
        self.raw(format!("{request}\r\n{body}")).await
    }

    /// The page of metrics.
    fn metrics_page(&self) -> String {
        let mut page = String::new();
        prometheus_client::encoding::text::encode(&mut page, &self.registry).unwrap();
        page
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(&format!("GET {path}"), &[], "").await
    }
}

async fn read_to_end(stream: &mut TcpStream) -> Reply {
    let mut all = Vec::new();
    let read = timeout(TOO_LONG, stream.read_to_end(&mut all)).await;
    let all = String::from_utf8(all).unwrap();
    read.unwrap_or_else(|_| panic!("the other side does not close after {all:?}"))
        .unwrap();
    Reply(all)
}

/// A response as it came.
#[derive(Debug)]
struct Reply(String);

impl Reply {
    fn status(&self) -> u16 {
        let status = self
            .0
            .get(9..12)
            .unwrap_or_else(|| panic!("no response: {self:?}"));
        status.parse().unwrap()
    }

    fn field(&self, name: &str) -> Option<&str> {
        let (head, _) = self.0.split_once("\r\n\r\n").unwrap();
        head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    fn body(&self) -> &str {
        self.0.split_once("\r\n\r\n").unwrap().1
    }

    /// Status, last part of the problem's type, and outcome.
    fn problem(&self) -> Said<'_> {
        assert_eq!(
            self.field("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let json: serde_json::Value = serde_json::from_str(self.body()).unwrap();
        let kind = json["type"].as_str().unwrap();
        let kind = kind
            .strip_prefix("https://synod.dev/problems/")
            .unwrap()
            .to_owned();
        assert_eq!(json["status"], self.status());
        (self.status(), kind, self.field("synod-outcome"))
    }
}

type Said<'a> = (u16, String, Option<&'a str>);

fn problem(status: u16, kind: &str, outcome: Option<&'static str>) -> Said<'static> {
    (status, kind.to_owned(), outcome)
}
