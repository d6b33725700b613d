//! The sizes that must fit into each other (rule P3), in one place. All in bytes.

use synod_proto::v1::Policy;

use super::{ConfigError, Log};

/// What may be under way to one follower.
pub const WINDOW_BYTES: u64 = 32 << 20;
/// Longest message that a member takes from another.
pub const MESSAGE_BYTES: u64 = 20 << 20;
/// What a request may weigh besides its body.
pub const HEADERS_BYTES: u64 = 64 << 10;
/// Limits of `log.segmentBytes`.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = (1 << 20)..=(1 << 30);

/// A policy asks for more than this member's log or messages hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("maxBodySize {body} does not fit: it must be at most {most}, {reason}")]
pub struct TooLarge {
    /// What the policy says.
    pub body: u64,
    /// What fits.
    pub most: u64,
    /// Which limit that is.
    pub reason: &'static str,
}

/// Checks the limits of the log against each other.
pub(super) fn check_log(log: &Log) -> Result<(), ConfigError> {
    if !SEGMENT_BYTES.contains(&log.segment_bytes) {
        return Err(ConfigError::Value {
            field: "log.segmentBytes",
            value: log.segment_bytes.to_string(),
            allowed: format!("{} to {} bytes", SEGMENT_BYTES.start(), SEGMENT_BYTES.end()),
        });
    }
    // One being written, one in reserve, and something to keep.
    let least = log.segment_bytes.saturating_mul(4);
    if log.max_bytes < least {
        return Err(ConfigError::Value {
            field: "log.maxBytes",
            value: log.max_bytes.to_string(),
            allowed: format!("at least 4 x log.segmentBytes = {least}"),
        });
    }
    Ok(())
}

/// What limits the largest body.
fn body_limits(log: &Log) -> [(u64, &'static str); 3] {
    [
        (WINDOW_BYTES / 2, "half of the window of a follower"),
        (log.segment_bytes / 4, "a quarter of log.segmentBytes"),
        (
            MESSAGE_BYTES - HEADERS_BYTES,
            "what one message between members holds",
        ),
    ]
}

/// The largest body that fits into window, segment and message.
pub fn largest_body(log: &Log) -> u64 {
    let limits = body_limits(log).into_iter().map(|(most, _)| most);
    limits.min().expect("there are limits")
}

/// Whether the largest request that a policy allows fits into window, segment and message.
pub fn check_policy(policy: &Policy, log: &Log) -> Result<(), TooLarge> {
    for (most, reason) in body_limits(log) {
        if policy.max_body_bytes > most {
            return Err(TooLarge {
                body: policy.max_body_bytes,
                most,
                reason,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_body_size_fits_the_default_log_and_a_larger_one_does_not() {
        let policy = |max_body_bytes| Policy {
            max_body_bytes,
            ..Policy::default()
        };
        assert_eq!(check_policy(&policy(16 << 20), &Log::default()), Ok(()));
        assert!(check_policy(&policy((16 << 20) + 1), &Log::default()).is_err());
        let small = Log {
            segment_bytes: 4 << 20,
            ..Log::default()
        };
        let error = check_policy(&policy(2 << 20), &small).expect_err("too large");
        assert!(error.to_string().contains("log.segmentBytes"), "{error}");
        assert_eq!(largest_body(&small), 1 << 20);
    }
}
