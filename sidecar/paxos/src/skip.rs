//! A slot that nobody executes (rule K1). Only a leader proposes that, in the very ballot in which it has
//! asked the members about the slot: what one leader has learnt says nothing once another has asked anew,
//! and nothing in a later epoch. So such a command comes from no entrance, which would send it again to
//! whoever leads next. What it says is opaque here.

use bytes::Bytes;

use crate::error::SkipRefused;
use crate::paxos::{Office, Paxos};
use crate::types::{Ballot, Command, CommandKind, Now};

/// Protocol version from which on slots are skipped.
const PROTOCOL: u32 = 2;

impl Paxos {
    /// If this member leads in `ballot`: proposes a [`CommandKind::SKIP`]. It may be chosen from here on,
    /// by this leader or by a later one of the same epoch that finds it in a log.
    pub fn skip(&mut self, now: Now, ballot: Ballot, payload: Bytes) -> Result<(), SkipRefused> {
        if !self.enter(now) {
            return Err(SkipRefused::Ended);
        }
        if !matches!(&self.office, Office::Leader(leader) if leader.ballot == ballot) {
            let leader = self.leader();
            return Err(SkipRefused::NotLeader { leader });
        }
        let in_force = self.protocol();
        if in_force < PROTOCOL {
            return Err(SkipRefused::Protocol { in_force });
        }
        if !self.may_propose() || !self.has_room() || self.disk_full {
            return Err(SkipRefused::Busy);
        }
        self.append_command(Command {
            kind: CommandKind::SKIP,
            payload,
            ..Command::default()
        });
        Ok(())
    }
}
