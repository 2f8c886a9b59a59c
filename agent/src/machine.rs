//! Makes the machine as wanted: read, diff, apply, read again.

mod steps;

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error,
    path::PathBuf,
    time::Instant,
};

use spanwire_host::{Host, Owned, OwnershipConflict, Step, diff};
use spanwire_kernel::{
    Backend, BackendChoice, Changes, Config, Kernel, OpenError, PrivateKey, ReadError, Userspace,
};
use spanwire_topology::PublicKey;
use thiserror::Error;

use crate::{
    args::{self, Paths},
    contact::Seen,
    disk,
    identity::{Identity, IdentityError},
    reconcile::Agent,
    source::ledger::Ledger,
};
use steps::{failures, forget_peers, is_search, leave_to_others, refused_peers, texts};

/// This machine.
pub struct Machine {
    paths: Paths,
    owned: Owned,
    kernel: Option<Kernel>,
    /// What was wanted when the machine was last found to be so.
    achieved: Option<Host>,
    /// What of others stands in the way, as far as it is known.
    clashes: Vec<OwnershipConflict>,
}

/// Why nothing can be done to the machine at all.
#[derive(Debug, Error)]
pub enum MachineError {
    /// There is no key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The kernel.
    #[error("the machine's network cannot be worked with")]
    Open(#[from] OpenError),
    /// Its state cannot be read.
    #[error("the machine's state is not known")]
    Read(#[from] ReadError),
}

/// What came of making the machine as wanted.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many steps were applied.
    pub applied: usize,
    /// How many failed.
    pub failed: usize,
    /// Read again, the machine is as wanted, as far as it can be.
    pub is_as_wanted: bool,
    /// The steps put right what somebody else had changed.
    pub repaired: bool,
    /// What could not be done.
    pub troubles: Vec<String>,
}

impl Machine {
    /// A machine that is not touched yet.
    #[must_use]
    pub fn new(paths: Paths, owned: Owned) -> Self {
        Self {
            paths,
            owned,
            kernel: None,
            achieved: None,
            clashes: Vec::new(),
        }
    }

    /// Makes the machine as the agent wants it; where it is to retire, without a trace of Spanwire.
    pub async fn reconcile(&mut self, agent: &mut Agent) -> Outcome {
        let mut outcome = match self.attempt(agent).await {
            Ok(outcome) => outcome,
            Err(error) => {
                self.achieved = None;
                Outcome {
                    troubles: vec![chain(&error)],
                    ..Outcome::default()
                }
            }
        };
        if agent.retire() && outcome.troubles.is_empty() {
            outcome.troubles = self.forget();
        }
        outcome
    }

    /// What the WireGuard device has and counts now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn look_at_device(&mut self, agent: &mut Agent) -> Result<bool, ReadError> {
        let Some(kernel) = &mut self.kernel else {
            return Ok(false);
        };
        look_at_device(kernel, agent).await
    }

    /// Hears of changes by others.
    pub fn changes(&self) -> Option<Changes> {
        let changes = self.kernel.as_ref()?.changes();
        changes
            .inspect_err(|error| tracing::warn!(error = error as &dyn Error, "cannot hear of changes"))
            .ok()
    }

