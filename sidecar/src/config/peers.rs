//! The peer table: where each member of the group can be reached. A file that is read again when
//! it changes; names, not addresses, are identities, so a wrong line can only cost connections.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// How often the file is looked at.
const POLL: Duration = Duration::from_secs(1);

/// The file's content, JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerTable {
    /// One line for each member, in any order; lines for unknown members do no harm.
    pub members: Vec<PeerAddress>,
}

/// Where one member listens for its peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PeerAddress {
    /// The member's stable name.
    pub name: String,
    /// `host:port`; host names are looked up at each connection.
    pub address: String,
}

/// What is wrong with the table.
#[derive(Debug, thiserror::Error)]
pub enum PeerTableError {
    /// The file could not be read or written.
    #[error("peer table {path}: {error}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// It is not JSON of this shape.
    #[error(
        "peer table {path}: {problem}; expected {{\"members\": [{{\"name\": .., \"address\": \"host:port\"}}]}}"
    )]
    Shape {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

// === impl PeerTable ===

impl PeerTable {
    /// Reads and checks the file.
    pub fn read(path: &Path) -> Result<Self, PeerTableError> {
        let text = std::fs::read(path).map_err(|error| PeerTableError::File {
            path: path.to_owned(),
            error,
        })?;
        Self::parse(&text).map_err(|problem| PeerTableError::Shape {
            path: path.to_owned(),
            problem,
        })
    }

    /// Replaces the file whole: a reader sees the old table or the new one.
    pub fn write(&self, path: &Path) -> Result<(), PeerTableError> {
        let text = serde_json::to_vec_pretty(self).expect("a table of strings is JSON");
        replace(path, &text).map_err(|error| PeerTableError::File {
            path: path.to_owned(),
            error,
        })
    }

    /// Where this member is; `None` when the table does not say.
    pub fn address_of(&self, name: &str) -> Option<String> {
        let found = self.members.iter().find(|it| it.name == name);
        found.map(|it| it.address.clone())
    }

    fn parse(text: &[u8]) -> Result<Self, String> {
        let table: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let mut names = std::collections::BTreeSet::new();
        for PeerAddress { name, address } in &table.members {
            let port = address
                .rsplit_once(':')
                .filter(|(host, _)| !host.is_empty());
            if !port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|it| it != 0)) {
                return Err(format!("address {address:?} of {name:?} is not host:port"));
            }
            if !names.insert(name) {
                return Err(format!("member {name:?} is listed twice"));
            }
        }
        Ok(table)
    }
}

/// Follows the file: the table now, and its changes. A file that is missing or bad is reported
/// once and leaves the last good table in force. Ends when no receiver is left.
pub fn follow(path: PathBuf) -> watch::Receiver<PeerTable> {
    let mut complaint = None;
    let first = read_or_complain(&path, &mut complaint).unwrap_or_default();
    let (sender, receiver) = watch::channel(first);
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(POLL);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = sender.closed() => return,
            }
            let Some(table) = read_or_complain(&path, &mut complaint) else {
                continue;
            };
            sender.send_if_modified(|old| {
                let changed = *old != table;
                if changed {
                    *old = table;
                }
                changed
            });
        }
    });
    receiver
}

fn read_or_complain(path: &Path, complaint: &mut Option<String>) -> Option<PeerTable> {
    match PeerTable::read(path) {
        Ok(table) => {
            *complaint = None;
            Some(table)
        }
        Err(error) => {
            let text = error.to_string();
            if complaint.as_ref() != Some(&text) {
                tracing::warn!(error = %text, "the peer table cannot be used; the last one stays");
                *complaint = Some(text);
            }
            None
        }
    }
}

/// Writes beside the target, syncs and renames over it.
fn replace(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let folder = super::genesis::folder_of(path);
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|it| it.error)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(lines: &[(&str, &str)]) -> PeerTable {
        PeerTable {
            members: lines
                .iter()
                .map(|(name, address)| PeerAddress {
                    name: (*name).into(),
                    address: (*address).into(),
                })
                .collect(),
        }
    }

    #[test]
    fn a_written_table_reads_back_and_a_bad_one_says_where() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("peers.json");
        let written = table(&[("a", "127.0.0.1:1"), ("b", "b.local:7443")]);
        written.write(&path).expect("write");
        assert_eq!(PeerTable::read(&path).expect("read"), written);
        for bad in [
            table(&[("a", "127.0.0.1")]),
            table(&[("a", ":1")]),
            table(&[("a", "host:0")]),
            table(&[("a", "x:1"), ("a", "y:1")]),
        ] {
            bad.write(&path).expect("write");
            let error = PeerTable::read(&path).expect_err("bad").to_string();
            assert!(error.contains("\"a\""), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_followed_and_a_bad_one_leaves_the_last_table() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("peers.json");
        let mut tables = follow(path.clone());
        assert_eq!(*tables.borrow_and_update(), PeerTable::default());
        let one = table(&[("a", "127.0.0.1:1")]);
        one.write(&path).expect("write");
        tables.changed().await.expect("follows");
        assert_eq!(*tables.borrow_and_update(), one);
        std::fs::write(&path, "{").expect("write");
        tokio::time::sleep(POLL * 3).await;
        assert_eq!(*tables.borrow(), one);
        let two = table(&[("a", "127.0.0.1:2")]);
        two.write(&path).expect("write");
        tables.changed().await.expect("follows");
        assert_eq!(*tables.borrow_and_update(), two);
    }

    /// As kubelet updates a ConfigMap's volume: files are links into `..data`, and that is a link to
    /// a folder, which is exchanged.
    #[tokio::test(start_paused = true)]
    async fn a_volume_whose_links_are_exchanged_is_followed() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().expect("folder");
        let at = |name: &str| folder.path().join(name);
        let publish = |version: &str, table: &PeerTable| {
            std::fs::create_dir(at(version)).expect("folder");
            table.write(&at(version).join("peers.json")).expect("write");
            symlink(version, at("..data_tmp")).expect("link");
            std::fs::rename(at("..data_tmp"), at("..data")).expect("exchange");
        };
        let one = table(&[("a", "127.0.0.1:1")]);
        publish("..1", &one);
        symlink("..data/peers.json", at("peers.json")).expect("link");
        let mut tables = follow(at("peers.json"));
        assert_eq!(*tables.borrow_and_update(), one);
        let two = table(&[("a", "127.0.0.1:2")]);
        publish("..2", &two);
        std::fs::remove_dir_all(at("..1")).expect("the old one goes");
        tables.changed().await.expect("follows");
        assert_eq!(*tables.borrow_and_update(), two);
    }
}
