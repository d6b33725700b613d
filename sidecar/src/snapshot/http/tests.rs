//! Apps that save and restore their state over real sockets, well and badly.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Mutex;

use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::snapshot::testing::{self, head, noise, state_of, text};
use crate::snapshot::{Snapshot, SnapshotId};

/// Whoever listens.
fn any() -> SameApp {
    Arc::new(|| true)
}

/// Generous where nothing should take long, tiny where something must be waited for.
const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(200);

fn endpoint(method: Method, path: &'static str) -> Endpoint {
    let path = PathAndQuery::from_static(path);
    Endpoint { method, path }
}

fn snapshots(address: SocketAddr) -> HttpSnapshots {
    HttpSnapshots {
        address,
        protocol: Protocol::Http1,
        save: endpoint(Method::GET, "/state?all"),
        restore: endpoint(Method::PUT, "/state"),
        settle: Some(endpoint(Method::GET, "/idle")),
        limits: HttpLimits {
            state_bytes: 64 << 20,
            silence: LONG,
            whole: LONG,
        },
    }
}

/// A store with one snapshot in it.
fn stored(state: &[u8]) -> (TempDir, Store, Snapshot) {
    let folder = tempfile::tempdir().unwrap();
    let store = testing::store(folder.path());
    let snapshot = testing::save(&store, 1, state);
    (folder, store, snapshot)
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

// === a good app ===

/// Keeps one state and gives it out.
struct App {
    state: Mutex<Bytes>,
    chunked: bool,
}

impl App {
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>, Infallible> {
        if request.method() == Method::PUT {
            let length = request.headers()["content-length"]
                .to_str()
                .unwrap()
                .to_owned();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body.len().to_string(), length);
            *self.state.lock().unwrap() = body;
            return Ok(Response::new(Full::default().boxed()));
        }
        let state = self.state.lock().unwrap().clone();
        let body = if self.chunked {
            let parts: Vec<_> = state
                .chunks(100_000)
                .map(|it| Ok(http_body::Frame::data(Bytes::copy_from_slice(it))))
                .collect();
            http_body_util::StreamBody::new(tokio_stream::iter(parts)).boxed()
        } else {
            Full::new(state).boxed()
        };
        Ok(Response::new(body))
    }

    async fn serve(self: Arc<Self>) -> (SocketAddr, AbortOnDropHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let app = self.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| app.clone().answer(request));
                    let server = auto::Builder::new(TokioExecutor::new());
                    // Clients that break off are the other side's matter.
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        (address, AbortOnDropHandle::new(task))
    }
}

#[tokio::test]
async fn a_state_goes_from_one_app_into_another() {
    for protocol in [Protocol::Http1, Protocol::H2c] {
        for (chunked, state) in [
            (false, noise(1, 9 << 20)),
            (true, noise(2, 9 << 20)),
            (true, text(100)),
            (false, Vec::new()),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let store = testing::store(folder.path());
            let state = Mutex::new(Bytes::from(state));
            let from = Arc::new(App { state, chunked });
            let (address, _running) = from.clone().serve().await;
            let mut http = snapshots(address);
            http.protocol = protocol;
            let draft = http
                .save(&store, head(1), Bytes::new(), &any())
                .await
                .unwrap();
            let snapshot = draft.finish().await.unwrap();
            let to = Arc::new(App {
                state: Mutex::new("something else".into()),
                chunked,
            });
            let (address, _running) = to.clone().serve().await;
            http.address = address;
            let reader = store.read(snapshot.id).unwrap();
            http.restore(reader, &any()).await.unwrap();
            let (from, to) = (from.state.lock().unwrap(), to.state.lock().unwrap());
            assert!(*from == *to, "{protocol:?}, chunked: {chunked}");
        }
    }
}

// === apps made of a script ===

