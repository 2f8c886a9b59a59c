//! Brings the machine to a target: read, diff, apply, verify.
//!
//! It runs as a task of its own, so that the event loop never waits for netlink, nft or a userspace device. Jobs are done
//! one after the other, each answered by a [`Report`].
//!
//! # How much is read
//!
//! In a large mesh reading all routes costs more than changing a few. The kernel acknowledges every route, every peer and
//! every transaction of nf_tables that it takes, and announces what other programs change in them. So where the machine was
//! verified before and nothing has been announced since, a [job](Job::Reach) that is `incremental` starts from what is
//! known, and, if it changes nothing but routes, peers and the nft table, reads only the WireGuard device again, which
//! announces nothing. Everything else (the first time, changes by others, every minute, a step that failed, any other kind
//! of step) is read in full before and after.

mod opening;
mod removal;
mod steps;

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    error::Error,
    net::SocketAddr,
    sync::Arc,
};

use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use spanwire_core::{
    DeviceReading, Outcome, PeerUpdates, Survey, Target, Trouble,
    fights::{Subject, subjects},
    state::same_but_for_endpoints,
    trouble::texts,
};
use spanwire_host::{Host, LinkName, Owned, OwnershipConflict, Step, WireGuard, diff};
use spanwire_kernel::{
    Backend, Changes, JudgedWay, Kernel, NetlinkError, OpenError, Packet, PrivateKey, ReadError,
};
use spanwire_topology::PublicKey;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{args::Paths, causes::chain};
use steps::{
    advance, close_first, failures, forget_peers, is_acknowledged, is_search, leave_to_others, refused_peers,
    spare_heard,
};

/// What the reconciler is asked for.
pub enum Job {
    /// Find out what is on the machine.
    Survey(SurveyRequest),
    /// Bring the machine to this target.
    Reach {
        /// What is to be achieved.
        target: Target,
        /// Start from what is known, see the module's head.
        incremental: bool,
    },
    /// Read the WireGuard device.
    ReadDevice,
    /// Read what is Spanwire's on the machine: `None` where it has not been worked with yet.
    Read {
        /// What should be there.
        wanted: Arc<Host>,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<Option<Host>, ReadError>>,
    },
    /// Ask the kernel which way it sends a packet: `None` where the machine has not been worked with yet.
    FindWay {
        /// The packet.
        packet: Packet,
        /// The device of the hop between nodes of the location, where there is one alone.
        hop: Option<LinkName>,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<Option<JudgedWay>, ReadError>>,
    },
}

/// How a survey is to be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct SurveyRequest {
    /// Read what is there besides Spanwire, although nothing says that it changed.
    pub full: bool,
    /// The node is to retire, and needs no key.
    pub retire: bool,
    /// The UDP port on which this node listens, or will when it comes to lead.
    pub listen_port: Option<u16>,
    /// The node leads.
    pub leads: bool,
    /// Subscribe to changes by other programs.
    pub subscribe: bool,
}

/// Says of each change by other programs that there was one, until it fails.
pub type Announcements = BoxStream<'static, Result<(), NetlinkError>>;

/// What came of a job.
pub enum Report {
    /// The survey, and the subscription where one was asked for and can be had.
    Surveyed(Box<Result<Survey, Trouble>>, Option<Announcements>),
    /// What came of a target.
    Reached(Box<Outcome>),
    /// The WireGuard device.
    Device(Result<DeviceReading, ReadError>),
}

/// Reads, compares and changes this machine.
pub struct Reconciler {
    paths: Paths,
    owned: Owned,
    kernel: Option<Kernel>,
    identity: Option<PublicKey>,
    /// Who needs the key besides the device.
    keys: watch::Sender<Option<PrivateKey>>,
    /// Why there is no key, or none that will be there after a boot.
    key_trouble: Option<Trouble>,
    /// What was wanted when the machine was last found to be so.
    achieved: Option<Arc<Host>>,
    /// The machine as it is, as far as that is known without reading it again.
    known: Option<Host>,
    /// The endpoints to which the ways were last looked up.
    endpoints: BTreeSet<SocketAddr>,
    /// What other programs use that is Spanwire's, as far as it is known.
    ownership: Vec<OwnershipConflict>,
}

