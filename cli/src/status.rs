//! `synod status`: what the members of a running local group say of themselves.

use serde_json::json;
use synod_sidecar::config::Config;

use crate::exit::Failure;
use crate::local::group::status;
use crate::local::table::{Line, render};
use crate::running::GroupArgs;

/// Show the members of a group
///
/// SLOT is the last request of the agreed order that the member's copy has executed, LAG how many
/// it has still to execute. SNAPSHOT is the newest slot of which it has the state saved.
#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    group: GroupArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

/// Asks every member once.
pub(crate) fn run(args: &StatusArgs) -> Result<(), Failure> {
    let configs = args.group.members()?;
    let lines = crate::block_on(ask(&configs))?;
    let text = match args.output {
        Output::Table => {
            use std::io::IsTerminal as _;
            let colors = std::io::stdout().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
            render(&lines, colors)
        }
        Output::Json => as_json(&lines, &configs),
    };
    println!("{text}");
    Ok(())
}

async fn ask(configs: &[Config]) -> Vec<Line> {
    let tasks: Vec<_> = configs
        .iter()
        .map(|it| tokio::spawn(status(it.listen.admin)))
        .collect();
    let mut lines = Vec::new();
    for (config, task) in configs.iter().zip(tasks) {
        lines.push(Line {
            name: config.member.clone(),
            url: format!("http://{}", config.listen.http),
            status: task.await.unwrap_or_default(),
            known: true,
        });
    }
    lines
}

/// One object for each member: what it said, with its addresses.
fn as_json(lines: &[Line], configs: &[Config]) -> String {
    let members: Vec<_> = lines
        .iter()
        .zip(configs)
        .map(|(line, config)| {
            json!({
                "name": line.name,
                "state": line.state(),
                "http": config.listen.http,
                "peer": config.listen.peer,
                "admin": config.listen.admin,
                "app": (!config.witness).then_some(config.app.address),
                "status": line.status,
            })
        })
        .collect();
    serde_json::to_string_pretty(&json!({ "members": members })).expect("plain data")
}
