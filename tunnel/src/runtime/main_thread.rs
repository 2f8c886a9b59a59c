//! The first thread of a device: it carries packets of its own shard, and serves the UAPI and everything else that concerns
//! the whole device.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    time::Instant,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use crate::{
    clock::{Moment, Suspicion},
    device::Device,
    handover::protocol::Request,
    link::{Changes, Link, Notifier},
    rtnetlink::Sender,
    runtime::{
        End, RuntimeError,
        pace::Pace,
        routes::{Answers, RouteChanges},
        shard::Shard,
        sockets::{Settings, SocketSet},
        workers::{ShardGuard, WorkerPool},
    },
    uapi::{
        Ports,
        server::{MAX_CLIENTS, Server},
    },
    udp::{MAX_SOCKETS, UdpSockets},
};

/// What is polled besides sockets and clients.
const FIXED: usize = 4;
/// The mailbox for other shards is polled last, if there are others.
const MAIL: usize = 1;

/// What the first thread has.
#[derive(Debug)]
pub(super) struct MainThread {
    pub(super) shard: Shard,
    pub(super) settings: Settings,
    notifier: Notifier,
    pub(super) server: Server,
    pace: Pace,
    suspicion: Suspicion,
    routes: RouteChanges,
    /// The interface is in another network namespace.
    elsewhere: bool,
}

/// What the poll found.
#[derive(Default)]
struct Ready {
    stop: bool,
    tun: bool,
    /// The interface is gone.
    gone: bool,
    /// The interface is up, and was down.
    up: bool,
    links: bool,
    connection: bool,
    mailbox: bool,
    network: [bool; MAX_SOCKETS],
    clients: [bool; MAX_CLIENTS],
}

/// Everything of a device, while its workers wait.
pub(super) struct AllShards<'a> {
    pub(super) devices: Vec<&'a mut Device>,
    pub(super) sockets: SocketSet<'a>,
    server: &'a mut Server,
}

impl AllShards<'_> {
    /// Has every shard with peers read its queue.
    pub(super) fn use_queues(&mut self) {
        let SocketSet { io, others, .. } = &mut self.sockets;
        for (device, other) in self.devices.iter().skip(1).zip(others) {
            if device.peers().next().is_some() {
                other.use_queue(&io.tun);
            }
        }
    }
}

impl MainThread {
    pub(super) fn new(shard: Shard, settings: Settings, notifier: Notifier, server: Server) -> Self {
        Self {
            shard,
            settings,
            notifier,
            server,
            pace: Pace::new(Instant::now()),
            suspicion: Suspicion::new(),
            routes: RouteChanges::default(),
            elsewhere: false,
        }
    }

