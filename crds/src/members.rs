//! The next step from the members that a group has to those that it should have. Pure, and used by
//! whoever runs members: the operator and `synod local`. Comes in: who is wanted, by name; who is in
//! the group, as its leader says; and what each member's process says of itself now. Goes out: one
//! step, which members must run, and which may be taken away.
//!
//! Nothing is remembered between two steps: the same picture gives the same step, so whoever ends
//! between two of them is followed by one that goes on. What holds at every step, besides what the
//! leader checks itself (rules M1 to M4):
//!
//! - one change at a time, and none before the last has settled (M6);
//! - a member joins without a vote, and gets one, as the only one of its change, when it has caught up
//!   (M2); a witness comes with its vote, while a quorum is heard without it;
//! - where there are witnesses, no copy that has the log goes before enough of the others have it (W5);
//! - a change takes away one vote at most, and leaves voters of which a quorum is heard; the leader's
//!   is the last to go;
//! - whoever is to come is there before anybody goes;
//! - nobody goes for being silent: only who is not wanted, or whose disk is another one.
//!
//! A member's region is that which it joined with.

mod left;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::status::MemberRole;

/// A member that should be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its name: the same in each life of its log.
    pub name: String,
    /// What it should do.
    pub role: MemberRole,
    /// Where it is.
    pub region: String,
}

/// The group, as its leader says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Of these members.
    pub epoch: u64,
    /// An entry of this epoch is chosen.
    pub settled: bool,
    /// Name of its leader.
    pub leader: String,
    /// By id.
    pub members: Vec<Member>,
    /// Incarnations of members that are in it no more.
    pub former: Vec<String>,
}

/// One member of the group, as its leader says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number; another one in each life of its log.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// The life of its log.
    pub incarnation: String,
    /// What it does.
    pub role: MemberRole,
    /// The leader hears it.
    pub heard: bool,
    /// It is within one window of the leader's log.
    pub caught_up: bool,
}

/// What a member's process says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// The life of its log.
    pub incarnation: String,
    /// There is nothing in its log: it was in no group yet.
    pub empty: bool,
}

/// All that a step follows from.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// Who should be in the group.
    pub wanted: &'a [Wanted],
    /// Who is.
    pub group: &'a Group,
    /// Names under which there is anything, a process or a disk, with what the process says now;
    /// `None`: it says nothing.
    pub there: &'a BTreeMap<String, Option<Process>>,
    /// It is not decided what becomes of a request that copies fail at (rule K1): nobody is taken
    /// away meanwhile.
    pub held: bool,
    /// But for these lives of a log, which a person has thrown away: nobody can ask them any more.
    pub given_up: &'a BTreeSet<String>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The next step.
    pub step: Step,
    /// Members under whose name there is nothing, and which must be started.
    pub start: Vec<String>,
    /// Members that nobody wants or needs any more: process and disk may go.
    pub take_away: Vec<String>,
    /// Members whose disk is of an earlier life, which is never taken in again: they are to be started
    /// with an empty one.
    pub empty: Vec<String>,
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The group is as it should be.
    Nothing,
    /// The leader is to be asked for this.
    Change {
        /// The epoch that it was planned in.
        epoch: u64,
        /// All of them are one change.
        changes: Vec<Change>,
    },
    /// Not now.
    Wait {
        /// For what.
        until: Until,
        /// Of which member.
        member: String,
    },
}

/// A part of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// With an empty disk: a witness, or without a vote.
    Join {
        /// Its name.
        name: String,
        /// The life of its log.
        incarnation: String,
        /// What it does at first: a witness, or an observer.
        role: MemberRole,
        /// Where it is.
        region: String,
    },
    /// It is to be in the group no more.
    Leave {
        /// Its number.
        id: u32,
        /// Its name.
        name: String,
    },
    /// It is to do something else.
    Become {
        /// Its number.
        id: u32,
        /// Its name.
        name: String,
        /// What.
        role: MemberRole,
    },
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// An entry of the newest epoch is chosen.
    Settled,
    /// Its process says something.
    Started,
    /// Its disk, which is of an earlier life, is empty.
    Emptied,
    /// Somebody gives it a disk of its own: the one it has is of another group, or another member's.
    OwnDisk,
    /// The leader hears it.
    Heard,
    /// It is within one window of the leader's log.
    CaughtUp,
    /// A quorum is heard, now and without this member.
    Quorum,
    /// It is decided what becomes of the request that copies fail at.
    Poison,
}

