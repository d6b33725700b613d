use bytes::Bytes;
use prost::Message as _;
use synod_paxos::{
    AgreedTime, Ballot, Boot, Command, CommandId, CommandKind, Entry, EntryHash, Epoch, Header,
    Heartbeat, NotTaken, ReadId, Slot,
};

use synod_fuzz::{corpus, fuzz, messages, read_bytes, write_bytes};

use super::*;

fn ballot(round: u64) -> Ballot {
    Ballot {
        epoch: Epoch(3),
        round,
        node: MemberId(2),
    }
}

fn command() -> Command {
    Command {
        kind: CommandKind::REQUEST,
        id: CommandId {
            member: MemberId(1),
            boot: Boot(2),
            sequence: 3,
        },
        floor: 2,
        payload: Bytes::from_static(b"payload"),
    }
}

fn entry() -> Entry {
    Entry {
        slot: Slot(8),
        ballot: ballot(4),
        time: AgreedTime(1_700_000_000_000_000_000),
        seed: 0x0123_4567_89ab_cdef_0011_2233_4455_6677,
        command: command(),
    }
}

fn header() -> Header {
    Header {
        slot: Slot(8),
        ballot: ballot(4),
        hash: EntryHash([7; 16]),
    }
}

/// One of each kind, no two fields alike.
fn every_message() -> Vec<Message> {
    let ids = vec![ReadId(1), ReadId(u64::MAX)];
    vec![
        Message::Prepare {
            ballot: ballot(1),
            accepted: ballot(2),
            last: Slot(3),
            commit: Slot(4),
            handed_over: true,
        },
        Message::Promise {
            ballot: ballot(1),
            accepted: ballot(2),
            last: Slot(3),
            commit: Slot(4),
            first: Slot(5),
            before: ballot(9),
            after: Slot(6),
            part: 7,
            done: true,
            suffix: vec![entry()],
            faulty: vec![header()],
            age_ns: u64::MAX,
        },
        Message::Refused {
            ballot: ballot(1),
            promised: ballot(2),
        },
        Message::AcceptSync {
            ballot: ballot(1),
            after: Slot(2),
            part: 3,
            done: true,
            entries: vec![entry(), entry()],
            last: Slot(4),
            commit: Slot(5),
            commit_ballot: ballot(6),
        },
        Message::Staged {
            ballot: ballot(1),
            through: Slot(2),
        },
        Message::Accept {
            ballot: ballot(1),
            previous: Slot(2),
            previous_ballot: ballot(3),
            entries: vec![entry()],
            commit: Slot(4),
            commit_ballot: ballot(5),
            early: true,
        },
        Message::Accepted {
            ballot: ballot(1),
            slot: Slot(2),
        },
        Message::Gap {
            ballot: ballot(1),
            last: Slot(2),
        },
        Message::Heartbeat(Heartbeat {
            ballot: ballot(1),
            hears: vec![MemberId(2), MemberId(3)],
            healthy: true,
            last: Slot(4),
            commit: Slot(5),
            commit_ballot: ballot(6),
            applied: Slot(7),
            disk_stalled: true,
            app_stalled: true,
            mono_ns: 8,
            wall_ns: 9,
            echo_mono_ns: 10,
            echo_held_ns: 11,
            entry_bytes: 12,
            preference: 13,
            timeout_ns: 14,
        }),
        Message::Propose {
            commands: vec![command()],
            again: true,
        },
        Message::NotTaken {
            id: command().id,
            reason: NotTaken::DiskFull,
        },
        Message::ReadIndex { ids: ids.clone() },
        Message::ReadIndexes {
            ids: ids.clone(),
            index: Slot(2),
        },
        Message::ReadRefused { ids },
        Message::Confirm {
            ballot: ballot(1),
            round: 2,
        },
        Message::Confirmed {
            ballot: ballot(1),
            round: 2,
        },
        Message::Transfer { ballot: ballot(1) },
        Message::RepairRequest {
            headers: vec![header()],
        },
        Message::Repair {
            entries: vec![entry()],
        },
        Message::Compacted {
            slot: Slot(1),
            ballot: ballot(2),
        },
        Message::LearnRequest { after: Slot(1) },
        Message::Learn {
            entries: vec![entry()],
        },
    ]
}