/// Why nothing can be done to the machine at all.
#[derive(Debug, Error)]
pub enum ReconcileError {
    /// The kernel.
    #[error("the machine's network cannot be worked with")]
    Open(#[from] OpenError),
    /// Its state cannot be read.
    #[error("the machine's state is not known")]
    Read(#[from] ReadError),
}

impl Reconciler {
    /// Returns a reconciler that has not touched the machine yet, and gives away the node's key when it is known.
    #[must_use]
    pub fn new(paths: Paths, owned: Owned, keys: watch::Sender<Option<PrivateKey>>) -> Self {
        Self {
            paths,
            owned,
            kernel: None,
            identity: None,
            keys,
            key_trouble: None,
            achieved: None,
            known: None,
            endpoints: BTreeSet::new(),
            ownership: Vec::new(),
        }
    }

    /// Does the jobs, until there can be no more of them.
    pub async fn run(mut self, mut jobs: mpsc::UnboundedReceiver<Job>, reports: mpsc::Sender<Report>) {
        while let Some(job) = jobs.recv().await {
            let report = match job {
                Job::Survey(request) => self.survey(request).await,
                Job::Reach { target, incremental } => {
                    Report::Reached(Box::new(self.reach(&target, incremental).await))
                }
                Job::ReadDevice => Report::Device(self.read_device().await),
                Job::Read { wanted, answer } => {
                    // The asker may have gone.
                    let _gone = answer.send(self.actual(&wanted).await);
                    continue;
                }
                Job::FindWay { packet, hop, answer } => {
                    let _gone = answer.send(self.way(&packet, hop.as_ref()).await);
                    continue;
                }
            };
            if reports.send(report).await.is_err() {
                return;
            }
        }
    }

    async fn survey(&mut self, request: SurveyRequest) -> Report {
        let opened = self.open(request.retire, request.listen_port).await;
        // Before anything is read: what changes from here on is announced.
        let changes = opened
            .as_ref()
            .ok()
            .filter(|()| request.subscribe)
            .and_then(|()| self.subscribe());
        let survey = match opened {
            Ok(()) => self.survey_opened(request).await,
            Err(error) => Err(error),
        };
        let survey = survey.map_err(|error| {
            self.forget_known();
            Trouble::Machine(chain(&error))
        });
        Report::Surveyed(Box::new(survey), changes)
    }

    async fn survey_opened(&mut self, request: SurveyRequest) -> Result<Survey, ReconcileError> {
        let device = self.read_device().await?;
        let Some(kernel) = &mut self.kernel else {
            return Ok(Survey::default());
        };
        let backend = match kernel.backend() {
            Backend::Kernel => spanwire_crds::Backend::Kernel,
            Backend::Userspace(_) => spanwire_crds::Backend::Userspace,
        };
        let endpoints: BTreeSet<SocketAddr> =
            device.peers.values().filter_map(|peer| peer.endpoint).collect();
        let inventory = if request.full || endpoints != self.endpoints {
            let inventory = kernel.inventory(&endpoints, request.leads).await?;
            self.endpoints = endpoints;
            Some(inventory)
        } else {
            None
        };
        Ok(Survey {
            identity: self.identity.map(|key| (key, backend)),
            inventory,
            device,
        })
    }

    fn subscribe(&self) -> Option<Announcements> {
        let changes = self.kernel.as_ref()?.changes();
        let changes = changes
            .inspect_err(|error| tracing::warn!(error = error as &dyn Error, "netlink subscription failed"))
            .ok()?;
        let next = async |mut changes: Changes| Some((changes.changed().await, changes));
        Some(stream::unfold(changes, next).boxed())
    }

    /// Reads the WireGuard device, which announces no change.
    async fn read_device(&mut self) -> Result<DeviceReading, ReadError> {
        let Some(kernel) = &mut self.kernel else {
            return Ok(DeviceReading::default());
        };
        let reading = read_device(kernel).await?;
        if let Some(known) = &mut self.known
            && !set_device(known, &self.owned.link, reading.device.as_ref())
        {
            // It came or went, and what depends on it too.
            self.known = None;
        }
        Ok(reading)
    }

    /// Reads what is Spanwire's on the machine.
    async fn actual(&mut self, wanted: &Host) -> Result<Option<Host>, ReadError> {
        match &mut self.kernel {
            Some(kernel) => kernel.read(wanted.sysctls.keys()).await.map(Some),
            None => Ok(None),
        }
    }

    async fn way(&mut self, packet: &Packet, hop: Option<&LinkName>) -> Result<Option<JudgedWay>, ReadError> {
        match &mut self.kernel {
            Some(kernel) => kernel.judged_way(packet, hop).await.map(Some),
            None => Ok(None),
        }
    }

    /// Brings the machine to the target; where that is to retire, without a trace of Spanwire.
    async fn reach(&mut self, target: &Target, incremental: bool) -> Outcome {
        let mut outcome = Outcome::default();
        if let Err(error) = self.attempt(target, incremental, &mut outcome).await {
            self.achieved = None;
            self.forget_known();
            outcome.troubles.push(Trouble::Machine(chain(&error)));
        }
        if target.retire && outcome.troubles.is_empty() {
            outcome.troubles = self.forget().await;
            outcome.retired = outcome.troubles.is_empty();
        }
        outcome
    }

    async fn attempt(
        &mut self,
        target: &Target,
        incremental: bool,
        outcome: &mut Outcome,
    ) -> Result<(), ReconcileError> {
        self.open(target.retire, target.listen_port).await?;
        let target = &*self.without_heard(target).await?;
        let kernel = self.kernel.as_mut().expect("it has just been opened");
        if !self.ownership.is_empty() {
            self.ownership = kernel.ownership_conflicts(target.listen_port).await?;
        }
        let ownership = self.ownership.iter().cloned().map(Trouble::Ownership);
        outcome.troubles.extend(ownership);
        outcome
            .troubles
            .extend(self.key_trouble.clone().filter(|_| !target.retire));
        let known = self.known.take().filter(|_| incremental);
        let incremental = known.is_some();
        let mut actual = match known {
            Some(known) => known,
            None => kernel.read(target.host.sysctls.keys()).await?,
        };
        let wanted = with_endpoints(&target.host, &target.endpoints);
        let renewed = forget_peers(&mut actual, &target.renewals);
        let recreated = renewed
            .iter()
            .map(|key| Step::DeletePeer(self.owned.link.clone(), *key));
        let mut steps: Vec<Step> = recreated.collect();
        steps.extend(diff(&actual, &wanted));
        leave_to_others(&mut steps, &self.ownership);
        if actual.nft.is_none() {
            close_first(&mut steps);
        }
        let mut updates = PeerUpdates {
            given: target.endpoints.clone(),
            ..PeerUpdates::default()
        };
        if steps.is_empty() {
            outcome.peers = Some(updates);
        } else {
            let search = is_search(&steps, &target.endpoints, &renewed);
            let achieved = self.achieved.take();
            if achieved
                .as_ref()
                .is_some_and(|achieved| is_same(achieved, &target.host))
            {
                let news = |step: &&Step| !is_search(std::slice::from_ref(step), &target.endpoints, &renewed);
                outcome.repaired = subjects(steps.iter().filter(news));
            }
            let acknowledged = incremental && steps.iter().all(is_acknowledged);
            let advanced = acknowledged.then(|| advance(actual, &steps));
            let news = |subject: &Subject| !target.contested.contains(subject);
            let quiet = search || !(outcome.repaired.is_empty() || outcome.repaired.keys().any(news));
            updates.refused = apply(kernel, steps, quiet, outcome).await;
            updates.renewed = &renewed - &updates.refused;
            // At once: whatever fails from here on, the device has these.
            outcome.peers = Some(updates);
            actual = match self.verify(target, advanced, outcome).await? {
                Some(actual) => actual,
                None => {
                    // What is gone again at once was there before.
                    let taken = outcome.failed == 0 && !outcome.repaired.is_empty();
                    self.achieved = achieved.filter(|_| taken);
                    return Ok(());
                }
            };
        }
        self.known = Some(actual);
        outcome.is_as_wanted = true;
        self.achieved = Some(Arc::clone(&target.host));
        Ok(())
    }

    /// Returns the target, but for the peers that need not be recreated any more.
    async fn without_heard<'a>(&mut self, target: &'a Target) -> Result<Cow<'a, Target>, ReadError> {
        if target.renewals.is_empty() {
            return Ok(Cow::Borrowed(target));
        }
        let kernel = self.kernel.as_mut().expect("it has just been opened");
        let mut target = target.clone();
        spare_heard(&mut target, &read_device(kernel).await?.peers);
        Ok(Cow::Owned(target))
    }

