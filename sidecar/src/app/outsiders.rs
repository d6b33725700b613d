//! Who talks to the app past this sidecar: told by the connections at the app's port whose other side
//! is outside the pod. Nothing is stopped, only seen: what came that way is in no log.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::net;

/// How often the kernel's table is looked at. A connection that the app closed itself stays in it for
/// a minute.
const LOOK: Duration = Duration::from_secs(2);
/// The log names the same address at most once in this time.
const TOLD_AGAIN: Duration = Duration::from_secs(600);

/// The last one that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outsider {
    /// Its address.
    pub address: IpAddr,
    /// When it was last seen.
    pub seen: Instant,
}

// === impl Outsider ===

impl Outsider {
    /// How long ago it was last seen, in milliseconds.
    pub fn age_ms(&self) -> u64 {
        u64::try_from(self.seen.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Looks, from now on, for connections from outside to the app's port. Ends when no receiver is left.
pub fn outsiders(app: SocketAddr) -> watch::Receiver<Option<Outsider>> {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(look(app.port(), sender));
    receiver
}

async fn look(port: u16, sender: watch::Sender<Option<Outsider>>) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = BTreeMap::new();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = sender.closed() => return,
        }
        // The table of a busy pod has thousands of lines.
        let connected = tokio::task::spawn_blocking(move || net::connected(port));
        let found = match connected.await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::debug!(%error, "the kernel's connections cannot be read");
                continue;
            }
            Err(_) => return,
        };
        let seen = Instant::now();
        told.retain(|_, at: &mut Instant| seen.duration_since(*at) < TOLD_AGAIN);
        for address in found {
            sender.send_replace(Some(Outsider { address, seen }));
            if told.contains_key(&address) {
                continue;
            }
            told.insert(address, seen);
            tracing::warn!(
                peer = %address,
                port,
                "somebody talks to the app past this sidecar: what is written so reaches this copy \
                 only; use the service's address"
            );
        }
    }
}
