//! One handle for everything that Spanwire has and does on a machine.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use nix::{errno::Errno, libc::NETLINK_ROUTE};
use spanwire_host::{
    Device as HostDevice, DeviceKind, Host, LinkName, Owned, PeerStats, Route, RouteKey, Sysctl, WireGuard,
};
use spanwire_topology::{Family, PublicKey};

use crate::{
    address,
    changes::Changes,
    errno::{ErrnoClass, Operation, classify},
    error::{ApplyError, OpenError, ReadError},
    inventory::is_cni,
    link,
    netlink::{NetlinkError, Socket},
    nft::Nft,
    route, rule,
    sysctl::{Remembered, Sysctls},
    vxlan,
    watched::Hook,
    wireguard::{Backend, Device, KERNEL_KIND, PrivateKey, USERSPACE_KIND, Userspace, kernel, uapi},
};

/// Which WireGuard to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// The one whose device is there already; else the kernel's, if it has one; else the userspace one.
    #[default]
    Auto,
    /// The kernel's, or none.
    Kernel,
    /// The userspace one.
    Userspace,
}

/// What [`Kernel::open`] must know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The identifiers that are Spanwire's.
    pub owned: Owned,
    /// `/proc/sys`, or where that is mounted writable.
    pub proc_sys: PathBuf,
    /// The folder where found kernel settings are remembered; it must exist.
    pub state: PathBuf,
    /// This node's key, where there is one.
    pub private_key: Option<PrivateKey>,
    /// Which WireGuard to use.
    pub backend: BackendChoice,
    /// Where the userspace WireGuard is reached.
    pub userspace: Userspace,
}

/// The network state of this machine, as far as it is Spanwire's, and an inventory of the rest.
pub struct Kernel {
    pub(crate) owned: Owned,
    pub(crate) private_key: Option<PrivateKey>,
    pub(crate) userspace: Userspace,
    pub(crate) backend: Backend,
    pub(crate) route: Socket,
    pub(crate) family: Option<kernel::Family>,
    /// That of the userspace device.
    pub(crate) process: uapi::Process,
    pub(crate) nft: Nft,
    pub(crate) sysctls: Sysctls,
    port: Arc<AtomicU32>,
}

