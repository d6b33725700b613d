//! Snapshots on a real disk, whole and damaged.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use synod_paxos::Slot;

use super::format::{CHUNK_BYTES, END_BYTES, FILE_HEADER_BYTES};
use super::testing::{head, noise, save, state_of, store, text};
use super::*;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|it| it.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn slots(store: &Store) -> Vec<u64> {
    store.list().iter().map(|it| it.head.slot.0).collect()
}

fn path(folder: &Path, slot: u64) -> PathBuf {
    folder.join(format!("{slot:016x}.snapshot"))
}

// === writing and reading ===

#[test]
fn a_snapshot_reads_back_as_it_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let many = 3 * CHUNK_BYTES + 17;
    let states = [
        Vec::new(),
        b"x".to_vec(),
        text(CHUNK_BYTES),
        noise(1, CHUNK_BYTES + 1),
        text(many),
        [noise(2, many), text(many)].concat(),
    ];
    for (slot, state) in (1..).zip(&states) {
        let tables = noise(slot, 1000 * usize::try_from(slot).unwrap());
        let mut draft = store.begin(head(slot), &tables, 0).unwrap();
        for part in state.chunks(70_001) {
            draft.write_all(part).unwrap();
        }
        assert_eq!(draft.state_bytes(), state.len() as u64);
        let snapshot = draft.commit().unwrap();
        assert_eq!(snapshot.head, head(slot));
        assert_eq!(snapshot.state_bytes, state.len() as u64);
        assert_eq!(snapshot.state_digest.0, *blake3::hash(state).as_bytes());
        assert!(state_of(&store, &snapshot) == *state, "state {slot}");
        let reader = store.read(snapshot.id).unwrap();
        assert!(reader.tables() == tables, "tables {slot}");
        assert_eq!(store.newest(), Some(snapshot));
    }
    let again = testing::store(folder.path());
    assert_eq!(again.list(), store.list());
}

#[test]
fn a_state_that_gets_smaller_takes_less_room() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let snapshot = save(&store, 1, &text(2 << 20));
    assert!(snapshot.bytes < 1 << 19, "{}", snapshot.bytes);
    let snapshot = save(&store, 2, &noise(1, 2 << 20));
    assert!(snapshot.bytes < (2 << 20) + 1000, "{}", snapshot.bytes);
}

#[test]
fn what_clients_sent_is_for_our_eyes_only() {
    let folder = tempfile::tempdir().unwrap();
    let inner = folder.path().join("a/snapshots");
    let store = store(&inner);
    let snapshot = save(&store, 1, b"secret");
    store.mark_verified(snapshot.id).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&inner), 0o700);
    for name in names(&inner) {
        assert_eq!(mode(&inner.join(&name)), 0o600, "{name}");
    }
}

#[test]
fn a_draft_that_is_dropped_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let mut draft = store.begin(head(1), b"", 0).unwrap();
    draft.push(&noise(1, CHUNK_BYTES * 2)).unwrap();
    assert_eq!(names(folder.path()).len(), 1);
    drop(draft);
    assert_eq!(names(folder.path()), [""; 0]);
    assert_eq!(store.newest(), None);
}

#[test]
fn a_snapshot_of_the_same_slot_takes_the_place_of_the_one_before() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let old = save(&store, 1, b"old");
    store.mark_verified(old.id).unwrap();
    let new = save(&store, 1, b"new");
    assert_eq!(store.list(), std::slice::from_ref(&new));
    assert!(matches!(
        store.read(old.id),
        Err(StoreError::NotThere { .. })
    ));
    assert!(matches!(
        store.mark_verified(old.id),
        Err(StoreError::NotThere { .. })
    ));
    // Nor does the mark of the old one hold for it, now or later.
    let again = testing::store(folder.path());
    assert_eq!(again.list(), [new]);
}

#[test]
fn more_than_there_is_room_for_is_refused_before_and_while_it_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    for bytes in [1 << 60, u64::MAX] {
        let error = store.begin(head(1), b"t", bytes).unwrap_err().to_string();
        assert!(error.contains("are needed"), "{error}");
    }
    let free = space::free(folder.path()).unwrap();
    // All but the room for a few chunks is for others.
    let (tight, _) = Store::open(folder.path(), free - (64 << 20)).unwrap();
    let chunk = noise(1, CHUNK_BYTES);
    let mut draft = match tight.begin(head(1), b"", 0) {
        Ok(draft) => draft,
        // Others have taken these meanwhile.
        Err(StoreError::NoRoom { .. }) => return,
        Err(error) => panic!("{error}"),
    };
    let refused = (0..2000).find_map(|_| draft.push(&chunk).err());
    assert!(
        matches!(refused, Some(StoreError::NoRoom { .. })),
        "{refused:?}"
    );
    drop(draft);
    assert_eq!(names(folder.path()), [""; 0]);
}

