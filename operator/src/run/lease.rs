//! Which of several instances writes: the holder of a Lease. Comes in: the Lease as the API server
//! has it, and time. Goes out: [`Leadership`], which ends by itself when the Lease could not be
//! renewed in time, before anybody else may take it.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease as LeaseObject, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Metrics;

/// How long others wait after the last sign of the holder.
const DURATION: Duration = Duration::from_secs(15);
/// How long the holder goes on after its last renewal: less, for requests under way and for clocks
/// that do not run alike.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often the holder renews, and others look.
const PERIOD: Duration = Duration::from_secs(2);
/// One request; a renewal must have room for several.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Whether this instance may write.
#[derive(Clone, Debug)]
pub struct Leadership {
    until: watch::Receiver<Option<Instant>>,
}

/// The instance's part in holding the Lease.
pub(super) struct Lease {
    api: Api<LeaseObject>,
    name: String,
    identity: String,
    until: watch::Sender<Option<Instant>>,
    seen: Option<Seen>,
    metrics: Metrics,
}

/// What the Lease said and since when, by our clock: clocks of others are not compared.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    version: Option<String>,
    since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    Take,
    Renew,
    Wait,
}

// === impl Leadership ===

impl Leadership {
    /// It may, at this moment.
    pub fn leads(&self) -> bool {
        self.until.borrow().is_some_and(|it| Instant::now() < it)
    }

    /// Returns each time leadership begins; never again once the process ends.
    pub async fn gained(&mut self) {
        loop {
            let before = self.until.borrow_and_update().is_some();
            if self.until.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            if !before && self.until.borrow().is_some() {
                return;
            }
        }
    }

    /// Waits until it may.
    pub async fn wait(&mut self) {
        if self.until.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Of an instance that is alone, for tests and tools.
    #[cfg(test)]
    pub(crate) fn always() -> Self {
        let far = Instant::now() + Duration::from_hours(24);
        Self {
            until: watch::channel(Some(far)).1,
        }
    }
}

// === impl Lease ===

impl Lease {
    pub(super) fn new(
        client: Client,
        namespace: &str,
        name: &str,
        identity: &str,
        metrics: Metrics,
    ) -> (Self, Leadership) {
        let (sender, until) = watch::channel(None);
        let lease = Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            until: sender,
            seen: None,
            metrics,
        };
        (lease, Leadership { until })
    }

    /// Takes and renews the Lease until told to give it back.
    pub(super) async fn hold(mut self, release: CancellationToken) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = release.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let asked = Instant::now();
            match tokio::time::timeout(TIMEOUT, self.round()).await {
                // Counted from before the request: when it was answered does not matter.
                Ok(Ok(true)) => self.lead(Some(asked + DEADLINE)),
                Ok(Ok(false)) => self.lead(None),
                Ok(Err(error)) => self.failed(&error.to_string()),
                Err(_) => self.failed("no answer in time"),
            }
        }
        self.give_back().await;
    }

    /// One look; whether the Lease is ours now.
    async fn round(&mut self) -> Result<bool, kube::Error> {
        let lease = self.api.get_opt(&self.name).await?;
        let now = Instant::now();
        let version = lease.as_ref().and_then(kube::ResourceExt::resource_version);
        if self.seen.as_ref().is_none_or(|it| it.version != version) {
            self.seen = Some(Seen {
                version,
                since: now,
            });
        }
        let since = self.seen.as_ref().map_or(now, |it| it.since);
        let spec = lease.as_ref().and_then(|it| it.spec.as_ref());
        let step = step(lease.is_some(), spec, &self.identity, now - since);
        let written = match (step, lease) {
            (Step::Wait, _) => return Ok(false),
            (Step::Create, _) | (_, None) => {
                let lease = LeaseObject {
                    metadata: ObjectMeta {
                        name: Some(self.name.clone()),
                        ..ObjectMeta::default()
                    },
                    spec: Some(self.spec(None)),
                };
                self.api.create(&PostParams::default(), &lease).await
            }
            // The resource version goes along: of two that take it at once, one is refused.
            (Step::Take | Step::Renew, Some(mut lease)) => {
                lease.spec = Some(self.spec(lease.spec.as_ref()));
                self.api
                    .replace(&self.name, &PostParams::default(), &lease)
                    .await
            }
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        let mut spec = before.cloned().unwrap_or_default();
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            spec.acquire_time.clone_from(&now);
            spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |it| it + 1));
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = Some(DURATION.as_secs() as i32);
        spec.renew_time = now;
        spec
    }

    fn lead(&self, until: Option<Instant>) {
        let before = self.until.send_replace(until).is_some();
        if before != until.is_some() {
            self.metrics.leader(until.is_some());
            let identity = &self.identity;
            if until.is_some() {
                tracing::info!(identity, "this instance writes from now on");
            } else {
                tracing::info!(identity, "another instance writes from now on");
            }
        }
    }

    /// The last renewal counts until its deadline.
    fn failed(&self, error: &str) {
        tracing::warn!(error, lease = self.name, "the lease could not be renewed");
        let over = self.until.borrow().is_some_and(|it| it <= Instant::now());
        if over {
            self.lead(None);
        }
    }

    /// So that the next one need not wait.
    async fn give_back(&mut self) {
        let held = self.until.borrow().is_some();
        self.lead(None);
        if !held {
            return;
        }
        let work = async {
            let mut lease = self.api.get(&self.name).await?;
            let spec = lease.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() == Some(&self.identity) {
                spec.holder_identity = None;
                spec.lease_duration_seconds = Some(1);
                self.api
                    .replace(&self.name, &PostParams::default(), &lease)
                    .await?;
            }
            Ok::<_, kube::Error>(())
        };
        match tokio::time::timeout(TIMEOUT, work).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the lease could not be given back"),
            Err(_) => tracing::warn!("the lease could not be given back in time"),
        }
    }
}

