//! From a changed template to another revision of the app (rule V1): one step at a time, each of which can
//! be taken again. Comes in: what the manifest asks for, what each number stands for by the record, what
//! the clusters report. Goes out: what pods are made of, what is to be recorded, what the leader is asked
//! for. Pure.
//!
//! The order is the point. What a number stands for is recorded, once and for all, before anybody is told
//! of it; every cluster has it before the leader is asked; and the leader has it agreed on only if the
//! newest revision is the one that this was decided from. So whoever ends between two steps is followed
//! by one that sees the same, and once the next revision is in force no cluster needs the hub to make its
//! pods.
//!
//! One that runs along silently has pods before it is in force: see [`along`](super::along).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use synod_api::{
    Along, GroupApp, GroupMemberStatus, GroupRevision, MemberRole, MemberState, RawObject, Revise,
    RevisionState, SnapshotType, UpdateStrategy, is_witness,
};

use super::along::{along, is_caught_up};
use super::findings;
use super::members;
use super::membership;
use super::roster::{self, Formed, Roster};
use super::tally::Tally;
use super::validate::Stall;
use super::view::{self, View};
use crate::conditions::{self, Reason};
use crate::inject;

/// Revisions that are remembered. A member that was away for longer gets the state of a later one.
const KEPT: usize = 6;
/// Version of the members' protocol from which on there are revisions.
const PROTOCOL: u32 = 2;
/// And from which on there are such that run along silently.
const ROLLING_PROTOCOL: u32 = 3;
/// What containers do is in these; in all else is how they are kept running.
const CONTAINER: [&str; 9] = [
    "name",
    "image",
    "command",
    "args",
    "workingDir",
    "env",
    "envFrom",
    "volumeMounts",
    "volumeDevices",
];

/// The record of what numbers stand for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// By number; `None`: there is none, or it cannot be read.
    pub(crate) list: Option<Vec<GroupRevision>>,
    /// Its version as an object.
    pub(crate) version: Option<String>,
    /// What it has, under which names.
    pub(crate) keys: Vec<String>,
}

/// What is known when it is decided.
pub(crate) struct Input<'a> {
    pub(crate) roster: &'a Roster,
    /// The template and the app that the manifest asks for.
    pub(crate) template: &'a RawObject,
    pub(crate) app: &'a GroupApp,
    /// How the app's state is saved.
    pub(crate) snapshot: SnapshotType,
    /// How the next revision takes over.
    pub(crate) strategy: UpdateStrategy,
    /// What numbers stand for, by number; `None`: there is no record.
    pub(crate) record: Option<&'a [GroupRevision]>,
    /// The members are being changed, or are about to be.
    pub(crate) members_change: bool,
    pub(crate) views: &'a [View],
}

/// What is done about the app's revisions.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Course {
    /// What pods are made of; `None`: of what the manifest asks for, as the first revision.
    pub(crate) current: Option<GroupRevision>,
    /// What else they may be made of.
    pub(crate) others: Vec<GroupRevision>,
    /// What is to be recorded before anything else.
    pub(crate) record: Option<Vec<GroupRevision>>,
    /// What the leader is asked for, and the cluster that it is in.
    pub(crate) revise: Option<(String, Revise)>,
    /// What runs along silently.
    pub(crate) silent: Option<u64>,
    /// Whose pod is replaced by one of that now, and the cluster that it is in.
    pub(crate) next: Option<(String, String)>,
    /// What is under way: in one word, and in many.
    pub(crate) under_way: Option<(&'static Reason, String)>,
    /// Why what runs along does not take over, until somebody changes something.
    pub(crate) disagreement: Option<String>,
    /// Why the manifest's app cannot be the next one, until somebody changes something.
    pub(crate) stall: Option<Stall>,
}

/// Name of the record.
pub(crate) fn record_name(service: &str) -> String {
    format!("{service}-revisions")
}

/// As it is recorded: what each number stands for.
pub(crate) fn text(list: &[GroupRevision]) -> BTreeMap<String, String> {
    let text = |it| serde_json::to_string(it).expect("JSON is JSON");
    list.iter()
        .map(|it| (it.number.to_string(), text(it)))
        .collect()
}

