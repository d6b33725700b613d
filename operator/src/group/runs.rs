//! Whether pods are what they should be. Comes in: a pod, the templates as they are now. Goes out: whether it
//! runs what users ask for, and whether it is so to the letter.

use k8s_openapi::api::apps::v1::StatefulSet;
use tokio::time::Instant;

use super::adopt;
use super::build::{self, Kind, Workload};
use super::pods::PodView;
use super::reconcile::Work;
use super::revise;
use super::validate::validate;

// === impl Work ===

impl Work<'_> {
    /// Whether a pod runs what users ask for now, and whether it runs the template as it is now to
    /// the letter. A newer sidecar alone comes with the next restart, unless it was asked for. It is a pod
    /// of the StatefulSet of this name, which should be as `workload` says.
    pub(super) fn runs(
        &self,
        pod: &PodView,
        set: &str,
        workload: Option<&Workload>,
    ) -> (bool, bool) {
        let set = self.live.child(Kind::StatefulSet, set);
        let status = set.and_then(|it| it.data.get("status"));
        // `currentRevision` never moves when pods are replaced by hand.
        let revision = status
            .and_then(|it| it["updateRevision"].as_str())
            .unwrap_or_default();
        let newest = !revision.is_empty() && pod.revision == revision && self.is_observed();
        let same = workload.is_some_and(|it| it.template == pod.template);
        (newest || (same && self.waits()), newest)
    }

    /// As [`Self::runs`], of a pod with another revision of the app than those that are made now. It is
    /// what it should be unless the one that is made now is due there. One of a revision that runs along
    /// silently also is while nobody can say what is due.
    pub(super) fn runs_another(
        &self,
        pod: &PodView,
        due: Option<u64>,
        token: Option<&str>,
    ) -> (bool, bool) {
        let group = revise::with(self.valid.group, pod.app_revision);
        let template = group.and_then(|group| {
            let valid = validate(&group, &self.process.flags.cluster).ok()?;
            let mut input = self.input(token?, None);
            input.valid = &valid;
            Some(build::workload(&input).ok()?.template)
        });
        let same = template.is_some_and(|it| it == pod.template);
        let (own, now) = (pod.app_revision, self.valid.group.spec.revision);
        let silent = revise::silent_of(self.valid.group) == Some(own);
        (same && due != Some(now), same && is_due(own, due, silent))
    }

    /// Whether a pod that has all but the newest sidecar is left alone for now.
    fn waits(&self) -> bool {
        let (namespace, name) = (self.valid.namespace, self.valid.name);
        let spec = &self.valid.group.spec;
        spec.sidecar.update == synod_api::SidecarUpdate::WhenRestarted
            || spec.paused
            || !self.process.turns.may(namespace, name, Instant::now())
    }

    /// The controller of StatefulSets has seen the newest templates.
    pub(super) fn is_observed(&self) -> bool {
        let seen = |name: &str| {
            let set = self.live.child(Kind::StatefulSet, name)?;
            Some(set.metadata.generation == set.data["status"]["observedGeneration"].as_i64())
        };
        let copies = match self.live.set() {
            Some(set) => {
                let seen = set.status.as_ref().and_then(|it| it.observed_generation);
                set.metadata.generation == seen
            }
            None => seen(&self.valid.workload) == Some(true),
        };
        let none = self.valid.witness_pods() == 0;
        copies && (none || seen(&self.valid.witnesses) == Some(true))
    }

    /// As [`Self::runs`], of a pod of the user's own StatefulSet.
    pub(super) fn runs_adopted(
        &self,
        pod: &PodView,
        set: &StatefulSet,
        token: Option<&str>,
    ) -> (bool, bool) {
        let Some(token) = token else {
            return (true, true);
        };
        let status = set.status.as_ref();
        let revision = status.and_then(|it| it.update_revision.as_deref());
        let revision = revision == Some(&pod.revision);
        // Its template had the sidecar already, so it is the user's to change.
        if pod.template.is_empty() {
            return (revision, revision);
        }
        let state = &self.valid.group.spec.state;
        let same = revision
            && adopt::template(&self.injection(token, set, &pod.name), state) == pod.template;
        let newest = same && pod.sidecar.as_ref() == Some(&self.image.image);
        (newest || (same && self.waits()), newest)
    }
}

/// That revision is the one to be started there; `due`: what the member says, if it knows.
fn is_due(own: u64, due: Option<u64>, silent: bool) -> bool {
    due.map_or(silent, |due| due == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_of_a_silent_revision_is_what_it_should_be_until_its_member_says_otherwise() {
        assert!(is_due(1, None, true), "it has only just started");
        assert!(!is_due(1, None, false));
        assert!(is_due(1, Some(1), true) && is_due(1, Some(1), false));
        assert!(!is_due(1, Some(0), true), "it was taken back");
    }
}
