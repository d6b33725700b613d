//! Of two that ask, and of a leader whose quorum is played by the test.

use synod_paxos::{MemberId, Slot};
use tokio::task::JoinHandle;

use super::*;
use crate::node::handle::Seat;

fn term(round: u64) -> Ballot {
    Ballot {
        epoch: Epoch(1),
        round,
        node: MemberId(1),
    }
}

/// Of a leader that has led for long enough.
fn desk() -> Desk {
    let mut desk = Desk::default();
    desk.lead(term(1));
    desk
}

const BEGAN: u64 = 1_000;
const LATER: u64 = BEGAN + QUIET_MS;

#[test]
fn a_second_holder_is_refused_until_the_first_gives_back_or_its_time_is_over() {
    let mut desk = desk();
    let held = |for_ms| Answer::Held {
        by: "east".to_owned(),
        for_ms,
    };
    assert_eq!(
        desk.acquire(LATER, BEGAN, "east", 500),
        Answer::Granted(500)
    );
    assert_eq!(desk.acquire(LATER + 100, BEGAN, "west", 500), held(400));
    assert!(!desk.release(LATER + 100, "west"), "it is not theirs");
    assert_eq!(desk.acquire(LATER + 499, BEGAN, "west", 500), held(1));
    assert_eq!(
        desk.acquire(LATER + 500, BEGAN, "west", 500),
        Answer::Granted(500)
    );
    assert!(desk.release(LATER + 600, "west"));
    assert!(!desk.release(LATER + 600, "west"), "once");
    assert_eq!(
        desk.acquire(LATER + 600, BEGAN, "east", 500),
        Answer::Granted(500)
    );
}

#[test]
fn who_renews_it_is_never_held_to_less_than_it_was_told() {
    let mut desk = desk();
    desk.acquire(LATER, BEGAN, "east", 1_000);
    assert_eq!(
        desk.acquire(LATER + 10, BEGAN, "east", 20),
        Answer::Granted(20)
    );
    let refused = desk.acquire(LATER + 999, BEGAN, "west", 20);
    assert!(matches!(refused, Answer::Held { for_ms: 1, .. }));
    desk.acquire(LATER + 999, BEGAN, "east", 1_000);
    let refused = desk.acquire(LATER + 1_500, BEGAN, "west", 20);
    assert!(matches!(refused, Answer::Held { for_ms: 499, .. }));
}

#[test]
fn a_new_leader_grants_nothing_for_as_long_as_the_longest_lease_of_an_earlier_one() {
    let mut desk = desk();
    desk.acquire(LATER, BEGAN, "east", LONGEST_MS);
    let began = LATER + 1;
    desk.lead(term(2));
    for now in [began, began + LONGEST_MS, began + QUIET_MS - 1] {
        let for_ms = began + QUIET_MS - now;
        assert_eq!(
            desk.acquire(now, began, "west", 1),
            Answer::Quiet { for_ms }
        );
    }
    desk.lead(term(2));
    assert_eq!(
        desk.acquire(began + QUIET_MS, began, "west", 1),
        Answer::Granted(1)
    );
}

/// Leads for long, in epoch 1.
fn leader() -> (Disruptions, Seat) {
    let (node, seat) = NodeHandle::new();
    seat.status.send_modify(|status| {
        status.member = MemberId(1);
        status.leader = Some(MemberId(1));
        status.epoch = Epoch(1);
        status.promised = term(1);
    });
    (Disruptions::new(node), seat)
}

/// Does this when the leader asks for its confirmation, and then confirms it.
fn confirms(seat: Seat, first: impl FnOnce(&Seat) + Send + 'static) -> JoinHandle<Seat> {
    tokio::spawn(async move {
        loop {
            let readers = seat.desk.pick_up(true).readers;
            if !readers.is_empty() {
                first(&seat);
                for reader in readers {
                    let _ = reader.send(Slot(1));
                }
                return seat;
            }
            seat.desk.left().await;
        }
    })
}

#[tokio::test]
async fn a_leader_that_a_quorum_confirms_grants_at_most_the_longest_lease() {
    let (disruptions, seat) = leader();
    let seat = confirms(seat, |_| {});
    let granted = disruptions.acquire(1, "east", u64::MAX).await;
    assert_eq!(granted.expect("answered"), Answer::Granted(LONGEST_MS));
    let _seat = seat.await.expect("confirmed");
    let other = disruptions.acquire(1, "west", 1).await.expect("answered");
    assert!(matches!(other, Answer::Held { by, .. } if by == "east"));
    assert!(disruptions.release("east").expect("leads"));
}

#[tokio::test(start_paused = true)]
async fn without_a_quorum_there_is_no_token() {
    let (disruptions, _seat) = leader();
    let refused = disruptions.acquire(1, "east", 1_000).await;
    let error = refused.expect_err("nobody confirms");
    assert_eq!(error.code(), tonic::Code::Unavailable);
}

#[tokio::test]
async fn who_has_lost_leadership_or_its_epoch_meanwhile_grants_nothing() {
    let changes: [fn(&mut NodeStatus); 3] = [
        |status| status.leader = Some(MemberId(2)),
        |status| status.promised = term(2),
        |status| status.epoch = Epoch(2),
    ];
    for change in changes {
        let (disruptions, seat) = leader();
        let seat = confirms(seat, move |seat| seat.status.send_modify(change));
        let refused = disruptions.acquire(1, "east", 1_000).await;
        let error = refused.expect_err("not any more");
        assert_eq!(error.code(), tonic::Code::FailedPrecondition);
        seat.await.expect("confirmed");
    }
}

#[tokio::test]
async fn only_the_leader_grants_in_the_epoch_that_was_planned_with_to_somebody_with_a_name() {
    let (disruptions, seat) = leader();
    for (epoch, holder, ttl_ms) in [
        (0, "east", 1),
        (2, "east", 1),
        (1, "", 1),
        (1, "a b", 1),
        (1, "east", 0),
    ] {
        let refused = disruptions.acquire(epoch, holder, ttl_ms).await;
        refused.expect_err(holder);
    }
    seat.status.send_modify(|status| status.leader = None);
    let error = disruptions.acquire(1, "east", 1).await.expect_err("none");
    assert_eq!(error.code(), tonic::Code::FailedPrecondition);
    disruptions.release("east").expect_err("does not lead");
}
