//! The points. Names say place and step; `before` and `after` are those of the step itself. Behind the name
//! of one that can fail stands how the system says so there.

/// A device does not do what it should: whatever reads, writes or syncs.
const EIO: i32 = 5;
/// There is no room: whatever makes files longer.
const ENOSPC: i32 = 28;
/// The other side has ended a connection.
const ECONNRESET: i32 = 104;

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident = $name:literal $(fails $error:ident)?,)*) => {
        /// A step of a member at which tests may interfere.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Point {
            $($(#[$doc])* $point,)*
        }

        impl Point {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$point,)*];

            /// Its name, by which it is armed.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$point => $name,)*
                }
            }

            /// The number of the system's error that what comes next may end with; `None`: it cannot fail.
            pub(crate) const fn error(self) -> Option<i32> {
                match self {
                    $($(Self::$point => Some($error),)?)*
                    _ => None,
                }
            }

            /// It may be armed to fail: [`crate::check`] stands there.
            pub const fn can_fail(self) -> bool {
                self.error().is_some()
            }
        }
    };
}

points! {
    /// A batch of records is about to be written.
    WalBeforeWrite = "wal-before-write" fails EIO,
    /// The records are written, the second copies of their headers are not.
    WalRecordsWritten = "wal-records-written" fails EIO,
    /// All of it is written, nothing is synced.
    WalBeforeSync = "wal-before-sync" fails EIO,
    /// It is synced, and nobody knows.
    WalAfterSync = "wal-after-sync",
    /// Who waits for the sync is about to be told.
    WalBeforeTold = "wal-before-told",
    /// A promise is among the records that are about to be written.
    WalBeforePromise = "wal-before-promise",
    /// It is synced in the log, not in the copies of the state.
    WalAfterPromise = "wal-after-promise",
    /// Staged entries are about to be written.
    WalBeforeStage = "wal-before-stage",
    /// They are synced.
    WalAfterStage = "wal-after-stage",
    /// An adoption (rule L1a) is about to be written.
    WalBeforeAdopt = "wal-before-adopt",
    /// It is synced in the log, not in the copies of the state.
    WalAfterAdopt = "wal-after-adopt",
    /// The entry into an epoch (rule M1) is about to be written.
    WalBeforeEnter = "wal-before-enter",
    /// It is synced in the log, not in the copies of the state.
    WalAfterEnter = "wal-after-enter",
    /// That the log begins behind a snapshot is about to be written.
    WalBeforeCompact = "wal-before-compact",
    /// It is synced; nothing is removed yet.
    WalAfterCompact = "wal-after-compact",
    /// That a snapshot stands in place of the log is about to be written.
    WalBeforeInstall = "wal-before-install",
    /// It is synced.
    WalAfterInstall = "wal-after-install",
    /// How a new member is in the group is about to be written.
    WalBeforeJoin = "wal-before-join",
    /// It is synced.
    WalAfterJoin = "wal-after-join",
    /// The second copy of the genesis is there, its record is not.
    WalGenesisCopied = "wal-genesis-copied",
    /// The copies of the state are about to be written.
    WalBeforeState = "wal-before-state" fails EIO,
    /// One of the two is synced.
    WalStateHalf = "wal-state-half" fails EIO,
    /// Both are.
    WalAfterState = "wal-after-state",
    /// A file of zeros is about to be made.
    WalBeforeSpare = "wal-before-spare" fails ENOSPC,
    /// It is there, and nobody knows.
    WalAfterSpare = "wal-after-spare",
    /// The file of zeros has the pages of a segment, and its old name.
    WalSegmentPaged = "wal-segment-paged" fails EIO,
    /// It has its new name, which is not synced.
    WalSegmentRenamed = "wal-segment-renamed" fails EIO,
    /// It is synced, and nothing is written to it.
    WalSegmentBegun = "wal-segment-begun",
    /// Where the log begins is about to be written.
    WalBeforeBeginning = "wal-before-beginning" fails ENOSPC,
    /// One of its two copies is there.
    WalBeginningHalf = "wal-beginning-half" fails EIO,
    /// Both are; the segments before it are still there.
    WalAfterBeginning = "wal-after-beginning",
    /// The old one of a small file is removed, the new one is not there.
    WalFileRemoved = "wal-file-removed" fails ENOSPC,
    /// The new one is synced, its name is not.
    WalFileWritten = "wal-file-written" fails EIO,
    /// The file of a segment is removed, which is not synced.
    WalSegmentRemoved = "wal-segment-removed" fails EIO,
    /// All that are not needed are gone.
    WalReleased = "wal-released",

    /// A new log has the copies of its state, and no segment.
    LogStateMade = "log-state-made",
    /// It has a segment, and its start is not counted.
    LogMade = "log-made",
    /// The log is taken for this process; nothing of it is read.
    RecoveryLocked = "recovery-locked",
    /// The log is read; nothing is written.
    RecoveryRead = "recovery-read" fails EIO,
    /// The last batch is written once more.
    RecoveryRewritten = "recovery-rewritten",
    /// The start is counted in the copies of the state, not in the log.
    RecoveryCounted = "recovery-counted",
    /// It is in the log too.
    RecoveryBegun = "recovery-begun",

    /// The certificates are read; nothing on the disk is.
    StartIdentity = "start-identity",
    /// Snapshots and the app's volume are looked through.
    StartKeeper = "start-keeper",
    /// The agreement is about to begin.
    StartNode = "start-node",
    /// What lets a new member into the group is read; nothing of it is in the log.
    JoinRead = "join-read",
    /// It is in the log, and nothing has begun.
    JoinWritten = "join-written",

    /// Records are about to go to the log's thread.
    NodeBeforePersist = "node-before-persist",
    /// They have.
    NodeAfterPersist = "node-after-persist",
    /// The agreement is about to hear what is synced.
    NodeBeforeSynced = "node-before-synced",
    /// It has, and what waited for that has left.
    NodeAfterSynced = "node-after-synced",
    /// A prepare is about to leave.
    NodeBeforePrepare = "node-before-prepare",
    /// A promise is about to leave.
    NodeBeforePromise = "node-before-promise",
    /// What a follower is to adopt is about to leave.
    NodeBeforeAcceptSync = "node-before-accept-sync",
    /// New entries are about to leave.
    NodeBeforeAccept = "node-before-accept",
    /// That they are accepted is about to leave.
    NodeBeforeAccepted = "node-before-accepted",
    /// A frame was given to its connection.
    NodeFrameTaken = "node-frame-taken",
    /// Apply is about to hear what is chosen.
    NodeBeforeChosen = "node-before-chosen",
    /// It has.
    NodeAfterChosen = "node-after-chosen",
    /// Another leader is followed.
    NodeLeaderChanged = "node-leader-changed",
    /// The leader is about to hand over.
    NodeBeforeTransfer = "node-before-transfer",
    /// Other members are proposed.
    NodeStopSignProposed = "node-stop-sign-proposed",
    /// Other members are in force.
    NodeEpochChanged = "node-epoch-changed",
    /// The log is about to be cut behind a snapshot.
    NodeBeforeCompact = "node-before-compact",
    /// The log is about to go on behind a snapshot.
    NodeBeforeInstall = "node-before-install",
    /// It does.
    NodeInstalled = "node-installed",
    /// That nobody executes a slot is proposed.
    NodeSkipProposed = "node-skip-proposed",

    /// The ledger is about to be written.
    ApplyBeforeLedger = "apply-before-ledger" fails EIO,
    /// It is.
    ApplyAfterLedger = "apply-after-ledger",
    /// A request is in the ledger, and no byte of it has left.
    ApplyBeforeSend = "apply-before-send",
    /// There is a connection for it.
    AppConnected = "app-connected" fails ECONNRESET,
    /// Bytes have left for the app.
    AppBytesSent = "app-bytes-sent" fails ECONNRESET,
    /// The head of a response is there.
    AppResponseBegun = "app-response-begun",
    /// A piece of its body is.
    AppResponsePiece = "app-response-piece",
    /// The response is whole, and nothing is noted.
    ApplyResponded = "apply-responded",
    /// A request has no whole response, and nothing is noted.
    ApplyUnknown = "apply-unknown",
    /// Whoever waits is about to be answered.
    ApplyBeforeAnswer = "apply-before-answer",
    /// And is.
    ApplyAfterAnswer = "apply-after-answer",
    /// The app is about to be stopped.
    ApplyStopsApp = "apply-stops-app",
    /// A snapshot of the copy is about to be taken.
    ApplyBeforeTake = "apply-before-take",
    /// It was, and is nobody's yet.
    ApplyTaken = "apply-taken",
    /// The app is about to be given a state.
    ApplyBeforeRestore = "apply-before-restore",
    /// It has it, and nothing is noted.
    ApplyRestored = "apply-restored",
    /// The app's volume is about to be put back.
    ApplyBeforeVolume = "apply-before-volume",
    /// It is, and nothing is noted.
    ApplyVolumeRestored = "apply-volume-restored",
    /// The app has said which slot its state contains.
    ApplyAppliedTold = "apply-applied-told",
    /// Apply has gone on behind a snapshot.
    ApplyJumped = "apply-jumped",
    /// It was learnt that nobody executes a slot.
    ApplySkipped = "apply-skipped",
    /// The leader's question (rule K1) is answered, and nothing of that is on disk.
    PromiseMade = "promise-made",
    /// Promises are synced beside the old ones.
    PromiseWritten = "promise-written" fails EIO,
    /// They are in place of these, which is not synced.
    PromiseRenamed = "promise-renamed" fails EIO,
    /// It is; the leader is about to be told.
    PromiseSaved = "promise-saved",

    /// What a snapshot is of is known, and the app stands still.
    SnapshotFrozen = "snapshot-frozen",
    /// Its file is there, and empty.
    SnapshotFileMade = "snapshot-file-made" fails ENOSPC,
    /// A piece of the state is in it.
    SnapshotChunkWritten = "snapshot-chunk-written" fails ENOSPC,
    /// All of it is.
    SnapshotBeforeSync = "snapshot-before-sync" fails EIO,
    /// It is synced.
    SnapshotSynced = "snapshot-synced",
    /// It was read back.
    SnapshotReadBack = "snapshot-read-back",
    /// It has its name, which is not synced.
    SnapshotRenamed = "snapshot-renamed" fails EIO,
    /// It is one of the store's.
    SnapshotStored = "snapshot-stored",
    /// What is known of its slots is about to be noted.
    SnapshotBeforeMark = "snapshot-before-mark" fails ENOSPC,
    /// It is, which is not synced.
    SnapshotMarkRenamed = "snapshot-mark-renamed" fails EIO,
    /// It is synced.
    SnapshotMarked = "snapshot-marked",
    /// One is removed, its mark is not.
    SnapshotRemoved = "snapshot-removed" fails EIO,
    /// The volume is looked at, and copied if that takes no time.
    SnapshotVolumeStaged = "snapshot-volume-staged",
    /// All of the volume is in the file.
    SnapshotVolumePacked = "snapshot-volume-packed",
    /// Another member is about to hear what is offered.
    SnapshotOffered = "snapshot-offered",
    /// A piece is about to leave for another member.
    SnapshotPieceSent = "snapshot-piece-sent",
    /// Apply is about to hear of one that may be used.
    SnapshotTold = "snapshot-told",

    /// Another member's snapshot is about to be asked for.
    FetchBegun = "fetch-begun",
    /// A piece of it is written down.
    FetchPieceWritten = "fetch-piece-written" fails ENOSPC,
    /// All of it is.
    FetchComplete = "fetch-complete",
    /// It is one of this store's, and its log does not go on behind it yet.
    FetchStored = "fetch-stored",
    /// The app is connected, and a state is about to be sent to it.
    RestoreBegun = "restore-begun",
    /// A piece of the state is read.
    RestorePieceRead = "restore-piece-read" fails EIO,
    /// The app has answered.
    RestoreAnswered = "restore-answered",
    /// The new content of the volume is beside the old.
    VolumeUnpacked = "volume-unpacked",
    /// The room for the old content is there, the note is not.
    VolumeRoomMade = "volume-room-made" fails ENOSPC,
    /// The note says that the volume is being changed; nothing is.
    VolumeNoted = "volume-noted",
    /// An entry is in its place.
    VolumeEntryMoved = "volume-entry-moved" fails EIO,
    /// All are, and synced; the note is there.
    VolumeSynced = "volume-synced" fails EIO,
    /// The note is gone, which is not synced.
    VolumeNoteRemoved = "volume-note-removed" fails EIO,
    /// All is done but tidying up.
    VolumeDone = "volume-done",
    /// The app is about to be let start.
    GateOpening = "gate-opening" fails EIO,
}
