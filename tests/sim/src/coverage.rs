//! What a run has to have seen of changing members, and of what becomes of copies, before it proves
//! anything about them.

/// Something that must happen now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Sight {
    /// A change of the configuration was chosen.
    Changes,
    /// It added a member.
    Added,
    /// It made an observer a voter.
    Promoted,
    /// It took a member's vote.
    Demoted,
    /// It added a witness.
    Witnesses,
    /// It removed a member.
    Removed,
    /// It removed, or took the vote of, the leader that proposed it.
    LeadersRemoved,
    /// It put an observer in the place of a voter whose disk is lost.
    Replaced,
    /// It changed the quorums only.
    Requorums,
    /// It named no first leader.
    NoFirstLeader,
    /// The first leader that it named, another than its proposer, proposed without phase 1.
    FirstLeaders,
    /// A member that came later began.
    Joined,
    /// And got there by a snapshot.
    JoinedBySnapshot,
    /// A log went on behind a snapshot of a later epoch than its own.
    InstalledAcrossEpochs,
    /// A disk was lost for good.
    DisksLost,
    /// A member that was told of its removal stayed for a while.
    ToldRemoved,
    /// A removed member was thrown away, as the core allows.
    ThrownAway,
    /// A request computed from an epoch that is over was refused.
    StaleRefused,
    /// A request while another was under way was refused.
    SecondRefused,
    /// A vote for a member that has not caught up was refused.
    UncaughtRefused,
    /// Two new voters at once were refused.
    TwoVotersRefused,
    /// To make a copy a witness, or a witness a copy, was refused.
    WitnessRefused,
    /// To leave too few copies that have the log beside witnesses was refused.
    FewCopiesRefused,
    /// A number or an incarnation for the second time was refused.
    ReuseRefused,
    /// Voters that are not heard were refused.
    UnheardRefused,
    /// A configuration that cannot be was refused.
    InvalidRefused,
    /// Whoever does not lead refused.
    FollowersRefused,
    /// A change was chosen while a member was down.
    AmidCrash,
    /// While one was paused.
    AmidPause,
    /// While a path was cut.
    AmidCut,
    /// While a disk was full.
    AmidFullDisk,
    /// While an entry could not be read.
    AmidRot,
    /// While clocks were being set.
    AmidClocks,
    /// While a snapshot was on its way.
    AmidInstall,
    /// While a member had not entered the epoch before.
    AmidLaggard,
    /// A request was poison.
    Poisons,
    /// The app hung.
    Hung,
    /// The app died before a request was sent.
    AppDiedBeforeSend,
    /// While it had come in part.
    AppDiedInPart,
    /// When it was executed.
    AppDiedExecuted,
    /// When it was answered, before that was noted.
    AppDiedAnswered,
    /// A request could not be sent.
    NotSent,
    /// Nobody could tell what became of a request.
    Ambiguous,
    /// The sidecar died before it wrote the ledger.
    DiedBeforeLedger,
    /// Before it sent a request, as the ledger says.
    DiedBeforeSend,
    /// Before the response was there.
    DiedBeforeResponse,
    /// Before it told an answer.
    DiedBeforeAnswer,
    /// Before it began another job.
    DiedBeforeJob,
    /// While a snapshot was taken.
    DiedTaking,
    /// While it was stored.
    DiedStoring,
    /// While one was fetched.
    DiedFetching,
    /// A ledger was damaged.
    LedgersDamaged,
    /// An app started before it should.
    StartedEarly,
    /// A snapshot was taken.
    SnapshotsTaken,
    /// None could be, just then.
    SnapshotsNotNow,
    /// One was given up.
    SnapshotsGivenUp,
    /// One took too long.
    SnapshotsOverdue,
    /// A majority had executed what one contains.
    SnapshotsCompared,
    /// One was used without.
    SnapshotsUnverified,
    /// A majority has vouched for one, where copies are compared.
    SnapshotsVerified,
    /// One was used there without that: those that could object were away.
    SnapshotsUndisputed,
    /// One could be compared no more.
    SnapshotsUncomparable,
    /// The leader got a follower's.
    SnapshotsCopied,
    /// A copy begins behind one that it has passed.
    SnapshotsUsed,
    /// A copy went on from one that was ahead.
    SnapshotsJumped,
    /// One contained what is skipped.
    SnapshotsVoid,
    /// One was damaged.
    SnapshotsRotten,
    /// What a copy begins with was not there any more.
    BasesLost,
    /// What it begins with was void, and another took its place.
    BasesReplaced,
    /// A state was being put into an app.
    RestoresBegun,
    /// It was.
    Restored,
    /// It was not.
    RestoresFailed,
    /// The sidecar died meanwhile.
    RestoresHalf,
    /// A volume was put back.
    VolumesBack,
    /// The sidecar died meanwhile.
    VolumesHalf,
    /// A copy went on from what its app said.
    Claimed,
    /// The app was ahead of what its member knew to be chosen.
    ClaimsAhead,
    /// A leader asked about a slot.
    Asks,
    /// A member had executed it.
    AnsweredApplied,
    /// Had sent it.
    AnsweredFailed,
    /// Had not sent it.
    AnsweredHeld,
    /// Did not know.
    AnsweredUnknown,
    /// Had nothing to say.
    AnsweredNothing,
    /// An ask ended without a skip.
    Frees,
    /// A promise was kept over a restart.
    PromisesKept,
    /// A copy was helped past a slot by another's state.
    HelpedPast,
    /// A slot was skipped that nobody executed.
    Skips,
    /// One that somebody may have executed.
    SkipsUnsure,
    /// A person gave up a request.
    Words,
    /// One of a copy that has gone astray was thrown away.
    SnapshotsAstray,
    /// A copy has gone astray.
    WentAstray,
    /// The comparison has found one that differs from a majority.
    OddOnesFound,
    /// It was taken out.
    TakenOut,
    /// It was made anew.
    MadeAnew,
    /// No majority has agreed.
    Ties,
    /// A person has replaced a copy.
    Mended,
    /// What differs on all copies was found to be noise.
    NoiseFound,
    /// Another revision of the app has taken over at once.
    Switches,
    /// And all copies run it.
    SwitchesDone,
    /// It was taken back before.
    SwitchesTakenBack,
    /// Another revision is to run along.
    Rolls,
    /// A copy was given to it.
    RunsAlong,
    /// The state that it begins with was asked for.
    BarriersSaved,
    /// It has taken over.
    RollsDone,
    /// On a person's word.
    RollsDoneInSpite,
    /// It was found to answer otherwise.
    RollsDisagree,
    /// So it has not taken over.
    RollsRefused,
    /// It was taken back.
    RollsTakenBack,
}

