//! Scenarios of epochs that end: getting out of them (rule M6), reads meanwhile (R1a), and what the shell
//! is told.

mod common;

use common::reconfiguration::{
    THREE, WITH_4, epoch, first_ballot, stop_sign, three, three_and_an_observer, write,
};
use common::{Net, id};
use synod_paxos::Role::{Observer, Voter};
use synod_paxos::{
    Boot, Epoch, Heartbeat, Hello, HelloRefusal, Incarnation, MemberId, Message, Output, Paxos,
    Record, Standing,
};

#[test]
fn m6_voters_that_do_not_know_of_the_end_elect_and_finish_it() {
    let mut net = three();
    // 2 has the stop-sign, which so is chosen; 1 knows it, and is gone before anybody hears of it.
    net.filter = Box::new(|from, to, message| {
        let tells = match message {
            Message::Accept { entries, .. } => entries.is_empty(),
            Message::Heartbeat(beat) => beat.ballot.epoch > Epoch(1),
            _ => false,
        };
        !(from == id(1) && (tells || to == id(3)))
    });
    net.change(&WITH_4).expect("proposed");
    net.until(2000, "1 enters", |net| epoch(net, 1) == 2);
    assert_eq!((epoch(&net, 2), epoch(&net, 3)), (1, 1));
    net.crash(id(1));
    net.heal();
    net.until(10_000, "they get there", |net| {
        epoch(net, 2) == 2 && epoch(net, 3) == 2 && net.settled_leader().is_some()
    });
    write(&mut net, id(2), 2);
    assert!(net.paxos(id(2)).old_epoch_retired());
}

#[test]
fn m6_a_removed_leader_gives_the_end_to_those_that_have_not_heard_of_it() {
    let mut net = three_and_an_observer();
    // What 1 sends about the log gets lost from the moment that it knows.
    net.filter = Box::new(|from, _, message| {
        let last = matches!(message, Message::Accept { entries, .. } if entries.is_empty());
        from != id(1) || !last
    });
    let next = net.next(&[(2, Voter), (3, Voter), (4, Observer)]);
    assert_ne!(next.first_leader, id(1));
    net.propose_at(id(1), &next).expect("proposed");
    net.until(2000, "1 is out", |net| {
        net.node(id(1)).removed == Some(Epoch(3))
    });
    net.until(2000, "the others", |net| {
        (2..=4).all(|it| epoch(net, it) == 3) && net.settled_leader() == Some(next.first_leader)
    });
    write(&mut net, id(3), 2);
    assert_eq!(net.paxos(id(1)).standing(), Standing::Follower);
}

#[test]
fn m6_a_voter_that_was_away_for_several_epochs_comes_back_by_the_log() {
    let mut net = three_and_an_observer();
    net.crash(id(3));
    let with = |role| [(1, Voter), (2, Voter), (3, Voter), (4, role)];
    net.run(500);
    net.change_now(&with(Voter));
    write(&mut net, id(1), 5);
    net.change_now(&with(Observer));
    write(&mut net, id(1), 5);
    net.change_now(&with(Voter));
    write(&mut net, id(1), 5);
    net.start(id(3));
    let last = net.paxos(id(1)).last();
    net.until_all_applied(5000, last);
    assert_eq!(epoch(&net, 3), 5);
    assert_eq!(net.node(id(3)).configurations.len(), 4, "each in its turn");
    assert_eq!(net.node(id(3)).needed, []);
    net.run(500);
    net.crash(id(2));
    net.crash(id(4));
    net.run(200);
    assert_eq!(
        net.node(id(3)).payloads().len(),
        net.node(id(1)).payloads().len()
    );
}

