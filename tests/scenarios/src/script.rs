//! A script as it lies in its file: what it is about, and its commands with what each has said.
//!
//! ```text
//! # The situation in a line, which is the title.
//! # More of it, and the rule or the kind of bug that it guards.
//!
//! group 3
//! propose 1 x=1
//!   1 writes: append 2 x=1
//! expect not answered x=1
//! ```
//!
//! A line that begins with two spaces is output of the command above it. `#` begins a remark. Empty
//! lines mean nothing and stay where they are.

use std::fmt;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Its first line, without the `#`.
    pub title: String,
    /// The other lines of the first remark.
    pub about: Vec<String>,
    /// Everything, in order.
    pub items: Vec<Item>,
}

/// A part of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A remark or an empty line, as it stands there.
    Text(String),
    /// A command, and the output that it should have.
    Command {
        /// Where it stands, from 1.
        line: usize,
        /// As it stands there.
        text: String,
        /// Without the two spaces.
        output: Vec<String>,
    },
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    line: usize,
    what: &'static str,
}

// === impl Malformed ===

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

// === impl Script ===

impl Script {
    /// Reads a script.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let mut items: Vec<Item> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let malformed = |what| Malformed { line: at + 1, what };
            if let Some(said) = line.strip_prefix("  ") {
                let Some(Item::Command { output, .. }) = items.last_mut() else {
                    return Err(malformed("output that belongs to no command"));
                };
                output.push(said.to_owned());
            } else if line.starts_with(char::is_whitespace) {
                return Err(malformed("output begins with two spaces"));
            } else if line.is_empty() || line.starts_with('#') {
                items.push(Item::Text(line.to_owned()));
            } else {
                items.push(Item::Command {
                    line: at + 1,
                    text: line.to_owned(),
                    output: Vec::new(),
                });
            }
        }
        let remark = |item: &Item| match item {
            Item::Text(text) => text.strip_prefix('#').map(|it| it.trim().to_owned()),
            Item::Command { .. } => None,
        };
        let mut first = items.iter().map_while(remark);
        let title = first.next().filter(|it| !it.is_empty()).ok_or(Malformed {
            line: 1,
            what: "a script begins with a remark that says what it is about",
        })?;
        let about: Vec<String> = first.collect();
        if about.is_empty() {
            return Err(Malformed {
                line: 2,
                what: "the remark says which rule or kind of bug the script guards",
            });
        }
        Ok(Self {
            title,
            about,
            items,
        })
    }
}

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for item in &self.items {
            match item {
                Item::Text(text) => writeln!(f, "{text}")?,
                Item::Command { text, output, .. } => {
                    writeln!(f, "{text}")?;
                    for line in output {
                        writeln!(f, "  {line}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRIPT: &str = "\
# A title.
# Rule X1.

group 3
# A remark.
deliver 1->2
  1 -> 2: accept
    2 writes: append 1

expect leader 1
";

    #[test]
    fn what_was_read_is_written_as_it_was() {
        let script = Script::parse(SCRIPT).unwrap();
        assert_eq!(script.title, "A title.");
        assert_eq!(script.about, ["Rule X1."]);
        assert_eq!(script.to_string(), SCRIPT);
        let commands = script.items.iter().filter_map(|item| match item {
            Item::Command { line, text, output } => Some((*line, text.as_str(), output.len())),
            Item::Text(_) => None,
        });
        let commands: Vec<_> = commands.collect();
        assert_eq!(
            commands,
            [
                (4, "group 3", 0),
                (6, "deliver 1->2", 2),
                (10, "expect leader 1", 0)
            ]
        );
    }

    #[test]
    fn a_script_without_a_story_or_with_output_of_nothing_is_refused() {
        let wrong = |text| Script::parse(text).unwrap_err().to_string();
        assert!(wrong("group 3\n").starts_with("line 1: a script begins with a remark"));
        assert!(wrong("# Title.\n\ngroup 3\n").starts_with("line 2: the remark says"));
        assert!(wrong("# Title.\n# P1.\n  said\n").starts_with("line 3: output that belongs"));
        assert!(wrong("# Title.\n# P1.\ngroup 3\n said\n").starts_with("line 4: output begins"));
    }
}
