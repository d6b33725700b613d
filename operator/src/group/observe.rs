//! How the members of a group are: their pods, and what they say when they are asked.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use futures::future::join_all;
use synod_api::{MemberRole, NetworkMode, ReplicaGroupSpec, SnapshotType, is_witness};
use synod_proto::v1::{KeptSnapshot, StatusResponse};

use super::build::Kind;
use super::dereference::Live;
use super::members::{AskError, Asker, address};
use super::names;
use super::plan::{Heard, Seen, SeenPod};
use super::pods::PodView;
use super::revise;
use super::validate::Valid;

/// An app that restarts is away for less, in milliseconds.
const APP_PATIENCE_MS: u64 = 10_000;

/// One member.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    pub(crate) name: String,
    pub(crate) role: MemberRole,
    pub(crate) pod: Option<PodView>,
    /// Its pod runs what users ask for now.
    pub(crate) updated: bool,
    /// Its pod runs the template as it is now to the letter.
    pub(crate) newest: bool,
    /// What it answered; `None` when it could not be asked.
    pub(crate) heard: Option<Result<StatusResponse, AskError>>,
    /// Its newest snapshot, as far as it says.
    pub(crate) snapshot: Option<KeptSnapshot>,
    /// Where its peers reach it from any cluster; empty while nobody can.
    pub(crate) endpoint: String,
}

/// Asks all members side by side. `runs` says whether a pod runs what users ask for now, and whether
/// it runs the template as it is now to the letter; with the pod it is told which revision of the app is
/// due there, if the member said and knows.
pub(crate) async fn observe(
    valid: &Valid<'_>,
    live: &Live,
    asker: Option<&Asker>,
    runs: impl Fn(&PodView, Option<u64>) -> (bool, bool),
) -> Vec<Observed> {
    let spec = &valid.group.spec;
    let port = spec.sidecar.ports.peer;
    let saved = spec.state.snapshot.kind != SnapshotType::None;
    let runs = &runs;
    let asked = spec.members.iter().map(|member| {
        let pod = live.pod(&member.name).cloned();
        let endpoint = pod
            .as_ref()
            .map(|pod| endpoint(valid, live, pod))
            .unwrap_or_default();
        async move {
            let place = pod
                .as_ref()
                .filter(|it| !it.leaving && it.ran)
                .and_then(|it| address(&it.ip, port));
            let heard = match (asker, place) {
                (Some(asker), Some(place)) => Some(asker.status(&member.name, place).await),
                _ => None,
            };
            let snapshot = match (asker, place, &heard) {
                // What a witness keeps is nobody's state.
                (Some(asker), Some(place), Some(Ok(_))) if saved && !is_witness(&member.name) => {
                    newest_snapshot(asker, &member.name, place).await
                }
                _ => None,
            };
            let said = heard.as_ref().and_then(|it| it.as_ref().ok());
            let due = |pod| said.and_then(|it| revise::due_there(it, pod));
            let runs = pod.as_ref().map(|pod| runs(pod, due(pod)));
            let (updated, newest) = runs.unwrap_or_default();
            Observed {
                snapshot,
                name: member.name.clone(),
                role: member.role,
                pod,
                updated,
                newest,
                heard,
                endpoint,
            }
        }
    });
    join_all(asked).await
}

async fn newest_snapshot(asker: &Asker, member: &str, place: SocketAddr) -> Option<KeptSnapshot> {
    match asker.kept_snapshots(member, place).await {
        Ok(kept) => kept.into_iter().max_by_key(|it| it.slot),
        // It has just said how it is: the next look asks again.
        Err(error) => {
            tracing::debug!(member, %error, "its snapshots are not known");
            None
        }
    }
}

/// What members of any cluster can use. Those of this one go by name (see the peer table).
fn endpoint(valid: &Valid<'_>, live: &Live, pod: &PodView) -> String {
    let spec = &valid.group.spec;
    let place = match spec.network.mode {
        NetworkMode::PerPodService => {
            let service = valid
                .ordinal(&pod.member)
                .map(|it| names::pod_service(valid.name, it))
                .and_then(|it| live.child(Kind::Service, &it));
            let port = service
                .and_then(|it| it.data.pointer("/spec/ports/0/nodePort"))
                .and_then(serde_json::Value::as_u64)
                .and_then(|it| u16::try_from(it).ok());
            port.and_then(|port| address(&pod.host_ip, port))
        }
        _ => address(&pod.ip, spec.sidecar.ports.peer),
    };
    place.map(|it| it.to_string()).unwrap_or_default()
}

