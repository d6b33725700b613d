//! Requests that take a slot.

use super::*;

async fn outcome_of(plan: Plan) -> Reply {
    let bench = Bench::new().await;
    bench.double.plan([plan]);
    bench.send("POST /notes", &[], "x").await
}

#[tokio::test]
async fn an_ordered_request_is_answered_by_the_app_and_signed_by_us_alone() {
    let bench = Bench::new().await;
    let reply = bench.send("POST /notes", &[("Synod-Slot", "9")], "x").await;
    assert_eq!((reply.status(), reply.body()), (201, "done"));
    assert_eq!(reply.field("x-app"), Some("yes"));
    assert_eq!(reply.field("synod-slot"), Some("1042;group=\"5f5f5f5f\""));
    assert_eq!(reply.field("synod-member"), Some("\"notes-1\""));
    assert_eq!(reply.field("synod-outcome"), Some("executed"));
    assert_eq!(reply.field("synod-anything"), None);
}

#[tokio::test]
async fn what_is_proposed_expires_by_the_agreed_clock_whatever_this_machines_says() {
    let bench = Bench::new().await;
    let seconds = |it: u64| AgreedTime(it * 1_000_000_000);
    *bench.double.clock.lock().unwrap() = seconds(7_000);
    bench.send("POST /notes", &[], "x").await;
    // The group's clocks were set back since: agreed time stands still until they are that late.
    bench
        .double
        .apply
        .send_modify(|status| status.time = seconds(8_000));
    bench.send("POST /notes", &[], "x").await;
    let requests = bench.double.requests();
    for (request, now) in requests.iter().zip([seconds(7_000), seconds(8_000)]) {
        // What is left of `queueTimeout`.
        let left_ns = request.expires_ns.checked_sub(now.0).expect("not yet");
        assert!((1..=300_000_000).contains(&left_ns), "{left_ns}");
    }
}

#[tokio::test]
async fn what_is_proposed_is_the_request_without_what_concerns_this_hop() {
    let bench = Bench::new().await;
    let fields = [
        ("X-Kept", "1"),
        ("Synod-Seed", "forged"),
        ("Synod-Min-Slot", "4"),
        ("TE", "trailers"),
        ("Idempotency-Key", "\"k1\""),
        ("Authorization", "me"),
    ];
    bench.send("PUT /notes/1?x=y", &fields, "hello").await;
    let request = bench.double.requests().remove(0);
    assert_eq!(
        (request.method.as_str(), request.target.as_str()),
        ("PUT", "/notes/1?x=y")
    );
    assert_eq!(request.body, "hello");
    assert_eq!(request.policy_version, 7);
    assert_eq!(request.answerer, 0);
    let mut names: Vec<_> = request
        .headers
        .iter()
        .map(|field| field.name.as_str())
        .collect();
    names.sort_unstable();
    let expected = [
        "authorization",
        "forwarded",
        "host",
        "idempotency-key",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-kept",
    ];
    assert_eq!(names, expected);
    let key = request.idempotency.unwrap();
    assert_eq!(key.key, "k1");
    assert_eq!((key.principal.len(), key.request_digest.len()), (32, 32));
}

#[tokio::test]
async fn a_chunked_body_comes_with_its_trailers() {
    let bench = Bench::new().await;
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: sum\r\n";
    let body = "3\r\nabc\r\n2\r\nde\r\n0\r\nsum: 9\r\nsynod-slot: 1\r\n\r\n";
    let reply = bench
        .raw(format!("{head}Connection: close\r\n\r\n{body}"))
        .await;
    assert_eq!(reply.status(), 201);
    let request = bench.double.requests().remove(0);
    assert_eq!(request.body, "abcde");
    assert_eq!(request.trailers.len(), 1);
    assert_eq!(request.trailers[0].name, "sum");
}

#[tokio::test]
async fn every_outcome_has_its_status_and_its_name() {
    let gone = Plan::Answer(Outcome::ResponseGone, None);
    let cases = [
        (
            Plan::Answer(Outcome::Expired, None),
            503,
            "not-ordered",
            "not-ordered",
        ),
        (
            Plan::Answer(Outcome::Skipped, None),
            502,
            "skipped",
            "skipped",
        ),
        (
            Plan::Answer(Outcome::KeyReused, None),
            422,
            "idempotency-key-reused",
            "not-ordered",
        ),
        (
            Plan::Answer(Outcome::PrincipalChanged, None),
            422,
            "idempotency-principal-changed",
            "not-ordered",
        ),
        (
            gone,
            410,
            "executed-response-gone",
            "executed-response-gone",
        ),
        (
            Plan::Answer(Outcome::Executed, None),
            410,
            "executed-response-gone",
            "executed-response-gone",
        ),
        (Plan::Withdraw, 503, "not-ordered", "not-ordered"),
        (
            Plan::Refuse(ProposeError::Overloaded),
            503,
            "not-ordered",
            "not-ordered",
        ),
        (
            Plan::Refuse(ProposeError::ShuttingDown),
            503,
            "not-ordered",
            "not-ordered",
        ),
    ];
    for (plan, status, kind, outcome) in cases {
        let reply = outcome_of(plan).await;
        assert_eq!(reply.problem(), problem(status, kind, Some(outcome)));
        assert_eq!(
            reply.field("retry-after").is_some(),
            status == 503,
            "{reply:?}"
        );
        assert_eq!(reply.field("synod-member"), Some("\"notes-1\""));
    }
    let reply = outcome_of(Plan::Answer(
        Outcome::Replayed,
        Some(Box::new(response("first"))),
    ))
    .await;
    assert_eq!((reply.status(), reply.body()), (201, "first"));
    assert_eq!(reply.field("synod-outcome"), Some("replayed"));
}

