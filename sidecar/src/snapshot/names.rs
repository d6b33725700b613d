//! Names of files in a store, and the one that has nothing but a line in it.

use std::fs;
use std::io;
use std::path::Path;

use synod_paxos::Slot;

use super::head::SnapshotId;
use super::store::Standing;

/// Ends the name of a file that is being written.
pub(super) const NEW: &str = ".new";

/// More damaged files of one slot than anybody looks at.
const MAX_ASIDE: u32 = 1000;

/// What a name in the folder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    Snapshot(Slot),
    Mark(Slot),
    New,
    Part,
    Damaged(Slot),
}

pub(super) fn snapshot_of(slot: Slot) -> String {
    format!("{:016x}.snapshot", slot.0)
}

pub(super) fn mark_of(slot: Slot) -> String {
    format!("{:016x}.mark", slot.0)
}

pub(super) fn new_prefix(slot: Slot) -> String {
    format!("{:016x}.", slot.0)
}

pub(super) fn part_of(slot: Slot, id: SnapshotId) -> String {
    format!("{:016x}.{id}.part", slot.0)
}

/// `None`: not one of ours.
pub(super) fn parse(name: &str) -> Option<Name> {
    let (slot, rest) = name.split_at_checked(16)?;
    let hex = |it: &str| {
        it.bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    if !hex(slot) {
        return None;
    }
    let slot = Slot(u64::from_str_radix(slot, 16).ok()?);
    match rest {
        ".snapshot" => return Some(Name::Snapshot(slot)),
        ".mark" => return Some(Name::Mark(slot)),
        ".damaged" => return Some(Name::Damaged(slot)),
        _ => {}
    }
    if let Some(number) = rest.strip_prefix(".damaged-") {
        return number.parse::<u32>().is_ok().then_some(Name::Damaged(slot));
    }
    let middle = rest.strip_prefix('.')?;
    if middle.ends_with(NEW) {
        return Some(Name::New);
    }
    let id = middle.strip_suffix(".part")?;
    (id.len() == 64 && hex(id)).then_some(Name::Part)
}

/// The content of a mark.
pub(super) fn mark(standing: Standing, id: SnapshotId) -> String {
    let word = match standing {
        Standing::Verified => "verified",
        Standing::Unverified => "unverified",
        Standing::Uncompared => "uncompared",
    };
    format!("1 {word} {id}\n")
}

/// What a mark says of the snapshot with this id; nothing, if it is for another, or unreadable.
pub(super) fn read_mark(content: &[u8], id: SnapshotId) -> Standing {
    let all = [Standing::Verified, Standing::Unverified];
    let said = all
        .into_iter()
        .find(|it| mark(*it, id).as_bytes() == content);
    said.unwrap_or(Standing::Uncompared)
}

/// Renames the snapshot of this slot so that it is not read again, and tells the new name.
pub(super) fn set_aside(folder: &Path, slot: Slot) -> io::Result<String> {
    let from = folder.join(snapshot_of(slot));
    for number in 1..MAX_ASIDE {
        let mut name = format!("{:016x}.damaged", slot.0);
        if number > 1 {
            name = format!("{name}-{number}");
        }
        // Not a rename at once, which would put an end to the one that is there.
        match fs::hard_link(&from, folder.join(&name)) {
            Ok(()) => {
                fs::remove_file(&from)?;
                return Ok(name);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(
        "too many damaged snapshots of one slot; look at them and remove them",
    ))
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_are_understood() {
        let id = SnapshotId([0xab; 32]);
        let slot = Slot(0x2a);
        for (name, what) in [
            (snapshot_of(slot), Name::Snapshot(slot)),
            (mark_of(slot), Name::Mark(slot)),
            (part_of(slot, id), Name::Part),
            (new_prefix(slot) + "x1" + NEW, Name::New),
            ("000000000000002a.damaged".into(), Name::Damaged(slot)),
            ("000000000000002a.damaged-2".into(), Name::Damaged(slot)),
        ] {
            assert_eq!(parse(&name), Some(what), "{name}");
        }
        for name in [
            "",
            "lost+found",
            "000000000000002a",
            "000000000000002A.snapshot",
            "+00000000000002a.snapshot",
            "000000000000002a.snapshot~",
            "000000000000002a.damaged-x",
            "000000000000002a.ab.part",
            "00000000000002é.snapshot",
        ] {
            assert_eq!(parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_mark_says_nothing_of_another_snapshot_and_nothing_when_it_is_damaged() {
        let (one, two) = (SnapshotId([1; 32]), SnapshotId([2; 32]));
        let content = mark(Standing::Verified, one);
        assert_eq!(read_mark(content.as_bytes(), one), Standing::Verified);
        assert_eq!(read_mark(content.as_bytes(), two), Standing::Uncompared);
        assert_eq!(
            read_mark(&content.as_bytes()[..9], one),
            Standing::Uncompared
        );
    }
}
