//! A machine made of Linux namespaces: network, processes, mounts and host name of its own, on the
//! kernel and the programs of this one. Comes in: a name and a folder for its disk. Goes out:
//! programs that run in it, with their output in files. It may call `unshare`, `nsenter` and `ip`.
//!
//! Its first process waits for the end of its standard input, which is a pipe that we hold. When we
//! go, however that happens, the kernel ends that process, with it all others of the machine, and
//! then every mount, interface and rule in it: there is nothing to clean up that could be missed.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};

/// What the first process does. Folders that programs expect at fixed places are the machine's own
/// there. The kubelet sets some of the kernel's values, which would outlive it: it finds them set.
const FIRST: &str = r#"
set -eu
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind "$1/lib" /var/lib
mount --bind "$1/log" /var/log
hostname "$2"
ip link set lo up
set_value() { if [ -e "/proc/sys/$1" ]; then echo "$2" >"/proc/sys/$1"; fi; }
set_value net/ipv4/ip_forward 1
set_value net/ipv4/conf/all/rp_filter 0
set_value net/ipv4/conf/default/rp_filter 0
pretend() {
  if [ -e "/proc/sys/$1" ]; then
    mkdir -p "/run/values/$(dirname "$1")"
    echo "$2" >"/run/values/$1"
    mount --bind "/run/values/$1" "/proc/sys/$1"
  fi
}
pretend vm/overcommit_memory 1
pretend vm/panic_on_oom 0
pretend kernel/panic 10
pretend kernel/panic_on_oops 1
pretend kernel/keys/root_maxkeys 1000000
pretend kernel/keys/root_maxbytes 25000000
echo ready
cat >/dev/null
exit 0
"#;

/// How long a program may take to end when it is asked to.
const PATIENCE: Duration = Duration::from_secs(20);

/// A machine. Everything in it ends with this value.
#[derive(Debug)]
pub(crate) struct Machine {
    name: String,
    folder: PathBuf,
    running: Option<Running>,
    /// What it runs, in the order of the start; kept over a crash, for the next boot.
    programs: Vec<Program>,
}

#[derive(Debug)]
struct Running {
    /// `unshare`, in the machine's namespaces but for that of processes.
    outer: Child,
    /// The machine lives as long as this is open.
    life: Option<ChildStdin>,
}

#[derive(Debug)]
struct Program {
    name: String,
    command: Vec<String>,
    /// `nsenter`, which leads a process group of the program alone.
    child: Option<Child>,
}

// === impl Machine ===