#[tokio::test]
async fn without_a_definite_word_the_outcome_is_unknown_and_no_retry_is_suggested() {
    for plan in [Plan::Hold, Plan::Choose] {
        let reply = outcome_of(plan).await;
        assert_eq!(reply.problem(), problem(504, "unknown", Some("unknown")));
        assert_eq!(reply.field("retry-after"), None);
    }
}

#[tokio::test]
async fn once_a_later_time_was_agreed_on_an_undecided_request_is_definitely_not_ordered() {
    let bench = Bench::new().await;
    bench.double.policy.send_modify(|policy| {
        Arc::make_mut(policy).queue_timeout_ms = 60_000;
        Arc::make_mut(policy).response_timeout_ms = 300;
    });
    bench.double.plan([Plan::Hold, Plan::Choose]);
    // A request, and agreed time that passes once it is proposed.
    let send = async || {
        let set = |time| bench.double.apply.send_modify(|status| status.time = time);
        set(AgreedTime(0));
        bench.double.state().proposed.clear();
        let later = async {
            bench.double.first_proposed().await;
            set(AgreedTime(u64::MAX));
        };
        tokio::join!(bench.send("POST /notes", &[], "x"), later).0
    };
    let reply = send().await;
    assert_eq!(
        reply.problem(),
        problem(503, "not-ordered", Some("not-ordered"))
    );
    // One that was chosen is at an earlier time, or it will say so itself.
    let reply = send().await;
    assert_eq!(reply.problem(), problem(504, "unknown", Some("unknown")));
    assert_eq!(reply.field("synod-slot"), Some("1042;group=\"5f5f5f5f\""));
}

#[tokio::test]
async fn nothing_more_is_taken_while_the_copies_are_too_far_behind() {
    let bench = Bench::new().await;
    let answer = || executed(response("done"));
    bench.double.plan([answer(), answer()]);
    let stand_at = |chosen, executed| {
        let node = &bench.double.node;
        node.send_modify(|status| status.commit = Slot(chosen));
        let apply = &bench.double.apply;
        apply.send_modify(|status| status.applied = Slot(executed));
    };
    stand_at(2_000, 1_999);
    let reply = bench.send("POST /notes", &[], "x").await;
    assert_eq!(reply.status(), 201);
    tokio::time::sleep(Duration::from_millis(400)).await;
    let reply = bench.send("POST /notes", &[], "x").await;
    assert_eq!(
        reply.problem(),
        problem(503, "not-ordered", Some("not-ordered"))
    );
    assert_eq!(reply.field("retry-after"), Some("1"));
    assert_eq!(bench.double.state().proposed.len(), 1);
    stand_at(2_001, 2_000);
    let reply = bench.send("POST /notes", &[], "x").await;
    assert_eq!(reply.status(), 201);
}

#[tokio::test]
async fn a_request_refused_for_its_class_is_classified_and_proposed_again() {
    let bench = Bench::new().await;
    let done = executed(response("second"));
    bench
        .double
        .apply
        .send_modify(|status| status.applied = Slot(2_000));
    bench
        .double
        .plan([Plan::Answer(Outcome::Reclassify, None), done]);
    bench
        .double
        .policy
        .send_modify(|policy| Arc::make_mut(policy).version = 8);
    let reply = bench.send("POST /notes", &[], "x").await;
    assert_eq!((reply.status(), reply.body()), (201, "second"));
    let state = bench.double.state();
    assert_ne!(state.proposed[0].0, state.proposed[1].0, "another id");
    assert_eq!(state.proposed[1].1.policy_version, 8);
    assert_eq!(state.proposed[1].1.body, "x");
}

#[tokio::test]
async fn a_request_that_became_a_read_meanwhile_is_served_as_one() {
    let bench = Bench::new().await;
    bench.double.plan([Plan::Hold]);
    let address = bench.address;
    let client = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = "POST /search HTTP/1.1\r\nHost: a\r\nConnection: close\r\n";
        let request = format!("{head}Content-Length: 1\r\n\r\nq");
        stream.write_all(request.as_bytes()).await.unwrap();
        read_to_end(&mut stream).await
    });
    let id = bench.double.first_proposed().await;
    bench.double.policy.send_modify(|policy| {
        let policy = Arc::make_mut(policy);
        policy.version = 8;
        policy
            .routes
            .push(route("search", "/search", Consistency::Linearizable));
    });
    bench
        .double
        .apply
        .send_modify(|status| status.applied = Slot(2_000));
    bench.double.answered(id, Outcome::Reclassify, None);
    let reply = client.await.unwrap();
    assert_eq!(reply.status(), 200);
    assert!(reply.body().starts_with("POST /search\n"), "{reply:?}");
    assert!(reply.body().ends_with("\n\nq"), "{reply:?}");
    assert_eq!(bench.double.requests().len(), 1);
}

