//! What the rest of the sidecar may ask of the agreement.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use std::time::Duration;

use bytes::Bytes;
use synod_paxos::{
    AgreedTime, Ballot, Base, Boot, Command, CommandId, CommandKind, Configuration, Counters,
    Entry, Epoch, GroupId, Member, MemberId, NotTaken, Now, Reading, Role, SkipRefused, Slot,
    SnapshotRefused, Status, UpgradeRefused,
};
use tokio::sync::{Notify, oneshot, watch};

use super::clock;
use super::members::{ChangeRefused, MemberChange, Membership};

/// Commands of one start that may be unresolved at once: apply remembers as many above the floor.
const WINDOW: u64 = 4_096;
/// Bytes of commands that wait here.
const WAITING_BYTES: u64 = 64 << 20;
/// Gap between two requests to hand leadership over.
const TRANSFER_AGAIN: Duration = Duration::from_millis(500);

/// A cheap handle on the node's event loop.
#[derive(Clone, Debug)]
pub struct NodeHandle {
    desk: Arc<Desk>,
    status: watch::Receiver<NodeStatus>,
    clocks: fn() -> Now,
}

/// A command that was taken for proposal.
#[derive(Debug)]
pub struct Proposed {
    /// The id it was given (rule P6).
    pub id: CommandId,
    /// Where it was chosen, or that it never will be. Dropped only when the node ends.
    pub decided: oneshot::Receiver<Decided>,
}

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decided {
    /// It is at this slot (a command sent again may also be at a later one, where it does nothing).
    Chosen(Slot),
    /// It never will be chosen: no copy left this member.
    Withdrawn(NotTaken),
}

/// What the node knows about itself and its group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeStatus {
    /// `None` before genesis.
    pub group: Option<GroupId>,
    /// This member; 0 before genesis.
    pub member: MemberId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Whom it follows; itself when it leads.
    pub leader: Option<MemberId>,
    /// When the last leader was first followed in its ballot, in `mono_ns`.
    pub led_since_ns: u64,
    /// Its promise.
    pub promised: Ballot,
    /// The ballot that its log was adopted in.
    pub accepted: Ballot,
    /// Last slot of its log.
    pub last: Slot,
    /// Last slot known to be chosen.
    pub commit: Slot,
    /// It was within one window of its group's log since it started.
    pub log_counts: bool,
    /// Agreed time, about as the leader stamps now; `None` until a majority's clocks were known once.
    pub clock: Option<Reading>,
    /// Voters whose wall clocks are off by more than a second (rule P5).
    pub skewed: Vec<MemberId>,
    /// Members whose heartbeats it hears and that say that their own copy serves clients.
    pub serving: Vec<MemberId>,
    /// The members of the group; `None` before genesis. Of an epoch above [`NodeStatus::epoch`] while
    /// this member is on its way into the group.
    pub configuration: Option<Arc<Configuration>>,
    /// The protocol version in force (rule P8).
    pub protocol: u32,
    /// The log begins behind this slot.
    pub base: Slot,
    /// The last snapshot that took the place of the log's start since this process started.
    pub installed: Slot,
    /// The log goes on only behind a snapshot of this slot or a later one.
    pub needs_snapshot: Option<Slot>,
    /// Bytes that the log takes on its volume, with those that are reserved for what comes next.
    pub log_bytes: u64,
    /// The same without what is only reserved.
    pub log_used_bytes: u64,
    /// This member is in the group no more, from that epoch on.
    pub removed: Option<Epoch>,
}

/// Why the node did not even take a command: nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Too much is waiting here already.
    #[error("too many requests wait for agreement at this member")]
    Overloaded,
    /// The member is leaving.
    #[error("this member is shutting down")]
    ShuttingDown,
    /// The group does not exist yet.
    #[error("the group has not been formed yet")]
    NoGroup,
}

/// Something that is kept as long as a command is here: until it is decided.
pub type Held = Option<Box<dyn Any + Send>>;

/// The node's side of all handles.
#[derive(Debug)]
pub struct Seat {
    pub(super) desk: Arc<Desk>,
    pub(crate) status: watch::Sender<NodeStatus>,
    /// This machine's clocks.
    pub(super) clocks: fn() -> Now,
}

/// Where callers leave what they want, and the node picks it up.
#[derive(Debug, Default)]
pub(super) struct Desk {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// `None` before the group is there.
    entrance: Option<Entrance>,
    leaving: bool,
    /// Readers that came since the last round was asked for.
    readers: Vec<oneshot::Sender<Slot>>,
    errands: Vec<Errand>,
    /// The node has ended: nobody picks anything up any more.
    ended: bool,
}

