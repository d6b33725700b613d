//! Connections that end at any byte: between members, with clients, with the app.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use crate::app::Break;
use crate::client;
use crate::group::{self, Group, Setting, entrances, pairs};
use crate::load::{Kind, Load};
use crate::relay::{Cut, Way};

/// Longest wait of a client of all that a scenario does to members.
const WAIT: Duration = Duration::from_secs(3);
/// Lanes of a link.
const LANES: usize = 3;

/// Where a dialler's bytes end: nowhere, in its first message of TLS (219 bytes), in what proves its name
/// (up to 820), as HTTP/2 begins (up to 930), in its call and hello (up to 1,150), and among messages.
const FROM_DIALLER: [u64; 13] = [
    0, 1, 120, 219, 500, 819, 830, 880, 950, 1_060, 1_160, 2_500, 10_000,
];
/// The same of a listener: it proves its name with up to 817 bytes, has said hello after 1,070, and sends
/// no messages.
const FROM_LISTENER: [u64; 10] = [0, 1, 60, 130, 400, 780, 830, 880, 930, 1_040];
/// So many records of TLS pass before a dialler proves its name, before it begins with HTTP/2, and before
/// it sends messages.
const STEPS_OF_DIALLER: [u32; 3] = [1, 3, 7];
/// And before a listener does.
const STEPS_OF_LISTENER: [u32; 2] = [2, 3];

pub(crate) fn of_members(seed: u64) -> turmoil::Result<String> {
    group::run(Setting::relayed(seed), move |group| members(group, seed))
}

async fn members(group: Group, seed: u64) -> String {
    let mut random = StdRng::seed_from_u64(seed);
    let load = Load::start(&entrances(), Kind::small("a", 4));
    load.more(20, WAIT).await;
    load.forget_times();
    let there = FROM_DIALLER.map(|it| (Way::There, it));
    let back = FROM_LISTENER.map(|it| (Way::Back, it));
    for (way, after) in there.into_iter().chain(back) {
        let after = after + random.random_range(0..=after / 50);
        // Among messages only who sends some can be cut off: the leader.
        let leader = group.until_led().await;
        let mut lines: Vec<_> = pairs().filter(|(from, _)| *from == leader).collect();
        if after < 2_000 {
            lines = pairs().collect();
        }
        let (from, to) = lines[random.random_range(0..lines.len())];
        let line = group.between(from, to);
        let before = line.cuts().len();
        (0..LANES).for_each(|_| line.cut_next(Cut { way, after }));
        line.cut_all();
        let what = format!("{way:?} of {from} and {to} is cut after {after}");
        group.until(&what, || line.cuts().len() > before).await;
        line.spare();
        let passed = line.passed(Way::There);
        load.more(5, WAIT).await;
        let what = format!("{from} reaches {to} again");
        let again = group
            .until(&what, || line.passed(Way::There) > passed + 2_000)
            .await;
        assert!(again < Duration::from_secs(5), "{what} after {again:?}");
    }
    let tally = load.finish(&group).await;
    let (slowest, acknowledged) = (tally.slowest(), tally.acknowledged());
    assert!(slowest < WAIT, "{slowest:?}; {:?}", tally.failures());
    let cuts: Vec<_> = pairs()
        .flat_map(|(from, to)| group.between(from, to).cuts())
        .collect();
    for (of, steps) in [
        (Way::There, &STEPS_OF_DIALLER[..]),
        (Way::Back, &STEPS_OF_LISTENER),
    ] {
        let those = cuts.iter().filter(|(way, _)| *way == of);
        let phase = |records: &u32| steps.iter().filter(|it| *it <= records).count();
        let phases: BTreeSet<_> = those.map(|(_, records)| phase(records)).collect();
        assert!(
            phases.len() > steps.len(),
            "not all phases were cut: {cuts:?}"
        );
    }
    let count = cuts.len();
    format!("{count} connections cut, {acknowledged} lines, the slowest in {slowest:?}")
}

/// Bytes behind a line of these, both ways.
const PAD: usize = 20_000;
/// Where a client's bytes end: nowhere, in the head, in the body.
const FROM_CLIENT: [u64; 6] = [0, 1, 40, 300, 6_000, 19_000];
/// Where the answer ends: while it is waited for, in the head, in the body.
const TO_CLIENT: [u64; 6] = [0, 1, 40, 1_000, 6_000, 19_000];

/// How long after its first byte a request is cut off that may be under way or answered by then.
const WAITS_MS: [u64; 6] = [2, 4, 6, 8, 10, 12];

fn request(id: &str, has_key: bool) -> Request<Full<Bytes>> {
    let body = format!("{id} {}", ".".repeat(PAD));
    let mut request = client::request(Method::POST, "/lines", body);
    let fields = request.headers_mut();
    fields.insert("pad", PAD.into());
    if has_key {
        let key = format!("\"{id}\"").parse().expect("ascii");
        fields.insert("idempotency-key", key);
    }
    request
}

pub(crate) fn of_clients(seed: u64) -> turmoil::Result<String> {
    group::run(Setting::new(seed), move |group| clients(group, seed))
}

