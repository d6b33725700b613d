//! The `synod` command line. Comes in: arguments. Goes out: an exit code, 64 for arguments,
//! manifests and configurations that cannot be used. One build serves: `synod` starts itself again
//! as sidecar, as example app, and as what ties processes together.

mod app;
mod backup;
mod cluster;
mod example_app;
mod exec_child;
mod exit;
mod guard;
mod http;
mod inject;
mod local;
mod members;
mod remote;
mod running;
mod skip;
mod snapshot;
mod status;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;

use exit::{Failure, USAGE};

/// This very program, also when its file was replaced meanwhile.
pub(crate) const OWN_PROGRAM: &str = "/proc/self/exe";

/// Run several identical copies of an unmodified HTTP service
///
/// A sidecar next to each copy takes the requests; together they agree on one order, and every copy
/// executes that order. Any minority may be lost.
#[derive(Debug, Parser)]
#[command(name = "synod", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Local(local::LocalArgs),
    Status(status::StatusArgs),
    #[command(subcommand)]
    Members(members::MembersCommand),
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    #[command(subcommand)]
    App(app::AppCommand),
    Skip(skip::SkipArgs),
    #[command(subcommand)]
    Backup(backup::BackupCommand),
    Inject(inject::InjectArgs),
    Cluster(cluster::ClusterArgs),
    /// Print the version
    Version,
    /// Print a script that completes commands in a shell
    Completion {
        /// Which shell
        shell: Shell,
    },
    /// Run as a sidecar
    #[command(hide = true)]
    Sidecar {
        /// The configuration file
        #[arg(long)]
        config: PathBuf,
    },
    /// List the steps at which tests end a member
    #[cfg(feature = "failpoints")]
    #[command(hide = true)]
    Failpoints,
    /// Run as the example app
    #[command(hide = true)]
    ExampleApp,
    /// Become a command that ends with the supervisor
    #[command(hide = true)]
    ExecChild {
        /// Process id of the supervisor
        #[arg(long)]
        supervisor: i32,
        /// What to become
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Clean up when the supervisor is gone
    #[command(hide = true)]
    Guard {
        /// A temporary folder to remove then
        #[arg(long)]
        remove: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    synod_sidecar::run::end_on_panic();
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let command = match parse(&arguments) {
        Ok(command) => command,
        Err(error) => {
            // Help and version are asked for; all else is a mistake.
            let code = if error.use_stderr() { USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let result = match command {
        Command::Local(args) => local::run(args),
        Command::Status(args) => status::run(&args),
        Command::Members(command) => members::run(command),
        Command::Snapshot(command) => snapshot::run(command),
        Command::App(command) => app::run(command),
        Command::Skip(args) => skip::run(&args),
        Command::Backup(command) => backup::run(command),
        Command::Inject(args) => inject::run(&args),
        Command::Cluster(args) => cluster::run(args),
        Command::Version => print(&format!("synod {}\n", env!("CARGO_PKG_VERSION"))),
        Command::Completion { shell } => completion(shell, &arguments),
        Command::Sidecar { config } => return synod_sidecar::run::main(&config),
        #[cfg(feature = "failpoints")]
        Command::Failpoints => print(&synod_sidecar::run::failpoints::list()),
        Command::ExampleApp => example_app::run().map_err(Failure::from),
        Command::ExecChild {
            supervisor,
            command,
        } => return exec_child::run(supervisor, &command),
        Command::Guard { remove } => {
            guard::run(remove.as_deref());
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("synod: {failure}");
            ExitCode::from(failure.code)
        }
    }
}

/// As kubectl's plugin, this program is called `kubectl-synod` and users type `kubectl synod`.
fn program_name(arguments: &[OsString]) -> (&'static str, &'static str) {
    let plugin = arguments
        .first()
        .map(std::path::Path::new)
        .and_then(std::path::Path::file_name)
        .is_some_and(|it| it.to_string_lossy().starts_with("kubectl-synod"));
    if plugin {
        ("kubectl-synod", "kubectl synod")
    } else {
        ("synod", "synod")
    }
}

fn parse(arguments: &[OsString]) -> Result<Command, clap::Error> {
    let (name, shown) = program_name(arguments);
    let mut command = Cli::command().name(name).bin_name(shown);
    let matches = command.try_get_matches_from_mut(arguments)?;
    Ok(Cli::from_arg_matches(&matches)?.command)
}

fn completion(shell: Shell, arguments: &[OsString]) -> Result<(), Failure> {
    let mut script = Vec::new();
    let (name, _) = program_name(arguments);
    clap_complete::generate(shell, &mut Cli::command(), name, &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Runs it to its end on this thread: what `synod local` starts is tied to the life of that.
fn block_on<F: Future>(future: F) -> Result<F::Output, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
    Ok(runtime.block_on(future))
}

/// A reader that has seen enough is no failure.
fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("cannot write: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Command, clap::Error> {
        parse(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_stands_behind_the_dashes_is_the_apps() {
        let command = parsed(&["synod", "local", "--replicas", "5", "--", "app", "--help"]);
        assert!(matches!(command, Ok(Command::Local(_))));
    }

    #[test]
    fn a_folder_or_a_member_somewhere_else_is_given_with_all_that_this_needs() {
        let backup = |more: &[&str]| {
            let words = ["synod", "backup", "create", "--to", "b"];
            parsed(&[&words[..], more].concat())
        };
        let at = ["--at", "10.0.0.7:7443"];
        let needs = ["--tls", "t", "--service", "notes", "--name", "notes-us-0"];
        assert!(backup(&["--data", "d"]).is_ok());
        assert!(backup(&[&at[..], &needs].concat()).is_ok());
        for more in [
            vec![],
            at.to_vec(),
            [&at[..], &needs[2..]].concat(),
            [&at[..], &needs, &["--data", "d"]].concat(),
            [&at[..], &needs, &["--member", "2"]].concat(),
            ["--data", "d", "--service", "notes"].to_vec(),
        ] {
            assert!(backup(&more).is_err(), "{more:?}");
        }
        let skip = |more: &[&str]| parsed(&[&["synod", "skip", "--slot", "7"][..], more].concat());
        assert!(skip(&[&at[..], &needs].concat()).is_ok() && skip(&["--data", "d"]).is_ok());
        assert!(skip(&[]).is_err() && skip(&at).is_err());
    }

    #[test]
    fn help_shows_users_commands_and_hides_the_others() {
        let help = Cli::command().render_long_help().to_string();
        for word in [
            "local",
            "status",
            "members",
            "snapshot",
            "skip",
            "backup",
            "inject",
            "cluster",
            "version",
            "completion",
        ] {
            assert!(help.contains(word), "{help}");
        }
        for word in ["exec-child", "example-app", "guard"] {
            assert!(!help.contains(word), "{help}");
        }
    }

    #[test]
    fn as_a_plugin_of_kubectl_it_goes_by_that_name() {
        let error = parsed(&["/usr/bin/kubectl-synod", "nonsense"]).expect_err("unknown");
        assert!(error.to_string().contains("kubectl synod"), "{error}");
        assert!(matches!(
            parsed(&["kubectl-synod", "version"]),
            Ok(Command::Version)
        ));
    }
}
