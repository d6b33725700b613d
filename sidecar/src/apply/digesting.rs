//! Makes the digests of this copy's responses, beside the lane, and keeps what the comparison of the
//! copies says about this one.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use synod_paxos::Slot;
use synod_proto::v1::Request;
use tokio::sync::{mpsc, watch};

use super::digests::{Batch, Digest, Digester, Digests, NOISE, Noise, fingerprint};
use super::divergence::Mark;
use super::handle::{StoredBody, StoredResponse};
use super::machine::{Lineage, Machine};
use crate::app::Instance;
use crate::copies::Found;

/// Responses that wait for their digest, at most: they are held meanwhile. Of what comes beyond,
/// there is none.
const WAITING: usize = 1_024;
/// Read from a file at a time, in bytes.
const PIECE: usize = 64 << 10;

/// The copy as the comparison sees it.
#[derive(Debug)]
pub(super) struct Compared {
    state: Mutex<State>,
    /// Tells this process' lineages from those of others.
    salt: u64,
    verified: watch::Sender<Verified>,
    /// About all copies, while this member leads.
    pub(super) found: watch::Sender<Found>,
}

#[derive(Debug, Default)]
struct State {
    digests: Digests,
    lineage: Lineage,
    instance: Option<Instance>,
    /// What a leader has found about this state, or an earlier process has.
    mark: Option<Mark>,
    /// Vouched for up to here.
    verified: Slot,
    /// And nobody objects up to here, as the leader said last.
    undisputed: Slot,
    /// Kept for the next leader.
    noise: BTreeSet<Noise>,
}

/// Up to where the state of an instance of the app is vouched for (rule N2): all that it has executed up
/// to this slot was answered as a majority of the copies has answered it, this copy among them, as far
/// as a second answer can be had any more.
///
/// It says nothing about the state of any other instance, and so nothing about that of an app that was
/// started anew: that begins with nothing verified. Nor does it outlive this process: one that finds the
/// app as the last left it begins with nothing verified, and is told by the next comparison. It never
/// includes a slot from which on the copy was found to differ; the ledger keeps that, so that no later
/// process or leader vouches for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    instance: Option<Instance>,
    slot: Slot,
    undisputed: Slot,
}

/// What the leader says to a copy when it asks for digests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    /// The state that the rest is about; 0: of none.
    pub lineage: u64,
    /// The digests behind this slot are wanted.
    pub after: Slot,
    /// That state is vouched for up to here.
    pub verified: Slot,
    /// Whoever may still vouch for it up to here, or object, is away.
    pub undisputed: Slot,
    /// Whatever the state: no digest up to here is needed any more.
    pub release: Slot,
    /// What was found about that state.
    pub mark: Option<Mark>,
    /// What was found about it without a majority is over.
    pub is_over: bool,
    /// All that the leader knows to be noise, unless the copy knows the same.
    pub noise: BTreeSet<Noise>,
    /// [`fingerprint`] of that.
    pub noise_known: u64,
}

/// The executor's end.
#[derive(Debug)]
pub(super) struct Digesting {
    compared: Arc<Compared>,
    waiting: mpsc::Sender<Executed>,
}

/// A response of which a digest is made.
struct Executed {
    lineage: u64,
    slot: Slot,
    request: Arc<Request>,
    response: Arc<StoredResponse>,
}

// === impl Verified ===

impl Verified {
    /// The state of this instance at this slot is vouched for.
    pub fn covers(&self, instance: Instance, slot: Slot) -> bool {
        self.instance == Some(instance) && slot <= self.slot
    }

    /// Nobody vouches for the state of this instance at this slot, perhaps, but only because those that
    /// could are away: where there is no room to wait for them, it may be used (rule N2).
    pub fn tolerates(&self, instance: Instance, slot: Slot) -> bool {
        self.instance == Some(instance) && slot <= self.undisputed
    }

    /// It is about the state of this instance.
    pub fn is_of(&self, instance: Instance) -> bool {
        self.instance == Some(instance)
    }

    /// Up to where that of the present instance is.
    pub fn slot(&self) -> Slot {
        self.slot
    }
}

// === impl Compared ===

impl Compared {
    pub(super) fn new(salt: u64) -> Self {
        Self {
            state: Mutex::default(),
            salt,
            verified: watch::channel(Verified::default()).0,
            found: watch::channel(Found::default()).0,
        }
    }

    pub(super) fn verified(&self) -> watch::Receiver<Verified> {
        self.verified.subscribe()
    }

    /// The lineage of this machine that is meant, and what must be noted about it before anything else
    /// is done; if there is such a thing.
    pub(super) fn to_note(&self, word: &Word) -> Option<(u64, Option<Mark>)> {
        let copy = self.state();
        let is_tie = copy.mark.as_ref().is_some_and(|mark| mark.tie.is_some());
        let is_news = match &word.mark {
            Some(mark) => copy.mark.as_ref() != Some(mark),
            None => word.is_over && is_tie,
        };
        let is_meant = copy.is(word.lineage);
        (is_meant && is_news).then(|| (copy.lineage.number, word.mark.clone()))
    }

