//! Whether a service can be worked on. Comes in: what was dereferenced. Goes out: the service with
//! everything resolved, or why not, as a condition. Pure.

use std::collections::BTreeMap;

use synod_api::{
    GroupApp, GroupRevision, Overrides, Placement, RawObject, ReplicatedServiceSpec, Risk,
};

use super::founding;
use super::members::{self, Member};
use super::membership::{self, Course};
use super::revisions;
use super::roster::{Formed, Roster};
use super::unsupported::unsupported;
use super::view::{self, Access, View};
use crate::conditions::{self, Reason};

/// What is needed to judge a service.
pub(crate) struct Input<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Its UID.
    pub(crate) uid: &'a str,
    /// Its spec, as the user wrote it.
    pub(crate) spec: &'a ReplicatedServiceSpec,
    /// The pod template: its own, or that of the workload it refers to.
    pub(crate) template: Option<RawObject>,
    /// Whether it was formed.
    pub(crate) formed: Formed,
    /// What the numbers of its app's revisions stand for; `None`: there is no record.
    pub(crate) revisions: Option<&'a [GroupRevision]>,
    /// Name of the operator's own cluster.
    pub(crate) local: &'a str,
    /// The clusters.
    pub(crate) views: &'a [View],
}

/// A service that can be worked on.
#[derive(Clone, Debug)]
pub(crate) struct Valid {
    /// Its members.
    pub(crate) roster: Roster,
    /// Its spec, with the template in it.
    pub(crate) spec: ReplicatedServiceSpec,
    /// The app, resolved.
    pub(crate) app: GroupApp,
    /// What differs in which cluster.
    pub(crate) overrides: BTreeMap<String, Overrides>,
    /// What is done about its members.
    pub(crate) course: Course,
    /// What is done about the revisions of its app.
    pub(crate) revisions: revisions::Course,
}

/// Why nothing is done, until somebody changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stall {
    /// In one word.
    pub(crate) reason: &'static Reason,
    /// In many.
    pub(crate) message: String,
}

