//! What clients must not get through, as raw bytes.

use super::*;

/// Each is answered with this status, and nothing of it reaches the agreement or the app.
const REFUSED: &[(&str, u16, &str)] = &[
    (
        "both lengths",
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    (
        "both lengths, the other way round",
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    ),
    (
        "lengths that differ",
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ),
    (
        "a list of lengths",
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\na",
    ),
    (
        "a coding that is not chunked",
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    ),
    (
        "a chunk size that is no number",
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ),
    (
        "a chunk that is longer than its size",
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n",
    ),
    (
        "a chunk that ends in a line feed",
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\n0\r\n\r\n",
    ),
    (
        "a folded field",
        400,
        "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n",
    ),
    ("no host", 400, "GET / HTTP/1.1\r\n\r\n"),
    (
        "two hosts",
        400,
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ),
    (
        "a host with a user",
        400,
        "GET / HTTP/1.1\r\nHost: me@a\r\n\r\n",
    ),
    (
        "a host with a path",
        400,
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    ),
    (
        "a list of hosts",
        400,
        "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
    ),
    ("bare line feeds", 400, "GET / HTTP/1.1\nHost: a\n\n"),
    (
        "a space before the colon",
        400,
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    ),
    ("not HTTP", 400, "\x16\x03\x01 hello\r\n\r\n"),
    (
        "an unknown version",
        400,
        "GET / HTTP/3.0\r\nHost: a\r\n\r\n",
    ),
    (
        "a method that is no token",
        400,
        "GE(T / HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "a target that is no path",
        400,
        "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "another scheme",
        400,
        "GET ftp://a/b HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "an asterisk for a method that has none",
        400,
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        "CONNECT",
        501,
        "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nConnection: close\r\n\r\n",
    ),
    (
        "TRACE",
        405,
        "TRACE / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ),
    (
        "an ambiguous path on a relaxed route",
        400,
        "GET /local/..%2fsecret HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ),
    (
        "an upgrade on a route that is no stream",
        501,
        "GET /x HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n",
    ),
    (
        "an unknown expectation",
        417,
        "POST / HTTP/1.1\r\nHost: a\r\nExpect: miracles\r\nContent-Length: 1\r\nConnection: close\r\n\r\na",
    ),
    (
        "an empty key",
        400,
        "POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: \"\"\r\nConnection: close\r\n\r\n",
    ),
    (
        "a token that is none",
        400,
        "GET / HTTP/1.1\r\nHost: a\r\nSynod-Min-Slot: soon\r\nConnection: close\r\n\r\n",
    ),
    (
        "a body that is too large by its length",
        413,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100001\r\nConnection: close\r\n\r\n",
    ),
];

#[tokio::test]
async fn whatever_is_malformed_is_refused_and_reaches_nobody() {
    let bench = Bench::new().await;
    for (name, status, bytes) in REFUSED {
        let reply = bench.raw(bytes).await;
        assert_eq!(reply.status(), *status, "{name}: {reply:?}");
        assert_eq!(bench.double.requests(), [], "{name}");
        assert_eq!(bench.double.state().read, [""; 0], "{name}");
    }
}

#[tokio::test]
async fn our_refusals_are_problem_details_with_our_name() {
    let bench = Bench::new().await;
    let reply = bench
        .raw("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        .await;
    assert_eq!(reply.problem(), problem(400, "malformed-request", None));
    assert_eq!(reply.field("synod-member"), Some("\"notes-1\""));
    assert_eq!(reply.field("synod-slot"), Some("40;group=\"5f5f5f5f\""));
    assert_eq!(reply.field("connection"), Some("close"));
    let reply = bench.send("POST /", &[("Idempotency-Key", "")], "x").await;
    assert_eq!(
        reply.problem(),
        problem(400, "invalid-idempotency-key", Some("not-ordered"))
    );
    assert_eq!(reply.field("synod-slot"), Some("40;group=\"5f5f5f5f\""));
}

#[tokio::test]
async fn refusals_of_bytes_that_never_became_a_request_are_counted() {
    let limits = Limits {
        header_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let bench = Bench::with(1, limits, None).await;
    bench
        .raw("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        .await;
    let many = "X: y\r\n".repeat(100);
    bench
        .raw(format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n"))
        .await;
    bench.raw("GET / HTTP/1.1\r\n").await;
    let text = bench.metrics_page();
    for status in [400, 431, 408] {
        let line = format!(
            "synod_ingress_requests_total{{class=\"none\",route=\"\",status=\"{status}\"}} 1\n"
        );
        assert!(text.contains(&line), "{line}{text}");
    }
    assert!(text.contains("synod_ingress_refused_connections_total 3\n"));
}

/// Whatever a single byte does to a request, the client gets an answer with words.
#[tokio::test]
async fn no_byte_anywhere_in_a_head_gets_a_refusal_without_words() {
    let bench = Bench::new().await;
    let places: [(&[u8], &[u8]); 4] = [
        (
            b"GE",
            b"T / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        ),
        (
            b"GET /a",
            b"c HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX",
            b"Y: 1\r\n\r\n",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: 1",
            b"2\r\n\r\n",
        ),
    ];
    for (before, after) in places {
        for byte in 0..=u8::MAX {
            let reply = bench.raw([before, &[byte], after].concat()).await;
            if reply.status() == 400 {
                assert_eq!(
                    reply.problem().1,
                    "malformed-request",
                    "{byte:#x}: {reply:?}"
                );
            } else {
                assert!([200, 201].contains(&reply.status()), "{byte:#x}: {reply:?}");
            }
        }
    }
}

#[tokio::test]
async fn an_expectation_that_is_not_met_says_that_an_ordered_request_was_not_executed() {
    let bench = Bench::new().await;
    let fields = [("Expect", "miracles")];
    let reply = bench.send("POST /x", &fields, "a").await;
    let not_ordered = problem(417, "expectation-failed", Some("not-ordered"));
    assert_eq!(reply.problem(), not_ordered);
    let reply = bench.send("GET /x", &fields, "").await;
    assert_eq!(reply.problem(), problem(417, "expectation-failed", None));
    assert_eq!(bench.double.requests(), []);
}

#[tokio::test]
async fn the_request_before_a_bad_one_on_the_same_connection_is_answered() {
    let bench = Bench::new().await;
    bench.double.plan([Plan::Hold]);
    let mut stream = TcpStream::connect(bench.address).await.unwrap();
    let good = "POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na";
    let bad = "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n";
    stream
        .write_all(format!("{good}{bad}").as_bytes())
        .await
        .unwrap();
    let id = bench.double.first_proposed().await;
    bench
        .double
        .answered(id, Outcome::Executed, Some(response("done")));
    let reply = read_to_end(&mut stream).await;
    assert_eq!(reply.status(), 201, "{reply:?}");
    assert!(reply.0.contains("HTTP/1.1 400 Bad Request"), "{reply:?}");
    assert_eq!(bench.double.requests().len(), 1);
}

#[tokio::test]
async fn header_sections_over_the_limits_get_431() {
    let bench = Bench::new().await;
    let long = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n",
        "x".repeat(70_000)
    );
    assert_eq!(bench.raw(long).await.status(), 431);
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a\r\n{}\r\n",
        "X: y\r\n".repeat(100)
    );
    assert_eq!(bench.raw(many).await.status(), 431);
}

#[tokio::test]
async fn a_slow_head_and_a_slow_body_get_408_and_an_idle_client_nothing() {
    let limits = Limits {
        header_timeout: Duration::from_millis(50),
        idle: Duration::from_millis(50),
        body_gap: Duration::from_millis(50),
        ..Limits::default()
    };
    let bench = Bench::with(1, limits, None).await;
    let reply = bench.raw("GET / HTTP/1.1\r\nHost: a\r\n").await;
    assert_eq!(reply.problem(), problem(408, "request-too-slow", None));
    let head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nConnection: close\r\n\r\n";
    let reply = bench.raw(format!("{head}abc")).await;
    assert_eq!(
        reply.problem(),
        problem(408, "request-too-slow", Some("not-ordered"))
    );
    assert_eq!(bench.raw("").await.0, "");
    let idle_after = bench.raw("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(idle_after.status(), 200);
    assert!(!idle_after.0.contains("408"), "{idle_after:?}");
    assert_eq!(bench.double.requests(), []);
}

#[tokio::test]
async fn a_body_that_grows_too_large_gets_413() {
    let bench = Bench::new().await;
    let chunk = format!("{:x}\r\n{}\r\n", 60_000, "x".repeat(60_000));
    let head =
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    let reply = bench.raw(format!("{head}{chunk}{chunk}0\r\n\r\n")).await;
    assert!(reply.0.starts_with("HTTP/1.1 413"), "{reply:?}");
    assert_eq!(bench.double.requests(), []);
}

#[tokio::test]
async fn continue_is_said_only_after_route_and_size_were_checked() {
    let bench = Bench::new().await;
    let head = |path: &str, length: usize| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n"
        )
    };
    let reply = bench.raw(head("/", 100_001)).await;
    assert_eq!(reply.status(), 413);
    let reply = bench.raw(head("/local/../x", 1)).await;
    assert_eq!(reply.status(), 400);

    let mut stream = TcpStream::connect(bench.address).await.unwrap();
    stream.write_all(head("/", 1).as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).await.unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"a").await.unwrap();
    assert_eq!(read_to_end(&mut stream).await.status(), 201);
    let request = &bench.double.requests()[0];
    assert!(request.headers.iter().all(|field| field.name != "expect"));
}

#[tokio::test]
async fn an_absolute_target_is_taken_apart_and_its_host_counts() {
    let bench = Bench::new().await;
    let reply = bench
        .raw("GET http://real:81/a?b=c HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n")
        .await;
    assert_eq!(reply.status(), 200);
    assert!(reply.body().starts_with("GET /a?b=c\n"), "{reply:?}");
    assert!(reply.body().contains("host: real:81\n"), "{reply:?}");
    let reply = bench
        .raw("OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await;
    assert!(reply.body().starts_with("OPTIONS *\n"), "{reply:?}");
}

#[tokio::test]
async fn an_offer_of_http_2_is_ignored() {
    let bench = Bench::new().await;
    let fields = [
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA"),
    ];
    let mut request = "GET /x HTTP/1.1\r\nHost: a\r\n".to_owned();
    request.push_str("Connection: Upgrade, HTTP2-Settings, close\r\n");
    for (name, value) in fields {
        write!(request, "{name}: {value}\r\n").unwrap();
    }
    let reply = bench.raw(format!("{request}\r\n")).await;
    assert_eq!(reply.status(), 200);
    assert!(!reply.body().contains("upgrade"), "{reply:?}");
    assert!(!reply.body().contains("http2-settings"), "{reply:?}");
}

#[tokio::test]
async fn both_versions_of_http_are_served_on_one_port() {
    let bench = Bench::new().await;
    assert_eq!(bench.get("/x").await.status(), 200);
    let stream = TcpStream::connect(bench.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post("http://notes/x")
        .body(Full::new(Bytes::from_static(b"hello")))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["synod-outcome"], "executed");
    drop(sender);
    connection.await.unwrap().unwrap();
    let request = &bench.double.requests()[0];
    assert_eq!(request.body, "hello");
    let host = request
        .headers
        .iter()
        .find(|field| field.name == "host")
        .unwrap();
    assert_eq!(host.value, "notes");
}

#[tokio::test]
async fn a_stop_finishes_what_runs_and_takes_nothing_new() {
    let bench = Bench::new().await;
    bench.double.plan([Plan::Choose]);
    bench.double.policy.send_modify(|policy| {
        Arc::make_mut(policy).response_timeout_ms = 60_000;
    });
    let mut idle = TcpStream::connect(bench.address).await.unwrap();
    idle.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    let mut stream = TcpStream::connect(bench.address).await.unwrap();
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\na")
        .await
        .unwrap();
    let id = bench.double.first_proposed().await;
    bench.stop.cancel();
    read_to_end(&mut idle).await;
    assert!(!bench.served.is_finished());
    bench
        .double
        .answered(id, Outcome::Executed, Some(response("done")));
    assert_eq!(read_to_end(&mut stream).await.status(), 201);
    timeout(TOO_LONG, bench.served).await.unwrap().unwrap();
    assert!(TcpStream::connect(bench.address).await.is_err());
}

#[tokio::test]
async fn a_stop_cuts_off_what_takes_too_long() {
    let limits = Limits {
        drain: Duration::from_millis(50),
        ..Limits::default()
    };
    let bench = Bench::with(1, limits, None).await;
    bench.double.app(App::Stream);
    let mut stream = TcpStream::connect(bench.address).await.unwrap();
    stream
        .write_all(b"GET /bypass HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).await.unwrap();
    bench.stop.cancel();
    timeout(TOO_LONG, bench.served).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_path_in_raw_utf_8_is_passed_on_and_one_in_another_coding_is_refused() {
    let bench = Bench::new().await;
    let get = |path: &[u8]| {
        let head: [&[u8]; 3] = [
            b"GET /",
            path,
            b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        ];
        bench.raw(head.concat())
    };
    let reply = get("caf\u{e9}".as_bytes()).await;
    assert!(reply.body().starts_with("GET /caf\u{e9}\n"), "{reply:?}");
    let reply = get(b"caf\xe9").await;
    assert_eq!(reply.problem(), problem(400, "malformed-request", None));
}