    /// What is Spanwire's on the machine; `None` before the first attempt.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn actual(&mut self, wanted: &Host) -> Result<Option<Host>, ReadError> {
        match &mut self.kernel {
            Some(kernel) => kernel.read(wanted.sysctls.keys()).await.map(Some),
            None => Ok(None),
        }
    }

    /// The steps that remove what is Spanwire's from the machine.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn removal(&mut self) -> Result<Vec<Step>, MachineError> {
        // Nothing that is to be removed depends on the key.
        let kernel = self.open_with(PrivateKey::new([1; 32])).await?;
        let actual = kernel.read([]).await?;
        self.clashes = kernel.ownership_conflicts(None).await?;
        let mut steps = diff(&actual, &Host::default());
        leave_to_others(&mut steps, &self.clashes);
        Ok(steps)
    }

    /// Applies the steps of a removal; returns what could not be done.
    ///
    /// # Errors
    /// When it cannot be found out what is left.
    pub async fn remove(&mut self, steps: Vec<Step>) -> Result<Vec<String>, MachineError> {
        let kernel = self.open_with(PrivateKey::new([1; 32])).await?;
        let report = kernel.apply(steps).await;
        let mut troubles = failures(&report.failed);
        let left = self.removal().await?;
        if troubles.is_empty() && !left.is_empty() {
            troubles.push(format!("still there: {}", texts(&left)));
        }
        Ok(troubles)
    }

    /// Puts back what was found, and removes what was remembered, the key included. Returns what could not be done.
    pub fn forget(&mut self) -> Vec<String> {
        let mut troubles: Vec<String> = match &mut self.kernel {
            Some(kernel) => kernel
                .restore_sysctls()
                .iter()
                .map(|error| chain(error))
                .collect(),
            None => Vec::new(),
        };
        if troubles.is_empty() {
            let state = &self.paths.state_dir;
            let forgotten = [Ledger::forget(state), Identity::forget(state)];
            troubles.extend(
                forgotten
                    .into_iter()
                    .filter_map(Result::err)
                    .map(|error| chain(&error)),
            );
            disk::remove_directory(state);
        }
        self.kernel = None;
        self.achieved = None;
        self.clashes.clear();
        troubles
    }

    /// The kernel settings that [`Self::forget`] would put back: name, present value, found value.
    #[must_use]
    pub fn changed_sysctls(&self) -> Vec<(String, String)> {
        let remembered = self.kernel.iter().flat_map(|kernel| kernel.remembered_sysctls());
        remembered
            .map(|(sysctl, remembered)| (sysctl.0.clone(), remembered.found.clone()))
            .collect()
    }

    /// What is remembered on disk.
    #[must_use]
    pub fn remembered_files(&self) -> Vec<PathBuf> {
        let names = [
            Identity::path(&self.paths.state_dir),
            Ledger::path(&self.paths.state_dir),
        ];
        names.into_iter().filter(|path| path.exists()).collect()
    }

    async fn attempt(&mut self, agent: &mut Agent) -> Result<Outcome, MachineError> {
        self.open(agent).await?;
        let port = agent.listen_port();
        let kernel = self.kernel.as_mut().expect("it has just been opened");
        if !self.clashes.is_empty() {
            self.clashes = kernel.ownership_conflicts(port).await?;
        }
        // Before endpoints are chosen: what a restarted agent finds working is left alone.
        look_at_device(kernel, agent).await?;
        let endpoints: Vec<_> = agent.endpoints_in_use().collect();
        agent.handle_look(kernel.inventory(&endpoints).await?);
        let renewed = agent.poll_renewals(Instant::now());
        let mut given = renewed.clone();
        given.extend(agent.poll_endpoints(Instant::now()));
        let target = agent.wanted(BTreeMap::new());
        let wanted = agent.wanted(given.clone());
        let mut actual = kernel.read(wanted.sysctls.keys()).await?;
        let renewed = forget_peers(&mut actual, &renewed);
        let mut steps: Vec<Step> = renewed
            .iter()
            .map(|key| Step::DeletePeer(self.owned.link.clone(), *key))
            .collect();
        steps.extend(diff(&actual, &wanted));
        leave_to_others(&mut steps, &self.clashes);
        let mut outcome = Outcome {
            troubles: agent.conflicts(),
            ..Outcome::default()
        };
        outcome
            .troubles
            .extend(self.clashes.iter().map(ToString::to_string));
        if steps.is_empty() {
            agent.handle_given(&given, &BTreeSet::new(), Instant::now());
        } else {
            let search = is_search(&steps, &given, &renewed);
            outcome.repaired = self.achieved.as_ref() == Some(&target) && !search;
            self.achieved = None;
            let refused = apply(kernel, steps, search, &mut outcome).await;
            // At once: whatever fails from here on, the device has these.
            agent.handle_given(&given, &refused, Instant::now());
            agent.handle_renewed(&(&renewed - &refused));
            // New peers are touched at once.
            look_at_device(kernel, agent).await?;
            let mut left = diff(&kernel.read(target.sysctls.keys()).await?, &target);
            leave_to_others(&mut left, &self.clashes);
            if outcome.failed == 0 && !left.is_empty() {
                outcome
                    .troubles
                    .push(format!("applied, but not so when read again: {}", texts(&left)));
            }
            if outcome.failed > 0 || !left.is_empty() {
                // Perhaps somebody else is why.
                self.clashes = kernel.ownership_conflicts(port).await?;
                return Ok(outcome);
            }
        }
        outcome.is_as_wanted = true;
        self.achieved = Some(target);
        Ok(outcome)
    }

    async fn open(&mut self, agent: &mut Agent) -> Result<(), MachineError> {
        if self.kernel.is_some() {
            return Ok(());
        }
        if agent.retire() {
            self.removal().await?;
            return Ok(());
        }
        let identity = Identity::load_or_create(&self.paths.state_dir)?;
        agent.handle_identity(identity.public());
        let port = agent.listen_port();
        let kernel = self.open_with(PrivateKey::new(identity.private())).await?;
        agent.handle_backend(match kernel.backend() {
            Backend::Kernel => spanwire_crds::Backend::Kernel,
            Backend::Userspace(_) => spanwire_crds::Backend::Userspace,
        });
        self.clashes = kernel.ownership_conflicts(port).await?;
        Ok(())
    }

    async fn open_with(&mut self, private_key: PrivateKey) -> Result<&mut Kernel, MachineError> {
        if self.kernel.is_none() {
            let config = Config {
                owned: self.owned.clone(),
                proc_sys: self.paths.proc_sys.clone(),
                state: self.paths.state_dir.clone(),
                private_key,
                backend: match self.paths.backend {
                    args::Backend::Auto => BackendChoice::Auto,
                    args::Backend::Kernel => BackendChoice::Kernel,
                    args::Backend::Userspace => BackendChoice::Userspace,
                },
                userspace: Userspace {
                    control: self.paths.tunnel_socket.clone(),
                    sockets: self.paths.wireguard_socket_dir.clone(),
                },
            };
            self.kernel = Some(Kernel::open(config).await?);
        }
        Ok(self.kernel.as_mut().expect("it has just been opened"))
    }
}

