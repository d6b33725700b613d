//! The notes in their SQLite file, and beside them the slot of the request that changed them last.

use std::path::Path;
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};

/// One note on the board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) id: i64,
    pub(super) text: String,
    pub(super) color: String,
    pub(super) done: bool,
}

/// What a client may say about a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Draft {
    pub(super) text: String,
    pub(super) color: String,
    pub(super) done: bool,
}

/// A page of notes, the newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Page {
    /// How many notes there are in all.
    pub(super) count: i64,
    pub(super) notes: Vec<Note>,
}

/// The first line of a backup; the others are notes.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    /// The highest id that was ever given: none is given twice.
    last_id: i64,
}

/// Why notes are not put back.
#[derive(Debug)]
pub(super) enum NotRestored {
    /// What was given is no backup.
    Bad(String),
    Storage(rusqlite::Error),
}

/// Which request makes a change: its place in the agreed order, if it has one.
pub(super) type Slot = Option<i64>;

/// One connection, used by one request at a time.
#[derive(Clone)]
pub(super) struct Store(Arc<Mutex<Connection>>);

// === impl Store ===

impl Store {
    pub(super) fn open(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let connection = Connection::open(folder.join("notes.db"))?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = NORMAL;
             CREATE TABLE IF NOT EXISTS notes (
                 id INTEGER PRIMARY KEY AUTOINCREMENT,
                 text TEXT NOT NULL,
                 color TEXT NOT NULL,
                 done INTEGER NOT NULL
             );
             CREATE TABLE IF NOT EXISTS applied (slot INTEGER NOT NULL);
             INSERT INTO applied SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM applied);",
        )?;
        Ok(Self(Arc::new(Mutex::new(connection))))
    }

    /// Up to `limit` notes older than `before`.
    pub(super) fn page(&self, before: i64, limit: u32) -> rusqlite::Result<Page> {
        let connection = self.lock();
        let count = connection.query_row("SELECT count(*) FROM notes", [], |row| row.get(0))?;
        let mut query = connection.prepare_cached(
            "SELECT id, text, color, done FROM notes WHERE id < ? ORDER BY id DESC LIMIT ?",
        )?;
        let notes = query
            .query_map(params![before, limit], note)?
            .collect::<Result<_, _>>()?;
        Ok(Page { count, notes })
    }

    pub(super) fn get(&self, id: i64) -> rusqlite::Result<Option<Note>> {
        self.lock()
            .prepare_cached("SELECT id, text, color, done FROM notes WHERE id = ?")?
            .query_row([id], note)
            .optional()
    }

    pub(super) fn add(&self, slot: Slot, draft: &Draft) -> rusqlite::Result<Note> {
        let id = self.change(slot, |notes| {
            notes
                .prepare_cached("INSERT INTO notes (text, color, done) VALUES (?, ?, ?)")?
                .execute(params![draft.text, draft.color, draft.done])?;
            Ok(notes.last_insert_rowid())
        })?;
        let Draft { text, color, done } = draft.clone();
        Ok(Note {
            id,
            text,
            color,
            done,
        })
    }

    /// `None` when there is no such note.
    pub(super) fn set(&self, slot: Slot, id: i64, draft: &Draft) -> rusqlite::Result<Option<Note>> {
        let changed = self.change(slot, |notes| {
            notes
                .prepare_cached("UPDATE notes SET text = ?, color = ?, done = ? WHERE id = ?")?
                .execute(params![draft.text, draft.color, draft.done, id])
        })?;
        let Draft { text, color, done } = draft.clone();
        Ok((changed == 1).then_some(Note {
            id,
            text,
            color,
            done,
        }))
    }

    /// Whether there was such a note.
    pub(super) fn remove(&self, slot: Slot, id: i64) -> rusqlite::Result<bool> {
        let changed = self.change(slot, |notes| {
            notes
                .prepare_cached("DELETE FROM notes WHERE id = ?")?
                .execute([id])
        })?;
        Ok(changed == 1)
    }

    /// The slot of the last request that is in the file; 0 before the first.
    pub(super) fn applied(&self) -> rusqlite::Result<i64> {
        self.lock()
            .query_row("SELECT slot FROM applied", [], |row| row.get(0))
    }

    /// All notes as text: lines of JSON.
    pub(super) fn backup(&self) -> rusqlite::Result<String> {
        let connection = self.lock();
        let last_id = connection.query_row(
            "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'notes'",
            [],
            |row| row.get(0),
        )?;
        let mut text = line(&Head { last_id });
        let mut query =
            connection.prepare_cached("SELECT id, text, color, done FROM notes ORDER BY id")?;
        for note in query.query_map([], note)? {
            text.push_str(&line(&note?));
        }
        Ok(text)
    }

    /// Puts the notes of a backup in the place of all that are there.
    pub(super) fn restore(&self, slot: Slot, backup: &[u8]) -> Result<(), NotRestored> {
        let mut lines = backup.split(|it| *it == b'\n').filter(|it| !it.is_empty());
        let head: Head = serde_json::from_slice(lines.next().unwrap_or_default())?;
        let notes = lines
            .map(serde_json::from_slice)
            .collect::<Result<Vec<Note>, _>>()?;
        self.change(slot, |kept| {
            kept.execute("DELETE FROM notes", [])?;
            let mut insert =
                kept.prepare("INSERT INTO notes (id, text, color, done) VALUES (?, ?, ?, ?)")?;
            for it in &notes {
                insert.execute(params![it.id, it.text, it.color, it.done])?;
            }
            kept.execute("DELETE FROM sqlite_sequence WHERE name = 'notes'", [])?;
            kept.execute(
                "INSERT INTO sqlite_sequence (name, seq) VALUES ('notes', ?)",
                [head.last_id],
            )?;
            Ok(())
        })?;
        Ok(())
    }

    /// Makes a change and stores the slot of the request that asks for it, both or none of them. This
    /// is what `onUncleanCrash: AppliedHeader` asks of an app.
    fn change<T>(
        &self,
        slot: Slot,
        change: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let result = change(&transaction)?;
        if let Some(slot) = slot {
            transaction
                .prepare_cached("UPDATE applied SET slot = ?")?
                .execute([slot])?;
        }
        transaction.commit()?;
        Ok(result)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Connection> {
        self.0.lock().expect("no holder of the lock panics")
    }
}

