//! Connections and what they carry: the part of a member's shell that speaks to its peers.

use synod_paxos::HelloRefusal;

use crate::calendar::Event;
use crate::invariants::{Violation, limits, unsynced};
use crate::network::{Generation, LANES, Packet, StreamId, Turn, id_of};
use crate::process::Outgoing;
use crate::world::{LateCopy, World};

impl World {
    /// A message leaves a member, if its connection is up.
    pub(crate) fn transmit(&mut self, member: usize, outgoing: Outgoing) -> Result<(), Violation> {
        let host = &self.hosts[member];
        let Some(process) = &host.process else {
            return Ok(());
        };
        let commit = process.paxos.commit();
        self.checks
            .leaves(member, &outgoing.message, &host.disk, commit)?;
        let to = crate::network::index_of(outgoing.to);
        let stream = self.network.stream(member, to, outgoing.lane);
        let now_ns = self.now_ns;
        self.trace.mix(stream.0 as u64);
        self.trace.line(now_ns, || {
            format!(
                "{} -> {}: {}",
                member + 1,
                to + 1,
                crate::trace::brief(&outgoing.message)
            )
        });
        let bytes = crate::network::weight(&outgoing.message);
        let limit = host.settings.queue_bytes;
        let envelope = process.paxos.envelope(outgoing.to, outgoing.message);
        let burst = &mut self.bursts[stream.0];
        *burst = (
            self.turn,
            bytes + if burst.0 == self.turn { burst.1 } else { 0 },
        );
        limits::check_burst(member, burst.1, limit)?;
        if bytes > 0 && self.network.under_way_bytes(stream) + bytes > limit {
            // As the real queue: one that grows too long breaks its connection.
            self.tally.overflows += 1;
            self.lose(stream, 1_000_000);
            return Ok(());
        }
        self.put_on_wire(stream, Packet::Envelope(envelope));
        Ok(())
    }

    fn put_on_wire(&mut self, stream: StreamId, packet: Packet) {
        if let Some((at, turn)) = self
            .network
            .send(stream, packet, self.now_ns, &mut self.dice)
        {
            self.calendar.put(at, Event::Deliver { stream, turn });
        }
    }

    /// The next packet of a stream is due.
    pub(crate) fn deliver(&mut self, stream: StreamId, turn: Turn) -> Result<(), Violation> {
        if !self.calm && self.dice.chance(self.swarm.network.break_chance) {
            self.tally.breaks += 1;
            self.lose(stream, 1_000_000);
        }
        let Some(packet) = self.network.due(stream, turn) else {
            return Ok(());
        };
        if !self.calm && self.dice.chance(self.swarm.network.duplicate) {
            self.keep_late_copy(stream, packet.clone());
        }
        self.arrive(stream, packet, true)
    }

    fn keep_late_copy(&mut self, stream: StreamId, packet: Packet) {
        if matches!(packet, Packet::Hello(_)) {
            return;
        }
        self.next_copy += 1;
        self.tally.duplicates += 1;
        let life = self.hosts[self.network.ends(stream).1].life;
        let late = LateCopy {
            stream,
            packet,
            life,
        };
        self.late.insert(self.next_copy, late);
        let delay = self.dice.log_range(100_000, 5_000_000_000);
        let copy = self.next_copy;
        self.plan(delay, Event::Late { copy });
    }

    /// A copy of an old message turns up, past the order of its stream.
    pub(crate) fn deliver_late(&mut self, copy: u64) -> Result<(), Violation> {
        let late = self.late.remove(&copy).expect("each copy turns up once");
        let (from, to, _) = self.network.ends(late.stream);
        let receiver = self.hosts[to].process.as_ref();
        let absent = receiver.is_none_or(|p| p.paused || p.life != late.life);
        if absent || self.network.is_cut(from, to) {
            return Ok(());
        }
        self.arrive(late.stream, late.packet, false)
    }

    fn arrive(
        &mut self,
        stream: StreamId,
        packet: Packet,
        in_order: bool,
    ) -> Result<(), Violation> {
        let (from, to, lane) = self.network.ends(stream);
        let now = self.clock(to);
        let Some(process) = &mut self.hosts[to].process else {
            return Ok(());
        };
        match packet {
            Packet::Hello(hello) => {
                let answer = process.paxos.handle_hello(now, &hello);
                assert!(in_order, "a hello is never late");
                let generation = self.network.generation(stream);
                let delay = self.dice.range(10_000, 1_000_000);
                self.trace.line(self.now_ns, || {
                    format!("{} hello from {} on {lane:?}: {answer:?}", to + 1, from + 1)
                });
                match answer {
                    Ok(()) => self.plan(delay, Event::Up { stream, generation }),
                    Err(refusal) => {
                        self.network.break_stream(stream);
                        self.plan(delay, Event::Refused { stream, refusal });
                    }
                }
            }
            Packet::Envelope(envelope) => {
                self.trace.line(self.now_ns, || {
                    let message = crate::trace::brief(&envelope.message);
                    format!("{} <- {}: {message}", to + 1, from + 1)
                });
                process.paxos.handle_message(now, id_of(from), envelope);
            }
        }
        self.settle(to)
    }

