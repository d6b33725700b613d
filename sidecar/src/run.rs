//! The sidecar's main, as a library: the same code runs in the `synod-sidecar` image, behind
//! `synod local` and inside tests.
//!
//! In order: logging, configuration (exit 64 when bad), ports, certificates, the log; then the
//! admin port answers, the group is awaited, and clients are served; on SIGTERM or SIGINT the
//! member leaves in order.

pub mod exit;
#[cfg(feature = "failpoints")]
pub mod failpoints;
mod founding;
mod log;
mod member;
mod trace;

use std::path::Path;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

pub use founding::BeginningError;
pub use log::FormError;
pub use member::{Addresses, Member, MemberEnd, StartError};
pub use trace::{Guard, init as init_trace};

use crate::app::{Client, NoApp};
use crate::apply::handle::spool_dir;
use crate::config::Config;

/// From now on a broken invariant of our own ends the process, not one task of it, once it is told. Each
/// program says so first; not the profile: what tests unwind would have to be compiled a second time.
pub fn end_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
}

/// Runs the sidecar that the file `config` describes until it ends; see [`exit`] for the codes.
pub fn main(config: &Path) -> ExitCode {
    let _guard = init_trace();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(run(config));
            // A read of a slow disk must not hold up the end.
            runtime.shutdown_background();
            result
        }
        Err(error) => Ok(MemberEnd::Failed(format!("the runtime ({error})"))),
    };
    match &result {
        Ok(MemberEnd::Stopped) => tracing::info!("ended"),
        Ok(end) => tracing::error!(error = %end, "the member has ended"),
        Err(error) => tracing::error!(%error, "the member cannot start"),
    }
    exit::code(&result)
}

async fn run(path: &Path) -> Result<MemberEnd, StartError> {
    #[cfg(feature = "failpoints")]
    failpoints::begin(path);
    let config = Config::load(path)?;
    #[cfg(feature = "failpoints")]
    let config = failpoints::shorten(config);
    // Before anything that takes long: a signal that comes early is not lost.
    let mut terminate = signal(SignalKind::terminate()).expect("signals can be watched");
    let mut interrupt = signal(SignalKind::interrupt()).expect("signals can be watched");
    let mut member = if config.witness {
        Member::start(config, NoApp, NoApp).await?
    } else {
        let client = Client::new(
            config.app.address,
            config.app.protocol,
            spool_dir(&config.data),
        );
        Member::start(config, client.clone(), client).await?
    };
    let addresses = member.addresses();
    tracing::info!(
        http = %addresses.http,
        peer = %addresses.peer,
        admin = %addresses.admin,
        "listening"
    );
    tokio::select! {
        end = member.ended() => return Ok(end),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let leaving = member.stop();
    tokio::pin!(leaving);
    tokio::select! {
        end = &mut leaving => Ok(end),
        // Asked twice: at once. The log bears it.
        _ = terminate.recv() => Ok(MemberEnd::Stopped),
        _ = interrupt.recv() => Ok(MemberEnd::Stopped),
    }
}

#[cfg(test)]
mod tests;
