//! One look at one service.

use std::time::{Duration, SystemTime};

use k8s_openapi::jiff::Timestamp;
use kube::Resource as _;
use kube::ResourceExt as _;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType};
use serde_json::json;
use synod_api::{
    ReplicatedService, ReplicatedServiceSpec, ReplicatedServiceStatus, ScaleDown, WorkloadRef,
};

use super::apply::{self, Own, Written};
use super::authority::Issued;
use super::dereference::{self, Found};
use super::error::PlacementError;
use super::events;
use super::finalize;
use super::groups::Key;
use super::plan::{self, Record, Wait};
use super::roster::{Formed, Roster};
use super::status::{self, Matter, Report};
use super::validate::{self, Input, Stall};
use super::view::View;
use super::{Hub, MANAGER, RESYNC, authority, genesis, snapshots};
use crate::certs::Names;
use crate::conditions::{self, Conditions, PROGRESSING, READY, RECONCILING, STALLED, Status};
use crate::inject;

/// When to look again after something has changed under our hands, if nothing tells of it before.
const OVERTAKEN: Duration = Duration::from_secs(1);

pub(super) async fn reconcile(
    hub: &Hub,
    object: &DynamicObject,
    key: &Key,
) -> Result<Action, PlacementError> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(hub.context.client.clone(), &key.0, &hub.resource);
    let look = Look {
        hub,
        object,
        api,
        key,
        uid: object.uid().unwrap_or_default(),
    };
    if object.metadata.deletion_timestamp.is_some() {
        return look.finalize().await;
    }
    match read(object) {
        Ok(service) => {
            finalize::set(&look.api, object, true)
                .await
                .map_err(PlacementError::write("the finalizer"))?;
            Box::pin(look.service(&service)).await
        }
        Err(problem) => look.unreadable(problem).await,
    }
}

/// With the path of what cannot be read.
fn read(object: &DynamicObject) -> Result<ReplicatedService, String> {
    let value = serde_json::to_value(object).map_err(|error| error.to_string())?;
    serde_path_to_error::deserialize(value)
        .map_err(|error| format!("{}: {}", error.path(), error.inner()))
}

/// Tells in the status that looks at a service fail, and leaves the rest of it as it is: nobody has
/// looked at that.
pub(super) async fn tell(
    hub: &Hub,
    object: &DynamicObject,
    key: &Key,
    error: &PlacementError,
) -> Result<(), PlacementError> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(hub.context.client.clone(), &key.0, &hub.resource);
    let look = Look {
        hub,
        object,
        api,
        key,
        uid: object.uid().unwrap_or_default(),
    };
    let before = look.status();
    let generation = object.metadata.generation;
    let mut list = Conditions::new(&before.conditions, generation, Timestamp::now());
    for condition in &before.conditions {
        list.keep(condition);
    }
    let words = error.to_string();
    if let PlacementError::NotOurs { .. } = error {
        let reason = &conditions::NAME_CONFLICT;
        list.set(&READY, Status::False, reason, &words);
        list.set(&STALLED, Status::True, reason, &words);
    } else {
        let reason = &conditions::OPERATOR_ERROR;
        list.set(&PROGRESSING, Status::True, reason, &words);
        list.set(&RECONCILING, Status::True, reason, &words);
    }
    let mut status = before.clone();
    status.conditions = list.finish();
    look.put_status(&before, &status).await
}

struct Look<'a> {
    hub: &'a Hub,
    object: &'a DynamicObject,
    api: Api<DynamicObject>,
    key: &'a Key,
    uid: String,
}

// === impl Look ===

