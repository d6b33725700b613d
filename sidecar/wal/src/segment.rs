//! One segment file: where its records and the second copies of their headers are.

use std::io;
use std::sync::Arc;

use synod_failpoint::{Point, check};
use synod_paxos::Incarnation;

use crate::disk::{Disk, DiskFile};
use crate::format::{HEADER_BYTES, Read, RecordHeader, SECTOR_BYTES, Salt};
use crate::opening::Opening;
use crate::page::{Page, SegmentPage};

/// A segment that is part of the log, as far as it is synced.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) sequence: u64,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) salt: Salt,
    /// Its size.
    pub(crate) bytes: u32,
    /// Where the next record goes.
    pub(crate) end: u32,
    /// Records in it.
    pub(crate) count: u32,
    /// The state that it begins with.
    pub(crate) opening: Arc<Opening>,
}

const PREFIX: &str = "segment-";
const SPARE_PREFIX: &str = "spare-";

// === impl Segment ===

impl Segment {
    /// Offset of the first record.
    pub(crate) const START: u32 = SECTOR_BYTES as u32;

    /// A segment without records.
    pub(crate) fn empty(
        file: Arc<dyn DiskFile>,
        incarnation: Incarnation,
        sequence: u64,
        bytes: u32,
        opening: Opening,
    ) -> Self {
        Self {
            opening: Arc::new(opening),
            sequence,
            file,
            salt: Salt::new(incarnation, sequence),
            bytes,
            end: Self::START,
            count: 0,
        }
    }

    /// Segments between the first and this one, this one counted.
    pub(crate) fn later(&self) -> u64 {
        self.sequence - 1
    }

    /// Name of the file of a segment.
    pub(crate) fn name(sequence: u64) -> String {
        format!("{PREFIX}{sequence:016x}")
    }

    /// Number of the segment in a file of this name.
    pub(crate) fn number(name: &str) -> Option<u64> {
        let digits = name.strip_prefix(PREFIX)?;
        let number = u64::from_str_radix(digits, 16).ok()?;
        (Self::name(number) == name).then_some(number)
    }

    /// Name of a file of zeros that is to become a segment.
    pub(crate) fn spare_name(number: u64) -> String {
        format!("{SPARE_PREFIX}{number:016x}")
    }

    /// Number of the spare in a file of this name.
    pub(crate) fn spare_number(name: &str) -> Option<u64> {
        u64::from_str_radix(name.strip_prefix(SPARE_PREFIX)?, 16).ok()
    }

    /// Bytes that records and the second copies of their headers can take up together.
    pub(crate) fn capacity(bytes: u64) -> u64 {
        bytes - 2 * SECTOR_BYTES as u64
    }

    /// Bytes that are still free.
    pub(crate) fn room(&self) -> u64 {
        u64::from(self.copy_at(0)) + HEADER_BYTES as u64
            - u64::from(self.count) * HEADER_BYTES as u64
            - u64::from(self.end)
    }

    /// Where the second copy of the header of record `index` is. The index must fit.
    pub(crate) fn copy_at(&self, index: u32) -> u32 {
        copy_at(self.bytes, index).expect("the index was checked against the room")
    }

    /// Reads the second copy of the header of the record at `offset`, which is slow.
    pub(crate) fn find_copy(&self, offset: u32) -> io::Result<Option<RecordHeader>> {
        let low = copy_at(self.bytes, self.count.saturating_sub(1)).unwrap_or(Self::START);
        let high = self.bytes - SECTOR_BYTES as u32;
        let mut copies = vec![0; (high - low) as usize];
        self.file.read_exact_at(&mut copies, u64::from(low))?;
        let mut found = copies.chunks_exact(HEADER_BYTES).filter_map(|bytes| {
            match RecordHeader::decode(bytes, self.salt) {
                Read::Valid(header) if header.offset == offset => Some(header),
                _ => None,
            }
        });
        Ok(found.next())
    }
}

/// Where the second copy of a header is in a segment of this size, if it fits at all.
pub(crate) fn copy_at(bytes: u32, index: u32) -> Option<u32> {
    let back = index.checked_add(1)?.checked_mul(HEADER_BYTES as u32)?;
    let at = bytes.checked_sub(SECTOR_BYTES as u32)?.checked_sub(back)?;
    (at >= Segment::START).then_some(at)
}

/// Removes the segments with these numbers, the oldest first, durably: what is left after a crash is
/// the log without some at its start.
pub(crate) fn remove(disk: &dyn Disk, numbers: &[u64]) -> io::Result<()> {
    for number in numbers {
        disk.remove(&Segment::name(*number))?;
        check(Point::WalSegmentRemoved)?;
        disk.sync_dir()?;
    }
    Ok(())
}

/// Makes a file of zeros the segment that its page says, durably.
pub(crate) fn install(
    disk: &dyn Disk,
    spare: &str,
    page: &SegmentPage,
    opening: Opening,
) -> io::Result<Segment> {
    let file = disk.open(spare)?;
    let bytes: Page = page.encode();
    file.write_all_at(&bytes, 0)?;
    file.write_all_at(&bytes, page.bytes - SECTOR_BYTES as u64)?;
    file.sync_data()?;
    check(Point::WalSegmentPaged)?;
    disk.rename(spare, &Segment::name(page.sequence))?;
    check(Point::WalSegmentRenamed)?;
    disk.sync_dir()?;
    Ok(Segment::empty(
        file,
        page.identity.incarnation,
        page.sequence,
        u32::try_from(page.bytes).expect("options were checked"),
        opening,
    ))
}
