//! Tables of what is seen, and what is said of it.

use synod_api::{
    Condition, DivergedCopies, Findings, MemberState, Membership, SkippedRequest, UndecidedRequest,
};

use super::super::authority::Issued;
use super::super::events;
use super::super::plan::tests::{change, formed, taken_up, three, valid};
use super::*;
use crate::placement::roster::outside;

#[path = "status_witness_tests.rs"]
mod witnesses;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

/// All is well: three members in three regions, the one in `us` leads.
fn well() -> (Valid, Vec<View>) {
    let valid = valid(formed());
    let plan = plan::plan(&valid, &three(), &Issued::default(), "synod.local");
    let mut views = taken_up(&plan, three());
    for at in 0..3 {
        change(&mut views, at, |it| {
            let one = &mut it.status.as_mut().expect("a status").members[0];
            one.epoch = 1;
            one.ready = true;
            one.leader = "notes-us-0".to_owned();
        });
    }
    (valid, views)
}

fn report<'a>(valid: Option<&'a Valid>, views: &'a [View]) -> Report<'a> {
    Report {
        roster: valid.map(|it| &it.roster),
        valid,
        stall: None,
        waits: None,
        failures: Vec::new(),
        snapshot: None,
        degraded: None,
        views,
        uid: "uid-1",
        namespace: "default",
        generation: Some(7),
        paused: false,
    }
}

fn say(report: &Report<'_>) -> ReplicatedServiceStatus {
    status(report, &ReplicatedServiceStatus::default(), at(1000))
}

fn word(status: &ReplicatedServiceStatus, kind: &str) -> String {
    let found = status.conditions.iter().find(|it| it.kind == kind);
    found.map_or_else(String::new, |it| format!("{} {}", it.status, it.reason))
}

fn words(status: &ReplicatedServiceStatus) -> [String; 4] {
    ["Ready", "Available", "Progressing", "Degraded"].map(|it| word(status, it))
}

type Edit = fn(&mut synod_api::GroupMemberStatus);

fn edit(views: &mut [View], at: usize, edit: Edit) {
    change(views, at, |it| {
        edit(&mut it.status.as_mut().expect("a status").members[0]);
    });
}

#[test]
fn a_service_that_is_well_says_so() {
    let (valid, views) = well();
    let status = say(&report(Some(&valid), &views));
    assert_eq!(
        words(&status),
        [
            "True AsDesired",
            "True QuorumCommits",
            "False AsDesired",
            "False AsDesired"
        ]
    );
    assert_eq!(word(&status, "Stalled"), "");
    assert_eq!(word(&status, "LogUnbounded"), "True NoSnapshot");
    let leader = status.leader.expect("a leader");
    assert_eq!(
        (leader.member.as_str(), leader.region.as_str()),
        ("notes-us-0", "us-1")
    );
    assert_eq!((status.replicas, status.ready_replicas), (3, 3));
    assert_eq!(
        status.tolerates.map(|it| (it.members, it.regions)),
        Some((1, 1))
    );
    let summary = status.summary.expect("a summary");
    assert_eq!(
        (summary.members.as_str(), summary.tolerates.as_str()),
        ("3/3", "1 region")
    );
    assert_eq!(status.endpoint.as_deref(), Some("notes.default.svc:80"));
    assert_eq!(status.observed_generation, Some(7));
    assert!(
        status
            .conditions
            .iter()
            .all(|it| it.observed_generation == Some(7))
    );
}

/// The leader's cluster tells that it has found something.
fn found(views: &mut [View], edit: impl Fn(&mut Findings)) {
    change(views, 0, |it| {
        let status = it.status.as_mut().expect("a status");
        status.membership = Some(Membership::default());
        edit(&mut status.findings);
    });
}

fn differs(measure: &str) -> DivergedCopies {
    DivergedCopies {
        slot: 41,
        route: "notes".to_owned(),
        members: vec!["notes-eu-0".to_owned()],
        part: "body".to_owned(),
        measure: measure.to_owned(),
    }
}

