//! Hub, operators and a group whose members change. Whoever works may end after each of its writes;
//! what is written is all that the next one sees.

use std::sync::Arc;

use synod_api::{
    ConfiguredMember, Findings, JoiningMember, MemberRole, ReplicaGroup, ReplicaGroupStatus,
    UndecidedRequest, is_witness,
};

use super::super::super::authority::Issued;
use super::super::super::genesis::GenesisFile;
use super::super::super::plan as work;
use super::super::super::plan::tests::{formed, member};
use super::super::super::roster::Formed;
use super::super::super::validate::tests::{judge, open, spec};
use super::*;

const UID: &str = "uid-1";
pub(super) const FIRST: &str =
    "placement: [{cluster: us, voters: 1}, {cluster: eu, voters: 1}, {cluster: ap, voters: 1}]";

/// A disk, and whether a process runs upon it.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) life: String,
    /// It has been in the group.
    used: bool,
    pub(super) runs: bool,
}

pub(super) struct World {
    pub(super) yaml: String,
    pub(super) views: Vec<View>,
    pub(super) disks: BTreeMap<String, Disk>,
    pub(super) group: Membership,
    /// The latest epoch in which something was chosen.
    settled: u64,
    /// Lives that have left, and in which epoch.
    left: BTreeMap<String, u64>,
    next_life: u32,
    next_id: u32,
    /// Claims stay when their pods go.
    pub(super) retains: bool,
    pub(super) protocol: u32,
    /// The leader does not know what becomes of a request.
    pub(super) undecided: bool,
    pub(super) told: Vec<String>,
}

// === impl World ===

impl World {
    /// Formed, and every operator has looked at it.
    pub(super) fn new() -> Self {
        let Formed::Genesis(text) = formed() else {
            panic!("a genesis");
        };
        let genesis = GenesisFile::parse(&text).expect("its own text");
        let members: Vec<_> = genesis
            .members
            .iter()
            .map(|it| ConfiguredMember {
                id: it.id,
                name: it.name.clone(),
                incarnation: it.incarnation.clone(),
                role: it.role,
                region: it.region.clone(),
                heard: true,
                caught_up: true,
            })
            .collect();
        let disk = |it: &ConfiguredMember| Disk {
            life: it.incarnation.clone(),
            used: true,
            runs: true,
        };
        let mut world = Self {
            yaml: FIRST.to_owned(),
            views: ["us", "eu", "ap", "sa"]
                .map(|it| open(it, &format!("{it}-1")))
                .to_vec(),
            disks: members
                .iter()
                .map(|it| (it.name.clone(), disk(it)))
                .collect(),
            group: Membership {
                epoch: 1,
                settled: true,
                leader: "notes-us-0".to_owned(),
                members,
                former: Vec::new(),
                join: "how to get in".to_owned(),
            },
            settled: 1,
            left: BTreeMap::new(),
            next_life: 100,
            next_id: 4,
            retains: false,
            protocol: 2,
            undecided: false,
            told: Vec::new(),
        };
        world.rounds(4, usize::MAX);
        world
    }

    pub(super) fn course(&self) -> (Roster, Course, work::Plan) {
        let valid = judge(&spec(&self.yaml), formed(), &self.views).expect("good");
        let plan = work::plan(&valid, &self.views, &Issued::default(), "synod.local");
        (valid.roster, valid.course, plan)
    }

    /// The hub looks, and ends after so many writes. Returns whether there was nothing to write.
    pub(super) fn hub(&mut self, mut writes: usize) -> bool {
        let (_, course, plan) = self.course();
        self.told
            .push(format!("{:?} {:?}", course.under_way, course.change));
        let asked = plan.groups.iter().filter(|(_, it)| it.change.is_some());
        assert!(asked.count() <= 1, "one leads");
        let mut idle = true;
        for (cluster, spec) in plan.groups {
            let mut views = self.views.iter_mut();
            let view = views.find(|it| it.cluster == cluster).expect("a cluster");
            if !view.is_open() || view.own(UID).is_some_and(|it| it.spec == spec) {
                continue;
            }
            idle = false;
            if writes == 0 {
                return false;
            }
            writes -= 1;
            let before = view.own(UID).cloned();
            let mut group = ReplicaGroup::new("notes", spec);
            let generation = before.as_ref().and_then(|it| it.metadata.generation);
            group.metadata.generation = Some(generation.unwrap_or(0) + 1);
            group.status = before.and_then(|it| it.status);
            view.group = Some(Arc::new(group));
        }
        for cluster in plan.surplus {
            if !view::find(&self.views, &cluster).is_some_and(View::is_open) {
                continue;
            }
            idle = false;
            if writes == 0 {
                return false;
            }
            writes -= 1;
            let mut views = self.views.iter_mut();
            views
                .find(|it| it.cluster == cluster)
                .expect("a cluster")
                .group = None;
            let prefix = format!("notes-{cluster}-");
            let names: Vec<_> = self.disks.keys().cloned().collect();
            for name in names.iter().filter(|it| it.starts_with(&prefix)) {
                self.take_away(name);
            }
        }
        idle
    }

