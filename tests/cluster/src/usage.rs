//! What a run costs. Comes in: nothing. Goes out: the processes below this one, and their memory.

use std::collections::HashMap;
use std::fs;

use synod_system::process::Process;

/// All living processes that this one started, and those that they started.
pub fn descendants() -> Vec<Process> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![std::process::id().cast_signed()];
    while let Some(pid) = open.pop() {
        let below = children.remove(&pid).unwrap_or_default();
        found.extend(below.iter().copied().filter_map(Process::of));
        open.extend(below);
    }
    found
}

fn parent(pid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok()
}

/// Memory of those processes in bytes; what several share is counted once.
pub fn memory(processes: &[Process]) -> u64 {
    let of = |process: &Process| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", process.pid())).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(kilobytes * 1024)
    };
    processes.iter().filter_map(of).sum()
}
