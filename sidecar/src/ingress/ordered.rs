//! Requests that take a slot in the agreed order.
//!
//! In: a request with its body. Out: the app's response to it, from this member's copy or from
//! another's, or what is known about it. It calls the agreement to have it ordered, apply for its
//! answer, and other members for theirs.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};
use prost::Message;
use synod_paxos::{CommandId, CommandKind, MemberId, NotTaken, Slot};
use synod_proto::v1::{Idempotency, Request};
use tokio::sync::oneshot::{self, error::TryRecvError};
use tokio::time::{Instant, sleep_until, timeout};

use super::backend::Backend;
use super::body::ResponseBody;
use super::capture::Loaded;
use super::core::{Call, Core, Payload, Step, Times};
use super::handover::{Fetched, fetch_answer};
use super::headers::{self, SYNOD_MEMBER, SYNOD_OUTCOME};
use super::problem::{OutcomeName, Problem};
use super::route::{Class, Routes};
use crate::apply::{Answer, Outcome, StoredBody, StoredResponse};
use crate::node::handle::Held;
use crate::node::{Decided, Proposed};

/// Beyond the time limit for being chosen: a command that is chosen a little too late does
/// nothing, and then the client gets a definite answer.
const GRACE: Duration = Duration::from_millis(500);
/// What another member gets to say whether it has an answer, when there is no more time.
const LAST_QUESTION: Duration = Duration::from_millis(500);
/// A request that waits looks now and then whether its copy has gone away meanwhile, or its time: after an
/// eighth of the time that it has waited, so that many that wait for long cost little, within these. It
/// does not follow the status as it changes: with each slot, all who wait would be woken.
const LOOK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// An answer, wherever it was had.
enum Answered {
    Here(Answer),
    There(Box<Fetched>),
}

/// Someone else's answer under way.
type Fetching = Pin<Box<dyn Future<Output = Option<Fetched>> + Send>>;

// === impl Answered ===

impl Answered {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Here(answer) => answer.outcome,
            Self::There(fetched) => fetched.outcome,
        }
    }

    fn slot(&self) -> Slot {
        match self {
            Self::Here(answer) => answer.slot,
            Self::There(fetched) => fetched.slot,
        }
    }

    fn has_response(&self) -> bool {
        match self {
            Self::Here(answer) => answer.response.is_some(),
            Self::There(fetched) => fetched.response.is_some(),
        }
    }
}

// === impl Core ===

impl<B: Backend> Core<B> {
    /// Has one request ordered, and answers it. Nothing that happens to the client afterwards
    /// undoes it.
    pub(super) async fn ordered(
        &self,
        call: &Call,
        payload: &mut Payload,
        routes: &Routes,
        class: &Class,
    ) -> Result<Step, Problem> {
        if let Some(slot) = self.backend.stuck() {
            return Err(Problem::stuck(slot));
        }
        let policy = routes.policy();
        let times = Times::of(policy);
        let chosen = self.backend.node_status().borrow().commit;
        if self.backlog.age(chosen, self.backend.executed()) > times.queue {
            return Err(Problem::not_ordered(
                "the copies are behind by more than a request may wait (ordering.queueTimeout)",
            ));
        }
        let key = headers::idempotency_key(&call.headers, policy.idempotency.as_ref())?;
        let whole = self.whole(call, payload, &times).await?;
        let limit = Instant::now() + times.queue;
        let Loaded { data, share } = whole.load(&self.room, &call.source, limit).await?;
        // The time for the agreement begins after the line: who is refused there knows that nothing
        // happened, and who is proposed with the last of its time may not.
        let idempotency = key.map(|key| Idempotency {
            key,
            principal: headers::principal(&call.headers, policy.idempotency.as_ref()),
            request_digest: headers::request_digest(
                call.method.as_str(),
                call.target.as_str(),
                &data,
            ),
        });
        let answerer = if self.others_are_better() {
            self.others_that_serve().first().copied()
        } else {
            None
        };
        let expires_ns = self.expiry(times.queue);
        let request = Request {
            policy_version: policy.version,
            expires_ns,
            answerer: answerer.map_or(0, |member| member.0),
            route: class.route.to_string(),
            idempotency,
            ..describe(call, data, &whole.trailers)
        };
        let command = Bytes::from(request.encode_to_vec());
        // From here on the command holds the body, which its share stands for.
        drop(request);
        let held: Held = share.map(|share| Box::new(share) as _);
        let proposed = self
            .backend
            .propose(CommandKind::REQUEST, command, held)
            .map_err(|error| Problem::not_ordered(error.to_string()))?;
        let id = proposed.id;
        let answered = self
            .await_answer(proposed, expires_ns, answerer, &times)
            .await?;
        if answered.outcome() == Outcome::Reclassify {
            // Definite: it was not executed under this id. The copy that said so may be ahead of
            // this one, whose policy is then still the old one.
            let caught_up = timeout(times.queue, self.backend.wait_applied(answered.slot())).await;
            return match caught_up {
                Ok(()) => Ok(Step::Reclassify),
                Err(_) => Err(Problem::not_ordered("this member's policy is out of date")),
            };
        }
        let answered = self.with_response(id, answered).await;
        let response = self.respond(call, answered).await?;
        Ok(Step::Done(Box::new(response)))
    }

