//! What has a member come to each of its points, and which member that is.

use synod_failpoint::Point;

use super::State;

/// What has to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Provocation {
    /// What clients ask for is enough, with the snapshots that are due.
    Traffic,
    /// Segments of the log are filled.
    FullSegments,
    /// The sidecar starts.
    Start,
    /// It starts while a request is at the app.
    StartInFlight,
    /// The app starts.
    AppStart,
    /// The app ends while it has a request.
    AppEnd,
    /// Another member leads.
    HandOver,
    /// A member begins anew.
    Replacement,
    /// A request is the end of every copy.
    Poison,
}

/// Who comes to a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// Whoever it is.
    Anybody,
    /// Who leads.
    Leader,
    /// Who does not.
    Follower,
    /// Who is to lead next, or begins anew.
    Subject,
    /// Who does not lead, now or next, and does not begin anew.
    Bystander,
}

/// How a point is reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    pub(super) provocation: Provocation,
    pub(super) who: Who,
    /// Most hits at which it is worth while to die.
    pub(super) hits: u64,
    /// The app may die there in place of the sidecar.
    pub(super) app: bool,
    /// Where the app keeps its state, if that matters.
    pub(super) states: &'static [State],
}

const ALL: &[State] = &[State::Memory, State::RolledBack, State::Applied];
const MEMORY: &[State] = &[State::Memory];
const ROLLED_BACK: &[State] = &[State::RolledBack];
const APPLIED: &[State] = &[State::Applied];
const VOLUME: &[State] = &[State::RolledBack, State::Applied];

const fn way(provocation: Provocation, who: Who, hits: u64) -> Way {
    Way {
        provocation,
        who,
        hits,
        app: false,
        states: ALL,
    }
}

// === impl Way ===

impl Way {
    const fn or_app(self) -> Self {
        Self { app: true, ..self }
    }

    const fn with(self, states: &'static [State]) -> Self {
        Self { states, ..self }
    }