/// What comes after the request was read.
#[derive(Clone)]
enum Then {
    Close,
    /// Waits until the other side has closed.
    Hang,
    /// Says this again and again.
    Repeat(&'static str),
}

/// Reads one request per connection as far as told, says something, and then.
async fn script(
    answers: Vec<(Reading, String, Then)>,
) -> (
    SocketAddr,
    tokio::sync::mpsc::UnboundedReceiver<String>,
    AbortOnDropHandle<()>,
) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = tokio::sync::mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        for (reading, say, then) in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let request = read_request(&mut stream, reading).await;
            sender.send(request).unwrap();
            // The other side may have had enough.
            let _ = stream.write_all(say.as_bytes()).await;
            match then {
                Then::Close => {}
                Then::Hang => while stream.read(&mut [0; 4096]).await.is_ok_and(|it| it > 0) {},
                Then::Repeat(text) => {
                    while stream.write_all(text.as_bytes()).await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
            }
        }
    });
    (address, requests, AbortOnDropHandle::new(task))
}

#[derive(Clone, Copy, PartialEq)]
enum Reading {
    Head,
    All,
}

async fn read_request(stream: &mut TcpStream, reading: Reading) -> String {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(bytes).unwrap();
    let length = head.split_once("content-length: ").map(|(_, rest)| rest);
    let length = length.map_or(0, |it| it.split("\r\n").next().unwrap().parse().unwrap());
    let mut body = vec![0; if reading == Reading::All { length } else { 0 }];
    // An upload that ends early ends the request.
    if stream.read_exact(&mut body).await.is_err() {
        body.clear();
    }
    head + &String::from_utf8_lossy(&body)
}

/// What a save is told after this answer, with nothing left of it on disk.
async fn save_fails(say: &str, then: Then, limits: impl FnOnce(&mut HttpLimits)) -> HttpFailure {
    let folder = tempfile::tempdir().unwrap();
    let store = testing::store(folder.path());
    let (address, _requests, _running) = script(vec![(Reading::All, say.into(), then)]).await;
    let mut http = snapshots(address);
    limits(&mut http.limits);
    let error = http
        .save(&store, head(1), Bytes::new(), &any())
        .await
        .unwrap_err();
    // The thread that writes learns a little later.
    while files(folder.path()) > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(store.newest(), None);
    let told = error.to_string();
    assert!(
        told.starts_with("saving the app's state at slot 1 (GET /state?all): "),
        "{told}"
    );
    error.why
}

#[tokio::test]
async fn the_app_is_asked_for_its_state_with_the_same_bytes_on_every_copy() {
    let folder = tempfile::tempdir().unwrap();
    let store = testing::store(folder.path());
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstate".to_owned();
    let (address, mut requests, _running) = script(vec![(Reading::All, answer, Then::Hang)]).await;
    let http = snapshots(address);
    let saved = http
        .save(&store, head(1042), Bytes::from_static(b"t"), &any())
        .await;
    let snapshot = saved.unwrap().finish().await.unwrap();
    assert_eq!(state_of(&store, &snapshot), b"state");
    assert_eq!(
        requests.recv().await.unwrap(),
        "GET /state?all HTTP/1.1\r\n\
         host: localhost\r\n\
         user-agent: synod\r\n\
         synod-snapshot: save\r\n\
         synod-slot: 1042\r\n\
         accept-encoding: identity\r\n\
         connection: close\r\n\r\n"
    );
}

#[tokio::test]
async fn another_status_than_200_is_no_state() {
    for status in [
        "500 No",
        "404 No",
        "204 No Content",
        "206 Partial",
        "302 There",
    ] {
        let say = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        let why = save_fails(&say, Then::Close, |_| {}).await;
        assert!(matches!(why, HttpFailure::Status(it) if status.starts_with(it.as_str())));
    }
}

#[tokio::test]
async fn a_state_that_breaks_off_is_no_state() {
    for say in [
        "",
        "HTTP/1.1 200 OK\r\ncontent-le",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
    ] {
        let why = save_fails(say, Then::Close, |_| {}).await;
        assert!(matches!(why, HttpFailure::Broken(_)), "{say:?}: {why:?}");
    }
}

#[tokio::test]
async fn what_is_not_http_is_no_state() {
    for say in [
        "all right, here it is",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\nstate\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nstate and more\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nstate",
    ] {
        let why = save_fails(say, Then::Hang, |_| {}).await;
        assert!(matches!(why, HttpFailure::Broken(_)), "{say:?}: {why:?}");
    }
}

