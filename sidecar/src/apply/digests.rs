//! What each copy answered, as hashes: so that copies are compared without their content.
//!
//! One [`Digest`] per executed slot, made off the lane, kept in a bounded [`Digests`] until it was
//! compared. A digest tells its parts apart, so that the comparer names the first that differs.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use http::{HeaderMap, HeaderName, StatusCode, header};
use synod_paxos::Slot;

use super::divergence::Mark;

/// Digests kept, at most; older ones are lost if nobody compares them.
const KEPT: usize = 16_384;
/// About the size of a batch, beyond which no further digest goes into it.
const BATCH_BYTES: usize = 512 << 10;

/// Fields that say nothing about the app's state, or belong to one connection (RFC 9110, section
/// 7.6.1).
const IGNORED: [HeaderName; 8] = [
    header::DATE,
    header::SERVER,
    header::CONNECTION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// A part of a response, in the order in which differences are told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Whether it went well: the first digit of the status code.
    StatusClass,
    /// The status code.
    Status,
    /// All fields of this name, in lower case.
    Header(String),
    /// The body.
    Body,
    /// All trailers of this name, in lower case.
    Trailer(String),
    /// Which it was is not known any more.
    Unknown,
}

/// 128 bits of BLAKE3.
pub type PartHash = [u8; 16];

/// A response without its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Name of the request's route; empty: none matched.
    pub route: String,
    /// Status code.
    pub status: u16,
    /// Of each part that there is besides the status, which is never noise.
    pub parts: BTreeMap<Part, PartHash>,
}

/// Makes a digest of a response as it is read.
#[derive(Debug)]
pub struct Digester {
    digest: Digest,
    body: blake3::Hasher,
}

// === impl Part ===

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StatusClass => f.write_str("status class"),
            Self::Status => f.write_str("status"),
            Self::Header(name) => write!(f, "header {name}"),
            Self::Body => f.write_str("body"),
            Self::Trailer(name) => write!(f, "trailer {name}"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

// === impl Digest ===

impl Digest {
    /// About its size on the wire, in bytes.
    fn weight(&self) -> usize {
        let names = self.parts.keys().map(|part| match part {
            Part::Header(name) | Part::Trailer(name) => name.len(),
            _ => 0,
        });
        let parts: usize = names.map(|name| name + 32).sum();
        64 + self.route.len() + parts
    }

    /// The first part in which the two differ, those left aside for which `noise` holds.
    pub fn difference(&self, other: &Self, noise: impl Fn(&Part) -> bool) -> Option<Part> {
        if self.status / 100 != other.status / 100 {
            return Some(Part::StatusClass);
        }
        if self.status != other.status {
            return Some(Part::Status);
        }
        // As nearly always, and asked again for each slot that is not finished.
        if self.parts == other.parts {
            return None;
        }
        let names = self.parts.keys().chain(other.parts.keys());
        let differ = names.filter(|part| self.parts.get(part) != other.parts.get(part));
        differ.filter(|part| !noise(part)).min().cloned()
    }
}

// === impl Digester ===

impl Digester {
    /// Begins with the head.
    pub fn new(route: &str, status: StatusCode, headers: &HeaderMap) -> Self {
        let mut digester = Self {
            digest: Digest {
                route: route.to_owned(),
                status: status.as_u16(),
                parts: BTreeMap::new(),
            },
            body: blake3::Hasher::new(),
        };
        digester.fields(headers, Part::Header);
        digester
    }

    /// The next piece of the body.
    pub fn body(&mut self, piece: &[u8]) {
        self.body.update(piece);
    }

    /// All of it was read.
    pub fn finish(mut self, trailers: &HeaderMap) -> Digest {
        self.fields(trailers, Part::Trailer);
        let body = short(&self.body);
        self.digest.parts.insert(Part::Body, body);
        self.digest
    }

    fn fields(&mut self, fields: &HeaderMap, part: fn(String) -> Part) {
        for name in fields.keys() {
            if IGNORED.contains(name) {
                continue;
            }
            let mut hasher = blake3::Hasher::new();
            for value in fields.get_all(name) {
                hasher.update(&(value.len() as u64).to_le_bytes());
                hasher.update(value.as_bytes());
            }
            let part = part(name.as_str().to_owned());
            self.digest.parts.insert(part, short(&hasher));
        }
    }
}

fn short(hasher: &blake3::Hasher) -> PartHash {
    let mut short = [0; 16];
    short.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    short
}

/// The digests of one copy that were not compared yet.
#[derive(Debug, Default)]
pub struct Digests {
    lineage: u64,
    from: Slot,
    kept: BTreeMap<Slot, Digest>,
    /// Being made.
    pending: BTreeSet<Slot>,
    applied: Slot,
    released: Slot,
}

/// Digests for the comparer, in slot order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Of which state of the copy they are: another number when it was made anew. 0: of none yet.
    pub lineage: u64,
    /// The revision of the app that has that state.
    pub revision: u64,
    /// The slot of that state when it began here.
    pub from: Slot,
    /// All up to here was compared by a leader, this one or an earlier one.
    pub released: Slot,
    /// A slot up to here that has no digest, in this batch or an earlier one, was not executed by this
    /// copy, or its digest is lost.
    pub through: Slot,
    /// The digests.
    pub digests: Vec<(Slot, Digest)>,
    /// There are more of them.
    pub more: bool,
    /// What a leader has found about that state.
    pub mark: Option<Mark>,
    /// All that the copy knows to be noise, unless the leader knows the same.
    pub noise: BTreeSet<Noise>,
    /// [`fingerprint`] of that.
    pub noise_known: u64,
}

