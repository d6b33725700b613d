//! What a run keeps on this machine's disk. Comes in: a path. Goes out: a folder that is ours alone,
//! and its end.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::groups;
use crate::network::{Plan, interface};

/// Marks a folder as ours. It is locked while its run lives, and holds the number of its process;
/// the kernel takes the lock off when the process is gone, so a stale number is never believed.
const MARK: &str = "synod-cluster.lock";
/// Machines see folders of their own in these places.
const HIDDEN: [&str; 4] = ["/run", "/var/run", "/var/lib", "/var/log"];
/// How long ending may take, of a run or of what it leaves to the kernel.
const PATIENCE: Duration = Duration::from_secs(60);

/// The folder of a run, held by it alone.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Held, not read.
    _lock: File,
}

// === impl Folder ===

impl Folder {
    /// Takes the folder, and clears what a run left in it that was killed.
    pub(crate) fn take(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path)?;
        visible(&path)?;
        let mark = path.join(MARK);
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        if !mark.exists() && fs::read_dir(&path)?.next().is_some() {
            bail!(
                "{} holds something else: choose another --dir",
                path.display()
            );
        }
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).read(true).write(true);
        let mut lock = options.open(&mark)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "a run has {0}: end it with `synod-cluster down --dir {0}`, or choose another --dir",
                path.display()
            ),
            Err(TryLockError::Error(error)) => return Err(error).context("locking the folder"),
        }
        lock.set_len(0)?;
        write!(lock, "{}", std::process::id())?;
        let folder = Self { path, _lock: lock };
        folder.clear(|_| false)?;
        groups::sweep();
        Ok(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes all, and the folder itself.
    pub(crate) fn remove(&self) -> Result<()> {
        self.clear(|_| false)?;
        fs::remove_file(self.path.join(MARK))?;
        Ok(fs::remove_dir(&self.path)?)
    }

    /// Removes all but logs.
    pub(crate) fn keep_logs(&self) -> Result<()> {
        self.clear(|path| path.components().any(|part| part.as_os_str() == "log"))
    }

    fn clear(&self, keep: fn(&Path) -> bool) -> Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name() != MARK {
                clear(&self.path, &entry.path(), keep)?;
            }
        }
        Ok(())
    }
}

/// Removes `path` below `root`, but not what is kept.
fn clear(root: &Path, path: &Path, keep: fn(&Path) -> bool) -> Result<()> {
    let below = path.strip_prefix(root).unwrap_or(path);
    if keep(below) {
        return Ok(());
    }
    let what = || format!("removing {}", path.display());
    if !path.symlink_metadata().with_context(what)?.is_dir() {
        return fs::remove_file(path).with_context(what);
    }
    for entry in fs::read_dir(path).with_context(what)? {
        clear(root, &entry?.path(), keep)?;
    }
    // What is left in it is kept.
    if fs::read_dir(path)?.next().is_none() {
        fs::remove_dir(path).with_context(what)?;
    }
    Ok(())
}

/// A path that machines of ours see as this machine does.
pub(crate) fn visible(path: &Path) -> Result<()> {
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    for hidden in HIDDEN {
        if path.starts_with(hidden) || real.starts_with(hidden) {
            bail!(
                "{} is below {hidden}, which nodes have for themselves: choose another place",
                path.display()
            );
        }
    }
    Ok(())
}

/// Ends the run that has this folder, and waits until it has ended; then removes what a killed one
/// may have left.
pub fn end(path: &Path) -> Result<()> {
    let mark = std::path::absolute(path)?.join(MARK);
    let Ok(mut lock) = File::open(&mark) else {
        bail!("no run has or had {}", path.display());
    };
    if matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
        let mut number = String::new();
        lock.read_to_string(&mut number)?;
        let number = number.trim().parse().ok().and_then(Pid::from_raw);
        let number = number.with_context(|| format!("{} names no process", mark.display()))?;
        kill_process(number, Signal::TERM).context("ending the run")?;
        let asked = Instant::now();
        while matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            if asked.elapsed() > PATIENCE {
                bail!("the run did not end: process {}", number.as_raw_nonzero());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    drop(lock);
    if mark.exists() {
        Folder::take(path)?.remove()?;
    }
    Ok(())
}

/// Removes what earlier runs left in folders of theirs in `path`, also when they were killed. Runs
/// that live are left alone.
pub fn clear_ended(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        let mark = entry.path().join(MARK);
        if let Ok(lock) = File::open(mark)
            && lock.try_lock().is_ok()
        {
            drop(lock);
            Folder::take(&entry.path())?.remove()?;
        }
    }
    Ok(())
}

/// Waits until the kernel has taken away what was the run's.
pub(crate) fn wait_gone(plan: Plan) -> Result<()> {
    let began = Instant::now();
    let link = Path::new("/sys/class/net").join(interface(plan.slot));
    while link.exists() {
        if began.elapsed() > PATIENCE {
            bail!("{} does not go", link.display());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    groups::remove(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_holds_something_else_is_refused_and_left_as_it_is() {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let file = folder.path().join("precious");
        fs::write(&file, "data").unwrap();
        let refused = Folder::take(folder.path()).unwrap_err();
        assert!(
            refused.to_string().contains("holds something else"),
            "{refused}"
        );
        assert_eq!(fs::read_to_string(file).unwrap(), "data");
    }

    #[test]
    fn a_folder_belongs_to_one_run_and_is_cleared_for_the_next() {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let path = folder.path().join("run");
        let first = Folder::take(&path).unwrap();
        let refused = Folder::take(&path).unwrap_err();
        assert!(refused.to_string().contains("a run has"), "{refused}");
        fs::create_dir_all(path.join("eu/node-1/lib")).unwrap();
        fs::create_dir_all(path.join("eu/node-1/log")).unwrap();
        fs::write(path.join("eu/node-1/lib/state"), "").unwrap();
        fs::write(path.join("eu/node-1/log/kubelet.log"), "").unwrap();
        first.keep_logs().unwrap();
        assert!(path.join("eu/node-1/log/kubelet.log").exists());
        assert!(!path.join("eu/node-1/lib").exists());
        drop(first);
        let second = Folder::take(&path).unwrap();
        assert!(!path.join("eu").exists());
        second.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_place_that_nodes_have_for_themselves_is_refused() {
        let refused = Folder::take(Path::new("/var/lib/synod-cluster")).unwrap_err();
        assert!(refused.to_string().contains("below /var/lib"), "{refused}");
    }
}
