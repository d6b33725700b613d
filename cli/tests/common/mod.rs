//! What the tests of the real program share.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// More than anything here takes, on a busy machine too.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Waits until it is so.
pub(crate) fn until(what: &str, mut it: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !it() {
        assert!(Instant::now() < end, "{what} does not come about");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A process that is there, and not only as what its parent has not buried yet.
pub(crate) fn is_alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|it| {
        !it.rsplit(')')
            .next()
            .unwrap_or("")
            .trim_start()
            .starts_with('Z')
    })
}

/// The first of three free ports in a row. Tests that run at the same time look in different places.
pub(crate) fn three_ports() -> u16 {
    let first = 20_000 + std::process::id() as u16 % 10_000;
    (first..31_000)
        .step_by(3)
        .find(|first| (0..3).all(|it| TcpListener::bind(("127.0.0.1", first + it)).is_ok()))
        .expect("free ports")
}