#[test]
fn m6_a_voter_that_was_away_comes_back_by_a_snapshot_where_the_log_is_forgotten() {
    let mut net = three_and_an_observer();
    net.crash(id(3));
    net.run(500);
    let with = |role| [(1, Voter), (2, Voter), (3, Voter), (4, role)];
    net.change_now(&with(Voter));
    write(&mut net, id(1), 20);
    for number in [1, 2, 4] {
        let through = net.node(id(number)).through;
        net.compact(id(number), through);
    }
    net.fetches = true;
    net.start(id(3));
    let last = net.paxos(id(1)).last();
    net.until_all_applied(5000, last);
    assert_eq!(epoch(&net, 3), 3);
    assert_eq!(net.node(id(3)).installed.len(), 1);
    let told = net.node(id(3)).configurations.iter();
    assert!(told.map(|(_, it)| it.epoch).eq([Epoch(2), Epoch(3)]));
    // It votes: the group can do without another one.
    net.run(500);
    net.crash(id(2));
    write(&mut net, id(1), 3);
    net.restart(id(3));
    assert_eq!(epoch(&net, 3), 3, "after a restart");
    net.run(500);
    write(&mut net, id(1), 3);
}

#[test]
fn m6_a_log_of_entries_never_chosen_gives_way_to_what_is_learnt() {
    let mut net = three_and_an_observer();
    // 1 is deposed with entries of its own that nobody else has.
    for number in 2..=4 {
        net.cut(1, number);
    }
    for _ in 0..10 {
        net.propose(id(1), b"never chosen");
    }
    net.until(5000, "another leader", |net| {
        net.settled_leader().is_some_and(|leader| leader != id(1))
    });
    let leader = net.leader().unwrap();
    write(&mut net, leader, 3);
    let accepted = net.paxos(id(1)).accepted();
    let last = net.paxos(id(1)).last();
    // Epoch 3 begins without it; it is still a member.
    let next = net.next(&[(1, Voter), (2, Voter), (3, Voter), (4, Voter)]);
    net.propose_at(leader, &next).expect("proposed");
    net.until(5000, "the epoch", |net| {
        epoch(net, 4) == 3 && epoch(net, 2) == 3
    });
    write(&mut net, leader, 3);
    net.cuts.clear();
    net.connect(id(1), id(2));
    net.until(3000, "1 learns", |net| epoch(net, 1) == 3);
    let kept = net.paxos(id(1)).hello();
    assert!(
        (kept.accepted, kept.last) >= (accepted, last),
        "M4: nothing is forgotten"
    );
    for other in 3..=4 {
        net.connect(id(1), id(other));
    }
    let slot = net.paxos(leader).last();
    net.until_all_applied(5000, slot);
    assert!(!net.node(id(1)).forgetful);
    // What it had given then is chosen now, once.
    net.until(5000, "its commands", |net| {
        net.node(id(1)).resolved.len() >= 10
    });
}

#[test]
fn m6_a_stop_sign_that_cannot_be_read_is_entered_once_a_copy_has_come() {
    let mut net = three();
    net.filter = Box::new(|_, to, message| {
        // 3 takes the stop-sign, and does not hear that it is chosen.
        to != id(3) || !matches!(message, Message::Accept { entries, .. } if entries.is_empty())
    });
    net.filter = Box::new(|_, to, message| {
        let tells = match message {
            Message::Accept { entries, .. } => entries.is_empty(),
            Message::Heartbeat(beat) => beat.commit >= beat.last || beat.ballot.epoch > Epoch(1),
            _ => false,
        };
        to != id(3) || !tells
    });
    net.change(&WITH_4).expect("proposed");
    net.until(2000, "the others", |net| {
        epoch(net, 1) == 2 && epoch(net, 2) == 2
    });
    net.run(5);
    assert_eq!(epoch(&net, 3), 1);
    let slot = net.paxos(id(3)).last();
    net.crash(id(3));
    net.nodes.get_mut(&id(3)).unwrap().disk.damaged.push(slot);
    net.heal();
    net.start(id(3));
    net.until(5000, "3 enters", |net| epoch(net, 3) == 2);
    let last = net.paxos(id(1)).last();
    net.until_all_applied(5000, last);
    net.restart(id(3));
    assert_eq!(epoch(&net, 3), 2);
}