    /// The end of `left` from now, in nanoseconds of agreed time (rule X3). What was applied here is
    /// agreed time too: the group's clocks may have been set back since.
    fn expiry(&self, left: Duration) -> u64 {
        let applied = self.backend.apply_status().borrow().time;
        let now = self.backend.agreed_now().max(applied);
        let left_ns = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
        now.0.saturating_add(left_ns)
    }

    /// Waits until the command is done, here or elsewhere, or until there is no more time.
    async fn await_answer(
        &self,
        proposed: Proposed,
        expires_ns: u64,
        answerer: Option<MemberId>,
        times: &Times,
    ) -> Result<Answered, Problem> {
        let Proposed { id, mut decided } = proposed;
        let mut here = std::pin::pin!(self.backend.answer(id));
        let mut chosen = None;
        let mut limit = Instant::now() + times.queue + GRACE;
        let mut fetching: Option<Fetching> =
            answerer.and_then(|member| self.fetching(id, member, limit));
        let mut asked = usize::from(fetching.is_some());
        let begun = Instant::now();
        let mut look = begun + LOOK.0;
        loop {
            let elsewhere = async {
                match &mut fetching {
                    Some(fetching) => fetching.await,
                    None => std::future::pending().await,
                }
            };
            let decision = tokio::select! {
                biased;
                answer = &mut here => return self.known(id, answer, chosen).await,
                decision = &mut decided, if chosen.is_none() => {
                    Some(decision.map_err(drop))
                }
                fetched = elsewhere => {
                    if let Some(fetched) = fetched {
                        return Ok(Answered::There(Box::new(fetched)));
                    }
                    fetching = None;
                    None
                }
                () = sleep_until(look.min(limit)) => {
                    look = Instant::now() + (begun.elapsed() / 8).clamp(LOOK.0, LOOK.1);
                    if Instant::now() >= limit {
                        return self.ask_all(id).await.ok_or_else(|| unknown(chosen));
                    }
                    if fetching.is_none() && self.others_are_better() {
                        let others = self.others_that_serve();
                        if !others.is_empty() {
                            fetching = self.fetching(id, others[asked % others.len()], limit);
                            asked += 1;
                        }
                    }
                    // Rule X3. The node says where a command was chosen before it hands that slot
                    // to apply, so what is not decided after this look is not among the slots that
                    // are, and any later one comes too late.
                    let too_late = self.backend.apply_status().borrow().time.0 > expires_ns;
                    match decided_now(&mut decided, chosen) {
                        None if too_late && chosen.is_none() => {
                            // Unless a snapshot has come in place of the slots, which was told
                            // before its time was.
                            return match (&mut here).now_or_never() {
                                Some(answer) => self.known(id, answer, chosen).await,
                                None => Err(not_in_time()),
                            };
                        }
                        decision => decision,
                    }
                }
            };
            match decision {
                None => {}
                Some(Ok(Decided::Chosen(slot))) => {
                    chosen = Some(slot);
                    limit = Instant::now() + times.response;
                }
                Some(Ok(Decided::Withdrawn(reason))) => {
                    tracing::debug!(?reason, "a request was withdrawn");
                    return Err(Problem::not_ordered(match reason {
                        NotTaken::Unreadable => "the only log of the group is damaged",
                        _ => "the group could not take the request",
                    }));
                }
                // The node ends: some copy may have left this member.
                Some(Err(())) => return self.ask_all(id).await.ok_or_else(|| unknown(chosen)),
            }
        }
    }

