//! The log of this member from the opened folder to the first record.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use synod_paxos::{Ballot, Epoch, Genesis, Identity, MemberId, Record, Recovered};
use synod_proto::v1::Policy;
use synod_wal::{Disk, FileDisk, OpenError, Options, Wal, new_incarnation};

use crate::config::Config;
use crate::config::genesis::{GenesisError, GenesisFile, group_of};
use crate::config::limits;

/// How often the genesis file is looked for.
const POLL: Duration = Duration::from_millis(200);

/// Why a log never got its first record.
#[derive(Debug, thiserror::Error)]
pub enum FormError {
    /// The file says something that cannot be, or is for others.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// This member could not hold the requests that the group agreed to take.
    #[error("the group's policy does not fit this member's limits: {0}")]
    Policy(#[from] limits::TooLarge),
    /// It could not be written.
    #[error("the genesis cannot be written to the log: {0}")]
    Write(String),
    /// The log's own genesis does not hold together.
    #[error("the genesis in the log is damaged: {0}")]
    Damaged(&'static str),
}

/// Opens the log in `<data>/log`, or makes one. A log that has lost records must not vote again:
/// it is set aside, and this member begins a new life that has to come in by replacement.
pub(super) fn open(config: &Config) -> Result<(Wal, Recovered), OpenError> {
    let folder = config.data.join("log");
    let options = Options::new(config.log.segment_bytes, config.log.max_bytes);
    let identity = || Identity {
        name: config.member.clone(),
        incarnation: new_incarnation(),
    };
    let io = |doing| move |source| OpenError::Io { doing, source };
    let disk = || {
        Ok(Arc::new(
            FileDisk::new(&folder).map_err(io("making the log's folder"))?,
        ))
    };
    match Wal::open(disk()?, &options, identity()) {
        Err(OpenError::LostRecords { what }) => {
            let disk: Arc<dyn Disk> = disk()?;
            let aside = Wal::set_aside(&*disk).map_err(|error| OpenError::Io {
                doing: "setting the damaged log aside",
                source: std::io::Error::other(error.to_string()),
            })?;
            tracing::error!(
                error = what,
                aside,
                "the log has lost records and was set aside: this member begins anew and must be \
                 replaced in the group"
            );
            Wal::open(disk, &options, identity())
        }
        other => other,
    }
}

/// Waits until there is a genesis file, and makes it the first record of an empty log. Does
/// nothing for a log that has a genesis: it never reads the file again (rule M5).
pub(super) async fn form(
    config: &Config,
    mut wal: Wal,
    mut recovered: Recovered,
) -> Result<(Wal, Recovered, Policy), FormError> {
    if let Some(genesis) = &recovered.genesis {
        if group_of(genesis) != genesis.group {
            return Err(FormError::Damaged(
                "its group is not the hash of its content",
            ));
        }
        let policy = policy_of(genesis, config)?;
        return Ok((wal, recovered, policy));
    }
    tracing::info!(
        incarnation = %recovered.identity.incarnation,
        genesis = %config.genesis.display(),
        "a new log: waiting for the group to be formed"
    );
    let genesis = wait_for(&config.genesis, &config.service, &recovered.identity).await?;
    let policy = policy_of(&genesis, config)?;
    let record = Record::Genesis(genesis.clone());
    let written = tokio::task::spawn_blocking(move || {
        wal.append(&[record]).map_err(|error| error.to_string())?;
        wal.sync().map_err(|error| error.to_string())?;
        Ok(wal)
    });
    let wal = written
        .await
        .unwrap_or_else(|error| Err(error.to_string()))
        .map_err(FormError::Write)?;
    tracing::info!(group = %genesis.group, "the group is formed");
    let beginning = Ballot {
        epoch: Epoch(1),
        round: 0,
        node: MemberId(0),
    };
    recovered.genesis = Some(genesis);
    recovered.promised = beginning;
    recovered.accepted = beginning;
    Ok((wal, recovered, policy))
}

async fn wait_for(
    path: &Path,
    service: &str,
    identity: &Identity,
) -> Result<Genesis, GenesisError> {
    loop {
        if let Some(file) = GenesisFile::read(path)? {
            return file.genesis_for(path, service, identity);
        }
        tokio::time::sleep(POLL).await;
    }
}

fn policy_of(genesis: &Genesis, config: &Config) -> Result<Policy, FormError> {
    let policy = Policy::decode(&genesis.policy[..]);
    let policy = policy.map_err(|_| FormError::Damaged("its policy cannot be read"))?;
    limits::check_policy(&policy, &config.log)?;
    Ok(policy)
}
