//! The members of a service as they are, beside what is expected of them: who is there, who leads,
//! what may still be lost. Pure.

use std::collections::{BTreeMap, BTreeSet};

use synod_api::{
    GroupMemberStatus, LeaderStatus, MemberRole, MemberState, MemberStatus, ProtocolStatus,
    ReplicatedServiceStatus, SnapshotStatus, Standing, Summary, Tolerates, is_witness,
};

use super::findings;
use super::genesis::GenesisFile;
use super::members::{self, Member};
use super::plan;
use super::roster::{Formed, Roster};
use super::view::{self, View};

/// The members as they are, with what is expected of them.
pub(crate) struct Tally<'a> {
    pub(crate) all: Vec<(&'a Member, Option<&'a GroupMemberStatus>)>,
    pub(crate) leader: Option<String>,
    quarantined: Vec<&'a str>,
}

// === impl Tally ===

impl<'a> Tally<'a> {
    /// Who should be there, with what is heard of them now.
    pub(crate) fn new(roster: &'a Roster, views: &'a [View]) -> Self {
        let current = view::current(views, &roster.uid);
        let followed: Vec<&str> = current.values().map(|it| it.leader.as_str()).collect();
        let leader = plan::leader(&followed)
            .filter(|name| roster.members.iter().any(|it| it.member.name == *name));
        let all = roster
            .members
            .iter()
            .map(|it| (it, current.get(it.member.name.as_str()).copied()))
            .collect();
        Self {
            all,
            leader,
            quarantined: findings::quarantined(views, &roster.uid),
        }
    }

    /// The latest configuration that anybody acts in.
    pub(crate) fn epoch(&self) -> Option<u64> {
        let epochs = self.all.iter().filter_map(|(_, it)| it.map(|it| it.epoch));
        epochs.max().filter(|it| *it > 0)
    }