    /// What this copy knows, or if it does not, what others do.
    async fn known(
        &self,
        id: CommandId,
        answer: Answer,
        chosen: Option<Slot>,
    ) -> Result<Answered, Problem> {
        if answer.outcome != Outcome::Elsewhere {
            return Ok(Answered::Here(answer));
        }
        let others = self.ask_all(id).await;
        others.ok_or_else(|| unknown(chosen))
    }

    /// Asks one member for its answer, until `limit`.
    fn fetching(&self, id: CommandId, member: MemberId, limit: Instant) -> Option<Fetching> {
        let channel = self.peers.channel(member)?;
        let group = self.group()?;
        let wait = limit.saturating_duration_since(Instant::now());
        Some(Box::pin(async move {
            match fetch_answer(channel, group, id, wait).await {
                Ok(fetched) => Some(fetched),
                Err(status) => {
                    tracing::debug!(peer = %member, error = %status, "no answer from there");
                    None
                }
            }
        }))
    }

    /// Asks every other member that has a copy for an answer it has now (rule X3).
    async fn ask_all(&self, id: CommandId) -> Option<Answered> {
        self.ask_all_for(id, |_| true).await
    }

    async fn ask_all_for(&self, id: CommandId, wanted: fn(&Answered) -> bool) -> Option<Answered> {
        let limit = Instant::now() + LAST_QUESTION;
        let mut answers: FuturesUnordered<Fetching> = self
            .others_with_a_copy()
            .into_iter()
            .filter_map(|member| self.fetching(id, member, limit))
            .collect();
        let first = async {
            while let Some(fetched) = answers.next().await {
                if let Some(answered) = fetched.map(Box::new).map(Answered::There).filter(wanted) {
                    return Some(answered);
                }
            }
            None
        };
        timeout(2 * LAST_QUESTION, first).await.ok().flatten()
    }

    /// A repeat by key gets the response that the first client got, from the member that answered
    /// it, else this member's own. Where that is gone, another member may have it (rule X2).
    async fn with_response(&self, id: CommandId, answered: Answered) -> Answered {
        let own = self.backend.node_status().borrow().member;
        if let Answered::Here(answer) = &answered
            && let Some(member) = answer.first_answerer.filter(|member| *member != own)
            && let Some(fetching) = self.fetching(id, member, Instant::now() + LAST_QUESTION)
            && let Ok(Some(fetched)) = timeout(LAST_QUESTION, fetching).await
            && fetched.response.is_some()
        {
            return Answered::There(Box::new(fetched));
        }
        let wants_one = matches!(
            answered.outcome(),
            Outcome::Executed | Outcome::Replayed | Outcome::ResponseGone
        );
        if !wants_one || answered.has_response() {
            return answered;
        }
        let other = self.ask_all_for(id, Answered::has_response).await;
        other.unwrap_or(answered)
    }

