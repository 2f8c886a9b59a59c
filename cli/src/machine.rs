//! This machine, as far as `connect` changes it: its device, routes and rules, by the same crate by which agents change their nodes,
//! and the process of a userspace WireGuard where the kernel has none.
//!
//! What is made here is marked as Spanwire's ([`Owned::of_peer`]), so that a next start finds and removes what a killed one left.

mod state;
mod tunnel;

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File},
    io,
    net::{Ipv6Addr, SocketAddr, UdpSocket},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, bail, ensure};
use nix::fcntl::{Flock, FlockArg};
use spanwire_host::{Host, Owned, PeerChange, PeerStats, Step, diff};
use spanwire_kernel::{Backend, BackendChoice, Config, Kernel, PrivateKey, Userspace};
use spanwire_topology::PublicKey;

pub use self::state::Remembered;
use self::tunnel::Tunnel;
use crate::connect::{clash::Addresses, settled};

/// Where what has to be found again lies; gone after a boot, as what it is about.
pub const FOLDER: &str = "/run/spanwire-connect";

/// This machine.
pub struct Machine {
    kernel: Kernel,
    owned: Owned,
    folder: PathBuf,
    tunnel: Option<Tunnel>,
    /// The machine has IPv6.
    pub ipv6: bool,
    _lock: Flock<File>,
}

impl Machine {
    /// Opens it, for one process at a time. With a `tunnel` that program carries the packets; without, the kernel's WireGuard or,
    /// where it has none, `spanwire-tunnel`.
    ///
    /// # Errors
    /// What this process may not do or the machine does not have, and what would help.
    pub async fn open(folder: &Path, tunnel: Option<&Path>) -> anyhow::Result<Self> {
        let status = fs::read_to_string("/proc/self/status").context("this is no Linux")?;
        ensure!(
            may_change_the_network(&status),
            "this needs the capability NET_ADMIN: run it as root, as in `sudo -E kubectl spanwire connect`"
        );
        // Each network namespace is a machine of its own.
        let namespace =
            fs::metadata("/proc/thread-self/ns/net").context("cannot see the own network namespace")?;
        let folder = folder.join(namespace.ino().to_string());
        let mut builder = DirBuilder::new();
        let made = builder.recursive(true).mode(0o700).create(&folder);
        made.with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let lock = lock(&folder)?;
        let owned = Owned::of_peer();
        let userspace = Userspace {
            control: folder.join("control.sock"),
            sockets: folder.clone(),
        };
        let config = Config {
            owned: owned.clone(),
            proc_sys: "/proc/sys".into(),
            state: folder.clone(),
            private_key: None,
            backend: if tunnel.is_some() {
                BackendChoice::Userspace
            } else {
                BackendChoice::Auto
            },
            userspace,
        };
        let kernel = Kernel::open(config)
            .await
            .context("cannot change the network of this machine")?;
        let program = match kernel.backend() {
            Backend::Kernel => None,
            Backend::Userspace(_) => Some(tunnel::find(tunnel)?),
        };
        let mut machine = Self {
            kernel,
            owned,
            folder,
            tunnel: None,
            ipv6: has_ipv6(),
            _lock: lock,
        };
        let addresses = machine.other_addresses().await?;
        let node = Owned::default().link;
        ensure!(
            !addresses.contains_key(&node),
            "this machine has the device {node}, so it is a node of a mesh, and reaches all of it as such"
        );
        if let Some(program) = program {
            machine.tunnel = Some(Tunnel::start(program, &machine.folder).await?);
        }
        Ok(machine)
    }

    /// Returns the identifiers of what is made here.
    #[must_use]
    pub const fn owned(&self) -> &Owned {
        &self.owned
    }

    /// Returns what carries the packets, for people.
    #[must_use]
    pub fn wireguard(&self) -> String {
        self.tunnel.as_ref().map_or_else(
            || "the kernel's WireGuard".to_owned(),
            |tunnel| tunnel.program().display().to_string(),
        )
    }

    /// Sets the key of the device that will be made.
    pub fn set_key(&mut self, key: PrivateKey) {
        self.kernel.set_private_key(key);
    }

    /// Returns the addresses of the other devices.
    ///
    /// # Errors
    /// What could not be read.
    pub async fn other_addresses(&mut self) -> anyhow::Result<Addresses> {
        Ok(self.kernel.other_addresses().await?)
    }

    /// Returns the largest packet that the ways to these endpoints take. Asked before there are routes of the mesh.
    ///
    /// # Errors
    /// What could not be read.
    pub async fn mtu_towards(
        &mut self,
        endpoints: impl IntoIterator<Item = SocketAddr>,
    ) -> anyhow::Result<Option<u32>> {
        Ok(self.kernel.mtu_towards(endpoints).await?)
    }

    /// Brings the machine to this, whatever it has. A leader that it talks to already is looked for where it was last heard, but
    /// for those that are to be `moved`.
    ///
    /// # Errors
    /// The first that could not be done; the rest was tried.
    pub async fn set(&mut self, wanted: Host, moved: &BTreeSet<PublicKey>) -> anyhow::Result<()> {
        let actual = self.kernel.read_routing().await?;
        let wanted = settled(wanted, &actual, moved);
        self.apply(diff(&actual, &wanted)).await
    }

