//! What a process that runs checks says, a line each.

use std::fmt;
use std::str::FromStr;

/// A line of its output. What is said about a check is about the last that has begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// This script begins.
    Script(String),
    /// This seed of the simulator begins.
    Seed(u64),
    /// Nothing was found, in so many events.
    Clean(u64),
    /// A claim of the script does not hold.
    Claim(String),
    /// What happens is not what the script says.
    Differs,
    /// This invariant broke, after so many events.
    Broke(u64, String),
    /// An assertion of the code broke, after so many events; the process ends.
    Panicked(u64, String),
}

// === impl Said ===

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Script(name) => write!(f, "script {name}"),
            Self::Seed(seed) => write!(f, "seed {seed}"),
            Self::Clean(events) => write!(f, "clean {events}"),
            Self::Claim(text) => write!(f, "claim {}", one_line(text)),
            Self::Differs => write!(f, "differs "),
            Self::Broke(events, invariant) => write!(f, "broke {events} {}", one_line(invariant)),
            Self::Panicked(events, text) => write!(f, "panicked {events} {}", one_line(text)),
        }
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl FromStr for Said {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let (kind, rest) = line.split_once(' ').ok_or(())?;
        let number = |text: &str| text.parse().map_err(drop);
        let both = || {
            let (events, text) = rest.split_once(' ').ok_or(())?;
            Ok((number(events)?, text.to_owned()))
        };
        Ok(match kind {
            "script" => Self::Script(rest.to_owned()),
            "seed" => Self::Seed(number(rest)?),
            "clean" => Self::Clean(number(rest)?),
            "claim" => Self::Claim(rest.to_owned()),
            "differs" => Self::Differs,
            "broke" => {
                let (events, invariant) = both()?;
                Self::Broke(events, invariant)
            }
            "panicked" => {
                let (events, text) = both()?;
                Self::Panicked(events, text)
            }
            _ => return Err(()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        let all = [
            Said::Script("normal/one-request".to_owned()),
            Said::Seed(7),
            Said::Clean(0),
            Said::Claim("line 3: it is so".to_owned()),
            Said::Differs,
            Said::Broke(12, "I4".to_owned()),
            Said::Panicked(3, "I11: a stop-sign is the last of its epoch".to_owned()),
        ];
        for said in all {
            assert_eq!(said.to_string().parse(), Ok(said));
        }
        let long = Said::Panicked(3, "left\n  right".to_owned());
        assert_eq!(long.to_string(), "panicked 3 left right");
        for wrong in ["", "clean", "clean x", "broke I4", "hello world"] {
            assert_eq!(wrong.parse::<Said>(), Err(()), "{wrong}");
        }
    }
}
