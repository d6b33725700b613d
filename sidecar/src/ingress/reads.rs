//! Requests that do not take a slot: reads of agreed state, and what is none of our business.
//!
//! In: a request. Out: the app's response, of a copy whose state is new enough. It calls the
//! agreement for a read index, apply to reach it, the app, and other members where this copy
//! cannot serve.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use synod_paxos::Slot;
use tokio::time::{Instant, timeout_at};

use super::backend::{AppBody, AppError, Backend};
use super::body::{BoxError, ResponseBody};
use super::capture::Captured;
use super::core::{Call, Core, Payload, Step, Times};
use super::handover;
use super::headers::{self, Token};
use super::probes::Moment;
use super::problem::Problem;
use super::route::{Class, Level, Routes};
use crate::app::Pool;

/// After this time a member that lags behind asks another one.
const PATIENCE: Duration = Duration::from_secs(1);
/// Responses up to this size are held until they are complete, so that `Synod-Slot` is exact.
const HELD_BYTES: usize = 64 << 10;
/// A response without a length is held no longer than this.
const HELD_TIME: Duration = Duration::from_millis(20);
/// Members that are asked before we say that nobody can answer.
const MAX_ASKED: usize = 2;

/// Why a read is not served by this copy now.
enum Missed {
    /// Its state is not new enough, or its app is away.
    NotHere,
    /// The app broke off.
    Lost,
    /// It is the matter of this request alone.
    Refused(Problem),
}

// === impl Core ===

impl<B: Backend> Core<B> {
    /// Serves a read here, or has another member serve it.
    pub(super) async fn read(
        &self,
        call: &Call,
        payload: &mut Payload,
        routes: &Routes,
        class: &Class,
    ) -> Result<Step, Problem> {
        let times = Times::of(routes.policy());
        let limit = Instant::now() + times.queue;
        let token = self.token(call, class)?;
        let mut asked = call.handed_over;
        let passes_by = class.level == Level::Bypass || class.streaming;
        // Any state will do, unless the client has seen a newer one.
        let own_is_enough = match class.level {
            Level::Bypass => true,
            Level::Local => token.is_none(),
            _ => false,
        };
        let goes_elsewhere = !asked
            && if passes_by || own_is_enough {
                self.stands_still()
            } else {
                self.others_are_better()
            };
        // What passes by is not held, except where it has to go to another member.
        if !passes_by || goes_elsewhere {
            self.whole(call, payload, &times).await?;
        }
        if goes_elsewhere && let Some(whole) = payload.as_whole() {
            asked = true;
            if let Some(response) = self.hand_over(call, whole, limit).await {
                return Ok(Step::Done(Box::new(response)));
            }
        }
        if !own_is_enough {
            let patient = if asked {
                limit
            } else {
                limit.min(Instant::now() + PATIENCE)
            };
            let mut reached = self.reached(class, token.as_ref(), patient).await;
            if !reached && !asked {
                asked = true;
                if let Some(whole) = payload.as_whole()
                    && let Some(response) = self.hand_over(call, whole, limit).await
                {
                    return Ok(Step::Done(Box::new(response)));
                }
                reached = self.reached(class, token.as_ref(), limit).await;
            }
            if !reached {
                return Err(Problem::unavailable(
                    "no copy that can be reached has a state new enough for this read",
                ));
            }
            // Rule P7: what was agreed on until the index may have changed the classes.
            let latest = self.routes();
            if latest.policy().version != routes.policy().version {
                match latest.classify(&call.method, call.target.path()) {
                    Ok(same) if same.level == class.level && same.route == class.route => {}
                    _ => return Ok(Step::Reclassify),
                }
            }
        }
        match self.ask_app(call, payload, class).await {
            Ok(response) => Ok(Step::Done(Box::new(response))),
            Err(missed) => {
                // An app that broke off may have begun with the request.
                let may = !asked && (!matches!(missed, Missed::Lost) || is_safe(&call.method));
                if may
                    && let Some(whole) = payload.as_whole()
                    && let Some(response) = self.hand_over(call, whole, limit).await
                {
                    return Ok(Step::Done(Box::new(response)));
                }
                Err(match missed {
                    Missed::Refused(problem) => problem,
                    Missed::Lost => Problem::app_failed(),
                    Missed::NotHere => {
                        Problem::unavailable("the app beside this member does not run")
                    }
                })
            }
        }
    }

    /// What the client has seen; refused when it was another group's.
    fn token(&self, call: &Call, class: &Class) -> Result<Option<Token>, Problem> {
        if class.level == Level::Bypass {
            return Ok(None);
        }
        let token = headers::session_token(&call.headers, call.min_slot.as_ref())?;
        let other = |token: &Token| {
            let group = self.group().map(|group| group.to_string());
            token.group.is_some() && token.group != group
        };
        if token.as_ref().is_some_and(other) {
            return Err(Problem::other_history());
        }
        Ok(token)
    }

