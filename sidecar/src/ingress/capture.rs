//! Reading a client's body whole, within limits of size, time and memory.
//!
//! In: a body on its way. Out: all of it, or why not. Calls nothing.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use super::body::{RequestBody, TooSlow};
use super::headers::{strip_hop_by_hop, strip_reserved};
use super::problem::Problem;

/// A permit stands for so many bytes.
const UNIT_BYTES: u64 = 1024;
/// Memory taken ahead for a body, at most; a length that is only announced costs nothing yet.
const FIRST_BYTES: usize = 256 << 10;

/// A body that was read whole.
#[derive(Debug)]
pub(super) struct Captured {
    pub(super) data: Bytes,
    pub(super) trailers: HeaderMap,
    /// Its share of the memory, given back with it.
    _share: Option<OwnedSemaphorePermit>,
}

/// How long a body may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct BodyPatience {
    /// Without a byte.
    pub(super) gap: Duration,
    /// In all, plus the time that the bytes take at `floor`.
    pub(super) total: Duration,
    /// Bytes a second that a client must keep up.
    pub(super) floor: u64,
}

/// Memory for the bodies that are held at one time.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    units: Arc<Semaphore>,
    /// For memory that others hold.
    patience: Duration,
}

// === impl Captured ===

impl Captured {
    pub(super) fn nothing() -> Self {
        Self {
            data: Bytes::new(),
            trailers: HeaderMap::new(),
            _share: None,
        }
    }

    /// A body for another attempt; the bytes are shared.
    pub(super) fn body(&self) -> RequestBody {
        RequestBody::full(self.data.clone(), self.trailers.clone())
    }
}

// === impl Budget ===

