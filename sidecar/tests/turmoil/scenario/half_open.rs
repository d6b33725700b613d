//! Connections between members that lose a piece of their stream and do not end: neither side hears
//! anything of it, and nothing that is sent on them arrives any more.

use std::time::Duration;

use tokio::time::sleep;

use crate::group::{self, Group, Setting, name};
use crate::load::{Kind, Load};

/// As long as packets are lost.
const LOST: Duration = Duration::from_millis(300);
/// After that a member that was cut off so has all that was chosen, at most.
const BACK: Duration = Duration::from_secs(3);
/// Longest wait of a client at a member that was not.
const WAIT: Duration = Duration::from_secs(1);

pub(crate) fn run(seed: u64) -> turmoil::Result<String> {
    group::run(Setting::new(seed), scenario)
}

async fn scenario(group: Group) -> String {
    let mut said = Vec::new();
    for oneway in [None, Some(true), Some(false)] {
        let leader = group.until_led().await;
        let followers = group.followers();
        let (other, follower) = (followers[0], followers[1]);
        let entrances = group.entrances();
        let prefix = match oneway {
            None => "both",
            Some(true) => "there",
            Some(false) => "back",
        };
        let whole = [entrances[leader - 1].clone(), entrances[other - 1].clone()];
        let load = Load::start(&whole, Kind::small(prefix, 4));
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
        load.more(50, Duration::from_secs(5)).await;
        let slowest = load.tally().slowest();
        assert!(slowest < WAIT, "{prefix}: {slowest:?}");
        load.finish(&group).await;
        said.push(format!("{prefix}: back after {back:?}, slowest {slowest:?}"));
    }
    said.join("; ")
}