fn head() -> BatchHead {
    BatchHead {
        group: GroupId([1; 16]),
        from: MemberId(2),
        from_incarnation: Incarnation(3),
        to_incarnation: Incarnation(4),
        serving: true,
    }
}

fn some_hello() -> Hello {
    Hello {
        group: GroupId([1; 16]),
        member: MemberId(2),
        name: "notes-2".into(),
        incarnation: Incarnation(3),
        boot: Boot(4),
        epoch: Epoch(5),
        promised: ballot(7),
        accepted: ballot(6),
        last: Slot(8),
        protocol_min: 1,
        protocol_max: 2,
        life: 9,
    }
}

fn over_the_wire(frame: v1::PeerFrame) -> Result<Frame, WireError> {
    let bytes = frame.encode_to_vec();
    read(v1::PeerFrame::decode(&bytes[..]).expect("what was encoded"))
}

#[test]
fn every_message_arrives_as_it_was_sent() {
    let messages = every_message();
    let arrived = over_the_wire(batch(head(), messages.clone()));
    assert_eq!(arrived, Ok(Frame::Batch(head(), messages)));
    for lane in [Lane::Log, Lane::Heartbeat, Lane::Bulk] {
        let head = HelloHead {
            lane,
            to: MemberId(7),
        };
        let arrived = over_the_wire(hello(&some_hello(), head));
        assert_eq!(arrived, Ok(Frame::Hello(some_hello(), head)));
    }
}

/// What a member of protocol 1 has to understand has nothing in it that it does not know.
#[test]
fn what_a_group_at_protocol_1_says_is_said_in_the_bytes_of_protocol_1() {
    let promise = |before| Message::Promise {
        ballot: ballot(1),
        accepted: ballot(2),
        last: Slot(3),
        commit: Slot(0),
        first: Slot(1),
        before,
        after: Slot(0),
        part: 0,
        done: true,
        suffix: vec![],
        faulty: vec![],
        age_ns: 0,
    };
    let propose = |again| Message::Propose {
        commands: vec![],
        again,
    };
    let length = |message| outgoing::message(message).encoded_len();
    // Message 2 with its length; ballots of epoch, round and node; last, first, done.
    assert_eq!(length(promise(Ballot::default())), 2 + 2 * 8 + 3 * 2);
    assert!(length(promise(ballot(4))) > length(promise(Ballot::default())));
    assert_eq!(length(propose(false)), 2);
    assert!(length(propose(true)) > 2);
    let arrived = over_the_wire(batch(head(), vec![promise(Ballot::default())]));
    assert_eq!(
        arrived,
        Ok(Frame::Batch(head(), vec![promise(Ballot::default())]))
    );
}

