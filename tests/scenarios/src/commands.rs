//! The commands of a script. `tests/scenarios/README.md` has them as a list.

use std::collections::BTreeMap;

use synod_paxos::Slot;
use synod_sidecar::apply::{StateType, UncleanCrash};
use synod_wal::testing::MemDisk;

use crate::words::{Words, Wrong};
use crate::world::{Beginning, World, parse_members};

/// A script as it is carried out.
#[derive(Default)]
pub(crate) struct Session {
    world: Option<World>,
    /// Volumes that were copied, by name.
    volumes: BTreeMap<String, MemDisk>,
}

/// What came of a command.
#[derive(Default)]
pub(crate) struct Came {
    pub(crate) said: Vec<String>,
    /// Claims that do not hold, the standing ones included.
    pub(crate) failed: Vec<String>,
}

// === impl Session ===

impl Session {
    /// Carries out a command.
    pub(crate) fn run(&mut self, line: &str) -> Result<Came, Wrong> {
        let mut words = Words::new(line);
        let mut failed = Vec::new();
        let command = words.word("a command")?;
        if command == "group" {
            self.world = Some(World::begin(beginning(&mut words)?)?);
        } else {
            let world = self.world.as_mut().ok_or("a script begins with `group`")?;
            if command == "expect" {
                if let Some(instead) = world.expect(&mut words)? {
                    failed.push(format!("`{line}` does not hold: {instead}"));
                }
            } else {
                run(world, &mut self.volumes, command, &mut words)?;
                words.end()?;
            }
        }
        let world = self.world.as_mut().ok_or("there is no group")?;
        failed.extend(world.take_violations());
        Ok(Came {
            said: world.take_said(),
            failed,
        })
    }
}

/// `group MEMBERS [quorums Q1/Q2] [protocol N] [state KIND] [leader N]`.
fn beginning(words: &mut Words<'_>) -> Result<(Beginning, Option<u32>), Wrong> {
    let (members, quorums) = parse_members(words)?;
    let protocol = if words.has("protocol") {
        words.number("a protocol")? as u32
    } else {
        3
    };
    let state = match words.after("state")? {
        None | Some("in-memory") => StateType::Ephemeral,
        Some("rolled-back") => StateType::Volume(UncleanCrash::Rollback),
        Some("applied-header") => StateType::Volume(UncleanCrash::AppliedHeader),
        Some("at-least-once") => StateType::Volume(UncleanCrash::AtLeastOnce),
        Some(other) => return Err(format!("no app has its state `{other}`")),
    };
    let leader = if words.has("leader") {
        Some(words.member()?)
    } else {
        None
    };
    words.end()?;
    let beginning = Beginning {
        members,
        quorums,
        protocol,
        state,
    };
    Ok((beginning, leader))
}

