//! The admin port itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Unit;
use synod_paxos::{MemberId, Role};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::AdminParts;
use super::gauges::Gauges;
use super::health::{self, AppProbe};
use super::lifecycle::{self, Refused};
use super::observer::{LOOK_EVERY, Observer};
use super::status::{Bypass, Disagreement, Revision, Status, WAITING_ON, Waiting};
use crate::net::TcpListener;
use crate::node::{Description, NodeStatus};

/// For a client to say what it wants, also between two requests.
const PATIENCE: Duration = Duration::from_secs(30);
/// After an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Header of the pod's own probes and hooks.
pub(super) const TOKEN: HeaderName = HeaderName::from_static("synod-app-token");

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

async fn connection(
    admin: Arc<Admin>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let admin = admin.clone();
        async move { admin.answer(&request).await }
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
            found: parts.found.clone(),
            verified: parts.verified.clone(),
            poison: parts.poison.clone(),
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

    async fn answer<T>(&self, request: &Request<T>) -> Result<Response<Full<Bytes>>, Refused> {
        let path = request.uri().path();
        let hook = path.starts_with("/lifecycle/");
        // A hook is a deed, though a kubelet asks for it with GET.
        let (other, allow) = if hook {
            (Method::POST, "GET, POST")
        } else {
            (Method::HEAD, "GET, HEAD")
        };
        if ![Method::GET, other].contains(request.method()) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "ask with GET\n");
            let allow = HeaderValue::from_static(allow);
            response.headers_mut().insert(header::ALLOW, allow);
            return Ok(response);
        }
        if (hook || path.starts_with("/app-health/")) && !self.knows_token(request) {
            let words = "the header Synod-App-Token is missing or wrong\n";
            return Ok(text(StatusCode::FORBIDDEN, words));
        }
        if hook {
            return lifecycle::answer(&self.parts, request).await;
        }
        Ok(self.tell(path))
    }

    /// The pod's own probes and hooks carry the token, if there is one.
    fn knows_token<T>(&self, request: &Request<T>) -> bool {
        let shown = request.headers().get(&TOKEN).map(HeaderValue::as_bytes);
        let token = self.parts.token.as_ref();
        token.is_none_or(|it| it.is(shown.unwrap_or_default()))
    }

    fn tell(&self, path: &str) -> Response<Full<Bytes>> {
        match path {
            "/" => typed("text/html; charset=utf-8", PAGE.into()),
            "/live" => text(StatusCode::OK, "live\n"),
            "/ready" => probe(self.ready()),
            "/metrics" => self.metrics(),
            "/status" => self.status_response(),
            _ => match AppProbe::of(path) {
                Some(_) if self.parts.witness => probe(Err("a witness runs no app")),
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
        let found = self.parts.found.borrow().clone();
        let poison = self.parts.poison.borrow().clone();
        let ready = health::ready(&node, self.leaving()).is_ok();
        let state = if self.parts.witness {
            // What counts of it is its log.
            if ready { "CaughtUp" } else { "CatchingUp" }
        } else if apply.astray.is_some() && !serving {
            "Quarantined"
        } else if apply.rebuilding {
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
            ready,
            serving,
            skewed: node
                .skewed
                .iter()
                .filter_map(|voter| name(&node, *voter))
                .collect(),
            waiting_on: self.waiting(&node),
            app_starts: apply.app_starts,
            protocol: self.parts.protocol,
            protocol_in_force: node.protocol,
            base: node.base.0,
            snapshot: (self.parts.snapshot)(),
            rollback: apply.rollback.map(|it| it.0),
            bypass: self.parts.outsiders.borrow().map(Bypass::from),
            diverged: found.diverged,
            not_deterministic: found.not_deterministic,
            verified: self.parts.verified.borrow().slot().0,
            removed: node.removed.map(|it| it.0),
            undecided: poison.undecided,
            revision: Revision {
                in_force: apply.revision.in_force,
                barrier: apply.revision.barrier.0,
                unfinished: apply.revision.is_unfinished,
                running: apply.revision.running,
                due: apply.revision.due,
                newest: apply.revision.newest,
                silent: apply.revision.silent.map(|it| it.0),
                may: apply.revision.may,
                disagreement: apply
                    .disagreement
                    .map(|it| Disagreement::of(&it, apply.revision.in_force)),
                differences: found.along.differences,
            },
            skipped: poison.skipped,
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

pub(super) fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = typed("text/plain; charset=utf-8", text.into());
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
mod tests;
