//! A file system of its own for the files of one member, which is full when a test wants it to be.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// Takes what room is left.
const BALLAST: &str = "ballast";
const PIECES: [usize; 3] = [1 << 20, 64 << 10, 4 << 10];

/// A file system in memory at the place of a folder, until this is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    at: PathBuf,
}

// === impl SmallDisk ===

impl SmallDisk {
    /// Puts one of so many bytes there, with what the folder has. Nobody may use the folder meanwhile.
    pub fn under(at: &Path, bytes: u64) -> anyhow::Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "a file system for one member needs root"
        );
        let before = at.with_extension("before");
        fs::rename(at, &before)?;
        fs::create_dir(at)?;
        let size = format!("size={bytes},mode=700");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "synod-test"])
            .arg(at))?;
        let disk = Self { at: at.to_owned() };
        run(Command::new("cp").arg("-a").arg(before.join(".")).arg(at))?;
        Ok(disk)
    }

    /// Nothing fits any more.
    pub fn fill(&self) -> anyhow::Result<()> {
        let mut file = File::create(self.at.join(BALLAST))?;
        for piece in PIECES {
            let piece = vec![1; piece];
            loop {
                match file.write_all(&piece) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("filling a file system"),
                }
            }
        }
        Ok(())
    }

    /// There is room again.
    pub fn make_room(&self) -> anyhow::Result<()> {
        Ok(fs::remove_file(self.at.join(BALLAST))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever still has files there keeps them until it ends.
        if let Err(error) = run(Command::new("umount").arg("--lazy").arg(&self.at)) {
            eprintln!("{error:#}");
        }
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command
        .output()
        .with_context(|| format!("{command:?} cannot be run"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