/// The next step, and who must and who need not be there.
pub fn plan(situation: Situation<'_>) -> Plan {
    let Situation {
        wanted,
        group,
        there,
        ..
    } = situation;
    let needed: BTreeSet<&str> = wanted
        .iter()
        .map(|it| it.name.as_str())
        .chain(group.members.iter().map(|it| it.name.as_str()))
        .collect();
    let names = there.keys().filter(|_| group.settled);
    let missing = needed.iter().filter(|it| !there.contains_key(**it));
    Plan {
        start: missing.map(|it| (*it).to_owned()).collect(),
        take_away: names
            .filter(|it| !needed.contains(it.as_str()))
            .cloned()
            .collect(),
        empty: wanted
            .iter()
            .filter(|it| group.settled && situation.is_of_earlier_life(&it.name))
            .map(|it| it.name.clone())
            .collect(),
        step: situation.step(),
    }
}

// === impl Situation ===

impl Situation<'_> {
    fn step(&self) -> Step {
        let group = self.group;
        if !group.settled {
            return wait(Until::Settled, &group.leader);
        }
        let mut first_wait = None;
        for found in [self.replace(), self.join(), self.promote()] {
            match found {
                Some(Step::Wait { until, member }) => {
                    first_wait = first_wait.or(Some(Step::Wait { until, member }));
                }
                Some(step) => return self.guarded(step),
                None => {}
            }
        }
        // Whoever is to come is there before anybody goes, but for those that are not there themselves: a
        // witness may come, or have the log, only without them.
        let step = match &first_wait {
            Some(Step::Wait { until, member }) if self.may_wait_for_the_silent(*until, member) => {
                self.shrink(|it| !self.is_heard(it)).or(first_wait)
            }
            Some(_) => first_wait,
            None => self.shrink(|_| true),
        };
        step.map_or(Step::Nothing, |it| self.guarded(it))
    }

    fn may_wait_for_the_silent(&self, until: Until, member: &str) -> bool {
        let is_witness = |it: &Member| it.role == MemberRole::Witness;
        until == Until::Quorum
            || (until == Until::CaughtUp && self.member(member).is_some_and(is_witness))
    }

    /// Nothing is chosen without a quorum of the members as they are.
    fn guarded(&self, step: Step) -> Step {
        let whole = self.is_quorum_heard_without(None);
        match step {
            Step::Change { .. } if !whole => {
                let silent = self.group.members.iter();
                let mut silent = silent.filter(|it| votes(it.role) && !self.is_heard(it));
                let member = silent.next().map_or("", |it| it.name.as_str());
                wait(Until::Quorum, member)
            }
            step => step,
        }
    }

    /// A member that is wanted and has lost its disk: its old life out and the new one in.
    fn replace(&self) -> Option<Step> {
        let mut first_wait = None;
        for wanted in self.wanted {
            let Some(old) = self.member(&wanted.name) else {
                continue;
            };
            let Some(process) = self.process(&wanted.name) else {
                continue;
            };
            if process.incarnation == old.incarnation {
                continue;
            }
            // The rest is heard if a quorum is: what goes here is heard no more.
            let is_held = self.held && !self.given_up.contains(&old.incarnation);
            let held = is_held.then_some(Until::Poison);
            // In the place of one that has none, a witness' vote is one more.
            let is_new_vote = wanted.role == MemberRole::Witness && !votes(old.role);
            let few = is_new_vote && !self.is_quorum_heard_besides_a_new_vote();
            let few = few || !self.has_copy_without(old);
            let why_not = self.why_not_in(&wanted.name, process).or(held);
            let why_not = why_not.or(few.then_some(Until::Quorum));
            match why_not {
                None => {
                    return Some(self.change(vec![leave(old), join(wanted, process)]));
                }
                Some(until) => {
                    first_wait = first_wait.or_else(|| Some(wait(until, &wanted.name)));
                }
            }
        }
        first_wait
    }

    /// All that can join at once: they have no votes yet. But for witnesses, which have one from the
    /// beginning, and so come one by one, while a quorum is heard without them.
    fn join(&self) -> Option<Step> {
        let mut changes = Vec::new();
        let mut first_wait = None;
        let mut has_new_vote = false;
        let absent = self.wanted.iter();
        for wanted in absent.filter(|it| self.member(&it.name).is_none()) {
            let process = self.process(&wanted.name);
            let why_not = match process {
                None => Some(Until::Started),
                Some(process) => self.why_not_in(&wanted.name, process),
            };
            match (process, why_not) {
                (Some(process), None) if wanted.role == MemberRole::Witness => {
                    if !self.is_quorum_heard_besides_a_new_vote() {
                        first_wait = first_wait.or_else(|| Some(wait(Until::Quorum, &wanted.name)));
                    } else if !has_new_vote {
                        has_new_vote = true;
                        changes.push(join(wanted, process));
                    }
                }
                (Some(process), None) => changes.push(join(wanted, process)),
                (_, until) => {
                    let until = until.unwrap_or(Until::Started);
                    first_wait = first_wait.or_else(|| Some(wait(until, &wanted.name)));
                }
            }
        }
        if changes.is_empty() {
            first_wait
        } else {
            Some(self.change(changes))
        }
    }

    /// One that is to vote gets its vote; a witness has it, once it has the log.
    fn promote(&self) -> Option<Step> {
        let mut first_wait = None;
        for wanted in self.wanted.iter().filter(|it| votes(it.role)) {
            let Some(member) = self.member(&wanted.name) else {
                continue;
            };
            if is_other_kind(member.role, wanted.role) {
                continue;
            }
            if votes(member.role) {
                let comes = wanted.role == MemberRole::Witness
                    && self.is_heard(member)
                    && !member.caught_up;
                let waits = comes.then(|| wait(Until::CaughtUp, &wanted.name));
                first_wait = first_wait.or(waits);
                continue;
            }
            let until = match (self.is_heard(member), member.caught_up) {
                (true, true) => {
                    return Some(self.change(vec![become_(member, wanted.role)]));
                }
                (true, false) => Until::CaughtUp,
                (false, _) => Until::Heard,
            };
            first_wait = first_wait.or_else(|| Some(wait(until, &wanted.name)));
        }
        first_wait
    }

    /// Those that are not wanted, or not as voters: first the ones without a vote, all at once; then
    /// those that change their kind, the silent ones, then the highest numbers, and the leader last. Who runs
    /// the app and is to be a witness, or the other way round, goes, and comes back with an empty disk before
    /// others go.
    fn shrink(&self, may_go: impl Fn(&Member) -> bool) -> Option<Step> {
        let role = |it: &Member| {
            let mut wanted = self.wanted.iter();
            wanted
                .find(|wanted| wanted.name == it.name)
                .map(|it| it.role)
        };
        let goes = |it: &Member| role(it).is_none_or(|role| is_other_kind(it.role, role));
        let members = &self.group.members;
        let surplus: Vec<_> = members
            .iter()
            .filter(|it| !votes(it.role) && goes(it) && may_go(it))
            .collect();
        let mut voters: Vec<_> = members
            .iter()
            .filter(|it| votes(it.role) && role(it) != Some(it.role) && may_go(it))
            .collect();
        let first = surplus.first().or(voters.first())?;
        if self.held {
            return Some(wait(Until::Poison, &first.name));
        }
        if !surplus.is_empty() {
            return Some(self.change(surplus.into_iter().map(leave).collect()));
        }
        voters.sort_by_key(|it| {
            let leads = it.name == self.group.leader;
            (
                !role(it).is_some_and(|role| is_other_kind(it.role, role)),
                leads,
                self.is_heard(it),
                std::cmp::Reverse(ordinal(&it.name)),
            )
        });
        let mut spared = voters
            .iter()
            .filter(|it| self.is_quorum_heard_without(Some(it)) && self.has_copy_without(it));
        let next = spared.clone().find(|it| self.copy_missing(it).is_none());
        let Some(next) = next else {
            let missing = spared.find_map(|it| self.copy_missing(it));
            return Some(missing.map_or_else(
                || wait(Until::Quorum, &voters[0].name),
                |it| wait(Until::CaughtUp, &it.name),
            ));
        };
        let change = if goes(next) {
            leave(next)
        } else {
            become_(next, MemberRole::Observer)
        };
        Some(self.change(vec![change]))
    }

    /// Why a process cannot be taken into the group under this name, if it cannot.
    fn why_not_in(&self, name: &str, process: &Process) -> Option<Until> {
        let mut members = self.group.members.iter();
        if self.is_of_earlier_life(name) {
            Some(Until::Emptied)
        } else if !process.empty || members.any(|it| it.incarnation == process.incarnation) {
            Some(Until::OwnDisk)
        } else {
            None
        }
    }

    /// An incarnation is used once (rule M4).
    fn is_of_earlier_life(&self, name: &str) -> bool {
        let process = self.process(name);
        process.is_some_and(|it| self.group.former.contains(&it.incarnation))
    }

    fn is_heard(&self, member: &Member) -> bool {
        let process = self.process(&member.name);
        member.heard && process.is_none_or(|it| it.incarnation == member.incarnation)
    }

    fn member(&self, name: &str) -> Option<&Member> {
        self.group.members.iter().find(|it| it.name == name)
    }

    fn process(&self, name: &str) -> Option<&Process> {
        self.there.get(name)?.as_ref()
    }

    fn change(&self, changes: Vec<Change>) -> Step {
        Step::Change {
            epoch: self.group.epoch,
            changes,
        }
    }
}