/// Judges.
pub(crate) fn validate(input: Input<'_>) -> Result<Valid, Stall> {
    let Input {
        name,
        uid,
        spec,
        template,
        formed,
        revisions: record,
        local,
        views,
    } = input;
    let template = template.ok_or_else(|| {
        let from = spec.workload_ref.as_ref();
        let words = from.map_or_else(
            || "spec.template: it is missing".to_owned(),
            |it| {
                format!(
                    "spec.workloadRef: there is no {} {}: create it, or correct the name",
                    it.kind, it.name
                )
            },
        );
        stall(&conditions::WORKLOAD_NOT_FOUND, words)
    })?;
    let mut spec = spec.clone();
    spec.template = Some(template);
    let from = spec.workload_ref.take();
    let problems = synod_api::validate(name, &spec);
    if !problems.is_empty() {
        let mut lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        if let Some(from) = from {
            let words = format!("spec.workloadRef (template of {} {})", from.kind, from.name);
            for line in &mut lines {
                *line = line.replace("spec.template", &words);
            }
        }
        return Err(stall(&conditions::INVALID_SPEC, lines.join("; ")));
    }
    let placement = members::placement(&spec, local);
    let words = unsupported(&spec, &placement);
    if !words.is_empty() {
        return Err(stall(&conditions::UNSUPPORTED, words.join("; ")));
    }
    foreign(views, uid)?;
    twice(views)?;
    let regions = views
        .iter()
        .map(|it| (it.cluster.clone(), it.region.clone()))
        .collect();
    let held = revisions::is_under_way(views, uid);
    let mut wanted = members::desired(name, &placement, &regions);
    let (roster, course) = if formed == Formed::No {
        known(&placement, views)?;
        majority(&spec, &wanted)?;
        let wanted = founding::first(&spec, &placement, wanted)?;
        let roster = Roster {
            name: name.to_owned(),
            uid: uid.to_owned(),
            members: wanted,
            epoch: 0,
            formed,
        };
        (roster, Course::default())
    } else {
        let standing = Roster::standing(name, uid, &formed, views);
        let mut roster = standing.ok_or_else(|| {
            let words = format!(
                "the record {} cannot be read: put it back from a backup",
                super::genesis::record_name(name)
            );
            stall(&conditions::GENESIS_LOST, words)
        })?;
        for it in &mut wanted {
            let mut there = roster.members.iter();
            if let Some(there) = there.find(|there| there.member.name == it.member.name) {
                it.region.clone_from(&there.region);
            }
        }
        if !members::same(&roster.members, &wanted) {
            let held = members::clusters(&roster.members);
            let new = |it: &&Placement| !held.contains(&it.cluster.as_str());
            known(placement.iter().filter(new), views)?;
            majority(&spec, &wanted)?;
        }
        let course = if held {
            revisions::holds(!members::same(&roster.members, &wanted))
        } else {
            membership::course(&mut roster, &wanted, views)
        };
        (roster, course)
    };
    let app = GroupApp::of(&spec).expect("validation found the container");
    let revisions = revisions::course(&revisions::Input {
        roster: &roster,
        template: spec.template.as_ref().expect("it was put there"),
        app: &app,
        snapshot: spec.state.snapshot.kind,
        strategy: spec.update.strategy,
        record,
        members_change: !held && (course.change.is_some() || course.under_way.is_some()),
        views,
    });
    // Where members only wait for their leave, nothing else changes.
    let left = views.iter().filter(|view| {
        let mut placed = placement.iter();
        placed.all(|it| it.cluster != view.cluster)
    });
    let mut overrides: BTreeMap<_, _> = left
        .filter_map(|it| Some((it.cluster.clone(), it.own(uid)?.spec.overrides.clone())))
        .collect();
    let placed = placement.into_iter();
    overrides.extend(placed.filter_map(|it| Some((it.cluster, it.overrides?))));
    Ok(Valid {
        roster,
        spec,
        app,
        overrides,
        course,
        revisions,
    })
}

// === impl Valid ===

impl Valid {
    /// What pods are made of now.
    pub(crate) fn current(&self) -> GroupRevision {
        let first = || GroupRevision {
            number: 0,
            template: self.spec.template.clone().unwrap_or_default(),
            app: self.app.clone(),
        };
        self.revisions.current.clone().unwrap_or_else(first)
    }
}

fn stall(reason: &'static Reason, message: String) -> Stall {
    Stall { reason, message }
}

/// A group that is another's is never taken over.
fn foreign(views: &[View], uid: &str) -> Result<(), Stall> {
    for view in views {
        if let Some(group) = &view.group
            && group.spec.owner != uid
        {
            let words = format!(
                "cluster {}: the ReplicaGroup of this name belongs to another service (UID {}): \
                 another hub has one of this name and namespace, or an earlier one was not deleted there",
                view.cluster, group.spec.owner
            );
            return Err(stall(&conditions::OWNED_BY_ANOTHER, words));
        }
    }
    Ok(())
}

/// One cluster under two names: what is written for one would be overwritten for the other.
fn twice(views: &[View]) -> Result<(), Stall> {
    let group = |view: &View| view.group.as_ref().and_then(|it| it.metadata.uid.clone());
    for (at, view) in views.iter().enumerate() {
        let same = |other: &&View| group(other).is_some() && group(other) == group(view);
        if let Some(other) = views[..at].iter().find(same) {
            let words = format!(
                "the names {} and {} lead to one and the same cluster: correct the registration of \
                 one (`synod cluster list`, `synod cluster join`), or remove it",
                other.cluster, view.cluster
            );
            return Err(stall(&conditions::UNKNOWN_CLUSTER, words));
        }
    }
    Ok(())
}

