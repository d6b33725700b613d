//! Runs a script, and finds them.

use std::io;
use std::path::{Path, PathBuf};

use crate::commands::Session;
use crate::script::{Item, Script};

/// What came of a script.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The script with the output that it had.
    pub now: Script,
    /// Claims that do not hold, and commands that make no sense: no output makes these right.
    pub failed: Vec<String>,
}

/// Carries out all commands, up to the first that makes no sense.
pub fn run(script: &Script) -> Ran {
    let mut session = Session::default();
    let mut now = script.clone();
    let mut failed = Vec::new();
    for item in &mut now.items {
        let Item::Command { line, text, output } = item else {
            continue;
        };
        match session.run(text) {
            Ok(came) => {
                *output = came.said;
                let at_line = |it| format!("line {line}: {it}");
                failed.extend(came.failed.into_iter().map(at_line));
            }
            Err(wrong) => {
                failed.push(format!("line {line}: `{text}`: {wrong}"));
                break;
            }
        }
    }
    Ran { now, failed }
}

/// All scripts in a folder of areas: their names, as `area/name`, and where they are; in order.
pub fn find(folder: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for area in std::fs::read_dir(folder)? {
        let area = area?.path();
        if !area.is_dir() {
            continue;
        }
        for script in std::fs::read_dir(&area)? {
            let script = script?.path();
            if script.extension().is_some_and(|it| it == "txt") {
                let part = |it: Option<&std::ffi::OsStr>| {
                    it.unwrap_or_default().to_string_lossy().into_owned()
                };
                let name = format!("{}/{}", part(area.file_name()), part(script.file_stem()));
                found.push((name, script));
            }
        }
    }
    found.sort();
    Ok(found)
}
