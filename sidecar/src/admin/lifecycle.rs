//! Hooks of the pod's containers.
//!
//! `/lifecycle/app-started`: the app's container was started (rule A5). `/lifecycle/app-may-start`:
//! whether it may be; not while its volume must be put back to a snapshot, nor if it is of another
//! revision than the one that is due here or may run along silently, where `?revision=` says which it is
//! of. `/lifecycle/app-revision`: the revision that is due, a decimal number; with `?revision=` of the one
//! that may run along silently, that. `/lifecycle/drain`: this
//! member's process is about to be ended; with `?of=app` only the app's container is, and the member
//! may go on. A hook of the user's own that stood in the place of ours is called from here: at
//! `127.0.0.1`, by `port` and `path` (and `host`, if it sets that header) of the query.

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::AdminParts;
use super::server::{TOKEN, text};

/// Longest wait for another leader. A kubelet waits for hooks, within the pod's grace period.
const HAND_OVER: Duration = Duration::from_secs(5);
/// Longest wait for the app to take the user's own hook after its start.
const STARTING: Duration = Duration::from_secs(60);
const NOT_KNOWN: &str = "which revision of the app is due is not known yet\n";
/// Gap between two attempts.
const AGAIN: Duration = Duration::from_millis(100);
/// Longest that a user's own hook may take; a kubelet gives up earlier.
const HOOK: Duration = Duration::from_secs(600);

/// The connection is to be closed without a response: a kubelet ends the app's container then and
/// starts it again, whereas it does not look at the status of a response (rule A5).
#[derive(Debug, thiserror::Error)]
#[error("the app's start is refused: this member is leaving")]
pub(super) struct Refused;

/// What a hook's query says.
#[derive(Debug, PartialEq, Eq)]
struct Query {
    of_app: bool,
    revision: Option<u64>,
    call: Option<Call>,
}

/// A request of the user's own.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Call {
    port: u16,
    path: PathAndQuery,
    headers: HeaderMap,
}

/// Why the user's own hook was not answered.
#[derive(Debug)]
enum CallError {
    /// Nobody listens.
    Refused,
    /// Anything else.
    Other(String),
}

/// Answers a request for `/lifecycle/..`.
pub(super) async fn answer<T>(
    parts: &AdminParts,
    request: &Request<T>,
) -> Result<Response<Full<Bytes>>, Refused> {
    let query = match Query::of(request) {
        Ok(query) => query,
        Err(what) => return Ok(text(StatusCode::BAD_REQUEST, what)),
    };
    match request.uri().path() {
        "/lifecycle/app-started" => started(parts, query),
        "/lifecycle/app-may-start" => Ok(may_start(parts, query.revision)),
        "/lifecycle/app-revision" => Ok(revision(parts, query.revision)),
        "/lifecycle/drain" => Ok(drain(parts, query).await),
        _ => Ok(text(StatusCode::NOT_FOUND, "there is no such hook\n")),
    }
}

/// At once: while a hook is not answered, a kubelet neither ends the pod nor starts anything again.
fn started(parts: &AdminParts, query: Query) -> Result<Response<Full<Bytes>>, Refused> {
    if parts.leaving.is_cancelled() {
        return Err(Refused);
    }
    (parts.app_started)();
    if let Some(call) = query.call {
        let leaving = parts.leaving.clone();
        tokio::spawn(leaving.run_until_cancelled_owned(call.once_there_is_an_app()));
    }
    Ok(text(StatusCode::OK, "noted\n"))
}

fn revision(parts: &AdminParts, wanted: Option<u64>) -> Response<Full<Bytes>> {
    let along = (parts.revision_may)().filter(|it| Some(*it) == wanted);
    match along.or((parts.revision_due)()) {
        Some(due) => text(StatusCode::OK, format!("{due}\n")),
        None => text(StatusCode::SERVICE_UNAVAILABLE, NOT_KNOWN),
    }
}

