//! Swarm testing (Groce et al., ISSTA 2012): the parameters themselves are drawn per seed, so that
//! each run is harsh in its own way and many leave a kind of fault out altogether.

use synod_paxos::{Quorums, Settings};

use crate::compared::Compared;
use crate::dice::Dice;
use crate::membership::MembershipSwarm;
use crate::placement::Placement;
use crate::service::Service;

const MS: u64 = 1_000_000;
const S: u64 = 1_000 * MS;

/// A fault that is built in on purpose, to prove that the checks see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Plant {
    /// An honest run.
    #[default]
    None,
    /// Disks report syncs that they did not do.
    LyingDisk,
    /// One member hands a changed entry to its app.
    TamperedCommit,
    /// Reads do not wait for their index.
    StaleRead,
    /// One member's app executes a request twice.
    DoubleExecution,
    /// Messages leave before the write they depend on is synced.
    EarlySend,
    /// A client is told of success when its command was only proposed.
    EarlyAnswer,
    /// Where copies are compared, snapshots are used whatever came of that.
    Unverified,
    /// Clients get what a revision of the app has answered that runs along silently.
    SilentAnswers,
}

/// What goes wrong now and then all the time, and can be left out of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Trouble {
    /// Messages come again, late.
    Duplicates,
    /// Streams break.
    BrokenStreams,
    /// Single messages take much longer.
    Stragglers,
    /// Single syncs take much longer.
    SlowSyncs,
    /// Single requests take the app much longer.
    SlowApps,
    /// Apps close connections before they have answered.
    LostConnections,
    /// Entries turn out to be damaged when a member starts.
    LostEntries,
    /// Clocks run at speeds of their own.
    Drift,
}

/// How the network behaves.
#[derive(Clone, Debug)]
pub(crate) struct NetworkSwarm {
    pub(crate) delay_low_ns: u64,
    pub(crate) delay_high_ns: u64,
    /// Chance that one message takes much longer.
    pub(crate) straggler: f64,
    pub(crate) straggler_ns: u64,
    pub(crate) spike_ns: u64,
    /// Chance, per message, that its stream breaks.
    pub(crate) break_chance: f64,
    /// Chance, per message, that a late copy turns up.
    pub(crate) duplicate: f64,
    pub(crate) reconnect_ns: u64,
}

/// Mean times between faults of one kind over the whole group, in nanoseconds; `None`: never.
#[derive(Clone, Debug)]
pub(crate) struct FaultSwarm {
    pub(crate) crash: Option<u64>,
    pub(crate) crash_all: Option<u64>,
    pub(crate) pause: Option<u64>,
    pub(crate) cut: Option<u64>,
    pub(crate) partition: Option<u64>,
    pub(crate) spike: Option<u64>,
    pub(crate) clock_jump: Option<u64>,
    pub(crate) app_kill: Option<u64>,
    pub(crate) disk_full: Option<u64>,
    pub(crate) transfer: Option<u64>,
    /// Mean length of a fault that ends by itself.
    pub(crate) length_ns: u64,
    /// Chance that the whole machine dies, not only the process.
    pub(crate) machine: f64,
    /// Chance, per start, that some entries of the log have lost their bodies.
    pub(crate) spoil: f64,
}

