//! Before there is a group: the app is only watched, so that none of its starts is missed.

use super::executor::{Inputs, LOOK_RUNNING};
use super::feed::Beginning;
use crate::app::{App, Instance};

/// What was seen of the app before there was a group.
pub(super) struct Prelude {
    pub(super) first: Option<Instance>,
    /// A start signal came since.
    pub(super) proven: bool,
}

impl Prelude {
    /// The first look, as early as possible. `None` if it shows nothing.
    pub(super) fn begin<A: App>(app: &A) -> Option<Self> {
        match app.look() {
            Ok(first) => {
                let proven = false;
                Some(Self { first, proven })
            }
            Err(error) => {
                tracing::warn!(%error, "cannot see whether the app listens");
                None
            }
        }
    }
}

/// Waits for the genesis; `None` if the node ends before.
pub(super) async fn prelude<A: App, S>(
    app: &A,
    mut seen: Option<Prelude>,
    inputs: &Inputs<S>,
) -> Option<(Prelude, Beginning)> {
    let mut beginning = None;
    loop {
        seen = seen.or_else(|| Prelude::begin(app));
        let news = inputs.feed.news();
        beginning = beginning.or(news.beginning);
        if news.closed {
            return None;
        }
        match (seen, beginning) {
            (Some(seen), Some(beginning)) => return Some((seen, beginning)),
            (still_seen, still_beginning) => {
                seen = still_seen;
                beginning = still_beginning;
            }
        }
        tokio::select! {
            biased;
            () = inputs.feed.changed() => {}
            () = inputs.signals.app_started.notified(), if seen.is_some() => {
                if let Some(seen) = &mut seen {
                    seen.proven = true;
                }
            }
            () = tokio::time::sleep(LOOK_RUNNING) => {}
        }
    }
}
