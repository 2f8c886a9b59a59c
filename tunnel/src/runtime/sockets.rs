//! The sockets of all shards of a device, and what its configuration changes about them.

use std::{io, net::IpAddr, os::fd::OwnedFd, time::Instant};

use crate::{
    device::Wire,
    path::Path,
    runtime::{shard_io::ShardIo, workers::WorkerIo},
    uapi::{Ports, restore::RestoredPorts},
    udp::UdpSockets,
};

/// What holds for the sockets of all shards.
#[derive(Debug)]
pub(super) struct Settings {
    /// Whether offloads may be used.
    offload: bool,
    /// Zero until a port is asked for or picked.
    pub(super) port: u16,
    mark: u32,
    pub(super) up: bool,
    complained: bool,
}

impl Settings {
    pub(super) fn new(offload: bool) -> Self {
        Self {
            offload,
            port: 0,
            mark: 0,
            up: false,
            complained: false,
        }
    }

    /// Goes on with what another process had; returns its sockets, if it had any: the interface is up then.
    pub(super) fn resume(
        &mut self,
        ports: RestoredPorts,
        udp: [Option<OwnedFd>; 2],
    ) -> io::Result<Option<UdpSockets>> {
        let RestoredPorts { port, mark } = ports;
        (self.port, self.mark) = (port, mark);
        let [v4, v6] = udp;
        if v4.is_none() && v6.is_none() {
            return Ok(None);
        }
        let sockets = UdpSockets::adopt(v4, v6, port, self.offload)?;
        self.listening(&sockets);
        self.up = true;
        Ok(Some(sockets))
    }

    /// Returns the same in a form that outlives the sockets.
    pub(super) fn ports(&self) -> RestoredPorts {
        let (port, mark) = (self.port, self.mark);
        RestoredPorts { port, mark }
    }

    /// Returns the mark on the device's own packets.
    pub(super) fn mark(&self) -> u32 {
        self.mark
    }

    fn listening(&mut self, sockets: &UdpSockets) {
        tracing::info!(port = sockets.port(), offloads = ?sockets.offloads(), "listening");
        self.port = sockets.port();
        self.complained = false;
    }

    /// Logs once that the port is not available, however often it is tried.
    pub(super) fn complain(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.complained, true) {
            tracing::error!(port = self.port, %error, "listening failed, retrying every second");
        }
    }
}

/// The sockets of a device whose other shards wait meanwhile. What is written goes by the first one.
pub(super) struct SocketSet<'a> {
    pub(super) settings: &'a mut Settings,
    pub(super) io: &'a mut ShardIo,
    pub(super) others: Vec<WorkerIo<'a>>,
}

impl SocketSet<'_> {
    /// Listens on this port with all shards.
    pub(super) fn open(&mut self, port: u16) -> io::Result<()> {
        let sockets = UdpSockets::bind(port, self.settings.mark, self.settings.offload)?;
        self.settings.listening(&sockets);
        self.io.listen(sockets);
        self.share();
        Ok(())
    }

    /// Gives every other shard sockets on the port of the first.
    pub(super) fn share(&mut self) {
        let shards = 1 + self.others.len();
        let Some(sockets) = &self.io.sockets else { return };
        if shards == 1 {
            return;
        }
        let own = sockets.split(shards, self.settings.mark);
        match own {
            Ok(own) => {
                for (other, sockets) in self.others.iter_mut().zip(own) {
                    other.listen(sockets);
                }
            }
            Err(error) => {
                tracing::info!(%error, "one socket receives for all threads");
                for other in &mut self.others {
                    match sockets.try_clone() {
                        Ok(sockets) => other.io.listen(sockets),
                        Err(error) => {
                            tracing::error!(%error, "duplicating a socket failed, a worker cannot send")
                        }
                    }
                }
            }
        }
    }

    /// Closes the sockets of every other shard: only the first one receives and sends.
    pub(super) fn unshare(&mut self) {
        for other in &mut self.others {
            other.io.close();
        }
    }

    /// Drops what the kernel has for all shards from the interface.
    pub(super) fn discard_packets(&mut self) {
        self.io.discard_packets();
        for other in &mut self.others {
            other.io.discard_packets();
        }
    }

    /// Stops listening.
    pub(super) fn close(&mut self) {
        self.io.close();
        self.unshare();
    }
}

impl Wire for SocketSet<'_> {
    fn room(&mut self) -> &mut [u8] {
        self.io.room()
    }

    fn commit(&mut self, to: Path, tos: u8, length: usize) {
        self.io.commit(to, tos, length);
    }

    fn deliver(&mut self, packet: &[u8]) {
        self.io.deliver(packet);
    }

    fn is_own(&mut self, address: IpAddr) -> bool {
        self.io.is_own(address)
    }

    fn route_mtu(&mut self, now: Instant, destination: IpAddr) -> Option<usize> {
        self.io.route_mtu(now, destination)
    }
}

impl Ports for SocketSet<'_> {
    fn listen_port(&self) -> u16 {
        self.settings.port
    }

    fn is_open(&self) -> bool {
        self.io.sockets.is_some()
    }

    /// Listens on another port; the old sockets stay when it is not available. While the interface is down, it is tried.
    fn set_listen_port(&mut self, port: u16) -> io::Result<()> {
        if port == self.settings.port && port != 0 && self.is_open() {
            return Ok(());
        }
        if !self.settings.up {
            if port != 0 {
                UdpSockets::bind(port, 0, false)?;
            }
            self.settings.port = port;
            return Ok(());
        }
        self.open(port)
    }

    fn fwmark(&self) -> u32 {
        self.settings.mark
    }

    fn set_fwmark(&mut self, mark: u32) -> io::Result<()> {
        self.io.set_mark(mark)?;
        for other in &mut self.others {
            other.io.set_mark(mark)?;
        }
        self.settings.mark = mark;
        Ok(())
    }
}
