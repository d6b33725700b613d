//! Hand-over: what a member whose copy cannot serve asks of one that can.
//!
//! In: calls of other members of the group, over mutual TLS. Out: the same answers that clients
//! get. A call is never handed on (hop limit 1).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyStream;
use synod_paxos::{Boot, CommandId, GroupId, MemberId, Slot};
use synod_proto::v1::answer_part::Part as AnswerPiece;
use synod_proto::v1::handover_client::HandoverClient;
use synod_proto::v1::handover_server::Handover;
use synod_proto::v1::serve_part::Part as ServePiece;
use synod_proto::v1::{
    AnswerHead, AnswerOutcome, AnswerPart, FetchAnswerRequest, ServeHead, ServePart, Trailers,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use super::backend::Backend;
use super::body::{self, BoxError, RequestBody, ResponseBody};
use super::core::{Call, Core};
use super::headers::{self, SYNOD_MIN_SLOT};
use super::ordered::stored_response;
use super::room::Source;
use crate::apply::Outcome;
use crate::identity::same_group;

/// Connections to the other members, kept by the node.
pub trait PeerChannels: Send + Sync {
    /// A connection for long or large calls to this member; `None` while it cannot be had. Cheap.
    fn channel(&self, member: MemberId) -> Option<Channel>;
}

/// Bytes of a body in one message: far below the limit of gRPC.
const PIECE_BYTES: usize = 256 << 10;
/// Messages that wait for a slow reader.
const QUEUED_PIECES: usize = 4;
/// Longer than any time that a client waits.
const MAX_WAIT: Duration = Duration::from_secs(300);
/// Beyond the time that was asked for, for the way there and back.
const SLACK: Duration = Duration::from_millis(500);

/// Another member's answer to a command.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) member: String,
    pub(super) slot: Slot,
    pub(super) outcome: Outcome,
    pub(super) response: Option<Response<ResponseBody>>,
}

/// The side that is asked.
pub struct HandoverService<B> {
    core: Arc<Core<B>>,
    /// All bodies that other members pass on.
    source: Arc<Source>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<AnswerPart, Status>> + Send>>;

// === impl HandoverService ===

impl<B> std::fmt::Debug for HandoverService<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandoverService").finish_non_exhaustive()
    }
}

impl<B: Backend> HandoverService<B> {
    pub(super) fn new(core: Arc<Core<B>>) -> Self {
        let source = Arc::new(core.room.source());
        Self { core, source }
    }

    fn check_group(&self, group: &[u8]) -> Result<(), Status> {
        same_group(self.core.group(), group)
    }
}

#[tonic::async_trait]
impl<B: Backend> Handover for HandoverService<B> {
    type ServeStream = Answers;
    type FetchAnswerStream = Answers;

    async fn serve(
        &self,
        request: Request<Streaming<ServePart>>,
    ) -> Result<tonic::Response<Answers>, Status> {
        let mut parts = request.into_inner();
        let Some(ServePart {
            part: Some(ServePiece::Head(head)),
        }) = parts.message().await?
        else {
            return Err(Status::invalid_argument("a head must come first"));
        };
        self.check_group(&head.group)?;
        let wait = Duration::from_millis(head.wait_ms).min(MAX_WAIT);
        let call = read_call(head, self.source.clone())?;
        let body = RequestBody::Channel(receive_body(parts, None, Piece::of_call));
        let served = timeout(wait, self.core.handle_handed_over(&call, body)).await;
        let response = match served {
            Err(_) => return Err(Status::deadline_exceeded("the read took too long here")),
            // The entrance asks somebody else.
            Ok(Err(problem)) if problem.status == StatusCode::SERVICE_UNAVAILABLE => {
                return Err(Status::unavailable(problem.detail));
            }
            Ok(Err(problem)) => self.core.problem(&problem),
            Ok(Ok(response)) => response,
        };
        let head = AnswerHead {
            member: self.core.member.clone(),
            ..AnswerHead::default()
        };
        Ok(tonic::Response::new(send_answer(head, Some(response))))
    }

    async fn fetch_answer(
        &self,
        request: Request<FetchAnswerRequest>,
    ) -> Result<tonic::Response<Answers>, Status> {
        let request = request.into_inner();
        self.check_group(&request.group)?;
        let id = CommandId {
            member: MemberId(request.member),
            boot: Boot(request.boot),
            sequence: request.sequence,
        };
        let wait = Duration::from_millis(request.wait_ms).min(MAX_WAIT);
        let Ok(answer) = timeout(wait, self.core.backend.answer(id)).await else {
            return Err(Status::deadline_exceeded("the command is not done here"));
        };
        if answer.outcome == Outcome::Elsewhere {
            return Err(Status::not_found("a snapshot stands for the command here"));
        }
        let response = match &answer.response {
            // The entrance knows the method and leaves the body out where it has to.
            Some(stored) => stored_response(stored, &Method::GET).await,
            None => None,
        };
        let head = AnswerHead {
            member: self.core.member.clone(),
            slot: answer.slot.0,
            outcome: outcome_to_wire(answer.outcome).into(),
            ..AnswerHead::default()
        };
        Ok(tonic::Response::new(send_answer(head, response)))
    }
}

