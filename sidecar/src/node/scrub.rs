//! Reads the log again and again, slowly, so that damage to what nobody asks for is found while others
//! still have it (rule W5). In: the log, and up to where it is chosen. Out: the headers of entries that
//! cannot be read any more, of which the agreement gets copies from peers.

use std::time::Duration;

use synod_paxos::{Header, Slot};
use synod_wal::{LogReader, ReadError};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::handle::NodeStatus;
use super::input::{Input, Inputs};

/// Read at once, in bytes.
const PIECE_BYTES: u64 = 1 << 20;
/// Read in a second, at most, in bytes: what clients need of the disk comes first.
const RATE: u64 = 16 << 20;

/// One reading.
#[derive(Debug, Default, PartialEq, Eq)]
struct Pass {
    bytes: u64,
    damaged: u64,
}

/// Reads all that is chosen, once every `period`. Ends with the node.
pub(super) async fn run(
    reader: LogReader,
    period: Duration,
    inputs: Inputs,
    status: watch::Receiver<NodeStatus>,
) {
    loop {
        // Members that were started together do not read at the same time.
        sleep(period.mul_f64(rand::random_range(0.75..1.0))).await;
        let through = status.borrow().commit;
        let begun = Instant::now();
        let found = |header: Header| {
            tracing::warn!(slot = %header.slot, "an entry of the log cannot be read any more");
            inputs.send(Input::Damaged(header)).is_ok()
        };
        match pass(&reader, through, found).await {
            Ok(Pass { bytes, damaged: 0 }) => {
                let seconds = begun.elapsed().as_secs();
                tracing::debug!(bytes, seconds, "the log was read: all of it is good");
            }
            Ok(Pass { bytes, damaged }) => {
                tracing::warn!(
                    bytes,
                    damaged,
                    "the log was read: peers are asked for copies"
                );
            }
            Err(error) => tracing::error!(%error, "the log cannot be read"),
        }
        if inputs.is_closed() {
            return;
        }
    }
}

/// Reads up to `through`; `found` says whether anybody still wants to know.
async fn pass(
    reader: &LogReader,
    through: Slot,
    mut found: impl FnMut(Header) -> bool,
) -> Result<Pass, ReadError> {
    let mut pass = Pass::default();
    let mut next = reader.range().0;
    while next <= through {
        let owned = reader.clone();
        let read = move || owned.read(next, through, PIECE_BYTES);
        let read = tokio::task::spawn_blocking(read).await;
        let read = read.map_err(|error| ReadError::Io(std::io::Error::other(error)))?;
        let bytes = match read {
            Ok(entries) => {
                next = entries.last().map_or(through, |it| it.slot).next();
                entries.iter().map(synod_paxos::Entry::weight).sum()
            }
            Err(ReadError::Faulty(header)) => {
                pass.damaged += 1;
                if !found(header) {
                    break;
                }
                next = next.next();
                PIECE_BYTES
            }
            // The log was cut meanwhile.
            Err(ReadError::OutOfRange { first, .. }) if first > next => {
                next = first;
                0
            }
            Err(error) => return Err(error),
        };
        pass.bytes += bytes;
        sleep(Duration::from_secs_f64(bytes as f64 / RATE as f64)).await;
    }
    Ok(pass)
}