#[tokio::test]
async fn responses_without_a_body_keep_the_fields_that_describe_one() {
    let bench = Bench::new().await;
    bench.double.policy.send_modify(|policy| {
        Arc::make_mut(policy).default_consistency = Consistency::Ordered.into();
    });
    let mut head = response("");
    head.status = StatusCode::OK;
    head.headers
        .insert("content-length", HeaderValue::from_static("1234"));
    bench.double.plan([executed(head)]);
    let reply = bench.send("HEAD /file", &[], "").await;
    assert_eq!((reply.status(), reply.body()), (200, ""));
    assert_eq!(reply.field("content-length"), Some("1234"));

    let mut not_modified = response("");
    not_modified.status = StatusCode::NOT_MODIFIED;
    not_modified
        .headers
        .insert("etag", HeaderValue::from_static("\"e\""));
    bench.double.plan([executed(not_modified)]);
    let reply = bench.send("GET /file", &[], "").await;
    assert_eq!((reply.status(), reply.body()), (304, ""));
    assert_eq!(reply.field("etag"), Some("\"e\""));
    assert_eq!(reply.field("content-length"), None);

    let mut no_content = response("");
    no_content.status = StatusCode::NO_CONTENT;
    bench.double.plan([executed(no_content)]);
    let reply = bench.send("DELETE /file", &[], "").await;
    assert_eq!((reply.status(), reply.body()), (204, ""));
    assert_eq!(reply.field("content-length"), None);
}

#[tokio::test]
async fn a_large_stored_response_is_read_from_its_file() {
    let bench = Bench::new().await;
    let content = "0123456789abcdef".repeat(20_000);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &content).unwrap();
    let mut stored = response("");
    stored.body = StoredBody::File {
        path: Arc::new(file.into_temp_path()),
        len: content.len() as u64,
    };
    bench.double.plan([executed(stored)]);
    let reply = bench.send("POST /export", &[], "x").await;
    assert_eq!(reply.status(), 201);
    assert_eq!(reply.field("content-length"), Some("320000"));
    assert!(reply.body() == content);
}

#[tokio::test]
async fn before_the_group_is_formed_nothing_is_served() {
    let bench = Bench::new().await;
    bench.double.node.send_modify(|status| status.group = None);
    for line in ["POST /notes", "GET /notes", "GET /bypass"] {
        let reply = bench.send(line, &[], "").await;
        assert_eq!(
            reply.problem(),
            problem(503, "no-group", Some("not-ordered"))
        );
        assert_eq!(reply.field("synod-slot"), Some("40"));
    }
}

#[tokio::test]
async fn the_outcome_of_a_key_is_told_to_its_principal_only() {
    let bench = Bench::new().await;
    let mine = super::super::headers::principal(
        &HeaderMap::from_iter([(http::header::AUTHORIZATION, HeaderValue::from_static("me"))]),
        None,
    );
    let executed = answer(Slot(9), Outcome::Executed, Some(response("x")));
    bench
        .double
        .state()
        .keys
        .insert((mine, Bytes::from_static(b"k1")), executed);
    let path = "GET /.well-known/synod/outcome";
    let mine = [("Idempotency-Key", "\"k1\""), ("Authorization", "me")];
    let reply = bench.send(path, &mine, "").await;
    assert_eq!(
        reply.body(),
        r#"{"outcome":"executed","slot":9,"status":201}"#
    );
    let other = [("Idempotency-Key", "k1"), ("Authorization", "you")];
    let reply = bench.send(path, &other, "").await;
    assert_eq!(
        reply.body(),
        r#"{"outcome":"unknown","slot":null,"status":null}"#
    );
    assert_eq!(bench.send(path, &[], "").await.status(), 400);
    assert_eq!(
        bench
            .send("POST /.well-known/synod/outcome", &mine, "")
            .await
            .status(),
        405
    );
    assert_eq!(bench.get("/.well-known/synod/other").await.status(), 404);
    assert_eq!(bench.double.requests(), []);
}

#[tokio::test]
async fn requests_are_counted_by_class_route_and_status() {
    let bench = Bench::new().await;
    bench.send("POST /notes", &[], "x").await;
    bench.get("/bypass/1").await;
    let page = bench.metrics_page();
    for line in [
        r#"synod_ingress_requests_total{class="ordered",route="",status="201"} 1"#,
        r#"synod_ingress_requests_total{class="bypass",route="bypass",status="200"} 1"#,
    ] {
        assert!(page.contains(line), "{line} is missing in\n{page}");
    }
}
