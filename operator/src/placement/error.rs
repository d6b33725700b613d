//! What can go wrong on the way, in categories: each is an event's reason, a metric's label and a
//! way of trying again.

use std::time::Duration;

use crate::certs::CertError;

/// Why one look at a service did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlacementError {
    /// The hub's API server could not be read.
    #[error("cannot read {what}: {error}")]
    Read {
        /// What was to be read.
        what: String,
        /// What was said.
        error: kube::Error,
    },
    /// The hub's API server refused something.
    #[error("cannot write {what}: {error}")]
    Write {
        /// What was to be written.
        what: String,
        /// What was said.
        error: kube::Error,
    },
    /// An object of the name that is needed belongs to somebody else.
    #[error(
        "{what} is not this service's: delete or rename it, if no earlier service of this name is just being deleted"
    )]
    NotOurs {
        /// Which.
        what: String,
    },
    /// The authority's Secret cannot be used.
    #[error("the certificate authority in Secret {secret}: {error}")]
    Authority {
        /// Its name.
        secret: String,
        /// What is wrong.
        error: CertError,
    },
    /// Some clusters are not as they should be; the status says which.
    #[error("{}", .0.join("; "))]
    Clusters(Vec<String>),
}

// === impl PlacementError ===

impl PlacementError {
    /// For metrics.
    pub(crate) fn category(&self) -> &'static str {
        match self {
            Self::Read { .. } => "read",
            Self::Write { .. } => "write",
            Self::NotOurs { .. } => "name_conflict",
            Self::Authority { .. } => "authority",
            Self::Clusters(_) => "clusters",
        }
    }

    /// How long to wait before the next look, the `attempt`-th in a row that fails.
    pub(crate) fn backoff(&self, attempt: u32) -> Duration {
        let longest = match self {
            Self::Read { .. } | Self::Write { .. } | Self::Clusters(_) => 60,
            // Somebody has to do something; we only look whether it was done.
            Self::NotOurs { .. } | Self::Authority { .. } => 300,
        };
        Duration::from_secs((1_u64 << attempt.min(9)).min(longest))
    }

    pub(crate) fn read(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |error| Self::Read { what, error }
    }

    pub(crate) fn write(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |error| Self::Write { what, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_come_with_doubling_gaps_up_to_a_limit() {
        let error = PlacementError::Clusters(vec!["x".to_owned()]);
        let gaps: Vec<_> = (0..8).map(|it| error.backoff(it).as_secs()).collect();
        assert_eq!(gaps, [1, 2, 4, 8, 16, 32, 60, 60]);
        let error = PlacementError::NotOurs {
            what: "x".to_owned(),
        };
        assert_eq!(error.backoff(u32::MAX).as_secs(), 300);
    }
}
