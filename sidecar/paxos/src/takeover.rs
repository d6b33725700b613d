//! When a member stands for election (rules E2, L1): only if nobody is led and enough voters would
//! hear it, and after a delay that lets those who lead better go first.

use crate::configuration::Role;
use crate::paxos::Paxos;
use crate::peer::Peer;

/// Election timeouts for which a member that is far behind leaves the others the first try.
const PATIENCE: u64 = 4;

/// What an entry weighs when nobody knows better.
const TYPICAL_BYTES: u64 = 1024;

/// A take-over that is being waited for.
#[derive(Debug, Default)]
pub(crate) struct Takeover {
    /// Since when leadership has been open to this member. A try of somebody else does not change
    /// it: who is better but never wins must not hold up the others for ever.
    open_since_ns: Option<u64>,
    /// Since when this try is waited for, and its part of chance.
    waiting: Option<(u64, u64)>,
    at_ns: Option<u64>,
    /// Somebody else's try is under way until then, as far as this member has promised.
    other_until_ns: u64,
    /// This member gave up since it lacks what is chosen: until then the others are on their own.
    lacking_until_ns: u64,
}

impl Takeover {
    /// When this member takes over, if nothing changes until then.
    pub(crate) fn at_ns(&self) -> Option<u64> {
        self.at_ns
    }

    /// Not this time.
    pub(crate) fn call_off(&mut self) {
        self.waiting = None;
        self.at_ns = None;
    }

    /// This member has promised to follow somebody, who must have the time to get a quorum and to say
    /// so. Where everybody stands again sooner than an answer takes, nobody ever wins.
    pub(crate) fn give_way(&mut self, until_ns: u64) {
        self.other_until_ns = until_ns;
    }

    /// This member has found out that it must not lead: whoever stands again and again, to give up
    /// each time, keeps the others from leading.
    pub(crate) fn stand_back(&mut self, until_ns: u64) {
        self.lacking_until_ns = until_ns;
    }

    /// Somebody is led, or this member could not win.
    pub(crate) fn close(&mut self) {
        *self = Self {
            other_until_ns: self.other_until_ns,
            lacking_until_ns: self.lacking_until_ns,
            ..Self::default()
        };
    }
}

impl Paxos {
    /// Takes over if it is time to.
    pub(crate) fn consider_takeover(&mut self) {
        let seated = self.role.votes() && self.removed().is_none();
        if !seated || self.hears_health() || !self.is_heard_by_quorum() {
            self.election.takeover.close();
            return;
        }
        let now_ns = self.now.mono_ns;
        let open_ns = *self.election.takeover.open_since_ns.get_or_insert(now_ns);
        if self.is_disk_stalled() || !self.journal.is_synced(self.acceptor.promise_io) {
            self.election.takeover.call_off();
            return;
        }
        let waiting = self.election.takeover.waiting;
        let (since_ns, chance_ns) = match waiting {
            Some(waiting) => waiting,
            None => (now_ns, self.rng.below(self.election.interval_ns())),
        };
        self.election.takeover.waiting = Some((since_ns, chance_ns));
        let mut at_ns = since_ns + self.reluctance_ns(chance_ns);
        let takeover = &self.election.takeover;
        let others_ns = takeover.other_until_ns.max(takeover.lacking_until_ns);
        at_ns = at_ns.max(others_ns.saturating_add(chance_ns));
        if self.voters.len() > 1 && (!self.is_near() || self.needs_snapshot().is_some()) {
            // Better somebody else, unless nobody else can (rule L1).
            at_ns = at_ns.max(open_ns + PATIENCE * self.election.timeout_ns + chance_ns);
        }
        self.election.takeover.at_ns = Some(at_ns);
        if now_ns >= at_ns {
            self.election.takeover.call_off();
            self.campaign(false);
        }
    }

    /// This candidate lacks what is chosen.
    pub(crate) fn give_up_lacking(&mut self) {
        self.resign();
        let until_ns = self.now.mono_ns + PATIENCE * self.election.timeout_ns;
        self.election.takeover.stand_back(until_ns);
    }

    /// Preferred members first, then chance; those who would lead badly last.
    fn reluctance_ns(&self, chance_ns: u64) -> u64 {
        if self.voters.len() == 1 {
            return 0;
        }
        let reluctance = u64::from(100 - self.preference());
        let mut delay_ns = chance_ns + 2 * self.election.interval_ns() * reluctance / 100;
        let witness = self.role == Role::Witness;
        if witness && self.voters_heard().any(|peer| peer.role != Role::Witness) {
            delay_ns += 2 * self.election.timeout_ns;
        }
        if self.app_stalled && self.voters_heard().any(|peer| !peer.beat.app_stalled) {
            delay_ns += self.election.timeout_ns;
        }
        delay_ns
    }

    /// The other voters that are heard.
    fn voters_heard(&self) -> impl Iterator<Item = &Peer> {
        self.voters
            .iter()
            .filter(|voter| self.is_with(**voter))
            .filter_map(|voter| self.peers.get(voter))
    }

    /// Mean weight of the latest entries, 0 when it is not known.
    pub(crate) fn entry_bytes(&self) -> u64 {
        self.log.mean_weight(self.settings.cache_bytes / 2)
    }

    /// What other voters know to be chosen beyond this log, in bytes, as they estimate it.
    pub(crate) fn behind_bytes(&self) -> u64 {
        let last = self.log.last();
        let behind = |peer: &Peer| {
            let known = [peer.beat.entry_bytes, self.entry_bytes()];
            let weight = known
                .into_iter()
                .find(|it| *it > 0)
                .unwrap_or(TYPICAL_BYTES);
            let slots = peer.beat.commit.0.saturating_sub(last.0);
            slots.saturating_mul(weight)
        };
        self.voters_heard().map(behind).max().unwrap_or(0)
    }

    /// This log ends within a window of the furthest commit that is heard of.
    pub fn is_near(&self) -> bool {
        self.behind_bytes() <= self.settings.window_bytes
    }
}
