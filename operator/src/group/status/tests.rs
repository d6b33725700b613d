//! What a group looks like from outside, for what was seen of it.

use synod_api::Condition;
use synod_proto::v1::{Bypass, StatusResponse};

use super::*;
use crate::group::members::AskError;
use crate::group::pods::PodView;

fn group() -> ReplicaGroup {
    let mut group: ReplicaGroup =
        serde_yaml::from_str(include_str!("../build/testdata/group.yaml")).expect("a group");
    group.spec.genesis = Some("{}".to_owned());
    group.metadata.generation = Some(4);
    group
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("in range")
}

fn well(name: &str) -> Observed {
    Observed {
        name: name.to_owned(),
        role: MemberRole::Voter,
        pod: Some(PodView {
            name: name.to_owned(),
            member: name.to_owned(),
            ready: true,
            ran: true,
            ..PodView::default()
        }),
        updated: true,
        newest: true,
        heard: Some(Ok(StatusResponse {
            incarnation: format!("{:032x}", 7),
            leader: "notes-us-east-0".to_owned(),
            role: "Voter".to_owned(),
            epoch: 1,
            ready: true,
            serving: true,
            policy_version: 3,
            protocol_min: 1,
            protocol_max: 1,
            ..StatusResponse::default()
        })),
        snapshot: None,
        endpoint: "10.1.0.7:7443".to_owned(),
    }
}

fn report() -> Report {
    Report {
        members: vec![well("notes-us-east-0"), well("notes-us-east-1")],
        step: Some(Step::Done),
        issuer_request: "request".to_owned(),
        ..Report::default()
    }
}

fn condition(
    report: &Report,
    group: &ReplicaGroup,
    kind: &str,
) -> Option<(String, String, String)> {
    let status = status(group, report, at(100));
    let found = status.conditions.into_iter().find(|it| it.kind == kind);
    found.map(
        |Condition {
             status,
             reason,
             message,
             ..
         }| (status, reason, message),
    )
}

fn ready(report: &Report) -> (String, String, String) {
    condition(report, &group(), "Ready").expect("always there")
}

#[test]
fn a_group_that_is_well_says_so_and_nothing_else() {
    let found = status(&group(), &report(), at(100));
    let list: Vec<_> = found
        .conditions
        .iter()
        .map(|it| format!("{}={}/{}", it.kind, it.status, it.reason))
        .collect();
    assert_eq!(
        list,
        [
            "CertificatesValid=True/AsDesired",
            "TrafficIntercepted=True/AsDesired",
            "Degraded=False/AsDesired",
            "Progressing=False/AsDesired",
            "Ready=True/AsDesired"
        ]
    );
    assert_eq!(found.observed_generation, Some(4));
    assert_eq!(found.updated, 2);
    assert_eq!(
        found.selector,
        "synod.dev/service=notes,synod.dev/cluster=us-east"
    );
    let member = &found.members[0];
    assert_eq!(member.state, MemberState::CaughtUp);
    assert_eq!(member.endpoint, "10.1.0.7:7443");
    assert!(member.ready && member.updated);
}

#[test]
fn what_kubelet_waits_for_comes_before_anything_that_follows_from_it() {
    let mut report = report();
    let pod = report.members[1].pod.as_mut().expect("there");
    pod.ready = false;
    pod.problem = "container \"notes\": ImagePullBackOff: no such image".to_owned();
    report.members[1].heard = None;
    let (status, reason, message) = ready(&report);
    assert_eq!(
        (status.as_str(), reason.as_str()),
        ("False", "PodNotStarting")
    );
    assert_eq!(
        message,
        "pod notes-us-east-1: container \"notes\": ImagePullBackOff: no such image"
    );
    let degraded = condition(&report, &group(), "Degraded").expect("always there");
    assert_eq!(
        (degraded.0.as_str(), degraded.1.as_str()),
        ("True", "PodNotStarting")
    );
}

