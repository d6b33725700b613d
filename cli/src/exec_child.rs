//! The first moments of a child process: it ties its life to the supervisor's, then becomes the
//! program it was started for. Comes in: the supervisor's process id and a command line.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// As a shell says it of a command that cannot be run.
const CANNOT_RUN: u8 = 127;

/// Becomes `command`, unless the supervisor is gone already. Returns only when that failed.
pub(crate) fn run(supervisor: i32, command: &[String]) -> ExitCode {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        eprintln!("synod: cannot be tied to the supervisor: {error}");
        return ExitCode::from(CANNOT_RUN);
    }
    // The supervisor may have died before the line above: then no signal ever comes.
    if getppid().map(Pid::as_raw_pid) != Some(supervisor) {
        eprintln!("synod: the supervisor {supervisor} is gone");
        return ExitCode::from(CANNOT_RUN);
    }
    let Some((program, arguments)) = command.split_first() else {
        eprintln!("synod: no command was given");
        return ExitCode::from(CANNOT_RUN);
    };
    let mut command = Command::new(program);
    if program == super::OWN_PROGRAM {
        command.arg0("synod");
    }
    let error = command.args(arguments).exec();
    eprintln!("synod: cannot run `{program}`: {error}");
    ExitCode::from(CANNOT_RUN)
}