/// The commands of this start.
#[derive(Debug)]
struct Entrance {
    member: MemberId,
    boot: Boot,
    next: u64,
    unresolved: BTreeMap<u64, Unresolved>,
    bytes: u64,
    queue: Vec<Command>,
}

#[derive(Debug)]
struct Unresolved {
    decided: oneshot::Sender<Decided>,
    bytes: u64,
    _held: Held,
}

/// Rare requests.
#[derive(Debug)]
pub(super) enum Errand {
    /// Let another lead.
    Transfer(Option<MemberId>),
    /// Say all there is to say.
    Describe(oneshot::Sender<Description>),
    /// What a snapshot of this slot is to say of the log; the time is the stamp of the entry there.
    BaseAt(Slot, AgreedTime, oneshot::Sender<Option<Base>>),
    /// Forget all up to a snapshot.
    Compact(Base, oneshot::Sender<Result<(), SnapshotRefused>>),
    /// Go on behind a snapshot.
    Install(Base, oneshot::Sender<Result<(), SnapshotRefused>>),
    /// Propose a higher protocol version.
    Upgrade(u32, oneshot::Sender<Result<(), UpgradeRefused>>),
    /// Propose other members.
    ChangeMembers(
        Epoch,
        Vec<MemberChange>,
        oneshot::Sender<Result<Configuration, ChangeRefused>>,
    ),
    /// Say who is in the group.
    Membership(oneshot::Sender<Membership>),
    /// Propose, in this ballot, that nobody executes a slot.
    Skip(Ballot, Bytes, oneshot::Sender<Result<(), SkipRefused>>),
}

/// Everything that the agreement tells about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Its state.
    pub status: Status,
    /// What happened since this start.
    pub counters: Counters,
    /// Leaders that were followed, each ballot counted, since this start.
    pub leader_changes: u64,
    /// Bytes of the log that are synced.
    pub log_bytes: u64,
    /// The log has no room for requests.
    pub log_full: bool,
}

// === impl NodeHandle ===

impl NodeHandle {
    /// A handle, and the seat from which a node serves it. Until a node sits there, proposals are
    /// refused and readers wait.
    pub fn new() -> (Self, Seat) {
        Self::with_clocks(clock::now)
    }

    /// The same on a machine whose clocks are read by `clocks`.
    pub(crate) fn with_clocks(clocks: fn() -> Now) -> (Self, Seat) {
        let desk = Arc::new(Desk::default());
        let (sender, receiver) = watch::channel(NodeStatus::default());
        let handle = Self {
            desk: desk.clone(),
            status: receiver,
            clocks,
        };
        let seat = Seat {
            desk,
            status: sender,
            clocks,
        };
        (handle, seat)
    }

    /// Gives the command an id and has it agreed on. Does not wait.
    pub fn propose(&self, kind: CommandKind, payload: Bytes) -> Result<Proposed, ProposeError> {
        self.propose_holding(kind, payload, None)
    }

    /// As [`NodeHandle::propose`], and keeps something until the command is decided.
    pub fn propose_holding(
        &self,
        kind: CommandKind,
        payload: Bytes,
        held: Held,
    ) -> Result<Proposed, ProposeError> {
        let proposed = self.desk.lock().propose(kind, payload, held)?;
        self.desk.wake.notify_one();
        Ok(proposed)
    }

    /// The slot that a linearizable read beginning now must see applied (rule R1). Asks again by
    /// itself until the group answers; the caller sets the time limit by dropping the future.
    pub async fn read_index(&self) -> Slot {
        let (sender, receiver) = oneshot::channel();
        self.desk.lock().readers.push(sender);
        self.desk.wake.notify_one();
        match receiver.await {
            Ok(index) => index,
            // The node has ended: there will be no answer.
            Err(_) => std::future::pending().await,
        }
    }

    /// The latest status, and its changes.
    pub fn status(&self) -> watch::Receiver<NodeStatus> {
        self.status.clone()
    }

    /// What agreed time is now, about as the leader stamps. This machine's wall clock stands for it
    /// only while no majority's clocks were known since the start.
    pub fn agreed_now(&self) -> AgreedTime {
        let Now { mono_ns, wall_ns } = (self.clocks)();
        let clock = self.status.borrow().clock;
        clock.map_or(AgreedTime(wall_ns), |clock| clock.at(mono_ns))
    }

    /// If this member leads, it lets `to` (or the best other voter) lead.
    pub fn transfer(&self, to: Option<MemberId>) {
        self.errand(Errand::Transfer(to));
    }

