//! Which of several instances writes: the holder of a Lease. Comes in: the Lease as the API server
//! has it, and time. Goes out: [`Leadership`], which ends by itself when the Lease could not be
//! renewed in time, before anybody else may take it.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease as LeaseObject, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Latch, Metrics};

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
    term: watch::Receiver<Term>,
    /// The last term that [`Leadership::gained`] has told of.
    told: u64,
}

/// A time without a gap in which one instance leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Term {
    /// How many times this instance has begun to lead.
    number: u64,
    /// Until when it leads, if nothing more is heard; `None`: it does not.
    until: Option<Instant>,
}

/// The instance's part in holding the Lease.
pub(super) struct Lease {
    api: Api<LeaseObject>,
    name: String,
    identity: String,
    term: watch::Sender<Term>,
    seen: Option<Seen>,
    metrics: Metrics,
    /// Set once it is known who leads.
    latch: Latch,
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
        self.term.borrow().is_now()
    }

    /// Returns once for each time leadership begins; never again once the process ends.
    pub async fn gained(&mut self) {
        let told = self.told;
        let begun = |it: &Term| it.number != told && it.is_now();
        let term = self.term.wait_for(begun).await.map(|it| *it);
        let Ok(term) = term else {
            return std::future::pending().await;
        };
        self.told = term.number;
    }

    /// Does work that writes, for as long as this instance may: `None` when it may not, or not any
    /// more. The work is cut off then, at whatever it waits for; another instance goes on with it.
    pub async fn while_leading<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut leadership = self.clone();
        tokio::select! {
            biased;
            () = leadership.ends() => None,
            result = work => Some(result),
        }
    }

    /// Returns when the term that is now has ended: because another instance may take over, or
    /// because nobody could renew the Lease in time, which is noticed while a request for it hangs.
    async fn ends(&mut self) {
        let number = self.term.borrow_and_update().number;
        loop {
            let term = *self.term.borrow_and_update();
            let Some(until) = term.until.filter(|_| term.number == number) else {
                return;
            };
            tokio::select! {
                // Looked at again: it may have been renewed at this very moment.
                () = tokio::time::sleep_until(until) => if !self.leads() {
                    return;
                },
                changed = self.term.changed() => if changed.is_err() {
                    return;
                },
            }
        }
    }
}

// === impl Term ===

impl Term {
    fn is_now(&self) -> bool {
        self.until.is_some_and(|it| Instant::now() < it)
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
        latch: Latch,
    ) -> (Self, Leadership) {
        let (sender, term) = watch::channel(Term::default());
        let lease = Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity: identity.to_owned(),
            term: sender,
            seen: None,
            metrics,
            latch,
        };
        (lease, Leadership { term, told: 0 })
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
                Ok(Ok(ours)) => {
                    self.latch.set();
                    // Counted from before the request: when it was answered does not matter.
                    self.lead(ours.then(|| asked + DEADLINE));
                }
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
        let before = *self.term.borrow();
        // A renewal after the deadline begins a new term: what ran before was cut off.
        let begins = until.is_some() && !before.is_now();
        self.term.send_replace(Term {
            number: before.number + u64::from(begins),
            until,
        });
        self.metrics.leader(until.is_some());
        let identity = &self.identity;
        if begins {
            tracing::info!(identity, "this instance writes from now on");
        } else if until.is_none() && before.until.is_some() {
            tracing::info!(identity, "this instance writes no more");
        }
    }

    /// The last renewal counts until its deadline.
    fn failed(&self, error: &str) {
        tracing::warn!(error, lease = self.name, "the lease could not be renewed");
        let term = *self.term.borrow();
        if term.until.is_some() && !term.is_now() {
            self.lead(None);
        }
    }

    /// So that the next one need not wait.
    async fn give_back(&mut self) {
        let held = self.term.borrow().until.is_some();
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

    /// Leadership that a test gives and takes.
    fn fake() -> (watch::Sender<Term>, Leadership) {
        let (sender, term) = watch::channel(Term::default());
        (sender, Leadership { term, told: 0 })
    }

    fn term(number: u64, seconds: u64) -> Term {
        Term {
            number,
            until: Some(Instant::now() + Duration::from_secs(seconds)),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_goes_on_through_renewals_to_its_end() {
        let (sender, leadership) = fake();
        sender.send_replace(term(1, 10));
        let renewals = async {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(8)).await;
                sender.send_replace(term(1, 10));
            }
        };
        let work = async {
            tokio::time::sleep(Duration::from_secs(45)).await;
            "done"
        };
        let ((), done) = tokio::join!(renewals, leadership.while_leading(work));
        assert_eq!(done, Some("done"));
    }

    #[tokio::test(start_paused = true)]
    async fn work_is_cut_off_at_the_deadline_and_when_another_leads() {
        let (sender, leadership) = fake();
        let begin = Instant::now();
        sender.send_replace(term(1, 10));
        let hangs = std::future::pending::<()>();
        assert_eq!(leadership.while_leading(hangs).await, None);
        assert_eq!(begin.elapsed().as_secs(), 10);
        assert!(!leadership.leads());
        sender.send_replace(term(2, 10));
        let taken = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            sender.send_replace(Term {
                number: 2,
                until: None,
            });
        };
        let hangs = std::future::pending::<()>();
        let (done, ()) = tokio::join!(leadership.while_leading(hangs), taken);
        assert_eq!((done, begin.elapsed().as_secs()), (None, 11));
    }

    #[tokio::test(start_paused = true)]
    async fn work_of_an_earlier_term_does_not_go_on_in_the_next() {
        let (sender, leadership) = fake();
        sender.send_replace(term(1, 10));
        let again = async {
            tokio::task::yield_now().await;
            sender.send_replace(term(2, 10));
        };
        let hangs = std::future::pending::<()>();
        let (done, ()) = tokio::join!(leadership.while_leading(hangs), again);
        assert_eq!(done, None);
        assert!(leadership.leads());
    }

    #[tokio::test]
    async fn work_is_not_begun_by_one_that_does_not_lead() {
        let (_sender, leadership) = fake();
        let mut begun = false;
        let done = leadership.while_leading(async { begun = true }).await;
        assert_eq!((done, begun), (None, false));
    }

    #[tokio::test(start_paused = true)]
    async fn each_term_is_told_once_however_fast_they_follow() {
        let (sender, mut leadership) = fake();
        sender.send_replace(term(1, 10));
        leadership.gained().await;
        // Lost and gained between two looks.
        sender.send_replace(Term::default());
        sender.send_replace(term(2, 10));
        leadership.gained().await;
        sender.send_replace(term(2, 20));
        let more = tokio::time::timeout(Duration::from_secs(60), leadership.gained());
        more.await.expect_err("a renewal is no news");
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_came_too_late_begins_a_new_term() {
        let config = kube::Config::new("http://127.0.0.1:1".parse().expect("a URL"));
        let client = Client::try_from(config).expect("a client");
        let latch = crate::run::Readiness::default().latch("lease");
        let (lease, leadership) = Lease::new(client, "a", "b", "c", Metrics::default(), latch);
        let number = || leadership.term.borrow().number;
        lease.lead(Some(Instant::now() + DEADLINE));
        tokio::time::advance(DEADLINE / 2).await;
        lease.lead(Some(Instant::now() + DEADLINE));
        assert_eq!(number(), 1);
        tokio::time::advance(DEADLINE).await;
        assert!(!leadership.leads());
        lease.lead(Some(Instant::now() + DEADLINE));
        assert_eq!(number(), 2);
        assert!(leadership.leads());
    }
}
