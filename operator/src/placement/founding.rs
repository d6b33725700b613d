//! From what a service begins. With the state of a claim or a backup one member begins alone, so that
//! one makes the state, and the others take it from there as any new member does; with retained claims
//! all begin with the logs that they have. Pure.

use synod_api::{BootstrapType, GroupFounding, MemberRole, Placement, ReplicatedServiceSpec};

use super::genesis::{self, GenesisFile, NotYet};
use super::members::Member;
use super::plan::{Record, Wait};
use super::roster::Formed;
use super::validate::{Stall, Valid};
use super::view::{self, View};
use crate::conditions;
use crate::inject;

/// The cluster in which the first state is made; `None`: none is.
fn cluster(spec: &ReplicatedServiceSpec) -> Option<(&'static str, &str)> {
    let bootstrap = &spec.bootstrap;
    match bootstrap.kind {
        BootstrapType::Claim => {
            let claim = bootstrap.claim.as_ref()?;
            Some(("spec.bootstrap.claim.cluster", &claim.cluster))
        }
        BootstrapType::Snapshot => {
            let snapshot = bootstrap.snapshot.as_ref()?;
            Some(("spec.bootstrap.snapshot.cluster", &snapshot.cluster))
        }
        BootstrapType::Empty | BootstrapType::Existing => None,
    }
}

/// Whom a service that was not formed begins with, of those that are wanted.
pub(crate) fn first(
    spec: &ReplicatedServiceSpec,
    placement: &[Placement],
    wanted: Vec<Member>,
) -> Result<Vec<Member>, Stall> {
    let Some((path, cluster)) = cluster(spec) else {
        return Ok(wanted);
    };
    let stall = |message| Stall {
        reason: &conditions::INVALID_SPEC,
        message,
    };
    let template = spec.template.as_ref();
    if template.is_some_and(|it| inject::asked(&it.0).is_some()) {
        return Err(stall(
            "spec.bootstrap.type: pods of a StatefulSet of your own begin with what their own claims \
             hold: take the label out of its template and give the service the template by \
             spec.workloadRef, or use Empty"
                .to_owned(),
        ));
    }
    let founder = wanted
        .into_iter()
        .find(|it| it.cluster == cluster && it.member.role == MemberRole::Voter);
    founder.map(|it| vec![it]).ok_or_else(|| {
        let placed = placement.iter().filter(|it| it.voters > 0);
        let names: Vec<_> = placed.map(|it| it.cluster.as_str()).collect();
        stall(format!(
            "{path}: {cluster} has no voter of this service: give the cluster that has the claim one, \
             or copy the claim to one of {}",
            names.join(", ")
        ))
    })
}

/// What the group of a cluster is told of it. Claims of an earlier service are its own for ever.
pub(crate) fn founding(
    spec: &ReplicatedServiceSpec,
    formed: &Formed,
    in_cluster: &str,
) -> Option<GroupFounding> {
    let bootstrap = &spec.bootstrap;
    let mut founding = GroupFounding {
        kind: bootstrap.kind,
        claim: String::new(),
        path: String::new(),
        before: None,
    };
    if bootstrap.kind == BootstrapType::Existing {
        return Some(founding);
    }
    let here = cluster(spec).is_some_and(|(_, it)| it == in_cluster);
    if *formed != Formed::No || !here {
        return None;
    }
    if let Some(claim) = &bootstrap.claim {
        founding.claim.clone_from(&claim.name);
    }
    if let Some(snapshot) = &bootstrap.snapshot {
        founding.claim.clone_from(&snapshot.claim);
        founding.path.clone_from(&snapshot.path);
        founding.before = snapshot.before;
    }
    Some(founding)
}

/// The record of a service that does not begin with nothing: what its members have in their logs.
/// `None`: it begins with nothing.
pub(crate) fn record(valid: &Valid, views: &[View]) -> Option<Result<Record, Wait>> {
    let kind = valid.spec.bootstrap.kind;
    if kind == BootstrapType::Empty {
        return None;
    }
    let roster = &valid.roster;
    let open = views.iter().filter(|it| it.is_open());
    let mut begun: Vec<&String> = open
        .filter_map(|it| Some(&it.own(&roster.uid)?.status.as_ref()?.begun))
        .flatten()
        .collect();
    begun.sort();
    begun.dedup();
    let stall = |message| {
        Err(Wait::Stall(Stall {
            reason: &conditions::BOOTSTRAP_IMPOSSIBLE,
            message,
        }))
    };
    let record = match begun[..] {
        [] => Err(waits(valid, views)),
        [text] => match GenesisFile::parse(text) {
            Err(problem) => stall(format!("what the members began from cannot be read: {problem}")),
            Ok(file) => match unfit(&file, valid) {
                Some(words) => stall(words),
                None => Ok(Record {
                    key: genesis::GENESIS_KEY,
                    text: text.clone(),
                }),
            },
        },
        _ => stall(
            "spec.bootstrap.type: the retained claims are of different groups: delete those of the \
             group that is not meant (claims synod-log-NAME and the app's, of its members), and the \
             members' pods"
                .to_owned(),
        ),
    };
    Some(record)
}

/// A group that is not the one that was to begin.
fn unfit(file: &GenesisFile, valid: &Valid) -> Option<String> {
    let name = &valid.roster.name;
    if file.service != *name {
        return Some(format!(
            "the members' logs are of the service {:?}, this is {name:?}",
            file.service
        ));
    }
    let alone = matches!(&file.members[..], [one] if valid.roster.has(&one.name));
    let made = alone && !file.initial_state.is_empty();
    (valid.spec.bootstrap.kind != BootstrapType::Existing && !made).then(|| {
        format!(
            "the member that was to make the first state has the log of a group of another beginning: \
             if nobody needs it, delete its claims and its pod; to go on with it use \
             `spec.bootstrap.type: Existing` (members of it: {})",
            file.members.iter().map(|it| it.name.as_str()).collect::<Vec<_>>().join(", ")
        )
    })
}

/// What members have not reported yet.
fn waits(valid: &Valid, views: &[View]) -> Wait {
    let roster = &valid.roster;
    let reported = view::current(views, &roster.uid);
    let existing = valid.spec.bootstrap.kind == BootstrapType::Existing;
    let mut waiting = Vec::new();
    let mut empty = Vec::new();
    for it in &roster.members {
        let name = &it.member.name;
        let status = reported.get(name.as_str());
        let problem = status.map_or("", |it| it.problem.as_str());
        let words = if !problem.is_empty() {
            problem
        } else if existing {
            "it has not reported"
        } else {
            "it makes the first state"
        };
        let said = status.is_some_and(|it| !it.incarnation.is_empty() && it.epoch == 0);
        if existing && said {
            empty.push(name.clone());
        } else {
            waiting.push((name.clone(), words.to_owned()));
        }
    }
    if waiting.is_empty() && existing {
        return Wait::Stall(Stall {
            reason: &conditions::BOOTSTRAP_IMPOSSIBLE,
            message: format!(
                "spec.bootstrap.type: no member has a log of an earlier service ({}): its claims are \
                 not there any more; use Empty, or Snapshot if there is a backup",
                empty.join(", ")
            ),
        });
    }
    Wait::Members(NotYet::Waiting(waiting))
}

#[cfg(test)]
mod tests;
