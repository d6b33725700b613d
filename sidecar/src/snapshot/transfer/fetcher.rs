//! The side that asks.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use synod_failpoint::{Point, hit};
use synod_paxos::GroupId;
use synod_proto::v1::snapshots_client::SnapshotsClient;
use synod_proto::v1::{FetchSnapshotRequest, ListSnapshotsRequest, SnapshotPiece};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use super::error::{FetchError, plain};
use super::front::Front;
use super::partial::Partial;
use super::{Connector, QUEUED_PIECES, WINDOW_BYTES, offer};
use crate::snapshot::store::{Snapshot, Standing, Store};
use crate::snapshot::{blocking, in_background};

/// Gets snapshots of other members into a store, one at a time.
#[derive(Clone, Debug)]
pub struct Fetcher {
    store: Store,
    group: GroupId,
    silence: Duration,
    one: Arc<Semaphore>,
}

// === impl Fetcher ===

impl Fetcher {
    /// Into `store`, from members of `group`; gives a member up that is silent for so long.
    pub fn new(store: Store, group: GroupId, silence: Duration) -> Self {
        Self {
            store,
            group,
            silence,
            one: Arc::new(Semaphore::new(1)),
        }
    }

    /// What a member offers, oldest first.
    pub async fn list(&self, member: &Connector) -> Result<Vec<Snapshot>, FetchError> {
        let mut client = client(member).await?;
        let request = ListSnapshotsRequest {
            group: Bytes::copy_from_slice(&self.group.0),
        };
        let listed = timeout(self.silence, client.list(request)).await;
        let listed = listed.map_err(|_| FetchError::Silent(self.silence))?;
        let listed = listed.map_err(|status| FetchError::Refused(plain(&status)))?;
        let offers = listed.into_inner().snapshots.into_iter();
        Ok(offers.map(offer::from_proto).collect::<Result<_, _>>()?)
    }

    /// Fetches one of the snapshots that a member offers, or the rest of it. It has the standing
    /// here that it has there, from the moment that it can be seen. When this is dropped, the transfer ends, and can go on later.
    pub async fn fetch(
        &self,
        member: &Connector,
        offer: &Snapshot,
    ) -> Result<Snapshot, FetchError> {
        let one = self.one.clone().try_acquire_owned();
        let one = one.map_err(|_| FetchError::Busy)?;
        self.check(offer)?;
        let Ok(here) = self.store.get(offer.id) else {
            return self.transfer(member, offer, one).await;
        };
        let (store, standing) = (self.store.clone(), offer.standing);
        let marked = blocking(move || match standing {
            Standing::Unverified if here.standing.usable() => Ok(()),
            Standing::Unverified => store.mark_unverified(here.id),
            Standing::Verified | Standing::Uncompared => store.mark_verified(here.id),
        });
        marked.await?;
        Ok(self.store.get(offer.id)?)
    }

    /// Fetches the tables of a snapshot that a member offers, and nothing of the state behind them. What
    /// has come of them is forgotten when this is dropped.
    pub async fn fetch_tables(
        &self,
        member: &Connector,
        offer: &Snapshot,
    ) -> Result<Bytes, FetchError> {
        let one = self.one.clone().try_acquire_owned();
        let _one = one.map_err(|_| FetchError::Busy)?;
        self.check(offer)?;
        let mut stream = self.begin(member, offer, 0).await?;
        let mut front = Front::new(offer.head.clone()).map_err(FetchError::DamagedThere)?;
        loop {
            let message = timeout(self.silence, stream.message()).await;
            let message = message.map_err(|_| FetchError::Silent(self.silence))?;
            let broken_off = |received, why| FetchError::BrokenOff {
                received,
                total: offer.bytes,
                why,
            };
            let piece = match message {
                Ok(Some(piece)) => piece,
                Ok(None) => {
                    return Err(broken_off(front.at(), "that member ended it".to_owned()));
                }
                Err(status) => return Err(broken_off(front.at(), plain(&status))),
            };
            if piece.offset != front.at() || piece.data.is_empty() {
                return Err(FetchError::NotAsAsked("other pieces than asked for"));
            }
            if crc32c::crc32c(&piece.data) != piece.crc32c {
                return Err(FetchError::DamagedOnItsWay { at: front.at() });
            }
            // It is a little work for each piece, and they are few.
            if front.take(&piece.data)? {
                return Ok(front.into_tables());
            }
        }
    }

