//! `synod members`: who is in a running local group, and how that is changed. What is wanted is
//! written into the group's folder; `synod local` takes the steps, and this shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::slice;
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table};
use serde_json::json;
use synod_api::members::{Plan, Step};
use synod_proto::v1::{MemberRole, MembersResponse, TransferLeadershipRequest};
use synod_sidecar::config::Config;
use tokio::time::{Instant, sleep};

use crate::exit::Failure;
use crate::local::control::control_of;
use crate::local::folder::{self, Group, MemberFolder};
use crate::local::group::status;
use crate::local::membership;
use crate::running::GroupArgs;
use crate::status::Output;

const LOOK_PERIOD: Duration = Duration::from_millis(200);
/// As many as `synod local` runs.
const MOST: usize = 9;

/// Show and change who is in a group
#[derive(Debug, clap::Subcommand)]
pub(crate) enum MembersCommand {
    /// Show who is in the group
    ///
    /// ID is a member's number: another one in each life of its log, and never used again. HEARD and
    /// CAUGHT-UP are what the leader says.
    List(ListArgs),
    /// Add members
    ///
    /// Each starts with nothing, gets a snapshot and the log behind it from the others, and then a
    /// vote. The group serves on meanwhile.
    Add(AddArgs),
    /// Remove members
    ///
    /// Their processes end when nobody needs them any more, and their folders are removed.
    Remove(RemoveArgs),
    /// Have members begin anew, as after the loss of their disks
    ///
    /// What they have is thrown away; they come in again as new members, under their names.
    Replace(ReplaceArgs),
    /// Have another member lead
    Lead(LeadArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    group: GroupArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, clap::Args)]