    /// Hands leadership over and returns once this member does not lead. What waits here goes on
    /// being agreed on; the caller sets the time limit.
    pub async fn prepare_shutdown(&self) {
        // Whoever leads shall not hand over to it any more.
        self.transfer(None);
        self.hand_over(None).await;
    }

    /// The same, to this voter if it can take over.
    pub(super) async fn hand_over(&self, mut to: Option<MemberId>) {
        let mut status = self.status();
        let leads = |it: &NodeStatus| it.leader == Some(it.member) && it.member != MemberId(0);
        while leads(&status.borrow_and_update()) && !status.borrow().is_sole_voter() {
            self.transfer(to.take());
            let changed = status.wait_for(|it| !leads(it));
            // Asked again now and then, of whoever can: none may have been able at the first time.
            if tokio::time::timeout(TRANSFER_AGAIN, changed).await.is_ok() {
                return;
            }
        }
    }

    /// Takes no more commands from now on.
    pub fn close(&self) {
        self.desk.lock().leaving = true;
    }

    /// Everything that the agreement tells about itself; `None` before there is one.
    pub async fn describe(&self) -> Option<Description> {
        self.status.borrow().group?;
        self.ask(Errand::Describe).await
    }

    /// What a snapshot of this slot is to say of the log; `time` is the stamp of the entry there.
    /// `None` when the slot is not known to be chosen here, or was forgotten.
    pub async fn base_at(&self, slot: Slot, time: AgreedTime) -> Option<Base> {
        self.ask(|reply| Errand::BaseAt(slot, time, reply)).await?
    }

    /// A snapshot of this base is in this member's own store, and neither the app nor a snapshot that
    /// it may go back to needs what is before it: all that is forgotten. `None`: the node has ended.
    pub async fn compact(&self, base: Base) -> Option<Result<(), SnapshotRefused>> {
        self.ask(|reply| Errand::Compact(base, reply)).await
    }

    /// A snapshot of this base, which the log lacks, is in this member's own store: the log goes on
    /// behind it. Once that is synced, [`NodeStatus::installed`] says so. `None`: the node has ended.
    pub async fn install(&self, base: Base) -> Option<Result<(), SnapshotRefused>> {
        self.ask(|reply| Errand::Install(base, reply)).await
    }

    /// If this member leads, and all members speak it: proposes to raise the protocol (rule P8).
    /// `None`: the node has ended.
    pub async fn upgrade(&self, version: u32) -> Option<Result<(), UpgradeRefused>> {
        self.ask(|reply| Errand::Upgrade(version, reply)).await
    }

    /// If this member leads: proposes the members that these edits make of those of epoch `expected`
    /// (rules M2, M3), and returns what the configuration will be. `None`: the node has ended.
    pub async fn change_members(
        &self,
        expected: Epoch,
        changes: Vec<MemberChange>,
    ) -> Option<Result<Configuration, ChangeRefused>> {
        self.ask(|reply| Errand::ChangeMembers(expected, changes, reply))
            .await
    }

    /// Who is in the group, as this member knows it; `None` before there is one, or after the node has
    /// ended.
    pub async fn membership(&self) -> Option<Membership> {
        self.status.borrow().group?;
        self.ask(Errand::Membership).await
    }

    /// If this member leads in `ballot`: proposes that nobody executes a slot (rule K1). `skip`: a
    /// `synod.v1.Skip`. `None`: the node has ended.
    pub async fn skip(&self, ballot: Ballot, skip: Bytes) -> Option<Result<(), SkipRefused>> {
        self.ask(|reply| Errand::Skip(ballot, skip, reply)).await
    }

    async fn ask<T>(&self, errand: impl FnOnce(oneshot::Sender<T>) -> Errand) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.errand(errand(reply));
        answer.await.ok()
    }

    fn errand(&self, errand: Errand) {
        let mut state = self.desk.lock();
        if !state.ended {
            state.errands.push(errand);
        }
        drop(state);
        self.desk.wake.notify_one();
    }
}

/// What a member is called.
pub(crate) fn name(status: &NodeStatus, id: MemberId) -> String {
    let found = status.find(id);
    found.map_or_else(|| format!("member {id}"), |it| it.name.clone())
}

// === impl NodeStatus ===

impl NodeStatus {
    /// A member of the group.
    pub fn find(&self, id: MemberId) -> Option<&Member> {
        let configuration = self.configuration.as_deref()?;
        configuration.members.iter().find(|it| it.id == id)
    }

