//! The agent's loop: feeds [`NodeState`] with what is observed, and has done what it asks for.
//!
//! Nothing in it waits: the machine is the [reconciler's](crate::reconciler), names, preshared keys, the API server and the checkpoint
//! have tasks of their own. The reconciler has one job at a time; what becomes due meanwhile waits for its report.
//!
//! What the checkpoint says is enforced before anything else is begun ([`EventLoop::enforce`]): a machine that has just
//! booted has no rule and no table, and its CNI sends plaintext. Until the source has answered, or does not, nothing of
//! that is reported: it is no news.

mod debug;
mod failover;
mod links;
mod preshared;
mod reports;
mod storage;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures::StreamExt as _;
use k8s_openapi::jiff::Timestamp;
use spanwire_cluster::backoff::{Backoff, jittered};
use spanwire_core::{
    ApiServer, Following, NodeState, Outcome, Snapshot, Trouble,
    advice::Heeded,
    liveness::{Assignment, Judgement},
};
use spanwire_crds::MeshNodeStatus;
use spanwire_kernel::NetlinkError;
use spanwire_topology::{DnsName, NodeName};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{sleep_until, timeout, timeout_at},
};

use crate::{
    admin::Query,
    lease::Owner,
    metrics::Metrics,
    preshared::Read,
    prober::Ask,
    reconciler::{Announcements, Job, Report, SurveyRequest},
    resolve::{Resolved, Resolver},
    source::Snapshots,
    status_writer::PendingStatus,
    stimulus,
};
pub use preshared::Preshared;
pub use storage::Storage;
use storage::{CHECKPOINT_DELAY, Saved, finished};

/// How often the machine is read although nothing announced a change: sysctls and allowed IPs announce none.
const RESYNC: Duration = Duration::from_secs(60);
/// Changes by other programs come in bursts, as when a CNI restarts.
const BURST: Duration = Duration::from_millis(30);
/// After a reconcile the next change by other programs waits, so that a fight with one of them costs little.
const PAUSE: Duration = Duration::from_millis(500);
/// While publications go on, so long lies between two that are acted upon. The first is acted upon at once.
const PACE: Duration = Duration::from_millis(200);
/// After so long without an answer from the source the checkpoint has to do, and what comes of it is reported.
const SOURCE_PATIENCE: Duration = Duration::from_secs(2);
/// How long enforcing the checkpoint keeps everything else from beginning. A userspace device may take longer.
const ENFORCE_PATIENCE: Duration = Duration::from_secs(5);
/// How long the job in progress has when the agent is to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Where the loop sends what others are to do.
pub struct Outlets {
    /// The status to be written.
    pub status: watch::Sender<PendingStatus>,
    /// Whether to hold the leader's Lease.
    pub owner: watch::Sender<Owner>,
    /// What the reconciler is to do.
    pub jobs: mpsc::UnboundedSender<Job>,
    /// The names to resolve.
    pub resolver: Resolver,
    /// The preshared keys to read, and to keep.
    pub preshared: Preshared,
    /// What is to be watched.
    pub assignments: watch::Sender<Arc<Assignment>>,
    /// Requests for what is known of that.
    pub asks: mpsc::Sender<Ask>,
}

/// Where the loop hears from others.
pub struct Inlets {
    /// The mesh as published.
    pub snapshots: Snapshots,
    /// What the reconciler has done.
    pub reports: mpsc::Receiver<Report>,
    /// The addresses of names.
    pub names: mpsc::Receiver<Resolved>,
    /// The preshared keys of Peers.
    pub preshared: mpsc::Receiver<Read>,
    /// Requests of the admin endpoint.
    pub queries: mpsc::Receiver<Query>,
    /// Where the API server is.
    pub api_server: watch::Receiver<ApiServer>,
    /// By how many seconds the clock is behind the API server's, where that is known.
    pub clock: watch::Receiver<Option<i64>>,
    /// Which leaders are not to be used.
    pub judgements: watch::Receiver<Judgement>,
    /// What leaders of other locations say.
    pub advice: watch::Receiver<Heeded>,
    /// Whether the process of the tunnels is about to end.
    pub draining: watch::Receiver<bool>,
    /// Why none is watched, where that is so.
    pub failures: watch::Receiver<Option<String>>,
    /// Why the API server does not take the leader's Lease, where that is so.
    pub refusals: watch::Receiver<Option<String>>,
}

