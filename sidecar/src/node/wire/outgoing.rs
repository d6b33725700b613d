//! From the agreement to the wire.

use bytes::Bytes;
use synod_paxos::{
    Ballot, Command, CommandId, Entry, Header, Heartbeat, Hello, Incarnation, Lane, Message,
    NotTaken, ReadId,
};
use synod_proto::v1;
use synod_proto::v1::message::Kind;

pub(super) fn hello(it: &Hello, lane: Lane) -> v1::Hello {
    v1::Hello {
        group: Bytes::copy_from_slice(&it.group.0),
        member: it.member.0,
        name: it.name.clone(),
        incarnation: incarnation(it.incarnation),
        boot: it.boot.0,
        epoch: it.epoch.0,
        promised: Some(ballot(it.promised)),
        accepted: Some(ballot(it.accepted)),
        last: it.last.0,
        protocol_min: it.protocol_min,
        protocol_max: it.protocol_max,
        life: it.life,
        lane: match lane {
            Lane::Log => v1::Lane::Log,
            Lane::Heartbeat => v1::Lane::Heartbeat,
            Lane::Bulk => v1::Lane::Bulk,
        }
        .into(),
    }
}

pub(super) fn incarnation(it: Incarnation) -> Bytes {
    Bytes::copy_from_slice(&it.0.to_be_bytes())
}

pub(super) fn message(message: Message) -> v1::Message {
    v1::Message {
        kind: Some(kind(message)),
    }
}

fn kind(message: Message) -> Kind {
    match message {
        Message::Prepare {
            ballot: b,
            accepted,
            last,
            commit,
            handed_over,
        } => Kind::Prepare(v1::Prepare {
            ballot: Some(ballot(b)),
            accepted: Some(ballot(accepted)),
            last: last.0,
            commit: commit.0,
            handed_over,
        }),
        Message::Promise {
            ballot: b,
            accepted,
            last,
            commit,
            first,
            before,
            after,
            part,
            done,
            suffix,
            faulty,
            age_ns,
        } => Kind::Promise(v1::Promise {
            ballot: Some(ballot(b)),
            accepted: Some(ballot(accepted)),
            last: last.0,
            commit: commit.0,
            first: first.0,
            before: (before != Ballot::default()).then(|| ballot(before)),
            after: after.0,
            part,
            done,
            suffix: entries(suffix),
            faulty: headers(faulty),
            age_ns,
        }),
        Message::Refused {
            ballot: b,
            promised,
        } => Kind::Refused(v1::Refused {
            ballot: Some(ballot(b)),
            promised: Some(ballot(promised)),
        }),
        Message::AcceptSync {
            ballot: b,
            after,
            part,
            done,
            entries: list,
            last,
            commit,
            commit_ballot,
        } => Kind::AcceptSync(v1::AcceptSync {
            ballot: Some(ballot(b)),
            after: after.0,
            part,
            done,
            entries: entries(list),
            last: last.0,
            commit: commit.0,
            commit_ballot: Some(ballot(commit_ballot)),
        }),
        Message::Staged { ballot: b, through } => Kind::Staged(v1::Staged {
            ballot: Some(ballot(b)),
            through: through.0,
        }),
        Message::Accept {
            ballot: b,
            previous,
            previous_ballot,
            entries: list,
            commit,
            commit_ballot,
            early,
        } => Kind::Accept(v1::Accept {
            ballot: Some(ballot(b)),
            previous: previous.0,
            previous_ballot: Some(ballot(previous_ballot)),
            entries: entries(list),
            commit: commit.0,
            commit_ballot: Some(ballot(commit_ballot)),
            early,
        }),
        Message::Accepted { ballot: b, slot } => Kind::Accepted(v1::Accepted {
            ballot: Some(ballot(b)),
            slot: slot.0,
        }),
        Message::Gap { ballot: b, last } => Kind::Gap(v1::Gap {
            ballot: Some(ballot(b)),
            last: last.0,
        }),
        Message::Heartbeat(it) => Kind::Heartbeat(heartbeat(it)),
        Message::Propose { commands, again } => Kind::Propose(v1::Propose {
            commands: commands.into_iter().map(command).collect(),
            again,
        }),
        Message::NotTaken { id, reason } => Kind::NotTaken(v1::NotTaken {
            id: Some(command_id(id)),
            reason: match reason {
                NotTaken::Overloaded => v1::NotTakenReason::Overloaded,
                NotTaken::DiskFull => v1::NotTakenReason::DiskFull,
                NotTaken::TooLarge => v1::NotTakenReason::TooLarge,
                NotTaken::Unreadable => v1::NotTakenReason::Unreadable,
            }
            .into(),
        }),
        Message::ReadIndex { ids } => Kind::ReadIndex(v1::ReadIndex { ids: reads(ids) }),
        Message::ReadIndexes { ids, index } => Kind::ReadIndexes(v1::ReadIndexes {
            ids: reads(ids),
            index: index.0,
        }),
        Message::ReadRefused { ids } => Kind::ReadRefused(v1::ReadRefused { ids: reads(ids) }),
        Message::Confirm { ballot: b, round } => Kind::Confirm(v1::Confirm {
            ballot: Some(ballot(b)),
            round,
        }),
        Message::Confirmed { ballot: b, round } => Kind::Confirmed(v1::Confirmed {
            ballot: Some(ballot(b)),
            round,
        }),
        Message::Transfer { ballot: b } => Kind::Transfer(v1::Transfer {
            ballot: Some(ballot(b)),
        }),
        Message::RepairRequest { headers: list } => Kind::RepairRequest(v1::RepairRequest {
            headers: headers(list),
        }),
        Message::Repair { entries: list } => Kind::Repair(v1::Repair {
            entries: entries(list),
        }),
        Message::Compacted { slot, ballot: b } => Kind::Compacted(v1::Compacted {
            slot: slot.0,
            ballot: Some(ballot(b)),
        }),
        Message::LearnRequest { after } => Kind::LearnRequest(v1::LearnRequest { after: after.0 }),
        Message::Learn { entries: list } => Kind::Learn(v1::Learn {
            entries: entries(list),
        }),
    }
}

