//! Who is a member, in which role, and which sets of voters are quorums.

use std::collections::BTreeSet;

use synod_mutant::{Mutant, planted};

use crate::quorum::Quorums;
use crate::types::{Ballot, Epoch, Incarnation, MemberId};

/// What a member does for the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Votes and runs the app.
    Voter,
    /// Runs the app, has no vote.
    Observer,
    /// Votes and keeps the log, runs no app.
    Witness,
}

/// One member of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number, used for this incarnation only.
    pub id: MemberId,
    /// Its stable name, such as `notes-us-east-0`.
    pub name: String,
    /// The life of the log that this number stands for.
    pub incarnation: Incarnation,
    /// What it does.
    pub role: Role,
    /// Where it is; empty where no region was given.
    pub region: String,
}

/// The membership of one epoch, part of the chosen history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// Its number.
    pub epoch: Epoch,
    /// Ordered by id, ids and names unique.
    pub members: Vec<Member>,
    /// Which sets of voters decide.
    pub quorums: Quorums,
    /// Who may propose in round 0 without phase 1: a voter, or [`MemberId`] 0 for nobody (rule M1).
    pub first_leader: MemberId,
}

impl Role {
    /// It counts in quorums.
    pub fn votes(self) -> bool {
        self != Self::Observer || planted(Mutant::ObserversVote)
    }
}

impl Configuration {
    /// The member with this number.
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id)
    }

    /// All that count in quorums, by number.
    pub fn voters(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.members
            .iter()
            .filter(|member| member.role.votes())
            .map(|member| member.id)
    }

    /// So many of the voters that run the app, or all of them if they are fewer, that one of these is left
    /// whatever votes are lost while the others can still decide anything. What so many of them have
    /// witnesses need not keep for them (rule W5).
    ///
    /// A majority of the copies is not enough. Of five votes, three copies and two witnesses, two may be
    /// lost: if these are the two copies that had it, the third copy and both witnesses go on without it.
    /// Observers do not count: no quorum says that one of them is left.
    pub fn enough_copies(&self) -> usize {
        let copies = self.members.iter().filter(|it| it.role == Role::Voter);
        let votes = self.voters().count();
        let smaller = self.quorums.phase1(votes).min(self.quorums.phase2(votes));
        copies.count().min(votes - smaller + 1)
    }

    /// The ballot in which everybody is who enters this epoch with its stop-sign (rule M1).
    pub fn first_ballot(&self) -> Ballot {
        Ballot {
            epoch: self.epoch,
            round: 0,
            node: self.first_leader,
        }
    }

    /// Says what is wrong with it, if anything.
    pub fn check(&self) -> Result<(), &'static str> {
        let ids = self.members.iter().map(|member| member.id);
        if ids.clone().any(|id| id == MemberId(0)) {
            return Err("member number 0 means nobody");
        }
        if !ids.is_sorted_by(|a, b| a < b) {
            return Err("members must be ordered by number, each number once");
        }
        // A list that came from elsewhere may be long.
        let (mut names, mut incarnations) = (BTreeSet::new(), BTreeSet::new());
        for member in &self.members {
            if !names.insert(&member.name) {
                return Err("two members have the same name");
            }
            if !incarnations.insert(member.incarnation) {
                return Err("two members have the same incarnation");
            }
        }
        if !self.members.iter().any(|member| member.role == Role::Voter) {
            return Err("there must be a voter that runs the app");
        }
        if !self.quorums.fit(self.voters().count()) {
            return Err("its quorums do not fit the number of its voters");
        }
        let first = self.first_leader;
        if first != MemberId(0) && !self.voters().any(|voter| voter == first) {
            return Err("its first leader must be one of its voters, or nobody");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w5_enough_copies_are_one_more_than_the_votes_that_may_be_lost_or_all_that_there_are() {
        let enough = |roles: &[Role]| {
            let members = roles.iter().zip(1..).map(|(role, number)| Member {
                id: MemberId(number),
                name: format!("notes-{number}"),
                incarnation: Incarnation(number.into()),
                role: *role,
                region: String::new(),
            });
            let configuration = Configuration {
                epoch: Epoch(1),
                members: members.collect(),
                quorums: Quorums::Majority,
                first_leader: MemberId(0),
            };
            configuration.enough_copies()
        };
        let (v, o, w) = (Role::Voter, Role::Observer, Role::Witness);
        assert_eq!(enough(&[v]), 1);
        assert_eq!(enough(&[v, v, w]), 2);
        assert_eq!(enough(&[v, v, v, w, w]), 3);
        assert_eq!(enough(&[v, v, v, v, w]), 3);
        assert_eq!(enough(&[v, w, w]), 1, "there is one");
        assert_eq!(enough(&[v, o, w, w]), 1, "an observer has no vote");
    }
}
