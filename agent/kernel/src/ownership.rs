//! Finds what others on this machine use although it is Spanwire's.

use std::{
    fs, io,
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
    link, route, rule, vxlan,
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
        let hop = link::find(&mut self.route, &self.owned.hop_link).await;
        let hop = hop.map_err(ReadError::netlink("the devices"))?;
        conflicts.extend(
            hop.filter(|device| device.kind != vxlan::KIND)
                .map(|link::Device { name, kind, .. }| OwnershipConflict::HopLink { name, kind }),
        );
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
        // Where the own process hangs it is not known who listens.
        let is_known = !conflicts
            .iter()
            .any(|conflict| matches!(conflict, OwnershipConflict::SilentLink { .. }));
        let port = listen_port.filter(|port| is_known && listening != Some(*port) && taken(*port));
        conflicts.extend(port.map(|port| OwnershipConflict::Port { port }));
        Ok(conflicts)
    }

    /// Whether a device of our name is a WireGuard's that Spanwire made, by either backend.
    pub(crate) async fn is_own_device(&mut self, device: &link::Device) -> bool {
        match device.kind.as_str() {
            KERNEL_KIND => true,
            USERSPACE_KIND => {
                let socket = socket_of(&self.userspace, &device.name);
                uapi::answers(&mut self.process, &socket).await
            }
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

/// Whether the UDP port is taken in either family, found out by trying. For one below 1024 (`ip_unprivileged_port_start`, ip(7))
/// that takes a capability that the agent has not: of these the kernel says who has which.
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
    let tried = [v4(), v6()].map(|result| result.err().map(|error| error.kind()));
    is_taken(tried, sockets, port)
}

/// Returns the kernel's lists of UDP sockets in this thread's network namespace; empty where it gives none.
fn sockets() -> String {
    let lists = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];
    let lists = lists.iter().filter_map(|path| fs::read_to_string(path).ok());
    lists.collect()
}

/// Judges by what came of trying, and by the kernel's lists of sockets where trying tells nothing.
fn is_taken(tried: [Option<io::ErrorKind>; 2], sockets: impl FnOnce() -> String, port: u16) -> bool {
    if tried.contains(&Some(io::ErrorKind::AddrInUse)) {
        return true;
    }
    tried.contains(&Some(io::ErrorKind::PermissionDenied)) && is_listed(&sockets(), port)
}

/// Whether a socket in the kernel's list has the port. Its second field is the local address (proc(5), /proc/net/udp).
fn is_listed(sockets: &str, port: u16) -> bool {
    let local = |line: &str| {
        let (_, port) = line.split_ascii_whitespace().nth(1)?.rsplit_once(':')?;
        u16::from_str_radix(port, 16).ok()
    };
    sockets.lines().filter_map(local).any(|local| local == port)
}

fn datagrams(family: AddressFamily) -> io::Result<std::os::fd::OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(socket(family, SockType::Datagram, flags, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: &str = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
        1: 00000000:01F4 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 21 2 0000000000000000 0\n\
        2: 3500007F:0035 0100007F:01F5 07 00000000:00000000 00:00000000 00000000   101        0 22 2 0000000000000000 0\n";
    const V6: &str = "  sl  local_address                         remote_address                        st tx_queue\n\
        3: 00000000000000000000000000000000:0222 00000000000000000000000000000000:0000 07 00000000:00000000\n";

    #[test]
    fn of_a_port_that_cannot_be_tried_the_kernel_says_who_has_it() {
        let denied = [Some(io::ErrorKind::PermissionDenied); 2];
        let sockets = || [V4, V6].concat();
        for (port, taken) in [(500, true), (53, true), (546, true), (501, false), (443, false)] {
            assert_eq!(is_taken(denied, sockets, port), taken, "{port}");
        }
        // Where IPv6 is switched off.
        let v4_only = [
            Some(io::ErrorKind::PermissionDenied),
            Some(io::ErrorKind::Unsupported),
        ];
        assert!(is_taken(v4_only, sockets, 500));
    }

    #[test]
    fn what_can_be_tried_is_not_looked_up() {
        let never = || unreachable!("it was tried");
        assert!(!is_taken([None, None], never, 51_820));
        assert!(is_taken([None, Some(io::ErrorKind::AddrInUse)], never, 51_820));
        assert!(!is_taken(
            [None, Some(io::ErrorKind::AddrNotAvailable)],
            never,
            51_820
        ));
    }
}
