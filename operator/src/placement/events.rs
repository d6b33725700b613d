//! Events about a service: one for each change of a condition that somebody may want to know of.

use synod_api::Condition;

use crate::conditions::{
    self, AVAILABLE, CERTIFICATES_VALID, DEGRADED, KINDS, Kind, READY, STALLED, TRAFFIC_INTERCEPTED,
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
static TOLD: [&Kind; 6] = [
    &READY,
    &AVAILABLE,
    &DEGRADED,
    &STALLED,
    &CERTIFICATES_VALID,
    &TRAFFIC_INTERCEPTED,
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
        if same || dull || notes.iter().any(|it| it.reason == new.reason) {
            continue;
        }
        let mut note = format!("{} is {}", new.kind, new.status);
        if !new.message.is_empty() {
            note = format!("{note}: {}", new.message);
        }
        let end = (0..=LONGEST.min(note.len()))
            .rev()
            .find(|it| note.is_char_boundary(*it));
        note.truncate(end.unwrap_or(0));
        notes.push(Note {
            warning: is_warning(kind, new),
            reason: new.reason.clone(),
            text: note,
        });
    }
    notes
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
    fn a_long_message_is_cut_to_what_the_server_takes() {
        let mut long = condition("Stalled", "True", "InvalidSpec");
        long.message = "ü".repeat(2000);
        let notes = transitions(&[], &[long]);
        assert!(notes[0].text.len() <= LONGEST);
    }
}
