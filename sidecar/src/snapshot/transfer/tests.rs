//! Two members over real sockets and TLS, and a third one that does everything wrong.

mod lies;
mod throughput;

use std::fs;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt};
use synod_paxos::{GroupId, Slot};
use synod_proto::v1::snapshots_server::{Snapshots, SnapshotsServer};
use synod_proto::v1::{
    FetchSnapshotRequest, ListSnapshotsRequest, ListSnapshotsResponse, SnapshotPiece,
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::*;
use crate::identity::testing::{Authority, names};
use crate::identity::{Identity, Who, accept};
use crate::snapshot::testing::{self, GROUP, noise, save, state_of};
use crate::snapshot::{Head, Method, Snapshot, Standing, Store};

const LONG: Duration = Duration::from_secs(30);
/// A dozen of pieces.
const LARGE: usize = 12 * PIECE_BYTES;

/// A group of two members with a store each; the first one has a snapshot.
struct Pair {
    folder: TempDir,
    sender: Store,
    receiver: Store,
    fetcher: Fetcher,
    identities: [Identity; 2],
    operator: Identity,
    snapshot: Snapshot,
    state: Vec<u8>,
}

impl Pair {
    fn new(bytes: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let load = |who: Who, name: &str| {
            let files = authority.issue(&folder.path().join(name), &[names().of(&who)]);
            Identity::load(&files, &names(), who).unwrap()
        };
        let member = |name: &str| load(Who::Member(name.to_owned()), name);
        let identities = [member("notes-1"), member("notes-2")];
        let operator = load(Who::Operator, "operator");
        let sender = testing::store(&folder.path().join("sender"));
        let receiver = testing::store(&folder.path().join("receiver"));
        let state = noise(1, bytes);
        let snapshot = save(&sender, 9, &state);
        sender.mark_verified(snapshot.id).unwrap();
        Self {
            sender: sender.clone(),
            fetcher: Fetcher::new(receiver.clone(), GROUP, LONG),
            receiver,
            identities,
            operator,
            snapshot: sender.newest().unwrap(),
            state,
            folder,
        }
    }

    fn service(&self) -> SnapshotService {
        self.service_at_rate(0)
    }

    fn service_at_rate(&self, rate: u64) -> SnapshotService {
        SnapshotService::new(self.sender.clone(), || Some(GROUP), rate)
    }

    /// The first member at work; the connector is that of the second one.
    async fn serve<S: Snapshots>(&self, service: S) -> (Connector, AbortOnDropHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let accepted = accept(listener, self.identities[0].clone());
        let server = Server::builder()
            .add_service(SnapshotsServer::new(service))
            .serve_with_incoming(accepted);
        let task = tokio::spawn(async move { server.await.unwrap() });
        let connector = Self::connector(&self.identities[1], address);
        (connector, AbortOnDropHandle::new(task))
    }

    fn connector(from: &Identity, address: String) -> Connector {
        let expected = Who::Member("notes-1".to_owned());
        Connector::fixed(from.clone(), expected, address)
    }

    fn part(&self) -> PathBuf {
        let name = format!("{:016x}.{}.part", 9, self.snapshot.id);
        self.receiver.folder().join(name)
    }

    fn files(&self) -> usize {
        fs::read_dir(self.receiver.folder()).unwrap().count()
    }

    fn assert_whole(&self) {
        let here = self.receiver.get(self.snapshot.id).unwrap();
        assert_eq!(here, self.snapshot);
        assert!(state_of(&self.receiver, &here) == self.state);
        let file = |folder: &Path| fs::read(folder.join("0000000000000009.snapshot")).unwrap();
        assert!(file(self.sender.folder()) == file(self.receiver.folder()));
        assert!(!self.part().exists());
        let again = testing::store(self.receiver.folder());
        assert_eq!(again.list(), self.receiver.list());
    }

    /// As after a pause in which the first try has ended.
    async fn fetch(&self, member: &Connector) -> Result<Snapshot, FetchError> {
        loop {
            match self.fetcher.fetch(member, &self.snapshot).await {
                Err(FetchError::Busy) => tokio::task::yield_now().await,
                done => return done,
            }
        }
    }
}

/// What the liar does with a piece, counted from 0 in each transfer.
type Lie = Arc<dyn Fn(usize, SnapshotPiece) -> Result<SnapshotPiece, Status> + Send + Sync>;

/// Sends what a good member sends, but for its lies.
struct Liar {
    honest: SnapshotService,
    lie: Lie,
    /// Where the last transfer began.
    offset: Arc<AtomicU64>,
}

impl Liar {
    fn new(
        pair: &Pair,
        lie: impl Fn(usize, SnapshotPiece) -> Result<SnapshotPiece, Status> + Send + Sync + 'static,
    ) -> Self {
        Self {
            honest: pair.service(),
            lie: Arc::new(lie),
            offset: Arc::default(),
        }
    }
}

#[tonic::async_trait]
impl Snapshots for Liar {
    type FetchStream = Pin<Box<dyn Stream<Item = Result<SnapshotPiece, Status>> + Send>>;

    async fn list(
        &self,
        request: Request<ListSnapshotsRequest>,
    ) -> Result<Response<ListSnapshotsResponse>, Status> {
        self.honest.list(request).await
    }

    async fn fetch(
        &self,
        request: Request<FetchSnapshotRequest>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        self.offset
            .store(request.get_ref().offset, Ordering::SeqCst);
        let pieces = self.honest.fetch(request).await?.into_inner();
        let lie = self.lie.clone();
        let lies = pieces
            .enumerate()
            .map(move |(number, piece)| piece.and_then(|piece| lie(number, piece)));
        Ok(Response::new(Box::pin(lies)))
    }
}

fn dead(_: usize) -> Status {
    Status::unavailable("killed")
}

/// The piece with other data, and a checksum that fits.
fn with_data(piece: SnapshotPiece, change: impl FnOnce(&mut Vec<u8>)) -> SnapshotPiece {
    let mut data = piece.data.to_vec();
    change(&mut data);
    SnapshotPiece {
        offset: piece.offset,
        crc32c: crc32c::crc32c(&data),
        data: data.into(),
    }
}

// === what should be ===

#[tokio::test]
async fn a_snapshot_of_another_member_becomes_one_of_this_store() {
    for bytes in [0, 1, 5 << 20] {
        let pair = Pair::new(bytes);
        let (member, running) = pair.serve(pair.service()).await;
        let offers = pair.fetcher.list(&member).await.unwrap();
        assert_eq!(offers, std::slice::from_ref(&pair.snapshot));
        let fetched = pair.fetcher.fetch(&member, &offers[0]).await.unwrap();
        assert_eq!(fetched, pair.snapshot);
        pair.assert_whole();
        // Once is enough.
        drop(running);
        pair.fetch(&member).await.unwrap();
    }
}

#[tokio::test]
async fn tables_come_without_the_state_behind_them_and_tables_alone_are_offered_to_nobody() {
    let pair = Pair::new(LARGE);
    let (member, _running) = pair.serve(pair.service()).await;
    let tables = pair.fetcher.fetch_tables(&member, &pair.snapshot).await;
    assert_eq!(tables.unwrap(), "tables");
    assert_eq!(pair.files(), 0, "nothing is left of it");
    let other = Snapshot {
        head: testing::head(8),
        ..pair.snapshot.clone()
    };
    let tables = pair.fetcher.fetch_tables(&member, &other).await;
    assert!(
        matches!(tables, Err(FetchError::NotAsAsked(_))),
        "{tables:?}"
    );
    let alone = Head {
        method: Method::None,
        ..testing::head(12)
    };
    let alone = pair.sender.begin(alone, b"tables", 0).unwrap();
    let alone = alone.commit().unwrap().id;
    pair.sender.mark_verified(alone).unwrap();
    let offers = pair.fetcher.list(&member).await.unwrap();
    assert_eq!(offers, std::slice::from_ref(&pair.snapshot));
    let alone = pair.sender.get(alone).unwrap();
    let lying = Snapshot {
        head: testing::head(12),
        ..alone.clone()
    };
    for offer in [alone, lying] {
        let got = pair.fetcher.fetch(&member, &offer).await;
        let refused = matches!(
            got,
            Err(FetchError::NotAsAsked(_) | FetchError::Gone(_) | FetchError::Refused(_))
        );
        assert!(refused, "{got:?}");
    }
    for byte in [0, 20, 200] {
        let liar = Liar::new(&pair, move |_, piece| {
            Ok(with_data(piece, |it| it[byte] ^= 1))
        });
        let (member, _running) = pair.serve(liar).await;
        let tables = pair.fetcher.fetch_tables(&member, &pair.snapshot).await;
        assert!(
            matches!(tables, Err(FetchError::DamagedThere(_))),
            "byte {byte}: {tables:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_fetched_has_its_standing_from_the_moment_that_it_can_be_seen() {
    for bytes in 0..8 {
        let pair = Pair::new(bytes);
        let (member, _running) = pair.serve(pair.service()).await;
        let receiver = pair.receiver.clone();
        let looking = std::thread::spawn(move || {
            loop {
                if let Some(seen) = receiver.newest() {
                    return seen.standing;
                }
            }
        });
        pair.fetch(&member).await.unwrap();
        assert_eq!(looking.join().unwrap(), Standing::Verified);
        pair.assert_whole();
    }
}

#[tokio::test]
async fn what_was_not_compared_is_neither_offered_nor_sent() {
    let pair = Pair::new(10);
    let new = save(&pair.sender, 10, b"not compared");
    let (member, _running) = pair.serve(pair.service()).await;
    assert_eq!(pair.fetcher.list(&member).await.unwrap().len(), 1);
    let asked = pair.fetcher.fetch(&member, &new).await.unwrap_err();
    assert!(matches!(asked, FetchError::NotAsAsked(_)), "{asked}");
    let mut pretended = new.clone();
    pretended.standing = Standing::Verified;
    let asked = pair.fetcher.fetch(&member, &pretended).await.unwrap_err();
    assert!(
        matches!(asked, FetchError::Gone(id) if id == new.id),
        "{asked}"
    );
    // Unverified is what it stays.
    pair.sender.mark_unverified(new.id).unwrap();
    let offers = pair.fetcher.list(&member).await.unwrap();
    let fetched = pair.fetcher.fetch(&member, &offers[1]).await.unwrap();
    assert_eq!(fetched.standing, Standing::Unverified);
}

#[tokio::test]
async fn only_members_and_operators_of_the_group_get_anything() {
    let pair = Pair::new(10);
    let (member, running) = pair.serve(pair.service()).await;
    let stranger = Fetcher::new(pair.receiver.clone(), GroupId([8; 16]), LONG);
    let refused = stranger.list(&member).await.unwrap_err().to_string();
    assert!(refused.contains("another group"), "{refused}");
    drop(running);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = Server::builder()
        .add_service(service(pair.sender.clone(), || Some(GROUP), 0))
        .serve_with_incoming(accept(listener, pair.identities[0].clone()));
    let _running = AbortOnDropHandle::new(tokio::spawn(server));
    let operator = Pair::connector(&pair.operator, address.clone());
    let refused = stranger.list(&operator).await.unwrap_err().to_string();
    assert!(refused.contains("another group"), "{refused}");
    let offers = pair.fetcher.list(&operator).await.unwrap();
    let member = Pair::connector(&pair.identities[1], address);
    assert_eq!(pair.fetcher.list(&member).await.unwrap(), offers);
    pair.fetch(&operator).await.unwrap();
}

#[tokio::test]
async fn one_transfer_at_a_time_and_a_dropped_one_makes_room() {
    let pair = Pair::new(LARGE);
    // So slow that it never ends by itself.
    let (member, _running) = pair.serve(pair.service_at_rate(1)).await;
    let mut slow = Box::pin(pair.fetcher.fetch(&member, &pair.snapshot));
    while !pair.part().exists() || fs::metadata(pair.part()).unwrap().len() == 0 {
        let waiting = tokio::time::timeout(Duration::from_millis(10), &mut slow).await;
        assert!(waiting.is_err(), "{waiting:?}");
    }
    let here = pair
        .fetcher
        .fetch(&member, &pair.snapshot)
        .await
        .unwrap_err();
    assert!(matches!(here, FetchError::Busy), "{here}");
    let third = testing::store(&pair.folder.path().join("third"));
    let third = Fetcher::new(third, GROUP, LONG);
    let there = third.fetch(&member, &pair.snapshot).await.unwrap_err();
    assert!(matches!(there, FetchError::SenderBusy), "{there}");
    drop(slow);
    // Soon the sender sees that nobody listens, and sends the first piece to somebody else.
    let mut next = loop {
        let mut next = Box::pin(third.fetch(&member, &pair.snapshot));
        match tokio::time::timeout(Duration::from_millis(300), &mut next).await {
            Ok(Err(FetchError::SenderBusy | FetchError::Busy)) => {}
            Ok(other) => panic!("{other:?}"),
            Err(_) => break next,
        }
    };
    assert!(futures::FutureExt::now_or_never(&mut next).is_none());
    drop(next);
    // What came is still good for a try elsewhere.
    let (good, _running) = pair.serve(pair.service()).await;
    pair.fetch(&good).await.unwrap();
    pair.assert_whole();
}

#[tokio::test]
async fn a_transfer_keeps_to_its_rate() {
    let pair = Pair::new(LARGE);
    let (member, _running) = pair.serve(pair.service_at_rate(8 << 20)).await;
    let began = std::time::Instant::now();
    pair.fetch(&member).await.unwrap();
    // 3 MiB at 8 MiB/s, less the burst and the last piece.
    assert!(
        began.elapsed() > Duration::from_millis(375 - 100 - 35),
        "{:?}",
        began.elapsed()
    );
    pair.assert_whole();
}

// === breaking off ===

#[tokio::test]
async fn a_transfer_that_breaks_off_at_any_piece_goes_on_behind_the_last_whole_chunk() {
    let pair = Pair::new(LARGE);
    let pieces = pair.snapshot.bytes.div_ceil(PIECE_BYTES as u64);
    assert!(pieces > 10);
    for dies_at in 0..=usize::try_from(pieces).unwrap() {
        let liar = Liar::new(&pair, move |number, piece| {
            if number == dies_at {
                return Err(dead(number));
            }
            Ok(piece)
        });
        let (member, _running) = pair.serve(liar).await;
        let result = pair.fetch(&member).await;
        if dies_at as u64 == pieces {
            result.unwrap();
            break;
        }
        let error = result.unwrap_err();
        let FetchError::BrokenOff {
            received, total, ..
        } = &error
        else {
            panic!("after {dies_at} pieces: {error}");
        };
        assert_eq!(*total, pair.snapshot.bytes);
        assert_eq!(*received, (dies_at * PIECE_BYTES) as u64);
        assert!(pair.receiver.list().is_empty());
        let whole = Liar::new(&pair, |_, piece| Ok(piece));
        let offset = whole.offset.clone();
        let (member, _running) = pair.serve(whole).await;
        pair.fetch(&member).await.unwrap();
        let offset = offset.load(Ordering::SeqCst);
        assert!(offset <= *received, "{offset} > {received}");
        assert!(
            received - offset <= (1 << 20) + 24,
            "{offset} of {received} is kept"
        );
        pair.assert_whole();
        pair.receiver.discard(pair.snapshot.id).unwrap();
    }
    pair.assert_whole();
}

#[tokio::test]
async fn a_member_that_is_killed_is_told_from_one_that_is_slow() {
    let pair = Pair::new(LARGE);
    let (killed, when) = oneshot::channel();
    let killed = std::sync::Mutex::new(Some(killed));
    let liar = Liar::new(&pair, move |number, piece| {
        if number == 5
            && let Some(killed) = killed.lock().unwrap().take()
        {
            killed.send(()).unwrap();
        }
        Ok(piece)
    });
    // The rate of one byte a second lets one burst pass.
    let (member, running) = pair.serve(liar).await;
    let fetching = pair.fetch(&member);
    tokio::pin!(fetching);
    tokio::select! {
        done = &mut fetching => panic!("{done:?}"),
        _ = when => {}
    }
    // With all its connections: they belong to tasks of the server.
    running.abort();
    drop(running);
    // It may have got all before that; a connection that goes is an error in any case.
    if let Err(error) = fetching.await {
        assert!(matches!(error, FetchError::BrokenOff { .. }), "{error}");
    }
    let slow = Fetcher::new(pair.receiver.clone(), GROUP, Duration::from_millis(200));
    for it in pair.receiver.list() {
        pair.receiver.discard(it.id).unwrap();
    }
    fs::remove_file(pair.part()).unwrap_or_default();
    let (member, _running) = pair.serve(pair.service_at_rate(1)).await;
    let error = slow.fetch(&member, &pair.snapshot).await.unwrap_err();
    assert!(matches!(error, FetchError::Silent(_)), "{error}");
}

#[tokio::test]
async fn nobody_there_is_told_at_once() {
    let pair = Pair::new(10);
    let (member, running) = pair.serve(pair.service()).await;
    running.abort();
    let _ = running.await;
    let error = pair.fetch(&member).await.unwrap_err();
    assert!(matches!(error, FetchError::Connect(_)), "{error}");
}

#[tokio::test]
async fn what_came_of_it_is_checked_before_it_is_built_upon() {
    let pair = Pair::new(LARGE);
    let liar = Liar::new(
        &pair,
        |number, piece| if number == 9 { Err(dead(9)) } else { Ok(piece) },
    );
    let (member, _running) = pair.serve(liar).await;
    pair.fetch(&member).await.unwrap_err();
    // The disk has lost something of the second chunk.
    let mut bytes = fs::read(pair.part()).unwrap();
    bytes[(1 << 20) + 5000] ^= 1;
    fs::write(pair.part(), bytes).unwrap();
    let whole = Liar::new(&pair, |_, piece| Ok(piece));
    let offset = whole.offset.clone();
    let (member, _running) = pair.serve(whole).await;
    pair.fetch(&member).await.unwrap();
    let offset = offset.load(Ordering::SeqCst);
    assert!((1 << 20..(1 << 20) + 5000).contains(&offset), "{offset}");
    pair.assert_whole();
}

#[tokio::test]
async fn a_snapshot_that_was_replaced_meanwhile_is_told_as_gone() {
    let pair = Pair::new(LARGE);
    let liar = Liar::new(
        &pair,
        |number, piece| if number == 9 { Err(dead(9)) } else { Ok(piece) },
    );
    let (member, _running) = pair.serve(liar).await;
    pair.fetch(&member).await.unwrap_err();
    assert!(pair.part().exists());
    let new = save(&pair.sender, 9, &noise(2, 1000));
    pair.sender.mark_verified(new.id).unwrap();
    let (member, _running) = pair.serve(pair.service()).await;
    let error = pair.fetch(&member).await.unwrap_err();
    assert!(
        matches!(error, FetchError::Gone(id) if id == pair.snapshot.id),
        "{error}"
    );
    let offers = pair.fetcher.list(&member).await.unwrap();
    assert_eq!(offers.len(), 1);
    assert_eq!(
        pair.fetcher.fetch(&member, &offers[0]).await.unwrap().id,
        new.id
    );
    // Of the old one nothing is left.
    assert!(!pair.part().exists());
    assert_eq!(pair.files(), 2);
}

#[tokio::test]
async fn a_snapshot_that_is_replaced_while_it_is_sent_is_sent_to_its_end() {
    let pair = Pair::new(LARGE);
    let sender = pair.sender.clone();
    let liar = Liar::new(&pair, move |number, piece| {
        if number == 3 {
            save(&sender, 9, b"the next one");
        }
        Ok(piece)
    });
    let (member, _running) = pair.serve(liar).await;
    let fetched = pair.fetch(&member).await.unwrap();
    assert_eq!(fetched.id, pair.snapshot.id);
    assert!(state_of(&pair.receiver, &fetched) == pair.state);
    assert_eq!(pair.sender.newest().unwrap().head.slot, Slot(9));
}
