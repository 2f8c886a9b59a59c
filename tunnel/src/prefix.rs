//! An IP network, host bits cleared.

use std::{fmt, net::IpAddr, str::FromStr};

use thiserror::Error;

/// A text is not a network.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a network is ADDRESS/LENGTH")]
pub struct PrefixError;

/// An IP network, for example `10.1.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    addr: IpAddr,
    len: u8,
}

impl Prefix {
    /// Returns the network of that length which contains `addr`; `None` when no network is that long.
    pub fn new(addr: IpAddr, len: u8) -> Option<Self> {
        let (bits, max) = align(addr);
        if len > max {
            return None;
        }
        let masked = bits & mask(len);
        let addr = match addr {
            IpAddr::V4(_) => IpAddr::V4(((masked >> 96) as u32).into()),
            IpAddr::V6(_) => IpAddr::V6(masked.into()),
        };
        Some(Self { addr, len })
    }

    /// Returns the first address.
    pub fn addr(self) -> IpAddr {
        self.addr
    }

    /// Returns how many leading bits are fixed.
    pub fn length(self) -> u8 {
        self.len
    }

    /// Returns whether `addr` lies in the network.
    pub fn contains(self, addr: IpAddr) -> bool {
        self.addr.is_ipv4() == addr.is_ipv4() && (align(addr).0 ^ align(self.addr).0) & mask(self.len) == 0
    }
}

/// Returns the address at the top of 128 bits, and how long a network of its family may be.
pub(crate) fn align(addr: IpAddr) -> (u128, u8) {
    match addr {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    }
}

/// Returns the upper `len` bits.
pub(crate) fn mask(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let (addr, len) = text.split_once('/').ok_or(PrefixError)?;
        if !len.bytes().all(|c| c.is_ascii_digit()) {
            return Err(PrefixError);
        }
        let addr = addr.parse().map_err(|_| PrefixError)?;
        let len = len.parse().map_err(|_| PrefixError)?;
        Self::new(addr, len).ok_or(PrefixError)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_are_cleared() {
        for (text, want) in [
            ("10.1.2.3/16", "10.1.0.0/16"),
            ("10.1.2.3/0", "0.0.0.0/0"),
            ("10.1.2.3/32", "10.1.2.3/32"),
            ("fd00:1:2::9/48", "fd00:1:2::/48"),
            ("fd00::1/128", "fd00::1/128"),
        ] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), want);
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "fd00::/129",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "x/8",
        ] {
            assert_eq!(text.parse::<Prefix>(), Err(PrefixError), "{text}");
        }
    }
}
