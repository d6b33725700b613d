//! Who makes the next snapshot, and who gets one from whom. Pure: from what members have reported,
//! so that everybody who asks with the same reports gets the same answer.
//!
//! A member cuts its log only behind a snapshot in its own store (rule W5), so each member that runs
//! the app needs one of its own from time to time. Followers make theirs, one after another, the
//! one whose newest is the oldest first. The leader gets a copy of a follower's, so that it never
//! stands still; it makes one only when no follower can (rule N1).

use std::cmp::Reverse;

use synod_mutant::{Mutant, planted};
use synod_paxos::{Configuration, MemberId, Role, Slot};

use super::head::SnapshotId;
use super::store::Standing;

/// When a member's next snapshot is due: whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// After this many slots, at least 1.
    pub slots: u64,
    /// After this much log, in bytes.
    pub log_bytes: u64,
}

/// What a member that runs the answering revision of the app, or a witness, has reported of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Who.
    pub member: MemberId,
    /// It runs no app: what it lacks is all that counts of it.
    pub witness: bool,
    /// It leads.
    pub leads: bool,
    /// Its copy follows the log: it is neither rebuilt, nor quarantined, nor far behind.
    pub healthy: bool,
    /// All slots up to here are done by its copy.
    pub applied: Slot,
    /// The newest snapshot in its store, whatever its standing; 0: none.
    pub newest: Slot,
    /// The newest usable snapshot in its store; 0: none.
    pub newest_usable: Slot,
    /// Size of its log behind the newest snapshot, in bytes.
    pub log_bytes: u64,
    /// It makes, gets or sends one now.
    pub busy: bool,
    /// It can go on only with one of this slot or a later one, which it does not have; 0: it can.
    pub lacks: Slot,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// This member makes a snapshot.
    Make(MemberId),
    /// The leader gets the newest usable snapshot of a follower.
    Copy {
        /// The leader.
        to: MemberId,
        /// The follower.
        from: MemberId,
    },
}

/// A snapshot that another member offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Who offers it.
    pub member: MemberId,
    /// It leads.
    pub leads: bool,
    /// As in [`Report`].
    pub healthy: bool,
    /// It makes, gets or sends one now.
    pub busy: bool,
    /// Which.
    pub id: SnapshotId,
    /// Its slot.
    pub slot: Slot,
    /// Whether its slots were compared.
    pub standing: Standing,
}

/// Up to where a witness may forget its log, or begin behind what it never had (rule W5): what enough members
/// that run the app have in snapshots of their own. `newest`: of a member the newest usable one, 0 if it has
/// none or is not heard.
///
/// Enough is a majority of those that run the app, and of the voters among them one more than the votes that
/// may be lost ([`Configuration::enough_copies`]): whatever is lost, one of these is left, or the log.
pub fn held(configuration: &Configuration, newest: impl Fn(MemberId) -> Slot) -> Slot {
    let had_by = |enough: usize, counts: fn(Role) -> bool| {
        let members = configuration.members.iter();
        let members = members.filter(|it| counts(it.role));
        let mut slots: Vec<Slot> = members.map(|it| newest(it.id)).collect();
        slots.sort_unstable_by(|a, b| b.cmp(a));
        let last = slots.get(enough.wrapping_sub(1));
        last.copied().unwrap_or_default()
    };
    let runs_app = |role: Role| role != Role::Witness;
    let copies = configuration.members.iter();
    let copies = copies.filter(|it| runs_app(it.role)).count();
    let by_most = had_by(copies / 2 + 1, runs_app);
    let by_voters = had_by(configuration.enough_copies(), |role| role == Role::Voter);
    if planted(Mutant::MajorityOfCopiesIsEnough) {
        return by_most;
    }
    by_most.min(by_voters)
}