/// A part of the responses of a route that differs on all copies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Noise {
    /// Name of the route; empty: none matched.
    pub route: String,
    /// What differs.
    pub part: Part,
}

/// Noise that is kept, at most.
pub const NOISE: usize = 1_024;

/// Whether two know the same noise: 0 when there is none.
pub fn fingerprint(noise: &BTreeSet<Noise>) -> u64 {
    noise.iter().fold(0, |all, Noise { route, part }| {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&u64::to_le_bytes(all));
        hasher.update(&(route.len() as u64).to_le_bytes());
        hasher.update(route.as_bytes());
        hasher.update(part.to_string().as_bytes());
        let mut first = [0; 8];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        u64::from_le_bytes(first)
    })
}

impl Digests {
    /// There was no copy yet.
    pub fn is_new(&self) -> bool {
        self.lineage == 0
    }

    /// The state that they are of.
    pub fn lineage(&self) -> u64 {
        self.lineage
    }

    /// The copy has this state now, which began at the slot `from`. What is known of the one before is
    /// not about this one.
    pub fn enter(&mut self, lineage: u64, from: Slot) {
        if self.lineage != lineage {
            *self = Self {
                lineage,
                from,
                applied: from,
                released: self.released,
                ..Self::default()
            };
        }
    }

    /// The digest of this slot is being made.
    pub fn begin(&mut self, slot: Slot) {
        if slot > self.released {
            self.pending.insert(slot);
        }
    }

    /// It was made, of that state. `None`: it cannot be had.
    pub fn end(&mut self, lineage: u64, slot: Slot, digest: Option<Digest>) {
        if lineage != self.lineage {
            return;
        }
        self.pending.remove(&slot);
        if let Some(digest) = digest.filter(|_| slot > self.released) {
            self.kept.insert(slot, digest);
            if self.kept.len() > KEPT {
                self.kept.pop_first();
            }
        }
    }

    /// The copy has come so far.
    pub fn reached(&mut self, applied: Slot) {
        self.applied = self.applied.max(applied);
    }

