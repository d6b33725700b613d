//! A snapshot that somebody asks for by an annotation of the service: who is to make it, and what came
//! of it. Each word is one request. Comes in: the word, and what is known of the members. Goes out: what
//! a cluster is to be told, and what the status is to say. Pure.

use std::cmp::Reverse;

use synod_api::{
    GroupMemberStatus, MemberRole, MemberState, ReplicatedServiceSpec, SnapshotAnswer,
    SnapshotRequest, SnapshotType,
};

use super::roster::{Formed, Roster};
use super::tally::Tally;
use super::view::View;
use crate::conditions::shorten;

/// The annotation.
pub(crate) const ANNOTATION: &str = "synod.dev/snapshot";
/// Longest word that is told apart from others, in bytes.
const LONGEST: usize = 63;

/// What one cluster is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Its name.
    pub(crate) cluster: String,
    pub(crate) request: SnapshotRequest,
}

/// What follows from an annotation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Who is to be told what.
    pub(crate) asked: Option<Asked>,
    /// What came of it.
    pub(crate) answer: Option<SnapshotAnswer>,
}

/// `before`: what came of the last one.
pub(crate) fn outcome(
    word: Option<&str>,
    before: Option<&SnapshotAnswer>,
    spec: &ReplicatedServiceSpec,
    roster: &Roster,
    views: &[View],
) -> Outcome {
    let word = shorten(word.unwrap_or_default().trim().to_owned(), LONGEST);
    let handled = before.is_some_and(|it| it.word == word);
    if word.is_empty() || handled || roster.formed == Formed::No {
        return Outcome::default();
    }
    if let Some(outcome) = under_way(&word, roster, views) {
        return outcome;
    }
    let refused = |problem: &str| Outcome {
        asked: None,
        answer: Some(SnapshotAnswer {
            word: word.clone(),
            member: String::new(),
            slot: None,
            problem: problem.to_owned(),
        }),
    };
    if spec.state.snapshot.kind == SnapshotType::None {
        return refused("the service has no way to save its state: set spec.state.snapshot");
    }
    let tally = Tally::new(roster, views);
    let Some((cluster, member)) = maker(&tally) else {
        return refused("no copy is caught up now: annotate again, with another word, when one is");
    };
    Outcome {
        asked: Some(Asked {
            cluster,
            request: SnapshotRequest { word, member },
        }),
        answer: None,
    }
}

/// A cluster that was told goes on being told until its answer is in the service's status.
fn under_way(word: &str, roster: &Roster, views: &[View]) -> Option<Outcome> {
    views.iter().find_map(|view| {
        let group = view.own(&roster.uid)?;
        let request = group.spec.snapshot.as_ref().filter(|it| it.word == word)?;
        let status = group.status.as_ref();
        let answer = status.and_then(|it| it.snapshot.clone());
        Some(Outcome {
            asked: Some(Asked {
                cluster: view.cluster.clone(),
                request: request.clone(),
            }),
            answer: answer.filter(|it| it.word == word),
        })
    })
}

/// Of the copies that are well the one whose last is the oldest; the leader only if there is no other.
fn maker(tally: &Tally<'_>) -> Option<(String, String)> {
    let well =
        |it: &GroupMemberStatus| it.ready && it.epoch > 0 && it.state == MemberState::CaughtUp;
    let copies = tally
        .all
        .iter()
        .filter(|(it, _)| it.member.role != MemberRole::Witness)
        .filter_map(|(it, status)| Some((it, status.filter(|it| well(it))?)));
    let best = copies.max_by_key(|(it, status)| {
        let follows = tally.leader.as_ref() != Some(&it.member.name);
        let last = status.snapshot.as_ref().map_or(0, |it| it.slot);
        (follows, Reverse(last), Reverse(it.member.id))
    });
    best.map(|(it, _)| (it.cluster.clone(), it.member.name.clone()))
}

#[cfg(test)]
mod tests {
    use synod_api::{SnapshotStatus, Standing};

    use super::super::authority::Issued;
    use super::super::plan::tests::{change, formed, taken_up, three, valid};
    use super::super::plan::{self, Plan};
    use super::super::validate::Valid;
    use super::*;