/// Another program must understand them, whatever this one calls them.
#[test]
fn what_gets_a_member_out_of_an_epoch_is_said_in_these_bytes() {
    let bytes = |message| outgoing::message(message).encode_to_vec();
    let ask = Message::LearnRequest { after: Slot(300) };
    assert_eq!(bytes(ask), [0xAA, 1, 3, 8, 0xAC, 2]);
    let mut stop = entry();
    (stop.time, stop.seed) = (AgreedTime(1), 2);
    stop.command.kind = CommandKind::RECONFIGURE;
    let golden = [
        &[0xB2, 1, 62, 10, 60][..],
        // Slot and ballot.
        &[8, 8, 18, 6, 8, 3, 16, 4, 24, 2],
        // Time and seed.
        &[25, 1, 0, 0, 0, 0, 0, 0, 0],
        &[34, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
        // The command: kind, id, floor, payload.
        &[42, 21, 8, 7, 18, 6, 8, 1, 16, 2, 24, 3, 24, 2, 34, 7],
        b"payload",
    ];
    let tell = Message::Learn {
        entries: vec![stop],
    };
    assert_eq!(bytes(tell), golden.concat());
}

#[test]
fn a_message_is_never_longer_on_the_wire_than_its_weight_says() {
    for message in every_message() {
        let weight = weight(&message);
        let length = outgoing::message(message.clone()).encoded_len() as u64;
        assert!(length <= weight, "{message:?}: {length} > {weight}");
    }
}

/// What was understood can be counted with, and is what is sent on.
fn check(bytes: &[u8]) -> Result<(), String> {
    let Ok(frame) = v1::PeerFrame::decode(bytes) else {
        return Ok(());
    };
    let Ok(frame) = read(frame) else {
        return Ok(());
    };
    let text = format!("{frame:?}");
    let counted = [
        "Slot(",
        "Epoch(",
        "Boot(",
        "AgreedTime(",
        "round: ",
        "sequence: ",
        "floor: ",
        "entry_bytes: ",
        "_ns: ",
    ];
    for name in counted {
        for (at, _) in text.match_indices(name) {
            let digits: String = text[at + name.len()..]
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            let free = text[..at].ends_with("age");
            if digits.parse::<u64>().is_ok_and(|it| it > 1 << 62) && !free {
                return Err(format!("{name}{digits} was taken"));
            }
        }
    }
    let lists = match &frame {
        Frame::Hello(hello, _) if hello.name.len() > 253 => {
            return Err("a long name was taken".to_owned());
        }
        Frame::Hello(..) => 0,
        Frame::Batch(_, messages) => messages.len(),
    };
    if lists > 1 << 16 {
        return Err(format!("{lists} messages were taken"));
    }
    let sent = match frame.clone() {
        Frame::Hello(it, head) => hello(&it, head),
        Frame::Batch(head, messages) => batch(head, messages),
    };
    let again = over_the_wire(sent);
    if again.as_ref() != Ok(&frame) {
        return Err(format!("{frame:?} arrives as {again:?}"));
    }
    Ok(())
}

#[test]
fn frames_changed_by_chance_are_refused_or_can_be_counted_with() {
    for (name, text) in corpus(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/node/wire/testdata/frames"
    )) {
        check(&read_bytes(&text)).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
    let lane = HelloHead {
        lane: Lane::Bulk,
        to: MemberId(7),
    };
    let mut seeds = vec![hello(&some_hello(), lane), batch(head(), every_message())];
    seeds.extend(
        every_message()
            .into_iter()
            .map(|it| batch(head(), vec![it])),
    );
    let seeds = seeds.iter().map(prost::Message::encode_to_vec).collect();
    fuzz(
        100_000,
        &messages(seeds),
        |it| write_bytes(it),
        |bytes| check(&bytes),
    );
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let refused = |edit: fn(&mut v1::Batch)| {
        let mut frame = batch(head(), vec![]);
        let Some(v1::peer_frame::Frame::Batch(it)) = &mut frame.frame else {
            unreachable!("made as a batch")
        };
        edit(it);
        read(frame).expect_err("refused")
    };
    let message = |kind| v1::Message { kind: Some(kind) };
    assert_eq!(
        refused(|it| it.group = Bytes::new()),
        WireError::Range("group")
    );
    assert_eq!(
        refused(|it| it.messages = vec![v1::Message::default()]),
        WireError::UnknownKind
    );
    assert_eq!(
        refused(|it| it.messages = vec![v1::Message::default(); MAX_LIST + 1]),
        WireError::TooLong("messages")
    );
    let accepted = v1::message::Kind::Accepted(v1::Accepted::default());
    let mut frame = batch(head(), vec![]);
    if let Some(v1::peer_frame::Frame::Batch(it)) = &mut frame.frame {
        it.messages = vec![message(accepted)];
    }
    assert_eq!(read(frame), Err(WireError::Missing("ballot")));
    assert_eq!(
        read(v1::PeerFrame::default()),
        Err(WireError::Missing("frame"))
    );

    let head = HelloHead {
        lane: Lane::Log,
        to: MemberId(7),
    };
    let mut over = some_hello();
    over.last = Slot(u64::MAX);
    assert_eq!(
        over_the_wire(hello(&over, head)),
        Err(WireError::Range("slot"))
    );
    let mut twisted = some_hello();
    twisted.protocol_min = 9;
    let answer = over_the_wire(hello(&twisted, head));
    assert_eq!(answer, Err(WireError::Range("protocol_min")));
}
