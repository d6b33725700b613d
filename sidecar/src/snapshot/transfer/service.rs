//! The side that sends.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;
use futures::stream::try_unfold;
use synod_failpoint::{Point, hit};
use synod_paxos::GroupId;
use synod_proto::v1::snapshots_server::{Snapshots, SnapshotsServer};
use synod_proto::v1::{
    FetchSnapshotRequest, ListSnapshotsRequest, ListSnapshotsResponse, SnapshotPiece,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status};

use super::bucket::Bucket;
use super::{PIECE_BYTES, offer};
use crate::identity::{Caller, same_group};
use crate::snapshot::blocking;
use crate::snapshot::head::{SnapshotId, array};
use crate::snapshot::store::{Snapshot, Store, StoreError};

/// Pieces whose room is kept: the newest is being sent.
const KEPT_PIECES: usize = 2;

/// Lists the snapshots of a store, and sends one at a time.
#[derive(Clone)]
pub struct SnapshotService {
    store: Store,
    group: Arc<dyn Fn() -> Option<GroupId> + Send + Sync>,
    rate: u64,
    one: Arc<Semaphore>,
}

type Pieces = Pin<Box<dyn Stream<Item = Result<SnapshotPiece, Status>> + Send>>;

/// For the port of the peers: sends what `store` has to those who know the group that `group` tells,
/// `rate` bytes in a second at most, 0 for no limit. Refuses everybody without a certificate.
pub fn service(
    store: Store,
    group: impl Fn() -> Option<GroupId> + Send + Sync + 'static,
    rate: u64,
) -> SnapshotsServer<SnapshotService> {
    SnapshotsServer::new(SnapshotService::new(store, group, rate))
}

/// A file on its way. When it is dropped, the next may be fetched.
struct Sending {
    /// The next piece, read while the one before is sent.
    reading: Option<AbortOnDropHandle<(io::Result<Bytes>, File)>>,
    offset: u64,
    end: u64,
    bucket: Bucket,
    /// Pieces that were sent: their room is used again when it is free.
    sent: VecDeque<Bytes>,
    _one: OwnedSemaphorePermit,
}

// === impl SnapshotService ===

impl SnapshotService {
    pub(super) fn new(
        store: Store,
        group: impl Fn() -> Option<GroupId> + Send + Sync + 'static,
        rate: u64,
    ) -> Self {
        Self {
            store,
            group: Arc::new(group),
            rate,
            one: Arc::new(Semaphore::new(1)),
        }
    }

    fn check<T>(&self, request: &Request<T>, group: &[u8]) -> Result<(), Status> {
        // Members, and operators for their backups.
        Caller::of(request)?;
        same_group((self.group)(), group)
    }
}

#[tonic::async_trait]
impl Snapshots for SnapshotService {
    type FetchStream = Pieces;

    async fn list(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<ListSnapshotsResponse>, Status> {
        self.check(&request, &request.get_ref().group)?;
        let all = self.store.list();
        let usable = all.iter().filter(|it| is_offered(it));
        hit(Point::SnapshotOffered);
        Ok(Response::new(ListSnapshotsResponse {
            snapshots: usable.map(offer::to_proto).collect(),
        }))
    }

    async fn fetch(
        &self,
        request: Request<FetchSnapshotRequest>,
    ) -> Result<Response<Pieces>, Status> {
        self.check(&request, &request.get_ref().group)?;
        let FetchSnapshotRequest { id, offset, .. } = request.into_inner();
        let id = array(&id, "id").map_err(|_| Status::invalid_argument("a bad id"))?;
        let one = self.one.clone().try_acquire_owned();
        let one = one.map_err(|_| Status::resource_exhausted("another snapshot is being sent"))?;
        let store = self.store.clone();
        let opened = blocking(move || open(&store, SnapshotId(id), offset)).await;
        let (file, end) = opened?;
        let mut sending = Sending {
            reading: None,
            offset,
            end,
            bucket: Bucket::new(self.rate, Instant::now()),
            sent: VecDeque::new(),
            _one: one,
        };
        sending.read_on(file);
        let pieces = try_unfold(sending, next);
        Ok(Response::new(Box::pin(pieces)))
    }
}

impl std::fmt::Debug for SnapshotService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotService")
            .field("rate", &self.rate)
            .finish_non_exhaustive()
    }
}

/// What was not compared is nobody's, and tables without a state are a witness' own.
fn is_offered(snapshot: &Snapshot) -> bool {
    snapshot.standing.usable() && snapshot.has_state()
}

fn open(store: &Store, id: SnapshotId, offset: u64) -> Result<(File, u64), Status> {
    let (snapshot, mut file) = match store.open_file(id) {
        Ok(opened) => opened,
        Err(StoreError::NotThere { .. }) => return Err(Status::not_found("it is not there")),
        Err(error) => return Err(failed(&error)),
    };
    if !is_offered(&snapshot) {
        return Err(Status::not_found("it is not offered"));
    }
    if offset >= snapshot.bytes {
        return Err(Status::out_of_range("the offset is behind the end"));
    }
    let sought = file.seek(SeekFrom::Start(offset));
    sought.map_err(|error| failed(&store.failed("reading a snapshot", error)))?;
    Ok((file, snapshot.bytes))
}

/// What is wrong here is written to the log here; who asks learns that he must ask another.
fn failed(error: &StoreError) -> Status {
    tracing::warn!(%error, "a snapshot cannot be sent");
    Status::internal("it cannot be read there")
}

async fn next(mut sending: Sending) -> Result<Option<(SnapshotPiece, Sending)>, Status> {
    let Some(reading) = sending.reading.take() else {
        return Ok(None);
    };
    let read = reading.await.map_err(io::Error::other);
    let read = read.and_then(|(data, file)| data.map(|data| (data, file)));
    let (data, file) = read.map_err(|error| {
        tracing::warn!(%error, "a snapshot cannot be read; check the disk");
        Status::data_loss("it cannot be read there")
    })?;
    let piece = SnapshotPiece {
        offset: sending.offset,
        crc32c: crc32c::crc32c(&data),
        data: data.clone(),
    };
    let length = data.len() as u64;
    sending.offset += length;
    sending.sent.push_back(data);
    sending.read_on(file);
    sleep_until(sending.bucket.take(Instant::now(), length)).await;
    hit(Point::SnapshotPieceSent);
    Ok(Some((piece, sending)))
}

// === impl Sending ===

impl Sending {
    /// Begins to read what comes next, if there is more.
    fn read_on(&mut self, mut file: File) {
        let left = self.end - self.offset;
        if left == 0 {
            return;
        }
        let length = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
        let room = if self.sent.len() < KEPT_PIECES {
            None
        } else {
            self.sent.pop_front().and_then(|it| it.try_into_mut().ok())
        };
        let read = move || {
            let mut data = room.unwrap_or_default();
            data.resize(length, 0);
            let read = file.read_exact(&mut data);
            (read.map(|()| data.freeze()), file)
        };
        self.reading = Some(AbortOnDropHandle::new(tokio::task::spawn_blocking(read)));
    }
}