/// The agent's loop.
pub struct EventLoop {
    me: NodeName,
    state: NodeState,
    storage: Storage,
    outlets: Outlets,
    metrics: Arc<Metrics>,
    unresolved: BTreeSet<DnsName>,
    /// The source has not answered yet, and may still do so in time.
    is_expectant: bool,
    following: Following,
    snapshot: Option<Arc<Snapshot>>,
    /// Which leaders are not used.
    judgement: Judgement,
    /// What leaders of other locations say.
    advice: Heeded,
    /// The status last reported, and what the API server had then.
    last_reported: (Option<MeshNodeStatus>, Option<MeshNodeStatus>),
    /// The status that was last given to be written.
    last_given: Option<Arc<MeshNodeStatus>>,
    /// The texts of the troubles last logged.
    logged: BTreeSet<String>,
    backoff: Backoff,
    changes: Option<Announcements>,
    /// By how many seconds the clock was last found to be behind.
    behind: Option<i64>,
    /// The machine may differ from what the reconciler knows of it.
    suspect: bool,
    /// When the machine was last to be read in full.
    full_at: Option<Instant>,
    /// The job that the reconciler has.
    busy: Option<Busy>,
    reconciled_at: Option<Instant>,
    reconcile_at: Option<Instant>,
    device_at: Option<Instant>,
    checkpoint_at: Option<Instant>,
    saved_at: Option<Instant>,
    saving: Option<JoinHandle<Saved>>,
}

/// A job of the reconciler.
#[derive(Clone, Copy)]
enum Busy {
    /// A survey, and what follows from it.
    Reconciling {
        /// When that began.
        since: Instant,
        /// Everything is read, whatever is known.
        full: bool,
    },
    /// The device is being read.
    ReadingDevice,
}