fn run(
    world: &mut World,
    volumes: &mut BTreeMap<String, MemDisk>,
    command: &str,
    words: &mut Words<'_>,
) -> Result<(), Wrong> {
    match command {
        "deliver" | "drop" | "duplicate" | "cut" | "hold" | "heal" | "isolate" => {
            wires(world, command, words)
        }
        "app" => app(world, words),
        "sync" => {
            let member = words.member()?;
            if words.has("fails") {
                world.fail_sync(member)?;
            }
            let writes = words.peek().and_then(|it| it.parse().ok());
            if writes.is_some() {
                words.word("a number")?;
            }
            if !world.sync(member, writes)? {
                return Err(format!("nothing of {member} waits for a sync"));
            }
            Ok(())
        }
        "advance" => {
            let by_ns = words.duration()?;
            world.advance(by_ns);
            Ok(())
        }
        "stabilize" => {
            world.stabilize();
            Ok(())
        }
        "elect" => world.elect(words.member()?),
        "transfer" => world.transfer(words.member()?),
        "clock" => {
            let member = words.member()?;
            let by_ns = words.shift()?;
            world.set_clock(member, by_ns)
        }
        "crash" => {
            let member = words.member()?;
            let power = words.has("power");
            world.crash(member, power)
        }
        "start" => world.start(words.member()?),
        "restart" => {
            let member = words.member()?;
            world.crash(member, false)?;
            world.start(member)
        }
        "pause" => world.pause(words.member()?, true),
        "resume" => world.pause(words.member()?, false),
        "rot" => {
            let member = words.member()?;
            let slot = Slot(words.number("a slot")?);
            world.rot(member, slot)
        }
        "wreck" => world.wreck(words.member()?),
        "unwrite" => world.unwrite(words.member()?),
        "full" => world.fill_disk(words.member()?, true),
        "room" => world.fill_disk(words.member()?, false),
        "copy-volume" => {
            let member = words.member()?;
            words.must("as")?;
            let name = words.word("a name")?.to_owned();
            volumes.insert(name, world.copy_volume(member)?);
            Ok(())
        }
        "put-volume" => {
            let member = words.member()?;
            let name = words.word("a name")?;
            let volume = volumes.get(name).ok_or("there is no such volume")?;
            world.put_volume(member, volume)
        }
        "lose-ledger" => world.lose_ledger(words.member()?),
        "lose-snapshots" => world.lose_snapshots(words.member()?),
        "propose" => {
            let member = words.member()?;
            world.propose(member, words)
        }
        "read" => {
            let member = words.member()?;
            words.must("as")?;
            let name = words.word("a name")?;
            world.read(member, name)
        }
        "policy" => {
            let member = words.member()?;
            let version = words.number("a version")?;
            world.change_policy(member, version)
        }
        "upgrade" => {
            let member = words.member()?;
            let version = words.number("a protocol")? as u32;
            world.upgrade(member, version)
        }
        "program" => {
            let member = words.member()?;
            let version = words.number("a protocol")? as u32;
            world.set_program(member, version)
        }
        "revise" => {
            let member = words.member()?;
            world.revise(member, words)
        }
        "judge" => world.judge(words.member()?),
        "skip" => {
            let member = words.member()?;
            let slot = Slot(words.number("a slot")?);
            world.skip(member, slot)
        }
        "snapshot" => world.take_snapshot(words.member()?),
        "compact" => world.compact(words.member()?),
        "fetch" => {
            let member = words.member()?;
            words.must("from")?;
            let from = words.member()?;
            world.fetch(member, from)
        }
        "reconfigure" => {
            let member = words.member()?;
            words.must("to")?;
            world.reconfigure(member, words)
        }
        "join" => world.join(words.member()?),
        "wipe" => {
            let member = words.member()?;
            let same = words.has("under");
            if same {
                words.must("its")?;
                words.must("incarnation")?;
            }
            world.wipe(member, same)
        }
        "remove-machine" => world.remove_machine(words.member()?),
        "status" => {
            world.show_status();
            Ok(())
        }
        "wire" => {
            world.show_wire();
            Ok(())
        }
        "log" => world.show_log(words.member()?),
        "revision" => world.show_revision(words.member()?),
        other => Err(format!("there is no command `{other}`")),
    }
}

fn wires(world: &mut World, command: &str, words: &mut Words<'_>) -> Result<(), Wrong> {
    match command {
        "deliver" if words.has("all") => {
            if !world.deliver_all() {
                return Err("nothing is on its way".to_owned());
            }
        }
        "deliver" => {
            let links = words.links()?;
            let which = words.peek();
            if which.is_some() {
                words.word("which")?;
            }
            for (from, to) in links {
                world.deliver(from, to, which)?;
            }
        }
        "drop" => {
            let links = words.links()?;
            let kind = words.peek();
            if kind.is_some() {
                words.word("a kind")?;
            }
            for (from, to) in links {
                world.lose(from, to, kind)?;
            }
        }
        "duplicate" => {
            let kind = words.word("a kind of message")?;
            for (from, to) in words.links()? {
                world.duplicate(from, to, kind)?;
            }
        }
        "cut" | "hold" => {
            while words.peek().is_some() {
                for (from, to) in words.links()? {
                    if command == "cut" {
                        world.cut(from, to);
                    } else {
                        world.hold(from, to);
                    }
                }
            }
        }
        "isolate" => world.isolate(words.member()?)?,
        _ => {
            let mut links = Vec::new();
            while words.peek().is_some() {
                links.extend(words.links()?);
            }
            world.heal((!links.is_empty()).then_some(&links));
        }
    }
    Ok(())
}

/// `app N starts|stops|restarts unseen|answers|is slow|is mended|of REVISION|apply..|FATE [each REQUEST]`.
fn app(world: &mut World, words: &mut Words<'_>) -> Result<(), Wrong> {
    let member = words.member()?;
    let mut all = words.all();
    let always = match all.iter().position(|it| *it == "each") {
        Some(at) => {
            let rest = all.split_off(at);
            let request = rest.get(1).copied();
            Some(request.ok_or("what comes behind `each`?")?)
        }
        None => None,
    };
    match all[..] {
        ["starts"] => world.start_app(member),
        ["stops"] => world.stop_app(member),
        ["restarts", "unseen"] => world.restart_app_unseen(member),
        ["answers"] => world.app_answers(member),
        ["is", "slow"] => world.slow(member),
        ["is", "mended"] => world.mend_app(member),
        ["waits"] => world.hold_apply(member, true),
        ["goes", "on"] => world.hold_apply(member, false),
        ["is", "of", "revision", number] => {
            let number = number.parse().map_err(|_| "a revision is a number")?;
            world.offer_revision(member, number)
        }
        [] => world.show_app(member),
        _ => world.app_will(member, &all, always),
    }
}
