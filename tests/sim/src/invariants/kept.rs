//! W5: whatever votes may be lost, as long as one is left that runs the app, a state is left that the logs that
//! are left go on from.
//!
//! With only copies among the voters that follows from the quorums: whoever has accepted what comes behind a
//! slot has a state of that slot. A witness has none, so it must not forget what a copy may still need.

use synod_paxos::{Configuration, Slot};

use super::Violation;
use super::epochs::{quorums, voters};

/// What a voter has on its disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder {
    /// It has entered the epoch, and its disk is not lost.
    pub(crate) is_there: bool,
    /// It is no witness.
    pub(crate) runs_app: bool,
    /// Of its log.
    pub(crate) base: Slot,
    pub(crate) last: Slot,
    /// Of its newest state; `None`: it has none.
    pub(crate) state: Option<Slot>,
}

/// `holders`: of the voters of this configuration, the only one that counts, in their order. `through`: so
/// far is chosen.
pub(crate) fn kept(
    configuration: &Configuration,
    holders: &[Holder],
    through: Slot,
) -> Result<(), Violation> {
    let votes = voters(configuration).len();
    let (phase1, phase2) = quorums(configuration);
    let losses = votes - phase1.max(phase2);
    let gone = (0u32..1 << votes).filter(|it| it.count_ones() as usize <= losses);
    for gone in gone {
        let is_left = |at: usize| gone & (1 << at) == 0;
        // Who is not there is among the lost.
        if holders
            .iter()
            .enumerate()
            .any(|(at, it)| is_left(at) && !it.is_there)
        {
            continue;
        }
        let left: Vec<&Holder> = holders
            .iter()
            .enumerate()
            .filter_map(|(at, it)| is_left(at).then_some(it))
            .collect();
        // Whoever loses all copies has lost the state.
        if !left.iter().any(|it| it.runs_app) {
            continue;
        }
        let reached = reach(&left);
        if reached.is_none_or(|it| it < through) {
            let text = format!(
                "of {configuration:?} these may be left: {left:?}; with any state they have they get to \
                 {reached:?} of {through}"
            );
            return Err(Violation::new("W5", text));
        }
    }
    Ok(())
}

/// How far the furthest state gets by all their logs.
fn reach(left: &[&Holder]) -> Option<Slot> {
    let mut reached = left.iter().filter_map(|it| it.state).max()?;
    // The furthest state gets at least as far as any other: each log that goes on from one of a slot goes on
    // from all that are not beyond its end.
    loop {
        let on = left.iter().filter(|it| it.base <= reached);
        let furthest = on.map(|it| it.last).max().unwrap_or_default();
        if furthest <= reached {
            return Some(reached);
        }
        reached = furthest;
    }
}

#[cfg(test)]
mod tests {
    use synod_paxos::{Epoch, Incarnation, Member, MemberId, Quorums, Role};

    use super::*;

    fn configuration(roles: &[Role]) -> Configuration {
        let members = roles.iter().zip(1..).map(|(role, number)| Member {
            id: MemberId(number),
            name: format!("notes-{number}"),
            incarnation: Incarnation(number.into()),
            role: *role,
            region: String::new(),
        });
        Configuration {
            epoch: Epoch(1),
            members: members.collect(),
            quorums: Quorums::Majority,
            first_leader: MemberId(0),
        }
    }

    /// State, base and end of a log.
    fn holder(state: Option<u64>, base: u64, last: u64) -> Holder {
        Holder {
            is_there: true,
            runs_app: state.is_some(),
            base: Slot(base),
            last: Slot(last),
            state: state.map(Slot),
        }
    }

    #[test]
    fn a_state_and_logs_that_go_on_from_it_are_left() {
        let (v, w) = (Role::Voter, Role::Witness);
        let three = configuration(&[v, v, w]);
        let behind = |base| {
            [
                holder(Some(90), 80, 99),
                holder(Some(30), 20, 50),
                holder(None, base, 99),
            ]
        };
        assert!(kept(&three, &behind(50), Slot(99)).is_ok());
        let lost = kept(&three, &behind(51), Slot(99)).expect_err("slot 51 may be lost");
        assert_eq!(lost.invariant, "W5");
        // It counts as lost already.
        let mut new = behind(51);
        new[2].is_there = false;
        assert!(kept(&three, &new, Slot(99)).is_ok());
        // Two of five votes.
        let five = configuration(&[v, v, v, w, w]);
        let most = |base| {
            [
                holder(Some(90), 80, 99),
                holder(Some(90), 80, 99),
                holder(Some(30), 20, 50),
                holder(None, base, 99),
                holder(None, base, 99),
            ]
        };
        assert!(kept(&five, &most(50), Slot(99)).is_ok());
        assert!(kept(&five, &most(70), Slot(99)).is_err());
    }
}
