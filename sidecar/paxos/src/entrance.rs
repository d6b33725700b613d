//! Commands that came in at this member (rule P6): kept until they are seen chosen, given to the
//! leader, given again to the next leader.

use std::collections::{BTreeSet, VecDeque};

use crate::error::ProposeRefused;
use crate::message::{Lane, Message, NotTaken};
use crate::output::Output;
use crate::paxos::{Office, Paxos};
use crate::types::{Boot, Command, CommandId, CommandKind, Entry, MemberId, Now, Slot};

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
    /// Position of the first one not given to the present leader.
    cursor: u64,
    /// Those that the present leader's log holds already, by sequence.
    held: BTreeSet<u64>,
    count: u64,
    bytes: u64,
    last_sequence: u64,
    /// When to look next for commands to send again, and how long one may take.
    resend_at_ns: u64,
    patience: u32,
}

#[derive(Debug)]
struct Waiting {
    sequence: u64,
    /// `None` once it is resolved.
    command: Option<Command>,
    /// When it was given to a leader.
    sent_at_ns: u64,
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
            count: 0,
            bytes: 0,
            last_sequence: 0,
            resend_at_ns: 0,
            patience: 0,
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
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
        self.bytes += command.payload.len() as u64 + Entry::OVERHEAD_BYTES;
        self.waiting.push_back(Waiting {
            sequence: command.id.sequence,
            command: Some(command),
            sent_at_ns: 0,
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
        let Some(command) = self.waiting[at].command.take() else {
            return false;
        };
        self.count -= 1;
        self.bytes -= command.payload.len() as u64 + Entry::OVERHEAD_BYTES;
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

    /// Another leader, or a new ballot: everything is given again but what its log holds already.
    fn begin(&mut self, held: BTreeSet<u64>) {
        self.cursor = self.gone;
        self.held = held;
        self.patience = 0;
    }

    /// The next command to give to the leader.
    fn next(&mut self, now: Now) -> Option<&Command> {
        loop {
            let at = (self.cursor - self.gone) as usize;
            let waiting = self.waiting.get(at)?;
            if waiting.command.is_some() && !self.held.contains(&waiting.sequence) {
                break;
            }
            self.waiting[at].sent_at_ns = now.mono_ns;
            self.cursor += 1;
        }
        let at = (self.cursor - self.gone) as usize;
        self.waiting.get(at)?.command.as_ref()
    }

    /// It was given.
    fn advance(&mut self, now: Now) {
        let at = (self.cursor - self.gone) as usize;
        self.waiting[at].sent_at_ns = now.mono_ns;
        self.cursor += 1;
    }

    /// Commands given before `before_ns` and not seen chosen since.
    fn overdue(&mut self, before_ns: u64, now: Now) -> Vec<Command> {
        let given = (self.cursor - self.gone) as usize;
        let mut overdue = Vec::new();
        for waiting in self.waiting.iter_mut().take(given) {
            if waiting.sent_at_ns > before_ns || overdue.len() >= RESEND_LIMIT {
                continue;
            }
            if let Some(command) = &waiting.command {
                waiting.sent_at_ns = now.mono_ns;
                overdue.push(command.clone());
            }
        }
        overdue
    }
}

impl Paxos {
    /// Takes a command of this entrance. It is kept, forwarded and sent again until it is seen
    /// chosen: [`Output::Resolved`]. Its id must be of this member and start, sequences growing.
    pub fn propose(&mut self, now: Now, command: Command) -> Result<(), ProposeRefused> {
        if !self.enter(now) {
            return Err(ProposeRefused::Forgetful);
        }
        let limit = self.settings.max_payload_bytes();
        let weight = command.payload.len() as u64 + Entry::OVERHEAD_BYTES;
        if command.payload.len() as u64 > limit {
            return Err(ProposeRefused::TooLarge { limit });
        }
        if !self.entrance.is_own(command.id) || command.id.sequence <= self.entrance.last_sequence {
            return Err(ProposeRefused::BadId);
        }
        if [CommandKind::NOOP, CommandKind::RECONFIGURE].contains(&command.kind) {
            return Err(ProposeRefused::Kind(command.kind));
        }
        if self.disk_full {
            return Err(ProposeRefused::DiskFull);
        }
        if self.entrance.count >= u64::from(self.settings.max_pending_commands)
            || self.entrance.bytes + weight > self.settings.max_pending_bytes
        {
            return Err(ProposeRefused::Overloaded);
        }
        self.entrance.add(command);
        Ok(())
    }

    /// Begins anew with another leader. What its log holds already will be chosen with it.
    pub(crate) fn restart_entrance(&mut self) {
        let adopted = self.acceptor.accepted == self.acceptor.promised;
        let held = self
            .log
            .after(self.log.commit())
            .filter(|entry| adopted && self.entrance.is_own(entry.command.id))
            .map(|entry| entry.command.id.sequence)
            .collect();
        self.entrance.begin(held);
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
            leader.queued_bytes -= command.payload.len() as u64 + Entry::OVERHEAD_BYTES;
            self.append_command(command);
        }
    }

    fn propose_own(&mut self) {
        loop {
            let room = self.has_room();
            let Some(command) = self.entrance.next(self.now) else {
                return;
            };
            if !room {
                return;
            }
            let command = command.clone();
            self.entrance.advance(self.now);
            self.append_command(command);
        }
    }

    fn has_room(&self) -> bool {
        self.log.uncommitted_bytes() < self.settings.total_window_bytes
    }

    fn forward(&mut self, leader: MemberId) {
        let mut commands = Vec::new();
        let mut bytes = 0;
        while let Some(command) = self.entrance.next(self.now) {
            let weight = command.payload.len() as u64 + Entry::OVERHEAD_BYTES;
            if !commands.is_empty() && bytes + weight > self.settings.max_message_bytes {
                let commands = std::mem::take(&mut commands);
                bytes = 0;
                self.send(leader, Lane::Log, Message::Propose { commands });
                continue;
            }
            bytes += weight;
            commands.push(command.clone());
            self.entrance.advance(self.now);
        }
        if !commands.is_empty() {
            self.send(leader, Lane::Log, Message::Propose { commands });
        }
    }

    /// Commands of another entrance.
    pub(crate) fn handle_forwarded(&mut self, from: MemberId, commands: Vec<Command>) {
        let free = self.may_propose();
        for command in commands {
            let room = self.has_room();
            let Office::Leader(leader) = &mut self.office else {
                // The entrance will find the leader, and give them again.
                self.counters.stale_messages += 1;
                return;
            };
            let id = command.id;
            if id.member != from
                || [CommandKind::NOOP, CommandKind::RECONFIGURE].contains(&command.kind)
            {
                self.counters.impossible_messages += 1;
                continue;
            }
            let size = command.payload.len() as u64;
            let reason = if size > self.settings.max_payload_bytes() {
                NotTaken::TooLarge
            } else if self.disk_full {
                NotTaken::DiskFull
            } else if free && room && leader.queue.is_empty() {
                self.append_command(command);
                continue;
            } else if !free && leader.queued_bytes + size <= self.settings.max_pending_bytes {
                leader.queued_bytes += size + Entry::OVERHEAD_BYTES;
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
    pub(crate) fn handle_not_taken(&mut self, id: CommandId, _reason: NotTaken) {
        if !self.entrance.is_own(id) {
            self.counters.impossible_messages += 1;
            return;
        }
        let again_ns = self.now.mono_ns + self.election.timeout_ns / 2;
        if let Some(at) = self.entrance.position(id.sequence) {
            self.entrance.waiting[at].sent_at_ns = 0;
            self.entrance.resend_at_ns = self.entrance.resend_at_ns.min(again_ns);
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
        let overdue = self.entrance.overdue(before_ns, self.now);
        if overdue.is_empty() {
            return;
        }
        self.entrance.patience += 1;
        self.counters.resends += overdue.len() as u64;
        let mut commands = Vec::new();
        let mut bytes = 0;
        for command in overdue {
            let weight = command.payload.len() as u64 + Entry::OVERHEAD_BYTES;
            if !commands.is_empty() && bytes + weight > self.settings.max_message_bytes {
                let commands = std::mem::take(&mut commands);
                bytes = 0;
                self.send(leader, Lane::Log, Message::Propose { commands });
            }
            bytes += weight;
            commands.push(command);
        }
        self.send(leader, Lane::Log, Message::Propose { commands });
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
        let mut given = Vec::new();
        while let Some(command) = entrance.next(Now::default()) {
            given.push(command.id.sequence);
            entrance.advance(Now::default());
        }
        given
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