    /// Does something with all shards, and lets the workers see it.
    pub(super) fn with_all_shards<T>(
        &mut self,
        pool: &WorkerPool,
        change: impl FnOnce(&mut AllShards<'_>) -> T,
    ) -> T {
        let mut held = pool.lock_all();
        let mut devices = vec![&mut self.shard.device];
        let mut others = Vec::new();
        for (device, other) in held.iter_mut().map(ShardGuard::split) {
            devices.push(device);
            others.push(other);
        }
        let mut all = AllShards {
            devices,
            sockets: SocketSet {
                settings: &mut self.settings,
                io: &mut self.shard.io,
                others,
            },
            server: &mut self.server,
        };
        let result = change(&mut all);
        drop(held);
        pool.wake();
        result
    }

    /// Carries packets until there is an end, with this shard and everything that serves the whole device.
    pub(super) fn work(&mut self, stop: BorrowedFd<'_>, pool: &WorkerPool) -> Result<End, RuntimeError> {
        if let Some(end) = self.inspect(Instant::now(), pool) {
            return Ok(end);
        }
        loop {
            let ready = self.wait(stop, pool).map_err(RuntimeError::Poll)?;
            if ready.stop {
                return Ok(End::Stopped);
            }
            let now = Instant::now();
            if self.suspicion.arises(now) {
                // Before anything is sent: no key outlives a suspension.
                let Shard { device, io, .. } = &mut self.shard;
                device.handle_clock(now, Moment::now(), io);
                pool.wake();
            }
            if ready.links {
                self.follow_changes();
            }
            let more = ready.tun && self.shard.read_tun(now, pool.mailboxes());
            for which in (0..MAX_SOCKETS).filter(|which| ready.network[*which]) {
                self.shard.read_network(now, which, pool.mailboxes());
            }
            if ready.mailbox {
                let mailboxes = pool.mailboxes();
                self.shard.take_mail(now, &mailboxes[0], mailboxes);
                if mailboxes[0].take_unasked() {
                    self.routes.handle_unasked();
                }
                if pool.has_failed() {
                    return Err(RuntimeError::Failed);
                }
            }
            self.shard.io.flush_interface();
            if (ready.connection || ready.clients.contains(&true))
                && let Some(request) = self.serve(now, &ready, pool)
            {
                return Ok(End::HandoverRequested(request));
            }
            let Shard { device, io, .. } = &mut self.shard;
            device.handle_timeout(now, io);
            // What is left of a turn that did not empty the interface goes with the packets of the next.
            if !more {
                self.flush_network(now, pool);
            }
            if ready.up {
                self.pace.want();
            }
            if (ready.gone || self.pace.is_due(now))
                && let Some(end) = self.inspect(now, pool)
            {
                return Ok(end);
            }
            if self.shard.device.take_unasked() {
                self.routes.handle_unasked();
            }
            if self.routes.is_due(now) {
                self.follow_routes(now, pool);
            }
        }
    }

    /// Follows the kernel's notifications, before packets are read that came after them.
    fn follow_changes(&mut self) {
        let Changes { here, elsewhere } = self.notifier.clear();
        if here {
            self.routes.handle_change();
        }
        if here || elsewhere {
            self.shard.io.tun.note_route_change();
            self.pace.want();
        }
    }

    /// Finds out which peers are written to from addresses that the routes do not lead out of any more.
    fn follow_routes(&mut self, now: Instant, pool: &WorkerPool) {
        if !self.routes.is_asking() {
            let mut routes = std::mem::take(&mut self.routes);
            let changed = routes.begin(|changed| {
                self.with_all_shards(pool, |all| {
                    let devices = all.devices.iter_mut();
                    devices.flat_map(|device| device.paths(changed)).collect()
                })
            });
            self.routes = routes;
            if changed {
                self.with_all_shards(pool, |all| {
                    for device in &mut all.devices {
                        device.handle_routes(now);
                    }
                });
            }
        }
        let Answers { lost, all_lost } = self.routes.ask(self.sender());
        if !lost.is_empty() || all_lost.is_some() {
            self.with_all_shards(pool, |all| {
                for device in &mut all.devices {
                    if !lost.is_empty() {
                        device.handle_lost(now, &|path| lost.contains(&path), &mut all.sockets);
                    }
                    if let Some(lost) = &all_lost {
                        device.handle_found(&|path| lost.contains(&path));
                    }
                }
            });
        }
        self.flush_network(now, pool);
    }

    /// Sends what was gathered for the network, some of it perhaps for peers of other shards.
    fn flush_network(&mut self, now: Instant, pool: &WorkerPool) {
        self.shard.flush_network(now);
        let unsent = std::mem::take(&mut self.shard.io.unsent);
        if unsent.is_empty() {
            return;
        }
        self.with_all_shards(pool, |all| {
            for device in &mut all.devices {
                for (peer, bytes) in &unsent {
                    device.handle_unsent(now, *peer, *bytes);
                }
            }
        });
    }

    /// Returns what routes for the device's datagrams depend on.
    fn sender(&self) -> Sender {
        let sockets = self.shard.io.sockets.as_ref();
        Sender {
            port: self.settings.port,
            mark: self.settings.mark(),
            device: sockets.map_or(0, UdpSockets::device),
        }
    }

    /// Serves the UAPI's clients, of which one may want to take over.
    fn serve(&mut self, now: Instant, ready: &Ready, pool: &WorkerPool) -> Option<Request> {
        self.with_all_shards(pool, |all| {
            let request = all
                .server
                .handle_ready(now, &ready.clients, &mut all.devices, &mut all.sockets);
            if ready.connection && request.is_none() {
                all.server
                    .handle_connection(now, &mut all.devices, &mut all.sockets);
            }
            all.use_queues();
            request
        })
    }

    /// Waits for something to do.
    fn wait(&self, stop: BorrowedFd<'_>, pool: &WorkerPool) -> io::Result<Ready> {
        let Shard { io, .. } = &self.shard;
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds: [_; FIXED + MAX_SOCKETS + MAX_CLIENTS + MAIL] = std::array::from_fn(|_| readable(stop));
        // A tun is writable while it is up. Wherever it is, this process notices.
        let mut events = PollFlags::POLLIN;
        events.set(PollFlags::POLLOUT, self.elsewhere && !self.settings.up);
        fds[1] = PollFd::new(io.tun.as_fd(), events);
        fds[2] = readable(self.notifier.as_fd());
        let listener = self.server.listener();
        fds[3] = PollFd::new(listener.as_fd(), listener.interest(Instant::now()));
        let mut count = FIXED;
        let sockets = io.sockets().map(|socket| readable(socket.as_fd()));
        let clients = self.server.clients().map(|(_, fd, flags)| PollFd::new(fd, flags));
        let mailbox = pool.mailboxes().first().map(|mailbox| readable(mailbox.as_fd()));
        for fd in sockets.chain(clients).chain(mailbox) {
            fds[count] = fd;
            count += 1;
        }
        let fds = &mut fds[..count];
        let unfinished = self.server.unfinished(Instant::now()).any(|more| more);
        let patience = if unfinished {
            PollTimeout::ZERO
        } else {
            self.patience()
        };
        match poll(fds, patience) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
        let of_tun = fds[1].revents().unwrap_or(PollFlags::empty());
        let is_in = |event| of_tun.contains(event);
        let mut ready = Ready {
            stop: is_ready(&fds[0]),
            tun: is_ready(&fds[1]),
            gone: is_in(PollFlags::POLLERR),
            up: is_in(PollFlags::POLLOUT),
            links: is_ready(&fds[2]),
            connection: is_ready(&fds[3]),
            ..Ready::default()
        };
        let (sockets, rest) = fds[FIXED..].split_at(io.sockets().count());
        let (clients, mailbox) = rest.split_at(self.server.clients().count());
        for (ready, fd) in ready.network.iter_mut().zip(sockets) {
            *ready = is_ready(fd);
        }
        let unfinished = self.server.unfinished(Instant::now());
        for (ready, unfinished) in ready.clients.iter_mut().zip(unfinished) {
            *ready = unfinished;
        }
        for (fd, (number, ..)) in clients.iter().zip(self.server.clients()) {
            ready.clients[number] |= is_ready(fd);
        }
        ready.mailbox = mailbox.iter().any(is_ready);
        Ok(ready)
    }

    /// Returns for how long nothing has to be done. Rounded up to a millisecond, or the loop would spin towards the
    /// moment.
    fn patience(&self) -> PollTimeout {
        let now = Instant::now();
        let inspection = self.pace.next();
        let due = self.shard.device.poll_timeout();
        let routes = self.routes.poll_timeout(now).unwrap_or(inspection);
        let clients = self.server.poll_timeout().unwrap_or(inspection);
        let next = due
            .map_or(inspection, |at| at.min(inspection))
            .min(routes)
            .min(clients);
        let left = next.saturating_duration_since(now).as_micros().div_ceil(1000);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)
    }

