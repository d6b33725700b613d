//! What the sample app keeps: in memory, or in a journal of which each line is a write with the slot
//! of its request, so that one is there with the other or not at all.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What is kept under one key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Cell {
    pub(super) version: u64,
    pub(super) value: Value,
}

/// All of it.
#[derive(Default)]
pub(super) struct State {
    pub(super) kept: Kept,
    /// What was there before the last write of each key.
    pub(super) before: BTreeMap<String, Cell>,
    pub(super) writes: u64,
    pub(super) reads: u64,
    /// How often a state was put back into this process.
    pub(super) restored: u64,
    journal: Option<Journal>,
}

/// What a saved state consists of.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) cells: BTreeMap<String, Cell>,
    pub(super) echoes: u64,
    /// Of the last request whose effect is here.
    pub(super) slot: u64,
}

struct Journal {
    path: PathBuf,
    file: File,
}

#[derive(Serialize, Deserialize)]
struct Line {
    slot: u64,
    key: String,
    cell: Cell,
}

// === impl Cell ===

impl Cell {
    pub(super) fn json(&self) -> Value {
        json!({"version": self.version, "value": self.value})
    }

    pub(super) fn changed(&self, number: u64, change: impl Fn(&Value, u64) -> Value) -> Self {
        Self {
            version: self.version + 1,
            value: change(&self.value, number),
        }
    }
}

// === impl State ===

impl State {
    /// In memory, or what the folder holds.
    pub(super) fn open(folder: Option<&Path>) -> io::Result<Self> {
        let mut state = Self::default();
        if let Some(folder) = folder {
            fs::create_dir_all(folder)?;
            let (journal, lines) = Journal::open(folder.join("journal"))?;
            for line in lines {
                state.kept.slot = line.slot;
                state.kept.cells.insert(line.key, line.cell);
            }
            state.journal = Some(journal);
        }
        Ok(state)
    }

    /// Keeps a write of the request in this slot, if it has one.
    pub(super) fn keep(&mut self, slot: Option<u64>, key: &str, cell: Cell) -> io::Result<()> {
        let line = Line {
            slot: slot.unwrap_or(self.kept.slot),
            key: key.to_owned(),
            cell,
        };
        if let Some(journal) = &mut self.journal {
            journal.file.write_all(&line.text())?;
        }
        self.kept.slot = line.slot;
        self.kept.cells.insert(line.key, line.cell);
        Ok(())
    }

    /// Puts another state in the place of all that is here.
    pub(super) fn replace(&mut self, slot: Option<u64>, mut kept: Kept) -> io::Result<()> {
        kept.slot = slot.unwrap_or(kept.slot);
        if let Some(journal) = &mut self.journal {
            journal.replace(&kept)?;
        }
        self.kept = kept;
        self.before.clear();
        self.restored += 1;
        Ok(())
    }
}

// === impl Journal ===

impl Journal {
    /// Opens or makes it; a last line that is not whole was never answered and is cut off.
    fn open(path: PathBuf) -> io::Result<(Self, Vec<Line>)> {
        let file = File::options().create(true).append(true).open(&path)?;
        let text = fs::read(&path)?;
        let whole = text.iter().rposition(|&byte| byte == b'\n');
        let whole = &text[..whole.map_or(0, |at| at + 1)];
        file.set_len(whole.len() as u64)?;
        let lines = whole.split(|&byte| byte == b'\n');
        let lines = lines
            .filter(|line| !line.is_empty())
            .map(serde_json::from_slice)
            .collect::<Result<_, _>>()?;
        Ok((Self { path, file }, lines))
    }

    fn replace(&mut self, kept: &Kept) -> io::Result<()> {
        let new = self.path.with_extension("new");
        let mut file = File::create(&new)?;
        for (key, cell) in &kept.cells {
            let line = Line {
                slot: kept.slot,
                key: key.clone(),
                cell: cell.clone(),
            };
            file.write_all(&line.text())?;
        }
        fs::rename(&new, &self.path)?;
        self.file = File::options().append(true).open(&self.path)?;
        Ok(())
    }
}

impl Line {
    fn text(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec(self).expect("keys are strings");
        text.push(b'\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(number: u64) -> Cell {
        Cell {
            version: number,
            value: json!(number),
        }
    }

    #[test]
    fn a_journal_gives_back_what_was_kept_without_a_half_written_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut state = State::open(Some(folder.path())).expect("opens");
        state.keep(Some(3), "r/1", cell(1)).expect("keeps");
        state.keep(Some(4), "r/2", cell(2)).expect("keeps");
        let path = folder.path().join("journal");
        let text = fs::read(&path).expect("reads");
        fs::write(&path, [&text[..], b"{\"slot\":5,"].concat()).expect("writes");
        let mut state = State::open(Some(folder.path())).expect("opens");
        assert_eq!(state.kept.slot, 4);
        assert_eq!(state.kept.cells.len(), 2);
        state.keep(Some(6), "r/1", cell(3)).expect("keeps");
        let again = State::open(Some(folder.path())).expect("opens");
        assert_eq!(again.kept, state.kept);

        let other = Kept {
            cells: [("r/9".to_owned(), cell(9))].into(),
            ..Kept::default()
        };
        state.replace(Some(12), other).expect("replaces");
        state.keep(Some(13), "r/8", cell(8)).expect("keeps");
        let again = State::open(Some(folder.path())).expect("opens");
        assert_eq!(again.kept, state.kept);
        assert_eq!((again.kept.slot, again.kept.cells.len()), (13, 2));
    }
}
