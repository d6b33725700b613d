//! The bundled example: a small notes board, an ordinary single-instance HTTP program on SQLite. It
//! listens on `PORT`, keeps its data in `DATA_DIR`, and stores nothing but what requests say.

mod api;
mod store;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use store::Store;

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run() -> anyhow::Result<()> {
    let port = match std::env::var("PORT") {
        Ok(text) => text
            .parse()
            .with_context(|| format!("PORT is {text:?}, which is not a port"))?,
        Err(_) => 8000,
    };
    let folder = PathBuf::from(std::env::var_os("DATA_DIR").unwrap_or_else(|| ".".into()));
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(serve(port, folder))
}

async fn serve(port: u16, folder: PathBuf) -> anyhow::Result<()> {
    let store = Store::open(&folder)
        .with_context(|| format!("cannot open the notes in {}", folder.display()))?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .with_context(|| format!("cannot listen on port {port}"))?;
    println!("the notes board listens on {}", listener.local_addr()?);
    let mut term = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    axum::serve(listener, api::router(store))
        .with_graceful_shutdown(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await?;
    Ok(())
}
