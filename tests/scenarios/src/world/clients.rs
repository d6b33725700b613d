//! Clients: what they have asked for, by name, and what they were told.

use std::collections::BTreeMap;

use prost::Message as _;
use synod_paxos::{AgreedTime, Command, CommandId, CommandKind, ReadId, Slot};
use synod_proto::v1::{Idempotency, Policy, Request};

use super::{Process, World};
use crate::words::{Words, Wrong};

/// When a request expires if nothing is said.
const EXPIRES_NS: u64 = 3_600_000_000_000;

/// What clients know.
#[derive(Debug, Default)]
pub(super) struct Clients {
    /// By the name of a request: what was said about it.
    pub(super) told: BTreeMap<String, Vec<String>>,
    pub(super) reads: BTreeMap<String, Read>,
}

/// A read on its way, or what came of it.
#[derive(Clone, Debug)]
pub(super) enum Read {
    Waits,
    Failed,
    Done {
        index: Slot,
        reflects: Slot,
        saw: String,
    },
}

impl World {
    /// A client's request comes to a member: `REQUEST [as NAME] [key KEY] [by WHOM] [expires TIME]
    /// [classified VERSION] [kind KIND]`.
    pub(crate) fn propose(&mut self, member: u32, words: &mut Words<'_>) -> Result<(), Wrong> {
        let text = words.word("a request")?.to_owned();
        let name = words.after("as")?.unwrap_or(&text).to_owned();
        let key = words.after("key")?.map(str::to_owned);
        let by = words.after("by")?.unwrap_or("anybody").to_owned();
        let expires_ns = if words.has("expires") {
            words.duration()?
        } else {
            EXPIRES_NS
        };
        let classified = if words.has("classified") {
            Some(words.number("a version of the policy")?)
        } else {
            None
        };
        let kind = if words.has("kind") {
            let kind = words.number("a kind")?;
            CommandKind(u16::try_from(kind).map_err(|_| "there are few kinds")?)
        } else {
            CommandKind::REQUEST
        };
        let now = self.hosts.get(&member).map(|_| self.now_at(member));
        let process = self.running(member)?;
        let wall = AgreedTime(now.unwrap_or_default().wall_ns);
        let mono_ns = now.unwrap_or_default().mono_ns;
        let agreed = process.paxos.agreed_clock();
        let agreed = agreed.map_or(wall, |it| it.at(mono_ns)).max(process.time);
        let policy = process.machine.fold().policy().version;
        let request = Request {
            policy_version: classified.unwrap_or(policy),
            expires_ns: agreed.0 + expires_ns,
            method: "POST".to_owned(),
            target: "/".to_owned(),
            body: text.clone().into(),
            idempotency: key.map(|key| Idempotency {
                key: key.into(),
                principal: by.into(),
                request_digest: text.into(),
            }),
            ..Request::default()
        };
        self.give(member, &name, kind, request.encode_to_vec())
    }

    /// A member takes a command, for whoever waits under this name.
    pub(super) fn give(
        &mut self,
        member: u32,
        name: &str,
        kind: CommandKind,
        payload: Vec<u8>,
    ) -> Result<(), Wrong> {
        let now = self.now_at(member);
        let process = self.running(member)?;
        let command = process.command(kind, payload);
        let id = command.id;
        match process.paxos.propose(now, command) {
            Ok(()) => {
                process.unresolved.insert(id.sequence);
                process.commands.insert(id, name.to_owned());
            }
            Err(error) => self.tell_client(member, name, format!("refused, {error}")),
        }
        self.settle(member);
        self.beat();
        Ok(())
    }

    /// Another policy is wanted: it may change what is classified how.
    pub(crate) fn change_policy(&mut self, member: u32, version: u64) -> Result<(), Wrong> {
        let genesis = Policy::decode(self.genesis.policy.clone()).expect("written here");
        let policy = Policy {
            version,
            classes_version: 0,
            default_consistency: synod_proto::v1::Consistency::Ordered.into(),
            ..genesis
        };
        let name = format!("policy {version}");
        self.give(member, &name, CommandKind::POLICY, policy.encode_to_vec())
    }

    pub(super) fn tell_client(&mut self, member: u32, name: &str, told: String) {
        self.tell(format!("{member} answers {name}: {told}"));
        self.clients
            .told
            .entry(name.to_owned())
            .or_default()
            .push(told);
    }

    /// Whoever waits at a process that dies.
    pub(super) fn lose_clients(&mut self, member: u32, process: &Process) {
        for name in process.commands.values() {
            self.say(format!("the client of {name} loses {member}"));
        }
        let reads = process.reads.values().chain(process.ready.values());
        for name in reads {
            self.clients.reads.insert(name.clone(), Read::Failed);
        }
    }
}

// === reads ===

impl World {
    /// A client reads at a member.
    pub(crate) fn read(&mut self, member: u32, name: &str) -> Result<(), Wrong> {
        let now = self.hosts.get(&member).map(|_| self.now_at(member));
        let process = self.running(member)?;
        process.last_read = ReadId(process.last_read.0 + 1);
        let id = process.last_read;
        process.reads.insert(id, name.to_owned());
        process.paxos.read(now.unwrap_or_default(), id);
        self.clients.reads.insert(name.to_owned(), Read::Waits);
        self.settle(member);
        self.beat();
        Ok(())
    }

    pub(super) fn read_ready(&mut self, member: u32, id: ReadId, index: Slot) {
        let Ok(process) = self.running(member) else {
            return;
        };
        if process.proof == Some(id) {
            process.proof = None;
            process.machine.handle_proven(index);
            return;
        }
        if self.judge_settles(member, id, index) {
            return;
        }
        if let Ok(process) = self.running(member)
            && let Some(name) = process.reads.remove(&id)
        {
            process.ready.insert((index, id), name.clone());
            self.say(format!("{member} may answer {name} from slot {index} on"));
        }
    }

    pub(super) fn read_failed(&mut self, member: u32, id: ReadId) {
        let now = self.now_at(member);
        let Ok(process) = self.running(member) else {
            return;
        };
        if process.proof == Some(id) {
            // It asks until it knows.
            process.last_read = ReadId(process.last_read.0 + 1);
            let again = process.last_read;
            process.proof = Some(again);
            process.paxos.read(now, again);
            return;
        }
        if let Some(name) = process.reads.remove(&id) {
            self.tell(format!("{member} cannot answer {name} now"));
            self.clients.reads.insert(name, Read::Failed);
        }
    }

    /// Reads go to the app once it has come so far (rule R6).
    pub(super) fn serve_reads(&mut self, member: u32) {
        while let Some(host) = self.hosts.get_mut(&member)
            && let Some(process) = &mut host.process
            && process.machine.serving()
            && let Some(first) = process.ready.first_entry()
            && first.key().0 <= process.machine.applied()
        {
            let index = first.key().0;
            let name = first.remove();
            let state = host.app.state();
            let (reflects, saw) = (state.reflects(), state.show());
            self.tell(format!("{member} answers {name}: {saw} (index {index})"));
            let done = Read::Done {
                index,
                reflects,
                saw,
            };
            self.clients.reads.insert(name, done);
        }
    }
}

impl Process {
    /// The next command of this life.
    pub(super) fn command(&mut self, kind: CommandKind, payload: Vec<u8>) -> Command {
        let floor = self.floor();
        self.sequence += 1;
        let id = CommandId {
            member: self.paxos.member(),
            boot: self.paxos.boot(),
            sequence: self.sequence,
        };
        Command {
            kind,
            id,
            floor,
            payload: payload.into(),
        }
    }
}
