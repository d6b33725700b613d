//! No app at all: what a witness has in its place.

use std::io;
use std::sync::Arc;

use super::{App, ExecuteError, Executed, Instance, NotSent, Order};

/// Nothing ever listens, and nothing is ever executed.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoApp;

impl App for NoApp {
    fn look(&self) -> io::Result<Option<Instance>> {
        Ok(None)
    }

    async fn execute(self: Arc<Self>, _: Order) -> Result<Executed, ExecuteError> {
        Err(NotSent::NoListener.into())
    }

    fn set_reads(&self, _: Option<Instance>) {}

    async fn doubted(&self) {
        std::future::pending::<()>().await;
    }
}
