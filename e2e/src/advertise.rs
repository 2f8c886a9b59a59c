//! Router advertisements (RFC 4861, section 4.2) on a location's LAN, as an IPv6 provider's router sends them.

use std::{
    fs,
    net::{Ipv6Addr, SocketAddrV6},
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::Path,
    process::Stdio,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, setsockopt, socket,
        sockopt::{BindToDevice, Ipv6MulticastHops},
    },
};

use crate::{
    lab::Lab,
    machine::{Background, Machine},
    profile::Profile,
    wait::wait_until,
};

/// What is advertised: a network of the documentation's (RFC 3849).
const PREFIX: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0);
const SOON: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_secs(2);
/// Seconds for which the router is a default router: so few that a node which no longer listens loses it soon.
const LIFETIME: u16 = 8;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Sends advertisements on a device of this network namespace, for ever.
pub fn serve(device: &str) -> Result<()> {
    let socket = socket(
        AddressFamily::Inet6,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::IcmpV6,
    )
    .context("cannot open a raw socket")?;
    setsockopt(&socket, BindToDevice, &device.into()).with_context(|| format!("no device {device}"))?;
    // Section 6.1.2: what has passed a router is no advertisement.
    setsockopt(&socket, Ipv6MulticastHops, &255)?;
    let to = SocketAddrV6::new(ALL_NODES, 0, 0, if_nametoindex(device)?);
    let message = message();
    loop {
        let sent = sendto(
            socket.as_raw_fd(),
            &message,
            &SockaddrIn6::from(to),
            MsgFlags::empty(),
        );
        // A device that was made a moment ago has no address yet that is known to be its own alone.
        if sent != Err(Errno::EADDRNOTAVAIL) {
            sent.context("cannot send an advertisement")?;
        }
        thread::sleep(INTERVAL);
    }
}

/// Returns one advertisement; the kernel adds the checksum.
fn message() -> Vec<u8> {
    let mut message = vec![134, 0, 0, 0, 64, 0];
    message.extend(LIFETIME.to_be_bytes());
    message.extend([0; 8]);
    // The prefix: on the link, and to make addresses of; valid for 60 s, preferred for 30 s.
    message.extend([3, 4, 64, 0xc0, 0, 0, 0, 60, 0, 0, 0, 30, 0, 0, 0, 0]);
    message.extend(PREFIX.octets());
    message
}

/// Starts it on the routers of the locations that have a host with such a profile; they end with the lab.
pub(crate) fn start(lab: &Lab, program: Option<&Path>) -> Result<()> {
    for location in &lab.layout.locations {
        let wants = |node: &crate::NodeLayout| node.profiles.contains(&Profile::RouterAdvertisements);
        if !location.nodes.iter().any(wants) {
            continue;
        }
        let program = program.context("the profile router-advertisements needs the command `lab`")?;
        let log = fs::File::create(lab.store.path(format!("advertise-{}.log", location.name)))?;
        let mut command = lab
            .network(&location.name)?
            .cmd([&program.to_string_lossy(), "advertise", "lan"])?
            .into_command()?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0);
        let mut child = command.spawn()?;
        // Reaps it if this process lives to see its end.
        thread::spawn(move || child.wait());
    }
    Ok(())
}

/// A location's router that advertises itself until it is dropped.
#[derive(Debug)]
pub struct Advertiser<'a> {
    lab: &'a Lab,
    location: String,
    _running: Background,
}

impl<'a> Advertiser<'a> {
    /// Starts it; `program` is the command `lab`.
    pub fn start(lab: &'a Lab, location: &str, program: &Path) -> Result<Self> {
        let running = lab
            .network(location)?
            .spawn([&program.to_string_lossy(), "advertise", "lan"])?;
        Ok(Self {
            lab,
            location: location.to_owned(),
            _running: running,
        })
    }

    /// Ends it, and removes from the nodes what they have learned.
    pub fn stop(self) -> Result<()> {
        let Self {
            lab,
            location,
            _running: running,
        } = self;
        drop(running);
        for node in lab.layout().nodes().filter(|node| node.location == location) {
            let machine = lab.node(&node.name)?;
            // The last advertisement may be on its way, and a prefix route may outlive its address.
            wait_until("nothing is left of what was advertised", SOON, || {
                machine.sh(&format!(
                    "ip -6 route flush proto ra; ip -6 address flush dev eth0 scope global dynamic; \
                     ip -6 route flush root {PREFIX}/64"
                ))?;
                let left = machine.sh(&format!(
                    "ip -6 route show proto ra; ip -6 route show root {PREFIX}/64; \
                     ip -6 address show dev eth0 scope global dynamic"
                ))?;
                ensure!(left.trim().is_empty(), "{}: {left}", node.name);
                Ok(true)
            })?;
        }
        Ok(())
    }
}

/// Returns the default route that a node has learned from an advertisement, if it has one.
pub fn learned_default(node: &Machine<'_>) -> Result<Option<String>> {
    let routes = node.run(["ip", "-6", "route", "show", "default", "proto", "ra"])?;
    Ok(routes.lines().next().map(|route| route.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_advertisement_names_router_and_prefix_where_the_rfc_says() {
        let message = message();
        assert_eq!(message.len(), 16 + 32);
        assert_eq!((message[0], message[1]), (134, 0), "type and code");
        assert_eq!(&message[6..8], [0, 8], "router lifetime");
        assert_eq!(
            (message[16], message[17], message[18]),
            (3, 4, 64),
            "a prefix of 64 bits"
        );
        assert_eq!(&message[32..48], PREFIX.octets());
    }
}
