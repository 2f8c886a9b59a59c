//! Questions to the kernel by rtnetlink(7).

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily as Family, RouteNetlinkMessage,
    nsid::{NsidAttribute, NsidMessage},
    route::{RouteAttribute, RouteMessage, RouteMetric, RouteType},
};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

/// An answer with all attributes of a link is far below.
const ROOM: usize = 64 * 1024;

/// A socket for questions in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct RouteSocket {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl RouteSocket {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            Some(SockProtocol::NetlinkRoute),
        )?;
        let buffer = vec![0; ROOM];
        Ok(Self { socket, buffer })
    }

    /// Sends one request and returns the kernel's answer to it; `None` when that is a mere acknowledgement.
    pub(crate) fn ask(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Option<RouteNetlinkMessage>> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(request));
        request.finalize();
        let length = request.buffer_len();
        self.buffer.resize(length.max(ROOM), 0);
        request.serialize(&mut self.buffer);
        send(self.socket.as_raw_fd(), &self.buffer[..length], MsgFlags::empty())?;
        let received = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
        let answer = NetlinkMessage::deserialize(&self.buffer[..received]).map_err(io::Error::other)?;
        if let NetlinkPayload::Error(error) = &answer.payload
            && error.code.is_some()
        {
            return Err(error.to_io());
        }
        let NetlinkPayload::InnerMessage(answer) = answer.payload else {
            return Ok(None);
        };
        Ok(Some(answer))
    }

    /// Returns by which interface a UDP datagram leaves for `remote` when it is sent from `local`, or from whatever address the
    /// kernel chooses. It fails when there is no route, and for IPv4 when `local` is no address of this machine.
    pub(crate) fn way_out(
        &mut self,
        remote: SocketAddr,
        local: Option<IpAddr>,
        sender: Sender,
    ) -> io::Result<Option<u32>> {
        let route = self.route(sender.question(remote, local))?;
        let way = route.attributes.iter().find_map(|attribute| {
            let RouteAttribute::Oif(interface) = attribute else {
                return None;
            };
            Some(*interface)
        });
        Ok(way)
    }

    /// Returns whether this is an address of this machine: of what has no VRF, or by one of these interfaces (zero is none),
    /// each of which may be a VRF or in one.
    pub(crate) fn is_own(&mut self, address: IpAddr, interfaces: &[u32]) -> bool {
        let interfaces = interfaces.iter().filter(|interface| **interface != 0);
        [&0].into_iter().chain(interfaces).any(|interface| {
            self.route(to(address, *interface))
                .is_ok_and(|route| route.header.kind == RouteType::Local)
        })
    }

    /// Returns the longest packet that the route there takes: as configured, or as a router on the way has said.
    pub(crate) fn mtu(&mut self, destination: IpAddr) -> Option<usize> {
        let route = self.route(to(destination, 0)).ok()?;
        let metrics = route.attributes.into_iter().find_map(|attribute| {
            let RouteAttribute::Metrics(metrics) = attribute else {
                return None;
            };
            Some(metrics)
        });
        metrics?.into_iter().find_map(|metric| {
            let RouteMetric::Mtu(mtu) = metric else {
                return None;
            };
            usize::try_from(mtu).ok().filter(|mtu| *mtu > 0)
        })
    }

    fn route(&mut self, question: RouteMessage) -> io::Result<RouteMessage> {
        match self.ask(RouteNetlinkMessage::GetRoute(question), 0)? {
            Some(RouteNetlinkMessage::NewRoute(route)) => Ok(route),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Has this network namespace know another one by a number, without which nothing is notified from there.
pub(crate) fn number(namespace: &OwnedFd) -> io::Result<()> {
    let mut request = NsidMessage::default();
    request.attributes = vec![
        NsidAttribute::Fd(namespace.as_raw_fd().cast_unsigned()),
        NsidAttribute::Id(-1),
    ];
    RouteSocket::open()?
        .ask(RouteNetlinkMessage::NewNsId(request), NLM_F_ACK)
        .map(drop)
}

/// What the kernel's choice of a route depends on besides the addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sender {
    pub(crate) port: u16,
    pub(crate) mark: u32,
    /// The interface to which the socket is bound, a VRF perhaps; zero when it is not.
    pub(crate) device: u32,
}

impl Sender {
    fn question(self, remote: SocketAddr, local: Option<IpAddr>) -> RouteMessage {
        let mut question = to(remote.ip(), self.device);
        // Rules may ask for them. Kernels before 4.17 pass over what they do not know.
        question.attributes.extend([
            RouteAttribute::IpProto(libc::IPPROTO_UDP as u8),
            RouteAttribute::Sport(self.port),
            RouteAttribute::Dport(remote.port()),
        ]);
        if let Some(local) = local {
            question.header.source_prefix_length = question.header.destination_prefix_length;
            question.attributes.push(RouteAttribute::Source(local.into()));
        }
        if self.mark != 0 {
            question.attributes.push(RouteAttribute::Mark(self.mark));
        }
        question
    }
}

/// Which addresses are this machine's, asked again after a second.
#[derive(Debug, Default)]
pub(crate) struct OwnAddresses {
    asked: Option<Instant>,
    known: BTreeMap<IpAddr, bool>,
}

/// For how long an answer counts.
const SECOND: Duration = Duration::from_secs(1);
/// So many answers are remembered.
const MOST: usize = 64;

impl OwnAddresses {
    /// Returns whether this is an address of this machine, in the VRF of `device` perhaps. What cannot be known counts as one.
    pub(crate) fn contains(&mut self, address: IpAddr, device: impl FnOnce() -> u32) -> bool {
        let is_old = |at: Instant| at.elapsed() >= SECOND;
        if self.known.len() >= MOST || self.asked.is_none_or(is_old) {
            self.asked = Some(Instant::now());
            self.known.clear();
        }
        let ask = || RouteSocket::open().map_or(true, |mut socket| socket.is_own(address, &[device()]));
        *self.known.entry(address).or_insert_with(ask)
    }
}

/// The MTUs of routes, asked again after a second, and when routes have changed.
#[derive(Debug, Default)]
pub(crate) struct RouteMtus {
    since: Option<Instant>,
    /// Questions of this second.
    questions: usize,
    /// How often routes had changed when these were asked.
    changes: u32,
    known: BTreeMap<IpAddr, Option<usize>>,
}

/// So many destinations are asked for in a second: some milliseconds of it.
const MOST_MTUS: usize = 256;

impl RouteMtus {
    /// Returns the MTU of the route to a destination, which `ask` finds out, unless it has none, or there were too many questions.
    /// Routes have changed so often by now.
    pub(crate) fn to(
        &mut self,
        now: Instant,
        changes: u32,
        destination: IpAddr,
        ask: impl FnOnce() -> Option<usize>,
    ) -> Option<usize> {
        let is_old = |at| now.saturating_duration_since(at) >= SECOND;
        if self.since.is_none_or(is_old) {
            (self.since, self.questions) = (Some(now), 0);
            self.known.clear();
        }
        if std::mem::replace(&mut self.changes, changes) != changes {
            self.known.clear();
        }
        if let Some(mtu) = self.known.get(&destination) {
            return *mtu;
        }
        if self.questions >= MOST_MTUS {
            return None;
        }
        self.questions += 1;
        let mtu = ask();
        self.known.insert(destination, mtu);
        mtu
    }
}

/// A question for the route to an address by an interface, or by any for zero.
fn to(remote: IpAddr, interface: u32) -> RouteMessage {
    let (family, bits) = match remote {
        IpAddr::V4(_) => (Family::Inet, 32),
        IpAddr::V6(_) => (Family::Inet6, 128),
    };
    let mut question = RouteMessage::default();
    question.header.address_family = family;
    question.header.destination_prefix_length = bits;
    question
        .attributes
        .push(RouteAttribute::Destination(remote.into()));
    if interface != 0 {
        question.attributes.push(RouteAttribute::Oif(interface));
    }
    question
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_for_this_machine_leaves_by_the_loopback_and_no_foreign_address_is_sent_from() {
        let mut socket = RouteSocket::open().unwrap();
        for (own, foreign) in [("127.0.0.1", "192.0.2.77"), ("::1", "2001:db8::77")] {
            let [own, foreign]: [IpAddr; 2] = [own, foreign].map(|text| text.parse().unwrap());
            for mark in [0, 7] {
                for (local, device) in [(Some(own), 0), (None, 0), (None, 1)] {
                    let sender = Sender {
                        port: 51820,
                        mark,
                        device,
                    };
                    let way = socket.way_out(SocketAddr::new(own, 5), local, sender);
                    assert_eq!(way.unwrap(), Some(1));
                }
            }
            for interfaces in [&[][..], &[0], &[0, 1], &[0xff_ffff]] {
                assert!(socket.is_own(own, interfaces) && !socket.is_own(foreign, interfaces));
            }
        }
    }

    #[test]
    fn the_mtu_of_a_route_is_asked_once_a_second_unless_routes_change() {
        let start = Instant::now();
        let (mut mtus, mut asked) = (RouteMtus::default(), 0);
        let one = "192.0.2.1".parse().unwrap();
        let ms = Duration::from_millis;
        for (after, changes, questions) in [(0, 0, 1), (999, 0, 1), (999, 1, 2), (999, 1, 2), (1000, 1, 3)] {
            let mut ask = || {
                asked += 1;
                Some(1300)
            };
            assert_eq!(mtus.to(start + ms(after), changes, one, &mut ask), Some(1300));
            assert_eq!(asked, questions, "after {after} ms");
        }
        // Changes without end do not make more questions of it.
        let mut asked = 0;
        for changes in 2..10_000 {
            let mut ask = || {
                asked += 1;
                Some(1300)
            };
            mtus.to(start + ms(1500), changes, one, &mut ask);
        }
        assert_eq!(asked, MOST_MTUS - 1);
    }

    #[test]
    fn the_device_of_a_socket_is_a_part_of_the_question() {
        let remote = "192.0.2.1:5".parse().unwrap();
        for (device, asked) in [(0, false), (7, true)] {
            let sender = Sender {
                device,
                ..Sender::default()
            };
            let question = sender.question(remote, None);
            assert_eq!(question.attributes.contains(&RouteAttribute::Oif(7)), asked);
        }
    }
}
