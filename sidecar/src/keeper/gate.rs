//! Whether the app may be started at any time. Where a supervisor asks before each start nothing is
//! needed: what it is told is so. A kubelet asks once in the life of a pod, before the first start, and
//! starts the app again without a question, perhaps while its files are being changed, which nobody can
//! tell afterwards. So from that answer on nothing is put back in this pod: that is for the next one.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use synod_failpoint::{Point, check};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// One pod's.
#[derive(Debug)]
pub(super) struct Gate {
    /// It is there once the app may be started, and lives as long as the pod; `None`: each start is
    /// asked for.
    file: Option<PathBuf>,
    /// Files are being changed.
    busy: Arc<Mutex<()>>,
}

// === impl Gate ===

impl Gate {
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self {
            file,
            busy: Arc::default(),
        }
    }

    /// From now on the app may be started. An error leaves that as it was.
    pub(super) fn open(&self) -> io::Result<()> {
        let Ok(_guard) = self.busy.try_lock() else {
            return Err(io::Error::other("its files are being changed"));
        };
        check(Point::GateOpening)?;
        match &self.file {
            Some(file) => File::create(file).map(drop),
            None => Ok(()),
        }
    }

    /// The app may be started at any time. If nobody can tell, it may.
    pub(super) fn is_open(&self) -> bool {
        let there = self.file.as_ref().map(|it| it.try_exists());
        there.is_some_and(|it| it.unwrap_or(true))
    }

    /// The app is not started while this is held, and nobody else changes its files; `None`: it may be
    /// started already. Goes with the thread that changes the files, which nobody can stop.
    pub(super) async fn keep_shut(&self) -> Option<OwnedMutexGuard<()>> {
        let guard = self.busy.clone().lock_owned().await;
        (!self.is_open()).then_some(guard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn files_are_changed_only_until_the_app_may_be_started_also_after_a_restart() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = Some(folder.path().join("started"));
        let gate = Gate::new(file.clone());
        let guard = gate.keep_shut().await.expect("nobody was let start");
        gate.open().expect_err("files are being changed");
        assert!(!gate.is_open());
        drop(guard);
        gate.open().expect("nothing is changed now");
        assert!(gate.is_open() && gate.keep_shut().await.is_none());
        let next = Gate::new(file);
        assert!(next.is_open() && next.keep_shut().await.is_none());
        next.open().expect("it is open");
    }

    #[tokio::test]
    async fn where_each_start_is_asked_for_files_may_be_changed_between_two() {
        let gate = Gate::new(None);
        gate.open().expect("nothing is changed");
        let guard = gate.keep_shut().await.expect("it asks again");
        gate.open().expect_err("files are being changed");
        drop(guard);
        assert!(!gate.is_open());
    }
}