#[tokio::test]
async fn an_app_that_declares_less_than_it_sends_is_not_believed() {
    let say = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstate and more";
    for then in [Then::Close, Then::Hang] {
        let why = save_fails(say, then, |_| {}).await;
        assert!(matches!(why, HttpFailure::Surplus), "{why:?}");
    }
    let say = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstate";
    let why = save_fails(say, Then::Repeat("x"), |_| {}).await;
    assert!(matches!(why, HttpFailure::Surplus), "{why:?}");
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_no_state() {
    let why = save_fails("HTTP/1.1 200 OK\r\n\r\nstate", Then::Close, |_| {}).await;
    assert!(matches!(why, HttpFailure::NoLength), "{why:?}");
}

#[tokio::test]
async fn an_answer_in_an_encoding_is_no_state() {
    let say = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-encoding: gzip\r\n\r\nstate";
    let why = save_fails(say, Then::Close, |_| {}).await;
    assert!(matches!(why, HttpFailure::Encoded), "{why:?}");
}

#[tokio::test]
async fn an_app_that_hangs_is_given_up() {
    for say in [
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let why = save_fails(say, Then::Hang, |limits| limits.silence = SHORT).await;
        assert!(
            matches!(why, HttpFailure::Silent(SHORT)),
            "{say:?}: {why:?}"
        );
    }
}

#[tokio::test]
async fn a_state_without_end_is_given_up() {
    let say = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let drip = Then::Repeat("4\r\nmore\r\n");
    let why = save_fails(say, drip.clone(), |limits| limits.whole = SHORT).await;
    assert!(matches!(why, HttpFailure::TooSlow(SHORT)), "{why:?}");
    let why = save_fails(say, drip, |limits| limits.state_bytes = 30).await;
    assert!(matches!(why, HttpFailure::TooLarge(30)), "{why:?}");
    let say = "HTTP/1.1 200 OK\r\ncontent-length: 31\r\n\r\n";
    let why = save_fails(say, Then::Hang, |limits| limits.state_bytes = 30).await;
    assert!(matches!(why, HttpFailure::TooLarge(30)), "{why:?}");
}

#[tokio::test]
async fn a_declared_length_beyond_the_free_space_is_refused_before_it_comes() {
    let say = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 1_u64 << 60);
    let why = save_fails(&say, Then::Hang, |limits| limits.state_bytes = u64::MAX).await;
    let HttpFailure::Store(error) = why else {
        panic!("{why:?}");
    };
    assert!(matches!(*error, StoreError::NoRoom { .. }), "{error:?}");
}

#[tokio::test]
async fn nobody_who_listens_is_no_state() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let http = snapshots(listener.local_addr().unwrap());
    drop(listener);
    let folder = tempfile::tempdir().unwrap();
    let store = testing::store(folder.path());
    let saved = http.save(&store, head(1), Bytes::new(), &any()).await;
    assert!(matches!(saved.unwrap_err().why, HttpFailure::Connect(_)));
}

// === restore ===

async fn restore(
    state: &[u8],
    reading: Reading,
    say: &str,
    then: Then,
    silence: Duration,
) -> (Result<(), HttpFailure>, String) {
    let (_folder, store, snapshot) = stored(state);
    let (address, mut requests, running) = script(vec![(reading, say.into(), then)]).await;
    let mut http = snapshots(address);
    http.limits.silence = silence;
    let result = http.restore(store.read(snapshot.id).unwrap(), &any()).await;
    drop(running);
    let request = requests.recv().await.unwrap_or_default();
    (result.map_err(|error| error.why), request)
}

const YES: &str = "HTTP/1.1 204 No Content\r\n\r\n";

#[tokio::test]
async fn an_app_gets_its_state_back_with_its_length() {
    for state in ["", "the state"] {
        let (result, request) =
            restore(state.as_bytes(), Reading::All, YES, Then::Close, LONG).await;
        result.unwrap();
        let length = state.len();
        assert_eq!(
            request,
            format!(
                "PUT /state HTTP/1.1\r\n\
                 host: localhost\r\n\
                 user-agent: synod\r\n\
                 synod-snapshot: restore\r\n\
                 synod-slot: 1\r\n\
                 accept-encoding: identity\r\n\
                 content-type: application/octet-stream\r\n\
                 content-length: {length}\r\n\
                 connection: close\r\n\r\n{state}"
            )
        );
    }
}

