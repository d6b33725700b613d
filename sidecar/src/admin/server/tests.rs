use synod_paxos::{Configuration, Epoch, GroupId, Incarnation, Member, PeerStatus, Quorums, Slot};

use tokio::net::TcpStream;

use super::*;
use crate::admin::testing::{self, Control};
use crate::config::Token;

struct Bench {
    admin: Admin,
    control: Control,
}

fn bench() -> Bench {
    let (parts, control) = testing::parts();
    let admin = Admin::new(parts);
    Bench { admin, control }
}

fn formed(node: &mut NodeStatus) {
    node.group = Some(GroupId([0x5f; 16]));
    node.member = MemberId(1);
    node.leader = Some(MemberId(2));
    node.epoch = Epoch(1);
    node.log_counts = true;
    (node.last, node.commit) = (Slot(12), Slot(11));
    let member = |id: u32, role| Member {
        id: MemberId(id),
        name: format!("notes-{id}"),
        incarnation: Incarnation(id.into()),
        role,
        region: String::new(),
    };
    node.configuration = Some(Arc::new(Configuration {
        epoch: Epoch(1),
        members: vec![member(1, Role::Voter), member(2, Role::Voter)],
        quorums: Quorums::Majority,
        first_leader: MemberId(0),
    }));
}

impl Bench {
    async fn ask(&self, method: Method, path: &str) -> (u16, String) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(())
            .unwrap();
        let response = self.admin.answer(&request).await.unwrap();
        let status = response.status().as_u16();
        let body = http_body_util::BodyExt::collect(response.into_body()).await;
        let body = body.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask(Method::GET, path).await
    }
}

#[tokio::test]
async fn before_genesis_a_member_is_alive_and_not_ready() {
    let bench = bench();
    assert_eq!(bench.get("/live").await.0, 200);
    let (status, why) = bench.get("/ready").await;
    assert_eq!(status, 503);
    assert!(why.contains("has not been formed"), "{why}");
    let (_, json) = bench.get("/status").await;
    let status: Status = serde_json::from_str(&json).unwrap();
    assert_eq!((status.id, status.group, status.ready), (None, None, false));
    assert_eq!(status.boot, 3);
    assert_eq!(status.incarnation, format!("{:032x}", 0xab));
}

#[tokio::test]
async fn the_status_tells_names_slots_and_what_is_waited_for() {
    let bench = bench();
    bench.control.node.send_modify(formed);
    bench.control.apply.send_modify(|apply| {
        apply.applied = Slot(9);
        apply.rebuilding = true;
    });
    bench.admin.look();
    bench.admin.look();
    let (_, json) = bench.get("/status").await;
    let status: Status = serde_json::from_str(&json).unwrap();
    assert_eq!(status.leader.as_deref(), Some("notes-2"));
    assert_eq!(
        (status.role.as_str(), status.state.as_str()),
        ("Voter", "Rebuilding")
    );
    assert_eq!((status.last, status.commit, status.applied), (12, 11, 9));
    assert_eq!(status.policy_version, 4);
    assert_eq!(status.group.as_deref(), Some("5f5f5f5f"));
    let waiting = status.waiting_on.unwrap();
    assert_eq!((waiting.on.as_str(), waiting.slot), ("quorum", 12));
    bench
        .control
        .node
        .send_modify(|node| node.commit = Slot(12));
    bench.admin.look();
    let (_, json) = bench.get("/status").await;
    let status: Status = serde_json::from_str(&json).unwrap();
    assert_eq!(status.waiting_on.unwrap().on, "app");
    assert_eq!(bench.get("/ready").await.0, 200);
    bench.admin.parts.leaving.cancel();
    assert_eq!(bench.get("/ready").await.0, 503);
}

#[tokio::test]
async fn the_app_is_reported_dead_only_while_it_must_be_stopped() {
    let bench = bench();
    assert_eq!(bench.get("/app-health/notes/livez").await.0, 200);
    let instance = crate::app::Instance(std::num::NonZeroU64::MIN);
    bench
        .control
        .apply
        .send_modify(|apply| apply.condemned = Some(instance));
    assert_eq!(bench.get("/app-health/notes/livez").await.0, 503);
}

