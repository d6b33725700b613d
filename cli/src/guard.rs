//! What cleans up behind a supervisor that was killed: a process of its own that learns by its
//! standard input which process groups there are, and kills them when that input ends. The death
//! signal of a child reaches the child only; an app's own workers would live on.

use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// How long killed processes are waited for before a temporary folder is removed.
const GRACE: Duration = Duration::from_secs(2);

/// The supervisor's end. Cheap to clone; the guard acts when the last one is gone.
#[derive(Clone, Debug)]
pub(crate) struct Guard(Arc<Mutex<Input>>);

#[derive(Debug)]
struct Input {
    stdin: Option<ChildStdin>,
    child: Child,
}

/// The guard's own process: reads `+GROUP` and `-GROUP`, line by line, until the input ends.
pub(crate) fn run(remove: Option<&Path>) {
    let mut groups: Vec<Pid> = Vec::new();
    for line in BufReader::new(std::io::stdin()).lines() {
        let Ok(line) = line else { break };
        let (sign, number) = line.split_at(line.len().min(1));
        let group = number.parse().ok().and_then(Pid::from_raw);
        match (sign, group) {
            ("+", Some(group)) => groups.push(group),
            ("-", Some(group)) => groups.retain(|it| *it != group),
            _ => {}
        }
    }
    for group in &groups {
        // It may be gone already, which is what is wanted.
        let _ = kill_process_group(*group, Signal::KILL);
    }
    let end = Instant::now() + GRACE;
    while remove.is_some() && Instant::now() < end && any_lives(&groups) {
        std::thread::sleep(Duration::from_millis(20));
    }
    if let Some(folder) = remove {
        // Nothing is left to tell an error to.
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// Whether a process of these groups still runs. One that has ended may stay listed for as long as
/// nobody waits for it.
pub(crate) fn any_lives(groups: &[Pid]) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return false;
    };
    processes.filter_map(Result::ok).any(|process| {
        // `pid (name) state parent group ..`, where the name may hold anything.
        let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        let mut words = stat.rsplit(')').next().unwrap_or("").split_whitespace();
        let (state, group) = (words.next(), words.nth(1));
        let group = group.and_then(|it| it.parse().ok()).and_then(Pid::from_raw);
        state.is_some_and(|it| it != "Z") && group.is_some_and(|it| groups.contains(&it))
    })
}

// === impl Guard ===

impl Guard {
    /// Starts the guard; it removes `remove` when the supervisor is gone.
    pub(crate) fn start(program: &Path, remove: Option<&Path>) -> std::io::Result<Self> {
        let mut command = Command::new(program);
        command.arg0("synod").arg("guard");
        if let Some(folder) = remove {
            command.arg("--remove").arg(folder);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let stdin = child.stdin.take();
        Ok(Self(Arc::new(Mutex::new(Input { stdin, child }))))
    }

    /// A group to be killed with the supervisor.
    pub(crate) fn add(&self, group: Pid) {
        self.tell('+', group);
    }

    /// A group that is gone.
    pub(crate) fn remove(&self, group: Pid) {
        self.tell('-', group);
    }

    fn tell(&self, sign: char, group: Pid) {
        let mut input = self.0.lock().expect("no holder panics");
        if let Some(stdin) = &mut input.stdin {
            // Without a guard, children still die with the supervisor by their own death signal.
            let _ = writeln!(stdin, "{sign}{}", group.as_raw_nonzero());
        }
    }
}

impl Drop for Input {
    fn drop(&mut self) {
        drop(self.stdin.take());
        // Its input has ended, so it ends within its grace; waiting leaves no zombie.
        let _ = self.child.wait();
    }
}
