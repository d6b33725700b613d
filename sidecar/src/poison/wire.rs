//! Between what is decided and what travels. Nothing that came over the wire is trusted.

use bytes::Bytes;
use synod_paxos::{Ballot, GroupId, Slot};
use synod_proto::v1::poison_ask_response::Standing as WireStanding;
use synod_proto::v1::{
    PoisonAsk, PoisonAskRequest, PoisonAskResponse, PoisonDoubtsResponse, PoisonFreeRequest,
    PoisonTerm,
};

use crate::apply::{Ask, Doubts, Progress, Standing};
use crate::node::wire::{read_term, term};

/// Slots and asks are reached by counting: what is above would overflow in somebody's arithmetic.
const MAX_COUNT: u64 = 1 << 62;
/// Longest list that is taken.
const MAX_LIST: usize = 1 << 16;

/// Why something from another member cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is out of range: the member there runs another version, or its memory is damaged")]
pub(super) struct WireError(&'static str);

/// Who leads.
pub(super) fn term_of(group: GroupId, ballot: Ballot) -> PoisonTerm {
    PoisonTerm {
        group: Bytes::copy_from_slice(&group.0),
        ballot: Some(term(ballot)),
    }
}

/// The ballot in which whoever sent this leads.
pub(super) fn read_ballot(term: &PoisonTerm) -> Result<Ballot, WireError> {
    read_term(term.ballot).map_err(|_| WireError("ballot"))
}

/// An ask as it is sent to a member.
pub(super) fn ask_request(group: GroupId, ask: Ask) -> PoisonAskRequest {
    PoisonAskRequest {
        term: Some(term_of(group, ask.ballot)),
        slot: ask.slot.0,
        number: ask.number,
    }
}

/// The end of an ask, likewise.
pub(super) fn free_request(group: GroupId, ask: Ask) -> PoisonFreeRequest {
    PoisonFreeRequest {
        term: Some(term_of(group, ask.ballot)),
        slot: ask.slot.0,
        number: ask.number,
    }
}

/// The ask of whoever leads in that ballot.
pub(super) fn read_ask(ballot: Ballot, slot: u64, number: u64) -> Result<Ask, WireError> {
    Ok(Ask {
        slot: read_slot("slot", slot)?,
        ballot,
        number: Some(number)
            .filter(|it| *it <= MAX_COUNT)
            .ok_or(WireError("number"))?,
    })
}

/// A slot that is one.
pub(super) fn read_slot(what: &'static str, slot: u64) -> Result<Slot, WireError> {
    let slot = Some(slot).filter(|slot| *slot > 0 && *slot <= MAX_COUNT);
    slot.map(Slot).ok_or(WireError(what))
}

fn read_mark(what: &'static str, slot: u64) -> Result<Slot, WireError> {
    let slot = Some(slot).filter(|slot| *slot <= MAX_COUNT);
    slot.map(Slot).ok_or(WireError(what))
}

/// What a member says to an ask.
pub(super) fn standing(standing: Option<Standing>) -> PoisonAskResponse {
    let standing = match standing {
        None => WireStanding::Unspecified,
        Some(Standing::Applied) => WireStanding::Applied,
        Some(Standing::Failed) => WireStanding::Failed,
        Some(Standing::Held) => WireStanding::Held,
        Some(Standing::Unknown) => WireStanding::Unknown,
    };
    PoisonAskResponse {
        standing: standing.into(),
    }
}

/// The same, as it came. What is not known says nothing.
pub(super) fn read_standing(response: PoisonAskResponse) -> Option<Standing> {
    match response.standing() {
        WireStanding::Unspecified => None,
        WireStanding::Applied => Some(Standing::Applied),
        WireStanding::Failed => Some(Standing::Failed),
        WireStanding::Held => Some(Standing::Held),
        WireStanding::Unknown => Some(Standing::Unknown),
    }
}

/// What a member knows about slots that fail.
pub(super) fn doubts(doubts: &Doubts) -> PoisonDoubtsResponse {
    let progress = doubts.progress;
    let (failed, failures) = progress.failed.unwrap_or_default();
    let promises = doubts.promises.iter().map(|ask| PoisonAsk {
        slot: ask.slot.0,
        ballot: Some(term(ask.ballot)),
        number: ask.number,
    });
    PoisonDoubtsResponse {
        applied: doubts.applied.0,
        executed: doubts.executed.0,
        admitted: doubts.admitted.0,
        next: progress.next.unwrap_or_default().0,
        slow: progress.slow,
        failed: failed.0,
        failures,
        promises: promises.collect(),
        skipped: doubts.skipped.iter().map(|slot| slot.0).collect(),
    }
}

/// The same, as it came.
pub(super) fn read_doubts(response: PoisonDoubtsResponse) -> Result<Doubts, WireError> {
    if response.promises.len() > MAX_LIST || response.skipped.len() > MAX_LIST {
        return Err(WireError("a list"));
    }
    let promises = response.promises.into_iter().map(|ask| {
        let ballot = read_term(ask.ballot).map_err(|_| WireError("ballot"))?;
        read_ask(ballot, ask.slot, ask.number)
    });
    let skipped = response.skipped.into_iter();
    let next = read_mark("next", response.next)?;
    let failed = read_mark("failed", response.failed)?;
    Ok(Doubts {
        applied: read_mark("applied", response.applied)?,
        executed: read_mark("executed", response.executed)?,
        admitted: read_mark("admitted", response.admitted)?,
        progress: Progress {
            next: (next > Slot::ZERO).then_some(next),
            slow: response.slow,
            failed: (failed > Slot::ZERO).then_some((failed, response.failures)),
        },
        promises: promises.collect::<Result<_, _>>()?,
        skipped: skipped
            .map(|slot| read_slot("skipped", slot))
            .collect::<Result<_, _>>()?,
    })
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use synod_paxos::{Epoch, MemberId};

    use super::*;

    fn ask() -> Ask {
        Ask {
            slot: Slot(5),
            ballot: Ballot {
                epoch: Epoch(2),
                round: 9,
                node: MemberId(3),
            },
            number: 4,
        }
    }

    #[test]
    fn what_is_sent_is_what_arrives() {
        let some = Doubts {
            applied: Slot(2),
            executed: Slot(4),
            admitted: Slot(9),
            progress: Progress {
                next: Some(Slot(3)),
                slow: true,
                failed: Some((Slot(5), 2)),
            },
            promises: vec![ask()],
            skipped: [Slot(1), Slot(7)].into(),
        };
        for it in [some, Doubts::default()] {
            assert_eq!(read_doubts(doubts(&it)), Ok(it));
        }
        for it in [
            None,
            Some(Standing::Applied),
            Some(Standing::Failed),
            Some(Standing::Held),
            Some(Standing::Unknown),
        ] {
            assert_eq!(read_standing(standing(it)), it);
        }
        let request = ask_request(GroupId([7; 16]), ask());
        let ballot = read_ballot(request.term.as_ref().unwrap()).unwrap();
        assert_eq!(read_ask(ballot, request.slot, request.number), Ok(ask()));
        let free = free_request(GroupId([7; 16]), ask());
        assert_eq!((free.term, free.slot, free.number), (request.term, 5, 4));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let good = doubts(&Doubts::default());
        let bad = [
            PoisonDoubtsResponse {
                executed: u64::MAX,
                ..good.clone()
            },
            PoisonDoubtsResponse {
                skipped: vec![0],
                ..good.clone()
            },
            PoisonDoubtsResponse {
                promises: vec![PoisonAsk {
                    slot: 5,
                    ballot: None,
                    number: 1,
                }],
                ..good
            },
        ];
        for it in bad {
            assert!(read_doubts(it.clone()).is_err(), "{it:?}");
        }
        assert!(read_ask(ask().ballot, 0, 1).is_err());
        assert!(read_ask(ask().ballot, 1, u64::MAX).is_err());
        assert!(read_ballot(&PoisonTerm::default()).is_err());
    }

    #[test]
    fn what_is_changed_by_chance_is_refused_or_is_what_is_sent_on() {
        let some = Doubts {
            applied: Slot(2),
            executed: Slot(4),
            progress: Progress {
                next: Some(Slot(3)),
                slow: true,
                failed: Some((Slot(5), 2)),
            },
            promises: vec![ask(), ask()],
            skipped: [Slot(1), Slot(7)].into(),
            ..Doubts::default()
        };
        let seeds = vec![doubts(&some).encode_to_vec()];
        let show = |it: &Vec<u8>| synod_fuzz::write_bytes(it);
        synod_fuzz::fuzz(30_000, &synod_fuzz::messages(seeds), show, |bytes| {
            let Some(read) = PoisonDoubtsResponse::decode(&bytes[..])
                .ok()
                .and_then(|it| read_doubts(it).ok())
            else {
                return Ok(());
            };
            let slots = [read.applied, read.executed, read.admitted];
            let asked = read.promises.iter().map(|it| &it.slot);
            let mut slots = slots.iter().chain(&read.skipped).chain(asked);
            let counted = slots.all(|it| it.0 <= 1 << 62)
                && read.promises.iter().all(|it| it.number <= 1 << 62);
            let same = read_doubts(doubts(&read)).as_ref() == Ok(&read);
            if counted && same {
                Ok(())
            } else {
                Err(format!("{read:?}"))
            }
        });
    }
}