    /// Names of members that say of themselves what is asked.
    pub(crate) fn names(&self, test: impl Fn(&GroupMemberStatus) -> bool) -> Vec<&'a str> {
        self.all
            .iter()
            .filter(|(_, it)| it.is_some_and(&test))
            .map(|(it, _)| it.member.name.as_str())
            .collect()
    }

    /// Members of the group that do not answer in their cluster. One that is still to come into it has
    /// only been begun.
    pub(crate) fn silent(&self) -> Vec<&'a str> {
        let silent = |it: &GroupMemberStatus| it.state == MemberState::Unreachable;
        self.all
            .iter()
            .filter(|(it, status)| it.member.id != 0 && status.is_some_and(silent))
            .map(|(it, _)| it.member.name.as_str())
            .collect()
    }

    pub(crate) fn is_alive(status: Option<&GroupMemberStatus>) -> bool {
        status.is_some_and(|it| it.ready && it.epoch > 0 && it.state != MemberState::Unreachable)
    }

    /// Votes that are there, of all.
    pub(crate) fn votes(&self) -> (u32, u32) {
        let voters = || {
            self.all
                .iter()
                .filter(|(it, _)| members::votes(it.member.role))
        };
        let alive = voters().filter(|(_, it)| Self::is_alive(*it)).count();
        (alive as u32, voters().count() as u32)
    }

    /// Those that run the app.
    pub(crate) fn copies(
        &self,
    ) -> impl Iterator<Item = (&'a Member, Option<&'a GroupMemberStatus>)> {
        let all = self.all.iter().copied();
        all.filter(|(it, _)| !is_witness(&it.member.name))
    }

    /// Voters that nobody here hears of.
    pub(crate) fn hidden(&self) -> Vec<&'a str> {
        self.all
            .iter()
            .filter(|(it, status)| members::votes(it.member.role) && status.is_none())
            .map(|(it, _)| it.member.name.as_str())
            .collect()
    }

    /// Voters that are not there.
    pub(crate) fn gone(&self) -> Vec<&'a str> {
        self.all
            .iter()
            .filter(|(it, status)| members::votes(it.member.role) && !Self::is_alive(*status))
            .map(|(it, _)| it.member.name.as_str())
            .collect()
    }

    /// How many more may be lost, whichever they are, while a quorum and a copy are left.
    fn tolerates(&self) -> Tolerates {
        let (alive, all) = self.votes();
        let quorum = all / 2 + 1;
        let mut regions: BTreeMap<&str, u32> = BTreeMap::new();
        for (it, status) in &self.all {
            if members::votes(it.member.role) && Self::is_alive(*status) {
                *regions.entry(&it.region).or_default() += 1;
            }
        }
        let mut sizes: Vec<u32> = regions.into_values().collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        let mut left = alive;
        let mut lost = 0;
        for size in sizes {
            left = left.saturating_sub(size);
            if left < quorum {
                break;
            }
            lost += 1;
        }
        let copies = || self.copies().filter(|(_, it)| Self::is_alive(*it));
        let at: BTreeSet<&str> = copies().map(|(it, _)| it.region.as_str()).collect();
        let left = |copies: usize| copies.saturating_sub(1) as u32;
        Tolerates {
            members: alive.saturating_sub(quorum).min(left(copies().count())),
            regions: lost.min(left(at.len())),
        }
    }

    /// The newest snapshot that may be used; of two alike the one that was compared.
    fn snapshot(&self) -> Option<SnapshotStatus> {
        let all = self
            .all
            .iter()
            .filter_map(|(_, it)| it.as_ref()?.snapshot.as_ref());
        let usable = all.filter(|it| it.standing.is_usable());
        let newest = usable.max_by_key(|it| (it.slot, it.standing == Standing::Verified));
        newest.cloned()
    }

    /// A copy that was taken out may be anything besides; one that is not heard is only that.
    fn member(&self, it: &Member, status: Option<&GroupMemberStatus>) -> MemberStatus {
        let state = status.map_or(MemberState::Unreachable, |it| it.state);
        let out = self.quarantined.contains(&it.member.name.as_str());
        MemberStatus {
            name: it.member.name.clone(),
            cluster: it.cluster.clone(),
            region: it.region.clone(),
            role: status.and_then(|it| it.role).unwrap_or(it.member.role),
            state: if out && state != MemberState::Unreachable {
                MemberState::Quarantined
            } else {
                state
            },
            incarnation: status.map_or_else(String::new, |it| it.incarnation.clone()),
            revision: status.and_then(|it| it.running),
            snapshot: status.and_then(|it| it.snapshot.clone()),
        }
    }

    /// Fills in what follows from the members.
    pub(crate) fn fill(&self, status: &mut ReplicatedServiceStatus, roster: &Roster) {
        let voters =
            |it: &&(&Member, Option<&GroupMemberStatus>)| it.0.member.role == MemberRole::Voter;
        status.epoch = self.epoch().or(status.epoch);
        status.leader = self.leader.as_ref().and_then(|name| {
            let (it, _) = self.all.iter().find(|(it, _)| it.member.name == *name)?;
            Some(LeaderStatus {
                member: name.clone(),
                cluster: it.cluster.clone(),
                region: it.region.clone(),
            })
        });
        status.replicas = self.all.iter().filter(voters).count() as u32;
        status.ready_replicas = self
            .all
            .iter()
            .filter(voters)
            .filter(|(_, it)| Self::is_alive(*it))
            .count() as u32;
        status.selector = format!("synod.dev/service={}", roster.name);
        status.members = self
            .all
            .iter()
            .map(|(it, status)| self.member(it, *status))
            .collect();
        status.tolerates = self.epoch().map(|_| self.tolerates());
        status.protocol = protocol(roster, &self.all);
        status.snapshot = self.snapshot().or_else(|| status.snapshot.take());
        let ready = self
            .all
            .iter()
            .filter(|(_, it)| Self::is_alive(*it))
            .count();
        let regions: BTreeSet<&str> = self.all.iter().map(|(it, _)| it.region.as_str()).collect();
        status.summary = Some(Summary {
            members: format!("{ready}/{}", self.all.len()),
            tolerates: status.tolerates.map_or_else(String::new, |it| {
                if regions.len() > 1 && it.regions > 0 {
                    count(it.regions, "region")
                } else {
                    count(it.members, "member")
                }
            }),
        });
    }
}

fn count(number: u32, word: &str) -> String {
    match number {
        0 => "none".to_owned(),
        1 => format!("1 {word}"),
        _ => format!("{number} {word}s"),
    }
}

fn protocol(
    roster: &Roster,
    all: &[(&Member, Option<&GroupMemberStatus>)],
) -> Option<ProtocolStatus> {
    let Formed::Genesis(text) = &roster.formed else {
        return None;
    };
    let first = GenesisFile::parse(text).ok()?.protocol;
    let in_force = all
        .iter()
        .filter_map(|(_, it)| it.map(|it| it.protocol_in_force));
    let current = in_force.max().unwrap_or(0).max(first);
    let heard = all.iter().filter_map(|(_, it)| it.map(|it| it.protocol[1]));
    let supported = heard.filter(|it| *it > 0).min().unwrap_or(current);
    Some(ProtocolStatus { current, supported })
}
