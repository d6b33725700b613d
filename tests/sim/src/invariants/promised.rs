//! I1: `promised` never decreases, and I2: `accepted <= promised`.
//!
//! Source: Lamport, *Paxos Made Simple* (2001), section 2.2: an acceptor remembers the highest
//! prepare request it answered, also across failures; and Sequence Paxos, where what is accepted
//! lies under a promise.

use synod_paxos::Ballot;

use super::Violation;
use crate::disk::Summary;

/// Per member, the highest promise that ever was synced, and the highest seen in this life.
#[derive(Debug)]
pub(crate) struct Promised {
    synced: Vec<Ballot>,
    live: Vec<Ballot>,
}

// === impl Promised ===

impl Promised {
    pub(crate) fn new(members: usize) -> Self {
        Self {
            synced: vec![Ballot::default(); members],
            live: vec![Ballot::default(); members],
        }
    }

    /// After a sync, and after a start, of the disk.
    pub(crate) fn disk(&mut self, member: usize, disk: Summary) -> Result<(), Violation> {
        if disk.promised < self.synced[member] {
            return Err(Violation::new(
                "I1",
                format!(
                    "member {} has {} as its synced promise after {}",
                    member + 1,
                    disk.promised,
                    self.synced[member]
                ),
            ));
        }
        self.synced[member] = disk.promised;
        ordered(member, disk.accepted, disk.promised)
    }

    /// After each step of a running member.
    pub(crate) fn step(
        &mut self,
        member: usize,
        promised: Ballot,
        accepted: Ballot,
    ) -> Result<(), Violation> {
        if promised < self.live[member] {
            return Err(Violation::new(
                "I1",
                format!(
                    "member {} promised {promised} after {}",
                    member + 1,
                    self.live[member]
                ),
            ));
        }
        self.live[member] = promised;
        ordered(member, accepted, promised)
    }

    /// A new life begins with what the disk kept.
    pub(crate) fn restart(&mut self, member: usize) {
        self.live[member] = self.synced[member];
    }
}

fn ordered(member: usize, accepted: Ballot, promised: Ballot) -> Result<(), Violation> {
    if accepted > promised {
        return Err(Violation::new(
            "I2",
            format!(
                "member {} accepted {accepted} above its promise {promised}",
                member + 1
            ),
        ));
    }
    Ok(())
}