#[test]
fn what_kubelet_says_in_the_first_seconds_of_a_pod_is_no_news() {
    let mut report = report();
    let pod = report.members[1].pod.as_mut().expect("there");
    pod.problem = "not scheduled: unbound claims".to_owned();
    for (made, reason) in [(91, "AsDesired"), (90, "PodNotStarting")] {
        report.members[1].pod.as_mut().expect("there").made = Some(at(made));
        assert_eq!(ready(&report).1, reason);
    }
}

#[test]
fn a_member_with_another_log_than_it_was_formed_with_is_reported_as_lost() {
    let mut report = report();
    report.formed = BTreeMap::from([("notes-us-east-1".to_owned(), format!("{:032x}", 8))]);
    let (_, reason, message) = ready(&report);
    assert_eq!(reason, "MemberLost");
    assert!(message.starts_with("notes-us-east-1:"), "{message}");
}

#[test]
fn a_stall_stands_above_everything_and_ends_with_its_cause() {
    let stalled = Report {
        stall: Some(Stall::new(&conditions::NAME_CONFLICT, "Service notes")),
        ..report()
    };
    let (status_, reason, message) = ready(&stalled);
    assert_eq!(
        (status_.as_str(), reason.as_str(), message.as_str()),
        ("False", "NameConflict", "Service notes")
    );
    assert!(condition(&stalled, &group(), "Stalled").is_some());
    assert!(condition(&stalled, &group(), "Reconciling").is_none());
    let mut after = group();
    after.status = Some(status(&group(), &stalled, at(1)));
    assert!(condition(&report(), &after, "Stalled").is_none());
}

#[test]
fn a_right_that_is_missing_is_told_and_what_is_known_stays() {
    let mut group = group();
    group.status = Some(status(&group, &report(), at(100)));
    group.metadata.generation = Some(5);
    let words = "cannot read what there is: services \"notes\" is forbidden";
    let found = unread(&group, words, at(200));
    for (kind, status) in [("Ready", "False"), ("Degraded", "True")] {
        let it = found.conditions.iter().find(|it| it.kind == kind);
        let it = it.expect("it is told");
        assert_eq!((&*it.status, &*it.reason), (status, "OperatorError"));
        assert_eq!(it.message, words);
    }
    let before = group.status.expect("given above");
    assert_eq!(found.members, before.members);
    assert_eq!(
        conditions::find(&found.conditions, &conditions::CERTIFICATES_VALID),
        conditions::find(&before.conditions, &conditions::CERTIFICATES_VALID),
    );
    assert_eq!(
        found.observed_generation,
        Some(4),
        "nobody looked at the last change"
    );
}

#[test]
fn an_app_that_does_not_listen_is_told_with_its_port_once_it_had_time() {
    let mut report = report();
    let say = |report: &mut Report, silent_ms| {
        let Some(Ok(said)) = &mut report.members[1].heard else {
            panic!("it answers");
        };
        (said.serving, said.app_silent_ms) = (false, silent_ms);
    };
    say(&mut report, 9_000);
    assert_eq!(ready(&report).1, "WaitingForMembers");
    say(&mut report, 10_000);
    let (_, reason, message) = ready(&report);
    assert_eq!(reason, "AppNotAnswering");
    let port = group().spec.app.port;
    assert!(
        message.contains("notes-us-east-1") && message.contains(&format!("port {port}")),
        "{message}"
    );
}

#[test]
fn on_the_way_it_says_how_far_it_is() {
    let reason = |report: &Report, group: &ReplicaGroup| {
        condition(report, group, "Ready").expect("always there").1
    };
    let mut early = Report {
        certificates: Some(Problem::Waiting),
        ..Report::default()
    };
    assert_eq!(reason(&early, &group()), "WaitingForCertificates");
    early.certificates = None;
    assert_eq!(reason(&early, &group()), "WaitingForMembers");
    let mut unformed = group();
    unformed.spec.genesis = None;
    assert_eq!(reason(&report(), &unformed), "Forming");
    let mut one = report();
    one.members[0].heard = None;
    assert_eq!(reason(&one, &unformed), "WaitingForMembers");
    let mut rolling = report();
    rolling.step = Some(Step::Wait("notes-us-east-1 is being replaced".to_owned()));
    assert_eq!(reason(&rolling, &group()), "RollingOut");
    let mut late = report();
    if let Some(Ok(said)) = &mut late.members[0].heard {
        said.serving = false;
    }
    assert_eq!(reason(&late, &group()), "WaitingForMembers");
}