// === opening ===

#[test]
fn opening_removes_what_is_half_written_and_ignores_what_is_not_ours() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    save(&store, 9, b"good");
    let half = format!("{:016x}.abc.new", 3);
    let part = format!("{:016x}.{}.part", 3, SnapshotId([1; 32]));
    for name in [&half, &part, "notes.txt", "0000.snapshot"] {
        fs::write(folder.path().join(name), "x").unwrap();
    }
    let (again, findings) = Store::open(folder.path(), 0).unwrap();
    assert_eq!(slots(&again), [9]);
    assert_eq!(findings, [Finding::HalfWritten { name: half.clone() }]);
    let left = names(folder.path());
    assert!(!left.contains(&half));
    for name in [&part, "notes.txt", "0000.snapshot"] {
        assert!(left.iter().any(|it| it == name), "{name}");
    }
}

#[test]
fn a_file_of_any_shorter_length_is_set_aside_when_it_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let whole = save(&store, 1, &noise(1, 5000));
    save(&store, 2, b"good");
    let bytes = fs::read(path(folder.path(), 1)).unwrap();
    assert_eq!(bytes.len() as u64, whole.bytes);
    for length in (0..bytes.len()).step_by(97).chain([bytes.len() - 1]) {
        fs::write(path(folder.path(), 1), &bytes[..length]).unwrap();
        let (again, findings) = Store::open(folder.path(), 0).unwrap();
        assert_eq!(slots(&again), [2], "{length}");
        let [Finding::Damaged { slot, aside, .. }] = &findings[..] else {
            panic!("{length}: {findings:?}");
        };
        assert_eq!(*slot, Slot(1));
        assert_eq!(
            fs::read(folder.path().join(aside)).unwrap(),
            bytes[..length]
        );
        fs::remove_file(folder.path().join(aside)).unwrap();
    }
}

#[test]
fn damaged_files_of_one_slot_are_all_kept_and_told_of_again() {
    let folder = tempfile::tempdir().unwrap();
    for content in ["one", "two"] {
        fs::write(path(folder.path(), 1), content).unwrap();
        Store::open(folder.path(), 0).unwrap();
    }
    let aside = ["0000000000000001.damaged", "0000000000000001.damaged-2"];
    assert_eq!(names(folder.path()), aside);
    let (_, findings) = Store::open(folder.path(), 0).unwrap();
    assert_eq!(
        findings,
        aside.map(|it| Finding::SetAside { name: it.into() })
    );
}

#[test]
fn a_file_under_the_name_of_another_slot_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    save(&store(folder.path()), 1, b"state");
    fs::rename(path(folder.path(), 1), path(folder.path(), 2)).unwrap();
    let (again, findings) = Store::open(folder.path(), 0).unwrap();
    assert_eq!(slots(&again), [0; 0]);
    assert!(
        findings[0].to_string().contains("another slot"),
        "{findings:?}"
    );
}

#[test]
fn a_file_of_a_newer_program_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    save(&store(folder.path()), 1, b"state");
    let mut bytes = fs::read(path(folder.path(), 1)).unwrap();
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..12]);
    bytes[12..16].copy_from_slice(&crc.to_le_bytes());
    fs::write(path(folder.path(), 1), &bytes).unwrap();
    let (again, findings) = Store::open(folder.path(), 0).unwrap();
    assert_eq!(slots(&again), [0; 0]);
    let name = "0000000000000001.snapshot".to_owned();
    assert_eq!(findings, [Finding::NewerVersion { name }]);
    assert_eq!(fs::read(path(folder.path(), 1)).unwrap(), bytes);
}

// === damage ===

#[tokio::test]
async fn a_scrub_finds_each_flipped_bit_and_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let state = [text(CHUNK_BYTES), noise(1, 3000)].concat();
    save(&store, 1, b"good");
    let target = save(&store, 2, &state);
    let bytes = fs::read(path(folder.path(), 2)).unwrap();
    let step = bytes.len() / 61;
    for at in (0..bytes.len()).step_by(step) {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        fs::write(path(folder.path(), 2), &bad).unwrap();
        let findings = store.scrub(1 << 30).await.unwrap();
        assert_eq!(findings.len(), 1, "byte {at}: {findings:?}");
        assert_eq!(slots(&store), [1], "byte {at}");
        let Finding::Damaged { aside, why, .. } = &findings[0] else {
            panic!("byte {at}: {findings:?}");
        };
        assert!(why.contains("at byte"), "{why}");
        fs::remove_file(folder.path().join(aside)).unwrap();
        assert_eq!(save(&store, 2, &state), target, "byte {at}");
    }
    assert_eq!(store.scrub(1 << 30).await.unwrap(), []);
}

