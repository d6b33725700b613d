//! What is asked of a leader, what is told of its answer, and how disks are taken away.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

use http::{Request, Response};
use kube::client::Body;
use serde_json::json;
use synod_api::{JoiningMember, RoleChange};

use super::*;

fn member(id: u32, role: WireRole, heard: bool) -> GroupMember {
    GroupMember {
        id,
        name: format!("notes-us-{id}"),
        incarnation: format!("{id:032x}"),
        role: role.into(),
        region: "us-1".to_owned(),
        heard,
        caught_up: heard,
        applied: 0,
    }
}

fn said(heard: bool) -> MembersResponse {
    MembersResponse {
        epoch: 7,
        members: vec![
            member(1, WireRole::Voter, true),
            member(4, WireRole::Observer, heard),
        ],
        settled: true,
        leader: "notes-us-1".to_owned(),
        leads: true,
        join: "how to get in".to_owned(),
        former: vec![member(2, WireRole::Voter, false)],
    }
}

#[test]
fn what_a_leader_says_is_reported_and_how_to_get_in_while_somebody_is_not_heard() {
    let told = membership("notes-us-1", said(false));
    assert_eq!((told.epoch, told.settled), (7, true));
    let members: Vec<_> = told
        .members
        .iter()
        .map(|it| (it.id, it.role, it.heard, it.caught_up))
        .collect();
    assert_eq!(
        members,
        [
            (1, MemberRole::Voter, true, true),
            (4, MemberRole::Observer, false, false)
        ]
    );
    assert_eq!(told.former, [format!("{:032x}", 2)]);
    assert_eq!(told.join, "how to get in");
    assert_eq!(membership("notes-us-1", said(true)).join, "");
}

#[test]
fn of_lives_that_have_ended_the_latest_are_reported() {
    let mut all = said(true);
    all.former = (10..600)
        .map(|id| member(id, WireRole::Voter, false))
        .collect();
    let told = membership("notes-us-1", all);
    assert_eq!(told.former.len(), 256);
    assert_eq!(told.former[0], format!("{:032x}", 599));
}

#[test]
fn a_change_is_handed_on_in_the_epoch_that_it_was_made_from_and_once_that_has_settled() {
    let change = MembersChange {
        epoch: 7,
        leave: vec![2],
        join: vec![JoiningMember {
            name: "notes-us-1".to_owned(),
            incarnation: "a".repeat(32),
            region: "us-1".to_owned(),
        }],
        roles: vec![RoleChange {
            id: 4,
            role: MemberRole::Voter,
        }],
    };
    let mut now = membership("notes-us-1", said(true));
    assert_eq!(due(Some(&change), Some(&now)), Some(&change));
    assert_eq!(due(Some(&change), None), None, "nobody here leads");
    assert_eq!(due(None, Some(&now)), None);
    now.settled = false;
    assert_eq!(due(Some(&change), Some(&now)), None);
    (now.settled, now.epoch) = (true, 8);
    assert_eq!(due(Some(&change), Some(&now)), None, "it is done");
    let request = request(&change);
    assert_eq!(request.epoch, 7);
    let parts: Vec<_> = request
        .changes
        .into_iter()
        .filter_map(|it| it.change)
        .collect();
    // The name is free before it is taken again.
    assert_eq!(parts[0], member_change::Change::Remove(2));
    let member_change::Change::Add(new) = &parts[1] else {
        panic!("it joins");
    };
    assert_eq!(new.role(), WireRole::Observer);
    assert_eq!(
        (new.name.as_str(), new.region.as_str()),
        ("notes-us-1", "us-1")
    );
    let member_change::Change::Role(role) = &parts[2] else {
        panic!("it gets a vote");
    };
    assert_eq!((role.id, role.role()), (4, WireRole::Voter));
}

const CLAIMS: [&str; 2] = ["synod-log-notes-us-1", "synod-state-notes-us-1"];

/// An API server with one pod and its claims. It answers so many requests, then the operator is dead.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    left: usize,
    pod: bool,
    claims: BTreeSet<String>,
    /// They were deleted, and go with the pod.
    leaving: BTreeSet<String>,
}

impl Server {
    fn client(&self) -> Client {
        let this = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let answer = this.answer(request.method().as_str(), request.uri().path());
            async move {
                let (code, body) = answer.ok_or_else(|| std::io::Error::other("it is dead"))?;
                let response = Response::builder().status(code);
                let body = Body::from(body.to_string().into_bytes());
                Ok::<_, std::io::Error>(response.body(body).expect("a response"))
            }
        });
        Client::new(service, "default")
    }

    fn answer(&self, method: &str, path: &str) -> Option<(u16, serde_json::Value)> {
        let mut kept = self.kept();
        kept.left = kept.left.checked_sub(1)?;
        assert_eq!(method, "DELETE");
        let name = path.rsplit('/').next().expect("a name").to_owned();
        let there = if name == "notes-us-1" {
            let leaving = std::mem::take(&mut kept.leaving);
            kept.claims.retain(|it| !leaving.contains(it));
            assert!(kept.claims.is_empty(), "the next pod would get them again");
            std::mem::take(&mut kept.pod)
        } else {
            assert!(CLAIMS.contains(&name.as_str()), "{name}");
            kept.leaving.insert(name.clone());
            kept.claims.contains(&name)
        };
        let good = json!({"kind": "Status", "apiVersion": "v1", "status": "Success"});
        let bad = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                         "reason": "NotFound", "message": "it is not there", "code": 404});
        Some(if there { (200, good) } else { (404, bad) })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().expect("no panic")
    }
}

#[tokio::test]
async fn disks_go_for_good_wherever_the_operator_ends_on_the_way() {
    let pod = PodView {
        name: "notes-us-1".to_owned(),
        uid: "uid-1".to_owned(),
        ..PodView::default()
    };
    let claims = CLAIMS.map(str::to_owned);
    for requests in 0..=3 {
        let server = Server::default();
        {
            let mut kept = server.kept();
            (kept.left, kept.pod) = (requests, true);
            // That somebody has deleted one already is no reason to stop.
            kept.claims = claims.iter().skip(requests % 2).cloned().collect();
        }
        let first = take_disks(&server.client(), "default", &claims, &pod).await;
        assert_eq!(first.is_ok(), requests == 3);
        server.kept().left = 3;
        // The next operator hears the same life, unless the pod is gone.
        if server.kept().pod {
            let next = take_disks(&server.client(), "default", &claims, &pod).await;
            next.expect("it is alive");
        }
        assert!(server.kept().claims.is_empty() && !server.kept().pod);
    }
}
