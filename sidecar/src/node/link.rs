//! The connection to one peer on one lane: dialled, kept, raced by a new one when the peer falls
//! silent, dialled again after a break.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use synod_paxos::{GroupId, Hello, HelloRefusal, Lane};
use synod_proto::v1::PeerFrame;
use synod_proto::v1::peer_client::PeerClient;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tonic::Streaming;

use super::clock;
use super::complaint::Complaints;
use super::input::{Input, Inputs, Peer, Roster};
use super::queue::{Outgoing, SendQueue};
use super::refusal;
use super::wire::{self, BatchHead, Frame, HelloHead};
use crate::config::limits::MESSAGE_BYTES;
use crate::identity::{ConnectError, Connector};

/// First gap between two attempts; doubles up to [`LONGEST_GAP`].
const FIRST_GAP: Duration = Duration::from_millis(20);
const LONGEST_GAP: Duration = Duration::from_secs(1);
/// Where another life of the member has taken its place, it hardly comes back; handshakes cost.
const TAKEN_GAP: Duration = Duration::from_secs(8);
/// Limit on the exchange of hellos.
const HELLO_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a link looks whether its peer is, or was, silent.
const LOOK: Duration = Duration::from_millis(200);
/// After so long the next attempt races one that hangs; how many may be under way.
const RACE_GAP: Duration = Duration::from_millis(500);
const RACES: usize = 4;

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
    /// When, on `CLOCK_BOOTTIME`.
    made_ns: u64,
}

/// The connection in use.
#[derive(Clone, Copy, Debug)]
struct Current {
    number: u64,
    made_ns: u64,
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
    #[error("another member is there: {0}")]
    Another(String),
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
            let connection = self.connect(&mut gap).await;
            if self.complaints.settled(&self.peer.name) {
                tracing::info!(peer = %self.peer.name, "connected again");
            }
            let since = Instant::now();
            self.hold(connection).await;
            // One that breaks at once counts as a failed attempt.
            if since.elapsed() > LONGEST_GAP {
                gap = FIRST_GAP;
            }
            tokio::time::sleep(jittered(gap)).await;
        }
    }

    /// Tries until there is a connection. An attempt that hangs does not hold up the next: what
    /// kept its packets back may be over.
    async fn connect(&self, gap: &mut Duration) -> Connection {
        let mut attempts = FuturesUnordered::new();
        let mut next = Instant::now();
        loop {
            tokio::select! {
                Some(attempt) = attempts.next() => match attempt {
                    Ok(connection) => return connection,
                    Err(error) => {
                        if matches!(error, LinkError::Another(_)) {
                            *gap = TAKEN_GAP;
                        }
                        self.complain(error);
                        if attempts.is_empty() {
                            next = Instant::now() + jittered(*gap);
                            *gap = (*gap * 2).min(LONGEST_GAP);
                        }
                    }
                },
                () = tokio::time::sleep_until(next), if attempts.len() < RACES => {
                    attempts.push(self.attempt());
                    next = Instant::now() + RACE_GAP;
                }
                () = self.peer.comes_back(self.lane) => {
                    *gap = FIRST_GAP;
                    next = Instant::now();
                }
            }
        }
    }

    /// Returns when the connection, or the one that took its place, has ended.
    async fn hold(&self, first: Connection) {
        let (mut current, mut answers) = self.take_over(first);
        let mut look = tokio::time::interval(LOOK);
        let mut races = FuturesUnordered::new();
        let mut raced: Option<Instant> = None;
        loop {
            tokio::select! {
                // It sends nothing behind its hello: whatever comes is the end.
                _ = answers.message() => break,
                Some(raced) = races.next() => {
                    let Ok::<Connection, LinkError>(connection) = raced else {
                        continue;
                    };
                    tracing::debug!(peer = %self.peer.name, "a new connection takes over");
                    races.clear();
                    self.went_down(current.number);
                    (current, answers) = self.take_over(connection);
                }
                _ = look.tick() => {
                    // The old one may have survived: it stays until a new one is there.
                    let doubtful = self.peer.casts_doubt_on(current.made_ns);
                    let again = raced.is_none_or(|it| it.elapsed() > RACE_GAP);
                    if doubtful && again && races.len() < RACES {
                        raced = Some(Instant::now());
                        races.push(self.attempt());
                    }
                }
            }
        }
        self.went_down(current.number);
    }

    fn take_over(&self, connection: Connection) -> (Current, Streaming<PeerFrame>) {
        let number = self.queue.open();
        self.report(true);
        // Its receiver is gone only if the connection has ended already.
        let _ = connection.start.send(number);
        let made_ns = connection.made_ns;
        (Current { number, made_ns }, connection.answers)
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
        let head = HelloHead {
            lane: self.lane,
            to: self.peer.id,
        };
        let (start, started) = oneshot::channel();
        let outgoing = Outgoing::new(
            wire::hello(&self.our_hello().await?, head),
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
                Ok(Frame::Hello(hello, head)) if head.lane == self.lane => Ok((hello, answers)),
                Ok(_) => Err(LinkError::NotHello("another lane, or messages".to_owned())),
                Err(error) => Err(LinkError::NotHello(error.to_string())),
            }
        };
        let exchanged = timeout(HELLO_TIMEOUT, exchange).await;
        let exchanged = exchanged.map_err(|_| LinkError::TimedOut)?;
        let (hello, answers) = exchanged.map_err(|error| match error {
            LinkError::Status(status) if refusal::is_another(&status) => {
                LinkError::Another(status.message().to_owned())
            }
            error => error,
        })?;
        self.check(hello).await?;
        Ok(Connection {
            start,
            answers,
            made_ns: clock::now().mono_ns,
        })
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
            return Err(LinkError::Another(refusal::who(&hello)));
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
            // It was replaced, most likely: nothing that a person is to do.
            LinkError::Another(_) => {
                if self.complaints.is_news(peer, "taken") {
                    tracing::info!(peer, %error, "no connection with the peer; trying on");
                }
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

fn jittered(gap: Duration) -> Duration {
    gap.mul_f64(rand::random_range(0.5..1.0))
}
