//! What a disk changes by itself.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

/// Bits in one file.
const MOST_BITS: u32 = 8;
/// One of so many times, two files are changed at once.
const BOTH: u32 = 4;

/// Changes bits where something was written, in files of every kind in turn.
pub(super) struct Rot {
    random: StdRng,
    /// Kinds of files that are next, the last first.
    kinds: Vec<String>,
}

// === impl Rot ===

impl Rot {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed ^ 0xb17),
            // What every log has, and has to notice.
            kinds: vec!["segment".to_owned()],
        }
    }

    /// Changes some bits below `folder`; in which files.
    pub(super) fn spoil(&mut self, folder: &Path) -> anyhow::Result<Vec<String>> {
        let files = if self.random.random_range(0..BOTH) == 0 {
            2
        } else {
            1
        };
        (0..files).map(|_| self.spoil_file(folder)).collect()
    }

    fn spoil_file(&mut self, folder: &Path) -> anyhow::Result<String> {
        let mut files = BTreeMap::new();
        collect(folder, &mut files)?;
        let kind = loop {
            match self.kinds.pop() {
                Some(kind) if files.contains_key(&kind) => break kind,
                Some(_) => {}
                None => {
                    ensure!(!files.is_empty(), "{} is empty", folder.display());
                    self.kinds = files.keys().cloned().collect();
                    self.kinds.shuffle(&mut self.random);
                }
            }
        };
        let of_kind = &files[&kind];
        let path = &of_kind[self.random.random_range(0..of_kind.len())];
        self.flip(path)
            .with_context(|| format!("changing {}", path.display()))?;
        let name = path.file_name().unwrap_or_default();
        Ok(name.to_string_lossy().into_owned())
    }

    fn flip(&mut self, path: &Path) -> anyhow::Result<()> {
        let bytes = fs::read(path)?;
        let written: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        let file = File::options().write(true).open(path)?;
        for _ in 0..self.random.random_range(1..=MOST_BITS) {
            let at = written[self.random.random_range(0..written.len())];
            let bit = 1 << self.random.random_range(0..8);
            file.write_all_at(&[bytes[at] ^ bit], at as u64)?;
        }
        Ok(file.sync_all()?)
    }
}

/// Files with something in them, by kind.
fn collect(folder: &Path, files: &mut BTreeMap<String, Vec<PathBuf>>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Nobody reads a lock.
        if !name.ends_with(".lock") && fs::read(&path)?.iter().any(|byte| *byte != 0) {
            let kind = kind_of(&name).to_owned();
            files.entry(kind).or_default().push(path);
        }
    }
    Ok(())
}

/// What the names of such files have in common.
fn kind_of(name: &str) -> &str {
    const SLOT: usize = 16;
    let (first, rest) = name.split_once(['-', '.']).unwrap_or((name, ""));
    if first.len() == SLOT && !rest.is_empty() {
        // The number of a slot: what it is comes behind it.
        return rest.rsplit('.').next().unwrap_or(rest);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_of_a_kind_whatever_their_numbers() {
        for (name, kind) in [
            ("segment-000000000000002a", "segment"),
            ("state-a", "state"),
            ("ledger", "ledger"),
            ("000000000000002a.snapshot", "snapshot"),
            ("000000000000002a.0f3c.part", "part"),
        ] {
            assert_eq!(kind_of(name), kind);
        }
    }

    #[test]
    fn what_was_written_changes_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        fs::create_dir(&log).expect("a folder");
        let written = [&[0; 64][..], &[7; 64], &[0; 64]].concat();
        fs::write(log.join("segment-0000000000000001"), &written).expect("written");
        fs::write(log.join("spare-0000000000000002"), [0; 64]).expect("written");
        let mut rot = Rot::new(1);
        for _ in 0..20 {
            let changed = rot.spoil(folder.path()).expect("spoilt");
            assert!(changed.iter().all(|it| it == "segment-0000000000000001"));
        }
        let now = fs::read(log.join("segment-0000000000000001")).expect("read");
        assert_eq!((&now[..64], &now[128..]), (&[0; 64][..], &[0; 64][..]));
        assert_ne!(now, written);
    }
}
