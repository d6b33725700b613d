//! Makes a backup of what a member has.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use synod_paxos::{Ballot, GroupId, Slot};
use synod_proto::v1::backups_client::BackupsClient;
use synod_proto::v1::{LogRangeRequest, ReadLogRequest};

use super::entries::{Summary, Writer};
use super::{
    BackupError, ENTRIES, FORMAT, Manifest, Survivor, check, io_error, open_store, sync_folder,
};
use crate::config::limits;
use crate::identity::Connector;
use crate::node::wire;
use crate::snapshot::transfer::Fetcher;
use crate::snapshot::{Snapshot, Standing, blocking};

/// A member that sends nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// Of the log on its way, in bytes.
const WINDOW_BYTES: u32 = 4 << 20;
/// Entries are told of so often.
const TELL_SLOTS: u64 = 10_000;
/// It is begun so often: while it is read, the member may cut its log behind newer snapshots.
const TRIES: u32 = 4;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The snapshot is fetched.
    Snapshot {
        /// Its slot.
        slot: Slot,
        /// Size of its file.
        bytes: u64,
    },
    /// The log behind it is read.
    Log {
        /// Up to here.
        slot: Slot,
    },
    /// Everything is read back.
    Check,
}

/// How much of a member's log is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What it knows to be chosen.
    Chosen,
    /// All that it has accepted: for whoever goes on without a majority that is lost for good. What was
    /// acknowledged to clients is in it if this member has it; the rest may never have been. Only from a
    /// member that follows no leader.
    Accepted,
}

/// How far a member's log reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The ballot that it was adopted in, and its last slot: of several members' logs, the greatest has what
    /// was chosen in any of them (the rule by which a leader adopts one of a quorum's).
    pub log: (Ballot, Slot),
    /// The first slot.
    pub first: Slot,
    /// Known to be chosen.
    pub chosen: Slot,
}

/// Makes the folder `into` a backup of what the member of `group` behind `member` has: its newest
/// snapshot that may be used, and the log behind that. When it fails or is dropped, what there is of
/// the folder has no `backup.json`, and can be removed.
pub async fn create(
    member: &Connector,
    group: GroupId,
    service: &str,
    extent: Extent,
    into: &Path,
    progress: impl Fn(Progress),
) -> Result<Manifest, BackupError> {
    for _ in 1..TRIES {
        match attempt(member, group, service, extent, into, &progress).await {
            Err(BackupError::Moved(_)) => {
                fs::remove_dir_all(into).map_err(io_error("removing", into))?;
            }
            done => return done,
        }
    }
    attempt(member, group, service, extent, into, &progress).await
}

async fn attempt(
    member: &Connector,
    group: GroupId,
    service: &str,
    extent: Extent,
    into: &Path,
    progress: &impl Fn(Progress),
) -> Result<Manifest, BackupError> {
    let made = fs::DirBuilder::new().mode(0o700).create(into);
    made.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => BackupError::Exists(into.to_owned()),
        _ => io_error("making", into)(error),
    })?;
    let store = open_store(into)?;
    let fetcher = Fetcher::new(store, group, SILENCE);
    let reached = reach(member, group).await?;
    let offers = fetcher.list(member).await?;
    // The log must go on behind it.
    let reaching = offers
        .iter()
        .filter(|it| it.head.slot.next() >= reached.first);
    let rank = |it: &&Snapshot| (it.standing == Standing::Verified, it.head.slot);
    let offer = reaching.max_by_key(rank).ok_or(BackupError::NoSnapshot)?;
    let slot = offer.head.slot;
    progress(Progress::Snapshot {
        slot,
        bytes: offer.bytes,
    });
    // Both at once: soon the member may have newer snapshots, and cut its log behind them.
    let path = into.join(ENTRIES);
    let (snapshot, entries) = tokio::try_join!(
        async { Ok(Box::pin(fetcher.fetch(member, offer)).await?) },
        Box::pin(read_log(
            member,
            group,
            extent,
            slot.next(),
            &path,
            progress
        )),
    )?;
    let mut manifest = manifest(group, service, &snapshot, &entries);
    if extent == Extent::Accepted {
        // Of another ballot, its end may have been replaced while it was read.
        let now = reach(member, group).await?;
        if now.log.0 != reached.log.0 {
            return Err(BackupError::GoesOn);
        }
        let ballot = now.log.0;
        manifest.survivor = Some(Survivor {
            chosen: now.chosen.0,
            ballot: (ballot.epoch.0, ballot.round, ballot.node.0),
        });
    }
    progress(Progress::Check);
    let folder = into.to_owned();
    blocking(move || {
        sync_folder(&folder).map_err(io_error("syncing", &folder))?;
        manifest.write(&folder)?;
        check(&folder)
    })
    .await
}

