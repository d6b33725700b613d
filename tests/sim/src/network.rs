//! The network between the members: per (from, to, lane) one stream, in order while it lasts.
//!
//! In: messages. Out: when each arrives, if ever. A stream is like a TCP connection: it delays and
//! stalls but loses nothing in the middle; when it breaks, what was under way is lost from some
//! point on, and a new one begins with a `Hello`. Between streams nothing is in order. Copies of
//! old messages may turn up late. The world owns the calendar; this module only says when.

use std::collections::VecDeque;

use synod_paxos::{Entry, Envelope, Hello, Lane, MemberId, Message};

use crate::dice::Dice;
use crate::placement::Placement;
use crate::swarm::NetworkSwarm;

/// All lanes, in the order of their indexes.
pub(crate) const LANES: [Lane; 3] = [Lane::Log, Lane::Heartbeat, Lane::Bulk];

/// What a stream carries.
#[derive(Clone, Debug)]
pub(crate) enum Packet {
    Hello(Hello),
    Envelope(Envelope),
}

/// Index of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamId(pub(crate) usize);

/// Which connection of a stream: grows with each reconnection.
pub(crate) type Generation = u64;

/// Which series of due times of a stream: grows with each reconnection and each healed stall.
pub(crate) type Turn = u64;

/// One direction of one lane between two members.
#[derive(Debug, Default)]
struct Stream {
    generation: Generation,
    /// Due times in the calendar count only while this has not moved on.
    turn: Turn,
    connected: bool,
    /// Both hellos were taken: it carries messages.
    open: bool,
    /// A delivery came while the path was cut: it goes on when healed, or breaks.
    stalled: bool,
    /// Arrival of the last message sent.
    last_at_ns: u64,
    under_way: VecDeque<Packet>,
    /// What of it counts for the limit of the sender's queue.
    under_way_bytes: u64,
}

impl Packet {
    /// Bytes of bodies.
    fn weight(&self) -> u64 {
        match self {
            Self::Hello(_) => 0,
            Self::Envelope(envelope) => weight(&envelope.message),
        }
    }
}

/// Bytes of bodies in a message, as windows count them.
pub(crate) fn weight(message: &Message) -> u64 {
    match message {
        Message::Promise {
            suffix: entries, ..
        }
        | Message::AcceptSync { entries, .. }
        | Message::Accept { entries, .. }
        | Message::Repair { entries }
        | Message::Learn { entries } => entries.iter().map(Entry::weight).sum(),
        Message::Propose { commands, .. } => commands
            .iter()
            .map(|command| command.payload.len() as u64 + Entry::OVERHEAD_BYTES)
            .sum(),
        _ => 0,
    }
}

/// All streams and cuts.
#[derive(Debug)]
pub(crate) struct Network {
    members: usize,
    swarm: NetworkSwarm,
    streams: Vec<Stream>,
    cut: Vec<bool>,
    /// Mean one-way delay per path, in nanoseconds.
    delay_ns: Vec<u64>,
    /// While true time is below this, everything is slow.
    spike_until_ns: u64,
    calm: bool,
}

// === impl Network ===

impl Network {
    pub(crate) fn new(
        members: usize,
        swarm: NetworkSwarm,
        placement: &Placement,
        dice: &mut Dice,
    ) -> Self {
        let paths = members * members;
        let delay_ns = (0..paths)
            .map(|path| {
                let delay_ns = dice.log_range(swarm.delay_low_ns, swarm.delay_high_ns);
                let near = placement.are_near(path / members, path % members);
                if near { swarm.delay_low_ns } else { delay_ns }
            })
            .collect();
        Self {
            members,
            swarm,
            streams: (0..paths * LANES.len())
                .map(|_| Stream::default())
                .collect(),
            cut: vec![false; paths],
            delay_ns,
            spike_until_ns: 0,
            calm: false,
        }
    }

    /// The stream of `lane` from one member to another, by index.
    pub(crate) fn stream(&self, from: usize, to: usize, lane: Lane) -> StreamId {
        let lane = LANES
            .iter()
            .position(|l| *l == lane)
            .expect("all lanes are listed");
        StreamId((from * self.members + to) * LANES.len() + lane)
    }

    /// The ends and the lane of a stream.
    pub(crate) fn ends(&self, id: StreamId) -> (usize, usize, Lane) {
        let path = id.0 / LANES.len();
        (
            path / self.members,
            path % self.members,
            LANES[id.0 % LANES.len()],
        )
    }

    /// Puts a packet on a stream; says when it is due, or nothing when it is lost.
    pub(crate) fn send(
        &mut self,
        id: StreamId,
        packet: Packet,
        now_ns: u64,
        dice: &mut Dice,
    ) -> Option<(u64, Turn)> {
        let path = id.0 / LANES.len();
        let stream = &self.streams[id.0];
        let hello = matches!(packet, Packet::Hello(_));
        if !stream.connected || stream.open == hello {
            return None;
        }
        let delay = self.draw_delay(path, now_ns, dice);
        let stream = &mut self.streams[id.0];
        let at = (now_ns + delay).max(stream.last_at_ns + 1);
        stream.last_at_ns = at;
        stream.under_way_bytes += packet.weight();
        stream.under_way.push_back(packet);
        // A stalled stream delivers again only when it is healed, all of it in order.
        (!stream.stalled).then_some((at, stream.turn))
    }

