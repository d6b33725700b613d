//! A copy that goes astray: now and then one app stores and answers a request otherwise than all others.
//! It is one copy at a time, and most others execute that request rightly, so that there is a majority
//! that knows better.
//!
//! Until it is found no process ends, and no other revision of the app begins: the digests of that slot are
//! in memory only, and where they are lost nobody can know (rule N2). Where no majority is heard at one time,
//! which copies that were made anew may bring about, a person replaces the copy that is wrong.

use synod_paxos::{Role, Slot};

use crate::app::{Poison, Work};
use crate::calendar::Event;
use crate::copy::Ledger;
use crate::coverage::Sight;
use crate::invariants::Violation;
use crate::network::{id_of, index_of};
use crate::world::World;

/// Before a person has found out which copy is wrong.
const PERSON_NS: u64 = 3_000_000_000;

/// A copy that has gone astray.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Odd {
    pub(crate) member: usize,
    /// From this slot on.
    pub(crate) slot: Slot,
    /// Its member has noted that, or its state is gone.
    pub(crate) found: bool,
    /// A person is about to replace it.
    mended: bool,
}

impl World {
    /// The next request that this member's app executes goes astray, if it may then.
    pub(crate) fn lead_astray(&mut self, member: usize) {
        self.hosts[member].app.strays = true;
    }

    /// Whether the app is to execute this slot otherwise than it should. A request that ends apps is not
    /// chosen: where all others execute it and die before they answer, there is nothing to compare.
    pub(crate) fn strays(&mut self, member: usize, slot: Slot, work: Work) -> bool {
        if !self.hosts[member].app.strays || self.calm || self.checks.was_executed(slot) {
            return false;
        }
        if work.poison != Poison::None {
            return false;
        }
        if self.odd.is_some() || !self.majority_is_right_without(member) {
            return false;
        }
        self.hosts[member].app.strays = false;
        self.coverage.saw(Sight::WentAstray);
        self.odd = Some(Odd {
            member,
            slot,
            found: false,
            mended: false,
        });
        true
    }

    /// Enough copies of its revision are there without this one, and stay.
    fn majority_is_right_without(&self, member: usize) -> bool {
        let revision = |it: usize| {
            let process = self.hosts[it].process.as_ref()?;
            let known = process.copy.machine.revision_status();
            (!known.is_unfinished).then_some((known.in_force, known.running?))
        };
        let configuration = self.checks.chosen.epochs.latest();
        let members = configuration.members.iter();
        let copies = members.filter(|it| it.role != Role::Witness);
        let copies: Vec<usize> = copies.map(|it| index_of(it.id)).collect();
        let there = |it: &&usize| {
            let process = self.hosts[**it].process.as_ref();
            let serves = process.is_some_and(|it| it.copy.machine.serving());
            **it != member && serves && revision(**it) == revision(member)
        };
        let right = copies.iter().filter(there).count();
        let settled = self.swarm.membership.is_none() || self.is_settled(configuration);
        copies.contains(&member)
            && revision(member).is_some()
            && right > copies.len() / 2
            && settled
    }

    /// Nobody may end a process now.
    pub(crate) fn is_looked_for(&self) -> bool {
        self.odd.is_some_and(|it| !it.found)
    }

    /// No member is changed while a copy is astray: who is left might not know better.
    pub(crate) fn is_astray(&self) -> bool {
        self.odd.is_some()
    }

    /// A member has noted something about its copy.
    pub(crate) fn note_found(&mut self, member: usize) {
        let process = self.hosts[member].process.as_ref();
        let astray = process.is_some_and(|it| it.copy.machine.astray().is_some());
        if let Some(odd) = &mut self.odd
            && odd.member == member
            && astray
        {
            odd.found = true;
        }
    }

    /// It is over when nothing is left of that state.
    pub(crate) fn look_for_odd(&mut self) {
        let Some(odd) = self.odd else {
            return;
        };
        let host = &self.hosts[odd.member];
        if host.app.knows_odd() {
            return;
        }
        self.coverage.saw(Sight::MadeAnew);
        self.odd = None;
    }

    /// Where no majority agrees a person finds out who is wrong.
    pub(crate) fn note_ties(&mut self, leader: usize) {
        let Some(odd) = self.odd.filter(|it| !it.mended) else {
            return;
        };
        let process = self.hosts[leader].process.as_ref();
        let desk = process.and_then(|it| it.term.as_ref()?.desk.as_ref());
        let Some(desk) = desk else {
            return;
        };
        let mark = desk.comparers.answering().mark(id_of(odd.member));
        if mark.is_some_and(|it| it.tie.is_some()) {
            self.odd = Some(Odd {
                mended: true,
                ..odd
            });
            let member = odd.member;
            self.plan(PERSON_NS, Event::Mend { member });
        }
    }

    /// A person replaces the copy: its machine, and what it had on a volume. What is on the log's disk stays.
    pub(crate) fn mend(&mut self, member: usize) {
        self.coverage.saw(Sight::Mended);
        let runs = self.hosts[member].process.is_some();
        self.crash(member, true);
        self.end_app(member, true);
        let host = &mut self.hosts[member];
        host.app.put(None);
        host.ledger = Ledger::Missing;
        if runs {
            self.plan(1_000_000, Event::Start { member });
        }
        self.look_for_odd();
    }

    /// A right copy is not taken out.
    pub(crate) fn check_taken_out(
        &mut self,
        member: usize,
        lineage: u64,
        slot: Slot,
    ) -> Result<(), Violation> {
        let process = self.hosts[member].process.as_ref().expect("it was told");
        let copy = &process.copy;
        // What no majority had agreed on before may have it begin earlier.
        let odd = copy
            .compared
            .as_ref()
            .is_some_and(|it| it.odd.range(slot..).next().is_some());
        if odd || copy.machine.lineage().number != lineage {
            self.coverage.saw(Sight::TakenOut);
            return Ok(());
        }
        let text = format!(
            "member {} is taken out from slot {slot} on, and has answered rightly ever since",
            member + 1
        );
        Err(Violation::new("divergence", text))
    }
}