    /// It was noted.
    pub(super) fn noted(&self, lineage: u64, mark: Option<Mark>) {
        let mut copy = self.state();
        if copy.lineage.number == lineage {
            copy.mark = mark;
            self.publish(&mut copy);
        }
    }

    /// Takes what the leader says, and gives the digests that it wants.
    pub(super) fn answer(&self, word: &Word, max: usize) -> Batch {
        let mut copy = self.state();
        let is_same = copy.is(word.lineage);
        if is_same && copy.lineage.is_known {
            copy.verified = copy.verified.max(word.verified);
            copy.undisputed = word.undisputed;
        }
        copy.digests.release(word.release);
        self.publish(&mut copy);
        for noise in &word.noise {
            if copy.noise.len() < NOISE {
                copy.noise.insert(noise.clone());
            }
        }
        let noise_known = fingerprint(&copy.noise);
        let is_news = noise_known != word.noise_known;
        let after = if is_same { word.after } else { Slot::ZERO };
        Batch {
            revision: copy.lineage.revision,
            mark: copy.mark.clone(),
            noise: if is_news {
                copy.noise.clone()
            } else {
                BTreeSet::new()
            },
            noise_known,
            ..copy.digests.after(after, max)
        }
    }

    /// The copy has come so far, in this state, which was found to differ from the slot `astray` on.
    pub(super) fn reached(&self, machine: &Machine) {
        let (lineage, instance) = (machine.lineage(), machine.instance());
        self.enter(lineage, instance, machine.astray());
        if instance.is_some() {
            self.state().digests.reached(machine.applied());
        }
    }

    /// The digest of this slot is there at once, of the copy in its present state.
    pub(super) fn executed(&self, slot: Slot, digest: Digest) {
        let mut copy = self.state();
        let lineage = copy.digests.lineage();
        copy.digests.begin(slot);
        copy.digests.end(lineage, slot, Some(digest));
    }

    fn enter(&self, lineage: Lineage, instance: Option<Instance>, astray: Option<Slot>) {
        let mut copy = self.state();
        let before = (copy.lineage.number, copy.instance, copy.digests.is_new());
        if before == (lineage.number, instance, false) {
            return;
        }
        if copy.lineage.number != lineage.number {
            copy.mark = None;
            copy.verified = Slot::ZERO;
            copy.undisputed = Slot::ZERO;
        }
        copy.lineage = lineage;
        copy.instance = instance;
        if instance.is_some() {
            copy.digests
                .enter(self.number(lineage.number), lineage.from);
        }
        if copy.mark.is_none() {
            copy.mark = astray.map(Mark::of_an_earlier_life);
        }
        self.publish(&mut copy);
    }

    fn publish(&self, copy: &mut State) {
        if let Some(mark) = &copy.mark {
            copy.verified = copy.verified.min(mark.slot.prev());
            copy.undisputed = copy.undisputed.min(mark.slot.prev());
        }
        let verified = Verified {
            instance: copy.instance,
            slot: copy.verified,
            undisputed: copy.undisputed,
        };
        self.verified.send_if_modified(|published| {
            let changed = *published != verified;
            *published = verified;
            changed
        });
    }

    fn number(&self, lineage: u64) -> u64 {
        // Never 0, which stands for none.
        self.salt.wrapping_add(lineage) | 1 << 63
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// This is its state.
    fn is(&self, lineage: u64) -> bool {
        !self.digests.is_new() && self.digests.lineage() == lineage
    }
}

// === impl Digesting ===

impl Digesting {
    /// Ends when it is dropped. Must be called within a runtime.
    pub(super) fn start(compared: Arc<Compared>) -> Self {
        let (waiting, mut executed) = mpsc::channel::<Executed>(WAITING);
        let made = compared.clone();
        tokio::spawn(async move {
            while let Some(executed) = executed.recv().await {
                let (lineage, slot) = (executed.lineage, executed.slot);
                let digest = digest(executed).await;
                if let Err(error) = &digest {
                    tracing::warn!(%slot, %error, "a response cannot be compared");
                }
                made.state().digests.end(lineage, slot, digest.ok());
            }
        });
        Self { compared, waiting }
    }

    /// The slot was executed, with this response, by the copy in its present state.
    pub(super) fn executed(
        &self,
        slot: Slot,
        request: &Arc<Request>,
        response: Option<&Arc<StoredResponse>>,
    ) {
        let Some(response) = response else {
            return;
        };
        let mut copy = self.compared.state();
        let lineage = copy.digests.lineage();
        copy.digests.begin(slot);
        let executed = Executed {
            lineage,
            slot,
            request: request.clone(),
            response: response.clone(),
        };
        if self.waiting.try_send(executed).is_err() {
            copy.digests.end(lineage, slot, None);
        }
    }

