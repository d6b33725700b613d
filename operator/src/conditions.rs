//! The conditions of services and groups: their types, the reasons that they may have, what each
//! reason means and what to do about it. One table: the code sets conditions by it, and the
//! documentation is printed from it ([`markdown`]).

use std::fmt::Write as _;

use k8s_openapi::jiff::Timestamp;
use synod_api::Condition;

mod table;

pub use table::*;

/// A type of condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// As objects have it.
    pub name: &'static str,
    /// What it says when it is true.
    pub meaning: &'static str,
    /// The status that asks for nobody's attention.
    pub good: Status,
    /// It is there only while it is true (as kstatus wants it).
    pub only_when_true: bool,
}

/// A reason, as it is known by one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The word.
    pub name: &'static str,
    /// Conditions that may have it.
    pub on: &'static [&'static Kind],
    /// What it means.
    pub meaning: &'static str,
    /// What to do.
    pub way_out: &'static str,
}

/// Whether something is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It is.
    True,
    /// It is not.
    False,
    /// Nobody can tell now.
    Unknown,
}

/// One object's conditions while they are written anew.
#[derive(Debug)]
pub struct Conditions<'a> {
    before: &'a [Condition],
    list: Vec<Condition>,
    generation: Option<i64>,
    now: Timestamp,
}

// === impl Status ===

impl Status {
    /// As objects have it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Status {
    fn from(it: bool) -> Self {
        if it { Self::True } else { Self::False }
    }
}

// === impl Conditions ===

impl<'a> Conditions<'a> {
    /// To be written anew for this generation of the spec, where `before` is what the object has.
    pub fn new(before: &'a [Condition], generation: Option<i64>, now: Timestamp) -> Self {
        Self {
            before,
            list: Vec::new(),
            generation,
            now,
        }
    }

    /// Says how one thing is; a later word about the same thing wins. A condition that is only there
    /// while it is true is left out otherwise.
    ///
    /// # Panics
    ///
    /// When the table does not allow this reason for this type.
    pub fn set(
        &mut self,
        kind: &'static Kind,
        status: Status,
        reason: &'static Reason,
        message: impl Into<String>,
    ) {
        assert!(
            reason.on.iter().any(|it| it.name == kind.name),
            "{} is no reason for {}",
            reason.name,
            kind.name
        );
        self.list.retain(|it| it.kind != kind.name);
        if kind.only_when_true && status != Status::True {
            return;
        }
        self.push(kind.name, status.as_str(), reason.name, message.into());
    }

    /// Takes over a condition that another object has, under the same type.
    pub fn copy(&mut self, from: &Condition, message: impl Into<String>) {
        self.list.retain(|it| it.kind != from.kind);
        self.push(&from.kind, &from.status, &from.reason, message.into());
    }

    /// Leaves a condition as it is: nobody has looked at that again.
    pub fn keep(&mut self, condition: &Condition) {
        self.list.retain(|it| it.kind != condition.kind);
        self.list.push(condition.clone());
    }

    /// What is said of one thing.
    pub fn get(&self, kind: &Kind) -> Option<&Condition> {
        find(&self.list, kind)
    }

    /// All of them.
    pub fn finish(self) -> Vec<Condition> {
        self.list
    }

    /// `lastTransitionTime` is when `status` changed: another reason or message is no transition.
    fn push(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let before = self.before.iter().find(|it| it.kind == kind);
        let since = before
            .filter(|it| it.status == status)
            .and_then(|it| it.last_transition_time.clone());
        self.list.push(Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message,
            last_transition_time: Some(since.unwrap_or_else(|| seconds(self.now))),
            observed_generation: self.generation,
        });
    }
}

/// The condition of this type, if there is one.
pub fn find<'a>(conditions: &'a [Condition], kind: &Kind) -> Option<&'a Condition> {
    conditions.iter().find(|it| it.kind == kind.name)
}

/// Whether there is a condition of this type, and it is true.
pub fn is_true(conditions: &[Condition], kind: &Kind) -> bool {
    find(conditions, kind).is_some_and(|it| it.status == Status::True.as_str())
}

/// The reason of this name, as another operator wrote it; one that this version does not know, or
/// that has no place there, counts as an error of the operator.
pub fn named(name: &str, on: &Kind) -> &'static Reason {
    let known = REASONS
        .iter()
        .find(|it| it.name == name && it.on.iter().any(|kind| kind.name == on.name));
    known.copied().unwrap_or(&OPERATOR_ERROR)
}

/// Whole seconds, as the API's own times are.
fn seconds(now: Timestamp) -> String {
    Timestamp::from_second(now.as_second())
        .expect("a time without its fraction is a time")
        .to_string()
}

/// What is told of several, each piece once: `a, b: words; c: other words`.
pub(crate) fn told<'a>(pieces: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for (name, words) in pieces {
        match groups.iter_mut().find(|it| it.0 == words) {
            Some((_, names)) => names.push(name),
            None => groups.push((words, vec![name])),
        }
    }
    let lines = groups
        .iter()
        .map(|(words, names)| format!("{}: {words}", names.join(", ")));
    lines.collect::<Vec<_>>().join("; ")
}

/// At most so many bytes of a text.
pub(crate) fn shorten(mut text: String, bytes: usize) -> String {
    while text.len() > bytes {
        text.pop();
    }
    text
}