#[test]
fn m6_who_was_removed_is_told_and_disturbs_nobody() {
    let mut net = three_and_an_observer();
    net.crash(id(3));
    net.run(500);
    net.change_now(&[(1, Voter), (2, Voter), (4, Voter)]);
    write(&mut net, id(1), 3);
    assert!(net.paxos(id(1)).old_epoch_retired());
    assert!(net.paxos(id(1)).contacts().iter().all(|it| it.id != id(3)));
    net.start(id(3));
    assert_eq!(net.node(id(3)).removed, Some(Epoch(3)));
    let hello = net.paxos(id(3)).hello();
    let now = net.now(id(1));
    let refused = net.with_paxos(id(1), |paxos| paxos.handle_hello(now, &hello));
    let (member, epoch) = (id(3), Epoch(3));
    assert_eq!(refused, Err(HelloRefusal::Removed { member, epoch }));
    net.run(5000);
    assert_eq!(net.paxos(id(3)).counters().elections, 0);
    assert!(net.try_propose(id(3), b"late").is_err());
    let read = net.read(id(3), 7);
    assert!(net.node(id(3)).failed.contains(&read));
    assert_eq!(net.settled_leader(), Some(id(1)));
}

#[test]
fn m6_who_left_before_the_last_change_is_not_met_again_at_the_next() {
    let mut net = three_and_an_observer();
    net.change_now(&[(1, Voter), (2, Voter), (4, Voter)]);
    write(&mut net, id(1), 3);
    // In the next epoch nothing gets chosen yet.
    net.filter = Box::new(|_, _, message| match message {
        Message::Accept { entries, .. } => entries.iter().all(|it| it.ballot.epoch < Epoch(4)),
        _ => true,
    });
    let mut next = net.next(&[(1, Voter), (2, Voter)]);
    next.first_leader = id(1);
    net.propose_at(id(1), &next).expect("proposed");
    net.until(3000, "both", |net| epoch(net, 1) == 4 && epoch(net, 2) == 4);
    assert!(!net.paxos(id(1)).old_epoch_retired());
    let contacts = net.paxos(id(1)).contacts();
    let contacts: Vec<MemberId> = contacts.iter().map(|it| it.id).collect();
    assert_eq!(contacts, [id(2), id(4)], "3 left an epoch earlier");
    // Where the base has all of it, those of the last change are among those that left.
    net.run(50);
    let through = net.node(id(1)).through;
    net.compact(id(1), through);
    assert_eq!(net.paxos(id(1)).base().configuration.epoch, Epoch(4));
    assert_eq!(net.paxos(id(1)).contacts().len(), 3);
}

#[test]
fn m6_who_left_is_helped_and_known_until_the_old_epoch_is_retired() {
    let mut net = three_and_an_observer();
    // In the new epoch nothing gets chosen yet.
    net.filter = Box::new(|_, _, message| match message {
        Message::Accept { entries, .. } => entries.iter().all(|it| it.ballot.epoch < Epoch(3)),
        _ => true,
    });
    net.cut(2, 1);
    net.cut(2, 3);
    net.cut(2, 4);
    let mut next = net.next(&[(1, Voter), (3, Voter), (4, Voter)]);
    next.first_leader = id(1);
    net.propose_at(id(1), &next).expect("proposed");
    net.until(3000, "the others", |net| {
        epoch(net, 1) == 3 && epoch(net, 3) == 3
    });
    net.run(50);
    assert!(!net.paxos(id(3)).old_epoch_retired());
    assert!(net.paxos(id(3)).contacts().iter().any(|it| it.id == id(2)));
    // 3 forgets the log up to the stop-sign and starts again: it still knows whom it must help.
    let through = net.node(id(3)).through;
    net.compact(id(3), through);
    net.crash(id(1));
    net.crash(id(4));
    net.restart(id(3));
    assert!(!net.paxos(id(3)).old_epoch_retired());
    net.fetches = true;
    net.cuts.clear();
    net.restart(id(2));
    net.until(5000, "2 is out", |net| {
        net.node(id(2)).removed == Some(Epoch(3))
    });
    assert_eq!(epoch(&net, 2), 3, "by the log or a snapshot");
    net.heal();
    net.start(id(1));
    net.start(id(4));
    net.until(5000, "retired", |net| {
        [1, 3, 4]
            .iter()
            .all(|it| net.paxos(id(*it)).old_epoch_retired())
    });
    write(&mut net, id(3), 2);
    net.restart(id(2));
    assert_eq!(net.node(id(2)).removed, Some(Epoch(3)), "at each start");
}

