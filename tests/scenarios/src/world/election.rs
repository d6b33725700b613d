//! Who leads: a script says who stands for election, and members do so by their own rules.

use super::World;
use crate::words::Wrong;
use synod_paxos::Standing;

/// How long the others get no time while one makes up its mind, in nanoseconds: three heartbeats.
const ALONE_NS: u64 = 300_000_000;
/// Much longer than it takes anybody to stand.
const TRIES: usize = 20;

impl World {
    /// Lets time pass until this member stands for election. Chance, which decides who is first, is
    /// kept out: the clocks of the others stand still most of the time, as if their machines were slow.
    pub(crate) fn elect(&mut self, member: u32) -> Result<(), Wrong> {
        self.running(member)?;
        let others = self.members().into_iter().filter(|it| *it != member);
        let others: Vec<u32> = others.collect();
        let stands = |world: &Self| {
            let paxos = world.paxos(member);
            paxos.is_ok_and(|it| it.standing() != Standing::Follower)
        };
        for other in &others {
            self.freeze(*other);
        }
        for _ in 0..TRIES {
            let end_ns = self.now_ns + ALONE_NS;
            while !stands(self) && self.next_timer(&[member], end_ns) {}
            if stands(self) {
                break;
            }
            self.now_ns = end_ns;
            for other in &others {
                self.thaw(*other, false);
                self.beat();
                if self.hosts[other].is_awake() {
                    self.fire(*other);
                }
                self.freeze(*other);
            }
        }
        self.drop_beats();
        for other in &others {
            self.thaw(*other, true);
        }
        stands(self)
            .then_some(())
            .ok_or_else(|| format!("{member} does not stand for election"))
    }

    fn freeze(&mut self, member: u32) {
        let now_ns = self.now_ns;
        if let Ok(host) = self.host_mut(member) {
            host.frozen_ns = Some(now_ns);
        }
    }

    /// The clock of a member goes on, from now on or, with `from_there`, from where it stood.
    fn thaw(&mut self, member: u32, from_there: bool) {
        let now_ns = self.now_ns;
        if let Ok(host) = self.host_mut(member)
            && let Some(frozen_ns) = host.frozen_ns.take()
            && from_there
        {
            host.lag_ns += now_ns - frozen_ns;
        }
    }

    /// The leader is asked to let this one lead.
    pub(crate) fn transfer(&mut self, to: u32) -> Result<(), Wrong> {
        let leader = self.leader().ok_or("nobody leads")?;
        let target = self.host(to)?.member.id;
        let now = self.now_at(leader);
        self.running(leader)?.paxos.transfer(now, Some(target));
        self.settle(leader);
        self.beat();
        Ok(())
    }
}