/// What was recorded, by number; `None`: that cannot be read.
pub(crate) fn read(data: &BTreeMap<String, String>) -> Option<Vec<GroupRevision>> {
    let list = data.iter().map(|(number, text)| {
        let revision: GroupRevision = serde_json::from_str(text).ok()?;
        (revision.number.to_string() == *number).then_some(revision)
    });
    let mut list = list.collect::<Option<Vec<_>>>()?;
    list.sort_by_key(|it| it.number);
    Some(list)
}

/// The next step.
pub(crate) fn course(input: &Input<'_>) -> Course {
    let Input {
        roster,
        template,
        app,
        record,
        views,
        ..
    } = *input;
    let told = told(views, &roster.uid);
    let wanted = |number| GroupRevision {
        number,
        template: template.clone(),
        app: app.clone(),
    };
    if roster.formed == Formed::No {
        return Course::default();
    }
    // Who makes the pods of such a StatefulSet, and of what, is its owner's matter.
    if inject::asked(&template.0).is_some() {
        return Course::default();
    }
    let Some(told) = told else {
        // Its groups were lost: the record tells what was in force last.
        let last = record.and_then(|it| it.last()).cloned();
        return Course {
            current: last,
            others: record.unwrap_or_default().to_vec(),
            ..Course::default()
        };
    };
    let current = kept(&told.0, app);
    let state = state(views, &roster.uid).filter(|it| it.in_force >= current.number);
    let Some(record) = record.filter(|it| !it.is_empty()) else {
        return unrecorded(input, current, &told.1, state);
    };
    let Some(state) = state else {
        let differs = !is_same(&current, &wanted(current.number));
        let under_way = differs.then(|| {
            let words = "another revision of the app is to take over: no leader tells which one is in force";
            (&conditions::REVISION_PENDING, words.to_owned())
        });
        return Course {
            current: Some(current),
            others: record.to_vec(),
            under_way,
            ..Course::default()
        };
    };
    let (in_force, newest) = (state.in_force, state.newest());
    let recorded = |number| record.iter().find(|it| it.number == number);
    let known = recorded(in_force);
    let next = wanted(newest + 1);
    let is_wanted = |it: &&GroupRevision| is_same(it, &next);
    let silent = state.silent();
    if silent.is_none() && known.as_ref().is_some_and(is_wanted) {
        let under_way = state.unfinished.then(|| begun(in_force, roster, views));
        return Course {
            current: Some(wanted(in_force)),
            others: record.to_vec(),
            under_way,
            ..Course::default()
        };
    }
    // What runs goes on, also with what is no matter of revisions.
    let here = known.filter(|_| current.number != in_force);
    let current = match known.filter(is_wanted) {
        Some(_) => wanted(in_force),
        None => here.map_or(current, |it| kept(it, app)),
    };
    let mut course = Course {
        current: Some(current),
        others: record.to_vec(),
        ..Course::default()
    };
    if let Some(silent) = silent.filter(|it| recorded(*it).as_ref().is_some_and(is_wanted)) {
        return along(course, input, state, silent);
    }
    if let Err(why) = ready(input, state) {
        match why {
            Why::Stall(stall) => course.stall = Some(stall),
            Why::Wait(reason, words) => course.under_way = Some((reason, words)),
        }
        return course;
    }
    let change = if state.unfinished {
        format!("revision {newest} of the app is taken back")
    } else {
        "another revision of the app takes over".to_owned()
    };
    // Nothing takes the place of one that ran along silently.
    if silent.is_none() && record.iter().all(|it| it.number <= newest) {
        // Those that were taken back before they were in force execute nothing any more.
        let lasting = record.iter().filter(|it| it.number <= in_force);
        let mut list: Vec<_> = lasting.cloned().collect();
        list.push(next);
        course.record = Some(list.split_off(list.len().saturating_sub(KEPT)));
        return course;
    }
    let Some(report) = roster::report(views, &roster.uid) else {
        return course;
    };
    let revise = Revise {
        from: newest,
        epoch: report.epoch,
        takes_back: state.unfinished,
    };
    // Whoever was asked once goes on being asked: that it was is one more thing to take note of.
    let mut groups = views.iter().filter_map(|it| it.own(&roster.uid));
    let asked = silent.is_some() || groups.any(|it| it.spec.revise.as_ref() == Some(&revise));
    if let Some(cluster) = lacks(input, newest + 1).filter(|_| !asked) {
        let words = format!("{change}: the operator of cluster {cluster} is told of it");
        course.under_way = Some((&conditions::REVISION_PENDING, words));
        return course;
    }
    if let Some(cluster) = members::cluster_of(&roster.name, &state.leader) {
        course.revise = Some((cluster.to_owned(), revise));
    }
    let problem = match state.problem.as_str() {
        "" => String::new(),
        problem => format!("; {problem}"),
    };
    let words = format!("{change}: {} is asked for it{problem}", state.leader);
    course.under_way = Some((&conditions::REVISION_PENDING, words));
    course
}

