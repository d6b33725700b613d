//! Snapshots as the executor has them taken and put back.

use super::divergence::Mark;
use super::*;

/// Keeps the states of a [`TestApp`], as far as the tests look at them.
#[derive(Clone, Default)]
struct TestStates {
    shared: Arc<Kept>,
}

#[derive(Default)]
struct Kept {
    latest: Mutex<Option<Bytes>>,
    /// What was asked for, in words.
    asked: Mutex<Vec<String>>,
    /// The next job waits until it may go on.
    hold: AtomicBool,
    go_on: Notify,
    fails: AtomicBool,
    applied: Mutex<Option<Slot>>,
    take_limit: Mutex<Option<Duration>>,
}

impl TestStates {
    fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }

    fn note(&self, what: String) {
        self.shared.asked.lock().unwrap().push(what);
    }

    async fn begun(&self, what: &str) {
        let begun = async {
            while !self.asked().iter().any(|it| it == what) {
                tokio::task::yield_now().await;
            }
        };
        soon(begun).await;
    }

    async fn work(&self, what: String) -> Result<(), StateError> {
        self.note(what);
        if self.shared.hold.swap(false, Ordering::SeqCst) {
            self.shared.go_on.notified().await;
        }
        if self.shared.fails.swap(false, Ordering::SeqCst) {
            return Err(StateError("as the test wants".into()));
        }
        Ok(())
    }
}

impl States for TestStates {
    fn latest(&self) -> Option<Bytes> {
        self.shared.latest.lock().unwrap().clone()
    }

    async fn restore(self: Arc<Self>, slot: Slot, to: Instance) -> Result<(), RestoreError> {
        let done = self.work(format!("restore {slot} to {to}")).await;
        done.map_err(|StateError(error)| RestoreError::Begun(error))
    }

    async fn restore_volume(self: Arc<Self>, slot: Slot) -> Result<(), StateError> {
        self.work(format!("put {slot} back")).await
    }

    async fn ask_applied(self: Arc<Self>, instance: Instance) -> Option<Slot> {
        self.note(format!("ask {instance}"));
        *self.shared.applied.lock().unwrap()
    }

    async fn take(self: Arc<Self>, take: Take) -> Result<(), StateError> {
        let Take {
            slot,
            instance,
            tables,
        } = take;
        let tables = tables.save();
        assert_eq!(Fold::load(&tables).unwrap().admitted(), slot);
        self.work(format!("take {slot} of {instance}")).await?;
        *self.shared.latest.lock().unwrap() = Some(tables);
        Ok(())
    }

    fn take_limit(&self) -> Option<Duration> {
        *self.shared.take_limit.lock().unwrap()
    }

    fn void(&self, slot: Slot) {
        self.note(format!("void {slot}"));
    }

    fn void_since(&self, slot: Slot) {
        self.note(format!("void since {slot}"));
    }

    fn settle(&self, slot: Slot, good: bool) {
        self.note(format!("settle {slot} {good}"));
    }
}

impl Process {
    fn with_states(data: &Path, log: &Log, app: &TestApp, states: &TestStates) -> Self {
        Self::with_volume(StateType::Ephemeral, data, log, app, states)
    }

    fn with_volume(
        state: StateType,
        data: &Path,
        log: &Log,
        app: &TestApp,
        states: &TestStates,
    ) -> Self {
        let process = Self::start_with(data, log, app.clone(), (state, states.clone()));
        process.feed().begin(beginning());
        process.feed().chosen(log.last(), Vec::new());
        process
    }

    async fn executes(&self, sequences: std::ops::RangeInclusive<u64>) {
        for sequence in sequences {
            self.choose(sequence, &request());
            self.answered(sequence).await;
        }
    }
}

/// The tables at the end of the log, and their slot.
fn tables(log: &Log) -> Fold {
    let mut fold = Fold::new(beginning().configuration, 2, beginning().policy);
    for entry in log.entries.lock().unwrap().iter() {
        fold.admit(entry);
    }
    fold
}