/// Whose turn it is; `None`: nobody's, or somebody is at it.
pub fn next_turn(reports: &[Report], due: Due) -> Option<Turn> {
    let copies = || reports.iter().filter(|it| !it.witness);
    if copies().any(|it| it.busy) {
        return None;
    }
    // Of what a copy lacks, one is enough.
    let lacked = copies().map(|it| it.lacks).max().unwrap_or_default();
    let is_lacked = copies().all(|it| it.newest < lacked);
    // A witness begins behind what enough copies have (rule W5): each of them is to have it.
    let witnesses = reports.iter().filter(|it| it.witness);
    let waited_for = witnesses.map(|it| it.lacks).max().unwrap_or_default();
    let followers = || copies().filter(|it| !it.leads && it.healthy);
    let makes = |it: &Report| !it.leads || followers().next().is_none();
    let is_due = |it: &&Report| {
        let helps = is_lacked && it.applied >= lacked && makes(it);
        let behind = it.applied.0.saturating_sub(it.newest.0);
        let lets_in = it.newest < waited_for && it.applied >= waited_for;
        helps || lets_in || behind >= due.slots || it.log_bytes >= due.log_bytes
    };
    // Not twice at one slot.
    let able = copies().filter(|it| it.healthy && it.applied > it.newest);
    let mut waiting: Vec<&Report> = able.filter(is_due).collect();
    waiting.sort_by_key(|it| (it.newest, it.member));
    waiting.into_iter().find_map(|it| {
        if makes(it) {
            return Some(Turn::Make(it.member));
        }
        // Only what takes the leader further; else the next one's turn is now.
        let newer = followers().filter(|from| from.newest_usable > it.newest);
        let from = newer.max_by_key(|from| (from.newest_usable, Reverse(from.member)))?;
        Some(Turn::Copy {
            to: it.member,
            from: from.member,
        })
    })
}

/// The best of what is offered to a member whose log must go on behind a snapshot: the group still
/// has the log from `log_first` on, and `partial` has come in part already. An unverified one only
/// if no verified one reaches the log; then healthy members before others, followers before the
/// leader, idle ones before busy ones, what has come in part, and the newest.
pub fn best_source(
    sources: &[Source],
    log_first: Slot,
    partial: Option<SnapshotId>,
) -> Option<Source> {
    let reaches = |it: &&Source| it.standing.usable() && it.slot.0 >= log_first.0.saturating_sub(1);
    let rank = |it: &&Source| {
        (
            it.standing == Standing::Verified,
            it.healthy,
            !it.leads,
            !it.busy,
            Some(it.id) == partial,
            it.slot,
            Reverse(it.member),
        )
    };
    sources.iter().filter(reaches).max_by_key(rank).copied()
}

#[cfg(test)]
mod tests {
    use synod_paxos::{Epoch, Incarnation, Member, Quorums};

    use super::*;

    const DUE: Due = Due {
        slots: 100,
        log_bytes: 1_000,
    };

    /// A healthy follower whose newest snapshot is usable.
    fn report(member: u32, applied: u64, newest: u64) -> Report {
        Report {
            member: MemberId(member),
            witness: false,
            leads: false,
            healthy: true,
            applied: Slot(applied),
            newest: Slot(newest),
            newest_usable: Slot(newest),
            log_bytes: 0,
            busy: false,
            lacks: Slot(0),
        }
    }

    fn leader(member: u32, applied: u64, newest: u64) -> Report {
        Report {
            leads: true,
            ..report(member, applied, newest)
        }
    }

    fn make(member: u32) -> Turn {
        Turn::Make(MemberId(member))
    }

    #[test]
    fn w5_a_witness_forgets_what_enough_copies_have_in_snapshots() {
        let held = |roles: &[Role], newest: &[u64]| {
            let members = roles.iter().zip(1..).map(|(role, id)| Member {
                id: MemberId(id),
                name: format!("notes-{id}"),
                incarnation: Incarnation(id.into()),
                role: *role,
                region: String::new(),
            });
            let configuration = Configuration {
                epoch: Epoch(1),
                members: members.collect(),
                quorums: Quorums::Majority,
                first_leader: MemberId(0),
            };
            held(&configuration, |it| Slot(newest[it.0 as usize - 1])).0
        };
        let (v, o, w) = (Role::Voter, Role::Observer, Role::Witness);
        assert_eq!(held(&[v, v, w], &[30, 20, 99]), 20, "either may be lost");
        assert_eq!(held(&[v, v, w], &[30, 0, 99]), 0);
        assert_eq!(
            held(&[v, v, o, w], &[10, 30, 20, 0]),
            10,
            "an observer has no vote"
        );
        assert_eq!(held(&[v, v, o, o, w], &[30, 30, 20, 0, 0]), 20, "3 of 4");
        assert_eq!(
            held(&[v, v, v, v, w], &[10, 30, 20, 40, 0]),
            20,
            "two may be lost"
        );
        // Of five votes two may be lost: a majority of the copies is not enough, since if it is those two
        // that go, one copy and two witnesses are a quorum.
        assert_eq!(held(&[v, v, v, w, w], &[10, 30, 20, 0, 0]), 10);
        // Whoever loses the only copy has lost its state, whatever a witness has.
        assert_eq!(held(&[v, w, w], &[10, 0, 0]), 10);
        assert_eq!(held(&[w], &[7]), 0);
    }

