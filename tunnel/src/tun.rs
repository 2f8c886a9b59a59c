//! The tunnel interface: a TUN device that lives as long as its file is open, or longer if it is to be kept.
//!
//! It may have several queues, each a file of its own ([`Tun::queue`]). The kernel keeps to a queue for all packets of a flow:
//! the one into which the last packet of the other direction was written, so that a flow stays with the thread that carries it.
//!
//! A kept one has [`MARK`] as its alias, so that the next process knows it for its own: any other TUN that no process
//! holds was made by another program for something else.

use std::{
    ffi::c_int,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use thiserror::Error;

use crate::{
    link::{self, Link, Notifier, alias, network},
    offload::{coalesce::Joins, vnet},
    sys::{self, TunKind},
};

/// The alias (`ip link`) of an interface that is kept when its process ends.
pub const MARK: &str = "spanwire-tunnel";

/// What WireGuard's own tools assume: 1500 less the worst of its overheads.
pub const DEFAULT_MTU: u16 = 1420;
/// The kernel's default of 500 drops packets in bursts.
pub(crate) const QUEUE_LENGTH: u16 = 1000;

/// An interface cannot be made.
#[derive(Debug, Error)]
pub enum TunError {
    /// No interface can have this name.
    #[error(
        "no interface can be called {name:?}: 1 to 15 bytes without '/', ':' and blanks, and '%' only in %d"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// The kernel has no TUN, or this process may not open it.
    #[error("cannot open /dev/net/tun")]
    Open(#[source] io::Error),
    /// The kernel refuses the interface.
    #[error("cannot make the interface {name} (is the name taken, is CAP_NET_ADMIN missing?)")]
    Create {
        /// The name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The kernel refuses a setting.
    #[error("cannot set up the interface {name}")]
    SetUp {
        /// The name.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// What a tun and its reader save each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunOffloads {
    /// Packets have a virtio-net header ([`vnet`]): super-packets may be written.
    pub vnet: bool,
    /// The kernel hands over super-packets of TCP.
    pub tso: bool,
    /// It takes and hands over super-packets of UDP (Linux 6.2).
    pub uso: bool,
}

impl TunOffloads {
    /// Returns what may be joined for the interface.
    pub fn joins(self) -> Joins {
        Joins {
            tcp: self.tso,
            udp: self.uso,
        }
    }

    /// Bytes in front of each packet.
    pub fn header(self) -> usize {
        if self.vnet { vnet::LENGTH } else { 0 }
    }
}

/// Where an interface is.
enum Place {
    /// In the network namespace of this process.
    Here,
    /// In this one.
    Elsewhere(OwnedFd),
}

/// A TUN interface.
#[derive(Debug)]
pub struct Tun {
    file: File,
    offloads: TunOffloads,
    /// Whether there may be more of this interface.
    queues: bool,
    /// How often routes may have changed where it is, counted for all queues together.
    route_changes: Arc<AtomicU32>,
}

impl Tun {
    /// Makes an interface, or attaches to one that was kept; with offloads as far as the kernel has them and `offload`
    /// allows. A new one may have several `queues`, a kept one if its maker wanted that. For `%d` in the name the kernel puts the
    /// first number that is free.
    pub fn create(name: &str, offload: bool, queues: bool) -> Result<Self, TunError> {
        let forbidden = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control();
        if name.is_empty()
            || name.len() >= libc::IFNAMSIZ
            || matches!(name, "." | "..")
            || name.replacen("%d", "", 1).contains(forbidden)
        {
            return Err(TunError::Name { name: name.into() });
        }
        let refused = |source| TunError::Create {
            name: name.into(),
            source,
        };
        let file = open().map_err(TunError::Open)?;
        match attach(&file, name, offload, true, &[queues]) {
            Ok(kind) => {
                let tun = Self::with(file, kind, offload);
                tun.name()
                    .and_then(|name| {
                        sys::set_link_mtu(&name, DEFAULT_MTU)?;
                        sys::set_queue_length(&name, QUEUE_LENGTH)
                    })
                    .map_err(|source| TunError::SetUp {
                        name: name.into(),
                        source,
                    })?;
                Ok(tun)
            }
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && is_kept(name) => {
                let kind = attach(&file, name, offload, false, &[true, false]).map_err(refused)?;
                tracing::info!(name, "going on with the interface that was kept");
                Ok(Self::with(file, kind, offload))
            }
            Err(error) => Err(refused(error)),
        }
    }

    /// Takes an interface that the process that started this one has made. It keeps its name, whatever `name` was asked for.
    pub fn inherit(file: OwnedFd, name: &str, offload: bool) -> Result<Self, TunError> {
        let refused = |source| TunError::Create {
            name: name.into(),
            source,
        };
        let tun = Self::adopt(file, offload).map_err(refused)?;
        let own = tun.name().map_err(refused)?;
        match tun.ask_there(|| sys::set_link_mtu(&own, DEFAULT_MTU)) {
            Some(set) => set.map_err(|source| TunError::SetUp { name: own, source })?,
            None => tracing::warn!(
                name = own,
                "the interface keeps its MTU, for its network namespace cannot be entered"
            ),
        }
        Ok(tun)
    }

    /// Goes on with what another process opened; `file` is a tun ([`is_tun`]). Whether packets have a header cannot be
    /// changed any more.
    pub fn adopt(file: OwnedFd, offload: bool) -> io::Result<Self> {
        let file = File::from(file);
        let kind = sys::tun_kind(&file)?;
        Ok(Self::with(file, kind, offload))
    }

    fn with(file: File, kind: TunKind, offload: bool) -> Self {
        Self {
            offloads: settle(&file, kind.vnet, offload),
            queues: kind.queues,
            route_changes: Arc::default(),
            file,
        }
    }

    /// Opens another queue of the same interface, not in use yet. Fails with [`io::ErrorKind::Unsupported`] when the
    /// interface can have one only, or is not in this process's network namespace, where it would be looked for by its
    /// name.
    pub fn queue(&self) -> io::Result<Self> {
        if !self.queues || !matches!(self.place()?, Place::Here) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let file = open()?;
        let kind = TunKind {
            vnet: self.offloads.vnet,
            queues: true,
        };
        sys::tun_set_interface(&file, &self.name()?, kind, false)?;
        sys::tun_set_queue(&file, false)?;
        Ok(self.with_file(file))
    }

    /// Has the kernel give packets to this queue, and take them from it.
    pub fn put_into_use(&self) -> io::Result<()> {
        sys::tun_set_queue(&self.file, true)
    }

    /// Duplicates the queue's descriptor.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(self.with_file(self.file.try_clone()?))
    }

    fn with_file(&self, file: File) -> Self {
        Self {
            file,
            route_changes: Arc::clone(&self.route_changes),
            ..*self
        }
    }

    /// Records that routes where the interface is may have changed.
    pub(crate) fn note_route_change(&self) {
        self.route_changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns how often they may have.
    pub(crate) fn route_changes(&self) -> u32 {
        self.route_changes.load(Ordering::Relaxed)
    }

    /// Asks something in the network namespace of the interface; `None` where that cannot be entered.
    pub(crate) fn ask_there<T: Send>(&self, ask: impl FnOnce() -> T + Send) -> Option<T> {
        match self.place() {
            Ok(Place::Elsewhere(namespace)) => link::within(&namespace, ask),
            Ok(Place::Here) | Err(_) => Some(ask()),
        }
    }

    /// Has a notifier notified of what changes in the network namespace of the interface, if that is another one.
    pub(crate) fn follow_there(&self, notifier: &Notifier) {
        let elsewhere = self.place().ok().and_then(|place| match place {
            Place::Elsewhere(namespace) => Some(namespace),
            Place::Here => None,
        });
        if let Err(error) = notifier.follow_elsewhere(elsewhere.as_ref()) {
            tracing::debug!(%error, "changes in the network namespace of the interface are looked for once a second");
        }
    }

    /// Sets whether the interface stays, with its addresses and routes, when this process ends, however it does.
    pub fn keep(&self, keep: bool) -> io::Result<()> {
        // Elsewhere another interface may have the name here.
        if keep && !matches!(self.place(), Ok(Place::Elsewhere(_))) {
            alias::set(&self.name()?, MARK)?;
        }
        sys::tun_set_persist(&self.file, keep)
    }

    /// Returns the interface's present name; an error when it is gone.
    pub fn name(&self) -> io::Result<String> {
        sys::tun_name(&self.file)
    }

    /// Returns what the interface is like now.
    pub fn link(&self) -> Link {
        match (self.name(), self.place()) {
            (Err(_), _) => Link::Gone,
            (Ok(name), Ok(Place::Elsewhere(namespace))) => Link::Present {
                up: self.is_up(),
                mtu: link::within(&namespace, || sys::link_mtu(&name).ok()).flatten(),
                elsewhere: true,
            },
            // Kernels before 5.2 do not say where it is: as long as there is one of that name, it is that.
            (Ok(name), Ok(Place::Here) | Err(_)) => link::read(&name),
        }
    }

    /// Returns whether the interface is up: only then the kernel lets it be written to. That can be asked without any privilege,
    /// and wherever it is.
    fn is_up(&self) -> bool {
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLOUT)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|writable| writable > 0)
    }

    /// Returns whether the interface is in the network namespace of this process.
    fn place(&self) -> io::Result<Place> {
        let namespace = sys::tun_namespace(&self.file)?;
        let there = File::from(namespace.try_clone()?).metadata()?.ino();
        Ok(if network() == Some(there) {
            Place::Here
        } else {
            Place::Elsewhere(namespace)
        })
    }

    /// Returns what it and its kernel agreed on.
    pub fn offloads(&self) -> TunOffloads {
        self.offloads
    }

    /// Reads one packet, behind its virtio-net header if there are such; `None` when none waits.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match (&self.file).read(buffer) {
            Ok(length) => Ok(Some(length)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Hands one packet to the kernel, behind its virtio-net header if there are such.
    pub fn write(&self, packet: &[u8]) -> io::Result<()> {
        (&self.file).write(packet).map(drop)
    }
}

fn open() -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
}

/// Returns whether a descriptor is a tun's whose interface is there.
pub fn is_tun(file: &impl AsFd) -> bool {
    sys::tun_kind(file).is_ok()
}

/// Removes an interface that was kept and that no process holds; any other is left alone.
pub fn remove_kept(name: &str) -> io::Result<()> {
    if is_kept(name) {
        let file = open()?;
        attach(&file, name, false, false, &[true, false])?;
        sys::tun_set_persist(&file, false)?;
    }
    Ok(())
}

/// Returns whether it is one of ours that no process holds. A second file is no error for an interface with several
/// queues, so it is asked before.
fn is_kept(name: &str) -> bool {
    alias::read(name).is_ok_and(|label| label.alias == MARK && !label.carrier)
}

/// Attaches, and returns what kind it has become: with a header if possible, and the first of `queues` that is. A file
/// that was refused once can be asked again.
fn attach(file: &File, name: &str, offload: bool, new: bool, queues: &[bool]) -> io::Result<TunKind> {
    let headers = if offload { &[true, false][..] } else { &[false] };
    let kinds = headers
        .iter()
        .flat_map(|vnet| queues.iter().map(|queues| (*vnet, *queues)));
    let mut refused = io::Error::from(io::ErrorKind::InvalidInput);
    for (vnet, queues) in kinds {
        let kind = TunKind { vnet, queues };
        match sys::tun_set_interface(file, name, kind, new) {
            Ok(()) => return Ok(kind),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// Switches on what the kernel has, and off what an earlier process switched on; older kernels refuse a set that has one
/// they do not know.
fn settle(file: &File, vnet: bool, offload: bool) -> TunOffloads {
    let takes = |offloads| sys::tun_set_offload(file, offloads).is_ok();
    if vnet {
        // It is this long anyway, unless another program had this interface in between.
        let _ = sys::tun_set_header_size(file, vnet::LENGTH as c_int);
    }
    if !vnet || !offload {
        takes(0);
        return TunOffloads {
            vnet,
            ..TunOffloads::default()
        };
    }
    let tso = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
    let uso = tso | libc::TUN_F_USO4 | libc::TUN_F_USO6;
    let uso = takes(uso);
    TunOffloads {
        vnet: true,
        tso: uso || takes(tso),
        uso,
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
