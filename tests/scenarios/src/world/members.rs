//! Members come and go, programs and revisions of the app change: what people ask a leader for.

use prost::Message as _;
use synod_paxos::{CommandKind, Configuration, Epoch, Member, MemberId, Quorums, Role};
use synod_proto::v1::{Revision, RevisionDisagrees, RevisionDone, RevisionStrategy};

use super::{World, member};
use crate::print;
use crate::words::{Words, Wrong};

/// Members as a script writes them: `1 2 4:observer 5:witness`, and quorums as `q 3/2`.
pub(crate) fn parse_members(words: &mut Words<'_>) -> Result<(Vec<Member>, Quorums), Wrong> {
    let mut members = Vec::new();
    let mut quorums = Quorums::Majority;
    while let Some(word) = words.peek() {
        if !word.starts_with(|it: char| it.is_ascii_digit()) {
            break;
        }
        let word = words.word("a member")?;
        let (number, role) = word.split_once(':').unwrap_or((word, "voter"));
        let role = match role {
            "voter" => Role::Voter,
            "observer" => Role::Observer,
            "witness" => Role::Witness,
            other => return Err(format!("`{other}` is no role")),
        };
        let number = number
            .parse()
            .map_err(|_| format!("`{number}` is no member"))?;
        members.push(member(number, role));
    }
    if let Some(word) = words.after("quorums")? {
        let (one, two) = word
            .split_once('/')
            .ok_or("quorums are written as `3/2`: to promise, to choose")?;
        let parse = |it: &str| it.parse().map_err(|_| format!("`{it}` is no number"));
        quorums = Quorums::Flexible {
            phase1: parse(one)?,
            phase2: parse(two)?,
        };
    }
    Ok((members, quorums))
}

impl World {
    /// A person asks a member to have other members: `MEMBERS [from epoch N]`.
    pub(crate) fn reconfigure(&mut self, at: u32, words: &mut Words<'_>) -> Result<(), Wrong> {
        let (members, quorums) = parse_members(words)?;
        let now = self.hosts.get(&at).map(|_| self.now_at(at));
        let current = self.paxos(at)?.epoch();
        let expected = if words.has("from") {
            words.must("epoch")?;
            Epoch(words.number("an epoch")?)
        } else {
            current
        };
        let mut next = Configuration {
            epoch: expected.next(),
            members,
            quorums,
            first_leader: MemberId(0),
        };
        let process = self.running(at)?;
        if words.has("nobody") {
            words.must("first")?;
        } else {
            next.first_leader = process.paxos.best_first_leader(&next);
        }
        let result = process
            .paxos
            .propose_configuration(now.unwrap_or_default(), expected, &next);
        if let Err(error) = result {
            self.tell(format!("{at} refuses: {error}"));
        }
        self.settle(at);
        self.beat();
        Ok(())
    }

    /// A machine with an empty disk, whose member is in the leader's configuration already.
    pub(crate) fn join(&mut self, number: u32) -> Result<(), Wrong> {
        let leader = self.leader().ok_or("nobody leads")?;
        let configuration = self.paxos(leader)?.configuration().clone();
        let member = configuration.member(MemberId(number)).cloned();
        let member = member.ok_or_else(|| {
            let members = print::configuration(&configuration);
            format!("{number} is not in {members}")
        })?;
        if self.hosts.contains_key(&number) {
            return Err(format!("{number} has a machine"));
        }
        let host = self.host_of(member, Some(configuration));
        self.hosts.insert(number, host);
        self.start(number)
    }

    /// The disk of a member is empty, and it is to start under its name all the same: as a log of a new
    /// life, as the production log would be, or with `same` under its old incarnation.
    pub(crate) fn wipe(&mut self, number: u32, same: bool) -> Result<(), Wrong> {
        let host = self.host(number)?;
        if host.process.is_some() {
            return Err(format!("{number} runs"));
        }
        let mut member = host.member.clone();
        if !same {
            member.incarnation.0 += 1_000;
        }
        let fresh = self.host_of(member, None);
        self.hosts.insert(number, fresh);
        Ok(())
    }

