//! The notes in their SQLite file.

use std::path::Path;
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;

/// One note on the board.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
             );",
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

    pub(super) fn add(&self, draft: &Draft) -> rusqlite::Result<Note> {
        let connection = self.lock();
        connection
            .prepare_cached("INSERT INTO notes (text, color, done) VALUES (?, ?, ?)")?
            .execute(params![draft.text, draft.color, draft.done])?;
        let Draft { text, color, done } = draft.clone();
        Ok(Note {
            id: connection.last_insert_rowid(),
            text,
            color,
            done,
        })
    }

    /// `None` when there is no such note.
    pub(super) fn set(&self, id: i64, draft: &Draft) -> rusqlite::Result<Option<Note>> {
        let changed = self
            .lock()
            .prepare_cached("UPDATE notes SET text = ?, color = ?, done = ? WHERE id = ?")?
            .execute(params![draft.text, draft.color, draft.done, id])?;
        let Draft { text, color, done } = draft.clone();
        Ok((changed == 1).then_some(Note {
            id,
            text,
            color,
            done,
        }))
    }

    /// Whether there was such a note.
    pub(super) fn remove(&self, id: i64) -> rusqlite::Result<bool> {
        let changed = self
            .lock()
            .prepare_cached("DELETE FROM notes WHERE id = ?")?
            .execute([id])?;
        Ok(changed == 1)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Connection> {
        self.0.lock().expect("no holder of the lock panics")
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
        assert_eq!(store.add(&draft("a")).expect("adds").id, 1);
        assert_eq!(store.add(&draft("b")).expect("adds").id, 2);
        assert!(store.remove(2).expect("removes"));
        assert!(!store.remove(2).expect("removes"));
        drop(store);
        let store = Store::open(folder.path()).expect("opens again");
        assert_eq!(store.add(&draft("c")).expect("adds").id, 3);
        assert_eq!(store.set(2, &draft("x")).expect("sets"), None);
        let page = store.page(i64::MAX, 10).expect("reads");
        assert_eq!(page.count, 2);
        let ids: Vec<_> = page.notes.iter().map(|it| it.id).collect();
        assert_eq!(ids, [3, 1]);
        assert_eq!(store.page(3, 10).expect("reads").notes.len(), 1);
    }
}
