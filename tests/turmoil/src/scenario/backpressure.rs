//! Who does not read holds up who sends to it, and nobody else, and nothing piles up in between.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use synod_sidecar::net::TcpStream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::group::{self, Group, Setting, entrance, entrances};
use crate::load::{Kind, Load};
use crate::relay::{Flow, Way};

/// What would be sent if nobody were held up, in bytes.
const MUCH: u64 = 64 << 20;
/// What may be on its way from end to end, most of which the simulated sockets hold.
const ON_ITS_WAY: u64 = 16 << 20;
/// Longest wait of anybody else.
const WAIT: Duration = Duration::from_secs(1);

pub(crate) fn of_a_client(seed: u64) -> turmoil::Result<String> {
    group::run(Setting::new(seed), client)
}

async fn client(group: Group) -> String {
    let load = Load::start(&entrances(), Kind::small("a", 4));
    let entrance = entrance(1);
    let produced = || group.place(1).copy.produced.get();
    let head = format!("GET /much HTTP/1.1\r\nhost: a\r\npad: {MUCH}\r\n\r\n");
    let mut stream = TcpStream::connect(entrance.as_str())
        .await
        .expect("listens");
    stream.write_all(head.as_bytes()).await.expect("taken");
    load.forget_times();
    load.more(200, Duration::from_secs(20)).await;
    let stuck = produced();
    load.more(100, Duration::from_secs(20)).await;
    assert!(stuck > 0, "the app was not asked");
    assert!(
        stuck < ON_ITS_WAY,
        "{stuck} bytes for a client that reads none"
    );
    assert_eq!(produced(), stuck, "it goes on");
    // It gets all of it as soon as it reads.
    let mut read = 0;
    let mut piece = vec![0; 1 << 20];
    while read < MUCH {
        let got = timeout(WAIT, stream.read(&mut piece)).await;
        match got.expect("it goes on").expect("the connection holds") {
            0 => panic!("it ends after {read}"),
            got => read += got as u64,
        }
    }
    let tally = load.finish(&group).await;
    let slowest = tally.slowest();
    assert!(slowest < WAIT, "{slowest:?}; {:?}", tally.failures());
    format!("{stuck} of {MUCH} bytes left the app; others within {slowest:?}")
}

pub(crate) fn of_the_app(seed: u64) -> turmoil::Result<String> {
    group::run(Setting::new(seed), app)
}

async fn app(group: Group) -> String {
    let load = Load::start(&entrances(), Kind::small("a", 4));
    let entrance = entrance(1);
    let copy = &group.place(1).copy;
    let head = format!("POST /sink HTTP/1.1\r\nhost: a\r\ncontent-length: {MUCH}\r\n\r\n");
    let stream = TcpStream::connect(entrance.as_str())
        .await
        .expect("listens");
    let (mut answers, mut sends) = stream.into_split();
    let sent = Rc::new(Cell::new(0_u64));
    let counts = sent.clone();
    let sending = tokio::task::spawn_local(async move {
        sends.write_all(head.as_bytes()).await?;
        let piece = vec![b'.'; 32 << 10];
        while counts.get() < MUCH {
            sends.write_all(&piece).await?;
            counts.set(counts.get() + piece.len() as u64);
        }
        // Its end is not that of the exchange.
        std::io::Result::Ok(sends)
    });
    load.forget_times();
    load.more(200, Duration::from_secs(20)).await;
    let stuck = sent.get();
    load.more(100, Duration::from_secs(20)).await;
    assert!(stuck > 0, "nothing was taken");
    assert!(
        stuck < ON_ITS_WAY,
        "{stuck} bytes for an app that reads none"
    );
    assert_eq!(sent.get(), stuck, "it goes on");
    copy.reads.send_replace(true);
    let sends = timeout(WAIT * 20, sending).await.expect("it is taken");
    let _sends = sends.expect("does not fail").expect("the connection holds");
    let mut first = [0; 12];
    let answered = timeout(WAIT * 5, answers.read_exact(&mut first)).await;
    answered.expect("in time").expect("answered");
    assert_eq!(&first, b"HTTP/1.1 200");
    assert_eq!(copy.sunk.get(), MUCH);
    let tally = load.finish(&group).await;
    let slowest = tally.slowest();
    assert!(slowest < WAIT, "{slowest:?}; {:?}", tally.failures());
    format!("{stuck} of {MUCH} bytes left the client; others within {slowest:?}")
}

/// Bytes of lines that a follower is sent while it reads nothing.
const LINES: usize = 500;
const LINE_BYTES: usize = 200_000;
/// By how much this process may grow meanwhile, in bytes: the simulated sockets and all three members.
const GROWS: u64 = 64 << 20;

pub(crate) fn of_a_follower(seed: u64) -> turmoil::Result<String> {
    group::run(Setting::relayed(seed), follower)
}

async fn follower(group: Group) -> String {
    let leader = group.until_led().await;
    let followers = group.followers();
    let (other, deaf) = (followers[0], followers[1]);
    let fast = [entrance(leader), entrance(other)];
    let kind = Kind {
        pad: LINE_BYTES,
        ..Kind::small("large", 4)
    };
    let load = Load::start(&fast, kind);
    load.more(20, WAIT * 5).await;
    load.forget_times();
    let before = resident();
    let flow = |flow| {
        for number in [leader, other] {
            group.between(number, deaf).set(Way::There, flow);
        }
    };
    flow(Flow::Held);
    load.more(LINES, Duration::from_secs(60)).await;
    let grown = resident().saturating_sub(before);
    let slowest = load.tally().slowest();
    let applied = |number| group.running(number).apply.status().borrow().applied;
    let behind = applied(leader).0 - applied(deaf).0;
    assert!(
        behind as usize > LINES / 2,
        "it reads: only {behind} slots behind"
    );
    assert!(slowest < WAIT, "{slowest:?}; {:?}", load.tally().failures());
    assert!(
        grown < GROWS,
        "{grown} bytes more for one that does not read"
    );
    flow(Flow::Free);
    let goal = applied(leader);
    let back = group.until("it catches up", || applied(deaf) >= goal).await;
    load.finish(&group).await;
    format!(
        "{behind} slots behind, {} MiB more, back after {back:?}",
        grown >> 20
    )
}

/// Memory of this process, in bytes.
fn resident() -> u64 {
    let told = std::fs::read_to_string("/proc/self/status").expect("the kernel tells");
    let line = told.lines().find_map(|it| it.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|it| it.trim().strip_suffix(" kB"));
    kibibytes
        .expect("as it writes it")
        .parse::<u64>()
        .expect("a number")
        << 10
}