fn may_start(parts: &AdminParts, revision: Option<u64>) -> Response<Full<Bytes>> {
    let unavailable = |words: String| text(StatusCode::SERVICE_UNAVAILABLE, words);
    if parts.witness {
        return unavailable("this member is a witness: it runs no app\n".to_owned());
    }
    match (revision, (parts.revision_due)()) {
        (Some(_), None) => return unavailable(NOT_KNOWN.to_owned()),
        (Some(revision), _) if (parts.revision_may)() == Some(revision) => {}
        (Some(revision), Some(due)) if revision != due => {
            return unavailable(format!(
                "the app is of revision {revision}, and revision {due} is due here: start that one\n"
            ));
        }
        _ => {}
    }
    let may_start = parts.apply.borrow().may_start;
    if !parts.has_volume || (may_start && (parts.let_start)()) {
        return text(StatusCode::OK, "it may\n");
    }
    let words = if parts.node.borrow().group.is_none() {
        "the group has not been formed yet\n"
    } else {
        "an app runs, or its volume is put back to a snapshot first\n"
    };
    text(StatusCode::SERVICE_UNAVAILABLE, words)
}

/// Another leads when this returns, if another can; a second call finds that done.
async fn drain(parts: &AdminParts, query: Query) -> Response<Full<Bytes>> {
    if !query.of_app {
        parts.leaving.cancel();
    }
    let hand_over = async {
        if query.of_app && parts.apply.borrow().condemned.is_some() {
            // The app is ended because we asked for it, and its time is part of the lease that
            // allows it.
            parts.agreement.transfer(None);
            return true;
        }
        timeout(HAND_OVER, parts.agreement.prepare_shutdown())
            .await
            .is_ok()
    };
    let own = async {
        if let Some(call) = query.call {
            call.report(call.make().await);
        }
    };
    let (handed_over, ()) = tokio::join!(hand_over, own);
    if handed_over {
        text(StatusCode::OK, "this member does not lead\n")
    } else {
        tracing::warn!("nobody took leadership over in time");
        text(StatusCode::OK, "nobody took leadership over in time\n")
    }
}

// === impl Query ===

impl Query {
    fn of<T>(request: &Request<T>) -> Result<Self, &'static str> {
        let (mut port, mut path, mut host, mut of_app) = (None, None, None, false);
        let mut revision = None;
        let query = request.uri().query().unwrap_or_default();
        for pair in query.split('&').filter(|it| !it.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value =
                decoded(value).ok_or("a value of the query is not percent-encoded UTF-8\n")?;
            match (key, value.as_str()) {
                ("of", "app") => of_app = true,
                ("revision", _) => {
                    let number = value.parse::<u64>().ok();
                    revision = Some(number.ok_or("revision must be a decimal number\n")?);
                }
                ("port", _) => {
                    let number = value.parse::<u16>().ok().filter(|it| *it != 0);
                    port = Some(number.ok_or("port must be a number from 1 to 65535\n")?);
                }
                ("path", _) => path = Some(target(&value).ok_or("path must begin with /\n")?),
                ("host", _) => {
                    let value = HeaderValue::from_str(&value);
                    host = Some(value.map_err(|_| "host cannot stand in a header\n")?);
                }
                _ => return Err("the query may have: of=app, revision, port, path, host\n"),
            }
        }
        let call = match (port, path) {
            (None, None) => None,
            (Some(port), Some(path)) => Some(Call::new(port, path, host, request.headers())),
            _ => return Err("port and path belong together\n"),
        };
        Ok(Self {
            of_app,
            revision,
            call,
        })
    }
}