    /// Follows what happened to the interface and to the socket's file.
    fn inspect(&mut self, now: Instant, pool: &WorkerPool) -> Option<End> {
        let clocks = self.pace.look(now);
        let Link::Present { up, mtu, elsewhere } = self.shard.io.tun.link() else {
            tracing::info!("interface removed");
            return Some(End::InterfaceGone);
        };
        if std::mem::replace(&mut self.elsewhere, elsewhere) != elsewhere {
            self.shard.io.tun.follow_there(&self.notifier);
        }
        if !self.server.listener_mut().inspect(now) {
            tracing::info!("UAPI socket removed");
            return Some(End::SocketGone);
        }
        let Shard { device, io, .. } = &mut self.shard;
        if clocks {
            device.handle_clock(now, Moment::now(), io);
        }
        let mtu = mtu.unwrap_or_else(|| device.mtu());
        let changed = up != self.settings.up || up != io.sockets.is_some() || mtu != device.mtu();
        if changed {
            self.with_all_shards(pool, |all| all.follow(now, up, mtu));
        }
        None
    }
}

impl AllShards<'_> {
    /// Follows the interface, which is up or not and has this MTU.
    fn follow(&mut self, now: Instant, up: bool, mtu: usize) {
        let Self { devices, sockets, .. } = self;
        for device in devices.iter_mut() {
            device.set_mtu(mtu);
        }
        if sockets.settings.up && !up {
            tracing::info!("interface down");
            sockets.close();
            sockets.discard_packets();
            for device in devices.iter_mut() {
                device.handle_down(now);
            }
        }
        sockets.settings.up = up;
        if !up || sockets.io.sockets.is_some() {
            return;
        }
        match sockets.open(sockets.settings.port) {
            Ok(()) => {
                tracing::info!(port = sockets.listen_port(), "interface up");
                for device in devices {
                    device.set_port(sockets.listen_port());
                    device.handle_up(now, sockets);
                }
            }
            Err(error) => sockets.settings.complain(&error),
        }
    }
}