#[tokio::test]
async fn an_app_that_refuses_its_state_is_told_apart_from_one_that_takes_it() {
    let no = "HTTP/1.1 422 No\r\ncontent-length: 0\r\n\r\n";
    let (result, _) = restore(b"state", Reading::All, no, Then::Close, LONG).await;
    let why = result.unwrap_err();
    assert!(matches!(
        why,
        HttpFailure::Status(StatusCode::UNPROCESSABLE_ENTITY)
    ));
    let (result, _) = restore(b"state", Reading::All, "", Then::Close, LONG).await;
    assert!(matches!(result.unwrap_err(), HttpFailure::Broken(_)));
    let (result, _) = restore(b"state", Reading::All, "", Then::Hang, SHORT).await;
    assert!(matches!(result.unwrap_err(), HttpFailure::Silent(SHORT)));
}

#[tokio::test]
async fn an_app_that_says_yes_before_it_has_all_is_not_believed() {
    // More than the sockets take.
    let state = noise(1, 32 << 20);
    let (result, _) = restore(&state, Reading::Head, YES, Then::Hang, LONG).await;
    let why = result.unwrap_err();
    assert!(
        matches!(
            why,
            HttpFailure::Early {
                total: 33_554_432,
                ..
            }
        ),
        "{why:?}"
    );
}

#[tokio::test]
async fn an_app_that_reads_no_further_is_given_up() {
    let state = noise(1, 32 << 20);
    let folder_and_store = stored(&state);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut http = snapshots(listener.local_addr().unwrap());
    http.limits.silence = SHORT;
    let reader = folder_and_store.1.read(folder_and_store.2.id).unwrap();
    let why = http.restore(reader, &any()).await.unwrap_err().why;
    assert!(matches!(why, HttpFailure::Silent(SHORT)), "{why:?}");
}

#[tokio::test]
async fn no_app_gets_all_of_a_damaged_state() {
    let state = noise(1, 3 << 20);
    let (folder, store, snapshot) = stored(&state);
    let path = folder.path().join("0000000000000001.snapshot");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.len() - 200;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let (address, mut requests, _running) =
        script(vec![(Reading::All, YES.into(), Then::Close)]).await;
    let http = snapshots(address);
    let why = http
        .restore(store.read(snapshot.id).unwrap(), &any())
        .await
        .unwrap_err()
        .why;
    let HttpFailure::Snapshot(error) = &why else {
        panic!("{why:?}");
    };
    assert!(error.to_string().contains("checksum"), "{error}");
    let request = requests.recv().await.unwrap();
    assert!(request.ends_with("\r\n\r\n"), "the body was not whole");
    // It has not become another snapshot.
    assert_ne!(snapshot.id, SnapshotId([0; 32]));
}

// === settle ===

#[tokio::test]
async fn an_app_is_asked_until_it_has_settled() {
    let busy = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n";
    let answers = [busy, busy, busy, YES].map(|it| (Reading::All, it.to_owned(), Then::Close));
    let (address, mut requests, _running) = script(answers.into()).await;
    snapshots(address).settle(Slot(9)).await.unwrap();
    for _ in 0..4 {
        let request = requests.recv().await.unwrap();
        assert!(request.starts_with("GET /idle HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("synod-slot: 9\r\n"), "{request}");
    }
    let mut without = snapshots(address);
    without.settle = None;
    without.settle(Slot(9)).await.unwrap();
}

#[tokio::test]
async fn an_app_that_never_settles_or_fails_is_told_of() {
    let busy = "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".to_owned();
    let answers = vec![(Reading::All, busy, Then::Close); 1000];
    let (address, _requests, _running) = script(answers).await;
    let mut http = snapshots(address);
    http.limits.whole = SHORT;
    let error = http.settle(Slot(9)).await.unwrap_err();
    assert!(matches!(error.why, HttpFailure::TooSlow(SHORT)), "{error}");
    let no = "HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n".to_owned();
    let (address, _requests, _running) = script(vec![(Reading::All, no, Then::Close)]).await;
    let error = snapshots(address).settle(Slot(9)).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("to settle at slot 9 (GET /idle)"),
        "{error}"
    );
}
