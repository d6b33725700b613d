//! Random records, syncs, crashes and damage, against a model that keeps everything in memory.

mod common;

use std::collections::BTreeSet;

use common::run::{Model, Run, Step, steps};
use common::{header, open, read_each};
use proptest::prelude::*;
use synod_paxos::{Entry, Header, Slot};

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_log_behaves_like_its_model_whatever_happens(steps in steps()) {
        let mut run = Run::new();
        for step in steps {
            run.step(step);
        }
        run.sync();
        run.disk.restart();
        run.reopen();
    }

    #[test]
    fn damage_anywhere_never_gives_a_wrong_entry(
        steps in steps(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>(), 1..=255_u8), 1..6),
        zeros in prop::option::of((any::<prop::sample::Index>(), any::<u32>(), 1..2000_usize)),
    ) {
        let mut run = Run::new();
        for step in steps {
            run.step(step);
        }
        // The last batch is known: it has this in it, and all that is pending.
        run.step(Step::Promise);
        let possible = run.possible.clone();
        run.sync();
        run.disk.restart();
        let names = run.disk.names();
        for (file, at, change) in flips {
            run.disk.damage(&names[file.index(names.len())], |bytes| {
                let at = at as usize % bytes.len();
                bytes[at] ^= change;
            });
        }
        if let Some((file, at, length)) = zeros {
            run.disk.damage(&names[file.index(names.len())], |bytes| {
                let from = at as usize % bytes.len();
                let to = (from + length).min(bytes.len());
                bytes[from..to].fill(0);
            });
        }
        // Refused, or all that is read is right and the rest is known by its header. Zeros may
        // take the last batch, which looks as if it had never been written.
        if let Ok((wal, recovered)) = open(&run.disk) {
            let faulty: BTreeSet<Slot> = recovered.faulty.iter().map(|header| header.slot).collect();
            if zeros.is_none() {
                prop_assert_eq!(recovered.last.0, run.model.last());
                prop_assert_eq!(&recovered.base, &run.model.base);
                prop_assert_eq!(recovered.promised, run.model.promised);
                prop_assert_eq!(recovered.accepted, run.model.accepted);
            }
            let read = read_each(&wal.reader());
            let fits = |model: &Model| {
                let same = |(read, entry): (&Result<Entry, Header>, &Entry)| match read {
                    Ok(read) => read == entry,
                    Err(read) => *read == header(entry) && faulty.contains(&entry.slot),
                };
                read.len() == model.log.len()
                    && recovered.base == model.base
                    && read.iter().zip(&model.log).all(same)
            };
            let found = possible.iter().rposition(fits);
            prop_assert!(found.is_some(), "{:?} is none of {:?}", read, possible);
            prop_assert!(zeros.is_some() || found == Some(possible.len() - 1));
        }
    }
}
