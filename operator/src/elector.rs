//! Which of the operators leads: a Lease, as client-go's leader election uses it.
//!
//! [`LeaderElector`] is sans I/O: it is given the Lease and returns what to do. The holder renews the Lease every
//! [`RENEW`]; one that could not do so for [`DEADLINE`] has lost it, well before another may take it after [`TERM`],
//! measured from when that other one last observed a change, so that clocks need not agree.

use std::time::{Duration, Instant};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, Error, api::PostParams};
use spanwire_cluster::observed::Observed;
use thiserror::Error;
use tokio::{sync::watch, time};

use crate::{
    installation::Installation,
    rival::{RENEWED_WITHIN, Rivals, Verdict},
    writer::FIELD_MANAGER,
};

/// The name of the operators' Lease.
pub const LEASE: &str = spanwire_crds::names::OPERATOR_LEASE;
/// How long the Lease holds without renewal.
pub const TERM: Duration = Duration::from_secs(15);
const _: () = assert!(TERM.as_secs() <= RENEWED_WITHIN.as_secs());
/// A holder that could not renew for so long takes the Lease for lost.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// How often the holder renews.
pub const RENEW: Duration = Duration::from_secs(5);
/// How often who leads looks whether another installation has the cluster.
const LOOK: Duration = Duration::from_secs(60);
/// How often the others read the Lease, and how soon a failed attempt is retried.
pub const RETRY: Duration = Duration::from_secs(2);

/// Why nothing may be written any more.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Lost {
    /// The Lease is lost.
    #[error("lease lost")]
    Lease,
    /// Another installation leads.
    #[error(
        "Spanwire runs in this cluster already, {0}, and a cluster has one mesh: uninstall this \
         release, which leaves the nodes of the other one alone, or the other one first"
    )]
    Rival(Installation),
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Write this, creating it where there was none.
    Write(Box<LeaseSpec>),
    /// Read it again later.
    Wait,
}

/// One operator's part in the election.
#[derive(Debug)]
pub struct LeaderElector {
    identity: String,
    observed: Option<(LeaseSpec, Instant)>,
    held_since_renewal: Option<Instant>,
}

impl LeaderElector {
    /// A candidate of this name, which no other may have.
    #[must_use]
    pub fn new(identity: String) -> Self {
        Self {
            identity,
            observed: None,
            held_since_renewal: None,
        }
    }

    /// Returns whether the Lease is held, as far as is known.
    #[must_use]
    pub fn holds(&self, now: Instant) -> bool {
        self.held_since_renewal
            .is_some_and(|renewed| now.saturating_duration_since(renewed) < DEADLINE)
    }

    /// Handles the Lease as it was read.
    pub fn handle_lease(&mut self, lease: Option<&LeaseSpec>, now: Instant, wall: Timestamp) -> Step {
        let Some(lease) = lease else {
            return Step::Write(Box::new(self.claim(None, wall)));
        };
        let news = self
            .observed
            .as_ref()
            .is_none_or(|(observed, _)| observed != lease);
        if news {
            self.observed = Some((lease.clone(), now));
        }
        let holder = lease.holder_identity.as_deref().unwrap_or_default();
        let term = lease
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok());
        let term = term.map_or(TERM, Duration::from_secs);
        let since = self.observed.as_ref().map_or(now, |(_, since)| *since);
        let over = now.saturating_duration_since(since) >= term;
        if holder == self.identity || holder.is_empty() || over {
            Step::Write(Box::new(self.claim(Some(lease), wall)))
        } else {
            self.held_since_renewal = None;
            Step::Wait
        }
    }

    /// Handles that the Lease was written, as asked at this time.
    pub fn handle_written(&mut self, lease: LeaseSpec, asked: Instant) {
        self.observed = Some((lease, asked));
        self.held_since_renewal = Some(asked);
    }

    /// Returns the Lease without a holder, for the next one to take at once.
    #[must_use]
    pub fn release(&self, lease: &LeaseSpec) -> Option<LeaseSpec> {
        (lease.holder_identity.as_deref() == Some(&self.identity)).then(|| LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            ..lease.clone()
        })
    }

    fn claim(&self, lease: Option<&LeaseSpec>, wall: Timestamp) -> LeaseSpec {
        let mine = lease.filter(|lease| lease.holder_identity.as_deref() == Some(&self.identity));
        let transitions = lease
            .and_then(|lease| lease.lease_transitions)
            .unwrap_or_default();
        let changed = lease.is_some() && mine.is_none();
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(TERM.as_secs()).ok(),
            acquire_time: mine
                .and_then(|lease| lease.acquire_time.clone())
                .or(Some(MicroTime(wall))),
            renew_time: Some(MicroTime(wall)),
            lease_transitions: Some(transitions.saturating_add(i32::from(changed))),
            ..LeaseSpec::default()
        }
    }
}