#[tokio::test]
async fn a_snapshot_is_taken_between_two_requests_and_an_app_that_starts_is_given_it() {
    let data = tempfile::tempdir().unwrap();
    let (log, app, states) = (Log::default(), TestApp::default(), TestStates::default());
    let process = Process::with_states(data.path(), &log, &app, &states);
    app.listen(7);
    process.executes(1..=2).await;
    states.shared.hold.store(true, Ordering::SeqCst);
    let mut taken = Box::pin(process.handle.take_snapshot());
    assert!((&mut taken).now_or_never().is_none());
    states.begun("take 2 of 7").await;
    process.choose(3, &request());
    process.status(|status| status.admitted == Slot(3)).await;
    assert_eq!(app.executed(), [(7, 1), (7, 2)], "it waits");
    assert!(process.handle.status().borrow().serving, "reads go on");
    assert_eq!(process.handle.waiting_on().unwrap().on, "snapshot");
    let again = process.handle.take_snapshot().await;
    assert_eq!(again, Err(NotTaken::NotNow));
    states.shared.go_on.notify_one();
    assert_eq!(soon(taken).await, Ok(Slot(2)));
    process.answered(3).await;
    assert_eq!(states.asked(), ["take 2 of 7", "settle 2 true"]);

    let fold = Fold::load(&states.latest().unwrap()).unwrap();
    process.handle.snapshot_available(Some(fold)).await;
    process.status(|status| status.not_needed == Slot(2)).await;
    log.compact(Slot(2));
    app.listen(8);
    process.status(|status| status.app_starts == 2).await;
    process
        .status(|status| status.serving && status.applied == Slot(3))
        .await;
    assert_eq!(app.executed()[3..], [(8, 3)]);
    assert_eq!(states.asked()[2..], ["restore 2 to 8"]);
    process.shut_down().await;
}

#[tokio::test]
async fn a_process_begins_behind_the_newest_snapshot() {
    let data = tempfile::tempdir().unwrap();
    let (log, app, states) = (Log::default(), TestApp::default(), TestStates::default());
    let process = Process::with_states(data.path(), &log, &app, &states);
    app.listen(7);
    process.executes(1..=2).await;
    assert_eq!(process.handle.take_snapshot().await, Ok(Slot(2)));
    process.executes(3..=3).await;
    process.kill().await;
    log.compact(Slot(2));

    let process = Process::with_states(data.path(), &log, &app, &states);
    process.status(|status| status.serving).await;
    assert_eq!(process.answered(3).await.outcome, Outcome::Executed);
    let before = process.answered(2).await;
    assert_eq!(before.outcome, Outcome::Elsewhere, "others may know it");
    process.executes(4..=4).await;
    assert_eq!(app.executed(), [(7, 1), (7, 2), (7, 3), (7, 4)]);
    process.shut_down().await;

    *states.shared.latest.lock().unwrap() = Some(Bytes::from_static(b"damaged"));
    let process = Process::with_states(data.path(), &log, &app, &states);
    let ended = soon(process.task).await.unwrap();
    assert!(matches!(ended, Err(ApplyError::Tables(_))), "{ended:?}");
}

#[tokio::test]
async fn who_waits_for_what_a_snapshot_came_for_is_told_before_its_time_is() {
    let data = tempfile::tempdir().unwrap();
    let (log, app, states) = (Log::default(), TestApp::default(), TestStates::default());
    let process = Process::with_states(data.path(), &log, &app, &states);
    app.listen(7);
    process.executes(1..=1).await;
    // Chosen, but not seen here.
    log.append(CommandKind::REQUEST, 2, request().encode_to_vec());
    let mut waits = Box::pin(process.handle.answer(id(2)));
    let mut other = Box::pin(process.handle.answer(id(3)));
    assert!((&mut waits).now_or_never().is_none());
    assert!((&mut other).now_or_never().is_none());
    process.handle.snapshot_available(Some(tables(&log))).await;
    let answer = waits.now_or_never().expect("it was told already");
    assert_eq!(answer.outcome, Outcome::Elsewhere);
    log.compact(Slot(2));
    let status = process.status(|status| status.condemned.is_some()).await;
    assert_eq!((status.admitted, status.time), (Slot(2), AgreedTime(2)));
    app.listen(8);
    process.choose(3, &request());
    assert_eq!(soon(other).await.slot, Slot(3));
    assert_eq!(app.executed(), [(7, 1), (8, 3)]);
    assert_eq!(states.asked(), ["restore 2 to 8"]);
    process.shut_down().await;
}

