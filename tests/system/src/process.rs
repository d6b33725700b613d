//! Processes of this machine, as `/proc` shows them.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A process by its number, told apart from a later one of the same number by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pid: i32,
    started: u64,
}

impl Process {
    /// The living process of that number.
    pub fn of(pid: i32) -> Option<Self> {
        let (state, started) = stat(pid)?;
        (!matches!(state, 'Z' | 'X')).then_some(Self { pid, started })
    }

    /// The living process that a pid file names.
    pub fn named_by(file: &Path) -> Option<Self> {
        let pid = fs::read_to_string(file).ok()?;
        Self::of(pid.trim().parse().ok()?)
    }

    /// Its number.
    pub fn pid(self) -> i32 {
        self.pid
    }

    /// It still runs, or is stopped; a zombie does not count.
    pub fn lives(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// It is stopped by a signal.
    pub fn is_stopped(self) -> bool {
        stat(self.pid).is_some_and(|(state, started)| state == 'T' && started == self.started)
    }

    /// Sends a signal, if it is still the same process.
    pub fn signal(self, signal: Signal) -> io::Result<()> {
        let pid = Pid::from_raw(self.pid).filter(|_| self.lives());
        let pid = pid.ok_or_else(|| io::Error::from_raw_os_error(3))?;
        Ok(kill_process(pid, signal)?)
    }

    /// A variable of its environment.
    pub fn variable(self, name: &str) -> Option<String> {
        let environment = fs::read(format!("/proc/{}/environ", self.pid)).ok()?;
        let wanted = format!("{name}=");
        environment
            .split(|&byte| byte == 0)
            .find_map(|entry| entry.strip_prefix(wanted.as_bytes()))
            .map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// The most memory that it has had, in bytes.
    pub fn peak_memory(self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|it| it.strip_prefix("VmHWM:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib << 10)
    }

    /// What it was started as.
    pub fn command_line(self) -> String {
        let line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ")
    }

    /// TCP ports that it listens on.
    pub fn listening_ports(self) -> Vec<u16> {
        let mut inodes = Vec::new();
        for entry in fs::read_dir(format!("/proc/{}/fd", self.pid))
            .into_iter()
            .flatten()
            .flatten()
        {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            let target = target.to_string_lossy().into_owned();
            let inode = target
                .strip_prefix("socket:[")
                .and_then(|t| t.strip_suffix(']'));
            inodes.extend(inode.map(str::to_owned));
        }
        let mut ports = Vec::new();
        for table in ["tcp", "tcp6"] {
            let table = fs::read_to_string(format!("/proc/{}/net/{table}", self.pid));
            for line in table.unwrap_or_default().lines().skip(1) {
                let fields: Vec<_> = line.split_whitespace().collect();
                let [_, local, _, "0A", _, _, _, _, _, inode, ..] = fields[..] else {
                    continue;
                };
                if inodes.iter().any(|own| own == inode) {
                    let port = local.rsplit(':').next().unwrap_or("");
                    ports.extend(u16::from_str_radix(port, 16));
                }
            }
        }
        ports.sort_unstable();
        ports.dedup();
        ports
    }
}

/// State letter and start time (`man 5 proc_pid_stat`, fields 3 and 22).
fn stat(pid: i32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may itself hold spaces and parentheses.
    let rest = stat.get(stat.rfind(')')? + 1..)?;
    let fields: Vec<_> = rest.split_whitespace().collect();
    Some((
        fields.first()?.chars().next()?,
        fields.get(19)?.parse().ok()?,
    ))
}

/// All living processes that have `name=value` in their environment, or `folder` as a part of the
/// way to the folder they work in: some programs, such as nginx, write over their environment.
pub fn belonging_to(name: &str, value: &str, folder: &Path) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    let works_there = |process: &Process| {
        let place = fs::read_link(format!("/proc/{}/cwd", process.pid));
        place.is_ok_and(|place| place.starts_with(folder))
    };
    let is_marked = |process: &Process| process.variable(name).as_deref() == Some(value);
    pids.filter_map(Process::of)
        .filter(|process| is_marked(process) || works_there(process))
        .collect()
}

/// Waits until `condition` holds, looking every `every`; false when it does not in time.
pub async fn eventually(
    limit: Duration,
    every: Duration,
    mut condition: impl AsyncFnMut() -> bool,
) -> bool {
    let end = Instant::now() + limit;
    loop {
        if condition().await {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        tokio::time::sleep(every).await;
    }
}
