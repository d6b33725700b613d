//! Whole members in one process: real ports, certificates and logs; the app is a list in memory.

mod copies;
mod damage;
mod ends;
mod members;
mod panic;
mod poison;
mod restored;
mod revisions;
mod scrub;
mod snapshots;
mod stops;
mod witness;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use synod_paxos::{MemberId, Now};
use synod_proto::v1::control_client::ControlClient;
use synod_proto::v1::propose_policy_response::Result as Outcome;
use synod_proto::v1::{
    AcquireStopRequest, IdempotencyPolicy, Policy, ProposePolicyRequest, StatusRequest,
    TransferLeadershipRequest,
};
use tokio::net::TcpStream;
use tonic::transport::Channel;

use super::*;
use crate::app::{App, ExecuteError, Executed, Instance, NoApp, Order, Pool};
use crate::apply::{StoredBody, StoredResponse};
use crate::config::genesis::{GenesisFile, GenesisMember, GenesisRole};
use crate::config::peers::{PeerAddress, PeerTable};
use crate::config::{self, Log, Tls};
use crate::identity::testing::{Authority, names};
use crate::identity::{Who, connect};
use crate::ingress::Reads;
use crate::ingress::backend::{AppBody, AppError};
use crate::ingress::body::RequestBody;
use crate::node::{NodeHandle, Seat, clock};

const PATIENCE: Duration = Duration::from_secs(60);

/// A list: a POST adds its body, a GET shows all.
#[derive(Clone, Debug, Default)]
struct List {
    lines: Arc<Mutex<Vec<String>>>,
    /// Which start of it runs; 0: none.
    instance: Arc<AtomicU64>,
    /// It breaks off its next ordered request, and goes on running.
    breaks_off: Arc<AtomicBool>,
    /// It ends as often as it gets this line.
    dies_of: Arc<Mutex<Option<String>>>,
    /// It never answers this one.
    hangs_at: Arc<Mutex<Option<String>>>,
    /// How many requests it has executed.
    executed: Arc<AtomicU64>,
    /// Which revision it is: it keeps another line for `which`.
    revision: Arc<AtomicU64>,
    /// What is wrong with its copy.
    quirk: Arc<Mutex<Quirk>>,
}

/// Members that a group can have.
const PLACES: usize = 5;

/// How a copy of the list behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Quirk {
    #[default]
    None,
    /// Says something else about its next request.
    Answers,
    /// Keeps another line than that of its next request, until it is started anew.
    Stores,
    /// Answers all requests with this status.
    Status(StatusCode),
    /// Draws a number at random for each answer.
    Noisy,
}

impl List {
    fn text(&self) -> String {
        self.lines.lock().expect("list").join(",")
    }

    fn len(&self) -> usize {
        self.lines.lock().expect("list").len()
    }

    fn start(&self) {
        self.lines.lock().expect("list").clear();
        let instance = rand::random_range(1..u64::MAX);
        self.instance.store(instance, Ordering::SeqCst);
    }

    fn behave(&self, quirk: Quirk) {
        *self.quirk.lock().expect("list") = quirk;
    }

    /// How it behaves this time.
    fn take_quirk(&self) -> Quirk {
        let mut quirk = self.quirk.lock().expect("list");
        match *quirk {
            Quirk::Answers | Quirk::Stores => std::mem::take(&mut *quirk),
            lasting => lasting,
        }
    }

    fn stop(&self) {
        self.instance.store(0, Ordering::SeqCst);
    }
}

impl App for List {
    fn look(&self) -> io::Result<Option<Instance>> {
        Ok(NonZeroU64::new(self.instance.load(Ordering::SeqCst)).map(Instance))
    }

