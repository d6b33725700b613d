//! The connection to one peer on one lane: dialled, kept, raced by a new one when the peer falls
//! silent, dialled again after a break.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use synod_paxos::{GroupId, Hello, HelloRefusal, Lane};
use synod_proto::v1::PeerFrame;
use synod_proto::v1::peer_client::PeerClient;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tonic::Streaming;

use super::complaint::Complaints;
use super::input::{Input, Inputs, Peer, Roster};
use super::queue::{Outgoing, SendQueue};
use super::refusal;
use super::wire::{self, BatchHead, Frame};
use crate::config::limits::MESSAGE_BYTES;
use crate::identity::{ConnectError, Connector};

/// First gap between two attempts; doubles up to [`LONGEST_GAP`].
const FIRST_GAP: Duration = Duration::from_millis(20);
const LONGEST_GAP: Duration = Duration::from_secs(1);
/// Limit on the exchange of hellos.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
/// A peer that was silent for so long gets a new connection raced against the old one: a link that
/// heals does not revive a TCP connection that waits for its next retransmission (rule E4).
const SILENT: Duration = Duration::from_secs(1);
const SILENCE_POLL: Duration = Duration::from_millis(250);

/// Keeps one connection. Runs until it is dropped.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) group: GroupId,
    pub(super) lane: Lane,
    pub(super) roster: Arc<Roster>,
    pub(super) peer: Arc<Peer>,
    pub(super) queue: Arc<SendQueue>,
    pub(super) connector: Connector,
    pub(super) inputs: Inputs,
    pub(super) serving: Arc<AtomicBool>,
    pub(super) complaints: Complaints,
}

