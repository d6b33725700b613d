//! Where the entries of the log are: a sparse index over the records on disk. Live entries lie in
//! extents, stretches of records in which one slot follows the other; an adoption cuts some and
//! adds one. Memory is one point for 64 entries or 128 KiB, whichever is less.

use std::collections::BTreeMap;

use synod_paxos::{Ballot, Base, Configuration, Header, Slot};

use crate::codec::{Content, base_version};
use crate::format::{Kind, RecordHeader, VERSION, VERSION_1, VERSION_2};
use crate::opening::Opening;
use crate::outline::{Effect, Outline};

/// Entries from one point of the index to the next, at most.
const POINT_ENTRIES: u64 = 64;
/// Bytes from one point of the index to the next, about at most.
const POINT_BYTES: u32 = 128 << 10;

/// Where a record begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    /// Number of the segment.
    pub(crate) segment: u64,
    /// Offset in it.
    pub(crate) offset: u32,
}

/// All that is known about a log without reading it.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogState {
    pub(crate) outline: Outline,
    /// What the log begins behind.
    pub(crate) base: Option<Base>,
    /// Whom a member that joined later asks, until it has entered that epoch.
    pub(crate) joining: Option<Configuration>,
    /// Configurations entered behind the base.
    pub(crate) changes: BTreeMap<Slot, Configuration>,
    /// Ballots of the log: (first slot, ballot), in slot order, no two neighbours alike.
    pub(crate) runs: Vec<(Slot, Ballot)>,
    /// Entries known to be damaged and not repaired.
    pub(crate) faulty: BTreeMap<Slot, Header>,
    /// Where the second copies of damaged entries are.
    pub(crate) repairs: BTreeMap<Slot, Position>,
    extents: Vec<Extent>,
    /// The last extent may grow by appending.
    growing: bool,
    staging: Option<Staging>,
}

/// A stretch of live entries.
#[derive(Clone, Debug)]
struct Extent {
    first: Slot,
    last: Slot,
    /// The entries are stage records of this ballot; otherwise they are append and learn records.
    staged_in: Option<Ballot>,
    /// Slots and where they are, in order; the first is at or below `first`.
    points: Vec<(Slot, Position)>,
}

/// Entries of an adoption under way.
#[derive(Clone, Debug)]
struct Staging {
    extent: Extent,
    runs: Vec<(Slot, Ballot)>,
    faulty: Vec<Header>,
}

/// Where to look for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Located {
    /// Begin here.
    pub(crate) start: Position,
    /// Only stage records of this ballot, or only append and learn records.
    pub(crate) staged_in: Option<Ballot>,
    /// Last slot that can be found by going on from here.
    pub(crate) last: Slot,
}

// === impl LogState ===

impl LogState {
    /// The state at the start of a segment: of the entries before it, none are known.
    pub(crate) fn of(opening: &Opening) -> Self {
        Self {
            outline: opening.outline.clone(),
            base: opening.base.clone(),
            joining: opening.joining.clone(),
            ..Self::default()
        }
    }

    /// Lowest version of the format that has all of this.
    pub(crate) fn format(&self) -> u32 {
        let base = self.base.as_ref().map_or(VERSION_1, base_version);
        if self.joining.is_some() || !self.changes.is_empty() {
            VERSION
        } else if self.outline.upgrades.is_empty() {
            base
        } else {
            base.max(VERSION_2)
        }
    }

    /// First slot held.
    pub(crate) fn first(&self) -> Slot {
        self.outline.base.next()
    }

    /// Last slot held.
    pub(crate) fn last(&self) -> Slot {
        self.outline.last
    }