/// Everything that one seed decides before its first event.
#[derive(Clone, Debug)]
pub struct Swarm {
    /// The seed.
    pub seed: u64,
    /// Voters that the group begins with.
    pub members: usize,
    /// Those of them, the last ones, that run no app.
    pub(crate) witnesses: usize,
    /// How its members change; `None`: never.
    pub(crate) membership: Option<MembershipSwarm>,
    /// What is built in on purpose.
    pub plant: Plant,
    pub(crate) network: NetworkSwarm,
    pub(crate) faults: FaultSwarm,
    pub(crate) safety_ns: u64,
    pub(crate) liveness_ns: u64,
    pub(crate) clients: usize,
    pub(crate) think_ns: u64,
    pub(crate) client_timeout_ns: u64,
    pub(crate) read_share: f64,
    pub(crate) key_share: f64,
    /// Of the writes with a key, those that are sent through two members at once.
    pub(crate) twin_share: f64,
    pub(crate) body_low: u64,
    pub(crate) body_high: u64,
    pub(crate) registers: u64,
    pub(crate) sync_low_ns: u64,
    pub(crate) sync_high_ns: u64,
    pub(crate) slow_sync: f64,
    pub(crate) app_ns: u64,
    pub(crate) app_slow: f64,
    pub(crate) app_slow_ns: u64,
    pub(crate) app_start_ns: u64,
    pub(crate) app_loses_connection: f64,
    pub(crate) drift_ppm: u64,
    pub(crate) wall_skew_ns: u64,
    /// Members whose wall clocks are set now and then, the first of all: a minority, or everybody.
    pub(crate) stepped: usize,
    pub(crate) expires_ns: u64,
    pub(crate) quorums: Quorums,
    pub(crate) placement: Placement,
    pub(crate) service: Service,
    /// Copies are compared; `None`: who has executed the most is believed.
    pub(crate) compared: Option<Compared>,
    /// Slots from one snapshot of a member to its next; 0: none are made, and logs are kept whole.
    pub(crate) snapshot_slots: u64,
    /// In the safety phase this member's disk is slower than the log grows.
    pub(crate) laggard: Option<usize>,
    /// So many members end with the safety phase and do not come back.
    pub(crate) absent: usize,
    pub(crate) settings: Settings,
}

// === impl Swarm ===

impl Swarm {
    /// Draws the parameters of a seed.
    pub fn new(seed: u64, plant: Plant) -> Self {
        let dice = &mut Dice::new(seed ^ 0x5eed_0000_5eed);
        let members = [1, 2, 3, 3, 3, 3, 4, 5, 5, 5, 6, 7][dice.pick(12)];
        let calm = dice.chance(0.1);
        // Half of the seeds pack much into little time, half see long stretches of rare events, in
        // which timeouts, expiry and what grows without bound have their say.
        let pace = if dice.chance(0.5) { 1 } else { 20 };
        let network = draw_network(dice, calm);
        let sync_low_ns = dice.log_range(20_000, 5 * MS);
        let app_ns = dice.log_range(20_000, 5 * MS);
        let safety_ns = dice.log_range(10 * S, 60 * S) * pace;
        let own = &mut Dice::new(seed ^ 0x7365_7276_6963_6500);
        let service = Service::draw(own, safety_ns, !calm);
        let mut swarm = Self {
            seed,
            members,
            witnesses: draw_witnesses(seed, members),
            membership: None,
            plant,
            faults: draw_faults(dice, calm, pace),
            safety_ns,
            liveness_ns: 120 * S,
            clients: dice.range(1, 8) as usize,
            think_ns: dice.log_range(MS * pace, S * pace),
            client_timeout_ns: dice.log_range(200 * MS, 10 * S),
            read_share: [0.0, 0.3, 0.5, 0.9][dice.pick(4)],
            key_share: [0.0, 0.3, 1.0][dice.pick(3)],
            twin_share: [0.0, 0.0, 0.2][dice.pick(3)],
            body_low: 0,
            body_high: dice.log_range(1, 8 << 10),
            registers: dice.log_range(1, 32),
            sync_low_ns,
            sync_high_ns: sync_low_ns * dice.range(1, 10),
            slow_sync: sometimes(dice, calm, 0.4, 1e-3, 2e-2),
            app_ns,
            app_slow: sometimes(dice, calm, 0.3, 1e-3, 1e-2),
            app_slow_ns: dice.log_range(10 * MS, 3 * S),
            app_start_ns: dice.log_range(10 * MS, 2 * S),
            app_loses_connection: sometimes(dice, calm, 0.3, 1e-5, 1e-3),
            drift_ppm: dice.range(0, 900),
            wall_skew_ns: dice.log_range(1, 3_600 * S),
            expires_ns: dice.log_range(2 * S, 60 * S),
            quorums: draw_quorums(dice, members as u32),
            settings: draw_settings(dice, pace),
            stepped: [(members - 1) / 2, members][dice.pick(2)],
            placement: Placement::draw(dice, members),
            absent: 0,
            snapshot_slots: 0,
            laggard: None,
            compared: None,
            service,
            network,
        };
        // What is lost on one disk may be on one other only.
        if swarm.faults.spoil == 0.0 && dice.chance(0.5) {
            swarm.absent = draw_absent(dice, &swarm);
        }
        if dice.chance(0.1) {
            swarm.crowd(dice);
        }
        if dice.chance(0.7) {
            swarm.snapshot_slots = dice.log_range(5, 2_000);
        }
        swarm.change_members();
        swarm.compare_copies(!calm);
        swarm
    }

