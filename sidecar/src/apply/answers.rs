//! Answers that are known, and who waits for those that are not.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use synod_paxos::{CommandId, Slot};
use tokio::sync::oneshot;

use super::handle::{Answer, Outcome, StoredResponse};
use super::ids::Ids;
use super::kept::{Kept, Weight};

/// Answers that are kept.
const ANSWERS: usize = 4_096;
/// Responses that are kept for repeats by key.
const KEYED: usize = 65_536;

/// Shared between the executor, which tells, and the handles, which ask.
#[derive(Debug)]
pub(super) struct Answers {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    answers: Kept<CommandId, Answer>,
    keyed: Kept<Slot, Arc<StoredResponse>>,
    by_id: HashMap<CommandId, BTreeMap<u64, oneshot::Sender<Answer>>>,
    /// The last slot that a snapshot stands for here, and the commands up to it.
    jump: Option<(Slot, Arc<Ids>)>,
    applied: Mark,
    answered: Mark,
    waits: u64,
}

/// A slot, and who waits until it is reached.
#[derive(Debug, Default)]
struct Mark {
    at: Slot,
    waiting: BTreeMap<(Slot, u64), oneshot::Sender<()>>,
}

/// Which of the two marks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    /// The app's state; begins anew when the app does.
    Applied,
    /// What was executed, be it by an app that is gone.
    Answered,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                answers: Kept::new(ANSWERS),
                keyed: Kept::new(KEYED),
                by_id: HashMap::new(),
                jump: None,
                applied: Mark::default(),
                answered: Mark::default(),
                waits: 0,
            }),
        }
    }
}

// === the executor's side ===

impl Answers {
    /// Keeps a response for repeats by key.
    pub(super) fn keep_keyed(&self, slot: Slot, response: &Arc<StoredResponse>) {
        let weight = Weight::of(Some(response));
        self.state().keyed.insert(slot, response.clone(), weight);
    }

    /// The response of the first request under a key.
    pub(super) fn keyed(&self, slot: Slot) -> Option<Arc<StoredResponse>> {
        self.state().keyed.get(&slot).cloned()
    }

    /// Tells whoever waits for the command, and whoever will ask. A repeat by internal id tells
    /// nobody anything: its first, which may be decided but not executed yet, has the answer.
    pub(super) fn tell(&self, id: CommandId, answer: Answer) {
        if answer.outcome == Outcome::Duplicate {
            return;
        }
        let waiting = {
            let mut state = self.state();
            let weight = Weight::of(answer.response.as_ref());
            state.answers.insert(id, answer.clone(), weight);
            state.by_id.remove(&id)
        };
        for sender in waiting.into_iter().flat_map(BTreeMap::into_values) {
            // Who has left does not want it any more.
            let _ = sender.send(answer.clone());
        }
    }

    /// Commands up to this slot are not told any more: whoever waits for one of these, or will ask, is
    /// told so. Called before anything is published that belongs to a later slot.
    pub(super) fn jump(&self, slot: Slot, taken: Arc<Ids>) {
        let waiting: Vec<_> = {
            let mut state = self.state();
            state.jump = Some((slot, taken.clone()));
            state.by_id.extract_if(|id, _| taken.took(*id)).collect()
        };
        for sender in waiting.into_iter().flat_map(|(_, all)| all.into_values()) {
            // Who has left does not want it any more.
            let _ = sender.send(Answer::elsewhere(slot));
        }
    }

    /// Moves the marks.
    pub(super) fn reached(&self, applied: Slot, answered: Slot) {
        let mut state = self.state();
        state.applied.set(applied);
        state.answered.set(answered);
    }
}

// === the handles' side ===

impl Answers {
    pub(super) async fn wait(&self, id: CommandId) -> Answer {
        let (number, receiver) = {
            let mut state = self.state();
            if let Some(answer) = state.answers.get(&id) {
                return answer.clone();
            }
            if let Some((slot, taken)) = &state.jump
                && taken.took(id)
            {
                return Answer::elsewhere(*slot);
            }
            let number = state.number();
            let (sender, receiver) = oneshot::channel();
            state.by_id.entry(id).or_default().insert(number, sender);
            (number, receiver)
        };
        let _leave = Leave(|| {
            let mut state = self.state();
            if let Some(waiting) = state.by_id.get_mut(&id) {
                waiting.remove(&number);
                if waiting.is_empty() {
                    state.by_id.remove(&id);
                }
            }
        });
        match receiver.await {
            Ok(answer) => answer,
            // Apply has ended: nobody will ever know here.
            Err(_) => std::future::pending().await,
        }
    }

    pub(super) async fn wait_until(&self, which: Which, slot: Slot) {
        let (number, receiver) = {
            let mut state = self.state();
            let number = state.number();
            let mark = state.mark(which);
            if mark.at >= slot {
                return;
            }
            let (sender, receiver) = oneshot::channel();
            mark.waiting.insert((slot, number), sender);
            (number, receiver)
        };
        let _leave = Leave(|| {
            self.state().mark(which).waiting.remove(&(slot, number));
        });
        if receiver.await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does something when dropped: a wait that ends, however it does, leaves nothing behind.
struct Leave<F: FnMut()>(F);

impl<F: FnMut()> Drop for Leave<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.waits += 1;
        self.waits
    }

    fn mark(&mut self, which: Which) -> &mut Mark {
        match which {
            Which::Applied => &mut self.applied,
            Which::Answered => &mut self.answered,
        }
    }
}

