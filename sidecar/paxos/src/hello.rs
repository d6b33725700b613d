//! The first words on each connection: same group, a protocol in common, and a peer that has kept
//! what it acknowledged (rules M4, P8).

use synod_mutant::{Mutant, planted};

use crate::error::HelloRefusal;
use crate::message::Hello;
use crate::output::Output;
use crate::paxos::Paxos;
use crate::peer::Remembered;
use crate::types::{MemberId, Now};

impl Paxos {
    /// What to say first on each connection.
    pub fn hello(&self) -> Hello {
        // Not less than was acknowledged, or it would pass for forgetful.
        let (accepted, last) = self.acceptor.kept;
        Hello {
            group: self.genesis.group,
            member: self.me,
            name: self.identity.name.clone(),
            incarnation: self.identity.incarnation,
            boot: self.boot,
            life: self.life,
            epoch: self.acceptor.synced_promised.epoch,
            promised: self.acceptor.synced_promised,
            accepted,
            last,
            protocol_min: self.settings.protocol_min,
            protocol_max: self.settings.protocol_max,
        }
    }

    /// A peer's first words on a connection; nothing else of it may be handed in before. On an error
    /// the connection is closed, and the peer told why.
    pub fn handle_hello(&mut self, now: Now, hello: &Hello) -> Result<(), HelloRefusal> {
        self.enter(now);
        let ours = self.genesis.group;
        if hello.group != ours {
            let theirs = hello.group;
            return Err(HelloRefusal::OtherGroup { theirs, ours });
        }
        let (min, max) = (self.settings.protocol_min, self.settings.protocol_max);
        let in_force = self.protocol();
        // (Who speaks only later ones than are in force here knows more of the log.)
        let knows = hello.protocol_max >= in_force || planted(Mutant::OldProgramsAreHeard);
        let speaks = hello.protocol_min <= hello.protocol_max && knows;
        if !speaks || hello.protocol_max < min || hello.protocol_min > max {
            return Err(HelloRefusal::Protocol {
                their_min: hello.protocol_min,
                their_max: hello.protocol_max,
                our_min: min,
                our_max: max,
            });
        }
        let member = hello.member;
        let (epoch, retired) = (self.epoch(), self.old_epoch_retired());
        if retired && hello.epoch <= epoch && self.has_left(member, hello.incarnation) {
            return Err(HelloRefusal::Removed { member, epoch });
        }
        if self.acquaintance(member).is_none() && !self.meet(hello) {
            return Err(HelloRefusal::UnknownMember { member });
        }
        let Some(peer) = self.acquaintance_mut(member) else {
            return Err(HelloRefusal::UnknownMember { member });
        };
        if hello.incarnation != peer.incarnation {
            return Err(HelloRefusal::OtherIncarnation {
                member,
                theirs: hello.incarnation,
            });
        }
        if has_forgotten(&peer.remembered, hello) && !planted(Mutant::ForgetfulMembersVote) {
            peer.barred = true;
            return Err(HelloRefusal::Forgetful { member });
        }
        peer.barred = false;
        if hello.boot != peer.remembered.boot {
            // Its machine may have been started anew, and its clock with it.
            peer.beat.mono_ns = 0;
        }
        peer.remembered.boot = hello.boot;
        peer.remembered.life = hello.life;
        peer.protocol_max = hello.protocol_max;
        peer.epoch = peer.epoch.max(hello.epoch);
        peer.remembered.note_promise(hello.promised);
        peer.remembered.note_log(hello.accepted, hello.last);
        Ok(())
    }

    /// A peer refused our hello. Forgetfulness ends this member, and one that was removed hears so: the
    /// rest is for people.
    pub fn handle_hello_refused(&mut self, now: Now, peer: MemberId, refusal: HelloRefusal) {
        if !self.enter(now) || self.acquaintance(peer).is_none() {
            return;
        }
        match refusal {
            HelloRefusal::Forgetful { member } if member == self.me => {
                self.end(Output::Forgetful { reported_by: peer });
            }
            HelloRefusal::Removed { member, epoch }
                if member == self.me && epoch > self.epoch() =>
            {
                self.be_removed(epoch);
            }
            _ => {}
        }
    }
}

/// The same process cannot forget, whatever overtook its hello on the way; another process with the
/// same start, or an earlier one, is a copy; a later start must have kept all that was acknowledged.
fn has_forgotten(remembered: &Remembered, hello: &Hello) -> bool {
    if (hello.boot, hello.life) == (remembered.boot, remembered.life) {
        return false;
    }
    hello.boot <= remembered.boot
        || hello.promised < remembered.promised
        || (hello.accepted, hello.last) < (remembered.accepted, remembered.last)
}
