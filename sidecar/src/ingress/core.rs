//! One request from its head to its response: checks, class, and on to the way it is served.
//!
//! In: a request, of a client or of another member. Out: its response. It calls the backend
//! through the ways [`super::ordered`], [`super::reads`], [`super::outcome`] and
//! [`super::upgrade`].

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderValue};
use http::request;
use http::uri::{Authority, PathAndQuery};
use http::{Method, Request, Response, Version};
use synod_paxos::{GroupId, MemberId, Role, Slot};
use synod_proto::v1::Policy;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::backend::Backend;
use super::backlog::Backlog;
use super::body::{RequestBody, ResponseBody};
use super::capture::{BodyPatience, Captured, capture};
use super::guard::Watched;
use super::handover::PeerChannels;
use super::headers::{self, SYNOD_MEMBER, SYNOD_MIN_SLOT, SYNOD_SLOT};
use super::metrics::{Metrics, NO_CLASS};
use super::probes::Probes;
use super::problem::Problem;
use super::room::{Room, Source};
use super::route::{Class, Level, Refusal, Routes};
use super::{Limits, Parts};

/// Below it everything is ours.
const OUR_PATHS: &str = "/.well-known/synod/";
/// A request is classified again at most so often.
const MAX_CLASSIFICATIONS: usize = 4;
/// A copy that is behind the others for so long has not only heard of it sooner than it could execute: who
/// asks gets an answer sooner from another, the way there and back included.
const LAG: Duration = Duration::from_millis(100);

/// All that serving needs.
pub(super) struct Core<B> {
    pub(super) backend: B,
    pub(super) peers: Arc<dyn PeerChannels>,
    pub(super) member: String,
    member_value: HeaderValue,
    pub(super) limits: Limits,
    pub(super) metrics: Metrics,
    pub(super) probes: Probes,
    pub(super) app: Option<SocketAddr>,
    /// There is never an app here.
    pub(super) witness: bool,
    pub(super) room: Room,
    pub(super) backlog: Backlog,
    /// Of this copy alone: what another has executed and it has not.
    lag: Backlog,
    /// Places for streams and upgrades.
    streams: Arc<Semaphore>,
    routes: RwLock<Arc<Routes>>,
    no_route: Arc<str>,
}

/// A request as the app shall see it, and what the client told us beside it.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    /// Origin form.
    pub(super) target: PathAndQuery,
    /// End-to-end, `Host` and forwarding fields included, ours taken out.
    pub(super) headers: HeaderMap,
    /// `Synod-Min-Slot` as the client sent it.
    pub(super) min_slot: Option<HeaderValue>,
    /// It came from another member and goes nowhere else.
    pub(super) handed_over: bool,
    /// Where its body comes from.
    pub(super) source: Arc<Source>,
}

/// A connection of a client.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) client: IpAddr,
    pub(super) source: Arc<Source>,
    /// `None` for HTTP/2.
    pub(super) watched: Option<Arc<Watched>>,
}

/// The body of a request, on its way or read whole.
#[derive(Debug)]
pub(super) enum Payload {
    Stream(RequestBody),
    Whole(Captured),
}

/// What a way of serving came to.
pub(super) enum Step {
    Done(Box<Response<ResponseBody>>),
    /// The policy has changed meanwhile, and nothing was done: classify again.
    Reclassify,
}

/// The limits that the policy sets, with defaults where it is silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) queue: Duration,
    pub(super) response: Duration,
    pub(super) max_body_bytes: u64,
}

// === impl Times ===

impl Times {
    pub(super) fn of(policy: &Policy) -> Self {
        let or = |value, default| if value == 0 { default } else { value };
        Self {
            queue: Duration::from_millis(or(policy.queue_timeout_ms, 10_000)),
            response: Duration::from_millis(or(policy.response_timeout_ms, 35_000)),
            max_body_bytes: or(policy.max_body_bytes, 16 << 20),
        }
    }
}

// === impl Payload ===

impl Payload {
    /// A body for one attempt. What was on its way is gone afterwards. Fails when it is on disk and
    /// cannot be opened.
    pub(super) async fn attempt(&mut self) -> io::Result<RequestBody> {
        match self {
            Self::Stream(body) => Ok(std::mem::replace(body, RequestBody::Empty)),
            Self::Whole(whole) => whole.body().await,
        }
    }

    /// All of it, when it was read whole.
    pub(super) fn as_whole(&self) -> Option<&Captured> {
        match self {
            Self::Stream(_) => None,
            Self::Whole(whole) => Some(whole),
        }
    }
}

// === impl Core ===