/// The page of the documentation.
pub fn markdown() -> String {
    let mut text = String::from(HEAD);
    for kind in KINDS {
        let rows: Vec<_> = REASONS
            .iter()
            .filter(|it| it.on.iter().any(|on| on.name == kind.name))
            .collect();
        let when = if kind.only_when_true {
            " It is there only while it is true."
        } else {
            ""
        };
        write!(
            text,
            "\n## {}\n\n{}{when} Nothing to do when it is `{}`.\n\n| reason | means | to do |\n|---|---|---|\n",
            kind.name,
            kind.meaning,
            kind.good.as_str()
        )
        .expect("a string takes everything");
        for row in rows {
            writeln!(
                text,
                "| `{}` | {} | {} |",
                row.name, row.meaning, row.way_out
            )
            .expect("a string takes everything");
        }
    }
    text
}

const HEAD: &str = "# Conditions and what to do\n
<!-- Printed from the operator's own table: cargo run -p synod-operator --example conditions -->

`kubectl describe rsvc NAME` shows a service's conditions, `kubectl describe rgrp NAME` those of one
cluster's part. Each has a `reason` from the tables below, and a `message` that names the object,
pod or field it is about. Scripts can rely on types and reasons; messages are for people.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_for_several_is_told_once() {
        let pieces = [("a", "no volume"), ("b", "no image"), ("c", "no volume")];
        assert_eq!(told(pieces), "a, c: no volume; b: no image");
        assert_eq!(told([]), "");
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn the_time_of_a_transition_changes_with_the_status_only() {
        let mut first = Conditions::new(&[], Some(1), at(100));
        first.set(&READY, Status::False, &WAITING_FOR_MEMBERS, "two to go");
        let first = first.finish();
        let mut second = Conditions::new(&first, Some(2), at(200));
        second.set(&READY, Status::False, &NO_LEADER, "none");
        let second = second.finish();
        assert_eq!(
            second[0].last_transition_time, first[0].last_transition_time,
            "the status is the same"
        );
        assert_eq!(second[0].reason, "NoLeader");
        assert_eq!(second[0].observed_generation, Some(2));
        let mut third = Conditions::new(&second, Some(2), at(300));
        third.set(&READY, Status::True, &AS_DESIRED, "");
        assert_eq!(
            third.finish()[0].last_transition_time.as_deref(),
            Some("1970-01-01T00:05:00Z")
        );
    }

    #[test]
    fn reconciling_and_stalled_are_there_only_while_they_are_true() {
        let mut list = Conditions::new(&[], None, at(1));
        list.set(&STALLED, Status::True, &INVALID_SPEC, "x");
        assert!(list.get(&STALLED).is_some());
        list.set(&STALLED, Status::False, &AS_DESIRED, "");
        assert!(list.get(&STALLED).is_none());
    }

    #[test]
    #[should_panic(expected = "is no reason for")]
    fn a_reason_outside_the_table_is_a_broken_invariant() {
        let mut list = Conditions::new(&[], None, at(1));
        list.set(&READY, Status::True, &BYPASS_SEEN, "");
    }

    #[test]
    fn every_row_of_the_table_is_complete_and_named_once() {
        let mut names = std::collections::BTreeSet::new();
        for reason in REASONS {
            assert!(names.insert(reason.name), "{} is there twice", reason.name);
            assert!(!reason.on.is_empty(), "{}", reason.name);
            assert!(!reason.meaning.is_empty() && !reason.way_out.is_empty());
            assert!(
                reason.name.bytes().all(|it| it.is_ascii_alphanumeric()),
                "{}",
                reason.name
            );
        }
    }

    /// The text of all modules but the table, without their tests.
    fn code(folder: &std::path::Path, text: &mut String) {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                code(&path, text);
                continue;
            }
            let name = path.to_string_lossy();
            if !name.ends_with(".rs") || name.ends_with("tests.rs") || name.ends_with("table.rs") {
                continue;
            }
            let whole = std::fs::read_to_string(&path).expect("a module");
            let part = whole.split("\nmod tests {").next().unwrap_or_default();
            text.push_str(part);
        }
    }

    #[test]
    fn every_reason_that_is_documented_is_one_that_the_operator_gives() {
        let mut text = String::new();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        code(std::path::Path::new(source), &mut text);
        let words: std::collections::BTreeSet<&str> = text
            .split(|it: char| !it.is_ascii_alphanumeric() && it != '_')
            .collect();
        for reason in REASONS {
            let mut constant = String::new();
            for letter in reason.name.chars() {
                if letter.is_ascii_uppercase() && !constant.is_empty() {
                    constant.push('_');
                }
                constant.push(letter.to_ascii_uppercase());
            }
            assert!(
                words.contains(&constant.as_str()),
                "nobody gives {}",
                reason.name
            );
        }
        for kind in KINDS {
            assert!(
                REASONS
                    .iter()
                    .any(|it| it.on.iter().any(|on| on.name == kind.name)),
                "{} has no reason",
                kind.name
            );
        }
    }

    #[test]
    fn the_documentation_is_what_the_table_says() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../docs/kubernetes/conditions.md"
        );
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == markdown(),
            "docs/kubernetes/conditions.md is not what the table says: run `cargo run -p synod-operator --example conditions`"
        );
    }
}
