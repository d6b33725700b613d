//! Random records, syncs and crashes, against a model that keeps everything in memory.

mod common;

use common::run::{Run, steps};
use proptest::prelude::*;

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
}
