//! The admin port itself.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Unit;
use synod_paxos::{MemberId, Role};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::AdminParts;
use super::gauges::Gauges;
use super::health::{self, AppProbe};
use super::observer::{LOOK_EVERY, Observer};
use super::status::{Status, WAITING_ON, Waiting};
use crate::node::{Description, NodeStatus};

/// For a client to say what it wants, also between two requests.
const PATIENCE: Duration = Duration::from_secs(30);
/// After an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

static PAGE: &str = include_str!("page.html");

struct Admin {
    parts: AdminParts,
    observer: Mutex<Observer>,
    /// What the agreement said last.
    details: watch::Sender<Option<Arc<Description>>>,
    /// What is waited for, for the metrics.
    waiting: watch::Sender<Option<&'static str>>,
}

/// Serves the admin port until `stop`.
pub async fn serve(listener: TcpListener, parts: AdminParts, stop: CancellationToken) {
    let admin = Arc::new(Admin::new(parts));
    let connections = TaskTracker::new();
    let asking = admin.clone().ask();
    connections.spawn(stop.clone().run_until_cancelled_owned(asking));
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = look.tick() => admin.look(),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (admin, stop) = (admin.clone(), stop.clone());
                    connections.spawn(async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            () = connection(admin, stream) => {}
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the admin port could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    connections.close();
    connections.wait().await;
}

async fn connection(admin: Arc<Admin>, stream: TcpStream) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = admin.answer(&request);
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection to the admin port ended early");
    }
}

// === impl Admin ===

impl Admin {
    fn new(mut parts: AdminParts) -> Self {
        let (waiting, waits_for) = watch::channel(None);
        let (details, described) = watch::channel(None);
        parts.registry.register_collector(Box::new(Gauges {
            node: parts.node.clone(),
            apply: parts.apply.clone(),
            details: described,
            waiting: waits_for,
            log_max_bytes: parts.log_max_bytes,
        }));
        parts.registry.register_with_unit(
            "apply_duration",
            "Time that the app takes for an ordered request",
            Unit::Seconds,
            parts.apply_durations.clone(),
        );
        Self {
            parts,
            observer: Mutex::default(),
            details,
            waiting,
        }
    }

    /// Asks the agreement about itself, now and then.
    async fn ask(self: Arc<Self>) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            if let Some(description) = self.parts.agreement.describe().await {
                self.details.send_replace(Some(Arc::new(description)));
            }
        }
    }

    fn look(&self) {
        let node = self.parts.node.borrow().clone();
        let details = self.details.borrow().clone();
        let mut observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        observer.look(Instant::now(), &node, details.as_deref());
    }

    /// What is waited for now.
    fn waiting(&self, node: &NodeStatus) -> Option<Waiting> {
        let details = self.details.borrow().clone();
        let observer = self.observer.lock().unwrap_or_else(PoisonError::into_inner);
        let agreement = observer.waiting(Instant::now(), node, details.as_deref());
        agreement.or_else(|| (self.parts.apply_waits)())
    }

    fn answer<T>(&self, request: &Request<T>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        let signals = path == "/lifecycle/app-started" && request.method() == Method::POST;
        if !reads && !signals {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "ask with GET\n");
            let allow = HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(header::ALLOW, allow);
            return response;
        }
        match path {
            "/" => typed("text/html; charset=utf-8", PAGE.into()),
            "/live" => text(StatusCode::OK, "live\n"),
            "/ready" => probe(self.ready()),
            "/metrics" => self.metrics(),
            "/status" => self.status_response(),
            "/lifecycle/app-started" => {
                (self.parts.app_started)();
                text(StatusCode::OK, "noted\n")
            }
            _ => match AppProbe::of(path) {
                Some(asked) => {
                    let node = self.parts.node.borrow();
                    let apply = self.parts.apply.borrow();
                    let may_stop = &self.parts.may_stop;
                    probe(health::app(asked, &node, &apply, self.leaving(), may_stop))
                }
                None => text(StatusCode::NOT_FOUND, "there is nothing here\n"),
            },
        }
    }

    fn leaving(&self) -> bool {
        self.parts.leaving.is_cancelled()
    }

    fn ready(&self) -> Result<(), &'static str> {
        health::ready(&self.parts.node.borrow(), self.leaving())
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let waiting = self.waiting(&self.parts.node.borrow());
        let on = waiting.and_then(|it| WAITING_ON.into_iter().find(|on| *on == it.on));
        self.waiting.send_replace(on);
        let mut page = String::new();
        if prometheus_client::encoding::text::encode(&mut page, &self.parts.registry).is_err() {
            return text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the metrics cannot be written\n",
            );
        }
        typed(
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            page.into(),
        )
    }

    fn status_response(&self) -> Response<Full<Bytes>> {
        match serde_json::to_vec_pretty(&self.status()) {
            Ok(mut json) => {
                json.push(b'\n');
                typed("application/json", json.into())
            }
            Err(_) => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the status cannot be written\n",
            ),
        }
    }

    fn status(&self) -> Status {
        let node = self.parts.node.borrow().clone();
        let apply = self.parts.apply.borrow().clone();
        let log = self.parts.log.get();
        let formed = node.group.is_some();
        // Apply begins a moment before the agreement publishes that there is a group.
        let serving = apply.serving && formed;
        let state = if apply.rebuilding {
            "Rebuilding"
        } else if serving {
            "CaughtUp"
        } else {
            "CatchingUp"
        };
        Status {
            service: self.parts.service.clone(),
            member: self.parts.member.clone(),
            id: formed.then_some(node.member.0),
            incarnation: log
                .map(|log| log.incarnation.to_string())
                .unwrap_or_default(),
            boot: log.map_or(0, |log| log.boot.0),
            group: node.group.map(|group| group.to_string()),
            epoch: node.epoch.0,
            role: role(&node).to_owned(),
            leader: node.leader.and_then(|leader| name(&node, leader)),
            ballot: node.promised.to_string(),
            last: node.last.0,
            commit: node.commit.0,
            applied: apply.applied.0,
            policy_version: self.parts.policy.borrow().version,
            state: state.to_owned(),
            ready: health::ready(&node, self.leaving()).is_ok(),
            serving,
            skewed: node
                .skewed
                .iter()
                .filter_map(|voter| name(&node, *voter))
                .collect(),
            waiting_on: self.waiting(&node),
            app_starts: apply.app_starts,
            protocol: self.parts.protocol,
        }
    }
}