impl<B: Backend> Core<B> {
    pub(super) fn new(parts: Parts<B>) -> Self {
        let policy = parts.backend.policy().borrow().clone();
        Self {
            member_value: headers::quoted(&parts.member),
            member: parts.member,
            room: Room::new(&parts.limits, &parts.spool, &parts.metrics),
            backlog: Backlog::default(),
            lag: Backlog::default(),
            streams: Arc::new(Semaphore::new(parts.limits.open_streams)),
            limits: parts.limits,
            metrics: parts.metrics,
            probes: Probes::default(),
            app: parts.app,
            witness: parts.witness,
            routes: RwLock::new(Arc::new(Routes::compile(policy))),
            backend: parts.backend,
            peers: parts.peers,
            no_route: "".into(),
        }
    }

    /// Serves a client.
    pub(super) async fn handle(
        &self,
        request: Request<RequestBody>,
        connection: &Connection,
    ) -> Response<ResponseBody> {
        let started = Instant::now();
        let _held = self.metrics.request();
        let mut class = None;
        let answer = self.answer_client(request, connection, &mut class).await;
        let response = answer.unwrap_or_else(|problem| self.problem(&problem));
        let (level, route) = match &class {
            Some(class) => (class.level.as_str(), &class.route),
            None => (NO_CLASS, &self.no_route),
        };
        self.metrics
            .answered(level, route, response.status(), started.elapsed());
        response
    }

    async fn answer_client(
        &self,
        request: Request<RequestBody>,
        connection: &Connection,
        seen: &mut Option<Class>,
    ) -> Result<Response<ResponseBody>, Problem> {
        let (mut parts, body) = request.into_parts();
        if parts.method == Method::CONNECT {
            return Err(Problem::connect());
        }
        let target = normalise_target(&mut parts)?;
        let expectation = check_expectation(&parts.headers);
        if self.group().is_none() {
            return Err(Problem::no_group());
        }
        let min_slot = parts.headers.remove(&SYNOD_MIN_SLOT);
        let upgrade = super::upgrade::wanted(&mut parts);
        headers::strip_hop_by_hop(&mut parts.headers);
        headers::strip_reserved(&mut parts.headers);
        parts.headers.remove(header::CONTENT_LENGTH);
        parts.headers.remove(header::EXPECT);
        headers::add_forwarded(&mut parts.headers, connection.client);
        let call = Call {
            method: parts.method,
            target,
            headers: parts.headers,
            min_slot,
            handed_over: false,
            source: connection.source.clone(),
        };
        if call.target.path().starts_with(OUR_PATHS) {
            expectation?;
            return self.our_own(&call).await;
        }
        let routes = self.routes();
        let class = classify(&routes, &call)?;
        *seen = Some(class.clone());
        let refused = |problem: Problem| match class.level {
            Level::Ordered => problem.of_ordered(),
            _ => problem,
        };
        expectation.map_err(refused)?;
        if let Some(upgrade) = upgrade {
            return match connection.watched.as_ref().filter(|_| class.streaming) {
                Some(watched) => self.upgrade(&call, upgrade, watched).await,
                None => Err(refused(Problem::upgrade_refused())),
            };
        }
        self.dispatch(&call, Payload::Stream(body), routes, class, seen)
            .await
    }

    /// Serves another member: reads only, and nothing is handed on.
    pub(super) async fn handle_handed_over(
        &self,
        call: &Call,
        body: RequestBody,
    ) -> Result<Response<ResponseBody>, Problem> {
        if call.target.path().starts_with(OUR_PATHS) {
            return self.our_own(call).await;
        }
        let routes = self.routes();
        let class = classify(&routes, call)?;
        self.dispatch(call, Payload::Stream(body), routes, class, &mut None)
            .await
    }

    async fn our_own(&self, call: &Call) -> Result<Response<ResponseBody>, Problem> {
        if call.target.path() != super::outcome::PATH {
            return Err(Problem::not_found());
        }
        self.outcome(call).await
    }

    async fn dispatch(
        &self,
        call: &Call,
        mut payload: Payload,
        mut routes: Arc<Routes>,
        mut class: Class,
        seen: &mut Option<Class>,
    ) -> Result<Response<ResponseBody>, Problem> {
        for _ in 0..MAX_CLASSIFICATIONS {
            let ordered = class.level == Level::Ordered;
            if self.backend.node_status().borrow().removed.is_some() {
                let gone = Problem::unavailable("this member is in the group no more: ask another");
                return Err(if ordered { gone.of_ordered() } else { gone });
            }
            if ordered && call.handed_over {
                return Err(Problem::unavailable(
                    "the members' policies differ at the moment",
                ));
            }
            let step = if ordered {
                let step = self.ordered(call, &mut payload, &routes, &class).await;
                step.map_err(Problem::of_ordered)?
            } else {
                self.read(call, &mut payload, &routes, &class).await?
            };
            if let Step::Done(response) = step {
                return Ok(*response);
            }
            routes = self.routes();
            class = classify(&routes, call)?;
            *seen = Some(class.clone());
        }
        Err(Problem::not_ordered(
            "the policy kept changing while the request waited",
        ))
    }