    /// Waits until this copy's state is new enough for the read and serves clients. False when it
    /// is not by `limit`.
    async fn reached(&self, class: &Class, token: Option<&Token>, limit: Instant) -> bool {
        let seen = token.map_or(Slot::ZERO, |token| token.slot);
        let fresh = async {
            match class.level {
                Level::Linearizable => self.linearizable().await,
                Level::BoundedStale => self.bounded(class.max_staleness).await,
                _ => {}
            }
            self.backend.wait_applied(seen).await;
            if !self.serves() {
                let mut status = self.backend.apply_status().clone();
                // An end of apply is an end of serving.
                if status.wait_for(|status| status.serving).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        timeout_at(limit, fresh).await.is_ok()
    }

    /// Rules R1 and R6.
    pub(super) async fn linearizable(&self) {
        let asked = Moment::now();
        let index = self.backend.read_index().await;
        self.probes.answered(asked, index);
        self.backend.wait_applied(index).await;
    }

    /// Rule R7.
    async fn bounded(&self, max_staleness: Duration) {
        let applied = self.backend.apply_status().borrow().applied;
        let fresh = self
            .probes
            .no_older_than(applied)
            .is_some_and(|moment| Moment::now().since(moment) <= max_staleness);
        if !fresh {
            self.linearizable().await;
        }
    }

    async fn ask_app(
        &self,
        call: &Call,
        payload: &mut Payload,
        class: &Class,
    ) -> Result<Response<ResponseBody>, Missed> {
        if !matches!(class.level, Level::Local | Level::Bypass) && !self.serves() {
            return Err(Missed::NotHere);
        }
        let (pool, place) = if class.streaming {
            let place = self.stream_place().map_err(Missed::Refused)?;
            (Pool::Streams, Some(place))
        } else {
            (Pool::Reads, None)
        };
        let body = payload.attempt().await.map_err(|error| {
            tracing::warn!(%error, "a spooled body cannot be read back; check the data volume");
            Missed::Refused(Problem::unavailable("this member's disk has lost the body"))
        })?;
        let mut request = http::Request::new(body);
        *request.method_mut() = call.method.clone();
        *request.uri_mut() = call.target.clone().into();
        request.headers_mut().clone_from(&call.headers);
        let sent = if class.level == Level::Bypass {
            self.backend.send_bypass(request, pool).await
        } else {
            self.backend.send_read(request, pool).await
        };
        let response = match sent {
            Ok(response) => response,
            Err(AppError::NotSent) => return Err(Missed::NotHere),
            Err(AppError::Lost) => return Err(Missed::Lost),
        };
        let (parts, body) = response.into_parts();
        let held = if class.level == Level::Bypass || class.streaming {
            ResponseBody::app(body)
        } else {
            hold(body).await.map_err(|_| Missed::Lost)?
        };
        let mut response = Response::from_parts(parts, held.in_place(place));
        let fields = response.headers_mut();
        headers::strip_hop_by_hop(fields);
        headers::strip_reserved(fields);
        self.sign(fields, self.sent());
        Ok(response)
    }

    /// Has another member serve the read. `None` when none could.
    pub(super) async fn hand_over(
        &self,
        call: &Call,
        body: &Captured,
        limit: Instant,
    ) -> Option<Response<ResponseBody>> {
        let group = self.group()?;
        for member in self.others_that_serve().into_iter().take(MAX_ASKED) {
            let Some(channel) = self.peers.channel(member) else {
                continue;
            };
            let body = match body.body().await {
                Ok(body) => body,
                Err(error) => {
                    tracing::warn!(%error, "a spooled body cannot be read back; check the data volume");
                    return None;
                }
            };
            match handover::serve(channel, group, call, body, limit).await {
                Ok(response) => {
                    self.metrics.handed_over();
                    return Some(response);
                }
                Err(status) => {
                    tracing::debug!(peer = %member, error = %status, "a read was not taken there");
                }
            }
        }
        None
    }
}

/// Methods that may be sent to a second copy when the first broke off.
fn is_safe(method: &Method) -> bool {
    method.is_safe() || matches!(method.as_str(), "PROPFIND" | "REPORT" | "SEARCH" | "QUERY")
}

/// Waits for the end of a short response, so that the slot that it is signed with covers all that
/// was sent to the app while it was made (rule R6). A long one goes on as it comes, and is signed
/// with what had been sent when its head came.
async fn hold(mut body: AppBody) -> Result<ResponseBody, BoxError> {
    if body.is_end_stream() {
        return Ok(ResponseBody::app(body));
    }
    let size = body.size_hint();
    if size.lower() > HELD_BYTES as u64 {
        return Ok(ResponseBody::app(body));
    }
    // With a length, the rest is on its way; without one, this may be a stream.
    let limit = match size.exact() {
        Some(_) => None,
        None => Some(Instant::now() + HELD_TIME),
    };
    let mut held = Held::default();
    while held.bytes <= HELD_BYTES {
        let frame = match limit {
            None => body.frame().await,
            Some(limit) => match timeout_at(limit, body.frame()).await {
                Ok(frame) => frame,
                Err(_) => return Ok(ResponseBody::app_after(held.frames, body)),
            },
        };
        match frame {
            Some(frame) => held.push(frame?),
            None => return Ok(held.whole()),
        }
    }
    Ok(ResponseBody::app_after(held.frames, body))
}

#[derive(Default)]
struct Held {
    frames: Vec<Frame<Bytes>>,
    bytes: usize,
}

impl Held {
    fn push(&mut self, frame: Frame<Bytes>) {
        self.bytes += frame.data_ref().map_or(0, Bytes::len);
        self.frames.push(frame);
    }

    fn whole(self) -> ResponseBody {
        let mut pieces = Vec::with_capacity(self.frames.len());
        let mut trailers = http::HeaderMap::new();
        for frame in self.frames {
            match frame.into_data() {
                Ok(data) => pieces.push(data),
                Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
            }
        }
        let data = if pieces.len() == 1 {
            pieces.remove(0)
        } else {
            let mut joined = BytesMut::with_capacity(self.bytes);
            for piece in &pieces {
                joined.extend_from_slice(piece);
            }
            joined.freeze()
        };
        ResponseBody::full_with_trailers(data, trailers)
    }
}