    /// An operator looks at its part, and ends after so many deeds.
    fn operator(&mut self, at: usize, mut deeds: usize) {
        let view = &self.views[at];
        let Some(group) = view.own(UID).cloned().filter(|_| view.is_open()) else {
            return;
        };
        let prefix = format!("notes-{}-", view.cluster);
        let mut may = || {
            let left = deeds > 0;
            deeds = deeds.saturating_sub(1);
            left
        };
        let wanted: Vec<_> = group
            .spec
            .members
            .iter()
            .map(|it| it.name.clone())
            .collect();
        for name in &wanted {
            let runs = self.disks.get(name).is_some_and(|it| it.runs);
            if !runs && may() {
                self.start(name);
            }
        }
        let there: Vec<_> = self.disks.keys().cloned().collect();
        for name in there.iter().filter(|it| it.starts_with(&prefix)) {
            let runs = self.disks[name].runs;
            if runs && !wanted.contains(name) && may() {
                self.take_away(name);
            }
        }
        for it in group
            .spec
            .members
            .iter()
            .filter(|it| !it.discard.is_empty())
        {
            let meant = self
                .disks
                .get(&it.name)
                .is_some_and(|disk| disk.life == it.discard);
            if meant && may() {
                self.retains = false;
                self.take_away(&it.name);
            }
        }
        self.hear(&prefix, group.spec.join.is_some());
        let leads = self.group.leader.starts_with(&prefix);
        let change = group.spec.change.as_ref();
        if let Some(change) = change.filter(|it| leads && it.epoch == self.group.epoch)
            && self.group.settled
            && may()
        {
            self.change(change);
        }
        if may() {
            self.report(at, leads);
        }
    }

    fn start(&mut self, name: &str) {
        let life = self.next_life;
        let disk = self.disks.entry(name.to_owned()).or_insert_with(|| Disk {
            life: format!("{life:032x}"),
            used: false,
            runs: false,
        });
        disk.runs = true;
        self.next_life += 1;
    }

    /// Nobody's disk goes while the group may need it (rule M6).
    fn take_away(&mut self, name: &str) {
        let disk = self.disks.get_mut(name).expect("it is there");
        let life = disk.life.clone();
        disk.runs = false;
        if !self.retains {
            self.disks.remove(name);
        }
        let mut members = self.group.members.iter();
        let left = self.left.get(&life).copied().unwrap_or(0);
        let needed = members.any(|it| it.incarnation == life) || left > self.settled;
        assert!(!needed, "{name} is needed: {:#?}", self.told);
    }

    fn is_heard(&self, it: &ConfiguredMember) -> bool {
        let disk = self.disks.get(&it.name);
        disk.is_some_and(|disk| disk.runs && disk.used && disk.life == it.incarnation)
    }

    /// Members of one cluster that are in the group get in, and what the leader hears of them.
    fn hear(&mut self, prefix: &str, told: bool) {
        let mut members = self.group.members.clone();
        for it in members.iter_mut().filter(|it| it.name.starts_with(prefix)) {
            let disk = self.disks.get_mut(&it.name);
            if let Some(disk) = disk.filter(|disk| told && disk.life == it.incarnation) {
                disk.used = true;
            }
            it.caught_up = it.heard;
            it.heard = self.is_heard(it);
        }
        self.group.members = members;
    }

    fn is_whole(&self) -> bool {
        let voters = || {
            self.group
                .members
                .iter()
                .filter(|it| members::votes(it.role))
        };
        voters().filter(|it| self.is_heard(it)).count() * 2 > voters().count()
    }

