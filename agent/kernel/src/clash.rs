//! What others on this machine use that Spanwire calls its own.

use std::{
    fmt, io,
    net::{Ipv4Addr, Ipv6Addr},
};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, setsockopt, socket, sockopt,
};
use spanwire_host::{LinkName, TableId};
use spanwire_topology::Family;

use crate::{
    Kernel,
    error::ReadError,
    kernel::socket_of,
    link, route, rule,
    wireguard::{KERNEL_KIND, USERSPACE_KIND, uapi},
};

/// Something of others that stands in the way; its text says what to change.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Clash {
    /// A device with Spanwire's name that is no WireGuard's.
    Link {
        /// The name.
        name: LinkName,
        /// What it is.
        kind: String,
    },
    /// Rules of others in Spanwire's priority band.
    Rule {
        /// The family.
        family: Family,
        /// The priority.
        priority: u32,
        /// Whose it says it is.
        protocol: u8,
    },
    /// Routes of others in one of Spanwire's tables.
    Routes {
        /// The table.
        table: TableId,
        /// How many.
        count: usize,
    },
    /// An nft table with Spanwire's name that Spanwire did not make.
    NftTable {
        /// The name.
        name: String,
    },
    /// The UDP port for WireGuard is taken.
    Port {
        /// The port.
        port: u16,
    },
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link { name, kind } => write!(
                f,
                "the device {name} is there already and is {}, not WireGuard; remove it, or give Spanwire's device \
                 another name",
                if kind.is_empty() { "hardware" } else { kind }
            ),
            Self::Rule {
                family,
                priority,
                protocol,
            } => write!(
                f,
                "an {} rule of somebody else (protocol {protocol}) has the priority {priority}, which is Spanwire's; \
                 remove it, or give Spanwire other priorities",
                match family {
                    Family::V4 => "IPv4",
                    Family::V6 => "IPv6",
                }
            ),
            Self::Routes { table, count } => write!(
                f,
                "{count} routes of somebody else are in the routing table {}, which is Spanwire's; remove them, or \
                 give Spanwire another table",
                table.0
            ),
            Self::NftTable { name } => write!(
                f,
                "the nft table inet {name} is there already and not Spanwire's; remove it, or give Spanwire's table \
                 another name"
            ),
            Self::Port { port } => write!(
                f,
                "the UDP port {port} is taken by somebody else on this node; annotate the node with another \
                 listen port"
            ),
        }
    }
}

impl Kernel {
    /// Everything of others that stands in the way; `listen_port` is checked where this node is to listen.
    ///
    /// # Errors
    /// [`ReadError`] when the machine's state cannot be read.
    pub async fn clashes(&mut self, listen_port: Option<u16>) -> Result<Vec<Clash>, ReadError> {
        let mut clashes = Vec::new();
        let found = link::find(&mut self.route, &self.owned.link).await;
        let found = found.map_err(ReadError::netlink("the devices"))?;
        let mut listening = None;
        match found {
            Some(device) if self.is_own_device(&device).await => {
                listening = self.device().read().await.ok().map(|device| device.listen_port);
            }
            Some(link::Device { name, kind, .. }) => clashes.push(Clash::Link { name, kind }),
            None => {}
        }
        for family in [Family::V4, Family::V6] {
            let rules = rule::rules(&mut self.route, family).await;
            for rule in rules.map_err(ReadError::netlink("the rules"))? {
                let foreign = rule.protocol != self.owned.protocol || rule.rule.is_none();
                if self.in_band(&rule) && foreign {
                    clashes.push(Clash::Rule {
                        family,
                        priority: rule.priority,
                        protocol: rule.protocol,
                    });
                }
            }
        }
        for table in [self.owned.table, self.owned.return_table] {
            let mut count = 0;
            for family in [Family::V4, Family::V6] {
                let routes = route::routes(&mut self.route, family, table, None).await;
                let routes = routes.map_err(ReadError::netlink("the routes"))?;
                let foreign = routes
                    .iter()
                    .filter(|route| route.protocol != self.owned.protocol);
                count += foreign.count();
            }
            if count > 0 {
                clashes.push(Clash::Routes { table, count });
            }
        }
        if self.nft.foreign().await? {
            let name = self.owned.nft_table.clone();
            clashes.push(Clash::NftTable { name });
        }
        let port = listen_port.filter(|port| listening != Some(*port) && taken(*port));
        clashes.extend(port.map(|port| Clash::Port { port }));
        Ok(clashes)
    }

    /// Whether a device of our name is a WireGuard's that Spanwire made, by either backend.
    pub(crate) async fn is_own_device(&self, device: &link::Device) -> bool {
        match device.kind.as_str() {
            KERNEL_KIND => true,
            USERSPACE_KIND => uapi::read(&socket_of(&self.userspace, &device.name))
                .await
                .is_ok(),
            _ => false,
        }
    }
}

/// Whether somebody listens on the UDP port, in either family, found out by trying.
pub(crate) fn taken(port: u16) -> bool {
    let v4 = || {
        let socket = datagrams(AddressFamily::Inet)?;
        let any = SockaddrIn::from(std::net::SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port));
        bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &any).map_err(io::Error::from)
    };
    let v6 = || {
        let socket = datagrams(AddressFamily::Inet6)?;
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
        let any = SockaddrIn6::from(std::net::SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0));
        bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &any).map_err(io::Error::from)
    };
    let in_use = |result: io::Result<()>| result.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse);
    in_use(v4()) || in_use(v6())
}

fn datagrams(family: AddressFamily) -> io::Result<std::os::fd::OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(socket(family, SockType::Datagram, flags, None)?)
}