fn read_call(head: ServeHead, source: Arc<Source>) -> Result<Call, Status> {
    let malformed = || Status::invalid_argument("the request has a malformed method or target");
    let method = Method::from_bytes(head.method.as_bytes()).map_err(|_| malformed())?;
    let target = PathAndQuery::try_from(head.target).map_err(|_| malformed())?;
    let mut fields = headers::from_wire(head.headers);
    Ok(Call {
        method,
        target,
        min_slot: fields.remove(&SYNOD_MIN_SLOT),
        headers: fields,
        handed_over: true,
        source,
    })
}

/// The body behind a head, as another member sends it; `piece` takes a message apart. `bytes`: its
/// length, where that is known.
fn receive_body<M: Send + 'static>(
    mut messages: Streaming<M>,
    bytes: Option<u64>,
    piece: fn(M) -> Option<Piece>,
) -> body::Channel {
    let (sender, frames) = mpsc::channel(QUEUED_PIECES);
    tokio::spawn(async move {
        loop {
            let frame = match messages.message().await {
                Ok(None) => return,
                Ok(Some(message)) => match piece(message) {
                    Some(Piece::Data(data)) => Ok(Frame::data(data)),
                    Some(Piece::Trailers(trailers)) => {
                        Ok(Frame::trailers(headers::from_wire(trailers.headers)))
                    }
                    None => Err("neither data nor trailers behind the head".into()),
                },
                Err(status) => Err(BoxError::from(status)),
            };
            let ends = frame.is_err();
            if sender.send(frame).await.is_err() || ends {
                return;
            }
        }
    });
    body::Channel::new(frames, bytes)
}

/// An answer in pieces, as fast as the other side takes them.
fn send_answer(mut head: AnswerHead, response: Option<Response<ResponseBody>>) -> Answers {
    let first = |head| {
        let part = Some(AnswerPiece::Head(head));
        futures::stream::iter([Ok(AnswerPart { part })])
    };
    let Some(response) = response else {
        return Box::pin(first(head));
    };
    let (parts, body) = response.into_parts();
    head.status = parts.status.as_u16().into();
    head.headers = headers::to_wire(&parts.headers);
    head.body_bytes = body.size_hint().exact();
    let rest = BodyStream::new(body).flat_map(|frame| {
        futures::stream::iter(match frame {
            Ok(frame) => cut(frame)
                .into_iter()
                .map(|piece| Ok(piece.for_answer()))
                .collect(),
            Err(error) => vec![Err(Status::aborted(error.to_string()))],
        })
    });
    Box::pin(first(head).chain(rest))
}

/// What a message behind a head carries, in either direction.
enum Piece {
    Data(Bytes),
    Trailers(Trailers),
}

// === impl Piece ===

impl Piece {
    fn of_call(message: ServePart) -> Option<Self> {
        match message.part {
            Some(ServePiece::Data(data)) => Some(Self::Data(data)),
            Some(ServePiece::Trailers(trailers)) => Some(Self::Trailers(trailers)),
            Some(ServePiece::Head(_)) | None => None,
        }
    }

    fn of_answer(message: AnswerPart) -> Option<Self> {
        match message.part {
            Some(AnswerPiece::Data(data)) => Some(Self::Data(data)),
            Some(AnswerPiece::Trailers(trailers)) => Some(Self::Trailers(trailers)),
            Some(AnswerPiece::Head(_)) | None => None,
        }
    }

    fn for_call(self) -> ServePart {
        ServePart {
            part: Some(match self {
                Self::Data(data) => ServePiece::Data(data),
                Self::Trailers(trailers) => ServePiece::Trailers(trailers),
            }),
        }
    }

    fn for_answer(self) -> AnswerPart {
        AnswerPart {
            part: Some(match self {
                Self::Data(data) => AnswerPiece::Data(data),
                Self::Trailers(trailers) => AnswerPiece::Trailers(trailers),
            }),
        }
    }
}

fn cut(frame: Frame<Bytes>) -> Vec<Piece> {
    match frame.into_data() {
        Ok(mut data) => {
            let mut pieces = Vec::with_capacity(data.len().div_ceil(PIECE_BYTES));
            while !data.is_empty() {
                pieces.push(Piece::Data(data.split_to(data.len().min(PIECE_BYTES))));
            }
            pieces
        }
        Err(frame) => frame
            .into_trailers()
            .ok()
            .filter(|fields| !fields.is_empty())
            .map(|fields| {
                Piece::Trailers(Trailers {
                    headers: headers::to_wire(&fields),
                })
            })
            .into_iter()
            .collect(),
    }
}

/// A request in pieces, as fast as the other side takes them.
struct RequestPieces {
    ready: VecDeque<ServePart>,
    body: RequestBody,
}