#[test]
fn the_last_piece_of_a_state_is_not_handed_out_before_all_was_checked() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let state = noise(1, 2 * CHUNK_BYTES);
    let snapshot = save(&store, 1, &state);
    let good = fs::read(path(folder.path(), 1)).unwrap();
    // In the last chunk, and in the hash at the very end.
    for at in [good.len() - END_BYTES - 1, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(path(folder.path(), 1), &bad).unwrap();
        let mut reader = store.read(snapshot.id).unwrap();
        let mut got = Vec::new();
        let error = reader.read_to_end(&mut got).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
        assert!(got.len() <= CHUNK_BYTES, "{} bytes", got.len());
    }
    // Another snapshot in its place is not taken for it either.
    let other = tempfile::tempdir().unwrap();
    save(&testing::store(other.path()), 1, &noise(2, 2 * CHUNK_BYTES));
    fs::copy(path(other.path(), 1), path(folder.path(), 1)).unwrap();
    let mut reader = store.read(snapshot.id).unwrap();
    assert!(reader.read_to_end(&mut Vec::new()).is_err());
}

#[test]
fn parts_that_change_places_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let snapshot = save(&store, 1, &noise(1, 3 * CHUNK_BYTES));
    let good = fs::read(path(folder.path(), 1)).unwrap();
    let chunk = CHUNK_BYTES + 24;
    let first = good.len() - END_BYTES - 3 * chunk;
    let mut bad = good.clone();
    bad[first..first + chunk].copy_from_slice(&good[first + chunk..first + 2 * chunk]);
    bad[first + chunk..first + 2 * chunk].copy_from_slice(&good[first..first + chunk]);
    fs::write(path(folder.path(), 1), &bad).unwrap();
    let error = store.read(snapshot.id).unwrap_err().to_string();
    assert!(error.contains(&format!("at byte {first}")), "{error}");
    assert!(first > FILE_HEADER_BYTES);
}

// === marks and retention ===

#[test]
fn marks_outlive_the_process_and_the_newest_usable_one_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let made: Vec<_> = (1..=3).map(|slot| save(&store, slot, b"state")).collect();
    assert_eq!(store.newest_usable(), None);
    store.mark_verified(made[0].id).unwrap();
    store.mark_unverified(made[1].id).unwrap();
    let again = testing::store(folder.path());
    for store in [store, again] {
        let standings: Vec<_> = store.list().iter().map(|it| it.standing).collect();
        let expected = [
            Standing::Verified,
            Standing::Unverified,
            Standing::Uncompared,
        ];
        assert_eq!(standings, expected);
        assert_eq!(store.newest_usable().unwrap().head.slot, Slot(2));
        assert_eq!(store.newest().unwrap().head.slot, Slot(3));
    }
}

#[test]
fn what_a_copy_saved_after_it_went_astray_is_neither_used_nor_offered_in_this_process_or_a_later_one()
 {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    for slot in 1..=6 {
        let snapshot = save(&store, slot, b"state");
        match slot {
            1 | 4 => store.mark_unverified(snapshot.id).unwrap(),
            2 | 5 => store.mark_verified(snapshot.id).unwrap(),
            _ => {}
        }
    }
    let findings = store.void_since(Slot(3)).unwrap();
    assert_eq!(slots(&store), [1, 2, 5], "others vouch for the last");
    let [
        Finding::Damaged {
            slot: Slot(4),
            aside,
            ..
        },
    ] = &findings[..]
    else {
        panic!("{findings:?}");
    };
    assert!(folder.path().join(aside).exists(), "people may look at it");
    assert!(!path(folder.path(), 3).exists() && !path(folder.path(), 6).exists());
    let (again, _) = Store::open(folder.path(), 0).unwrap();
    assert_eq!(slots(&again), [1, 2, 5]);
    assert_eq!(store.void_since(Slot(3)).unwrap(), []);
}

#[test]
fn what_is_superfluous_goes_with_its_mark_and_a_reader_keeps_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    for slot in 1..=4 {
        let made = save(&store, slot, &noise(slot, 2 * CHUNK_BYTES));
        store.mark_verified(made.id).unwrap();
    }
    let oldest = store.list()[0].clone();
    let mut reader = store.read(oldest.id).unwrap();
    assert_eq!(store.retain().unwrap(), [Slot(1), Slot(2)]);
    assert_eq!(slots(&store), [3, 4]);
    assert_eq!(names(folder.path()).len(), 4);
    let mut state = Vec::new();
    reader.read_to_end(&mut state).unwrap();
    assert!(state == noise(1, 2 * CHUNK_BYTES));
    let last = store.list()[1].clone();
    store.discard(last.id).unwrap();
    assert_eq!(slots(&testing::store(folder.path())), [3]);
}

// === format version 1 ===

fn golden(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/snapshot/testdata");
    folder.join(name)
}

