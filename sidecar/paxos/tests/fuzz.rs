//! Bytes of configurations, as they are in logs and commands, damaged by chance: what is read of them is
//! what they say, in the room that they take.

use synod_fuzz::{changed, corpus, fuzz, read_bytes, write_bytes};
use synod_paxos::{
    AgreedTime, Ballot, Command, CommandKind, Configuration, Entry, Epoch, Incarnation, Member,
    MemberId, Quorums, Role, Slot,
};

/// Some seconds of them.
const CASES: u32 = 100_000;

fn configuration(members: u32, quorums: Quorums) -> Configuration {
    let roles = [Role::Voter, Role::Observer, Role::Witness];
    let member = |number: u32| Member {
        id: MemberId(number),
        name: format!("notes-{number}"),
        incarnation: Incarnation(u128::from(number) << 70),
        role: roles[number as usize % 3],
        region: "here".repeat(number as usize % 2),
    };
    Configuration {
        epoch: Epoch(4),
        members: (0..members).map(member).collect(),
        quorums,
        first_leader: MemberId(1),
    }
}

fn check(bytes: &[u8]) -> Result<(), String> {
    let mut entry = Entry {
        slot: Slot(7),
        ballot: Ballot::default(),
        time: AgreedTime(1),
        seed: 0,
        command: Command {
            kind: CommandKind::RECONFIGURE,
            payload: bytes.to_vec().into(),
            ..Command::default()
        },
    };
    for epoch in [0, 3, u64::MAX] {
        entry.ballot.epoch = Epoch(epoch);
        if let Some(read) = entry.reconfigures_to() {
            read.check()
                .map_err(|error| format!("no group can have it: {error:?}"))?;
            let again = Entry {
                command: Command::reconfigure(&read),
                ..entry.clone()
            };
            if again.reconfigures_to().as_ref() != Some(&read) {
                return Err(format!("{read:?} does not read back"));
            }
        }
    }
    let mut rest = bytes.get(4..).unwrap_or_default();
    let Some(read) = Configuration::take(&mut rest) else {
        return Ok(());
    };
    // Each member takes 29 bytes at least.
    if read.members.len() * 29 > bytes.len() {
        return Err(format!(
            "{} members in {} bytes",
            read.members.len(),
            bytes.len()
        ));
    }
    // Whatever it says, whether a group can have it is a question with an answer.
    let _ = read.check();
    let mut written = Vec::new();
    read.put(&mut written);
    if Configuration::take(&mut &written[..]).as_ref() != Some(&read) {
        return Err(format!("{read:?} does not read back"));
    }
    if written.len() != bytes.len() - 4 - rest.len() {
        return Err("it is written in another length".to_owned());
    }
    Ok(())
}

#[test]
fn damaged_configurations_are_none_or_what_they_say() {
    for (name, text) in corpus(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/testdata/configurations"
    )) {
        check(&read_bytes(&text)).unwrap_or_else(|why| panic!("{name}: {why}"));
    }
    let flexible = Quorums::Flexible {
        phase1: 2,
        phase2: 1,
    };
    let seeds = [
        configuration(3, Quorums::Majority),
        configuration(1, Quorums::Majority),
        configuration(9, flexible),
    ];
    let seeds = seeds
        .iter()
        .map(|it| Command::reconfigure(it).payload.to_vec())
        .collect();
    fuzz(
        CASES,
        &changed(seeds),
        |bytes| write_bytes(bytes),
        |bytes| check(&bytes),
    );
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the agreement reads no clock, its test does"
)]
fn a_list_of_members_as_long_as_a_message_is_looked_at_soon() {
    let begun = std::time::Instant::now();
    let long = configuration(300_000, Quorums::Majority);
    let stop = Entry {
        slot: Slot(7),
        ballot: Ballot {
            epoch: Epoch(3),
            ..Ballot::default()
        },
        time: AgreedTime(1),
        seed: 0,
        command: Command::reconfigure(&long),
    };
    assert_eq!(stop.reconfigures_to(), None, "member number 0 means nobody");
    let Configuration { members, .. } = &long;
    let others = Configuration {
        members: members[1..].to_vec(),
        ..long.clone()
    };
    let _ = others.check();
    let took = begun.elapsed();
    assert!(took.as_secs() < 10, "{took:?}");
}