impl EventLoop {
    /// Returns a loop that has nothing to do yet.
    #[must_use]
    pub fn new(
        me: NodeName,
        state: NodeState,
        storage: Storage,
        checkpoint: Option<Arc<Snapshot>>,
        outlets: Outlets,
    ) -> Self {
        Self {
            following: Following::new(me.clone(), checkpoint),
            me,
            state,
            storage,
            outlets,
            metrics: Arc::default(),
            unresolved: BTreeSet::new(),
            is_expectant: true,
            snapshot: None,
            judgement: Judgement::default(),
            advice: Heeded::default(),
            last_reported: (None, None),
            last_given: None,
            logged: BTreeSet::new(),
            // The tunnel process may be about to start.
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(3)),
            changes: None,
            behind: None,
            suspect: true,
            full_at: None,
            busy: None,
            reconciled_at: None,
            reconcile_at: None,
            device_at: None,
            checkpoint_at: None,
            saved_at: None,
            saving: None,
        }
    }

    /// Does what the checkpoint says, if there is one; returns when that is done, or takes too long to wait for.
    ///
    /// # Errors
    /// When the reconciler has ended.
    pub async fn enforce(&mut self, reports: &mut mpsc::Receiver<Report>) -> anyhow::Result<()> {
        let Some(snapshot) = self.following.followed().cloned() else {
            return Ok(());
        };
        self.take_snapshot(snapshot, true);
        self.start_job();
        let patience = Self::now() + ENFORCE_PATIENCE;
        while self.busy.is_some() {
            let Ok(report) = timeout_at(patience.into(), reports.recv()).await else {
                tracing::warn!("enforcing the checkpoint takes long; going on beside it");
                break;
            };
            self.take_report(report.context("the reconciler has ended")?);
        }
        Ok(())
    }

    /// Runs until `stop` ends.
    ///
    /// # Errors
    /// When the source or the reconciler has ended.
    pub async fn run(&mut self, mut inlets: Inlets, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let mut stop = std::pin::pin!(stop);
        let patience = Self::now() + SOURCE_PATIENCE;
        let mut next_snapshot = Self::now();
        loop {
            self.assign();
            let wake = self.wake_at();
            tokio::select! {
                changed = changed_after(&mut inlets.snapshots, next_snapshot) => {
                    changed.context("the source has ended")?;
                    next_snapshot = Self::now() + PACE;
                    let snapshot = inlets.snapshots.borrow_and_update().clone();
                    if let Some(snapshot) = snapshot {
                        self.is_expectant = false;
                        self.take_snapshot(snapshot, false);
                    }
                }
                () = sleep_until(patience.into()), if self.is_expectant => {
                    self.is_expectant = false;
                    if self.snapshot.is_some() {
                        tracing::warn!("the source does not answer; going on from the checkpoint");
                    }
                }
                changed = changed(&mut self.changes) => match changed {
                    Ok(()) => self.take_change(),
                    Err(error) => {
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "netlink subscription lost, resubscribing"
                        );
                        self.changes = None;
                        self.take_change();
                    }
                },
                report = inlets.reports.recv() => self.take_report(report.context("the reconciler has ended")?),
                Some(resolved) = inlets.names.recv() => self.take_resolved(resolved),
                Some(read) = inlets.preshared.recv() => self.take_preshared(read),
                Some(query) = inlets.queries.recv() => self.answer(query),
                Ok(()) = inlets.api_server.changed() => {
                    let server = inlets.api_server.borrow_and_update().clone();
                    self.take_api_server(server);
                }
                Ok(()) = inlets.clock.changed() => {
                    self.behind = *inlets.clock.borrow_and_update();
                    self.compare_clock();
                }
                Ok(()) = inlets.judgements.changed() => {
                    let judgement = inlets.judgements.borrow_and_update().clone();
                    self.take_judgement(judgement);
                }
                Ok(()) = inlets.advice.changed() => {
                    let advice = inlets.advice.borrow_and_update().clone();
                    self.take_advice(advice);
                }
                Ok(()) = inlets.draining.changed() => {
                    let draining = *inlets.draining.borrow_and_update();
                    self.take_draining(draining);
                }
                Ok(()) = inlets.failures.changed() => {
                    self.state.handle_unwatched(inlets.failures.borrow_and_update().clone());
                    self.log_troubles();
                }
                Ok(()) = inlets.refusals.changed() => {
                    self.state.handle_lease(inlets.refusals.borrow_and_update().clone());
                }
                saved = finished(&mut self.saving) => self.take_saved(saved),
                () = sleep_until(wake.unwrap_or(patience).into()), if wake.is_some() => self.take_timeout(),
                () = &mut stop => return Ok(()),
            }
            self.take_due();
            self.start_job();
            self.report();
        }
    }

    /// Waits for the job in progress, and writes what is not written yet.
    pub async fn finish(mut self, reconciler: JoinHandle<()>) {
        let (none, _) = mpsc::unbounded_channel();
        self.outlets.jobs = none;
        if timeout(STOP_PATIENCE, reconciler).await.is_err() {
            tracing::warn!("a change of the machine did not end in time");
        }
        self.saved().await;
        if self.checkpoint_at.is_some() {
            self.save();
            self.saved().await;
        }
    }

    /// There is another snapshot. One that comes from the checkpoint need not be written there again.
    fn take_snapshot(&mut self, snapshot: Arc<Snapshot>, from_checkpoint: bool) {
        let now = Self::now();
        let followed = self.following.handle_shown(snapshot, now);
        let snapshot = followed.snapshot;
        let is_news = self.state.handle_unpublished(followed.unpublished);
        let changed = is_news | self.state.handle_snapshot(&snapshot, now);
        self.snapshot = Some(snapshot);
        if followed.gives_in {
            tracing::warn!(
                "what the API server shows is older than what this node followed, and is followed now"
            );
        }
        if self.state.handle_older(followed.refused) {
            self.log_troubles();
        }
        if !from_checkpoint {
            self.checkpoint_later(now);
        }
        let names: BTreeMap<_, _> = self.state.names();
        self.outlets.resolver.want(&names.into_keys().collect());
        self.want_preshared();
        if changed || self.reconciled_at.is_none() {
            self.reconcile_by(now);
        }
    }

    /// Another program changed something on the machine.
    fn take_change(&mut self) {
        let now = Self::now();
        self.suspect = true;
        let earliest = self.reconciled_at.map_or(now, |at| at + PAUSE);
        if self.snapshot.is_some() {
            self.reconcile_by(earliest.max(now + BURST));
        }
    }

    /// A name was resolved, or could not be.
    fn take_resolved(&mut self, (name, result): Resolved) {
        match result {
            Ok(addresses) => {
                if self.unresolved.remove(&name) {
                    tracing::info!(%name, "the name is resolved again");
                }
                self.state.handle_resolved(name, addresses);
                if self.reconciled_at.is_some() {
                    self.device_at = Some(Self::now());
                }
            }
            Err(cause) => {
                if self.unresolved.insert(name.clone()) {
                    let parties = self.state.names().remove(&name).unwrap_or_default();
                    let parties: Vec<String> = parties.iter().map(ToString::to_string).collect();
                    let parties = parties.join(", ");
                    tracing::warn!(%name, %parties, cause, "cannot resolve the name of an endpoint");
                }
            }
        }
    }

    /// The API server is elsewhere.
    fn take_api_server(&mut self, server: ApiServer) {
        let now = Self::now();
        if self.state.handle_api_server(server) && self.reconciled_at.is_some() {
            self.reconcile_by(now);
        }
        if !self.is_expectant {
            self.checkpoint_later(now);
        }
    }

    fn compare_clock(&mut self) {
        self.state.handle_clock(Timestamp::now(), self.behind);
        self.log_troubles();
    }

    /// Gives the state the time that it asked for, whatever the loop woke up for: the device is then read at once, and the time
    /// that comes next would be the same.
    fn take_due(&mut self) {
        let now = Self::now();
        if due(self.device_at, now) && self.state.handle_timeout(now) {
            self.checkpoint_later(now);
            self.reconcile_by(now);
        }
    }

    fn take_timeout(&mut self) {
        let now = Self::now();
        self.take_due();
        if let Some(shown) = self.following.handle_timeout(now) {
            self.take_snapshot(shown, false);
        }
        self.log_troubles();
        if due(self.checkpoint_at, now) && self.saving.is_none() {
            self.save();
        } else if due(self.checkpoint_at, now) {
            // The disk is slow.
            self.checkpoint_at = Some(now + CHECKPOINT_DELAY);
        }
    }

    fn take_report(&mut self, report: Report) {
        let now = Self::now();
        let busy = self.busy.take();
        match (report, busy) {
            (Report::Surveyed(survey, changes), Some(Busy::Reconciling { full, .. })) => {
                self.changes = changes.or(self.changes.take());
                match *survey {
                    Ok(survey) => self.state.handle_survey(survey, now),
                    Err(trouble) => return self.take_outcome(failed(trouble), busy, now),
                }
                if let Some(target) = self.state.poll_target(now) {
                    let incremental = !full && !target.retire;
                    self.send(Job::Reach { target, incremental }, busy);
                }
            }
            (Report::Reached(outcome), _) => self.take_outcome(*outcome, busy, now),
            (Report::Device(Ok(reading)), _) => {
                if self.state.handle_device(reading, now) {
                    self.suspect = true;
                    self.reconcile_by(now);
                }
                self.stimulate(now);
                self.device_at = self.state.poll_timeout(now);
            }
            (Report::Device(Err(error)), _) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "the WireGuard device cannot be read"
                );
                self.suspect = true;
                self.reconcile_by(now);
                self.device_at = self.state.poll_timeout(now);
            }
            // A survey is asked for by a reconcile alone.
            (Report::Surveyed(..), _) => {}
        }
    }

    fn take_outcome(&mut self, outcome: Outcome, busy: Option<Busy>, now: Instant) {
        let since = match busy {
            Some(Busy::Reconciling { since, .. }) => since,
            Some(Busy::ReadingDevice) | None => now,
        };
        self.count(&outcome, now.saturating_duration_since(since));
        self.suspect |= !outcome.is_as_wanted;
        let is_as_wanted = outcome.is_as_wanted;
        let changed = self.state.handle_outcome(outcome, now);
        self.compare_clock();
        self.reconciled_at = Some(now);
        if self.state.retired() {
            self.checkpoint_at = None;
            self.following.forget();
            self.changes = None;
            self.suspect = true;
            (self.reconcile_at, self.device_at) = (None, None);
            tracing::info!("retired: every trace of Spanwire is removed from this node");
            return;
        }
        let wait = if is_as_wanted {
            self.backoff.reset();
            jittered(RESYNC)
        } else {
            self.backoff.wait()
        };
        self.reconcile_by(if changed { now } else { now + wait });
        self.stimulate(now);
        self.device_at = self.state.poll_timeout(now);
    }

    /// Gives the reconciler what is due, if it has nothing to do.
    fn start_job(&mut self) {
        let now = Self::now();
        if self.busy.is_some() {
            return;
        }
        if due(self.reconcile_at, now) && self.snapshot.is_some() && !self.state.retired() {
            self.reconcile_at = None;
            // Every minute in full; by then also what announces no change is read.
            let full = std::mem::take(&mut self.suspect) || self.changes.is_none() || self.is_resync(now);
            let request = SurveyRequest {
                full,
                retire: self.state.retire(),
                listen_port: self.state.listen_port(),
                leads: self.state.leads(),
                subscribe: self.changes.is_none(),
            };
            if full {
                self.full_at = Some(now);
            }
            self.send(Job::Survey(request), Some(Busy::Reconciling { since: now, full }));
        } else if due(self.device_at, now) {
            self.device_at = None;
            self.send(Job::ReadDevice, Some(Busy::ReadingDevice));
        }
    }

    /// Returns the present time by the clock of the timers, which tests stop.
    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    fn is_resync(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| now >= at + RESYNC)
    }

    fn send(&mut self, job: Job, busy: Option<Busy>) {
        // If it has ended, the end of its reports says so.
        if self.outlets.jobs.send(job).is_ok() {
            self.busy = busy;
        }
    }

    fn reconcile_by(&mut self, at: Instant) {
        if !self.state.retired() {
            self.reconcile_at = Some(self.reconcile_at.map_or(at, |present| present.min(at)));
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let jobs = [self.reconcile_at, self.device_at];
        let jobs = jobs.into_iter().filter(|_| self.busy.is_none());
        let others = [self.checkpoint_at, self.following.poll_timeout()];
        jobs.chain(others).flatten().min()
    }

    fn stimulate(&mut self, now: Instant) {
        for due in self.state.poll_stimuli(now) {
            match stimulus::send(&due) {
                Ok(()) => self.state.handle_stimulated(&due.peer, now),
                Err(cause) => tracing::debug!(%cause, "a stimulus cannot be sent yet"),
            }
        }
    }
}

fn due(at: Option<Instant>, now: Instant) -> bool {
    at.is_some_and(|at| at <= now)
}

fn failed(trouble: Trouble) -> Outcome {
    Outcome {
        troubles: vec![trouble],
        ..Outcome::default()
    }
}

/// Waits for a snapshot, but not before that time.
async fn changed_after(snapshots: &mut Snapshots, at: Instant) -> Result<(), watch::error::RecvError> {
    sleep_until(at.into()).await;
    snapshots.changed().await
}

async fn changed(changes: &mut Option<Announcements>) -> Result<(), NetlinkError> {
    let announced = match changes {
        Some(changes) => changes.next().await,
        None => None,
    };
    match announced {
        Some(announced) => announced,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests;