/// Runs a [`LeaderElector`] upon the Lease at the API server.
pub struct ElectionLoop {
    client: Client,
    api: Api<Observed<Lease>>,
    elector: LeaderElector,
    installation: Installation,
    rivals: Rivals,
    /// The own Lease is new, so another installation may not have seen it when it created its own.
    is_new: bool,
    looked: Option<Instant>,
}

impl ElectionLoop {
    /// An election in the namespace of this installation.
    #[must_use]
    pub fn new(client: Client, installation: &Installation, identity: String) -> Self {
        Self {
            api: Api::namespaced(client.clone(), &installation.namespace),
            client,
            elector: LeaderElector::new(identity),
            installation: installation.clone(),
            rivals: Rivals::new(installation.clone()),
            is_new: false,
            looked: None,
        }
    }

    /// Takes part: sets `leads` when the Lease is held, and returns when it is lost again.
    pub async fn run(mut self, leads: watch::Sender<bool>) -> Lost {
        let (mut led, mut doubts) = (false, false);
        loop {
            let answer = time::timeout(RETRY * 2, self.attempt()).await;
            let held = self.elector.holds(Instant::now()) && !self.is_new;
            match &answer {
                Ok(Ok(Verdict::Alone)) => {}
                Ok(Ok(Verdict::Unknown(other))) if !doubts => {
                    doubts = true;
                    tracing::info!(
                        %other,
                        "another installation has a Lease; looking whether it is renewed and publishes anything"
                    );
                }
                Ok(Ok(Verdict::Unknown(_))) => {}
                Ok(Ok(Verdict::Rival(rival))) => {
                    leads.send_replace(false);
                    return Lost::Rival(rival.clone());
                }
                Ok(Err(Error::Api(status))) if status.code == 409 => {
                    tracing::debug!("another operator took the lease first");
                }
                Ok(Err(error)) => {
                    tracing::warn!(
                        error = error as &dyn std::error::Error,
                        "renewing the lease failed"
                    );
                }
                Err(_) => tracing::warn!("renewing the lease timed out"),
            }
            if led && !held {
                leads.send_replace(false);
                return Lost::Lease;
            }
            if held && !led {
                tracing::info!(lease = LEASE, "lease acquired, leading");
                led = true;
                leads.send_replace(true);
            }
            let renewed = matches!(answer, Ok(Ok(_))) && held;
            time::sleep(if renewed { RENEW } else { RETRY }).await;
        }
    }

    /// Takes the Lease or renews it, where that may be done; it is taken only where the cluster is not another installation's,
    /// and kept only as long as that is so.
    async fn attempt(&mut self) -> Result<Verdict, Error> {
        let asked = Instant::now();
        let lease = self.api.get_opt(LEASE).await?;
        let spec = lease.as_ref().map(said);
        let step = self.elector.handle_lease(spec.as_ref(), asked, Timestamp::now());
        // One Lease is for all that are installed in the namespace; who waits for it is a replica, or has to know whose it is.
        let is_others = lease
            .as_ref()
            .is_some_and(|lease| !self.installation.may_be(&Installation::of_lease(lease)));
        let held = self.elector.holds(asked);
        let due = self
            .looked
            .is_none_or(|looked| asked.saturating_duration_since(looked) >= LOOK);
        let mut verdict = Verdict::Alone;
        if is_others || step != Step::Wait && (!held || self.is_new || due) {
            verdict = self.rivals.look(&self.client).await?;
            self.looked = (verdict == Verdict::Alone).then_some(asked);
            if matches!(verdict, Verdict::Rival(_)) || !held && verdict != Verdict::Alone {
                return Ok(verdict);
            }
        }
        let Step::Write(spec) = step else {
            return Ok(verdict);
        };
        let is_new = lease.is_none() && !held;
        let written = write(&self.api, &self.installation, lease, *spec).await?;
        self.elector.handle_written(written, asked);
        // The next look finds every Lease that was created before it was known that this one is there.
        self.is_new = is_new || self.is_new && verdict != Verdict::Alone;
        Ok(verdict)
    }
}

/// Releases the Lease, where `identity` holds it.
///
/// # Errors
/// The error of the API server.
pub async fn release(client: Client, installation: &Installation, identity: String) -> Result<(), Error> {
    let api: Api<Observed<Lease>> = Api::namespaced(client, &installation.namespace);
    let Some(lease) = api.get_opt(LEASE).await? else {
        return Ok(());
    };
    let spec = said(&lease);
    if let Some(spec) = LeaderElector::new(identity).release(&spec) {
        write(&api, installation, Some(lease), spec).await?;
    }
    Ok(())
}

/// Takes the Lease from its holder, for this long.
///
/// # Errors
/// The error of the API server.
pub async fn seize(
    client: &Client,
    installation: &Installation,
    identity: &str,
    term: Duration,
) -> Result<(), Error> {
    let api: Api<Observed<Lease>> = Api::namespaced(client.clone(), &installation.namespace);
    let lease = api.get_opt(LEASE).await?;
    let known = lease.as_ref().map(said);
    let mut spec = LeaderElector::new(identity.to_owned()).claim(known.as_ref(), Timestamp::now());
    spec.lease_duration_seconds = i32::try_from(term.as_secs()).ok();
    write(&api, installation, lease, spec).await.map(|_| ())
}

