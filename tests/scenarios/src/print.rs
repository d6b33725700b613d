//! What members say and write, in words.

use prost::Message as _;
use synod_paxos::{
    AgreedTime, Ballot, Command, CommandKind, Configuration, Entry, Header, Message, NotTaken,
    Record, Role, Slot,
};
use synod_proto::v1::{
    Policy, Request, Revision, RevisionDisagrees, RevisionDone, RevisionStrategy, Skip,
};

/// What a command asks for.
pub(crate) fn command(command: &Command) -> String {
    let payload = || command.payload.clone();
    match command.kind {
        CommandKind::NOOP => "noop".to_owned(),
        CommandKind::REQUEST => match Request::decode(payload()) {
            Ok(request) => String::from_utf8_lossy(&request.body).into_owned(),
            Err(_) => "request?".to_owned(),
        },
        CommandKind::POLICY => {
            let policy = Policy::decode(payload()).unwrap_or_default();
            format!("policy {}", policy.version)
        }
        CommandKind::UPGRADE => match command.upgrades_to() {
            Some(version) => format!("upgrade to {version}"),
            None => "upgrade?".to_owned(),
        },
        CommandKind::SKIP => {
            let skip = Skip::decode(payload()).unwrap_or_default();
            let unsure = if skip.unsure { " (unsure)" } else { "" };
            format!("skip of {}{unsure}", skip.slot)
        }
        CommandKind::RECONFIGURE => match changes(command) {
            Some(next) => format!("stop-sign({})", configuration(&next)),
            None => "stop-sign?".to_owned(),
        },
        CommandKind::REVISION => {
            let revision = Revision::decode(payload()).unwrap_or_default();
            let number = revision.number;
            if revision.takes_back {
                format!("revision {number}, taking back the last")
            } else if revision.strategy() == RevisionStrategy::Rolling {
                format!("revision {number}, silently")
            } else {
                format!("revision {number}")
            }
        }
        CommandKind::REVISION_DONE => {
            let done = RevisionDone::decode(payload()).unwrap_or_default();
            let anyway = if done.in_spite { " anyway" } else { "" };
            format!("revision {} done{anyway}", done.number)
        }
        CommandKind::REVISION_DISAGREES => {
            let disagrees = RevisionDisagrees::decode(payload()).unwrap_or_default();
            format!("revision {} disagrees", disagrees.number)
        }
        other => format!("kind {}", other.0),
    }
}

/// The configuration that a stop-sign holds.
fn changes(command: &Command) -> Option<Configuration> {
    let entry = Entry {
        slot: Slot(1),
        ballot: Ballot::default(),
        time: AgreedTime(0),
        seed: 0,
        command: command.clone(),
    };
    entry.reconfigures_to()
}

/// Members by number and role, and who may lead at once.
pub(crate) fn configuration(configuration: &Configuration) -> String {
    let members: Vec<String> = configuration
        .members
        .iter()
        .map(|it| match it.role {
            Role::Voter => it.id.to_string(),
            Role::Observer => format!("{} observes", it.id),
            Role::Witness => format!("{} witnesses", it.id),
        })
        .collect();
    let members = members.join(" ");
    let first = match configuration.first_leader.0 {
        0 => String::new(),
        first => format!(", {first} first"),
    };
    format!("epoch {}: {members}{first}", configuration.epoch)
}

/// Its slot and what it holds.
pub(crate) fn entry(entry: &Entry) -> String {
    format!("{} {}", entry.slot, command(&entry.command))
}

fn entries(all: &[Entry]) -> String {
    let all: Vec<String> = all.iter().map(entry).collect();
    format!("[{}]", all.join(", "))
}

fn headers(all: &[Header]) -> String {
    let all: Vec<String> = all.iter().map(|it| it.slot.to_string()).collect();
    all.join(" ")
}

/// A message by its kind alone.
pub(crate) fn kind(message: &Message) -> &'static str {
    match message {
        Message::Prepare { .. } => "prepare",
        Message::Promise { .. } => "promise",
        Message::Refused { .. } => "refused",
        Message::AcceptSync { .. } => "accept-sync",
        Message::Staged { .. } => "staged",
        Message::Accept { .. } => "accept",
        Message::Accepted { .. } => "accepted",
        Message::Gap { .. } => "gap",
        Message::Heartbeat(_) => "heartbeat",
        Message::Propose { .. } => "propose",
        Message::NotTaken { .. } => "not-taken",
        Message::ReadIndex { .. } => "read-index",
        Message::ReadIndexes { .. } => "read-indexes",
        Message::ReadRefused { .. } => "read-refused",
        Message::Confirm { .. } => "confirm",
        Message::Confirmed { .. } => "confirmed",
        Message::Transfer { .. } => "transfer",
        Message::RepairRequest { .. } => "repair-request",
        Message::Repair { .. } => "repair",
        Message::Compacted { .. } => "compacted",
        Message::LearnRequest { .. } => "learn-request",
        Message::Learn { .. } => "learn",
    }
}