impl Kernel {
    /// Opens the sockets and chooses the backend.
    ///
    /// # Errors
    /// [`OpenError`] when the kernel cannot be talked to.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let mut route = Socket::open(NETLINK_ROUTE)?;
        let backend = match config.backend {
            BackendChoice::Userspace => Backend::Userspace(config.userspace.clone()),
            // Whether it exists concerns the node only when it is to lead.
            BackendChoice::Kernel => Backend::Kernel,
            BackendChoice::Auto => choose(&mut route, &config).await?,
        };
        Ok(Self {
            family: kernel::Family::find().await?,
            process: uapi::Process::default(),
            nft: Nft::open(&config.owned.nft_table, &config.state)?,
            sysctls: Sysctls::open(&config.proc_sys, &config.state),
            port: Arc::new(AtomicU32::new(route.port())),
            owned: config.owned,
            private_key: config.private_key,
            userspace: config.userspace,
            backend,
            route,
        })
    }

    /// Returns the backend in use.
    #[must_use]
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Hears of changes to what is Spanwire's, or to what it builds on, from now on.
    ///
    /// # Errors
    /// [`NetlinkError`] when the kernel does not let us listen.
    pub fn changes(&self) -> Result<Changes, NetlinkError> {
        let port = self.port.load(Ordering::Relaxed);
        let own_generation = self.nft.own_generation.clone();
        Changes::open(&self.owned, port, self.nft.watched(), own_generation)
    }

    /// Sets the node's key, for devices made from now on.
    pub fn set_private_key(&mut self, key: PrivateKey) {
        self.private_key = Some(key);
    }

    /// Returns the private key of Spanwire's device, which an agent that ran before has left; `None` where there is no
    /// device, or none with a key.
    ///
    /// # Errors
    /// [`ReadError`] says what could not be read.
    pub async fn device_key(&mut self) -> Result<Option<PrivateKey>, ReadError> {
        let found = link::find(&mut self.route, &self.owned.link).await;
        let found = found.map_err(ReadError::netlink("the devices"))?;
        if found.is_none_or(|device| device.kind != self.backend.link_kind()) {
            return Ok(None);
        }
        let name = self.owned.link.clone();
        match self.device(&name).private_key().await {
            Err(ReadError::Userspace(error)) if error.is_absence() => Ok(None),
            other => other,
        }
    }

    /// Returns the kernel settings that [`Self::restore_sysctls`] would put back.
    pub async fn restorable_sysctls(&mut self) -> Vec<(Sysctl, Remembered)> {
        let pods = self.has_pods().await;
        let restorable = self.sysctls.restorable(pods);
        restorable
            .map(|(sysctl, remembered)| (sysctl.clone(), remembered.clone()))
            .collect()
    }

    /// Puts kernel settings back to what was found, where they still are what Spanwire made them. Forwarding stays on
    /// where a CNI or a container engine has devices.
    pub async fn restore_sysctls(&mut self) -> Vec<ApplyError> {
        let pods = self.has_pods().await;
        self.sysctls.restore(pods)
    }

    /// Removes the file that says from what the nft table was loaded, which is of use while there is one.
    pub fn forget_table(&mut self) {
        self.nft.forget();
    }

    /// Whether there are devices of pods or containers, or of what connects them. Where that is not known there are. A veth
    /// pair alone says nothing: the uplink of a machine that is a container itself is one.
    async fn has_pods(&mut self) -> bool {
        const KINDS: [&str; 6] = ["bridge", "vxlan", "geneve", "ipip", "macvlan", "ipvlan"];
        /// What the CNIs of AWS, Azure and Google call the host's ends of the pods' pairs.
        const PAIRS: [&str; 3] = ["eni", "azv", "gke"];
        let Ok(devices) = link::devices(&mut self.route).await else {
            return true;
        };
        let pair = |device: &link::Device| {
            let name = device.name.as_str();
            device.kind == "veth" && PAIRS.iter().any(|start| name.starts_with(start))
        };
        let own = [&self.owned.link, &self.owned.hop_link];
        let others = devices.iter().filter(|device| !own.contains(&&device.name));
        let mut others = others.filter(|device| device.up);
        others.any(|device| KINDS.contains(&device.kind.as_str()) || is_cni(&device.name) || pair(device))
    }

    /// Reads what is Spanwire's on this machine; of the kernel settings those that are `wanted`.
    ///
    /// # Errors
    /// [`ReadError`] says what could not be read. Nothing is known then: half a state would be repaired wrongly.
    pub async fn read(&mut self, wanted: impl IntoIterator<Item = &Sysctl>) -> Result<Host, ReadError> {
        let mut host = self.read_routing().await?;
        host.nft = self.nft.read().await?;
        // The inventory names what cannot be listed.
        let filters = self.nft.filters(Hook::Forward, &mut BTreeSet::new()).await;
        let passages = filters
            .iter()
            .filter_map(|filter| Some((filter.name.clone(), filter.passage()?)));
        host.passages = passages.collect();
        for sysctl in wanted {
            if let Some(value) = self.sysctls.read(sysctl) {
                host.sysctls.insert(sysctl.clone(), value);
            }
        }
        Ok(host)
    }

    /// Reads what is Spanwire's of devices, routes and rules; for machines that have nothing of nft and of kernel settings.
    ///
    /// # Errors
    /// [`ReadError`] says what could not be read. Nothing is known then.
    pub async fn read_routing(&mut self) -> Result<Host, ReadError> {
        let mut host = Host::default();
        let devices = link::devices(&mut self.route).await;
        let devices = devices.map_err(ReadError::netlink("the devices"))?;
        let own = devices
            .iter()
            .find(|device| device.name == self.owned.link && device.kind == self.backend.link_kind());
        if let Some(device) = own
            && let Some(read) = self.read_device(device).await?
        {
            host.devices.insert(device.name.clone(), read);
        }
        let hop = devices
            .iter()
            .find(|device| device.name == self.owned.hop_link && device.kind == vxlan::KIND);
        if let Some(device) = hop {
            let read = self.read_vxlan(device).await?;
            host.devices.insert(device.name.clone(), read);
        }
        let names: BTreeMap<u32, LinkName> = devices
            .into_iter()
            .map(|device| (device.index, device.name))
            .collect();
        let mut routes: Vec<(RouteKey, Route)> = Vec::new();
        for family in [Family::V4, Family::V6] {
            for table in [self.owned.table, self.owned.return_table] {
                let observed = route::routes(&mut self.route, family, table, Some(self.owned.protocol)).await;
                let observed = observed.map_err(ReadError::netlink("the routes"))?;
                routes.extend(observed.iter().filter_map(|route| route.ours(&names)));
            }
            let observed = rule::rules(&mut self.route, family).await;
            let observed = observed.map_err(ReadError::netlink("the rules"))?;
            let own = observed.into_iter().filter(|rule| self.is_own_rule(rule));
            host.rules.extend(own.filter_map(|observed| observed.rule));
        }
        host.routes = Arc::new(routes.into_iter().collect());
        Ok(host)
    }

    /// Reads the WireGuard device alone, with its counters; `None` where there is none, or its process does not answer. It announces
    /// no change, so it is polled.
    ///
    /// # Errors
    /// [`ReadError`] says what could not be read.
    pub async fn read_wireguard(
        &mut self,
    ) -> Result<Option<(WireGuard, BTreeMap<PublicKey, PeerStats>)>, ReadError> {
        let found = link::find(&mut self.route, &self.owned.link).await;
        let found = found.map_err(ReadError::netlink("the devices"))?;
        if found.is_none_or(|device| device.kind != self.backend.link_kind()) {
            return Ok(None);
        }
        let name = self.owned.link.clone();
        match self.device(&name).read_all().await {
            Err(ReadError::Userspace(error)) if error.is_unanswered() => Ok(None),
            other => other.map(Some),
        }
    }

    /// Reads a device; `None` where its process has died, and the device is about to follow it, or does not answer.
    async fn read_device(&mut self, device: &link::Device) -> Result<Option<HostDevice>, ReadError> {
        let wireguard = match self.device(&device.name).read().await {
            Err(ReadError::Userspace(error)) if error.is_unanswered() => return Ok(None),
            other => other?,
        };
        let addresses = address::addresses(&mut self.route, Some(device.index)).await;
        let addresses = addresses.map_err(ReadError::netlink("the addresses"))?;
        Ok(Some(HostDevice {
            mtu: device.mtu,
            up: device.up,
            addresses: addresses.iter().filter_map(address::Assigned::network).collect(),
            kind: DeviceKind::WireGuard(wireguard),
        }))
    }

    async fn read_vxlan(&mut self, device: &link::Device) -> Result<HostDevice, ReadError> {
        let vxlan = vxlan::read(&mut self.route, device.index, device.vxlan).await;
        let vxlan = vxlan.map_err(ReadError::netlink("where the VXLAN device sends"))?;
        let addresses = address::addresses(&mut self.route, Some(device.index)).await;
        let addresses = addresses.map_err(ReadError::netlink("the addresses"))?;
        Ok(HostDevice {
            mtu: device.mtu,
            up: device.up,
            addresses: addresses.iter().filter_map(address::Assigned::network).collect(),
            kind: DeviceKind::Vxlan(vxlan),
        })
    }

    /// Returns the WireGuard device of that name, by the backend.
    pub(crate) fn device<'a>(&'a mut self, name: &'a LinkName) -> Device<'a> {
        match (&self.backend, &mut self.family) {
            (Backend::Kernel, Some(family)) => Device::Kernel(family, name),
            (Backend::Kernel, None) | (Backend::Userspace(_), _) => {
                Device::Userspace(socket_of(&self.userspace, name), &mut self.process)
            }
        }
    }

    pub(crate) fn in_band(&self, observed: &rule::ObservedRule) -> bool {
        let first = self.owned.rule_priority;
        (first..first.saturating_add(Owned::RULE_BAND)).contains(&observed.priority)
    }

    /// Whether a rule stands in the usual place of Spanwire's, or before it.
    pub(crate) fn is_ahead(&self, observed: &rule::ObservedRule) -> bool {
        observed.priority < self.owned.rule_priority.saturating_add(Owned::RULE_BAND)
    }

    /// Whether a rule is Spanwire's, which stand in their usual place or, ahead of others, before it.
    pub(crate) fn is_own_rule(&self, observed: &rule::ObservedRule) -> bool {
        self.is_ahead(observed) && observed.protocol == self.owned.protocol
    }
}