    /// Three members in three clusters, `notes-us-0` leads; the service has a method.
    fn well() -> (Valid, Vec<View>) {
        let mut valid = valid(formed());
        valid.spec.state.snapshot.kind = SnapshotType::Volume;
        let plan = plan::plan(&valid, &three(), &Issued::default(), "synod.local");
        let mut views = taken_up(&plan, three());
        for at in 0..3 {
            change(&mut views, at, |it| {
                let one = &mut it.status.as_mut().expect("a status").members[0];
                (one.epoch, one.ready) = (1, true);
                one.leader = "notes-us-0".to_owned();
            });
        }
        (valid, views)
    }

    fn look(word: &str, before: Option<&SnapshotAnswer>, valid: &Valid, views: &[View]) -> Outcome {
        outcome(Some(word), before, &valid.spec, &valid.roster, views)
    }

    fn asked(outcome: &Outcome) -> &str {
        let asked = outcome.asked.as_ref().expect("somebody is asked");
        &asked.request.member
    }

    #[test]
    fn a_follower_is_asked_and_the_leader_only_when_no_follower_can() {
        let (valid, mut views) = well();
        assert_eq!(asked(&look("a", None, &valid, &views)), "notes-eu-0");
        change(&mut views, 1, |it| {
            let one = &mut it.status.as_mut().expect("a status").members[0];
            one.snapshot = Some(SnapshotStatus {
                slot: 9,
                time: String::new(),
                bytes: 1,
                standing: Standing::Verified,
            });
        });
        assert_eq!(
            asked(&look("a", None, &valid, &views)),
            "notes-ap-0",
            "by turns"
        );
        for at in [1, 2] {
            change(&mut views, at, |it| {
                let one = &mut it.status.as_mut().expect("a status").members[0];
                one.state = MemberState::Rebuilding;
            });
        }
        assert_eq!(asked(&look("a", None, &valid, &views)), "notes-us-0");
        change(&mut views, 0, |it| {
            it.status.as_mut().expect("a status").members[0].ready = false;
        });
        let none = look("a", None, &valid, &views);
        assert!(none.asked.is_none());
        assert!(none.answer.expect("why").problem.contains("caught up"));
    }

    #[test]
    fn a_word_is_a_request_until_its_answer_is_in_the_status() {
        let (valid, mut views) = well();
        let first = look("a", None, &valid, &views);
        let mut plan: Plan = plan::plan(&valid, &views, &Issued::default(), "synod.local");
        plan.ask(first.asked.clone().expect("somebody is asked"));
        let group = plan
            .groups
            .iter()
            .find(|(it, _)| it == "eu")
            .expect("there");
        let request = group.1.snapshot.clone();
        change(&mut views, 1, |it| it.spec.snapshot = request);
        // The leader moves; who was asked stays so.
        for at in 0..3 {
            change(&mut views, at, |it| {
                let one = &mut it.status.as_mut().expect("a status").members[0];
                one.leader = "notes-eu-0".to_owned();
            });
        }
        assert_eq!(look("a", None, &valid, &views), first);
        let answer = SnapshotAnswer {
            word: "a".to_owned(),
            member: "notes-eu-0".to_owned(),
            slot: Some(12),
            problem: String::new(),
        };
        let said = answer.clone();
        change(&mut views, 1, |it| {
            it.status.as_mut().expect("a status").snapshot = Some(said);
        });
        let found = look("a", None, &valid, &views);
        assert_eq!(found.answer.as_ref(), Some(&answer));
        assert_eq!(found.asked, first.asked, "it is forgotten no earlier");
        assert_eq!(look("a", Some(&answer), &valid, &views), Outcome::default());
        assert_eq!(
            asked(&look("b", Some(&answer), &valid, &views)),
            "notes-us-0"
        );
    }

    #[test]
    fn without_a_method_or_a_group_nobody_is_asked() {
        let (mut valid, views) = well();
        assert_eq!(look("", None, &valid, &views), Outcome::default());
        valid.spec.state.snapshot.kind = SnapshotType::None;
        let found = look("a", None, &valid, &views);
        assert!(found.asked.is_none());
        assert!(
            found
                .answer
                .expect("why")
                .problem
                .contains("spec.state.snapshot")
        );
        valid.roster.formed = Formed::No;
        assert_eq!(look("a", None, &valid, &views), Outcome::default());
    }
}