fn manifest(group: GroupId, service: &str, snapshot: &Snapshot, entries: &Summary) -> Manifest {
    let through = entries.through.unwrap_or(snapshot.head.slot);
    let time = match entries.through {
        Some(_) => entries.time,
        None => snapshot.head.time,
    };
    Manifest {
        format: FORMAT,
        service: service.to_owned(),
        group: format!("{:032x}", u128::from_be_bytes(group.0)),
        snapshot_slot: snapshot.head.slot.0,
        snapshot: snapshot.id.to_string(),
        verified: snapshot.standing == Standing::Verified,
        through: through.0,
        survivor: None,
        through_time_ns: time.0,
        entries: entries.hash.to_hex().to_string(),
        bytes: snapshot.bytes + entries.bytes,
    }
}

/// How far the log of the member of `group` behind `member` reaches.
pub async fn reach(member: &Connector, group: GroupId) -> Result<Reach, BackupError> {
    let mut client = BackupsClient::new(member.channel().await?);
    let request = LogRangeRequest {
        group: Bytes::copy_from_slice(&group.0),
    };
    let range = tokio::time::timeout(SILENCE, client.log_range(request)).await;
    let range = range.map_err(silent)?.map_err(refused)?.into_inner();
    let accepted = wire::read_term(range.accepted);
    let accepted = accepted.map_err(|error| BackupError::Refused(error.to_string()))?;
    Ok(Reach {
        log: (accepted, Slot(range.last)),
        first: Slot(range.first),
        chosen: Slot(range.through),
    })
}

fn refused(status: tonic::Status) -> BackupError {
    let words = status.message().to_owned();
    match status.code() {
        tonic::Code::OutOfRange => BackupError::Moved(words),
        _ => BackupError::Refused(words),
    }
}

fn silent(_: tokio::time::error::Elapsed) -> BackupError {
    BackupError::Refused(format!("nothing came for {} s", SILENCE.as_secs()))
}

async fn read_log(
    member: &Connector,
    group: GroupId,
    extent: Extent,
    from: Slot,
    path: &Path,
    progress: &impl Fn(Progress),
) -> Result<Summary, BackupError> {
    let channel = member.bulk_channel(WINDOW_BYTES).await?;
    let most = usize::try_from(limits::MESSAGE_BYTES).unwrap_or(usize::MAX);
    let mut client = BackupsClient::new(channel).max_decoding_message_size(most);
    let request = ReadLogRequest {
        group: Bytes::copy_from_slice(&group.0),
        from: from.0,
        through: 0,
        accepted: extent == Extent::Accepted,
    };
    let stream = tokio::time::timeout(SILENCE, client.read_log(request)).await;
    let mut stream = stream.map_err(silent)?.map_err(refused)?.into_inner();
    let mut writer = Writer::create(path, from)?;
    let mut told = from;
    loop {
        let piece = tokio::time::timeout(SILENCE, stream.message()).await;
        let Some(piece) = piece.map_err(silent)?.map_err(refused)? else {
            break;
        };
        writer = blocking(move || {
            for entry in piece.entries {
                writer.push(entry)?;
            }
            Ok::<_, BackupError>(writer)
        })
        .await?;
        if writer.next().0 >= told.0 + TELL_SLOTS {
            told = writer.next();
            progress(Progress::Log { slot: told.prev() });
        }
    }
    Ok(blocking(move || writer.finish()).await?)
}