/// Returns the socket by which the userspace device of that name is set up.
pub(crate) fn socket_of(userspace: &Userspace, name: &LinkName) -> PathBuf {
    userspace.sockets.join(format!("{name}.sock"))
}

async fn choose(route: &mut Socket, config: &Config) -> Result<Backend, OpenError> {
    let userspace = Backend::Userspace(config.userspace.clone());
    let present = link::find(route, &config.owned.link).await?;
    match present.as_ref().map(|device| device.kind.as_str()) {
        Some(KERNEL_KIND) => return Ok(Backend::Kernel),
        Some(USERSPACE_KIND) => {
            let socket = socket_of(&config.userspace, &config.owned.link);
            if uapi::answers(&mut uapi::Process::default(), &socket).await {
                return Ok(userspace);
            }
        }
        Some(_) | None => {}
    }
    let able = probe(route, &config.owned.link).await?;
    Ok(if able { Backend::Kernel } else { userspace })
}

/// Whether the kernel has WireGuard, found out by making a device under another name. One that is there already was left by
/// an agent that ended in between; a device of another program is left alone, and another name is tried.
async fn probe(route: &mut Socket, name: &LinkName) -> Result<bool, OpenError> {
    let short: String = name.as_str().chars().take(9).collect();
    let names = ["-probe", "-prob1", "-prob2"].map(|end| LinkName::new(&format!("{short}{end}")));
    for probe in names.into_iter().flatten() {
        match link::find(route, &probe).await? {
            Some(left) if left.kind == KERNEL_KIND => {
                route.requests(&[link::delete(left.index)]).await?;
                return Ok(true);
            }
            Some(_) => continue,
            None => {}
        }
        let answers = route.requests(&[link::add_wireguard(&probe, None)]).await?;
        if let Some(Err(refusal)) = answers.into_iter().next() {
            if refusal.errno == Errno::EEXIST {
                continue;
            }
            if refusal.errno == Errno::EPERM {
                return Err(OpenError::Probe(refusal));
            }
            if classify(Operation::AddWireGuard, refusal.errno) != ErrnoClass::Unsupported {
                let error = &refusal as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "the kernel makes no WireGuard device; going on with the userspace one"
                );
            }
            return Ok(false);
        }
        if let Some(device) = link::find(route, &probe).await? {
            route.requests(&[link::delete(device.index)]).await?;
        }
        return Ok(true);
    }
    Ok(false)
}
