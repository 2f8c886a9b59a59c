//! A running device: poll loops over the interface, the sockets, the UAPI and the clock.
//!
//! One thread does everything a packet needs from one kernel queue to the other, for handing it to another thread costs
//! more than it gains. On machines with several cores there are several such threads, each with its own peers ([`Place`]),
//! its own queue of the interface and its own sockets on the device's port; the first one also serves the UAPI. What the kernel hands over at once is cut, worked on in order, and gathered again for the other
//! side: datagrams until the interface has no more packets, packets until the sockets' turn is over. Nothing waits for a
//! clock, and no more than a turn's packets are ever held.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path, thread,
    time::{Duration, Instant, SystemTime},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use thiserror::Error;

use crate::{
    device::{Device, Place},
    hand_over::{
        Request,
        parcel::{Handed, Socket},
    },
    interface::{
        crew::{Crew, Grip},
        kernel::Queue,
        outside::{Outside, Settings},
        shard::Shard,
    },
    link::{self, Bell, Link},
    tun::{DEFAULT_MTU, Tun, TunError},
    uapi::{
        Ports, get,
        server::{ListenError, Listener, MAX_CLIENTS, Server},
    },
    udp::{MAX_SOCKETS, Sockets},
};

mod crew;
mod crossing;
pub mod heir;
mod kernel;
mod outside;
mod shard;

/// What is polled besides sockets and clients.
const FIXED: usize = 4;
/// What crosses from other shards is polled last, if there are others.
const CROSSING: usize = 1;
/// How often the UAPI's socket file is looked for, and sockets that could not be had are tried again.
const INSPECTION: Duration = Duration::from_secs(1);

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
    /// A thread cannot be had.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// A thread ended.
    #[error("a thread failed")]
    Failed,
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
    /// How many threads carry packets, at most [`Place::MOST`]. A peer is served by one of them.
    pub threads: usize,
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
    main: Main,
    crew: Crew,
}

/// What the first thread has.
#[derive(Debug)]
struct Main {
    shard: Shard,
    settings: Settings,
    bell: Bell,
    server: Server,
    inspected: Instant,
}

/// What the poll found.
#[derive(Default)]
struct Ready {
    stop: bool,
    tun: bool,
    bell: bool,
    knock: bool,
    crossing: bool,
    network: [bool; MAX_SOCKETS],
    clients: [bool; MAX_CLIENTS],
}

impl Interface {
    /// Makes the interface first, for the kernel gives a name once; then the socket.
    pub fn create(name: &str, socket_folder: &path::Path, options: Options) -> Result<Self, InterfaceError> {
        let tun = Tun::create(name, options.offload, options.threads > 1)?;
        tracing::info!(name, offloads = ?tun.offloads(), "interface is there");
        let bell = Bell::new().map_err(InterfaceError::Bell)?;
        let listener = Listener::bind(&socket_folder.join(format!("{name}.sock")))?;
        tun.keep(options.keep).map_err(|source| TunError::SetUp {
            name: name.into(),
            source,
        })?;
        Self::new(name.into(), shards(options), tun, bell, listener, options)
    }

    fn new(
        name: String,
        devices: Vec<Device>,
        tun: Tun,
        bell: Bell,
        listener: Listener,
        options: Options,
    ) -> Result<Self, InterfaceError> {
        let mut devices = devices.into_iter();
        let first = devices
            .next()
            .unwrap_or_else(|| Device::new(usize::from(DEFAULT_MTU)));
        let crew = Crew::new(devices, &tun).map_err(InterfaceError::Thread)?;
        let main = Main {
            shard: Shard::new(first, tun, Queue::Used),
            settings: Settings::new(options.offload),
            bell,
            server: Server::new(listener),
            inspected: Instant::now(),
        };
        Ok(Self { name, main, crew })
    }

    /// Carries packets until `stop` is readable or closed, or somebody takes the interface or the socket away, or asks for
    /// the device. What was taken from the kernel has been given back to it then.
    pub fn run(&mut self, stop: BorrowedFd<'_>) -> Result<End, InterfaceError> {
        let Self { main, crew, .. } = self;
        main.with_all(crew, |main| {
            main.outside.share();
            main.use_queues();
        });
        let span = tracing::Span::current();
        let end = thread::scope(|scope| {
            let _dismissal = crew.dismissal();
            for (number, job) in crew.jobs() {
                let span = span.clone();
                thread::Builder::new()
                    .name(format!("shard {number}"))
                    .spawn_scoped(scope, move || span.in_scope(job))
                    .map_err(InterfaceError::Thread)?;
            }
            main.turn(stop, crew)
        });
        // Whoever goes on with the sockets of the first shard is to hear everything.
        main.with_all(crew, |main| main.outside.unshare());
        main.shard.io.flush_interface();
        main.shard.io.flush_network();
        end
    }

