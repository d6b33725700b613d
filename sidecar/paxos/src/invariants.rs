//! What must hold on one member after each event. A broken one ends the process: a wrong answer is
//! worse than none. (What must hold across members is checked in simulation.)

use crate::paxos::{Office, Paxos};
use crate::types::{Ballot, Slot};

/// The last values seen, for what never goes down.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    promised: Ballot,
    accepted: Ballot,
    commit: Slot,
    delivered: Slot,
}

impl Paxos {
    pub(crate) fn check_invariants(&mut self) {
        let (acceptor, log) = (&self.acceptor, &self.log);
        assert!(acceptor.promised >= self.seen.promised, "I1: promised fell");
        assert!(acceptor.accepted >= self.seen.accepted, "I1: accepted fell");
        assert!(
            acceptor.accepted <= acceptor.promised,
            "I2: accepted above promised"
        );
        assert!(log.commit() <= log.last(), "I5: commit above last");
        assert!(log.commit() >= self.seen.commit, "I5: commit fell");
        assert!(self.applied <= log.commit(), "I6: applied above commit");
        assert!(
            self.delivered <= log.commit() && self.delivered <= acceptor.synced_last,
            "I7: handed to apply before it was chosen and synced"
        );
        assert!(self.delivered >= self.seen.delivered, "delivered fell");
        assert!(
            acceptor.synced_last <= log.last()
                && acceptor.synced_promised <= acceptor.promised
                && acceptor.synced_accepted <= acceptor.accepted,
            "I7: synced above what was written"
        );
        match &self.office {
            Office::Leader(leader) => assert!(
                leader.ballot == acceptor.promised && leader.ballot == acceptor.accepted,
                "a leader's ballot is the one it promised and adopted"
            ),
            Office::Candidate(candidate) => assert!(
                candidate.ballot == acceptor.promised && candidate.ballot > acceptor.accepted,
                "a candidate's ballot is promised and not adopted"
            ),
            Office::Follower => {}
        }
        assert!(
            self.entrance.count() <= u64::from(self.settings.max_pending_commands)
                && self.reads.count() <= self.settings.max_pending_reads as usize,
            "I12: a queue is over its limit"
        );
        self.seen = Seen {
            promised: acceptor.promised,
            accepted: acceptor.accepted,
            commit: log.commit(),
            delivered: self.delivered,
        };
    }
}