fn name(node: &NodeStatus, id: MemberId) -> Option<String> {
    let configuration = node.configuration.as_ref()?;
    let member = configuration
        .members
        .iter()
        .find(|member| member.id == id)?;
    Some(member.name.clone())
}

fn role(node: &NodeStatus) -> &'static str {
    let members = node
        .configuration
        .iter()
        .flat_map(|configuration| &configuration.members);
    match members
        .into_iter()
        .find(|member| member.id == node.member)
        .map(|member| member.role)
    {
        Some(Role::Voter) => "Voter",
        Some(Role::Observer) => "Observer",
        Some(Role::Witness) => "Witness",
        None => "",
    }
}

fn probe(result: Result<(), &'static str>) -> Response<Full<Bytes>> {
    match result {
        Ok(()) => text(StatusCode::OK, "ok\n"),
        Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, reason),
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = typed(
        "text/plain; charset=utf-8",
        Bytes::from_static(text.as_bytes()),
    );
    *response.status_mut() = status;
    response
}

fn typed(content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    use prometheus_client::metrics::histogram::Histogram;
    use prometheus_client::registry::Registry;
    use synod_paxos::{
        Boot, Configuration, Epoch, GroupId, Incarnation, Member, PeerStatus, Quorums, Slot,
    };
    use synod_proto::v1::Policy;

    use super::*;
    use crate::admin::LogIdentity;
    use crate::admin::status::Waiting;
    use crate::apply::ApplyStatus;
    use crate::node::NodeHandle;

    struct Bench {
        admin: Admin,
        node: watch::Sender<NodeStatus>,
        apply: watch::Sender<ApplyStatus>,
        signals: Arc<AtomicU32>,
    }

    fn bench() -> Bench {
        let (node, node_receiver) = watch::channel(NodeStatus::default());
        let (apply, apply_receiver) = watch::channel(ApplyStatus::default());
        let (_, policy) = watch::channel(Arc::new(Policy {
            version: 4,
            ..Policy::default()
        }));
        let mut registry = Registry::with_prefix("synod");
        let ingress = crate::ingress::Metrics::register(&mut registry);
        ingress.answered(
            "ordered",
            &"notes".into(),
            StatusCode::CREATED,
            std::time::Duration::ZERO,
        );
        let durations = Histogram::new([0.001, 1.0]);
        durations.observe(0.5);
        let signals = Arc::new(AtomicU32::new(0));
        let counted = signals.clone();
        let log = LogIdentity {
            incarnation: Incarnation(0xab),
            boot: Boot(3),
        };
        let parts = AdminParts {
            service: "notes".into(),
            member: "notes-a".into(),
            log: Arc::new(OnceLock::from(log)),
            protocol: [1, 1],
            node: node_receiver,
            apply: apply_receiver,
            policy,
            apply_waits: Box::new(|| {
                Some(Waiting {
                    on: "app".into(),
                    slot: 10,
                    age_ms: 5,
                })
            }),
            may_stop: Box::new(|_| true),
            app_started: Box::new(move || {
                counted.fetch_add(1, Ordering::Relaxed);
            }),
            apply_durations: durations,
            registry,
            agreement: NodeHandle::new().0,
            log_max_bytes: 64 << 20,
            leaving: CancellationToken::new(),
        };
        Bench {
            admin: Admin::new(parts),
            node,
            apply,
            signals,
        }
    }

    fn formed(node: &mut NodeStatus) {
        node.group = Some(GroupId([0x5f; 16]));
        node.member = MemberId(1);
        node.leader = Some(MemberId(2));
        node.epoch = Epoch(1);
        node.log_counts = true;
        (node.last, node.commit) = (Slot(12), Slot(11));
        let member = |id: u32, role| Member {
            id: MemberId(id),
            name: format!("notes-{id}"),
            incarnation: Incarnation(id.into()),
            role,
            region: String::new(),
        };
        node.configuration = Some(Arc::new(Configuration {
            epoch: Epoch(1),
            members: vec![member(1, Role::Voter), member(2, Role::Voter)],
            quorums: Quorums::Majority,
            first_leader: MemberId(0),
        }));
    }

    impl Bench {
        async fn ask(&self, method: Method, path: &str) -> (u16, String) {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .body(())
                .unwrap();
            let response = self.admin.answer(&request);
            let status = response.status().as_u16();
            let body = http_body_util::BodyExt::collect(response.into_body()).await;
            let body = body.unwrap().to_bytes();
            (status, String::from_utf8(body.to_vec()).unwrap())
        }

        async fn get(&self, path: &str) -> (u16, String) {
            self.ask(Method::GET, path).await
        }
    }

    #[tokio::test]
    async fn before_genesis_a_member_is_alive_and_not_ready() {
        let bench = bench();
        assert_eq!(bench.get("/live").await.0, 200);
        let (status, why) = bench.get("/ready").await;
        assert_eq!(status, 503);
        assert!(why.contains("has not been formed"), "{why}");
        let (_, json) = bench.get("/status").await;
        let status: Status = serde_json::from_str(&json).unwrap();
        assert_eq!((status.id, status.group, status.ready), (None, None, false));
        assert_eq!(status.boot, 3);
        assert_eq!(status.incarnation, format!("{:032x}", 0xab));
    }

    #[tokio::test]
    async fn the_status_tells_names_slots_and_what_is_waited_for() {
        let bench = bench();
        bench.node.send_modify(formed);
        bench.apply.send_modify(|apply| {
            apply.applied = Slot(9);
            apply.rebuilding = true;
        });
        bench.admin.look();
        bench.admin.look();
        let (_, json) = bench.get("/status").await;
        let status: Status = serde_json::from_str(&json).unwrap();
        assert_eq!(status.leader.as_deref(), Some("notes-2"));
        assert_eq!(
            (status.role.as_str(), status.state.as_str()),
            ("Voter", "Rebuilding")
        );
        assert_eq!((status.last, status.commit, status.applied), (12, 11, 9));
        assert_eq!(status.policy_version, 4);
        assert_eq!(status.group.as_deref(), Some("5f5f5f5f"));
        let waiting = status.waiting_on.unwrap();
        assert_eq!((waiting.on.as_str(), waiting.slot), ("quorum", 12));
        bench.node.send_modify(|node| node.commit = Slot(12));
        bench.admin.look();
        let (_, json) = bench.get("/status").await;
        let status: Status = serde_json::from_str(&json).unwrap();
        assert_eq!(status.waiting_on.unwrap().on, "app");
        assert_eq!(bench.get("/ready").await.0, 200);
        bench.admin.parts.leaving.cancel();
        assert_eq!(bench.get("/ready").await.0, 503);
    }

    #[tokio::test]
    async fn the_app_is_reported_dead_only_while_it_must_be_stopped() {
        let bench = bench();
        assert_eq!(bench.get("/app-health/notes/livez").await.0, 200);
        let instance = crate::app::Instance(std::num::NonZeroU64::MIN);
        bench
            .apply
            .send_modify(|apply| apply.condemned = Some(instance));
        assert_eq!(bench.get("/app-health/notes/livez").await.0, 503);
    }

    #[tokio::test]
    async fn the_start_signal_is_taken_by_get_and_post_and_passed_on() {
        let bench = bench();
        assert_eq!(
            bench.ask(Method::GET, "/lifecycle/app-started").await.0,
            200
        );
        assert_eq!(
            bench.ask(Method::POST, "/lifecycle/app-started").await.0,
            200
        );
        assert_eq!(bench.signals.load(Ordering::Relaxed), 2);
        assert_eq!(bench.ask(Method::POST, "/ready").await.0, 405);
        assert_eq!(bench.get("/nothing").await.0, 404);
    }

    #[tokio::test]
    async fn metrics_are_open_metrics_with_our_names() {
        let bench = bench();
        well_formed(&bench.get("/metrics").await.1);
        bench.node.send_modify(formed);
        let mut details = Description {
            leader_changes: 3,
            log_bytes: 4096,
            ..Description::default()
        };
        details.counters.elections = 2;
        details.status.last = Slot(12);
        details.status.peers = vec![PeerStatus {
            member: MemberId(2),
            heard: true,
            rtt_ns: 1_500_000,
            acknowledged: Some(Slot(10)),
            in_flight_bytes: 77,
            ..PeerStatus::default()
        }];
        bench.admin.details.send_replace(Some(Arc::new(details)));
        bench.apply.send_modify(|apply| {
            apply.applied = Slot(9);
            apply.app_starts = 2;
        });
        let (status, page) = bench.get("/metrics").await;
        assert_eq!(status, 200);
        well_formed(&page);
        for line in [
            "synod_node_commit_slot 11",
            "synod_apply_lag_slots 2",
            "synod_node_leads 0",
            "synod_node_waiting_on{on=\"app\"} 1",
            "synod_node_waiting_on{on=\"quorum\"} 0",
            "synod_log_size_bytes 4096",
            "synod_log_max_bytes 67108864",
            "synod_apply_duration_seconds_bucket{le=\"1.0\"} 1",
            "synod_paxos_elections_total 2",
            "synod_paxos_leader_changes_total 3",
            "synod_peer_round_trip_seconds{peer=\"notes-2\"} 0.0015",
            "synod_peer_log_lag_slots{peer=\"notes-2\"} 2",
            "synod_peer_in_flight_bytes{peer=\"notes-2\"} 77",
            "synod_peer_heard{peer=\"notes-2\"} 1",
            "synod_app_starts_total 2",
            "synod_ingress_requests_total{class=\"ordered\",route=\"notes\",status=\"201\"} 1",
            "# UNIT synod_ingress_duration_seconds seconds",
            "# EOF",
        ] {
            assert!(page.contains(line), "{line} is missing in\n{page}");
        }
    }

    /// Each sample is of a family that was described before, once, with a unit that its name ends
    /// with; each has one value, and no two are of the same name and labels.
    fn well_formed(page: &str) {
        let mut families = std::collections::BTreeMap::new();
        let mut samples = std::collections::BTreeSet::new();
        assert!(page.ends_with("# EOF\n"), "{page}");
        for line in page.lines().filter(|it| *it != "# EOF") {
            if let Some(comment) = line.strip_prefix("# ") {
                let words: Vec<&str> = comment.splitn(3, ' ').collect();
                match words[..] {
                    ["TYPE", name, kind] => {
                        assert!(families.insert(name, kind).is_none(), "{name} comes twice");
                    }
                    ["UNIT", name, unit] => assert!(name.ends_with(unit), "{line}"),
                    ["HELP", name, _] => assert!(name.starts_with("synod_"), "{line}"),
                    _ => panic!("{line}"),
                }
                continue;
            }
            let (sample, value) = line.rsplit_once(' ').expect(line);
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(samples.insert(sample), "{sample} comes twice");
            let name = sample.split('{').next().unwrap_or(sample);
            let of = |(family, kind): (&&str, &&str)| match (name.strip_prefix(*family), *kind) {
                (Some(""), "gauge") | (Some("_total"), "counter") => true,
                (Some(end), "histogram") => ["_sum", "_count", "_bucket"].contains(&end),
                _ => false,
            };
            assert!(families.iter().any(of), "{line} is of no family");
        }
    }

    #[tokio::test]
    async fn a_group_that_was_formed_just_now_is_not_waited_for() {
        let bench = bench();
        bench.admin.look();
        bench.apply.send_modify(|apply| apply.serving = true);
        let status = bench.admin.status();
        assert_eq!(status.waiting_on.expect("waits").on, "genesis");
        assert_eq!(
            (status.state.as_str(), status.serving),
            ("CatchingUp", false)
        );
        bench.node.send_modify(formed);
        let status = bench.admin.status();
        assert_eq!(status.state, "CaughtUp");
        assert_ne!(
            status.waiting_on.map(|it| it.on).as_deref(),
            Some("genesis")
        );
    }

    #[tokio::test]
    async fn the_port_serves_the_page_until_it_is_stopped() {
        let bench = bench();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let served = tokio::spawn(serve(listener, bench.admin.parts, stop.clone()));
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        let connection = tokio::spawn(connection);
        let request = Request::get("/")
            .header("host", "a")
            .body(Full::new(Bytes::new()))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(
            response.headers()[header::CONTENT_TYPE],
            "text/html; charset=utf-8"
        );
        let page = http_body_util::BodyExt::collect(response.into_body())
            .await
            .unwrap();
        assert_eq!(page.to_bytes(), PAGE.as_bytes());
        stop.cancel();
        served.await.unwrap();
        connection.await.unwrap().unwrap();
    }
}
