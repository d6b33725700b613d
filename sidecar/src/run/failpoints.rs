//! How tests arm the steps at which they end this process, and have them come soon.

use std::path::Path;

use synod_failpoint::Point;

use crate::config::Config;

/// What is armed from the start on.
const ARMED: &str = "SYNOD_FAILPOINTS";
/// Size of one segment of the log, in bytes: a run that lasts seconds fills none of the usual size.
const SEGMENT_BYTES: &str = "SYNOD_FAILPOINTS_SEGMENT_BYTES";

/// All points of this program, one a line.
pub fn list() -> String {
    let names = Point::ALL.iter().map(|it| it.name());
    names.flat_map(|it| [it, "\n"]).collect()
}

/// From here on the process ends where its environment says, or the file beside its configuration, of
/// the same name with the extension `failpoints`.
pub(super) fn begin(config: &Path) {
    if let Ok(text) = std::env::var(ARMED) {
        synod_failpoint::arm(&text).expect("a text that arms failpoints");
    }
    let file = config.with_extension("failpoints");
    synod_failpoint::watch(file).expect("a thread can be started");
}

/// With segments of the size that a test wants.
pub(super) fn shorten(mut config: Config) -> Config {
    if let Ok(bytes) = std::env::var(SEGMENT_BYTES) {
        config.log.segment_bytes = bytes.parse().expect("a number of bytes");
    }
    config
}