/// A connection after both hellos.
#[derive(Debug)]
struct Connection {
    start: oneshot::Sender<u64>,
    answers: Streaming<PeerFrame>,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{}", .0.message())]
    Status(#[from] tonic::Status),
    #[error("it did not say hello in time")]
    TimedOut,
    #[error("it said something other than hello: {0}")]
    NotHello(String),
    #[error("we refuse it: {0}")]
    Refused(#[from] HelloRefusal),
    #[error("the node has ended")]
    Ended,
}

// === impl Link ===

impl Link {
    pub(super) async fn run(self) {
        let mut gap = FIRST_GAP;
        loop {
            match self.attempt().await {
                Ok(connection) => {
                    if self.complaints.settled(&self.peer.name) {
                        tracing::info!(peer = %self.peer.name, "connected again");
                    }
                    let since = Instant::now();
                    self.hold(connection).await;
                    // One that breaks at once counts as a failed attempt.
                    if since.elapsed() > LONGEST_GAP {
                        gap = FIRST_GAP;
                    }
                }
                Err(error) => self.complain(error),
            }
            let jitter = rand::random_range(0.5..1.0);
            tokio::select! {
                () = tokio::time::sleep(gap.mul_f64(jitter)) => gap = (gap * 2).min(LONGEST_GAP),
                () = self.peer.comes_back(self.lane) => gap = FIRST_GAP,
            }
        }
    }

    /// Returns when the connection, or the one that took its place, has ended.
    async fn hold(&self, first: Connection) {
        let (mut number, mut answers) = self.take_over(first);
        let mut poll = tokio::time::interval(SILENCE_POLL);
        let mut race = futures::future::OptionFuture::default();
        let mut raced = Instant::now();
        loop {
            tokio::select! {
                // It sends nothing behind its hello: whatever comes is the end.
                _ = answers.message() => break,
                Some(connection) = &mut race => {
                    race = futures::future::OptionFuture::default();
                    if let Ok(connection) = connection {
                        tracing::debug!(peer = %self.peer.name, "a new connection takes over from a silent one");
                        self.went_down(number);
                        (number, answers) = self.take_over(connection);
                    }
                }
                _ = poll.tick() => {
                    let limit = SILENT.as_nanos() as u64;
                    let silent = self.peer.silent_ns().is_some_and(|it| it > limit);
                    if silent && raced.elapsed() > SILENT {
                        raced = Instant::now();
                        race = Some(Box::pin(self.attempt())).into();
                    }
                }
            }
        }
        self.went_down(number);
    }

    fn take_over(&self, connection: Connection) -> (u64, Streaming<PeerFrame>) {
        let number = self.queue.open();
        self.report(true);
        // Its receiver is gone only if the connection has ended already.
        let _ = connection.start.send(number);
        (number, connection.answers)
    }

    fn went_down(&self, number: u64) {
        self.queue.close(number);
        self.report(false);
    }

    fn report(&self, up: bool) {
        // The node is gone only when all of this is about to be.
        let _ = self.inputs.send(Input::Connection {
            peer: self.peer.id,
            lane: self.lane,
            up,
        });
    }

    /// Dials and exchanges hellos.
    async fn attempt(&self) -> Result<Connection, LinkError> {
        let channel = self.connector.channel().await?;
        let mut client = PeerClient::new(channel)
            .max_encoding_message_size(MESSAGE_BYTES as usize)
            .max_decoding_message_size(64 << 10);
        let (start, started) = oneshot::channel();
        let outgoing = Outgoing::new(
            wire::hello(&self.our_hello().await?, self.lane),
            started,
            self.queue.clone(),
            BatchHead {
                group: self.group,
                from: self.roster.me,
                from_incarnation: self.roster.incarnation,
                to_incarnation: self.peer.incarnation,
                serving: false,
            },
            self.serving.clone(),
        );
        let exchange = async {
            let mut answers = client.exchange(outgoing).await?.into_inner();
            let frame = answers
                .message()
                .await?
                .ok_or_else(|| LinkError::NotHello("it ended the connection".to_owned()))?;
            match wire::read(frame) {
                Ok(Frame::Hello(hello, lane)) if lane == self.lane => Ok((hello, answers)),
                Ok(_) => Err(LinkError::NotHello("another lane, or messages".to_owned())),
                Err(error) => Err(LinkError::NotHello(error.to_string())),
            }
        };
        let exchanged = timeout(HELLO_TIMEOUT, exchange).await;
        let (hello, answers) = exchanged.map_err(|_| LinkError::TimedOut)??;
        self.check(hello).await?;
        Ok(Connection { start, answers })
    }

    async fn our_hello(&self) -> Result<Hello, LinkError> {
        let (reply, answer) = oneshot::channel();
        let asked = self.inputs.send(Input::OurHello(reply));
        asked.map_err(|_| LinkError::Ended)?;
        answer.await.map_err(|_| LinkError::Ended)
    }

    /// The agreement looks at the listener's hello as it does at a dialler's.
    async fn check(&self, hello: Hello) -> Result<(), LinkError> {
        if hello.name != self.peer.name || hello.member != self.peer.id {
            let words = format!("it calls itself {} {:?}", hello.member, hello.name);
            return Err(LinkError::NotHello(words));
        }
        let (reply, answer) = oneshot::channel();
        let asked = self.inputs.send(Input::TheirHello { hello, reply });
        asked.map_err(|_| LinkError::Ended)?;
        answer.await.map_err(|_| LinkError::Ended)??;
        Ok(())
    }

    fn complain(&self, error: LinkError) {
        let peer = self.peer.name.as_str();
        match &error {
            LinkError::Ended => {}
            LinkError::Status(status) if refusal::is_refusal(status) => {
                let (me, incarnation) = (self.roster.me, self.roster.incarnation);
                if let Some(refusal) = refusal::from_status(status, me, incarnation) {
                    let peer = self.peer.id;
                    let _ = self.inputs.send(Input::Refused { peer, refusal });
                }
                self.complain_once(peer, &format!("refused by the peer: {error}"));
            }
            LinkError::Refused(_)
            | LinkError::NotHello(_)
            | LinkError::Connect(ConnectError::Handshake { .. } | ConnectError::NoAddress(_)) => {
                self.complain_once(peer, &error.to_string());
            }
            // Its words change from attempt to attempt, the fact does not.
            LinkError::Connect(_) | LinkError::Status(_) | LinkError::TimedOut => {
                if self.complaints.is_news(peer, "unreachable") {
                    tracing::info!(peer, %error, "the peer cannot be reached; trying on");
                }
            }
        }
    }

    fn complain_once(&self, peer: &str, text: &str) {
        if self.complaints.is_news(peer, text) {
            tracing::warn!(peer, error = text, "no connection with the peer; trying on");
        }
    }
}