#[tokio::test]
async fn the_start_signal_is_taken_by_get_and_post_and_passed_on() {
    let bench = bench();
    assert_eq!(
        bench.ask(Method::GET, "/lifecycle/app-started").await.0,
        200
    );
    assert_eq!(
        bench.ask(Method::POST, "/lifecycle/app-started").await.0,
        200
    );
    assert_eq!(bench.control.signals(), 2);
    assert_eq!(
        bench.ask(Method::HEAD, "/lifecycle/app-started").await.0,
        405
    );
    assert_eq!(bench.control.signals(), 2);
    assert_eq!(bench.ask(Method::POST, "/ready").await.0, 405);
    assert_eq!(bench.get("/nothing").await.0, 404);
}

#[tokio::test]
async fn with_a_token_the_pods_own_probes_and_hooks_must_show_it_and_others_need_none() {
    let mut bench = bench();
    bench.admin.parts.token = Some(Token::new("s3cret".into()));
    for path in [
        "/app-health/notes/livez",
        "/app-health/notes/readyz",
        "/lifecycle/app-started?of=app",
        "/lifecycle/drain",
    ] {
        assert_eq!(bench.get(path).await.0, 403, "{path}");
        for (shown, allowed) in [("s3cre", false), ("", false), ("s3cret", true)] {
            assert!(!bench.admin.leaving(), "{path} {shown}");
            let request = Request::get(path).header(TOKEN, shown).body(()).unwrap();
            let response = bench.admin.answer(&request).await.unwrap();
            let refused = response.status() == StatusCode::FORBIDDEN;
            assert_ne!(refused, allowed, "{path} {shown}");
        }
    }
    assert!(bench.admin.leaving());
    assert_eq!(bench.control.signals(), 1);
    assert_eq!(bench.get("/live").await.0, 200);
    assert_eq!(bench.get("/status").await.0, 200);
}

#[tokio::test]
async fn who_went_past_the_sidecar_is_told_with_its_address() {
    let bench = bench();
    let (_, json) = bench.get("/status").await;
    let status: Status = serde_json::from_str(&json).unwrap();
    assert_eq!(status.bypass, None);
    bench.control.bypassed("10.0.0.9".parse().unwrap());
    let (_, json) = bench.get("/status").await;
    let status: Status = serde_json::from_str(&json).unwrap();
    assert_eq!(status.bypass.unwrap().address, "10.0.0.9");
}

#[tokio::test]
async fn metrics_are_open_metrics_with_our_names() {
    let bench = bench();
    well_formed(&bench.get("/metrics").await.1);
    bench.control.node.send_modify(formed);
    let mut details = Description {
        leader_changes: 3,
        log_bytes: 4096,
        ..Description::default()
    };
    details.counters.elections = 2;
    details.status.last = Slot(12);
    details.status.peers = vec![PeerStatus {
        member: MemberId(2),
        heard: true,
        rtt_ns: 1_500_000,
        acknowledged: Some(Slot(10)),
        in_flight_bytes: 77,
        ..PeerStatus::default()
    }];
    bench.admin.details.send_replace(Some(Arc::new(details)));
    bench.control.apply.send_modify(|apply| {
        apply.applied = Slot(9);
        apply.app_starts = 2;
    });
    let (status, page) = bench.get("/metrics").await;
    assert_eq!(status, 200);
    well_formed(&page);
    for line in [
        "synod_node_commit_slot 11",
        "synod_apply_lag_slots 2",
        "synod_node_leads 0",
        "synod_node_waiting_on{on=\"app\"} 1",
        "synod_node_waiting_on{on=\"quorum\"} 0",
        "synod_log_size_bytes 4096",
        "synod_log_max_bytes 67108864",
        "synod_apply_duration_seconds_bucket{le=\"1.0\"} 1",
        "synod_paxos_elections_total 2",
        "synod_paxos_leader_changes_total 3",
        "synod_peer_round_trip_seconds{peer=\"notes-2\"} 0.0015",
        "synod_peer_log_lag_slots{peer=\"notes-2\"} 2",
        "synod_peer_in_flight_bytes{peer=\"notes-2\"} 77",
        "synod_peer_heard{peer=\"notes-2\"} 1",
        "synod_app_starts_total 2",
        "synod_ingress_requests_total{class=\"ordered\",route=\"notes\",status=\"201\"} 1",
        "# UNIT synod_ingress_duration_seconds seconds",
        "# EOF",
    ] {
        assert!(page.contains(line), "{line} is missing in\n{page}");
    }
}

