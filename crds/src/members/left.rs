//! Who would be left without a member, and whether that is enough.

use super::{Member, Situation, votes};
use crate::status::MemberRole;

// === impl Situation ===

impl Situation<'_> {
    /// Whether the leader hears a quorum of the voters, without this one if any. One whose disk is
    /// another is not the one that is in the group.
    pub(super) fn is_quorum_heard_without(&self, but: Option<&Member>) -> bool {
        let voters = || {
            let members = self.group.members.iter();
            members.filter(|it| votes(it.role) && but.is_none_or(|but| but.id != it.id))
        };
        let heard = voters().filter(|it| self.decides(it)).count();
        heard * 2 > voters().count()
    }

    /// Whether the leader hears a quorum of the voters and one more, without that one.
    pub(super) fn is_quorum_heard_besides_a_new_vote(&self) -> bool {
        let voters = || self.group.members.iter().filter(|it| votes(it.role));
        let heard = voters().filter(|it| self.decides(it)).count();
        heard * 2 > voters().count() + 1
    }

    /// A witness has its vote before it has the log, and decides nothing until then.
    fn decides(&self, voter: &Member) -> bool {
        self.is_heard(voter) && (voter.role != MemberRole::Witness || voter.caught_up)
    }

    /// Whether a voter that runs the app is left without this member: no group is without one.
    pub(super) fn has_copy_without(&self, but: &Member) -> bool {
        let mut members = self.group.members.iter();
        members.any(|it| it.id != but.id && it.role == MemberRole::Voter)
    }

    /// Who must have caught up before this member may give up its vote: where there are witnesses, which
    /// have no state for anybody, enough of the voters that run the app have the log before one of those
    /// goes that have it.
    pub(super) fn copy_missing(&self, but: &Member) -> Option<&Member> {
        let is_there = |it: &Member| self.is_heard(it) && it.caught_up;
        let voters = || {
            let members = self.group.members.iter();
            members.filter(|it| it.id != but.id && votes(it.role))
        };
        let copies = || voters().filter(|it| it.role == MemberRole::Voter);
        let witnesses = voters().count() - copies().count();
        if witnesses == 0 || but.role != MemberRole::Voter || !is_there(but) {
            return None;
        }
        let losses = voters().count() - (voters().count() / 2 + 1);
        let enough = copies().count().min(losses + 1);
        let there = copies().filter(|it| is_there(it)).count();
        let missing = copies().find(|it| !is_there(it));
        missing.filter(|_| there < enough)
    }
}
