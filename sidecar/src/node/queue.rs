//! What waits to be sent to one peer on one lane: bounded, and gone when its connection breaks.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use futures::Stream;
use synod_failpoint::{Point, hit};
use synod_paxos::{Lane, Message};
use synod_proto::v1::PeerFrame;
use tokio::sync::oneshot;

use super::wire::{self, BatchHead};

/// Messages are packed into frames of about this size, in bytes.
const FRAME_BYTES: u64 = 1 << 20;

/// A queue that is open while there is a connection. A break loses what is queued, which the
/// agreement knows how to bear; memory without limit it does not.
#[derive(Debug)]
pub(super) struct SendQueue {
    state: Mutex<State>,
    limit: u64,
}

#[derive(Debug, Default)]
struct State {
    /// Number of the connection that takes from here; `None`: there is none.
    open: Option<u64>,
    last: u64,
    messages: VecDeque<(u64, Message)>,
    bytes: u64,
    waker: Option<Waker>,
}

/// The frames of one connection: a hello, then what is queued while it is the open one.
#[derive(Debug)]
pub(super) struct Outgoing {
    hello: Option<PeerFrame>,
    phase: Phase,
    queue: Arc<SendQueue>,
    head: BatchHead,
    serving: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Phase {
    /// The other side has not agreed yet.
    Waiting(oneshot::Receiver<u64>),
    /// This connection's number.
    Open(u64),
}

// === impl SendQueue ===

impl SendQueue {
    /// `limit` in bytes is for lanes with bodies: at least what the agreement sends at once
    /// ([`synod_paxos::Settings::largest_burst_bytes`]).
    pub(super) fn new(lane: Lane, limit: u64) -> Self {
        let limit = match lane {
            Lane::Log | Lane::Bulk => limit,
            Lane::Heartbeat => 1 << 20,
        };
        Self {
            state: Mutex::default(),
            limit,
        }
    }

    /// Queues a message, or drops it when there is no connection. A queue that would be too long
    /// breaks its connection.
    pub(super) fn push(&self, message: Message) {
        hit_message(&message);
        let weight = wire::weight(&message);
        let mut state = self.lock();
        if state.open.is_none() {
            return;
        }
        if state.bytes + weight > self.limit {
            state.shut();
            return;
        }
        state.bytes += weight;
        state.messages.push_back((weight, message));
        if let Some(waker) = state.waker.take() {
            drop(state);
            waker.wake();
        }
    }

    /// A new connection takes over; an earlier one ends. Returns its number.
    pub(super) fn open(&self) -> u64 {
        let mut state = self.lock();
        state.shut();
        state.last += 1;
        state.open = Some(state.last);
        state.last
    }