impl Mark {
    fn set(&mut self, slot: Slot) {
        self.at = slot;
        while let Some(first) = self.waiting.first_entry()
            && first.key().0 <= slot
        {
            // Who has left does not want to know.
            let _ = first.remove().send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures::FutureExt;
    use synod_paxos::{Boot, MemberId};

    use crate::apply::StoredBody;

    fn id(sequence: u64) -> CommandId {
        CommandId {
            member: MemberId(1),
            boot: Boot(1),
            sequence,
        }
    }

    fn executed(slot: u64, body: &'static str) -> Answer {
        Answer {
            slot: Slot(slot),
            outcome: Outcome::Executed,
            first_answerer: None,
            response: Some(Arc::new(StoredResponse {
                status: http::StatusCode::OK,
                headers: http::HeaderMap::new(),
                body: StoredBody::Memory(Bytes::from_static(body.as_bytes())),
                trailers: http::HeaderMap::new(),
            })),
        }
    }

    #[tokio::test]
    async fn an_answer_reaches_those_who_wait_and_those_who_ask_later() {
        let answers = Answers::default();
        let mut early = Box::pin(answers.wait(id(1)));
        let mut also = Box::pin(answers.wait(id(1)));
        assert!((&mut early).now_or_never().is_none());
        assert!((&mut also).now_or_never().is_none());
        answers.tell(id(1), executed(7, "x"));
        assert_eq!(early.await.slot, Slot(7));
        assert_eq!(also.await.slot, Slot(7));
        assert_eq!(answers.wait(id(1)).await.slot, Slot(7));
        assert!(answers.state().by_id.is_empty());
    }

    #[tokio::test]
    async fn a_repeat_by_id_never_hides_the_answer_of_its_first() {
        let duplicate = Answer {
            slot: Slot(9),
            outcome: Outcome::Duplicate,
            first_answerer: None,
            response: None,
        };
        let answers = Answers::default();
        let mut waiting = Box::pin(answers.wait(id(1)));
        assert!((&mut waiting).now_or_never().is_none());
        answers.tell(id(1), duplicate.clone());
        answers.tell(id(1), executed(7, "x"));
        answers.tell(id(1), duplicate);
        assert_eq!(waiting.await.outcome, Outcome::Executed);
        assert_eq!(answers.wait(id(1)).await.outcome, Outcome::Executed);
    }

    #[tokio::test]
    async fn who_waits_for_what_a_snapshot_stands_for_is_told_that_others_may_know() {
        let taken = || {
            let entrance = synod_proto::v1::tables::Entrance {
                member: 1,
                boot: 1,
                floor: 2,
                taken: vec![2, 4],
            };
            Arc::new(Ids::load(vec![entrance]).unwrap())
        };
        let answers = Answers::default();
        answers.tell(id(1), executed(1, "x"));
        let mut gone = Box::pin(answers.wait(id(2)));
        let mut later = Box::pin(answers.wait(id(3)));
        assert!((&mut gone).now_or_never().is_none());
        assert!((&mut later).now_or_never().is_none());
        answers.jump(Slot(9), taken());
        let gone = gone.now_or_never().expect("it was told");
        assert_eq!((gone.slot, gone.outcome), (Slot(9), Outcome::Elsewhere));
        let asked = answers.wait(id(4)).now_or_never();
        assert_eq!(asked.expect("at once").outcome, Outcome::Elsewhere);
        assert_eq!(answers.wait(id(1)).await.outcome, Outcome::Executed);
        assert!((&mut later).now_or_never().is_none(), "it may still come");
        answers.tell(id(3), executed(10, "x"));
        assert_eq!(later.await.slot, Slot(10));
        assert!(answers.state().by_id.is_empty());
    }

    #[tokio::test]
    async fn who_stops_waiting_leaves_nothing_behind() {
        let answers = Answers::default();
        for _ in 0..10 {
            assert!(answers.wait(id(1)).now_or_never().is_none());
            let applied = answers.wait_until(Which::Applied, Slot(3));
            assert!(applied.now_or_never().is_none());
        }
        assert!(answers.state().by_id.is_empty());
        assert!(answers.state().applied.waiting.is_empty());
    }

    #[tokio::test]
    async fn a_mark_wakes_all_at_or_below_it_and_may_begin_anew() {
        let answers = Answers::default();
        let mut third = Box::pin(answers.wait_until(Which::Applied, Slot(3)));
        let mut fourth = Box::pin(answers.wait_until(Which::Applied, Slot(4)));
        assert!((&mut third).now_or_never().is_none());
        assert!((&mut fourth).now_or_never().is_none());
        answers.reached(Slot(3), Slot(3));
        assert!((&mut third).now_or_never().is_some());
        assert!((&mut fourth).now_or_never().is_none());
        answers.reached(Slot(1), Slot(3));
        let again = answers.wait_until(Which::Applied, Slot(3));
        assert!(
            again.now_or_never().is_none(),
            "the app's state is older now"
        );
        let answered = answers.wait_until(Which::Answered, Slot(3));
        assert!(answered.now_or_never().is_some());
    }

    #[tokio::test]
    async fn the_last_answers_are_kept_and_no_more() {
        let answers = Answers::default();
        for sequence in 1..=ANSWERS as u64 + 10 {
            answers.tell(id(sequence), executed(sequence, "x"));
        }
        assert!(answers.wait(id(10)).now_or_never().is_none());
        assert!(answers.wait(id(11)).now_or_never().is_some());
    }
}
