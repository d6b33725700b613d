//! Claims: what must hold at this point of a script, whatever its output is rewritten to.

use synod_paxos::{Entry, Paxos, Slot, Standing};

use super::World;
use super::clients::Read;
use crate::print;
use crate::words::{Words, Wrong};

/// `Ok(None)`: it holds. `Ok(Some(..))`: what is so instead.
type Held = Result<Option<String>, Wrong>;

#[allow(
    clippy::unnecessary_wraps,
    reason = "every claim ends with it, and those before it may be wrong"
)]
fn holds(is: bool, instead: impl FnOnce() -> String) -> Held {
    Ok((!is).then(instead))
}

impl World {
    /// Looks whether a claim holds; if not, says what is so instead.
    pub(crate) fn expect(&mut self, words: &mut Words<'_>) -> Held {
        let not = words.has("not") || words.has("no");
        let what = words.word("a claim")?;
        let held = self.claim(what, words)?;
        words.end()?;
        match (not, held) {
            (false, held) => Ok(held),
            (true, Some(_)) => Ok(None),
            (true, None) => Ok(Some("it is so".to_owned())),
        }
    }

    fn claim(&mut self, what: &str, words: &mut Words<'_>) -> Held {
        match what {
            "leader" => self.claim_leader(words),
            "leads" => {
                let member = words.member()?;
                let standing = self.paxos(member)?.standing();
                holds(standing == Standing::Leader, || {
                    format!("it is {standing:?}")
                })
            }
            "healthy" => {
                let member = words.member()?;
                let healthy = self.paxos(member)?.status().healthy;
                holds(healthy, || "it is not".to_owned())
            }
            "chosen" => self.claim_chosen(words),
            "commit" => self.claim_slot(words, Paxos::commit),
            "last" => self.claim_slot(words, Paxos::last),
            "first" => self.claim_slot(words, Paxos::first),
            "applied" => {
                let member = words.member()?;
                let applied = self.running(member)?.machine.applied();
                compare(applied, words)
            }
            "promised" => self.claim_ballot(words, Paxos::promised),
            "accepted" => self.claim_ballot(words, Paxos::accepted),
            "epoch" => {
                let member = words.member()?;
                let epoch = self.paxos(member)?.epoch();
                compare(Slot(epoch.0), words)
            }
            "protocol" => {
                let member = words.member()?;
                let protocol = self.paxos(member)?.protocol();
                compare(Slot(protocol.into()), words)
            }
            "revision" => {
                let member = words.member()?;
                let revision = self.running(member)?.machine.fold().revision();
                compare(Slot(revision), words)
            }
            "holds" => self.claim_holds(words),
            "answered" => self.claim_answered(words),
            "told" => self.claim_told(words),
            "read" => self.claim_read(words),
            "copies" => self.claim_copies(words),
            "executed" => self.claim_executed(words),
            "app" => {
                let member = words.member()?;
                let wanted = words.all().join(" ");
                let shows = self.host(member)?.app.state().show();
                holds(shows == wanted, || format!("it holds {shows}"))
            }
            "serves" => {
                let member = words.member()?;
                let serves = self.running(member)?.machine.serving();
                holds(serves, || "it does not".to_owned())
            }
            "skipped" => {
                let member = words.member()?;
                let slot = Slot(words.number("a slot")?);
                let skipped = self.running(member)?.machine.fold().skipped();
                let skipped = skipped.clone();
                holds(skipped.contains(&slot), || format!("{skipped:?}"))
            }
            "vote" => self.claim_vote(words),
            "way" => {
                let (from, to) = words.links()?[0];
                let kind = words.word("a kind of message")?;
                let is = self.is_on_wire(from, to, kind);
                holds(is, || format!("no {kind} is on its way"))
            }
            "up" => {
                let member = words.member()?;
                let up = self.host(member)?.process.is_some();
                holds(up, || "it is down".to_owned())
            }
            "ended" => {
                let member = words.member()?;
                let wanted = words.all().join(" ");
                let ended = self.host(member)?.ended.clone().unwrap_or_default();
                let is = !ended.is_empty() && ended.contains(&wanted);
                holds(is, || format!("`{ended}`"))
            }
            "stamp" => self.claim_stamp(words),
            "retired" => {
                let member = words.member()?;
                let retired = self.paxos(member)?.old_epoch_retired();
                holds(retired, || "it is not".to_owned())
            }
            "removed" => {
                let member = words.member()?;
                let removed = self.paxos(member)?.removed();
                holds(removed.is_some(), || "it is not".to_owned())
            }
            other => Err(format!("there is no claim `{other}`")),
        }
    }

