//! What others do to the tunnel interface: up, down, another MTU, renamed, moved, removed; and to the routes of its sockets.

use std::{
    ffi::c_int,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    thread,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvmsg, socket,
    },
};

use crate::{rtnetlink, sys};

pub(crate) mod alias;

/// The netlink groups that are notified of changes to links, addresses, routes, rules and nexthops: RTNLGRP_* of
/// linux/rtnetlink.h, of which group n is bit n - 1.
const GROUPS: u32 = bit(1) | bit(5) | bit(7) | bit(8) | bit(9) | bit(11) | bit(19) | bit(32);

const fn bit(group: u32) -> u32 {
    1 << (group - 1)
}

/// What an interface is like now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// It is gone.
    Gone,
    /// It is there.
    Present {
        /// Whether it is up.
        up: bool,
        /// Its MTU; `None` when it cannot be known.
        mtu: Option<usize>,
        /// Whether it is in another network namespace than this process.
        elsewhere: bool,
    },
}

/// Where links or routes have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// In the network namespace of this process.
    pub here: bool,
    /// In another one.
    pub elsewhere: bool,
}

/// Tells when links and routes have to be read again. Of the kernel's notifications only the arrival counts; the state is read afterwards.
#[derive(Debug)]
pub struct Notifier {
    socket: OwnedFd,
}

impl Notifier {
    /// Subscribes in the network namespace of this thread.
    pub fn new() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            flags,
            Some(SockProtocol::NetlinkRoute),
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        Ok(Self { socket })
    }

    /// Subscribes in this namespace as well, of which no descriptor is kept, and perhaps in some others; for `None` in none but its
    /// own. Takes CAP_NET_BROADCAST.
    pub(crate) fn follow_elsewhere(&self, namespace: Option<&OwnedFd>) -> io::Result<()> {
        if let Some(namespace) = namespace {
            // It has a number already when the interface was moved there from here.
            let _ = rtnetlink::number(namespace);
        }
        sys::listen_everywhere(&self.socket, namespace.is_some())
    }

    /// Discards the notifications that have arrived; returns where something has changed.
    pub fn clear(&self) -> Changes {
        let mut buffer = [0; 4096];
        let mut changes = Changes::default();
        loop {
            let mut control = nix::cmsg_space!(c_int);
            let mut parts = [io::IoSliceMut::new(&mut buffer)];
            let flags = MsgFlags::empty();
            match recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
                // What comes from another namespace has that one's number with it.
                Ok(message) if message.bytes > 0 => {
                    let numbered = message.cmsgs().is_ok_and(|mut all| all.next().is_some());
                    changes.elsewhere |= numbered;
                    changes.here |= !numbered;
                }
                // Some notifications were lost; one is enough.
                Err(Errno::ENOBUFS) => {
                    changes = Changes {
                        here: true,
                        elsewhere: true,
                    }
                }
                Ok(_) | Err(_) => return changes,
            }
        }
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Returns the network namespace of this process, by its inode; `None` where there is no /proc.
pub(crate) fn network() -> Option<u64> {
    fs::metadata("/proc/self/ns/net").ok().map(|meta| meta.ino())
}

/// Returns what an interface of this network namespace is like.
pub(crate) fn read(name: &str) -> Link {
    Link::Present {
        up: sys::link_is_up(name).unwrap_or(true),
        mtu: sys::link_mtu(name).ok(),
        elsewhere: false,
    }
}

/// Asks something in another network namespace, which takes CAP_SYS_ADMIN; `None` where it cannot be entered. No descriptor is
/// kept that would keep the namespace.
pub(crate) fn within<T: Send>(namespace: &OwnedFd, ask: impl FnOnce() -> T + Send) -> Option<T> {
    let enter_and_ask = || {
        setns(namespace, CloneFlags::CLONE_NEWNET).ok()?;
        Some(ask())
    };
    // A thread of its own, which ends there: this one stays where it is.
    thread::scope(|scope| {
        let asking = thread::Builder::new().spawn_scoped(scope, enter_and_ask);
        asking.ok()?.join().ok().flatten()
    })
}
