//! The webhook that gives pods labelled `synod.dev/inject` their sidecar. Comes in: AdmissionReviews
//! from the API server, over TLS. Goes out: the pod with the sidecar as a JSON patch, or why it cannot
//! be made. It reads groups, StatefulSets and Secrets, and calls `inject` and `group::adopt`.
//!
//! `server` and `review` speak to the API server, `lookup` reads, `mutate` decides, `certificate`
//! keeps what is served and trusted, `watchdog` looks for pods that came past all this.

mod certificate;
mod lookup;
mod metrics;
mod mutate;
mod review;
mod server;
mod watchdog;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;

use self::certificate::{Keeper, Served};
use self::metrics::Metrics;
use self::review::Reviewer;
use crate::inject::SidecarImage;
use crate::run::{Context, linger};

/// What an instance waits for before it is ready.
pub const PART: &str = "the webhook's certificate";

/// How long reviews are answered after the process was told to end: until then nodes and API servers
/// may still send them here. It leaves room for those under way within what controllers may take.
const LINGER: Duration = Duration::from_secs(4);

/// Serves until told to stop; `None` when there is nowhere to serve.
pub fn run(context: &Arc<Context>) -> Option<impl Future<Output = anyhow::Result<()>> + use<>> {
    let address = context.flags.webhook.listen?;
    // Before the first probe of readiness is answered.
    let latch = context.readiness.latch(PART);
    let context = context.clone();
    Some(async move {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address} for the webhook"))?;
        let served = Arc::new(Served::default());
        let metrics = Metrics::new(&context.metrics);
        let keeper = Keeper::new(context.clone(), served.clone(), latch, metrics.clone());
        let end = linger(context.stop.clone(), LINGER);
        let flags = &context.flags;
        let policy = Some(flags.sidecar_pull_policy.clone()).filter(|it| !it.is_empty());
        let reviewer = Arc::new(Reviewer {
            client: context.client.clone(),
            image: SidecarImage {
                image: flags.sidecar_image.clone(),
                pull_policy: policy,
            },
            metrics: metrics.clone(),
        });
        tokio::join!(
            keeper.run(),
            watchdog::run(&context, &metrics),
            server::serve(listener, certificate::tls(served), reviewer, end),
        );
        Ok(())
    })
}
