//! `synod backup`: a saved state and the log behind it, in a folder that no running group touches.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use comfy_table::{Cell, CellAlignment, Table};
use serde_json::json;
use synod_paxos::GroupId;
use synod_proto::v1::StatusRequest;
use synod_sidecar::backup::{self, BackupError, Extent, Found, Manifest, Progress, Reach};
use synod_sidecar::config::{Config, Log};

use crate::exit::Failure;
use crate::local::control::connector_of;
use crate::local::founding::{self, Restore};
use crate::remote::{Remote, RemoteArgs};
use crate::running::GroupArgs;
use crate::snapshot::{by_worth, numbered, time};
use crate::status::Output;

/// Keep a copy of a group's state and log elsewhere
#[derive(Debug, clap::Subcommand)]
pub(crate) enum BackupCommand {
    /// Copy the newest snapshot that may be used, and the log behind it, to a new folder
    ///
    /// All of it is read back before it counts. The group goes on meanwhile.
    Create(CreateArgs),
    /// Show the backups below a folder
    List(ListArgs),
    /// Read all of a backup, and say whether it is whole
    Check(CheckArgs),
    /// Make a new group that begins with what a backup has
    ///
    /// The new group has nothing to do with the old one, which may go on or be gone: its members never
    /// talk to each other, and tokens of the old one's history are refused by the new one.
    Restore(RestoreArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// The folder of a running `synod local`
    #[arg(long, value_name = "DIR", required_unless_present = "at")]
    data: Option<PathBuf>,
    #[command(flatten)]
    remote: RemoteArgs,
    /// The folder below which the backup gets a folder of its own
    #[arg(long, value_name = "FOLDER")]
    to: PathBuf,
    /// Number of the member that gives it, from 1; without it one whose copy is as far as any and
    /// that has a snapshot, followers first
    #[arg(long, value_name = "N", conflicts_with = "at",
        value_parser = clap::value_parser!(u32).range(1..))]
    member: Option<u32>,
    /// Only where a majority of the members is lost for good: take also what a member that is left has
    /// stored without knowing whether it was chosen. Refused by a member that follows a leader. Of several
    /// that are left, the one whose log has what was chosen in any of them. What only the lost ones had is
    /// lost
    #[arg(long)]
    survivor: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Where backups were made
    folder: PathBuf,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// The folder of one backup
    backup: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    /// The folder of one backup
    backup: PathBuf,
    /// A new folder, for `synod local --data DIR`
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Leave out what was done at this slot and behind it. The header Synod-Slot of each answer, and
    /// `synod backup list`, tell slots
    #[arg(long, value_name = "SLOT")]
    before: Option<u64>,
    /// Number of members that the new group should have
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=9))]
    replicas: u32,
    /// Largest size of each log, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = Log::default().max_bytes)]
    log_max_bytes: u64,
}

/// Does what was asked.
pub(crate) fn run(command: BackupCommand) -> Result<(), Failure> {
    match command {
        BackupCommand::Create(args) => crate::block_on(create(&args))?,
        BackupCommand::List(args) => list(&args),
        BackupCommand::Check(args) => check(&args.backup),
        BackupCommand::Restore(args) => restore(&args),
    }
}

async fn create(args: &CreateArgs) -> Result<(), Failure> {
    let (sources, extent) = if args.survivor {
        (survivors(args).await?, Extent::Accepted)
    } else {
        (sources(args).await?, Extent::Chosen)
    };
    std::fs::create_dir_all(&args.to)
        .map_err(|error| Failure::failed(format!("cannot make {}: {error}", args.to.display())))?;
    let mut failed = None;
    for from in sources {
        let into = args.to.join(folder_name(&from.service, SystemTime::now()));
        let error = match make(&from, extent, &into).await {
            Ok(manifest) => return told(&into, &manifest),
            Err(error) => error,
        };
        // Without a manifest it is nothing that anybody would look for.
        let _ = std::fs::remove_dir_all(&into);
        let is_without = matches!(error.downcast_ref(), Some(BackupError::NoSnapshot));
        // Another survivor's log may lack what this one has.
        let goes_on = is_without && extent == Extent::Chosen;
        failed = Some(format!("{} has given no backup: {error:#}", from.member));
        if !goes_on {
            break;
        }
    }
    Err(Failure::failed(failed.unwrap_or_default()))
}