    /// What another process needs to go on with it. Nothing here may be used until that process has declined.
    pub fn handed(&self) -> Handed<BorrowedFd<'_>> {
        let listener = self.main.server.listener();
        let io = &self.main.shard.io;
        let sockets = io.sockets.as_ref().map(Sockets::by_family);
        Handed {
            name: self.name.clone(),
            uapi: Socket {
                file: listener.file(),
                socket: listener.as_fd(),
            },
            tun: io.tun.as_fd(),
            udp: sockets.unwrap_or_default().map(|socket| socket.map(AsFd::as_fd)),
            configuration: self.configuration(),
        }
    }

    fn configuration(&self) -> String {
        let held = self.crew.hold();
        let others = held.iter().map(|grip| &grip.shard.device);
        let devices: Vec<&Device> = [&self.main.shard.device].into_iter().chain(others).collect();
        get::render(&devices, &self.main.settings.wanted())
    }

    /// Another process has it: what is in the file system stays.
    pub fn release(mut self) {
        self.main.server.listener_mut().own(false);
    }

    /// Ends it for good, also if its interface is kept otherwise.
    pub fn remove(self) {
        if let Err(error) = self.main.shard.io.tun.keep(false) {
            tracing::debug!(name = self.name, %error, "cannot remove the interface");
        }
    }
}

/// A device without key and peers, in as many shards as threads are wanted.
fn shards(options: Options) -> Vec<Device> {
    Place::all(options.threads)
        .map(|place| {
            let mut device = Device::shard(place, usize::from(DEFAULT_MTU));
            device.set_copy_dscp(options.copy_dscp);
            device
        })
        .collect()
}

/// Everything of a device, while its workers wait.
struct All<'a> {
    devices: Vec<&'a mut Device>,
    outside: Outside<'a>,
    server: &'a mut Server,
}

impl All<'_> {
    /// Has every shard with peers read its queue.
    fn use_queues(&mut self) {
        let Outside { io, others, .. } = &mut self.outside;
        for (device, other) in self.devices.iter().skip(1).zip(others) {
            if device.peers().next().is_some() {
                other.use_queue(&io.tun);
            }
        }
    }
}

