//! A member whose copy cannot serve, beside one whose copy can.

use synod_paxos::{Configuration, Epoch, Incarnation, Member, Quorums, Role};

use super::*;
use crate::ingress::handover::fetch_answer;

/// Two members; the second serves hand-over to the first.
struct Pair {
    here: Bench,
    there: Bench,
}

impl Pair {
    async fn new() -> Self {
        let here = Bench::new().await;
        let there = Bench::with(2, Limits::default(), None).await;
        connect(&here, &there).await;
        here.double
            .node
            .send_modify(|status| status.serving = vec![MemberId(1), MemberId(2)]);
        Self { here, there }
    }

    async fn with_copy_away() -> Self {
        let pair = Self::new().await;
        pair.here
            .double
            .apply
            .send_modify(|status| status.serving = false);
        pair
    }

    /// The second member has the answer to the first request that the first one proposes.
    fn answers_there(&self) {
        let id = CommandId {
            member: MemberId(1),
            boot: Boot(1),
            sequence: 1,
        };
        let there = Some(response("there"));
        self.there.double.answered(id, Outcome::Executed, there);
    }
}

/// Gives one member a way to another.
async fn connect(from: &Bench, to: &Bench) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(to.server.handover())
            .serve_with_incoming(incoming),
    );
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
    let channel = endpoint.unwrap().connect_lazy();
    from.peers.0.lock().unwrap().insert(to.double.id, channel);
}

#[tokio::test]
async fn a_read_is_served_by_a_member_that_can() {
    let pair = Pair::with_copy_away().await;
    for path in ["/notes?q=1", "/session", "/stale", "/local", "/bypass"] {
        let reply = pair.here.get(path).await;
        assert_eq!(reply.status(), 200, "{path}: {reply:?}");
        assert_eq!(reply.field("synod-member"), Some("\"notes-2\""), "{path}");
        assert!(
            reply.body().starts_with(&format!("GET {path}\n")),
            "{reply:?}"
        );
        assert!(
            reply.body().contains("x-forwarded-for: 127.0.0.1\n"),
            "{reply:?}"
        );
    }
    assert_eq!(pair.here.double.state().read, [""; 0]);
}

#[tokio::test]
async fn a_large_body_and_a_large_answer_cross_in_pieces() {
    let pair = Pair::with_copy_away().await;
    pair.here.double.policy.send_modify(|policy| {
        Arc::make_mut(policy).max_body_bytes = 2_000_000;
    });
    pair.there.double.policy.send_modify(|policy| {
        Arc::make_mut(policy).max_body_bytes = 2_000_000;
    });
    let body = "0123456789".repeat(100_000);
    let reply = pair.here.send("REPORT /notes", &[], &body).await;
    assert_eq!(reply.status(), 200);
    assert!(reply.body().ends_with(&body));
}

#[tokio::test]
async fn the_token_of_a_session_goes_along_and_refusals_come_back() {
    let pair = Pair::with_copy_away().await;
    let other = [("Synod-Min-Slot", "1;group=\"00000000\"")];
    let reply = pair.here.send("GET /session", &other, "").await;
    assert_eq!(reply.status(), 409);
    let later = [("Synod-Min-Slot", "41")];
    let reply = pair.here.send("GET /session", &later, "").await;
    assert_eq!(reply.problem(), problem(503, "unavailable", None));
    pair.there
        .double
        .apply
        .send_modify(|status| status.applied = Slot(41));
    let reply = pair.here.send("GET /session", &later, "").await;
    assert_eq!(
        (reply.status(), reply.field("synod-member")),
        (200, Some("\"notes-2\""))
    );
}

#[tokio::test]
async fn a_read_is_never_handed_on_a_second_time() {
    let pair = Pair::with_copy_away().await;
    let third = Bench::with(3, Limits::default(), None).await;
    connect(&pair.there, &third).await;
    pair.there
        .double
        .apply
        .send_modify(|status| status.serving = false);
    pair.there
        .double
        .node
        .send_modify(|status| status.serving = vec![MemberId(3)]);
    let reply = pair.here.get("/notes").await;
    assert_eq!(reply.problem(), problem(503, "unavailable", None));
    assert_eq!(pair.there.double.state().read, [""; 0]);
    assert_eq!(third.double.state().read, [""; 0]);
    // Asked by a client of its own, the second member does hand over.
    assert_eq!(pair.there.get("/notes").await.status(), 200);
}

#[tokio::test]
async fn when_the_app_here_is_away_the_read_goes_elsewhere() {
    let pair = Pair::new().await;
    for app in [App::NotSent, App::Lost] {
        pair.here.double.app(app);
        let reply = pair.here.get("/notes").await;
        assert_eq!(
            (reply.status(), reply.field("synod-member")),
            (200, Some("\"notes-2\""))
        );
    }
    // A request that may have begun and is no mere read is not sent a second time.
    let reply = pair.here.send("POST /bypass", &[], "x").await;
    assert_eq!(reply.problem(), problem(502, "app-failed", None));
}

