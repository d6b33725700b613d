//! Lengths of time as the Gateway API writes them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration as StdDuration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time: one to four numbers of at most five digits, each with its unit `h`, `m`, `s`
/// or `ms`, such as `10s`, `1h30m` or `500ms` (Gateway API, GEP-2257).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(StdDuration);

/// Why a text is not a [`Duration`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a length of time: write one to four numbers with a unit (h, m, s or ms), such as 10s, 1h30m or 500ms"
)]
pub struct DurationError(String);

const PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

// === impl Duration ===

impl Duration {
    /// A number of hours.
    pub const fn from_hours(hours: u64) -> Self {
        Self(StdDuration::from_secs(hours * 3600))
    }

    /// A number of minutes.
    pub const fn from_minutes(minutes: u64) -> Self {
        Self(StdDuration::from_secs(minutes * 60))
    }

    /// A number of seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(StdDuration::from_secs(seconds))
    }

    /// The same as the standard library has it.
    pub const fn get(self) -> StdDuration {
        self.0
    }

    /// In whole milliseconds: there is no finer unit.
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).expect("four numbers of five digits fit")
    }

    /// No time at all.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || DurationError(text.chars().take(64).collect());
        let mut rest = text;
        let mut millis = 0_u64;
        let mut parts = 0;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            let letters = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
            let (unit, tail) = tail.split_at(letters);
            parts += 1;
            if !(1..=5).contains(&digits) || parts > 4 {
                return Err(error());
            }
            let scale = match unit {
                "h" => 3_600_000,
                "m" => 60_000,
                "s" => 1_000,
                "ms" => 1,
                _ => return Err(error()),
            };
            millis += number.parse::<u64>().map_err(|_| error())? * scale;
            rest = tail;
        }
        if parts == 0 {
            return Err(error());
        }
        Ok(Self(StdDuration::from_millis(millis)))
    }
}

impl fmt::Display for Duration {
    /// The shortest text that reads back as the same time. One number holds five digits, so what
    /// is beyond 99,999 hours shows up as a second number of hours.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.as_millis();
        if millis == 0 {
            return f.write_str("0s");
        }
        let mut hours = millis / 3_600_000;
        while hours > 0 {
            let part = hours.min(99_999);
            write!(f, "{part}h")?;
            hours -= part;
        }
        for (value, unit) in [
            (millis / 60_000 % 60, "m"),
            (millis / 1_000 % 60, "s"),
            (millis % 1_000, "ms"),
        ] {
            if value > 0 {
                write!(f, "{value}{unit}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": PATTERN, "maxLength": 28})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_the_gateway_api_are_read() {
        for (text, millis) in [
            ("10s", 10_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("1h2m3s4ms", 3_723_004),
            ("30m1h", 5_400_000),
            ("0s", 0),
        ] {
            assert_eq!(
                text.parse::<Duration>().map(Duration::as_millis),
                Ok(millis)
            );
        }
    }

    #[test]
    fn what_is_not_a_duration_is_refused_with_examples() {
        for text in [
            "",
            "10",
            "s",
            "1.5s",
            "-1s",
            "100000s",
            "1d",
            "1h1m1s1ms1s",
            "1 s",
            "1µs",
            "５s",
        ] {
            let error = text.parse::<Duration>().expect_err(text).to_string();
            assert!(error.contains("1h30m"), "{error}");
        }
    }

    #[test]
    fn a_printed_duration_reads_back_as_the_same() {
        for text in [
            "1h30m",
            "500ms",
            "90s",
            "0ms",
            "99999h99999h",
            "24h",
            "1m1ms",
        ] {
            let first: Duration = text.parse().expect(text);
            assert_eq!(first.to_string().parse(), Ok(first));
        }
    }
}