    /// The copy has come so far, in this state, which was found to differ from the slot `astray` on.
    pub(super) fn reached(&self, machine: &Machine) {
        self.compared.reached(machine);
    }
}

async fn digest(executed: Executed) -> io::Result<Digest> {
    let response = executed.response;
    let mut digester = Digester::new(&executed.request.route, response.status, &response.headers);
    let path = match &response.body {
        StoredBody::Memory(bytes) => {
            digester.body(bytes);
            return Ok(digester.finish(&response.trailers));
        }
        StoredBody::File { path, .. } => path.clone(),
    };
    let read = tokio::task::spawn_blocking(move || {
        let mut file = File::open(&*path)?;
        let mut piece = vec![0; PIECE];
        loop {
            match file.read(&mut piece) {
                Ok(0) => return Ok(digester.finish(&response.trailers)),
                Ok(count) => digester.body(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    });
    read.await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::digests::Part;
    use bytes::Bytes;
    use std::io::Write;

    fn response(body: StoredBody) -> Arc<StoredResponse> {
        Arc::new(StoredResponse {
            status: http::StatusCode::OK,
            headers: http::HeaderMap::new(),
            body,
            trailers: http::HeaderMap::new(),
        })
    }

    /// A copy whose state began at slot 0.
    fn entered() -> (Arc<Compared>, Digesting) {
        let compared = Arc::new(Compared::new(5));
        let digesting = Digesting::start(compared.clone());
        compared.enter(lineage(1), instance(1), None);
        (compared, digesting)
    }

    fn lineage(number: u64) -> Lineage {
        Lineage {
            number,
            from: Slot(0),
            is_known: true,
            revision: 0,
        }
    }

    fn instance(number: u64) -> Option<Instance> {
        std::num::NonZeroU64::new(number).map(Instance)
    }

    fn word(compared: &Compared, verified: u64) -> Word {
        Word {
            lineage: compared.state().digests.lineage(),
            verified: Slot(verified),
            ..Word::default()
        }
    }

    fn reached(compared: &Compared, applied: u64) {
        compared.state().digests.reached(Slot(applied));
    }

    fn verified(compared: &Compared) -> Verified {
        *compared.verified().borrow()
    }

    fn mark(slot: u64) -> Mark {
        Mark::of_an_earlier_life(Slot(slot))
    }

    async fn all(compared: &Compared, through: u64) -> Vec<(Slot, Digest)> {
        loop {
            let batch = compared.answer(&Word::default(), usize::MAX);
            if batch.through == Slot(through) {
                return batch.digests;
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_body_has_the_same_digest_in_memory_and_in_a_file() {
        let (compared, digesting) = entered();
        let request = Arc::new(Request::default());
        let body = vec![7; 3 * PIECE + 1];
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&body).unwrap();
        let file = StoredBody::File {
            len: body.len() as u64,
            path: Arc::new(file.into_temp_path()),
        };
        digesting.executed(Slot(2), &request, Some(&response(file)));
        let memory = StoredBody::Memory(body.into());
        digesting.executed(Slot(3), &request, Some(&response(memory)));
        digesting.executed(Slot(4), &request, None);
        reached(&compared, 4);
        let made = all(&compared, 4).await;
        let slots: Vec<u64> = made.iter().map(|(slot, _)| slot.0).collect();
        assert_eq!(slots, [2, 3]);
        assert_eq!(made[0].1, made[1].1);
        let release = Word {
            release: Slot(2),
            ..Word::default()
        };
        assert_eq!(compared.answer(&release, 10).digests.len(), 1);
    }

    #[tokio::test]
    async fn what_cannot_be_kept_up_with_is_lost_and_holds_nobody_up() {
        let (compared, digesting) = entered();
        let request = Arc::new(Request::default());
        // The task has no turn before the end.
        let last = WAITING as u64 + 100;
        for slot in 1..=last {
            let empty = response(StoredBody::Memory(Bytes::new()));
            digesting.executed(Slot(slot), &request, Some(&empty));
            reached(&compared, slot);
        }
        assert_eq!(all(&compared, last).await.len(), WAITING);
    }

    #[tokio::test]
    async fn only_the_state_that_was_compared_is_vouched_for() {
        let (compared, _digesting) = entered();
        let first = word(&compared, 7);
        compared.answer(&first, 10);
        let one = instance(1).unwrap();
        assert!(verified(&compared).covers(one, Slot(7)));
        assert!(!verified(&compared).covers(one, Slot(8)));
        assert!(!verified(&compared).covers(instance(2).unwrap(), Slot(1)));
        // The next instance has the same state, by way of a volume.
        compared.enter(lineage(1), instance(2), None);
        assert!(!verified(&compared).covers(one, Slot(1)), "it is over");
        assert!(verified(&compared).covers(instance(2).unwrap(), Slot(7)));
        // And this one was made anew: what comes late is about the one before.
        compared.enter(lineage(2), instance(3), None);
        compared.answer(&first, 10);
        assert_eq!(verified(&compared).slot(), Slot(0));
        compared.answer(&word(&compared, 3), 10);
        assert!(verified(&compared).covers(instance(3).unwrap(), Slot(3)));
    }

    #[tokio::test]
    async fn that_others_are_away_is_true_only_as_long_as_the_leader_says_so() {
        let (compared, _digesting) = entered();
        let one = instance(1).unwrap();
        let says = |undisputed| {
            let word = Word {
                undisputed: Slot(undisputed),
                ..word(&compared, 3)
            };
            compared.answer(&word, 10);
            verified(&compared)
        };
        assert!(says(7).tolerates(one, Slot(7)) && !says(7).tolerates(one, Slot(8)));
        assert!(!says(7).covers(one, Slot(7)));
        assert!(!says(6).tolerates(one, Slot(7)), "somebody is back");
        assert!(!says(7).tolerates(instance(2).unwrap(), Slot(7)));
        // The copy was made anew.
        compared.enter(lineage(2), instance(2), None);
        assert!(!verified(&compared).tolerates(instance(2).unwrap(), Slot(1)));
    }

    #[tokio::test]
    async fn nobody_vouches_for_a_copy_from_where_it_differs_whatever_a_later_leader_says() {
        let (compared, _digesting) = entered();
        let astray = Word {
            mark: Some(mark(5)),
            ..word(&compared, 3)
        };
        let (number, noted) = compared.to_note(&astray).expect("it is news");
        compared.noted(number, noted);
        assert_eq!(compared.to_note(&astray), None, "it is known");
        let batch = compared.answer(&word(&compared, 9), 10);
        assert_eq!(batch.mark, Some(mark(5)), "the next leader is told");
        assert_eq!(verified(&compared).slot(), Slot(4));
        compared.enter(lineage(2), instance(2), None);
        assert_eq!(compared.to_note(&astray), None, "that is over");
        assert_eq!(compared.answer(&word(&compared, 9), 10).mark, None);
        assert_eq!(verified(&compared).slot(), Slot(9));
    }

    #[tokio::test]
    async fn what_is_noise_is_kept_for_the_next_leader_and_said_only_where_it_is_news() {
        let (compared, _digesting) = entered();
        let noise: BTreeSet<Noise> = ["a", "b"]
            .map(|route| Noise {
                route: route.into(),
                part: Part::Body,
            })
            .into();
        let word = Word {
            noise: noise.clone(),
            noise_known: fingerprint(&noise),
            ..Word::default()
        };
        let batch = compared.answer(&word, 10);
        assert_eq!(batch.noise, BTreeSet::new());
        assert_eq!(batch.noise_known, fingerprint(&noise));
        let batch = compared.answer(&Word::default(), 10);
        assert_eq!(batch.noise, noise, "the next one knows nothing");
    }

    #[tokio::test]
    async fn only_what_was_found_without_a_majority_can_be_over() {
        for (tie, is_over) in [(None, false), (Some(0), true)] {
            let (compared, _digesting) = entered();
            let word = Word {
                mark: Some(Mark { tie, ..mark(5) }),
                ..word(&compared, 3)
            };
            let (number, noted) = compared.to_note(&word).expect("it is news");
            compared.noted(number, noted);
            let word = Word { mark: None, ..word };
            assert_eq!(compared.to_note(&word), None, "a leader that does not know");
            let word = Word {
                is_over: true,
                ..word
            };
            let news = compared.to_note(&word);
            assert_eq!(news.is_some(), is_over);
            if let Some((number, noted)) = news {
                compared.noted(number, noted);
                assert_eq!(compared.answer(&word, 10).mark, None);
            }
        }
    }

    #[tokio::test]
    async fn of_a_state_of_an_earlier_process_only_what_the_ledger_knows_is_vouched_for() {
        let compared = Compared::new(5);
        compared.enter(Lineage::default(), instance(1), None);
        compared.answer(&word(&compared, 9), 10);
        assert_eq!(verified(&compared).slot(), Slot(0), "it may differ");
        let compared = Compared::new(5);
        let known = Lineage {
            is_known: true,
            ..Lineage::default()
        };
        compared.enter(known, instance(1), Some(Slot(4)));
        let batch = compared.answer(&word(&compared, 9), 10);
        assert_eq!(batch.mark, Some(mark(4)));
        assert_eq!(verified(&compared).slot(), Slot(3));
    }
}
