//! A group that `synod local` runs in another process, found by its folder.

use std::path::{Path, PathBuf};

use synod_sidecar::config::Config;

use crate::exit::Failure;
use crate::local::folder::{Group, MemberFolder, is_in_use, numbers};

/// Which group a command is about.
#[derive(Debug, clap::Args)]
pub(crate) struct GroupArgs {
    /// The folder of a running `synod local`
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
}

// === impl GroupArgs ===

impl GroupArgs {
    /// The group, which runs.
    pub(crate) fn group(&self) -> Result<Group, Failure> {
        group(&self.data)
    }

    /// The configurations of all members, in order.
    pub(crate) fn members(&self) -> Result<Vec<Config>, Failure> {
        members(&self.data)
    }
}

fn group(folder: &Path) -> Result<Group, Failure> {
    let data = folder.display();
    let group = Group::read(folder)?.ok_or_else(|| {
        let what = if folder.exists() {
            "no group was started in this folder"
        } else {
            "there is no such folder"
        };
        Failure::usage(format!(
            "--data {data}: {what}: give the DIR of a running `synod local --data DIR`; one that was started without --data says where its folder is"
        ))
    })?;
    if !is_in_use(folder) {
        return Err(Failure::failed(format!(
            "the group {} in {data} is not running: start it with `synod local --data {data}`",
            group.service
        )));
    }
    Ok(group)
}

fn members(folder: &Path) -> Result<Vec<Config>, Failure> {
    group(folder)?;
    let configs = numbers(folder)
        .into_iter()
        .map(|number| MemberFolder::of(folder, number).config());
    // One that is just being added has none yet.
    configs
        .filter(|it| it.exists())
        .map(|path| Config::load(&path).map_err(Failure::failed))
        .collect()
}
