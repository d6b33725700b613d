//! `synod-operator check`: asks an operator that runs whether it is ready. Comes in: its URL. Goes
//! out: one line and an exit code, for `helm test`.

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Between two questions: a Service may need a moment until it leads somewhere.
const PAUSE: Duration = Duration::from_millis(500);
/// One question.
const ONCE: Duration = Duration::from_secs(3);
/// Longest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Ask an operator that runs whether it is ready: exit code 0 when it is, 1 when not
#[derive(Clone, Debug, Parser)]
#[command(name = "check")]
pub(super) struct Check {
    /// Where it serves health and metrics, such as http://synod-metrics.synod-system.svc:8080
    #[arg(long, value_parser = url)]
    url: Uri,
    /// Seconds after which it counts as not ready
    #[arg(long, default_value_t = 30)]
    timeout: u64,
}

fn url(text: &str) -> Result<Uri, String> {
    let url: Uri = text.parse().map_err(|error| format!("{error}"))?;
    if url.scheme_str() != Some("http") || url.host().is_none() {
        return Err("it must be http://HOST:PORT".to_owned());
    }
    Ok(url)
}

// === impl Check ===

impl Check {
    pub(super) async fn run(&self) -> ExitCode {
        match self.ready().await {
            Ok(()) => {
                println!("{} is ready", self.url);
                ExitCode::SUCCESS
            }
            Err(why) => {
                eprintln!("{} is not ready: {why}", self.url);
                ExitCode::FAILURE
            }
        }
    }

    /// Asks until it is ready or the time is over; why it is not.
    async fn ready(&self) -> Result<(), String> {
        let end = Instant::now() + Duration::from_secs(self.timeout);
        loop {
            let answer = match tokio::time::timeout(ONCE, self.ask()).await {
                Ok(answer) => answer,
                Err(_) => Err(format!("no answer within {} s", ONCE.as_secs())),
            };
            match answer {
                Ok(()) => return Ok(()),
                Err(why) if Instant::now() + PAUSE >= end => return Err(why),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    async fn ask(&self) -> Result<(), String> {
        let host = self.url.host().unwrap_or_default();
        let port = self.url.port_u16().unwrap_or(80);
        // An IPv6 address stands in brackets, where a resolver does not want them.
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((name, port))
            .await
            .map_err(|error| format!("cannot connect: {error}"))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let request = Request::get("/readyz")
            .header(header::HOST, format!("{host}:{port}"))
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| format!("it does not speak HTTP: {error}"))?;
        let status = answer.status();
        if status == StatusCode::OK {
            return Ok(());
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        let text = String::from_utf8_lossy(&body);
        Err(format!("it answers {status}: {}", text.trim()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::run::{Metrics, Readiness, server};

    #[tokio::test]
    async fn an_operator_is_ready_when_it_says_so_and_its_own_words_tell_why_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("free");
        let address = listener.local_addr().expect("bound");
        let (readiness, stop) = (Readiness::default(), CancellationToken::new());
        let latch = readiness.latch("services");
        let serving = tokio::spawn(server::serve(
            listener,
            Metrics::default(),
            readiness,
            stop.clone(),
            stop.clone(),
        ));
        let check = Check {
            url: url(&format!("http://{address}")).expect("good"),
            timeout: 0,
        };
        let why = check.ready().await.expect_err("it waits");
        assert!(why.contains("503") && why.contains("services"), "{why}");
        latch.set();
        check.ready().await.expect("ready");
        stop.cancel();
        serving.await.expect("it ends");
        let why = check.ready().await.expect_err("nobody is there");
        assert!(why.contains("cannot connect"), "{why}");
    }

    #[test]
    fn only_urls_that_can_be_asked_are_taken() {
        for bad in ["https://a:1", "a:1", "http://", "/readyz"] {
            url(bad).expect_err(bad);
        }
        for good in ["http://a:1", "http://a", "http://[::1]:8080/"] {
            url(good).expect(good);
        }
    }
}