    fn execute(
        self: Arc<Self>,
        order: Order,
    ) -> impl Future<Output = Result<Executed, ExecuteError>> + Send + 'static {
        let line = String::from_utf8_lossy(&order.request.body).into_owned();
        let is_it = |of: &Mutex<Option<String>>| *of.lock().expect("list") == Some(line.clone());
        let dies = is_it(&self.dies_of);
        if dies {
            self.stop();
        }
        if self.breaks_off.swap(false, Ordering::SeqCst) || dies {
            let error = "the connection was lost".to_owned();
            return std::future::ready(Err(ExecuteError::Unknown(error))).left_future();
        }
        if is_it(&self.hangs_at) {
            return std::future::pending().right_future();
        }
        self.executed.fetch_add(1, Ordering::SeqCst);
        let quirk = self.take_quirk();
        self.lines.lock().expect("list").push(match quirk {
            Quirk::Stores => format!("not {line}"),
            _ if line == "which" => format!("of-{}", self.revision.load(Ordering::SeqCst)),
            _ => line,
        });
        let mut headers = http::HeaderMap::new();
        if quirk == Quirk::Noisy {
            let number = rand::random::<u64>();
            headers.insert("x-session", number.into());
        }
        let response = StoredResponse {
            status: match quirk {
                Quirk::Status(status) => status,
                _ => StatusCode::CREATED,
            },
            headers,
            body: StoredBody::Memory(match quirk {
                Quirk::Answers => Bytes::from_static(b"odd"),
                _ => Bytes::from(self.text()),
            }),
            trailers: http::HeaderMap::new(),
        };
        let executed = Executed {
            response: Some(response),
        };
        std::future::ready(Ok(executed)).left_future()
    }

    fn set_reads(&self, _instance: Option<Instance>) {}

    fn doubted(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}

impl Reads for List {
    async fn read(&self, _: Request<RequestBody>, _: Pool) -> Result<Response<AppBody>, AppError> {
        let body = Full::new(Bytes::from(self.text()));
        Ok(Response::new(
            body.map_err(|never| match never {}).boxed_unsync(),
        ))
    }

    async fn bypass(
        &self,
        request: Request<RequestBody>,
        pool: Pool,
    ) -> Result<Response<AppBody>, AppError> {
        self.read(request, pool).await
    }
}

/// Three members, none of which runs at first, and room for more that are added.
struct Group {
    folder: tempfile::TempDir,
    authority: Authority,
    members: Vec<Option<Running>>,
    /// Size of the segments of each member's log.
    segment_bytes: [u64; PLACES],
    /// And its largest size.
    log_bytes: u64,
    /// How often each member reads what it has on its disk, in seconds; 0: never.
    scrub_seconds: u64,
    /// Where the lists keep their state. With snapshots by HTTP, each has a server for them.
    state: config::state::State,
    /// Members can be added.
    grows: bool,
    /// Members that are witnesses: their lists never run.
    witnesses: Vec<usize>,
}

struct Running {
    member: Member,
    list: List,
}

fn name(number: usize) -> String {
    format!("notes-{number}")
}