    fn draw_delay(&self, path: usize, now_ns: u64, dice: &mut Dice) -> u64 {
        let mean = self.delay_ns[path];
        let mut delay = mean / 2 + dice.range(0, mean);
        if now_ns < self.spike_until_ns {
            delay += dice.range(0, self.swarm.spike_ns);
        }
        if !self.calm && dice.chance(self.swarm.straggler) {
            delay += dice.range(0, self.swarm.straggler_ns);
        }
        delay
    }

    /// A delivery is due: takes the packet when it can. Where the path is cut it waits.
    pub(crate) fn due(&mut self, id: StreamId, turn: Turn) -> Option<Packet> {
        let path = id.0 / LANES.len();
        let stream = &mut self.streams[id.0];
        if stream.turn != turn || !stream.connected {
            return None;
        }
        stream.stalled |= self.cut[path];
        if stream.stalled {
            return None;
        }
        let packet = stream.under_way.pop_front()?;
        stream.under_way_bytes -= packet.weight();
        Some(packet)
    }

    /// Bytes sent and not arrived.
    pub(crate) fn under_way_bytes(&self, id: StreamId) -> u64 {
        self.streams[id.0].under_way_bytes
    }

    /// Breaks the stream now: of what is under way nothing more arrives. True when it was up.
    pub(crate) fn break_stream(&mut self, id: StreamId) -> bool {
        let stream = &mut self.streams[id.0];
        let was = stream.connected;
        stream.connected = false;
        stream.open = false;
        stream.stalled = false;
        stream.under_way.clear();
        stream.under_way_bytes = 0;
        was
    }

    /// Opens a new connection. A handshake needs both directions.
    pub(crate) fn connect(&mut self, id: StreamId, now_ns: u64) -> bool {
        let (from, to, _) = self.ends(id);
        if self.is_cut(from, to) || self.is_cut(to, from) {
            return false;
        }
        let stream = &mut self.streams[id.0];
        assert!(!stream.connected, "one connection at a time");
        stream.connected = true;
        stream.generation += 1;
        stream.turn += 1;
        stream.last_at_ns = now_ns;
        true
    }

    pub(crate) fn is_connected(&self, id: StreamId) -> bool {
        self.streams[id.0].connected
    }

    /// Both hellos were taken.
    pub(crate) fn open(&mut self, id: StreamId) {
        self.streams[id.0].open = true;
    }

    /// This very connection is up.
    pub(crate) fn is_current(&self, id: StreamId, generation: Generation) -> bool {
        self.streams[id.0].connected && self.streams[id.0].generation == generation
    }

    /// The last connection of the stream was this one.
    pub(crate) fn was(&self, id: StreamId, generation: Generation) -> bool {
        self.streams[id.0].generation == generation
    }

    pub(crate) fn generation(&self, id: StreamId) -> Generation {
        self.streams[id.0].generation
    }

    pub(crate) fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cut[from * self.members + to]
    }

    pub(crate) fn is_any_cut(&self) -> bool {
        self.cut.contains(&true)
    }

    pub(crate) fn set_cut(&mut self, from: usize, to: usize, cut: bool) {
        self.cut[from * self.members + to] = cut;
    }

    /// After a cut is healed: new due times for what waited, in order; empty when nothing did.
    pub(crate) fn resume(
        &mut self,
        id: StreamId,
        now_ns: u64,
        dice: &mut Dice,
    ) -> Vec<(u64, Turn)> {
        let path = id.0 / LANES.len();
        if !self.streams[id.0].stalled || self.cut[path] {
            return Vec::new();
        }
        let delay = self.draw_delay(path, now_ns, dice);
        let stream = &mut self.streams[id.0];
        stream.stalled = false;
        // Due times that are still in the calendar must not count twice.
        stream.turn += 1;
        let turn = stream.turn;
        let due: Vec<_> = (0..stream.under_way.len() as u64)
            .map(|i| (now_ns + delay + i, turn))
            .collect();
        stream.last_at_ns = due.last().map_or(now_ns, |(at, _)| *at);
        due
    }

    pub(crate) fn is_stalled(&self, id: StreamId) -> bool {
        self.streams[id.0].stalled
    }

    pub(crate) fn spike(&mut self, until_ns: u64) {
        self.spike_until_ns = until_ns;
    }

    /// No more faults from here on.
    pub(crate) fn calm(&mut self) {
        self.calm = true;
        self.spike_until_ns = 0;
        self.cut.fill(false);
    }

    /// The members other than `of`, by index.
    pub(crate) fn others(&self, of: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.members).filter(move |i| *i != of)
    }
}

/// The configuration numbers members from 1; the simulator counts from 0.
pub(crate) fn index_of(member: MemberId) -> usize {
    usize::try_from(member.0).expect("small") - 1
}

/// The other way round.
pub(crate) fn id_of(index: usize) -> MemberId {
    MemberId(u32::try_from(index).expect("small") + 1)
}