pub(crate) struct AddArgs {
    #[command(flatten)]
    group: GroupArgs,
    #[command(flatten)]
    wait: WaitArgs,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..9))]
    count: u32,
    /// Without a vote: they run the app and serve, and no loss of them matters
    #[arg(long, conflicts_with = "role")]
    observer: bool,
    /// What they do. A voter runs the app, an observer does so without a vote, a witness votes and keeps
    /// the log and runs no app. None changes between running the app and being a witness
    #[arg(long, value_enum, default_value_t = NewRole::Voter)]
    role: NewRole,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum NewRole {
    Voter,
    Observer,
    Witness,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    #[command(flatten)]
    group: GroupArgs,
    #[command(flatten)]
    wait: WaitArgs,
    /// Names of the members
    #[arg(required = true, value_name = "MEMBER")]
    members: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ReplaceArgs {
    #[command(flatten)]
    group: GroupArgs,
    #[command(flatten)]
    wait: WaitArgs,
    /// Name of the member
    #[arg(value_name = "MEMBER")]
    member: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LeadArgs {
    #[command(flatten)]
    group: GroupArgs,
    /// Name of a voter; default: the best one that does not lead now
    #[arg(value_name = "MEMBER")]
    member: Option<String>,
}

#[derive(Debug, clap::Args)]
struct WaitArgs {
    /// How long to wait until it is done; it goes on by itself after that
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// What the leader says.
struct Told {
    leader: Config,
    members: MembersResponse,
}

/// Does what was asked.
pub(crate) fn run(command: MembersCommand) -> Result<(), Failure> {
    crate::block_on(async {
        match command {
            MembersCommand::List(args) => list(&args).await,
            MembersCommand::Add(args) => add(&args).await,
            MembersCommand::Remove(args) => remove(&args).await,
            MembersCommand::Replace(args) => replace(&args).await,
            MembersCommand::Lead(args) => lead(&args).await,
        }
    })?
}

async fn list(args: &ListArgs) -> Result<(), Failure> {
    let told = of_leader(&args.group).await?;
    let text = match args.output {
        Output::Table => table(&told.members),
        Output::Json => as_json(&told.members),
    };
    crate::print(&format!("{text}\n"))
}

async fn add(args: &AddArgs) -> Result<(), Failure> {
    of_leader(&args.group).await?;
    let data = &args.group.data;
    let role = if args.observer {
        NewRole::Observer
    } else {
        args.role
    };
    let there = folder::numbers(data);
    let group = Group::edit(data, |group| {
        let wanted = group.members.iter().filter_map(|it| group.number(it));
        let taken: BTreeSet<u32> = wanted.chain(there).collect();
        let free = (1..).filter(|it| !taken.contains(it));
        if group.members.len() + args.count as usize > MOST {
            return Err(Failure::usage(format!(
                "{} members and {} more are too many: `synod local` runs {MOST} at most",
                group.members.len(),
                args.count
            )));
        }
        let voters = group.members.len() - group.observers.len() - group.witnesses.len();
        if role == NewRole::Witness && voters < 2 {
            return Err(Failure::usage(
                "a witness comes in while a quorum goes on without it, and one copy is none with another vote: add a voter first",
            ));
        }
        for number in free.take(args.count as usize) {
            let name = folder::name(&group.service, number);
            match role {
                NewRole::Voter => {}
                NewRole::Observer => group.observers.push(name.clone()),
                NewRole::Witness => group.witnesses.push(name.clone()),
            }
            group.members.push(name);
        }
        Ok(())
    })?;
    follow(&args.group, &args.wait, &group, None).await
}

async fn remove(args: &RemoveArgs) -> Result<(), Failure> {
    of_leader(&args.group).await?;
    let group = Group::edit(&args.group.data, |group| {
        for name in &args.members {
            find(group, name)?;
        }
        group.members.retain(|it| !args.members.contains(it));
        group.observers.retain(|it| !args.members.contains(it));
        group.witnesses.retain(|it| !args.members.contains(it));
        if group.members.len() == group.observers.len() + group.witnesses.len() {
            return Err(Failure::usage(
                "no voter would be left: to end the group, stop its `synod local`",
            ));
        }
        Ok(())
    })?;
    follow(&args.group, &args.wait, &group, None).await
}

async fn replace(args: &ReplaceArgs) -> Result<(), Failure> {
    let told = of_leader(&args.group).await?;
    let group = args.group.group()?;
    let number = find(&group, &args.member)?;
    if group.members.len() == 1 {
        return Err(Failure::usage(format!(
            "{} is the only member: what it has would be lost; add another one first",
            args.member
        )));
    }
    let mut others = told.members.members.iter();
    let votes = |role: MemberRole| role != MemberRole::Observer;
    let other_voters = others.clone();
    let other_voters = other_voters.filter(|it| it.name != args.member && votes(it.role()));
    let heard = other_voters.clone().filter(|it| it.heard).count();
    let is_voter = others.any(|it| it.name == args.member && votes(it.role()));
    if is_voter && heard * 2 <= other_voters.count() + 1 {
        return Err(Failure::failed(format!(
            "without {} no quorum would be heard: bring the others back first",
            args.member
        )));
    }
    let mut lives = told.members.members.iter();
    let before = lives.find(|it| it.name == args.member);
    MemberFolder::of(&args.group.data, number)
        .mark_for_replacement(before.map_or("", |it| &it.incarnation))?;
    follow(&args.group, &args.wait, &group, before.map(|it| it.id)).await
}

async fn lead(args: &LeadArgs) -> Result<(), Failure> {
    let told = of_leader(&args.group).await?;
    let mut control = control_of(&args.group.data, &told.leader).await?;
    let to = args.member.clone().unwrap_or_default();
    let asked = control.transfer_leadership(TransferLeadershipRequest { to });
    asked.await.map_err(|error| {
        Failure::failed(format!(
            "{} leads on: {}",
            told.leader.member,
            error.message()
        ))
    })?;
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let found = of_leader(&args.group).await;
        if let Ok(found) = &found {
            return crate::print(&format!("{} leads\n", found.leader.member));
        }
        if Instant::now() > end {
            return found.map(drop);
        }
        sleep(LOOK_PERIOD).await;
    }
}

/// Shows the steps until there is none left, and the life with the number `before` has ended.
async fn follow(
    args: &GroupArgs,
    wait: &WaitArgs,
    wanted: &Group,
    before: Option<u32>,
) -> Result<(), Failure> {
    let end = Instant::now() + wait.timeout;
    let mut told = String::new();
    loop {
        let words = match look(args, wanted, before).await {
            Ok(Look::Done) => {
                let names = wanted.members.join(", ");
                return crate::print(&format!("{} has {names}\n", wanted.service));
            }
            Ok(Look::Next(words)) => words,
            // A leader may be on its way out.
            Err(error) => error.to_string(),
        };
        if Instant::now() > end {
            return Err(Failure::failed(format!(
                "not done in time, and it goes on: {words}; see `synod members list`"
            )));
        }
        if words != told {
            crate::print(&format!("{words}\n"))?;
            told = words;
        }
        sleep(LOOK_PERIOD).await;
    }
}

/// How far it is.
enum Look {
    Done,
    Next(String),
}

async fn look(args: &GroupArgs, wanted: &Group, before: Option<u32>) -> Result<Look, Failure> {
    let current = args.group()?;
    if current.members != wanted.members {
        return Err(Failure::failed(
            "somebody else has changed what is wanted: see `synod members list`",
        ));
    }
    for number in folder::numbers(&args.data) {
        if MemberFolder::of(&args.data, number).replace_mark().exists() {
            let name = folder::name(&wanted.service, number);
            return Ok(Look::Next(format!("{name} begins anew")));
        }
    }
    let mut there = BTreeMap::new();
    let mut held = false;
    let mut given_up = BTreeSet::new();
    for number in folder::numbers(&args.data) {
        given_up.extend(MemberFolder::of(&args.data, number).read_given_up());
        there.insert(folder::name(&wanted.service, number), None);
    }
    for config in args.members()? {
        let status = status(config.listen.admin).await;
        held |= status.as_ref().is_some_and(|it| it.undecided.is_some());
        there.insert(config.member, status.as_ref().and_then(membership::process));
    }
    let told = of_leader(args).await?;
    let Plan {
        step,
        start,
        take_away,
        empty,
    } = membership::plan(wanted, &told.members, &there, held, &given_up);
    // Its next life may not speak yet.
    let mut lives = told.members.members.iter();
    let ends = lives.find(|it| Some(it.id) == before);
    let next = |what: &str, names: &[String]| Look::Next(format!("{} {what}", names.join(", ")));
    Ok(match step {
        Step::Nothing if !start.is_empty() => next("is started", &start),
        Step::Nothing if !take_away.is_empty() => next("is ended", &take_away),
        Step::Nothing if !empty.is_empty() => next("begins anew", &empty),
        Step::Nothing => match ends {
            Some(member) => next("begins anew", slice::from_ref(&member.name)),
            None => Look::Done,
        },
        step => Look::Next(step.to_string()),
    })
}

/// The number of a member that should be in the group.
fn find(group: &Group, name: &str) -> Result<u32, Failure> {
    let found = group.members.iter().find(|it| *it == name);
    found.and_then(|it| group.number(it)).ok_or_else(|| {
        Failure::usage(format!(
            "{name}: {} has no such member, only {}",
            group.service,
            group.members.join(", ")
        ))
    })
}

/// Who is in the group, by whoever leads it.
async fn of_leader(args: &GroupArgs) -> Result<Told, Failure> {
    let mut why = "no member answers".to_owned();
    for config in args.members()? {
        let asked = async {
            let mut control = control_of(&args.data, &config).await?;
            membership::ask(&mut control).await
        };
        match asked.await {
            Ok(members) if members.leads => {
                return Ok(Told {
                    leader: config,
                    members,
                });
            }
            Ok(_) => "nobody leads".clone_into(&mut why),
            Err(_) => {}
        }
    }
    Err(Failure::failed(format!(
        "{why}: see `synod status` for what the members wait for"
    )))
}

fn role(role: MemberRole) -> &'static str {
    match role {
        MemberRole::Voter => "voter",
        MemberRole::Witness => "witness",
        MemberRole::Observer | MemberRole::Unspecified => "observer",
    }
}

fn table(members: &MembersResponse) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header([
        "ID",
        "MEMBER",
        "ROLE",
        "HEARD",
        "CAUGHT-UP",
        "SLOT",
        "INCARNATION",
    ]);
    let number = |it: u64| Cell::new(it).set_alignment(CellAlignment::Right);
    let word = |it: bool| Cell::new(if it { "yes" } else { "no" });
    for member in &members.members {
        let leads = member.name == members.leader;
        table.add_row(vec![
            number(member.id.into()),
            Cell::new(&member.name),
            Cell::new(if leads { "leader" } else { role(member.role()) }),
            word(member.heard),
            word(member.caught_up),
            number(member.applied),
            Cell::new(&member.incarnation),
        ]);
    }
    format!("epoch {}\n{}", members.epoch, table.trim_fmt())
}