/// A revision is being agreed on, or not all copies run the one that was: the members stay as they are.
pub(crate) fn is_under_way(views: &[View], uid: &str) -> bool {
    let open = views.iter().filter(|it| it.is_open());
    let mut groups = open.filter_map(|it| it.own(uid));
    groups.any(|it| it.spec.revise.is_some()) || state(views, uid).is_some_and(|it| it.unfinished)
}

/// Whether both are the same app, whatever else differs about its pods.
pub(crate) fn is_same(one: &GroupRevision, other: &GroupRevision) -> bool {
    essence(&one.template, &one.app) == essence(&other.template, &other.app)
}

/// The part of a template by which its app is told from another: what containers run, with which
/// environment and files, and how the app is spoken to. All containers count: what runs beside the app,
/// or before it, may be a part of it.
fn essence(template: &RawObject, app: &GroupApp) -> Value {
    let spec = |field: &str| template.0.get("spec").and_then(|it| it.get(field));
    let containers = |field: &str| {
        let list = spec(field).and_then(Value::as_array);
        let part = |container: &Value| {
            let fields = CONTAINER.iter();
            let said = fields.filter_map(|it| Some(((*it).to_owned(), full(container.get(*it)?)?)));
            Value::Object(said.collect::<Map<_, _>>())
        };
        list.map(|list| list.iter().map(part).collect::<Vec<_>>())
            .unwrap_or_default()
    };
    json!({
        "containers": containers("containers"),
        "initContainers": containers("initContainers"),
        "volumes": spec("volumes").and_then(full),
        "app": [json!(app.container), json!(app.port), json!(app.protocol)],
    })
}

/// Without what means the same as nothing.
fn full(value: &Value) -> Option<Value> {
    let is_empty = match value {
        Value::Null => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    (!is_empty).then(|| value.clone())
}

/// As it is, but for the ports by which it may be reached directly: those are no matter of revisions.
fn kept(revision: &GroupRevision, app: &GroupApp) -> GroupRevision {
    let mut revision = revision.clone();
    let ports = &app.passthrough_ports;
    revision.app.passthrough_ports.clone_from(ports);
    revision
}

/// What the clusters were told last: what pods are made of, and what else.
fn told(views: &[View], uid: &str) -> Option<(GroupRevision, Vec<GroupRevision>)> {
    let groups = views.iter().filter_map(|it| it.own(uid));
    let newest = groups.max_by_key(|it| it.spec.revision)?;
    let spec = &newest.spec;
    let current = GroupRevision {
        number: spec.revision,
        template: spec.template.clone(),
        app: spec.app.clone(),
    };
    Some((current, spec.revisions.clone()))
}

/// How far it is, as the leader that members follow says.
pub(crate) fn state<'a>(views: &'a [View], uid: &str) -> Option<&'a RevisionState> {
    let leader = &roster::report(views, uid)?.leader;
    let open = views.iter().filter(|it| it.is_open());
    let mut states = open.filter_map(|it| it.own(uid)?.status.as_ref()?.revision.as_ref());
    states.find(|it| it.leader == *leader)
}

