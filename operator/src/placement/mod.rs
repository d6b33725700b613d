//! Placement.

use std::sync::Arc;

use crate::run::Context;

/// Runs until told to stop.
pub async fn run(context: Arc<Context>) -> anyhow::Result<()> {
    context.stop.cancelled().await;
    Ok(())
}
