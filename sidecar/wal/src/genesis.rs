//! A second copy of the genesis, in the file `genesis` ([`crate::sealed`], magic `SYNODGEN`). It can
//! be had from nobody who could not also give a wrong one, so one bad byte must not cost it.

use std::io;

use crate::disk::Disk;
use crate::format::Hash;
use crate::sealed;

const NAME: &str = "genesis";
const MAGIC: [u8; 8] = *b"SYNODGEN";

/// Writes the copy, durably.
pub(crate) fn write(disk: &dyn Disk, body: &[u8]) -> io::Result<()> {
    // One may be left by a start that did not come to write the record.
    sealed::write(disk, NAME, (MAGIC, 1), body)
}

/// The body with this hash, if the copy is there and good.
pub(crate) fn read(disk: &dyn Disk, expected: &Hash) -> Option<Vec<u8>> {
    let (body, found) = sealed::read(disk, NAME, MAGIC)?;
    (found == *expected).then_some(body)
}