    async fn apply(&mut self, steps: Vec<Step>) -> anyhow::Result<()> {
        let report = self.kernel.apply(steps).await;
        match report.failed.into_iter().next() {
            None => Ok(()),
            Some((step, error)) => Err(anyhow!(error).context(format!("cannot do `{step}`"))),
        }
    }

    /// Begins again with a leader: its session is over, and a handshake begins at once.
    ///
    /// # Errors
    /// Why it could not be done.
    pub async fn begin_again(&mut self, wanted: &Host, key: PublicKey) -> anyhow::Result<()> {
        let wireguard = wanted.wireguard(&self.owned.link);
        let Some(peer) = wireguard.and_then(|wireguard| wireguard.peers.get(&key)) else {
            return Ok(());
        };
        let change = PeerChange {
            recreate: true,
            endpoint: peer.endpoint,
            keepalive: Some(peer.keepalive),
            add: (*peer.allowed_ips).clone(),
            ..PeerChange::default()
        };
        let step = Step::SetPeer(self.owned.link.clone(), key, change);
        self.apply(vec![step]).await
    }

    /// Removes everything that is made here; returns whether there was anything.
    ///
    /// # Errors
    /// The first that could not be removed; the rest was tried.
    pub async fn clean(&mut self) -> anyhow::Result<bool> {
        let actual = self.kernel.read_routing().await?;
        let was_there = actual != Host::default();
        self.set(Host::default(), &BTreeSet::new()).await?;
        Ok(was_there)
    }

    /// Returns the counters of the peers of the device; nothing where it has gone.
    ///
    /// # Errors
    /// What could not be read.
    pub async fn counters(&mut self) -> anyhow::Result<Vec<(PublicKey, PeerStats)>> {
        let read = self.kernel.read_wireguard().await?;
        Ok(read.into_iter().flat_map(|(_, stats)| stats).collect())
    }

    /// Starts the userspace WireGuard again where its process has ended; returns whether it had. Its device has gone with it.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub async fn revive(&mut self) -> anyhow::Result<bool> {
        let Some(tunnel) = &mut self.tunnel else {
            return Ok(false);
        };
        let ended = tunnel.has_ended();
        if ended {
            let program = tunnel.program().to_owned();
            *tunnel = Tunnel::start(program, &self.folder).await?;
        }
        Ok(ended)
    }

    /// Removes everything, and ends the process of a userspace WireGuard.
    ///
    /// # Errors
    /// The first that could not be removed; the rest was tried.
    pub async fn close(&mut self) -> anyhow::Result<()> {
        let cleaned = self.clean().await;
        if let Some(tunnel) = self.tunnel.take() {
            tunnel.end().await;
        }
        cleaned.map(drop)
    }

    /// Returns what a run before this one remembered.
    #[must_use]
    pub fn remembered(&self) -> Option<Remembered> {
        Remembered::read(&self.folder)
    }

    /// Writes down what a next run has to know, if this one is killed.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn remember(&self, what: &Remembered) -> anyhow::Result<()> {
        let written = what.write(&self.folder);
        written.with_context(|| format!("cannot write into {}", self.folder.display()))
    }

    /// There is nothing to know any more.
    pub fn forget(&self) {
        Remembered::remove(&self.folder);
    }
}

/// Returns a UDP port that nothing listens on now.
///
/// # Errors
/// Where there is none.
pub fn free_port() -> anyhow::Result<u16> {
    let any = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).or_else(|_| UdpSocket::bind(("0.0.0.0", 0)));
    let port = any.and_then(|socket| socket.local_addr());
    Ok(port.context("no UDP port is free")?.port())
}

fn lock(folder: &Path) -> anyhow::Result<Flock<File>> {
    let path = folder.join("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            bail!("`kubectl spanwire connect` runs on this machine already; one at a time can")
        }
        Err((_, error)) => {
            Err(io::Error::from(error)).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

fn has_ipv6() -> bool {
    // Of devices that are made from now on.
    let disabled = fs::read_to_string("/proc/sys/net/ipv6/conf/default/disable_ipv6");
    disabled.is_ok_and(|value| value.trim() == "0")
}

/// Whether a process with this `/proc/PID/status` has CAP_NET_ADMIN, which is number 12 (capability.h).
fn may_change_the_network(status: &str) -> bool {
    const NET_ADMIN: u64 = 1 << 12;
    let mut lines = status.lines();
    let effective = lines.find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    effective.is_some_and(|effective| effective & NET_ADMIN != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lacks_the_capability_is_found_out() {
        assert!(may_change_the_network("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(may_change_the_network("CapEff:\t0000000000001000\n"));
        assert!(!may_change_the_network(
            "CapPrm:\t0000000000001000\nCapEff:\t0000000000000000\n"
        ));
        assert!(!may_change_the_network("CapEff:\tx\n") && !may_change_the_network(""));
    }

    #[test]
    fn one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path()).unwrap();
        let refused = lock(folder.path()).unwrap_err().to_string();
        assert!(refused.contains("runs on this machine already"), "{refused}");
        drop(first);
        lock(folder.path()).unwrap();
    }
}
