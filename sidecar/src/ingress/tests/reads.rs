//! Requests that take no slot.

use super::*;

#[tokio::test]
async fn a_linearizable_read_waits_for_its_index_to_be_applied() {
    let bench = Bench::new().await;
    bench.double.index.send_replace(Some(Slot(50)));
    let reply = bench.get("/notes").await;
    assert_eq!(reply.problem(), problem(503, "unavailable", None));
    assert_eq!(bench.double.state().read, [""; 0], "the app was not asked");
    bench.double.apply.send_modify(|status| {
        status.applied = Slot(50);
        status.sent = Slot(51);
    });
    let reply = bench.get("/notes").await;
    assert_eq!(reply.status(), 200);
    assert_eq!(reply.field("synod-slot"), Some("51;group=\"5f5f5f5f\""));
    assert_eq!(reply.field("synod-outcome"), None);
}

#[tokio::test]
async fn without_a_leader_only_relaxed_reads_are_served() {
    let bench = Bench::new().await;
    bench.double.index.send_replace(None);
    assert_eq!(bench.get("/notes").await.status(), 503);
    assert_eq!(bench.get("/stale").await.status(), 503);
    for path in ["/session", "/local", "/bypass"] {
        assert_eq!(bench.get(path).await.status(), 200, "{path}");
    }
}

#[tokio::test]
async fn a_session_read_waits_for_the_slot_of_its_token() {
    let bench = Bench::new().await;
    let get = async |token: &str| {
        bench
            .send("GET /session", &[("Synod-Min-Slot", token)], "")
            .await
    };
    assert_eq!(get("40;group=\"5f5f5f5f\"").await.status(), 200);
    assert_eq!(get("40").await.status(), 200);
    assert_eq!(get("41").await.problem(), problem(503, "unavailable", None));
    assert_eq!(
        get("1;group=\"00000000\"").await.problem(),
        problem(409, "other-history", None)
    );
    let cookie = [("Cookie", "synod-slot=41")];
    for target in ["GET /session", "GET /local"] {
        let reply = bench.send(target, &cookie, "").await;
        assert_eq!(reply.status(), 503, "{target}");
    }
    bench
        .double
        .apply
        .send_modify(|status| status.applied = Slot(41));
    for target in ["GET /session", "GET /local"] {
        let reply = bench.send(target, &cookie, "").await;
        assert_eq!(reply.status(), 200, "{target}");
    }
}

#[tokio::test]
async fn a_stale_read_needs_a_new_proof_only_when_the_last_one_is_too_old() {
    let bench = Bench::new().await;
    assert_eq!(bench.get("/stale").await.status(), 200);
    bench.double.index.send_replace(None);
    assert_eq!(
        bench.get("/stale").await.status(),
        200,
        "proven a moment ago"
    );
    bench.double.policy.send_modify(|policy| {
        let policy = Arc::make_mut(policy);
        policy.version = 8;
        policy.routes[3].max_staleness_ms = 0;
    });
    assert_eq!(
        bench.get("/stale").await.status(),
        503,
        "no proof is new enough"
    );
}

#[tokio::test]
async fn a_read_whose_class_changed_before_its_index_is_classified_again() {
    let bench = Bench::new().await;
    bench.double.state().on_index = Some(Arc::new(|double| {
        double.policy.send_modify(|policy| {
            let policy = Arc::make_mut(policy);
            policy.version = 8;
            policy
                .routes
                .push(route("counter", "/counter", Consistency::Ordered));
        });
    }));
    let reply = bench.get("/counter").await;
    assert_eq!(reply.status(), 201);
    assert_eq!(reply.field("synod-outcome"), Some("executed"));
    assert_eq!(bench.double.state().read, [""; 0], "the app was not asked");
    assert_eq!(bench.double.requests()[0].policy_version, 8);
}

#[tokio::test]
async fn the_app_gets_a_read_without_what_concerns_this_hop_or_us() {
    let bench = Bench::new().await;
    let fields = [
        ("Synod-Slot", "forged"),
        ("Synod-Min-Slot", "1"),
        ("X-Kept", "1"),
        ("Keep-Alive", "5"),
    ];
    let reply = bench.send("REPORT /notes?q", &fields, "body").await;
    assert_eq!(reply.status(), 200);
    let body = reply.body();
    assert!(body.starts_with("REPORT /notes?q\n"), "{body}");
    assert!(body.ends_with("\n\nbody"), "{body}");
    assert!(
        body.contains("x-kept: 1\n") && body.contains("host: notes\n"),
        "{body}"
    );
    assert!(body.contains("x-forwarded-for: 127.0.0.1\n"), "{body}");
    for gone in ["synod-", "keep-alive", "connection", "content-length"] {
        assert!(!body.contains(gone), "{gone}: {body}");
    }
}