impl Look<'_> {
    async fn service(&self, service: &ReplicatedService) -> Result<Action, PlacementError> {
        let context = &self.hub.context;
        let mut before = service.status.clone().unwrap_or_default();
        let found = self.found(Some(&service.spec), &before).await?;
        let valid = validate::validate(Input {
            name: &self.key.1,
            uid: &self.uid,
            spec: &service.spec,
            template: found.template.clone(),
            formed: found.formed.clone(),
            revisions: found.revisions.list.as_deref(),
            local: &context.flags.cluster,
            views: &found.views,
        });
        let mut report = self.report(&found, service.spec.paused);
        let valid = match valid {
            Ok(valid) => valid,
            Err(stall) => {
                report.stall = Some(stall);
                let roster = Roster::standing(&self.key.1, &self.uid, &found.formed, &found.views);
                report.roster = roster.as_ref();
                let paused = Some(service.spec.paused);
                return self.keep_up(&found, report, &before, paused).await;
            }
        };
        report.valid = Some(&valid);
        report.roster = Some(&valid.roster);
        if service.spec.paused {
            return self.keep_up(&found, report, &before, Some(true)).await;
        }
        let own = self.own();
        if found.record_lost
            && let Formed::Genesis(text) = &found.formed
        {
            let text = text.clone();
            let key = genesis::GENESIS_KEY;
            own.record(&Record { key, text }).await?;
        }
        match plan::record(&valid, &found.views) {
            Ok(record) => {
                own.record(&record).await?;
                // Only what can be read back is handed out.
                return Ok(Action::requeue(Duration::ZERO));
            }
            Err(Wait::Nothing) => {}
            Err(Wait::Members(waits)) => report.waits = Some(waits),
            Err(Wait::Stall(stall)) => report.stall = Some(stall),
        }
        if let Some(list) = &valid.revisions.record {
            own.revisions(list, &found.revisions).await?;
            // Only what can be read back is handed out.
            return Ok(Action::requeue(Duration::ZERO));
        }
        report.stall = report.stall.or_else(|| valid.revisions.stall.clone());
        let issued = self.issue(&own, &valid.roster, &found).await?;
        let trust_domain = &context.flags.trust_domain;
        let mut plan = plan::plan(&valid, &found.views, &issued, trust_domain);
        let word = self.object.annotations().get(snapshots::ANNOTATION);
        let snapshot = snapshots::outcome(
            word.map(String::as_str),
            before.snapshot_request.as_ref(),
            &valid.spec,
            &valid.roster,
            &found.views,
        );
        if let Some(asked) = snapshot.asked {
            plan.ask(asked);
        }
        report.snapshot = snapshot.answer;
        if status::is_news(&before, &found.views) {
            // Whoever deletes the service asks these: they are known before there is anything there.
            let told = status::with_clusters(&before, &found.views);
            self.put_status(&before, &told).await?;
            before = told;
        }
        let written = self.groups(&found.views, plan).await;
        report.failures = written.failures;
        report.failures.extend(refusals(issued));
        let status = self.write_status(&before, &report).await?;
        if let Some(reference) = &service.spec.workload_ref {
            self.scale_down(&own, reference, &found, &status).await?;
        }
        ended(report.failures, written.overtaken)
    }

    async fn found(
        &self,
        spec: Option<&ReplicatedServiceSpec>,
        before: &ReplicatedServiceStatus,
    ) -> Result<Found, PlacementError> {
        let Hub {
            context,
            clusters,
            groups,
            ..
        } = self.hub;
        let told = &before.clusters;
        dereference::dereference(context, clusters, groups, spec, told, self.key, &self.uid).await
    }

    fn own(&self) -> Own<'_> {
        Own {
            context: &self.hub.context,
            uid: &self.uid,
            key: self.key,
        }
    }

    /// The end of a look at a service whose manifest is not carried out: its members get what they
    /// cannot do without, and what is seen of them is told.
    async fn keep_up(
        &self,
        found: &Found,
        mut report: Report<'_>,
        before: &ReplicatedServiceStatus,
        paused: Option<bool>,
    ) -> Result<Action, PlacementError> {
        let formed = report.roster.filter(|it| it.formed != Formed::No);
        let plan = if let Some(roster) = formed {
            let issued = self.issue(&self.own(), roster, found).await?;
            let plan = plan::upkeep(roster, &found.views, &issued, paused);
            report.failures.extend(refusals(issued));
            plan
        } else if paused == Some(true) {
            plan::paused(&self.uid, &found.views)
        } else {
            plan::Plan::default()
        };
        let written = self.groups(&found.views, plan).await;
        report.failures.extend(written.failures);
        self.write_status(before, &report).await?;
        ended(report.failures, written.overtaken)
    }

    fn report<'a>(&'a self, found: &'a Found, paused: bool) -> Report<'a> {
        let kept = "the workload of spec.workloadRef is gone; the template that it had is kept";
        Report {
            roster: None,
            valid: None,
            stall: None,
            waits: None,
            failures: Vec::new(),
            snapshot: None,
            degraded: found.kept_template.then(|| Matter {
                reason: &conditions::WORKLOAD_NOT_FOUND,
                message: kept.to_owned(),
            }),
            views: &found.views,
            uid: &self.uid,
            namespace: &self.key.0,
            generation: self.object.metadata.generation,
            paused,
        }
    }

    async fn groups(&self, views: &[View], plan: plan::Plan) -> Written {
        let Hub {
            clusters, groups, ..
        } = self.hub;
        apply::groups(clusters, groups, self.key, &self.uid, views, plan).await
    }

    /// The authority's Secret is on disk before anything that it signed is handed out.
    async fn issue(
        &self,
        own: &Own<'_>,
        roster: &Roster,
        found: &Found,
    ) -> Result<Issued, PlacementError> {
        let names = Names {
            trust_domain: self.hub.context.flags.trust_domain.clone(),
            namespace: self.key.0.clone(),
            service: self.key.1.clone(),
        };
        let (content, secret) = found.authority.as_ref().map(|(a, b)| (a, b)).unzip();
        let asks = plan::asks(roster, &found.views);
        let issued =
            authority::issue(&names, content, &asks, SystemTime::now()).map_err(|error| {
                PlacementError::Authority {
                    secret: authority::secret_name(&self.key.1),
                    error,
                }
            })?;
        if let Some(data) = &issued.secret {
            own.authority(data, secret).await?;
        }
        Ok(issued)
    }

    /// The pods of the workload that the template was taken from go once they are replaced.
    async fn scale_down(
        &self,
        own: &Own<'_>,
        reference: &WorkloadRef,
        found: &Found,
        status: &ReplicatedServiceStatus,
    ) -> Result<(), PlacementError> {
        // Pods of a workload with the label are the members.
        if found
            .template
            .as_ref()
            .and_then(|it| inject::asked(&it.0))
            .is_some()
        {
            return Ok(());
        }
        let Some(workload) = &found.workload else {
            return Ok(());
        };
        let replicas = workload.replicas;
        let ready = conditions::is_true(&status.conditions, &READY);
        if replicas == 0 || !ready || reference.scale_down != ScaleDown::OnSuccess {
            return Ok(());
        }
        own.scale_down(reference, workload.version.as_deref())
            .await?;
        let note = format!(
            "{} {} had {replicas} replicas and has none now: the members took over",
            reference.kind, reference.name
        );
        self.publish(EventType::Normal, "ScaledDown", note).await;
        Ok(())
    }

    async fn unreadable(&self, problem: String) -> Result<Action, PlacementError> {
        let before = self.status();
        let found = self.found(None, &before).await?;
        let roster = Roster::standing(&self.key.1, &self.uid, &found.formed, &found.views);
        let mut report = self.report(&found, false);
        report.roster = roster.as_ref();
        report.stall = Some(Stall {
            reason: &conditions::INVALID_SPEC,
            message: problem,
        });
        self.keep_up(&found, report, &before, None).await
    }

    /// As the object has it; empty when it cannot be read.
    fn status(&self) -> ReplicatedServiceStatus {
        self.object
            .data
            .get("status")
            .and_then(|it| serde_json::from_value(it.clone()).ok())
            .unwrap_or_default()
    }

    /// Publishes what has changed, and writes it when anything has.
    async fn write_status(
        &self,
        before: &ReplicatedServiceStatus,
        report: &Report<'_>,
    ) -> Result<ReplicatedServiceStatus, PlacementError> {
        let status = status::status(report, before, Timestamp::now());
        self.put_status(before, &status).await?;
        Ok(status)
    }

    async fn put_status(
        &self,
        before: &ReplicatedServiceStatus,
        status: &ReplicatedServiceStatus,
    ) -> Result<(), PlacementError> {
        if before == status {
            return Ok(());
        }
        let patch = json!({
            "apiVersion": ReplicatedService::api_version(&()),
            "kind": ReplicatedService::kind(&()),
            "metadata": {"name": self.key.1, "uid": self.uid},
            "status": status,
        });
        let params = PatchParams::apply(MANAGER).force();
        self.api
            .patch_status(&self.key.1, &params, &Patch::Apply(patch))
            .await
            .map_err(PlacementError::write("the status"))?;
        let transitions = events::transitions(&before.conditions, &status.conditions);
        for note in transitions.into_iter().chain(events::deeds(before, status)) {
            let weight = if note.warning {
                EventType::Warning
            } else {
                EventType::Normal
            };
            self.publish(weight, &note.reason, note.text).await;
        }
        Ok(())
    }

    /// An event that is lost is no reason to do anything again.
    async fn publish(&self, type_: EventType, reason: &str, note: String) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        let reference = self.object.object_ref(&self.hub.resource);
        if let Err(error) = self.hub.context.events.publish(&event, &reference).await {
            tracing::warn!(service = self.key.1, %error, "an event was not published");
        }
    }

    async fn finalize(&self) -> Result<Action, PlacementError> {
        let ours = self
            .object
            .finalizers()
            .iter()
            .any(|it| it == finalize::FINALIZER);
        if !ours {
            return Ok(Action::await_change());
        }
        let before = self.status();
        let Hub {
            context,
            clusters,
            groups,
            ..
        } = self.hub;
        let service = read(self.object).ok();
        let spec = service.as_ref().map(|it| &it.spec);
        let (key, uid) = (self.key, &self.uid);
        let names =
            dereference::concerned(context, clusters, groups, spec, &before, key, uid).await?;
        let left = finalize::remove_groups(clusters, &names, key, uid).await;
        if left.is_empty() {
            finalize::set(&self.api, self.object, false)
                .await
                .map_err(PlacementError::write("the finalizer"))?;
            return Ok(Action::await_change());
        }
        let generation = self.object.metadata.generation;
        let mut list = Conditions::new(&before.conditions, generation, Timestamp::now());
        let words = left.join("; ");
        list.set(&READY, Status::False, &conditions::DELETING, &words);
        list.set(&PROGRESSING, Status::True, &conditions::DELETING, &words);
        list.set(&RECONCILING, Status::True, &conditions::DELETING, &words);
        let mut status = before.clone();
        status.conditions = list.finish();
        status.observed_generation = generation;
        self.put_status(&before, &status).await?;
        // Watches tell when groups are gone, and when clusters answer again.
        Ok(Action::requeue(Duration::from_secs(30)))
    }
}

fn refusals(issued: Issued) -> impl Iterator<Item = String> {
    let refused = issued.refused.into_iter();
    refused.map(|(cluster, problem)| {
        format!("cluster {cluster}: its request for a certificate is refused: {problem}")
    })
}

fn ended(failures: Vec<String>, overtaken: bool) -> Result<Action, PlacementError> {
    if !failures.is_empty() {
        Err(PlacementError::Clusters(failures))
    } else if overtaken {
        Ok(Action::requeue(OVERTAKEN))
    } else {
        Ok(Action::requeue(RESYNC))
    }
}
