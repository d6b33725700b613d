//! From the wire to the agreement: every field is checked.

use bytes::Bytes;
use synod_paxos::{
    AgreedTime, Ballot, Boot, Command, CommandId, CommandKind, Entry, EntryHash, Epoch, GroupId,
    Header, Heartbeat, Hello, Incarnation, Lane, MemberId, Message, NotTaken, ReadId, Slot,
};
use synod_proto::v1;
use synod_proto::v1::message::Kind;

use super::{BatchHead, MAX_COUNT, MAX_LIST, MAX_NAME, WireError};

type Read<T> = Result<T, WireError>;

pub(super) fn hello(it: v1::Hello) -> Read<(Hello, Lane)> {
    if it.name.len() > MAX_NAME {
        return Err(WireError::TooLong("name"));
    }
    if it.protocol_min > it.protocol_max {
        return Err(WireError::Range("protocol_min"));
    }
    let lane = match v1::Lane::try_from(it.lane) {
        Ok(v1::Lane::Log) => Lane::Log,
        Ok(v1::Lane::Heartbeat) => Lane::Heartbeat,
        Ok(v1::Lane::Bulk) => Lane::Bulk,
        Ok(v1::Lane::Unspecified) | Err(_) => return Err(WireError::Range("lane")),
    };
    let hello = Hello {
        group: GroupId(sixteen("group", &it.group)?),
        member: MemberId(it.member),
        name: it.name,
        incarnation: incarnation(&it.incarnation)?,
        boot: Boot(count("boot", it.boot)?),
        epoch: Epoch(count("epoch", it.epoch)?),
        promised: ballot(it.promised)?,
        accepted: ballot(it.accepted)?,
        last: slot(it.last)?,
        protocol_min: it.protocol_min,
        protocol_max: it.protocol_max,
        life: it.life,
    };
    Ok((hello, lane))
}

pub(super) fn batch(it: v1::Batch) -> Read<(BatchHead, Vec<Message>)> {
    let head = BatchHead {
        group: GroupId(sixteen("group", &it.group)?),
        from: MemberId(it.from),
        from_incarnation: incarnation(&it.from_incarnation)?,
        to_incarnation: incarnation(&it.to_incarnation)?,
        serving: it.serving,
    };
    Ok((head, list("messages", it.messages, message)?))
}

fn message(it: v1::Message) -> Read<Message> {
    Ok(match it.kind.ok_or(WireError::UnknownKind)? {
        Kind::Prepare(it) => Message::Prepare {
            ballot: ballot(it.ballot)?,
            accepted: ballot(it.accepted)?,
            last: slot(it.last)?,
            commit: slot(it.commit)?,
            handed_over: it.handed_over,
        },
        Kind::Promise(it) => Message::Promise {
            ballot: ballot(it.ballot)?,
            accepted: ballot(it.accepted)?,
            last: slot(it.last)?,
            commit: slot(it.commit)?,
            first: slot(it.first)?,
            before: it
                .before
                .map_or(Ok(Ballot::default()), |it| ballot(Some(it)))?,
            after: slot(it.after)?,
            part: it.part,
            done: it.done,
            suffix: list("suffix", it.suffix, entry)?,
            faulty: list("faulty", it.faulty, header)?,
            age_ns: it.age_ns,
        },
        Kind::Refused(it) => Message::Refused {
            ballot: ballot(it.ballot)?,
            promised: ballot(it.promised)?,
        },
        Kind::AcceptSync(it) => Message::AcceptSync {
            ballot: ballot(it.ballot)?,
            after: slot(it.after)?,
            part: it.part,
            done: it.done,
            entries: list("entries", it.entries, entry)?,
            last: slot(it.last)?,
            commit: slot(it.commit)?,
            commit_ballot: ballot(it.commit_ballot)?,
        },
        Kind::Staged(it) => Message::Staged {
            ballot: ballot(it.ballot)?,
            through: slot(it.through)?,
        },
        Kind::Accept(it) => Message::Accept {
            ballot: ballot(it.ballot)?,
            previous: slot(it.previous)?,
            previous_ballot: ballot(it.previous_ballot)?,
            entries: list("entries", it.entries, entry)?,
            commit: slot(it.commit)?,
            commit_ballot: ballot(it.commit_ballot)?,
            early: it.early,
        },
        Kind::Accepted(it) => Message::Accepted {
            ballot: ballot(it.ballot)?,
            slot: slot(it.slot)?,
        },
        Kind::Gap(it) => Message::Gap {
            ballot: ballot(it.ballot)?,
            last: slot(it.last)?,
        },
        Kind::Heartbeat(it) => Message::Heartbeat(heartbeat(it)?),
        Kind::Propose(it) => Message::Propose {
            commands: list("commands", it.commands, command)?,
            again: it.again,
        },
        Kind::NotTaken(it) => Message::NotTaken {
            id: command_id(it.id)?,
            reason: match v1::NotTakenReason::try_from(it.reason) {
                Ok(v1::NotTakenReason::Overloaded) => NotTaken::Overloaded,
                Ok(v1::NotTakenReason::DiskFull) => NotTaken::DiskFull,
                Ok(v1::NotTakenReason::TooLarge) => NotTaken::TooLarge,
                Ok(v1::NotTakenReason::Unreadable) => NotTaken::Unreadable,
                Ok(v1::NotTakenReason::Unspecified) | Err(_) => {
                    return Err(WireError::Range("reason"));
                }
            },
        },
        Kind::ReadIndex(it) => Message::ReadIndex {
            ids: reads(it.ids)?,
        },
        Kind::ReadIndexes(it) => Message::ReadIndexes {
            ids: reads(it.ids)?,
            index: slot(it.index)?,
        },
        Kind::ReadRefused(it) => Message::ReadRefused {
            ids: reads(it.ids)?,
        },
        Kind::Confirm(it) => Message::Confirm {
            ballot: ballot(it.ballot)?,
            round: count("round", it.round)?,
        },
        Kind::Confirmed(it) => Message::Confirmed {
            ballot: ballot(it.ballot)?,
            round: count("round", it.round)?,
        },
        Kind::Transfer(it) => Message::Transfer {
            ballot: ballot(it.ballot)?,
        },
        Kind::RepairRequest(it) => Message::RepairRequest {
            headers: list("headers", it.headers, header)?,
        },
        Kind::Repair(it) => Message::Repair {
            entries: list("entries", it.entries, entry)?,
        },
        Kind::Compacted(it) => Message::Compacted {
            slot: slot(it.slot)?,
            ballot: ballot(it.ballot)?,
        },
        Kind::LearnRequest(it) => Message::LearnRequest {
            after: slot(it.after)?,
        },
        Kind::Learn(it) => Message::Learn {
            entries: list("entries", it.entries, entry)?,
        },
    })
}

