//! Time passes only when a command says so.

use synod_paxos::Paxos;

use super::World;
use crate::words::Wrong;

/// How long a group that comes to rest is watched at a time, in nanoseconds: longer than it takes from
/// one heartbeat to the next, and much shorter than an election timeout.
const REST_NS: u64 = 120_000_000;
/// A group that has not come to rest by then goes in circles.
const ROUNDS: usize = 200;

impl World {
    /// Lets time pass: timers go off, and heartbeats go to and fro.
    pub(crate) fn advance(&mut self, by_ns: u64) {
        let end_ns = self.now_ns + by_ns;
        let all = self.members();
        while self.next_timer(&all, end_ns) {}
        self.now_ns = end_ns;
        self.beat();
    }

    /// The next timer of one of these members before `end_ns` goes off. Whether there was one.
    pub(super) fn next_timer(&mut self, of: &[u32], end_ns: u64) -> bool {
        let due = of.iter().filter_map(|member| {
            let host = self.hosts.get(member).filter(|it| it.is_awake())?;
            let process = host.process.as_ref()?;
            let timer = process.paxos.poll_timeout().map(|it| it + host.lag_ns);
            let pause = process.pauses.iter().map(|(_, at_ns)| *at_ns).min();
            let at_ns = timer.into_iter().chain(pause).min()?;
            Some((at_ns.max(self.now_ns), *member))
        });
        let Some((at_ns, member)) = due.min().filter(|(at_ns, _)| *at_ns <= end_ns) else {
            return false;
        };
        self.now_ns = at_ns;
        self.fire(member);
        let again = self.paxos(member).ok().and_then(Paxos::poll_timeout);
        let lag_ns = self.hosts[&member].lag_ns;
        if again.is_some_and(|it| it + lag_ns <= at_ns) {
            self.checks.found(format!("a timer of {member} spins"));
            return false;
        }
        true
    }

    /// The timers of a member go off that are due.
    pub(super) fn fire(&mut self, member: u32) {
        let (now, now_ns) = (self.now_at(member), self.now_ns);
        let Ok(process) = self.running(member) else {
            return;
        };
        let (over, open) = std::mem::take(&mut process.pauses)
            .into_iter()
            .partition(|(_, at_ns)| *at_ns <= now_ns);
        process.pauses = open;
        let over: Vec<_> = over;
        for (slot, _) in over {
            process.machine.handle_pause_over(slot);
        }
        process.paxos.handle_timeout(now);
        self.settle(member);
        self.beat();
    }

    /// Wall clock of a member is set.
    pub(crate) fn set_clock(&mut self, member: u32, by_ns: i64) -> Result<(), Wrong> {
        self.host_mut(member)?.wall_offset_ns += by_ns;
        Ok(())
    }

    /// Syncs, delivers and applies until nothing is left to do, and says only what has come of it. A
    /// little time passes, too short for anybody to lose patience.
    pub(crate) fn stabilize(&mut self) {
        self.quietly(|world| {
            let (mut before, mut same) = (Vec::new(), 0);
            for _ in 0..ROUNDS {
                world.come_to_rest();
                let now = world.summary();
                same = if now == before { same + 1 } else { 0 };
                before = now;
                if same == 3 {
                    return;
                }
                world.advance(REST_NS);
            }
            world.tell("the group does not come to rest");
        });
        for line in self.summary() {
            self.tell(line);
        }
    }

    fn come_to_rest(&mut self) {
        for _ in 0..ROUNDS {
            let mut moved = false;
            for member in self.members() {
                let app = &self.hosts[&member].app;
                if !app.up && !app.stays_down {
                    moved |= self.start_app(member).is_ok();
                }
                let awake = self.hosts[&member].is_awake();
                moved |= awake && self.sync(member, None).unwrap_or(false);
            }
            moved |= self.deliver_all();
            if !moved {
                return;
            }
        }
        self.tell("messages go to and fro without an end");
    }
}