    #[test]
    fn nothing_is_due_before_its_time() {
        let reports = [leader(1, 99, 0), report(2, 99, 0), report(3, 99, 0)];
        assert_eq!(next_turn(&reports, DUE), None);
        assert_eq!(next_turn(&[], DUE), None);
    }

    #[test]
    fn it_is_due_after_so_many_slots_or_so_much_log() {
        let mut reports = [leader(1, 100, 0), report(2, 99, 0), report(3, 100, 0)];
        assert_eq!(next_turn(&reports, DUE), Some(make(3)));
        reports[2].applied = Slot(99);
        reports[1].log_bytes = 1_000;
        assert_eq!(next_turn(&reports, DUE), Some(make(2)));
    }

    #[test]
    fn what_a_member_lacks_is_made_at_once_by_one_that_can() {
        let mut reports = [leader(1, 50, 5), report(2, 50, 10), report(3, 50, 12)];
        assert_eq!(next_turn(&reports, DUE), None);
        reports[2].lacks = Slot(12);
        reports[2].healthy = false;
        reports[2].newest = Slot(0);
        assert_eq!(next_turn(&reports, DUE), Some(make(2)));
        reports[1].newest = Slot(50);
        assert_eq!(next_turn(&reports, DUE), None, "it is being compared");
        reports[1].newest = Slot(10);
        reports[2].lacks = Slot(51);
        assert_eq!(next_turn(&reports, DUE), None, "nobody has come so far");
        reports[2].lacks = Slot(12);
        reports[1].healthy = false;
        assert_eq!(next_turn(&reports, DUE), Some(make(1)));
    }

    #[test]
    fn w5_what_a_witness_waits_for_is_made_by_each_copy_though_nothing_is_due() {
        let mut reports = vec![leader(1, 50, 5), report(2, 50, 10), report(3, 50, 40)];
        reports.push(Report {
            witness: true,
            healthy: false,
            busy: true,
            ..report(4, 0, 0)
        });
        assert_eq!(next_turn(&reports, DUE), None);
        reports[3].lacks = Slot(40);
        let of = |from| Turn::Copy {
            to: MemberId(1),
            from: MemberId(from),
        };
        assert_eq!(next_turn(&reports, DUE), Some(of(3)));
        reports[0] = leader(1, 50, 40);
        assert_eq!(next_turn(&reports, DUE), Some(make(2)));
        reports[1] = report(2, 50, 50);
        assert_eq!(next_turn(&reports, DUE), None, "each has it");
        reports[3].lacks = Slot(51);
        assert_eq!(next_turn(&reports, DUE), None, "nobody has come so far");
    }

    #[test]
    fn no_second_one_is_made_of_the_same_slot() {
        let mut one = report(2, 500, 500);
        one.log_bytes = 5_000;
        assert_eq!(next_turn(&[one], DUE), None);
    }

    #[test]
    fn followers_take_turns_and_the_order_of_the_reports_means_nothing() {
        let mut reports = vec![leader(1, 0, 0), report(2, 0, 0), report(3, 0, 0)];
        let mut makers = Vec::new();
        for applied in (0..1000).step_by(50) {
            for report in &mut reports {
                report.applied = Slot(applied);
            }
            let turn = next_turn(&reports, DUE);
            reports.reverse();
            assert_eq!(next_turn(&reports, DUE), turn);
            match turn {
                Some(Turn::Make(member)) => {
                    makers.push(member.0);
                    let maker = reports.iter_mut().find(|it| it.member == member).unwrap();
                    maker.newest = maker.applied;
                    maker.newest_usable = maker.applied;
                }
                Some(Turn::Copy { to, from }) => {
                    assert_eq!(to, MemberId(1));
                    let newest = reports.iter().find(|it| it.member == from).unwrap().newest;
                    let to = reports.iter_mut().find(|it| it.member == to).unwrap();
                    (to.newest, to.newest_usable) = (newest, newest);
                }
                None => {}
            }
        }
        assert!(makers.len() >= 9);
        assert!(makers.chunks_exact(2).all(|it| it == [2, 3]), "{makers:?}");
        assert!(
            reports.iter().all(|it| it.newest >= Slot(700)),
            "{reports:?}"
        );
    }

