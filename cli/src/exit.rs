//! How a command ends: what is said, and the exit code.

use std::fmt;

/// Bad arguments, manifests or configuration (`EX_USAGE` of sysexits).
pub(crate) const USAGE: u8 = 64;
/// Anything else that went wrong.
pub(crate) const FAILED: u8 = 1;

/// Why a command could not do what it was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    message: String,
}

impl Failure {
    /// The user can mend it by other arguments, another manifest or another folder.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self {
            code: USAGE,
            message: message.to_string(),
        }
    }

    /// It went wrong on the way.
    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self {
            code: FAILED,
            message: message.to_string(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::failed(format!("{error:#}"))
    }
}