#[tokio::test]
async fn an_app_that_is_away_or_breaks_off_is_told_apart() {
    let bench = Bench::new().await;
    bench.double.app(App::NotSent);
    for path in ["/notes", "/bypass"] {
        assert_eq!(
            bench.get(path).await.problem(),
            problem(503, "unavailable", None)
        );
    }
    bench.double.app(App::Lost);
    for path in ["/notes", "/bypass"] {
        assert_eq!(
            bench.get(path).await.problem(),
            problem(502, "app-failed", None)
        );
    }
}

#[tokio::test]
async fn the_answer_of_the_app_passes_untouched_but_for_our_names() {
    let bench = Bench::new().await;
    let mut stored = response("body");
    stored
        .headers
        .append("set-cookie", HeaderValue::from_static("a=1"));
    stored
        .headers
        .append("set-cookie", HeaderValue::from_static("b=2"));
    stored
        .headers
        .insert("keep-alive", HeaderValue::from_static("timeout=5"));
    bench.double.app(App::Respond(Box::new(stored)));
    for path in ["/notes", "/bypass"] {
        let reply = bench.get(path).await;
        assert_eq!((reply.status(), reply.body()), (201, "body"));
        assert_eq!(reply.field("synod-outcome"), None, "{reply:?}");
        assert_eq!(reply.field("keep-alive"), None);
        assert_eq!(reply.0.matches("set-cookie").count(), 2);
        assert_eq!(reply.field("synod-member"), Some("\"notes-1\""));
    }
}

#[tokio::test]
async fn a_stream_is_passed_on_as_it_comes() {
    let bench = Bench::new().await;
    bench.double.app(App::Stream);
    for path in ["/stream", "/bypass", "/notes"] {
        open_stream(&bench, path).await;
    }
}

/// Sends a request and reads until its response has shown the first event of a stream.
async fn open_stream(bench: &Bench, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(bench.address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"event\n\r\n") {
        let read = timeout(TOO_LONG, stream.read_buf(&mut seen))
            .await
            .expect("it streams")
            .unwrap();
        assert_ne!(read, 0, "{path}: {}", String::from_utf8_lossy(&seen));
    }
    stream
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_until_one_ends_and_other_reads_go_on() {
    let limits = Limits {
        open_streams: 2,
        ..Limits::default()
    };
    let bench = Bench::with(1, limits, Some(([127, 0, 0, 1], 9).into())).await;
    bench.double.app(App::Stream);
    let first = open_stream(&bench, "/stream/a").await;
    let _second = open_stream(&bench, "/stream/b").await;
    let full = problem(503, "too-many-streams", None);
    let reply = bench.get("/stream/c").await;
    assert_eq!(reply.problem(), full);
    assert_eq!(reply.field("retry-after"), Some("1"));
    let upgrade = [("Connection", "upgrade"), ("Upgrade", "websocket")];
    let reply = bench.send("GET /stream/ws", &upgrade, "").await;
    assert_eq!(reply.problem(), full);
    let _no_stream = open_stream(&bench, "/bypass").await;
    bench.double.app(App::Echo);
    assert_eq!(bench.get("/notes").await.status(), 200);
    drop(first);
    let freed = async {
        while bench.get("/stream/d").await.status() != 200 {
            tokio::task::yield_now().await;
        }
    };
    timeout(TOO_LONG, freed)
        .await
        .expect("a place is free again");
}

#[tokio::test]
async fn an_upgrade_on_a_streaming_route_becomes_a_tunnel_to_the_app() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    let app_side = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0);
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        assert!(head.contains("upgrade: websocket\r\n"), "{head}");
        assert!(head.contains("sec-websocket-key: k\r\n"), "{head}");
        let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\
                      Upgrade: websocket\r\nSec-WebSocket-Accept: a\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
        let mut bytes = [0; 6];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    });
    let bench = Bench::with(1, Limits::default(), Some(app)).await;
    let mut stream = TcpStream::connect(bench.address).await.unwrap();
    let request = "GET /stream/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0, "{head:?}");
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.contains("sec-websocket-accept: a\r\n"), "{head}");
    assert!(head.contains("synod-member: \"notes-1\"\r\n"), "{head}");
    // Bytes that would be a malformed request.
    stream.write_all(b"\x81\x04\nGET").await.unwrap();
    let mut echo = [0; 6];
    timeout(TOO_LONG, stream.read_exact(&mut echo))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&echo, b"\x81\x04\nGET");
    app_side.await.unwrap();
    assert_eq!(bench.double.requests(), []);
}