fn open_request() -> UndecidedRequest {
    UndecidedRequest {
        slot: 42,
        method: "POST".to_owned(),
        path: "/notes".to_owned(),
        waits_for: vec!["notes-ap-0 has not answered".to_owned()],
    }
}

fn skip(slot: u64) -> SkippedRequest {
    SkippedRequest {
        slot,
        method: "PUT".to_owned(),
        path: "/notes/7".to_owned(),
        may_have_been_acknowledged: true,
        seen: None,
    }
}

#[test]
fn a_request_that_no_copy_gets_past_makes_the_service_unavailable_and_says_what_it_waits_for() {
    let (valid, mut views) = well();
    found(&mut views, |it| it.undecided = Some(open_request()));
    let told = say(&report(Some(&valid), &views));
    assert_eq!(
        words(&told),
        [
            "False PoisonUndecided",
            "False PoisonUndecided",
            "False AsDesired",
            "True PoisonUndecided"
        ]
    );
    let message = &conditions::find(&told.conditions, &AVAILABLE)
        .expect("there")
        .message;
    for word in ["slot 42", "POST /notes", "notes-ap-0 has not answered"] {
        assert!(message.contains(word), "{message}");
    }
    // What a cluster said that does not answer any more may have been decided since.
    views[0].access = Access::Unknown;
    let told = say(&report(Some(&valid), &views));
    assert_ne!(word(&told, "Available"), "False PoisonUndecided");
}

#[test]
fn a_skip_is_kept_and_told_once_and_makes_less_of_the_service_for_an_hour() {
    let (valid, mut views) = well();
    let before = say(&report(Some(&valid), &views));
    found(&mut views, |it| it.skipped = vec![skip(42)]);
    let told = status(&report(Some(&valid), &views), &before, at(1000));
    assert_eq!(
        words(&told),
        [
            "True AsDesired",
            "True QuorumCommits",
            "False AsDesired",
            "True RequestSkipped"
        ]
    );
    let notes: Vec<_> = events::transitions(&before.conditions, &told.conditions)
        .into_iter()
        .chain(events::deeds(&before, &told))
        .filter(|it| it.reason == "RequestSkipped")
        .collect();
    assert_eq!(notes.len(), 1, "{notes:?}");
    for word in ["slot 42", "PUT /notes/7", "may have been acknowledged"] {
        assert!(notes[0].text.contains(word), "{}", notes[0].text);
    }
    // The members forget, the service does not; and it is no news for ever.
    found(&mut views, |it| it.skipped.clear());
    let later = status(&report(Some(&valid), &views), &told, at(1000 + 3600));
    assert_eq!(word(&later, "Degraded"), "False AsDesired");
    assert_eq!(later.skipped, told.skipped);
    found(&mut views, |it| it.skipped = vec![skip(42)]);
    let again = status(&report(Some(&valid), &views), &later, at(9000));
    assert_eq!(again.skipped, told.skipped, "since when it was first seen");
    assert_eq!(events::deeds(&later, &again), []);
}

#[test]
fn of_many_skips_the_latest_are_kept_and_those_before_are_never_news_again() {
    let (valid, mut views) = well();
    found(&mut views, |it| it.skipped = (1..=16).map(skip).collect());
    let before = say(&report(Some(&valid), &views));
    found(&mut views, |it| it.skipped = (2..=17).map(skip).collect());
    let after = status(&report(Some(&valid), &views), &before, at(2000));
    let slots: Vec<_> = after.skipped.iter().map(|it| it.slot).collect();
    assert_eq!(slots, (2..=17).collect::<Vec<u64>>());
    assert_eq!(events::deeds(&before, &after).len(), 1);
    // A member that has not learnt the last one yet.
    found(&mut views, |it| it.skipped = (1..=16).map(skip).collect());
    let again = status(&report(Some(&valid), &views), &after, at(2001));
    assert_eq!(again.skipped, after.skipped);
}