/// Each sample is of a family that was described before, once, with a unit that its name ends
/// with; each has one value, and no two are of the same name and labels.
fn well_formed(page: &str) {
    let mut families = std::collections::BTreeMap::new();
    let mut samples = std::collections::BTreeSet::new();
    assert!(page.ends_with("# EOF\n"), "{page}");
    for line in page.lines().filter(|it| *it != "# EOF") {
        if let Some(comment) = line.strip_prefix("# ") {
            let words: Vec<&str> = comment.splitn(3, ' ').collect();
            match words[..] {
                ["TYPE", name, kind] => {
                    assert!(families.insert(name, kind).is_none(), "{name} comes twice");
                }
                ["UNIT", name, unit] => assert!(name.ends_with(unit), "{line}"),
                ["HELP", name, _] => assert!(name.starts_with("synod_"), "{line}"),
                _ => panic!("{line}"),
            }
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').expect(line);
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(samples.insert(sample), "{sample} comes twice");
        let name = sample.split('{').next().unwrap_or(sample);
        let of = |(family, kind): (&&str, &&str)| match (name.strip_prefix(*family), *kind) {
            (Some(""), "gauge") | (Some("_total"), "counter") => true,
            (Some(end), "histogram") => ["_sum", "_count", "_bucket"].contains(&end),
            _ => false,
        };
        assert!(families.iter().any(of), "{line} is of no family");
    }
}

#[tokio::test]
async fn a_group_that_was_formed_just_now_is_not_waited_for() {
    let bench = bench();
    bench.admin.look();
    bench
        .control
        .apply
        .send_modify(|apply| apply.serving = true);
    let status = bench.admin.status();
    assert_eq!(status.waiting_on.expect("waits").on, "genesis");
    assert_eq!(
        (status.state.as_str(), status.serving),
        ("CatchingUp", false)
    );
    bench.control.node.send_modify(formed);
    let status = bench.admin.status();
    assert_eq!(status.state, "CaughtUp");
    assert_ne!(
        status.waiting_on.map(|it| it.on).as_deref(),
        Some("genesis")
    );
}

#[tokio::test]
async fn the_port_serves_the_page_until_it_is_stopped() {
    let bench = bench();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let served = tokio::spawn(serve(listener, bench.admin.parts, stop.clone()));
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get("/")
        .header("host", "a")
        .body(Full::new(Bytes::new()))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        "text/html; charset=utf-8"
    );
    let page = http_body_util::BodyExt::collect(response.into_body())
        .await
        .unwrap();
    assert_eq!(page.to_bytes(), PAGE.as_bytes());
    stop.cancel();
    served.await.unwrap();
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_start_that_is_refused_gets_no_response_at_all() {
    let bench = bench();
    bench.admin.parts.leaving.cancel();
    let (client, served) = tokio::io::duplex(1024);
    let serving = tokio::spawn(connection(Arc::new(bench.admin), served));
    let (mut reader, mut writer) = tokio::io::split(client);
    let request = b"GET /lifecycle/app-started HTTP/1.1\r\nHost: a\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut writer, request)
        .await
        .unwrap();
    let mut answer = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut reader, &mut answer)
        .await
        .unwrap();
    assert_eq!(String::from_utf8(answer).unwrap(), "");
    serving.await.unwrap();
}