// === impl Observed ===

impl Observed {
    /// What it said, if it was heard.
    pub(crate) fn said(&self) -> Option<&StatusResponse> {
        self.heard.as_ref().and_then(|it| it.as_ref().ok())
    }

    /// Whether nothing answers where the app should. One that waits until its volume is put back cannot,
    /// and a witness has no app.
    pub(crate) fn is_silent(&self) -> bool {
        let silent =
            |it: &StatusResponse| it.app_silent_ms >= APP_PATIENCE_MS && it.rollback.is_none();
        !is_witness(&self.name) && self.said().is_some_and(silent)
    }

    /// Why it was not heard although it was asked.
    pub(crate) fn silence(&self) -> Option<&AskError> {
        self.heard.as_ref().and_then(|it| it.as_ref().err())
    }

    /// As the planner looks at it.
    pub(crate) fn seen(&self) -> Seen {
        Seen {
            name: self.name.clone(),
            role: self.role,
            pod: self.pod.as_ref().map(|it| SeenPod {
                name: it.name.clone(),
                uid: it.uid.clone(),
                leaving: it.leaving,
                updated: self.updated,
                newest: self.newest,
                revision: it.app_revision,
                ran: it.ran,
                ready: it.ready,
                since: it.since,
                made: it.made,
                backing_off: it.backing_off,
            }),
            heard: self.said().map(|it| Heard {
                ready: it.ready,
                serving: it.serving,
                leader: it.leader.clone(),
                app_silent: self.is_silent(),
                replace_pod: it.replace_pod,
                due: it.revision_due,
                newest: revise::newest(it),
                along: revise::runs_along(it),
                may: it.revision_may,
            }),
        }
    }

    /// Its log is of another life than the one with which it is in the group.
    pub(crate) fn is_lost(&self, formed: &BTreeMap<String, String>) -> bool {
        match (self.said(), formed.get(&self.name)) {
            (Some(said), Some(incarnation)) => said.incarnation != *incarnation,
            _ => false,
        }
    }
}

/// Who is in the group, and with which log: as the hub says, or as it was formed.
pub(crate) fn formed(spec: &ReplicaGroupSpec) -> BTreeMap<String, String> {
    let known = spec.members.iter().filter(|it| !it.incarnation.is_empty());
    let known: BTreeMap<_, _> = known
        .map(|it| (it.name.clone(), it.incarnation.clone()))
        .collect();
    let first = spec.genesis.as_deref().filter(|_| spec.epoch == 0);
    let mut all = first.map(first_members).unwrap_or_default();
    all.extend(known);
    all
}

fn first_members(genesis: &str) -> BTreeMap<String, String> {
    let value: serde_json::Value = serde_json::from_str(genesis).unwrap_or_default();
    let members = value["members"].as_array().cloned().unwrap_or_default();
    members
        .iter()
        .filter_map(|it| {
            let text = |field: &str| it[field].as_str().map(str::to_owned);
            Some((text("name")?, text("incarnation")?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use synod_api::ReplicaGroup;

    use super::*;

    #[test]
    fn a_members_log_is_the_one_that_the_hub_knows_and_before_that_the_first() {
        let mut group: ReplicaGroup =
            serde_yaml::from_str(include_str!("build/testdata/group.yaml")).expect("a group");
        let known = |group: &ReplicaGroup| {
            let all = formed(&group.spec).into_iter();
            all.map(|(name, life)| format!("{name}={life}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(known(&group), [""; 0]);
        group.spec.genesis = Some(
            r#"{"members": [{"name": "notes-us-east-0", "incarnation": "a"},
                            {"name": "notes-us-east-1", "incarnation": "b"}]}"#
                .to_owned(),
        );
        assert_eq!(known(&group), ["notes-us-east-0=a", "notes-us-east-1=b"]);
        group.spec.members[1].incarnation = "c".to_owned();
        assert_eq!(known(&group), ["notes-us-east-0=a", "notes-us-east-1=c"]);
        // It joins again: the life that it began with is over.
        group.spec.epoch = 7;
        assert_eq!(known(&group), ["notes-us-east-1=c"]);
    }
}