    /// The machine is gone, with all that was on it.
    pub(crate) fn remove_machine(&mut self, number: u32) -> Result<(), Wrong> {
        self.host(number)?;
        self.stop_process(number);
        self.hosts.remove(&number);
        Ok(())
    }

    /// The program of a member speaks protocols up to this one, from its next start on.
    pub(crate) fn set_program(&mut self, number: u32, protocol: u32) -> Result<(), Wrong> {
        self.host_mut(number)?.protocol_max = protocol;
        Ok(())
    }

    /// The leader is asked to raise the protocol.
    pub(crate) fn upgrade(&mut self, at: u32, version: u32) -> Result<(), Wrong> {
        let now = self.hosts.get(&at).map(|_| self.now_at(at));
        let process = self.running(at)?;
        let result = process.paxos.upgrade(now.unwrap_or_default(), version);
        if let Err(error) = result {
            self.tell(format!("{at} refuses: {error}"));
        }
        self.settle(at);
        self.beat();
        Ok(())
    }
}

// === revisions of the app ===

impl World {
    /// Another revision of the app is wanted: `NUMBER [silently saved by MEMBER | takes back]`, or it has
    /// taken over: `NUMBER done`.
    pub(crate) fn revise(&mut self, at: u32, words: &mut Words<'_>) -> Result<(), Wrong> {
        let number = words.number("a revision")?;
        if words.has("done") {
            let done = RevisionDone {
                number,
                in_spite: words.has("anyway"),
            };
            let name = format!("revision {number} done");
            return self.give(at, &name, CommandKind::REVISION_DONE, done.encode_to_vec());
        }
        if words.has("disagrees") {
            let disagrees = RevisionDisagrees {
                number,
                ..RevisionDisagrees::default()
            };
            let (name, kind) = (
                format!("revision {number} disagrees"),
                CommandKind::REVISION_DISAGREES,
            );
            return self.give(at, &name, kind, disagrees.encode_to_vec());
        }
        let mut revision = Revision {
            number,
            ..Revision::default()
        };
        if words.has("silently") {
            revision.set_strategy(RevisionStrategy::Rolling);
            words.must("saved")?;
            words.must("by")?;
            revision.saver = words.member()?;
        } else if words.has("takes") {
            words.must("back")?;
            revision.takes_back = true;
        }
        let name = format!("revision {number}");
        self.give(at, &name, CommandKind::REVISION, revision.encode_to_vec())
    }

    /// The next process of a member's app is of this revision.
    pub(crate) fn offer_revision(&mut self, number: u32, revision: u64) -> Result<(), Wrong> {
        let host = self.host_mut(number)?;
        if host.app.up {
            return Err(format!("the app of {number} runs"));
        }
        host.app.offer(revision);
        if let Some(process) = &mut host.process {
            process.machine.handle_offered(revision);
        }
        self.settle(number);
        Ok(())
    }

    /// Which revision is to run at a member.
    pub(crate) fn show_revision(&mut self, number: u32) -> Result<(), Wrong> {
        let status = self.running(number)?.machine.revision_status();
        let running = match status.running {
            Some(running) if status.is_silent => format!("{running} runs silently"),
            Some(running) => format!("{running} runs"),
            None => "none runs".to_owned(),
        };
        let saves = match status.ends_at {
            Some(slot) => format!(", the state of {slot} is to be saved"),
            None => String::new(),
        };
        let wants = match status.wants_state {
            Some(slot) => format!(", the state of {slot} is wanted"),
            None => String::new(),
        };
        self.tell(format!(
            "in force {}, {running}, due {}{saves}{wants}",
            status.in_force, status.due
        ));
        Ok(())
    }
}
