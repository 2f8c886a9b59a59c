//! Applying steps: those for routes, rules, links and addresses many at a time, the others one by one.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use nix::errno::Errno;
use spanwire_host::{
    LinkName, OwnershipConflict, PeerChange, Route, RouteKind, Step, VxlanSettings, WireGuardSettings,
};
use spanwire_topology::PublicKey;

use crate::{
    Kernel, address,
    errno::{ErrnoClass, Operation, classify},
    error::ApplyError,
    kernel::socket_of,
    link,
    netlink::{Refusal, Request},
    ownership::{foreign_device, taken},
    route, rule, vxlan,
    wireguard::{self, Backend, Change, PeerUpdate, USERSPACE_KIND, kernel, uapi},
};

/// How long a userspace device may take to go away after `down` was answered, and how often to look.
const DISAPPEARANCE: (u32, Duration) = (400, Duration::from_millis(5));

/// How long the process of a device that has just gone may take to let go of its port, and how often to look.
const RELEASE: (u32, Duration) = (20, Duration::from_millis(10));

/// What became of some steps.
#[derive(Debug, Default)]
#[must_use]
pub struct Report {
    /// How many steps are applied.
    pub done: usize,
    /// The others, each with its reason.
    pub failed: Vec<(Step, ApplyError)>,
}

/// A step that is one message on the route socket.
struct Pending {
    step: Step,
    operation: Operation,
    request: Request,
}

impl Kernel {
    /// Applies the steps, in order. A step that fails keeps no other from being tried.
    pub async fn apply(&mut self, steps: Vec<Step>) -> Report {
        let mut report = Report::default();
        let mut indexes = BTreeMap::new();
        let mut pending = Vec::new();
        for step in steps {
            match self.plain(&step, &mut indexes).await {
                Ok(Some((operation, request))) => pending.push(Pending {
                    step,
                    operation,
                    request,
                }),
                Ok(None) => {
                    self.flush(&mut pending, &mut report).await;
                    // A device may come or go, and take its number with it.
                    indexes.clear();
                    let result = self.special(&step).await;
                    report.add(step, result);
                }
                Err(error) => report.add(step, Err(error)),
            }
        }
        self.flush(&mut pending, &mut report).await;
        report
    }

    /// Returns the message that a step is, for the steps that are one message on the route socket.
    async fn plain(
        &mut self,
        step: &Step,
        indexes: &mut BTreeMap<LinkName, u32>,
    ) -> Result<Option<(Operation, Request)>, ApplyError> {
        let protocol = self.owned.protocol;
        Ok(Some(match step {
            Step::SetMtu(name, mtu) => {
                let device = self.index(name, indexes).await?;
                (Operation::ChangeLink, link::set_mtu(device, *mtu))
            }
            Step::SetUp(name, up) => {
                let device = self.index(name, indexes).await?;
                // When it goes up, for it may have been made without us hearing that it was.
                self.sysctls.without_link_local(name)?;
                (Operation::ChangeLink, link::set_up(device, *up))
            }
            Step::AddAddress(name, address) => {
                let device = self.index(name, indexes).await?;
                (Operation::AddAddress, address::add(device, address))
            }
            Step::DeleteAddress(name, address) => {
                let device = self.index(name, indexes).await?;
                let request = address::delete(&mut self.route, device, address).await?;
                (Operation::DeleteAddress, request)
            }
            Step::SetForwarding(name, address, to) => {
                let device = self.index(name, indexes).await?;
                (Operation::SetEntry, vxlan::set_forwarding(device, *address, *to))
            }
            Step::DeleteForwarding(name, address) => {
                let device = self.index(name, indexes).await?;
                (Operation::DeleteEntry, vxlan::delete_forwarding(device, *address))
            }
            Step::SetNeighbour(name, neighbour, address) => {
                let device = self.index(name, indexes).await?;
                let request = vxlan::set_neighbour(device, *neighbour, *address);
                (Operation::SetEntry, request)
            }
            Step::DeleteNeighbour(name, neighbour) => {
                let device = self.index(name, indexes).await?;
                (
                    Operation::DeleteEntry,
                    vxlan::delete_neighbour(device, *neighbour),
                )
            }
            Step::SetRoute(key, route) => {
                let device = match device_of(route) {
                    Some(name) => Some(self.index(name, indexes).await?),
                    None => None,
                };
                (Operation::SetRoute, route::set(protocol, key, route, device))
            }
            Step::DeleteRoute(key) => (Operation::DeleteRoute, route::delete(protocol, key)),
            Step::AddRule(rule) if !rule::expressible(rule) => return Err(ApplyError::Inexpressible),
            Step::AddRule(rule) => (Operation::AddRule, rule::add(protocol, rule)),
            Step::DeleteRule(rule) => (Operation::DeleteRule, rule::delete(protocol, rule)),
            Step::AddWireGuard(..)
            | Step::AddVxlan(..)
            | Step::DeleteDevice(_)
            | Step::SetWireGuard(..)
            | Step::SetPeer(..)
            | Step::DeletePeer(..)
            | Step::SetNft(_)
            | Step::DeleteNft
            | Step::SetPassage(..)
            | Step::DeletePassage(_)
            | Step::SetSysctl(..) => return Ok(None),
        }))
    }

