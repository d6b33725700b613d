//! Groups that begin with a state: of a backup, up to any slot of it, or of a folder that an app has
//! used on its own. In: one of these. Out: the data folder of the one member that the new group has
//! at first, and its genesis. The others are added to it as to any group (rule M7).
//!
//! A restored group goes on with the log of the old one: its slots, its tables, its policy, and the
//! members that it had, down to an entry of its own, which is not in the old group's log: it ends the
//! old members' epoch, and the founder is alone from there on. What differs from the first byte on is
//! the name of the group: the hash of a genesis that names the founder's incarnation and the digest of
//! the state, so no member of the old group ever talks with one of the new (rule M4).
//!
//! Nothing else runs on the folder meanwhile. It is of use once the caller has written the genesis to
//! its file, which comes last; before that, it can only be thrown away.

mod error;
mod log;

use std::io::{self, Write};
use std::path::Path;

use bytes::Bytes;
use prost::Message as _;
use synod_paxos::{
    AgreedTime, Ballot, Base, Command, Configuration, Entry, EntryHash, Epoch, Genesis, GroupId,
    Incarnation, Member, MemberId, Quorums, Role, Slot,
};
use synod_proto::v1::Policy;
use synod_wal::new_incarnation;

pub use error::FoundingError;

use self::log::NewLog;
use crate::apply::Fold;
use crate::backup;
use crate::config::genesis::{GenesisFile, group_of};
use crate::config::{self, limits};
use crate::keeper;
use crate::node::clock;
use crate::node::wire::PROTOCOL;
use crate::snapshot::volume::Volume;
use crate::snapshot::{Head, Method, Snapshot, Standing, StateDigest, Store};

/// The epoch of the genesis of a restored group: below all that the founder's log may begin with.
const BEFORE: Epoch = Epoch(0);
/// The epoch of an imported one.
const FIRST: Epoch = Epoch(1);
/// The slot that an imported state stands for.
const FOUNDED: Slot = Slot(1);

/// The first member of a new group.
#[derive(Clone, Debug)]
pub struct Founder<'a> {
    /// Name of the service.
    pub service: &'a str,
    /// Its stable name.
    pub member: &'a str,
    /// Where it is; empty when there is only one place.
    pub region: &'a str,
    /// Its data folder, which holds nothing yet.
    pub data: &'a Path,
    /// Limits of its log.
    pub log: &'a config::Log,
}

/// A group that can begin.
#[derive(Clone, Debug)]
pub struct Founded {
    /// To be written where the founder's configuration looks for it.
    pub genesis: GenesisFile,
    /// The new group.
    pub group: GroupId,
    /// The last slot whose effect is in its state.
    pub through: Slot,
    /// How the state is put back.
    pub method: Method,
    /// Size of the state, in bytes, before the log behind it.
    pub state_bytes: u64,
}

/// What the new log begins behind.
struct Start {
    fold: Fold,
    head: Head,
}

/// From a backup: all of it, or what was before the slot `before`. Blocks.
pub fn restore(
    backup: &Path,
    before: Option<Slot>,
    founder: &Founder<'_>,
) -> Result<Founded, FoundingError> {
    let manifest = backup::check(backup)?;
    let (begin, end) = (Slot(manifest.snapshot_slot), Slot(manifest.through));
    let through = before.map_or(end, Slot::prev);
    if through < begin || through > end {
        return Err(FoundingError::OutOfReach {
            before: before.unwrap_or(end.next()),
            first: begin.next(),
            last: end.next(),
        });
    }
    if manifest.service != founder.service {
        return Err(FoundingError::OtherService {
            found: manifest.service,
        });
    }
    let (mut reader, mut entries) = backup::open(backup)?;
    let tables = reader.tables();
    let fold = Fold::load(&tables)?;
    let head = reader.snapshot().head.clone();
    let standing = reader.snapshot().standing;
    if head.protocol > *PROTOCOL.end() {
        return Err(FoundingError::Protocol(head.protocol));
    }
    let own = new_incarnation();
    let genesis = genesis(
        founder,
        own,
        fold.policy(),
        head.protocol,
        &reader.snapshot().state_digest,
        BEFORE,
    );
    let start = Start {
        head: Head {
            group: genesis.group,
            maker: own,
            ..head
        },
        fold,
    };
    let mut log = NewLog::begin(founder, own, &genesis, start.base())?;
    let mut end = Last::of(&start);
    while end.slot < through
        && let Some(entry) = entries.next_entry().map_err(backup::BackupError::from)?
    {
        end.pass(&entry);
        log.chosen(entry)?;
    }
    if end.slot < through {
        return Err(FoundingError::Short { slot: end.slot });
    }
    if end.protocol > *PROTOCOL.end() {
        return Err(FoundingError::Protocol(end.protocol));
    }
    log.chosen(end.stop_sign(founder, own))?;
    log.finish()?;
    let method = start.head.method;
    let store = open_store(founder)?;
    let state_bytes = reader.snapshot().state_bytes;
    let mut draft = store.begin(start.head, &tables, state_bytes)?;
    io::copy(&mut reader, &mut draft).map_err(FoundingError::State)?;
    let snapshot = draft.commit()?;
    mark(&store, &snapshot, standing)?;
    Ok(Founded {
        genesis: GenesisFile::of(&genesis, founder.service),
        group: genesis.group,
        through,
        method,
        state_bytes: snapshot.state_bytes,
    })
}

