//! Between what is compared and what travels. Nothing that came over the wire is trusted.

use std::collections::BTreeMap;

use synod_paxos::Slot;
use synod_proto::v1::copy_mark::Measure;
use synod_proto::v1::response_part::Kind;
use synod_proto::v1::{
    CompareRequest, CompareResponse, CopyMark, NoisyPart, ResponsePart, SlotDigest,
};

use crate::apply::Word;
use crate::apply::digests::{Batch, Digest, Noise, Part, PartHash};
use crate::apply::divergence::{Mark, OnDivergence};

/// Slots are reached by counting: what is above would overflow in somebody's arithmetic.
const MAX_SLOT: u64 = 1 << 62;

/// Why something from another member cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    /// A field is outside of what it can be.
    #[error("{0} is out of range: the member there runs another version, or its memory is damaged")]
    Range(&'static str),
    /// A part that must be there is not.
    #[error("{0} is missing: the member there runs another version")]
    Missing(&'static str),
}

/// What a leader says.
pub(super) fn read_request(request: CompareRequest) -> Result<Word, WireError> {
    Ok(Word {
        lineage: request.lineage,
        after: slot("after", request.after)?,
        verified: slot("verified", request.verified)?,
        undisputed: slot("undisputed", request.undisputed)?,
        release: slot("release", request.release)?,
        mark: request.mark.map(read_mark).transpose()?,
        is_over: request.is_over,
        noise: request.noise.into_iter().map(read_noise).collect(),
        noise_known: request.noise_known,
    })
}

/// The same, to be sent, without group and term.
pub(super) fn request(word: &Word) -> CompareRequest {
    CompareRequest {
        lineage: word.lineage,
        after: word.after.0,
        verified: word.verified.0,
        undisputed: word.undisputed.0,
        release: word.release.0,
        mark: word.mark.as_ref().map(mark),
        is_over: word.is_over,
        noise: word.noise.iter().map(noise).collect(),
        noise_known: word.noise_known,
        ..CompareRequest::default()
    }
}

/// What a copy says.
pub(super) fn read_response(response: CompareResponse) -> Result<Batch, WireError> {
    let digests = response.digests.into_iter().map(read_digest);
    Ok(Batch {
        lineage: response.lineage,
        from: slot("from", response.from)?,
        released: slot("released", response.released)?,
        through: slot("through", response.through)?,
        digests: digests.collect::<Result<_, _>>()?,
        more: response.more,
        mark: response.mark.map(read_mark).transpose()?,
        noise: response.noise.into_iter().map(read_noise).collect(),
        noise_known: response.noise_known,
        revision: response.revision,
    })
}

/// The same, to be sent.
pub(super) fn response(batch: Batch) -> CompareResponse {
    CompareResponse {
        lineage: batch.lineage,
        from: batch.from.0,
        released: batch.released.0,
        through: batch.through.0,
        digests: batch.digests.into_iter().map(digest).collect(),
        more: batch.more,
        mark: batch.mark.as_ref().map(mark),
        noise: batch.noise.iter().map(noise).collect(),
        noise_known: batch.noise_known,
        revision: batch.revision,
    }
}

fn slot(what: &'static str, slot: u64) -> Result<Slot, WireError> {
    let slot = Some(slot).filter(|slot| *slot <= MAX_SLOT);
    slot.map(Slot).ok_or(WireError::Range(what))
}

fn digest((slot, digest): (Slot, Digest)) -> SlotDigest {
    let parts = digest.parts.iter();
    SlotDigest {
        slot: slot.0,
        status: digest.status.into(),
        parts: parts.map(|(it, hash)| part(it, Some(hash))).collect(),
        route: digest.route,
    }
}

fn read_digest(digest: SlotDigest) -> Result<(Slot, Digest), WireError> {
    let mut parts = BTreeMap::new();
    for part in digest.parts {
        let hash = PartHash::try_from(&part.hash[..]).map_err(|_| WireError::Range("hash"))?;
        parts.insert(read_part(part), hash);
    }
    let status = u16::try_from(digest.status).map_err(|_| WireError::Range("status"))?;
    let read = Digest {
        route: digest.route,
        status,
        parts,
    };
    Ok((slot("slot", digest.slot)?, read))
}

fn part(part: &Part, hash: Option<&PartHash>) -> ResponsePart {
    let (kind, name) = match part {
        Part::StatusClass => (Kind::StatusClass, ""),
        Part::Status => (Kind::Status, ""),
        Part::Header(name) => (Kind::Header, name.as_str()),
        Part::Body => (Kind::Body, ""),
        Part::Trailer(name) => (Kind::Trailer, name.as_str()),
        Part::Unknown => (Kind::Unspecified, ""),
    };
    ResponsePart {
        kind: kind.into(),
        name: name.to_owned(),
        hash: hash.map(|hash| hash.to_vec().into()).unwrap_or_default(),
    }
}

fn read_part(part: ResponsePart) -> Part {
    match part.kind() {
        Kind::StatusClass => Part::StatusClass,
        Kind::Status => Part::Status,
        Kind::Header => Part::Header(part.name),
        Kind::Body => Part::Body,
        Kind::Trailer => Part::Trailer(part.name),
        Kind::Unspecified => Part::Unknown,
    }
}

fn noise(noise: &Noise) -> NoisyPart {
    NoisyPart {
        route: noise.route.clone(),
        part: Some(part(&noise.part, None)),
    }
}

fn read_noise(noise: NoisyPart) -> Noise {
    Noise {
        route: noise.route,
        part: noise.part.map_or(Part::Unknown, read_part),
    }
}

fn mark(mark: &Mark) -> CopyMark {
    let measure = match mark.measure {
        OnDivergence::Observe => Measure::Observe,
        OnDivergence::Alert => Measure::Alert,
        OnDivergence::Quarantine => Measure::Quarantine,
        OnDivergence::Halt => Measure::Halt,
    };
    CopyMark {
        slot: mark.slot.0,
        route: mark.route.clone(),
        part: Some(part(&mark.part, None)),
        measure: measure.into(),
        tie: mark.tie,
    }
}

fn read_mark(mark: CopyMark) -> Result<Mark, WireError> {
    Ok(Mark {
        measure: match mark.measure() {
            Measure::Observe => OnDivergence::Observe,
            Measure::Alert => OnDivergence::Alert,
            Measure::Quarantine => OnDivergence::Quarantine,
            Measure::Halt => OnDivergence::Halt,
            Measure::Unspecified => return Err(WireError::Missing("measure")),
        },
        slot: slot("slot", mark.slot)?,
        route: mark.route,
        part: mark.part.map_or(Part::Unknown, read_part),
        tie: mark.tie,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;

    use super::*;

    fn marks() -> Vec<Mark> {
        let parts = [
            Part::StatusClass,
            Part::Status,
            Part::Header("etag".into()),
            Part::Body,
            Part::Trailer("etag".into()),
            Part::Unknown,
        ];
        let measures = [
            OnDivergence::Observe,
            OnDivergence::Alert,
            OnDivergence::Quarantine,
            OnDivergence::Halt,
        ];
        let marks = parts.into_iter().zip(measures.into_iter().cycle());
        let marks = marks.zip([None, Some(0), Some(3)].into_iter().cycle());
        let marks = marks.map(|((part, measure), tie)| Mark {
            slot: Slot(7),
            route: "notes".into(),
            part,
            measure,
            tie,
        });
        marks.collect()
    }

    fn noises() -> BTreeSet<Noise> {
        let parts = [Part::Body, Part::Header("etag".into())];
        let noise = parts.map(|part| Noise {
            route: "notes".into(),
            part,
        });
        noise.into()
    }

    #[test]
    fn what_is_sent_is_what_arrives() {
        for mark in marks() {
            let word = Word {
                lineage: 1,
                after: Slot(2),
                verified: Slot(3),
                undisputed: Slot(6),
                release: Slot(4),
                mark: Some(mark.clone()),
                is_over: true,
                noise: noises(),
                noise_known: 5,
            };
            assert_eq!(read_request(request(&word)), Ok(word));
            let hashed = [(mark.part.clone(), [7; 16])];
            let digest = Digest {
                route: "notes".into(),
                status: 201,
                parts: hashed.into(),
            };
            let batch = Batch {
                lineage: 1,
                from: Slot(2),
                released: Slot(3),
                through: Slot(9),
                digests: vec![(Slot(5), digest)],
                more: true,
                mark: Some(mark),
                noise: noises(),
                noise_known: 7,
                revision: 2,
            };
            assert_eq!(read_response(response(batch.clone())), Ok(batch));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let good = response(Batch::default());
        let digest = |slot, status, hash: &'static [u8]| CompareResponse {
            digests: vec![SlotDigest {
                slot,
                status,
                parts: vec![ResponsePart {
                    hash: hash.into(),
                    ..ResponsePart::default()
                }],
                ..SlotDigest::default()
            }],
            ..good.clone()
        };
        assert!(read_response(digest(1, 200, &[0; 16])).is_ok());
        let unmeasured = CompareResponse {
            mark: Some(CopyMark::default()),
            ..good.clone()
        };
        let far = CompareResponse {
            through: u64::MAX,
            ..good.clone()
        };
        for bad in [
            digest(u64::MAX, 200, &[0; 16]),
            digest(1, 70_000, &[0; 16]),
            digest(1, 200, &[0; 15]),
            unmeasured,
            far,
        ] {
            assert!(read_response(bad.clone()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_changed_by_chance_is_refused_or_is_what_is_sent_on() {
        let words = marks().into_iter().map(|mark| Word {
            lineage: 1,
            after: Slot(2),
            mark: Some(mark),
            noise: noises(),
            ..Word::default()
        });
        let asked = words.map(|it| request(&it).encode_to_vec()).collect();
        let show = |it: &Vec<u8>| synod_fuzz::write_bytes(it);
        synod_fuzz::fuzz(30_000, &synod_fuzz::messages(asked), show, |bytes| {
            let Some(word) = CompareRequest::decode(&bytes[..])
                .ok()
                .and_then(|it| read_request(it).ok())
            else {
                return Ok(());
            };
            let slots = [word.after, word.verified, word.undisputed, word.release];
            let counted = slots
                .iter()
                .chain(word.mark.as_ref().map(|it| &it.slot))
                .all(|it| it.0 <= 1 << 62);
            let same = read_request(request(&word)).as_ref() == Ok(&word);
            if counted && same {
                Ok(())
            } else {
                Err(format!("{word:?}"))
            }
        });
        let batches = marks().into_iter().map(|mark| Batch {
            from: Slot(2),
            digests: vec![(
                Slot(5),
                Digest {
                    route: "notes".into(),
                    status: 201,
                    parts: [(mark.part.clone(), [7; 16])].into(),
                },
            )],
            mark: Some(mark),
            noise: noises(),
            ..Batch::default()
        });
        let told = batches.map(|it| response(it).encode_to_vec()).collect();
        synod_fuzz::fuzz(30_000, &synod_fuzz::messages(told), show, |bytes| {
            let Some(batch) = CompareResponse::decode(&bytes[..])
                .ok()
                .and_then(|it| read_response(it).ok())
            else {
                return Ok(());
            };
            let slots = [batch.from, batch.released, batch.through];
            let slots = slots
                .iter()
                .chain(batch.digests.iter().map(|it| &it.0))
                .chain(batch.mark.as_ref().map(|it| &it.slot));
            let counted = slots.into_iter().all(|it| it.0 <= 1 << 62);
            let same = read_response(response(batch.clone())).as_ref() == Ok(&batch);
            if counted && same {
                Ok(())
            } else {
                Err(format!("{batch:?}"))
            }
        });
    }
}
