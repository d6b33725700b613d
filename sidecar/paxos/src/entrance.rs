//! Commands that came in at this member (rule P6): kept until they are seen chosen, given to the
//! leader, given again to the next leader. However many wait, only a share of the window is with the
//! leader at a time (rule P3): what is given in one go must fit into the queue of one connection.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use synod_mutant::{Mutant, planted};

use crate::error::ProposeRefused;
use crate::message::{Lane, Message, NotTaken};
use crate::output::Output;
use crate::paxos::{Office, Paxos};
use crate::types::{Boot, Command, CommandId, Entry, MemberId, Now, Slot};

/// Commands sent again at once, at most.
const RESEND_LIMIT: usize = 1024;

/// The commands of this start of this entrance.
#[derive(Debug)]
pub(crate) struct Entrance {
    member: MemberId,
    boot: Boot,
    /// In order of their sequence. Resolved ones leave at the front.
    waiting: VecDeque<Waiting>,
    /// How many have left at the front, ever: positions are counted from there.
    gone: u64,
    /// Position of the first one not yet given to the present leader.
    cursor: u64,
    /// Those that the present leader's log holds already, by sequence.
    held: BTreeSet<u64>,
    /// Those that the present leader gave back, by sequence, and when each may be given again.
    returned: BTreeMap<u64, u64>,
    /// The leader has no room: nothing is given before.
    paused_until_ns: u64,
    /// Bytes with the leader: given, and neither resolved nor given back.
    given_bytes: u64,
    count: u64,
    bytes: u64,
    last_sequence: u64,
    /// When to look next for commands to send again, and how long one may take.
    resend_at_ns: u64,
    patience: u32,
    /// Something was resolved since the last look.
    moved: bool,
    /// When the latest of all resolved commands was given. What was given before it and is not
    /// resolved was overtaken on an ordered stream: it is lost.
    overtaken_ns: u64,
    /// Commands up to this sequence may have been chosen in entries that a snapshot stands for here.
    unseen_through: u64,
}

#[derive(Debug)]
struct Waiting {
    sequence: u64,
    /// `None` once it is resolved.
    command: Option<Command>,
    /// When it was last given to a leader, or found in its log.
    sent_at_ns: u64,
    /// It is part of `given_bytes`.
    given: bool,
}

fn weight(command: &Command) -> u64 {
    command.payload.len() as u64 + Entry::OVERHEAD_BYTES
}

