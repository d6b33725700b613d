//! The members of a group as a table.

use comfy_table::{Cell, CellAlignment, Table};
use synod_sidecar::admin::status::Status;

/// One line of the table: what a member is, and what it said last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) url: String,
    /// `None`: it does not answer.
    pub(crate) status: Option<Status>,
    /// It has answered before, so no answer means that something happened to it.
    pub(crate) known: bool,
}

impl Line {
    /// How the copy is, in a word.
    pub(crate) fn state(&self) -> &str {
        match &self.status {
            None if self.known => "Unreachable",
            None => "Starting",
            Some(it) if it.state.is_empty() => "Starting",
            Some(it) => &it.state,
        }
    }

    fn waiting(&self) -> String {
        let waiting = self.status.as_ref().and_then(|it| it.waiting_on.as_ref());
        waiting.map_or_else(String::new, |it| {
            let slot = if it.slot == 0 {
                String::new()
            } else {
                format!(" at slot {}", it.slot)
            };
            let on = &it.on;
            let undecided = self.status.as_ref().and_then(|it| it.undecided.as_ref());
            match undecided.filter(|it| on == "poison" && !it.waits_for.is_empty()) {
                Some(it) => {
                    let waits_for = it.waits_for.join("; ");
                    format!(
                        "waits for {on}{slot} ({} {}): {waits_for}",
                        it.method, it.path
                    )
                }
                None => format!("waits for {on}{slot}"),
            }
        })
    }
}

/// Name of the leader that most of the members that answer follow.
pub(crate) fn leader(lines: &[Line]) -> Option<&str> {
    let leaders = || {
        lines
            .iter()
            .filter_map(|it| it.status.as_ref()?.leader.as_deref())
    };
    leaders().max_by_key(|name| leaders().filter(|it| it == name).count())
}

/// The whole table, without a newline at its end.
pub(crate) fn render(lines: &[Line], colors: bool) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header([
        "MEMBER", "URL", "ROLE", "SLOT", "LAG", "SNAPSHOT", "STATE", "",
    ]);
    let newest = lines
        .iter()
        .filter_map(|it| it.status.as_ref())
        .map(|it| it.commit)
        .max()
        .unwrap_or_default();
    let leader = leader(lines);
    for line in lines {
        let number = |value: Option<u64>| {
            Cell::new(value.map_or("-".to_owned(), |it| it.to_string()))
                .set_alignment(CellAlignment::Right)
        };
        let is_witness = |it: &Status| it.role == "Witness";
        let witness = line.status.as_ref().is_some_and(is_witness);
        // Of a witness it is its log that can be behind.
        let reached = |it: &Status| if witness { it.commit } else { it.applied };
        let applied = line.status.as_ref().map(reached);
        let snapshot = line.status.as_ref().and_then(|it| it.snapshot.as_ref());
        let leads = leader == Some(&line.name) && line.status.is_some();
        let role = if leads {
            "leader"
        } else if witness {
            "witness"
        } else if line.status.is_some() {
            "follower"
        } else {
            "-"
        };
        table.add_row(vec![
            Cell::new(&line.name),
            Cell::new(&line.url),
            Cell::new(role),
            number(applied),
            number(applied.map(|it| newest.saturating_sub(it))),
            number(snapshot.map(|it| it.slot)),
            Cell::new(line.state()),
            Cell::new(line.waiting()),
        ]);
    }
    let text = table.to_string();
    let rows = text.lines().enumerate().map(|(index, row)| {
        let row = row.trim_end();
        match index.checked_sub(1).and_then(|it| lines.get(it)) {
            Some(line) if colors => color(row, line.state()),
            _ => row.to_owned(),
        }
    });
    rows.collect::<Vec<_>>().join("\n")
}

/// The row with its state in a colour. Done last: widths are counted without it.
fn color(row: &str, state: &str) -> String {
    let code = match state {
        "CaughtUp" => 32,
        "Unreachable" | "Quarantined" => 31,
        _ => 33,
    };
    row.replacen(
        &format!(" {state}"),
        &format!(" \x1b[{code}m{state}\x1b[0m"),
        1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_sidecar::admin::status::{Snapshot, Waiting};

    fn line(name: &str, applied: u64, leader: &str) -> Line {
        Line {
            name: name.to_owned(),
            url: "http://127.0.0.1:8080".to_owned(),
            status: Some(Status {
                applied,
                commit: applied,
                leader: Some(leader.to_owned()),
                state: "CaughtUp".to_owned(),
                ..Status::default()
            }),
            known: true,
        }
    }

    #[test]
    fn the_table_names_leader_slot_lag_and_state() {
        let mut lines = vec![
            line("n-1", 7, "n-2"),
            line("n-2", 10, "n-2"),
            line("n-3", 0, "n-2"),
        ];
        lines[2].status = None;
        let first = lines[0].status.as_mut().expect("there");
        first.waiting_on = Some(Waiting {
            on: "app".to_owned(),
            slot: 8,
            age_ms: 5,
        });
        first.snapshot = Some(Snapshot {
            slot: 4,
            bytes: 1,
            verified: true,
        });
        let text = render(&lines, false);
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|it| it.split_whitespace().collect())
            .collect();
        assert_eq!(
            rows[0],
            ["MEMBER", "URL", "ROLE", "SLOT", "LAG", "SNAPSHOT", "STATE"]
        );
        assert_eq!(rows[1][2..7], ["follower", "7", "3", "4", "CaughtUp"]);
        assert!(text.contains("waits for app at slot 8"), "{text}");
        assert_eq!(rows[2][2..7], ["leader", "10", "0", "-", "CaughtUp"]);
        assert_eq!(rows[3][2..7], ["-", "-", "-", "-", "Unreachable"]);
        assert!(!text.contains('\u{1b}'));
        lines[2].known = false;
        assert!(render(&lines, false).contains("Starting"));
        assert!(render(&lines, true).contains('\u{1b}'));
    }

    #[test]
    fn the_leader_is_the_one_that_most_follow() {
        let lines = [
            line("n-1", 1, "n-1"),
            line("n-2", 1, "n-3"),
            line("n-3", 1, "n-3"),
        ];
        assert_eq!(leader(&lines), Some("n-3"));
        assert_eq!(leader(&[]), None);
    }
}
