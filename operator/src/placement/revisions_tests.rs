//! What another revision is, and how one takes over.

use std::sync::Arc;

use super::super::plan::tests::formed;
use super::super::validate::tests::{judge_with, spec};
use super::world::{ROLLS, SAVED, UID, World};
use super::*;

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