    async fn index(
        &mut self,
        name: &LinkName,
        indexes: &mut BTreeMap<LinkName, u32>,
    ) -> Result<u32, ApplyError> {
        if let Some(index) = indexes.get(name) {
            return Ok(*index);
        }
        let device = link::find(&mut self.route, name).await?;
        let index = device.ok_or_else(|| ApplyError::NoLink(name.clone()))?.index;
        indexes.insert(name.clone(), index);
        Ok(index)
    }

    async fn flush(&mut self, pending: &mut Vec<Pending>, report: &mut Report) {
        let requests: Vec<Request> = pending.iter().map(|entry| entry.request.clone()).collect();
        match self.route.requests(&requests).await {
            Ok(answers) => {
                for (entry, answer) in pending.drain(..).zip(answers) {
                    let result = settle(entry.operation, answer);
                    report.add(entry.step.clone(), self.explained(&entry.step, result));
                }
            }
            // Which of them were done is not known; all can be requested again, and each has its own result then.
            Err(_) => {
                for entry in pending.drain(..) {
                    let result = self.route.requests(std::slice::from_ref(&entry.request)).await;
                    let result = result.map_err(ApplyError::from).and_then(|answers| {
                        answers
                            .into_iter()
                            .try_for_each(|answer| settle(entry.operation, answer))
                    });
                    report.add(entry.step.clone(), self.explained(&entry.step, result));
                }
            }
        }
    }

    /// A VXLAN device takes its port when it goes up.
    fn explained(&self, step: &Step, result: Result<(), ApplyError>) -> Result<(), ApplyError> {
        match (step, result) {
            (Step::SetUp(name, true), Err(ApplyError::Refused(refusal)))
                if *name == self.owned.hop_link && refusal.errno == Errno::EADDRINUSE =>
            {
                Err(ApplyError::HopPortTaken(self.owned.hop_port))
            }
            (_, other) => other,
        }
    }

    async fn special(&mut self, step: &Step) -> Result<(), ApplyError> {
        match step {
            Step::AddWireGuard(name, mtu, settings) => {
                self.add_wireguard(name, *mtu, settings.listen_port).await?;
                self.set_wireguard(name, settings).await
            }
            Step::AddVxlan(name, mtu, settings) => self.add_vxlan(name, *mtu, settings).await,
            Step::SetWireGuard(name, settings) => {
                if self.device(name).read().await?.listen_port != settings.listen_port {
                    port_is_free(settings.listen_port).await?;
                }
                self.set_wireguard(name, settings).await
            }
            Step::DeleteDevice(name) => self.delete_device(name).await,
            Step::SetPeer(name, key, change) => self.set_peer(name, *key, change).await,
            Step::DeletePeer(name, key) => self.device(name).change(&[Change::RemovePeer(*key)]).await,
            Step::SetNft(table) => Ok(self.nft.load(table.clone()).await?),
            Step::DeleteNft => Ok(self.nft.delete().await?),
            Step::SetPassage(chain, passage) => Ok(self.nft.open_passage(chain, &passage.passes).await?),
            Step::DeletePassage(chain) => Ok(self.nft.open_passage(chain, &BTreeSet::new()).await?),
            Step::SetSysctl(name, value) => self.sysctls.write(name, value),
            Step::SetMtu(..)
            | Step::SetUp(..)
            | Step::AddAddress(..)
            | Step::DeleteAddress(..)
            | Step::SetForwarding(..)
            | Step::DeleteForwarding(..)
            | Step::SetNeighbour(..)
            | Step::DeleteNeighbour(..)
            | Step::SetRoute(..)
            | Step::DeleteRoute(_)
            | Step::AddRule(_)
            | Step::DeleteRule(_) => Ok(()),
        }
    }

    async fn add_wireguard(&mut self, name: &LinkName, mtu: u32, listen_port: u16) -> Result<(), ApplyError> {
        if let Some(device) = link::find(&mut self.route, name).await? {
            let was_silent = self.process.hangs() && device.kind == self.backend.link_kind();
            if !self.is_own_device(&device).await {
                return Err(ApplyError::ForeignLink(foreign_device(device)));
            }
            // It could not be read, and has been there all the while.
            if was_silent {
                return Ok(());
            }
            // The other backend's, or one that was never finished.
            self.delete_device(name).await?;
        }
        port_is_free(listen_port).await?;
        if self.backend == Backend::Kernel {
            let request = link::add_wireguard(name, Some(mtu));
            let made = self.request(Operation::AddWireGuard, request).await;
            if let Err(ApplyError::Refused(refusal)) = &made
                && classify(Operation::AddWireGuard, refusal.errno) == ErrnoClass::Unsupported
            {
                return Err(ApplyError::NoWireGuard);
            }
            made?;
            if self.family.is_none() {
                self.family = kernel::Family::find().await?;
            }
            return Ok(());
        }
        uapi::control(&mut self.process, &self.userspace.control, "up", name).await?;
        uapi::appearance(&socket_of(&self.userspace, name)).await?;
        let device = link::find(&mut self.route, name).await?;
        let index = device.ok_or_else(|| ApplyError::NoLink(name.clone()))?.index;
        self.request(Operation::ChangeLink, link::set_mtu(index, mtu))
            .await
    }

