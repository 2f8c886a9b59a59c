//! A running device: one poll loop over the interface, the sockets, the UAPI and the clock.
//!
//! One thread does everything a packet needs from one kernel queue to the other, for handing it to another thread costs
//! more than it gains. What the kernel hands over at once is cut, worked on in order, and gathered again for the other
//! side: datagrams until the interface has no more packets, packets until the sockets' turn is over. Nothing waits for a
//! clock, and no more than a turn's packets are ever held.

use std::{
    io,
    net::UdpSocket,
    os::fd::{AsFd, BorrowedFd},
    path,
    time::{Duration, Instant, SystemTime},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use thiserror::Error;

use crate::{
    device::{Device, PADDING, Path},
    hand_over::{
        Request,
        parcel::{Handed, Socket},
    },
    interface::outside::Outside,
    link::{self, Bell, Link},
    offload::{
        segment::{ROOM, SegmentError, Segments},
        vnet::{self, Vnet},
    },
    tun::{DEFAULT_MTU, Tun, TunError},
    uapi::{
        get,
        server::{ListenError, Listener, MAX_CLIENTS, Server},
    },
    udp::{self, Arrival, MAX_SOCKETS, Sockets},
};

pub mod heir;
mod outside;

/// How many packets one source may bring before the others have their turn.
const BUDGET: usize = 256;
/// What is polled besides sockets and clients.
const FIXED: usize = 4;
/// How often the UAPI's socket file is looked for, and sockets that could not be had are tried again.
const INSPECTION: Duration = Duration::from_secs(1);
/// The largest packet or datagram there is.
const LARGEST: usize = 65_535;

/// A device cannot be started or cannot go on.
#[derive(Debug, Error)]
pub enum InterfaceError {
    /// The interface cannot be made.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The UAPI's socket cannot be made.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The kernel does not tell of links.
    #[error("cannot listen for changes of interfaces")]
    Bell(#[source] io::Error),
    /// The loop cannot wait.
    #[error("cannot poll")]
    Poll(#[source] io::Error),
    /// Another process's sockets cannot be used.
    #[error("cannot go on with the UDP sockets")]
    Udp(#[source] io::Error),
}

/// How devices of a process carry packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Many packets at a time, as far as the kernel can.
    pub offload: bool,
    /// A packet's DSCP shows outside.
    pub copy_dscp: bool,
    /// The interface stays when the process ends.
    pub keep: bool,
}

/// Why a device carries packets no more, in peace.
#[derive(Debug)]
pub enum End {
    /// It was told to.
    Stopped,
    /// Another process wants to take over. If it does not after all, the device can go on.
    Asked(Request),
    /// Somebody removed the interface.
    InterfaceGone,
    /// Somebody removed the UAPI's socket.
    SocketGone,
}

/// A device with its interface, sockets and UAPI.
#[derive(Debug)]
pub struct Interface {
    name: String,
    device: Device,
    outside: Outside,
    bell: Bell,
    server: Server,
    inspected: Instant,
    buffer: Vec<u8>,
}

/// What the poll found.
#[derive(Default)]
struct Ready {
    stop: bool,
    tun: bool,
    bell: bool,
    knock: bool,
    network: [bool; MAX_SOCKETS],
    clients: [bool; MAX_CLIENTS],
}

impl Interface {
    /// Makes the interface first, for the kernel gives a name once; then the socket.
    pub fn create(name: &str, socket_folder: &path::Path, options: Options) -> Result<Self, InterfaceError> {
        let tun = Tun::create(name, options.offload)?;
        tracing::info!(name, offloads = ?tun.offloads(), "interface is there");
        let bell = Bell::new().map_err(InterfaceError::Bell)?;
        let listener = Listener::bind(&socket_folder.join(format!("{name}.sock")))?;
        tun.keep(options.keep).map_err(|source| TunError::SetUp {
            name: name.into(),
            source,
        })?;
        let mut device = Device::new(usize::from(DEFAULT_MTU));
        device.set_copy_dscp(options.copy_dscp);
        let outside = Outside::new(tun, options.offload);
        Ok(Self::new(name.into(), device, outside, bell, listener))
    }

    fn new(name: String, device: Device, outside: Outside, bell: Bell, listener: Listener) -> Self {
        Self {
            name,
            device,
            outside,
            bell,
            server: Server::new(listener),
            inspected: Instant::now(),
            buffer: vec![0; vnet::LENGTH + LARGEST + ROOM.max(PADDING)],
        }
    }

    /// Carries packets until `stop` is readable or closed, or somebody takes the interface or the socket away, or asks for
    /// the device. What was taken from the kernel has been given back to it then.
    pub fn run(&mut self, stop: BorrowedFd<'_>) -> Result<End, InterfaceError> {
        let end = self.turn(stop)?;
        self.outside.flush_interface();
        self.outside.flush_network();
        Ok(end)
    }

    fn turn(&mut self, stop: BorrowedFd<'_>) -> Result<End, InterfaceError> {
        if let Some(end) = self.inspect(Instant::now()) {
            return Ok(end);
        }
        loop {
            let ready = self.wait(stop).map_err(InterfaceError::Poll)?;
            if ready.stop {
                return Ok(End::Stopped);
            }
            let now = Instant::now();
            let more = ready.tun && self.read_tun(now);
            for which in (0..MAX_SOCKETS).filter(|which| ready.network[*which]) {
                self.read_network(now, which);
            }
            self.outside.flush_interface();
            if ready.clients.contains(&true) {
                let request =
                    self.server
                        .handle_ready(now, &ready.clients, &mut [&mut self.device], &mut self.outside);
                if let Some(request) = request {
                    return Ok(End::Asked(request));
                }
            }
            if ready.knock {
                self.server
                    .handle_knock(now, &mut [&mut self.device], &mut self.outside);
            }
            self.device.handle_timeout(now, &mut self.outside);
            // What is left of a turn that did not empty the interface goes with the packets of the next.
            if !more {
                self.outside.flush_network();
            }
            if ready.bell || now.saturating_duration_since(self.inspected) >= INSPECTION {
                self.bell.hush();
                if let Some(end) = self.inspect(now) {
                    return Ok(end);
                }
            }
        }
    }

    /// What another process needs to go on with it. Nothing here may be used until that process has declined.
    pub fn handed(&self) -> Handed<BorrowedFd<'_>> {
        let listener = self.server.listener();
        let sockets = self.outside.sockets.as_ref().map(Sockets::by_family);
        Handed {
            name: self.name.clone(),
            uapi: Socket {
                file: listener.file(),
                socket: listener.as_fd(),
            },
            tun: self.outside.tun.as_fd(),
            udp: sockets
                .unwrap_or_default()
                .map(|socket| socket.map(UdpSocket::as_fd)),
            configuration: get::render(&[&self.device], &self.outside),
        }
    }

    /// Another process has it: what is in the file system stays.
    pub fn release(mut self) {
        self.server.listener_mut().own(false);
    }

    /// Ends it for good, also if its interface is kept otherwise.
    pub fn remove(self) {
        if let Err(error) = self.outside.tun.keep(false) {
            tracing::debug!(name = self.name, %error, "cannot remove the interface");
        }
    }

    /// Waits for something to do.
    fn wait(&self, stop: BorrowedFd<'_>) -> io::Result<Ready> {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds: [_; FIXED + MAX_SOCKETS + MAX_CLIENTS] = std::array::from_fn(|_| readable(stop));
        fds[1] = readable(self.outside.tun.as_fd());
        fds[2] = readable(self.bell.as_fd());
        fds[3] = readable(self.server.listener().as_fd());
        let mut count = FIXED;
        let sockets = self.outside.sockets().map(|socket| readable(socket.as_fd()));
        let clients = self.server.clients().map(|(fd, flags)| PollFd::new(fd, flags));
        for fd in sockets.chain(clients) {
            fds[count] = fd;
            count += 1;
        }
        let fds = &mut fds[..count];
        match poll(fds, self.patience()) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        let mut ready = Ready {
            stop: is_ready(&fds[0]),
            tun: is_ready(&fds[1]),
            bell: is_ready(&fds[2])
                || fds[1]
                    .revents()
                    .is_some_and(|events| events.contains(PollFlags::POLLERR)),
            knock: is_ready(&fds[3]),
            ..Ready::default()
        };
        let (sockets, clients) = fds[FIXED..].split_at(self.outside.sockets().count());
        for (ready, fd) in ready.network.iter_mut().zip(sockets) {
            *ready = is_ready(fd);
        }
        for (ready, fd) in ready.clients.iter_mut().zip(clients) {
            *ready = is_ready(fd);
        }
        Ok(ready)
    }

    /// How long nothing has to be done. Rounded up to a millisecond, or the loop would spin towards the moment.
    fn patience(&self) -> PollTimeout {
        let now = Instant::now();
        let inspection = self.inspected + INSPECTION;
        let next = self
            .device
            .poll_timeout()
            .map_or(inspection, |at| at.min(inspection));
        let left = next.saturating_duration_since(now).as_micros().div_ceil(1000);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)
    }

    /// Takes packets from the interface until it is empty or the network has to have its turn; `true` when more wait.
    fn read_tun(&mut self, now: Instant) -> bool {
        let header = self.outside.tun.offloads().header();
        let mut left = BUDGET;
        while left > 0 {
            let length = match self.outside.tun.read(&mut self.buffer[..header + LARGEST]) {
                Ok(Some(length)) => length,
                Ok(None) => return false,
                Err(error) => {
                    // Down or gone: inspection finds out which.
                    tracing::debug!(%error, "cannot read from the interface");
                    return false;
                }
            };
            let vnet = match self.buffer.first_chunk() {
                Some(header) if self.outside.tun.offloads().vnet => Vnet::read(header),
                _ => Ok(Vnet::PLAIN),
            };
            let packet = &mut self.buffer[header..];
            let segments = vnet
                .map_err(|_| SegmentError)
                .and_then(|vnet| Segments::new(&vnet, packet, length.saturating_sub(header)));
            let Ok(mut segments) = segments else {
                self.device.handle_malformed();
                continue;
            };
            while let Some((packet, length)) = segments.next_packet() {
                self.device.handle_packet(now, packet, length, &mut self.outside);
                left = left.saturating_sub(1);
            }
        }
        true
    }

    /// Takes datagrams from a socket until it is empty or the interface has to have its turn.
    fn read_network(&mut self, now: Instant, which: usize) {
        let mut left = BUDGET;
        while left > 0 {
            left -= 1;
            let Some(socket) = self.outside.sockets().nth(which) else {
                return;
            };
            match udp::receive(socket, &mut self.buffer) {
                Ok(Arrival {
                    source,
                    length,
                    segment,
                    ecn,
                    local,
                }) => {
                    let source = Path {
                        remote: source,
                        local,
                    };
                    let datagrams = self.buffer[..length].chunks(segment.unwrap_or(length).max(1));
                    left = left.saturating_sub(datagrams.len());
                    for datagram in datagrams {
                        self.device
                            .handle_datagram(now, source, ecn, datagram, &mut self.outside);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An ICMP error of an earlier send, reported here; the next call goes on.
                Err(error) => tracing::trace!(%error, "cannot receive"),
            }
        }
    }

    /// Follows what others did to the interface and to the socket's file.
    fn inspect(&mut self, now: Instant) -> Option<End> {
        self.inspected = now;
        let Link::Present { up, mtu } = link::look(&self.outside.tun) else {
            tracing::info!("somebody removed the interface");
            return Some(End::InterfaceGone);
        };
        if !self.server.listener_mut().inspect(now) {
            tracing::info!("somebody removed the socket");
            return Some(End::SocketGone);
        }
        self.device.set_mtu(mtu);
        self.device
            .handle_clock(now, SystemTime::now(), &mut self.outside);
        if self.outside.up && !up {
            tracing::info!("interface is down");
            self.outside.sockets = None;
        }
        self.outside.up = up;
        if up && self.outside.sockets.is_none() {
            match self.outside.open(self.outside.port) {
                Ok(()) => {
                    tracing::info!(port = self.outside.port, "interface is up");
                    self.device.handle_up(now, &mut self.outside);
                }
                Err(error) => self.outside.complain(&error),
            }
        }
        None
    }
}

impl Drop for Interface {
    fn drop(&mut self) {
        let Self {
            name,
            device,
            outside,
            ..
        } = self;
        tracing::info!(name, drops = ?device.drops(), lost = ?outside.lost, "device ends");
    }
}
