//! Damage to the log of a member that runs.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::{Group, PATIENCE, name};

impl Group {
    /// Flips a bit at this place in the first segment of a member's log.
    fn damage(&self, number: usize, at: u64) {
        let log = self.path(&name(number)).join("log");
        let path = log.join("segment-0000000000000001");
        let file = std::fs::File::options().read(true).write(true).open(path);
        let file = file.expect("opened");
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).expect("read");
        file.write_all_at(&[byte[0] ^ 1], at).expect("written");
    }

    async fn repairs(&self, number: usize) -> u64 {
        let told = self.running(number).member.node().describe().await;
        told.expect("runs").counters.repairs
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_that_nobody_asks_for_is_found_and_mended_from_the_others() {
    let mut group = Group::new();
    group.start_all().await;
    group.form().await;
    // The long one is the only one that reaches so far.
    let long = "x".repeat(100_000);
    for line in ["a", &long, "c"] {
        group.add(1, line).await;
    }
    for number in 1..=3 {
        group.show(number).await;
    }
    group.damage(2, 50_000);
    let mended = async {
        while group.repairs(2).await == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let mended = tokio::time::timeout(PATIENCE, mended).await;
    mended.expect("found and mended");
    // What was mended is good at the next reading, and at the next start.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(group.repairs(2).await, 1);
    group.members[1].take().expect("runs").member.kill().await;
    group.start(2).await;
    assert!(group.add(2, "d").await == format!("a,{long},c,d"));
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(group.repairs(2).await, 0, "of its new start");
}