// === R1a ===

#[test]
fn r1a_a_leader_gives_no_read_index_from_appending_a_stop_sign_on() {
    let mut net = three();
    // Confirmations are held back while the stop-sign is appended.
    net.filter = Box::new(|_, _, message| {
        !matches!(message, Message::Confirm { .. } | Message::Accept { .. })
    });
    let before = net.read(id(1), 1);
    net.run(2);
    net.change(&WITH_4).expect("proposed");
    let after = net.read(id(1), 2);
    let remote = net.read(id(2), 3);
    net.filter =
        Box::new(|from, _, message| !(from == id(1) && matches!(message, Message::Accept { .. })));
    net.run(100);
    assert_eq!(epoch(&net, 1), 1, "it is not decided");
    let ready = |net: &Net| {
        let all = [(1, before), (1, after), (2, remote)];
        all.iter()
            .any(|(it, read)| net.node(id(*it)).ready.contains_key(read))
    };
    assert!(!ready(&net), "no index");
    net.heal();
    net.until(3000, "the epoch", |net| epoch(net, 2) == 2);
    net.run(500);
    assert!(!ready(&net), "those ask again under a new number");
    assert!(net.node(id(1)).failed.contains(&before) && net.node(id(1)).failed.contains(&after));
    assert!(net.node(id(2)).failed.contains(&remote));
    let again = net.read(id(2), 4);
    net.run(100);
    assert!(net.node(id(2)).ready.contains_key(&again));
}

#[test]
fn r1a_who_has_entered_the_next_epoch_confirms_nothing_for_the_last() {
    let mut net = three();
    // 1 leads in epoch 1 and does not hear that its stop-sign is chosen; 2 and 3 go on without it.
    net.filter = Box::new(|from, to, message| {
        !(to == id(1) && matches!(message, Message::Accepted { .. } | Message::Heartbeat(_)))
            && (from != id(9))
    });
    let mut next = net.next(&THREE);
    next.first_leader = id(2);
    let read = net.read(id(1), 1);
    net.run(20);
    assert!(
        net.node(id(1)).ready.contains_key(&read),
        "until then it does"
    );
    net.propose_at(id(1), &next).expect("proposed");
    net.run(50);
    let stop = stop_sign(&net);
    // They learn it as if another leader of epoch 1 had told them.
    let beat = |net: &Net, to: u32| {
        let paxos = net.paxos(id(if to == 2 { 3 } else { 2 }));
        Heartbeat {
            ballot: paxos.promised(),
            last: stop.slot,
            commit: stop.slot,
            commit_ballot: stop.ballot,
            mono_ns: net.now_ns + 1,
            ..Heartbeat::default()
        }
    };
    for (from, to) in [(3, 2), (2, 3)] {
        let beat = beat(&net, to);
        net.inject(id(from), id(to), Message::Heartbeat(beat));
        assert_eq!(epoch(&net, to), 2);
    }
    let ballot = stop.ballot;
    let confirmed = net.delivered.get("confirmed").copied();
    for to in [2, 3] {
        net.inject(id(1), id(to), Message::Confirm { ballot, round: 99 });
    }
    net.run(20);
    assert_eq!(net.delivered.get("confirmed").copied(), confirmed);
}

// === what the shell sees ===