#[test]
fn copies_that_differ_are_told_and_those_that_are_kept_from_clients_are_quarantined() {
    let (valid, mut views) = well();
    assert_eq!(word(&say(&report(Some(&valid), &views)), "Diverged"), "");
    found(&mut views, |_| {});
    let alike = say(&report(Some(&valid), &views));
    assert_eq!(word(&alike, "Diverged"), "False AsDesired");
    for (measure, diverged, degraded, state) in [
        (
            "Alert",
            "True CopyDiffers",
            "False AsDesired",
            MemberState::CaughtUp,
        ),
        (
            "Quarantine",
            "True CopyDiffers",
            "True MemberQuarantined",
            MemberState::Quarantined,
        ),
        (
            "Halt",
            "True CopyDiffers",
            "True MemberQuarantined",
            MemberState::Quarantined,
        ),
        (
            "Tie",
            "True CopiesDisagree",
            "False AsDesired",
            MemberState::CaughtUp,
        ),
    ] {
        found(&mut views, |it| it.diverged = vec![differs(measure)]);
        let told = say(&report(Some(&valid), &views));
        assert_eq!(word(&told, "Diverged"), diverged, "{measure}");
        assert_eq!(word(&told, "Degraded"), degraded, "{measure}");
        assert_eq!(told.members[1].state, state, "{measure}");
        let message = &conditions::find(&told.conditions, &DIVERGED)
            .expect("there")
            .message;
        for word in ["slot 41", "route notes", "notes-eu-0", "body"] {
            assert!(message.contains(word), "{message}");
        }
        let notes = events::transitions(&alike.conditions, &told.conditions);
        assert!(
            notes.iter().any(|it| it.text.contains("Diverged is True")),
            "{notes:?}"
        );
    }
    // Nobody leads now: it stays as it was told.
    let before = say(&report(Some(&valid), &views));
    change(&mut views, 0, |it| {
        let status = it.status.as_mut().expect("a status");
        status.membership = None;
        status.findings = Findings::default();
    });
    let after = status(&report(Some(&valid), &views), &before, at(2000));
    assert_eq!(word(&after, "Diverged"), "True CopiesDisagree");
}

/// What is so, how it comes, and what is said of it.
type Row = (&'static str, fn(&mut Vec<View>), [&'static str; 4]);

#[test]
fn what_is_not_well_is_told_by_its_reason() {
    let unreachable = |views: &mut [View]| {
        views[2].access = Access::Unreachable {
            since: at(500),
            problem: "no answer".to_owned(),
        };
    };
    let table: [Row; 9] = [
        (
            "one member is restarting",
            |views| edit(views, 2, |it| it.ready = false),
            [
                "False WaitingForMembers",
                "True QuorumCommits",
                "True WaitingForMembers",
                "False AsDesired",
            ],
        ),
        (
            "one member is silent",
            |views| {
                edit(views, 2, |it| {
                    it.ready = false;
                    it.state = MemberState::Unreachable;
                });
            },
            [
                "False MemberUnreachable",
                "True QuorumCommits",
                "True WaitingForMembers",
                "True MemberUnreachable",
            ],
        ),
        (
            "two members are silent",
            |views| {
                for at in 1..3 {
                    edit(views, at, |it| it.state = MemberState::Unreachable);
                }
            },
            [
                "False NoQuorum",
                "False NoQuorum",
                "False AsDesired",
                "True MemberUnreachable",
            ],
        ),
        (
            "nobody leads",
            |views| {
                for at in 0..3 {
                    edit(views, at, |it| it.leader.clear());
                }
            },
            [
                "False NoLeader",
                "False NoLeader",
                "False AsDesired",
                "False AsDesired",
            ],
        ),
        (
            "a lost volume",
            |views| edit(views, 1, |it| it.incarnation = "f".repeat(32)),
            [
                "False MemberLost",
                "True QuorumCommits",
                "False AsDesired",
                "True MemberLost",
            ],
        ),
        (
            "an old template runs",
            |views| edit(views, 1, |it| it.updated = false),
            [
                "False RollingOut",
                "True QuorumCommits",
                "True RollingOut",
                "False AsDesired",
            ],
        ),
        (
            "a quarantined copy",
            |views| found(views, |it| it.diverged = vec![differs("Quarantine")]),
            [
                "False MemberQuarantined",
                "True QuorumCommits",
                "False AsDesired",
                "True MemberQuarantined",
            ],
        ),
        (
            "a cluster's operator sleeps",
            |views| change(views, 1, |it| it.metadata.generation = Some(2)),
            [
                "False WaitingForCluster",
                "True QuorumCommits",
                "True WaitingForCluster",
                "False AsDesired",
            ],
        ),
        (
            "a registration was taken away",
            |views| views[1].access = Access::Unknown,
            [
                "False UnknownCluster",
                "True QuorumCommits",
                "False AsDesired",
                "True UnknownCluster",
            ],
        ),
    ];
    for (what, edit, wanted) in table {
        let (valid, mut views) = well();
        edit(&mut views);
        let status = say(&report(Some(&valid), &views));
        assert_eq!(words(&status), wanted, "{what}");
    }
    let (valid, mut views) = well();
    unreachable(&mut views);
    let status = say(&report(Some(&valid), &views));
    assert_eq!(
        words(&status),
        [
            "False ClusterUnreachable",
            "True QuorumCommits",
            "False AsDesired",
            "True ClusterUnreachable"
        ]
    );
    assert_eq!(status.members[2].state, MemberState::Unreachable);
    assert!(!status.clusters[2].reachable);
    assert_eq!(status.tolerates.map(|it| it.members), Some(0));
    // Two out of sight: they may be well, and nobody here can tell.
    views[1].access = views[2].access.clone();
    let status = say(&report(Some(&valid), &views));
    assert_eq!(word(&status, "Available"), "Unknown ClusterUnreachable");
}

