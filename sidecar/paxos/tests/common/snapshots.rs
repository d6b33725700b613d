//! Snapshots and protocol versions: what the shell of a member does about them.

use synod_paxos::{Base, Boot, Lane, MemberId, Quorums, Role, Settings, Slot, SnapshotRefused};

use super::{Event, MS, Net, genesis};

impl Net {
    pub(crate) fn protocol_max(&self, member: MemberId) -> u32 {
        let own = self.programs.get(&member).copied();
        own.unwrap_or(self.settings.protocol_max)
    }

    /// What a snapshot of this member's state would say of the log.
    pub(crate) fn base_at(&self, member: MemberId, slot: Slot) -> Base {
        let time = self.history[&slot].time;
        let base = self.paxos(member).base_at(slot, time);
        base.expect("it is chosen and not forgotten")
    }

    /// This member has a snapshot of that slot and forgets what it stands for.
    pub(crate) fn compact(&mut self, member: MemberId, slot: Slot) {
        let base = self.base_at(member, slot);
        let now = self.now(member);
        self.with_paxos(member, |paxos| paxos.handle_snapshot(now, base))
            .expect("taken");
        self.drain(member);
    }

    /// This member has got a snapshot.
    pub(crate) fn install(&mut self, member: MemberId, base: Base) -> Result<(), SnapshotRefused> {
        let now = self.now(member);
        let result = self.with_paxos(member, |paxos| paxos.handle_installed(now, base));
        self.drain(member);
        result
    }

    pub(super) fn fetched(&mut self, member: MemberId, boot: Boot, at_least: Slot) {
        if !self.is_up(member, boot) {
            return;
        }
        let source = self.nodes.iter().find(|(peer, node)| {
            let linked = !self.cuts.contains(&(**peer, member));
            // (One that is being replaced by another snapshot just now has none to give.)
            let paxos = node.paxos.as_ref();
            let has = paxos.is_some_and(|it| it.base().slot <= node.through);
            **peer != member && linked && has && node.through >= at_least
        });
        match source.map(|(peer, node)| (*peer, node.through)) {
            Some((peer, slot)) => {
                let base = self.base_at(peer, slot);
                self.install(member, base).expect("taken");
            }
            None => self.at(
                5 * MS,
                Event::Fetched {
                    member,
                    boot,
                    at_least,
                },
            ),
        }
    }

    /// Starts a member; its connections come up as if nobody looked at the hellos.
    pub(crate) fn start_deaf_to_hellos(&mut self, member: MemberId) {
        let others: Vec<MemberId> = self
            .members()
            .into_iter()
            .filter(|it| *it != member)
            .collect();
        for peer in &others {
            self.cut(member.0, peer.0);
        }
        self.without_hellos = true;
        self.start(member);
        self.without_hellos = false;
        self.cuts.clear();
        for peer in others {
            for (one, two) in [(member, peer), (peer, member)] {
                let now = self.now(one);
                for lane in [Lane::Heartbeat, Lane::Log, Lane::Bulk] {
                    self.with_paxos(one, |paxos| paxos.handle_connection(now, two, lane, true));
                }
                self.drain(one);
            }
        }
    }

    /// Apply goes on from a snapshot, which holds what was chosen and nothing else (I4, I6).
    pub(super) fn restore(&mut self, member: MemberId, base: &Base) {
        let node = self.nodes.get_mut(&member).expect("a member");
        let durable = node.disk.durable();
        assert_eq!(
            durable.base.as_ref(),
            Some(base),
            "I7: installed before its sync"
        );
        assert!(base.slot > node.through, "apply never goes back");
        let chosen = &self.history[&base.slot];
        assert_eq!((chosen.ballot, chosen.time), (base.ballot, base.time), "I4");
        node.applied = self
            .history
            .range(..=base.slot)
            .map(|(slot, entry)| (*slot, entry.clone()))
            .collect();
        node.through = base.slot;
        node.installed.push(base.slot);
        self.installed += 1;
        if node.applies
            && let Some(paxos) = &mut node.paxos
        {
            paxos.handle_applied(base.slot);
        }
    }

    /// Voters of a group at protocol 1 whose programs do not speak another yet.
    pub(crate) fn rolling(members: usize, settings: Settings) -> Self {
        let mut genesis = genesis(&vec![Role::Voter; members], Quorums::Majority);
        genesis.protocol = 1;
        let new = settings.protocol_max;
        let mut net = Self::of(
            genesis,
            Settings {
                protocol_max: 1,
                ..settings
            },
        );
        net.settings.protocol_max = new;
        net.programs = net.members().into_iter().map(|it| (it, 1)).collect();
        net
    }
}
