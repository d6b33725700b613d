//! A broken invariant ends all of a process.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

/// Set where this test is the process that ends.
const ENDS: &str = "SYNOD_TEST_ENDS_ON_PANIC";

#[test]
fn a_panic_of_one_thread_is_told_and_ends_the_process() {
    if std::env::var_os(ENDS).is_some() {
        crate::run::end_on_panic();
        let _ = std::thread::spawn(|| panic!("as it was said")).join();
        return;
    }
    let own = std::env::current_exe().expect("a program");
    let name = std::thread::current().name().expect("a test").to_owned();
    let run = Command::new(own)
        .args([&name, "--exact", "--nocapture"])
        .env(ENDS, "1")
        .output()
        .expect("runs");
    assert_eq!(run.status.signal(), Some(6), "SIGABRT: {run:?}");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(said.contains("as it was said"), "{said}");
}
