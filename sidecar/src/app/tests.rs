//! The client against small real servers that do what real apps do, and worse.

mod reads;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use synod_paxos::{AgreedTime, Slot};
use synod_proto::v1::{self, Header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;
use crate::apply::StoredBody;
use crate::config::Protocol;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// What the server does with a connection, per request on it.
#[derive(Clone)]
enum Turn {
    /// Writes this and goes on.
    Say(String),
    /// Writes this and closes.
    SayAndClose(String),
    /// Closes its listener, then writes this and closes: how a dying process looks.
    SayAndDie(String),
    /// Resets the connection once the request has come.
    Reset,
    /// Waits until told, then answers.
    Wait,
}

/// An HTTP server made of a script; each request takes the next turn.
struct Server {
    address: SocketAddr,
    /// The requests as they came, heads and bodies.
    requests: mpsc::UnboundedReceiver<String>,
    connections: Arc<AtomicUsize>,
    go_on: Arc<tokio::sync::Notify>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(turns: Vec<Turn>) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), turns).await
    }

    async fn start_at(address: SocketAddr, turns: Vec<Turn>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, requests) = mpsc::unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let go_on = Arc::new(tokio::sync::Notify::new());
        let task = tokio::spawn({
            let (connections, go_on) = (connections.clone(), go_on.clone());
            async move {
                let mut listener = Some(listener);
                let mut turns = turns.into_iter();
                while let Some(accepting) = &listener {
                    let (stream, _) = accepting.accept().await.unwrap();
                    connections.fetch_add(1, Ordering::SeqCst);
                    serve(stream, &mut turns, &sender, &go_on, &mut listener).await;
                }
            }
        });
        Self {
            address,
            requests,
            connections,
            go_on,
            task,
        }
    }

    fn client(&self) -> Arc<Client> {
        Arc::new(Client::new(
            self.address,
            Protocol::Http1,
            std::env::temp_dir(),
        ))
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Ends it with all its sockets.
    async fn kill(self) -> SocketAddr {
        self.task.abort();
        let _ = self.task.await;
        self.address
    }
}

async fn serve(
    mut stream: TcpStream,
    turns: &mut impl Iterator<Item = Turn>,
    requests: &mpsc::UnboundedSender<String>,
    go_on: &tokio::sync::Notify,
    listener: &mut Option<TcpListener>,
) {
    while let Some(request) = read_request(&mut stream).await {
        requests.send(request).unwrap();
        let (text, close) = match turns.next().unwrap_or(Turn::Say(OK.into())) {
            Turn::Say(text) => (text, false),
            Turn::SayAndClose(text) => (text, true),
            Turn::SayAndDie(text) => {
                listener.take();
                (text, true)
            }
            Turn::Reset => {
                socket2::SockRef::from(&stream)
                    .set_linger(Some(Duration::ZERO))
                    .unwrap();
                return;
            }
            Turn::Wait => {
                go_on.notified().await;
                (OK.into(), false)
            }
        };
        if stream.write_all(text.as_bytes()).await.is_err() || close {
            return;
        }
    }
}

/// One request with its body, if its length is said; `None` at the end.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let mut byte = [0];
        if stream.read(&mut byte).await.ok()? == 0 {
            return None;
        }
        bytes.push(byte[0]);
        if bytes.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    let head = String::from_utf8(bytes).unwrap();
    let mut rest = Vec::new();
    if let Some((_, length)) = head.split_once("content-length: ") {
        let length = length.split("\r\n").next().unwrap().parse().unwrap();
        rest = vec![0; length];
        stream.read_exact(&mut rest).await.ok()?;
    } else if head.contains("transfer-encoding: chunked") {
        while !rest.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).await.ok()?;
            rest.push(byte[0]);
        }
    }
    Some(head + std::str::from_utf8(&rest).unwrap())
}

fn header(name: &str, value: &str) -> Header {
    Header {
        name: name.into(),
        value: Bytes::copy_from_slice(value.as_bytes()),
    }
}