/// What to do with a Lease that has not changed for this long.
fn step(exists: bool, spec: Option<&LeaseSpec>, identity: &str, unchanged: Duration) -> Step {
    if !exists {
        return Step::Create;
    }
    let Some(spec) = spec else {
        return Step::Take;
    };
    match spec.holder_identity.as_deref() {
        None | Some("") => Step::Take,
        Some(holder) if holder == identity => Step::Renew,
        Some(_) => {
            let seconds = spec
                .lease_duration_seconds
                .and_then(|it| u64::try_from(it).ok());
            let duration = seconds.map_or(DURATION, Duration::from_secs);
            if unchanged >= duration {
                Step::Take
            } else {
                Step::Wait
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: Option<&str>, seconds: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: Some(seconds),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_is_taken_when_it_is_free_or_its_holder_shows_no_sign() {
        let s = Duration::from_secs;
        for (spec, unchanged, wanted) in [
            (held_by(None, 15), s(0), Step::Take),
            (held_by(Some(""), 15), s(0), Step::Take),
            (held_by(Some("me"), 15), s(60), Step::Renew),
            (held_by(Some("other"), 15), s(14), Step::Wait),
            (held_by(Some("other"), 15), s(15), Step::Take),
            (held_by(Some("other"), 60), s(15), Step::Wait),
        ] {
            assert_eq!(step(true, Some(&spec), "me", unchanged), wanted, "{spec:?}");
        }
        assert_eq!(step(false, None, "me", s(0)), Step::Create);
        assert_eq!(step(true, None, "me", s(0)), Step::Take);
    }

    #[test]
    fn the_holder_stops_before_others_may_begin() {
        assert!(DEADLINE + TIMEOUT < DURATION);
        assert!(PERIOD + TIMEOUT < DEADLINE);
    }

    #[test]
    fn leadership_ends_by_itself_at_its_deadline() {
        let (sender, until) = watch::channel(Some(Instant::now() + Duration::from_secs(60)));
        let leadership = Leadership { until };
        assert!(leadership.leads());
        sender.send_replace(Some(Instant::now()));
        assert!(!leadership.leads());
        sender.send_replace(None);
        assert!(!leadership.leads());
    }

    #[tokio::test]
    async fn gaining_leadership_is_told_each_time_it_begins() {
        let (sender, until) = watch::channel(None);
        let mut leadership = Leadership { until };
        assert!(!Leadership::always().until.borrow().is_none());
        let far = Instant::now() + Duration::from_secs(60);
        let mut other = leadership.clone();
        let waits = tokio::spawn(async move {
            leadership.gained().await;
            leadership
        });
        tokio::task::yield_now().await;
        sender.send_replace(Some(far));
        waits.await.expect("told");
        other.wait().await;
    }
}
