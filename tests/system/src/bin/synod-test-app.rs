//! The sample app as a program: see `synod_system::app`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use synod_system::app::{self, Bug, Options};
use tokio::net::TcpListener;

#[derive(Parser)]
#[command(about = "Registers, counters and lists over HTTP, in memory or in a folder")]
struct Arguments {
    /// Where to listen; 127.0.0.1:$PORT when not given
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Added to each write, in milliseconds
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Added between a write and its answer, in milliseconds
    #[arg(long, default_value_t = 0)]
    lag_ms: u64,
    /// Keep the state in this folder
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// A file that says what to do wrong when the state is saved or put back
    #[arg(long, value_name = "FILE")]
    misdeeds: Option<PathBuf>,
    /// A file that says at which requests to end, or to hang: lines of `dies` or `hangs` and a path
    #[arg(long, value_name = "FILE")]
    fates: Option<PathBuf>,
    /// Be wrong at every so many requests: `lose:N`, `twice:N` or `stale:N`
    #[arg(long)]
    bug: Option<Bug>,
    /// What to answer `POST /which` with
    #[arg(long, default_value_t = 0)]
    revision: u64,
    /// With which status code
    #[arg(long, default_value_t = 200)]
    which: u16,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let address = match arguments.listen {
        Some(address) => address,
        None => app::address_from_environment()?,
    };
    let listener = TcpListener::bind(address).await?;
    let options = Options {
        delay: Duration::from_millis(arguments.delay_ms),
        lag: Duration::from_millis(arguments.lag_ms),
        keep: arguments.keep,
        misdeeds: arguments.misdeeds,
        fates: arguments.fates,
        bug: arguments.bug.unwrap_or_default(),
        revision: arguments.revision,
        which: arguments.which,
    };
    Ok(app::serve(listener, options).await?)
}
