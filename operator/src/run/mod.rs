//! The operator as a process: from flags to controllers that run, and back to an orderly end.
//! Comes in: the command line and the environment. It calls every other part; nothing calls it but
//! `main`, and the controllers use what is in [`Context`].

mod check;
mod context;
mod flags;
mod lease;
mod linger;
mod metrics;
mod readiness;
mod server;
mod turns;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use flags::Asked;

pub use context::Context;
pub use flags::{Flags, WebhookFlags};
pub use lease::Leadership;
pub use linger::linger;
pub use metrics::Metrics;
pub use readiness::{Latch, Readiness};
pub use turns::Turns;

/// How long controllers may take to end what they are doing.
const GRACE: Duration = Duration::from_secs(10);
/// Name of this program to API servers and in events.
pub const CONTROLLER: &str = "synod-operator";
/// `EX_USAGE` of sysexits: the command line or the environment is not right.
const USAGE: u8 = 64;

/// The whole program.
pub fn main() -> ExitCode {
    init_trace();
    end_on_panic();
    rustls::crypto::ring::default_provider()
        .install_default()
        .expect("no other provider was installed before");
    let asked = match Asked::parse(std::env::args_os()) {
        Ok(asked) => asked,
        Err(error) => {
            let help = !error.use_stderr();
            let _ = error.print();
            return if help {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(USAGE)
            };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the system gives no threads");
            return ExitCode::FAILURE;
        }
    };
    let flags = match asked {
        Asked::Check(check) => return runtime.block_on(check.run()),
        Asked::Run(flags) => flags,
    };
    match runtime.block_on(serve(*flags)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the operator ends");
            ExitCode::FAILURE
        }
    }
}

async fn serve(flags: Flags) -> anyhow::Result<()> {
    let listener = TcpListener::bind(flags.listen)
        .await
        .with_context(|| format!("cannot listen on {}", flags.listen))?;
    let stop = CancellationToken::new();
    on_signal(stop.clone())?;
    let client = Client::try_default().await.context(
        "no way to an API server: give KUBECONFIG, or run in a pod with a service account",
    )?;
    let metrics = Metrics::default();
    let readiness = Readiness::default();
    let ended = CancellationToken::new();
    let health = tokio::spawn(server::serve(
        listener,
        metrics.clone(),
        readiness.clone(),
        stop.clone(),
        ended.clone(),
    ));
    let (lease, leadership) = lease::Lease::new(
        client.clone(),
        &flags.namespace,
        &flags.lease,
        &flags.identity(),
        metrics.clone(),
        readiness.latch("the leader election"),
    );
    let reporter = Reporter {
        controller: CONTROLLER.to_owned(),
        instance: Some(flags.identity()),
    };
    let context = Arc::new(Context {
        events: Recorder::new(client.clone(), reporter),
        client,
        leadership,
        metrics,
        readiness,
        turns: Turns::default(),
        stop: stop.clone(),
        flags,
    });
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        cluster = context.flags.cluster,
        hub = context.flags.hub,
        "the operator starts"
    );
    // The lease outlives the controllers: while one of them still writes, nobody else may.
    let release = CancellationToken::new();
    let lease = tokio::spawn(lease.hold(release.clone()));
    let result = controllers(&context, stop).await;
    release.cancel();
    let _ = lease.await;
    ended.cancel();
    let _ = tokio::time::timeout(Duration::from_secs(1), health).await;
    tracing::info!("the operator has ended");
    result
}

/// Runs all controllers until one ends, or all are told to.
async fn controllers(context: &Arc<Context>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(crate::group::run(context.clone()));
    if context.flags.hub {
        tasks.spawn(crate::placement::run(context.clone()));
    }
    if let Some(webhook) = crate::webhook::run(context) {
        tasks.spawn(webhook);
    }
    let mut result = Ok(());
    while let Some(ended) = tokio::select! {
        ended = tasks.join_next() => ended,
        () = grace(&stop) => {
            tracing::warn!("controllers did not end in time");
            tasks.shutdown().await;
            None
        }
    } {
        let ended = ended.context("a controller broke").and_then(|it| it);
        // One that ends by itself takes the others along: the pod starts anew, and says why.
        stop.cancel();
        result = result.and(ended);
    }
    result
}

async fn grace(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(GRACE).await;
}

fn on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}

/// From now on a broken invariant of our own ends the process, not one task of it, once it is told.
fn end_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        std::process::abort();
    }));
}

/// Events go to stderr: which, by `RUST_LOG` (default `info`); as JSON when `SYNOD_LOG_FORMAT` is
/// `json`.
fn init_trace() {
    use std::io::IsTerminal as _;
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .from_env_lossy();
    let json = std::env::var("SYNOD_LOG_FORMAT").is_ok_and(|it| it == "json");
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours && !json)
        .with_target(json)
        .with_writer(std::io::stderr);
    if json {
        builder.json().flatten_event(true).init();
    } else {
        builder.init();
    }
}
