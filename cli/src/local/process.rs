//! One child process in a process group of its own: started through `exec-child`, named in a pid
//! file, its output in a log file, ended with everything it started.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use crate::guard::{Guard, any_lives};

/// A log larger than this is put aside at the next start.
const MAX_LOG_BYTES: u64 = 16 << 20;
/// How often what was killed is looked for until it is gone.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What to start.
#[derive(Clone, Debug)]
pub(super) struct Program {
    /// Program and arguments.
    pub(super) command: Vec<String>,
    /// Variables besides the inherited ones.
    pub(super) environment: Vec<(String, OsString)>,
    /// Takes what it prints.
    pub(super) log: PathBuf,
    /// Takes its process id.
    pub(super) pid_file: PathBuf,
}

/// A process that was started. Dropping it kills its whole group.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    group: Pid,
    pid_file: PathBuf,
    guard: Guard,
    ended: bool,
}

impl Program {
    /// Starts it. `own` is this program's file, which plays `exec-child`.
    pub(super) fn start(&self, own: &Path, guard: &Guard) -> std::io::Result<Running> {
        let log = open_log(&self.log)?;
        let child = Command::new(own)
            .arg("exec-child")
            .arg("--supervisor")
            .arg(std::process::id().to_string())
            .arg("--")
            .args(&self.command)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        let group = child
            .id()
            .and_then(|it| Pid::from_raw(i32::try_from(it).ok()?))
            .expect("a process that was just started has an id");
        guard.add(group);
        let running = Running {
            child,
            group,
            pid_file: self.pid_file.clone(),
            guard: guard.clone(),
            ended: false,
        };
        super::folder::replace(
            &self.pid_file,
            format!("{}\n", group.as_raw_nonzero()).as_bytes(),
        )?;
        Ok(running)
    }
}

// === impl Running ===

impl Running {
    pub(super) fn pid(&self) -> i32 {
        self.group.as_raw_nonzero().get()
    }

    /// Waits for its end, then ends whatever it left behind, and waits until that is gone: it could
    /// still write to files that its successor has. May be dropped and called again.
    pub(super) async fn wait(&mut self) -> std::io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.clean_up();
        while any_lives(&[self.group]) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(status)
    }

    /// Asks it to end, and kills it when it has not after `grace`.
    pub(super) async fn stop(&mut self, grace: Duration) -> std::io::Result<ExitStatus> {
        self.signal(Signal::TERM);
        if let Ok(status) = tokio::time::timeout(grace, self.wait()).await {
            return status;
        }
        self.signal(Signal::KILL);
        self.wait().await
    }

    fn signal(&self, signal: Signal) {
        if !self.ended {
            // It may have ended by itself just now.
            let _ = kill_process_group(self.group, signal);
        }
    }

    fn clean_up(&mut self) {
        if self.ended {
            return;
        }
        // Its number stays taken for as long as anybody is in the group.
        self.signal(Signal::KILL);
        self.ended = true;
        self.guard.remove(self.group);
        let _ = fs::remove_file(&self.pid_file);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.clean_up();
    }
}

fn open_log(path: &Path) -> std::io::Result<File> {
    if fs::metadata(path).is_ok_and(|it| it.len() > MAX_LOG_BYTES) {
        fs::rename(path, path.with_extension("log.old"))?;
    }
    File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

/// How a process ended, in words.
pub(super) fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// The last lines of a log, indented; a sentence when there is nothing.
pub(super) fn last_lines(path: &Path) -> String {
    const LINES: usize = 12;
    const BYTES: u64 = 16 << 10;
    let read = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<_> = text.lines().filter(|it| !it.trim().is_empty()).collect();
    if lines.is_empty() {
        return format!("  (it printed nothing; its log is {})", path.display());
    }
    let last = &lines[lines.len().saturating_sub(LINES)..];
    let mut text = format!("  the last lines of {}:", path.display());
    for line in last {
        text.push_str("\n    ");
        text.extend(line.chars().take(300));
    }
    text
}

/// How long to wait before the next start: not at all after a decent life, longer and longer while
/// it dies at once.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    quick_deaths: u32,
}

impl Backoff {
    /// A life at least this long was a decent one.
    pub(super) const DECENT: Duration = Duration::from_secs(2);
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(5);

    /// The pause after a life of this length.
    pub(super) fn after(&mut self, lived: Duration) -> Duration {
        if lived >= Self::DECENT {
            self.quick_deaths = 0;
            return Duration::ZERO;
        }
        self.quick_deaths += 1;
        let doublings = (self.quick_deaths - 1).min(6);
        (Self::FIRST * (1 << doublings)).min(Self::LONGEST)
    }

    /// How many times in a row it died at once.
    pub(super) fn quick_deaths(&self) -> u32 {
        self.quick_deaths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_a_process_dies_at_once_and_vanish_after_a_decent_life() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..8)
            .map(|_| backoff.after(Duration::ZERO).as_millis())
            .collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.after(Backoff::DECENT), Duration::ZERO);
        assert_eq!(backoff.after(Duration::ZERO).as_millis(), 100);
    }

    #[test]
    fn the_last_lines_of_a_log_are_its_last_lines() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("log");
        assert!(last_lines(&path).contains("printed nothing"));
        let lines: Vec<_> = (0..5000).map(|it| format!("line {it}\n\n")).collect();
        fs::write(&path, lines.concat()).expect("write");
        let last = last_lines(&path);
        assert!(
            last.ends_with("line 4999") && last.contains("line 4988"),
            "{last}"
        );
        assert!(!last.contains("line 4987"), "{last}");
    }
}
