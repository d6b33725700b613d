//! `synod-sidecar`: one member of a replicated service, next to its copy of the app.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

const EXIT_CODES: &str = "\
Exit codes:
   0  ended in order, on SIGTERM or SIGINT
  64  the configuration is not valid
  65  the genesis file is not valid, or not for this member
  69  a port is taken
  70  a failure of this program
  74  the data folder or the log cannot be used
  75  the data folder is in use by a process that runs
  76  the log or the group is of a later version
  77  the certificate files cannot be used
  78  the disk remembers less than peers do: replace this member

Environment: RUST_LOG (default info), SYNOD_LOG_FORMAT=json, and above the file
SYNOD_MEMBER, SYNOD_REGION, SYNOD_DATA and SYNOD_APP_TOKEN.";

/// One member of a replicated service, next to its copy of the app.
#[derive(Debug, Parser)]
#[command(name = "synod-sidecar", version, after_help = EXIT_CODES)]
struct Arguments {
    /// Configuration, YAML or JSON.
    #[arg(long, env = "SYNOD_CONFIG", value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    #[cfg(feature = "failpoints")]
    if std::env::args_os()
        .nth(1)
        .is_some_and(|it| it == "--list-failpoints")
    {
        print!("{}", synod_sidecar::run::failpoints::list());
        return ExitCode::SUCCESS;
    }
    synod_sidecar::run::end_on_panic();
    synod_sidecar::run::main(&Arguments::parse().config)
}