fn heartbeat(it: Heartbeat) -> v1::Heartbeat {
    v1::Heartbeat {
        ballot: Some(ballot(it.ballot)),
        hears: it.hears.into_iter().map(|it| it.0).collect(),
        healthy: it.healthy,
        last: it.last.0,
        commit: it.commit.0,
        commit_ballot: Some(ballot(it.commit_ballot)),
        applied: it.applied.0,
        disk_stalled: it.disk_stalled,
        app_stalled: it.app_stalled,
        mono_ns: it.mono_ns,
        wall_ns: it.wall_ns,
        echo_mono_ns: it.echo_mono_ns,
        echo_held_ns: it.echo_held_ns,
        entry_bytes: it.entry_bytes,
        preference: it.preference,
        timeout_ns: it.timeout_ns,
    }
}

pub(super) fn ballot(it: Ballot) -> v1::Ballot {
    v1::Ballot {
        epoch: it.epoch.0,
        round: it.round,
        node: it.node.0,
    }
}

fn command_id(it: CommandId) -> v1::CommandId {
    v1::CommandId {
        member: it.member.0,
        boot: it.boot.0,
        sequence: it.sequence,
    }
}

fn command(it: Command) -> v1::Command {
    v1::Command {
        kind: it.kind.0.into(),
        id: Some(command_id(it.id)),
        floor: it.floor,
        payload: it.payload,
    }
}

pub(super) fn entries(list: Vec<Entry>) -> Vec<v1::Entry> {
    let entry = |it: Entry| v1::Entry {
        slot: it.slot.0,
        ballot: Some(ballot(it.ballot)),
        time_ns: it.time.0,
        seed: Bytes::copy_from_slice(&it.seed.to_be_bytes()),
        command: Some(command(it.command)),
    };
    list.into_iter().map(entry).collect()
}

fn headers(list: Vec<Header>) -> Vec<v1::EntryHeader> {
    let header = |it: Header| v1::EntryHeader {
        slot: it.slot.0,
        ballot: Some(ballot(it.ballot)),
        hash: Bytes::copy_from_slice(&it.hash.0),
    };
    list.into_iter().map(header).collect()
}

fn reads(list: Vec<ReadId>) -> Vec<u64> {
    list.into_iter().map(|it| it.0).collect()
}
