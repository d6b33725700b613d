//! What a seed draws about copies that are compared: whether one goes astray now and then, whether all draw
//! lots, and which revisions of the app come.

use crate::dice::Dice;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Compared {
    /// Mean time between two requests that one copy answers otherwise, in nanoseconds.
    pub(crate) odd_every_ns: Option<u64>,
    /// Each copy draws something for each answer.
    pub(crate) noisy: bool,
    pub(crate) revising: Option<Revising>,
}

/// Which revisions come.
#[derive(Clone, Debug)]
pub(crate) struct Revising {
    /// Mean time between two that somebody wants, in nanoseconds.
    pub(crate) every_ns: u64,
    /// Share of those that run along silently first.
    pub(crate) rolling: f64,
    /// Chance, each time that one has not taken over, that it is taken back.
    pub(crate) takes_back: f64,
    /// And that a person has it take over.
    pub(crate) in_spite: f64,
    /// So many of a thousand answer some requests with another status class.
    pub(crate) refuses: u64,
}

// === impl Compared ===

impl Compared {
    /// For a run whose safety phase lasts so long.
    pub(crate) fn draw(
        dice: &mut Dice,
        safety_ns: u64,
        harsh: bool,
        snapshots: bool,
    ) -> Option<Self> {
        let on = dice.chance(0.35);
        let noisy = dice.chance(0.25);
        let odd = dice.chance(0.6) && harsh;
        let odd_every_ns = safety_ns / dice.log_range(1, 12);
        let revises = dice.chance(0.6);
        let revising = Revising {
            every_ns: safety_ns / dice.log_range(2, 12),
            rolling: [0.0, 0.5, 1.0, 1.0][dice.pick(4)],
            takes_back: [0.05, 0.3][dice.pick(2)],
            in_spite: [0.0, 0.1][dice.pick(2)],
            refuses: [0, 300, 600][dice.pick(3)],
        };
        // A state that is to be handed on must be vouched for, which noise may prevent.
        let revises = revises && snapshots && !noisy;
        let drawn = Self {
            odd_every_ns: odd.then_some(odd_every_ns),
            noisy,
            revising: revises.then_some(revising),
        };
        on.then_some(drawn)
    }
}