impl Main {
    /// Does something with all shards, and lets the workers see it.
    fn with_all<T>(&mut self, crew: &Crew, change: impl FnOnce(&mut All<'_>) -> T) -> T {
        let mut held = crew.hold();
        let mut devices = vec![&mut self.shard.device];
        let mut others = Vec::new();
        for (device, other) in held.iter_mut().map(Grip::split) {
            devices.push(device);
            others.push(other);
        }
        let mut all = All {
            devices,
            outside: Outside {
                settings: &mut self.settings,
                io: &mut self.shard.io,
                others,
            },
            server: &mut self.server,
        };
        let result = change(&mut all);
        drop(held);
        crew.wake();
        result
    }

    fn turn(&mut self, stop: BorrowedFd<'_>, crew: &Crew) -> Result<End, InterfaceError> {
        if let Some(end) = self.inspect(Instant::now(), crew) {
            return Ok(end);
        }
        loop {
            let ready = self.wait(stop, crew).map_err(InterfaceError::Poll)?;
            if ready.stop {
                return Ok(End::Stopped);
            }
            let now = Instant::now();
            let more = ready.tun && self.shard.read_tun(now, crew.crossings());
            for which in (0..MAX_SOCKETS).filter(|which| ready.network[*which]) {
                self.shard.read_network(now, which, crew.crossings());
            }
            if ready.crossing {
                self.shard.take_crossed(now, &crew.crossings()[0]);
                if crew.has_failed() {
                    return Err(InterfaceError::Failed);
                }
            }
            self.shard.io.flush_interface();
            if (ready.knock || ready.clients.contains(&true))
                && let Some(request) = self.serve(now, &ready, crew)
            {
                return Ok(End::Asked(request));
            }
            let Shard { device, io, .. } = &mut self.shard;
            device.handle_timeout(now, io);
            // What is left of a turn that did not empty the interface goes with the packets of the next.
            if !more {
                io.flush_network();
            }
            if ready.bell || now.saturating_duration_since(self.inspected) >= INSPECTION {
                self.bell.hush();
                if let Some(end) = self.inspect(now, crew) {
                    return Ok(end);
                }
            }
        }
    }

    /// Hears the UAPI's clients, of which one may want to take over.
    fn serve(&mut self, now: Instant, ready: &Ready, crew: &Crew) -> Option<Request> {
        self.with_all(crew, |all| {
            let request = all
                .server
                .handle_ready(now, &ready.clients, &mut all.devices, &mut all.outside);
            if ready.knock && request.is_none() {
                all.server.handle_knock(now, &mut all.devices, &mut all.outside);
            }
            all.use_queues();
            request
        })
    }

    /// Waits for something to do.
    fn wait(&self, stop: BorrowedFd<'_>, crew: &Crew) -> io::Result<Ready> {
        let Shard { io, .. } = &self.shard;
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds: [_; FIXED + MAX_SOCKETS + MAX_CLIENTS + CROSSING] =
            std::array::from_fn(|_| readable(stop));
        fds[1] = readable(io.tun.as_fd());
        fds[2] = readable(self.bell.as_fd());
        fds[3] = readable(self.server.listener().as_fd());
        let mut count = FIXED;
        let sockets = io.sockets().map(|socket| readable(socket.as_fd()));
        let clients = self.server.clients().map(|(fd, flags)| PollFd::new(fd, flags));
        let crossing = crew
            .crossings()
            .first()
            .map(|crossing| readable(crossing.as_fd()));
        for fd in sockets.chain(clients).chain(crossing) {
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
        let (sockets, rest) = fds[FIXED..].split_at(io.sockets().count());
        let (clients, crossing) = rest.split_at(self.server.clients().count());
        for (ready, fd) in ready.network.iter_mut().zip(sockets) {
            *ready = is_ready(fd);
        }
        for (ready, fd) in ready.clients.iter_mut().zip(clients) {
            *ready = is_ready(fd);
        }
        ready.crossing = crossing.iter().any(is_ready);
        Ok(ready)
    }

    /// How long nothing has to be done. Rounded up to a millisecond, or the loop would spin towards the moment.
    fn patience(&self) -> PollTimeout {
        let now = Instant::now();
        let inspection = self.inspected + INSPECTION;
        let due = self.shard.device.poll_timeout();
        let next = due.map_or(inspection, |at| at.min(inspection));
        let left = next.saturating_duration_since(now).as_micros().div_ceil(1000);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)
    }

    /// Follows what others did to the interface and to the socket's file.
    fn inspect(&mut self, now: Instant, crew: &Crew) -> Option<End> {
        self.inspected = now;
        let Link::Present { up, mtu } = link::look(&self.shard.io.tun) else {
            tracing::info!("somebody removed the interface");
            return Some(End::InterfaceGone);
        };
        if !self.server.listener_mut().inspect(now) {
            tracing::info!("somebody removed the socket");
            return Some(End::SocketGone);
        }
        let Shard { device, io, .. } = &mut self.shard;
        device.handle_clock(now, SystemTime::now(), io);
        let changed = up != self.settings.up || up != io.sockets.is_some() || mtu != device.mtu();
        if changed {
            self.with_all(crew, |all| all.follow(now, up, mtu));
        }
        None
    }
}

impl All<'_> {
    /// The interface is up or not, and has this MTU.
    fn follow(&mut self, now: Instant, up: bool, mtu: usize) {
        let Self { devices, outside, .. } = self;
        for device in devices.iter_mut() {
            device.set_mtu(mtu);
        }
        if outside.settings.up && !up {
            tracing::info!("interface is down");
            outside.close();
        }
        outside.settings.up = up;
        if !up || outside.io.sockets.is_some() {
            return;
        }
        match outside.open(outside.settings.port) {
            Ok(()) => {
                tracing::info!(port = outside.listen_port(), "interface is up");
                for device in devices {
                    device.handle_up(now, outside);
                }
            }
            Err(error) => outside.settings.complain(&error),
        }
    }
}

impl Drop for Interface {
    fn drop(&mut self) {
        let log = |shard: &Shard| {
            tracing::info!(name = self.name, drops = ?shard.device.drops(), lost = ?shard.io.lost, "device ends");
        };
        log(&self.main.shard);
        for grip in self.crew.hold() {
            log(&grip.shard);
        }
    }
}
