//! Large bodies: on disk while they come, in memory only while they are agreed on.

use super::*;
use crate::app::MEMORY_BYTES;
use crate::config::limits::WINDOW_BYTES;

/// A large body; too large for the policy of the other tests.
const LARGE: usize = 1 << 20;

async fn bench_for_large(limits: Limits) -> Bench {
    let bench = Bench::with(1, limits, None).await;
    bench.double.policy.send_modify(|policy| {
        let policy = Arc::make_mut(policy);
        policy.max_body_bytes = 2 * LARGE as u64;
        policy.queue_timeout_ms = 60_000;
    });
    bench
}

impl Bench {
    /// Begins an upload and sends the first part of its body.
    async fn begin(&self, head: &str, bytes: usize, first: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let head = format!(
            "{head} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {bytes}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(first).await.unwrap();
        stream
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.spool.path()).unwrap().count()
    }
}

/// Returns once it is so.
async fn soon(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    timeout(TOO_LONG, waiting)
        .await
        .unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn two_hundred_slow_large_uploads_at_once_hold_no_memory_and_all_succeed() {
    const UPLOADS: usize = 200;
    let limits = Limits::default();
    let commands = limits.command_memory_bytes;
    let bench = bench_for_large(limits).await;
    let most = Arc::new(AtomicU64::new(0));
    bench.double.state().on_propose = Some({
        let (gauge, most) = (bench.metrics.command_memory.clone(), most.clone());
        Arc::new(move |_| {
            most.fetch_max(gauge.get(), Ordering::Relaxed);
        })
    });
    let body = vec![b'x'; LARGE];
    let (first, rest) = body.split_at(100_000);
    let mut uploads = Vec::new();
    for number in 0..UPLOADS {
        uploads.push(bench.begin(&format!("PUT /{number}"), LARGE, first).await);
    }
    let disk = (UPLOADS * LARGE) as u64;
    soon("all uploads have their room", || {
        bench.metrics.body_disk.get() == disk
    })
    .await;
    soon("all uploads are in files", || bench.files() == UPLOADS).await;
    assert_eq!(bench.metrics.body_memory.get(), 0);
    assert_eq!(bench.metrics.command_memory.get(), 0);
    let finish = uploads.into_iter().map(|mut stream| async move {
        stream.write_all(rest).await.unwrap();
        read_to_end(&mut stream).await.status()
    });
    let statuses = futures::future::join_all(finish).await;
    assert_eq!(statuses, [201; UPLOADS]);
    let requests = bench.double.requests();
    assert_eq!(requests.len(), UPLOADS);
    assert!(requests.iter().all(|request| request.body == body));
    assert!(
        (1..=commands).contains(&most.load(Ordering::Relaxed)),
        "{most:?}"
    );
    soon("all room is free again", || {
        bench.metrics.body_disk.get() == 0 && bench.metrics.command_memory.get() == 0
    })
    .await;
    assert_eq!(bench.files(), 0);
}

#[tokio::test]
async fn memory_for_a_large_command_is_held_until_it_is_agreed_on_and_others_wait_for_it() {
    let limits = Limits {
        command_memory_bytes: 3 * LARGE as u64 / 2,
        ..Limits::default()
    };
    let bench = bench_for_large(limits).await;
    bench.double.plan([Plan::Hold, Plan::Choose]);
    let body = vec![b'x'; LARGE];
    let first = bench.begin("PUT /first", LARGE, &body).await;
    bench.double.first_proposed().await;
    let mut second = bench.begin("PUT /second", LARGE, &body).await;
    let on_disk = |bodies: usize| bench.metrics.body_disk.get() == (bodies * LARGE) as u64;
    soon("both are on disk", || on_disk(2)).await;
    // The command stays, whatever its client does.
    drop(first);
    soon("one is on disk", || on_disk(1)).await;
    assert_eq!(bench.get("/bypass").await.status(), 200);
    assert_eq!(bench.metrics.command_memory.get(), LARGE as u64);
    assert_eq!(bench.double.requests().len(), 1);
    bench.double.state().undecided.clear();
    soon("the second is proposed", || {
        bench.double.requests().len() == 2
    })
    .await;
    let id = bench.double.state().proposed[1].0;
    let done = Some(response("done"));
    bench.double.answered(id, Outcome::Executed, done);
    assert_eq!(read_to_end(&mut second).await.status(), 201);
}

#[tokio::test]
async fn a_disk_that_takes_nothing_refuses_large_bodies_only_and_until_it_does_again() {
    let bench = bench_for_large(Limits::default()).await;
    let large = "x".repeat(LARGE);
    std::fs::remove_dir(bench.spool.path()).unwrap();
    let reply = bench.send("PUT /large", &[], &large).await;
    assert_eq!(
        reply.problem(),
        problem(503, "not-ordered", Some("not-ordered"))
    );
    assert_eq!(reply.field("retry-after"), Some("1"));
    assert!(reply.body().contains("disk"), "{reply:?}");
    assert_eq!(bench.double.requests(), []);
    assert_eq!(bench.send("PUT /small", &[], "x").await.status(), 201);
    std::fs::create_dir(bench.spool.path()).unwrap();
    assert_eq!(bench.send("PUT /large", &[], &large).await.status(), 201);
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_gives_its_room_back() {
    let bench = bench_for_large(Limits::default()).await;
    let stream = bench.begin("PUT /large", LARGE, &vec![b'x'; 100_000]).await;
    soon("it is in a file", || bench.files() == 1).await;
    drop(stream);
    soon("it is gone", || {
        bench.files() == 0 && bench.metrics.body_disk.get() == 0
    })
    .await;
    assert_eq!(bench.double.requests(), []);
}

#[tokio::test]
async fn bodies_over_the_room_on_disk_get_503_and_later_ones_are_served() {
    let limits = Limits {
        body_disk_bytes: LARGE as u64,
        body_patience: Duration::from_millis(50),
        ..Limits::default()
    };
    let bench = bench_for_large(limits).await;
    let body = "x".repeat(LARGE);
    let mut slow = bench
        .begin("PUT /slow", LARGE, &body.as_bytes()[..100_000])
        .await;
    soon("it has its room", || {
        bench.metrics.body_disk.get() == LARGE as u64
    })
    .await;
    let reply = bench.send("PUT /large", &[], &body).await;
    assert_eq!(
        reply.problem(),
        problem(503, "not-ordered", Some("not-ordered"))
    );
    assert_eq!(reply.field("retry-after"), Some("1"));
    slow.write_all(&body.as_bytes()[100_000..]).await.unwrap();
    assert_eq!(read_to_end(&mut slow).await.status(), 201);
    soon("there is room again", || bench.metrics.body_disk.get() == 0).await;
    assert_eq!(bench.send("PUT /large", &[], &body).await.status(), 201);
}

#[tokio::test]
async fn a_large_body_of_a_read_goes_to_the_app_from_disk() {
    let bench = bench_for_large(Limits::default()).await;
    let body = "0123456789".repeat(MEMORY_BYTES / 5);
    let reply = bench.send("REPORT /notes", &[], &body).await;
    assert_eq!(reply.status(), 200);
    assert!(reply.body().ends_with(&body));
    soon("its room is free again", || {
        bench.metrics.body_disk.get() == 0
    })
    .await;
}

#[test]
fn the_default_limits_leave_room_for_the_largest_body() {
    let limits = Limits::default();
    let largest = WINDOW_BYTES / 2;
    assert!(limits.command_memory_bytes >= largest);
    assert!(limits.connection_disk_bytes >= largest);
    assert!(limits.connection_disk_bytes < limits.body_disk_bytes);
}

#[tokio::test]
async fn a_client_that_sends_all_of_a_body_that_is_refused_at_once_still_sees_why() {
    let bench = bench_for_large(Limits::default()).await;
    let body = "x".repeat(16 * LARGE);
    for _ in 0..10 {
        let reply = bench.send("PUT /large", &[], &body).await;
        assert_eq!(reply.problem().0, 413);
    }
}