    /// A run that differs in nothing else, as far as that can be.
    pub(crate) fn leave_out(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Duplicates => self.network.duplicate = 0.0,
            Trouble::BrokenStreams => self.network.break_chance = 0.0,
            Trouble::Stragglers => self.network.straggler = 0.0,
            Trouble::SlowSyncs => self.slow_sync = 0.0,
            Trouble::SlowApps => self.app_slow = 0.0,
            Trouble::LostConnections => self.app_loses_connection = 0.0,
            Trouble::LostEntries => self.faults.spoil = 0.0,
            Trouble::Drift => self.drift_ppm = 0,
        }
    }

    /// From dice of its own, too.
    fn compare_copies(&mut self, harsh: bool) {
        let dice = &mut Dice::new(self.seed ^ 0x636f_7069_6573);
        let snapshots = self.snapshot_slots > 0;
        self.compared = Compared::draw(dice, self.safety_ns, harsh, snapshots);
        let Some(compared) = &self.compared else {
            return;
        };
        if compared.odd_every_ns.is_some() || compared.revising.is_some() {
            // Who is away for good can neither say what it has answered nor run another revision.
            self.absent = 0;
        }
        if compared.revising.is_some() {
            self.settings.protocol_max = self.settings.protocol_max.max(3);
        }
    }

    /// Drawn from dice of its own: a seed whose members never change is the same without all this.
    fn change_members(&mut self) {
        let dice = &mut Dice::new(self.seed ^ 0x6d65_6d62_6572);
        let Some(membership) = MembershipSwarm::draw(dice, self) else {
            return;
        };
        self.placement.grow(dice, membership.spares);
        // Whoever is a minority now may be a majority later.
        self.stepped = [0, self.members + membership.spares][dice.pick(2)];
        self.absent = 0;
        // Who comes later asks for the log page by page.
        self.settings.max_message_bytes = self.settings.max_message_bytes.max(64 << 10);
        let burst = self.settings.largest_burst_bytes();
        self.settings.queue_bytes = self.settings.queue_bytes.max(burst);
        self.membership = Some(membership);
    }

    /// Machines that there are, or will be.
    pub(crate) fn machines(&self) -> usize {
        self.members + self.membership.as_ref().map_or(0, |it| it.spares)
    }

    /// Far more work comes in than goes through while a leader is missed: what waits at one entrance
    /// is more than any queue between members holds.
    fn crowd(&mut self, dice: &mut Dice) {
        self.clients = dice.range(30, 60) as usize;
        self.think_ns = dice.log_range(MS, 50 * MS);
        self.client_timeout_ns = dice.log_range(100 * MS, 500 * MS);
        self.read_share = 0.0;
        self.body_low = 2 << 10;
        self.body_high = 12 << 10;
        self.safety_ns = self.safety_ns.min(20 * S);
        if dice.chance(0.5) {
            let preferences = self.placement.preferences.iter().enumerate();
            self.laggard = preferences.max_by_key(|(_, it)| **it).map(|(it, _)| it);
        }
        let window_bytes = dice.log_range(64 << 10, 256 << 10);
        let settings = Settings {
            window_bytes,
            total_window_bytes: dice.log_range(window_bytes, 1 << 20),
            max_pending_bytes: dice.log_range(1 << 20, 4 << 20),
            max_pending_commands: 1_000,
            ..self.settings.clone()
        };
        self.settings = Settings {
            queue_bytes: settings.largest_burst_bytes(),
            ..settings
        };
    }
}

pub(crate) fn draw_quorums(dice: &mut Dice, voters: u32) -> Quorums {
    if dice.chance(0.7) {
        return Quorums::Majority;
    }
    let phase2 = dice.range(1, u64::from(voters)) as u32;
    Quorums::Flexible {
        phase1: voters + 1 - phase2,
        phase2,
    }
}

