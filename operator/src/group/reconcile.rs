//! One look at a group, and what follows from it.

use std::time::{Duration, SystemTime};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use synod_api::{ReplicaGroup, ReplicaGroupStatus, is_witness};
use tokio::time::Instant;

use super::adopt::{self, Ordinal};
use super::apply::{nudge, words};
use super::build::{self, Input, Kind, Workload, Workloads};
use super::bypass::{Labels, bypass, of_ordinal};
use super::certificates::{Certificates, Have, certificates};
use super::dereference::{Live, WORKLOAD_FACT, conflicts, dereference, is_ours};
use super::members::Asker;
use super::names;
use super::observe::{formed, observe};
use super::plan::Step;
use super::pods::PodView;
use super::revise;
use super::roll::disruptions;
use super::status::{Report, status, unread};
use super::validate::{Stall, Valid, validate};
use crate::certs::{Names, Scope};
use crate::conditions;
use crate::inject::{self, Injection, SidecarImage, Weakness, names as pod_names};
use crate::run::Context;

/// How soon to look again while something is under way.
const SOON: Duration = Duration::from_secs(2);
/// How soon to look again when all is well: members are asked how they are.
const LATER: Duration = Duration::from_secs(10);
/// How long a StatefulSet is left to itself between two requests to make its pods again.
const RETRY: Duration = Duration::from_secs(10);
/// The same while the operator has just started: nobody knows when its webhook is reachable.
const EARLY_RETRY: Duration = Duration::from_secs(2);

/// What went wrong on the way; the rest of it is in the group's status.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReconcileError {
    /// The API server could not be asked.
    #[error("cannot read what there is: {}", words(.0))]
    Read(kube::Error),
    /// The status could not be written.
    #[error("cannot write the status: {}", words(.0))]
    Status(kube::Error),
    /// It has changed since it was looked at, or is gone.
    #[error("it has changed meanwhile")]
    Overtaken,
    /// Children could not be brought to where they should be; the status says so.
    #[error("{0}")]
    Step(String),
}

impl ReconcileError {
    /// One of a few words, for metrics.
    pub(super) fn category(&self) -> &'static str {
        match self {
            Self::Read(_) => "read",
            Self::Status(_) => "status",
            Self::Overtaken => "overtaken",
            Self::Step(_) => "step",
        }
    }
}

/// What was done.
pub(super) struct Done {
    /// When to look again.
    pub(super) again: Duration,
    /// The group with its new status.
    pub(super) group: ReplicaGroup,
    /// A pod was deleted or leadership moved: for the group's events.
    pub(super) step: Option<Step>,
    /// The protocol version that is in force from now on, if it was raised.
    pub(super) raised: Option<u32>,
    /// The epoch of the members, if they were changed.
    pub(super) changed: Option<u64>,
    /// What has become of the app's revisions, if something was asked for: an event's reason and words.
    pub(super) revised: Option<(&'static str, String)>,
    /// What failed, though the status was written.
    pub(super) failure: Option<String>,
}

/// One look at a group; `early`: the operator has just started.
pub(super) async fn reconcile(
    process: &Context,
    image: &SidecarImage,
    group: &ReplicaGroup,
    early: bool,
) -> Result<Done, ReconcileError> {
    let mut report = Report {
        facts: group
            .status
            .as_ref()
            .map(|it| it.facts.clone())
            .unwrap_or_default(),
        ..Report::default()
    };
    let effective = revise::effective(group);
    match validate(&effective, &process.flags.cluster) {
        Err(stall) => report.stall = Some(stall),
        Ok(valid) => {
            let live = match dereference(&process.client, &valid).await {
                Ok(live) => live,
                Err(error) => {
                    let right = matches!(&error, kube::Error::Api(it) if it.is_forbidden());
                    let error = ReconcileError::Read(error);
                    // Other errors pass by themselves, or leave no way to tell.
                    if right {
                        let told = unread(group, &error.to_string(), Timestamp::now());
                        put_status(process, group, told).await?;
                    }
                    return Err(error);
                }
            };
            let work = Work {
                process,
                image,
                valid: &valid,
                live: &live,
                early,
            };
            let closed = work.close_budget().await;
            match conflicts(&valid, &live) {
                Err(stall) => report.stall = Some(stall),
                Ok(()) => match work.adoption() {
                    // What is formed goes on; nothing begins.
                    Err(stall) if group.spec.genesis.is_none() => report.stall = Some(stall),
                    _ => {
                        Box::pin(work.go(&mut report)).await;
                        report.stall = report.stall.or_else(|| work.standing());
                    }
                },
            }
            report.failure = report.failure.or(closed.err());
        }
    }
    let status = status(group, &report, Timestamp::now());
    let group = put_status(process, group, status).await?;
    let settled = report.stall.is_some()
        || conditions::is_true(
            group.status.as_ref().map_or(&[][..], |it| &it.conditions),
            &conditions::READY,
        );
    if let (false, Some(namespace), Some(name)) = (settled, group.namespace(), &group.metadata.name)
    {
        process.turns.keep(&namespace, name, Instant::now());
    }
    Ok(Done {
        again: if settled && !report.soon { LATER } else { SOON },
        group,
        step: report.step,
        raised: report.raised,
        changed: report.changed,
        revised: report.revised,
        failure: report.failure,
    })
}

pub(super) struct Work<'a> {
    pub(super) process: &'a Context,
    pub(super) image: &'a SidecarImage,
    pub(super) valid: &'a Valid<'a>,
    pub(super) live: &'a Live,
    /// The operator has just started.
    early: bool,
}