    async fn add_vxlan(
        &mut self,
        name: &LinkName,
        mtu: u32,
        settings: &VxlanSettings,
    ) -> Result<(), ApplyError> {
        if let Some(device) = link::find(&mut self.route, name).await? {
            if device.kind != vxlan::KIND {
                let link::Device { name, kind, .. } = device;
                return Err(ApplyError::ForeignLink(OwnershipConflict::HopLink { name, kind }));
            }
            // One that was never finished.
            self.delete_device(name).await?;
        }
        let made = self
            .request(Operation::AddVxlan, vxlan::add(name, mtu, settings))
            .await;
        match made {
            Err(ApplyError::Refused(refusal))
                if classify(Operation::AddVxlan, refusal.errno) == ErrnoClass::Unsupported =>
            {
                Err(ApplyError::NoVxlan)
            }
            other => other,
        }
    }

    async fn set_wireguard(
        &mut self,
        name: &LinkName,
        settings: &WireGuardSettings,
    ) -> Result<(), ApplyError> {
        let private_key = self.private_key.clone().ok_or(ApplyError::NoKey)?;
        if settings.public_key != private_key.public() {
            return Err(ApplyError::UnknownKey(settings.public_key));
        }
        let change = Change::Device {
            private_key,
            listen_port: settings.listen_port,
            mark: settings.mark,
        };
        self.device(name).change(&[change]).await
    }

    async fn delete_device(&mut self, name: &LinkName) -> Result<(), ApplyError> {
        let Some(device) = link::find(&mut self.route, name).await? else {
            return Ok(());
        };
        let control = &self.userspace.control;
        if device.kind == USERSPACE_KIND
            && uapi::control(&mut self.process, control, "down", name)
                .await
                .is_ok()
        {
            let (attempts, pause) = DISAPPEARANCE;
            for _ in 0..attempts {
                if link::find(&mut self.route, name).await?.is_none() {
                    return Ok(());
                }
                tokio::time::sleep(pause).await;
            }
        }
        self.request(Operation::DeleteLink, link::delete(device.index))
            .await
    }

    async fn set_peer(
        &mut self,
        name: &LinkName,
        key: PublicKey,
        change: &PeerChange,
    ) -> Result<(), ApplyError> {
        let mut changes: Vec<Change> = change
            .recreate
            .then_some(Change::RemovePeer(key))
            .into_iter()
            .collect();
        changes.push(Change::Peer(PeerUpdate {
            key,
            endpoint: change.endpoint,
            keepalive: change.keepalive,
            group: change.group.clone(),
            preshared: change.preshared.clone(),
            add: change.add.clone(),
        }));
        if !change.remove.is_empty() {
            let actual = self.device(name).read().await?;
            changes.extend(wireguard::parking(&actual, key, &change.remove));
        }
        self.device(name).change(&changes).await
    }

    async fn request(&mut self, operation: Operation, request: Request) -> Result<(), ApplyError> {
        let answers = self.route.requests(&[request]).await?;
        answers
            .into_iter()
            .try_for_each(|answer| settle(operation, answer))
    }
}

impl Report {
    fn add(&mut self, step: Step, result: Result<(), ApplyError>) {
        match result {
            Ok(()) => self.done += 1,
            Err(error) => self.failed.push((step, error)),
        }
    }
}

/// Whether WireGuard can have the port: a userspace one does not report when it cannot.
async fn port_is_free(port: u16) -> Result<(), ApplyError> {
    let (attempts, pause) = RELEASE;
    for _ in 0..attempts {
        if !taken(port) {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
    }
    Err(ApplyError::PortTaken(port))
}

fn settle(operation: Operation, answer: Result<(), Refusal>) -> Result<(), ApplyError> {
    match answer {
        Err(refusal) if classify(operation, refusal.errno) != ErrnoClass::Settled => Err(refusal.into()),
        _ => Ok(()),
    }
}

fn device_of(route: &Route) -> Option<&LinkName> {
    match &route.kind {
        RouteKind::Unicast { dev, .. } => Some(dev),
        RouteKind::Throw | RouteKind::Unreachable | RouteKind::Blackhole => None,
    }
}
