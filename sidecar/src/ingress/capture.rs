//! Reading a client's body whole, within limits of size and time, into the room that there is.
//!
//! In: a body on its way. Out: all of it, or why not. It calls the room for bodies.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use super::body::{RequestBody, TooSlow};
use super::budget::Share;
use super::headers::{strip_from_trailers, strip_hop_by_hop, strip_reserved};
use super::problem::Problem;
use super::room::{Room, Source, Taken};
use crate::app::{drop_elsewhere, load};
use crate::apply::StoredBody;

/// A body that was read whole.
#[derive(Debug)]
pub(super) struct Captured {
    content: StoredBody,
    pub(super) trailers: HeaderMap,
    /// Given back with it.
    taken: Taken,
}

/// A whole body in memory, to be proposed.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) data: Bytes,
    /// To be kept until it is decided.
    pub(super) share: Option<Share>,
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

// === impl Captured ===

impl Captured {
    pub(super) fn nothing() -> Self {
        Self {
            content: StoredBody::Memory(Bytes::new()),
            trailers: HeaderMap::new(),
            taken: Taken::default(),
        }
    }

    /// A body for another attempt, not held in memory unless it is small. Fails when its file cannot
    /// be opened.
    pub(super) async fn body(&self) -> io::Result<RequestBody> {
        RequestBody::stored(&self.content, self.trailers.clone()).await
    }

    /// All of it in memory. It may wait for that until `limit`.
    pub(super) async fn load(
        &self,
        room: &Room,
        source: &Source,
        limit: Instant,
    ) -> Result<Loaded, Problem> {
        let share = room.command(source, &self.content, limit).await?;
        let data = load(&self.content).await.map_err(|error| {
            tracing::warn!(%error, "a spooled body cannot be read back; check the data volume");
            Problem::not_ordered("this member's disk has lost the body; try again")
        })?;
        Ok(Loaded { data, share })
    }
}

impl Drop for Captured {
    fn drop(&mut self) {
        if let StoredBody::File { .. } = &self.content {
            let nothing = StoredBody::Memory(Bytes::new());
            let file = std::mem::replace(&mut self.content, nothing);
            // The disk is given back when the file is gone.
            drop_elsewhere((file, std::mem::take(&mut self.taken)));
        }
    }
}

fn too_slow() -> Problem {
    Problem::too_slow("its body stood still or crept")
}

/// Reads a body whole. The first poll of a body is what answers `Expect: 100-continue`, so nothing
/// is asked of the client before its length was checked and there is room for it.
pub(super) async fn capture(
    mut body: RequestBody,
    max_bytes: u64,
    patience: BodyPatience,
    room: &Room,
    source: &Source,
) -> Result<Captured, Problem> {
    if body.is_end_stream() {
        return Ok(Captured::nothing());
    }
    let announced = body.size_hint();
    if announced.lower() > max_bytes {
        return Err(Problem::body_too_large(max_bytes));
    }
    let mut place = room.place(source, announced.exact()).await?;
    let mut trailers = HeaderMap::new();
    let started = Instant::now();
    while !body.is_end_stream() {
        let earned = Duration::from_secs(place.len() / patience.floor.max(1));
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
                if place.len() + data.len() as u64 > max_bytes {
                    return Err(Problem::body_too_large(max_bytes));
                }
                place.push(data).await?;
            }
            Err(frame) => {
                if let Ok(fields) = frame.into_trailers() {
                    trailers = fields;
                    strip_hop_by_hop(&mut trailers);
                    strip_from_trailers(&mut trailers);
                    strip_reserved(&mut trailers);
                }
            }
        }
    }
    if announced
        .exact()
        .is_some_and(|announced| announced != place.len())
    {
        return Err(Problem::malformed("the body is shorter than announced"));
    }
    let (content, taken) = place.finish();
    Ok(Captured {
        content,
        trailers,
        taken,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use http_body::Frame;
    use prometheus_client::registry::Registry;
    use tokio::sync::mpsc;

    use super::super::Limits;
    use super::super::body::{BoxError, Channel};
    use super::super::metrics::Metrics;
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

    fn room(folder: &Path) -> Room {
        let metrics = Metrics::register(&mut Registry::default());
        Room::new(&Limits::default(), folder, &metrics)
    }

    /// Captures a body of at most `most` bytes.
    async fn captured(body: RequestBody, most: u64) -> Result<(Bytes, HeaderMap), Problem> {
        let folder = tempfile::tempdir().unwrap();
        let room = room(folder.path());
        let source = room.source();
        let captured = capture(body, most, PATIENCE, &room, &source).await?;
        let loaded = captured.load(&room, &source, Instant::now()).await?;
        Ok((loaded.data, captured.trailers.clone()))
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
        let (data, trailers) = captured(body, 5).await.unwrap();
        assert_eq!(data, "abcde");
        assert_eq!(trailers.len(), 1);
    }

    #[tokio::test]
    async fn a_body_over_the_limit_is_refused_by_its_length_or_as_it_comes() {
        let (_kept, body) = channel(Some(6));
        let problem = captured(body, 5).await.unwrap_err();
        assert_eq!(problem.status, 413);
        let (sender, body) = channel(None);
        send(&sender, b"abc").await;
        send(&sender, b"def").await;
        let problem = captured(body, 5).await.unwrap_err();
        assert_eq!(problem.status, 413);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stands_still_or_creeps_is_too_slow() {
        let (sender, body) = channel(None);
        send(&sender, b"abc").await;
        let problem = captured(body, 5).await.unwrap_err();
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
        let problem = captured(body, 5000).await.unwrap_err();
        assert_eq!(problem.status, 408);
        assert_eq!(started.elapsed().as_secs(), 30);
        crawl.await.unwrap();
    }

    #[tokio::test]
    async fn a_large_body_is_the_same_again_for_each_attempt_and_goes_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let files = || std::fs::read_dir(folder.path()).unwrap().count();
        let room = room(folder.path());
        let source = room.source();
        let (sender, body) = channel(Some(200_000));
        for piece in 0..4_u8 {
            let data = Bytes::from(vec![piece; 50_000]);
            sender.send(Ok(Frame::data(data))).await.unwrap();
        }
        drop(sender);
        let captured = capture(body, 200_000, PATIENCE, &room, &source)
            .await
            .unwrap();
        assert_eq!(files(), 1);
        let limit = Instant::now() + PATIENCE.gap;
        let loaded = captured.load(&room, &source, limit).await.unwrap();
        assert_eq!(loaded.data.len(), 200_000);
        assert_eq!((loaded.data[0], loaded.data[199_999]), (0, 3));
        for _ in 0..2 {
            let body = captured.body().await.unwrap();
            assert_eq!(body.size_hint().exact(), Some(200_000));
            assert_eq!(body.collect().await.unwrap().to_bytes(), loaded.data);
        }
        drop(captured);
        while files() > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_malformed() {
        let (sender, body) = channel(Some(5));
        send(&sender, b"abc").await;
        drop(sender);
        let problem = captured(body, 5).await.unwrap_err();
        assert_eq!(problem.status, 400);
    }
}