    /// `leader [MEMBER]`: whom the group has, by the highest ballot.
    fn claim_leader(&mut self, words: &mut Words<'_>) -> Held {
        let wanted = words.maybe_member();
        let leader = self.leader();
        let is = leader.is_some() && wanted.is_none_or(|it| Some(it) == leader);
        holds(is, || match leader {
            Some(leader) => format!("{leader} leads"),
            None => "nobody leads".to_owned(),
        })
    }

    /// `chosen SLOT REQUEST`, or `chosen REQUEST`: at any slot.
    fn claim_chosen(&mut self, words: &mut Words<'_>) -> Held {
        let history = self.checks.history();
        let slot = words.peek().and_then(|it| it.parse().ok()).map(Slot);
        if let Some(slot) = slot {
            words.word("a slot")?;
            let wanted = words.all().join(" ");
            let is = history.get(&slot).map(|it| print::command(&it.command));
            return holds(is.as_ref() == Some(&wanted), || {
                is.unwrap_or_else(|| "nothing is chosen there".to_owned())
            });
        }
        let wanted = words.all().join(" ");
        let of = |it: &Entry| print::command(&it.command) == wanted;
        holds(history.values().any(of), || {
            "it is chosen nowhere".to_owned()
        })
    }

    fn claim_slot(&mut self, words: &mut Words<'_>, of: impl Fn(&Paxos) -> Slot) -> Held {
        let member = words.member()?;
        let is = of(self.paxos(member)?);
        compare(is, words)
    }

    fn claim_ballot(
        &mut self,
        words: &mut Words<'_>,
        of: impl Fn(&Paxos) -> synod_paxos::Ballot,
    ) -> Held {
        let member = words.member()?;
        let wanted = words.word("a ballot")?;
        let is = of(self.paxos(member)?).to_string();
        holds(is == wanted, || format!("it is {is}"))
    }

    /// `holds MEMBER REQUEST`: in its log, synced or not.
    fn claim_holds(&mut self, words: &mut Words<'_>) -> Held {
        let member = words.member()?;
        let wanted = words.all().join(" ");
        let paxos = self.paxos(member)?;
        let process = self.process(member).ok_or("it runs")?;
        let slots = paxos.first().0..=paxos.last().0;
        let mut entries = slots.filter_map(|slot| {
            let entry = paxos.entry(Slot(slot)).cloned();
            entry.or_else(|| process.entry(Slot(slot)))
        });
        let found = entries.any(|it| print::command(&it.command) == wanted);
        holds(found, || "its log lacks it".to_owned())
    }

    /// `answered NAME [at SLOT]`: the client knows that it was done.
    fn claim_answered(&mut self, words: &mut Words<'_>) -> Held {
        let name = words.word("a request")?;
        let at = if words.has("at") {
            Some(words.number("a slot")?)
        } else {
            None
        };
        let told = self.clients.told.get(name).cloned().unwrap_or_default();
        let begin = at.map_or("done at ".to_owned(), |at| format!("done at {at}"));
        let is = |it: &String| {
            it.strip_prefix(&begin)
                .is_some_and(|rest| at.is_none() || !rest.starts_with(|it: char| it.is_numeric()))
        };
        holds(told.iter().any(is), || format!("it was told {told:?}"))
    }

    /// `told NAME TEXT`: some answer contains this.
    fn claim_told(&mut self, words: &mut Words<'_>) -> Held {
        let name = words.word("a request")?.to_owned();
        let text = words.all().join(" ");
        let told = self.clients.told.get(&name).cloned().unwrap_or_default();
        let is = told.iter().any(|it| it.contains(&text));
        holds(is, || format!("it was told {told:?}"))
    }

