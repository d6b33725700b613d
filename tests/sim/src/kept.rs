//! What becomes of the app's state beside members that have none: looked at whenever a keeper looks round.

use synod_paxos::{Role, Slot};

use crate::invariants::Violation;
use crate::invariants::epochs::voters;
use crate::invariants::kept::{Holder, kept};
use crate::membership::Seat;
use crate::network::index_of;
use crate::world::World;

impl World {
    /// Where there are witnesses, and once nobody is needed any more that the last change left behind.
    pub(crate) fn check_kept(&self) -> Result<(), Violation> {
        let latest = self.checks.chosen.epochs.latest();
        if !latest.members.iter().any(|it| it.role == Role::Witness) {
            return Ok(());
        }
        // What a person has given up may make the states of most copies void at once.
        if self.checks.answers.is_undone() {
            return Ok(());
        }
        let is_retired = |it: &usize| {
            let process = self.hosts[*it].process.as_ref();
            process
                .is_some_and(|it| it.paxos.epoch() == latest.epoch && it.paxos.old_epoch_retired())
        };
        if !self.seated.iter().any(is_retired) {
            return Ok(());
        }
        let holder = |index: usize| {
            let host = &self.hosts[index];
            let (disk, base) = (host.disk.synced(), host.disk.base_slot());
            let newest = host.newest_usable().map(|it| it.base.slot);
            let state = newest.or((base == Slot::ZERO).then_some(Slot::ZERO));
            // One whose state is damaged, behind which its log begins, has lost what a copy is for.
            let has_state = state >= Some(base) || base > host.rotten;
            let is_in = host.seat == Seat::Taken && disk.accepted.epoch >= latest.epoch;
            Holder {
                is_there: is_in && (host.witness || has_state),
                runs_app: !host.witness,
                base,
                last: disk.last,
                state: state.filter(|_| !host.witness),
            }
        };
        let holders: Vec<Holder> = voters(latest)
            .into_iter()
            .map(|it| holder(index_of(it)))
            .collect();
        kept(latest, &holders, self.checks.chosen.through())
    }
}