#[test]
fn a_removed_leader_hands_over_to_the_first_leader_and_says_so() {
    let mut net = three();
    let next = net.next(&[(2, Voter), (3, Voter)]);
    assert!([id(2), id(3)].contains(&next.first_leader));
    let elections: u64 = (1..=3)
        .map(|it| net.paxos(id(it)).counters().elections)
        .sum();
    net.propose_at(id(1), &next).expect("proposed");
    net.until(2000, "the next leads", |net| {
        net.settled_leader() == Some(next.first_leader)
    });
    write(&mut net, id(2), 2);
    assert_eq!(net.node(id(1)).removed, Some(Epoch(2)));
    assert!(net.paxos(id(2)).old_epoch_retired());
    let after: u64 = (1..=3)
        .map(|it| net.paxos(id(it)).counters().elections)
        .sum();
    assert_eq!(elections, after);
    net.lose(1);
    write(&mut net, id(3), 2);
}

#[test]
fn a_group_of_one_becomes_three_and_one_again() {
    let mut net = Net::new(1);
    net.elect();
    write(&mut net, id(1), 3);
    net.change_now(&[(1, Voter), (2, Observer), (3, Observer)]);
    net.join(2);
    net.join(3);
    let last = net.paxos(id(1)).last();
    net.until_all_applied(5000, last);
    net.run(300);
    net.change_now(&[(1, Voter), (2, Voter), (3, Observer)]);
    net.run(300);
    net.change_now(&THREE);
    write(&mut net, id(3), 3);
    net.run(300);
    net.change_now(&[(1, Voter), (2, Voter)]);
    net.run(300);
    let leader = net.leader().unwrap();
    net.change_now(&[(leader.0, Voter)]);
    write(&mut net, leader, 3);
    assert_eq!(net.node(leader).payloads().len(), 9);
}

#[test]
fn i7_a_configuration_is_told_in_order_with_what_is_handed_to_apply() {
    let mut net = three();
    let now = net.now(id(1));
    let next = net.next(&WITH_4);
    net.propose_at(id(1), &next).expect("proposed");
    net.run(500);
    net.crash(id(2));
    let recovered = net.nodes.get_mut(&id(2)).unwrap().disk.restart();
    let mut paxos = Paxos::new(net.settings.clone(), recovered, now, 9).unwrap();
    let commit = paxos.commit();
    let mut told = Vec::new();
    while let Some(output) = paxos.poll_output() {
        match output {
            Output::Chosen { through, .. } => told.push((through, None)),
            Output::ConfigurationChanged { slot, epoch, .. } => told.push((slot, Some(epoch))),
            _ => {}
        }
    }
    let stop = *net.configurations.keys().next().unwrap();
    assert!(commit > stop);
    assert_eq!(told, [(stop, None), (stop, Some(Epoch(2))), (commit, None)]);
}

#[test]
fn m6_a_voter_whom_nobody_of_its_epoch_can_help_any_more_hears_those_that_came_after() {
    let mut net = three_and_an_observer();
    net.crash(id(3));
    net.run(500);
    net.change_now(&[(1, Voter), (2, Voter), (3, Voter), (4, Voter)]);
    net.change_now(&[
        (1, Voter),
        (2, Voter),
        (3, Voter),
        (4, Voter),
        (5, Observer),
    ]);
    net.join(5);
    net.run(1000);
    net.change_now(&[(1, Voter), (3, Voter), (4, Voter), (5, Voter)]);
    net.elect_member(id(5));
    net.run(300);
    net.change_now(&[(3, Voter), (4, Voter), (5, Voter)]);
    write(&mut net, id(5), 3);
    // 3 is in epoch 2, with 1, 2 and 4; and 4 is down, too.
    for gone in [1, 2] {
        net.lose(gone);
    }
    net.crash(id(4));
    assert_eq!(net.node(id(3)).disk.durable().promised.epoch, Epoch(2));
    let before = net.paxos(id(5)).contacts_version();
    net.start(id(3));
    assert_eq!(net.paxos(id(5)).contacts_version(), before);
    let strange = |net: &Net| net.paxos(id(3)).contacts().iter().any(|it| it.id == id(5));
    assert!(strange(&net), "it wants to be connected with 5");
    net.until(10_000, "3 is with 5", |net| {
        epoch(net, 3) == epoch(net, 5) && net.settled_leader().is_some()
    });
    write(&mut net, id(3), 3);
    assert_eq!(
        net.node(id(3)).payloads().len(),
        net.node(id(5)).payloads().len()
    );
}

