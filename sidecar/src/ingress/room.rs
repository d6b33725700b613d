//! Where the bodies of requests are while they are on their way: small ones in memory, others in
//! files, and the large ones that are being agreed on in memory again. Each of the three has a
//! budget of its own (rule P3).
//!
//! In: pieces of bodies. Out: bodies that are there whole. It calls the spool.
//!
//! Nobody waits for memory while a client sends: what finds no room in memory goes to disk, so that
//! slow clients hold none. For disk, bodies wait in line before they are read, and for the memory
//! of a command once they are complete. A connection with many bodies stands in each line with one
//! of them at a time, and has a limit on the disk that it may hold.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};

use super::Limits;
use super::budget::{Budget, Share, TakenBytes};
use super::metrics::Metrics;
use super::problem::Problem;
use crate::app::{MEMORY_BYTES, Spool};
use crate::apply::StoredBody;

/// Memory is counted in units of this size.
const MEMORY_UNIT_BYTES: u64 = 1 << 10;
/// Disk is counted in larger ones: the number of files that are open at one time has a limit, too.
const DISK_UNIT_BYTES: u64 = MEMORY_BYTES as u64;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Room {
    memory: Budget,
    disk: Budget,
    commands: Budget,
    folder: Arc<Path>,
    /// Disk for the bodies of one source, in bytes.
    source_bytes: u64,
    /// For disk that others hold.
    patience: Duration,
}

/// Where bodies come from: a client's connection, or the other members.
#[derive(Debug)]
pub(super) struct Source {
    disk: Budget,
    /// Held by the one of its bodies that waits in the line for disk.
    in_disk_line: Mutex<()>,
    /// The same, for commands.
    in_command_line: Mutex<()>,
}

/// The place of one body that is being read.
#[derive(Debug)]
pub(super) struct Place<'a> {
    room: &'a Room,
    source: &'a Source,
    spool: Spool,
    taken: Taken,
}

/// What a body has of the budgets.
#[derive(Debug, Default)]
pub(super) struct Taken {
    memory: Option<Share>,
    /// Of its source's, and of all.
    disk: Option<(Share, Share)>,
}

// === impl Room ===

impl Room {
    pub(super) fn new(limits: &Limits, folder: &Path, metrics: &Metrics) -> Self {
        Self {
            memory: Budget::new(
                limits.body_memory_bytes,
                MEMORY_UNIT_BYTES,
                metrics.body_memory.clone(),
            ),
            disk: Budget::new(
                limits.body_disk_bytes,
                DISK_UNIT_BYTES,
                metrics.body_disk.clone(),
            ),
            commands: Budget::new(
                limits.command_memory_bytes,
                MEMORY_UNIT_BYTES,
                metrics.command_memory.clone(),
            ),
            folder: folder.into(),
            source_bytes: limits.connection_disk_bytes,
            patience: limits.body_patience,
        }
    }

    /// A new source that has nothing yet.
    pub(super) fn source(&self) -> Source {
        Source {
            disk: Budget::new(self.source_bytes, DISK_UNIT_BYTES, TakenBytes::default()),
            in_disk_line: Mutex::new(()),
            in_command_line: Mutex::new(()),
        }
    }

    /// A place for a body, of so many bytes where that is known. It may wait; nothing was read yet.
    pub(super) async fn place<'a>(
        &'a self,
        source: &'a Source,
        bytes: Option<u64>,
    ) -> Result<Place<'a>, Problem> {
        let mut place = Place {
            room: self,
            source,
            spool: Spool::new(self.folder.clone()),
            taken: Taken::default(),
        };
        if let Some(bytes) = bytes
            && !place.stays_in_memory(bytes)
        {
            place.take_disk(bytes).await?;
        }
        Ok(place)
    }

    /// Memory in which a large body, whole by now, can be proposed. The share is kept until the group
    /// has agreed on it. `None`: it is in memory as it is.
    pub(super) async fn command(
        &self,
        source: &Source,
        body: &StoredBody,
        limit: Instant,
    ) -> Result<Option<Share>, Problem> {
        let StoredBody::File { len, .. } = body else {
            return Ok(None);
        };
        let share = async {
            let _first_of_its_source = source.in_command_line.lock().await;
            self.commands.take(*len).await
        };
        let share = timeout_at(limit, share).await;
        share.map(Some).map_err(|_| {
            Problem::not_ordered("too many large requests wait for agreement at this member")
        })
    }

    async fn disk(&self, source: &Source, bytes: u64) -> Result<(Share, Share), Problem> {
        let shares = async {
            let own = source.disk.take(bytes).await;
            let _first_of_its_source = source.in_disk_line.lock().await;
            (own, self.disk.take(bytes).await)
        };
        timeout(self.patience, shares).await.map_err(|_| full())
    }
}