#[test]
fn a_service_that_is_not_formed_says_what_it_waits_for() {
    let valid = valid(Formed::No);
    let views = three();
    let mut report = report(Some(&valid), &views);
    report.waits = Some(NotYet::Waiting(vec![("notes-eu-0".into(), "image".into())]));
    let status = say(&report);
    assert_eq!(
        words(&status),
        [
            "False WaitingForMembers",
            "False WaitingForMembers",
            "True WaitingForMembers",
            "False AsDesired"
        ]
    );
    assert_eq!(word(&status, "Reconciling"), "True WaitingForMembers");
    assert!(status.conditions[0].message.contains("notes-eu-0: image"));
    assert_eq!(status.summary.expect("a summary").members, "0/3");
}

#[test]
fn a_manifest_that_is_refused_hides_nothing_of_how_the_service_is() {
    let (valid, mut views) = well();
    let before = say(&report(Some(&valid), &views));
    let said = |views: &[View], roster: Option<&Roster>| {
        let mut refusal = report(None, views);
        refusal.roster = roster;
        refusal.stall = Some(Stall {
            reason: &conditions::INVALID_SPEC,
            message: "spec.replicas: no".to_owned(),
        });
        refusal.generation = Some(8);
        status(&refusal, &before, at(2000))
    };
    let three_words =
        |it: &ReplicatedServiceStatus| ["Ready", "Available", "Stalled"].map(|kind| word(it, kind));
    let after = said(&views, Some(&valid.roster));
    assert_eq!(
        three_words(&after),
        [
            "False InvalidSpec",
            "True QuorumCommits",
            "True InvalidSpec"
        ]
    );
    assert_eq!(after.members, before.members);
    assert_eq!(after.observed_generation, Some(8));
    // Two are lost meanwhile, the leader is another.
    for lost in 1..3 {
        edit(&mut views, lost, |it| {
            it.state = MemberState::Unreachable;
            it.ready = false;
        });
    }
    let after = said(&views, Some(&valid.roster));
    assert_eq!(
        three_words(&after),
        ["False InvalidSpec", "False NoQuorum", "True InvalidSpec"]
    );
    assert_eq!(after.ready_replicas, 1);
    assert_eq!(after.members[1].state, MemberState::Unreachable);
    // Nobody knows who the members are: nor whether they serve.
    let after = said(&views, None);
    assert_eq!(word(&after, "Available"), "Unknown InvalidSpec");
    let mut fresh = report(None, &views);
    fresh.stall = Some(Stall {
        reason: &conditions::INVALID_SPEC,
        message: String::new(),
    });
    assert_eq!(word(&say(&fresh), "Available"), "False InvalidSpec");
}

