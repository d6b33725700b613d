//! Random lives of a group: leaders come and go, messages are lost, late and doubled, members stop for a
//! while, and some requests kill every copy or some. Nothing that was executed anywhere is ever skipped
//! without a word of doubt, nothing that is skipped is executed, and in the end all copies are equal.

use super::*;

/// xorshift64*: enough to choose events.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }
}

const MEMBERS: u32 = 3;
const SLOTS: u64 = 12;

/// What a slot does to the copies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Nature {
    Good,
    Kills,
    /// Kills all but this one, mostly.
    KillsOthers(u32),
    /// Kills now and then.
    Flaky,
}

/// A copy as its machine behaves (`apply::machine::poison`).
#[derive(Debug, Default)]
struct Copy {
    up: bool,
    executed: u64,
    sent: u64,
    failures: u32,
    promises: BTreeMap<Slot, Ask>,
    /// The highest round that it follows.
    follows: u64,
    /// How much of the list of skips it has read.
    read: usize,
    skipped: BTreeSet<Slot>,
}

impl Copy {
    fn next(&self) -> u64 {
        let mut next = self.executed + 1;
        while self.skipped.contains(&Slot(next)) {
            next += 1;
        }
        next
    }

    fn doubts(&self) -> Doubts {
        let next = self.next();
        Doubts {
            applied: Slot(self.executed),
            executed: Slot(self.executed),
            admitted: Slot(SLOTS),
            progress: Progress {
                next: Some(Slot(next)),
                slow: false,
                failed: (self.failures > 0).then_some((Slot(next), self.failures)),
            },
            promises: self.promises.values().copied().collect(),
            skipped: self.skipped.clone(),
        }
    }

    fn ask(&mut self, ask: Ask) -> Option<Standing> {
        let earlier = self.promises.get(&ask.slot);
        if self.skipped.contains(&ask.slot)
            || earlier.is_some_and(|it| (it.ballot, it.number) > (ask.ballot, ask.number))
        {
            return None;
        }
        if ask.slot.0 <= self.executed {
            return Some(Standing::Applied);
        }
        self.promises.insert(ask.slot, ask);
        let sent = ask.slot.0 <= self.sent;
        Some(if sent {
            Standing::Failed
        } else {
            Standing::Held
        })
    }

    fn learn(&mut self, slot: Slot) {
        self.skipped.insert(slot);
        self.promises.remove(&slot);
        self.failures = 0;
    }
}

#[derive(Clone, Debug)]
enum Message {
    Doubts(MemberId, Doubts),
    Standing(MemberId, Ask, Option<Standing>),
    Ask(MemberId, Ask),
    Free(MemberId, Ask),
}

struct Leader {
    round: u64,
    judge: Judge,
}

struct Group {
    dice: Dice,
    natures: Vec<Nature>,
    copies: BTreeMap<u32, Copy>,
    /// The last one leads; the one before does not know that yet.
    leaders: Vec<Leader>,
    /// To the leader of this round, or from it.
    messages: Vec<(u64, Message)>,
    /// Slots whose skips are chosen, in order.
    chosen: Vec<Slot>,
    /// Proposed in the present ballot, and not chosen yet.
    proposed: Vec<Slot>,
    /// Of an earlier ballot, in the present leader's log behind what is known to be chosen.
    adopted: Vec<Slot>,
    /// The policy in force.
    skip: SkipWhen,
    now_ms: u64,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    skips: u64,
    late_skips: u64,
    frees: u64,
    terms: u64,
    applied: u64,
}