#[test]
fn m6_a_stranger_of_a_later_epoch_is_heard_and_never_taken_for_one_that_left() {
    let mut net = three_and_an_observer();
    assert!(net.paxos(id(3)).old_epoch_retired());
    let known = net.paxos(id(2)).hello();
    let stranger = |epoch, boot| Hello {
        member: id(9),
        name: "notes-9".to_owned(),
        incarnation: Incarnation(1009),
        epoch: Epoch(epoch),
        boot: Boot(boot),
        ..known.clone()
    };
    let mut says = |hello: &Hello| {
        let now = net.now(id(3));
        net.with_paxos(id(3), |paxos| paxos.handle_hello(now, hello))
    };
    let member = id(9);
    let unknown = Err(HelloRefusal::UnknownMember { member });
    assert_eq!(says(&stranger(2, 1)), unknown, "of this very epoch");
    assert_eq!(says(&stranger(7, 1)), Ok(()));
    assert_eq!(says(&stranger(7, 2)), Ok(()), "at its next start");
    assert_eq!(says(&stranger(2, 3)), Ok(()), "whatever it says then");
    let contacts = net.paxos(id(3)).contacts();
    assert!(
        contacts
            .iter()
            .any(|it| it.id == member && it.name == "notes-9")
    );
    // Its word counts for nothing but what is chosen.
    let before = net.paxos(id(3)).counters().stale_messages;
    let ballot = first_ballot(7, 9);
    net.inject(member, id(3), Message::Transfer { ballot });
    assert_eq!(net.paxos(id(3)).counters().stale_messages, before + 1);
}

#[test]
fn m6_who_left_while_it_was_cut_off_hears_of_it_as_soon_as_it_hears_anybody() {
    let mut net = three_and_an_observer();
    // In the new epoch nothing gets chosen yet: it may be needed.
    net.filter = Box::new(|_, _, message| match message {
        Message::Accept { entries, .. } => entries.iter().all(|it| it.ballot.epoch < Epoch(3)),
        _ => true,
    });
    net.isolate(id(2));
    let next = net.next(&[(1, Voter), (3, Voter), (4, Voter)]);
    net.propose_at(id(1), &next).expect("proposed");
    net.until(3000, "the others", |net| {
        epoch(net, 1) == 3 && epoch(net, 3) == 3
    });
    net.run(1000);
    // Its connections have lived through it.
    net.cuts.clear();
    net.until(2000, "2 is out", |net| {
        net.node(id(2)).removed == Some(Epoch(3))
    });
}

#[test]
fn m6_a_start_finds_the_end_of_an_epoch_whose_successor_was_not_entered_yet() {
    let mut net = three();
    let next = net.next(&WITH_4);
    net.change(&WITH_4).expect("proposed");
    net.until(2000, "3 enters", |net| epoch(net, 3) == 2);
    let stop = stop_sign(&net);
    net.crash(id(3));
    // As if the end had been learnt from others, and nothing more had come to the disk.
    let now = net.now(id(3));
    let mut recovered = net.nodes.get_mut(&id(3)).unwrap().disk.restart();
    assert_eq!(
        (recovered.promised.epoch, recovered.last),
        (Epoch(1), stop.slot)
    );
    recovered.commit = stop.slot;
    recovered.tail.clear();
    recovered.ended_by = Some(stop);
    let mut paxos = Paxos::new(net.settings.clone(), recovered, now, 9).unwrap();
    assert_eq!(*paxos.configuration(), next);
    let written = std::iter::from_fn(|| paxos.poll_output()).find_map(|output| match output {
        Output::Persist { records, .. } => Some(records),
        _ => None,
    });
    let written = written.expect("something is to be written");
    assert!(
        matches!(written[..], [Record::Enter { .. }, ..]),
        "before all else"
    );
}