    /// The digests behind this slot, `max` at most and about so many bytes.
    pub fn after(&self, slot: Slot, max: usize) -> Batch {
        let first_pending = self.pending.first().map(|slot| slot.prev());
        let known = first_pending.map_or(self.applied, |known| known.min(self.applied));
        let mut batch = Batch {
            lineage: self.lineage,
            from: self.from,
            released: self.released,
            through: known,
            ..Batch::default()
        };
        let mut bytes = 0;
        for (at, digest) in self.kept.range(slot.next()..) {
            if *at > known {
                break;
            }
            if batch.digests.len() >= max || bytes >= BATCH_BYTES {
                batch.through = batch.digests.last().map_or(slot, |(last, _)| *last);
                batch.more = true;
                break;
            }
            bytes += digest.weight();
            batch.digests.push((*at, digest.clone()));
        }
        batch
    }

    /// All up to here was compared, and who differs knows it.
    pub fn release(&mut self, through: Slot) {
        if through > self.released {
            self.released = through;
            self.kept = self.kept.split_off(&through.next());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields.iter().map(|(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        });
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value);
        }
        headers
    }

    fn digest(status: u16, fields: &[(&'static str, &'static str)], body: &str) -> Digest {
        let status = StatusCode::from_u16(status).unwrap();
        let mut digester = Digester::new("notes", status, &headers(fields));
        for piece in body.as_bytes().chunks(3) {
            digester.body(piece);
        }
        digester.finish(&headers(&[("grpc-status", "0")]))
    }

    fn first_difference(one: &Digest, other: &Digest) -> Option<Part> {
        let difference = one.difference(other, |_| false);
        assert_eq!(difference, other.difference(one, |_| false));
        difference
    }

    #[test]
    fn what_says_nothing_about_the_state_makes_no_difference() {
        let one = digest(200, &[("a", "1"), ("b", "2"), ("date", "Mon")], "done");
        let other = digest(
            200,
            &[
                ("server", "nginx"),
                ("b", "2"),
                ("connection", "close"),
                ("transfer-encoding", "chunked"),
                ("a", "1"),
            ],
            "done",
        );
        assert_eq!(first_difference(&one, &other), None);
        assert_eq!(one, other, "in whatever order the fields come");
    }

    #[test]
    fn the_first_part_that_differs_is_named() {
        let one = digest(200, &[("a", "1"), ("b", "2")], "done");
        let cases = [
            (digest(404, &[("a", "9")], "x"), Part::StatusClass),
            (digest(201, &[("a", "9")], "x"), Part::Status),
            (
                digest(200, &[("a", "1"), ("b", "3")], "x"),
                Part::Header("b".into()),
            ),
            (digest(200, &[("a", "1")], "done"), Part::Header("b".into())),
            (
                digest(200, &[("a", "1"), ("b", "2"), ("c", "")], "done"),
                Part::Header("c".into()),
            ),
            (digest(200, &[("a", "1"), ("b", "2")], "done!"), Part::Body),
        ];
        for (other, part) in cases {
            assert_eq!(first_difference(&one, &other), Some(part));
        }
        let mut other = one.clone();
        other.parts.remove(&Part::Trailer("grpc-status".into()));
        let trailer = Part::Trailer("grpc-status".into());
        assert_eq!(first_difference(&one, &other), Some(trailer));
    }

    #[test]
    fn values_of_one_field_are_not_confused_with_each_other() {
        let one = digest(200, &[("a", "1"), ("a", "23")], "");
        for fields in [
            &[("a", "12"), ("a", "3")][..],
            &[("a", "23"), ("a", "1")],
            &[("a", "123")],
        ] {
            let other = digest(200, fields, "");
            let difference = first_difference(&one, &other);
            assert_eq!(difference, Some(Part::Header("a".into())), "{fields:?}");
        }
    }

    #[test]
    fn noise_is_left_aside() {
        let one = digest(200, &[("etag", "1")], "a");
        let other = digest(200, &[("etag", "2")], "b");
        let etag = Part::Header("etag".into());
        let difference = one.difference(&other, |part| *part == etag);
        assert_eq!(difference, Some(Part::Body));
    }

    #[test]
    fn a_batch_says_how_far_it_knows() {
        let mut digests = Digests::default();
        let some = || digest(200, &[], "");
        for slot in [1, 2, 4, 5] {
            digests.begin(Slot(slot));
        }
        digests.end(0, Slot(1), Some(some()));
        digests.end(0, Slot(2), None);
        digests.end(0, Slot(5), Some(some()));
        digests.reached(Slot(6));
        let slots = |batch: &Batch| batch.digests.iter().map(|(it, _)| it.0).collect::<Vec<_>>();
        let batch = digests.after(Slot(0), 10);
        assert_eq!((batch.through, slots(&batch)), (Slot(3), vec![1]));
        digests.end(0, Slot(4), Some(some()));
        let batch = digests.after(Slot(0), 10);
        assert_eq!((batch.through, slots(&batch)), (Slot(6), vec![1, 4, 5]));
        let batch = digests.after(Slot(0), 2);
        assert_eq!((batch.through, slots(&batch)), (Slot(4), vec![1, 4]));
        let batch = digests.after(Slot(4), 2);
        assert_eq!((batch.through, slots(&batch)), (Slot(6), vec![5]));
        digests.reached(Slot(2));
        assert_eq!(digests.after(Slot(5), 2).through, Slot(6));
        digests.release(Slot(4));
        digests.begin(Slot(3));
        digests.end(0, Slot(3), Some(some()));
        let batch = digests.after(Slot(0), 10);
        assert_eq!((batch.through, slots(&batch)), (Slot(6), vec![5]));
    }

    #[test]
    fn of_a_copy_that_is_made_anew_nothing_is_known_that_the_one_before_has_answered() {
        let mut digests = Digests::default();
        digests.enter(7, Slot(0));
        for slot in 1..=4 {
            digests.begin(Slot(slot));
            digests.end(7, Slot(slot), Some(digest(200, &[], "")));
        }
        digests.begin(Slot(5));
        digests.reached(Slot(4));
        digests.release(Slot(2));
        digests.enter(8, Slot(1));
        let batch = digests.after(Slot(0), 10);
        let expected = Batch {
            lineage: 8,
            from: Slot(1),
            released: Slot(2),
            through: Slot(1),
            ..Batch::default()
        };
        assert_eq!(batch, expected);
        // The last answer of the one before comes late.
        digests.end(7, Slot(5), Some(digest(500, &[], "")));
        digests.begin(Slot(3));
        digests.end(8, Slot(3), Some(digest(200, &[], "")));
        digests.reached(Slot(9));
        let batch = digests.after(Slot(0), 10);
        assert_eq!((batch.through, batch.digests.len()), (Slot(9), 1));
    }

    #[test]
    fn a_batch_fits_into_a_message_however_many_fields_there_are() {
        let mut digests = Digests::default();
        let mut large = digest(200, &[], "");
        for number in 0..1_000 {
            let name = format!("{number:0>60}");
            large.parts.insert(Part::Header(name), [0; 16]);
        }
        for slot in 1..=20 {
            digests.end(0, Slot(slot), Some(large.clone()));
        }
        digests.reached(Slot(30));
        let mut after = Slot(0);
        let mut count = 0;
        while after < Slot(30) {
            let batch = digests.after(after, 512);
            let bytes: usize = batch.digests.iter().map(|(_, it)| it.weight()).sum();
            assert!(bytes < BATCH_BYTES + (128 << 10), "{bytes}");
            assert!(batch.through > after, "it goes on");
            after = batch.through;
            count += batch.digests.len();
        }
        assert_eq!(count, 20);
    }

    #[test]
    fn memory_is_bounded_though_nobody_compares() {
        let mut digests = Digests::default();
        for slot in 1..=KEPT as u64 + 10 {
            digests.begin(Slot(slot));
            digests.end(0, Slot(slot), Some(digest(200, &[], "")));
            digests.reached(Slot(slot));
        }
        assert_eq!(digests.kept.len(), KEPT);
        assert_eq!(digests.after(Slot(0), 1).digests[0].0, Slot(11));
        assert!(digests.pending.is_empty());
    }
}
