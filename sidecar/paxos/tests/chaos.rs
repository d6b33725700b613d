//! Chance against the whole group: loss, doubling, overtaking, cuts, crashes, stalls. Agreement is
//! checked at each step by the network itself; afterwards the group must come back by itself.

mod common;

use common::{Chance, MS, Net};
use synod_paxos::{Quorums, ReadId, Role, Settings, Slot};

struct Weather {
    members: usize,
    loss: u64,
    reorder_ms: u64,
    crashes: bool,
    cuts: bool,
    /// Members forget what they have handed over, and get snapshots where that is missing.
    snapshots: bool,
    /// Members begin with programs of protocol 1, and come back from crashes with ones of protocol 2.
    rolling: bool,
    settings: Settings,
}

/// What a storm came to.
struct Storm {
    /// Commands chosen.
    chosen: usize,
    /// Snapshots installed.
    installed: u64,
}

/// Runs one storm.
fn storm(seed: u64, weather: &Weather) -> Storm {
    let mut chance = Chance(seed);
    let mut net = if weather.rolling {
        Net::rolling(weather.members, weather.settings.clone())
    } else {
        let roles = vec![Role::Voter; weather.members];
        Net::with(&roles, Quorums::Majority, weather.settings.clone())
    };
    net.chance = Chance(seed + 1_000_000);
    net.loss = weather.loss;
    net.reorder_ns = weather.reorder_ms * MS;
    net.fetches = true;
    let members = net.members();
    let mut commands = Vec::new();
    let mut highest_done = Slot::ZERO;
    let mut reads: Vec<(synod_paxos::MemberId, ReadId, Slot)> = Vec::new();
    for step in 0..400 {
        let member = members[chance.below(members.len() as u64) as usize];
        let up = net.node(member).paxos.is_some();
        match chance.below(20) {
            0 if weather.crashes && up => {
                net.crash(member);
                if chance.below(3) == 0 {
                    net.programs.remove(&member);
                }
            }
            0..=2 if !up => net.start(member),
            1 if weather.cuts => {
                let other = members[chance.below(members.len() as u64) as usize];
                net.cuts.insert((member, other));
            }
            2 | 3 if weather.cuts => net.cuts.clear(),
            4 if net.stalled.contains(&member) => {
                net.stalled.remove(&member);
            }
            4 => {
                net.stalled.insert(member);
            }
            12 if weather.rolling => raise(&mut net),
            10 | 11 if up && weather.snapshots && net.paxos(member).protocol() > 1 => {
                let (base, through) = (net.paxos(member).base().slot, net.node(member).through);
                let kept = chance.below(5);
                if through.0 > base.0 + kept {
                    net.compact(member, Slot(through.0 - kept));
                }
            }
            5 if up && net.leader() == Some(member) => net.transfer(None),
            6..=9 if up => {
                let id = net.read(member, 10_000 + step);
                reads.push((member, id, highest_done));
            }
            _ if up => {
                let size = chance.below(300) as usize;
                if let Ok(id) = net.try_propose(member, &vec![step as u8; size]) {
                    commands.push((member, net.paxos(member).boot(), id));
                }
            }
            _ => {}
        }
        net.run(chance.below(40));
        for (member, _, id) in &commands {
            if let Some(slot) = net.node(*member).slot_of(*id) {
                highest_done = highest_done.max(slot);
            }
        }
    }
    for (member, id, done) in &reads {
        if let Some(index) = net.node(*member).ready.get(id) {
            assert!(index >= done, "I9: a read index below a finished write");
        }
    }
    // The storm is over: all must be well within a few election timeouts.
    net.heal();
    net.stalled.clear();
    net.loss = 0;
    net.reorder_ns = 0;
    for member in &members {
        if net.node(*member).paxos.is_none() {
            net.start(*member);
        }
    }
    if weather.rolling {
        for member in &members {
            if net.programs.remove(member).is_some() {
                net.restart(*member);
            }
        }
        for _ in 0..20 {
            net.elect();
            raise(&mut net);
            net.run(500);
        }
        assert!(members.iter().all(|it| net.paxos(*it).protocol() == 2));
        assert!(members.iter().all(|it| net.node(*it).outdated.is_none()));
    }
    let last = net.propose(members[0], b"after the storm");
    net.until(30_000, "the last command", |net| {
        net.node(members[0]).slot_of(last).is_some()
    });
    let slot = net.node(members[0]).slot_of(last).expect("just seen");
    net.until_all_applied(30_000, slot);
    // An entrance that lived through it sees all its commands chosen.
    net.until(60_000, "the fate of all commands", |net| {
        commands.iter().all(|(member, boot, id)| {
            net.paxos(*member).boot() != *boot || net.node(*member).slot_of(*id).is_some()
        })
    });
    Storm {
        chosen: net.node(members[0]).payloads().len(),
        installed: net.installed,
    }
}