impl Stream for RequestPieces {
    type Item = ServePart;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ServePart>> {
        loop {
            if let Some(part) = self.ready.pop_front() {
                return Poll::Ready(Some(part));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Ok(frame)) => {
                    let pieces = cut(frame).into_iter().map(Piece::for_call);
                    self.ready.extend(pieces);
                }
                Some(Err(_)) => {
                    self.body = RequestBody::Empty;
                    // No piece at all is a broken body for who receives it; an end would look like
                    // a whole one.
                    return Poll::Ready(Some(ServePart { part: None }));
                }
            }
        }
    }
}

/// A call to another member.
type Calling<T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>;

/// Has another member serve a read.
pub(super) fn serve(
    channel: Channel,
    group: GroupId,
    call: &Call,
    body: RequestBody,
    limit: Instant,
) -> Calling<Response<ResponseBody>> {
    let wait = limit.saturating_duration_since(Instant::now());
    let mut fields = call.headers.clone();
    if let Some(min_slot) = &call.min_slot {
        fields.insert(SYNOD_MIN_SLOT.clone(), min_slot.clone());
    }
    let head = ServePiece::Head(ServeHead {
        group: Bytes::copy_from_slice(&group.0),
        method: call.method.as_str().to_owned(),
        target: call.target.as_str().to_owned(),
        headers: headers::to_wire(&fields),
        wait_ms: millis(wait),
    });
    let parts = RequestPieces {
        ready: [ServePart { part: Some(head) }].into(),
        body,
    };
    let mut client = HandoverClient::new(channel);
    let answering = async move {
        let answer = client.serve(parts).await?;
        receive_answer(answer.into_inner()).await
    };
    Box::pin(async move {
        let (_, response) = within(wait + SLACK, answering).await?;
        response.ok_or_else(|| Status::internal("an answer without a response"))
    })
}

/// Asks another member what became of a command.
pub(super) async fn fetch_answer(
    channel: Channel,
    group: GroupId,
    id: CommandId,
    wait: Duration,
) -> Result<Fetched, Status> {
    let request = FetchAnswerRequest {
        group: Bytes::copy_from_slice(&group.0),
        member: id.member.0,
        boot: id.boot.0,
        sequence: id.sequence,
        wait_ms: millis(wait),
    };
    let mut client = HandoverClient::new(channel);
    let answering = async {
        let answer = client.fetch_answer(request).await?;
        receive_answer(answer.into_inner()).await
    };
    let (head, response) = within(wait + SLACK, answering).await?;
    Ok(Fetched {
        outcome: outcome_from_wire(head.outcome())
            .ok_or_else(|| Status::internal("an answer without an outcome"))?,
        slot: Slot(head.slot),
        member: head.member,
        response,
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

/// The head of an answer, and its response with a body that streams on.
async fn receive_answer(
    mut parts: Streaming<AnswerPart>,
) -> Result<(AnswerHead, Option<Response<ResponseBody>>), Status> {
    let Some(AnswerPart {
        part: Some(AnswerPiece::Head(mut head)),
    }) = parts.message().await?
    else {
        return Err(Status::internal("an answer without a head"));
    };
    if head.status == 0 {
        return Ok((head, None));
    }
    let status = u16::try_from(head.status)
        .ok()
        .and_then(|status| StatusCode::from_u16(status).ok())
        .ok_or_else(|| Status::internal("an answer with a malformed status"))?;
    let fields: HeaderMap = headers::from_wire(std::mem::take(&mut head.headers));
    let body = if head.body_bytes == Some(0) {
        ResponseBody::empty()
    } else {
        ResponseBody::channel(receive_body(parts, head.body_bytes, Piece::of_answer))
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    Ok((head, Some(response)))
}

fn outcome_to_wire(outcome: Outcome) -> AnswerOutcome {
    match outcome {
        Outcome::Executed => AnswerOutcome::Executed,
        Outcome::Replayed => AnswerOutcome::Replayed,
        Outcome::Expired => AnswerOutcome::Expired,
        Outcome::Reclassify => AnswerOutcome::Reclassify,
        Outcome::KeyReused => AnswerOutcome::KeyReused,
        Outcome::PrincipalChanged => AnswerOutcome::PrincipalChanged,
        Outcome::ResponseGone => AnswerOutcome::ResponseGone,
        Outcome::Skipped => AnswerOutcome::Skipped,
        Outcome::Duplicate => AnswerOutcome::Duplicate,
        Outcome::Done | Outcome::Conflict | Outcome::Elsewhere => AnswerOutcome::Other,
    }
}

fn outcome_from_wire(outcome: AnswerOutcome) -> Option<Outcome> {
    Some(match outcome {
        AnswerOutcome::Unspecified => return None,
        AnswerOutcome::Executed => Outcome::Executed,
        AnswerOutcome::Replayed => Outcome::Replayed,
        AnswerOutcome::Expired => Outcome::Expired,
        AnswerOutcome::Reclassify => Outcome::Reclassify,
        AnswerOutcome::KeyReused => Outcome::KeyReused,
        AnswerOutcome::PrincipalChanged => Outcome::PrincipalChanged,
        AnswerOutcome::ResponseGone => Outcome::ResponseGone,
        AnswerOutcome::Skipped => Outcome::Skipped,
        AnswerOutcome::Duplicate => Outcome::Duplicate,
        AnswerOutcome::Other => Outcome::Done,
    })
}