#[tokio::test]
async fn an_ordered_request_is_proposed_here_and_answered_from_there() {
    let pair = Pair::with_copy_away().await;
    pair.here.double.plan([Plan::Choose]);
    pair.answers_there();
    let reply = pair.here.send("POST /notes", &[], "x").await;
    assert_eq!((reply.status(), reply.body()), (201, "there"));
    assert_eq!(reply.field("synod-member"), Some("\"notes-2\""));
    assert_eq!(reply.field("synod-outcome"), Some("executed"));
    assert_eq!(reply.field("synod-slot"), Some("1042;group=\"5f5f5f5f\""));
    assert_eq!(reply.field("synod-anything"), None);
    assert_eq!(pair.here.double.requests()[0].answerer, 2);
    assert_eq!(pair.there.double.requests(), [], "it has one id only");
}

#[tokio::test]
async fn while_the_state_of_this_copy_is_saved_others_answer_if_there_are_any() {
    let pair = Pair::new().await;
    pair.here
        .double
        .apply
        .send_modify(|status| status.saving = true);
    pair.here.double.plan([Plan::Choose]);
    pair.answers_there();
    let reply = pair.here.send("POST /notes", &[], "x").await;
    assert_eq!((reply.status(), reply.body()), (201, "there"));
    let reply = pair.here.get("/notes").await;
    assert_eq!(reply.field("synod-member"), Some("\"notes-2\""));
    // Alone it answers itself, once it is done.
    pair.here
        .double
        .node
        .send_modify(|status| status.serving = vec![MemberId(1)]);
    pair.here.double.plan([executed(response("here"))]);
    let reply = pair.here.send("POST /notes", &[], "x").await;
    assert_eq!((reply.status(), reply.body()), (201, "here"));
    let reply = pair.here.get("/notes").await;
    assert_eq!(reply.field("synod-member"), Some("\"notes-1\""));
}

#[tokio::test]
async fn a_copy_that_has_fallen_behind_lets_others_answer_until_it_has_caught_up() {
    let pair = Pair::new().await;
    let member = async |head, fields: &[(&str, &str)]| {
        let reply = pair.here.send(head, fields, "").await;
        assert_eq!(reply.status(), 200);
        reply.field("synod-member").expect("it says who").to_owned()
    };
    let applied = pair.here.double.apply.borrow().applied;
    *pair.here.double.elsewhere.lock().unwrap() = Slot(applied.0 + 3);
    // It may have heard of that just before it executes it.
    assert_eq!(member("GET /notes", &[]).await, "\"notes-1\"");
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(member("GET /notes", &[]).await, "\"notes-2\"");
    // Where any state will do, its own does.
    assert_eq!(member("GET /local", &[]).await, "\"notes-1\"");
    pair.here.double.plan([Plan::Choose]);
    pair.answers_there();
    let reply = pair.here.send("POST /notes", &[], "x").await;
    assert_eq!((reply.status(), reply.body()), (201, "there"));
    assert_eq!(pair.here.double.requests()[0].answerer, 2);
    pair.here
        .double
        .apply
        .send_modify(|status| status.applied = Slot(applied.0 + 3));
    assert_eq!(member("GET /notes", &[]).await, "\"notes-1\"");
}

#[tokio::test]
async fn a_copy_that_goes_away_while_a_client_waits_does_not_cost_the_answer() {
    let pair = Pair::new().await;
    pair.here.double.plan([Plan::Choose]);
    pair.here.double.policy.send_modify(|policy| {
        Arc::make_mut(policy).response_timeout_ms = 60_000;
    });
    let address = pair.here.address;
    let client = tokio::spawn(async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1\r\n\r\n";
        stream
            .write_all(format!("{head}a").as_bytes())
            .await
            .unwrap();
        read_to_end(&mut stream).await
    });
    let id = pair.here.double.first_proposed().await;
    assert_eq!(pair.here.double.requests()[0].answerer, 0);
    pair.here
        .double
        .apply
        .send_modify(|status| status.serving = false);
    pair.there
        .double
        .answered(id, Outcome::Executed, Some(response("there")));
    let reply = client.await.unwrap();
    assert_eq!((reply.status(), reply.body()), (201, "there"));
}

#[tokio::test]
async fn the_others_are_asked_before_an_outcome_is_called_unknown_or_gone() {
    let pair = Pair::new().await;
    let id = |sequence| CommandId {
        member: MemberId(1),
        boot: Boot(1),
        sequence,
    };
    for sequence in 1..=3 {
        let stored = Some(response("there"));
        pair.there
            .double
            .answered(id(sequence), Outcome::Replayed, stored);
    }
    let gone = Plan::Answer(Outcome::ResponseGone, None);
    pair.here
        .double
        .plan([gone.clone(), Plan::Hold, Plan::Choose, gone]);
    for _ in 1..=3 {
        let reply = pair.here.send("POST /notes", &[], "x").await;
        assert_eq!((reply.status(), reply.body()), (201, "there"));
        assert_eq!(reply.field("synod-outcome"), Some("replayed"));
    }
    let reply = pair.here.send("POST /notes", &[], "x").await;
    assert_eq!(reply.status(), 410, "nobody has that one");
}

