//! `synod-sidecar`: one member of a replicated service, next to its copy of the app.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// One member of a replicated service, next to its copy of the app.
#[derive(Debug, Parser)]
#[command(name = "synod-sidecar", version)]
struct Arguments {
    /// Configuration, YAML or JSON.
    #[arg(long, env = "SYNOD_CONFIG", value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    synod_sidecar::run::main(&Arguments::parse().config)
}
