//! The agent's hands: feeds [`Agent`] with what is heard and does what it asks for.

mod debug;

use std::{
    collections::BTreeSet,
    error::Error,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;
use spanwire_crds::MeshNodeStatus;
use spanwire_host::Owned;
use spanwire_kernel::Changes;
use spanwire_topology::{DnsName, NodeName};
use tokio::sync::watch;

use crate::{
    args::Paths,
    chance::{Backoff, jittered},
    lease::Owner,
    machine::{Machine, Outcome},
    metrics::Metrics,
    reconcile::Agent,
    report::Wish,
    resolve::{Resolved, Resolver},
    snapshot::Snapshot,
    source::ledger::Ledger,
    touch::touch,
};

/// How often the machine is read although nothing announced a change: sysctls and allowed IPs announce none.
const RESYNC: Duration = Duration::from_secs(60);
/// Changes by others come in bursts, as when a CNI restarts.
const BURST: Duration = Duration::from_millis(30);
/// After a reconcile the next change by others waits, so that a fight with somebody costs little.
const PAUSE: Duration = Duration::from_millis(500);
/// How long a change waits to be written to the ledger, with those that come meanwhile.
const LEDGER_DELAY: Duration = Duration::from_secs(1);

/// Where the worker tells what others do for it.
pub struct Outlets {
    /// The status to be written.
    pub status: watch::Sender<Wish>,
    /// Whether to hold the leader's Lease.
    pub owner: watch::Sender<Owner>,
}

/// The agent's hands.
pub struct Worker {
    agent: Agent,
    machine: Machine,
    state_directory: PathBuf,
    resolver: Resolver,
    unresolved: BTreeSet<DnsName>,
    outlets: Outlets,
    metrics: Metrics,
    me: NodeName,
    /// The last one, or what the ledger remembers before there is one.
    before: Option<Arc<Snapshot>>,
    snapshot: Option<Arc<Snapshot>>,
    /// What was last to be reported, and what the API server had then.
    told: (Option<MeshNodeStatus>, Option<MeshNodeStatus>),
    troubles: BTreeSet<String>,
    backoff: Backoff,
    reconciled_at: Option<Instant>,
    reconcile_at: Option<Instant>,
    look_at: Option<Instant>,
    ledger_at: Option<Instant>,
    /// Every trace is gone, as asked for; nothing is done until that changes.
    retired: bool,
}

impl Worker {
    /// A worker that has nothing to do yet.
    #[must_use]
    pub fn new(
        me: NodeName,
        paths: Paths,
        owned: Owned,
        ledger: Option<&Ledger>,
        resolver: Resolver,
        outlets: Outlets,
    ) -> Self {
        let settled = ledger.map(|ledger| ledger.settled.clone()).unwrap_or_default();
        Self {
            agent: Agent::new(me.clone(), owned.clone(), settled),
            me,
            before: ledger.map(|ledger| Arc::clone(&ledger.snapshot)),
            state_directory: paths.state_dir.clone(),
            machine: Machine::new(paths, owned),
            resolver,
            unresolved: BTreeSet::new(),
            outlets,
            metrics: Metrics::default(),
            snapshot: None,
            told: (None, None),
            troubles: BTreeSet::new(),
            // The tunnel process may be about to start.
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(3)),
            reconciled_at: None,
            reconcile_at: None,
            look_at: None,
            ledger_at: None,
            retired: false,
        }
    }

    /// Whether there is a snapshot to work from.
    #[must_use]
    pub fn has_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }

    /// There is another snapshot. One that comes from the ledger need not be written there again.
    pub async fn take_snapshot(&mut self, snapshot: Arc<Snapshot>, from_ledger: bool) {
        let now = Instant::now();
        let (snapshot, unpublished) = snapshot.or_before(self.before.as_deref(), &self.me);
        let changed = self.agent.handle_unpublished(unpublished) | self.agent.handle_snapshot(&snapshot, now);
        self.before = Some(Arc::clone(&snapshot));
        self.retired &= self.agent.retire();
        self.snapshot = Some(snapshot);
        if !from_ledger {
            self.ledger_at.get_or_insert(now + LEDGER_DELAY);
        }
        self.resolver.want(&self.agent.names().into_keys().collect());
        if changed || self.reconciled_at.is_none() {
            self.reconcile().await;
        }
        self.report();
    }

    /// Somebody changed something on the machine.
    pub fn take_change(&mut self) {
        let now = Instant::now();
        let earliest = self.reconciled_at.map_or(now, |at| at + PAUSE);
        self.sooner(earliest.max(now + BURST));
    }

    /// A name was resolved, or could not be.
    pub async fn take_resolved(&mut self, (name, result): Resolved) {
        match result {
            Ok(addresses) => {
                if self.unresolved.remove(&name) {
                    tracing::info!(%name, "the name is resolved again");
                }
                self.agent.handle_resolved(name, addresses);
                self.look().await;
            }
            Err(cause) => {
                if self.unresolved.insert(name.clone()) {
                    let parties = self.agent.names().remove(&name).unwrap_or_default();
                    let parties: Vec<String> = parties.iter().map(ToString::to_string).collect();
                    let parties = parties.join(", ");
                    tracing::warn!(%name, %parties, cause, "cannot resolve the name of an endpoint");
                }
            }
        }
    }

    /// The API server is reached at these addresses.
    pub fn take_api_server(&mut self, addresses: BTreeSet<SocketAddr>) {
        if self.agent.handle_api_server(addresses) && self.reconciled_at.is_some() {
            self.sooner(Instant::now());
        }
    }

    /// When to call [`Self::turn`] next.
    #[must_use]
    pub fn wake_at(&self) -> Option<Instant> {
        [self.reconcile_at, self.look_at, self.ledger_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    pub async fn turn(&mut self) {
        let now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.look_at) {
            self.look_at = None;
            if self.agent.handle_timeout(now) {
                self.ledger_at.get_or_insert(now + LEDGER_DELAY);
                self.sooner(now);
            }
            self.look().await;
        }
        if due(self.reconcile_at) {
            self.reconcile().await;
        }
        if due(self.ledger_at) {
            self.remember().await;
        }
        self.report();
    }

    /// Hears of changes by others, once the machine is known.
    pub fn changes(&self) -> Option<Changes> {
        self.machine.changes()
    }

    /// Writes what is not written yet.
    pub async fn finish(&mut self) {
        if self.ledger_at.is_some() {
            self.remember().await;
        }
    }

    fn sooner(&mut self, at: Instant) {
        if !self.retired {
            self.reconcile_at = Some(self.reconcile_at.map_or(at, |present| present.min(at)));
        }
    }

    async fn reconcile(&mut self) {
        self.reconcile_at = None;
        if self.retired || self.snapshot.is_none() {
            return;
        }
        let start = Instant::now();
        let outcome = self.machine.reconcile(&mut self.agent).await;
        self.retired = self.agent.retire() && outcome.troubles.is_empty();
        if self.retired {
            self.ledger_at = None;
            self.before = None;
            tracing::info!("retired: every trace of Spanwire is removed from this node");
        }
        self.judge(&outcome, start);
        self.agent.handle_reconciled(outcome.troubles, self.retired);
        self.touch();
        let now = Instant::now();
        self.look_at = self.agent.poll_timeout(now);
        self.reconciled_at = Some(now);
    }

    fn judge(&mut self, outcome: &Outcome, start: Instant) {
        self.metrics.steps.inc_by(outcome.applied as u64);
        self.metrics.failures.inc_by(outcome.failed as u64);
        self.metrics.repairs.inc_by(u64::from(outcome.repaired));
        self.metrics.ready.set(i64::from(outcome.troubles.is_empty()));
        self.metrics.reconciled(start.elapsed());
        let troubles: BTreeSet<String> = outcome.troubles.iter().cloned().collect();
        for trouble in troubles.difference(&self.troubles) {
            tracing::warn!("{trouble}");
        }
        if troubles.is_empty() && !self.troubles.is_empty() {
            tracing::info!("nothing is left undone any more");
        }
        self.troubles = troubles;
        let wait = if outcome.is_as_wanted {
            self.backoff.reset();
            jittered(RESYNC)
        } else {
            self.backoff.wait()
        };
        self.sooner(Instant::now() + wait);
    }

    /// Looks at the WireGuard device, touches whom it is time to touch, and reconciles where that is called for.
    async fn look(&mut self) {
        if self.retired || self.reconciled_at.is_none() {
            return;
        }
        match self.machine.look_at_device(&mut self.agent).await {
            Ok(true) => self.sooner(Instant::now()),
            Ok(false) => {}
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn Error,
                    "the WireGuard device cannot be read"
                );
                self.sooner(Instant::now());
            }
        }
        self.touch();
        self.look_at = self.agent.poll_timeout(Instant::now());
    }

    fn touch(&mut self) {
        let now = Instant::now();
        let tunnel = self.agent.plan().tunnel.as_ref();
        let own = tunnel.map(|tunnel| tunnel.addresses.clone()).unwrap_or_default();
        for (key, overlay) in self.agent.poll_touch(now) {
            match touch(&own, overlay) {
                Ok(()) => self.agent.handle_touched(&key, now),
                Err(cause) => tracing::debug!(%cause, "a leader cannot be touched yet"),
            }
        }
    }

    fn report(&mut self) {
        let links = self.agent.links().iter();
        self.metrics
            .links(links.map(|(location, up)| (location.to_string(), up)));
        let generation = i64::try_from(self.agent.mesh().generation.0).unwrap_or(i64::MAX);
        self.metrics.generation.set(generation);
        let owner = self
            .snapshot
            .as_ref()
            .and_then(|snapshot| snapshot.node.as_ref()?.metadata.uid.clone());
        let owner = owner.filter(|_| self.agent.leads());
        self.outlets.owner.send_if_modified(|known| {
            let changed = *known != owner;
            *known = owner;
            changed
        });
        let Some(status) = self.agent.poll_status(Timestamp::now()) else {
            return;
        };
        let observed = self.agent.observed_status().cloned();
        let pair = (Some(status.clone()), observed);
        if pair.0 != pair.1 && pair != self.told {
            self.outlets.status.send_replace(Some(Arc::new(status)));
        }
        self.told = pair;
    }

    async fn remember(&mut self) {
        self.ledger_at = None;
        let Some(snapshot) = self.snapshot.clone().filter(|_| !self.agent.retire()) else {
            return;
        };
        let settled = self.agent.settled().clone();
        let directory = self.state_directory.clone();
        let save = move || Ledger::save(&directory, &Ledger { snapshot, settled }.bytes());
        match tokio::task::spawn_blocking(save).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = &error as &dyn Error, "the ledger is not written"),
            Err(error) => tracing::warn!(error = &error as &dyn Error, "the ledger is not written"),
        }
    }
}