    /// Takes one record that is on disk and synced. `readable`: its body is good. `content`: what
    /// it carries twice, if it is one of those.
    pub(crate) fn apply(
        &mut self,
        header: &RecordHeader,
        at: Position,
        readable: bool,
        content: Option<Content>,
    ) -> Result<(), String> {
        assert_eq!(
            header.kind.is_twofold(),
            content.is_some(),
            "its content comes with it"
        );
        let last = self.last();
        let effect = self.outline.advance(header)?;
        match content {
            Some(Content::Base(base)) => self.begin_behind(base),
            Some(Content::Configuration(it)) if header.kind == Kind::Enter => {
                self.enter(header.slot, it);
            }
            Some(Content::Configuration(it)) => self.joining = Some(it),
            None => {}
        }
        match effect {
            Effect::Nothing => {}
            Effect::DropStaged => self.staging = None,
            Effect::Append => self.append(header, at, readable),
            Effect::Stage | Effect::StageAnew => {
                self.stage(header, at, readable, effect == Effect::StageAnew);
            }
            Effect::Adopt => self.adopt(header),
            Effect::Repair => {
                if readable {
                    self.faulty.remove(&header.slot);
                    self.repairs.insert(header.slot, at);
                }
            }
            Effect::Compact => self.trim(header.slot),
            Effect::Install => {
                self.cut(Slot::ZERO);
                self.staging = None;
            }
            Effect::Learn => {
                if header.slot <= last {
                    self.cut(header.slot);
                }
                self.staging = None;
                self.append(header, at, readable);
            }
            Effect::Enter => {
                self.cut(header.slot.next());
                self.staging = None;
            }
        }
        Ok(())
    }

    fn begin_behind(&mut self, base: Base) {
        self.changes = self.changes.split_off(&base.slot.next());
        self.joining
            .take_if(|it| it.epoch <= base.configuration.epoch);
        self.base = Some(base);
    }

    fn enter(&mut self, slot: Slot, configuration: Configuration) {
        self.joining.take_if(|it| it.epoch <= configuration.epoch);
        self.changes.insert(slot, configuration);
    }

    fn append(&mut self, header: &RecordHeader, at: Position, readable: bool) {
        match self.extents.last_mut() {
            Some(extent) if self.growing => extent.push(header.slot, at),
            _ => self.extents.push(Extent::new(header.slot, at, None)),
        }
        self.growing = true;
        push_run(&mut self.runs, header.slot, header.ballot);
        if !readable {
            self.faulty.insert(header.slot, header.entry_header());
        }
    }

    fn stage(&mut self, header: &RecordHeader, at: Position, readable: bool, anew: bool) {
        match &mut self.staging {
            Some(staging) if !anew => staging.extent.push(header.slot, at),
            staging => {
                *staging = Some(Staging {
                    extent: Extent::new(header.slot, at, Some(header.under)),
                    runs: Vec::new(),
                    faulty: Vec::new(),
                });
            }
        }
        if let Some(staging) = &mut self.staging {
            push_run(&mut staging.runs, header.slot, header.ballot);
            if !readable {
                staging.faulty.push(header.entry_header());
            }
        }
    }

    fn adopt(&mut self, header: &RecordHeader) {
        let (from, last) = (header.slot, header.last);
        self.cut(from);
        let staging = self.staging.take();
        if last < from {
            return;
        }
        // (Of what was staged in segments that are gone, nothing is needed any more.)
        let Some(staging) = staging.filter(|staging| staging.extent.first <= last) else {
            return;
        };
        let from = from.max(staging.extent.first);
        self.extents.push(staging.extent.part(from, last));
        for (index, (first, ballot)) in staging.runs.iter().enumerate() {
            let ends_before_from = staging
                .runs
                .get(index + 1)
                .is_some_and(|(next, _)| *next <= from);
            if !ends_before_from && *first <= last {
                push_run(&mut self.runs, (*first).max(from), *ballot);
            }
        }
        let adopted = staging.faulty.into_iter();
        let adopted = adopted.filter(|faulty| (from..=last).contains(&faulty.slot));
        self.faulty
            .extend(adopted.map(|faulty| (faulty.slot, faulty)));
    }

    /// Forgets the entries through `slot`.
    fn trim(&mut self, slot: Slot) {
        let first = slot.next();
        self.extents.retain(|extent| extent.last > slot);
        if let Some(extent) = self.extents.first_mut()
            && extent.first < first
        {
            extent.begin_at(first);
        }
        let covered = self.runs.partition_point(|(start, _)| *start <= first);
        self.runs.drain(..covered.saturating_sub(1));
        if let Some(run) = self.runs.first_mut() {
            run.0 = run.0.max(first);
        }
        if self.last() == slot {
            self.runs.clear();
        }
        self.faulty = self.faulty.split_off(&first);
        self.repairs = self.repairs.split_off(&first);
    }

