//! A running device: one poll loop over the interface, the sockets, the UAPI and the clock.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use thiserror::Error;

use crate::{
    device::{Device, PADDING, Wire},
    link::{self, Bell, Link},
    tun::{DEFAULT_MTU, Tun, TunError},
    uapi::{
        Ports,
        server::{ListenError, Listener, Server},
    },
    udp::Sockets,
};

/// How many packets one source may bring before the others have their turn.
const BUDGET: usize = 64;
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
}

/// Why a device ended in peace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was told to.
    Stopped,
    /// Somebody removed the interface.
    InterfaceGone,
    /// Somebody removed the UAPI's socket.
    SocketGone,
}

/// A device with its interface, sockets and UAPI.
#[derive(Debug)]
pub struct Interface {
    device: Device,
    outside: Outside,
    bell: Bell,
    server: Server,
    inspected: Instant,
    buffer: Vec<u8>,
}

/// Everything that is not the device.
#[derive(Debug)]
struct Outside {
    tun: Tun,
    /// There while the interface is up.
    sockets: Option<Sockets>,
    /// Zero until a port is asked for or picked.
    port: u16,
    mark: u32,
    up: bool,
    complained: bool,
    lost: Lost,
}

/// What the kernel did not take.
#[derive(Clone, Copy, Debug, Default)]
struct Lost {
    datagrams: u64,
    packets: u64,
}

/// What the poll found.
struct Ready {
    stop: bool,
    tun: bool,
    bell: bool,
    knock: bool,
    network: Vec<bool>,
    clients: Vec<bool>,
}

impl Interface {
    /// Makes the interface first, for the kernel gives a name once; then the socket.
    pub fn create(name: &str, socket_folder: &Path) -> Result<Self, InterfaceError> {
        let tun = Tun::create(name)?;
        let bell = Bell::new().map_err(InterfaceError::Bell)?;
        let listener = Listener::bind(&socket_folder.join(format!("{name}.sock")))?;
        Ok(Self {
            device: Device::new(usize::from(DEFAULT_MTU)),
            outside: Outside {
                tun,
                sockets: None,
                port: 0,
                mark: 0,
                up: false,
                complained: false,
                lost: Lost::default(),
            },
            bell,
            server: Server::new(listener),
            inspected: Instant::now(),
            buffer: vec![0; LARGEST + PADDING],
        })
    }

    /// Carries packets until `stop` is readable or closed, or somebody takes the interface or the socket away.
    pub fn run(mut self, stop: BorrowedFd<'_>) -> Result<End, InterfaceError> {
        if let Some(end) = self.inspect(Instant::now()) {
            return Ok(end);
        }
        loop {
            let ready = self.wait(stop).map_err(InterfaceError::Poll)?;
            if ready.stop {
                return Ok(self.finish(End::Stopped));
            }
            let now = Instant::now();
            if ready.tun {
                self.read_tun(now);
            }
            if ready.network.contains(&true) {
                self.read_network(now, &ready.network);
            }
            if ready.clients.contains(&true) {
                self.server
                    .handle_ready(now, &ready.clients, &mut self.device, &mut self.outside);
            }
            if ready.knock {
                self.server.handle_knock(now, &mut self.device, &mut self.outside);
            }
            self.device.handle_timeout(now, &mut self.outside);
            if ready.bell || now.saturating_duration_since(self.inspected) >= INSPECTION {
                self.bell.hush();
                if let Some(end) = self.inspect(now) {
                    return Ok(self.finish(end));
                }
            }
        }
    }

    /// Waits for something to do.
    fn wait(&self, stop: BorrowedFd<'_>) -> io::Result<Ready> {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![
            readable(stop),
            readable(self.outside.tun.as_fd()),
            readable(self.bell.as_fd()),
            readable(self.server.listener().as_fd()),
        ];
        fds.extend(self.outside.sockets().map(|socket| readable(socket.as_fd())));
        let clients_from = fds.len();
        fds.extend(self.server.clients().map(|(fd, flags)| PollFd::new(fd, flags)));

