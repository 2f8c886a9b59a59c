//! Finds what others on this machine use although it is Spanwire's.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, setsockopt, socket, sockopt,
};
use spanwire_host::OwnershipConflict;
use spanwire_topology::Family;

use crate::{
    Kernel,
    error::ReadError,
    kernel::socket_of,
    link, route, rule,
    wireguard::{KERNEL_KIND, USERSPACE_KIND, uapi},
};

impl Kernel {
    /// Returns everything of others that stands in the way; `listen_port` is checked where this node is to listen.
    ///
    /// # Errors
    /// [`ReadError`] when the machine's state cannot be read.
    pub async fn ownership_conflicts(
        &mut self,
        listen_port: Option<u16>,
    ) -> Result<Vec<OwnershipConflict>, ReadError> {
        let mut conflicts = Vec::new();
        let found = link::find(&mut self.route, &self.owned.link).await;
        let found = found.map_err(ReadError::netlink("the devices"))?;
        let mut listening = None;
        match found {
            Some(device) if self.is_own_device(&device).await => {
                listening = self
                    .device(&device.name)
                    .read()
                    .await
                    .ok()
                    .map(|device| device.listen_port);
            }
            Some(device) => conflicts.push(foreign_device(device)),
            None => {}
        }
        for family in [Family::V4, Family::V6] {
            let rules = rule::rules(&mut self.route, family).await;
            let rules = rules.map_err(ReadError::netlink("the rules"))?;
            // Ahead of other rules they have another place.
            let elsewhere = rules
                .iter()
                .any(|rule| self.is_own_rule(rule) && !self.in_band(rule));
            for rule in rules.into_iter().filter(|_| !elsewhere) {
                let foreign = rule.protocol != self.owned.protocol || rule.rule.is_none();
                if self.in_band(&rule) && foreign {
                    conflicts.push(OwnershipConflict::Rule {
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
                conflicts.push(OwnershipConflict::Routes { table, count });
            }
        }
        let is_foreign = self.nft.foreign().await;
        if is_foreign.map_err(ReadError::netlink("the nft table"))? {
            let name = self.owned.nft_table.clone();
            conflicts.push(OwnershipConflict::NftTable { name });
        }
        let port = listen_port.filter(|port| listening != Some(*port) && taken(*port));
        conflicts.extend(port.map(|port| OwnershipConflict::Port { port }));
        Ok(conflicts)
    }

    /// Whether a device of our name is a WireGuard's that Spanwire made, by either backend.
    pub(crate) async fn is_own_device(&self, device: &link::Device) -> bool {
        match device.kind.as_str() {
            KERNEL_KIND => true,
            USERSPACE_KIND => uapi::answers(&socket_of(&self.userspace, &device.name)).await,
            _ => false,
        }
    }
}

/// What a device of our name is that no backend of Spanwire answers for. Of a TUN device it cannot be known who made it: a
/// tunnel process that starts has its device a moment before it answers for it.
pub(crate) fn foreign_device(device: link::Device) -> OwnershipConflict {
    let link::Device { name, kind, .. } = device;
    match kind.as_str() {
        USERSPACE_KIND => OwnershipConflict::SilentLink { name },
        _ => OwnershipConflict::Link { name, kind },
    }
}

/// Whether the UDP port is taken in either family, found out by trying.
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
