//! Events about a service: one for each change of a condition that somebody may want to know of.

use synod_api::{Condition, ReplicatedServiceStatus, SkippedRequest, SnapshotAnswer};

use super::findings;
use crate::conditions::{
    self, AVAILABLE, CERTIFICATES_VALID, DEGRADED, DIVERGED, KINDS, Kind, READY, STALLED,
    TRAFFIC_INTERCEPTED,
};

/// What to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    /// Somebody should look.
    pub(crate) warning: bool,
    /// The condition's reason.
    pub(crate) reason: String,
    /// The condition and its message.
    pub(crate) text: String,
}

/// Conditions whose transitions are published; others follow from these.
static TOLD: [&Kind; 7] = [
    &READY,
    &AVAILABLE,
    &DEGRADED,
    &STALLED,
    &CERTIFICATES_VALID,
    &TRAFFIC_INTERCEPTED,
    &DIVERGED,
];

/// Longest note that the API server takes.
const LONGEST: usize = 1000;

/// Status or reason of a condition that is other than before. The first look at an object is none.
pub(crate) fn transitions(before: &[Condition], after: &[Condition]) -> Vec<Note> {
    let mut notes: Vec<Note> = Vec::new();
    for kind in TOLD {
        let (old, new) = (
            conditions::find(before, kind),
            conditions::find(after, kind),
        );
        let Some(new) = new else { continue };
        let same = old.is_some_and(|it| it.status == new.status && it.reason == new.reason);
        let good = new.status == kind.good.as_str();
        // That all is well from the start is no news, nor that well is still well.
        let dull = good && old.is_none_or(|it| it.status == new.status);
        // Each of the many things that a service waits for while it comes up is none either.
        let particular = *kind == CERTIFICATES_VALID || *kind == TRAFFIC_INTERCEPTED;
        let came_up = good && old.is_some_and(|it| waits(&it.reason));
        let dull = dull || (particular && (came_up || waits(&new.reason)));
        // Each of those is told for itself.
        let apart = new.reason == conditions::REQUEST_SKIPPED.name;
        if same || dull || apart || notes.iter().any(|it| it.reason == new.reason) {
            continue;
        }
        let mut note = format!("{} is {}", new.kind, new.status);
        if !new.message.is_empty() {
            note = format!("{note}: {}", new.message);
        }
        notes.push(Note {
            warning: is_warning(kind, new),
            reason: new.reason.clone(),
            text: conditions::shorten(note, LONGEST),
        });
    }
    notes
}

/// What members were asked to do, and have done or not.
pub(crate) fn deeds(
    before: &ReplicatedServiceStatus,
    after: &ReplicatedServiceStatus,
) -> Vec<Note> {
    let mut notes = Vec::new();
    if let Some(answer) = &after.snapshot_request
        && before.snapshot_request.as_ref() != Some(answer)
    {
        notes.push(snapshot(answer));
    }
    let is_new = |it: &&SkippedRequest| before.skipped.iter().all(|old| old.slot != it.slot);
    notes.extend(after.skipped.iter().filter(is_new).map(|it| Note {
        warning: true,
        reason: conditions::REQUEST_SKIPPED.name.to_owned(),
        text: conditions::shorten(findings::words_of_skip(it), LONGEST),
    }));
    if let (Some(old), Some(new)) = (before.protocol, after.protocol)
        && new.current > old.current
    {
        notes.push(Note {
            warning: false,
            reason: "ProtocolRaised".to_owned(),
            text: format!(
                "members use version {} of their protocol from now on, after {}: there is no way \
                 back to sidecars that do not speak it",
                new.current, old.current
            ),
        });
    }
    notes
}

fn snapshot(answer: &SnapshotAnswer) -> Note {
    let SnapshotAnswer { word, member, .. } = answer;
    let (warning, reason, text) = match answer.slot {
        Some(slot) => (
            false,
            "SnapshotTaken",
            format!("{member} has made a snapshot of slot {slot}, as asked by {word:?}"),
        ),
        None if answer.problem.is_empty() => (
            false,
            "SnapshotBegun",
            format!(
                "{member} makes a snapshot, as asked by {word:?}: the status tells when it is there"
            ),
        ),
        None => (
            true,
            "SnapshotNotTaken",
            format!(
                "no snapshot was made, though asked for by {word:?}: {}",
                answer.problem
            ),
        ),
    };
    Note {
        warning,
        reason: reason.to_owned(),
        text: conditions::shorten(text, LONGEST),
    }
}

/// Waiting is normal; being stalled, degraded or without a quorum is not.
fn is_warning(kind: &Kind, condition: &Condition) -> bool {
    debug_assert!(KINDS.iter().any(|it| it.name == kind.name));
    condition.status != kind.good.as_str() && !waits(&condition.reason)
}