impl Group {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("folder"),
            authority: Authority::new(),
            members: [const { None }; PLACES].into(),
            segment_bytes: [4 << 20; PLACES],
            log_bytes: 64 << 20,
            scrub_seconds: 1,
            state: config::state::State::default(),
            grows: true,
            witnesses: Vec::new(),
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self, number: usize) -> Config {
        let any: SocketAddr = "127.0.0.1:0".parse().expect("address");
        let who = Who::Member(name(number));
        Config {
            founding: None,
            service: "notes".into(),
            member: name(number),
            region: String::new(),
            trust_domain: "synod.local".into(),
            namespace: "local".into(),
            data: self.path(&name(number)),
            genesis: self.path("genesis.json"),
            join: self
                .grows
                .then(|| self.path(&format!("join-{number}.json"))),
            peers: self.path("peers.json"),
            tls: self
                .authority
                .issue(&self.path(&format!("tls-{number}")), &[names().of(&who)]),
            listen: config::Listen {
                http: any,
                peer: any,
                admin: any,
            },
            witness: false,
            app: config::App {
                address: "127.0.0.1:9".parse().expect("address"),
                protocol: config::Protocol::Http1,
                token: None,
                revision: config::Revision::InFile(self.path(&format!("revision-{number}"))),
            },
            log: Log {
                max_bytes: self.log_bytes,
                segment_bytes: self.segment_bytes[number - 1],
                scrub_seconds: self.scrub_seconds,
            },
            leader: config::Leader::default(),
            state: self.state.clone(),
        }
    }

    async fn start(&mut self, number: usize) {
        self.start_with(NodeHandle::new(), number).await;
    }

    async fn start_with(&mut self, node: (NodeHandle, Seat), number: usize) {
        let list = List::default();
        let mut config = self.config(number);
        if self.witnesses.contains(&number) {
            (config.witness, config.app) = (true, config::App::default());
            let started = Member::start_with(node, config, NoApp, NoApp);
            let member = started.await.expect("starts");
            self.members[number - 1] = Some(Running { member, list });
            return self.write_peers();
        }
        if self.state.snapshot.http.is_some() {
            config.app.address = snapshots::serve(list.clone()).await;
        }
        let started = Member::start_with(node, config, list.clone(), list.clone());
        let member = started.await.expect("starts");
        // The app starts behind its sidecar, as it does beside a native sidecar.
        if let Ok(revision) = std::fs::read_to_string(self.path(&format!("revision-{number}"))) {
            let revision = revision.parse().expect("a number");
            list.revision.store(revision, Ordering::SeqCst);
        }
        list.start();
        member.apply().app_started();
        self.members[number - 1] = Some(Running { member, list });
        self.write_peers();
    }

    async fn start_all(&mut self) {
        for number in 1..=3 {
            self.start(number).await;
        }
    }

    fn write_peers(&self) {
        let members = self.members.iter().enumerate().filter_map(|(at, it)| {
            Some(PeerAddress {
                name: name(at + 1),
                address: it.as_ref()?.member.addresses().peer.to_string(),
            })
        });
        let table = PeerTable {
            members: members.collect(),
        };
        table.write(&self.path("peers.json")).expect("written");
    }

    /// Makes the group of the members that run.
    async fn form(&self) {
        let mut members = Vec::new();
        for number in 1..=3 {
            let status = self.admin_status(number).await;
            assert_eq!(status.group, None);
            members.push(GenesisMember {
                id: number as u32,
                name: status.member,
                incarnation: status.incarnation,
                role: if self.witnesses.contains(&number) {
                    GenesisRole::Witness
                } else {
                    GenesisRole::Voter
                },
                region: String::new(),
            });
        }
        let file = GenesisFile::new("notes", 2, members, &policy());
        file.write_create_only(&self.path("genesis.json"))
            .expect("written");
    }

    async fn admin_status(&self, number: usize) -> crate::admin::status::Status {
        let address = self.running(number).member.addresses().admin;
        let (status, body) = http(address, Method::GET, "/status", "")
            .await
            .expect("answers");
        assert_eq!(status, StatusCode::OK);
        serde_json::from_str(&body).expect("a status")
    }

    fn running(&self, number: usize) -> &Running {
        self.members[number - 1].as_ref().expect("runs")
    }

    /// Sends to a member until it answers as expected, and says what.
    async fn ask(&self, number: usize, method: Method, body: &str, expected: StatusCode) -> String {
        let address = self.running(number).member.addresses().http;
        let mut last = None;
        let asking = async {
            loop {
                match http(address, method.clone(), "/list", body).await {
                    Ok((status, body)) if status == expected => return body,
                    other => last = Some(other),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if let Ok(answer) = tokio::time::timeout(PATIENCE, asking).await {
            return answer;
        }
        let mut all = Vec::new();
        for (index, it) in self.members.iter().enumerate() {
            if it.is_some() {
                all.push(self.admin_status(index + 1).await);
            }
        }
        panic!("member {number} said {last:?}; {all:#?}")
    }

    async fn add(&self, number: usize, line: &str) -> String {
        self.ask(number, Method::POST, line, StatusCode::CREATED)
            .await
    }

    async fn show(&self, number: usize) -> String {
        self.ask(number, Method::GET, "", StatusCode::OK).await
    }

    async fn control(&self, number: usize) -> ControlClient<Channel> {
        let files = self
            .authority
            .issue(&self.path("operator"), &[names().operator()]);
        ControlClient::new(self.channel(number, &files, Who::Operator).await)
    }

    async fn channel(&self, number: usize, files: &Tls, own: Who) -> Channel {
        let address = self.running(number).member.addresses().peer.to_string();
        let to = Who::Member(name(number));
        connect(files, &names(), own, &address, to)
            .await
            .expect("connects")
    }
}

fn policy() -> Policy {
    Policy {
        version: 1,
        classes_version: 1,
        idempotency: Some(IdempotencyPolicy {
            header: "idempotency-key".into(),
            keep_for_ms: 3_600_000,
            max_bytes: 1 << 20,
            ..IdempotencyPolicy::default()
        }),
        max_body_bytes: 1 << 20,
        queue_timeout_ms: 5_000,
        response_timeout_ms: 5_000,
        apply_timeout_ms: 5_000,
        service: "notes".into(),
        ..Policy::default()
    }
}

async fn http(
    address: SocketAddr,
    method: Method,
    path: &str,
    body: &str,
) -> Result<(StatusCode, String), String> {
    let said = |it: &dyn std::fmt::Display| it.to_string();
    let stream = TcpStream::connect(address).await.map_err(|it| said(&it))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|it| said(&it))?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "notes.example")
        .body(Full::new(Bytes::from(body.to_owned())))
        .expect("a request");
    let response = sender.send_request(request).await.map_err(|it| said(&it))?;
    let status = response.status();
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(|it| said(&it))?;
    Ok((
        status,
        String::from_utf8_lossy(&body.to_bytes()).into_owned(),
    ))
}