fn told(into: &Path, manifest: &Manifest) -> Result<(), Failure> {
    crate::print(&format!(
        "{}: all up to slot {} of {}, {} bytes\n",
        into.display(),
        manifest.through,
        manifest.service,
        manifest.bytes
    ))?;
    let Some(survivor) = manifest.survivor else {
        return Ok(());
    };
    let (epoch, round, member) = survivor.ballot;
    crate::print(&format!(
        "what is behind slot {} may never have been acknowledged to anybody; the log is of ballot \
         {epoch}.{round}.{member}: of several members that are left, use the one with the greatest, and then \
         the one that reaches furthest\n",
        survivor.chosen
    ))
}

/// The members that may give it, best first and at least one: one that has no snapshot passes it on to
/// the next.
async fn sources(args: &CreateArgs) -> Result<Vec<Remote>, Failure> {
    let (group, members) = match asked(args)? {
        Asked::Remote(remote) => return Ok(vec![*remote]),
        Asked::Local(group, members) => (group, members),
    };
    let chosen = match args.member {
        Some(number) => vec![numbered(&members, number)?],
        None => by_worth(&members).await?,
    };
    chosen.iter().map(|it| remote_of(&group, it)).collect()
}

/// The members that are left, the one with the greatest log first.
async fn survivors(args: &CreateArgs) -> Result<Vec<Remote>, Failure> {
    let (group, members) = match asked(args)? {
        Asked::Remote(remote) => return Ok(vec![*remote]),
        Asked::Local(group, members) => (group, members),
    };
    if let Some(number) = args.member {
        return Ok(vec![remote_of(&group, numbered(&members, number)?)?]);
    }
    let mut found = Vec::new();
    for member in &members {
        let remote = remote_of(&group, member)?;
        match Box::pin(reach_of(&remote)).await {
            Ok(reach) => found.push((reach.log, remote)),
            Err(error) => eprintln!("{} cannot be asked: {error:#}", remote.member),
        }
    }
    if found.is_empty() {
        return Err(Failure::failed(
            "no member answers: start those that are left",
        ));
    }
    found.sort_by_key(|(log, _)| Reverse(*log));
    Ok(found.into_iter().map(|(_, remote)| remote).collect())
}

/// Who is asked.
enum Asked {
    /// That member.
    Remote(Box<Remote>),
    /// One of these of a `synod local`.
    Local(GroupArgs, Vec<Config>),
}

fn asked(args: &CreateArgs) -> Result<Asked, Failure> {
    let remote = args.remote.member();
    let remote = remote.map_err(|error| Failure::failed(format!("{error:#}")))?;
    let data = match (remote, &args.data) {
        (Some(remote), _) => return Ok(Asked::Remote(Box::new(remote))),
        (None, Some(data)) => data.clone(),
        (None, None) => return Err(Failure::usage("give --data, or --at with what it needs")),
    };
    let group = GroupArgs { data };
    let members = group.members()?;
    Ok(Asked::Local(group, members))
}

fn remote_of(group: &GroupArgs, member: &Config) -> Result<Remote, Failure> {
    let connector = connector_of(&group.data, member);
    Ok(Remote {
        service: member.service.clone(),
        member: member.member.clone(),
        connector: connector.map_err(|error| Failure::failed(format!("{error:#}")))?,
    })
}

async fn reach_of(member: &Remote) -> anyhow::Result<Reach> {
    let group = group_of(member).await?;
    Ok(backup::reach(&member.connector, group).await?)
}

async fn group_of(member: &Remote) -> anyhow::Result<GroupId> {
    let mut control = member.control().await?;
    let status = control.status(StatusRequest {}).await?.into_inner();
    group_id(&status.group).context("the group has not been formed yet")
}

