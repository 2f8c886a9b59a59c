//! The tunnel interface: a TUN device that lives as long as its file is open.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::OpenOptionsExt,
    },
};

use thiserror::Error;

use crate::sys;

/// What WireGuard's own tools assume: 1500 less the worst of its overheads.
pub const DEFAULT_MTU: u16 = 1420;
/// The kernel's default of 500 drops packets in bursts.
const QUEUE_LENGTH: u16 = 1000;

/// An interface cannot be made.
#[derive(Debug, Error)]
pub enum TunError {
    /// No interface can have this name.
    #[error("no interface can be called {name:?}: 1 to 15 bytes without '/', ':', '%' and blanks")]
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

/// A TUN interface.
#[derive(Debug)]
pub struct Tun {
    file: File,
}

impl Tun {
    /// Makes an interface.
    pub fn create(name: &str) -> Result<Self, TunError> {
        let forbidden = |c: char| c == '/' || c == ':' || c == '%' || c.is_whitespace() || c.is_control();
        if name.is_empty()
            || name.len() >= libc::IFNAMSIZ
            || matches!(name, "." | "..")
            || name.contains(forbidden)
        {
            return Err(TunError::Name { name: name.into() });
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(TunError::Open)?;
        sys::tun_set_interface(&file, name).map_err(|source| TunError::Create {
            name: name.into(),
            source,
        })?;
        sys::set_link_mtu(name, DEFAULT_MTU)
            .and_then(|()| sys::set_queue_length(name, QUEUE_LENGTH))
            .map_err(|source| TunError::SetUp {
                name: name.into(),
                source,
            })?;
        Ok(Self { file })
    }

    /// The interface's present name; an error when it is gone.
    pub fn name(&self) -> io::Result<String> {
        sys::tun_name(&self.file)
    }

    /// Reads one packet; `None` when none waits.
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

    /// Hands one packet to the kernel.
    pub fn write(&self, packet: &[u8]) -> io::Result<()> {
        (&self.file).write(packet).map(drop)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