impl Sight {
    const COUNT: usize = Self::RollsTakenBack as usize + 1;
    const ALL: [Self; Self::COUNT] = [
        Self::Changes,
        Self::Added,
        Self::Promoted,
        Self::Demoted,
        Self::Witnesses,
        Self::Removed,
        Self::LeadersRemoved,
        Self::Replaced,
        Self::Requorums,
        Self::NoFirstLeader,
        Self::FirstLeaders,
        Self::Joined,
        Self::JoinedBySnapshot,
        Self::InstalledAcrossEpochs,
        Self::DisksLost,
        Self::ToldRemoved,
        Self::ThrownAway,
        Self::StaleRefused,
        Self::SecondRefused,
        Self::UncaughtRefused,
        Self::TwoVotersRefused,
        Self::WitnessRefused,
        Self::FewCopiesRefused,
        Self::ReuseRefused,
        Self::UnheardRefused,
        Self::InvalidRefused,
        Self::FollowersRefused,
        Self::AmidCrash,
        Self::AmidPause,
        Self::AmidCut,
        Self::AmidFullDisk,
        Self::AmidRot,
        Self::AmidClocks,
        Self::AmidInstall,
        Self::AmidLaggard,
        Self::Poisons,
        Self::Hung,
        Self::AppDiedBeforeSend,
        Self::AppDiedInPart,
        Self::AppDiedExecuted,
        Self::AppDiedAnswered,
        Self::NotSent,
        Self::Ambiguous,
        Self::DiedBeforeLedger,
        Self::DiedBeforeSend,
        Self::DiedBeforeResponse,
        Self::DiedBeforeAnswer,
        Self::DiedBeforeJob,
        Self::DiedTaking,
        Self::DiedStoring,
        Self::DiedFetching,
        Self::LedgersDamaged,
        Self::StartedEarly,
        Self::SnapshotsTaken,
        Self::SnapshotsNotNow,
        Self::SnapshotsGivenUp,
        Self::SnapshotsOverdue,
        Self::SnapshotsCompared,
        Self::SnapshotsUnverified,
        Self::SnapshotsVerified,
        Self::SnapshotsUndisputed,
        Self::SnapshotsUncomparable,
        Self::SnapshotsCopied,
        Self::SnapshotsUsed,
        Self::SnapshotsJumped,
        Self::SnapshotsVoid,
        Self::SnapshotsRotten,
        Self::BasesLost,
        Self::BasesReplaced,
        Self::RestoresBegun,
        Self::Restored,
        Self::RestoresFailed,
        Self::RestoresHalf,
        Self::VolumesBack,
        Self::VolumesHalf,
        Self::Claimed,
        Self::ClaimsAhead,
        Self::Asks,
        Self::AnsweredApplied,
        Self::AnsweredFailed,
        Self::AnsweredHeld,
        Self::AnsweredUnknown,
        Self::AnsweredNothing,
        Self::Frees,
        Self::PromisesKept,
        Self::HelpedPast,
        Self::Skips,
        Self::SkipsUnsure,
        Self::Words,
        Self::SnapshotsAstray,
        Self::WentAstray,
        Self::OddOnesFound,
        Self::TakenOut,
        Self::MadeAnew,
        Self::Ties,
        Self::Mended,
        Self::NoiseFound,
        Self::Switches,
        Self::SwitchesDone,
        Self::SwitchesTakenBack,
        Self::Rolls,
        Self::RunsAlong,
        Self::BarriersSaved,
        Self::RollsDone,
        Self::RollsDoneInSpite,
        Self::RollsDisagree,
        Self::RollsRefused,
        Self::RollsTakenBack,
    ];
}