    /// Of each point there is.
    pub(super) fn to(point: Point) -> Self {
        use Provocation::{
            AppEnd, AppStart, FullSegments, HandOver, Poison, Replacement, Start, StartInFlight,
            Traffic,
        };
        use Who::{Anybody, Bystander, Follower, Leader, Subject};
        match point {
            Point::WalBeforeWrite
            | Point::WalRecordsWritten
            | Point::WalBeforeSync
            | Point::WalAfterSync
            | Point::WalBeforeTold
            | Point::NodeBeforePersist
            | Point::NodeAfterPersist
            | Point::NodeBeforeSynced
            | Point::NodeAfterSynced
            | Point::NodeFrameTaken
            | Point::NodeBeforeChosen
            | Point::NodeAfterChosen => way(Traffic, Anybody, 60),
            Point::NodeBeforeAccept => way(Traffic, Leader, 60),
            Point::NodeBeforeAccepted => way(Traffic, Follower, 60),
            Point::ApplyBeforeLedger
            | Point::ApplyAfterLedger
            | Point::ApplyBeforeSend
            | Point::AppBytesSent
            | Point::AppResponseBegun
            | Point::AppResponsePiece
            | Point::ApplyResponded
            | Point::ApplyBeforeAnswer
            | Point::ApplyAfterAnswer => way(Traffic, Anybody, 60).or_app(),
            Point::WalBeforeCompact
            | Point::WalAfterCompact
            | Point::NodeBeforeCompact
            | Point::SnapshotTold
            | Point::SnapshotBeforeMark
            | Point::SnapshotMarkRenamed
            | Point::SnapshotMarked
            | Point::SnapshotRemoved => way(Traffic, Anybody, 1),
            // Members take turns; who leads makes none.
            Point::ApplyBeforeTake
            | Point::ApplyTaken
            | Point::SnapshotFrozen
            | Point::SnapshotFileMade
            | Point::SnapshotChunkWritten => way(Traffic, Follower, 2).or_app(),
            Point::SnapshotBeforeSync
            | Point::SnapshotSynced
            | Point::SnapshotReadBack
            | Point::SnapshotRenamed
            | Point::SnapshotStored => way(Traffic, Follower, 2),
            Point::SnapshotVolumeStaged | Point::SnapshotVolumePacked => {
                way(Traffic, Follower, 2).or_app().with(VOLUME)
            }
            Point::WalBeforeSpare
            | Point::WalAfterSpare
            | Point::WalSegmentPaged
            | Point::WalSegmentRenamed
            | Point::WalSegmentBegun
            | Point::WalBeforeBeginning
            | Point::WalBeginningHalf
            | Point::WalAfterBeginning
            | Point::WalFileRemoved
            | Point::WalFileWritten
            | Point::WalSegmentRemoved
            | Point::WalReleased => way(FullSegments, Anybody, 2),
            Point::RecoveryLocked
            | Point::RecoveryRead
            | Point::RecoveryRewritten
            | Point::RecoveryCounted
            | Point::RecoveryBegun
            | Point::StartIdentity
            | Point::StartKeeper
            | Point::StartNode => way(Start, Anybody, 1),
            Point::ApplyStopsApp => way(StartInFlight, Anybody, 1),
            Point::WalBeforePromise
            | Point::WalAfterPromise
            | Point::WalBeforeAdopt
            | Point::WalAfterAdopt
            | Point::WalBeforeState
            | Point::WalStateHalf
            | Point::WalAfterState
            | Point::NodeLeaderChanged => way(HandOver, Anybody, 2),
            Point::WalBeforeStage | Point::WalAfterStage => way(HandOver, Anybody, 1),
            Point::NodeBeforeTransfer => way(HandOver, Leader, 1),
            Point::NodeBeforePrepare | Point::NodeBeforeAcceptSync => way(HandOver, Subject, 1),
            Point::NodeBeforePromise => way(HandOver, Bystander, 1),
            Point::NodeStopSignProposed => way(Replacement, Leader, 2),
            Point::WalBeforeEnter | Point::WalAfterEnter | Point::NodeEpochChanged => {
                way(Replacement, Bystander, 2)
            }
            Point::SnapshotOffered | Point::SnapshotPieceSent => way(Replacement, Bystander, 1),
            Point::LogStateMade
            | Point::LogMade
            | Point::JoinRead
            | Point::JoinWritten
            | Point::WalGenesisCopied
            | Point::WalBeforeJoin
            | Point::WalAfterJoin
            | Point::WalBeforeInstall
            | Point::WalAfterInstall
            | Point::NodeBeforeInstall
            | Point::NodeInstalled
            | Point::ApplyJumped
            | Point::FetchBegun
            | Point::FetchPieceWritten
            | Point::FetchComplete
            | Point::FetchStored => way(Replacement, Subject, 1),
            Point::AppConnected => way(AppStart, Anybody, 1),
            Point::ApplyUnknown => way(AppEnd, Anybody, 1),
            Point::GateOpening => way(AppStart, Anybody, 1).with(VOLUME),
            Point::ApplyBeforeRestore
            | Point::ApplyRestored
            | Point::RestoreBegun
            | Point::RestorePieceRead
            | Point::RestoreAnswered => way(AppStart, Anybody, 1).with(MEMORY),
            Point::ApplyBeforeVolume
            | Point::ApplyVolumeRestored
            | Point::VolumeUnpacked
            | Point::VolumeRoomMade
            | Point::VolumeNoted
            | Point::VolumeEntryMoved
            | Point::VolumeSynced
            | Point::VolumeNoteRemoved
            | Point::VolumeDone => way(AppStart, Anybody, 1).with(ROLLED_BACK),
            Point::ApplyAppliedTold => way(AppStart, Anybody, 1).with(APPLIED),
            Point::NodeSkipProposed => way(Poison, Leader, 1),
            Point::ApplySkipped
            | Point::PromiseMade
            | Point::PromiseWritten
            | Point::PromiseRenamed
            | Point::PromiseSaved => way(Poison, Anybody, 1),
        }
    }
}