fn full() -> Problem {
    Problem::not_ordered("this member holds as many bodies as it has room for; try again")
}

// === impl Place ===

impl Place<'_> {
    /// Bytes that are there.
    pub(super) fn len(&self) -> u64 {
        self.spool.len()
    }

    /// Takes the next piece.
    pub(super) async fn push(&mut self, data: Bytes) -> Result<(), Problem> {
        let bytes = self.spool.len() + data.len() as u64;
        if let Some((own, common)) = &mut self.taken.disk {
            let (own_disk, disk) = (&self.source.disk, &self.room.disk);
            if !own_disk.try_grow(own, bytes) || !disk.try_grow(common, bytes) {
                return Err(full());
            }
        } else if !self.stays_in_memory(bytes) {
            self.take_disk(bytes).await?;
        }
        self.spool.push(data).await.map_err(|error| {
            tracing::warn!(%error, "a request's body could not be spooled; check the data volume");
            Problem::not_ordered(
                "this member's disk cannot take the body; try again, or another member",
            )
        })?;
        if self.taken.disk.is_some() {
            // What was there before is in the file now.
            self.taken.memory = None;
        }
        Ok(())
    }

    /// All of it, and what it has of the budgets.
    pub(super) fn finish(self) -> (StoredBody, Taken) {
        (self.spool.finish(), self.taken)
    }

    /// Whether there is memory for so many bytes of it; they are taken then.
    fn stays_in_memory(&mut self, bytes: u64) -> bool {
        if bytes > MEMORY_BYTES as u64 {
            return false;
        }
        match &mut self.taken.memory {
            Some(share) => self.room.memory.try_grow(share, bytes),
            none => {
                *none = self.room.memory.try_take(bytes);
                none.is_some()
            }
        }
    }

    async fn take_disk(&mut self, bytes: u64) -> Result<(), Problem> {
        self.spool.leave_memory();
        self.taken.disk = Some(self.room.disk(self.source, bytes).await?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use prometheus_client::registry::Registry;

    use super::*;

    fn room(limits: Limits, folder: &Path) -> (Room, Metrics) {
        let metrics = Metrics::register(&mut Registry::default());
        (Room::new(&limits, folder, &metrics), metrics)
    }

    fn limits(memory: u64, disk_units: u64) -> Limits {
        Limits {
            body_memory_bytes: memory,
            body_disk_bytes: disk_units * DISK_UNIT_BYTES,
            connection_disk_bytes: 4 * DISK_UNIT_BYTES,
            command_memory_bytes: 300_000,
            body_patience: Duration::from_secs(5),
            ..Limits::default()
        }
    }

    fn files(folder: &Path) -> usize {
        std::fs::read_dir(folder).unwrap().count()
    }

    fn piece(bytes: usize) -> Bytes {
        Bytes::from(vec![7; bytes])
    }

    #[tokio::test]
    async fn a_body_whose_length_is_known_to_be_large_takes_no_memory_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let (room, metrics) = room(limits(1 << 20, 8), folder.path());
        let source = room.source();
        let mut place = room.place(&source, Some(100_000)).await.unwrap();
        assert_eq!(metrics.body_memory.get(), 0);
        assert_eq!(metrics.body_disk.get(), 2 * DISK_UNIT_BYTES);
        assert_eq!(files(folder.path()), 0, "nothing came yet");
        place.push(piece(1)).await.unwrap();
        assert_eq!(metrics.body_memory.get(), 0);
        assert_eq!(files(folder.path()), 1);
    }

    #[tokio::test]
    async fn a_body_that_grows_large_leaves_memory_for_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let (room, metrics) = room(limits(1 << 20, 8), folder.path());
        let source = room.source();
        let mut place = room.place(&source, None).await.unwrap();
        place.push(piece(MEMORY_BYTES)).await.unwrap();
        assert_eq!(metrics.body_memory.get(), MEMORY_BYTES as u64);
        assert_eq!(metrics.body_disk.get(), 0);
        place.push(piece(1)).await.unwrap();
        assert_eq!(metrics.body_memory.get(), 0);
        assert_eq!(metrics.body_disk.get(), 2 * DISK_UNIT_BYTES);
        place.push(piece(MEMORY_BYTES)).await.unwrap();
        assert_eq!(metrics.body_disk.get(), 3 * DISK_UNIT_BYTES);
        let (body, taken) = place.finish();
        assert!(matches!(body, StoredBody::File { len: 131_073, .. }));
        drop(taken);
        assert_eq!(metrics.body_disk.get(), 0);
    }

    #[tokio::test]
    async fn a_small_body_that_finds_no_memory_goes_to_disk() {
        let folder = tempfile::tempdir().unwrap();
        let (room, metrics) = room(limits(2_048, 8), folder.path());
        let source = room.source();
        for bytes in [Some(3_000), None] {
            let mut place = room.place(&source, bytes).await.unwrap();
            place.push(piece(1_000)).await.unwrap();
            place.push(piece(2_000)).await.unwrap();
            assert_eq!(metrics.body_memory.get(), 0, "{bytes:?}");
            assert!(matches!(
                place.finish().0,
                StoredBody::File { len: 3_000, .. }
            ));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_for_which_there_is_no_disk_waits_and_is_refused_before_a_byte_was_read() {
        let folder = tempfile::tempdir().unwrap();
        let (room, _) = room(limits(0, 4), folder.path());
        let (one, two) = (room.source(), room.source());
        let held = room.place(&one, Some(3 * DISK_UNIT_BYTES)).await.unwrap();
        let problem = room
            .place(&two, Some(2 * DISK_UNIT_BYTES))
            .await
            .unwrap_err();
        assert_eq!(
            (problem.status.as_u16(), problem.kind),
            (503, "not-ordered")
        );
        assert!(problem.retry_after.is_some());
        let mut waiting = std::pin::pin!(room.place(&two, Some(2 * DISK_UNIT_BYTES)));
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(held);
        waiting.await.expect("there is room by now");
    }

    #[tokio::test(start_paused = true)]
    async fn one_connection_cannot_take_the_disk_from_the_others() {
        let folder = tempfile::tempdir().unwrap();
        let (room, _) = room(limits(0, 6), folder.path());
        let (greedy, modest) = (room.source(), room.source());
        let mut held = Vec::new();
        while let Ok(place) = room.place(&greedy, Some(1)).await {
            held.push(place);
        }
        assert_eq!(held.len(), 4, "its own limit");
        assert!(
            held[0].push(piece(2 * MEMORY_BYTES)).await.is_err(),
            "nor can it grow"
        );
        room.place(&modest, Some(1))
            .await
            .expect("there is room for others");
    }

    #[tokio::test]
    async fn connections_take_turns_for_the_memory_of_commands_whatever_number_each_waits_with() {
        let folder = tempfile::tempdir().unwrap();
        let (room, metrics) = room(limits(0, 8), folder.path());
        let (many, one) = (room.source(), room.source());
        let mut place = room.place(&many, Some(200_000)).await.unwrap();
        place.push(piece(200_000)).await.unwrap();
        let (body, _taken) = place.finish();
        let limit = Instant::now() + Duration::from_secs(60);
        let command = |source| room.command(source, &body, limit);
        let held = command(&many).await.unwrap();
        assert_eq!(metrics.command_memory.get(), 200_704);
        let mut second = std::pin::pin!(command(&many));
        let mut third = std::pin::pin!(command(&many));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        let mut other = std::pin::pin!(command(&one));
        assert!(other.as_mut().now_or_never().is_none());
        drop(held);
        let held = second.await.unwrap();
        assert!(third.as_mut().now_or_never().is_none());
        drop(held);
        assert!(
            third.as_mut().now_or_never().is_none(),
            "the other one came first"
        );
        drop(other.await.unwrap());
        third.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_that_finds_no_memory_in_time_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (room, _) = room(limits(0, 8), folder.path());
        let source = room.source();
        let mut place = room.place(&source, Some(200_000)).await.unwrap();
        place.push(piece(200_000)).await.unwrap();
        let (body, _taken) = place.finish();
        let limit = Instant::now() + Duration::from_secs(10);
        let _held = room.command(&source, &body, limit).await.unwrap();
        let problem = room.command(&source, &body, limit).await.unwrap_err();
        assert_eq!(
            (problem.status.as_u16(), problem.kind),
            (503, "not-ordered")
        );
        assert_eq!(Instant::now(), limit);
    }

    #[tokio::test]
    async fn a_disk_that_cannot_take_a_body_is_a_refusal_and_the_next_body_is_none_the_worse() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        let (room, metrics) = room(limits(1 << 20, 8), &gone);
        let source = room.source();
        let mut place = room.place(&source, Some(100_000)).await.unwrap();
        let problem = place.push(piece(1)).await.unwrap_err();
        assert_eq!(
            (problem.status.as_u16(), problem.kind),
            (503, "not-ordered")
        );
        assert!(problem.detail.contains("disk"), "{problem:?}");
        drop(place);
        assert_eq!(metrics.body_disk.get(), 0);
        std::fs::create_dir(&gone).unwrap();
        let mut place = room.place(&source, Some(100_000)).await.unwrap();
        place.push(piece(1)).await.unwrap();
    }
}