/// What a kubelet would send for the path of a hook: it encodes what may not stand in a target.
fn target(path: &str) -> Option<PathAndQuery> {
    use std::fmt::Write as _;
    let mut target = String::new();
    for byte in path.bytes() {
        match byte {
            b'!' | b'$'..=b'~' => target.push(char::from(byte)),
            b'#' => break,
            _ => write!(target, "%{byte:02X}").ok()?,
        }
    }
    let target = target.starts_with('/').then_some(target)?;
    target.parse().ok()
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let mut digit = || char::from(rest.next()?).to_digit(16);
            let (high, low) = (digit()?, digit()?);
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

// === impl Call ===

impl Call {
    /// With the headers that came with ours.
    fn new(port: u16, path: PathAndQuery, host: Option<HeaderValue>, sent: &HeaderMap) -> Self {
        let ours = [
            header::HOST,
            header::CONNECTION,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::UPGRADE,
            TOKEN,
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in sent {
            if !ours.contains(name) {
                headers.append(name.clone(), value.clone());
            }
        }
        let own = || HeaderValue::from_str(&format!("127.0.0.1:{port}")).expect("plain text");
        headers.insert(header::HOST, host.unwrap_or_else(own));
        Self {
            port,
            path,
            headers,
        }
    }

    /// The app was just started: it may not listen yet.
    async fn once_there_is_an_app(self) {
        let begin = Instant::now();
        loop {
            match self.make().await {
                Err(CallError::Refused) if begin.elapsed() < STARTING => sleep(AGAIN).await,
                result => return self.report(result),
            }
        }
    }

    async fn make(&self) -> Result<StatusCode, CallError> {
        timeout(HOOK, self.send())
            .await
            .unwrap_or_else(|_| Err(CallError::Other("it took too long".to_owned())))
    }

    async fn send(&self) -> Result<StatusCode, CallError> {
        let other = |error: &dyn fmt::Display| CallError::Other(error.to_string());
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))
            .await
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::ConnectionRefused => CallError::Refused,
                _ => other(&error),
            })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| other(&error))?;
        let mut request = Request::get(self.path.clone())
            .body(Empty::<Bytes>::new())
            .map_err(|error| other(&error))?;
        *request.headers_mut() = self.headers.clone();
        let answered = async {
            let response = sender.send_request(request).await;
            response
                .map(|it| it.status())
                .map_err(|error| other(&error))
        };
        tokio::select! {
            biased;
            status = answered => status,
            ended = connection => Err(match ended {
                Ok(()) => other(&"the connection was closed"),
                Err(error) => other(&error),
            }),
        }
    }

    fn report(&self, result: Result<StatusCode, CallError>) {
        let (port, path) = (self.port, &self.path);
        match result {
            Ok(status) if status.is_success() || status.is_redirection() => {
                tracing::debug!(port, %path, %status, "the app's own hook was called");
            }
            Ok(status) => {
                tracing::warn!(port, %path, %status, "the app's own hook was answered badly");
            }
            Err(error) => {
                tracing::warn!(port, %path, %error, "the app's own hook could not be called");
            }
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("nobody listens"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderName;
    use http_body_util::BodyExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::admin::health::AppProbe;
    use crate::admin::testing;

    fn get(target: &str) -> Request<()> {
        let request = Request::get(target).header("host", "10.0.0.5:7420");
        let request = request.header("synod-app-token", "s3cret");
        request
            .header("x-reason", "start")
            .body(())
            .expect("a request")
    }

    async fn body(response: Response<Full<Bytes>>) -> String {
        let bytes = response.into_body().collect().await.expect("a body");
        String::from_utf8(bytes.to_bytes().to_vec()).expect("text")
    }

    /// Takes one request, answers it and returns its head.
    async fn app(listener: TcpListener) -> String {
        let (mut stream, _) = listener.accept().await.expect("accepted");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("more"));
        }
        let answer = b"HTTP/1.1 204 No Content\r\n\r\n";
        stream.write_all(answer).await.expect("written");
        String::from_utf8(head).expect("text")
    }

    #[test]
    fn a_query_says_whose_hook_it_is_and_what_to_call() {
        let none = Query::of(&get("/lifecycle/drain")).expect("good");
        assert_eq!((none.of_app, none.call), (false, None));
        let target = "/lifecycle/drain?of=app&port=8081&path=%2Fwarm%3Fall%3Dyes%26x%3D%C3%A4";
        let query = Query::of(&get(target)).expect("good");
        let call = query.call.expect("a call");
        assert!(query.of_app);
        assert_eq!(
            (call.port, call.path.as_str()),
            (8081, "/warm?all=yes&x=%C3%A4")
        );
        for (bad, word) in [
            ("port=8081", "belong together"),
            ("port=0&path=%2F", "1 to 65535"),
            ("port=1&path=x", "begin with /"),
            ("port=1&path=%2", "percent-encoded"),
            ("port=1&path=%2F&host=%0A", "host"),
            ("of=us", "of=app"),
        ] {
            let error = Query::of(&get(&format!("/lifecycle/drain?{bad}"))).expect_err(bad);
            assert!(error.contains(word), "{bad}: {error}");
        }
    }

    /// All `httpGet` in what the operator makes of a template, as path and headers.
    fn requests(yaml: &serde_yaml::Value, found: &mut Vec<(String, serde_yaml::Value)>) {
        use serde_yaml::Value;
        match yaml {
            Value::Mapping(map) => {
                if let Some(get) = yaml.get("httpGet") {
                    let path = get["path"].as_str().expect("a path").to_owned();
                    found.push((path, get["httpHeaders"].clone()));
                }
                map.values().for_each(|it| requests(it, found));
            }
            Value::Sequence(list) => list.iter().for_each(|it| requests(it, found)),
            _ => {}
        }
    }

    #[test]
    fn probes_and_hooks_are_understood_as_the_operator_writes_them() {
        let rich = include_str!("../../../operator/inject/src/testdata/rich.out.yaml");
        let plain = include_str!("../../../operator/inject/src/testdata/plain.out.yaml");
        let mut found = Vec::new();
        for pod in [rich, plain] {
            requests(&serde_yaml::from_str(pod).expect("YAML"), &mut found);
        }
        let (mut probes, mut hooks, mut calls) = (0, 0, 0);
        for (path, headers) in &found {
            if path.starts_with("/lifecycle/") {
                hooks += 1;
                let query = Query::of(&get(path)).expect(path);
                calls += usize::from(query.call.is_some());
            } else if path.starts_with("/app-health/") {
                probes += 1;
                assert!(AppProbe::of(path).is_some(), "{path}");
            } else {
                continue;
            }
            let mut headers = headers.as_sequence().expect(path).iter();
            let mut token = headers.find_map(|it| {
                let name = it["name"].as_str()?.parse::<HeaderName>().ok()?;
                (name == TOKEN).then(|| it["value"].as_str())
            });
            assert_eq!(token.take().flatten(), Some("3f9a"), "{path}");
        }
        assert!(probes >= 4 && hooks >= 6 && calls == 2, "{found:?}");
    }

    #[tokio::test]
    async fn the_users_own_hook_is_called_with_its_headers_and_without_the_token() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("address").port();
        let app = tokio::spawn(app(listener));
        let (parts, _control) = testing::parts();
        let target = format!("/lifecycle/drain?of=app&port={port}&path=%2Fflush%3Fnow");
        let response = answer(&parts, &get(&target)).await.expect("answered");
        assert_eq!(response.status(), StatusCode::OK);
        let head = app.await.expect("called").to_ascii_lowercase();
        assert!(head.starts_with("get /flush?now http/1.1\r\n"), "{head}");
        assert!(
            head.contains(&format!("host: 127.0.0.1:{port}\r\n")),
            "{head}"
        );
        assert!(head.contains("x-reason: start\r\n"), "{head}");
        assert!(!head.contains("s3cret"), "{head}");
    }

    #[tokio::test]
    async fn a_start_is_answered_at_once_and_the_users_own_hook_called_when_the_app_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("address");
        drop(listener);
        let (parts, control) = testing::parts();
        let target = format!(
            "/lifecycle/app-started?of=app&port={}&path=%2Fwarm&host=a.b",
            address.port()
        );
        let response = answer(&parts, &get(&target)).await.expect("answered");
        assert_eq!(body(response).await, "noted\n");
        assert_eq!(control.signals(), 1);
        let listener = TcpListener::bind(address).await.expect("bound again");
        let head = app(listener).await.to_ascii_lowercase();
        assert!(head.starts_with("get /warm http/1.1\r\n"), "{head}");
        assert!(head.contains("host: a.b\r\n"), "{head}");
    }

    #[tokio::test]
    async fn only_the_end_of_the_member_itself_takes_it_out_and_then_no_start_is_accepted() {
        let (parts, control) = testing::parts();
        let drained = answer(&parts, &get("/lifecycle/drain?of=app"))
            .await
            .expect("answered");
        assert_eq!(body(drained).await, "this member does not lead\n");
        assert!(!parts.leaving.is_cancelled());
        for _ in 0..2 {
            let drained = answer(&parts, &get("/lifecycle/drain"))
                .await
                .expect("answered");
            assert_eq!(drained.status(), StatusCode::OK);
        }
        assert!(parts.leaving.is_cancelled());
        assert!(
            answer(&parts, &get("/lifecycle/app-started"))
                .await
                .is_err()
        );
        assert_eq!(control.signals(), 0);
    }

    #[tokio::test]
    async fn an_app_with_a_volume_may_be_started_once_its_files_are_as_they_should_be() {
        let (mut parts, control) = testing::parts();
        let ask = |parts: &AdminParts| may_start(parts, None).status();
        assert_eq!(ask(&parts), StatusCode::OK, "it has no volume");
        parts.has_volume = true;
        assert_eq!(ask(&parts), StatusCode::SERVICE_UNAVAILABLE);
        control.apply.send_modify(|apply| apply.may_start = true);
        assert_eq!(ask(&parts), StatusCode::OK);
        parts.let_start = Box::new(|| false);
        assert_eq!(
            ask(&parts),
            StatusCode::SERVICE_UNAVAILABLE,
            "they are changed"
        );
    }

    #[tokio::test]
    async fn an_app_of_another_revision_than_the_one_that_is_due_is_not_started() {
        let (mut parts, _control) = testing::parts();
        parts.revision_due = Box::new(|| Some(3));
        for (target, status, words) in [
            ("/lifecycle/app-revision", 200, "3"),
            ("/lifecycle/app-may-start", 200, "it may"),
            ("/lifecycle/app-may-start?revision=3", 200, "it may"),
            (
                "/lifecycle/app-may-start?revision=2",
                503,
                "revision 3 is due",
            ),
            (
                "/lifecycle/app-may-start?revision=new",
                400,
                "decimal number",
            ),
        ] {
            let answered = answer(&parts, &get(target)).await.expect("answered");
            assert_eq!(answered.status(), status, "{target}");
            let body = body(answered).await;
            assert!(body.contains(words), "{target}: {body}");
        }
        parts.revision_due = Box::new(|| None);
        for target in [
            "/lifecycle/app-revision",
            "/lifecycle/app-may-start?revision=3",
        ] {
            let answered = answer(&parts, &get(target)).await.expect("answered");
            assert_eq!(answered.status(), 503, "{target}");
        }
    }

    #[tokio::test]
    async fn an_app_that_we_have_ended_is_not_held_up() {
        let (parts, control) = testing::parts();
        control.lead();
        tokio::time::pause();
        let begin = Instant::now();
        let drained = answer(&parts, &get("/lifecycle/drain?of=app"))
            .await
            .expect("answered");
        assert!(body(drained).await.contains("nobody took"));
        assert!(begin.elapsed() >= HAND_OVER && begin.elapsed() < HAND_OVER * 2);
        control.condemn();
        let begin = Instant::now();
        let drained = answer(&parts, &get("/lifecycle/drain?of=app"))
            .await
            .expect("answered");
        assert!(body(drained).await.contains("does not lead"));
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }
}
