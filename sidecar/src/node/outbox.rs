//! What is to be sent to one peer on one lane, in order, of which some may wait for the disk.

use std::collections::VecDeque;
use std::sync::Arc;

use synod_paxos::{Io, Message};

use super::queue::SendQueue;

/// Messages to one peer on one lane, of which the first may wait for the disk.
pub(super) struct Outbox {
    pub(super) queue: Arc<SendQueue>,
    /// In order; the first waits for a write, all others for it.
    pub(super) held: VecDeque<(Option<Io>, Message)>,
}

// === impl Outbox ===

impl Outbox {
    /// Sends, now or when `after` is synced and everything before it has left.
    pub(super) fn send(&mut self, message: Message, after: Option<Io>, synced: Io) {
        let after = after.filter(|it| *it > synced);
        if after.is_none() && self.held.is_empty() {
            self.queue.push(message);
        } else {
            self.held.push_back((after, message));
        }
    }

    pub(super) fn release(&mut self, synced: Io) {
        while let Some((after, _)) = self.held.front() {
            if after.is_some_and(|it| it > synced) {
                return;
            }
            let (_, message) = self.held.pop_front().expect("just seen");
            self.queue.push(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use synod_paxos::Lane;

    use super::*;

    #[test]
    fn nothing_overtakes_a_message_that_waits_for_the_disk() {
        let queue = Arc::new(SendQueue::new(Lane::Log, 1 << 20));
        queue.open();
        let mut outbox = Outbox {
            queue,
            held: VecDeque::new(),
        };
        let message = |round| Message::Confirm {
            ballot: synod_paxos::Ballot::default(),
            round,
        };
        outbox.send(message(1), Some(Io(1)), Io(1));
        assert!(
            outbox.held.is_empty(),
            "what is synced already waits for nothing"
        );
        outbox.send(message(2), Some(Io(2)), Io(1));
        outbox.send(message(3), None, Io(1));
        outbox.send(message(4), Some(Io(4)), Io(1));
        assert_eq!(outbox.held.len(), 3);
        outbox.release(Io(1));
        assert_eq!(outbox.held.len(), 3);
        outbox.release(Io(3));
        assert_eq!(outbox.held.len(), 1);
        outbox.release(Io(4));
        assert!(outbox.held.is_empty());
    }
}
