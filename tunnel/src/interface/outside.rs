//! Everything around a device that it writes to: the interface, the sockets, and what gathers packets for them.

use std::{io, net::UdpSocket, os::fd::OwnedFd};

use crate::{
    device::{Path, Wire},
    offload::coalesce::Coalescer,
    outbox::{Batch, Outbox},
    tun::Tun,
    uapi::{Ports, restore::Wanted},
    udp::Sockets,
};

/// Everything that is not the device.
#[derive(Debug)]
pub(super) struct Outside {
    pub(super) tun: Tun,
    /// For the interface.
    inbox: Coalescer,
    /// There while the interface is up.
    pub(super) sockets: Option<Sockets>,
    /// For the network.
    outbox: Outbox,
    /// Whether offloads may be used.
    offload: bool,
    /// Zero until a port is asked for or picked.
    pub(super) port: u16,
    mark: u32,
    pub(super) up: bool,
    complained: bool,
    pub(super) lost: Lost,
}

/// What the kernel did not take.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lost {
    datagrams: u64,
    packets: u64,
}

impl Outside {
    pub(super) fn new(tun: Tun, offload: bool) -> Self {
        Self {
            inbox: Coalescer::new(tun.offloads().joins()),
            tun,
            sockets: None,
            outbox: Outbox::unbatched(),
            offload,
            port: 0,
            mark: 0,
            up: false,
            complained: false,
            lost: Lost::default(),
        }
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = &UdpSocket> {
        self.sockets.iter().flat_map(Sockets::sockets)
    }

    pub(super) fn open(&mut self, port: u16) -> io::Result<()> {
        self.flush_network();
        let sockets = Sockets::bind(port, self.mark, self.offload)?;
        self.listen(sockets);
        Ok(())
    }

    /// Goes on with the sockets of another process, if it had any; the interface is up then.
    pub(super) fn resume(&mut self, wanted: Wanted, udp: [Option<OwnedFd>; 2]) -> io::Result<()> {
        let Wanted { port, mark } = wanted;
        (self.port, self.mark) = (port, mark);
        let [v4, v6] = udp;
        if v4.is_some() || v6.is_some() {
            self.listen(Sockets::adopt(v4, v6, port, self.offload)?);
            self.up = true;
        }
        Ok(())
    }

    fn listen(&mut self, sockets: Sockets) {
        tracing::info!(port = sockets.port(), offloads = ?sockets.offloads(), "listening");
        self.port = sockets.port();
        self.outbox = if sockets.offloads().gso {
            Outbox::default()
        } else {
            Outbox::unbatched()
        };
        self.sockets = Some(sockets);
        self.complained = false;
    }

    /// Says once that the port cannot be had, however often it is tried.
    pub(super) fn complain(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.complained, true) {
            tracing::error!(port = self.port, %error, "cannot listen, trying every second");
        }
    }

    /// Sends what was gathered for the network.
    pub(super) fn flush_network(&mut self) {
        self.outbox
            .flush(&mut |batch| dispatch(&mut self.sockets, &mut self.lost, batch));
    }

    /// Writes what was gathered for the interface.
    pub(super) fn flush_interface(&mut self) {
        self.inbox
            .flush(&mut |packet| write(&self.tun, &mut self.lost, packet));
    }
}

impl Wire for Outside {
    fn room(&mut self) -> &mut [u8] {
        self.outbox.room()
    }

    fn commit(&mut self, to: Path, tos: u8, length: usize) {
        let mut send = |batch: Batch<'_>| dispatch(&mut self.sockets, &mut self.lost, batch);
        self.outbox.commit(to, tos, length, &mut send);
    }

    fn deliver(&mut self, packet: &[u8]) {
        let mut write = |packet: &[u8]| write(&self.tun, &mut self.lost, packet);
        if self.tun.offloads().vnet {
            self.inbox.push(packet, &mut write);
        } else {
            write(packet);
        }
    }
}

fn dispatch(sockets: &mut Option<Sockets>, lost: &mut Lost, batch: Batch<'_>) {
    if let Some(sockets) = sockets {
        lost.datagrams += sockets.send(batch) as u64;
    }
}

fn write(tun: &Tun, lost: &mut Lost, packet: &[u8]) {
    if let Err(error) = tun.write(packet) {
        tracing::trace!(%error, "cannot write to the interface");
        lost.packets += 1;
    }
}

impl Ports for Outside {
    fn listen_port(&self) -> u16 {
        self.port
    }

    /// The old sockets stay when the new port cannot be had.
    fn set_listen_port(&mut self, port: u16) -> io::Result<()> {
        if port == self.port && port != 0 {
            return Ok(());
        }
        if !self.up {
            self.port = port;
            return Ok(());
        }
        self.open(port)
    }

    fn fwmark(&self) -> u32 {
        self.mark
    }

    fn set_fwmark(&mut self, mark: u32) -> io::Result<()> {
        self.flush_network();
        if let Some(sockets) = &self.sockets {
            sockets.set_mark(mark)?;
        }
        self.mark = mark;
        Ok(())
    }
}