#[test]
fn a_member_that_is_not_heard_keeps_its_name_life_and_place() {
    let mut before = group();
    before.status = Some(status(&group(), &report(), at(1)));
    let mut report = report();
    report.members[1].heard = Some(Err(AskError::Refused {
        member: "notes-us-east-1".to_owned(),
        problem: "x".to_owned(),
    }));
    report.members[1].endpoint = String::new();
    let found = status(&before, &report, at(2));
    let member = &found.members[1];
    assert_eq!(member.state, MemberState::Unreachable);
    assert_eq!(member.incarnation, format!("{:032x}", 7));
    assert_eq!(member.endpoint, "10.1.0.7:7443");
    assert!(!member.ready);
    let degraded = |before: &ReplicaGroup| condition(&report, before, "Degraded").expect("there");
    assert_eq!(degraded(&before).1, "AsDesired", "once is no news");
    before.status = Some(found);
    assert_eq!(degraded(&before).1, "MemberUnreachable");
}

#[test]
fn who_went_past_a_sidecar_is_told_for_a_while() {
    let traffic = |report: &Report, group: &ReplicaGroup| {
        let (status, reason, message) = condition(report, group, "TrafficIntercepted")?;
        Some(format!("{status} {reason} {message}"))
    };
    let seen = |age_ms| {
        let mut report = report();
        if let Some(Ok(said)) = &mut report.members[1].heard {
            said.bypass = Some(Bypass {
                address: "10.9.0.3".to_owned(),
                age_ms,
            });
        }
        report
    };
    let words = "False BypassSeen 10.9.0.3 was connected to notes-us-east-1";
    assert_eq!(traffic(&seen(599_999), &group()).as_deref(), Some(words));
    assert_eq!(ready(&seen(0)).0, "True", "the service works");
    let well = Some("True AsDesired ");
    assert_eq!(traffic(&seen(600_000), &group()).as_deref(), well);
    let mut silent = report();
    silent.members[1].heard = None;
    assert_eq!(traffic(&silent, &group()), None);
    let mut before = group();
    before.status = Some(status(&group(), &seen(0), at(1)));
    assert_eq!(traffic(&silent, &before).as_deref(), Some(words));
    assert_eq!(traffic(&report(), &before).as_deref(), well);
}

#[test]
fn a_pause_is_said_and_certificates_near_their_end_are_too() {
    let mut paused = group();
    paused.spec.paused = true;
    let (status, reason, _) = condition(&report(), &paused, "Progressing").expect("there");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "Paused"));
    let ending = Report {
        certificates: Some(Problem::Ending("soon".to_owned())),
        ..report()
    };
    let (status, reason, _) = condition(&ending, &paused, "CertificatesValid").expect("there");
    assert_eq!(
        (status.as_str(), reason.as_str()),
        ("False", "CertificateEnds")
    );
}

#[test]
fn a_volume_that_is_put_back_is_told_with_its_slot_and_what_is_waited_for() {
    let mut report = report();
    if let Some(Ok(said)) = &mut report.members[1].heard {
        (said.serving, said.rollback, said.app_silent_ms) = (false, Some(40), 60_000);
    }
    let (_, reason, message) = ready(&report);
    assert_eq!(reason, "RollingBack");
    assert_eq!(
        message,
        "notes-us-east-1: the app's volume is put back to the snapshot of slot 40"
    );
    report.step = Some(Step::Wait("notes-us-east-0 is being replaced".to_owned()));
    let (_, reason, message) = ready(&report);
    assert_eq!(reason, "RollingBack");
    assert!(message.ends_with("; waiting: notes-us-east-0 is being replaced"));
    let found = status(&group(), &report, at(1));
    assert_eq!(found.members[1].state, MemberState::Rebuilding);
}