/// There is no record: of a group that is older than revisions, that goes on with the logs of an earlier
/// service, or whose record is lost. What its clusters have is what it was.
fn unrecorded(
    input: &Input<'_>,
    current: GroupRevision,
    others: &[GroupRevision],
    state: Option<&RevisionState>,
) -> Course {
    let mut list = others.to_vec();
    list.push(current.clone());
    list.sort_by_key(|it| it.number);
    let mut course = Course {
        others: list.clone(),
        current: Some(current),
        ..Course::default()
    };
    // One that does not answer may know more.
    let clusters = members::clusters(&input.roster.members);
    let is_seen = |it: &&str| view::find(input.views, it).is_some_and(View::is_open);
    let Some(state) = state.filter(|_| clusters.iter().all(is_seen)) else {
        return course;
    };
    if state.in_force == 0 && current_is_new(input) {
        let (template, app) = (input.template.clone(), input.app.clone());
        course.current = Some(GroupRevision {
            number: 0,
            template,
            app,
        });
        course.others.clear();
        return course;
    }
    if let (Some(last), true) = (
        list.last(),
        list.iter().all(|it| it.number < state.in_force),
    ) {
        let number = state.in_force;
        list = vec![GroupRevision {
            number,
            ..last.clone()
        }];
    }
    course.record = Some(list);
    course
}

/// No copy was ever seen to run: the first revision is whatever the first that runs is made of, so that an
/// image that does not exist, or an app that listens nowhere, can be put right.
fn current_is_new(input: &Input<'_>) -> bool {
    let reported = view::reported(input.views, &input.roster.uid);
    let ran = |it: &&GroupMemberStatus| {
        it.running.is_some() || it.snapshot.is_some() || it.state == MemberState::CaughtUp
    };
    let mut copies = reported.into_values().filter(|it| !is_witness(&it.name));
    !copies.any(|it| ran(&it))
}

