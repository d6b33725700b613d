//! `synod app`: which revision of the app a running local group has, and another one in its place. What
//! each is stands in the group's folder; `synod local` starts what its sidecars say is due, and this
//! shows how far that is.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table};
use synod_proto::v1::{ReviseRequest, ReviseResponse, RevisionStrategy};
use synod_sidecar::admin::status::Status;
use synod_sidecar::config::Config;
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::exit::Failure;
use crate::local::commands::{Commands, words};
use crate::local::control::control_of;
use crate::local::group::status;
use crate::local::settings::find_program;
use crate::running::GroupArgs;
use crate::skip::leader;

const LOOK_PERIOD: Duration = Duration::from_millis(200);
/// No copy runs the new command after this time: something may be wrong with it.
const SLOW: Duration = Duration::from_secs(15);

/// Show and change the app that a group runs
#[derive(Debug, clap::Subcommand)]
pub(crate) enum AppCommand {
    /// Show which revision of the app each member runs
    List(ListArgs),
    /// Run another command in place of the app
    ///
    /// One slot is agreed on up to which the old command executes, and from which on the new one does, on
    /// every copy. The state of there is saved, and given to the new command; meanwhile clients wait. It
    /// goes on by itself if this is interrupted. There is no way back but another switch, to the old
    /// command; as long as not all copies run the new one, --take-back undoes what it has done first.
    Switch(SwitchArgs),
    /// Run another command beside the app first, and then in its place
    ///
    /// The new command is given a copy of the state and executes all that follows, on one member after
    /// another, while the old one goes on to answer. When half of the copies run it and it has answered with
    /// the same class of status codes, it takes over at one slot; clients do not wait. If it answers
    /// otherwise it does not take over: --take-back ends it, and --finish lets it take over all the same.
    Roll(RollArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    group: GroupArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SwitchArgs {
    #[command(flatten)]
    group: GroupArgs,
    /// The last switch, which has not come to its end, is taken back: this command takes its place, and
    /// executes all that came since once more. Answers that the other has given stay given, though this
    /// one may answer otherwise
    #[arg(long)]
    take_back: bool,
    /// How long to wait until all copies run it; it goes on by itself after that
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// The app and its arguments, as for `synod local`
    #[arg(last = true, value_name = "COMMAND", required = true)]
    command: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RollArgs {
    #[command(flatten)]
    group: GroupArgs,
    /// The command that runs along is ended; the one that answers goes on as if nothing had been
    #[arg(long, conflicts_with = "command")]
    take_back: bool,
    /// The command that runs along takes over though it answers otherwise
    #[arg(long, conflicts_with_all = ["command", "take_back"])]
    finish: bool,
    /// How long to wait until all copies run it; it goes on by itself after that
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// The app and its arguments, as for `synod local`
    #[arg(last = true, value_name = "COMMAND", required_unless_present_any = ["take_back", "finish"])]
    command: Vec<String>,
}

/// Does what was asked.
pub(crate) fn run(command: AppCommand) -> Result<(), Failure> {
    crate::block_on(async {
        match command {
            AppCommand::List(args) => list(&args).await,
            AppCommand::Switch(args) => switch(&args).await,
            AppCommand::Roll(args) => roll(&args).await,
        }
    })?
}

async fn list(args: &ListArgs) -> Result<(), Failure> {
    let commands = Commands::read(&args.group.data)?;
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(["MEMBER", "REVISION", "DUE", "COMMAND"]);
    let mut along = String::new();
    for member in args.group.members()? {
        let Some(status) = status(member.listen.admin).await else {
            table.add_row([member.member.as_str(), "-", "-", "it does not answer"]);
            continue;
        };
        if status.leader.as_ref() == Some(&status.member) {
            along = words_along(&status);
        }
        let revision = status.revision;
        let command = commands.of(revision.running.unwrap_or(revision.due));
        let running = revision.running.map_or("-".to_owned(), |it| it.to_string());
        table.add_row([
            Cell::new(member.member),
            Cell::new(running).set_alignment(CellAlignment::Right),
            Cell::new(revision.due).set_alignment(CellAlignment::Right),
            Cell::new(command.map_or("not known".to_owned(), words)),
        ]);
    }
    crate::print(&format!("{table}\n{along}"))
}

/// How far a revision is that runs along; empty when none does.
fn words_along(status: &Status) -> String {
    let revision = &status.revision;
    let Some(silent) = revision.silent else {
        return String::new();
    };
    let stands = match &revision.disagreement {
        Some(it) => format!(
            "it does not take over: at slot {}, {} {}, {}",
            it.slot, it.method, it.path, it.text
        ),
        None if revision.differences == 0 => "so far it answers alike".to_owned(),
        None => format!(
            "so far it answers with the same class of status codes, {} times with another response",
            revision.differences
        ),
    };
    format!(
        "revision {} answers, and revision {silent} runs along: {stands}\n",
        revision.in_force
    )
}

async fn switch(args: &SwitchArgs) -> Result<(), Failure> {
    find_program(&args.command[0])?;
    let data = &args.group.data;
    let members = args.group.members()?;
    let leader = leader(&members).await?;
    let now = status(leader.listen.admin).await;
    let now = now.ok_or_else(|| Failure::failed(format!("{} does not answer", leader.member)))?;
    if let (Some(silent), true) = (now.revision.silent, args.take_back) {
        return Err(Failure::usage(format!(
            "revision {silent} runs along and was never in force: take it back with `synod app roll --take-back --data {}`",
            data.display()
        )));
    }
    let (before, next) = (now.revision.in_force, now.revision.newest + 1);
    let commands = Commands::read(data)?;
    let mut control = control_of(data, leader).await?;
    // Before it is in force, or a member could find no command for it.
    let commands = commands.note(data, next, args.command.clone())?;
    let revised = control.revise(ReviseRequest {
        expected_revision: now.revision.newest,
        epoch: now.epoch,
        takes_back: args.take_back,
        ..ReviseRequest::default()
    });
    let revised = match revised.await {
        Ok(revised) => revised,
        Err(error) => return Err(not_changed(commands, data, next, &error)),
    };
    let barrier = revised.into_inner().barrier;
    crate::print(&format!(
        "revision {next} of the app executes what follows slot {barrier}\n"
    ))?;
    let good = before.saturating_sub(u64::from(args.take_back));
    let last = commands.of(good).unwrap_or_default();
    follow(args, &members, next, last).await
}

async fn roll(args: &RollArgs) -> Result<(), Failure> {
    if let Some(program) = args.command.first() {
        find_program(program)?;
    }
    let data = &args.group.data;
    let members = args.group.members()?;
    let leader = leader(&members).await?;
    let now = status(leader.listen.admin).await;
    let now = now.ok_or_else(|| Failure::failed(format!("{} does not answer", leader.member)))?;
    let revision = &now.revision;
    let commands = Commands::read(data)?;
    let mut control = control_of(data, leader).await?;
    let mut request = ReviseRequest {
        expected_revision: revision.newest,
        epoch: now.epoch,
        takes_back: args.take_back,
        finishes: args.finish,
        ..ReviseRequest::default()
    };
    request.set_strategy(RevisionStrategy::Rolling);
    if args.take_back || args.finish {
        let Some(silent) = revision.silent else {
            return Err(Failure::failed(
                "no revision of the app runs along".to_owned(),
            ));
        };
        let done = control.revise(request).await;
        done.map_err(|error| Failure::failed(format!("nothing is changed: {}", error.message())))?;
        if args.take_back {
            commands.forget(data, silent)?;
            let text = format!(
                "revision {silent} is taken back, and {} goes on\n",
                revision.in_force
            );
            return crate::print(&text);
        }
        crate::print(&format!("revision {silent} takes over\n"))?;
        return follow_along(args, &members, silent).await;
    }
    let next = revision.newest + 1;
    // Before it begins, or a member could find no command for it.
    let commands = commands.note(data, next, args.command.clone())?;
    let revised = match control.revise(request).await {
        Ok(revised) => revised.into_inner(),
        Err(error) => return Err(not_changed(commands, data, next, &error)),
    };
    let ReviseResponse { barrier, .. } = revised;
    let how = match revised.strategy() {
        RevisionStrategy::Rolling => "runs along behind",
        RevisionStrategy::Switch => "is the only copy's, and executes what follows",
    };
    crate::print(&format!(
        "revision {next} of the app {how} slot {barrier}\n"
    ))?;
    follow_along(args, &members, next).await
}

/// A revision that was refused is nothing.
fn not_changed(commands: Commands, data: &Path, next: u64, error: &tonic::Status) -> Failure {
    if is_refused(error.code())
        && let Err(failure) = commands.forget(data, next)
    {
        return failure;
    }
    Failure::failed(format!("the app is not changed: {}", error.message()))
}

/// Shows how far each member is until all run that revision, or it is found not to be what the last was.
async fn follow_along(args: &RollArgs, members: &[Config], revision: u64) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut told: BTreeMap<&str, String> = BTreeMap::new();
    let data = args.group.data.display();
    loop {
        let statuses = show(members, revision, &mut told).await?;
        let disagreement = statuses
            .iter()
            .find_map(|it| it.revision.disagreement.as_ref());
        if let Some(it) = disagreement.filter(|_| !args.finish) {
            return Err(Failure::failed(format!(
                "revision {revision} does not take over: at slot {}, {} {}, {}: `synod app roll --take-back --data {data}`, or `--finish`",
                it.slot, it.method, it.path, it.text
            )));
        }
        let is_over = |it: &Status| it.revision.in_force >= revision && !it.revision.unfinished;
        let ended = |it: &Status| {
            it.revision.newest > revision
                || (it.revision.silent.is_none()
                    && it.revision.in_force < revision
                    && it.revision.newest == revision)
        };
        if statuses.iter().any(ended) {
            return Err(Failure::failed(format!(
                "revision {revision} was taken back, or followed by another, meanwhile"
            )));
        }
        let running = running(&statuses, revision);
        if statuses.iter().any(is_over) && running == statuses.len() {
            return crate::print(&format!("revision {revision} has taken over\n"));
        }
        if begun.elapsed() >= args.timeout {
            return Err(Failure::failed(format!(
                "{running} of {} copies answer with revision {revision}, and it goes on; see app.log in \
                 {data}/member-*; to end it before it takes over: `synod app roll --take-back --data {data}`",
                members.len(),
            )));
        }
        sleep(LOOK_PERIOD).await;
    }
}

/// Says of each member how far it is, if that is news. Goes out: what those that answer say of themselves.
async fn show<'a>(
    members: &'a [Config],
    revision: u64,
    told: &mut BTreeMap<&'a str, String>,
) -> Result<Vec<Status>, Failure> {
    let mut statuses = Vec::new();
    for member in members {
        let status = status(member.listen.admin).await;
        let words = words_of(status.as_ref(), revision);
        if told.get(member.member.as_str()) != Some(&words) {
            crate::print(&format!("{}: {words}\n", member.member))?;
            told.insert(&member.member, words);
        }
        statuses.extend(status);
    }
    Ok(statuses)
}

/// How many copies answer with that revision.
fn running(statuses: &[Status], revision: u64) -> usize {
    let runs = |it: &&Status| it.serving && it.revision.running == Some(revision);
    statuses.iter().filter(runs).count()
}

/// Nothing comes of it; otherwise it may be agreed on yet.
fn is_refused(code: Code) -> bool {
    matches!(
        code,
        Code::FailedPrecondition | Code::Aborted | Code::PermissionDenied | Code::Unimplemented
    )
}

/// Shows how far each member is until all run that revision.
async fn follow(
    args: &SwitchArgs,
    members: &[Config],
    revision: u64,
    last: &[String],
) -> Result<(), Failure> {
    let begun = Instant::now();
    let mut told: BTreeMap<&str, String> = BTreeMap::new();
    let mut warned = false;
    loop {
        let statuses = show(members, revision, &mut told).await?;
        let running = running(&statuses, revision);
        let finished = statuses
            .iter()
            .any(|it| it.revision.in_force == revision && !it.revision.unfinished);
        if statuses.iter().any(|it| it.revision.in_force > revision) {
            return Err(Failure::failed(format!(
                "revision {revision} was followed by another meanwhile"
            )));
        }
        if finished && running == statuses.len() {
            return crate::print(&format!("revision {revision} has taken over\n"));
        }
        let way_back = || {
            format!(
                "see app.log in {}/member-*; to go back: `synod app switch --take-back --data {} -- {}`",
                args.group.data.display(),
                args.group.data.display(),
                words(last)
            )
        };
        if running == 0 && begun.elapsed() >= SLOW && !warned {
            warned = true;
            crate::print(&format!(
                "no copy runs revision {revision} yet: if its command does not start, {}\n",
                way_back()
            ))?;
        }
        if begun.elapsed() >= args.timeout {
            return Err(Failure::failed(format!(
                "{running} of {} copies run revision {revision}, and it goes on; {}",
                members.len(),
                way_back()
            )));
        }
        sleep(LOOK_PERIOD).await;
    }
}

fn words_of(status: Option<&Status>, revision: u64) -> String {
    let Some(status) = status else {
        return "does not answer".to_owned();
    };
    if status.revision.silent == Some(revision) {
        return match status.revision.running {
            Some(running) if running == revision => format!("revision {running} runs along"),
            Some(running) => format!("revision {running} answers"),
            None => format!("revision {} is being started", status.revision.due),
        };
    }
    match status.revision.running {
        Some(running) if running == revision && status.serving => {
            format!("runs revision {running}")
        }
        Some(running) if running == revision => format!("revision {running} catches up"),
        Some(running) => format!("revision {running} comes to its end"),
        None if status.revision.due == revision => format!("revision {revision} is being started"),
        None => format!("revision {} is being started", status.revision.due),
    }
}

#[cfg(test)]
mod tests {
    use synod_sidecar::admin::status::{Disagreement, Revision};

