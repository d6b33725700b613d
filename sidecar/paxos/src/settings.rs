//! Local settings of the agreement and the limits that hold between them (rule P3).

/// What a shell may tune. None of it is agreed on: members may differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bytes sent to one follower and not acknowledged yet.
    pub window_bytes: u64,
    /// Bytes in the log that are not committed yet, for a leader: past it proposals are refused.
    pub total_window_bytes: u64,
    /// Entries are cut into messages of about this many bytes (a message takes at least one entry).
    pub max_message_bytes: u64,
    /// Largest body of one command; headers may add 64 KiB to it.
    pub max_body_bytes: u64,
    /// Largest message that the transport takes.
    pub transport_bytes: u64,
    /// What the shell keeps in memory for one connection that takes it more slowly than it comes;
    /// past it the connection is broken.
    pub queue_bytes: u64,
    /// Size of one segment of the log on disk.
    pub segment_bytes: u64,
    /// Commands of this entrance that wait to be chosen, in bytes.
    pub max_pending_bytes: u64,
    /// Commands of this entrance that wait to be chosen, in number.
    pub max_pending_commands: u32,
    /// Reads that wait for an index, in number.
    pub max_pending_reads: u32,
    /// Committed entries kept in memory for followers that lag a little, in bytes.
    pub cache_bytes: u64,
    /// Writes handed to the log at once: one under way, the others queued behind it. (One more when it
    /// makes the log shorter.)
    pub max_persists: u32,
    /// Election timeout until round trips are known, in nanoseconds.
    pub election_timeout_ns: u64,
    /// Shortest adapted election timeout.
    pub min_election_timeout_ns: u64,
    /// Longest adapted election timeout.
    pub max_election_timeout_ns: u64,
    /// 0..=100: how gladly this member leads. A preferred member waits less before it takes over, and
    /// a less preferred one that leads hands over to it in time.
    pub preference: u32,
    /// Lowest protocol version spoken.
    pub protocol_min: u32,
    /// Highest protocol version spoken.
    pub protocol_max: u32,
}

/// Settings that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// See [`Settings::max_body_bytes`].
    #[error("max_body_bytes {bytes} must be at most {limit}: {why}")]
    BodyTooLarge {
        /// What was asked for.
        bytes: u64,
        /// What the other settings allow.
        limit: u64,
        /// Which setting.
        why: &'static str,
    },
    /// A value outside its range.
    #[error("{name} is {value}, it must be {range}")]
    OutOfRange {
        /// The setting.
        name: &'static str,
        /// What was asked for.
        value: u64,
        /// What is allowed.
        range: &'static str,
    },
}

const MIB: u64 = 1 << 20;
const MS: u64 = 1_000_000;

/// What headers may add to a body (rule P3).
const HEADERS_BYTES: u64 = 64 << 10;

impl Default for Settings {
    fn default() -> Self {
        Self {
            window_bytes: 32 * MIB,
            total_window_bytes: 64 * MIB,
            max_message_bytes: 2 * MIB,
            max_body_bytes: 16 * MIB,
            transport_bytes: 20 * MIB,
            queue_bytes: 96 * MIB,
            segment_bytes: 64 * MIB,
            max_pending_bytes: 64 * MIB,
            max_pending_commands: 100_000,
            max_pending_reads: 100_000,
            cache_bytes: 16 * MIB,
            max_persists: 2,
            election_timeout_ns: 500 * MS,
            min_election_timeout_ns: 150 * MS,
            max_election_timeout_ns: 5_000 * MS,
            preference: 100,
            protocol_min: 1,
            protocol_max: 2,
        }
    }
}

impl Settings {
    /// Largest payload of one command.
    pub fn max_payload_bytes(&self) -> u64 {
        self.max_body_bytes + HEADERS_BYTES
    }

    /// Bytes of commands of one entrance that are with the leader at a time.
    pub(crate) fn entrance_bytes(&self) -> u64 {
        self.window_bytes / 2
    }

    /// The largest message that is sent, in the weights of [`crate::Entry::weight`].
    fn largest_message_bytes(&self) -> u64 {
        let largest = self.max_payload_bytes() + crate::types::Entry::OVERHEAD_BYTES;
        largest.max(self.max_message_bytes)
    }

    /// What one entrance has with the leader at most: its share, or one command.
    pub fn most_forwarded_bytes(&self) -> u64 {
        let largest = self.max_payload_bytes() + crate::types::Entry::OVERHEAD_BYTES;
        largest.max(self.entrance_bytes())
    }

