//! `synod local`: a whole group on this machine, for trying, testing and developing. One sidecar
//! process and one app process for each member, real mutual TLS between them, real logs on disk.

mod certificates;
pub(crate) mod commands;
pub(crate) mod control;
mod fields;
pub(crate) mod folder;
mod formation;
pub(crate) mod founding;
pub(crate) mod group;
mod keeper;
mod member;
pub(crate) mod membership;
mod peers;
mod ports;
mod process;
mod relay;
mod rolling;
mod screen;
pub(crate) mod settings;
mod state;
pub(crate) mod table;
mod words;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::exit::Failure;

/// Run a replicated service on this machine
///
/// Starts N members: a sidecar and a copy of the app each. Member i serves clients on the port of
/// --listen + i - 1. What dies is started again. Without COMMAND the bundled example runs, a small
/// notes board.
///
/// In COMMAND and in its environment, {port} or PORT is the port that the app has to listen on, and
/// {data} or DATA_DIR is its own folder, which is emptied at each start unless the state of the app
/// is there (--state volume).
#[derive(Debug, clap::Args)]
pub(crate) struct LocalArgs {
    /// The manifest of a ReplicatedService, or - for standard input
    #[arg(short = 'f', long = "filename", value_name = "MANIFEST")]
    file: Option<PathBuf>,
    /// Number of members that run the app; default: the manifest's, or 3
    #[arg(long)]
    replicas: Option<u32>,
    /// Number of members besides, the last ones, that vote and keep the log and run no app; default: the
    /// manifest's, or 0. An even number of copies and one witness tolerate as many losses as one copy more
    #[arg(long, value_name = "N")]
    witnesses: Option<u32>,
    /// Where member 1 serves clients; each further member uses the next port
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080", value_parser = settings::listen)]
    listen: SocketAddr,
    /// Where logs and certificates are kept; default: a temporary folder, removed at the end. What
    /// is not given otherwise (the service's name, the number of members, the policy, where the state
    /// is) is what the folder was used with before
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How long the app may take until it listens on its port. If so many copies do not that there
    /// can be no quorum, the command ends
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = settings::app_timeout)]
    app_timeout: Duration,
    /// Simulated round-trip times between members, one for each pair: 1-2, 1-3, 2-3 and so on
    #[arg(long, value_name = "TIME,TIME,..")]
    rtt: Option<String>,
    /// A folder with what the app has stored so far, which becomes the state of all copies: it is
    /// copied, and nothing may write to it meanwhile. Only when the group begins, and with
    /// `--state volume`
    #[arg(long, value_name = "FOLDER")]
    import: Option<PathBuf>,
    #[command(flatten)]
    state: state::StateArgs,
    /// The app and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Runs until SIGINT, SIGTERM or SIGHUP.
pub(crate) fn run(args: LocalArgs) -> Result<(), Failure> {
    if !cfg!(target_os = "linux") {
        return Err(Failure::failed(
            "members run on Linux only: use a Linux machine, a virtual machine or a container",
        ));
    }
    let settings = settings::Settings::new(args)?;
    // One thread: children are tied to the life of the thread that starts them.
    crate::block_on(group::run(settings))?
}

#[cfg(test)]
fn parse_for_tests(arguments: &[&str]) -> LocalArgs {
    use clap::{Args as _, FromArgMatches as _};
    let command = LocalArgs::augment_args(clap::Command::new("local"));
    let matches = command
        .try_get_matches_from(std::iter::once(&"local").chain(arguments))
        .expect("arguments of the right shape");
    LocalArgs::from_arg_matches(&matches).expect("arguments of the right shape")
}