    /// Ballot of an entry that is held.
    pub(crate) fn ballot_at(&self, slot: Slot) -> Option<Ballot> {
        if slot < self.first() || slot > self.last() {
            return None;
        }
        let at = self.runs.partition_point(|(start, _)| *start <= slot);
        at.checked_sub(1).map(|at| self.runs[at].1)
    }

    /// The lowest segment that holds something that is needed, if any does. (A second copy of an entry
    /// lies behind the first, whose header is needed too.)
    pub(crate) fn oldest_needed(&self) -> Option<u64> {
        let staged = self.staging.iter().map(|staging| &staging.extent);
        let extents = self.extents.iter().chain(staged);
        let points = extents.flat_map(|extent| extent.points.iter());
        points.map(|(_, at)| at.segment).min()
    }

    /// The first entry that should be there and is not known at all.
    pub(crate) fn first_missing(&self) -> Option<Slot> {
        let mut next = self.first();
        for extent in &self.extents {
            if extent.first != next {
                return Some(next);
            }
            next = extent.last.next();
        }
        (next <= self.last()).then_some(next)
    }

    /// Drops the entries from `from` on. What is appended later begins a new extent: the records
    /// of the dropped entries are still there, behind those that stay.
    fn cut(&mut self, from: Slot) {
        self.growing = false;
        self.extents.retain(|extent| extent.first < from);
        if let Some(extent) = self.extents.last_mut() {
            extent.last = extent.last.min(from.prev());
            extent.points.retain(|(slot, _)| *slot < from);
            assert!(!extent.points.is_empty(), "an extent can be found");
        }
        self.runs.retain(|(first, _)| *first < from);
        self.faulty.split_off(&from);
        self.repairs.split_off(&from);
    }

    /// Where to look for a slot that is held.
    pub(crate) fn locate(&self, slot: Slot) -> Option<Located> {
        let index = self.extents.partition_point(|extent| extent.last < slot);
        let extent = self.extents.get(index)?;
        if extent.first > slot {
            return None;
        }
        let after = extent.points.partition_point(|(point, _)| *point <= slot);
        let (_, start) = *extent.points.get(after.checked_sub(1)?)?;
        Some(Located {
            start,
            staged_in: extent.staged_in,
            last: extent.last,
        })
    }
}

fn push_run(runs: &mut Vec<(Slot, Ballot)>, slot: Slot, ballot: Ballot) {
    if runs.last().is_none_or(|(_, last)| *last != ballot) {
        runs.push((slot, ballot));
    }
}

// === impl Extent ===

impl Extent {
    fn new(first: Slot, at: Position, staged_in: Option<Ballot>) -> Self {
        Self {
            first,
            last: first,
            staged_in,
            points: vec![(first, at)],
        }
    }

    fn push(&mut self, slot: Slot, at: Position) {
        assert_eq!(slot, self.last.next(), "an extent has no gaps");
        self.last = slot;
        let (point, position) = *self.points.last().expect("an extent has a point");
        if slot.0 - point.0 >= POINT_ENTRIES
            || at.segment != position.segment
            || at.offset - position.offset >= POINT_BYTES
        {
            self.points.push((slot, at));
        }
    }

    /// The part from `first` to `last`.
    fn part(mut self, first: Slot, last: Slot) -> Self {
        assert!(
            self.first <= first && last <= self.last && first <= last,
            "only a part is taken"
        );
        self.begin_at(first);
        self.points.retain(|(slot, _)| *slot <= last);
        self.last = last;
        self
    }

    /// Leaves out what is before `first`.
    fn begin_at(&mut self, first: Slot) {
        let before = self.points.partition_point(|(slot, _)| *slot <= first) - 1;
        self.points.drain(..before);
        self.first = first;
    }
}

impl RecordHeader {
    /// It is a record that an extent consists of.
    pub(crate) fn belongs_to(&self, staged_in: Option<Ballot>) -> bool {
        match staged_in {
            Some(ballot) => self.kind == Kind::Stage && self.under == ballot,
            None => matches!(self.kind, Kind::Append | Kind::Learn),
        }
    }
}
