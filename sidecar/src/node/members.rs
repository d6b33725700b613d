//! Changes of the members as they are asked for: a few edits of the configuration in force make the
//! next one. Pure; whether a group may take the step is for the agreement to say.

use synod_paxos::{
    Configuration, Genesis, Incarnation, Member, MemberId, Paxos, ReconfigureRefused, Role, Slot,
};

/// One edit. All edits of a request are one change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A member with an empty disk comes in; it gets the next number.
    Add {
        /// Its stable name.
        name: String,
        /// The life of its log.
        incarnation: Incarnation,
        /// What it does.
        role: Role,
        /// Where it is.
        region: String,
    },
    /// Nobody's member any more.
    Remove(MemberId),
    /// Does something else from now on.
    Role(MemberId, Role),
}

/// Why a change was not even proposed: nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefused {
    /// An edit is of somebody who is no member.
    #[error("member {0} is not in the group: ask for the members and decide anew")]
    NoMember(MemberId),
    /// Nothing would be another than it is.
    #[error("the change changes nothing")]
    Nothing,
    /// The agreement does not take it.
    #[error(transparent)]
    Refused(#[from] ReconfigureRefused),
}

/// Who is in the group, as a member knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// What it began with.
    pub genesis: Genesis,
    /// The members that it asks and answers.
    pub configuration: Configuration,
    /// Those that are in the group no more.
    pub former: Vec<Member>,
    /// Nobody needs the members any more that the last change left behind (rule M6).
    pub settled: bool,
    /// Of each member, in the order of the configuration.
    pub progress: Vec<Progress>,
}

/// How far a member is, as another sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Its heartbeats come.
    pub heard: bool,
    /// It is within a window of the leader's log. Only the leader knows.
    pub caught_up: bool,
    /// Its copy has executed all up to here.
    pub applied: Slot,
}

// === impl Membership ===

impl Membership {
    /// As this member knows it now.
    pub(super) fn of(paxos: &Paxos) -> Self {
        let configuration = paxos.roster().clone();
        let status = paxos.status();
        let leads = status.leader == Some(paxos.member());
        let progress = |member: &Member| {
            if member.id == paxos.member() {
                return Progress {
                    heard: true,
                    caught_up: leads,
                    applied: paxos.applied(),
                };
            }
            let peer = status.peers.iter().find(|it| it.member == member.id);
            Progress {
                heard: peer.is_some_and(|it| it.heard),
                caught_up: paxos.has_caught_up(member.id),
                applied: peer.map(|it| it.applied).unwrap_or_default(),
            }
        };
        Self {
            progress: configuration.members.iter().map(progress).collect(),
            former: paxos.former_members(),
            settled: paxos.old_epoch_retired(),
            genesis: paxos.genesis().clone(),
            configuration,
        }
    }
}

/// The configuration that these edits make of the one in force; its first leader is still open.
/// Numbers are never used again: a new member gets one above all that ever were (rule M4).
pub(super) fn change(
    current: &Configuration,
    former: &[Member],
    changes: &[MemberChange],
) -> Result<Configuration, ChangeRefused> {
    let mut next = current.clone();
    next.epoch = current.epoch.next();
    next.first_leader = MemberId(0);
    let used = current.members.iter().chain(former).map(|it| it.id.0);
    let mut last = used.max().unwrap_or(0);
    for change in changes {
        match change {
            MemberChange::Add {
                name,
                incarnation,
                role,
                region,
            } => {
                last += 1;
                next.members.push(Member {
                    id: MemberId(last),
                    name: name.clone(),
                    incarnation: *incarnation,
                    role: *role,
                    region: region.clone(),
                });
            }
            MemberChange::Remove(id) => {
                let at = next.members.iter().position(|it| it.id == *id);
                next.members.remove(at.ok_or(ChangeRefused::NoMember(*id))?);
            }
            MemberChange::Role(id, role) => {
                let member = next.members.iter_mut().find(|it| it.id == *id);
                member.ok_or(ChangeRefused::NoMember(*id))?.role = *role;
            }
        }
    }
    if next.members == current.members {
        return Err(ChangeRefused::Nothing);
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use synod_paxos::{Epoch, Quorums};

    use super::*;

    fn member(id: u32) -> Member {
        Member {
            id: MemberId(id),
            name: format!("notes-{id}"),
            incarnation: Incarnation(id.into()),
            role: Role::Voter,
            region: String::new(),
        }
    }

    fn current() -> Configuration {
        Configuration {
            epoch: Epoch(4),
            members: vec![member(1), member(2), member(5)],
            quorums: Quorums::Majority,
            first_leader: MemberId(2),
        }
    }

    fn add(name: &str) -> MemberChange {
        MemberChange::Add {
            name: name.to_owned(),
            incarnation: Incarnation(77),
            role: Role::Observer,
            region: "east".to_owned(),
        }
    }

    #[test]
    fn a_lost_disk_is_one_change_and_a_number_that_nobody_ever_had() {
        let changes = [MemberChange::Remove(MemberId(5)), add("notes-5")];
        let next = change(&current(), &[member(3), member(8)], &changes).expect("fine");
        assert_eq!(
            (next.epoch, next.first_leader),
            (Epoch(5), MemberId(0)),
            "the leader says who leads first"
        );
        let ids: Vec<u32> = next.members.iter().map(|it| it.id.0).collect();
        assert_eq!(ids, [1, 2, 9]);
        assert_eq!(next.check(), Ok(()));
        let next = change(
            &current(),
            &[],
            &[MemberChange::Remove(MemberId(5)), add("x")],
        );
        assert_eq!(next.expect("fine").members[2].id, MemberId(6));
    }

    #[test]
    fn edits_of_nobody_and_edits_that_do_nothing_are_refused() {
        let refused = |changes: &[MemberChange]| change(&current(), &[member(3)], changes);
        let nobody = Err(ChangeRefused::NoMember(MemberId(3)));
        assert_eq!(refused(&[MemberChange::Remove(MemberId(3))]), nobody);
        let role = MemberChange::Role(MemberId(3), Role::Voter);
        assert_eq!(refused(&[role]), nobody);
        assert_eq!(refused(&[]), Err(ChangeRefused::Nothing));
        let same = MemberChange::Role(MemberId(2), Role::Voter);
        assert_eq!(refused(&[same]), Err(ChangeRefused::Nothing));
    }
}