/// A message with all that matters.
pub(crate) fn message(message: &Message) -> String {
    let kind = kind(message);
    match message {
        Message::Prepare {
            ballot,
            accepted,
            last,
            commit,
            handed_over,
        } => {
            let asked = if *handed_over { ", handed over" } else { "" };
            format!("{kind} {ballot} (accepted {accepted}, last {last}, commit {commit}{asked})")
        }
        Message::Promise {
            ballot,
            accepted,
            last,
            commit,
            first,
            suffix,
            faulty,
            done,
            ..
        } => {
            let begins = match first.0 {
                1 => String::new(),
                first => format!(", log from {first}"),
            };
            let faulty = match faulty.len() {
                0 => String::new(),
                _ => format!(", cannot read {}", headers(faulty)),
            };
            let more = if *done { "" } else { ", more to come" };
            format!(
                "{kind} {ballot} (accepted {accepted}, last {last}, commit {commit}{begins}): {}{faulty}{more}",
                entries(suffix)
            )
        }
        Message::Refused { ballot, promised } => format!("{kind} {ballot}, promised {promised}"),
        Message::AcceptSync {
            ballot,
            after,
            done,
            entries: all,
            last,
            commit,
            ..
        } => {
            let more = if *done { "" } else { ", more to come" };
            let all = entries(all);
            format!("{kind} {ballot} after {after}: {all}, ends at {last}, commit {commit}{more}")
        }
        Message::Staged { ballot, through } => format!("{kind} {ballot} up to {through}"),
        Message::Accept {
            ballot,
            previous,
            entries: all,
            commit,
            ..
        } => {
            let all = entries(all);
            format!("{kind} {ballot} after {previous}: {all}, commit {commit}")
        }
        Message::Accepted { ballot, slot } => format!("{kind} {ballot} up to {slot}"),
        Message::Gap { ballot, last } => format!("{kind} {ballot}, last {last}"),
        Message::Heartbeat(beat) => format!("{kind} {}, commit {}", beat.ballot, beat.commit),
        Message::Propose { commands, again } => {
            let all: Vec<String> = commands.iter().map(command).collect();
            let again = if *again { " again" } else { "" };
            format!("{kind}{again}: {}", all.join(", "))
        }
        Message::NotTaken { reason, .. } => format!("{kind}: {}", not_taken(*reason)),
        Message::ReadIndex { ids } | Message::ReadRefused { ids } => {
            format!("{kind} for {}", count(ids.len(), "read"))
        }
        Message::ReadIndexes { ids, index } => {
            format!("{kind} {index} for {}", count(ids.len(), "read"))
        }
        Message::Confirm { ballot, round } | Message::Confirmed { ballot, round } => {
            format!("{kind} {ballot} round {round}")
        }
        Message::Transfer { ballot } => format!("{kind} {ballot}"),
        Message::RepairRequest { headers: all } => format!("{kind} of {}", headers(all)),
        Message::Repair { entries: all } | Message::Learn { entries: all } => {
            format!("{kind} {}", entries(all))
        }
        Message::Compacted { slot, .. } => format!("{kind} up to {slot}"),
        Message::LearnRequest { after } => format!("{kind} after {after}"),
    }
}

/// The ballot in which a message votes or promises, if it does, and up to which slot.
pub(crate) fn vote(message: &Message) -> Option<(Ballot, Slot)> {
    match message {
        Message::Promise { ballot, last, .. } => Some((*ballot, *last)),
        Message::Accepted { ballot, slot } => Some((*ballot, *slot)),
        _ => None,
    }
}

pub(crate) fn not_taken(reason: NotTaken) -> &'static str {
    match reason {
        NotTaken::Overloaded => "overloaded",
        NotTaken::DiskFull => "disk full",
        NotTaken::TooLarge => "too large",
        NotTaken::Unreadable => "an entry cannot be read",
    }
}

/// `1 read`, `2 reads`.
pub(crate) fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// A record in short.
pub(crate) fn record(record: &Record) -> String {
    match record {
        Record::Genesis(_) => "genesis".to_owned(),
        Record::Promise(ballot) => format!("promise {ballot}"),
        Record::Append(it) => format!("append {}", entry(it)),
        Record::Stage { entry: it, .. } => format!("stage {}", entry(it)),
        Record::Adopt { ballot, from, last } if last < from => {
            format!("adopt {ballot}, nothing behind {last}")
        }
        Record::Adopt { ballot, from, last } => format!("adopt {ballot} with {from}..{last}"),
        Record::Commit(slot) => format!("commit {slot}"),
        Record::Repair(it) => format!("repair {}", entry(it)),
        Record::Compact(base) => format!("compact up to {}", base.slot),
        Record::Install(base) => format!("install a base of {}", base.slot),
        Record::Protocol { version, .. } => format!("protocol {version}"),
        Record::Join(next) => format!("join({})", configuration(next)),
        Record::Learn(it) => format!("learn {}", entry(it)),
        Record::Enter {
            slot,
            configuration,
        } => format!("enter epoch {} behind {slot}", configuration.epoch),
    }
}

pub(crate) fn records(all: &[Record]) -> String {
    let all: Vec<String> = all.iter().map(record).collect();
    all.join("; ")
}

/// The slot that a record puts into the log.
pub(crate) fn slot_of(record: &Record) -> Option<Slot> {
    match record {
        Record::Append(entry) | Record::Learn(entry) => Some(entry.slot),
        Record::Adopt { from, .. } => Some(*from),
        _ => None,
    }
}