    /// The most that is sent to one peer before anything of it has to come back. A queue that does
    /// not hold it would break its connection again and again: each new one begins with as much.
    pub fn largest_burst_bytes(&self) -> u64 {
        // To a follower a window of the log, to a candidate as much of a promise (a window is looked
        // at before a message is sent), and behind it what this entrance may have with the leader.
        self.window_bytes + self.largest_message_bytes() + self.most_forwarded_bytes()
    }

    /// Checks all limits against each other.
    pub fn check(&self) -> Result<(), SettingsError> {
        let range = |name, value: u64, ok: bool, range| {
            if ok {
                Ok(())
            } else {
                Err(SettingsError::OutOfRange { name, value, range })
            }
        };
        for (limit, why) in [
            (self.window_bytes / 2, "half of window_bytes"),
            (self.total_window_bytes / 2, "half of total_window_bytes"),
            (self.max_pending_bytes / 2, "half of max_pending_bytes"),
            (self.segment_bytes / 4, "a quarter of segment_bytes"),
            (
                self.transport_bytes.saturating_sub(HEADERS_BYTES),
                "transport_bytes less 64 KiB",
            ),
        ] {
            if self.max_body_bytes > limit {
                return Err(SettingsError::BodyTooLarge {
                    bytes: self.max_body_bytes,
                    limit,
                    why,
                });
            }
        }
        range(
            "max_message_bytes",
            self.max_message_bytes,
            self.max_message_bytes > 0
                && self.max_message_bytes <= self.transport_bytes.saturating_sub(HEADERS_BYTES),
            "above 0 and at most transport_bytes less 64 KiB",
        )?;
        range(
            "queue_bytes",
            self.queue_bytes,
            self.queue_bytes >= self.largest_burst_bytes(),
            "at least a window and a half, and two of the largest messages",
        )?;
        range(
            "max_body_bytes",
            self.max_body_bytes,
            self.max_body_bytes > 0,
            "above 0",
        )?;
        range(
            "max_pending_commands",
            u64::from(self.max_pending_commands),
            self.max_pending_commands > 0,
            "above 0",
        )?;
        range(
            "max_pending_reads",
            u64::from(self.max_pending_reads),
            self.max_pending_reads > 0,
            "above 0",
        )?;
        range(
            "max_persists",
            u64::from(self.max_persists),
            (1..=64).contains(&self.max_persists),
            "1 to 64",
        )?;
        range(
            "min_election_timeout_ns",
            self.min_election_timeout_ns,
            self.min_election_timeout_ns >= MS,
            "at least 1 ms",
        )?;
        range(
            "election_timeout_ns",
            self.election_timeout_ns,
            (self.min_election_timeout_ns..=self.max_election_timeout_ns)
                .contains(&self.election_timeout_ns),
            "between min_election_timeout_ns and max_election_timeout_ns",
        )?;
        range(
            "preference",
            u64::from(self.preference),
            self.preference <= 100,
            "0 to 100",
        )?;
        range(
            "protocol_min",
            u64::from(self.protocol_min),
            self.protocol_min > 0 && self.protocol_min <= self.protocol_max,
            "above 0 and at most protocol_max",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_agree_with_each_other() {
        assert_eq!(Settings::default().check(), Ok(()));
    }

    #[test]
    fn a_command_larger_than_half_the_window_is_refused_at_start() {
        let settings = Settings {
            window_bytes: 10 * MIB,
            ..Settings::default()
        };
        assert!(matches!(
            settings.check(),
            Err(SettingsError::BodyTooLarge { why, .. }) if why.contains("window_bytes")
        ));
    }

    #[test]
    fn a_command_larger_than_a_quarter_segment_is_refused_at_start() {
        let settings = Settings {
            segment_bytes: 16 * MIB,
            ..Settings::default()
        };
        assert!(matches!(
            settings.check(),
            Err(SettingsError::BodyTooLarge { why, .. }) if why.contains("segment")
        ));
    }

    #[test]
    fn a_queue_that_does_not_hold_what_is_sent_at_once_is_refused_at_start() {
        let settings = |queue_bytes| Settings {
            queue_bytes,
            ..Settings::default()
        };
        let burst = Settings::default().largest_burst_bytes();
        assert_eq!(settings(burst).check(), Ok(()));
        assert!(matches!(
            settings(burst - 1).check(),
            Err(SettingsError::OutOfRange {
                name: "queue_bytes",
                ..
            })
        ));
    }

    #[test]
    fn a_message_larger_than_the_transport_takes_is_refused_at_start() {
        let settings = Settings {
            max_message_bytes: 20 * MIB,
            ..Settings::default()
        };
        assert!(settings.check().is_err());
    }
}
