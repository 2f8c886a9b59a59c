//! What a shard writes to: its queue of the interface, its sockets, and what gathers packets for them.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, UdpSocket},
    time::Instant,
};

use crate::{
    device::Wire,
    gso_queue::{Batch, GsoQueue},
    id::PeerId,
    offload::coalesce::Coalescer,
    path::Path,
    rtnetlink::{OwnAddresses, RouteMtus, RouteSocket},
    tun::{QUEUE_LENGTH, Tun},
    udp::{Gone, UdpSockets, Unsent},
};

/// Which shard has the queue of the interface that a shard writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    /// Another shard, which also reads from it.
    Shared,
    /// This one, but the kernel gives it nothing, for no peer is here.
    Idle,
    /// This one.
    Used,
}

/// The kernel's side of a shard.
#[derive(Debug)]
pub(super) struct ShardIo {
    pub(super) tun: Tun,
    pub(super) queue: Queue,
    /// Gathers packets for the interface.
    to_interface: Coalescer,
    /// There while the interface is up.
    pub(super) sockets: Option<UdpSockets>,
    /// Gathers datagrams for the network.
    to_network: GsoQueue,
    own: OwnAddresses,
    route_mtus: RouteMtus,
    pub(super) lost: Lost,
    /// Bytes for peers that could not be sent.
    pub(super) unsent: BTreeMap<PeerId, u64>,
}

/// What was not taken.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lost {
    /// By the kernel, on the way to the network.
    datagrams: u64,
    /// By the kernel, on the way to the interface.
    packets: u64,
    /// By another shard, whose mailbox was full.
    pub(super) handed_over: u64,
}

impl ShardIo {
    pub(super) fn new(tun: Tun, queue: Queue) -> Self {
        Self {
            to_interface: Coalescer::new(tun.offloads().joins()),
            tun,
            queue,
            sockets: None,
            to_network: GsoQueue::unbatched(),
            own: OwnAddresses::default(),
            route_mtus: RouteMtus::default(),
            lost: Lost::default(),
            unsent: BTreeMap::new(),
        }
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = &UdpSocket> {
        self.sockets.iter().flat_map(UdpSockets::sockets)
    }

    /// Sends by other sockets from now on, and what was gathered by the old ones.
    pub(super) fn listen(&mut self, sockets: UdpSockets) {
        self.close();
        self.to_network = if sockets.offloads().gso {
            GsoQueue::default()
        } else {
            GsoQueue::unbatched()
        };
        self.sockets = Some(sockets);
    }

    /// Sends what was gathered, and nothing more.
    pub(super) fn close(&mut self) {
        self.flush_network();
        self.sockets = None;
    }

    /// Drops what the kernel has from the interface, which went down. There may be more packets when it is up again.
    pub(super) fn discard_packets(&mut self) {
        let mut head = [0; 64];
        for _ in 0..QUEUE_LENGTH {
            if !matches!(self.tun.read(&mut head), Ok(Some(_))) {
                break;
            }
        }
    }

    /// Sends what was gathered for the network.
    pub(super) fn flush_network(&mut self) {
        let mut send =
            |batch: Batch<'_>| dispatch(&mut self.sockets, &mut self.lost, &mut self.unsent, batch);
        self.to_network.flush(&mut send);
    }

    /// Returns the addresses of this machine from which nothing could be sent since the last call.
    pub(super) fn take_gone(&mut self) -> Gone {
        self.sockets
            .as_mut()
            .map(UdpSockets::take_gone)
            .unwrap_or_default()
    }

    /// Writes what was gathered for the interface.
    pub(super) fn flush_interface(&mut self) {
        self.to_interface
            .flush(&mut |packet| write(&self.tun, &mut self.lost, packet));
    }

    /// Puts another mark on what is sent.
    pub(super) fn set_mark(&mut self, mark: u32) -> io::Result<()> {
        self.flush_network();
        self.sockets
            .as_ref()
            .map_or(Ok(()), |sockets| sockets.set_mark(mark))
    }
}

impl Wire for ShardIo {
    fn room(&mut self) -> &mut [u8] {
        self.to_network.room()
    }

    fn commit(&mut self, to: Path, tos: u8, length: usize) {
        let mut send =
            |batch: Batch<'_>| dispatch(&mut self.sockets, &mut self.lost, &mut self.unsent, batch);
        self.to_network.commit(to, tos, length, &mut send);
    }

    fn deliver(&mut self, packet: &[u8]) {
        let mut write = |packet: &[u8]| write(&self.tun, &mut self.lost, packet);
        if self.tun.offloads().vnet {
            self.to_interface.push(packet, &mut write);
        } else {
            write(packet);
        }
    }

    fn is_own(&mut self, address: IpAddr) -> bool {
        let device = || self.sockets.as_ref().map_or(0, UdpSockets::device);
        self.own.contains(address, device)
    }

    fn route_mtu(&mut self, now: Instant, destination: IpAddr) -> Option<usize> {
        let Self { tun, route_mtus, .. } = self;
        let ask = || RouteSocket::open().ok()?.mtu(destination);
        route_mtus.to(now, tun.route_changes(), destination, || {
            tun.ask_there(ask).flatten()
        })
    }
}

fn dispatch(
    sockets: &mut Option<UdpSockets>,
    lost: &mut Lost,
    unsent: &mut BTreeMap<PeerId, u64>,
    batch: Batch<'_>,
) {
    let peer = batch.to.peer;
    let Unsent { datagrams, bytes } = match sockets {
        Some(sockets) => sockets.send(batch),
        None => Unsent::all(&batch),
    };
    if datagrams > 0 {
        lost.datagrams += datagrams as u64;
        if let Some(peer) = peer {
            *unsent.entry(peer).or_default() += bytes as u64;
        }
    }
}

fn write(tun: &Tun, lost: &mut Lost, packet: &[u8]) {
    if let Err(error) = tun.write(packet) {
        tracing::trace!(%error, "cannot write to the interface");
        lost.packets += 1;
    }
}
