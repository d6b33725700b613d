//! A leader that asks about a slot, and what a process knows before it executes anything.

use synod_proto::v1::Skip;
use tokio::sync::oneshot;

use super::*;

fn ask(slot: u64, number: u64) -> Ask {
    Ask {
        slot: Slot(slot),
        ballot: Ballot {
            epoch: Epoch(1),
            round: 7,
            node: MemberId(1),
        },
        number,
    }
}

fn promised(data: &Path) -> Vec<Ask> {
    let (_, found) = promises::Promises::open(data, Incarnation(1)).unwrap();
    found
}

fn skip_of(slot: u64) -> Vec<u8> {
    let skip = Skip {
        slot,
        member: 1,
        boot: 1,
        sequence: slot,
        unsure: true,
    };
    skip.encode_to_vec()
}

impl Process {
    async fn asked(&self, ask: Ask) -> Result<Option<Standing>, PromisesError> {
        soon(self.handle.ask(ask)).await.expect("it runs")
    }

    /// Has it chosen that nobody executes the slot.
    fn choose_skip(&self, slot: u64) {
        let entry = self.log.append(CommandKind::SKIP, 0, skip_of(slot));
        self.feed().chosen(entry.slot, vec![entry]);
    }
}

#[tokio::test]
async fn what_is_promised_is_on_disk_when_it_is_told_and_binds_the_next_process() {
    let data = tempfile::tempdir().unwrap();
    let (log, app) = (Log::default(), TestApp::default());
    let process = Process::begun(data.path(), &log, app.clone());
    app.listen(7);
    process.choose(1, &request());
    process.answered(1).await;
    let standing = process.asked(ask(2, 1)).await.unwrap();
    assert_eq!(standing, Some(Standing::Held));
    assert_eq!(promised(data.path()), [ask(2, 1)]);
    process.choose(2, &request());
    process.kill().await;

    let process = Process::begun(data.path(), &log, app.clone());
    process.status(|it| it.admitted == Slot(2)).await;
    let doubts = soon(process.handle.doubts()).await.unwrap();
    assert_eq!(doubts.promises, [ask(2, 1)]);
    assert_eq!(doubts.executed, Slot(1));
    assert_eq!(app.executed(), [(7, 1)]);
    soon(process.handle.free(ask(2, 1))).await.unwrap();
    process.answered(2).await;
    assert_eq!(app.executed(), [(7, 1), (7, 2)]);
    let kept = async {
        while !promised(data.path()).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(kept).await;
    process.shut_down().await;
}

#[tokio::test]
async fn what_cannot_be_noted_is_not_told_and_can_be_asked_again() {
    let data = tempfile::tempdir().unwrap();
    let (log, app) = (Log::default(), TestApp::default());
    let process = Process::begun(data.path(), &log, app);
    // In the way of what is written first.
    let in_the_way = data.path().join("promises.new");
    std::fs::create_dir(&in_the_way).unwrap();
    for number in [1, 1, 2] {
        let error = process.asked(ask(2, number)).await.unwrap_err();
        assert!(error.to_string().contains("promises"), "{error}");
    }
    std::fs::remove_dir(&in_the_way).unwrap();
    process.asked(ask(2, 2)).await.unwrap();
    assert_eq!(promised(data.path()), [ask(2, 2)]);
    process.shut_down().await;
}

#[tokio::test]
async fn promises_that_cannot_be_read_end_the_start() {
    let data = tempfile::tempdir().unwrap();
    std::fs::write(data.path().join("promises"), b"SYNP").unwrap();
    let (_sender, feed) = feed();
    let (_elsewhere, elsewhere) = watch::channel(Slot::ZERO);
    let started = start(Parts {
        data: data.path().to_path_buf(),
        incarnation: Incarnation(1),
        is_first: false,
        feed,
        log: Arc::new(Log::default()),
        elsewhere,
        proof: Box::pin(std::future::pending()),
        app: Arc::new(TestApp::default()),
        witness: false,
        state: StateType::Ephemeral,
        revision: Arc::new(|| Ok(0)),
        changes_in_place: true,
        states: Arc::new(NoSnapshots),
    });
    let error = started.map(drop).unwrap_err().to_string();
    assert!(error.contains("replace it"), "{error}");
}

#[tokio::test]
async fn nothing_is_executed_before_the_log_is_known_up_to_what_was_chosen_at_the_start() {
    let data = tempfile::tempdir().unwrap();
    let (log, app) = (Log::default(), TestApp::default());
    for sequence in 1..=3 {
        log.append(CommandKind::REQUEST, sequence, request().encode_to_vec());
    }
    log.append(CommandKind::SKIP, 0, skip_of(2));
    let (sender, feed) = feed();
    let (_elsewhere, elsewhere) = watch::channel(Slot::ZERO);
    let (proves, proof) = oneshot::channel();
    let (handle, task) = start(Parts {
        data: data.path().to_path_buf(),
        incarnation: Incarnation(1),
        is_first: false,
        feed,
        log: Arc::new(log.clone()),
        elsewhere,
        proof: Box::pin(async { proof.await.expect("it comes") }),
        app: Arc::new(app.clone()),
        witness: false,
        state: StateType::Ephemeral,
        revision: Arc::new(|| Ok(0)),
        changes_in_place: true,
        states: Arc::new(NoSnapshots),
    })
    .unwrap();
    app.listen(7);
    sender.begin(beginning());
    sender.chosen(Slot(3), Vec::new());
    let mut status = handle.status();
    soon(status.wait_for(|it| it.admitted == Slot(3) && it.app_starts == 1))
        .await
        .unwrap();
    let waits = async {
        while handle.waiting_on().is_none_or(|it| it.on != "quorum") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(waits).await;
    proves.send(Slot(4)).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(app.executed(), [], "it does not know slot 4 yet");
    sender.chosen(Slot(4), Vec::new());
    soon(handle.wait_applied(Slot(4))).await;
    assert_eq!(app.executed(), [(7, 1), (7, 3)]);
    drop(sender);
    soon(task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_skip_is_told_to_who_waits_who_asks_by_key_and_people() {
    let data = tempfile::tempdir().unwrap();
    let (log, app) = (Log::default(), TestApp::default());
    let process = Process::begun(data.path(), &log, app.clone());
    app.listen(7);
    process.status(|it| it.serving).await;
    app.on_next(Next::Hang);
    process.choose(1, &keyed("k"));
    process.status(|it| it.sent == Slot(1)).await;
    process.choose_skip(1);
    assert_eq!(process.answered(1).await.outcome, Outcome::Skipped);
    let outcome = process.handle.key_outcome("ann".into(), "k".into());
    let outcome = soon(outcome).await;
    let KeyOutcome::Known(answer) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!((answer.slot, answer.outcome), (Slot(1), Outcome::Skipped));
    let told = Skipped {
        slot: Slot(1),
        unsure: true,
    };
    assert_eq!(process.handle.skipped().borrow().last, [told]);
    process.shut_down().await;
}