impl Group {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let natures = (0..=SLOTS).map(|_| match dice.below(10) {
            0 | 1 => Nature::Kills,
            2 => Nature::KillsOthers(1 + dice.below(3) as u32),
            3 | 4 => Nature::Flaky,
            _ => Nature::Good,
        });
        let natures = natures.collect();
        let up = || Copy {
            up: true,
            ..Copy::default()
        };
        let mut group = Self {
            dice,
            natures,
            copies: (1..=MEMBERS).map(|number| (number, up())).collect(),
            leaders: Vec::new(),
            messages: Vec::new(),
            chosen: Vec::new(),
            proposed: Vec::new(),
            adopted: Vec::new(),
            skip: SkipWhen::AllFailed,
            now_ms: 0,
            counts: Counts::default(),
        };
        group.elect();
        group
    }

    /// Another leads. What the one before has proposed is in its log, or lost for ever.
    fn elect(&mut self) {
        let left = std::mem::take(&mut self.proposed);
        self.adopted.extend(left);
        let dice = &mut self.dice;
        self.adopted.retain(|_| dice.below(4) > 0);
        let round = self.leaders.last().map_or(1, |it| it.round + 1);
        let copies = (1..=MEMBERS).map(MemberId).collect();
        let judge = Judge::new(ballot(round), copies, rules());
        self.leaders.push(Leader { round, judge });
        self.counts.terms += 1;
        if self.leaders.len() > 2 {
            self.leaders.remove(0);
        }
    }

    fn choose(&mut self, slot: Slot) {
        if self.chosen.contains(&slot) {
            return;
        }
        let mut copies = self.copies.values();
        assert!(
            copies.all(|it| it.executed < slot.0),
            "I15: slot {slot} was executed and is skipped"
        );
        self.chosen.push(slot);
        self.counts.skips += 1;
    }

    /// The copy goes on by a step, if it may.
    fn execute(&mut self, number: u32) {
        let copy = self.copies.get_mut(&number).unwrap();
        let slot = copy.next();
        let promised = copy.promises.contains_key(&Slot(slot));
        if !copy.up || promised || slot > SLOTS {
            return;
        }
        let dies = match self.natures[slot as usize] {
            Nature::Good => false,
            Nature::Kills => true,
            Nature::KillsOthers(but) => number != but && self.dice.below(8) > 0,
            Nature::Flaky => self.dice.below(2) == 0,
        };
        copy.sent = copy.sent.max(slot);
        if dies {
            copy.failures += 1;
            return;
        }
        assert!(!self.chosen.contains(&Slot(slot)), "{slot} is skipped");
        (copy.executed, copy.failures) = (slot, 0);
    }

    fn read_log(&mut self, number: u32) {
        let copy = self.copies.get_mut(&number).unwrap();
        if let Some(slot) = self.chosen.get(copy.read).filter(|_| copy.up) {
            copy.read += 1;
            copy.learn(*slot);
        }
    }

    /// A leader takes its turn.
    fn lead(&mut self, at: usize) {
        let leads = at + 1 == self.leaders.len();
        let Leader { round, judge } = &mut self.leaders[at];
        judge.handle_rules(Rules {
            skip: self.skip,
            ..rules()
        });
        for step in judge.poll(self.now_ms) {
            match step {
                Step::Ask { to, ask } => self.messages.push((*round, Message::Ask(to, ask))),
                Step::Free { to, ask } => {
                    self.counts.frees += 1;
                    self.messages.push((*round, Message::Free(to, ask)));
                }
                Step::Skip { slot, unsure } => {
                    assert!(!unsure, "no policy allows that here");
                    if leads {
                        self.proposed.push(slot);
                        judge.handle_proposed(slot);
                    }
                }
                Step::Restore { .. } => panic!("there are no snapshots"),
            }
        }
    }

    /// An entry of the leader's own ballot is committed, with all before it, and it has read that.
    fn settle(&mut self) {
        for slot in std::mem::take(&mut self.adopted) {
            self.counts.late_skips += 1;
            self.choose(slot);
        }
        let known = Doubts {
            skipped: self.chosen.iter().copied().collect(),
            ..self.copies[&1].doubts()
        };
        let leader = self.leaders.last_mut().unwrap();
        leader.judge.handle_doubts(self.now_ms, LEADER, known);
        leader.judge.handle_settled();
    }

    fn deliver(&mut self) {
        if self.messages.is_empty() {
            return;
        }
        let at = self.dice.below(self.messages.len() as u64) as usize;
        let (round, message) = match self.dice.below(6) {
            0 => self.messages[at].clone(),
            _ => self.messages.swap_remove(at),
        };
        let leader = self.leaders.iter_mut().find(|it| it.round == round);
        match message {
            Message::Ask(to, ask) => {
                let copy = self.copies.get_mut(&to.0).unwrap();
                if copy.up && round >= copy.follows {
                    copy.follows = round;
                    let standing = copy.ask(ask);
                    self.counts.applied += u64::from(standing == Some(Standing::Applied));
                    let message = Message::Standing(to, ask, standing);
                    self.messages.push((round, message));
                }
            }
            Message::Free(to, ask) => {
                let copy = self.copies.get_mut(&to.0).unwrap();
                if copy.up && round >= copy.follows {
                    copy.promises.retain(|_, it| *it != ask);
                }
            }
            Message::Standing(from, ask, standing) => {
                if let Some(leader) = leader {
                    leader.judge.handle_standing(from, ask, standing);
                }
            }
            Message::Doubts(from, doubts) => {
                if let Some(leader) = leader {
                    leader.judge.handle_doubts(self.now_ms, from, doubts);
                }
            }
        }
    }

    fn turn(&mut self, calm: bool) {
        self.now_ms += self.dice.below(200);
        let number = 1 + self.dice.below(u64::from(MEMBERS)) as u32;
        let leader = self.dice.below(self.leaders.len() as u64) as usize;
        match self.dice.below(16) {
            0..=3 => self.execute(number),
            4 | 5 => self.read_log(number),
            6 if self.copies[&number].up => {
                let doubts = self.copies[&number].doubts();
                let message = Message::Doubts(MemberId(number), doubts);
                self.messages.push((self.leaders[leader].round, message));
            }
            7 => self.lead(leader),
            8 if self.dice.below(3) == 0 => self.settle(),
            9 if !calm && self.dice.below(5) == 0 => self.elect(),
            10 if !calm && self.dice.below(3) == 0 => {
                // Its process only: what it has executed, sent and promised it still knows.
                let copy = self.copies.get_mut(&number).unwrap();
                copy.up = !copy.up;
            }
            11 if self.adopted.is_empty() && self.dice.below(8) == 0 => {
                for slot in std::mem::take(&mut self.proposed) {
                    self.choose(slot);
                }
            }
            12 if !calm && !self.messages.is_empty() => {
                let at = self.dice.below(self.messages.len() as u64) as usize;
                self.messages.swap_remove(at);
            }
            13 if !calm && self.dice.below(8) == 0 => {
                self.skip = match self.skip {
                    SkipWhen::Never => SkipWhen::AllFailed,
                    _ => SkipWhen::Never,
                };
            }
            _ => self.deliver(),
        }
        let many = self.messages.len().saturating_sub(60);
        self.messages.drain(..many);
    }

    fn is_done(&self) -> bool {
        let done = |it: &Copy| it.next() > SLOTS && it.promises.is_empty();
        self.copies.values().all(done)
    }
}

