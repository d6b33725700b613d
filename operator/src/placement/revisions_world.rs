//! A hub that may end after each of its writes, the operators of three clusters and a group, while a revision
//! of the app takes over, runs along or is taken back.

use std::sync::Arc;

use synod_api::{ConfiguredMember, Membership, ReplicaGroup, ReplicaGroupStatus, UndecidedRequest};

use super::super::authority::Issued;
use super::super::plan as work;
use super::super::plan::tests::{formed, member};
use super::super::validate::Valid;
use super::super::validate::tests::{judge_with, open, spec};
use super::*;

pub(crate) const UID: &str = "uid-1";
pub(crate) const ROLLS: &str = "state: {snapshot: {type: HTTP, http: {save: {method: GET, path: /a}, restore: {method: PUT, path: /a}}}}";
pub(crate) const SAVED: &str = "update: {strategy: Switch}\nstate: {snapshot: {type: HTTP, http: {save: {method: GET, path: /a}, restore: {method: PUT, path: /a}}}}";

/// A hub, the operators of three clusters, and a group whose leader is in the first.
pub(crate) struct World {
    pub(crate) yaml: String,
    pub(crate) image: &'static str,
    pub(crate) record: Option<Vec<GroupRevision>>,
    pub(crate) views: Vec<View>,
    pub(crate) in_force: u64,
    pub(crate) newest: u64,
    pub(crate) unfinished: bool,
    /// Where both answer otherwise.
    pub(crate) disagreement: &'static str,
    /// Of which revision the pod of each member is, and its copy.
    pub(crate) pods: [Option<u64>; 3],
    pub(crate) copies: [Option<u64>; 3],
    /// Apps that start: up to this revision.
    pub(crate) start: u64,
    /// Pods are replaced one after another; otherwise nobody looks at them.
    pub(crate) rolls: bool,
    pub(crate) protocol: u32,
    pub(crate) undecided: bool,
    /// Copies run.
    pub(crate) runs: bool,
    /// Revisions that were agreed on, with what each was to the leader's operator, and whether it took one
    /// back.
    pub(crate) agreed: Vec<(GroupRevision, bool)>,
    /// Those that ran along and were taken back.
    pub(crate) taken_back: Vec<u64>,
    pub(crate) told: Vec<String>,
}

// === impl World ===

impl World {
    /// Formed long ago.
    pub(crate) fn new() -> Self {
        Self::with(SAVED)
    }

    pub(crate) fn with(yaml: &str) -> Self {
        let mut world = Self {
            yaml: yaml.to_owned(),
            image: "i",
            record: None,
            views: ["us", "eu", "ap"]
                .map(|it| open(it, &format!("{it}-1")))
                .to_vec(),
            in_force: 0,
            newest: 0,
            unfinished: false,
            disagreement: "",
            pods: [Some(0); 3],
            copies: [Some(0); 3],
            start: u64::MAX,
            rolls: yaml == ROLLS,
            protocol: 3,
            undecided: false,
            runs: true,
            agreed: Vec::new(),
            taken_back: Vec::new(),
            told: Vec::new(),
        };
        world.rounds(6, usize::MAX);
        assert!(world.record.is_some(), "what runs is recorded");
        world
    }

    pub(crate) fn valid(&self) -> Valid {
        let placed = "placement: [{cluster: us, voters: 1}, {cluster: eu, voters: 1}, {cluster: ap, voters: 1}]";
        let mut spec = spec(&format!("{placed}\n{}", self.yaml));
        let template = spec.template.as_mut().expect("there");
        template.0["spec"]["containers"][0]["image"] = self.image.into();
        judge_with(&spec, formed(), self.record.as_deref(), &self.views).expect("good")
    }