/// A minority, in some groups of three and more. Drawn from dice of its own.
fn draw_witnesses(seed: u64, members: usize) -> usize {
    let dice = &mut Dice::new(seed ^ 0x7769_746e_6573_7300);
    let most = (members - 1) / 2;
    if most == 0 || !dice.chance(0.3) {
        return 0;
    }
    dice.range(1, most as u64) as usize
}

fn draw_absent(dice: &mut Dice, swarm: &Swarm) -> usize {
    let needed = match swarm.quorums {
        Quorums::Majority => swarm.members / 2 + 1,
        Quorums::Flexible { phase1, phase2 } => phase1.max(phase2) as usize,
    };
    dice.range(0, (swarm.members - needed) as u64) as usize
}

fn draw_settings(dice: &mut Dice, pace: u64) -> Settings {
    let max_body_bytes = 16 << 10;
    let window_bytes = dice.log_range(64 << 10, 4 << 20);
    let shortest_ns = if pace > 1 { 300 * MS } else { 50 * MS };
    let min_election_timeout_ns = dice.log_range(shortest_ns, S);
    let election_timeout_ns = dice.log_range(min_election_timeout_ns, 2 * S);
    let settings = Settings {
        window_bytes,
        total_window_bytes: dice.log_range(window_bytes, 8 << 20),
        max_message_bytes: dice.log_range(1, 256 << 10),
        max_body_bytes,
        max_pending_bytes: dice.log_range(64 << 10, 4 << 20),
        max_pending_commands: dice.log_range(1, 1_000) as u32,
        max_pending_reads: dice.log_range(1, 1_000) as u32,
        cache_bytes: dice.log_range(1, 1 << 20),
        max_persists: dice.range(1, 8) as u32,
        election_timeout_ns,
        min_election_timeout_ns,
        max_election_timeout_ns: dice.log_range(election_timeout_ns, 5 * S),
        ..Settings::default()
    };
    let burst = settings.largest_burst_bytes();
    Settings {
        queue_bytes: dice.log_range(burst, 2 * burst),
        ..settings
    }
}

fn draw_network(dice: &mut Dice, calm: bool) -> NetworkSwarm {
    let delay_low_ns = dice.log_range(50_000, 20 * MS);
    NetworkSwarm {
        delay_low_ns,
        delay_high_ns: dice.log_range(delay_low_ns, (delay_low_ns * 10).min(100 * MS)),
        straggler: sometimes(dice, calm, 0.5, 1e-3, 0.1),
        straggler_ns: dice.log_range(MS, 500 * MS),
        spike_ns: dice.log_range(10 * MS, 2 * S),
        break_chance: sometimes(dice, calm, 0.5, 1e-5, 1e-2),
        duplicate: sometimes(dice, calm, 0.4, 1e-3, 0.5),
        reconnect_ns: dice.log_range(MS, 300 * MS),
    }
}

fn draw_faults(dice: &mut Dice, calm: bool, pace: u64) -> FaultSwarm {
    let mut mean = |low: u64, high: u64| {
        let on = !calm && dice.chance(0.6);
        let mean = dice.log_range(low, high) * pace;
        on.then_some(mean)
    };
    FaultSwarm {
        crash: mean(S, 30 * S),
        crash_all: mean(10 * S, 120 * S),
        pause: mean(S, 30 * S),
        cut: mean(S, 30 * S),
        partition: mean(2 * S, 40 * S),
        spike: mean(2 * S, 40 * S),
        clock_jump: mean(2 * S, 40 * S),
        app_kill: mean(2 * S, 40 * S),
        disk_full: mean(5 * S, 60 * S),
        transfer: mean(S, 30 * S),
        length_ns: dice.log_range(50 * MS, 8 * S * pace.min(4)),
        machine: [0.0, 0.5, 1.0][dice.pick(3)],
        spoil: if calm {
            0.0
        } else {
            [0.0, 0.3, 1.0][dice.pick(3)]
        },
    }
}

/// Off in some seeds, in the others a rate drawn between the two.
fn sometimes(dice: &mut Dice, calm: bool, on: f64, low: f64, high: f64) -> f64 {
    let on = dice.chance(on);
    let rate = dice.log_range((low * 1e9) as u64, (high * 1e9) as u64) as f64 / 1e9;
    if on && !calm { rate } else { 0.0 }
}
