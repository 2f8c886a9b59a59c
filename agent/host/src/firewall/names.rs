//! What identifies chains, and what passes a device.

use std::fmt;

use spanwire_topology::Family;

use crate::LinkName;

/// The family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableFamily {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Both.
    Inet,
    /// What passes a device.
    Netdev,
    /// What passes a bridge.
    Bridge,
}

impl TableFamily {
    pub(crate) fn has(self, family: Family) -> bool {
        match self {
            Self::Ip => family == Family::V4,
            Self::Ip6 => family == Family::V6,
            Self::Inet | Self::Netdev | Self::Bridge => true,
        }
    }
}

impl fmt::Display for TableFamily {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
            Self::Netdev => "netdev",
            Self::Bridge => "bridge",
        })
    }
}

/// What identifies a chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainName {
    /// The family of its table.
    pub family: TableFamily,
    /// Its table.
    pub table: String,
    /// Its name in the table.
    pub chain: String,
}

/// As nft takes it.
impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, table, chain } = self;
        write!(f, "{family} {table} {chain}")
    }
}

/// Which way a packet passes a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// It arrived by it.
    In,
    /// It leaves by it.
    Out,
}

/// Packets that pass a device in one direction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pass {
    /// Which way.
    pub direction: Direction,
    /// The device.
    pub link: LinkName,
}

/// As nft writes the match.
impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = match self.direction {
            Direction::In => "iifname",
            Direction::Out => "oifname",
        };
        write!(f, "{key} \"{}\"", self.link)
    }
}