#[test]
fn the_newest_snapshot_of_a_member_stays_known_while_nobody_hears_it() {
    let mut group = group();
    let mut report = report();
    report.members[1].snapshot = Some(KeptSnapshot {
        slot: 40,
        time_ns: 1_700_000_000_123_456_789,
        bytes: 9,
        standing: "Verified".to_owned(),
        ..KeptSnapshot::default()
    });
    if let Some(Ok(said)) = &mut report.members[1].heard {
        (said.log_bytes, said.protocol) = ((64 << 20) + (1 << 20), 2);
    }
    assert_eq!(status(&group, &report, at(1)).members[1].snapshot, None);
    group.spec.state.snapshot.kind = SnapshotType::Volume;
    let found = status(&group, &report, at(1));
    let expected = SnapshotStatus {
        slot: 40,
        time: "2023-11-14T22:13:20Z".to_owned(),
        bytes: 9,
        standing: Standing::Verified,
    };
    assert_eq!(found.members[1].snapshot.as_ref(), Some(&expected));
    assert_eq!(found.members[1].log_mebibytes, 128);
    assert_eq!(found.members[1].protocol_in_force, 2);
    group.status = Some(found);
    report.members[1].heard = None;
    report.members[1].snapshot = None;
    let found = status(&group, &report, at(2));
    assert_eq!(found.members[1].snapshot, Some(expected));
    assert_eq!(found.members[1].log_mebibytes, 128);
}

#[test]
fn what_came_of_a_snapshot_is_told_for_as_long_as_the_hub_asks() {
    let mut group = group();
    group.spec.snapshot = Some(synod_api::SnapshotRequest {
        word: "now".to_owned(),
        member: "notes-us-east-1".to_owned(),
    });
    let answer = SnapshotAnswer {
        word: "now".to_owned(),
        member: "notes-us-east-1".to_owned(),
        slot: Some(40),
        problem: String::new(),
    };
    let taken = Report {
        snapshot: Some(answer.clone()),
        ..report()
    };
    group.status = Some(status(&group, &taken, at(1)));
    assert_eq!(status(&group, &report(), at(2)).snapshot, Some(answer));
    group.spec.snapshot = None;
    assert_eq!(status(&group, &report(), at(3)).snapshot, None);
}

#[test]
fn a_copy_that_runs_along_silently_is_caught_up_though_it_answers_nobody() {
    let mut report = report();
    let Some(Ok(said)) = &mut report.members[1].heard else {
        panic!("it was heard");
    };
    said.serving = false;
    said.revision_unfinished = true;
    said.revision_newest = 1;
    said.revision_running = Some(1);
    said.revision_may = Some(1);
    report.members[1].pod.as_mut().expect("there").app_revision = 1;
    let found = status(&group(), &report, at(100));
    let own = &found.members[1];
    assert_eq!(own.state, MemberState::CaughtUp);
    assert_eq!(
        (own.running, own.made_of, own.may),
        (Some(1), Some(1), Some(1))
    );
    // Whoever goes is gone, as far as it matters what its pod is of.
    report.members[1].pod.as_mut().expect("there").leaving = true;
    let found = status(&group(), &report, at(100));
    assert_eq!(found.members[1].made_of, None);
}

#[test]
fn nobody_waits_for_the_app_of_a_witness_and_its_pod_is_of_no_revision() {
    let mut witness = well("notes-us-east-100");
    witness.role = MemberRole::Witness;
    if let Some(Ok(said)) = &mut witness.heard {
        said.role = "Witness".to_owned();
        said.serving = false;
        said.app_silent_ms = 60_000;
    }
    let mut report = report();
    report.members.push(witness);
    assert_eq!(ready(&report).0, "True", "{:?}", ready(&report));
    let told = status(&group(), &report, at(100)).members;
    assert_eq!((told[2].made_of, told[0].made_of), (None, Some(0)));
    assert_eq!(told[2].role, Some(MemberRole::Witness));
    assert_eq!(told[2].state, MemberState::CaughtUp);
}
