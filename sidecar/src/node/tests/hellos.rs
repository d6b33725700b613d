//! Who is let in, and what those are told that are not.

use std::io::Write;
use std::sync::{Arc, Mutex};

use synod_proto::v1::peer_client::PeerClient;
use tokio_stream::StreamExt;
use tonic::transport::Channel;

use super::*;

/// With the certificate of the second member, at the first.
async fn client_of_two(group: &Group) -> PeerClient<Channel> {
    let folder = group.folder.path().join("two");
    let files = group.authority.issue(&folder, &[names().member(&name(2))]);
    let address = group.table.borrow().address_of(&name(1)).expect("listed");
    let (own, there) = (Who::Member(name(2)), Who::Member(name(1)));
    let channel = crate::identity::connect(&files, &names(), own, &address, there).await;
    PeerClient::new(channel.expect("connects"))
}

/// The head of a hello on the lane of the log.
fn to(member: MemberId) -> wire::HelloHead {
    wire::HelloHead {
        lane: synod_paxos::Lane::Log,
        to: member,
    }
}

/// Whoever still has the address of a member that was replaced finds its successor there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_for_another_member_is_refused_and_ends_no_connection() {
    let mut group = Group::new();
    group.start(1).await;
    let mut client = client_of_two(&group).await;
    let hello = hello_of(&group, &group.genesis[&1].configuration.members[1]);
    let mut say = async |member| {
        let first = tokio_stream::once(wire::hello(&hello, to(MemberId(member))));
        let frames = first.chain(tokio_stream::pending());
        client
            .exchange(frames)
            .await
            .map(tonic::Response::into_inner)
    };

    let mut stream = say(1).await.expect("it is for this member");
    let first = stream.message().await.expect("open").expect("a hello");
    assert!(
        matches!(wire::read(first), Ok(wire::Frame::Hello(_, head)) if head == to(MemberId(2)))
    );
    let error = say(3).await.expect_err("it is for another");
    assert!(super::refusal::is_another(&error), "{error}");
    assert!(error.message().contains("member 1, \"notes-1\""), "{error}");
    let more = tokio::time::timeout(Duration::from_millis(300), stream.message()).await;
    assert!(more.is_err(), "the connection stays: {more:?}");

    // As those say it who do not know better.
    let _second = say(0).await.expect("it is for whoever is there");
    let end = stream.message().await.expect_err("the newest stays");
    assert_eq!(end.code(), tonic::Code::Aborted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_may_not_say_hello_or_send_messages_in_the_name_of_another() {
    let mut group = Group::new();
    group.start(1).await;
    let mut client = client_of_two(&group).await;

    let member = |id: u32| &group.genesis[&1].configuration.members[id as usize - 1];
    let hello = |name: String, id| {
        let hello = synod_paxos::Hello {
            name,
            ..hello_of(&group, member(id))
        };
        wire::hello(&hello, to(MemberId(0)))
    };
    for (name, id) in [(name(3), 3), (name(2), 3), (name(3), 2)] {
        let frames = tokio_stream::once(hello(name, id));
        let error = client.exchange(frames).await.expect_err("refused");
        assert_eq!(error.code(), tonic::Code::PermissionDenied, "{error}");
    }

    let head = wire::BatchHead {
        group: group.genesis[&1].group,
        from: MemberId(3),
        from_incarnation: member(3).incarnation,
        to_incarnation: member(1).incarnation,
        serving: false,
    };
    let frames = [hello(name(2), 2), wire::batch(head, vec![])];
    let answers = client.exchange(tokio_stream::iter(frames)).await;
    let mut answers = answers.expect("its own hello is taken").into_inner();
    answers.message().await.expect("hello").expect("hello");
    let error = answers.message().await.expect_err("refused");
    assert_eq!(error.code(), tonic::Code::PermissionDenied, "{error}");
}

pub(super) fn hello_of(group: &Group, member: &synod_paxos::Member) -> synod_paxos::Hello {
    synod_paxos::Hello {
        group: group.genesis[&1].group,
        member: member.id,
        name: member.name.clone(),
        incarnation: member.incarnation,
        boot: synod_paxos::Boot(1),
        life: 1,
        epoch: synod_paxos::Epoch(1),
        promised: synod_paxos::Ballot::default(),
        accepted: synod_paxos::Ballot::default(),
        last: Slot::ZERO,
        protocol_min: 1,
        protocol_max: 1,
    }
}

/// What was logged on this thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("lines").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn capture(&self) -> tracing::subscriber::DefaultGuard {
        let lines = self.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_max_level(tracing::Level::WARN)
            .with_writer(move || lines.clone())
            .finish();
        tracing::subscriber::set_default(subscriber)
    }

    fn with(&self, word: &str) -> Vec<String> {
        let lines = self.0.lock().expect("lines");
        let text = String::from_utf8_lossy(&lines);
        text.lines()
            .filter(|it| it.contains(word))
            .map(str::to_owned)
            .collect()
    }
}

// One thread: the lines of all tasks are captured.
#[tokio::test]
async fn a_member_of_another_group_is_refused_with_one_line_and_the_others_go_on() {
    let lines = Lines::default();
    let _guard = lines.capture();
    let mut group = Group::new();
    let odd = group.genesis.get_mut(&3).expect("three");
    odd.configuration.members[0].region = "elsewhere".into();
    odd.group = crate::config::genesis::group_of(odd);
    group.start(1).await;
    group.start(2).await;
    group.propose(1, "two").await;
    group.start(3).await;
    // Several attempts on each of three lanes, in both directions.
    let attempts = async {
        while lines.with("belongs to group").is_empty() {
            tokio::task::yield_now().await;
        }
        for _ in 0..20 {
            group.propose(2, "more").await;
            tokio::time::timeout(Duration::from_millis(100), std::future::pending::<()>())
                .await
                .ok();
        }
    };
    tokio::time::timeout(PATIENCE, attempts)
        .await
        .expect("refused");
    let refused = lines.with("refused a peer");
    let by = |who: &str| refused.iter().filter(|it| it.contains(who)).count();
    assert_eq!(
        by("notes-3"),
        2,
        "by each of the others, once: {refused:#?}"
    );
    assert_eq!(group.members[&3].handle.status().borrow().leader, None);
}

#[tokio::test]
async fn a_peer_that_speaks_another_version_is_told_so_and_reported_once() {
    let lines = Lines::default();
    let _guard = lines.capture();
    let mut group = Group::new();
    group.start(1).await;
    let mut client = client_of_two(&group).await;
    let hello = synod_paxos::Hello {
        protocol_min: 7,
        protocol_max: 8,
        ..hello_of(&group, &group.genesis[&1].configuration.members[1])
    };
    for _ in 0..3 {
        let frames = tokio_stream::once(wire::hello(&hello, to(MemberId(0))));
        let error = client.exchange(frames).await.expect_err("refused");
        assert_eq!(error.code(), tonic::Code::FailedPrecondition);
        assert!(error.message().contains("protocol 7 to 8"), "{error}");
    }
    let refused = lines.with("refused a peer");
    assert_eq!(refused.len(), 1, "{refused:#?}");
    assert!(refused[0].contains("notes-2") && refused[0].contains("protocol 7 to 8"));
}