    use super::*;

    #[test]
    fn how_far_a_member_is_is_told_in_words() {
        let at = |running, due, serving| Status {
            serving,
            revision: Revision {
                running,
                due,
                ..Revision::default()
            },
            ..Status::default()
        };
        for (status, expected) in [
            (at(Some(0), 0, true), "revision 0 comes to its end"),
            (at(None, 0, false), "revision 0 is being started"),
            (at(None, 1, false), "revision 1 is being started"),
            (at(Some(1), 1, false), "revision 1 catches up"),
            (at(Some(1), 1, true), "runs revision 1"),
        ] {
            assert_eq!(words_of(Some(&status), 1), expected);
        }
        assert_eq!(words_of(None, 1), "does not answer");
    }

    #[test]
    fn how_far_a_revision_is_that_runs_along_is_told_in_words() {
        let at = |running, due| Status {
            revision: Revision {
                running,
                due,
                silent: Some(1),
                newest: 1,
                ..Revision::default()
            },
            ..Status::default()
        };
        for (status, expected) in [
            (at(Some(0), 0), "revision 0 answers"),
            (at(None, 1), "revision 1 is being started"),
            (at(Some(1), 1), "revision 1 runs along"),
        ] {
            assert_eq!(words_of(Some(&status), 1), expected);
        }
        let mut status = at(Some(0), 0);
        assert_eq!(
            words_along(&status),
            "revision 0 answers, and revision 1 runs along: so far it answers alike\n"
        );
        status.revision.differences = 3;
        assert!(words_along(&status).contains("3 times with another response"));
        status.revision.disagreement = Some(Disagreement {
            slot: 7,
            method: "PUT".into(),
            path: "/a".into(),
            text: "why".into(),
        });
        assert!(words_along(&status).contains("does not take over: at slot 7, PUT /a, why"));
        status.revision.silent = None;
        assert_eq!(words_along(&status), "");
    }
}
