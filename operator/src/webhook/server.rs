//! HTTPS for the API server: connections and bodies within limits, and an orderly end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::review::Reviewer;

/// A pod has some kilobytes; the API server takes none above 1.5 MiB.
const BODY_BYTES: usize = 1 << 20;
/// API servers keep a few open.
const CONNECTIONS: usize = 128;
/// For the handshake, and for each part of a request.
const PATIENCE: Duration = Duration::from_secs(5);
/// After which a connection is ended when nothing is under way on it: nobody holds one for ever.
const LIFE: Duration = Duration::from_secs(600);
/// For what is under way at the end.
const GRACE: Duration = Duration::from_secs(5);
const TOO_LARGE: &str = "a review has 1 MiB at most\n";
/// After an accept that failed for want of file descriptors, say.
const PAUSE: Duration = Duration::from_millis(50);

/// Serves until told to stop.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    reviewer: Arc<Reviewer>,
    stop: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await;
            (place.expect("never closed"), listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            next = next => next,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection to the webhook could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (acceptor, reviewer, stop) = (acceptor.clone(), reviewer.clone(), stop.clone());
        connections.spawn(async move {
            connection(acceptor, stream, reviewer, stop).await;
            drop(place);
        });
    }
    connections.close();
    let _ = timeout(GRACE, connections.wait()).await;
}

async fn connection(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    reviewer: Arc<Reviewer>,
    stop: CancellationToken,
) {
    let stream = match timeout(PATIENCE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "no TLS with a client of the webhook");
            return;
        }
        Err(_) => return,
    };
    let service = service_fn(move |request| {
        let reviewer = reviewer.clone();
        async move { Ok::<_, Infallible>(answer(request, &reviewer).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(64)
        .keep_alive_interval(Duration::from_secs(30));
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = async { tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LIFE) => {}
        }} => {
            connection.as_mut().graceful_shutdown();
            timeout(GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the webhook broke");
    }
}

async fn answer(request: Request<Incoming>, reviewer: &Reviewer) -> Response<Full<Bytes>> {
    if request.uri().path() != "/mutate" {
        return words(StatusCode::NOT_FOUND, "reviews go to /mutate\n");
    }
    if request.method() != Method::POST {
        return words(StatusCode::METHOD_NOT_ALLOWED, "reviews come by POST\n");
    }
    if request.body().size_hint().lower() > BODY_BYTES as u64 {
        return words(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE);
    }
    let body = Limited::new(request.into_body(), BODY_BYTES).collect();
    let body = match timeout(PATIENCE, body).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            return words(StatusCode::PAYLOAD_TOO_LARGE, TOO_LARGE);
        }
        Ok(Err(_)) => return words(StatusCode::BAD_REQUEST, "the body broke off\n"),
        Err(_) => return words(StatusCode::REQUEST_TIMEOUT, "the body did not come\n"),
    };
    let (status, body) = reviewer.review(&body).await;
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn words(status: StatusCode, words: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(words));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, ServerName};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::TlsConnector;

    use super::super::certificate::{Served, tls};
    use super::super::metrics::Metrics;
    use super::*;
    use crate::certs::Authority;
    use crate::inject::SidecarImage;

    const NAME: &str = "synod-webhook.synod-system.svc";

    fn reviewer() -> Arc<Reviewer> {
        let nowhere = "http://127.0.0.1:1".parse().expect("an address");
        let client = kube::Client::try_from(kube::Config::new(nowhere)).expect("a client");
        Arc::new(Reviewer {
            client,
            image: SidecarImage {
                image: "i".to_owned(),
                pull_policy: None,
            },
            metrics: Metrics::new(&crate::run::Metrics::default()),
        })
    }

    /// The certificate that was shown, and the answer.
    async fn ask(port: u16, trusted: &str, request: &[u8]) -> (Vec<u8>, String) {
        let mut roots = rustls::RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(trusted.as_bytes()) {
            roots.add(root.expect("PEM")).expect("a root");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(("127.0.0.1", port))
            .await
            .expect("there");
        let name = ServerName::try_from(NAME).expect("a name");
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await.expect("trusted");
        let shown = stream.get_ref().1.peer_certificates().expect("shown")[0].to_vec();
        stream.write_all(request).await.expect("sent");
        let mut answer = Vec::new();
        // A server that has said enough may reset what was still being sent.
        let _ = stream.read_to_end(&mut answer).await;
        (shown, String::from_utf8_lossy(&answer).into_owned())
    }

    fn post(body: &str, length: usize) -> Vec<u8> {
        let head = "POST /mutate HTTP/1.1\r\nhost: a\r\nconnection: close\r\n";
        format!("{head}content-length: {length}\r\n\r\n{body}").into_bytes()
    }

    #[tokio::test]
    async fn reviews_within_limits_are_answered_and_a_new_certificate_is_used_at_once() {
        let authority = Authority::make(SystemTime::now()).expect("made");
        let leaf = || authority.leaf(NAME, SystemTime::now()).expect("made");
        let served = Arc::new(Served::default());
        served.set(&leaf()).expect("good");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("bound").port();
        let stop = CancellationToken::new();
        let task = serve(listener, tls(served.clone()), reviewer(), stop.clone());
        let task = tokio::spawn(task);
        let trusted = authority.bundle().expect("readable");
        let get = b"GET /mutate HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let (first, answer) = ask(port, &trusted, get).await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
        let other = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let (_, answer) = ask(port, &trusted, other).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        let (_, answer) = ask(port, &trusted, &post("{}", 2)).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        let (_, answer) = ask(port, &trusted, &post("", BODY_BYTES + 1)).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        let head = "POST /mutate HTTP/1.1\r\nhost: a\r\nconnection: close\r\n";
        let chunk = format!("{:x}\r\n{}\r\n", BODY_BYTES + 1, "x".repeat(BODY_BYTES + 1));
        let unsized_body = format!("{head}transfer-encoding: chunked\r\n\r\n{chunk}");
        let (_, answer) = ask(port, &trusted, unsized_body.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        served.set(&leaf()).expect("good");
        let (second, _) = ask(port, &trusted, get).await;
        assert_ne!(first, second);
        stop.cancel();
        task.await.expect("it ends");
    }

    #[test]
    fn a_certificate_with_another_key_is_refused_and_the_one_in_use_stays() {
        let authority = Authority::make(SystemTime::now()).expect("made");
        let leaf = || authority.leaf(NAME, SystemTime::now()).expect("made");
        let served = Served::default();
        let mut mixed = leaf();
        mixed.key = leaf().key;
        assert!(served.set(&mixed).is_err());
        mixed.cert = "nothing".to_owned();
        assert!(served.set(&mixed).is_err());
        served.set(&leaf()).expect("good");
    }
}