impl Entrance {
    pub(crate) fn new(member: MemberId, boot: Boot) -> Self {
        Self {
            member,
            boot,
            waiting: VecDeque::new(),
            gone: 0,
            cursor: 0,
            held: BTreeSet::new(),
            returned: BTreeMap::new(),
            paused_until_ns: 0,
            given_bytes: 0,
            count: 0,
            bytes: 0,
            last_sequence: 0,
            resend_at_ns: 0,
            patience: 0,
            moved: false,
            overtaken_ns: 0,
            unseen_through: 0,
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn given_bytes(&self) -> u64 {
        self.given_bytes
    }

    fn is_own(&self, id: CommandId) -> bool {
        id.member == self.member && id.boot == self.boot
    }

    fn position(&self, sequence: u64) -> Option<usize> {
        let first = self.waiting.front()?.sequence;
        let guess = sequence.checked_sub(first)? as usize;
        if self
            .waiting
            .get(guess)
            .is_some_and(|waiting| waiting.sequence == sequence)
        {
            return Some(guess);
        }
        self.waiting
            .binary_search_by_key(&sequence, |waiting| waiting.sequence)
            .ok()
    }

    fn add(&mut self, command: Command) {
        self.last_sequence = command.id.sequence;
        self.count += 1;
        self.bytes += weight(&command);
        self.waiting.push_back(Waiting {
            sequence: command.id.sequence,
            command: Some(command),
            sent_at_ns: 0,
            given: false,
        });
    }

    /// The command was chosen. Says so once.
    pub(crate) fn resolve(&mut self, id: CommandId, slot: Slot, outputs: &mut VecDeque<Output>) {
        if self.is_own(id) && self.remove(id.sequence) {
            self.patience = 0;
            outputs.push_back(Output::Resolved { id, slot });
        }
    }

    fn remove(&mut self, sequence: u64) -> bool {
        let Some(at) = self.position(sequence) else {
            return false;
        };
        let waiting = &mut self.waiting[at];
        let Some(command) = waiting.command.take() else {
            return false;
        };
        self.count -= 1;
        self.bytes -= weight(&command);
        if waiting.given {
            self.given_bytes -= weight(&command);
            self.overtaken_ns = self.overtaken_ns.max(waiting.sent_at_ns);
            self.moved = true;
        }
        self.returned.remove(&sequence);
        while self
            .waiting
            .front()
            .is_some_and(|waiting| waiting.command.is_none())
        {
            self.waiting.pop_front();
            self.gone += 1;
        }
        self.cursor = self.cursor.max(self.gone);
        true
    }

    /// Another leader, a new ballot, or a new stream: everything is given again but what the
    /// leader's log holds already.
    fn begin(&mut self, held: BTreeSet<u64>) {
        self.cursor = self.gone;
        self.held = held;
        self.returned.clear();
        self.paused_until_ns = 0;
        self.given_bytes = 0;
        for waiting in &mut self.waiting {
            waiting.given = false;
        }
        self.patience = 0;
        self.moved = false;
        self.overtaken_ns = 0;
    }

    /// A snapshot took the place of the log: what was chosen before is not seen here, so whatever
    /// waits has to be chosen once more.
    pub(crate) fn lose_sight(&mut self) {
        self.unseen_through = self.last_sequence;
        self.begin(BTreeSet::new());
    }

    /// The next command for the leader, the oldest first, as long as not more than `limit` bytes are
    /// with it (or one command). From here on it counts as given.
    fn give(&mut self, now: Now, limit: u64) -> Option<Command> {
        if now.mono_ns < self.paused_until_ns {
            return None;
        }
        let due = |(_, at_ns): &(&u64, &u64)| **at_ns <= now.mono_ns;
        let again = self
            .returned
            .iter()
            .find(due)
            .map(|(sequence, _)| *sequence);
        let at = match again {
            Some(sequence) => self
                .position(sequence)
                .expect("what is resolved is not kept"),
            None => self.first_fresh(now)?,
        };
        let command = self.waiting[at].command.clone()?;
        let bytes = self.given_bytes + weight(&command);
        if self.given_bytes > 0 && bytes > limit {
            return None;
        }
        self.given_bytes = bytes;
        let waiting = &mut self.waiting[at];
        assert!(
            !waiting.given,
            "what is given is not given again but overdue"
        );
        waiting.given = true;
        waiting.sent_at_ns = now.mono_ns;
        if again.is_some() {
            self.returned.remove(&command.id.sequence);
        } else {
            self.cursor += 1;
        }
        Some(command)
    }

    /// The first one that the present leader has not seen. Passes over what its log holds.
    fn first_fresh(&mut self, now: Now) -> Option<usize> {
        loop {
            let at = (self.cursor - self.gone) as usize;
            let waiting = self.waiting.get_mut(at)?;
            if waiting.command.is_some() && !self.held.contains(&waiting.sequence) {
                return Some(at);
            }
            waiting.sent_at_ns = now.mono_ns;
            self.cursor += 1;
        }
    }

    /// The leader did not take it: it may be given again from `again_ns` on.
    fn take_back(&mut self, sequence: u64, again_ns: u64) {
        let Some(at) = self.position(sequence) else {
            return;
        };
        let waiting = &mut self.waiting[at];
        if let Some(command) = &waiting.command
            && std::mem::take(&mut waiting.given)
        {
            self.given_bytes -= weight(command);
            self.returned.insert(sequence, again_ns);
        }
    }

    /// Commands given before `before_ns` and not seen chosen since, the oldest first: one message of
    /// them. While others get through, a stream is only slow: then only what was overtaken counts. What
    /// the leader's log holds is not lost, however long it takes.
    fn overdue(
        &mut self,
        before_ns: u64,
        now: Now,
        limit: u64,
        max_bytes: u64,
        held: &BTreeSet<u64>,
    ) -> Vec<Command> {
        let moved = std::mem::take(&mut self.moved);
        let passed = (self.cursor - self.gone) as usize;
        let (mut overdue, mut bytes) = (Vec::new(), 0);
        for waiting in self.waiting.iter_mut().take(passed) {
            let Some(command) = &waiting.command else {
                continue;
            };
            let slow = moved && waiting.sent_at_ns >= self.overtaken_ns;
            if waiting.sent_at_ns > before_ns
                || slow
                || self.returned.contains_key(&waiting.sequence)
                || held.contains(&waiting.sequence)
            {
                continue;
            }
            let weight = weight(command);
            let full = !waiting.given && self.given_bytes > 0 && self.given_bytes + weight > limit;
            if full
                || overdue.len() >= RESEND_LIMIT
                || (!overdue.is_empty() && bytes + weight > max_bytes)
            {
                break;
            }
            if !std::mem::replace(&mut waiting.given, true) {
                self.given_bytes += weight;
            }
            bytes += weight;
            waiting.sent_at_ns = now.mono_ns;
            overdue.push(command.clone());
        }
        overdue
    }
}

impl Paxos {
    /// Takes a command of this entrance. It is kept, forwarded and sent again until it is seen
    /// chosen: [`Output::Resolved`]. Its id must be of this member and start, sequences growing.
    pub fn propose(&mut self, now: Now, command: Command) -> Result<(), ProposeRefused> {
        if !self.enter(now) || self.removed().is_some() {
            return Err(ProposeRefused::Ended);
        }
        let limit = self.settings.max_payload_bytes();
        if command.payload.len() as u64 > limit {
            return Err(ProposeRefused::TooLarge { limit });
        }
        if !self.entrance.is_own(command.id) || command.id.sequence <= self.entrance.last_sequence {
            return Err(ProposeRefused::BadId);
        }
        if command.kind.is_of_leader() {
            return Err(ProposeRefused::Kind(command.kind));
        }
        if self.disk_full && !planted(Mutant::FullDiskTakesMore) {
            return Err(ProposeRefused::DiskFull);
        }
        if let Some(slot) = self.beyond_repair() {
            return Err(ProposeRefused::Unreadable { slot });
        }
        if self.entrance.count >= u64::from(self.settings.max_pending_commands)
            || self.entrance.bytes + weight(&command) > self.settings.max_pending_bytes
        {
            return Err(ProposeRefused::Overloaded);
        }
        self.entrance.add(command);
        Ok(())
    }

    /// Begins anew with another leader. What its log holds already will be chosen with it.
    pub(crate) fn restart_entrance(&mut self) {
        let held = self.held_commands();
        self.entrance.begin(held);
    }

    /// Sequences of own commands that the present leader's log holds, as far as it came here.
    fn held_commands(&self) -> BTreeSet<u64> {
        let adopted = self.acceptor.accepted == self.acceptor.promised;
        self.log
            .after(self.log.commit())
            .filter(|entry| adopted && self.entrance.is_own(entry.command.id))
            .map(|entry| entry.command.id.sequence)
            .collect()
    }

    /// Gives what waits to the leader: into its own log, or in a message.
    pub(crate) fn serve_entrance(&mut self) {
        match (&self.office, self.election.followed) {
            (Office::Leader(_), _) if self.may_propose() => {
                self.propose_own();
                self.propose_queued();
                self.propose_noop();
            }
            (Office::Leader(_), _) | (_, None) => {}
            (_, Some((leader, _))) if leader != self.me => self.forward(leader),
            _ => {}
        }
    }

    /// Commands of other entrances, as far as there is room.
    fn propose_queued(&mut self) {
        while self.has_room() {
            let Office::Leader(leader) = &mut self.office else {
                return;
            };
            let Some(command) = leader.queue.pop_front() else {
                return;
            };
            leader.queued_bytes -= weight(&command);
            self.append_command(command);
        }
    }

    /// Into this leader's own log: only the room there limits it.
    fn propose_own(&mut self) {
        while self.has_room()
            && let Some(command) = self.entrance.give(self.now, u64::MAX)
        {
            self.append_command(command);
        }
    }

    /// A leader's log takes more: what is not committed is bounded, and what is not synced here, or a
    /// leader with a slow disk among fast ones would keep ever more in memory.
    pub(crate) fn has_room(&self) -> bool {
        let limit = self.settings.total_window_bytes;
        self.log.uncommitted_bytes() < limit && self.journal.unsynced_bytes() < limit
    }

    /// As much as may be with the leader at a time, in messages of the usual size.
    fn forward(&mut self, leader: MemberId) {
        let limit = self.settings.entrance_bytes();
        let (mut commands, mut bytes) = (Vec::new(), 0);
        while let Some(command) = self.entrance.give(self.now, limit) {
            let weight = weight(&command);
            if !commands.is_empty() && bytes + weight > self.settings.max_message_bytes {
                let commands = std::mem::take(&mut commands);
                bytes = 0;
                self.give_to(leader, commands);
            }
            bytes += weight;
            commands.push(command);
        }
        assert!(
            self.entrance.given_bytes <= self.settings.most_forwarded_bytes(),
            "I12: more is with the leader than its share"
        );
        if !commands.is_empty() {
            self.give_to(leader, commands);
        }
    }

    fn give_to(&mut self, leader: MemberId, commands: Vec<Command>) {
        let unseen = self.entrance.unseen_through;
        let again = commands.iter().any(|it| it.id.sequence <= unseen);
        self.send(leader, Lane::Log, Message::Propose { commands, again });
    }

    /// Commands of another entrance.
    pub(crate) fn handle_forwarded(&mut self, from: MemberId, commands: Vec<Command>, again: bool) {
        let free = self.may_propose();
        for command in commands {
            let room = self.has_room();
            let Office::Leader(leader) = &mut self.office else {
                // The entrance will find the leader, and give them again.
                self.counters.stale_messages += 1;
                return;
            };
            let id = command.id;
            if id.member != from || command.kind.is_of_leader() {
                self.counters.impossible_messages += 1;
                continue;
            }
            if leader.proposed.has(id) && !again {
                // Its first copy is chosen with this ballot, or given anew with the next.
                self.counters.repeated_commands += 1;
                continue;
            }
            let size = command.payload.len() as u64;
            let reason = if size > self.settings.max_payload_bytes() {
                NotTaken::TooLarge
            } else if self.disk_full {
                NotTaken::DiskFull
            } else if free && room && leader.queue.is_empty() {
                leader.proposed.note(&command);
                self.append_command(command);
                continue;
            } else if !free && leader.queued_bytes + size <= self.settings.max_pending_bytes {
                leader.proposed.note(&command);
                leader.queued_bytes += weight(&command);
                leader.queue.push_back(command);
                continue;
            } else {
                NotTaken::Overloaded
            };
            self.send(from, Lane::Log, Message::NotTaken { id, reason });
        }
    }

    /// The leader did not take a command: it is given again after a while. Only an expiry in agreed
    /// time ends it for good, since a copy given to an earlier leader may still be chosen.
    pub(crate) fn handle_not_taken(&mut self, from: MemberId, id: CommandId, reason: NotTaken) {
        if !self.entrance.is_own(id) {
            self.counters.impossible_messages += 1;
            return;
        }
        if self.leader() != Some(from) {
            self.counters.stale_messages += 1;
            return;
        }
        let again_ns = self.now.mono_ns + self.election.timeout_ns / 2;
        self.entrance.take_back(id.sequence, again_ns);
        if reason != NotTaken::TooLarge {
            // It has no room for the others either.
            self.entrance.paused_until_ns = again_ns;
        }
    }

    /// Gives again what should have been chosen by now.
    pub(crate) fn resend_overdue(&mut self) {
        let now_ns = self.now.mono_ns;
        let patience_ns = (2 * self.election.timeout_ns) << self.entrance.patience.min(3);
        if now_ns < self.entrance.resend_at_ns {
            return;
        }
        self.entrance.resend_at_ns = now_ns + patience_ns / 2;
        let Some((leader, _)) = self.election.followed else {
            return;
        };
        if leader == self.me || self.entrance.count == 0 {
            return;
        }
        let before_ns = now_ns.saturating_sub(patience_ns);
        let (limit, max_bytes) = (
            self.settings.entrance_bytes(),
            self.settings.max_message_bytes,
        );
        let held = self.held_commands();
        let commands = self
            .entrance
            .overdue(before_ns, self.now, limit, max_bytes, &held);
        if commands.is_empty() {
            return;
        }
        self.entrance.patience += 1;
        self.counters.resends += commands.len() as u64;
        self.give_to(leader, commands);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entrance(sequences: &[u64]) -> Entrance {
        let mut entrance = Entrance::new(MemberId(1), Boot(2));
        for sequence in sequences {
            entrance.add(Command {
                id: id(*sequence),
                ..Command::default()
            });
        }
        entrance
    }

    fn id(sequence: u64) -> CommandId {
        CommandId {
            member: MemberId(1),
            boot: Boot(2),
            sequence,
        }
    }

    fn given(entrance: &mut Entrance) -> Vec<u64> {
        given_up_to(entrance, u64::MAX)
    }

    fn given_up_to(entrance: &mut Entrance, limit: u64) -> Vec<u64> {
        std::iter::from_fn(|| entrance.give(at(0), limit))
            .map(|command| command.id.sequence)
            .collect()
    }

    fn at(mono_ns: u64) -> Now {
        Now {
            mono_ns,
            wall_ns: 0,
        }
    }

    #[test]
    fn a_command_is_resolved_once_even_when_chosen_twice() {
        let mut entrance = entrance(&[1, 2, 5]);
        let mut outputs = VecDeque::new();
        entrance.resolve(id(5), Slot(7), &mut outputs);
        entrance.resolve(id(5), Slot(9), &mut outputs);
        entrance.resolve(id(3), Slot(10), &mut outputs);
        assert_eq!(outputs.len(), 1);
        assert_eq!(entrance.count(), 2);
    }

    #[test]
    fn a_new_leader_is_given_everything_but_what_its_log_holds() {
        let mut entrance = entrance(&[1, 2, 3, 4]);
        assert_eq!(given(&mut entrance), [1, 2, 3, 4]);
        assert_eq!(given(&mut entrance), [0; 0]);
        entrance.resolve(id(1), Slot(1), &mut VecDeque::new());
        entrance.begin([3].into());
        assert_eq!(given(&mut entrance), [2, 4]);
    }

    #[test]
    fn only_a_share_is_with_the_leader_and_more_goes_as_commands_are_resolved() {
        let mut entrance = entrance(&[1, 2, 3, 4, 5]);
        let two = 2 * Entry::OVERHEAD_BYTES;
        assert_eq!(given_up_to(&mut entrance, two), [1, 2]);
        entrance.resolve(id(2), Slot(1), &mut VecDeque::new());
        assert_eq!(given_up_to(&mut entrance, two), [3]);
        entrance.begin(BTreeSet::new());
        assert_eq!(given_up_to(&mut entrance, two), [1, 3]);
        assert_eq!(entrance.given_bytes(), two);
        entrance.begin([1].into());
        assert_eq!(
            given_up_to(&mut entrance, 1),
            [3],
            "one is given, whatever its size"
        );
    }

    #[test]
    fn what_the_leader_gives_back_makes_room_and_goes_first_when_its_time_has_come() {
        let mut entrance = entrance(&[1, 2, 3, 4]);
        let two = 2 * Entry::OVERHEAD_BYTES;
        assert_eq!(given_up_to(&mut entrance, two), [1, 2]);
        entrance.take_back(1, 50);
        entrance.take_back(1, 60);
        assert_eq!(given_up_to(&mut entrance, two), [3]);
        entrance.take_back(3, 40);
        let mut later = |mono_ns| entrance.give(at(mono_ns), two).map(|it| it.id.sequence);
        assert_eq!(later(50), Some(1));
        assert_eq!(later(50), None, "2 and 1 are with the leader");
        entrance.resolve(id(2), Slot(1), &mut VecDeque::new());
        assert_eq!(entrance.give(at(50), two).map(|it| it.id.sequence), Some(3));
    }

    #[test]
    fn what_is_overdue_goes_again_in_one_message_unless_the_stream_is_only_slow() {
        let mut entrance = entrance(&[1, 2, 3, 4]);
        for mono_ns in [10, 20, 30] {
            entrance.give(at(mono_ns), u64::MAX);
        }
        let overdue = |entrance: &mut Entrance, before_ns, max_bytes| -> Vec<u64> {
            let held = BTreeSet::new();
            let commands = entrance.overdue(before_ns, at(100), u64::MAX, max_bytes, &held);
            commands.iter().map(|it| it.id.sequence).collect()
        };
        assert_eq!(overdue(&mut entrance, 5, u64::MAX), [0; 0]);
        entrance.resolve(id(2), Slot(1), &mut VecDeque::new());
        assert_eq!(overdue(&mut entrance, 50, u64::MAX), [1], "2 overtook it");
        assert_eq!(overdue(&mut entrance, 50, u64::MAX), [3], "nothing moves");
        assert_eq!(overdue(&mut entrance, 100, 1), [1], "a message's worth");
    }

    #[test]
    fn a_command_of_an_earlier_start_is_not_resolved_here() {
        let mut entrance = entrance(&[1]);
        let mut outputs = VecDeque::new();
        let other = CommandId {
            boot: Boot(1),
            ..id(1)
        };
        entrance.resolve(other, Slot(1), &mut outputs);
        assert!(outputs.is_empty());
    }
}