/// From a folder that an app has used on its own, which nothing writes to meanwhile: a copy of it
/// becomes the state behind the first slot. Nothing in it is changed. Blocks.
pub fn import(
    from: &Volume,
    policy: &Policy,
    founder: &Founder<'_>,
) -> Result<Founded, FoundingError> {
    limits::check_policy(policy, founder.log)?;
    if from.is_empty()? {
        return Err(FoundingError::Empty(from.mount().to_owned()));
    }
    let own = new_incarnation();
    // Its digest is a part of the genesis, whose hash is in the head of the snapshot.
    let mut digest = Digest::default();
    from.stage()?.pack(&mut digest)?;
    let digest = StateDigest(*digest.0.finalize().as_bytes());
    let genesis = genesis(founder, own, policy, *PROTOCOL.end(), &digest, FIRST);
    let configuration = genesis.configuration.clone();
    let now = AgreedTime(clock::now().wall_ns);
    let fold = Fold::new(configuration, genesis.protocol, policy.clone()).behind(FOUNDED, now);
    let start = Start {
        head: Head {
            group: genesis.group,
            slot: FOUNDED,
            ballot: Ballot::none(FIRST),
            entry: EntryHash::default(),
            time: fold.time(),
            epoch: FIRST,
            configuration: fold.configuration_bytes(),
            policy: *blake3::hash(&policy.encode_to_vec()).as_bytes(),
            protocol: genesis.protocol,
            revision: fold.revision(),
            method: Method::Volume,
            maker: own,
        },
        fold,
    };
    let log = NewLog::begin(founder, own, &genesis, start.base())?;
    log.finish()?;
    let tables = start.fold.save();
    let staged = from.stage()?;
    let store = open_store(founder)?;
    let mut draft = store.begin(start.head, &tables, staged.totals().disk_bytes)?;
    staged.pack(&mut draft)?;
    let snapshot = draft.commit()?;
    if snapshot.state_digest != digest {
        return Err(FoundingError::Changed(from.mount().to_owned()));
    }
    mark(&store, &snapshot, Standing::Verified)?;
    Ok(Founded {
        genesis: GenesisFile::of(&genesis, founder.service),
        group: genesis.group,
        through: FOUNDED,
        method: Method::Volume,
        state_bytes: snapshot.state_bytes,
    })
}

/// The founder is alone: it is the one voter.
fn genesis(
    founder: &Founder<'_>,
    own: Incarnation,
    policy: &Policy,
    protocol: u32,
    state: &StateDigest,
    epoch: Epoch,
) -> Genesis {
    let mut genesis = Genesis {
        group: GroupId::default(),
        configuration: alone(founder, own, MemberId(1), epoch),
        policy: policy.encode_to_vec().into(),
        protocol,
        initial_state: Bytes::copy_from_slice(&state.0),
    };
    genesis.group = group_of(&genesis);
    genesis
}

fn alone(founder: &Founder<'_>, own: Incarnation, id: MemberId, epoch: Epoch) -> Configuration {
    let member = Member {
        id,
        name: founder.member.to_owned(),
        incarnation: own,
        role: Role::Voter,
        region: founder.region.to_owned(),
    };
    Configuration {
        epoch,
        members: vec![member],
        quorums: Quorums::Majority,
        first_leader: MemberId(0),
    }
}

fn open_store(founder: &Founder<'_>) -> Result<Store, FoundingError> {
    // Nothing was in it, so nothing is found.
    let (store, _) = Store::open(&keeper::snapshots(founder.data), 0)?;
    Ok(store)
}

/// It may be used as the one that it was made of.
fn mark(store: &Store, snapshot: &Snapshot, standing: Standing) -> Result<(), FoundingError> {
    match standing {
        Standing::Verified => store.mark_verified(snapshot.id)?,
        Standing::Unverified | Standing::Uncompared => store.mark_unverified(snapshot.id)?,
    }
    Ok(())
}

// === impl Start ===

impl Start {
    fn base(&self) -> Base {
        Base {
            slot: self.head.slot,
            ballot: self.head.ballot,
            time: self.head.time,
            protocol: self.head.protocol,
            configuration: self.fold.configuration().clone(),
            former: self.fold.former().to_vec(),
        }
    }
}

/// Where the old group's log ends for the new one.
struct Last {
    slot: Slot,
    ballot: Ballot,
    time: AgreedTime,
    protocol: u32,
    epoch: Epoch,
    /// The greatest number that any member ever had.
    id: MemberId,
}

impl Last {
    fn of(start: &Start) -> Self {
        let Start { fold, head } = start;
        let all = fold.configuration().members.iter().chain(fold.former());
        Self {
            slot: head.slot,
            ballot: head.ballot,
            time: head.time,
            protocol: head.protocol,
            epoch: fold.configuration().epoch,
            id: all.map(|it| it.id).max().unwrap_or_default(),
        }
    }

    fn pass(&mut self, entry: &Entry) {
        self.slot = entry.slot;
        self.ballot = entry.ballot;
        self.time = self.time.max(entry.time);
        if let Some(protocol) = entry.command.upgrades_to() {
            self.protocol = self.protocol.max(protocol);
        }
        if let Some(configuration) = entry.reconfigures_to() {
            let ids = configuration.members.iter().map(|it| it.id);
            self.id = ids.fold(self.id, MemberId::max);
            self.epoch = configuration.epoch;
            self.ballot = configuration.first_ballot();
        }
    }

    /// The entry that ends the old members' epoch.
    fn stop_sign(&self, founder: &Founder<'_>, own: Incarnation) -> Entry {
        let id = MemberId(self.id.0 + 1);
        let alone = alone(founder, own, id, self.epoch.next());
        Entry {
            slot: self.slot.next(),
            ballot: self.ballot,
            time: self.time,
            seed: 0,
            command: Command::reconfigure(&alone),
        }
    }
}

/// BLAKE3 over what is written.
#[derive(Default)]
struct Digest(blake3::Hasher);

impl Write for Digest {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