/// A state that is stored as it is, hence the same whatever the version of zstd.
fn plain() -> (Vec<u8>, Vec<u8>) {
    (noise(1, 50), noise(2, 100))
}

#[test]
fn version_1_is_written_byte_for_byte_as_ever() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let (tables, state) = plain();
    let mut draft = store.begin(head(42), &tables, 0).unwrap();
    draft.push(&state).unwrap();
    draft.commit().unwrap();
    let written = fs::read(path(folder.path(), 42)).unwrap();
    let mut draft = store.begin(head(43), &text(500), 0).unwrap();
    draft.push(&text(2000)).unwrap();
    draft.commit().unwrap();
    // `UPDATE_GOLDEN=1` writes the files; only for a new version, beside the old ones.
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(golden("v1-plain.snapshot"), &written).unwrap();
        fs::copy(path(folder.path(), 43), golden("v1-zstd.snapshot")).unwrap();
    }
    assert!(fs::read(golden("v1-plain.snapshot")).unwrap() == written);
}

#[test]
fn snapshots_of_version_1_are_read() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(golden("v1-plain.snapshot"), path(folder.path(), 42)).unwrap();
    fs::copy(golden("v1-zstd.snapshot"), path(folder.path(), 43)).unwrap();
    let store = store(folder.path());
    let [plain_one, zstd_one] = &store.list()[..] else {
        panic!("two were put there");
    };
    let (tables, state) = plain();
    for (snapshot, slot, tables, state) in [
        (plain_one, 42, tables, state),
        (zstd_one, 43, text(500), text(2000)),
    ] {
        assert_eq!(snapshot.head, head(slot));
        assert_eq!(state_of(&store, snapshot), state);
        assert_eq!(store.read(snapshot.id).unwrap().tables(), tables);
    }
}

// === by chance ===

/// Id, tables and state of a snapshot's bytes, wherever they come from.
fn walk(bytes: &[u8]) -> Result<(SnapshotId, Vec<u8>, Vec<u8>), walk::ReadError> {
    let mut walk = walk::Walk::new()?;
    let mut from = bytes;
    let (mut tables, mut state) = (Vec::new(), Vec::new());
    while let Some(chunk) = walk.next(&mut from)? {
        let kind = chunk.kind();
        match kind {
            format::Kind::Tables => tables.extend(walk.decode(chunk)?),
            format::Kind::State => state.extend(walk.decode(chunk)?),
            format::Kind::Head | format::Kind::End => {}
        }
    }
    let end = walk.check_state()?;
    walk.check_end(&mut from)?;
    Ok((end.id, tables, state))
}

/// Makes the checksums of all chunks right again, as far as chunks can be told.
fn with_checksums(mut bytes: Vec<u8>) -> Vec<u8> {
    let mut at = FILE_HEADER_BYTES;
    while let Some(raw) = bytes.get(at..at + format::CHUNK_HEADER_BYTES) {
        let length = u32::from_le_bytes(raw[8..12].try_into().unwrap()) as usize;
        let body = at + format::CHUNK_HEADER_BYTES;
        let Some(rest) = bytes.get(at + 4..body.saturating_add(length)) else {
            break;
        };
        let crc = crc32c::crc32c(rest);
        bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
        at = body + length;
    }
    bytes
}

#[test]
fn a_snapshot_changed_by_chance_is_damaged_or_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let mut whole = Vec::new();
    for (slot, state) in [(1, text(3_000)), (2, noise(1, 700)), (3, Vec::new())] {
        save(&store, slot, &state);
        let bytes = fs::read(path(folder.path(), slot)).unwrap();
        whole.push((bytes.clone(), walk(&bytes).unwrap()));
    }
    let seeds: Vec<Vec<u8>> = whole.iter().map(|it| it.0.clone()).collect();
    let show = |it: &Vec<u8>| synod_fuzz::write_bytes(it);
    synod_fuzz::fuzz(20_000, &synod_fuzz::changed(seeds), show, |bytes| {
        for bytes in [bytes.clone(), with_checksums(bytes)] {
            // What is taken for one of these is that one.
            if let Ok(read) = walk(&bytes)
                && !whole.iter().any(|it| it.1 == read)
            {
                return Err(format!("taken for {:?}", read.0));
            }
        }
        Ok(())
    });
}

#[test]
fn a_head_changed_by_chance_is_refused_or_is_what_it_says() {
    let seeds = vec![head(7).encode()];
    let show = |it: &Vec<u8>| synod_fuzz::write_bytes(it);
    synod_fuzz::fuzz(
        30_000,
        &synod_fuzz::messages(seeds),
        show,
        |bytes| match Head::decode(&bytes) {
            Ok(read) if Head::decode(&read.encode()).as_ref() != Ok(&read) => {
                Err(format!("{read:?}"))
            }
            _ => Ok(()),
        },
    );
}
