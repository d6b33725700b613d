//! Snapshots for tests.

use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use synod_paxos::{AgreedTime, Ballot, EntryHash, Epoch, GroupId, Incarnation, MemberId, Slot};

use super::{Head, Method, Snapshot, Store};

pub(super) const GROUP: GroupId = GroupId([7; 16]);

pub(super) fn head(slot: u64) -> Head {
    Head {
        group: GROUP,
        slot: Slot(slot),
        ballot: Ballot {
            epoch: Epoch(1),
            round: 2,
            node: MemberId(3),
        },
        entry: EntryHash([4; 16]),
        time: AgreedTime(1_700_000_000_000_000_000),
        epoch: Epoch(1),
        configuration: Bytes::from_static(b"a configuration"),
        policy: [5; 32],
        protocol: 1,
        revision: 6,
        method: Method::Http,
        maker: Incarnation(0x0123_4567_89ab_cdef),
    }
}

pub(super) fn store(folder: &Path) -> Store {
    let (store, findings) = Store::open(folder, 0).expect("a good folder");
    assert_eq!(findings, []);
    store
}

/// Bytes that do not get smaller: a cheap generator's.
pub(super) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(bytes).collect()
}

/// Bytes that get smaller.
pub(super) fn text(bytes: usize) -> Vec<u8> {
    let lines = (0..).flat_map(|it: u32| format!("line {it} of the state\n").into_bytes());
    lines.take(bytes).collect()
}

pub(super) fn save(store: &Store, slot: u64, state: &[u8]) -> Snapshot {
    let mut draft = store
        .begin(head(slot), b"tables", state.len() as u64)
        .expect("begun");
    draft.push(state).expect("pushed");
    draft.commit().expect("committed")
}

pub(super) fn state_of(store: &Store, snapshot: &Snapshot) -> Vec<u8> {
    let mut state = Vec::new();
    let mut reader = store.read(snapshot.id).expect("readable");
    reader.read_to_end(&mut state).expect("read");
    state
}