fn request(method: &str, body: &'static str) -> v1::Request {
    v1::Request {
        method: method.into(),
        target: "/notes?a=%20b".into(),
        headers: vec![
            header("host", "notes.example"),
            header("x-b", "1"),
            header("synod-slot", "77"),
            header("x-a", "2"),
            header("content-length", "99"),
            header("connection", "x-hop"),
            header("x-hop", "3"),
        ],
        body: Bytes::from_static(body.as_bytes()),
        ..v1::Request::default()
    }
}

fn order(client: &Client, request: v1::Request) -> Order {
    Order {
        slot: Slot(1042),
        time: AgreedTime(1_700_000_000_123_456_789),
        seed: 0xab,
        request: Arc::new(request),
        instance: client.look().unwrap().expect("it listens"),
    }
}

async fn post(client: &Arc<Client>) -> Result<Executed, ExecuteError> {
    let order = order(client, request("POST", "hello"));
    client.clone().execute(order).await
}

fn text(executed: Executed) -> (StatusCode, String) {
    let response = executed.response.expect("it was kept");
    let StoredBody::Memory(bytes) = response.body else {
        panic!("it is small");
    };
    (response.status, String::from_utf8(bytes.to_vec()).unwrap())
}

fn unknown(result: Result<Executed, ExecuteError>) -> String {
    match result {
        Err(ExecuteError::Unknown(why)) => why,
        other => panic!("expected an unknown end, not {other:?}"),
    }
}

fn not_sent(result: Result<Executed, ExecuteError>) -> NotSent {
    match result {
        Err(ExecuteError::NotSent(why)) => why,
        other => panic!("expected that nothing was sent, not {other:?}"),
    }
}

// === ordered requests: bytes ===

#[tokio::test]
async fn an_ordered_request_is_the_same_bytes_whoever_sends_it() {
    let mut server = Server::start(vec![]).await;
    let client = server.client();
    let executed = post(&client).await.unwrap();
    assert_eq!(text(executed), (StatusCode::OK, "ok".into()));
    assert_eq!(
        server.requests.recv().await.unwrap(),
        "POST /notes?a=%20b HTTP/1.1\r\n\
         host: notes.example\r\n\
         x-b: 1\r\n\
         x-a: 2\r\n\
         content-length: 5\r\n\
         synod-slot: 1042\r\n\
         synod-time: 2023-11-14T22:13:20.123456789Z\r\n\
         synod-seed: 000000000000000000000000000000ab\r\n\
         \r\n\
         hello"
    );
}

#[tokio::test]
async fn an_empty_body_has_a_length_where_one_is_expected() {
    let mut server = Server::start(vec![]).await;
    let client = server.client();
    for (method, said) in [("POST", true), ("DELETE", false), ("MKCOL", false)] {
        let mut request = request(method, "");
        request
            .headers
            .retain(|field| field.name != "content-length");
        let order = order(&client, request);
        client.clone().execute(order).await.unwrap();
        let sent = server.requests.recv().await.unwrap();
        assert_eq!(sent.contains("content-length: 0\r\n"), said, "{sent}");
    }
}

#[tokio::test]
async fn trailers_of_a_request_are_sent_behind_its_chunks() {
    let mut server = Server::start(vec![]).await;
    let client = server.client();
    let mut request = request("PUT", "hello");
    request.trailers = vec![header("x-sum", "42"), header("synod-seed", "1")];
    let order = order(&client, request);
    client.clone().execute(order).await.unwrap();
    let sent = server.requests.recv().await.unwrap();
    assert!(sent.contains("transfer-encoding: chunked"), "{sent}");
    assert!(!sent.contains("content-length"), "{sent}");
    assert!(
        sent.ends_with("5\r\nhello\r\n0\r\nx-sum: 42\r\n\r\n"),
        "{sent}"
    );
}

