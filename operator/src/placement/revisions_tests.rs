//! What another revision is, and a hub that may end after each of its writes while one takes over.

use std::sync::Arc;

use synod_api::{
    ConfiguredMember, MemberRole, Membership, ReplicaGroup, ReplicaGroupStatus, UndecidedRequest,
};

use super::super::authority::Issued;
use super::super::plan as work;
use super::super::plan::tests::{formed, member};
use super::super::validate::Valid;
use super::super::validate::tests::{judge_with, open, spec};
use super::*;

const UID: &str = "uid-1";
const ROLLS: &str = "state: {snapshot: {type: HTTP, http: {save: {method: GET, path: /a}, restore: {method: PUT, path: /a}}}}";
const SAVED: &str = "update: {strategy: Switch}\nstate: {snapshot: {type: HTTP, http: {save: {method: GET, path: /a}, restore: {method: PUT, path: /a}}}}";

fn revision(template: &str) -> GroupRevision {
    GroupRevision {
        number: 0,
        template: serde_yaml::from_str(template).expect(template),
        app: GroupApp {
            container: "app".to_owned(),
            port: 8080,
            protocol: synod_api::AppProtocol::Http1,
            passthrough_ports: Vec::new(),
        },
    }
}

const TEMPLATE: &str = "
metadata: {labels: {a: b}, annotations: {c: d}}
spec:
  nodeSelector: {disk: ssd}
  initContainers: [{name: first, image: i, command: [sh]}]
  containers:
  - name: app
    image: app:1
    command: [app]
    args: [--one]
    workingDir: /srv
    env: [{name: A, value: b}]
    envFrom: [{secretRef: {name: s}}]
    volumeMounts: [{name: files, mountPath: /srv}]
    ports: [{name: http, containerPort: 8080}]
    resources: {requests: {cpu: 100m}}
    readinessProbe: {httpGet: {path: /, port: 8080}}
  - {name: beside, image: other:1}
  volumes: [{name: files, emptyDir: {}}]
";

#[test]
fn what_containers_run_and_with_what_is_the_app_and_how_they_are_kept_running_is_not() {
    let before = revision(TEMPLATE);
    for (from, to, another) in [
        ("app:1", "app:2", true),
        ("command: [app]", "command: [app2]", true),
        ("args: [--one]", "args: [--two]", true),
        ("args: [--one]", "tty: true", true),
        ("workingDir: /srv", "workingDir: /", true),
        ("value: b", "value: c", true),
        ("name: s}", "name: t}", true),
        ("mountPath: /srv", "mountPath: /data", true),
        ("emptyDir: {}", "configMap: {name: files}", true),
        ("other:1", "other:2", true),
        ("command: [sh]", "command: [bash]", true),
        ("name: beside", "name: besides", true),
        ("a: b", "a: c", false),
        ("c: d", "c: e", false),
        ("disk: ssd", "disk: hdd", false),
        ("cpu: 100m", "cpu: 200m", false),
        ("path: /, port", "path: /ready, port", false),
        (
            "workingDir: /srv",
            "workingDir: /srv\n    stdin: null",
            false,
        ),
        ("metadata:", "other:", false),
    ] {
        assert!(TEMPLATE.contains(from), "{from}");
        let after = revision(&TEMPLATE.replacen(from, to, 1));
        assert_eq!(!is_same(&before, &after), another, "{from} -> {to}");
    }
    let with = |change: &dyn Fn(&mut GroupApp)| {
        let mut after = before.clone();
        change(&mut after.app);
        !is_same(&before, &after)
    };
    assert!(with(&|it| it.container = "beside".to_owned()));
    assert!(with(&|it| it.port = 8081));
    assert!(with(&|it| it.protocol = synod_api::AppProtocol::H2c));
    assert!(!with(&|it| it.passthrough_ports = vec![9090]));
}

#[test]
fn nothing_and_an_empty_list_are_the_same_app() {
    let one =
        revision("{spec: {containers: [{name: app, image: i, args: [], env: null}], volumes: []}}");
    let other = revision("{spec: {containers: [{image: i, name: app}]}}");
    assert!(is_same(&one, &other));
}

