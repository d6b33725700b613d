//! Whole groups, driven by the planner through crashes, lost disks and changes of mind until nothing
//! is left to do. The model takes a change only if the agreement would, and no fault of its own breaks
//! a quorum: where one is missing, the plan took it away.

use super::*;

/// Draws numbers; the same ones for the same seed.
struct Dice(u64);

// === impl Dice ===

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        // xorshift64* (Vigna, 2014).
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(drawn).expect("31 bits") % limit
    }

    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// What is under a name.
#[derive(Debug)]
struct Place {
    life: u32,
    up: bool,
    /// It has been in a group.
    used: bool,
    /// Rounds until it has caught up.
    behind: usize,
}

struct World {
    dice: Dice,
    wanted: Vec<Wanted>,
    group: Group,
    places: BTreeMap<String, Place>,
    next_life: u32,
    next_id: u32,
    told: String,
}

fn life(number: u32) -> String {
    format!("life-{number}")
}

const NAMES: [&str; 8] = ["a-0", "a-1", "a-2", "b-0", "b-1", "c-0", "c-1", "c-2"];

// === impl World ===

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            wanted: Vec::new(),
            group: Group {
                epoch: 1,
                settled: true,
                ..Group::default()
            },
            places: BTreeMap::new(),
            next_life: 1,
            next_id: 1,
            told: format!("seed {seed}"),
        };
        world.want();
        for it in world.wanted.clone() {
            world.start(&it.name);
            let place = world.places.get_mut(&it.name).expect("started");
            (place.used, place.behind) = (true, 0);
            world.group.members.push(Member {
                id: world.next_id,
                name: it.name,
                incarnation: life(place.life),
                role: it.role,
                heard: true,
                caught_up: true,
            });
            world.next_id += 1;
        }
        world.hear();
        world
    }

    /// Draws who is wanted: one voter at least.
    fn want(&mut self) {
        let mut wanted = Vec::new();
        for name in NAMES {
            let role = match self.dice.below(11) {
                0..=3 => MemberRole::Voter,
                4 | 5 => MemberRole::Observer,
                6 => MemberRole::Witness,
                _ => continue,
            };
            wanted.push((name, role));
        }
        // One copy is no quorum besides a new vote.
        let copies = wanted.iter().filter(|it| it.1 == MemberRole::Voter).count();
        wanted.retain(|it| it.1 != MemberRole::Witness || copies > 1);
        if !wanted.iter().any(|it| it.1 == MemberRole::Voter) {
            wanted.retain(|it| it.0 != NAMES[0]);
            wanted.push((NAMES[0], MemberRole::Voter));
        }
        let one = |(name, role): (&str, MemberRole)| Wanted {
            name: name.to_owned(),
            role,
            region: FAR.to_owned(),
        };
        self.wanted = wanted.into_iter().map(one).collect();
    }

    /// With an empty disk.
    fn start(&mut self, name: &str) {
        let place = Place {
            life: self.next_life,
            up: true,
            used: false,
            behind: 1 + self.dice.below(6),
        };
        self.next_life += 1;
        self.places.insert(name.to_owned(), place);
    }

    fn is_up(&self, member: &Member) -> bool {
        let place = self.places.get(&member.name);
        place.is_some_and(|it| it.up && life(it.life) == member.incarnation)
    }

    fn is_whole_without(&self, name: Option<&str>) -> bool {
        let voters = || self.group.members.iter().filter(|it| votes(it.role));
        let decides =
            |it: &Member| self.is_up(it) && (it.role != MemberRole::Witness || self.has_log(it));
        let up = voters().filter(|it| decides(it) && Some(it.name.as_str()) != name);
        up.count() * 2 > voters().count()
    }

    /// Of a group with witnesses, one that runs the app and has the log is left.
    fn keeps_state_without(&self, name: &str) -> bool {
        let mut members = self.group.members.iter();
        let all = || self.group.members.iter();
        let has = |it: &Member| it.role == MemberRole::Voter && it.name != name && self.has_log(it);
        !all().any(|it| it.role == MemberRole::Witness) || members.any(has)
    }

    fn has_log(&self, member: &Member) -> bool {
        let place = self.places.get(&member.name);
        self.is_up(member) && place.is_some_and(|it| it.behind == 0)
    }

    /// What the leader sees now, and who that is.
    fn hear(&mut self) {
        let mut members = std::mem::take(&mut self.group.members);
        for it in &mut members {
            it.heard = self.is_up(it);
            let place = self.places.get(&it.name);
            it.caught_up = it.heard && place.is_some_and(|it| it.behind == 0);
        }
        self.group.members = members;
        let heard = |it: &&Member| votes(it.role) && it.heard;
        let mut leaders = self.group.members.iter().filter(heard);
        if !leaders.any(|it| it.name == self.group.leader) {
            let voters: Vec<_> = self.group.members.iter().filter(heard).collect();
            assert!(!voters.is_empty(), "nobody can lead: {}", self.told);
            let drawn = voters[self.dice.below(voters.len())].name.clone();
            self.group.leader = drawn;
        }
    }

    /// Time goes by; `faults`: and things happen.
    fn pass(&mut self, faults: bool) {
        for place in self.places.values_mut().filter(|it| it.up && it.used) {
            place.behind = place.behind.saturating_sub(1);
        }
        if self.dice.once_in(2) {
            self.group.settled = true;
        }
        let names: Vec<_> = self.places.keys().cloned().collect();
        let name = &names[self.dice.below(names.len())];
        // Whom the group cannot do without is spared: what is asked is what the plan does.
        let spared = self.is_whole_without(Some(name)) && self.keeps_state_without(name);
        if faults && spared && self.dice.once_in(6) {
            self.places.get_mut(name).expect("drawn").up = false;
        } else if faults && spared && self.dice.once_in(8) {
            self.start(name);
        } else if !faults || self.dice.once_in(3) {
            self.places.get_mut(name).expect("drawn").up = true;
        }
        if faults && self.dice.once_in(25) {
            self.want();
        }
        self.hear();
    }

    /// One look of the planner; `true` when there is nothing more to do.
    fn look(&mut self) -> bool {
        let there = self.places.iter().map(|(name, it)| {
            let process = it.up.then(|| Process {
                incarnation: life(it.life),
                empty: !it.used,
            });
            (name.clone(), process)
        });
        let there = there.collect();
        let plan = look(&self.wanted, &self.group, &there);
        self.told = format!("{}\n{}", self.told, plan.step);
        for name in &plan.start {
            self.start(name);
        }
        for name in plan.take_away.iter().chain(&plan.empty) {
            assert!(self.group.settled, "{}", self.told);
            let gone = self.places.remove(name).expect("it is there");
            let mut members = self.group.members.iter();
            let used = members.any(|it| it.incarnation == life(gone.life));
            assert!(!used, "{name} is in the group: {}", self.told);
        }
        let idle = plan.take_away.is_empty() && plan.empty.is_empty() && plan.start.is_empty();
        match plan.step {
            Step::Nothing => return idle,
            Step::Wait { .. } => {}
            Step::Change { epoch, changes } => self.change(epoch, &changes),
        }
        false
    }

    /// As the agreement does it.
    fn change(&mut self, epoch: u64, changes: &[Change]) {
        let voters = |group: &Group| -> BTreeSet<u32> {
            let all = group.members.iter();
            all.filter(|it| votes(it.role)).map(|it| it.id).collect()
        };
        let told = format!("{}\nfrom {:?}", self.told, self.group);
        assert!(self.group.settled && epoch == self.group.epoch, "{told}");
        assert!(self.is_whole_without(None), "nothing can be chosen: {told}");
        let before = voters(&self.group);
        let before_id = self.next_id;
        let is_copy = |it: &Member| it.role == MemberRole::Voter;
        let all = self.group.members.iter();
        let had: Vec<u32> = all
            .filter(|it| is_copy(it) && self.has_log(it))
            .map(|it| it.id)
            .collect();
        for change in changes {
            self.part(change, &told);
        }
        let after = voters(&self.group);
        let is_new = |it: &Member| after.contains(&it.id) && it.id >= before_id;
        let all = || self.group.members.iter().filter(|it| votes(it.role));
        let there = all().filter(|it| self.is_up(it) && !is_new(it)).count();
        assert!(there * 2 > all().count(), "it rests on who is new: {told}");
        let copies = || self.group.members.iter().filter(|it| is_copy(it));
        assert!(copies().count() > 0, "no copy is left: {told}");
        let have = copies().filter(|it| self.has_log(it)).count();
        let losses = all().count() - (all().count() / 2 + 1);
        let enough = copies().count().min(losses + 1);
        let given_up = had.iter().any(|id| copies().all(|it| it.id != *id));
        let is_kept = all().count() == copies().count() || !given_up || have >= enough;
        assert!(is_kept, "the state is in too few hands: {told}");
        assert!(after.difference(&before).count() <= 1, "{told}");
        assert!(before.difference(&after).count() <= 1, "{told}");
        assert!(self.is_whole_without(None), "the plan broke it: {told}");
        self.group.epoch += 1;
        self.group.settled = false;
        self.hear();
    }

    fn part(&mut self, change: &Change, told: &str) {
        match change {
            Change::Join {
                name,
                incarnation,
                role,
                ..
            } => {
                let known = |it: &Member| it.name == *name || it.incarnation == *incarnation;
                assert!(!self.group.members.iter().any(known), "{told}");
                assert!(!self.group.former.contains(incarnation), "{told}");
                let place = self.places.get_mut(name).expect("started");
                assert!(!place.used && life(place.life) == *incarnation, "{told}");
                place.used = true;
                self.group.members.push(Member {
                    id: self.next_id,
                    name: name.clone(),
                    incarnation: incarnation.clone(),
                    role: *role,
                    heard: false,
                    caught_up: false,
                });
                self.next_id += 1;
            }
            Change::Leave { id, .. } => {
                let mut members = self.group.members.iter();
                let at = members.position(|it| it.id == *id).expect("it is in it");
                let gone = self.group.members.remove(at);
                self.group.former.push(gone.incarnation);
            }
            Change::Become { id, role, .. } => {
                let mut members = self.group.members.iter_mut();
                let member = members.find(|it| it.id == *id).expect("it is in it");
                assert!(!is_other_kind(member.role, *role), "{told}");
                if votes(*role) {
                    assert!(!votes(member.role) && member.caught_up, "{told}");
                }
                member.role = *role;
            }
        }
    }

    fn assert_is_as_wanted(&self) {
        let told = &self.told;
        let found: BTreeMap<_, _> = self
            .group
            .members
            .iter()
            .map(|it| (it.name.as_str(), format!("{:?}", it.role)))
            .collect();
        let wanted: BTreeMap<_, _> = self
            .wanted
            .iter()
            .map(|it| (it.name.as_str(), format!("{:?}", it.role)))
            .collect();
        assert_eq!(found, wanted, "{told}");
        assert!(self.group.members.iter().all(|it| self.is_up(it)), "{told}");
        assert_eq!(self.places.len(), wanted.len(), "things are left: {told}");
    }
}

#[test]
fn whatever_happens_the_group_becomes_what_is_wanted_and_loses_no_quorum() {
    for seed in 1..=1_000 {
        let mut world = World::new(seed);
        for _ in 0..100 {
            world.pass(true);
            world.look();
        }
        // What is down comes up again, one after another.
        let mut done = 0;
        for _ in 0..1_000 {
            world.pass(false);
            let calm = world.look() && world.places.values().all(|it| it.up);
            done = if calm { done + 1 } else { 0 };
            if done == 3 {
                break;
            }
        }
        assert_eq!(done, 3, "it never ends: {}", world.told);
        world.assert_is_as_wanted();
    }
}