fn heartbeat(it: v1::Heartbeat) -> Read<Heartbeat> {
    Ok(Heartbeat {
        ballot: ballot(it.ballot)?,
        hears: list("hears", it.hears, |it| Ok(MemberId(it)))?,
        healthy: it.healthy,
        last: slot(it.last)?,
        commit: slot(it.commit)?,
        commit_ballot: ballot(it.commit_ballot)?,
        applied: slot(it.applied)?,
        disk_stalled: it.disk_stalled,
        app_stalled: it.app_stalled,
        mono_ns: count("mono_ns", it.mono_ns)?,
        wall_ns: count("wall_ns", it.wall_ns)?,
        echo_mono_ns: count("echo_mono_ns", it.echo_mono_ns)?,
        echo_held_ns: count("echo_held_ns", it.echo_held_ns)?,
        entry_bytes: count("entry_bytes", it.entry_bytes)?,
        preference: it.preference,
        timeout_ns: count("timeout_ns", it.timeout_ns)?,
    })
}

pub(super) fn entry(it: v1::Entry) -> Read<Entry> {
    Ok(Entry {
        slot: slot(it.slot)?,
        ballot: ballot(it.ballot)?,
        time: AgreedTime(count("time_ns", it.time_ns)?),
        seed: u128::from_be_bytes(sixteen("seed", &it.seed)?),
        command: command(it.command.ok_or(WireError::Missing("command"))?)?,
    })
}

fn header(it: v1::EntryHeader) -> Read<Header> {
    Ok(Header {
        slot: slot(it.slot)?,
        ballot: ballot(it.ballot)?,
        hash: EntryHash(sixteen("hash", &it.hash)?),
    })
}

fn command(it: v1::Command) -> Read<Command> {
    let kind = u16::try_from(it.kind).map_err(|_| WireError::Range("kind"))?;
    Ok(Command {
        kind: CommandKind(kind),
        id: command_id(it.id)?,
        floor: count("floor", it.floor)?,
        payload: it.payload,
    })
}

fn command_id(it: Option<v1::CommandId>) -> Read<CommandId> {
    let it = it.ok_or(WireError::Missing("command id"))?;
    Ok(CommandId {
        member: MemberId(it.member),
        boot: Boot(count("boot", it.boot)?),
        sequence: count("sequence", it.sequence)?,
    })
}

pub(super) fn ballot(it: Option<v1::Ballot>) -> Read<Ballot> {
    let it = it.ok_or(WireError::Missing("ballot"))?;
    Ok(Ballot {
        epoch: Epoch(count("epoch", it.epoch)?),
        round: count("round", it.round)?,
        node: MemberId(it.node),
    })
}

fn slot(it: u64) -> Read<Slot> {
    count("slot", it).map(Slot)
}

fn count(what: &'static str, it: u64) -> Read<u64> {
    if it > MAX_COUNT {
        return Err(WireError::Range(what));
    }
    Ok(it)
}

fn incarnation(it: &Bytes) -> Read<Incarnation> {
    Ok(Incarnation(u128::from_be_bytes(sixteen(
        "incarnation",
        it,
    )?)))
}

fn sixteen(what: &'static str, it: &Bytes) -> Read<[u8; 16]> {
    it[..].try_into().map_err(|_| WireError::Range(what))
}

fn reads(it: Vec<u64>) -> Read<Vec<ReadId>> {
    list("ids", it, |it| Ok(ReadId(it)))
}

fn list<A, B>(what: &'static str, it: Vec<A>, read: impl Fn(A) -> Read<B>) -> Read<Vec<B>> {
    if it.len() > MAX_LIST {
        return Err(WireError::TooLong(what));
    }
    it.into_iter().map(read).collect()
}
