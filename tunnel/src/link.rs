//! What others do to the tunnel interface: up, down, another MTU, renamed, moved, removed.

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
    },
};

use crate::sys;

pub(crate) mod alias;

/// The netlink group that is notified of every change to a link.
const RTMGRP_LINK: u32 = 1;

/// What an interface is like now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// It is gone.
    Gone,
    /// It is there.
    Present {
        /// Whether it is up.
        up: bool,
        /// Its MTU.
        mtu: usize,
    },
}

/// Tells when links have to be read again. Of the kernel's notifications only the arrival counts; the state is read afterwards.
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
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, RTMGRP_LINK))?;
        Ok(Self { socket })
    }

    /// Discards the notifications that have arrived.
    pub fn clear(&self) {
        let mut buffer = [0; 4096];
        // ENOBUFS only says that some notifications were lost; one is enough.
        while matches!(
            recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()),
            Ok(1..) | Err(Errno::ENOBUFS)
        ) {}
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

/// Returns what an interface that exists is like.
pub(crate) fn read(name: &str) -> Link {
    match (sys::link_is_up(name), sys::link_mtu(name)) {
        (Ok(up), Ok(mtu)) => Link::Present { up, mtu },
        // It exists, but not here: it was moved to another network namespace, where it carries packets as before.
        _ => Link::Present {
            up: true,
            mtu: usize::from(u16::MAX),
        },
    }
}