#[test]
fn a_paused_service_tells_of_a_lost_quorum() {
    let (valid, mut views) = well();
    for lost in 1..3 {
        edit(&mut views, lost, |it| it.state = MemberState::Unreachable);
    }
    let mut paused = report(Some(&valid), &views);
    paused.paused = true;
    let status = say(&paused);
    assert_eq!(word(&status, "Available"), "False NoQuorum");
    assert_eq!(word(&status, "Progressing"), "False Paused");
}

#[test]
fn the_log_is_never_cut_and_that_is_said_whatever_the_manifest_says() {
    let (valid, views) = well();
    let mut refusal = report(None, &views);
    refusal.roster = Some(&valid.roster);
    refusal.stall = Some(Stall {
        reason: &conditions::UNSUPPORTED,
        message: "spec.state.snapshot.type".to_owned(),
    });
    let status = say(&refusal);
    assert_eq!(word(&status, "Stalled"), "True Unsupported");
    assert_eq!(word(&status, "LogUnbounded"), "True NoSnapshot");
}

#[test]
fn claims_that_are_not_as_the_manifest_asks_are_told() {
    let (valid, mut views) = well();
    change(&mut views, 1, |it| {
        let facts = &mut it.status.as_mut().expect("a status").facts;
        facts.insert("claims".to_owned(), "synod-log: stays".to_owned());
    });
    let status = say(&report(Some(&valid), &views));
    for kind in ["Ready", "Progressing"] {
        assert_eq!(word(&status, kind), "False ClaimChangeUnsupported");
    }
    assert_eq!(word(&status, "Available"), "True QuorumCommits");
    assert!(
        status
            .conditions
            .iter()
            .any(|it| it.message == "cluster eu: synod-log: stays")
    );
}

#[test]
fn a_certificate_that_was_not_renewed_makes_the_service_degraded() {
    let (valid, mut views) = well();
    change(&mut views, 1, |it| {
        let list = &mut it.status.as_mut().expect("a status").conditions;
        list.push(Condition {
            kind: "CertificatesValid".to_owned(),
            status: "False".to_owned(),
            reason: "CertificateEnds".to_owned(),
            message: "in 9 days".to_owned(),
            last_transition_time: None,
            observed_generation: None,
        });
    });
    let status = say(&report(Some(&valid), &views));
    for (kind, wanted) in [
        ("CertificatesValid", "False CertificateEnds"),
        ("Degraded", "True CertificateEnds"),
        ("Ready", "False CertificateEnds"),
        ("Available", "True QuorumCommits"),
    ] {
        assert_eq!(word(&status, kind), wanted);
    }
}

#[test]
fn what_only_makes_a_service_weaker_leaves_it_ready() {
    let (valid, mut views) = well();
    change(&mut views, 1, |it| {
        let list = &mut it.status.as_mut().expect("a status").conditions;
        list.retain(|it| it.kind != "Degraded");
        list.push(Condition {
            kind: "Degraded".to_owned(),
            status: "True".to_owned(),
            reason: "StartSignalWeak".to_owned(),
            message: "its start is noticed by its socket only".to_owned(),
            last_transition_time: None,
            observed_generation: None,
        });
    });
    let status = say(&report(Some(&valid), &views));
    assert_eq!(word(&status, "Degraded"), "True StartSignalWeak");
    assert_eq!(word(&status, "Ready"), "True AsDesired");
}

#[test]
fn what_a_rollout_waits_for_is_told() {
    let (valid, mut views) = well();
    edit(&mut views, 0, |it| it.updated = false);
    edit(&mut views, 2, |it| it.ready = false);
    let status = say(&report(Some(&valid), &views));
    let found = conditions::find(&status.conditions, &PROGRESSING).expect("there");
    assert_eq!(found.reason, "RollingOut");
    assert!(found.message.ends_with("well in ap"), "{}", found.message);
}