    /// Reads a body whole, unless it was already.
    pub(super) async fn whole<'a>(
        &self,
        call: &Call,
        payload: &'a mut Payload,
        times: &Times,
    ) -> Result<&'a Captured, Problem> {
        if let Payload::Stream(body) = payload {
            let body = std::mem::replace(body, RequestBody::Empty);
            let patience = BodyPatience {
                gap: self.limits.body_gap,
                total: self.limits.body_total,
                floor: self.limits.body_floor_bytes,
            };
            let most = times.max_body_bytes;
            let whole = capture(body, most, patience, &self.room, &call.source).await?;
            *payload = Payload::Whole(whole);
        }
        match payload {
            Payload::Whole(whole) => Ok(whole),
            Payload::Stream(_) => unreachable!("it was just read whole"),
        }
    }

    /// The routes of the policy that apply has published last.
    pub(super) fn routes(&self) -> Arc<Routes> {
        let policy = self.backend.policy().borrow().clone();
        {
            let routes = self
                .routes
                .read()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if Arc::ptr_eq(routes.policy(), &policy) {
                return routes.clone();
            }
        }
        let compiled = Arc::new(Routes::compile(policy));
        let mut routes = self
            .routes
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        routes.clone_from(&compiled);
        compiled
    }

    /// A place among the streams that may be open to the app. They may stay for ever, so nobody waits
    /// for one.
    pub(super) fn stream_place(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let place = self.streams.clone().try_acquire_owned();
        place.map_err(|_| Problem::too_many_streams(self.limits.open_streams))
    }

    pub(super) fn group(&self) -> Option<GroupId> {
        self.backend.node_status().borrow().group
    }

    /// This member's copy answers clients.
    pub(super) fn serves(&self) -> bool {
        self.backend.apply_status().borrow().serving
    }

    /// This member's copy does not answer now: it does not serve, or its state is being saved while another
    /// does.
    pub(super) fn stands_still(&self) -> bool {
        let saving = self.backend.apply_status().borrow().saving;
        !self.serves() || (saving && self.another_serves())
    }

    /// Others answer sooner than this member's copy: it stands still, or has fallen behind them, as one does
    /// that has stood still before.
    pub(super) fn others_are_better(&self) -> bool {
        self.stands_still() || (self.lags() && self.another_serves())
    }

    fn lags(&self) -> bool {
        let applied = self.backend.apply_status().borrow().applied;
        self.lag.age(self.backend.executed(), applied) >= LAG
    }

    /// Without taking a turn of those who are asked.
    fn another_serves(&self) -> bool {
        let status = self.backend.node_status().borrow();
        status.serving.iter().any(|id| *id != status.member)
    }

    /// Other members whose copy answers clients, in an order that changes from call to call.
    pub(super) fn others_that_serve(&self) -> Vec<MemberId> {
        let status = self.backend.node_status().borrow();
        let own = status.member;
        let mut others: Vec<_> = status
            .serving
            .iter()
            .copied()
            .filter(|id| *id != own)
            .collect();
        if others.len() > 1 {
            let turn = self.probes.turn() % others.len();
            others.rotate_left(turn);
        }
        others
    }

    /// Other members that may have stored what their copies answered, whether these serve now or not.
    pub(super) fn others_with_a_copy(&self) -> BTreeSet<MemberId> {
        let status = self.backend.node_status().borrow();
        let members = status.configuration.iter().flat_map(|it| &it.members);
        let copies = members.filter(|it| it.role != Role::Witness);
        let others = copies.map(|it| it.id).chain(status.serving.iter().copied());
        others.filter(|id| *id != status.member).collect()
    }

    /// A response with our header fields, and with no others of our names.
    pub(super) fn sign(&self, headers: &mut HeaderMap, slot: Slot) {
        headers.insert(SYNOD_SLOT.clone(), headers::slot_value(slot, self.group()));
        headers.insert(SYNOD_MEMBER.clone(), self.member_value.clone());
    }

    /// The highest slot sent to this member's app (rule R6).
    pub(super) fn sent(&self) -> Slot {
        self.backend.apply_status().borrow().sent
    }

    /// The state that an answer of our own reflects.
    pub(super) fn applied(&self) -> Slot {
        self.backend.apply_status().borrow().applied
    }

    /// An answer of our own.
    pub(super) fn problem(&self, problem: &Problem) -> Response<ResponseBody> {
        let mut response = problem.response();
        let slot = problem.slot.unwrap_or_else(|| self.applied());
        self.sign(response.headers_mut(), slot);
        response
    }

    /// An answer to bytes that never became a request: the last one on its connection. That
    /// to a HEAD says how long it would be.
    pub(super) fn raw_problem(&self, problem: &Problem, bodiless: bool) -> Vec<u8> {
        self.metrics.refused(&self.no_route, problem.status);
        let body = problem.body();
        let mut response = self.problem(problem);
        let fields = response.headers_mut();
        fields.insert(header::CONTENT_LENGTH, body.len().into());
        fields.insert(header::CONNECTION, HeaderValue::from_static("close"));
        let mut raw = format!("HTTP/1.1 {}\r\n", problem.status).into_bytes();
        for (name, value) in fields.iter() {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                raw.extend_from_slice(part);
            }
        }
        raw.extend_from_slice(b"\r\n");
        if !bodiless {
            raw.extend_from_slice(&body);
        }
        raw
    }
}