fn as_json(members: &MembersResponse) -> String {
    let each = members.members.iter().map(|it| {
        json!({
            "id": it.id,
            "name": it.name,
            "incarnation": it.incarnation,
            "role": role(it.role()),
            "heard": it.heard,
            "caughtUp": it.caught_up,
            "applied": it.applied,
        })
    });
    let text = json!({
        "epoch": members.epoch,
        "leader": members.leader,
        "settled": members.settled,
        "members": each.collect::<Vec<_>>(),
    });
    serde_json::to_string_pretty(&text).expect("plain data")
}

#[cfg(test)]
mod tests {
    use synod_proto::v1::GroupMember;

    use super::*;

    fn members() -> MembersResponse {
        let member = |id: u32, role: MemberRole| GroupMember {
            id,
            name: format!("notes-{id}"),
            incarnation: format!("{id:032x}"),
            role: role.into(),
            heard: true,
            applied: 7,
            ..GroupMember::default()
        };
        MembersResponse {
            epoch: 3,
            members: vec![
                member(2, MemberRole::Voter),
                member(5, MemberRole::Observer),
            ],
            leader: "notes-2".to_owned(),
            ..MembersResponse::default()
        }
    }

    #[test]
    fn the_table_tells_who_leads_and_who_has_no_vote() {
        let text = table(&members());
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|it| it.split_whitespace().collect())
            .collect();
        assert_eq!(rows[0], ["epoch", "3"]);
        assert_eq!(rows[2][..5], ["2", "notes-2", "leader", "yes", "no"]);
        assert_eq!(rows[3][1..3], ["notes-5", "observer"]);
        let json: serde_json::Value = serde_json::from_str(&as_json(&members())).expect("JSON");
        assert_eq!(json["members"][0]["role"], "voter");
    }

    #[test]
    fn only_members_that_are_wanted_are_found() {
        let group = Group {
            members: vec!["notes-1".to_owned(), "notes-4".to_owned()],
            ..Group::new("notes", 1, None)
        };
        assert_eq!(find(&group, "notes-4").ok(), Some(4));
        let text = find(&group, "notes-2").expect_err("gone").to_string();
        assert!(text.contains("notes-1, notes-4"), "{text}");
    }
}