    /// As the agreement does it.
    fn change(&mut self, change: &MembersChange) {
        assert!(self.is_whole(), "nothing can be chosen: {:#?}", self.told);
        // One new vote at a time, and no kind for another (rule M2).
        let replaced = |it: &&JoiningMember| {
            let old = self.group.members.iter().find(|old| old.name == it.name);
            old.is_some_and(|old| members::votes(old.role) && change.leave.contains(&old.id))
        };
        let votes = change.join.iter().filter(|it| members::votes(it.role));
        assert!(votes.filter(|it| !replaced(it)).count() <= 1);
        for it in &change.join {
            assert_eq!(it.role == MemberRole::Witness, is_witness(&it.name));
        }
        for id in &change.leave {
            let mut members = self.group.members.iter();
            let at = members.position(|it| it.id == *id).expect("it is in it");
            let gone = self.group.members.remove(at);
            self.left
                .insert(gone.incarnation.clone(), self.group.epoch + 1);
            self.group.former.push(gone.incarnation);
        }
        for it in &change.join {
            let mut members = self.group.members.iter();
            assert!(
                !members.any(|other| other.name == it.name),
                "{:#?}",
                self.told
            );
            let disk = self.disks.get(&it.name);
            let runs = disk.is_some_and(|disk| disk.runs && disk.life == it.incarnation);
            assert!(runs, "{} is not there", it.name);
            assert!(
                !self.group.former.contains(&it.incarnation),
                "{:#?}",
                self.told
            );
            for view in self.views.iter().filter(|it| it.is_open()) {
                let Some(group) = view.own(UID) else { continue };
                let mut peers = group.spec.peers.iter();
                assert!(
                    peers.any(|peer| peer.name == it.name),
                    "{} is not found",
                    it.name
                );
            }
            self.group.members.push(ConfiguredMember {
                id: self.next_id,
                name: it.name.clone(),
                incarnation: it.incarnation.clone(),
                role: it.role,
                region: it.region.clone(),
                heard: false,
                caught_up: false,
            });
            self.next_id += 1;
        }
        for it in &change.roles {
            let mut members = self.group.members.iter_mut();
            let member = members.find(|member| member.id == it.id).expect("in it");
            assert!(
                !members::votes(it.role) || member.caught_up,
                "{:#?}",
                self.told
            );
            member.role = it.role;
        }
        assert!(self.is_whole(), "the change broke it: {:#?}", self.told);
        self.group.epoch += 1;
        self.group.settled = false;
        let mut voters = self
            .group
            .members
            .iter()
            .filter(|it| members::votes(it.role));
        if !voters.any(|it| it.name == self.group.leader) {
            let mut voters = self
                .group
                .members
                .iter()
                .filter(|it| members::votes(it.role));
            let next = voters.find(|it| self.is_heard(it)).expect("one leads");
            self.group.leader = next.name.clone();
        }
    }

    pub(super) fn report(&mut self, at: usize, leads: bool) {
        let mut group = self.views[at].own(UID).expect("a group").clone();
        let members = group.spec.members.iter().map(|it| {
            let mut status = member(&it.name, 0);
            status.state = MemberState::Unreachable;
            let Some(disk) = self.disks.get(&it.name) else {
                status.incarnation.clear();
                return status;
            };
            status.incarnation.clone_from(&disk.life);
            if !disk.runs {
                // As it said last.
                status.epoch = u64::from(disk.used);
                return status;
            }
            status.state = MemberState::CaughtUp;
            status.protocol = [1, 2];
            let mut all = self.group.members.iter();
            if all.any(|it| it.incarnation == disk.life && disk.used) {
                status.ready = true;
                status.protocol_in_force = self.protocol;
                status.epoch = self.group.epoch;
                status.leader.clone_from(&self.group.leader);
            } else if disk.used {
                status.epoch = 1;
            }
            status
        });
        group.status = Some(ReplicaGroupStatus {
            observed_generation: group.metadata.generation,
            members: members.collect(),
            membership: leads.then(|| self.group.clone()),
            findings: Findings {
                undecided: (leads && self.undecided).then(|| UndecidedRequest {
                    slot: 42,
                    method: "POST".to_owned(),
                    path: "/notes".to_owned(),
                    waits_for: Vec::new(),
                }),
                ..Findings::default()
            },
            ..ReplicaGroupStatus::default()
        });
        self.views[at].group = Some(Arc::new(group));
    }

    /// So many rounds in which each looks once, and ends after a number of deeds that `seed` draws.
    pub(super) fn rounds(&mut self, count: usize, seed: usize) {
        for round in 0..count {
            let drawn = |who: usize| {
                let mixed = (seed ^ 0x9e37).wrapping_mul(round * 31 + who * 7 + 1);
                if seed == usize::MAX {
                    usize::MAX
                } else {
                    (mixed >> 3) % 4
                }
            };
            self.hub(drawn(0));
            for at in 0..self.views.len() {
                self.operator(at, drawn(at + 1));
                assert!(self.is_whole(), "{:#?}", self.told);
            }
            // A Noop, if nothing else.
            if drawn(9) != 1 {
                (self.group.settled, self.settled) = (true, self.group.epoch);
            }
        }
    }

    /// Until nothing is left to do, with an operator or hub that ends at every turn on the way.
    pub(super) fn settle(&mut self, seed: usize) {
        self.told.clear();
        self.rounds(60, seed);
        self.rounds(30, usize::MAX);
        assert!(
            self.hub(usize::MAX),
            "there is more to write: {:#?}",
            self.told
        );
        let (roster, course, _) = self.course();
        assert_eq!(course, Course::default(), "{:#?}", self.told);
        let running: Vec<_> = self.disks.iter().filter(|(_, it)| it.runs).collect();
        assert_eq!(running.len(), roster.members.len(), "{:#?}", self.told);
        assert_eq!(self.group.members.len(), roster.members.len());
        assert!(self.group.members.iter().all(|it| self.is_heard(it)));
    }

    pub(super) fn voters(&self) -> Vec<&str> {
        let voters = self
            .group
            .members
            .iter()
            .filter(|it| members::votes(it.role));
        let mut names: Vec<_> = voters.map(|it| it.name.as_str()).collect();
        names.sort_unstable();
        names
    }
}
