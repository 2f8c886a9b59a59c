//! What a device's configuration changes outside: the sockets of all its shards.

use std::{io, os::fd::OwnedFd};

use crate::{
    device::{Path, Wire},
    interface::{crew::Other, kernel::Io},
    uapi::{Ports, restore::Wanted},
    udp::Sockets,
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

    /// What another process had, and its sockets, if it had any; the interface is up then.
    pub(super) fn resume(
        &mut self,
        wanted: Wanted,
        udp: [Option<OwnedFd>; 2],
    ) -> io::Result<Option<Sockets>> {
        let Wanted { port, mark } = wanted;
        (self.port, self.mark) = (port, mark);
        let [v4, v6] = udp;
        if v4.is_none() && v6.is_none() {
            return Ok(None);
        }
        let sockets = Sockets::adopt(v4, v6, port, self.offload)?;
        self.listening(&sockets);
        self.up = true;
        Ok(Some(sockets))
    }

    /// The same in a form that outlives the sockets.
    pub(super) fn wanted(&self) -> Wanted {
        let (port, mark) = (self.port, self.mark);
        Wanted { port, mark }
    }

    fn listening(&mut self, sockets: &Sockets) {
        tracing::info!(port = sockets.port(), offloads = ?sockets.offloads(), "listening");
        self.port = sockets.port();
        self.complained = false;
    }

    /// Says once that the port cannot be had, however often it is tried.
    pub(super) fn complain(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.complained, true) {
            tracing::error!(port = self.port, %error, "cannot listen, trying every second");
        }
    }
}

/// The outside of a device whose other shards wait meanwhile. What is written goes by the first one.
pub(super) struct Outside<'a> {
    pub(super) settings: &'a mut Settings,
    pub(super) io: &'a mut Io,
    pub(super) others: Vec<Other<'a>>,
}

impl Outside<'_> {
    /// Listens on this port with all shards.
    pub(super) fn open(&mut self, port: u16) -> io::Result<()> {
        let sockets = Sockets::bind(port, self.settings.mark, self.settings.offload)?;
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
                        Err(error) => tracing::error!(%error, "a thread cannot send"),
                    }
                }
            }
        }
    }

    /// Only the first shard receives and sends.
    pub(super) fn unshare(&mut self) {
        for other in &mut self.others {
            other.io.close();
        }
    }

    /// Listens no more.
    pub(super) fn close(&mut self) {
        self.io.close();
        self.unshare();
    }
}

impl Wire for Outside<'_> {
    fn room(&mut self) -> &mut [u8] {
        self.io.room()
    }

    fn commit(&mut self, to: Path, tos: u8, length: usize) {
        self.io.commit(to, tos, length);
    }

    fn deliver(&mut self, packet: &[u8]) {
        self.io.deliver(packet);
    }
}

impl Ports for Outside<'_> {
    fn listen_port(&self) -> u16 {
        self.settings.port
    }

    /// The old sockets stay when the new port cannot be had.
    fn set_listen_port(&mut self, port: u16) -> io::Result<()> {
        if port == self.settings.port && port != 0 {
            return Ok(());
        }
        if !self.settings.up {
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
