//! The log of this member from the opened folder to the first record.

use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use synod_failpoint::{Point, hit};
use synod_paxos::{Ballot, Configuration, Genesis, Identity, Record, Recovered, Role};
use synod_proto::v1::Policy;
use synod_wal::{Disk, FileDisk, OpenError, Options, Wal, new_incarnation};

use crate::config::Config;
use crate::config::genesis::{GenesisError, GenesisFile, group_of};
use crate::config::join::JoinFile;
use crate::config::limits;

/// How often the files are looked for.
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
    /// The group counts on it as something else than it is.
    #[error(
        "witness: the group has this member as {}, and the configuration says {}: it is the one or the \
         other for all its life; to change it, remove it from the group and add a new member",
        if *.counted { "a witness" } else { "one that runs the app" },
        if *.counted { "that it runs an app" } else { "that it is a witness" }
    )]
    Role {
        /// To the group it is a witness.
        counted: bool,
    },
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

/// Waits until the group is formed, or this member is added to it, and writes that to the log. Does
/// nothing for a log that says already which group it is of, and where in it (rule M5).
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
        if has_place(&recovered, genesis) {
            let base = recovered.base.iter().map(|it| &it.configuration);
            let changes = recovered.changes.iter().map(|(_, it)| it);
            let known = recovered.joining.iter().chain(base).chain(changes);
            check_role(config, &recovered.identity, known, genesis)?;
            let policy = policy_of(genesis, config)?;
            return Ok((wal, recovered, policy));
        }
    }
    tracing::info!(
        incarnation = %recovered.identity.incarnation,
        genesis = %config.genesis.display(),
        "a new log: waiting for the group to be formed"
    );
    let (genesis, configuration) = wait_for(config, &recovered.identity).await?;
    hit(Point::JoinRead);
    check_role(config, &recovered.identity, configuration.iter(), &genesis)?;
    let policy = policy_of(&genesis, config)?;
    let mut records = Vec::new();
    match &recovered.genesis {
        None => records.push(Record::Genesis(genesis.clone())),
        // This process was killed between the two records.
        Some(own) if *own == genesis => {}
        Some(_) => return Err(FormError::Damaged("it is of another group")),
    }
    records.extend(configuration.clone().map(Record::Join));
    let written = tokio::task::spawn_blocking(move || {
        wal.append(&records).map_err(|error| error.to_string())?;
        wal.sync().map_err(|error| error.to_string())?;
        Ok(wal)
    });
    let wal = written
        .await
        .unwrap_or_else(|error| Err(error.to_string()))
        .map_err(FormError::Write)?;
    hit(Point::JoinWritten);
    recovered.promised = Ballot::none(genesis.configuration.epoch);
    recovered.accepted = recovered.promised;
    match configuration {
        None => {
            tracing::info!(group = %genesis.group, "the group is formed");
            recovered.genesis = Some(genesis);
        }
        Some(configuration) => {
            let epoch = configuration.epoch;
            tracing::info!(group = %genesis.group, %epoch, "this member was added to the group");
            recovered = recovered.joining(genesis, configuration);
        }
    }
    Ok((wal, recovered, policy))
}

/// It is a witness to the group if it is one by its configuration, and only then: one that runs the app
/// would have to have its state, and a vote of one that has none would count for it.
fn check_role<'a>(
    config: &Config,
    own: &Identity,
    known: impl Iterator<Item = &'a Configuration>,
    genesis: &'a Genesis,
) -> Result<(), FormError> {
    let all = known.chain([&genesis.configuration]);
    let mut places = all.flat_map(|it| &it.members);
    let place = places.find(|it| it.incarnation == own.incarnation);
    let counted = place.map(|it| it.role == Role::Witness);
    match counted {
        Some(counted) if counted != config.witness => Err(FormError::Role { counted }),
        _ => Ok(()),
    }
}

/// The log says how this member is in the group, or was.
fn has_place(recovered: &Recovered, genesis: &Genesis) -> bool {
    let own = recovered.identity.incarnation;
    let first = genesis.configuration.members.iter();
    first.into_iter().any(|it| it.incarnation == own)
        || recovered.joining.is_some()
        || recovered.base.is_some()
        || !recovered.changes.is_empty()
}

/// What the group began with, and the configuration in which this member is in it if that is a later
/// one.
async fn wait_for(
    config: &Config,
    own: &Identity,
) -> Result<(Genesis, Option<Configuration>), GenesisError> {
    let (path, service) = (&config.genesis, &config.service);
    let mut told = false;
    loop {
        if let Some(path) = &config.join
            && let Some(file) = JoinFile::read(path)?
            && let Some((genesis, configuration)) = file.for_member(path, service, own)?
        {
            return Ok((genesis, Some(configuration)));
        }
        if let Some(file) = GenesisFile::read(path)? {
            match file.genesis_for(path, service, own) {
                Err(GenesisError::NotAMember { problem, .. }) if config.join.is_some() => {
                    if !told {
                        told = true;
                        let incarnation = own.incarnation;
                        tracing::info!(
                            %incarnation, problem,
                            "there is a group: waiting to be added to it"
                        );
                    }
                }
                formed => return formed.map(|genesis| (genesis, None)),
            }
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