        match poll(&mut fds, self.patience()) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        Ok(Ready {
            stop: ready[0],
            tun: ready[1],
            bell: ready[2]
                || fds[1]
                    .revents()
                    .is_some_and(|events| events.contains(PollFlags::POLLERR)),
            knock: ready[3],
            network: ready[4..clients_from].to_vec(),
            clients: ready[clients_from..].to_vec(),
        })
    }

    /// How long nothing has to be done. Rounded up to a millisecond, or the loop would spin towards the moment.
    fn patience(&self) -> PollTimeout {
        let now = Instant::now();
        let inspection = self.inspected + INSPECTION;
        let next = self
            .device
            .poll_timeout(now)
            .map_or(inspection, |at| at.min(inspection));
        let left = next.saturating_duration_since(now).as_micros().div_ceil(1000);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)
    }

    fn read_tun(&mut self, now: Instant) {
        for _ in 0..BUDGET {
            match self.outside.tun.read(&mut self.buffer[..LARGEST]) {
                Ok(Some(length)) => {
                    self.device
                        .handle_packet(now, &mut self.buffer, length, &mut self.outside);
                }
                Ok(None) => return,
                Err(error) => {
                    // Down or gone: inspection finds out which.
                    tracing::debug!(%error, "cannot read from the interface");
                    return;
                }
            }
        }
    }

    fn read_network(&mut self, now: Instant, ready: &[bool]) {
        for (which, _) in ready.iter().enumerate().filter(|(_, ready)| **ready) {
            for _ in 0..BUDGET {
                let Some(socket) = self.outside.sockets().nth(which) else {
                    return;
                };
                match socket.recv_from(&mut self.buffer) {
                    Ok((length, source)) => {
                        let datagram = &self.buffer[..length];
                        self.device
                            .handle_datagram(now, source, datagram, &mut self.outside);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // An ICMP error of an earlier send, reported here; the next call goes on.
                    Err(error) => tracing::trace!(%error, "cannot receive"),
                }
            }
        }
    }

    /// Follows what others did to the interface and to the socket's file.
    fn inspect(&mut self, now: Instant) -> Option<End> {
        self.inspected = now;
        let Link::Present { up, mtu } = link::look(&self.outside.tun) else {
            return Some(End::InterfaceGone);
        };
        if !self.server.listener().is_present() {
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

    fn finish(&self, end: End) -> End {
        tracing::info!(?end, drops = ?self.device.drops(), lost = ?self.outside.lost, "device ends");
        end
    }
}

impl Outside {
    fn sockets(&self) -> impl Iterator<Item = &UdpSocket> {
        self.sockets.iter().flat_map(Sockets::sockets)
    }

    fn open(&mut self, port: u16) -> io::Result<()> {
        let sockets = Sockets::bind(port, self.mark)?;
        self.port = sockets.port();
        self.sockets = Some(sockets);
        self.complained = false;
        Ok(())
    }

    /// Says once that the port cannot be had, however often it is tried.
    fn complain(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.complained, true) {
            tracing::error!(port = self.port, %error, "cannot listen, trying every second");
        }
    }
}

impl Wire for Outside {
    fn send(&mut self, to: SocketAddr, datagram: &[u8]) {
        let Some(sockets) = &self.sockets else { return };
        if let Err(error) = sockets.send(to, datagram) {
            tracing::trace!(%to, %error, "cannot send");
            self.lost.datagrams += 1;
        }
    }

    fn deliver(&mut self, packet: &[u8]) {
        if let Err(error) = self.tun.write(packet) {
            tracing::trace!(%error, "cannot write to the interface");
            self.lost.packets += 1;
        }
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
        if let Some(sockets) = &self.sockets {
            sockets.set_mark(mark)?;
        }
        self.mark = mark;
        Ok(())
    }
}
