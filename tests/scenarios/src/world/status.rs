//! How the group stands, in few words.

use synod_paxos::{Slot, Standing};

use super::World;
use crate::print;
use crate::words::Wrong;

impl World {
    /// One line for members that stand alike.
    pub(super) fn summary(&self) -> Vec<String> {
        let mut lines: Vec<(Vec<u32>, String)> = Vec::new();
        let mut leads = Vec::new();
        for (member, host) in &self.hosts {
            let Some(process) = &host.process else {
                let line = match host.ended {
                    Some(_) => "ended",
                    None => "down",
                };
                add(&mut lines, *member, line.to_owned());
                continue;
            };
            let paxos = &process.paxos;
            if paxos.standing() == Standing::Leader {
                leads.push(format!("{member} leads in {}", paxos.promised()));
            }
            let paused = if host.paused { "paused, " } else { "" };
            let stands = if paxos.standing() == Standing::Candidate {
                "stands for election, "
            } else {
                ""
            };
            let removed = match paxos.removed() {
                Some(_) => "removed, ",
                None => "",
            };
            let log = if paxos.last() < paxos.first() {
                format!("nothing behind {}", paxos.last())
            } else {
                format!("{}..{}", paxos.first(), paxos.last())
            };
            let line = format!(
                "{paused}{stands}{removed}promised {}, accepted {}, log {log}, commit {}, applied {}",
                paxos.promised(),
                paxos.accepted(),
                paxos.commit(),
                process.machine.applied()
            );
            add(&mut lines, *member, line);
        }
        if leads.is_empty() {
            leads.push("nobody leads".to_owned());
        }
        let all = lines.into_iter().map(|(members, line)| {
            let members: Vec<String> = members.iter().map(u32::to_string).collect();
            format!("{}: {line}", members.join(" "))
        });
        leads.into_iter().chain(all).collect()
    }

    pub(crate) fn show_status(&mut self) {
        for line in self.summary() {
            self.tell(line);
        }
    }

    /// What a member's log holds, as far as it can be read.
    pub(crate) fn show_log(&mut self, member: u32) -> Result<(), Wrong> {
        let paxos = self.paxos(member)?;
        let (first, last, commit) = (paxos.first(), paxos.last(), paxos.commit());
        let synced = paxos.synced();
        let mut lines = Vec::new();
        for slot in first.0..=last.0 {
            let slot = Slot(slot);
            let Some(ballot) = paxos.ballot_at(slot) else {
                continue;
            };
            let held = self.process(member).and_then(|it| it.entry(slot));
            let held = held.filter(|it| it.ballot == ballot);
            let entry = paxos.entry(slot).cloned().or(held);
            let what = entry.map_or_else(
                || "cannot be read".to_owned(),
                |entry| print::command(&entry.command),
            );
            let chosen = if slot <= commit { ", chosen" } else { "" };
            let unsynced = if slot > synced { ", not synced" } else { "" };
            lines.push(format!("{slot} {what} ({ballot}{chosen}{unsynced})"));
        }
        if lines.is_empty() {
            lines.push(format!("nothing behind {last}"));
        }
        for line in lines {
            self.tell(line);
        }
        Ok(())
    }

    /// What a member's app holds.
    pub(crate) fn show_app(&mut self, member: u32) -> Result<(), Wrong> {
        let host = self.host(member)?;
        let up = if host.app.up { "" } else { ", down" };
        let show = host.app.state().show();
        self.tell(format!("{show}{up}"));
        Ok(())
    }
}

/// To the line of the members that say the same.
fn add(lines: &mut Vec<(Vec<u32>, String)>, member: u32, line: String) {
    match lines.iter_mut().find(|(_, it)| *it == line) {
        Some((members, _)) => members.push(member),
        None => lines.push((vec![member], line)),
    }
}