async fn clients(group: Group, seed: u64) -> String {
    let mut random = StdRng::seed_from_u64(seed);
    let load = Load::start(&entrances(), Kind::small("a", 2));
    let there = FROM_CLIENT.map(|it| (Way::There, it));
    let back = TO_CLIENT.map(|it| (Way::Back, it));
    // Those that came whole, those that did not, and those that may or may not have.
    let (mut whole, mut parts, mut open) = (Vec::new(), Vec::new(), Vec::new());
    for (way, after) in there.into_iter().chain(back) {
        let after = after + random.random_range(0..=after / 10);
        let entrance = random.random_range(1..=3);
        let line = group.to(entrance);
        for has_key in [false, true] {
            let id = format!("{way:?}-{after}-{has_key}");
            let add = || request(&id, has_key);
            let before = line.cuts().len();
            line.cut_next(Cut { way, after });
            let cut = client::send(&line.address(), add()).await;
            assert!(cut.is_err(), "{id}: {cut:?}");
            assert_eq!(line.cuts().len(), before + 1, "{id}");
            if has_key {
                let again = client::send(&group.to(entrance % 3 + 1).address(), add()).await;
                let again = again.expect("answers");
                assert!(again.status.is_success(), "{id}: {again:?}");
                let expected = if way == Way::Back {
                    "replayed"
                } else {
                    "executed"
                };
                assert_eq!(again.outcome, expected, "{id}");
                whole.push(id);
            } else if way == Way::There {
                parts.push(id);
            } else {
                whole.push(id);
            }
        }
    }
    for wait_ms in WAITS_MS {
        let entrance = random.random_range(1..=3);
        let line = group.to(entrance);
        for has_key in [false, true] {
            let id = format!("after-{wait_ms}-ms-{has_key}");
            let address = line.address();
            let sent = client::send(&address, request(&id, has_key));
            let cut = async {
                sleep(Duration::from_millis(wait_ms)).await;
                line.cut_all();
            };
            let (sent, ()) = tokio::join!(sent, cut);
            if sent.is_ok_and(|it| it.status.is_success()) {
                whole.push(id);
            } else if has_key {
                let other = group.to(entrance % 3 + 1).address();
                let again = client::send(&other, request(&id, true)).await;
                assert!(again.is_ok_and(|it| it.status.is_success()), "{id}");
                whole.push(id);
            } else {
                open.push(id);
            }
        }
    }
    load.more(20, WAIT).await;
    let tally = load.finish(&group).await;
    assert_eq!(tally.failures(), [""; 0], "others were not served");
    let lines = group.settled().await;
    for id in &whole {
        let times = lines.iter().filter(|it| *it == id).count();
        assert_eq!(times, 1, "{id}");
    }
    for id in &parts {
        assert!(
            !lines.contains(id),
            "{id} was executed, though not all of it came"
        );
    }
    for id in &open {
        assert!(lines.iter().filter(|it| *it == id).count() <= 1, "{id}");
    }
    assert!(
        open.len() >= 2,
        "too few were cut off while they were under way"
    );
    let (all, beside) = (whole.len() + parts.len() + open.len(), tally.acknowledged());
    format!(
        "{all} requests, {} of them cut while under way; {beside} lines beside them",
        open.len()
    )
}

pub(crate) fn of_the_app(seed: u64) -> turmoil::Result<String> {
    group::run(Setting::new(seed), move |group| app(group, seed))
}

async fn app(group: Group, seed: u64) -> String {
    let mut random = StdRng::seed_from_u64(seed);
    let load = Load::start(&entrances(), Kind::small("a", 4));
    load.more(20, WAIT).await;
    let mut broken = 0;
    for breaks in [Break::BeforeExecution, Break::BeforeAnswer, Break::InAnswer] {
        let first = random.random_range(0..3);
        for number in (0..3).map(|it| (first + it) % 3 + 1) {
            let copy = &group.place(number).copy;
            let (starts, before) = (copy.starts.get(), copy.broken.get());
            copy.breaks.set(Some(breaks));
            let what = format!("{breaks:?} at copy {number}");
            group.until(&what, || copy.broken.get() > before).await;
            let what = format!("copy {number} is made anew after {breaks:?}");
            group
                .until(&what, || {
                    copy.starts.get() > starts
                        && group.running(number).apply.status().borrow().serving
                })
                .await;
            broken += 1;
            load.more(10, WAIT).await;
        }
    }
    let tally = load.finish(&group).await;
    let starts: u32 = (1..=3).map(|it| group.place(it).copy.starts.get()).sum();
    assert_eq!(
        starts,
        3 + broken,
        "a copy is made anew for each, and for nothing else"
    );
    assert_eq!(tally.failures(), [""; 0]);
    let (slowest, acknowledged) = (tally.slowest(), tally.acknowledged());
    assert!(slowest < WAIT, "{slowest:?}");
    format!("{broken} connections broken, {acknowledged} lines, the slowest in {slowest:?}")
}
