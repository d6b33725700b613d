//! Folders of groups that begin with a state. Comes in: a backup, or a folder that an app has used on
//! its own. Goes out: a folder with the first member in it; the others are added to it once it runs.

use std::fs;
use std::path::{Path, PathBuf};

use synod_api::{Snapshot, SnapshotType, State, StateType};
use synod_proto::v1::Policy;
use synod_sidecar::backup::Manifest;
use synod_sidecar::config::Log;
use synod_sidecar::founding::{self, Founded, Founder};
use synod_sidecar::snapshot::Method;
use synod_sidecar::snapshot::volume::Volume;

use super::folder::{self, Folder, Group};
use crate::exit::Failure;

/// The member that has the state.
const FIRST: u32 = 1;

/// What is asked for.
pub(crate) struct Restore<'a> {
    pub(crate) backup: &'a Path,
    /// Only what was before this slot.
    pub(crate) before: Option<u64>,
    /// The new folder.
    pub(crate) data: &'a Path,
    /// Members that the group should have.
    pub(crate) replicas: u32,
    /// The largest size of the log.
    pub(crate) log_max_bytes: u64,
}

/// Makes the folder of a group that begins with what a backup has. Either all of the folder is there
/// when this returns, or nothing.
pub(crate) fn restore(asked: &Restore<'_>) -> Result<Founded, Failure> {
    let manifest = Manifest::read(asked.backup).map_err(Failure::failed)?;
    let data = std::path::absolute(asked.data)
        .map_err(|error| folder::trouble("use", asked.data, &error))?;
    refuse_what_is_there(&data)?;
    let parent = data.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent).map_err(|error| folder::trouble("make", parent, &error))?;
    // Beside it, under its name only when it is whole.
    let unfinished = tempfile::Builder::new()
        .prefix(".synod-restore-")
        .tempdir_in(parent)
        .map_err(|error| folder::trouble("make a folder in", parent, &error))?;
    let path = unfinished.path().join("data");
    let group = Group::new(&manifest.service, asked.replicas, None);
    let new = Folder::open(Some(&path), group)?;
    let log = Log {
        max_bytes: asked.log_max_bytes,
        ..Log::default()
    };
    let founded = found(&new, &log, |founder| {
        founding::restore(asked.backup, asked.before.map(synod_paxos::Slot), founder)
    })?;
    if founded.method == Method::Volume {
        new.keep_state(State {
            kind: StateType::Volume,
            snapshot: Snapshot {
                kind: SnapshotType::Volume,
                ..Snapshot::default()
            },
            ..State::default()
        })?;
    }
    new.close()?;
    fs::rename(&path, &data).map_err(|error| folder::trouble("make", &data, &error))?;
    Ok(founded)
}

/// Has the group of a folder that was not formed yet begin with a copy of what is in `from`.
pub(super) fn import(
    new: &Folder,
    from: &Path,
    policy: &Policy,
    log_max_bytes: u64,
) -> Result<Founded, Failure> {
    if !from.is_dir() {
        return Err(Failure::usage(format!(
            "--import {}: there is no such folder",
            from.display()
        )));
    }
    let log = Log {
        max_bytes: log_max_bytes,
        ..Log::default()
    };
    // An import that did not come to its end is done again.
    let first = new.member(FIRST)?;
    let emptied = first.empty();
    emptied.map_err(|error| folder::trouble("use", &first.sidecar_data(), &error))?;
    found(new, &log, |founder| {
        founding::import(&Volume::source(from), policy, founder)
    })
}

fn found(
    new: &Folder,
    log: &Log,
    begin: impl FnOnce(&Founder<'_>) -> Result<Founded, founding::FoundingError>,
) -> Result<Founded, Failure> {
    let service = &new.group().service;
    let data: PathBuf = new.member(FIRST)?.sidecar_data();
    let founder = Founder {
        service,
        member: &folder::name(service, FIRST),
        region: "",
        data: &data,
        log,
    };
    let founded = begin(&founder).map_err(Failure::failed)?;
    let written = founded.genesis.write_create_only(&new.genesis());
    written.map_err(Failure::failed)?;
    Ok(founded)
}

fn refuse_what_is_there(data: &Path) -> Result<(), Failure> {
    let is_empty = |path: &Path| fs::read_dir(path).is_ok_and(|mut it| it.next().is_none());
    if !data.exists() || is_empty(data) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "--data {}: something is there already: give the name of a new folder",
        data.display()
    )))
}