/// Whoever leads tries to raise the protocol.
fn raise(net: &mut Net) {
    let Some(leader) = net.leader() else { return };
    let old = net.programs.len();
    let now = net.now(leader);
    let result = net.with_paxos(leader, |paxos| paxos.upgrade(now, 2));
    net.drain(leader);
    assert!(
        result.is_err() || old == 0,
        "P8: raised with {old} programs that do not speak it"
    );
}

/// `SYNOD_STORMS` multiplies the number of storms.
fn seeds(first: u64, count: u64) -> impl Iterator<Item = u64> {
    let times = std::env::var("SYNOD_STORMS").map_or(1, |times| times.parse().unwrap_or(1));
    (0..count * times).map(move |seed| first + seed)
}

fn small() -> Settings {
    Settings {
        max_message_bytes: 700,
        cache_bytes: 2000,
        ..Settings::default()
    }
}

#[test]
fn agreement_holds_while_messages_are_lost_doubled_and_reordered() {
    for seed in seeds(0, 20) {
        let weather = Weather {
            members: 3,
            loss: 100,
            reorder_ms: 20,
            crashes: false,
            cuts: false,
            snapshots: false,
            rolling: false,
            settings: small(),
        };
        assert!(
            storm(seed, &weather).chosen > 50,
            "seed {seed}: hardly any traffic"
        );
    }
}

#[test]
fn agreement_holds_while_members_crash_and_links_are_cut() {
    for seed in seeds(100, 30) {
        let weather = Weather {
            members: 3 + 2 * (seed % 2) as usize,
            loss: 10,
            reorder_ms: 5,
            crashes: true,
            cuts: true,
            snapshots: false,
            rolling: false,
            settings: small(),
        };
        assert!(storm(seed, &weather).chosen > 0, "seed {seed}: no traffic");
    }
}

#[test]
fn agreement_holds_in_foul_weather_of_all_kinds() {
    for seed in seeds(200, 30) {
        let weather = Weather {
            members: 1 + (seed % 5) as usize,
            loss: seed % 7 * 40,
            reorder_ms: seed % 11 * 5,
            crashes: true,
            cuts: seed % 3 != 0,
            snapshots: false,
            rolling: false,
            settings: small(),
        };
        storm(seed, &weather);
    }
}

#[test]
fn agreement_holds_while_logs_are_cut_behind_snapshots_in_foul_weather() {
    let mut installed = 0;
    for seed in seeds(300, 60) {
        let weather = Weather {
            members: 2 + (seed % 4) as usize,
            loss: seed % 7 * 20,
            reorder_ms: seed % 11 * 3,
            crashes: true,
            cuts: seed % 3 != 0,
            snapshots: true,
            rolling: false,
            settings: small(),
        };
        installed += storm(seed, &weather).installed;
    }
    assert!(
        installed > 30,
        "hardly any snapshot was needed: {installed}"
    );
}

#[test]
fn agreement_holds_while_programs_are_replaced_one_by_one_and_the_protocol_is_raised() {
    let mut installed = 0;
    for seed in seeds(400, 40) {
        let weather = Weather {
            members: 2 + (seed % 4) as usize,
            loss: seed % 5 * 20,
            reorder_ms: seed % 7 * 3,
            crashes: true,
            cuts: seed % 3 != 0,
            snapshots: true,
            rolling: true,
            settings: small(),
        };
        installed += storm(seed, &weather).installed;
    }
    assert!(installed > 0, "no log began with a snapshot");
}