/// Returns what the Lease says. One that cannot be read has no holder: it would be held for ever.
fn said(lease: &Observed<Lease>) -> LeaseSpec {
    let object = lease.object.as_ref();
    object.and_then(|lease| lease.spec.clone()).unwrap_or_default()
}

/// Fails where another operator was faster.
async fn write(
    api: &Api<Observed<Lease>>,
    installation: &Installation,
    lease: Option<Observed<Lease>>,
    spec: LeaseSpec,
) -> Result<LeaseSpec, Error> {
    let params = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    let object = Lease {
        metadata: ObjectMeta {
            name: Some(LEASE.to_owned()),
            labels: Some(installation.labels()),
            resource_version: lease
                .as_ref()
                .and_then(|lease| lease.metadata.resource_version.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
    };
    let object = object.into();
    let written = match lease {
        Some(_) => api.replace(LEASE, &params, &object).await?,
        None => api.create(&params, &object).await?,
    };
    Ok(said(&written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_first_takes_the_lease_and_the_other_waits() {
        let now = Instant::now();
        let (mut a, mut b) = (candidate("a"), candidate("b"));
        let lease = written(&mut a, None, now);
        assert!(a.holds(now));
        assert_eq!(b.handle_lease(Some(&lease), now, wall(0)), Step::Wait);
        assert!(!b.holds(now));
    }

    #[test]
    fn the_holder_renews_and_so_keeps_it() {
        let start = Instant::now();
        let (mut a, mut b) = (candidate("a"), candidate("b"));
        let mut lease = written(&mut a, None, start);
        for step in 1..10u64 {
            let now = start + RENEW * u32::try_from(step).unwrap();
            let first = lease.acquire_time.clone();
            lease = written(&mut a, Some(&lease), now);
            assert_eq!(lease.acquire_time, first);
            assert_eq!(b.handle_lease(Some(&lease), now, wall(0)), Step::Wait);
        }
        assert_eq!(lease.lease_transitions, Some(0));
    }

    #[test]
    fn a_silent_holder_has_given_up_before_another_takes_over() {
        let start = Instant::now();
        let (mut a, mut b) = (candidate("a"), candidate("b"));
        let lease = written(&mut a, None, start);
        assert_eq!(b.handle_lease(Some(&lease), start, wall(0)), Step::Wait);
        let later = start + TERM - Duration::from_millis(1);
        assert_eq!(b.handle_lease(Some(&lease), later, wall(0)), Step::Wait);
        assert!(!a.holds(start + DEADLINE));
        let taken = written(&mut b, Some(&lease), start + TERM);
        assert!(b.holds(start + TERM));
        assert_eq!(taken.lease_transitions, Some(1));
        assert_eq!(a.handle_lease(Some(&taken), start + TERM, wall(0)), Step::Wait);
    }

    #[test]
    fn times_in_the_lease_do_not_matter() {
        let start = Instant::now();
        let (mut a, mut b) = (candidate("a"), candidate("b"));
        let mut lease = written(&mut a, None, start);
        lease.renew_time = Some(MicroTime(wall(-100_000)));
        assert_eq!(b.handle_lease(Some(&lease), start, wall(0)), Step::Wait);
    }

    #[test]
    fn a_released_lease_is_taken_at_once() {
        let now = Instant::now();
        let (mut a, mut b) = (candidate("a"), candidate("b"));
        let lease = written(&mut a, None, now);
        assert_eq!(b.release(&lease), None);
        let released = a.release(&lease).unwrap();
        assert!(matches!(
            b.handle_lease(Some(&released), now, wall(0)),
            Step::Write(_)
        ));
    }

    #[test]
    fn a_holder_whose_lease_was_taken_knows_at_once() {
        let now = Instant::now();
        let mut a = candidate("a");
        let lease = written(&mut a, None, now);
        let taken = LeaseSpec {
            holder_identity: Some("b".to_owned()),
            ..lease
        };
        assert_eq!(a.handle_lease(Some(&taken), now, wall(0)), Step::Wait);
        assert!(!a.holds(now));
    }

    fn candidate(name: &str) -> LeaderElector {
        LeaderElector::new(name.to_owned())
    }

    fn written(elector: &mut LeaderElector, lease: Option<&LeaseSpec>, now: Instant) -> LeaseSpec {
        let Step::Write(spec) = elector.handle_lease(lease, now, next(lease)) else {
            panic!("nothing to write");
        };
        elector.handle_written((*spec).clone(), now);
        *spec
    }

    /// Each renewal has a time of its own.
    fn next(lease: Option<&LeaseSpec>) -> Timestamp {
        let last = lease.and_then(|lease| lease.renew_time.as_ref());
        last.map_or(wall(0), |last| last.0 + Duration::from_secs(1))
    }

    fn wall(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }
}