    /// A member tries to connect; both must run, and the way be free.
    pub(crate) fn connect(&mut self, stream: StreamId) -> Result<(), Violation> {
        self.connecting[stream.0] = false;
        let (from, to, _) = self.network.ends(stream);
        let Some(process) = &self.hosts[from].process else {
            return Ok(());
        };
        if self.network.is_connected(stream) || !process.contacts.contains(&to) {
            return Ok(());
        }
        let possible = !process.paused && self.hosts[to].process.is_some();
        if !possible || !self.network.connect(stream, self.now_ns) {
            self.plan_connect(stream);
            return Ok(());
        }
        let hello = process.paxos.hello();
        unsynced::hello(from, &hello, self.hosts[from].disk.synced())?;
        self.put_on_wire(stream, Packet::Hello(hello));
        Ok(())
    }

    pub(crate) fn plan_connect(&mut self, stream: StreamId) {
        if !std::mem::replace(&mut self.connecting[stream.0], true) {
            let mean = self.swarm.network.reconnect_ns;
            let delay = mean / 2 + self.dice.range(0, mean);
            self.plan(delay, Event::Connect { stream });
        }
    }

    /// The listener's hello comes back: when it is taken, the connection carries messages.
    pub(crate) fn connection_up(
        &mut self,
        stream: StreamId,
        generation: Generation,
    ) -> Result<(), Violation> {
        if !self.network.is_current(stream, generation) {
            return Ok(());
        }
        let (from, to, _) = self.network.ends(stream);
        let now = self.clock(from);
        let Some(listener) = &self.hosts[to].process else {
            return Ok(());
        };
        let hello = listener.paxos.hello();
        unsynced::hello(to, &hello, self.hosts[to].disk.synced())?;
        let Some(process) = &mut self.hosts[from].process else {
            return Ok(());
        };
        if process.paxos.handle_hello(now, &hello).is_err() {
            self.network.break_stream(stream);
            self.plan_connect(stream);
            return self.settle(from);
        }
        self.network.open(stream);
        self.tell_connection(stream, true)
    }

    /// The sender learns that its connection is gone, unless it has a new one already.
    pub(crate) fn connection_down(
        &mut self,
        stream: StreamId,
        generation: Generation,
    ) -> Result<(), Violation> {
        if self.network.is_connected(stream) || !self.network.was(stream, generation) {
            return Ok(());
        }
        self.plan_connect(stream);
        self.tell_connection(stream, false)
    }

    pub(crate) fn connection_refused(
        &mut self,
        stream: StreamId,
        refusal: HelloRefusal,
    ) -> Result<(), Violation> {
        let (from, to, _) = self.network.ends(stream);
        let now = self.clock(from);
        self.plan_connect(stream);
        let Some(process) = &mut self.hosts[from].process else {
            return Ok(());
        };
        process.paxos.handle_hello_refused(now, id_of(to), refusal);
        self.settle(from)
    }

    fn tell_connection(&mut self, stream: StreamId, up: bool) -> Result<(), Violation> {
        let (from, to, lane) = self.network.ends(stream);
        let now = self.clock(from);
        let Some(process) = &mut self.hosts[from].process else {
            return Ok(());
        };
        self.trace.line(self.now_ns, || {
            let state = if up { "up" } else { "down" };
            format!("{} connection to {} on {lane:?} {state}", from + 1, to + 1)
        });
        if !up {
            process.drop_held(id_of(to), lane);
        }
        process.paxos.handle_connection(now, id_of(to), lane, up);
        self.settle(from)
    }

    /// A stream breaks; its sender learns of it after about `notice_ns`.
    pub(crate) fn lose(&mut self, stream: StreamId, notice_ns: u64) {
        let generation = self.network.generation(stream);
        if self.network.break_stream(stream) {
            let delay = self.dice.range(notice_ns / 2, notice_ns);
            self.plan(delay, Event::Down { stream, generation });
        }
    }

    /// All streams from and to a member break.
    pub(crate) fn lose_all(&mut self, member: usize, notice_ns: u64) {
        for other in self.network.others(member) {
            for lane in LANES {
                let out = self.network.stream(member, other, lane);
                self.network.break_stream(out);
                let into = self.network.stream(other, member, lane);
                self.lose(into, notice_ns);
            }
        }
    }
}
