//! A revision of the app that is to run along silently: on which member it is started next. One at a time,
//! the leader last, and never on the last copy that answers. When half of the copies run it, it takes over by
//! the leader's own rule, and the others follow as their sidecars say.

use synod_sidecar::admin::status::Status;

/// A copy that is not further behind has caught up.
const NEAR_SLOTS: u64 = 1_024;

/// The member whose app is to be ended and started as that revision, if it is time for one. `members`: by
/// number, with what each says of itself; `None`: it does not answer.
pub(super) fn next<'a>(
    members: impl IntoIterator<Item = (u32, &'a str, Option<&'a Status>)>,
) -> Option<(u32, u64)> {
    let all: Vec<_> = members.into_iter().collect();
    let heard = || {
        let heard = all.iter();
        heard.filter_map(|(number, name, status)| Some((*number, *name, (*status)?)))
    };
    // Whoever leads knows best what there is.
    let leader = heard().find(|(_, name, status)| status.leader.as_deref() == Some(*name))?;
    let (_, leading, of_leader) = leader;
    let silent = of_leader.revision.silent?;
    if heard().any(|(.., it)| it.revision.disagreement.is_some()) {
        return None;
    }
    let copies = || heard().filter(|(.., it)| it.role != "Witness");
    let runs_along = |it: &Status| it.revision.due == silent;
    let caught_up = |it: &Status| {
        it.revision.running == Some(silent) && it.applied + NEAR_SLOTS >= of_leader.commit
    };
    let along = copies().filter(|(.., it)| runs_along(it)).count();
    let others = all.iter().filter(|(.., it)| it.is_none());
    let count = copies().count() + others.count();
    if 2 * along >= count || copies().any(|(.., it)| runs_along(it) && !caught_up(it)) {
        return None;
    }
    let answers = |it: &Status| it.serving && !runs_along(it);
    if copies().filter(|(.., it)| answers(it)).count() < 2 {
        return None;
    }
    let able = copies().filter(|(.., it)| answers(it) && it.revision.may == Some(silent));
    let best = able.min_by_key(|(number, name, _)| (*name == leading, *number));
    best.map(|(number, ..)| (number, silent))
}

#[cfg(test)]
mod tests {
    use synod_sidecar::admin::status::{Disagreement, Revision};

    use super::*;

    /// Of revision 0, with the state that revision 1 begins with.
    fn old() -> Status {
        Status {
            role: "Voter".into(),
            leader: Some("notes-1".into()),
            serving: true,
            applied: 5_000,
            commit: 5_000,
            revision: Revision {
                running: Some(0),
                newest: 1,
                silent: Some(1),
                may: Some(1),
                unfinished: true,
                ..Revision::default()
            },
            ..Status::default()
        }
    }

    fn along(applied: u64) -> Status {
        let mut status = old();
        status.serving = false;
        status.applied = applied;
        (status.revision.running, status.revision.due) = (Some(1), 1);
        status
    }

    fn changed(change: impl FnOnce(&mut Status)) -> Status {
        let mut status = old();
        change(&mut status);
        status
    }

    fn of(statuses: &[Option<Status>]) -> Option<(u32, u64)> {
        let names: Vec<String> = (1..=statuses.len())
            .map(|it| format!("notes-{it}"))
            .collect();
        let members = (1..).zip(&names).zip(statuses);
        next(members.map(|((number, name), status)| (number, name.as_str(), status.as_ref())))
    }

    #[test]
    fn followers_go_first_one_at_a_time_until_half_of_the_copies_run_along() {
        let some = |all: &[Status]| all.iter().cloned().map(Some).collect::<Vec<_>>();
        for (statuses, expected) in [
            (some(&[old(), old(), old()]), Some((2, 1))),
            (some(&[old(), along(0), old()]), None),
            (some(&[old(), along(5_000), old()]), Some((3, 1))),
            (some(&[old(), along(5_000), along(5_000)]), None),
            (some(&[old(), old()]), Some((2, 1))),
            (some(&[old(), along(5_000)]), None),
            (some(&[old()]), None),
        ] {
            assert_eq!(of(&statuses), expected);
        }
    }

    #[test]
    fn nobody_is_taken_whose_copy_is_the_last_that_answers_or_has_not_what_it_needs() {
        let down = changed(|it| it.serving = false);
        assert_eq!(of(&[Some(old()), Some(down.clone()), None]), None);
        let lacks = changed(|it| it.revision.may = None);
        let leads = [old(), lacks.clone(), lacks.clone()].map(Some);
        assert_eq!(of(&leads), Some((1, 1)), "the leader, if nobody else can");
        assert_eq!(of(&[Some(old()), Some(lacks), Some(old())]), Some((3, 1)));
        // One that is being started.
        let mut starts = along(0);
        starts.revision.running = None;
        assert_eq!(of(&[Some(old()), Some(starts), Some(old())]), None);
    }

    #[test]
    fn a_disagreement_stops_it_and_so_does_the_end_of_the_change() {
        let stopped = changed(|it| it.revision.disagreement = Some(Disagreement::default()));
        assert_eq!(of(&[Some(old()), Some(stopped), Some(old())]), None);
        let over = changed(|it| it.revision.silent = None);
        let all = [over, old(), old()].map(Some);
        assert_eq!(of(&all), None);
    }
}
