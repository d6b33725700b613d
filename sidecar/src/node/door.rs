//! Where other members come in: the `Peer` service. Whoever is not a member of this group by
//! certificate and by hello gets a refusal and nothing else.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use futures::Stream;
use synod_paxos::{Hello, Lane, MemberId, Message};
use synod_proto::v1::PeerFrame;
use synod_proto::v1::peer_server::{self, PeerServer};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::complaint::Complaints;
use super::input::{Input, Inputs, Peer, Roster, lane_index};
use super::refusal;
use super::wire::{self, BatchHead, Frame, HelloHead};
use crate::config::limits::MESSAGE_BYTES;
use crate::identity::{Caller, Who};

/// Limit on the first frame.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes of messages that wait for the event loop, from all peers together.
const WAITING_BYTES: usize = 64 << 20;
/// What one permit stands for, in bytes.
const PERMIT_BYTES: u64 = 1 << 10;

/// The door. Closed until a node opens it; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct PeerDoor {
    inside: Arc<OnceLock<Inside>>,
    complaints: Complaints,
    closed: CancellationToken,
}

#[derive(Debug)]
struct Inside {
    inputs: Inputs,
    roster: Arc<Roster>,
    room: Arc<Semaphore>,
    /// The newest stream of each peer and lane: it ends the one before.
    streams: Mutex<BTreeMap<(MemberId, usize), CancellationToken>>,
}

/// One stream of messages.
#[derive(Debug)]
struct Incoming {
    hello: Hello,
    lane: Lane,
    peer: Arc<Peer>,
    inputs: Inputs,
    room: Arc<Semaphore>,
}

// === impl PeerDoor ===

impl PeerDoor {
    /// The gRPC service.
    pub fn service(&self) -> PeerServer<Self> {
        PeerServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_BYTES as usize)
            .max_encoding_message_size(64 << 10)
    }

    /// Ends all streams and takes no more.
    pub fn close(&self) {
        self.closed.cancel();
    }

    pub(super) fn open(&self, inputs: Inputs, roster: Arc<Roster>) {
        let inside = Inside {
            inputs,
            roster,
            room: Arc::new(Semaphore::new(WAITING_BYTES / PERMIT_BYTES as usize)),
            streams: Mutex::default(),
        };
        assert!(
            self.inside.set(inside).is_ok(),
            "a node opens its door once"
        );
    }

    /// Ends the streams of whoever is nobody's peer any more.
    pub(super) fn shut_out(&self, peer: MemberId) {
        if let Some(inside) = self.inside.get() {
            let mut streams = inside.streams.lock().expect("no holder panics");
            streams.retain(|(of, _), stream| {
                if *of == peer {
                    stream.cancel();
                }
                *of != peer
            });
        }
    }

    /// Everything up to the answer to a dialler's hello.
    async fn admit(
        &self,
        caller: &Caller,
        frames: &mut Streaming<PeerFrame>,
    ) -> Result<(Incoming, Hello, &Inside), Status> {
        let Who::Member(name) = &caller.who else {
            return Err(Status::permission_denied("only members exchange messages"));
        };
        let inside = self.inside.get().ok_or_else(|| {
            Status::unavailable("the group has not been formed at this member yet")
        })?;
        let first = timeout(HELLO_TIMEOUT, frames.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no hello came in time"))??
            .ok_or_else(|| Status::invalid_argument("no hello came"))?;
        let (hello, HelloHead { lane, to }) = match wire::read(first) {
            Ok(Frame::Hello(hello, head)) => (hello, head),
            Ok(Frame::Batch(..)) => {
                return Err(Status::invalid_argument("the first frame is no hello"));
            }
            Err(error) => return Err(Status::invalid_argument(error.to_string())),
        };
        if hello.name != *name {
            let words = format!(
                "the certificate is of {name:?}, the hello of {:?}",
                hello.name
            );
            return Err(Status::permission_denied(words));
        }
        let ours = inside.check(hello.clone()).await?;
        // Whoever finds here that it is wrong goes again: its connections with this member stay.
        if to != MemberId(0) && to != inside.roster.me {
            return Err(refusal::another(&ours));
        }
        let peer = inside.roster.get(hello.member);
        let Some(peer) = peer.filter(|it| it.name == *name) else {
            let words = format!("member {} of this group is not {name:?}", hello.member);
            return Err(Status::permission_denied(words));
        };
        let incoming = Incoming {
            hello,
            lane,
            peer,
            inputs: inside.inputs.clone(),
            room: inside.room.clone(),
        };
        Ok((incoming, ours, inside))
    }
}

