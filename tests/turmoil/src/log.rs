//! What the members tell a person.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::subscriber::DefaultGuard;
use tracing_subscriber::EnvFilter;

/// Of one run; it is also on stderr if `RUST_LOG` says so.
#[derive(Clone, Default)]
pub(crate) struct Log {
    text: Arc<Mutex<Vec<u8>>>,
}

impl Log {
    /// From now on, until the guard is dropped, for this thread.
    pub(crate) fn listen(&self) -> DefaultGuard {
        let writer = self.clone();
        let filter = EnvFilter::builder().with_default_directive(tracing::Level::INFO.into());
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter.from_env_lossy())
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    pub(crate) fn text(&self) -> String {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if std::env::var_os("RUST_LOG").is_some() {
            io::stderr().write_all(bytes)?;
        }
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        text.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