    /// The connection of this number has ended.
    pub(super) fn close(&self, number: u64) {
        let mut state = self.lock();
        if state.open == Some(number) {
            state.shut();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

impl State {
    fn shut(&mut self) {
        self.open = None;
        self.messages.clear();
        self.bytes = 0;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// The next messages that go together, at least one if there is one.
    fn take(&mut self) -> Vec<Message> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some((weight, message)) = self.messages.pop_front() {
            if bytes > 0 && bytes + weight > FRAME_BYTES {
                self.messages.push_front((weight, message));
                break;
            }
            bytes += weight;
            taken.push(message);
        }
        self.bytes -= bytes;
        taken
    }
}

/// Reaches the point of its kind.
fn hit_message(message: &Message) {
    match message {
        Message::Prepare { .. } => hit(Point::NodeBeforePrepare),
        Message::Promise { .. } => hit(Point::NodeBeforePromise),
        Message::AcceptSync { .. } => hit(Point::NodeBeforeAcceptSync),
        Message::Accept { .. } => hit(Point::NodeBeforeAccept),
        Message::Accepted { .. } => hit(Point::NodeBeforeAccepted),
        _ => {}
    }
}

// === impl Outgoing ===

impl Outgoing {
    /// `start` says when, and as which connection, to begin behind the hello.
    pub(super) fn new(
        hello: PeerFrame,
        start: oneshot::Receiver<u64>,
        queue: Arc<SendQueue>,
        head: BatchHead,
        serving: Arc<AtomicBool>,
    ) -> Self {
        Self {
            hello: Some(hello),
            phase: Phase::Waiting(start),
            queue,
            head,
            serving,
        }
    }
}

impl Stream for Outgoing {
    type Item = PeerFrame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<PeerFrame>> {
        if let Some(hello) = self.hello.take() {
            return Poll::Ready(Some(hello));
        }
        let number = match &mut self.phase {
            Phase::Open(number) => *number,
            Phase::Waiting(start) => match std::task::ready!(Pin::new(start).poll(context)) {
                Ok(number) => {
                    self.phase = Phase::Open(number);
                    number
                }
                Err(_) => return Poll::Ready(None),
            },
        };
        let mut state = self.queue.lock();
        if state.open != Some(number) {
            return Poll::Ready(None);
        }
        let messages = state.take();
        if messages.is_empty() {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        drop(state);
        hit(Point::NodeFrameTaken);
        let head = BatchHead {
            serving: self.serving.load(Ordering::Relaxed),
            ..self.head
        };
        Poll::Ready(Some(wire::batch(head, messages)))
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};
    use synod_paxos::{Ballot, GroupId, Incarnation, MemberId, Slot};

    use super::*;

    fn message(slot: u64) -> Message {
        Message::Accepted {
            ballot: Ballot::default(),
            slot: Slot(slot),
        }
    }

    fn outgoing(queue: &Arc<SendQueue>) -> (Outgoing, oneshot::Sender<u64>) {
        let head = BatchHead {
            group: GroupId::default(),
            from: MemberId(1),
            from_incarnation: Incarnation(1),
            to_incarnation: Incarnation(2),
            serving: false,
        };
        let (start, started) = oneshot::channel();
        let serving = Arc::new(AtomicBool::new(true));
        let frames = Outgoing::new(PeerFrame::default(), started, queue.clone(), head, serving);
        (frames, start)
    }

    fn slots(frame: Option<PeerFrame>) -> Vec<u64> {
        let Ok(wire::Frame::Batch(head, messages)) = wire::read(frame.expect("a frame")) else {
            panic!("a batch");
        };
        assert!(head.serving);
        messages
            .into_iter()
            .map(|it| match it {
                Message::Accepted { slot, .. } => slot.0,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[tokio::test]
    async fn frames_hold_what_is_queued_in_order_behind_the_hello() {
        let queue = Arc::new(SendQueue::new(Lane::Log, 1 << 20));
        queue.push(message(1));
        let (mut frames, start) = outgoing(&queue);
        assert_eq!(frames.next().await, Some(PeerFrame::default()));
        assert!(frames.next().now_or_never().is_none());
        start.send(queue.open()).expect("waits");
        queue.push(message(2));
        queue.push(message(3));
        assert_eq!(slots(frames.next().await), [2, 3]);
        assert!(frames.next().now_or_never().is_none());
        queue.push(message(4));
        assert_eq!(slots(frames.next().await), [4]);
    }

    #[tokio::test]
    async fn a_newer_connection_ends_the_older_one_and_gets_nothing_of_its_queue() {
        let queue = Arc::new(SendQueue::new(Lane::Log, 1 << 20));
        let (mut old, start) = outgoing(&queue);
        let number = queue.open();
        start.send(number).expect("waits");
        old.next().await;
        queue.push(message(1));
        let (mut new, start) = outgoing(&queue);
        start.send(queue.open()).expect("waits");
        queue.push(message(2));
        queue.close(number);
        assert_eq!(old.next().await, None);
        new.next().await;
        assert_eq!(slots(new.next().await), [2]);
    }

    #[tokio::test]
    async fn a_queue_that_grows_too_long_breaks_its_connection() {
        let queue = Arc::new(SendQueue::new(Lane::Heartbeat, 0));
        let (mut frames, start) = outgoing(&queue);
        start.send(queue.open()).expect("waits");
        frames.next().await;
        for slot in 0..=(1 << 20) / 128 {
            queue.push(message(slot));
            assert!(queue.lock().bytes <= queue.limit);
        }
        assert_eq!(frames.next().await, None);
        queue.push(message(0));
        assert_eq!(queue.lock().bytes, 0);
    }
}