#[test]
fn nothing_that_was_executed_is_skipped_and_all_copies_come_to_the_same_end() {
    let mut all = Counts::default();
    for seed in 1..=400 {
        let mut group = Group::new(seed * 0x9E37_79B9);
        for _ in 0..1_500 {
            group.turn(false);
        }
        group.copies.values_mut().for_each(|it| it.up = true);
        group.skip = SkipWhen::AllFailed;
        let mut turns = 0;
        while !group.is_done() {
            group.turn(true);
            turns += 1;
            let (copies, leader) = (&group.copies, group.leaders.last());
            assert!(
                turns < 100_000,
                "seed {seed}: {copies:?} {:?}",
                leader.map(|it| &it.judge)
            );
        }
        let chosen: BTreeSet<Slot> = group.chosen.iter().copied().collect();
        for copy in group.copies.values() {
            assert!(copy.skipped.is_subset(&chosen), "seed {seed}");
        }
        let kills = (1..=SLOTS).filter(|slot| group.natures[*slot as usize] == Nature::Kills);
        for slot in kills {
            assert!(chosen.contains(&Slot(slot)), "seed {seed}: {slot}");
        }
        all.skips += group.counts.skips;
        all.late_skips += group.counts.late_skips;
        all.frees += group.counts.frees;
        all.terms += group.counts.terms;
        all.applied += group.counts.applied;
    }
    assert!(all.skips > 900 && all.frees > 200, "{all:?}");
    assert!(all.terms > 2_000 && all.late_skips > 5, "{all:?}");
    assert!(all.applied > 200, "{all:?}");
}