    #[test]
    fn one_at_a_time() {
        let mut reports = [leader(1, 500, 0), report(2, 500, 0), report(3, 500, 0)];
        for busy in 0..3 {
            reports[busy].busy = true;
            assert_eq!(next_turn(&reports, DUE), None);
            reports[busy].busy = false;
        }
        assert_eq!(next_turn(&reports, DUE), Some(make(2)));
    }

    #[test]
    fn the_leader_makes_none_while_a_follower_can() {
        let mut reports = [leader(1, 500, 0), report(2, 500, 450), report(3, 500, 440)];
        let copy = Turn::Copy {
            to: MemberId(1),
            from: MemberId(2),
        };
        assert_eq!(next_turn(&reports, DUE), Some(copy));
        // Theirs are still to be compared: the leader waits.
        for follower in &mut reports[1..] {
            follower.newest_usable = Slot(0);
        }
        assert_eq!(next_turn(&reports, DUE), None);
        for follower in &mut reports[1..] {
            follower.healthy = false;
        }
        assert_eq!(next_turn(&reports, DUE), Some(make(1)));
        assert_eq!(next_turn(&[leader(1, 100, 0)], DUE), Some(make(1)));
    }

    // === sources ===

    fn source(member: u32, slot: u64) -> Source {
        Source {
            member: MemberId(member),
            leads: false,
            healthy: true,
            busy: false,
            id: SnapshotId([u8::try_from(slot).unwrap(); 32]),
            slot: Slot(slot),
            standing: Standing::Verified,
        }
    }

    fn best(sources: &[Source], log_first: u64) -> Option<u32> {
        let best = best_source(sources, Slot(log_first), None);
        let mut reversed = sources.to_vec();
        reversed.reverse();
        assert_eq!(best_source(&reversed, Slot(log_first), None), best);
        best.map(|it| it.member.0)
    }

    #[test]
    fn only_what_reaches_the_log_is_of_use() {
        let sources = [source(1, 10), source(2, 20)];
        assert_eq!(best(&sources, 21), Some(2));
        assert_eq!(best(&sources, 22), None);
        assert_eq!(best(&[], 1), None);
        // A peer may say anything.
        let mut last = source(3, 1);
        last.slot = Slot(u64::MAX);
        assert_eq!(best(&[last], 21), Some(3));
    }

    #[test]
    fn an_unverified_one_is_taken_only_if_no_verified_one_reaches_the_log() {
        let mut sources = [source(1, 10), source(2, 20), source(3, 30)];
        sources[1].standing = Standing::Unverified;
        sources[2].standing = Standing::Uncompared;
        sources[0].healthy = false;
        assert_eq!(best(&sources, 5), Some(1));
        assert_eq!(best(&sources, 12), Some(2));
        assert_eq!(best(&sources, 25), None);
    }

    #[test]
    fn the_healthiest_comes_first_and_the_leader_last() {
        let mut sources = [source(1, 30), source(2, 20), source(3, 10)];
        sources[0].leads = true;
        assert_eq!(best(&sources, 5), Some(2));
        sources[1].busy = true;
        assert_eq!(best(&sources, 5), Some(3));
        sources[1].healthy = false;
        sources[2].healthy = false;
        assert_eq!(best(&sources, 5), Some(1));
        assert_eq!(best(&[source(2, 10), source(1, 10)], 5), Some(1));
    }

    #[test]
    fn what_has_come_in_part_is_not_begun_anew() {
        let sources = [source(1, 10), source(2, 20)];
        let partial = Some(sources[0].id);
        let best = best_source(&sources, Slot(5), partial);
        assert_eq!(best.unwrap().member, MemberId(1));
    }
}
