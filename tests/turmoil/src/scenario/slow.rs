//! A member behind a slow link.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::group::{self, Group, Setting, entrance};
use crate::load::{Kind, Load};
use crate::relay::{Flow, Way};

/// Bytes a second that the link carries each way.
const CARRIES: u64 = 20_000;
/// How long.
const LASTS: Duration = Duration::from_secs(5);
/// After that it has caught up.
const BACK: Duration = Duration::from_secs(8);
/// By how much a wait differs for reasons of the machine that the test runs on, which writes the logs.
const NOISE: Duration = Duration::from_millis(40);

/// It carries less than the group is sent.
pub(crate) fn narrow(seed: u64) -> turmoil::Result<String> {
    group::run(Setting::relayed(seed), behind_a_narrow_link)
}

async fn behind_a_narrow_link(group: Group) -> String {
    let leader = group.until_led().await;
    let followers = group.followers();
    let (other, slow) = (followers[0], followers[1]);
    let kind = Kind {
        pad: 2_000,
        ..Kind::small("a", 8)
    };
    let fast = [entrance(leader), entrance(other)];
    let load = Load::start(&fast, kind);
    load.more(50, LASTS).await;
    load.forget_times();
    sleep(LASTS / 2).await;
    let (before, lines_before) = (load.tally().percentile(95), load.tally().acknowledged());
    let flows = |flow| {
        for number in [leader, other] {
            for way in [Way::There, Way::Back] {
                group.between(number, slow).set(way, flow);
                group.between(slow, number).set(way, flow);
            }
        }
    };
    flows(Flow::Slow(CARRIES));
    load.forget_times();
    let sent = load.tally().acknowledged();
    sleep(LASTS).await;
    let (beside, lines) = (
        load.tally().percentile(95),
        load.tally().acknowledged() - sent,
    );
    let applied = |number| group.running(number).apply.status().borrow().applied;
    let behind = applied(leader).0 - applied(slow).0;
    assert!(
        behind > 100,
        "the link was not slow: only {behind} slots behind"
    );
    assert!(
        beside < before * 2 + NOISE,
        "{beside:?} beside a slow member, {before:?} without"
    );
    assert!(
        lines > lines_before,
        "{lines} lines, {lines_before} before in half the time"
    );
    flows(Flow::Free);
    let begun = Instant::now();
    let goal = applied(leader);
    group.until("it catches up", || applied(slow) >= goal).await;
    let back = begun.elapsed();
    assert!(back < BACK, "caught up only after {back:?}");
    let tally = load.finish(&group).await;
    let (slowest, failures) = (tally.slowest(), tally.failures());
    assert!(
        slowest < Duration::from_secs(1),
        "{slowest:?}; {failures:?}"
    );
    format!(
        "{behind} slots behind; 95 % of {lines} lines in {beside:?} meanwhile, in {before:?} before; \
         caught up after {back:?}"
    )
}

/// How long each packet takes to the far member and back from there.
const FAR: Duration = Duration::from_millis(250);
/// For a line that a client adds at the far member: to the leader, and back.
const FAR_WRITE: Duration = Duration::from_millis(700);

/// Each packet takes long.
pub(crate) fn far(seed: u64) -> turmoil::Result<String> {
    group::run(Setting::new(seed), far_away)
}

async fn far_away(group: Group) -> String {
    let leader = group.until_led().await;
    let followers = group.followers();
    let (other, far) = (followers[0], followers[1]);
    let near = [entrance(leader), entrance(other)];
    let load = Load::start(&near, Kind::small("near", 8));
    load.more(50, LASTS).await;
    load.forget_times();
    sleep(LASTS / 2).await;
    let before = load.tally().percentile(95);
    for number in [leader, other] {
        group.set_latency(number, far, FAR);
    }
    load.forget_times();
    sleep(LASTS).await;
    let beside = load.tally().percentile(95);
    assert!(
        beside < before * 2 + NOISE,
        "{beside:?} beside a far member, {before:?} without"
    );
    let mut there = Load::start(&[entrance(far)], Kind::small("far", 2));
    there.more(10, LASTS * 2).await;
    let leads = group.leader();
    assert_eq!(leads, Some(leader), "nobody else leads for that");
    there.stop().await;
    // The first ones may find that the copy there has some catching up to do.
    let far_write = there.tally().percentile(50);
    assert!(far_write < FAR_WRITE, "{far_write:?} from far away");
    assert!(far_write > FAR * 2, "{far_write:?}: it was not far away");
    let tally = load.finish(&group).await;
    there.finish(&group).await;
    let slowest = tally.slowest();
    assert!(
        slowest < Duration::from_secs(1),
        "{slowest:?}; {:?}",
        tally.failures()
    );
    format!("95 % in {beside:?}, {before:?} before; half in {far_write:?} from far away")
}
