//! A bounded closed-loop load: `connections` keep-alive connections, each with one request under
//! way at a time, spread over the targets. Comes back with the rate and the latencies.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Makes the n-th request of a run.
pub(crate) type MakeRequest = dyn Fn(u64) -> http::Request<Full<Bytes>> + Send + Sync;

/// What to send where.
#[derive(Clone)]
pub(crate) struct Load {
    /// Connection i goes to target i modulo their number. Loopback only.
    pub(crate) targets: Vec<SocketAddr>,
    /// Connections, each with one request at a time.
    pub(crate) connections: usize,
    /// How long requests are counted, after a tenth of it as warm-up.
    pub(crate) duration: Duration,
    /// The requests.
    pub(crate) make: Arc<MakeRequest>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    /// Answered requests per second.
    pub(crate) rate: f64,
    /// Median latency in microseconds.
    pub(crate) p50_us: u64,
    /// 99th percentile in microseconds.
    pub(crate) p99_us: u64,
}

// === impl Load ===

impl Load {
    /// Runs it; an answer other than 2xx or a broken connection is an error, not a figure.
    pub(crate) async fn run(&self) -> Result<Figures> {
        for target in &self.targets {
            assert!(target.ip().is_loopback(), "load goes to this machine only");
        }
        let counter = Arc::new(AtomicU64::new(0));
        let begin = Instant::now() + self.duration / 10;
        let end = begin + self.duration;
        let tasks: Vec<_> = (0..self.connections)
            .map(|index| {
                let target = self.targets[index % self.targets.len()];
                let (make, counter) = (Arc::clone(&self.make), Arc::clone(&counter));
                tokio::spawn(connection(target, make, counter, begin, end))
            })
            .collect();
        let mut all = histogram();
        for task in tasks {
            all.add(task.await??)?;
        }
        Ok(Figures {
            rate: all.len() as f64 / self.duration.as_secs_f64(),
            p50_us: all.value_at_quantile(0.5),
            p99_us: all.value_at_quantile(0.99),
        })
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("constant bounds are valid")
}

/// One connection of the loop, from warm-up to end.
async fn connection(
    target: SocketAddr,
    make: Arc<MakeRequest>,
    counter: Arc<AtomicU64>,
    begin: Instant,
    end: Instant,
) -> Result<Histogram<u64>> {
    let mut sender = connect(target).await?;
    let mut latencies = histogram();
    loop {
        let sent = Instant::now();
        if sent >= end {
            return Ok(latencies);
        }
        let request = make(counter.fetch_add(1, Ordering::Relaxed));
        sender.ready().await?;
        let response = sender
            .send_request(request)
            .await
            .with_context(|| format!("request to {target}"))?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if !status.is_success() {
            bail!(
                "{target} answered {status}: {}",
                String::from_utf8_lossy(&body)
            );
        }
        if sent >= begin {
            latencies.record(u64::try_from(sent.elapsed().as_micros())?.max(1))?;
        }
    }
}

async fn connect(target: SocketAddr) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(target)
        .await
        .with_context(|| format!("connecting to {target}"))?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}