fn waits(reason: &str) -> bool {
    let normal = [
        &conditions::WAITING_FOR_MEMBERS,
        &conditions::WAITING_FOR_CLUSTER,
        &conditions::WAITING_FOR_CERTIFICATES,
        &conditions::FORMING,
        &conditions::ROLLING_OUT,
        &conditions::DELETING,
        &conditions::PENDING,
    ];
    normal.iter().any(|it| it.name == reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(kind: &str, status: &str, reason: &str) -> Condition {
        Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: "words".to_owned(),
            last_transition_time: None,
            observed_generation: None,
        }
    }

    #[test]
    fn a_transition_is_told_once_and_with_its_weight() {
        let pending = [condition("Ready", "Unknown", "Pending")];
        let waiting = [
            condition("Ready", "False", "WaitingForMembers"),
            condition("Available", "False", "WaitingForMembers"),
            condition("Degraded", "False", "AsDesired"),
        ];
        let notes = transitions(&pending, &waiting);
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(!notes[0].warning);
        assert!(transitions(&waiting, &waiting).is_empty());
        let ready = [
            condition("Ready", "True", "AsDesired"),
            condition("Available", "True", "QuorumCommits"),
            condition("Degraded", "False", "AsDesired"),
        ];
        let reasons: Vec<_> = transitions(&waiting, &ready)
            .into_iter()
            .map(|it| (it.reason, it.warning))
            .collect();
        assert_eq!(
            reasons,
            [
                ("AsDesired".to_owned(), false),
                ("QuorumCommits".to_owned(), false)
            ]
        );
        let lost = [condition("Ready", "False", "NoQuorum")];
        assert!(transitions(&ready, &lost)[0].warning);
    }

    #[test]
    fn a_connection_past_the_sidecars_and_a_certificate_near_its_end_are_told() {
        for (kind, reason) in [
            ("TrafficIntercepted", "BypassSeen"),
            ("CertificatesValid", "CertificateEnds"),
        ] {
            let well = [condition(kind, "True", "AsDesired")];
            let ill = [condition(kind, "False", reason)];
            let notes = transitions(&well, &ill);
            assert_eq!((notes.len(), notes[0].warning), (1, true), "{kind}");
            assert_eq!(notes[0].reason, reason);
            assert_eq!(transitions(&ill, &well).len(), 1, "and that it is over");
        }
        let coming = [condition(
            "CertificatesValid",
            "False",
            "WaitingForCertificates",
        )];
        let there = [condition("CertificatesValid", "True", "AsDesired")];
        assert_eq!(transitions(&[], &coming), [], "on the way up");
        assert_eq!(transitions(&coming, &there), []);
    }

    #[test]
    fn a_snapshot_that_was_asked_for_is_told_once_with_its_slot_or_why_there_is_none() {
        let with = |slot: Option<u64>, problem: &str| ReplicatedServiceStatus {
            snapshot_request: Some(SnapshotAnswer {
                word: "now".to_owned(),
                member: "notes-local-1".to_owned(),
                slot,
                problem: problem.to_owned(),
            }),
            ..ReplicatedServiceStatus::default()
        };
        let none = ReplicatedServiceStatus::default();
        let told = |after: &ReplicatedServiceStatus| {
            let notes = deeds(&none, after);
            (
                notes.len(),
                notes[0].warning,
                notes[0].reason.clone(),
                notes[0].text.clone(),
            )
        };
        let (count, warning, reason, text) = told(&with(Some(12), ""));
        assert_eq!(
            (count, warning, reason.as_str()),
            (1, false, "SnapshotTaken")
        );
        assert!(
            text.contains("notes-local-1") && text.contains("slot 12"),
            "{text}"
        );
        let (_, warning, reason, text) = told(&with(None, "it is busy"));
        assert_eq!((warning, reason.as_str()), (true, "SnapshotNotTaken"));
        assert!(text.contains("it is busy"), "{text}");
        assert_eq!(told(&with(None, "")).2, "SnapshotBegun");
        assert_eq!(deeds(&with(Some(12), ""), &with(Some(12), "")), []);
    }

    #[test]
    fn a_protocol_that_was_raised_is_told() {
        let with = |current| ReplicatedServiceStatus {
            protocol: Some(synod_api::ProtocolStatus {
                current,
                supported: 2,
            }),
            ..ReplicatedServiceStatus::default()
        };
        let notes = deeds(&with(1), &with(2));
        assert_eq!(
            (notes.len(), notes[0].reason.as_str()),
            (1, "ProtocolRaised")
        );
        assert_eq!(deeds(&with(2), &with(2)), []);
        assert_eq!(deeds(&ReplicatedServiceStatus::default(), &with(2)), []);
    }

    #[test]
    fn a_long_message_is_cut_to_what_the_server_takes() {
        let mut long = condition("Stalled", "True", "InvalidSpec");
        long.message = "ü".repeat(2000);
        let notes = transitions(&[], &[long]);
        assert!(notes[0].text.len() <= LONGEST);
    }
}