#[test]
fn clusters_are_told_before_anything_is_there() {
    let (valid, views) = well();
    let before = ReplicatedServiceStatus::default();
    assert!(is_news(&before, &views));
    let told = with_clusters(&before, &views);
    assert_eq!(told.clusters.len(), 3);
    assert_eq!(told.conditions, before.conditions);
    assert!(!is_news(&told, &views));
    assert!(!is_news(&say(&report(Some(&valid), &views)), &views));
}

#[test]
fn a_change_of_members_is_told_and_a_paused_service_says_so() {
    let (mut valid, views) = well();
    let words = "notes-us-1 joins with an empty log".to_owned();
    valid.course.under_way = Some((&conditions::MEMBER_JOINING, words));
    let status = say(&report(Some(&valid), &views));
    assert_eq!(word(&status, "Progressing"), "True MemberJoining");
    assert_eq!(word(&status, "Ready"), "False MemberJoining");
    // It has only been begun: its pod does not answer yet.
    let mut begun = views.clone();
    change(&mut begun, 0, |it| {
        let members = &mut it.status.as_mut().expect("a status").members;
        let mut newcomer = members[0].clone();
        newcomer.name = "notes-us-1".to_owned();
        newcomer.state = MemberState::Unreachable;
        newcomer.ready = false;
        newcomer.epoch = 0;
        members.push(newcomer);
    });
    let mut joining = valid.clone();
    let newcomer = outside("us", "us-1", "notes-us-1");
    joining.roster.members.push(newcomer);
    let status = say(&report(Some(&joining), &begun));
    assert_eq!(word(&status, "Degraded"), "False AsDesired");
    assert_eq!(word(&status, "Ready"), "False MemberJoining");
    let mut refused = views.clone();
    change(&mut refused, 0, |it| {
        let facts = &mut it.status.as_mut().expect("a status").facts;
        facts.insert("change".to_owned(), "the leader is busy".to_owned());
    });
    let status = say(&report(Some(&valid), &refused));
    let progressing = status.conditions.iter();
    let mut progressing = progressing.filter(|it| it.kind == "Progressing");
    assert_eq!(
        progressing.next().map(|it| it.message.as_str()),
        Some("notes-us-1 joins with an empty log; the leader is busy")
    );
    let (valid, views) = well();
    let mut paused = report(Some(&valid), &views);
    paused.paused = true;
    let status = say(&paused);
    assert_eq!(word(&status, "Progressing"), "False Paused");
    assert_eq!(word(&status, "Ready"), "True AsDesired");
}

#[test]
fn a_revision_that_runs_along_is_told_and_one_that_answers_otherwise_goes_no_further() {
    let (mut valid, views) = well();
    let words_of = "revision 1 of the app runs along silently".to_owned();
    valid.revisions.under_way = Some((&conditions::REVISION_RUNS_ALONG, words_of));
    let status = say(&report(Some(&valid), &views));
    assert_eq!(
        words(&status),
        [
            "False RevisionRunsAlong",
            "True QuorumCommits",
            "True RevisionRunsAlong",
            "False AsDesired"
        ]
    );
    assert_eq!(word(&status, "Reconciling"), "True RevisionRunsAlong");
    valid.revisions.under_way = None;
    valid.revisions.disagreement = Some("slot 17, POST /which: put the template back".to_owned());
    let status = say(&report(Some(&valid), &views));
    assert_eq!(
        words(&status),
        [
            "False RevisionsDisagree",
            "True QuorumCommits",
            "False RevisionsDisagree",
            "False AsDesired"
        ]
    );
    assert_eq!(word(&status, "Reconciling"), "");
    for kind in ["Ready", "Progressing"] {
        let found = status.conditions.iter().find(|it| it.kind == kind);
        let message = &found.expect("told").message;
        assert!(message.contains("POST /which"), "{message}");
    }
}