fn line(it: &impl Serialize) -> String {
    serde_json::to_string(it).expect("plain data") + "\n"
}

impl From<serde_json::Error> for NotRestored {
    fn from(error: serde_json::Error) -> Self {
        Self::Bad(format!("this is no backup of notes: {error}"))
    }
}

impl From<rusqlite::Error> for NotRestored {
    fn from(error: rusqlite::Error) -> Self {
        Self::Storage(error)
    }
}

fn note(row: &Row<'_>) -> rusqlite::Result<Note> {
    Ok(Note {
        id: row.get(0)?,
        text: row.get(1)?,
        color: row.get(2)?,
        done: row.get(3)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(text: &str) -> Draft {
        Draft {
            text: text.to_owned(),
            color: "yellow".to_owned(),
            done: false,
        }
    }

    #[test]
    fn notes_survive_a_restart_and_ids_are_never_used_again() {
        let folder = tempfile::tempdir().expect("folder");
        let store = Store::open(folder.path()).expect("opens");
        assert_eq!(store.add(None, &draft("a")).expect("adds").id, 1);
        assert_eq!(store.add(None, &draft("b")).expect("adds").id, 2);
        assert!(store.remove(None, 2).expect("removes"));
        assert!(!store.remove(None, 2).expect("removes"));
        drop(store);
        let store = Store::open(folder.path()).expect("opens again");
        assert_eq!(store.add(None, &draft("c")).expect("adds").id, 3);
        assert_eq!(store.set(None, 2, &draft("x")).expect("sets"), None);
        let page = store.page(i64::MAX, 10).expect("reads");
        assert_eq!(page.count, 2);
        let ids: Vec<_> = page.notes.iter().map(|it| it.id).collect();
        assert_eq!(ids, [3, 1]);
        assert_eq!(store.page(3, 10).expect("reads").notes.len(), 1);
    }

    #[test]
    fn the_slot_of_the_last_change_is_stored_with_it_and_survives_a_restart() {
        let folder = tempfile::tempdir().expect("folder");
        let store = Store::open(folder.path()).expect("opens");
        assert_eq!(store.applied().expect("reads"), 0);
        store.add(Some(4), &draft("a")).expect("adds");
        store.set(Some(7), 1, &draft("b")).expect("sets");
        assert!(!store.remove(Some(9), 5).expect("removes nothing"));
        drop(store);
        let store = Store::open(folder.path()).expect("opens again");
        assert_eq!(store.applied().expect("reads"), 9);
        let failed = store.change(Some(10), |_| Err::<(), _>(rusqlite::Error::InvalidQuery));
        assert!(failed.is_err());
        assert_eq!(store.applied().expect("reads"), 9, "both or none");
    }

    #[test]
    fn a_backup_is_the_whole_state_and_what_is_none_changes_nothing() {
        let folders = [(); 2].map(|()| tempfile::tempdir().expect("folder"));
        let stores = folders
            .each_ref()
            .map(|it| Store::open(it.path()).expect("opens"));
        for text in ["a", "two\nlines", "c"] {
            stores[0].add(Some(1), &draft(text)).expect("adds");
        }
        stores[0].remove(Some(2), 3).expect("removes");
        let backup = stores[0].backup().expect("reads");
        stores[1].add(Some(1), &draft("other")).expect("adds");
        stores[1]
            .restore(Some(5), backup.as_bytes())
            .expect("restores");
        assert_eq!(stores[1].backup().expect("reads"), backup);
        assert_eq!(stores[1].applied().expect("reads"), 5);
        assert_eq!(stores[1].add(None, &draft("d")).expect("adds").id, 4);

        let cut = &backup.as_bytes()[..backup.len() - 4];
        let twice = format!("{backup}{}", backup.lines().nth(1).expect("a note"));
        for bad in [b"" as &[u8], b"{}", cut, twice.as_bytes()] {
            assert!(stores[0].restore(Some(8), bad).is_err());
        }
        assert_eq!(stores[0].backup().expect("reads"), backup);
        assert_eq!(stores[0].applied().expect("reads"), 2);
    }
}