#[test]
fn what_was_recorded_is_read_again_and_what_cannot_be_is_no_record() {
    let mut list = vec![revision(TEMPLATE), revision("{spec: {containers: []}}")];
    list[1].number = 12;
    let mut data = text(&list);
    assert_eq!(read(&data), Some(list));
    data.insert("3".to_owned(), data["12"].clone());
    assert_eq!(read(&data), None, "a number that is another's");
}

/// A hub, the operators of three clusters, and a group whose leader is in the first.
struct World {
    yaml: String,
    image: &'static str,
    record: Option<Vec<GroupRevision>>,
    views: Vec<View>,
    in_force: u64,
    newest: u64,
    unfinished: bool,
    /// Where both answer otherwise.
    disagreement: &'static str,
    /// Of which revision the pod of each member is, and its copy.
    pods: [Option<u64>; 3],
    copies: [Option<u64>; 3],
    /// Apps that start: up to this revision.
    start: u64,
    /// Pods are replaced one after another; otherwise nobody looks at them.
    rolls: bool,
    protocol: u32,
    undecided: bool,
    /// Copies run.
    runs: bool,
    /// Revisions that were agreed on, with what each was to the leader's operator, and whether it took one
    /// back.
    agreed: Vec<(GroupRevision, bool)>,
    /// Those that ran along and were taken back.
    taken_back: Vec<u64>,
    told: Vec<String>,
}

impl World {
    /// Formed long ago.
    fn new() -> Self {
        Self::with(SAVED)
    }