#[test]
fn what_a_cluster_says_is_passed_on_with_its_name() {
    let condition = |kind: &str, status: &str, reason: &str| Condition {
        kind: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: "words".to_owned(),
        last_transition_time: None,
        observed_generation: None,
    };
    let (valid, mut views) = well();
    change(&mut views, 0, |it| {
        let list = &mut it.status.as_mut().expect("a status").conditions;
        list.push(condition("TrafficIntercepted", "True", "AsDesired"));
    });
    change(&mut views, 1, |it| {
        let list = &mut it.status.as_mut().expect("a status").conditions;
        list.push(condition("TrafficIntercepted", "False", "BypassSeen"));
        list.push(condition("Stalled", "True", "OfTheFuture"));
        list.push(condition("Degraded", "True", "PodNotStarting"));
    });
    let status = say(&report(Some(&valid), &views));
    assert_eq!(word(&status, "TrafficIntercepted"), "False BypassSeen");
    assert_eq!(word(&status, "Stalled"), "True OperatorError");
    assert_eq!(word(&status, "Degraded"), "True PodNotStarting");
    let stalled = conditions::find(&status.conditions, &STALLED).expect("there");
    assert_eq!(stalled.message, "cluster eu: OfTheFuture: words");
}

#[test]
fn nothing_new_leaves_the_status_as_it_is() {
    let (valid, views) = well();
    let before = say(&report(Some(&valid), &views));
    let after = status(&report(Some(&valid), &views), &before, at(9000));
    assert_eq!(after, before, "or every look would bring another");
}

#[test]
fn a_log_that_is_never_cut_is_told_with_its_size_and_one_that_is_cut_is_not() {
    let (mut valid, mut views) = well();
    change(&mut views, 2, |it| {
        it.status.as_mut().expect("a status").members[0].log_mebibytes = 192;
    });
    let unbounded = |valid: &Valid, views: &[View]| {
        let found = status(
            &report(Some(valid), views),
            &ReplicatedServiceStatus::default(),
            at(1),
        );
        let it = conditions::find(&found.conditions, &LOG_UNBOUNDED).expect("always there");
        (it.status.clone(), it.message.clone())
    };
    let (is, message) = unbounded(&valid, &views);
    assert_eq!(is, "True");
    assert!(message.contains("192 MiB"), "{message}");
    valid.spec.state.snapshot.kind = SnapshotType::Volume;
    assert_eq!(unbounded(&valid, &views).0, "False");
}

#[test]
fn the_newest_usable_snapshot_is_the_services_and_one_that_was_not_compared_degrades_it() {
    let (mut valid, mut views) = well();
    valid.spec.state.snapshot.kind = SnapshotType::Volume;
    let made = |slot, standing| SnapshotStatus {
        slot,
        time: "2026-01-01T00:00:00Z".to_owned(),
        bytes: 1,
        standing,
    };
    let snapshots = [
        made(7, Standing::Verified),
        made(9, Standing::Unverified),
        made(12, Standing::Uncompared),
    ];
    for (at, it) in snapshots.into_iter().enumerate() {
        change(&mut views, at, |group| {
            group.status.as_mut().expect("a status").members[0].snapshot = Some(it);
        });
    }
    let look = |views: &[View]| {
        let found = status(
            &report(Some(&valid), views),
            &ReplicatedServiceStatus::default(),
            at(1),
        );
        let degraded = conditions::find(&found.conditions, &DEGRADED).expect("always there");
        let ready = conditions::find(&found.conditions, &READY).expect("always there");
        let slot = found.snapshot.as_ref().map(|it| it.slot);
        (slot, degraded.reason.clone(), ready.status.clone())
    };
    let (slot, reason, ready) = look(&views);
    assert_eq!((slot, reason.as_str()), (Some(9), "UnverifiedSnapshot"));
    assert_eq!(ready, "True", "nobody waits for it");
    change(&mut views, 0, |group| {
        let made = made(9, Standing::Verified);
        group.status.as_mut().expect("a status").members[0].snapshot = Some(made);
    });
    assert_eq!(look(&views).1, "AsDesired");
}
