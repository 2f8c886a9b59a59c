//! What the process that started this one has opened for it, as wireguard-go takes it: `WG_TUN_FD`, a TUN interface, and
//! `WG_UAPI_FD`, the listening socket for `wg`.

use std::{env, io, os::fd::OwnedFd};

use thiserror::Error;

use crate::sys;

/// A variable names no descriptor.
#[derive(Debug, Error)]
#[error("{variable} is the number of a descriptor that this process was started with, not {value:?}")]
pub struct InheritedError {
    variable: &'static str,
    value: String,
    source: io::Error,
}

/// Descriptors that this process was started with.
#[derive(Debug, Default)]
pub struct Inherited {
    /// A TUN interface.
    pub tun: Option<OwnedFd>,
    /// The UAPI's listening socket, whose file is there.
    pub uapi: Option<OwnedFd>,
}

impl Inherited {
    /// Takes what the environment names. To be called once.
    pub fn from_environment() -> Result<Self, InheritedError> {
        Ok(Self {
            tun: take("WG_TUN_FD")?,
            uapi: take("WG_UAPI_FD")?,
        })
    }
}

fn take(variable: &'static str) -> Result<Option<OwnedFd>, InheritedError> {
    let Some(value) = env::var(variable).ok().filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let number = value.parse().map_err(io::Error::other).and_then(sys::inherited);
    number.map(Some).map_err(|source| InheritedError {
        variable,
        value,
        source,
    })
}