    /// Returns the machine as it is after the steps, where that is as wanted. `advanced` is what it should be like after
    /// steps that the kernel acknowledges.
    async fn verify(
        &mut self,
        target: &Target,
        advanced: Option<Host>,
        outcome: &mut Outcome,
    ) -> Result<Option<Host>, ReconcileError> {
        let kernel = self.kernel.as_mut().expect("steps were applied");
        // New peers get a stimulus at once.
        let reading = read_device(kernel).await?;
        let device = reading.device.clone();
        outcome.device = Some(reading);
        if let Some(mut advanced) = advanced.filter(|_| outcome.failed == 0) {
            let as_wanted = match (&device, target.host.wireguard(&self.owned.link)) {
                (Some(device), Some(wanted)) => same_but_for_endpoints(device, wanted),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            if as_wanted && set_device(&mut advanced, &self.owned.link, device.as_ref()) {
                return Ok(Some(advanced));
            }
        }
        let actual = kernel.read(target.host.sysctls.keys()).await?;
        let mut left = diff(&actual, &target.host);
        leave_to_others(&mut left, &self.ownership);
        if outcome.failed == 0 && left.is_empty() {
            return Ok(Some(actual));
        }
        if outcome.failed == 0 {
            outcome.troubles.push(Trouble::NotInEffect(left));
        }
        // Perhaps another program is why.
        self.ownership = kernel.ownership_conflicts(target.listen_port).await?;
        Ok(None)
    }

    fn forget_known(&mut self) {
        self.known = None;
        self.endpoints.clear();
    }
}

async fn read_device(kernel: &mut Kernel) -> Result<DeviceReading, ReadError> {
    let (device, peers) = kernel.read_wireguard().await?.unzip();
    Ok(DeviceReading {
        device,
        peers: peers.unwrap_or_default(),
    })
}

/// Returns the host with these endpoints given to its peers.
fn with_endpoints<'a>(host: &'a Host, endpoints: &BTreeMap<PublicKey, SocketAddr>) -> Cow<'a, Host> {
    if endpoints.is_empty() {
        return Cow::Borrowed(host);
    }
    let mut host = host.clone();
    for (_, device) in host.wireguards_mut() {
        for (key, peer) in &mut device.peers {
            peer.endpoint = endpoints.get(key).copied();
        }
    }
    Cow::Owned(host)
}

