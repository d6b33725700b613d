//! The first state of a group, made by its first member before that opens its log.
//!
//! It may end at any moment. Until the new log is whole a mark stands beside it, and what is there is
//! thrown away by the next start; without a mark a log is somebody's, and nothing is touched.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::config::founding::Source;
use crate::founding::{self, Founded, Founder, FoundingError};
use crate::keeper;
use crate::snapshot::volume::Volume;

/// In the data folder, while what else is there is not whole.
const MARK: &str = "founding";

/// Why there is no first state.
#[derive(Debug, thiserror::Error)]
pub enum BeginningError {
    /// The section of the configuration.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// What the group was to begin with.
    #[error("the group cannot begin with what was given: {0}")]
    Founding(#[from] FoundingError),
    /// This member's own folder.
    #[error("data: cannot use {path}: {error}")]
    Data {
        /// What.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Makes the state with which the group begins, if this is the member that does it and it has no log
/// yet. Blocks.
pub(super) fn begin(config: &Config) -> Result<(), BeginningError> {
    let Some(asked) = &config.founding else {
        return Ok(());
    };
    let (data, mark) = (&config.data, config.data.join(MARK));
    let is_marked = there(&mark)?;
    if asked.member != config.member || (there(&data.join("log"))? && !is_marked) {
        return Ok(());
    }
    let source = asked.source()?;
    if is_marked {
        tracing::info!("an earlier start did not come to its end: what it made is thrown away");
        for path in [data.join("log"), keeper::snapshots(data)] {
            remove(&path)?;
        }
    }
    let marked = File::create(&mark).and_then(|it| it.sync_all());
    marked.map_err(failed(&mark))?;
    sync(data)?;
    let founded = found(config, &source)?;
    fs::remove_file(&mark).map_err(failed(&mark))?;
    sync(data)?;
    tracing::info!(
        group = %founded.group,
        slot = %founded.through,
        bytes = founded.state_bytes,
        "a group begins with the state that was given"
    );
    Ok(())
}

fn found(config: &Config, source: &Source) -> Result<Founded, FoundingError> {
    let founder = Founder {
        service: &config.service,
        member: &config.member,
        region: &config.region,
        data: &config.data,
        log: &config.log,
    };
    match source {
        Source::Import(volume, policy) => {
            tracing::info!(from = %volume.display(), "the group begins with a copy of a volume");
            founding::import(&Volume::source(volume), policy, &founder)
        }
        Source::Restore(restore) => {
            let before = restore.before.map(synod_paxos::Slot);
            tracing::info!(from = %restore.backup.display(), "the group begins with a backup");
            founding::restore(&restore.backup, before, &founder)
        }
    }
}

fn there(path: &Path) -> Result<bool, BeginningError> {
    path.try_exists().map_err(failed(path))
}

fn remove(path: &Path) -> Result<(), BeginningError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path)(error)),
        _ => Ok(()),
    }
}

fn sync(folder: &Path) -> Result<(), BeginningError> {
    let synced = File::open(folder).and_then(|it| it.sync_all());
    synced.map_err(failed(folder))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> BeginningError + use<> {
    let path = path.to_owned();
    |error| BeginningError::Data { path, error }
}

#[cfg(test)]
mod tests;
