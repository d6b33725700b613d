//! What members have found out about requests and copies, as the hub is told of it. Pure.

use std::collections::BTreeMap;

use synod_api::{DivergedCopies, Findings, SkippedRequest, UndecidedRequest};
use synod_proto::v1 as proto;

use super::observe::Observed;
use crate::conditions::shorten;

/// Entries of each list: what the schema allows.
const TOLD: usize = 16;
/// Longest path, in bytes.
const PATH: usize = 1024;
/// Longest method.
const METHOD: usize = 64;
/// Longest words.
const WORDS: usize = 512;

/// Put together from all members that answered. What copies have not decided or differ in is the
/// leader's word; what is skipped every member knows, and some know more of it.
pub(crate) fn findings(members: &[Observed]) -> Findings {
    let said = || members.iter().filter_map(Observed::said);
    let leads = || said().filter(|it| !it.group.is_empty() && it.leader == it.member);
    let mut skipped: BTreeMap<u64, SkippedRequest> = BTreeMap::new();
    for it in said().flat_map(|it| &it.skipped) {
        let new = skip(it);
        let known = skipped.entry(new.slot).or_insert_with(|| new.clone());
        if known.method.is_empty() {
            *known = new;
        }
    }
    let surplus = skipped.len().saturating_sub(TOLD);
    Findings {
        undecided: leads().find_map(|it| it.undecided.as_ref()).map(undecided),
        skipped: skipped.into_values().skip(surplus).collect(),
        diverged: leads()
            .flat_map(|it| &it.diverged)
            .take(TOLD)
            .map(diverged)
            .collect(),
    }
}

fn undecided(it: &proto::UndecidedRequest) -> UndecidedRequest {
    let waits_for = it.waits_for.iter().take(TOLD);
    UndecidedRequest {
        slot: it.slot,
        method: shorten(it.method.clone(), METHOD),
        path: shorten(it.path.clone(), PATH),
        waits_for: waits_for.map(|it| shorten(it.clone(), WORDS)).collect(),
    }
}

fn skip(it: &proto::SkippedRequest) -> SkippedRequest {
    SkippedRequest {
        slot: it.slot,
        method: shorten(it.method.clone(), METHOD),
        path: shorten(it.path.clone(), PATH),
        may_have_been_acknowledged: it.may_have_been_acknowledged,
        seen: None,
    }
}

fn diverged(it: &proto::DivergedCopies) -> DivergedCopies {
    DivergedCopies {
        slot: it.slot,
        route: shorten(it.route.clone(), 63),
        members: it.members.iter().take(64).cloned().collect(),
        part: shorten(it.part.clone(), WORDS),
        measure: shorten(it.measure.clone(), 32),
    }
}

#[cfg(test)]
mod tests {
    use synod_api::MemberRole;

    use super::*;

    fn member(name: &str, edit: impl FnOnce(&mut proto::StatusResponse)) -> Observed {
        let mut said = proto::StatusResponse {
            member: name.to_owned(),
            group: "5f2c9a1b".to_owned(),
            leader: "notes-us-0".to_owned(),
            ..proto::StatusResponse::default()
        };
        edit(&mut said);
        Observed {
            name: name.to_owned(),
            role: MemberRole::Voter,
            pod: None,
            updated: true,
            newest: true,
            heard: Some(Ok(said)),
            snapshot: None,
            endpoint: String::new(),
        }
    }

    fn skipped(slot: u64, method: &str) -> proto::SkippedRequest {
        proto::SkippedRequest {
            slot,
            method: method.to_owned(),
            path: "/notes".to_owned(),
            may_have_been_acknowledged: false,
        }
    }

    fn open(slot: u64) -> proto::UndecidedRequest {
        proto::UndecidedRequest {
            slot,
            method: "POST".to_owned(),
            path: "/notes".to_owned(),
            waits_for: vec!["notes-eu-0 must come back".to_owned()],
        }
    }

    #[test]
    fn only_a_leader_tells_what_is_undecided_and_which_copies_differ() {
        let differs = || {
            vec![proto::DivergedCopies {
                slot: 4,
                route: "notes".to_owned(),
                members: vec!["notes-eu-0".to_owned()],
                part: "body".to_owned(),
                measure: "Quarantine".to_owned(),
            }]
        };
        let was = member("notes-eu-0", |it| {
            it.undecided = Some(open(3));
            it.diverged = differs();
        });
        assert_eq!(findings(std::slice::from_ref(&was)), Findings::default());
        let leads = member("notes-us-0", |it| {
            it.undecided = Some(open(7));
            it.diverged = differs();
        });
        let found = findings(&[was, leads]);
        let undecided = found.undecided.expect("the leader says so");
        assert_eq!((undecided.slot, undecided.path.as_str()), (7, "/notes"));
        assert_eq!(undecided.waits_for.len(), 1);
        assert_eq!(found.diverged.len(), 1);
        assert!(found.diverged[0].is_out() && !found.diverged[0].is_tie());
    }

    #[test]
    fn what_is_skipped_is_told_once_by_who_knows_most_of_it_and_the_latest_are_kept() {
        let one = member("notes-eu-0", |it| {
            it.skipped = vec![skipped(5, ""), skipped(9, "PUT")];
        });
        let other = member("notes-us-0", |it| it.skipped = vec![skipped(5, "POST")]);
        let found = findings(&[one, other]).skipped;
        let found: Vec<_> = found
            .iter()
            .map(|it| (it.slot, it.method.as_str()))
            .collect();
        assert_eq!(found, [(5, "POST"), (9, "PUT")]);
        let many = member("notes-us-0", |it| {
            it.skipped = (1..=20).map(|slot| skipped(slot, "POST")).collect();
        });
        let found = findings(&[many]).skipped;
        assert_eq!((found.len(), found[0].slot), (TOLD, 5));
    }

    #[test]
    fn nothing_is_longer_than_the_schema_allows() {
        let long = member("notes-us-0", |it| {
            let mut request = open(1);
            request.path = "/ü".repeat(2000);
            request.waits_for = vec!["w".repeat(2000); 30];
            it.undecided = Some(request);
        });
        let undecided = findings(&[long]).undecided.expect("told");
        assert!(undecided.path.len() <= PATH);
        assert_eq!(undecided.waits_for.len(), TOLD);
        assert!(undecided.waits_for.iter().all(|it| it.len() <= WORDS));
    }
}