fn classify(routes: &Routes, call: &Call) -> Result<Class, Problem> {
    routes
        .classify(&call.method, call.target.path())
        .map_err(|refusal| match refusal {
            Refusal::Connect => Problem::connect(),
            Refusal::Trace => Problem::method_not_allowed("TRACE is not allowed"),
            Refusal::AmbiguousPath => Problem::ambiguous_path(refusal.to_string()),
        })
}

fn check_expectation(headers: &HeaderMap) -> Result<(), Problem> {
    let known = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if headers.get_all(header::EXPECT).iter().all(known) {
        Ok(())
    } else {
        Err(Problem::expectation_failed())
    }
}

/// Brings a request's target to origin form and its host into `Host` (RFC 9112, 3.2 and 3.3). The
/// host of an absolute form counts more than `Host`.
fn normalise_target(parts: &mut request::Parts) -> Result<PathAndQuery, Problem> {
    let uri = std::mem::take(&mut parts.uri).into_parts();
    let http_2 = parts.version == Version::HTTP_2;
    match (&uri.scheme, &uri.authority) {
        (Some(scheme), Some(_)) if !matches!(scheme.as_str(), "http" | "https") => {
            return Err(Problem::malformed("the target is not an http URI"));
        }
        (None, Some(_)) if !http_2 => {
            return Err(Problem::malformed("the target is neither a path nor a URI"));
        }
        (_, Some(authority)) => {
            let value = HeaderValue::try_from(authority.as_str())
                .map_err(|_| Problem::malformed("the target has a malformed host"))?;
            let differs = |host: &HeaderValue| {
                !host
                    .as_bytes()
                    .eq_ignore_ascii_case(authority.as_str().as_bytes())
            };
            if http_2 && parts.headers.get_all(header::HOST).iter().any(differs) {
                return Err(Problem::malformed("Host and :authority differ"));
            }
            parts.headers.insert(header::HOST, value);
        }
        (_, None) => {}
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if parts.version == Version::HTTP_10 => {
            parts
                .headers
                .insert(header::HOST, HeaderValue::from_static("localhost"));
        }
        (Some(host), None) if is_host(host) => {}
        _ => {
            return Err(Problem::malformed(
                "there must be exactly one valid Host field",
            ));
        }
    }
    match uri.path_and_query {
        // As a URI may have it behind its host; no path begins so.
        Some(path) if path.as_str().starts_with('?') => {
            PathAndQuery::try_from(format!("/{}", path.as_str()))
                .map_err(|_| Problem::malformed("the target is not a path"))
        }
        Some(path) if path.path().starts_with('/') => Ok(path),
        Some(path) if path.as_str() == "*" && parts.method == Method::OPTIONS => Ok(path),
        None if uri.authority.is_some() => Ok(PathAndQuery::from_static("/")),
        _ => Err(Problem::malformed("the target is not a path")),
    }
}

/// A host with an optional port, or nothing at all; no user, no path, no list.
fn is_host(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    // The colons of an IPv6 address are inside of its brackets.
    let until = if bytes.starts_with(b"[") { b']' } else { b':' };
    let found = bytes.iter().position(|b| *b == until);
    let end = found.map_or(bytes.len(), |at| at + usize::from(until == b']'));
    let (host, port) = match &bytes[end..] {
        [] => (bytes, &b""[..]),
        [b':', port @ ..] => (&bytes[..end], port),
        _ => return false,
    };
    bytes.is_empty()
        || (!host.is_empty()
            && !host[1..].contains(&b'[')
            && !bytes.iter().any(|b| b"@,".contains(b))
            && port.iter().all(u8::is_ascii_digit)
            && Authority::try_from(bytes).is_ok())
}