impl Budget {
    pub(super) fn new(bytes: u64, patience: Duration) -> Self {
        let units = usize::try_from(bytes / UNIT_BYTES).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            units: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
            patience,
        }
    }

    /// Waits for memory whose size is known before a byte was read.
    async fn take(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Problem> {
        let taken = timeout(
            self.patience,
            self.units.clone().acquire_many_owned(units(bytes)),
        );
        match taken.await {
            Ok(Ok(share)) => Ok(share),
            _ => Err(full()),
        }
    }

    /// Does not wait: somebody who holds memory already must not wait for more of it.
    fn take_more(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Problem> {
        let taken = self.units.clone().try_acquire_many_owned(units(bytes));
        taken.map_err(|_| full())
    }
}

fn too_slow() -> Problem {
    Problem::too_slow("its body stood still or crept")
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

fn full() -> Problem {
    Problem::not_ordered("this member holds as many bodies as its memory allows; try again")
}

/// Reads a body whole. The first poll of a body is what answers `Expect: 100-continue`, so nothing
/// is asked of the client before its length was checked.
pub(super) async fn capture(
    mut body: RequestBody,
    max_bytes: u64,
    patience: BodyPatience,
    budget: &Budget,
) -> Result<Captured, Problem> {
    if body.is_end_stream() {
        return Ok(Captured::nothing());
    }
    let announced = body.size_hint();
    if announced.lower() > max_bytes {
        return Err(Problem::body_too_large(max_bytes));
    }
    let mut share = match announced.exact() {
        None | Some(0) => None,
        Some(bytes) => Some(budget.take(bytes).await?),
    };
    let mut buffer = Buffer::default();
    let mut trailers = HeaderMap::new();
    let started = Instant::now();
    while !body.is_end_stream() {
        let earned = Duration::from_secs(buffer.bytes / patience.floor.max(1));
        let limit = (Instant::now() + patience.gap).min(started + patience.total + earned);
        let frame = match timeout_at(limit, Pin::new(&mut body).frame()).await {
            Err(_) => return Err(too_slow()),
            Ok(None) => break,
            Ok(Some(Err(error))) if error.is::<TooSlow>() => return Err(too_slow()),
            Ok(Some(Err(_))) => {
                return Err(Problem::malformed(
                    "the body breaks off or its chunks are malformed",
                ));
            }
            Ok(Some(Ok(frame))) => frame,
        };
        match frame.into_data() {
            Ok(data) => {
                if buffer.bytes + data.len() as u64 > max_bytes {
                    return Err(Problem::body_too_large(max_bytes));
                }
                if announced.exact().is_none() {
                    let more = budget.take_more(data.len() as u64)?;
                    match &mut share {
                        Some(share) => share.merge(more),
                        None => share = Some(more),
                    }
                }
                let left = announced.exact().unwrap_or(0).saturating_sub(buffer.bytes);
                buffer.push(data, left as usize);
            }
            Err(frame) => {
                if let Ok(fields) = frame.into_trailers() {
                    trailers = fields;
                    strip_hop_by_hop(&mut trailers);
                    strip_reserved(&mut trailers);
                }
            }
        }
    }
    if announced
        .exact()
        .is_some_and(|announced| announced != buffer.bytes)
    {
        return Err(Problem::malformed("the body is shorter than announced"));
    }
    Ok(Captured {
        data: buffer.into_bytes(),
        trailers,
        _share: share,
    })
}

/// One piece is kept as it is; more are put together.
#[derive(Default)]
struct Buffer {
    first: Bytes,
    joined: BytesMut,
    bytes: u64,
}

impl Buffer {
    /// `left`: bytes still to come with this piece, as far as is known.
    fn push(&mut self, data: Bytes, left: usize) {
        self.bytes += data.len() as u64;
        if self.first.is_empty() && self.joined.is_empty() {
            self.first = data;
            return;
        }
        if self.joined.is_empty() {
            self.joined
                .reserve((self.first.len() + left.max(data.len())).min(FIRST_BYTES));
            self.joined
                .extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.joined.extend_from_slice(&data);
    }

    fn into_bytes(self) -> Bytes {
        if self.joined.is_empty() {
            self.first
        } else {
            self.joined.freeze()
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body::Frame;
    use tokio::sync::mpsc;

    use super::super::body::{BoxError, Channel};
    use super::*;

    const PATIENCE: BodyPatience = BodyPatience {
        gap: Duration::from_secs(10),
        total: Duration::from_secs(30),
        floor: 1024,
    };

    type Sender = mpsc::Sender<Result<Frame<Bytes>, BoxError>>;

    fn channel(bytes: Option<u64>) -> (Sender, RequestBody) {
        let (sender, frames) = mpsc::channel(16);
        (sender, RequestBody::Channel(Channel::new(frames, bytes)))
    }

    fn budget(bytes: u64) -> Budget {
        Budget::new(bytes, Duration::from_secs(1))
    }

    async fn send(sender: &Sender, data: &'static [u8]) {
        sender
            .send(Ok(Frame::data(Bytes::from_static(data))))
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn pieces_are_put_together_and_trailers_of_ours_dropped() {
        let (sender, body) = channel(None);
        for piece in [&b"ab"[..], b"cd", b"e"] {
            send(&sender, piece).await;
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("sum", "1".parse().unwrap());
        trailers.insert("synod-slot", "1".parse().unwrap());
        sender.send(Ok(Frame::trailers(trailers))).await.unwrap();
        drop(sender);
        let captured = capture(body, 5, PATIENCE, &budget(1 << 20)).await.unwrap();
        assert_eq!(captured.data, "abcde");
        assert_eq!(captured.trailers.len(), 1);
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_by_its_length_or_as_it_comes() {
        let (_kept, body) = channel(Some(6));
        let problem = capture(body, 5, PATIENCE, &budget(1 << 20))
            .await
            .unwrap_err();
        assert_eq!(problem.status, 413);
        let (sender, body) = channel(None);
        send(&sender, b"abc").await;
        send(&sender, b"def").await;
        let problem = capture(body, 5, PATIENCE, &budget(1 << 20))
            .await
            .unwrap_err();
        assert_eq!(problem.status, 413);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stands_still_or_creeps_is_too_slow() {
        let (sender, body) = channel(None);
        send(&sender, b"abc").await;
        let problem = capture(body, 5, PATIENCE, &budget(1 << 20))
            .await
            .unwrap_err();
        assert_eq!(problem.status, 408);

        let (sender, body) = channel(None);
        let crawl = tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(5)).await;
                if sender
                    .send(Ok(Frame::data(Bytes::from_static(b"x"))))
                    .await
                    .is_err()
                {
                    break;
                }
            }
        });
        let started = Instant::now();
        let problem = capture(body, 5000, PATIENCE, &budget(1 << 20))
            .await
            .unwrap_err();
        assert_eq!(problem.status, 408);
        assert_eq!(started.elapsed().as_secs(), 30);
        crawl.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_share_one_memory_and_give_it_back() {
        let budget = budget(2048);
        let (sender, body) = channel(Some(3));
        send(&sender, b"abc").await;
        drop(sender);
        let first = capture(body, 5000, PATIENCE, &budget).await.unwrap();
        let (_kept, body) = channel(Some(2000));
        let problem = capture(body, 5000, PATIENCE, &budget).await.unwrap_err();
        assert_eq!(
            (problem.status.as_u16(), problem.kind),
            (503, "not-ordered")
        );
        let (sender, body) = channel(None);
        sender
            .send(Ok(Frame::data(Bytes::from(vec![0; 1025]))))
            .await
            .unwrap();
        let problem = capture(body, 5000, PATIENCE, &budget).await.unwrap_err();
        assert_eq!(problem.status, 503);
        drop(first);
        let (sender, body) = channel(Some(2000));
        sender
            .send(Ok(Frame::data(Bytes::from(vec![0; 2000]))))
            .await
            .unwrap();
        drop(sender);
        assert!(capture(body, 5000, PATIENCE, &budget).await.is_ok());
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_malformed() {
        let (sender, body) = channel(Some(5));
        send(&sender, b"abc").await;
        drop(sender);
        let problem = capture(body, 5, PATIENCE, &budget(1 << 20))
            .await
            .unwrap_err();
        assert_eq!(problem.status, 400);
    }
}
