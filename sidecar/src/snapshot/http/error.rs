//! What apps do wrong with their state, and what to do about it.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use synod_paxos::Slot;

use crate::snapshot::store::StoreError;

/// An app did not save or take its state.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{step} at slot {} ({endpoint}): {why}", .slot.0)]
pub struct HttpError {
    /// What was being done.
    pub step: Step,
    /// Method and path.
    pub endpoint: String,
    /// The last slot whose effect is in the state.
    pub slot: Slot,
    /// What went wrong.
    #[source]
    pub why: HttpFailure,
}

/// What the app was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its state.
    Save,
    /// To take a state.
    Restore,
    /// Whether it still works on something.
    Settle,
}

/// What went wrong with one of its endpoints.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HttpFailure {
    /// No connection.
    #[error("cannot connect to the app: {0}")]
    Connect(String),
    /// The app was started anew, or is about to be.
    #[error("another process listens at the app's address than the one that was meant")]
    OtherApp,
    /// Another status than asked for.
    #[error("the app answered {0}; see its own log")]
    Status(StatusCode),
    /// The connection broke, or what came is not HTTP.
    #[error("the app broke off: {0}; see its own log")]
    Broken(String),
    /// Nothing moved for so long.
    #[error("nothing has moved for {} ms; see what the app waits for", .0.as_millis())]
    Silent(Duration),
    /// It was not done after so long.
    #[error("it was not done after {} ms; raise the limit or make the state smaller", .0.as_millis())]
    TooSlow(Duration),
    /// More bytes than may be.
    #[error("the state is larger than {0} bytes; raise the limit or make the state smaller")]
    TooLarge(u64),
    /// The end of the answer cannot be told from the death of the app.
    #[error(
        "the answer does not say where it ends; give it a Content-Length, or send it in chunks"
    )]
    NoLength,
    /// It answered in an encoding of which the restore would know nothing.
    #[error(
        "the answer has a Content-Encoding, though none was asked for; send the state as it is"
    )]
    Encoded,
    /// More came than it had declared.
    #[error("the app sent more than it had declared; correct its Content-Length")]
    Surplus,
    /// It said yes before it had all.
    #[error("the app said yes after {sent} of {total} bytes; it must read all of its state first")]
    Early {
        /// Bytes that it could have read.
        sent: u64,
        /// Bytes of the state.
        total: u64,
    },
    /// The snapshot cannot be read; the app did not get the end of it.
    #[error("the snapshot could not be read: {0}; it must come from another member")]
    Snapshot(Arc<io::Error>),
    /// What came could not be kept.
    #[error(transparent)]
    Store(Arc<StoreError>),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Save => "saving the app's state",
            Self::Restore => "giving the app its state back",
            Self::Settle => "waiting for the app to settle",
        })
    }
}

impl From<hyper::Error> for HttpFailure {
    fn from(error: hyper::Error) -> Self {
        Self::Broken(crate::identity::causes(&error))
    }
}