async fn make(from: &Remote, extent: Extent, into: &Path) -> anyhow::Result<Manifest> {
    let group = group_of(from).await?;
    let tell = |progress| match progress {
        Progress::Snapshot { slot, bytes } => {
            eprintln!("the snapshot at slot {slot}, {bytes} bytes ..");
        }
        Progress::Log { slot } => eprintln!("the log up to slot {slot} .."),
        Progress::Check => eprintln!("reading all of it back .."),
    };
    Ok(Box::pin(backup::create(
        &from.connector,
        group,
        &from.service,
        extent,
        into,
        tell,
    ))
    .await?)
}

fn group_id(hex: &str) -> Option<GroupId> {
    let number = u128::from_str_radix(hex, 16).ok()?;
    Some(GroupId(number.to_be_bytes()))
}

/// By time, so that they are listed in the order in which they were made.
fn folder_name(service: &str, now: SystemTime) -> String {
    let time = humantime::format_rfc3339_seconds(now).to_string();
    format!("{service}-{}", time.replace([':', '-'], ""))
}

fn list(args: &ListArgs) -> Result<(), Failure> {
    let found = backup::list(&args.folder).map_err(Failure::failed)?;
    let text = match args.output {
        Output::Table => table(&found),
        Output::Json => as_json(&found),
    };
    crate::print(&format!("{text}\n"))
}

fn check(folder: &Path) -> Result<(), Failure> {
    let manifest = backup::check(folder).map_err(Failure::failed)?;
    crate::print(&format!(
        "{} is whole: {} from slot {} to {}\n",
        folder.display(),
        manifest.service,
        manifest.snapshot_slot,
        manifest.through
    ))
}

fn restore(args: &RestoreArgs) -> Result<(), Failure> {
    let founded = founding::restore(&Restore {
        backup: &args.backup,
        before: args.before,
        data: &args.data,
        replicas: args.replicas,
        log_max_bytes: args.log_max_bytes,
    })?;
    let data = args.data.display();
    crate::print(&format!(
        "{} begins anew with all up to slot {}: start it with `synod local --data {data}` and what the \
         app needs\n",
        founded.genesis.service, founded.through
    ))
}

fn table(found: &[Found]) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["BACKUP", "SERVICE", "FROM", "THROUGH", "TIME", "BYTES"]);
    let number = |it: u64| Cell::new(it).set_alignment(CellAlignment::Right);
    for it in found {
        let name = it.path.file_name().unwrap_or_default().to_string_lossy();
        let mut row = vec![Cell::new(name)];
        match &it.manifest {
            Ok(of) => row.extend([
                Cell::new(&of.service),
                number(of.snapshot_slot),
                number(of.through),
                Cell::new(time(of.through_time_ns)),
                number(of.bytes),
            ]),
            Err(error) => row.push(Cell::new(error)),
        }
        table.add_row(row);
    }
    table.trim_fmt()
}

fn as_json(found: &[Found]) -> String {
    let backups: Vec<_> = found
        .iter()
        .map(|it| {
            let error = it.manifest.as_ref().err().map(ToString::to_string);
            json!({
                "path": it.path,
                "backup": it.manifest.as_ref().ok(),
                "error": error,
            })
        })
        .collect();
    serde_json::to_string_pretty(&json!({ "backups": backups })).expect("plain data")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn backups_are_named_by_service_and_time() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(folder_name("notes", now), "notes-20231114T221320Z");
    }

    #[test]
    fn a_group_is_32_hex_digits() {
        let id = group_id("000102030405060708090a0b0c0d0e0f").expect("an id");
        assert_eq!(id.0[15], 15);
        assert!(group_id("").is_none() && group_id("xyz").is_none());
    }

    #[test]
    fn a_folder_without_backups_has_none() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir(folder.path().join("other")).expect("made");
        let found = backup::list(folder.path()).expect("listed");
        assert!(found.is_empty());
        assert_eq!(table(&found).lines().count(), 1);
        assert!(check(folder.path()).is_err());
    }
}