#[tokio::test]
async fn a_member_whose_copy_does_not_serve_now_is_asked_too() {
    let pair = Pair::new().await;
    let members = [(1, Role::Voter), (2, Role::Voter), (3, Role::Witness)];
    let members = members.map(|(id, role)| Member {
        id: MemberId(id),
        name: format!("notes-{id}"),
        incarnation: Incarnation(id.into()),
        role,
        region: String::new(),
    });
    pair.here.double.node.send_modify(|status| {
        status.serving = vec![MemberId(1)];
        status.configuration = Some(Arc::new(Configuration {
            epoch: Epoch(1),
            members: members.to_vec(),
            quorums: Quorums::Majority,
            first_leader: MemberId(1),
        }));
    });
    pair.answers_there();
    let gone = Plan::Answer(Outcome::ResponseGone, None);
    pair.here.double.plan([gone]);
    let reply = pair.here.send("POST /notes", &[], "x").await;
    assert_eq!((reply.status(), reply.body()), (201, "there"));
}

#[tokio::test]
async fn what_a_snapshot_stands_for_here_is_asked_of_the_others() {
    let pair = Pair::new().await;
    pair.answers_there();
    let elsewhere = Plan::Answer(Outcome::Elsewhere, None);
    pair.here.double.plan([elsewhere]);
    let reply = pair.here.send("POST /notes", &[], "x").await;
    assert_eq!((reply.status(), reply.body()), (201, "there"));
    let reply = pair.here.send("POST /notes", &[], "x").await;
    assert_eq!(reply.problem(), problem(504, "unknown", Some("unknown")));
}

#[tokio::test]
async fn a_member_that_knows_no_better_is_no_answer() {
    let pair = Pair::new().await;
    let first = CommandId {
        member: MemberId(1),
        boot: Boot(1),
        sequence: 1,
    };
    pair.there.double.answered(first, Outcome::Elsewhere, None);
    let channel = pair.here.peers.channel(MemberId(2)).unwrap();
    let group = GroupId([0x5f; 16]);
    let fetched = fetch_answer(channel, group, first, TOO_LONG).await;
    assert_eq!(fetched.unwrap_err().code(), tonic::Code::NotFound);
    let elsewhere = Plan::Answer(Outcome::Elsewhere, None);
    pair.here.double.plan([elsewhere]);
    let reply = pair.here.send("POST /notes", &[], "x").await;
    assert_eq!(reply.problem(), problem(504, "unknown", Some("unknown")));
}

#[tokio::test]
async fn a_snapshot_from_behind_the_time_of_a_request_does_not_make_it_not_ordered() {
    let pair = Pair::new().await;
    let (here, there) = (&pair.here.double, &pair.there.double);
    here.plan([Plan::Hold]);
    // Told, and its time published, just before the entrance looks at that.
    here.state().on_status = Some(Arc::new(|here: &Double| {
        let first = here.state().proposed.first().map(|(id, _)| *id);
        if let Some(id) = first {
            here.answered(id, Outcome::Elsewhere, None);
            here.apply
                .send_modify(|status| status.time = AgreedTime(u64::MAX));
        }
    }));
    let first = CommandId {
        member: MemberId(1),
        boot: Boot(1),
        sequence: 1,
    };
    there.answered(first, Outcome::Executed, Some(response("there")));
    let reply = pair.here.send("POST /notes", &[], "x").await;
    assert_eq!((reply.status(), reply.body()), (201, "there"));
}

#[tokio::test]
async fn a_repeat_gets_the_response_of_the_copy_that_answered_the_first() {
    let pair = Pair::new().await;
    let first = CommandId {
        member: MemberId(1),
        boot: Boot(1),
        sequence: 1,
    };
    let there = Some(response("there"));
    pair.there.double.answered(first, Outcome::Replayed, there);
    let here = Plan::Answer(Outcome::Replayed, Some(Box::new(response("here"))));
    pair.here.double.plan([here]);
    let reply = pair.here.send("POST /notes", &[], "x").await;
    assert_eq!((reply.status(), reply.body()), (201, "there"));
    let reply = pair.here.send("POST /notes", &[], "x").await;
    assert_eq!(
        (reply.status(), reply.body()),
        (201, "here"),
        "that copy has lost it: this one's own will do"
    );
}

#[tokio::test]
async fn another_group_gets_nothing() {
    let pair = Pair::with_copy_away().await;
    pair.there
        .double
        .node
        .send_modify(|status| status.group = Some(GroupId([1; 16])));
    assert_eq!(pair.here.get("/notes").await.status(), 503);
    assert_eq!(pair.there.double.state().read, [""; 0]);
}