#[tokio::test]
async fn what_cannot_be_said_in_http_is_answered_alike_by_every_copy_and_not_sent() {
    let server = Server::start(vec![]).await;
    let client = server.client();
    for bad in [
        v1::Request {
            method: "NO METHOD".into(),
            ..request("POST", "")
        },
        v1::Request {
            target: "/a b".into(),
            ..request("POST", "")
        },
        v1::Request {
            headers: vec![header("a\nb", "1")],
            ..request("POST", "")
        },
    ] {
        let order = order(&client, bad);
        let executed = client.clone().execute(order).await.unwrap();
        assert_eq!(text(executed).0, StatusCode::BAD_REQUEST);
    }
    assert!(server.requests.is_empty());
}

// === ordered requests: what is known at the end ===

#[tokio::test]
async fn nothing_is_sent_to_an_app_that_refuses_the_connection() {
    let server = Server::start(vec![]).await;
    let client = server.client();
    let order = order(&client, request("POST", "hello"));
    server.kill().await;
    let result = client.clone().execute(order).await;
    assert!(matches!(not_sent(result), NotSent::Connect(_)));
}

#[tokio::test]
async fn nothing_is_sent_to_another_process_than_the_one_meant() {
    let server = Server::start(vec![]).await;
    let client = server.client();
    let order = order(&client, request("POST", "hello"));
    let address = server.kill().await;
    let mut next = Server::start_at(address, vec![]).await;
    let result = client.clone().execute(order).await;
    assert!(matches!(not_sent(result), NotSent::OtherInstance));
    assert!(post(&client).await.is_ok());
    next.requests.recv().await.unwrap();
    assert!(next.requests.is_empty());
}

#[tokio::test]
async fn a_restart_between_two_requests_is_noticed_though_nothing_was_refused() {
    let server = Server::start(vec![]).await;
    let client = server.client();
    let first = order(&client, request("POST", "1"));
    let second = Order {
        slot: Slot(1043),
        ..first.clone()
    };
    client.clone().execute(first).await.unwrap();
    let address = server.kill().await;
    let next = Server::start_at(address, vec![]).await;
    let result = client.clone().execute(second).await;
    assert!(matches!(not_sent(result), NotSent::OtherInstance));
    assert!(next.requests.is_empty());
}