    async fn respond(
        &self,
        call: &Call,
        answered: Answered,
    ) -> Result<Response<ResponseBody>, Problem> {
        let slot = answered.slot();
        let name = match answered.outcome() {
            Outcome::Executed => OutcomeName::Executed,
            Outcome::Replayed => OutcomeName::Replayed,
            Outcome::Expired => {
                return Err(not_in_time().at(slot));
            }
            Outcome::KeyReused => return Err(Problem::key_reused().at(slot)),
            Outcome::PrincipalChanged => return Err(Problem::principal_changed().at(slot)),
            Outcome::ResponseGone => return Err(Problem::response_gone().at(slot)),
            Outcome::Skipped => return Err(Problem::skipped().at(slot)),
            // Said about requests only by a member that knows no better.
            Outcome::Duplicate
            | Outcome::Reclassify
            | Outcome::Done
            | Outcome::Conflict
            | Outcome::Elsewhere => {
                return Err(Problem::unknown());
            }
        };
        let (response, member) = match answered {
            Answered::Here(answer) => match answer.response {
                Some(stored) => (stored_response(&stored, &call.method).await, None),
                None => (None, None),
            },
            Answered::There(fetched) => (fetched.response, Some(fetched.member)),
        };
        let Some(mut response) = response else {
            return Err(Problem::response_gone().at(slot));
        };
        let fields = response.headers_mut();
        headers::strip_hop_by_hop(fields);
        headers::strip_reserved(fields);
        self.sign(fields, slot);
        if let Some(member) = member {
            fields.insert(SYNOD_MEMBER.clone(), headers::quoted(&member));
        }
        fields.insert(
            SYNOD_OUTCOME.clone(),
            HeaderValue::from_static(name.as_str()),
        );
        Ok(response)
    }
}

/// What was decided, if it was; an error when the node has ended.
fn decided_now(
    decided: &mut oneshot::Receiver<Decided>,
    chosen: Option<Slot>,
) -> Option<Result<Decided, ()>> {
    if chosen.is_some() {
        return None;
    }
    match decided.try_recv() {
        Ok(decision) => Some(Ok(decision)),
        Err(TryRecvError::Empty) => None,
        Err(TryRecvError::Closed) => Some(Err(())),
    }
}

fn not_in_time() -> Problem {
    Problem::not_ordered("it was not agreed on in time (ordering.queueTimeout)")
}

fn unknown(chosen: Option<Slot>) -> Problem {
    match chosen {
        Some(slot) => Problem::unknown().at(slot),
        None => Problem::unknown(),
    }
}

/// The part of a command that every copy hands to its app.
fn describe(call: &Call, body: Bytes, trailers: &HeaderMap) -> Request {
    Request {
        method: call.method.as_str().to_owned(),
        target: call.target.as_str().to_owned(),
        headers: headers::to_wire(&call.headers),
        body,
        trailers: headers::to_wire(trailers),
        ..Request::default()
    }
}

/// A stored response as it goes to the client; `None` when its file cannot be read.
pub(super) async fn stored_response(
    stored: &StoredResponse,
    method: &Method,
) -> Option<Response<ResponseBody>> {
    let bodiless = method == Method::HEAD
        || stored.status == StatusCode::NO_CONTENT
        || stored.status == StatusCode::NOT_MODIFIED;
    let body = if bodiless {
        ResponseBody::empty()
    } else {
        match ResponseBody::stored(&stored.body, stored.trailers.clone()).await {
            Ok(body) => body,
            Err(error) => {
                tracing::warn!(%error, "a stored response cannot be read");
                return None;
            }
        }
    };
    let mut response = Response::new(body);
    *response.status_mut() = stored.status;
    response.headers_mut().clone_from(&stored.headers);
    frame(
        response.headers_mut(),
        (!bodiless).then(|| body_bytes(&stored.body)),
    );
    Some(response)
}

fn body_bytes(body: &StoredBody) -> u64 {
    match body {
        StoredBody::Memory(data) => data.len() as u64,
        StoredBody::File { len, .. } => *len,
    }
}

/// `Content-Length` is what is stored, not what the app announced; where there is no body, it is
/// the app's.
fn frame(headers: &mut HeaderMap, length: Option<u64>) {
    headers.remove(header::TRANSFER_ENCODING);
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
}