const HOUR_NS: u64 = 3_600_000_000_000;

fn an_hour_behind() -> Now {
    let now = clock::now();
    Now {
        wall_ns: now.wall_ns - HOUR_NS,
        ..now
    }
}

fn an_hour_ahead() -> Now {
    let now = clock::now();
    Now {
        wall_ns: now.wall_ns + HOUR_NS,
        ..now
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_through_a_member_whose_clock_is_an_hour_off_are_answered_as_any_others() {
    for clocks in [an_hour_behind, an_hour_ahead] {
        let mut group = Group::new();
        group.start_with(NodeHandle::with_clocks(clocks), 1).await;
        group.start(2).await;
        group.start(3).await;
        group.form().await;
        let node = group.running(1).member.node().clone();
        let mut status = node.status();
        let known = status.wait_for(|it| it.skewed == [MemberId(1)]);
        let known = tokio::time::timeout(PATIENCE, known).await;
        drop(known.expect("in time").expect("runs"));
        assert_eq!(group.admin_status(1).await.skewed, ["notes-1"]);
        group.show(1).await;

        let address = group.running(1).member.addresses().http;
        for line in ["a", "b", "c"] {
            let answer = http(address, Method::POST, "/list", line).await;
            assert_eq!(answer.expect("answers").0, StatusCode::CREATED);
        }
        let off = node.agreed_now().0.abs_diff(clock::now().wall_ns);
        assert!(off < 1_000_000_000, "{off}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_serve_one_list_and_a_restarted_one_has_it_again() {
    let mut group = Group::new();
    group.start_all().await;
    group.form().await;
    assert_eq!(group.add(1, "a").await, "a");
    assert_eq!(group.add(2, "b").await, "a,b");
    for number in 1..=3 {
        assert_eq!(group.show(number).await, "a,b", "member {number}");
    }
    // A log that has a group never looks at the file again (rule M5).
    std::fs::write(group.path("genesis.json"), "not a genesis").expect("written");
    // In order, and then as a crash would.
    for (number, orderly) in [(1, true), (2, false), (3, true)] {
        let running = group.members[number - 1].take().expect("runs");
        let end = if orderly {
            running.member.stop().await
        } else {
            running.member.kill().await
        };
        assert!(matches!(end, MemberEnd::Stopped), "{end}");
        let other = number % 3 + 1;
        let line = format!("without-{number}");
        let list = group.add(other, &line).await;
        assert!(list.ends_with(&line), "{list}");
        group.start(number).await;
        assert_eq!(
            group.show(number).await,
            list,
            "member {number} after its restart"
        );
        let own = tokio::time::timeout(PATIENCE, async {
            while group.running(number).list.text() != list {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        own.await.expect("its own copy has the list again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_another_members_log_cannot_hold_is_refused_and_says_whose() {
    let mut group = Group::new();
    group.segment_bytes[0] = 8 << 20;
    group.segment_bytes[2] = 8 << 20;
    group.start_all().await;
    group.form().await;
    group.add(1, "a").await;
    let change = ProposePolicyRequest {
        policy: Some(Policy {
            max_body_bytes: (1 << 20) + 1,
            ..policy()
        }),
        expected_version: 1,
        epoch: 1,
    };
    for number in [1, 3] {
        let mut control = group.control(number).await;
        let refused = control.propose_policy(change.clone()).await;
        let error = refused.expect_err("too large for one");
        assert!(error.message().contains("notes-2"), "{error}");
        assert!(error.message().contains("log.segmentBytes"), "{error}");
    }
    // Who cannot be asked holds nothing up.
    group.members[1].take().expect("runs").member.kill().await;
    let mut control = group.control(1).await;
    let done = control.propose_policy(change).await.expect("agreed");
    assert_eq!(done.into_inner().result(), Outcome::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_the_status_changes_the_policy_and_moves_the_leader() {
    let mut group = Group::new();
    group.start_all().await;
    group.form().await;
    group.add(1, "a").await;
    let mut control = group.control(1).await;
    let status = control
        .status(StatusRequest {})
        .await
        .expect("answers")
        .into_inner();
    assert_eq!(
        (status.member.as_str(), status.role.as_str()),
        ("notes-1", "Voter")
    );
    assert_eq!(status.group.len(), 32);

    let admin = group.running(1).member.addresses().admin;
    let metrics = async {
        loop {
            let page = http(admin, Method::GET, "/metrics", "").await;
            let page = page.expect("answers").1;
            let all = [
                "synod_peer_heard{peer=\"notes-3\"} 1",
                "synod_apply_duration_seconds_count ",
                "synod_paxos_leader_changes_total ",
                "synod_log_size_bytes ",
            ];
            if all.iter().all(|it| page.contains(it)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let told = tokio::time::timeout(PATIENCE, metrics);
    told.await.expect("all of them are told");

    let mut change = ProposePolicyRequest {
        policy: Some(Policy {
            max_body_bytes: 512 << 10,
            ..policy()
        }),
        expected_version: 1,
        epoch: 1,
    };
    let done = control
        .propose_policy(change.clone())
        .await
        .expect("agreed")
        .into_inner();
    assert_eq!((done.result(), done.version), (Outcome::Done, 2));
    let late = control
        .propose_policy(change.clone())
        .await
        .expect("answers")
        .into_inner();
    assert_eq!((late.result(), late.version), (Outcome::Conflict, 2));
    change.policy.as_mut().expect("policy").max_body_bytes = 1 << 40;
    let error = control.propose_policy(change).await.expect_err("too large");
    assert!(error.message().contains("log.segmentBytes") || error.message().contains("window"));

    let leader = status
        .leader
        .strip_prefix("notes-")
        .expect("leads")
        .parse()
        .expect("number");
    let to = name(leader % 3 + 1);
    let mut control = group.control(leader).await;
    let request = TransferLeadershipRequest { to: to.clone() };
    control
        .transfer_leadership(request.clone())
        .await
        .expect("moved");
    let error = control
        .transfer_leadership(request)
        .await
        .expect_err("leads no more");
    assert!(error.message().contains("does not lead"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_may_not_speak_as_a_member() {
    let mut group = Group::new();
    group.start(1).await;
    let files = group
        .authority
        .issue(&group.path("operator"), &[names().operator()]);
    let channel = group.channel(1, &files, Who::Operator).await;
    let mut peer = synod_proto::v1::peer_client::PeerClient::new(channel.clone());
    let error = peer
        .exchange(tokio_stream::empty())
        .await
        .expect_err("refused");
    assert_eq!(error.code(), tonic::Code::PermissionDenied);
    let mut handover = synod_proto::v1::handover_client::HandoverClient::new(channel);
    let error = handover
        .serve(tokio_stream::empty())
        .await
        .expect_err("refused");
    assert_eq!(error.code(), tonic::Code::PermissionDenied);
    let mut control = group.control(1).await;
    let error = control
        .acquire_stop(AcquireStopRequest::default())
        .await
        .expect_err("refused");
    assert_eq!(error.code(), tonic::Code::PermissionDenied);
}

#[tokio::test]
async fn what_keeps_a_member_from_starting_is_said_with_its_own_exit_code() {
    let group = Group::new();
    let start = |config| async move {
        let list = List::default();
        let result = Member::start(config, list.clone(), list).await;
        let error = result.map(|_| ()).expect_err("must not start");
        let text = error.to_string();
        (text, format!("{:?}", exit::code(&Err(error))))
    };
    let code = |code: u8| format!("{:?}", ExitCode::from(code));

    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let mut config = group.config(1);
    config.listen.peer = taken.local_addr().expect("address");
    let (text, exit) = start(config).await;
    assert!(text.contains("listen.peer"), "{text}");
    assert_eq!(exit, code(exit::PORT));

    let mut config = group.config(1);
    config.tls.key = group.path("missing.pem");
    let (text, exit) = start(config).await;
    assert!(text.contains("missing.pem"), "{text}");
    assert_eq!(exit, code(exit::IDENTITY));

    let mut config = group.config(1);
    config.log.segment_bytes = 1;
    let (text, exit) = start(config).await;
    assert!(text.contains("log.segmentBytes"), "{text}");
    assert_eq!(exit, code(exit::CONFIG));

    let list = List::default();
    let running = Member::start(group.config(1), list.clone(), list)
        .await
        .expect("starts");
    let (text, exit) = start(group.config(1)).await;
    assert!(text.contains("in use"), "{text}");
    assert_eq!(exit, code(exit::IN_USE));
    running.kill().await;

    let mut config = group.config(2);
    config.data = group.path(&name(1));
    let (text, exit) = start(config).await;
    assert!(text.contains("notes-1"), "{text}");
    assert_eq!(exit, code(exit::DATA));
}

#[tokio::test]
async fn a_member_that_the_genesis_does_not_name_ends_and_says_so() {
    let mut group = Group {
        grows: false,
        ..Group::new()
    };
    group.start(1).await;
    let stranger = GenesisMember {
        id: 1,
        name: name(1),
        incarnation: "1".repeat(32),
        role: GenesisRole::Voter,
        region: String::new(),
    };
    let file = GenesisFile::new("notes", 1, vec![stranger], &policy());
    let path: &Path = &group.path("genesis.json");
    file.write_create_only(path).expect("written");
    let running = group.members[0].as_mut().expect("runs");
    let ended = tokio::time::timeout(PATIENCE, running.member.ended());
    let end = ended.await.expect("ends");
    assert!(end.to_string().contains("incarnation"), "{end}");
    let code = exit::code(&Ok(end));
    assert_eq!(
        format!("{code:?}"),
        format!("{:?}", ExitCode::from(exit::GENESIS))
    );
}