    fn with(yaml: &str) -> Self {
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

    fn valid(&self) -> Valid {
        let placed = "placement: [{cluster: us, voters: 1}, {cluster: eu, voters: 1}, {cluster: ap, voters: 1}]";
        let mut spec = spec(&format!("{placed}\n{}", self.yaml));
        let template = spec.template.as_mut().expect("there");
        template.0["spec"]["containers"][0]["image"] = self.image.into();
        judge_with(&spec, formed(), self.record.as_deref(), &self.views).expect("good")
    }

    /// The hub looks, and ends after so many writes. Returns whether there was nothing to write.
    fn hub(&mut self, mut writes: usize) -> bool {
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
    fn known(spec: &synod_api::ReplicaGroupSpec, number: u64) -> Option<GroupRevision> {
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
    fn operator(&mut self, at: usize, reports: bool) {
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
    fn pod(&mut self, at: usize, along: Option<&Along>) {
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
    fn ran(&mut self, revision: u64) {
        (self.in_force, self.newest) = (revision, revision);
        (self.pods, self.copies) = ([Some(revision); 3], [Some(revision); 3]);
    }

    fn silent(&self) -> Option<u64> {
        (self.unfinished && self.newest > self.in_force).then_some(self.newest)
    }

    /// What runs along takes over once half of the copies run it, by the leader's own rule.
    fn take_over(&mut self) {
        if let Some(silent) = self.silent() {
            let along = self.copies.iter().filter(|it| **it == Some(silent));
            if along.count() == 2 && self.disagreement.is_empty() {
                (self.in_force, self.unfinished) = (silent, false);
            }
        }
    }

    /// Everything is as the manifest asks: of this image, and nothing is left to do.
    fn expect_done(&mut self, image: &str) {
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
    fn reported(&mut self) {
        for at in 0..3 {
            self.operator(at, true);
        }
    }

    /// Everybody looks in turn; the hub ends after so many writes each time.
    fn rounds(&mut self, rounds: usize, writes: usize) {
        for _ in 0..rounds {
            self.hub(writes);
            for at in 0..3 {
                self.operator(at, true);
            }
        }
    }

    fn cut_off(&mut self, at: usize) {
        self.views[at].access = super::super::view::Access::Unreachable {
            since: k8s_openapi::jiff::Timestamp::UNIX_EPOCH,
            problem: "no answer".to_owned(),
        };
    }

    fn image_of(revision: &GroupRevision) -> &str {
        let image = revision.template.pointer("/spec/containers");
        let image = image.and_then(|it| it[0]["image"].as_str());
        image.expect("a text")
    }

    fn images(&self) -> Vec<&str> {
        self.agreed
            .iter()
            .map(|(it, _)| Self::image_of(it))
            .collect()
    }

    fn said(&self) -> &str {
        self.told.last().expect("something")
    }
}

#[test]
fn another_image_is_recorded_then_told_everywhere_then_agreed_on_once_then_what_pods_are_made_of() {
    let mut world = World::new();
    world.image = "j";
    world.rounds(6, usize::MAX);
    assert_eq!(world.images(), ["j"]);
    assert!(world.said().contains("RevisionBegun"), "{}", world.said());
    world.unfinished = false;
    world.rounds(6, usize::MAX);
    assert_eq!(world.images(), ["j"], "once");
    assert!(world.hub(0), "nothing is left to do");
    for view in &world.views {
        let spec = &view.own(UID).expect("there").spec;
        assert_eq!((spec.revision, spec.revise.as_ref()), (1, None));
        assert_eq!(World::image_of(&World::known(spec, 1).expect("known")), "j");
        assert_eq!(World::image_of(&World::known(spec, 0).expect("kept")), "i");
    }
    assert_eq!(world.said(), "None None");
}

/// Whoever works ends at each half-step, once or each time.
#[test]
fn whoever_ends_on_the_way_is_followed_by_one_that_goes_on() {
    for writes in 0..8 {
        for always in [false, true] {
            for lost_report in [false, true] {
                let mut world = World::new();
                world.image = "j";
                for round in 0..60 {
                    let ends = always || round == writes;
                    world.hub(if ends { writes % 2 } else { usize::MAX });
                    world.hub(if ends { 1 } else { usize::MAX });
                    for at in 0..3 {
                        world.operator(at, !(lost_report && round % 2 == 0));
                    }
                    if world.in_force == 1 && round > 40 {
                        world.unfinished = false;
                    }
                }
                let what = (writes, always, lost_report);
                assert_eq!(world.images(), ["j"], "{what:?}");
                world.rounds(4, usize::MAX);
                assert_eq!(world.said(), "None None", "{what:?}");
            }
        }
    }
}

#[test]
fn a_change_while_not_all_copies_run_the_last_one_takes_that_back() {
    let mut world = World::new();
    world.image = "j";
    world.rounds(6, usize::MAX);
    assert!(world.unfinished);
    world.image = "i";
    world.rounds(6, usize::MAX);
    assert_eq!(world.images(), ["j", "i"]);
    assert_eq!((world.agreed[1].0.number, world.agreed[1].1), (2, true));
    // After the end it is a revision like any other.
    world.unfinished = false;
    world.image = "k";
    world.rounds(6, usize::MAX);
    assert_eq!(world.images(), ["j", "i", "k"]);
    assert!(!world.agreed[2].1);
}

#[test]
fn putting_the_template_back_before_it_was_agreed_on_ends_it() {
    let mut world = World::new();
    world.image = "j";
    // It is recorded, and told.
    world.hub(1);
    world.hub(usize::MAX);
    world.image = "i";
    world.rounds(6, usize::MAX);
    assert_eq!(world.images(), [""; 0]);
    assert_eq!(world.said(), "None None");
    // What the number stands for stays so, though it comes to nothing by itself.
    world.image = "k";
    world.rounds(8, usize::MAX);
    assert_eq!(world.images(), ["j", "k"]);
    assert!(world.agreed[1].1, "it is taken back at once");
}

#[test]
fn labels_and_resources_change_no_revision() {
    let mut world = World::new();
    let before = world.record.clone();
    world.yaml = format!("{SAVED}\nsidecar: {{ports: {{http: 7481}}}}");
    world.rounds(6, usize::MAX);
    assert_eq!((world.record, world.agreed.len()), (before, 0));
}

#[test]
fn nothing_begins_without_a_saved_state_while_members_change_or_while_a_request_is_undecided() {
    let mut world = World::new();
    world.image = "j";
    world.yaml = String::new();
    world.rounds(6, usize::MAX);
    assert!(
        world.said().contains("RevisionNeedsSnapshot"),
        "{}",
        world.said()
    );
    let mut world = World::new();
    world.image = "j";
    world.undecided = true;
    world.rounds(6, usize::MAX);
    assert!(world.said().contains("RevisionPending"), "{}", world.said());
    assert!(world.agreed.is_empty());
    world.undecided = false;
    world.rounds(6, usize::MAX);
    assert_eq!(world.images(), ["j"]);
    let mut world = World::new();
    world.image = "j";
    let valid = |world: &World, members_change| {
        let valid = world.valid();
        let (template, app) = (
            valid.spec.template.clone().expect("there"),
            valid.app.clone(),
        );
        course(&Input {
            roster: &valid.roster,
            template: &template,
            app: &app,
            snapshot: SnapshotType::Http,
            strategy: UpdateStrategy::Switch,
            record: world.record.as_deref(),
            members_change,
            views: &world.views,
        })
    };
    assert!(valid(&world, false).record.is_some());
    let waits = valid(&world, true);
    assert_eq!((waits.record, waits.revise), (None, None));
    // It waits for as many votes and copies as it takes.
    let edit =
        |world: &mut World, at: usize, change: &dyn Fn(&mut synod_api::GroupMemberStatus)| {
            let group = Arc::make_mut(world.views[at].group.as_mut().expect("there"));
            change(&mut group.status.as_mut().expect("there").members[0]);
        };
    let spoils: [fn(&mut synod_api::GroupMemberStatus); 3] = [
        |it| it.ready = false,
        |it| it.updated = false,
        |it| it.state = MemberState::Unreachable,
    ];
    for change in spoils {
        let mut world = World::new();
        world.image = "j";
        edit(&mut world, 2, &change);
        assert_eq!(valid(&world, false).record, None);
    }
    for at in 1..3 {
        edit(&mut world, at, &|it| it.state = MemberState::CatchingUp);
    }
    assert_eq!(
        valid(&world, false).record,
        None,
        "most copies are not well"
    );
}

#[test]
fn a_cluster_that_does_not_answer_keeps_nothing_from_being_taken_back() {
    let mut world = World::new();
    world.image = "j";
    world.rounds(6, usize::MAX);
    world.cut_off(2);
    world.image = "i";
    world.rounds(6, usize::MAX);
    assert_eq!(world.images(), ["j", "i"]);
}

#[test]
fn members_stay_as_they_are_while_a_revision_is_under_way() {
    let mut world = World::new();
    world.image = "j";
    world.rounds(6, usize::MAX);
    assert!(world.unfinished);
    world.yaml = format!("{SAVED}\nacknowledgedRisks: [EvenVoters, RegionMajority]");
    let replaced = |world: &World, yaml: &str| {
        let mut spec = spec(&format!("{yaml}\n{}", world.yaml));
        let template = spec.template.as_mut().expect("there");
        template.0["spec"]["containers"][0]["image"] = world.image.into();
        judge_with(&spec, formed(), world.record.as_deref(), &world.views).expect("good")
    };
    let more =
        "placement: [{cluster: us, voters: 3}, {cluster: eu, voters: 1}, {cluster: ap, voters: 1}]";
    let valid = replaced(&world, more);
    assert_eq!(valid.course.change, None);
    let (reason, words) = valid.course.under_way.expect("told");
    assert_eq!(reason.name, "RevisionBegun", "{words}");
    assert_eq!(valid.roster.members.len(), 3);
    // It may still be taken back.
    world.image = "i";
    let valid = replaced(&world, more);
    assert!(valid.revisions.record.is_some(), "{:?}", valid.revisions);
}

#[test]
fn what_runs_is_recorded_of_a_group_that_has_revisions_behind_it() {
    let mut world = World::new();
    world.record = None;
    world.image = "j";
    world.rounds(8, usize::MAX);
    assert_eq!(world.images(), ["j"], "what was told is what ran");
    // An earlier service's logs, with which this one goes on.
    let mut world = World::new();
    world.record = None;
    world.ran(3);
    world.reported();
    world.rounds(6, usize::MAX);
    let numbers: Vec<_> = world.record.iter().flatten().map(|it| it.number).collect();
    assert_eq!(numbers, [3]);
    for view in &world.views {
        assert_eq!(view.own(UID).expect("there").spec.revision, 3);
    }
    assert!(world.agreed.is_empty());
}

#[test]
fn a_revision_that_nobody_recorded_is_followed_by_one_that_is() {
    let mut world = World::new();
    world.ran(4);
    world.reported();
    world.rounds(8, usize::MAX);
    assert_eq!(world.images(), ["i"]);
    assert_eq!(world.in_force, 5);
}

#[test]
fn an_app_that_never_ran_is_put_right_without_another_revision() {
    let mut world = World::new();
    world.record = None;
    world.runs = false;
    world.reported();
    world.rounds(6, usize::MAX);
    assert_eq!(world.record, None);
    world.image = "j";
    world.rounds(6, usize::MAX);
    assert_eq!((world.record.as_ref(), world.images().len()), (None, 0));
    for view in &world.views {
        let spec = &view.own(UID).expect("there").spec;
        assert_eq!(World::image_of(&World::known(spec, 0).expect("known")), "j");
    }
    world.runs = true;
    world.rounds(6, usize::MAX);
    let first = &world.record.as_ref().expect("recorded")[0];
    assert_eq!((first.number, World::image_of(first)), (0, "j"));
}

#[test]
fn a_new_version_runs_along_on_half_of_the_copies_before_it_takes_over() {
    let mut world = World::with(ROLLS);
    world.image = "j";
    world.rounds(30, usize::MAX);
    assert_eq!(world.images(), ["j"]);
    assert_eq!((world.in_force, world.silent()), (0, Some(1)));
    assert_eq!(
        world.copies,
        [Some(0), Some(1), Some(1)],
        "the leader's stays"
    );
    let said = world.said();
    assert!(said.contains("RevisionRunsAlong"), "{said}");
    assert!(said.contains("caught up: notes-eu-0, notes-ap-0"), "{said}");
    for view in &world.views {
        let spec = &view.own(UID).expect("there").spec;
        assert_eq!((spec.revision, spec.revise.as_ref()), (0, None));
        let along = spec.along.as_ref().expect("told");
        assert_eq!((along.revision, along.member.as_str()), (1, ""));
    }
    world.take_over();
    world.rounds(10, usize::MAX);
    assert_eq!(world.in_force, 1);
    world.expect_done("j");
    // And the next one.
    world.image = "k";
    world.rounds(30, usize::MAX);
    world.take_over();
    world.rounds(10, usize::MAX);
    world.expect_done("k");
    assert_eq!(world.images(), ["j", "k"]);
}

/// Whoever works ends at each half-step, once or each time.
#[test]
fn whoever_ends_while_a_version_runs_along_is_followed_by_one_that_goes_on() {
    for writes in 0..12 {
        for always in [false, true] {
            for lost_report in [false, true] {
                for back in [None, Some(writes * 2)] {
                    let mut world = World::with(ROLLS);
                    world.image = "j";
                    for round in 0..120 {
                        if back == Some(round) {
                            world.image = "i";
                        }
                        let ends = always || round == writes;
                        world.hub(if ends { writes % 2 } else { usize::MAX });
                        world.hub(if ends { 1 } else { usize::MAX });
                        for at in 0..3 {
                            world.operator(at, !(lost_report && round % 2 == 0));
                        }
                        if back.is_none() {
                            world.take_over();
                        }
                    }
                    let what = (writes, always, lost_report, back);
                    assert!(world.agreed.len() <= 1, "{what:?}: {:?}", world.images());
                    assert!(back.is_some() || world.in_force == 1, "{what:?}");
                    world.rounds(8, usize::MAX);
                    world.expect_done(if back.is_some() { "i" } else { "j" });
                }
            }
        }
    }
}

#[test]
fn at_each_step_it_is_taken_back_by_putting_the_template_back_and_its_number_is_spent() {
    let mut spent = 0;
    for looks in 0..60 {
        let mut world = World::with(ROLLS);
        world.image = "j";
        for look in 0..looks {
            match look % 4 {
                0 => {
                    world.hub(usize::MAX);
                }
                at => world.operator(at - 1, true),
            }
        }
        world.image = "i";
        world.rounds(20, usize::MAX);
        assert_eq!((world.in_force, world.silent()), (0, None), "{looks}");
        world.expect_done("i");
        spent += world.taken_back.len();
        let before = world.agreed.len();
        world.image = "k";
        world.rounds(40, usize::MAX);
        // What was recorded and not begun yet begins first, and is taken back.
        let (last, _) = world.agreed.last().expect("agreed");
        assert_eq!(
            (World::image_of(last), last.number),
            ("k", world.newest),
            "{looks}"
        );
        assert!(world.agreed.len() <= before + 2, "{looks}");
        world.take_over();
        world.rounds(10, usize::MAX);
        world.expect_done("k");
    }
    assert!(spent > 20, "hardly any had begun: {spent}");
}

#[test]
fn however_many_were_taken_back_what_runs_stays_recorded() {
    let mut world = World::with(ROLLS);
    for _ in 0..KEPT + 3 {
        world.image = "j";
        world.rounds(20, usize::MAX);
        world.image = "i";
        world.rounds(20, usize::MAX);
        world.expect_done("i");
    }
    assert_eq!(world.taken_back.len(), KEPT + 3);
    assert_eq!((world.in_force, world.newest), (0, KEPT as u64 + 3));
}

#[test]
fn one_that_answers_otherwise_stays_silent_until_the_template_is_another() {
    for (looks, to) in [(8, "i"), (30, "i"), (30, "k")] {
        let mut world = World::with(ROLLS);
        world.image = "j";
        world.rounds(looks, usize::MAX);
        world.disagreement = "slot 17, POST /which: revision 0 answered with status 200";
        let pods = |world: &World| world.pods.iter().filter(|it| **it == Some(1)).count();
        world.rounds(2, usize::MAX);
        let before = pods(&world);
        world.take_over();
        world.rounds(10, usize::MAX);
        assert_eq!((world.in_force, world.silent()), (0, Some(1)));
        assert_eq!(pods(&world), before, "no more pods of it");
        let said = world.said();
        assert!(said.contains("slot 17, POST /which"), "{said}");
        assert!(said.contains("put the template back"), "{said}");
        world.image = to;
        world.rounds(40, usize::MAX);
        world.take_over();
        world.rounds(10, usize::MAX);
        assert_eq!(world.taken_back, [1]);
        world.expect_done(to);
    }
}

#[test]
fn pods_that_do_not_start_hold_it_where_it_is_and_are_taken_back() {
    let mut world = World::with(ROLLS);
    world.start = 0;
    world.image = "j";
    world.rounds(40, usize::MAX);
    assert_eq!(world.pods.iter().filter(|it| **it == Some(1)).count(), 1);
    assert_eq!(world.copies.iter().filter(|it| **it == Some(0)).count(), 2);
    world.image = "i";
    world.rounds(20, usize::MAX);
    world.expect_done("i");
}

#[test]
fn nobody_runs_along_whose_copy_is_the_last_that_answers_or_has_not_what_it_begins_with() {
    let begun = || {
        let mut world = World::with(ROLLS);
        world.image = "j";
        while world.silent().is_none() {
            world.rounds(1, usize::MAX);
        }
        world.reported();
        world
    };
    let edit = |world: &mut World, at: usize, change: fn(&mut GroupMemberStatus)| {
        let group = Arc::make_mut(world.views[at].group.as_mut().expect("there"));
        change(&mut group.status.as_mut().expect("there").members[0]);
    };
    let next = |world: &World| {
        let course = world.valid().revisions;
        assert_eq!(course.silent, Some(1));
        course.next.map(|(_, name)| name)
    };
    let is = |name: &str| Some(name.to_owned());
    let none: fn(&mut GroupMemberStatus) = |it| it.may = None;
    let down: fn(&mut GroupMemberStatus) = |it| it.state = MemberState::CatchingUp;
    let unready: fn(&mut GroupMemberStatus) = |it| it.ready = false;
    let starts: fn(&mut GroupMemberStatus) = |it| {
        it.made_of = Some(1);
        it.running = None;
        it.state = MemberState::CatchingUp;
    };
    let along: fn(&mut GroupMemberStatus) = |it| {
        it.made_of = Some(1);
        it.running = Some(1);
    };
    for (changes, expected) in [
        (vec![], is("notes-ap-0")),
        (vec![(2, none)], is("notes-eu-0")),
        (vec![(2, unready)], is("notes-eu-0")),
        (vec![(2, none), (1, none)], is("notes-us-0")),
        (vec![(2, none), (1, none), (0, none)], None),
        (vec![(2, down), (1, down)], None),
        (vec![(2, down), (0, down)], None),
        (vec![(2, starts)], is("notes-ap-0")),
        (vec![(2, along)], is("notes-eu-0")),
        (vec![(2, along), (1, starts)], is("notes-eu-0")),
        (vec![(2, along), (0, down)], None),
        (vec![(2, along), (1, along)], None),
    ] {
        let mut world = begun();
        for (at, change) in &changes {
            edit(&mut world, *at, *change);
        }
        let at: Vec<_> = changes.iter().map(|it| it.0).collect();
        assert_eq!(next(&world), expected, "{at:?}");
    }
    // Whose pod is away stays next, however the others are.
    let mut world = begun();
    world.hub(usize::MAX);
    world.reported();
    edit(&mut world, 2, |it| {
        it.made_of = None;
        it.state = MemberState::Unreachable;
    });
    assert_eq!(next(&world), is("notes-ap-0"));
}

#[test]
fn one_that_runs_along_needs_members_and_an_operator_that_know_how() {
    let mut world = World::with(ROLLS);
    world.protocol = 2;
    world.reported();
    world.image = "j";
    world.rounds(6, usize::MAX);
    let said = world.said();
    assert!(
        said.contains("WaitingForProtocol") && said.contains("Switch"),
        "{said}"
    );
    assert!(world.agreed.is_empty());
    world.yaml = SAVED.to_owned();
    world.rounds(6, usize::MAX);
    assert_eq!((world.images(), world.in_force), (vec!["j"], 1));
    // What was switched to is taken back, whatever the next one would need.
    world.yaml = ROLLS.to_owned();
    world.image = "i";
    world.rounds(6, usize::MAX);
    assert_eq!((world.images(), world.in_force), (vec!["j", "i"], 2));

    let mut world = World::with(ROLLS);
    world.image = "j";
    let group = Arc::make_mut(world.views[0].group.as_mut().expect("there"));
    let status = group.status.as_mut().expect("there");
    status.revision.as_mut().expect("it leads").newest = None;
    world.hub(usize::MAX);
    let said = world.said();
    assert!(
        said.contains("RevisionPending") && said.contains("updated"),
        "{said}"
    );
    assert_eq!(world.record.as_ref().map(Vec::len), Some(1));
}

#[test]
fn members_stay_as_they_are_while_a_version_runs_along() {
    let mut world = World::with(ROLLS);
    world.image = "j";
    world.rounds(20, usize::MAX);
    assert!(world.silent().is_some());
    assert!(is_under_way(&world.views, UID));
    // One that is paused or refused goes no further, and what runs along stays.
    let valid = world.valid();
    let plan = work::upkeep(&valid.roster, &world.views, &Issued::default(), Some(true));
    for (_, spec) in plan.groups {
        let along = spec.along.expect("it runs along");
        assert_eq!((along.revision, along.member.as_str()), (1, ""));
    }
    let mut world = World::with(ROLLS);
    world.image = "j";
    while world.views[2]
        .own(UID)
        .is_none_or(|it| it.spec.along.as_ref().is_none_or(|it| it.member.is_empty()))
    {
        world.rounds(1, usize::MAX);
    }
    let valid = world.valid();
    let plan = work::upkeep(&valid.roster, &world.views, &Issued::default(), Some(true));
    for (_, spec) in plan.groups {
        assert_eq!(spec.along.expect("it runs along").member, "");
    }
}