fn known<'a>(
    placement: impl IntoIterator<Item = &'a Placement>,
    views: &[View],
) -> Result<(), Stall> {
    for it in placement {
        let words = match view::find(views, &it.cluster).map(|it| &it.access) {
            None | Some(Access::Unknown) => format!(
                "spec.placement: no cluster is registered as {}: run `synod cluster join --name {}`, or \
                 correct the name (`synod cluster list`)",
                it.cluster, it.cluster
            ),
            Some(Access::Refused(problem)) => format!("cluster {}: {problem}", it.cluster),
            Some(_) => continue,
        };
        return Err(stall(&conditions::UNKNOWN_CLUSTER, words));
    }
    Ok(())
}

/// No region of several may hold a majority of the votes, unless somebody knows it.
fn majority(spec: &ReplicatedServiceSpec, members: &[Member]) -> Result<(), Stall> {
    let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
    for it in members.iter().filter(|it| members::votes(it.member.role)) {
        *votes.entry(&it.region).or_default() += 1;
    }
    let all: usize = votes.values().sum();
    if votes.len() < 2 || spec.acknowledges(Risk::RegionMajority) {
        return Ok(());
    }
    match votes.into_iter().find(|(_, count)| count * 2 > all) {
        None => Ok(()),
        Some((region, count)) => Err(stall(
            &conditions::REGION_MAJORITY,
            format!(
                "spec.placement: region {} holds {count} of {all} votes, so its loss would stop \
                 the service: spread them over three regions, or add RegionMajority to \
                 spec.acknowledgedRisks",
                if region.is_empty() {
                    "(none given)"
                } else {
                    region
                }
            ),
        )),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::genesis::GenesisFile;
    use super::*;

    pub(in super::super) fn spec(yaml: &str) -> ReplicatedServiceSpec {
        let text = format!(
            "template: {{spec: {{containers: [{{name: app, image: i, ports: [{{name: web, containerPort: 8080}}, {{name: metrics, containerPort: 9090}}]}}]}}}}\n{yaml}"
        );
        serde_yaml::from_str(&text).expect(yaml)
    }

    pub(in super::super) fn open(cluster: &str, region: &str) -> View {
        View {
            cluster: cluster.to_owned(),
            region: region.to_owned(),
            access: Access::Open,
            group: None,
        }
    }

    pub(in super::super) fn judge(
        spec: &ReplicatedServiceSpec,
        formed: Formed,
        views: &[View],
    ) -> Result<Valid, Stall> {
        judge_with(spec, formed, None, views)
    }

    pub(in super::super) fn judge_with(
        spec: &ReplicatedServiceSpec,
        formed: Formed,
        revisions: Option<&[GroupRevision]>,
        views: &[View],
    ) -> Result<Valid, Stall> {
        validate(Input {
            name: "notes",
            uid: "uid-1",
            spec,
            template: spec.template.clone(),
            formed,
            revisions,
            local: "local",
            views,
        })
    }

    fn three() -> Vec<View> {
        vec![open("us", "us-1"), open("eu", "eu-1"), open("ap", "ap-1")]
    }

    const PLACED: &str =
        "placement: [{cluster: us, voters: 1}, {cluster: eu, voters: 1}, {cluster: ap, voters: 1}]";

    #[test]
    fn a_good_service_is_resolved() {
        let spec = spec(
            "replicas: 3\napp: {port: web, passthroughPorts: [{port: metrics, acknowledge: ReadOnly}]}",
        );
        let valid = judge(&spec, Formed::No, &[open("local", "")]).expect("good");
        assert_eq!(
            (valid.app.container.as_str(), valid.app.port),
            ("app", 8080)
        );
        assert_eq!(valid.app.passthrough_ports, [9090]);
        assert_eq!(valid.roster.members.len(), 3);
        assert_eq!(valid.course, Course::default());
    }

    #[test]
    fn each_thing_that_cannot_be_is_told_by_its_reason() {
        let mut refused = three();
        refused[1].access = Access::Refused("the Secret eu: exec".to_owned());
        let two_regions = vec![open("us", "r1"), open("eu", "r1"), open("ap", "r2")];
        for (yaml, views, reason, word) in [
            ("replicas: 4", three(), "InvalidSpec", "spec.replicas"),
            (
                PLACED,
                three()[..2].to_vec(),
                "UnknownCluster",
                "synod cluster join --name ap",
            ),
            (PLACED, refused, "UnknownCluster", "exec"),
            (PLACED, two_regions, "RegionMajority", "r1 holds 2 of 3"),
            (
                "placement: [{cluster: us, voters: 1, witnesses: 2}]",
                three(),
                "InvalidSpec",
                "1 voters and 2 witnesses",
            ),
            (
                "update: {strategy: Rolling}\nstate: {maxReplay: 1m}",
                three(),
                "Unsupported",
                "spec.state.maxReplay",
            ),
        ] {
            let stall = judge(&spec(yaml), Formed::No, &views).expect_err(yaml);
            assert_eq!(stall.reason.name, reason, "{}", stall.message);
            assert!(stall.message.contains(word), "{}", stall.message);
        }
        let known = spec(&format!("{PLACED}\nacknowledgedRisks: [RegionMajority]"));
        let views = vec![open("us", "r1"), open("eu", "r1"), open("ap", "r2")];
        judge(&known, Formed::No, &views).expect("acknowledged");
    }

    #[test]
    fn a_workload_that_is_not_there_is_named() {
        let mut spec = spec("");
        spec.template = None;
        spec.workload_ref =
            serde_yaml::from_str("{apiVersion: apps/v1, kind: Deployment, name: wiki}").ok();
        let stall = judge(&spec, Formed::No, &[open("local", "")]).expect_err("not there");
        assert_eq!(stall.reason.name, "WorkloadNotFound");
        assert!(stall.message.contains("Deployment wiki"));
    }

    #[test]
    fn problems_of_a_template_that_was_taken_over_name_the_workload() {
        let mut spec = spec("app: {container: other}");
        spec.workload_ref =
            serde_yaml::from_str("{apiVersion: apps/v1, kind: Deployment, name: wiki}").ok();
        let template = spec.template.take();
        let stall = validate(Input {
            name: "notes",
            uid: "u",
            spec: &spec,
            template,
            formed: Formed::No,
            revisions: None,
            local: "local",
            views: &[open("local", "")],
        })
        .expect_err("no such container");
        assert!(
            stall.message.contains("spec.app.container"),
            "{}",
            stall.message
        );
    }

    #[test]
    fn after_genesis_the_members_are_those_that_there_are_until_a_leader_tells_of_them() {
        let first = judge(&spec(PLACED), Formed::No, &three()).expect("good");
        let record = GenesisFile::of_members("notes", &first.roster.members).text();
        let changed = spec(
            "placement: [{cluster: us, voters: 1}, {cluster: eu, voters: 2}]\nacknowledgedRisks: [RegionMajority]",
        );
        // Also with a cluster that is not registered any more.
        let valid = judge(&changed, Formed::Genesis(record.clone()), &three()[..1]).expect("good");
        assert_eq!(valid.roster.members, first.roster.members);
        let (reason, words) = valid.course.under_way.expect("told");
        assert_eq!(reason.name, "WaitingForQuorum", "{words}");
        let same = judge(&spec(PLACED), Formed::Genesis(record.clone()), &three()).expect("good");
        assert_eq!(same.course, Course::default());
        let broken = judge(&spec(PLACED), Formed::Genesis("{".to_owned()), &three());
        assert_eq!(broken.expect_err("broken").reason.name, "GenesisLost");
        for (yaml, reason) in [
            (
                "placement: [{cluster: us, voters: 1}, {cluster: xx, voters: 2}]",
                "UnknownCluster",
            ),
            (
                "placement: [{cluster: us, voters: 2}, {cluster: eu, voters: 1}]",
                "RegionMajority",
            ),
        ] {
            let stall = judge(&spec(yaml), Formed::Genesis(record.clone()), &three());
            assert_eq!(stall.expect_err(yaml).reason.name, reason);
        }
    }
}
