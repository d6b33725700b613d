//! Connections between members that are dead, and of which neither side was told so.

use std::time::Duration;

use tokio::time::sleep;

use crate::group::{self, Group, Setting, entrance, name};
use crate::load::{Kind, Load};

/// As long as packets are lost.
const LOST: Duration = Duration::from_millis(300);
/// After that a member that was cut off so has all that was chosen, at most.
const BACK: Duration = Duration::from_secs(3);
/// Longest wait of a client at a member that was not.
const WAIT: Duration = Duration::from_secs(1);

/// For both sides to give up a connection that is dead.
const GIVEN_UP: Duration = Duration::from_secs(10);

/// Packets are lost for a moment: what was sent on the old connections since then never arrives.
pub(crate) fn lost(seed: u64) -> turmoil::Result<String> {
    group::run(Setting::new(seed), loses)
}

async fn loses(group: Group) -> String {
    let mut said = Vec::new();
    for oneway in [None, Some(true), Some(false)] {
        let leader = group.until_led().await;
        let followers = group.followers();
        let (other, follower) = (followers[0], followers[1]);
        let prefix = match oneway {
            None => "both",
            Some(true) => "there",
            Some(false) => "back",
        };
        let load = Load::start(&[entrance(leader)], Kind::small(prefix, 4));
        load.more(50, Duration::from_secs(5)).await;
        load.forget_times();
        match oneway {
            None => turmoil::partition(name(leader), name(follower)),
            Some(true) => turmoil::partition_oneway(name(leader), name(follower)),
            Some(false) => turmoil::partition_oneway(name(follower), name(leader)),
        }
        sleep(LOST).await;
        turmoil::repair(name(leader), name(follower));
        let commit = group.running(leader).node.status().borrow().commit;
        let back = group
            .until("the follower is back", || {
                group.running(follower).apply.status().borrow().applied >= commit
            })
            .await;
        assert!(back < BACK, "{prefix}: {back:?}");
        sleep(BACK.saturating_sub(back)).await;
        // From now on nothing goes on without it.
        turmoil::partition(name(leader), name(other));
        load.more(50, Duration::from_secs(5)).await;
        let slowest = load.tally().slowest();
        assert!(slowest < WAIT, "{prefix}: {slowest:?}");
        turmoil::repair(name(leader), name(other));
        load.finish(&group).await;
        said.push(format!(
            "{prefix}: back after {back:?}, slowest {slowest:?}"
        ));
    }
    said.join("; ")
}

/// Something in between forgets the connections that there are, and says so to nobody.
pub(crate) fn silent(seed: u64) -> turmoil::Result<String> {
    group::run(Setting::relayed(seed), falls_silent)
}

async fn falls_silent(group: Group) -> String {
    let leader = group.until_led().await;
    let followers = group.followers();
    let (other, follower) = (followers[0], followers[1]);
    let whole = [entrance(leader), entrance(other)];
    let load = Load::start(&whole, Kind::small("a", 4));
    load.more(50, Duration::from_secs(5)).await;
    load.forget_times();
    let lines = [
        group.between(leader, follower),
        group.between(follower, leader),
    ];
    let silent: u32 = lines.iter().map(|it| it.silence()).sum();
    assert!(silent >= 6, "only {silent} connections");
    let commit = group.running(leader).node.status().borrow().commit;
    let back = group
        .until("the follower is back", || {
            group.running(follower).apply.status().borrow().applied > commit
        })
        .await;
    assert!(back < BACK, "{back:?}");
    let given_up = || -> u32 { lines.iter().map(|it| it.given_up()).sum() };
    let all = group
        .until("both sides give up", || given_up() == 2 * silent)
        .await;
    assert!(back + all < GIVEN_UP, "{all:?}");
    let tally = load.finish(&group).await;
    let slowest = tally.slowest();
    assert!(slowest < WAIT, "{slowest:?}");
    let all = back + all;
    format!(
        "{silent} connections given up within {all:?}; back after {back:?}, slowest {slowest:?}"
    )
}
