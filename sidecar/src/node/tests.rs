//! Whole nodes over real sockets with mutual TLS, and real logs on disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use synod_paxos::{CommandKind, Genesis, Identity as LogIdentity, MemberId, Settings, Slot};
use synod_proto::v1::Policy;
use synod_wal::{FileDisk, LogReader, Options, Wal};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::apply::{ApplyStatus, EntrySource, Feed, feed};
use crate::config::genesis::{GenesisFile, GenesisMember, GenesisRole};
use crate::config::peers::{PeerAddress, PeerTable};
use crate::identity::testing::{Authority, names};
use crate::identity::{Identity, Who, accept};

use hellos::hello_of;

mod hellos;

const PATIENCE: Duration = Duration::from_secs(20);

/// Three members of one service.
struct Group {
    folder: tempfile::TempDir,
    authority: Authority,
    table: watch::Sender<PeerTable>,
    genesis: BTreeMap<u32, Genesis>,
    members: BTreeMap<u32, Member>,
    settings: Settings,
    /// Between all members, if there is one.
    relay: Option<Relay>,
}

struct Member {
    handle: NodeHandle,
    running: Running,
    reader: LogReader,
    server: CancellationToken,
    apply: watch::Sender<ApplyStatus>,
    _feed: Feed,
}

fn name(id: u32) -> String {
    format!("notes-{id}")
}

fn open(folder: &Path, id: u32) -> (Wal, synod_paxos::Recovered) {
    let disk = Arc::new(FileDisk::new(folder.join(name(id)).join("log")).expect("folder"));
    let new = LogIdentity {
        name: name(id),
        incarnation: synod_wal::new_incarnation(),
    };
    Wal::open(disk, &Options::new(1 << 20, 64 << 20), new).expect("opens")
}

