//! The table. The rules are those that `tests/scenarios/README.md` names; the doc line of each mutant says
//! what is wrong with the code that has it.

macro_rules! mutants {
    ($(#[doc = $breaks:literal] $mutant:ident = ($rule:literal, $name:literal),)*) => {
        /// A bug in the code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mutant {
            $(#[doc = $breaks] $mutant,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$mutant,)*];

            /// The rule that it breaks.
            pub const fn rule(self) -> &'static str {
                match self {
                    $(Self::$mutant => $rule,)*
                }
            }

            /// Its name, by which it is selected.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$mutant => $name,)*
                }
            }

            /// What is wrong with the code that has it.
            pub const fn breaks(self) -> &'static str {
                match self {
                    $(Self::$mutant => $breaks.trim_ascii(),)*
                }
            }
        }
    };
}

impl Mutant {
    /// The one with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|it| it.name() == name)
    }
}

mutants! {
    // === the normal case ===

    /// A member votes for entries that are not on its disk.
    VoteBeforeSync = ("P1", "vote-before-sync"),
    /// The leader counts its own vote for entries that are not on its disk.
    OwnVoteBeforeOwnSync = ("P1", "own-vote-before-own-sync"),
    /// A Prepare leaves before the candidate's own promise is on its disk.
    PrepareBeforeSync = ("P1a", "prepare-before-sync"),
    /// A leader that was started anew goes on in its old ballot without a phase 1.
    LeadsOnAfterARestart = ("P1a", "leads-on-after-a-restart"),
    /// A promise leaves before it is on disk, or before the log that it tells of is.
    PromiseBeforeSync = ("P1b", "promise-before-sync"),
    /// Votes for an earlier ballot of the same leader count for its present one.
    VotesOfOldBallots = ("P1b", "votes-of-old-ballots"),
    /// Entries of a ballot below the promise are accepted.
    OldBallotsAreTaken = ("P1b", "old-ballots-are-taken"),
    /// A leader sends a follower that does not answer ever more.
    NoWindow = ("P3", "no-window"),
    /// A candidate needs one promise less than a phase-1 quorum.
    Phase1OfTooFew = ("P4", "phase1-of-too-few"),
    /// A leader commits with one vote less than a phase-2 quorum.
    Phase2OfTooFew = ("P4", "phase2-of-too-few"),
    /// Observers count in quorums.
    ObserversVote = ("P4", "observers-vote"),
    /// A leader stamps what its own wall clock reads.
    OneClockDecides = ("P5", "one-clock-decides"),
    /// A command of an earlier start of its entrance runs beside those of the newest.
    OldStartsRunAgain = ("P6", "old-starts-run-again"),
    /// A command below the floor of its entrance runs though it may have run before.
    FloorIsForgotten = ("P6", "floor-is-forgotten"),
    /// A request that was classified by an earlier policy runs.
    StaleClassesRun = ("P7", "stale-classes-run"),
    /// A policy takes the place of whatever is in force, not only of the one before it.
    PolicyByForce = ("P7", "policy-by-force"),
    /// Apply passes over an entry of a kind that it does not know.
    UnknownKindsArePassedOver = ("P8", "unknown-kinds-are-passed-over"),
    /// The protocol is raised though a member does not speak it.
    UpgradeBeforeAllCan = ("P8", "upgrade-before-all-can"),
    /// A program that does not speak the protocol in force is let in.
    OldProgramsAreHeard = ("P8", "old-programs-are-heard"),

    // === leader change ===

    /// The longest log is adopted, whatever ballot it was accepted in.
    LongestLogWins = ("L1", "longest-log-wins"),
    /// A candidate adopts its own log, whatever the promises tell.
    OwnLogWins = ("L1", "own-log-wins"),
    /// A member votes in a ballot whose log it has adopted, but not on its disk.
    VoteBeforeAdoptionIsSynced = ("L1a", "vote-before-adoption-is-synced"),
    /// A promise of a greater log leaves out what the candidate has slots for.
    SuffixFromTheLast = ("L1b", "suffix-from-the-last"),
    /// A follower of another log keeps what it has, and gets only what is behind it.
    TailIsKept = ("L1b", "tail-is-kept"),
    /// A higher promise leaves what was staged for a lower one.
    StagingOutlivesAPromise = ("L1b", "staging-outlives-a-promise"),
    /// A leader gives no log to who promises late.
    LatePromiseIsLeftAlone = ("L2", "late-promise-is-left-alone"),
    /// Commit goes to what is heard, also if that is less.
    CommitGoesDown = ("L2", "commit-goes-down"),
    /// A leader gives read indexes before an entry of its own is committed.
    FreshLeaderGivesIndexes = ("L3", "fresh-leader-gives-indexes"),
    /// A member takes a commit for its own though its log may hold another entry there.
    CommitWithoutTheEntry = ("L4", "commit-without-the-entry"),
    /// Entries go to apply before they are on this member's disk.
    UnsyncedSlotsApply = ("L4", "unsynced-slots-apply"),

    // === elections ===

    /// A member promises to whoever asks, though it hears a healthy leader.
    ReturningMemberDisturbs = ("E2", "returning-member-disturbs"),

    // === reads ===

    /// A leader gives read indexes without asking whether it still leads.
    IndexWithoutAProof = ("R1", "index-without-a-proof"),
    /// A read gets the index of a round that had begun before it came.
    IndexIsUsedAgain = ("R1", "index-is-used-again"),
    /// An answer to an earlier round confirms all rounds since.
    AnyRoundConfirms = ("R1", "any-round-confirms"),
    /// A leader gives read indexes while its epoch ends.
    ReadsBesideAStopSign = ("R1a", "reads-beside-a-stop-sign"),
    /// Reads go to the app while it executes a slot for the second time.
    ReadsDuringASecondAttempt = ("R6", "reads-during-a-second-attempt"),

    // === members ===

    /// A configuration takes effect when its entry is there, not when it is chosen.
    InForceOnAppend = ("M1", "in-force-on-append"),
    /// The first leader of an epoch leads without a phase 1 in a later life, too.
    FirstLeaderAfterARestart = ("M1", "first-leader-after-a-restart"),
    /// A leader proposes behind the stop-sign of its epoch.
    ProposalsBehindAStopSign = ("M1", "proposals-behind-a-stop-sign"),
    /// A change gives several members a vote at once.
    SeveralNewVoters = ("M2", "several-new-voters"),
    /// A change of members is taken whatever configuration it was computed from.
    ChangeByForce = ("M3", "change-by-force"),
    /// The number of a member that has left is given to another.
    NumbersAreUsedAgain = ("M4", "numbers-are-used-again"),
    /// A member that has forgotten what it acknowledged is let in.
    ForgetfulMembersVote = ("M4", "forgetful-members-vote"),
    /// A log of another incarnation starts as a member of the genesis.
    StrangerTakesAPlace = ("M5", "stranger-takes-a-place"),
    /// Who was left behind is let go before an entry of the new epoch is chosen.
    OldEpochRetiresEarly = ("M6", "old-epoch-retires-early"),
    /// Nobody helps a member of an earlier epoch out of it.
    StragglersAreLeftAlone = ("M6", "stragglers-are-left-alone"),

    // === the log on disk ===

    /// A start gets the number of the one before.
    StartIsNotCounted = ("W1", "start-is-not-counted"),
    /// A promise that only the copies of the state still have does not count.
    LostPromiseIsForgotten = ("W1", "lost-promise-is-forgotten"),
    /// A log that lacks an adoption starts, though the copies of the state know of it.
    LostAdoptionIsForgotten = ("W1", "lost-adoption-is-forgotten"),
    /// A member votes beyond an uncommitted entry that it cannot read.
    VoteBeyondRot = ("W2", "vote-beyond-rot"),
    /// A member promises as if its log ended before the first entry that it cannot read.
    RotEndsTheLog = ("W2", "rot-ends-the-log"),
    /// The last batch of a log is cut whatever its bad bytes are.
    RotIsCut = ("W2", "rot-is-cut"),
    /// A sync that failed is tried again, and counts if that works.
    FailedSyncIsTriedAgain = ("W3", "failed-sync-is-tried-again"),
    /// A start does not write the last batch again.
    LastBatchIsTrusted = ("W3", "last-batch-is-trusted"),
    /// Commands are taken though the disk is full.
    FullDiskTakesMore = ("W4", "full-disk-takes-more"),
    /// A witness forgets what a majority of the copies has in snapshots.
    MajorityOfCopiesIsEnough = ("W5", "majority-of-copies-is-enough"),
    /// A log is cut behind a snapshot though apply still reads what is before it.
    LogIsCutUnderApply = ("W5", "log-is-cut-under-apply"),

    // === apply ===

    /// A request is answered when it is sent to the app.
    AnswerBeforeExecution = ("A1", "answer-before-execution"),
    /// A repeat is answered though its first is not done.
    RepeatDoesNotWait = ("A1", "repeat-does-not-wait"),
    /// What the app is sent depends on the member.
    SeedOfTheMember = ("A2", "seed-of-the-member"),
    /// An app that keeps its state in memory counts as unchanged after a restart.
    RestartedAppGoesOn = ("A4", "restarted-app-goes-on"),
    /// A request is sent before the ledger says so.
    SentBeforeTheLedger = ("ledger", "sent-before-the-ledger"),
    /// A process that finds a slot in flight goes on as if it had not been sent.
    UnknownStateGoesOn = ("ledger", "unknown-state-goes-on"),
    /// A request whose connection broke is sent again to the same app.
    LostAnswerIsSentAgain = ("ledger", "lost-answer-is-sent-again"),
    /// A request that takes long counts as lost.
    SlowIsLost = ("ledger", "slow-is-lost"),

    // === exactly once ===

    /// A command runs once more for each copy of it that is chosen.
    IdsRunAgain = ("X1", "ids-run-again"),
    /// A snapshot has nothing of which commands took their turn.
    IdsAreNotInSnapshots = ("X1", "ids-are-not-in-snapshots"),
    /// A request under a key that was used runs again.
    RepeatRuns = ("X2", "repeat-runs"),
    /// A request under another user's key runs.
    KeyOfAnotherUser = ("X2", "key-of-another-user"),
    /// Another request under the same key runs.
    KeyForAnotherRequest = ("X2", "key-for-another-request"),
    /// A snapshot has nothing of the keys that were used.
    KeysAreNotInSnapshots = ("X2", "keys-are-not-in-snapshots"),
    /// A request that is admitted too late runs.
    ExpiredRuns = ("X3", "expired-runs"),

    // === poison ===

    /// A slot is skipped when one member has promised.
    OneAnswerIsEnough = ("K1", "one-answer-is-enough"),
    /// A member executes a slot that it has promised not to execute.
    PromisesAreBroken = ("K1", "promises-are-broken"),
    /// A member that has executed a slot says that it failed there.
    ExecutedIsToldAsFailed = ("K1", "executed-is-told-as-failed"),
    /// A process knows nothing of what the one before it has promised.
    PromisesAreForgotten = ("K1", "promises-are-forgotten"),
    /// What a copy has executed silently it keeps, though it promises not to execute it.
    SilentStateOutlivesPromise = ("K1", "silent-state-outlives-promise"),
    /// A slot that is skipped is executed all the same.
    SkippedSlotsRun = ("K2", "skipped-slots-run"),
    /// A copy begins behind a snapshot that contains a slot which is skipped.
    VoidSnapshotsAreUsed = ("K2", "void-snapshots-are-used"),
    /// A process executes before it knows what was chosen when it started.
    RunsBeforeTheLogIsKnown = ("K2", "runs-before-the-log-is-known"),
    /// A snapshot has nothing of what is skipped.
    SkipsAreNotInSnapshots = ("K2", "skips-are-not-in-snapshots"),

    // === copies ===

    /// A snapshot is used before its slots were compared.
    OpenCountsAsCompared = ("N2", "open-counts-as-compared"),
    /// What some copy has answered is right, whether a majority has answered so or not.
    AnyAnswerIsRight = ("N2", "any-answer-is-right"),

    // === revisions of the app ===

    /// A revision executes what follows its end.
    RunsBeyondItsEnd = ("V1", "runs-beyond-its-end"),
    /// A revision that runs along silently answers clients.
    SilentAnswers = ("V1", "silent-answers"),
    /// A revision begins with a state of another one from before its barrier.
    BeginsAnywhere = ("V1", "begins-anywhere"),
    /// A revision that answers otherwise takes over on nobody's word.
    DisagreementIsIgnored = ("V1", "disagreement-is-ignored"),
}