impl Machine {
    /// Starts one with its disk in `folder`.
    pub(crate) fn boot(name: &str, folder: &Path) -> Result<Self> {
        for part in ["lib", "log"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("making {}", part.display()))?;
        }
        let mut machine = Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            running: None,
            programs: Vec::new(),
        };
        machine.start()?;
        Ok(machine)
    }

    /// The folder that is its disk.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the output of a program goes.
    pub(crate) fn log(&self, program: &str) -> PathBuf {
        self.folder.join("log").join(format!("{program}.log"))
    }

    /// A process whose network namespace is the machine's, for `ip link add .. netns PID`.
    pub(crate) fn pid(&self) -> Result<u32> {
        let running = self.running.as_ref();
        let running = running.with_context(|| format!("{} does not run", self.name))?;
        Ok(running.outer.id())
    }

    fn start(&mut self) -> Result<()> {
        let mut outer = Command::new("unshare")
            .args(["--fork", "--pid", "--mount-proc", "--net", "--uts"])
            .args(["sh", "-c", FIRST, "sh"])
            .arg(&self.folder)
            .arg(&self.name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(self.append("machine")?)
            .process_group(0)
            .spawn()
            .context("starting unshare (package util-linux)")?;
        let mut said = String::new();
        if let Some(stdout) = outer.stdout.take() {
            BufReader::new(stdout).read_line(&mut said)?;
        }
        let life = outer.stdin.take();
        self.running = Some(Running { outer, life });
        if said.trim() != "ready" {
            let why = fs::read_to_string(self.log("machine")).unwrap_or_default();
            self.crash();
            bail!("namespaces for {} could not be made: {why}", self.name);
        }
        Ok(())
    }

    /// Lets it end, without waiting for that.
    pub(crate) fn power_off(&mut self) {
        if let Some(running) = &mut self.running {
            running.life = None;
        }
    }

    /// All power is gone: every process ends at once, only the disk stays.
    pub(crate) fn crash(&mut self) {
        self.power_off();
        if let Some(mut running) = self.running.take() {
            // The first process ends by itself; `unshare` ends after the last one.
            if let Err(error) = running.outer.wait() {
                eprintln!("ending {}: {error}", self.name);
            }
        }
        for program in &mut self.programs {
            if let Some(mut child) = program.child.take() {
                let _ = child.wait();
            }
        }
    }

    /// Starts again after a crash, without the programs: interfaces come first.
    pub(crate) fn reboot(&mut self) -> Result<()> {
        self.crash();
        self.start()
    }

    /// Starts all programs that it had before the crash.
    pub(crate) fn resume(&mut self) -> Result<()> {
        for index in 0..self.programs.len() {
            self.launch(index)?;
        }
        Ok(())
    }

    /// Starts a program that runs until it is stopped.
    pub(crate) fn spawn(&mut self, name: &str, command: &[String]) -> Result<()> {
        self.programs.push(Program {
            name: name.to_owned(),
            command: command.to_vec(),
            child: None,
        });
        self.launch(self.programs.len() - 1)
    }

    fn launch(&mut self, index: usize) -> Result<()> {
        let program = &self.programs[index];
        let log = self.append(&program.name)?;
        let child = self
            .command()?
            .args(&program.command)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", program.name))?;
        self.programs[index].child = Some(child);
        Ok(())
    }

    /// Ends a program and only it.
    pub(crate) fn stop(&mut self, name: &str) -> Result<()> {
        let program = self.programs.iter_mut().find(|it| it.name == name);
        let program = program.with_context(|| format!("{} runs no {name}", self.name))?;
        let Some(mut child) = program.child.take() else {
            return Ok(());
        };
        let group = Pid::from_child(&child);
        let _ = kill_process_group(group, Signal::TERM);
        child.wait()?;
        let asked = Instant::now();
        // `nsenter` has ended; the program is in the same group, and takes its time.
        while test_kill_process_group(group).is_ok() {
            if asked.elapsed() > PATIENCE {
                kill_process_group(group, Signal::KILL)?;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Starts a program again that was stopped.
    pub(crate) fn restart(&mut self, name: &str) -> Result<()> {
        self.stop(name)?;
        let index = self.programs.iter().position(|it| it.name == name);
        let index = index.with_context(|| format!("{} has no {name}", self.name))?;
        self.launch(index)
    }

    /// An error when a program has ended that should run, with its last words.
    pub(crate) fn check(&mut self) -> Result<()> {
        let mut ended = None;
        for program in &mut self.programs {
            if let Some(child) = &mut program.child
                && let Some(status) = child.try_wait()?
            {
                ended = Some((program.name.clone(), status));
            }
        }
        let Some((name, status)) = ended else {
            return Ok(());
        };
        let log = self.log(&name);
        let words = fs::read_to_string(&log).unwrap_or_default();
        let lines: Vec<&str> = words.lines().collect();
        let last = lines[lines.len().saturating_sub(8)..].join("\n");
        bail!(
            "{name} of {} ended with {status}; the end of {}:\n{last}",
            self.name,
            log.display()
        )
    }

    /// `nsenter` into the machine, to be followed by a command.
    pub(crate) fn command(&self) -> Result<Command> {
        let pid = self.pid()?;
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{pid}/ns/net"))
            .arg(format!("--uts=/proc/{pid}/ns/uts"))
            .arg(format!("--mount=/proc/{pid}/ns/mnt"))
            .arg(format!("--pid=/proc/{pid}/ns/pid_for_children"))
            .arg("--");
        Ok(command)
    }

    /// Runs lines of `ip` in the machine's network, but with the process numbers of this one, so
    /// that interfaces can be moved to other machines.
    pub(crate) fn ip(&self, lines: &str) -> Result<()> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.pid()?));
        command.args(["--", "ip", "-batch", "-"]);
        feed(&mut command, lines).with_context(|| format!("network of {}", self.name))
    }

    /// Runs lines of `nft` in the machine's network.
    pub(crate) fn nft(&self, lines: &str) -> Result<()> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.pid()?));
        command.args(["--", "nft", "-f", "-"]);
        feed(&mut command, lines).with_context(|| format!("packet filter of {}", self.name))
    }

    fn append(&self, program: &str) -> Result<File> {
        let log = self.log(program);
        let file = OpenOptions::new().create(true).append(true).open(&log);
        file.with_context(|| format!("opening {}", log.display()))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.crash();
    }
}

/// Runs a command that reads `lines`; what it says on failure is the error.
pub(crate) fn feed(command: &mut Command, lines: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(lines.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "{} in:\n{lines}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