    /// This member votes and runs no app.
    pub(crate) fn is_witness(&self) -> bool {
        let own = self.find(self.member);
        own.is_some_and(|it| it.role == Role::Witness)
    }

    /// Its log counts. A copy that lacks a snapshot gets the first that anybody has; a witness waits until
    /// enough copies have it (rule W5), and votes for nothing meanwhile.
    pub(crate) fn is_ready(&self) -> bool {
        self.log_counts && !(self.is_witness() && self.needs_snapshot.is_some())
    }

    /// No other member could ever lead.
    pub(super) fn is_sole_voter(&self) -> bool {
        let is_other = |it: &Member| it.id != self.member && it.role == Role::Voter;
        let configuration = self.configuration.as_deref();
        configuration.is_some_and(|it| !it.members.iter().any(is_other))
    }
}

// === impl State ===

impl State {
    fn propose(
        &mut self,
        kind: CommandKind,
        payload: Bytes,
        held: Held,
    ) -> Result<Proposed, ProposeError> {
        if self.leaving || self.ended {
            return Err(ProposeError::ShuttingDown);
        }
        let entrance = self.entrance.as_mut().ok_or(ProposeError::NoGroup)?;
        let bytes = payload.len() as u64 + Entry::OVERHEAD_BYTES;
        let floor = entrance.floor();
        assert!(
            floor <= entrance.next,
            "the floor is at most the next sequence"
        );
        if entrance.next - floor >= WINDOW || entrance.bytes + bytes > WAITING_BYTES {
            return Err(ProposeError::Overloaded);
        }
        let id = CommandId {
            member: entrance.member,
            boot: entrance.boot,
            sequence: entrance.next,
        };
        let (decided, receiver) = oneshot::channel();
        entrance.next += 1;
        entrance.bytes += bytes;
        let unresolved = Unresolved {
            decided,
            bytes,
            _held: held,
        };
        entrance.unresolved.insert(id.sequence, unresolved);
        entrance.queue.push(Command {
            kind,
            id,
            floor,
            payload,
        });
        Ok(Proposed {
            id,
            decided: receiver,
        })
    }
}

impl Entrance {
    /// The lowest sequence that is not resolved; at the time of a new command, at most its own.
    fn floor(&self) -> u64 {
        self.unresolved
            .first_key_value()
            .map_or(self.next, |(it, _)| *it)
    }
}

// === impl Desk ===

impl Desk {
    /// The group is there: sequences of this start begin at 1.
    pub(super) fn open(&self, member: MemberId, boot: Boot) {
        let mut state = self.lock();
        assert!(state.entrance.is_none(), "a node sits down once");
        state.entrance = Some(Entrance {
            member,
            boot,
            next: 1,
            unresolved: BTreeMap::new(),
            bytes: 0,
            queue: Vec::new(),
        });
    }

    /// Returns when something was left here; may return for nothing.
    pub(super) async fn left(&self) {
        self.wake.notified().await;
    }

    /// Picks up all that was left: commands in the order of their sequences, rare requests, and the
    /// readers when `reads` are wanted.
    pub(super) fn pick_up(&self, reads: bool) -> PickedUp {
        let mut state = self.lock();
        PickedUp {
            commands: state
                .entrance
                .as_mut()
                .map(|it| std::mem::take(&mut it.queue))
                .unwrap_or_default(),
            errands: std::mem::take(&mut state.errands),
            readers: if reads {
                std::mem::take(&mut state.readers)
            } else {
                Vec::new()
            },
        }
    }

    /// A command is resolved. Its caller may have gone.
    pub(super) fn decide(&self, id: CommandId, decided: Decided) {
        let mut state = self.lock();
        let entrance = state
            .entrance
            .as_mut()
            .expect("open before anything is decided");
        assert_eq!(
            (id.member, id.boot),
            (entrance.member, entrance.boot),
            "of this start"
        );
        if let Some(unresolved) = entrance.unresolved.remove(&id.sequence) {
            entrance.bytes -= unresolved.bytes;
            let _ = unresolved.decided.send(decided);
        }
    }

    /// Nothing is picked up any more: whoever waits learns that.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.entrance = None;
        state.readers.clear();
        state.errands.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

/// See [`Desk::pick_up`].
#[derive(Debug)]
pub(super) struct PickedUp {
    pub(super) commands: Vec<Command>,
    pub(super) errands: Vec<Errand>,
    pub(super) readers: Vec<oneshot::Sender<Slot>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn propose(handle: &NodeHandle, bytes: usize) -> Result<Proposed, ProposeError> {
        handle.propose(CommandKind::REQUEST, vec![0; bytes].into())
    }