    /// `read NAME waits|failed|>= SLOT|sees VALUES`.
    fn claim_read(&mut self, words: &mut Words<'_>) -> Held {
        let name = words.word("a read")?;
        let read = self.clients.reads.get(name);
        let read = read
            .cloned()
            .ok_or_else(|| format!("nobody reads {name}"))?;
        let instead = || format!("{read:?}");
        if words.has("waits") {
            return holds(matches!(read, Read::Waits), instead);
        }
        if words.has("failed") {
            return holds(matches!(read, Read::Failed), instead);
        }
        let Read::Done {
            index,
            reflects,
            saw,
        } = &read
        else {
            words.all();
            return Ok(Some(instead()));
        };
        if words.has("answered") {
            return Ok(None);
        }
        if words.has("sees") {
            let wanted = words.all().join(" ");
            return holds(*saw == wanted, || format!("it saw {saw}"));
        }
        words.must(">=")?;
        let least = Slot(words.number("a slot")?);
        holds(*index >= least && *reflects >= least, instead)
    }

    /// `copies equal`: the apps of all members that run have executed the same.
    fn claim_copies(&mut self, words: &mut Words<'_>) -> Held {
        words.must("equal")?;
        let up = self
            .hosts
            .iter()
            .filter(|(_, it)| it.process.is_some() && it.app.up);
        let states: Vec<(u32, _)> = up.map(|(member, it)| (*member, it.app.state())).collect();
        let first = states.first().map(|(_, it)| *it);
        let odd = states.iter().find(|(_, it)| Some(*it) != first);
        let odd = odd.map(|(member, it)| format!("{member} has {:?}", it.executed));
        holds(odd.is_none(), || {
            let first = first.map(|it| it.executed.clone());
            format!("{}, the first {first:?}", odd.unwrap_or_default())
        })
    }

    /// `executed MEMBER REQUEST once|twice|never`: by the state that its app has.
    fn claim_executed(&mut self, words: &mut Words<'_>) -> Held {
        let member = words.member()?;
        let request = words.word("a request")?;
        let wanted = match words.word("how often")? {
            "never" => 0,
            "once" => 1,
            "twice" => 2,
            other => return Err(format!("`{other}` is no number of times")),
        };
        let executed = &self.host(member)?.app.state().executed;
        let times = executed.iter().filter(|(_, it)| it == request).count();
        holds(times == wanted, || print::count(times, "time"))
    }

    /// `vote by MEMBER [in BALLOT] [up to SLOT]`: such a promise or vote has left since its last start.
    fn claim_vote(&mut self, words: &mut Words<'_>) -> Held {
        words.must("by")?;
        let member = words.member()?;
        let ballot = words.after("in")?.map(str::to_owned);
        let slot = if words.has("up") {
            words.must("to")?;
            Some(Slot(words.number("a slot")?))
        } else {
            None
        };
        let votes = self.votes.iter().filter(|(it, ..)| *it == member);
        let votes: Vec<_> = votes.collect();
        let is = votes.iter().any(|(_, in_ballot, up_to)| {
            ballot
                .as_ref()
                .is_none_or(|it| in_ballot.to_string() == *it)
                && slot.is_none_or(|it| *up_to >= it)
        });
        holds(is, || format!("its votes are {votes:?}"))
    }

    /// `stamp SLOT within TIME of SLOT`: how far apart two agreed times are.
    fn claim_stamp(&mut self, words: &mut Words<'_>) -> Held {
        let one = Slot(words.number("a slot")?);
        words.must("within")?;
        let within_ns = words.duration()?;
        words.must("of")?;
        let two = Slot(words.number("a slot")?);
        let stamp = |slot: Slot| {
            let entry = self.checks.history().get(&slot);
            let entry = entry.ok_or_else(|| format!("nothing is chosen at {slot}"))?;
            Ok::<u64, Wrong>(entry.time.0)
        };
        let (one, two) = (stamp(one)?, stamp(two)?);
        let apart_ns = one.abs_diff(two);
        holds(one >= two && apart_ns <= within_ns, || {
            format!("{} ms apart", apart_ns / 1_000_000)
        })
    }
}

/// `= SLOT`, `>= SLOT` or `< SLOT`.
fn compare(is: Slot, words: &mut Words<'_>) -> Held {
    let how = words.word("`=`, `>=` or `<`")?;
    let wanted = Slot(words.number("a number")?);
    let held = match how {
        "=" => is == wanted,
        ">=" => is >= wanted,
        "<" => is < wanted,
        other => return Err(format!("`{other}` compares nothing")),
    };
    holds(held, || format!("it is {is}"))
}