// === impl Sight ===

impl Sight {
    /// It takes thousands of seeds.
    pub fn is_rare(self) -> bool {
        matches!(self, Self::SnapshotsVoid | Self::Mended)
    }
}

/// How often each was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coverage([u64; Sight::COUNT]);

// === impl Coverage ===

impl Default for Coverage {
    fn default() -> Self {
        Self([0; Sight::COUNT])
    }
}

impl Coverage {
    pub(crate) fn saw(&mut self, sight: Sight) {
        self.0[sight as usize] += 1;
    }

    /// How often this was seen.
    pub fn count(&self, sight: Sight) -> u64 {
        self.0[sight as usize]
    }

    /// Takes in what another run saw.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }

    /// What was never seen.
    pub fn missing(&self) -> impl Iterator<Item = Sight> + '_ {
        let all = Sight::ALL.into_iter();
        all.filter(|sight| self.count(*sight) == 0)
    }

    /// All counts by name.
    pub fn all(&self) -> impl Iterator<Item = (Sight, u64)> + '_ {
        Sight::ALL
            .into_iter()
            .map(|sight| (sight, self.count(sight)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sight_has_a_count_of_its_own() {
        let mut coverage = Coverage::default();
        for (at, sight) in Sight::ALL.into_iter().enumerate() {
            assert_eq!(sight as usize, at);
            assert_eq!(coverage.missing().next(), Some(sight));
            coverage.saw(sight);
        }
        assert_eq!(coverage.missing().next(), None);
        let mut sum = coverage;
        sum.add(&coverage);
        assert!(sum.all().all(|(_, count)| count == 2));
    }
}