// === impl Work ===

impl Work<'_> {
    async fn go(&self, report: &mut Report) {
        let spec = &self.valid.group.spec;
        report.formed = formed(spec);
        let certificates = match self.certificates() {
            Ok(certificates) => certificates,
            Err(error) => {
                report.failure = Some(error.to_string());
                return;
            }
        };
        report.issuer_request.clone_from(&certificates.request);
        let (token, asker) = (self.token(), self.asker(&certificates));
        // No pod is made upon a claim that is of no use, or that somebody still writes to.
        let source = self.source().await;
        let workload = source.and_then(|()| self.workload(token.as_deref()));
        let workload = match workload {
            Ok(workload) => workload,
            Err(stall) => {
                report.stall = Some(stall);
                None
            }
        };
        let workloads = Workloads {
            copies: workload,
            witnesses: self.witnesses(token.as_deref()),
        };
        self.remember_workload(report);
        // Upkeep is no change: it goes on while the service is paused.
        let kept_up = self.keep_up(report, &certificates, token.as_deref()).await;
        report.certificates = certificates.problem_of(kept_up);
        let children_stand = kept_up
            && !spec.paused
            && self
                .bring(report, &certificates, token.as_deref(), &workloads)
                .await;
        let own = self.live.child(Kind::StatefulSet, &self.valid.workload);
        let there = if self.valid.labelled {
            self.live.set().is_some()
        } else {
            own.is_some()
        };
        if !there {
            return;
        }
        let valid = self.valid;
        let runs = |pod: &PodView, due| match self.live.set() {
            _ if is_witness(&pod.member) => {
                self.runs(pod, &valid.witnesses, workloads.witnesses.as_ref())
            }
            Some(set) => self.runs_adopted(pod, set, token.as_deref()),
            None if pod.app_revision != self.valid.group.spec.revision => {
                self.runs_another(pod, due, token.as_deref())
            }
            None => self.runs(pod, &valid.workload, workloads.copies.as_ref()),
        };
        report.members = observe(self.valid, self.live, asker.as_ref(), runs).await;
        self.say_what_is_weak(report);
        if let Some(asker) = &asker {
            Box::pin(self.membership(report, asker)).await;
        }
        self.revisions(report);
        if !children_stand {
            return;
        }
        self.show_configuration(report).await;
        self.retry(report).await;
        self.discard(report).await;
        if let Some(asker) = &asker {
            Box::pin(self.policy(report, asker)).await;
            Box::pin(self.raise(report, asker)).await;
            Box::pin(self.snapshot(report, asker)).await;
            Box::pin(self.change(report, asker)).await;
            Box::pin(self.revise(report, asker)).await;
            Box::pin(self.roll(report, asker)).await;
        }
    }

    fn certificates(&self) -> Result<Certificates, crate::certs::CertError> {
        let (valid, live) = (self.valid, self.live);
        let spec = &valid.group.spec;
        let scope = Scope {
            cluster: spec.cluster.clone(),
            workload: valid.workload.clone(),
        };
        let members: Vec<_> = spec.members.iter().map(|it| it.name.clone()).collect();
        let status = valid.group.status.as_ref();
        let have = Have {
            issuer_key: live
                .secret(&names::issuer_secret(valid.name))
                .remove("tls.key"),
            request: status.map_or("", |it| it.issuer_request.as_str()),
            members: live.secret(&pod_names::tls_secret(valid.name)),
            operator: live.secret(&names::operator_secret(valid.name)),
            roots: &spec.issuer.roots,
            chain: &spec.issuer.chain,
        };
        certificates(&self.names(), &scope, &members, &have, SystemTime::now())
    }

    fn names(&self) -> Names {
        Names {
            trust_domain: self.valid.group.spec.trust_domain.clone(),
            namespace: self.valid.namespace.to_owned(),
            service: self.valid.name.to_owned(),
        }
    }

    fn token(&self) -> Option<String> {
        let secret = pod_names::token_secret(self.valid.name);
        self.live.secret(&secret).remove("token")
    }

    fn asker(&self, certificates: &Certificates) -> Option<Asker> {
        let roots = &self.valid.group.spec.issuer.roots;
        let pair = certificates.operator.as_ref()?;
        Asker::new(self.names(), pair, roots)
            .inspect_err(|error| tracing::warn!(service = self.valid.name, %error, "members cannot be asked"))
            .ok()
    }

    pub(super) fn input<'a>(&'a self, token: &'a str, claims: Option<&'a [Value]>) -> Input<'a> {
        Input {
            valid: self.valid,
            image: self.image,
            token,
            claims,
            disruptions: disruptions(self.valid, Timestamp::now()),
        }
    }

    /// The StatefulSet as it should be; `None` before there is a token to put into it.
    fn workload(&self, token: Option<&str>) -> Result<Option<Workload>, Stall> {
        let Some(token) = token else { return Ok(None) };
        if self.valid.labelled {
            return self.renders(token).map(|()| None);
        }
        let claims = self.claim_templates(&self.valid.workload);
        let workload = build::workload(&self.input(token, claims));
        let workload = workload
            .map_err(|error| Stall::new(&conditions::INVALID_TEMPLATE, error.to_string()))?;
        Ok(Some(workload))
    }

    /// The same of the witnesses. When the last one has left, it is there without pods.
    fn witnesses(&self, token: Option<&str>) -> Option<Workload> {
        let name = &self.valid.witnesses;
        let live = self.live.child(Kind::StatefulSet, name);
        let there = live.is_some_and(|it| is_ours(it, self.valid.uid));
        let wanted = self.valid.witness_pods() > 0 || there;
        let token = token.filter(|_| wanted)?;
        let claims = self.claim_templates(name);
        Some(build::witnesses(&self.input(token, claims)))
    }

    /// Those of a StatefulSet that is there.
    fn claim_templates(&self, name: &str) -> Option<&[Value]> {
        let there = self.live.child(Kind::StatefulSet, name)?;
        let claims = there.data.pointer("/spec/volumeClaimTemplates")?;
        claims.as_array().map(Vec::as_slice)
    }

    /// The user's own StatefulSet, when its pods are to be the members.
    fn adoption(&self) -> Result<Option<&StatefulSet>, Stall> {
        let Some(adopted) = &self.live.adopted else {
            return Ok(None);
        };
        let set = adopted.as_ref().map_err(Clone::clone)?;
        adopt::adoptable(set, &self.valid.group.spec)
            .map_err(|words| Stall::new(&conditions::WORKLOAD_NOT_ADOPTABLE, words))?;
        Ok(Some(set))
    }

    /// What somebody must change. Members are looked after all the same, but no group is formed.
    fn standing(&self) -> Option<Stall> {
        let valid = self.valid;
        match self.adoption() {
            Err(stall) => return Some(stall),
            Ok(None) => {}
            Ok(Some(set)) => {
                let count = valid.copies() as usize;
                if let Err(words) = adopt::fits_in_number(set, count) {
                    return Some(Stall::new(&conditions::WORKLOAD_NOT_ADOPTABLE, words));
                }
            }
        }
        if !self.live.bare.is_empty() {
            let names: Vec<_> = self.live.bare.iter().map(|it| it.name.as_str()).collect();
            let names = names.join(" ");
            return Some(Stall::new(
                &conditions::INJECTION_MISSING,
                format!(
                    "pods without the sidecar, which came before the label: {names}. Delete them; those \
                     of the StatefulSet are made again with it (what they hold in memory is lost): \
                     `kubectl -n {} delete pod {names}`",
                    valid.namespace
                ),
            ));
        }
        let (app, client) = (&valid.group.spec.app, build::client_port(valid));
        bypass(&self.live.services, &self.pod_labels(), app.port, &client)
    }

    /// Labels of the members' pods, as they are and as they will be.
    fn pod_labels(&self) -> Vec<Labels> {
        let valid = self.valid;
        let spec = &valid.group.spec;
        let (set, template) = if let Some(set) = self.live.set() {
            let template = set
                .spec
                .as_ref()
                .and_then(|it| it.template.metadata.as_ref());
            (set.name_any(), template.and_then(|it| it.labels.clone()))
        } else {
            let labels = spec
                .template
                .0
                .get("metadata")
                .and_then(|it| it.get("labels"));
            let labels = labels.and_then(|it| serde_json::from_value(it.clone()).ok());
            (valid.workload.clone(), labels)
        };
        let mut template: Labels = template.unwrap_or_default();
        let own = names::selector(valid.name, &spec.cluster);
        template.extend(own.map(|(key, value)| (key.to_owned(), value)));
        let to_be = (0..valid.copies()).map(|it| of_ordinal(&template, &set, it));
        let there = self.live.pods.iter().map(|it| it.labels.clone());
        to_be.chain(there).collect()
    }

    fn remember_workload(&self, report: &mut Report) {
        match self.live.set() {
            Some(set) => {
                let name = set.name_any();
                report.facts.insert(WORKLOAD_FACT.to_owned(), name);
            }
            None if !self.valid.labelled => drop(report.facts.remove(WORKLOAD_FACT)),
            None => {}
        }
    }

    /// Whether pods of the user's own StatefulSet can have the sidecar: told before the first of them
    /// is refused.
    fn renders(&self, token: &str) -> Result<(), Stall> {
        let Some(set) = self.live.set() else {
            return Ok(());
        };
        let template = Value::Object(self.valid.group.spec.template.0.clone());
        inject::render(&template, &self.injection(token, set, ""))
            .map_err(|error| Stall::new(&conditions::INVALID_TEMPLATE, error.to_string()))?;
        Ok(())
    }

    pub(super) fn injection(&self, token: &str, set: &StatefulSet, pod: &str) -> Injection {
        let member = adopt::member(&self.valid.workload, &set.name_any(), pod).unwrap_or_default();
        let ordinal = Ordinal {
            pod,
            member: &member,
        };
        adopt::injection(self.valid.group, self.image, token, set, &ordinal)
    }

    /// A StatefulSet whose pods were refused tries again later and later; a change of it that means
    /// nothing else makes it try now.
    async fn retry(&self, report: &mut Report) {
        let Some(set) = self.live.set() else { return };
        let webhook = self
            .process
            .readiness
            .missing()
            .contains(&crate::webhook::PART);
        let missing = report.members.iter().any(|it| it.pod.is_none());
        let bare = !self.live.bare.is_empty();
        let now = Timestamp::now();
        let tried = set.annotations().get(adopt::RETRY_ANNOTATION);
        let tried: Option<Timestamp> = tried.and_then(|it| it.parse().ok());
        let gap = if self.early { EARLY_RETRY } else { RETRY };
        let lately = tried.is_some_and(|it| now.duration_since(it).unsigned_abs() < gap);
        if webhook || !missing || bare || lately || self.adoption().is_err() {
            return;
        }
        let api: Api<StatefulSet> =
            Api::namespaced(self.process.client.clone(), self.valid.namespace);
        let patch = json!({"metadata": {
            "uid": set.metadata.uid,
            "annotations": {adopt::RETRY_ANNOTATION: now.to_string()},
        }});
        let (name, params) = (set.name_any(), PatchParams::default());
        match api
            .patch_metadata(&name, &params, &Patch::Merge(&patch))
            .await
        {
            Ok(_) => tracing::info!(
                service = self.valid.name,
                name,
                "told to make its pods again"
            ),
            // It is another one by now, or none.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409 | 422) => {}
            Err(error) => {
                report.failure = Some(format!(
                    "cannot annotate StatefulSet {name}: {}",
                    words(&error)
                ));
            }
        }
    }

    fn say_what_is_weak(&self, report: &mut Report) {
        let spec = &self.valid.group.spec;
        let template = Value::Object(spec.template.0.clone());
        for weakness in inject::weaknesses(&template, &spec.app.container) {
            let words = match weakness {
                Weakness::StartSignalWeak => {
                    "the app's own postStart cannot be called through the sidecar: its start is \
                     noticed by its socket only"
                }
                Weakness::RestartWeak => {
                    "the app's own liveness probe cannot be taken over: the app is only started \
                     anew by replacing its pod"
                }
            };
            report.weak.push(words.to_owned());
        }
    }

    /// Kubelet looks at a changed ConfigMap within a minute or so; a change of the pod makes it look
    /// now.
    async fn show_configuration(&self, report: &mut Report) {
        let spec = &self.valid.group.spec;
        let mut shown = json!([build::peers(self.valid), spec.genesis]);
        if let (Some(join), Some(shown)) = (&spec.join, shown.as_array_mut()) {
            shown.push(json!(join));
        }
        let digest = build::digest(&shown);
        for member in &report.members {
            let Some(pod) = member.pod.as_ref().filter(|it| !it.leaving && it.ran) else {
                continue;
            };
            if pod.seen == digest {
                continue;
            }
            let (client, namespace) = (&self.process.client, self.valid.namespace);
            if let Err(error) = nudge(client, namespace, &pod.name, &pod.uid, &digest).await {
                report.failure = Some(format!(
                    "cannot annotate pod {}: {}",
                    pod.name,
                    words(&error)
                ));
            }
        }
    }
}

async fn put_status(
    process: &Context,
    group: &ReplicaGroup,
    wanted: ReplicaGroupStatus,
) -> Result<ReplicaGroup, ReconcileError> {
    let mut group = group.clone();
    if group.status.as_ref() == Some(&wanted) {
        return Ok(group);
    }
    let (Some(name), Some(namespace)) = (&group.metadata.name, &group.metadata.namespace) else {
        return Ok(group);
    };
    let api: Api<ReplicaGroup> = Api::namespaced(process.client.clone(), namespace);
    let patch = json!({
        "apiVersion": synod_api::API_VERSION,
        "kind": "ReplicaGroup",
        // Only over what was looked at: hub and operator must not be told of times gone by, such as
        // by an earlier leader whose request was on its way for long.
        "metadata": {
            "uid": group.metadata.uid,
            "resourceVersion": group.metadata.resource_version,
        },
        "status": wanted,
    });
    let params = PatchParams::apply(names::MANAGER).force();
    match api.patch_status(name, &params, &Patch::Apply(&patch)).await {
        Ok(_) => {
            group.status = Some(wanted);
            Ok(group)
        }
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
            Err(ReconcileError::Overtaken)
        }
        Err(error) => Err(ReconcileError::Status(error)),
    }
}