async fn look_at_device(kernel: &mut Kernel, agent: &mut Agent) -> Result<bool, ReadError> {
    let found = kernel.read_wireguard().await?;
    let (device, stats) = found.unzip();
    let seen = stats.into_iter().flatten().map(|(key, stats)| {
        let seen = Seen {
            endpoint: stats.endpoint,
            handshake: stats.handshake,
            received: stats.received,
        };
        (key, seen)
    });
    Ok(agent.handle_device(device.as_ref(), seen.collect(), Instant::now()))
}

/// Applies the steps; returns the peers that the device did not take as wanted.
async fn apply(
    kernel: &mut Kernel,
    steps: Vec<Step>,
    search: bool,
    outcome: &mut Outcome,
) -> BTreeSet<PublicKey> {
    let described = texts(&steps);
    let report = kernel.apply(steps).await;
    outcome.applied = report.done;
    outcome.failed = report.failed.len();
    outcome.troubles.extend(failures(&report.failed));
    if search || report.done == 0 {
        tracing::debug!(count = outcome.applied, steps = described, "tried");
    } else if outcome.repaired {
        tracing::warn!(steps = described, "repaired what somebody else had changed");
    } else {
        tracing::info!(count = outcome.applied, steps = described, "changed the machine");
    }
    refused_peers(&report.failed)
}

/// An error with its causes.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