    fn opened() -> (NodeHandle, Seat) {
        let (handle, seat) = NodeHandle::new();
        seat.desk.open(MemberId(2), Boot(7));
        (handle, seat)
    }

    #[test]
    fn ids_count_from_one_and_carry_the_lowest_unresolved_sequence() {
        let (handle, seat) = opened();
        let first = propose(&handle, 1).expect("taken").id;
        let second = propose(&handle, 1).expect("taken").id;
        assert_eq!((first.sequence, second.sequence), (1, 2));
        assert_eq!((first.member, first.boot), (MemberId(2), Boot(7)));
        seat.desk.decide(first, Decided::Chosen(Slot(9)));
        propose(&handle, 1).expect("taken");
        seat.desk.decide(second, Decided::Chosen(Slot(8)));
        let floors: Vec<_> = seat
            .desk
            .pick_up(false)
            .commands
            .iter()
            .map(|it| it.floor)
            .collect();
        assert_eq!(floors, [1, 1, 2]);
    }

    #[test]
    fn the_window_counts_from_the_lowest_unresolved_sequence() {
        let (handle, seat) = opened();
        let first = propose(&handle, 0).expect("taken").id;
        let mut last = first;
        for _ in 1..WINDOW {
            last = propose(&handle, 0).expect("taken").id;
        }
        assert_eq!(
            propose(&handle, 0).expect_err("full"),
            ProposeError::Overloaded
        );
        // One resolved in the middle does not help: the window is a range.
        seat.desk.decide(last, Decided::Chosen(Slot(1)));
        assert_eq!(
            propose(&handle, 0).expect_err("full"),
            ProposeError::Overloaded
        );
        seat.desk.decide(first, Decided::Chosen(Slot(2)));
        propose(&handle, 0).expect("room again");
    }

    #[test]
    fn what_waits_is_bounded_in_bytes() {
        let (handle, seat) = opened();
        let large = propose(&handle, 60 << 20).expect("taken").id;
        assert_eq!(
            propose(&handle, 5 << 20).expect_err("full"),
            ProposeError::Overloaded
        );
        seat.desk
            .decide(large, Decided::Withdrawn(NotTaken::DiskFull));
        propose(&handle, 5 << 20).expect("room again");
    }

    #[test]
    fn what_belongs_to_a_command_is_kept_until_it_is_decided_though_its_caller_has_gone() {
        let (handle, seat) = opened();
        let kept = Arc::new(());
        let propose = || {
            let held: Held = Some(Box::new(kept.clone()));
            handle.propose_holding(CommandKind::REQUEST, Bytes::new(), held)
        };
        let first = propose().expect("taken").id;
        assert_eq!(Arc::strong_count(&kept), 2);
        seat.desk.decide(first, Decided::Chosen(Slot(1)));
        assert_eq!(Arc::strong_count(&kept), 1);
        propose().expect("taken");
        seat.desk.end();
        assert_eq!(Arc::strong_count(&kept), 1);
    }

    #[test]
    fn nothing_is_taken_before_the_group_is_there_or_when_leaving() {
        let (handle, seat) = NodeHandle::new();
        assert_eq!(
            propose(&handle, 0).expect_err("refused"),
            ProposeError::NoGroup
        );
        seat.desk.open(MemberId(1), Boot(1));
        let mut waiting = propose(&handle, 0).expect("taken");
        handle.close();
        assert_eq!(
            propose(&handle, 0).expect_err("refused"),
            ProposeError::ShuttingDown
        );
        seat.desk.end();
        assert!(waiting.decided.try_recv().is_err());
    }

    #[tokio::test]
    async fn readers_share_a_round_only_with_those_that_came_before_it() {
        let (handle, seat) = opened();
        let read = |handle: &NodeHandle| {
            let handle = handle.clone();
            tokio::spawn(async move { handle.read_index().await })
        };
        let early = [read(&handle), read(&handle)];
        while seat.desk.lock().readers.len() < 2 {
            tokio::task::yield_now().await;
        }
        let round = seat.desk.pick_up(true).readers;
        let late = read(&handle);
        while seat.desk.lock().readers.is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(round.len(), 2);
        for reader in round {
            reader.send(Slot(5)).expect("waits");
        }
        for reader in early {
            assert_eq!(reader.await.expect("answered"), Slot(5));
        }
        assert!(!late.is_finished());
        for reader in seat.desk.pick_up(true).readers {
            reader.send(Slot(6)).expect("waits");
        }
        assert_eq!(late.await.expect("answered"), Slot(6));
    }
}