#[tokio::test]
async fn a_connection_lost_after_a_byte_was_sent_has_an_unknown_end() {
    let cut = |text: &str| Turn::SayAndClose(text.into());
    for turn in [
        Turn::Reset,
        cut(""),
        cut("HTTP/1.1 200"),
        cut("HTTP/1.1 200 OK\r\ncontent-le"),
        cut("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"),
        cut("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n12345678"),
        cut("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        cut("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n"),
        cut("HTTP/1.1 100 Continue\r\n\r\n"),
    ] {
        let server = Server::start(vec![turn]).await;
        unknown(post(&server.client()).await);
    }
}

#[tokio::test]
async fn garbage_has_an_unknown_end() {
    for garbage in [
        "\u{1}\u{2}\u{3}\r\n\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ] {
        let server = Server::start(vec![Turn::Say(garbage.into())]).await;
        unknown(post(&server.client()).await);
    }
}

#[tokio::test]
async fn after_an_unknown_end_the_next_request_has_a_new_connection() {
    let server = Server::start(vec![Turn::SayAndClose("HTTP/1.1 2".into())]).await;
    let client = server.client();
    unknown(post(&client).await);
    assert!(post(&client).await.is_ok());
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_response_that_ends_with_its_connection_counts_only_if_the_app_lives_on() {
    let open_ended = "HTTP/1.0 200 OK\r\n\r\nall there is";
    let server = Server::start(vec![Turn::SayAndClose(open_ended.into())]).await;
    let executed = post(&server.client()).await.unwrap();
    assert_eq!(text(executed).1, "all there is");
    let server = Server::start(vec![Turn::SayAndDie(open_ended.into())]).await;
    unknown(post(&server.client()).await);
}

#[tokio::test]
async fn a_response_of_known_length_counts_though_the_app_dies_behind_it() {
    let server = Server::start(vec![Turn::SayAndDie(OK.into())]).await;
    assert!(post(&server.client()).await.is_ok());
}

#[tokio::test]
async fn interim_responses_are_passed_over() {
    let early = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    let server = Server::start(vec![Turn::Say(format!("{early}{OK}"))]).await;
    let executed = post(&server.client()).await.unwrap();
    assert_eq!(text(executed), (StatusCode::OK, "ok".into()));
}

#[tokio::test]
async fn what_follows_a_response_is_never_taken_for_the_next_one() {
    let server = Server::start(vec![
        Turn::Say(format!(
            "{OK}HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nfake"
        )),
        Turn::Say(OK.into()),
    ])
    .await;
    let client = server.client();
    assert_eq!(text(post(&client).await.unwrap()).1, "ok");
    assert_eq!(text(post(&client).await.unwrap()).1, "ok");
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_slow_app_is_awaited_and_a_dropped_wait_closes_the_connection() {
    let mut server = Server::start(vec![Turn::Wait, Turn::Wait]).await;
    let client = server.client();
    let mut first = Box::pin(post(&client));
    tokio::select! {
        _ = &mut first => panic!("it was not answered yet"),
        _ = server.requests.recv() => {}
    }
    server.go_on.notify_one();
    assert!(first.await.is_ok());
    let mut second = Box::pin(post(&client));
    tokio::select! {
        _ = &mut second => panic!("it was not answered yet"),
        _ = server.requests.recv() => {}
    }
    drop(second);
    let before = server.connections();
    server.go_on.notify_one();
    assert!(post(&client).await.is_ok());
    assert_eq!(server.connections(), before + 1);
}

// === ordered requests: connections ===

/// No connection becomes too old to be used again, however slow the machine is. Only where none is
/// opened any more: the time limit for that would be over at once.
fn stop_the_clock() {
    tokio::time::pause();
}

#[tokio::test]
async fn requests_in_a_row_share_a_connection() {
    let server = Server::start(vec![]).await;
    let client = server.client();
    assert!(post(&client).await.is_ok());
    stop_the_clock();
    for _ in 0..10 {
        assert!(post(&client).await.is_ok());
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_was_idle_for_long_is_not_used_again() {
    let server = Server::start(vec![]).await;
    let client = server.client();
    assert!(post(&client).await.is_ok());
    tokio::time::pause();
    tokio::time::advance(Duration::from_millis(501)).await;
    tokio::time::resume();
    assert!(post(&client).await.is_ok());
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_connection_that_the_app_has_closed_is_not_used_again() {
    for end in [
        OK.to_string(),
        OK.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n"),
    ] {
        let turns = vec![Turn::SayAndClose(end); 50];
        let server = Server::start(turns).await;
        let client = server.client();
        for _ in 0..50 {
            assert!(post(&client).await.is_ok());
            // The end of the connection is under way.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert_eq!(server.connections(), 50);
    }
}

/// The end is in the kernel, but the runtime had no chance to notice it.
#[tokio::test]
async fn a_connection_that_was_closed_a_moment_ago_is_not_used_again() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (closed, was_closed) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut bytes = [0; 4_096];
            let read = stream.read(&mut bytes).unwrap();
            assert!(bytes[..read].ends_with(b"hello"));
            stream.write_all(OK.as_bytes()).unwrap();
            drop(stream);
            if closed.send(()).is_err() {
                break;
            }
        }
    });
    let client = Arc::new(Client::new(address, Protocol::Http1, std::env::temp_dir()));
    for _ in 0..50 {
        post(&client).await.unwrap();
        was_closed.recv().unwrap();
    }
}

#[tokio::test]
async fn responses_are_kept_whole_whatever_their_size() {
    let folder = tempfile::tempdir().unwrap();
    for len in [0, 1, 65_536, 65_537, 3 << 20] {
        let body = "x".repeat(len);
        let text = format!(
            "HTTP/1.1 201 Created\r\ncontent-length: {len}\r\nset-cookie: a=1\r\nset-cookie: b=2\r\n\
             connection: keep-alive\r\nkeep-alive: timeout=5\r\nsynod-slot: 5\r\netag: \"1\"\r\n\r\n{body}"
        );
        let server = Server::start(vec![Turn::Say(text)]).await;
        let client = Arc::new(Client::new(
            server.address,
            Protocol::Http1,
            folder.path().into(),
        ));
        let response = post(&client).await.unwrap().response.unwrap();
        assert_eq!(response.status, StatusCode::CREATED);
        let names: Vec<_> = response
            .headers
            .keys()
            .map(http::HeaderName::as_str)
            .collect();
        assert_eq!(names, ["content-length", "set-cookie", "etag"]);
        assert_eq!(response.headers.get_all("set-cookie").iter().count(), 2);
        match response.body {
            StoredBody::Memory(bytes) => {
                assert!(len <= 65_536);
                assert_eq!(bytes, body);
            }
            StoredBody::File { path, len: kept } => {
                assert!(len > 65_536);
                assert_eq!(kept, len as u64);
                assert_eq!(std::fs::read_to_string(&*path).unwrap(), body);
            }
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn trailers_of_a_response_are_kept() {
    let text = "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n\
                2\r\nok\r\n0\r\nx-sum: 42\r\n\r\n";
    let server = Server::start(vec![Turn::Say(text.into())]).await;
    let response = post(&server.client()).await.unwrap().response.unwrap();
    assert_eq!(response.trailers.get("x-sum").unwrap(), "42");
}

#[tokio::test]
async fn a_response_that_cannot_be_kept_is_still_a_response() {
    let text = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: 70000\r\n\r\n{}",
        "x".repeat(70_000)
    );
    let server = Server::start(vec![Turn::Say(text)]).await;
    let client = Arc::new(Client::new(
        server.address,
        Protocol::Http1,
        "/nowhere".into(),
    ));
    assert!(post(&client).await.unwrap().response.is_none());
}

#[tokio::test]
async fn a_second_listener_of_the_same_app_is_no_restart() {
    let server = Server::start(vec![]).await;
    let client = server.client();
    let meant = order(&client, request("POST", "hello"));
    client.clone().execute(meant.clone()).await.unwrap();
    let second = v6_listener(server.address.port());
    assert_eq!(client.look().unwrap(), Some(meant.instance));
    assert!(client.clone().execute(meant).await.is_ok());
    assert!(!client.partly_gone());
    drop(second);
    client.look().unwrap();
    assert!(client.partly_gone());
}

/// The other half of a program that listens for each address family by itself.
fn v6_listener(port: u16) -> std::net::TcpListener {
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
    socket.set_only_v6(true).unwrap();
    let any: SocketAddr = format!("[::]:{port}").parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(8).unwrap();
    socket.into()
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path)
        .header("host", "notes.example")
        .header("synod-min-slot", "3")
        .header("te", "trailers")
        .body(Full::new(Bytes::new()))
        .unwrap()
}

// === HTTP/2 ===

#[tokio::test]
async fn an_app_that_speaks_http2_is_served_alike() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service =
                hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
                    let said = format!(
                        "{} {} {:?}",
                        request.method(),
                        request.uri(),
                        request.headers().get("synod-slot")
                    );
                    let body = request.into_body().collect().await?.to_bytes();
                    let said = [said.as_bytes(), b" ", &body].concat();
                    Ok::<_, hyper::Error>(http::Response::new(Full::new(Bytes::from(said))))
                });
            let io = hyper_util::rt::TokioIo::new(stream);
            let executor = hyper_util::rt::TokioExecutor::new();
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(executor).serve_connection(io, service),
            );
        }
    });
    let client = Arc::new(Client::new(address, Protocol::H2c, std::env::temp_dir()));
    for _ in 0..3 {
        let executed = post(&client).await.unwrap();
        assert_eq!(
            text(executed).1,
            "POST http://notes.example/notes?a=%20b Some(\"1042\") hello"
        );
    }
    client.set_reads(client.look().unwrap());
    let response = client.send_read(get("/a"), Pool::Reads).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "GET http://notes.example/a None ");
}
