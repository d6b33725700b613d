//! What is asked of a leader, what is told of its answer, and how disks are taken away.

use std::collections::{BTreeMap, BTreeSet};
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
            role: MemberRole::Observer,
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

#[test]
fn a_witness_joins_as_one_and_whoever_says_nothing_joins_without_a_vote() {
    let text = "{epoch: 7, join: [{name: notes-us-100, incarnation: aa, role: Witness}, \
                {name: notes-us-1, incarnation: bb}]}";
    let change: MembersChange = serde_yaml::from_str(text).expect("a change");
    let roles = request(&change).changes.into_iter().map(|it| {
        let Some(member_change::Change::Add(new)) = it.change else {
            panic!("it joins");
        };
        new.role()
    });
    let roles: Vec<_> = roles.collect();
    assert_eq!(roles, [WireRole::Witness, WireRole::Observer]);
    let told = serde_yaml::to_string(&change).expect("YAML");
    let again: MembersChange = serde_yaml::from_str(&told).expect("a change");
    assert_eq!(again, change, "{told}");
    // An operator of before there were witnesses does not know the field.
    assert!(!told.contains("Observer"), "{told}");
}

const CLAIMS: [&str; 2] = ["synod-log-notes-us-1", "synod-state-notes-us-1"];

/// An API server with one pod and its claims. It answers so many requests that change something, then the
/// operator is dead.
#[derive(Clone, Default)]
struct Server(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    left: usize,
    /// Its UID.
    pod: Option<String>,
    /// Their UIDs.
    claims: BTreeMap<String, String>,
    /// They were deleted, and go with the pod.
    leaving: BTreeSet<String>,
    /// When the pod was looked at, all of it was made anew under the same names.
    replaced: bool,
}

impl Server {
    fn client(&self) -> Client {
        let this = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let this = this.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.expect("a body");
                let answer = this.answer(parts.method.as_str(), parts.uri.path(), &body);
                let (code, body) = answer.ok_or_else(|| std::io::Error::other("it is dead"))?;
                let response = Response::builder().status(code);
                let body = Body::from(body.to_string().into_bytes());
                Ok::<_, std::io::Error>(response.body(body).expect("a response"))
            }
        });
        Client::new(service, "default")
    }

    fn answer(&self, method: &str, path: &str, body: &[u8]) -> Option<(u16, serde_json::Value)> {
        let mut kept = self.kept();
        let name = path.rsplit('/').next().expect("a name").to_owned();
        let is_pod = name == POD;
        assert!(is_pod || CLAIMS.contains(&name.as_str()), "{name}");
        let uid = if is_pod {
            kept.pod.clone()
        } else {
            kept.claims.get(&name).cloned()
        };
        let bad = |code: u16, reason: &str| {
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                   "reason": reason, "message": reason, "code": code})
        };
        if method == "GET" {
            if is_pod && std::mem::take(&mut kept.replaced) {
                kept.leaving.clear();
                kept.pod = Some("uid-2".to_owned());
                kept.claims = CLAIMS.map(|it| (it.to_owned(), format!("new-{it}"))).into();
            }
            let found = |uid| json!({"metadata": {"name": name, "uid": uid}});
            let found = uid.map(|uid| (200, found(uid)));
            return Some(found.unwrap_or((404, bad(404, "NotFound"))));
        }
        assert_eq!(method, "DELETE");
        kept.left = kept.left.checked_sub(1)?;
        let params: serde_json::Value = serde_json::from_slice(body).expect("JSON");
        let only = params["preconditions"]["uid"]
            .as_str()
            .expect("it is meant alone");
        match uid.as_deref() {
            None => return Some((404, bad(404, "NotFound"))),
            Some(uid) if uid != only => return Some((409, bad(409, "Conflict"))),
            Some(_) => {}
        }
        if is_pod {
            let leaving = std::mem::take(&mut kept.leaving);
            kept.claims.retain(|it, _| !leaving.contains(it));
            assert!(kept.claims.is_empty(), "the next pod would get them again");
            kept.pod = None;
        } else {
            kept.leaving.insert(name);
        }
        let good = json!({"kind": "Status", "apiVersion": "v1", "status": "Success"});
        Some((200, good))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().expect("no panic")
    }
}

const POD: &str = "notes-us-1";

fn pod() -> PodView {
    PodView {
        name: POD.to_owned(),
        uid: "uid-1".to_owned(),
        ..PodView::default()
    }
}

#[tokio::test]
async fn disks_go_for_good_wherever_the_operator_ends_on_the_way() {
    let claims = CLAIMS.map(str::to_owned);
    for gone in 0..2 {
        for requests in 0..=3 {
            let server = Server::default();
            {
                let mut kept = server.kept();
                (kept.left, kept.pod) = (requests, Some(pod().uid));
                // That somebody has deleted one already is no reason to stop.
                let there = CLAIMS.into_iter().skip(gone);
                kept.claims = there
                    .map(|it| (it.to_owned(), format!("uid-{it}")))
                    .collect();
            }
            let first = take_disks(&server.client(), "default", &claims, &pod()).await;
            assert_eq!(first.is_ok(), requests >= 3 - gone);
            server.kept().left = 3;
            // The next operator hears the same life, unless the pod is gone.
            if server.kept().pod.is_some() {
                let next = take_disks(&server.client(), "default", &claims, &pod()).await;
                next.expect("it is alive");
            }
            assert!(server.kept().claims.is_empty() && server.kept().pod.is_none());
        }
    }
}

#[tokio::test]
async fn disks_of_another_life_under_the_same_names_stay() {
    let claims = CLAIMS.map(str::to_owned);
    // Since it was looked at the last time, or while that is done now.
    for uid in ["uid-2", "uid-1"] {
        let server = Server::default();
        {
            let mut kept = server.kept();
            (kept.left, kept.pod, kept.replaced) = (3, Some(uid.to_owned()), uid == "uid-1");
            kept.claims = CLAIMS.map(|it| (it.to_owned(), format!("uid-{it}"))).into();
        }
        let taken = take_disks(&server.client(), "default", &claims, &pod()).await;
        taken.expect("nothing is left to do");
        let kept = server.kept();
        assert_eq!(kept.pod.as_deref(), Some("uid-2"));
        assert!(kept.leaving.is_empty() && kept.claims.len() == 2);
    }
}
