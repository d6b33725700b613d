//! The sample app as a program: see `synod_system::app`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use synod_system::app::{self, Bug, Options};
use tokio::net::TcpListener;

#[derive(Parser)]
#[command(about = "Registers, counters and lists over HTTP, in memory")]
struct Arguments {
    /// Where to listen; 127.0.0.1:$PORT when not given
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Added to each write, in milliseconds
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Be wrong at every so many requests: `lose:N`, `twice:N` or `stale:N`
    #[arg(long)]
    bug: Option<Bug>,
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
        bug: arguments.bug.unwrap_or_default(),
    };
    Ok(app::serve(listener, options).await?)
}