/// One of the two runs the app, and the other is a witness: nobody changes between them.
fn is_other_kind(one: MemberRole, other: MemberRole) -> bool {
    (one == MemberRole::Witness) != (other == MemberRole::Witness)
}

fn votes(role: MemberRole) -> bool {
    role != MemberRole::Observer
}

fn ordinal(name: &str) -> u32 {
    let last = name.rsplit('-').next();
    last.and_then(|it| it.parse().ok()).unwrap_or(0)
}

fn wait(until: Until, member: &str) -> Step {
    Step::Wait {
        until,
        member: member.to_owned(),
    }
}

fn join(wanted: &Wanted, process: &Process) -> Change {
    Change::Join {
        name: wanted.name.clone(),
        incarnation: process.incarnation.clone(),
        role: match wanted.role {
            MemberRole::Witness => MemberRole::Witness,
            MemberRole::Voter | MemberRole::Observer => MemberRole::Observer,
        },
        region: wanted.region.clone(),
    }
}

fn leave(member: &Member) -> Change {
    Change::Leave {
        id: member.id,
        name: member.name.clone(),
    }
}

fn become_(member: &Member, role: MemberRole) -> Change {
    Change::Become {
        id: member.id,
        name: member.name.clone(),
        role,
    }
}

// === impl Step ===

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("the group is as it should be"),
            Self::Change { changes, .. } => {
                let words: Vec<_> = changes.iter().map(ToString::to_string).collect();
                f.write_str(&words.join("; "))
            }
            Self::Wait { until, member } => until.tell(member, f),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Join { name, role, .. } if *role == MemberRole::Witness => {
                write!(f, "{name} joins with an empty log, as a witness")
            }
            Self::Join { name, .. } => write!(f, "{name} joins with an empty log"),
            Self::Leave { name, id } => write!(f, "{name} leaves (number {id})"),
            Self::Become { name, role, .. } => match role {
                MemberRole::Voter => write!(f, "{name} becomes a voter"),
                MemberRole::Observer => write!(f, "{name} becomes an observer"),
                MemberRole::Witness => write!(f, "{name} becomes a witness"),
            },
        }
    }
}

// === impl Until ===

impl Until {
    fn tell(self, member: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settled => write!(
                f,
                "{member} leads and has chosen nothing yet among the new members"
            ),
            Self::Started => write!(f, "{member} has not started yet"),
            Self::Emptied => write!(
                f,
                "{member} has the log of an earlier life, which is never taken in again: it begins with an empty one"
            ),
            Self::OwnDisk => write!(
                f,
                "{member} has a log that is of another group or of another member: give it an empty volume"
            ),
            Self::Heard => write!(
                f,
                "{member} is in the group, and the leader does not hear it yet"
            ),
            Self::CaughtUp => write!(f, "{member} is catching up"),
            Self::Quorum => write!(f, "too few voters are heard to go on without {member}"),
            Self::Poison => write!(
                f,
                "{member} stays until it is decided what becomes of the request that copies fail at"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