    fn check(&self, offer: &Snapshot) -> Result<(), FetchError> {
        let of_use = offer.head.group == self.group && offer.standing.usable();
        if of_use && offer.has_state() {
            return Ok(());
        }
        Err(FetchError::NotAsAsked("an offer that is of no use here"))
    }

    async fn begin(
        &self,
        member: &Connector,
        offer: &Snapshot,
        offset: u64,
    ) -> Result<Streaming<SnapshotPiece>, FetchError> {
        let mut client = client(member).await?;
        let request = FetchSnapshotRequest {
            group: Bytes::copy_from_slice(&self.group.0),
            id: Bytes::copy_from_slice(&offer.id.0),
            offset,
        };
        let answered = timeout(self.silence, client.fetch(request)).await;
        let answered = answered.map_err(|_| FetchError::Silent(self.silence))?;
        let stream = answered.map_err(|status| FetchError::of(&status, offer.id))?;
        Ok(stream.into_inner())
    }

    async fn transfer(
        &self,
        member: &Connector,
        offer: &Snapshot,
        one: OwnedSemaphorePermit,
    ) -> Result<Snapshot, FetchError> {
        let (store, wanted) = (self.store.clone(), offer.clone());
        let partial = blocking(move || Partial::open(&store, &wanted, one)).await?;
        let offset = partial.offset();
        hit(Point::FetchBegun);
        let stream = self.begin(member, offer, offset).await?;
        let (pieces, queue) = mpsc::channel(QUEUED_PIECES);
        let receiving = tokio::spawn(in_background(move || partial.receive(queue)));
        let passed = self.pass_on(stream, offset, offer, pieces).await;
        let received = match receiving.await {
            Ok(received) => received,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        match (passed, received) {
            (Ok(()), received) => received,
            // It was told that nothing more comes: the reason is known here.
            (Err(why), Ok(_) | Err(FetchError::BrokenOff { .. })) => Err(why),
            (Err(_), Err(error)) => Err(error),
        }
    }

    /// Passes pieces on as they come, until there are no more or nobody wants them.
    async fn pass_on(
        &self,
        mut stream: Streaming<SnapshotPiece>,
        mut at: u64,
        offer: &Snapshot,
        pieces: mpsc::Sender<Bytes>,
    ) -> Result<(), FetchError> {
        loop {
            let message = tokio::select! {
                message = timeout(self.silence, stream.message()) => message,
                () = pieces.closed() => return Ok(()),
            };
            let message = message.map_err(|_| FetchError::Silent(self.silence))?;
            let piece = match message {
                Ok(Some(piece)) => piece,
                Ok(None) => return Ok(()),
                Err(status) if status.code() == Code::DataLoss => {
                    return Err(FetchError::Refused(plain(&status)));
                }
                Err(status) => {
                    return Err(FetchError::BrokenOff {
                        received: at,
                        total: offer.bytes,
                        why: plain(&status),
                    });
                }
            };
            let end = at + piece.data.len() as u64;
            if piece.offset != at || end > offer.bytes || piece.data.is_empty() {
                return Err(FetchError::NotAsAsked("other pieces than asked for"));
            }
            if crc32c::crc32c(&piece.data) != piece.crc32c {
                return Err(FetchError::DamagedOnItsWay { at });
            }
            at = end;
            if pieces.send(piece.data).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// On a connection of its own, closed when this is dropped.
async fn client(member: &Connector) -> Result<SnapshotsClient<Channel>, FetchError> {
    let channel = member.bulk_channel(WINDOW_BYTES).await?;
    Ok(SnapshotsClient::new(channel))
}