    /// The hub looks, and ends after so many writes. Returns whether there was nothing to write.
    pub(crate) fn hub(&mut self, mut writes: usize) -> bool {
        let valid = self.valid();
        let course = &valid.revisions;
        self.told
            .push(format!("{:?} {:?}", course.under_way, course.stall));
        if let Some(words) = &course.disagreement {
            self.told.push(words.clone());
        }
        if let Some(list) = &course.record {
            if writes > 0 {
                // What a number stands for never changes.
                for it in self.record.iter().flatten() {
                    let now = list.iter().find(|now| now.number == it.number);
                    assert!(now.is_none_or(|now| now == it), "{} is another", it.number);
                }
                self.record = Some(list.clone());
            }
            return false;
        }
        let plan = work::plan(&valid, &self.views, &Issued::default(), "synod.local");
        let mut idle = true;
        for (cluster, spec) in plan.groups {
            let view = self.views.iter_mut().find(|it| it.cluster == cluster);
            let view = view.expect("a cluster");
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
        idle
    }

    /// What this cluster has for a number.
    pub(crate) fn known(spec: &synod_api::ReplicaGroupSpec, number: u64) -> Option<GroupRevision> {
        if spec.revision == number {
            return Some(GroupRevision {
                number,
                template: spec.template.clone(),
                app: spec.app.clone(),
            });
        }
        spec.revisions
            .iter()
            .find(|it| it.number == number)
            .cloned()
    }

    /// An operator looks: it asks the leader, if that is there, and reports; `reports`: it does not end
    /// between the two.
    pub(crate) fn operator(&mut self, at: usize, reports: bool) {
        let Some(mut group) = self.views[at].own(UID).cloned() else {
            return;
        };
        if at == 0
            && let Some(revise) = &group.spec.revise
            && revise.from == self.newest
            && revise.takes_back
            && let Some(silent) = self.silent()
        {
            self.unfinished = false;
            self.disagreement = "";
            self.taken_back.push(silent);
        } else if at == 0
            && let Some(revise) = &group.spec.revise
            && revise.from == self.newest
            && revise.takes_back == self.unfinished
        {
            let number = revise.from + 1;
            let here = Self::known(&group.spec, number).expect("the leader's cluster knows it");
            for view in self.views.iter().filter(|it| it.is_open()) {
                let there = view.own(UID).and_then(|it| Self::known(&it.spec, number));
                assert_eq!(there.as_ref(), Some(&here), "{} knows it", view.cluster);
            }
            let recorded = self.record.iter().flatten().find(|it| it.number == number);
            assert_eq!(recorded, Some(&here), "it is recorded");
            self.agreed.push((here, revise.takes_back));
            let rolls = group.spec.update.strategy == UpdateStrategy::Rolling;
            if revise.takes_back || !rolls {
                self.in_force = number;
            }
            (self.newest, self.unfinished) = (number, true);
        }
        self.pod(at, group.spec.along.as_ref());
        if !reports {
            return;
        }
        let members = group.spec.members.iter().map(|it| {
            let mut member = member(&it.name, it.id);
            member.leader = "notes-us-0".to_owned();
            member.ready = true;
            member.epoch = 1;
            member.protocol_in_force = self.protocol;
            member.revision = self.in_force;
            member.running = self.copies[at].filter(|_| self.runs);
            member.made_of = self.pods[at];
            member.may = self.silent();
            if !self.runs || self.copies[at].is_none() {
                member.state = MemberState::CatchingUp;
            }
            if self.pods[at].is_none() {
                member.state = MemberState::Unreachable;
                member.ready = false;
            }
            member
        });
        let mut status = ReplicaGroupStatus {
            observed_generation: group.metadata.generation,
            members: members.collect(),
            ..ReplicaGroupStatus::default()
        };
        if at == 0 {
            let configured =
                ["us", "eu", "ap"]
                    .iter()
                    .zip(1..)
                    .map(|(cluster, id)| ConfiguredMember {
                        id,
                        name: format!("notes-{cluster}-0"),
                        incarnation: format!("{id:032x}"),
                        role: MemberRole::Voter,
                        region: format!("{cluster}-1"),
                        heard: true,
                        caught_up: true,
                    });
            status.membership = Some(Membership {
                epoch: 1,
                settled: true,
                leader: "notes-us-0".to_owned(),
                members: configured.collect(),
                ..Membership::default()
            });
            status.revision = Some(RevisionState {
                leader: "notes-us-0".to_owned(),
                in_force: self.in_force,
                newest: Some(self.newest),
                unfinished: self.unfinished,
                disagreement: self.disagreement.to_owned(),
                problem: String::new(),
            });
            status.findings.undecided = self.undecided.then(|| UndecidedRequest {
                slot: 7,
                method: "POST".to_owned(),
                path: "/notes".to_owned(),
                waits_for: Vec::new(),
            });
        }
        group.status = Some(status);
        self.views[at].group = Some(Arc::new(group));
    }

    /// An operator sees to the pod of its member, by one of: it goes, another is there, its app has started.
    pub(crate) fn pod(&mut self, at: usize, along: Option<&Along>) {
        let own = format!("notes-{}-0", ["us", "eu", "ap"][at]);
        let silent = self.silent();
        let turn = along.filter(|it| it.member == own && silent == Some(it.revision));
        let (pod, next) = (self.pods[at], turn.map(|it| it.revision));
        if !self.rolls {
            (self.pods[at], self.copies[at]) = (Some(self.in_force), Some(self.in_force));
            return;
        }
        let stays = pod.is_some_and(|it| it == self.in_force || silent == Some(it));
        if pod.is_none() {
            (self.pods[at], self.copies[at]) = (Some(next.unwrap_or(self.in_force)), None);
        } else if next.is_some_and(|it| pod != Some(it)) {
            let others = (0..3).filter(|it| *it != at);
            let answering = others
                .clone()
                .filter(|it| self.copies[*it] == Some(self.in_force));
            let along = others.clone().filter(|it| self.pods[*it] == silent);
            assert!(answering.count() > 0, "nobody else answers");
            assert!(along.count() < 2, "half of the copies run along already");
            assert!(
                others.clone().all(|it| self.copies[it].is_some()),
                "another is away"
            );
            assert_ne!(at, 0, "it leads");
            (self.pods[at], self.copies[at]) = (None, None);
        } else if !stays && self.pods.iter().all(Option::is_some) {
            (self.pods[at], self.copies[at]) = (None, None);
        } else if pod.is_some_and(|it| it <= self.start) {
            self.copies[at] = pod;
        }
    }

    /// That revision has been in force for long.
    pub(crate) fn ran(&mut self, revision: u64) {
        (self.in_force, self.newest) = (revision, revision);
        (self.pods, self.copies) = ([Some(revision); 3], [Some(revision); 3]);
    }

    pub(crate) fn silent(&self) -> Option<u64> {
        (self.unfinished && self.newest > self.in_force).then_some(self.newest)
    }

    /// Until the next one runs along.
    pub(crate) fn begin(&mut self) {
        self.until(|world| world.silent().is_some());
    }

    /// Everybody looks in turn until it is so.
    pub(crate) fn until(&mut self, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..30 {
            if is_so(self) {
                return;
            }
            self.rounds(1, usize::MAX);
        }
        panic!("it never comes to that: {}", self.said());
    }

    /// What runs along takes over once half of the copies run it, by the leader's own rule.
    pub(crate) fn take_over(&mut self) {
        if let Some(silent) = self.silent() {
            let along = self.copies.iter().filter(|it| **it == Some(silent));
            if along.count() == 2 && self.disagreement.is_empty() {
                (self.in_force, self.unfinished) = (silent, false);
            }
        }
    }

    /// All run what is in force, and it has been another or none is under way any more.
    pub(crate) fn is_over(&self) -> bool {
        let all = [Some(self.in_force); 3];
        self.newest > 0 && !self.unfinished && self.pods == all && self.copies == all
    }

    /// Everything is as the manifest asks: of this image, and nothing is left to do.
    pub(crate) fn expect_done(&mut self, image: &str) {
        let in_force = self.in_force;
        assert_eq!(
            (self.pods, self.copies),
            ([Some(in_force); 3], [Some(in_force); 3])
        );
        assert!(self.hub(0), "{}", self.said());
        assert_eq!(self.said(), "None None");
        for view in &self.views {
            let spec = &view.own(UID).expect("there").spec;
            assert_eq!(
                (spec.revision, &spec.revise, &spec.along),
                (in_force, &None, &None)
            );
            let current = Self::known(spec, in_force).expect("known");
            assert_eq!(Self::image_of(&current), image);
        }
        let known = self
            .record
            .iter()
            .flatten()
            .find(|it| it.number == in_force);
        assert_eq!(Self::image_of(known.expect("recorded")), image);
    }

    /// All operators say how it is, before the hub looks again.
    pub(crate) fn reported(&mut self) {
        for at in 0..3 {
            self.operator(at, true);
        }
    }

    /// Everybody looks in turn; the hub ends after so many writes each time.
    pub(crate) fn rounds(&mut self, rounds: usize, writes: usize) {
        for _ in 0..rounds {
            self.hub(writes);
            for at in 0..3 {
                self.operator(at, true);
            }
        }
    }

    pub(crate) fn cut_off(&mut self, at: usize) {
        self.views[at].access = super::super::view::Access::Unreachable {
            since: k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
            problem: "no answer".to_owned(),
        };
    }

    pub(crate) fn image_of(revision: &GroupRevision) -> &str {
        let image = revision.template.pointer("/spec/containers");
        let image = image.and_then(|it| it[0]["image"].as_str());
        image.expect("a text")
    }

    pub(crate) fn images(&self) -> Vec<&str> {
        self.agreed
            .iter()
            .map(|(it, _)| Self::image_of(it))
            .collect()
    }

    pub(crate) fn said(&self) -> &str {
        self.told.last().expect("something")
    }
}