#[tonic::async_trait]
impl peer_server::Peer for PeerDoor {
    type ExchangeStream = Pin<Box<dyn Stream<Item = Result<PeerFrame, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<PeerFrame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let caller = Caller::of(&request)?.clone();
        let mut frames = request.into_inner();
        let admitted = self.admit(&caller, &mut frames).await;
        let (incoming, ours, inside) = admitted.inspect_err(|status| {
            let who = label(&caller.who);
            let told = !refusal::is_refusal(status) || refusal::is_another(status);
            if !told && self.complaints.is_news(who, status.message()) {
                let address = caller.address;
                tracing::warn!(peer = who, %address, error = status.message(), "refused a peer");
            }
        })?;
        self.complaints.settled(label(&caller.who));
        let ended = inside.replace(incoming.hello.member, incoming.lane);
        let (answers, receiver) = mpsc::channel(2);
        let head = HelloHead {
            lane: incoming.lane,
            to: incoming.hello.member,
        };
        let hello = wire::hello(&ours, head);
        answers
            .try_send(Ok(hello))
            .expect("an empty channel has room");
        let (closed, complaints) = (self.closed.clone(), self.complaints.clone());
        tokio::spawn(async move {
            let name = incoming.peer.name.clone();
            let end = tokio::select! {
                status = incoming.take_all(frames) => status,
                () = ended.cancelled() => Status::aborted("a newer connection took over"),
                () = closed.cancelled() => Status::unavailable("this member is ending"),
            };
            if refusal::is_refusal(&end) && complaints.is_news(&name, end.message()) {
                tracing::warn!(peer = %name, error = end.message(), "ended a peer's connection");
            }
            let _ = answers.send(Err(end)).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

fn label(who: &Who) -> &str {
    match who {
        Who::Member(name) => name,
        Who::Operator => "operator",
    }
}

// === impl Inside ===

impl Inside {
    /// The agreement looks at a dialler's hello; what it says to it.
    async fn check(&self, hello: Hello) -> Result<Hello, Status> {
        let ending = || Status::unavailable("this member is ending");
        let (reply, answer) = oneshot::channel();
        let asked = self.inputs.send(Input::TheirHello { hello, reply });
        asked.map_err(|_| ending())?;
        answer
            .await
            .map_err(|_| ending())?
            .map_err(|it| refusal::to_status(&it))
    }

    fn replace(&self, member: MemberId, lane: Lane) -> CancellationToken {
        let token = CancellationToken::new();
        let mut streams = self.streams.lock().expect("no holder panics");
        if let Some(old) = streams.insert((member, lane_index(lane)), token.clone()) {
            old.cancel();
        }
        token
    }
}

// === impl Incoming ===

impl Incoming {
    /// Takes messages until the stream ends; why it did.
    async fn take_all(&self, mut frames: Streaming<PeerFrame>) -> Status {
        self.peer.heard();
        self.peer.is_back();
        loop {
            match frames.message().await {
                Ok(Some(frame)) => {
                    if let Err(status) = self.take(frame).await {
                        return status;
                    }
                }
                Ok(None) => return Status::cancelled("the dialler ended it"),
                Err(status) => return Status::cancelled(status.message()),
            }
        }
    }

    async fn take(&self, frame: PeerFrame) -> Result<(), Status> {
        let (head, messages) = match wire::read(frame) {
            Ok(Frame::Batch(head, messages)) => (head, messages),
            Ok(Frame::Hello(..)) => return Err(Status::invalid_argument("a second hello")),
            Err(error) => return Err(Status::invalid_argument(error.to_string())),
        };
        self.check(&head)?;
        self.peer.heard();
        let room = match self.lane {
            // Short, and never behind anything long.
            Lane::Heartbeat => None,
            Lane::Log | Lane::Bulk => Some(self.make_room(&messages).await?),
        };
        let input = Input::Messages {
            head,
            messages,
            room,
        };
        let taken = self.inputs.send(input);
        taken.map_err(|_| Status::unavailable("this member is ending"))
    }

    /// A stream speaks for one life of one member of one group.
    fn check(&self, head: &BatchHead) -> Result<(), Status> {
        let hello = &self.hello;
        let same = head.group == hello.group
            && head.from == hello.member
            && head.from_incarnation == hello.incarnation;
        if same {
            return Ok(());
        }
        Err(Status::permission_denied(
            "messages of another than who said hello",
        ))
    }

    async fn make_room(
        &self,
        messages: &[Message],
    ) -> Result<tokio::sync::OwnedSemaphorePermit, Status> {
        let bytes: u64 = messages.iter().map(wire::weight).sum();
        let most = WAITING_BYTES as u64 / PERMIT_BYTES;
        let permits = bytes.div_ceil(PERMIT_BYTES).min(most) as u32;
        let room = self.room.clone().acquire_many_owned(permits).await;
        room.map_err(|_| Status::unavailable("this member is ending"))
    }
}