impl Group {
    /// Empty logs, and a genesis that names them.
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let incarnations: BTreeMap<_, _> = (1..=3)
            .map(|id| (id, open(folder.path(), id).1.identity.incarnation))
            .collect();
        let members = incarnations.iter().map(|(id, incarnation)| GenesisMember {
            id: *id,
            name: name(*id),
            incarnation: incarnation.to_string(),
            role: GenesisRole::Voter,
            region: String::new(),
        });
        let policy = Policy::default();
        let file = GenesisFile::new("notes", 1, members.collect(), &policy);
        let own = LogIdentity {
            name: name(1),
            incarnation: incarnations[&1],
        };
        let genesis = file
            .genesis_for(Path::new("-"), "notes", &own)
            .expect("good");
        Self {
            folder,
            authority: Authority::new(),
            table: watch::Sender::new(PeerTable::default()),
            genesis: (1..=3).map(|id| (id, genesis.clone())).collect(),
            members: BTreeMap::new(),
            settings: Settings {
                max_body_bytes: 256 << 10,
                segment_bytes: 1 << 20,
                ..Settings::default()
            },
            relay: None,
        }
    }

    async fn start_all(&mut self) {
        for id in 1..=3 {
            self.start(id).await;
        }
    }

    async fn start(&mut self, id: u32) {
        let (mut wal, mut recovered) = open(self.folder.path(), id);
        if recovered.genesis.is_none() {
            let genesis = self.genesis[&id].clone();
            let record = synod_paxos::Record::Genesis(genesis.clone());
            wal.append(&[record]).expect("room");
            wal.sync().expect("synced");
            recovered.genesis = Some(genesis);
            recovered.promised.epoch = synod_paxos::Epoch(1);
            recovered.accepted.epoch = synod_paxos::Epoch(1);
        }
        let who = Who::Member(name(id));
        let files = self
            .authority
            .issue(&self.folder.path().join(name(id)), &[names().of(&who)]);
        let identity = Identity::load(&files, &names(), who).expect("good files");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let direct = listener.local_addr().expect("address");
        let address = match &self.relay {
            Some(relay) => relay.to(direct).await.to_string(),
            None => direct.to_string(),
        };
        self.table.send_modify(|table| {
            table.members.retain(|it| it.name != name(id));
            table.members.push(PeerAddress {
                name: name(id),
                address,
            });
        });
        let (door, server) = (PeerDoor::default(), CancellationToken::new());
        let serve = tonic::transport::Server::builder()
            .add_service(door.service())
            .serve_with_incoming_shutdown(
                accept(listener, identity.clone()),
                server.clone().cancelled_owned(),
            );
        tokio::spawn(serve);
        let closed = server.clone();
        let closing = door.clone();
        tokio::spawn(async move {
            closed.cancelled().await;
            closing.close();
        });
        let (handle, seat) = NodeHandle::new();
        let (sender, receiver) = feed();
        let (apply, status) = watch::channel(ApplyStatus::default());
        let reader = wal.reader();
        let running = start(Parts {
            settings: self.settings.clone(),
            policy: Policy::default(),
            recovered,
            wal,
            snapshot: None,
            seat,
            feed: sender,
            apply: status,
            elsewhere: watch::Sender::new(Slot::ZERO),
            identity,
            peers: self.table.subscribe(),
            door,
            scrub: None,
        })
        .expect("starts");
        let member = Member {
            handle,
            running,
            reader,
            server,
            apply,
            _feed: receiver,
        };
        self.members.insert(id, member);
    }

    async fn stop(&mut self, id: u32) {
        let member = self.members.remove(&id).expect("runs");
        member.server.cancel();
        member.running.stop().await;
    }

    /// Has a command agreed on and says where it is.
    async fn propose(&self, id: u32, payload: &str) -> Slot {
        let payload = payload.to_owned().into_bytes().into();
        let member = &self.members[&id];
        let proposed = member.handle.propose(CommandKind::REQUEST, payload);
        let decided = proposed.expect("taken").decided;
        match tokio::time::timeout(PATIENCE, decided).await {
            Ok(Ok(Decided::Chosen(slot))) => slot,
            other => panic!("{other:?}: {:#?}", member.handle.describe().await),
        }
    }

    async fn wait(&self, id: u32, what: &str, test: impl FnMut(&NodeStatus) -> bool) -> NodeStatus {
        let mut status = self.members[&id].handle.status();
        let waited = tokio::time::timeout(PATIENCE, status.wait_for(test)).await;
        waited
            .unwrap_or_else(|_| panic!("member {id}: no {what}"))
            .expect("runs")
            .clone()
    }

    /// The payloads of all requests in a member's log, once it has all up to `slot`.
    async fn log(&self, id: u32, slot: Slot) -> Vec<(Slot, String)> {
        let source = LogSource(self.members[&id].reader.clone());
        let read = || source.read(Slot(1), slot, 1 << 20).unwrap_or_default();
        let has_all = |it: &[synod_paxos::Entry]| it.last().is_some_and(|it| it.slot == slot);
        let mut entries = read();
        let synced = async {
            // The log does not tell when it has synced more.
            while !has_all(&entries) {
                tokio::time::sleep(Duration::from_millis(5)).await;
                entries = read();
            }
        };
        let waited = tokio::time::timeout(PATIENCE, synced).await;
        waited.unwrap_or_else(|_| panic!("member {id} has not all up to {slot}"));
        self.wait(id, "commit", |it| it.commit >= slot).await;
        entries
            .into_iter()
            .filter(|it| it.command.kind == CommandKind::REQUEST)
            .map(|it| {
                (
                    it.slot,
                    String::from_utf8(it.command.payload.to_vec()).expect("text"),
                )
            })
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_agree_on_what_each_of_them_proposes() {
    let mut group = Group::new();
    group.start_all().await;
    let mut slots = BTreeMap::new();
    for round in 0..10 {
        for id in 1..=3 {
            let payload = format!("{round}/{id}");
            slots.insert(group.propose(id, &payload).await, payload);
        }
    }
    let last = *slots.keys().next_back().expect("some");
    let expected: Vec<_> = slots.into_iter().collect();
    for id in 1..=3 {
        assert_eq!(group.log(id, last).await, expected, "member {id}");
        let status = group.wait(id, "counting log", |it| it.log_counts).await;
        assert_eq!(status.member, MemberId(id));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_begins_after_a_write_ended_sees_its_slot_on_every_member() {
    let mut group = Group::new();
    group.start_all().await;
    for round in 0..10 {
        let written = group.propose(1 + round % 3, "x").await;
        for id in 1..=3 {
            let read = group.members[&id].handle.read_index();
            let index = tokio::time::timeout(PATIENCE, read)
                .await
                .expect("answered");
            assert!(index >= written, "member {id}: {index} < {written}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_agreed_on_is_there_after_all_members_stopped_and_started() {
    let mut group = Group::new();
    group.start_all().await;
    let first = group.propose(1, "before").await;
    for id in 1..=3 {
        group.stop(id).await;
    }
    group.start_all().await;
    let second = group.propose(2, "after").await;
    assert!(second > first);
    let expected = [(first, "before".to_owned()), (second, "after".to_owned())];
    for id in 1..=3 {
        assert_eq!(group.log(id, second).await, expected, "member {id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_members_go_on_without_the_leader_and_it_catches_up_later() {
    let mut group = Group::new();
    group.start_all().await;
    group.propose(1, "all").await;
    let leader = group
        .wait(1, "leader", |it| it.leader.is_some())
        .await
        .leader
        .expect("one")
        .0;
    group.stop(leader).await;
    let other = 1 + leader % 3;
    let mut last = Slot::ZERO;
    for round in 0..50 {
        last = group.propose(other, &format!("two {round}")).await;
    }
    group.start(leader).await;
    let expected = group.log(other, last).await;
    assert_eq!(group.log(leader, last).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_prepares_to_shut_down_hands_over_first() {
    let mut group = Group::new();
    group.start_all().await;
    group.propose(1, "x").await;
    let leader = group
        .wait(1, "leader", |it| it.leader.is_some())
        .await
        .leader
        .expect("one");
    let handle = group.members[&leader.0].handle.clone();
    tokio::time::timeout(PATIENCE, handle.prepare_shutdown())
        .await
        .expect("handed over");
    let next = group.wait(1 + leader.0 % 3, "other leader", |it| {
        it.leader.is_some_and(|it| it != leader)
    });
    next.await;
    group.propose(leader.0, "still an entrance").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_knows_whose_copies_serve() {
    let mut group = Group::new();
    group.start_all().await;
    group.members[&2].apply.send_modify(|it| it.serving = true);
    group
        .wait(1, "serving member", |it| it.serving == [MemberId(2)])
        .await;
    group.members[&2].apply.send_modify(|it| it.serving = false);
    group
        .wait(1, "end of serving", |it| it.serving.is_empty())
        .await;
}

/// Passes connections on, and can make all that exist go silent for ever.
#[derive(Clone)]
struct Relay(watch::Sender<u64>);

impl Relay {
    async fn to(&self, target: std::net::SocketAddr) -> std::net::SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let address = listener.local_addr().expect("address");
        let generation = self.0.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut silenced = generation.subscribe();
                tokio::spawn(async move {
                    let Ok(mut server) = tokio::net::TcpStream::connect(target).await else {
                        return;
                    };
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
                        _ = silenced.changed() => std::future::pending().await,
                    }
                });
            }
        });
        address
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_connections_fall_silent_the_group_goes_on_by_new_ones() {
    let mut group = Group::new();
    let relay = Relay(watch::Sender::new(0));
    group.relay = Some(relay.clone());
    group.start_all().await;
    for _ in 0..2 {
        for id in 1..=3 {
            group.propose(id, "before").await;
        }
        relay.0.send_modify(|it| *it += 1);
        for id in 1..=3 {
            group.propose(id, "after").await;
        }
    }
}

/// A member that says hello and then nothing.
struct Mute {
    hello: synod_paxos::Hello,
    /// Streams by lane: open now, and the most that were open at one time.
    streams: watch::Sender<BTreeMap<synod_paxos::Lane, (u32, u32)>>,
}

#[tonic::async_trait]
impl synod_proto::v1::peer_server::Peer for Mute {
    type ExchangeStream =
        tokio_stream::wrappers::ReceiverStream<Result<synod_proto::v1::PeerFrame, tonic::Status>>;

    async fn exchange(
        &self,
        request: tonic::Request<tonic::Streaming<synod_proto::v1::PeerFrame>>,
    ) -> Result<tonic::Response<Self::ExchangeStream>, tonic::Status> {
        let mut frames = request.into_inner();
        let first = frames.message().await?.expect("a hello");
        let Ok(wire::Frame::Hello(_, head)) = wire::read(first) else {
            panic!("a hello")
        };
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        sender
            .send(Ok(wire::hello(&self.hello, head)))
            .await
            .expect("room");
        self.streams.send_modify(|it| {
            let (open, most) = it.entry(head.lane).or_default();
            *open += 1;
            *most = (*most).max(*open);
        });
        let streams = self.streams.clone();
        tokio::spawn(async move {
            while let Ok(Some(_)) = frames.message().await {}
            streams.send_modify(|it| it.entry(head.lane).or_default().0 -= 1);
            drop(sender);
        });
        Ok(tonic::Response::new(receiver.into()))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_peer_is_dialled_anew_while_the_old_connections_are_open() {
    let mut group = Group::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
    group.table.send_modify(|table| {
        table.members.push(PeerAddress {
            name: name(2),
            address: listener.local_addr().expect("address").to_string(),
        });
    });
    let who = Who::Member(name(2));
    let folder = group.folder.path().join("two");
    let files = group.authority.issue(&folder, &[names().of(&who)]);
    let identity = Identity::load(&files, &names(), who).expect("good files");
    let member = &group.genesis[&2].configuration.members[1];
    let streams = watch::Sender::new(BTreeMap::new());
    let mute = Mute {
        hello: hello_of(&group, member),
        streams: streams.clone(),
    };
    let server = tonic::transport::Server::builder()
        .add_service(synod_proto::v1::peer_server::PeerServer::new(mute))
        .serve_with_incoming(accept(listener, identity));
    tokio::spawn(server);
    group.start(1).await;
    let mut streams = streams.subscribe();
    let two = streams.wait_for(|it| it.len() == 3 && it.values().all(|(_, most)| *most >= 2));
    let waited = tokio::time::timeout(PATIENCE, two).await;
    waited
        .expect("dialled anew, beside the old one")
        .expect("runs");
}