#[tokio::test]
async fn a_snapshot_of_an_app_that_was_started_anew_meanwhile_does_not_count() {
    let data = tempfile::tempdir().unwrap();
    let (log, app, states) = (Log::default(), TestApp::default(), TestStates::default());
    let process = Process::with_states(data.path(), &log, &app, &states);
    app.listen(7);
    process.executes(1..=1).await;
    states.shared.hold.store(true, Ordering::SeqCst);
    let mut taken = Box::pin(process.handle.take_snapshot());
    assert!((&mut taken).now_or_never().is_none());
    states.begun("take 1 of 7").await;
    app.listen(8);
    states.shared.go_on.notify_one();
    assert_eq!(soon(taken).await, Err(NotTaken::Void));
    assert!(!states.asked().contains(&"settle 1 true".to_owned()));
    process.status(|status| status.applied == Slot(1)).await;
    states.shared.fails.store(true, Ordering::SeqCst);
    process.executes(2..=2).await;
    let taken = process.handle.take_snapshot().await;
    assert_eq!(taken, Err(NotTaken::Failed("as the test wants".into())));
    process.executes(3..=3).await;
    process.shut_down().await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_may_take_as_long_as_its_own_limit_says() {
    let data = tempfile::tempdir().unwrap();
    let (log, app, states) = (Log::default(), TestApp::default(), TestStates::default());
    let process = Process::with_states(data.path(), &log, &app, &states);
    app.listen(7);
    process.executes(1..=1).await;
    let limit = Duration::from_secs(1_800);
    *states.shared.take_limit.lock().unwrap() = Some(limit);
    for (takes, in_time) in [(limit, true), (2 * limit, false)] {
        states.shared.hold.store(true, Ordering::SeqCst);
        let handle = process.handle.clone();
        let taken = tokio::spawn(async move { handle.take_snapshot().await });
        tokio::time::sleep(takes).await;
        states.shared.go_on.notify_waiters();
        let expected = if in_time {
            Ok(Slot(1))
        } else {
            Err(NotTaken::TooLong)
        };
        assert_eq!(taken.await.unwrap(), expected);
    }
    process.shut_down().await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_never_ends_does_not_hold_the_service_up_for_ever() {
    let data = tempfile::tempdir().unwrap();
    let (log, app, states) = (Log::default(), TestApp::default(), TestStates::default());
    let process = Process::with_states(data.path(), &log, &app, &states);
    app.listen(7);
    process.executes(1..=1).await;
    states.shared.hold.store(true, Ordering::SeqCst);
    assert_eq!(process.handle.take_snapshot().await, Err(NotTaken::TooLong));
    process.executes(2..=2).await;
    assert_eq!(states.asked(), ["take 1 of 7"]);
    process.shut_down().await;
}

#[tokio::test]
async fn a_restore_that_breaks_off_has_the_app_stopped() {
    let data = tempfile::tempdir().unwrap();
    let (log, app, states) = (Log::default(), TestApp::default(), TestStates::default());
    log.append(CommandKind::REQUEST, 1, request().encode_to_vec());
    *states.shared.latest.lock().unwrap() = Some(tables(&log).save());
    states.shared.fails.store(true, Ordering::SeqCst);
    let process = Process::with_states(data.path(), &log, &app, &states);
    app.listen(7);
    process.status(|status| status.condemned.is_some()).await;
    app.listen(8);
    process.status(|status| status.serving).await;
    assert_eq!(states.asked(), ["restore 1 to 7", "restore 1 to 8"]);
    process.executes(2..=2).await;
    assert_eq!(app.executed(), [(8, 2)]);
    process.shut_down().await;
}

#[tokio::test]
async fn a_volume_is_put_back_while_no_app_runs_and_the_next_app_goes_on_from_there() {
    let data = tempfile::tempdir().unwrap();
    let (log, app, states) = (Log::default(), TestApp::default(), TestStates::default());
    let state = StateType::Volume(UncleanCrash::Rollback);
    let process = Process::with_volume(state, data.path(), &log, &app, &states);
    states.begun("put 0 back").await;
    process.status(|status| status.rollback.is_none()).await;
    app.listen(7);
    process.executes(1..=2).await;
    app.on_next(Next::BreakOff);
    process.choose(3, &request());
    let status = process.status(|status| status.condemned.is_some()).await;
    assert_eq!(status.rollback, Some(Slot(0)));
    assert_eq!(states.asked(), ["put 0 back"], "not while the app runs");
    app.listen(0);
    process.status(|status| status.rollback.is_none()).await;
    assert_eq!(states.asked(), ["put 0 back", "put 0 back"]);
    app.listen(8);
    process.answered(3).await;
    let executed = [(7, 1), (7, 2), (8, 1), (8, 2), (8, 3)];
    assert_eq!(app.executed(), executed);
    process.shut_down().await;
}

#[tokio::test]
async fn an_app_that_says_what_it_has_goes_on_from_there() {
    let data = tempfile::tempdir().unwrap();
    let (log, app, states) = (Log::default(), TestApp::default(), TestStates::default());
    let state = StateType::Volume(UncleanCrash::AppliedHeader);
    *states.shared.applied.lock().unwrap() = Some(Slot(0));
    let process = Process::with_volume(state, data.path(), &log, &app, &states);
    // Seen not to run first, so that it is known to be new.
    process.status(|status| status.app_absent).await;
    app.listen(7);
    process.executes(1..=3).await;
    *states.shared.applied.lock().unwrap() = Some(Slot(2));
    app.listen(8);
    process.status(|status| status.app_starts == 2).await;
    process
        .status(|status| status.serving && status.applied == Slot(3))
        .await;
    assert_eq!(app.executed()[3..], [(8, 3)]);
    assert_eq!(states.asked(), ["ask 7", "ask 8"]);
    process.shut_down().await;
}

#[tokio::test]
async fn what_each_slot_was_answered_is_digested_and_a_copy_that_differs_is_made_anew() {
    let data = tempfile::tempdir().unwrap();
    let (log, app) = (Log::default(), TestApp::default());
    let process = Process::begun(data.path(), &log, app.clone());
    app.listen(7);
    for sequence in 1..=3 {
        process.choose(sequence, &request());
        process.answered(sequence).await;
    }
    let compare = async |word: Word| process.handle.compare(&word, 10).await.unwrap();
    let batch = loop {
        let batch = compare(Word::default()).await;
        if batch.through == Slot(3) {
            break batch;
        }
        tokio::task::yield_now().await;
    };
    let slots: Vec<u64> = batch.digests.iter().map(|(slot, _)| slot.0).collect();
    assert_eq!(slots, [1, 2, 3]);
    assert_ne!(
        batch.digests[0].1, batch.digests[1].1,
        "it answers its slot"
    );
    let release = Word {
        lineage: batch.lineage,
        verified: Slot(2),
        release: Slot(2),
        ..Word::default()
    };
    assert_eq!(compare(release).await.digests.len(), 1);
    let verified = *process.handle.verified().borrow();
    assert!(verified.covers(Instance(NonZeroU64::new(7).unwrap()), Slot(2)));
    let mark = Some(Mark {
        slot: Slot(3),
        route: String::new(),
        part: digests::Part::Body,
        measure: divergence::OnDivergence::Quarantine,
        tie: None,
    });
    let astray = Word {
        lineage: batch.lineage,
        mark: mark.clone(),
        ..Word::default()
    };
    assert_eq!(compare(astray.clone()).await.mark, mark);
    process.status(|status| status.condemned.is_some()).await;
    app.listen(8);
    process.status(|status| status.serving).await;
    assert_eq!(app.executed()[3..], [(8, 1), (8, 2), (8, 3)]);
    let again = compare(astray).await;
    assert_ne!(again.lineage, batch.lineage);
    assert_eq!(again.mark, None, "that was the one before");
    assert!(process.handle.status().borrow().serving);
    process.shut_down().await;
}
