//! What an operator asks before it takes a member away.

use synod_proto::v1::control_client::ControlClient;
use synod_proto::v1::{
    AcquireDisruptionRequest, PrepareShutdownRequest, ReleaseDisruptionRequest, StatusRequest,
};
use tonic::Code;
use tonic::transport::Channel;

use super::{Group, name, names};
use crate::identity::Who;

impl Group {
    /// The number of the leader, as this member knows it.
    async fn leader(&self, number: usize) -> usize {
        let mut control = self.control(number).await;
        let status = control.status(StatusRequest {}).await.expect("answers");
        let leader = status.into_inner().leader;
        let number = leader.strip_prefix("notes-").expect("somebody leads");
        number.parse().expect("a number")
    }

    /// As another member.
    async fn as_member(&self, number: usize) -> ControlClient<Channel> {
        let who = Who::Member(name(number % 3 + 1));
        let files = self
            .authority
            .issue(&self.path("member"), &[names().of(&who)]);
        ControlClient::new(self.channel(number, &files, who).await)
    }
}

fn to(successor: &str) -> PrepareShutdownRequest {
    PrepareShutdownRequest {
        successor: successor.to_owned(),
    }
}

fn ask(holder: &str) -> AcquireDisruptionRequest {
    AcquireDisruptionRequest {
        epoch: 1,
        ttl_ms: 10_000,
        holder: holder.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_about_to_be_ended_has_another_lead_and_others_have_nothing_to_do() {
    let mut group = Group::new();
    group.start_all().await;
    let mut control = group.control(1).await;
    let answer = control.prepare_shutdown(to("")).await.expect("not formed");
    assert_eq!(answer.into_inner().leader, "");
    group.form().await;
    group.add(1, "a").await;
    // A successor that nobody has heard of yet cannot take over.
    for number in 1..=3 {
        group.show(number).await;
    }
    let leader = group.leader(1).await;
    let successor = name(leader % 3 + 1);
    let mut control = group.control(leader).await;
    let error = control.prepare_shutdown(to("nobody")).await;
    assert_eq!(error.expect_err("unknown").code(), Code::NotFound);
    let answer = control.prepare_shutdown(to(&successor)).await;
    assert_eq!(answer.expect("handed over").into_inner().leader, successor);
    assert_eq!(name(group.leader(leader % 3 + 1).await), successor);
    // It does not lead any more.
    let answer = control.prepare_shutdown(to("")).await.expect("answers");
    assert_eq!(answer.into_inner().leader, successor);
    let error = group.as_member(leader).await.prepare_shutdown(to("")).await;
    assert_eq!(
        error.expect_err("no operator").code(),
        Code::PermissionDenied
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whom_nobody_can_follow_says_so_in_time() {
    let mut group = Group::new();
    group.start_all().await;
    group.form().await;
    group.add(1, "a").await;
    let leader = group.leader(1).await;
    let mut control = group.control(leader).await;
    for number in (1..=3).filter(|it| *it != leader) {
        group.members[number - 1]
            .take()
            .expect("runs")
            .member
            .kill()
            .await;
    }
    let asked = control.prepare_shutdown(to("")).await;
    match asked {
        Err(error) => assert_eq!(error.code(), Code::DeadlineExceeded),
        // It had stepped down by itself already, hearing no quorum.
        Ok(answer) => assert_eq!(answer.into_inner().leader, ""),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disruption_token_is_the_leaders_and_for_operators_and_a_new_leader_grants_none() {
    let mut group = Group::new();
    group.start_all().await;
    group.form().await;
    group.add(1, "a").await;
    let leader = group.leader(1).await;
    let mut control = group.control(leader).await;
    let answer = control.acquire_disruption(ask("east")).await;
    let answer = answer.expect("answers").into_inner();
    assert_eq!((answer.granted_ms, answer.holder.as_str()), (0, ""));
    assert!((50_000..=66_000).contains(&answer.wait_ms), "{answer:?}");
    let wrong = AcquireDisruptionRequest {
        epoch: 2,
        ..ask("east")
    };
    let error = control.acquire_disruption(wrong).await;
    let error = error.expect_err("another epoch");
    assert!(error.message().contains("epoch 1"), "{error}");
    let release = ReleaseDisruptionRequest {
        holder: "east".to_owned(),
    };
    let released = control.release_disruption(release).await.expect("answers");
    assert!(!released.into_inner().held);
    let mut control = group.control(leader % 3 + 1).await;
    let error = control.acquire_disruption(ask("east")).await;
    assert_eq!(error.expect_err("follows").code(), Code::FailedPrecondition);
    let mut control = group.as_member(leader).await;
    let error = control.acquire_disruption(ask("east")).await;
    assert_eq!(error.expect_err("a member").code(), Code::PermissionDenied);
}
