//! `synod snapshot`: saved states of a running local group, by request and as a list.

use std::cmp::Reverse;
use std::time::{Duration, SystemTime};

use comfy_table::{Cell, CellAlignment, Table};
use serde_json::json;
use synod_proto::v1::{KeptSnapshot, KeptSnapshotsRequest, TakeSnapshotRequest};
use synod_sidecar::config::Config;

use crate::exit::Failure;
use crate::local::control::control_of;
use crate::local::folder;
use crate::local::group::status;
use crate::running::GroupArgs;
use crate::status::Output;

/// Save the state of copies, and show what was saved
#[derive(Debug, clap::Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Have one member save the state of its copy now
    ///
    /// Without --member it is a follower whose copy is as far as any. A snapshot is used, and the log
    /// cut behind it, once its slots were compared with those of other copies.
    Take(TakeArgs),
    /// Show the snapshots that the members have
    ///
    /// STANDING says whether a snapshot may be used: Verified, its slots were compared with those of
    /// other copies; Unverified, they could not be compared in time; Uncompared, not yet.
    List(ListArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct TakeArgs {
    #[command(flatten)]
    group: GroupArgs,
    /// Number of the member, from 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    member: Option<u32>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    group: GroupArgs,
    /// Only this member's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    member: Option<u32>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// What one member has, or why it does not say.
struct Kept {
    member: String,
    snapshots: Result<Vec<KeptSnapshot>, String>,
}

/// Does what was asked.
pub(crate) fn run(command: SnapshotCommand) -> Result<(), Failure> {
    crate::block_on(async {
        match command {
            SnapshotCommand::Take(args) => take(&args).await,
            SnapshotCommand::List(args) => list(&args).await,
        }
    })?
}

async fn take(args: &TakeArgs) -> Result<(), Failure> {
    let members = args.group.members()?;
    let member = match args.member {
        Some(number) => numbered(&members, number)?,
        None => best(&members).await?,
    };
    let name = &member.member;
    let mut control = control_of(&args.group.data, member).await?;
    let answer = control
        .take_snapshot(TakeSnapshotRequest {})
        .await
        .map_err(|error| {
            Failure::failed(format!("{name} has saved no state: {}", error.message()))
        })?;
    let taken = answer.into_inner().snapshot.unwrap_or_default();
    crate::print(&format!(
        "{name} has saved the state at slot {}: {} bytes, {}\n",
        taken.slot, taken.state_bytes, taken.standing
    ))
}

async fn list(args: &ListArgs) -> Result<(), Failure> {
    let mut members = args.group.members()?;
    if let Some(number) = args.member {
        members = vec![numbered(&members, number)?.clone()];
    }
    let mut all = Vec::new();
    for member in &members {
        let asked = async {
            let mut control = control_of(&args.group.data, member).await?;
            let answer = control.kept_snapshots(KeptSnapshotsRequest {}).await?;
            anyhow::Ok(answer.into_inner().snapshots)
        };
        all.push(Kept {
            member: member.member.clone(),
            snapshots: asked.await.map_err(|error| format!("{error:#}")),
        });
    }
    let text = match args.output {
        Output::Table => table(&all),
        Output::Json => as_json(&all),
    };
    crate::print(&format!("{text}\n"))?;
    match all.iter().find_map(|it| it.snapshots.as_ref().err()) {
        Some(error) => Err(Failure::failed(error)),
        None => Ok(()),
    }
}

pub(crate) fn numbered(members: &[Config], number: u32) -> Result<&Config, Failure> {
    let named = |it: &&Config| it.member == folder::name(&it.service, number);
    members.iter().find(named).ok_or_else(|| {
        let names: Vec<&str> = members.iter().map(|it| it.member.as_str()).collect();
        Failure::usage(format!(
            "--member {number}: there is no such member, only {}",
            names.join(", ")
        ))
    })
}

/// A follower whose copy has executed the most, so that the leader need not stand still.
async fn best(members: &[Config]) -> Result<&Config, Failure> {
    Ok(by_worth(members).await?.remove(0))
}

/// Those whose copies are up to date, best first and at least one: followers before the leader, who need
/// not stand still, and those that have executed the most before others.
pub(crate) async fn by_worth(members: &[Config]) -> Result<Vec<&Config>, Failure> {
    let mut found = Vec::new();
    for member in members {
        if let Some(status) = status(member.listen.admin).await
            && status.serving
        {
            let leads = status.leader.as_ref() == Some(&member.member);
            found.push((leads, Reverse(status.applied), member));
        }
    }
    if found.is_empty() {
        return Err(Failure::failed(
            "no member has a copy that is up to date: see `synod status` for what they wait for",
        ));
    }
    found.sort_by_key(|(leads, applied, _)| (*leads, *applied));
    Ok(found.into_iter().map(|(_, _, member)| member).collect())
}

fn table(all: &[Kept]) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["MEMBER", "SLOT", "TIME", "BYTES", "STANDING"]);
    let number = |it: u64| Cell::new(it).set_alignment(CellAlignment::Right);
    for kept in all {
        for it in kept.snapshots.iter().flatten() {
            table.add_row(vec![
                Cell::new(&kept.member),
                number(it.slot),
                Cell::new(time(it.time_ns)),
                number(it.bytes),
                Cell::new(&it.standing),
            ]);
        }
    }
    table.trim_fmt()
}

/// Agreed time, in nanoseconds since the Unix epoch, as people and programs read it.
pub(crate) fn time(ns: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_nanos(ns);
    humantime::format_rfc3339_seconds(time).to_string()
}

fn as_json(all: &[Kept]) -> String {
    let members: Vec<_> = all
        .iter()
        .map(|kept| {
            let snapshots = kept.snapshots.as_ref().map(|snapshots| {
                let each = snapshots.iter().map(|it| {
                    json!({
                        "slot": it.slot,
                        "time": time(it.time_ns),
                        "bytes": it.bytes,
                        "stateBytes": it.state_bytes,
                        "standing": it.standing,
                        "stateDigest": it.state_digest,
                    })
                });
                each.collect::<Vec<_>>()
            });
            json!({"name": kept.member, "snapshots": snapshots.ok()})
        })
        .collect();
    serde_json::to_string_pretty(&json!({ "members": members })).expect("plain data")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Vec<Kept> {
        let snapshot = KeptSnapshot {
            slot: 1042,
            time_ns: 1_700_000_000_000_000_000,
            bytes: 77,
            standing: "Verified".to_owned(),
            ..KeptSnapshot::default()
        };
        vec![
            Kept {
                member: "notes-1".to_owned(),
                snapshots: Ok(vec![snapshot]),
            },
            Kept {
                member: "notes-2".to_owned(),
                snapshots: Err("cannot speak to notes-2".to_owned()),
            },
        ]
    }

    #[test]
    fn the_table_has_a_line_for_each_snapshot() {
        let text = table(&kept());
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|it| it.split_whitespace().collect())
            .collect();
        assert_eq!(rows.len(), 2, "{text}");
        let row = ["notes-1", "1042", "2023-11-14T22:13:20Z", "77", "Verified"];
        assert_eq!(rows[1], row);
    }

    #[test]
    fn who_does_not_say_has_no_list() {
        let text: serde_json::Value = serde_json::from_str(&as_json(&kept())).expect("JSON");
        let members = &text["members"];
        assert_eq!(members[0]["snapshots"][0]["slot"], 1042);
        assert!(members[1]["snapshots"].is_null());
    }
}
