//! Certificates that end, and that are renewed while the group is at work.

use std::time::Duration;

use tokio::time::sleep;

use crate::authority::Authority;
use crate::group::{self, Group, LONG, Setting, entrances, name, pairs};
use crate::load::{Kind, Load};

/// How long a certificate lasts that is to end.
const LASTS: Duration = Duration::from_secs(12);
/// For members to look at their files, and a little more.
const NOTICED: Duration = Duration::from_secs(4);
/// After which everybody has heard of what is new.
const WITHIN: Duration = Duration::from_secs(8);

pub(crate) fn expiry(seed: u64) -> turmoil::Result<String> {
    let setting = Setting {
        third_lasts: LASTS,
        ..Setting::new(seed)
    };
    group::run(setting, expires)
}

async fn expires(group: Group) -> String {
    let load = Load::start(&entrances()[..2], Kind::small("a", 4));
    load.more(50, WITHIN).await;
    let applied = |number| group.running(number).apply.status().borrow().applied;
    assert!(
        turmoil::sim_elapsed().expect("simulated") < LASTS,
        "too late"
    );
    while turmoil::sim_elapsed().expect("simulated") < LASTS + Duration::from_secs(2) {
        sleep(Duration::from_millis(100)).await;
    }
    let kept_out = applied(3);
    load.forget_times();
    load.more(200, WITHIN).await;
    assert_eq!(
        applied(3),
        kept_out,
        "it is told of what comes after its certificate has ended"
    );
    let words = "its certificate has expired: renew it, or set the clocks";
    assert!(
        group.log().contains(words),
        "nobody says why:\n{}",
        group.log()
    );
    let words = "it says that our certificate has expired: renew it, or set the clocks";
    assert!(
        group.log().contains(words),
        "it does not know why:\n{}",
        group.log()
    );

    group.issue(3, LONG);
    let goal = applied(1);
    let back = group.until("it comes back", || applied(3) >= goal).await;
    assert!(back < WITHIN, "only after {back:?}");
    let tally = load.finish(&group).await;
    let slowest = tally.slowest();
    assert!(
        slowest < Duration::from_secs(2),
        "{slowest:?}; {:?}",
        tally.failures()
    );
    let lines = tally.acknowledged();
    format!("{lines} lines without it, the slowest in {slowest:?}; back after {back:?}")
}

pub(crate) fn rotation(seed: u64) -> turmoil::Result<String> {
    let setting = Setting {
        all_last: LASTS,
        ..Setting::relayed(seed)
    };
    group::run(setting, rotates)
}

/// First each member gets a new certificate; the links of the old ones end with them. Then the authority
/// itself is another, in the three steps that this takes.
async fn rotates(group: Group) -> String {
    let load = Load::start(&entrances(), Kind::small("a", 6));
    load.more(50, WITHIN).await;
    for number in 1..=3 {
        group.issue(number, LONG);
        sleep(Duration::from_secs(1)).await;
    }
    assert!(
        turmoil::sim_elapsed().expect("simulated") < LASTS,
        "too late"
    );
    let connections = || -> u32 {
        pairs()
            .map(|(from, to)| group.between(from, to).connections())
            .sum()
    };
    let before = connections();
    while turmoil::sim_elapsed().expect("simulated") < LASTS + Duration::from_secs(2) {
        sleep(Duration::from_millis(100)).await;
    }
    let renewed = connections() - before;
    assert!(
        renewed >= 18,
        "{renewed} connections made: not all links ended with their certificates"
    );

    let (old, new) = (group.authority(), Authority::new());
    for (issuer, trusted) in [
        (old, vec![old, &new]),
        (&new, vec![old, &new]),
        (&new, vec![&new]),
    ] {
        for number in 1..=3 {
            issuer.issue(&group.tls(number), &name(number), LONG, &trusted);
        }
        sleep(NOTICED).await;
        for (from, to) in pairs() {
            group.between(from, to).cut_all();
        }
        load.more(100, WITHIN).await;
    }
    let tally = load.finish(&group).await;
    let (slowest, lines) = (tally.slowest(), tally.acknowledged());
    assert_eq!(tally.failures(), [""; 0]);
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert!(
        !group.log().contains("no connection with the peer"),
        "{}",
        group.log()
    );
    format!(
        "{renewed} connections renewed, {lines} lines and none failed, the slowest in {slowest:?}"
    )
}