/// Puts the device as it was read into what is known. Returns whether it is there in both, or in neither.
fn set_device(known: &mut Host, name: &LinkName, device: Option<&WireGuard>) -> bool {
    let known = known.wireguards_mut().find(|(known, _)| *known == name);
    match (known, device) {
        (Some((_, known)), Some(device)) => {
            known.clone_from(device);
            true
        }
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

fn is_same(host: &Arc<Host>, other: &Arc<Host>) -> bool {
    Arc::ptr_eq(host, other) || host == other
}

/// Applies the steps; returns the peers that the device did not take as wanted. What is tried or done over and over is no
/// line of the log each time: a fight is one trouble, as long as it lasts.
async fn apply(
    kernel: &mut Kernel,
    steps: Vec<Step>,
    quiet: bool,
    outcome: &mut Outcome,
) -> BTreeSet<PublicKey> {
    let described = texts(&steps);
    let report = kernel.apply(steps).await;
    outcome.applied = report.done;
    outcome.failed = report.failed.len();
    let refused = refused_peers(&report.failed);
    outcome.troubles.extend(failures(report.failed));
    if quiet || report.done == 0 {
        tracing::debug!(count = outcome.applied, steps = described, "tried");
    } else if !outcome.repaired.is_empty() {
        tracing::warn!(steps = described, "repaired what another program had changed");
    } else {
        tracing::info!(count = outcome.applied, steps = described, "changed the machine");
    }
    refused
}