/// Why there is no other revision now.
enum Why {
    Stall(Stall),
    Wait(&'static Reason, String),
}

/// Whether the next revision can begin: there must be a state for it to begin with, and as many copies and
/// votes as it takes to replace the pods one by one. One that is taken back has none to lose.
fn ready(input: &Input<'_>, state: &RevisionState) -> Result<(), Why> {
    let Input { roster, views, .. } = *input;
    let wait = |reason, words: &str| {
        let words = format!("another revision of the app is to take over: {words}");
        Err(Why::Wait(reason, words))
    };
    if input.snapshot == SnapshotType::None {
        return Err(Why::Stall(Stall {
            reason: &conditions::REVISION_NEEDS_SNAPSHOT,
            message: "spec.template: this is another revision of the app, which begins with the state that \
                      the last one has come to, and the service has no way to save that: give it one \
                      (spec.state.snapshot.type), or put back what runs"
                .to_owned(),
        }));
    }
    let heard = view::current(views, &roster.uid);
    let in_force = heard.values().map(|it| it.protocol_in_force).max();
    let copies = roster.members.iter();
    let copies = copies.filter(|it| it.member.role != MemberRole::Witness);
    let rolls =
        input.strategy == UpdateStrategy::Rolling && !state.unfinished && copies.count() > 1;
    let needed = if rolls { ROLLING_PROTOCOL } else { PROTOCOL };
    if in_force.is_none_or(|it| it < needed) {
        let switch = if rolls {
            ", or with spec.update.strategy: Switch"
        } else {
            ""
        };
        let words = format!(
            "that comes with version {needed} of the members' protocol, which is used once all of them run \
             a sidecar that speaks it{switch}"
        );
        return wait(&conditions::WAITING_FOR_PROTOCOL, &words);
    }
    if rolls && state.newest.is_none() {
        let words = "its operator does not know of such that run along silently";
        let words = format!(
            "not before the operator of {}'s cluster is updated: {words}",
            state.leader
        );
        return wait(&conditions::REVISION_PENDING, &words);
    }
    let pending = &conditions::REVISION_PENDING;
    let report = roster::report(views, &roster.uid);
    if input.members_change || !report.is_some_and(|it| it.settled) {
        return wait(pending, "the members are being changed");
    }
    if findings::undecided(views, &roster.uid).is_some() {
        let words = "it is not decided yet what becomes of a request that fails on every copy";
        return wait(pending, words);
    }
    if state.unfinished {
        return Ok(());
    }
    let tally = Tally::new(roster, views);
    let late = tally.names(|it| !it.updated);
    if !late.is_empty() {
        let words = format!(
            "pods are still to be replaced for the last change: {}",
            late.join(", ")
        );
        return wait(pending, &words);
    }
    let (alive, all) = tally.votes();
    if alive < (all / 2 + 2).min(all) {
        let words = format!(
            "{alive} of {all} votes are there, too few to replace pods: missing {}",
            tally.gone().join(", ")
        );
        return wait(pending, &words);
    }
    let copies = tally.all.iter();
    let copies = copies.filter(|(it, _)| it.member.role != MemberRole::Witness);
    let well = copies
        .clone()
        .filter(|(_, it)| it.is_some_and(is_caught_up));
    if well.count() * 2 <= copies.count() {
        return wait(pending, "no majority of the copies is caught up");
    }
    Ok(())
}

/// A cluster that answers and whose operator does not know yet what this number stands for.
fn lacks(input: &Input<'_>, number: u64) -> Option<String> {
    let Input { roster, views, .. } = *input;
    let clusters = members::clusters(&roster.members).into_iter();
    let knows = |cluster: &str| {
        view::find(views, cluster)
            .filter(|it| it.is_open())
            .is_none_or(|view| {
                let own = view.own(&roster.uid);
                view.is_settled(&roster.uid)
                    && own.is_some_and(|it| it.spec.revisions.iter().any(|it| it.number == number))
            })
    };
    clusters.filter(|it| !knows(it)).map(str::to_owned).next()
}

/// Which copies are still to pass over.
fn begun(number: u64, roster: &Roster, views: &[View]) -> (&'static Reason, String) {
    let tally = Tally::new(roster, views);
    let over =
        |it: &GroupMemberStatus| it.running == Some(number) && it.state == MemberState::CaughtUp;
    let late = tally.names(|it| !over(it) && !is_witness(&it.name));
    let words = if late.is_empty() {
        format!("revision {number} of the app answers everywhere; that it stays is being agreed on")
    } else {
        format!(
            "revision {number} of the app takes over; not there yet: {}",
            late.join(", ")
        )
    };
    (&conditions::REVISION_BEGUN, words)
}

// === impl Course ===

impl Course {
    /// What a leader in this cluster is asked for.
    pub(crate) fn revise_in(&self, cluster: &str) -> Option<Revise> {
        let (_, revise) = self.revise.as_ref().filter(|(it, _)| it == cluster)?;
        Some(revise.clone())
    }

    /// What runs along silently, with the member in this cluster whose pod is next.
    pub(crate) fn along_in(&self, cluster: &str) -> Option<Along> {
        let next = self.next.as_ref().filter(|(it, _)| it == cluster);
        Some(Along {
            revision: self.silent?,
            member: next.map(|(_, name)| name.clone()).unwrap_or_default(),
        })
    }

    /// What pods may be made of besides the current one.
    pub(crate) fn others(&self) -> Vec<GroupRevision> {
        let number = self.current.as_ref().map(|it| it.number);
        let others = self.others.iter().filter(|it| Some(it.number) != number);
        others.cloned().collect()
    }
}

/// The members are not changed while a revision is under way.
pub(crate) fn holds(differs: bool) -> membership::Course {
    let words = "the members are to be others: not before all copies run the app's revision that is taking over";
    membership::Course {
        under_way: differs.then(|| (&conditions::REVISION_BEGUN, words.to_owned())),
        ..membership::Course::default()
    }
}

#[cfg(test)]
#[path = "revisions_world.rs"]
pub(super) mod world;

#[cfg(test)]
#[path = "revisions_tests.rs"]
mod tests;
