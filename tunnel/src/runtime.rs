//! A running device: poll loops over the interface, the sockets, the UAPI and the clock.
//!
//! One thread does everything a packet needs from one kernel queue to the other, for handing it to another thread costs
//! more than it gains. On machines with several cores there are several such threads, each with its own peers
//! ([`ShardIndex`]), its own queue of the interface and its own sockets on the device's port; the first one also serves the
//! UAPI. What the kernel hands over at once is cut, worked on in order, and gathered again for the other side: datagrams
//! until the interface has no more packets, packets until the sockets' turn is over. Nothing waits for a clock, and no more
//! than a turn's packets are ever held.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path, thread,
    time::{Duration, Instant},
};

use thiserror::Error;
use zeroize::Zeroizing;

use crate::{
    device::{Device, ShardIndex},
    handover::{
        Exit,
        format::{Socket, Transfer, TransferredDevice},
        protocol::Request,
    },
    inherited::Inherited,
    link::Notifier,
    listener::{ListenError, Listener},
    runtime::{
        main_thread::MainThread, shard::Shard, shard_io::Queue, sockets::Settings, workers::WorkerPool,
    },
    tun::{DEFAULT_MTU, Tun, TunError},
    uapi::{get, server::Server},
    udp::UdpSockets,
};

pub mod adopt;
mod mailbox;
mod main_thread;
mod pace;
mod routes;
mod shard;
mod shard_io;
mod sockets;
mod workers;

/// How often the UAPI's socket file is looked for, and sockets that could not be opened are tried again.
const INSPECTION: Duration = Duration::from_secs(1);

/// A device cannot be started or cannot go on.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The interface cannot be made.
    #[error(transparent)]
    Tun(#[from] TunError),
    /// The UAPI's socket cannot be made.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The kernel sends no notifications about links.
    #[error("cannot subscribe to changes of interfaces")]
    Notifier(#[source] io::Error),
    /// The loop cannot wait.
    #[error("cannot poll")]
    Poll(#[source] io::Error),
    /// Another process's sockets cannot be used.
    #[error("cannot go on with the UDP sockets")]
    Udp(#[source] io::Error),
    /// A thread cannot be started.
    #[error("cannot spawn a worker thread")]
    Thread(#[source] io::Error),
    /// A thread ended.
    #[error("a worker thread failed")]
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
    /// How many threads carry packets, at most [`ShardIndex::MAX`]. A peer is served by one of them.
    pub threads: usize,
}

/// Why a device stopped carrying packets, without an error.
#[derive(Debug)]
pub enum End {
    /// It was asked to.
    Stopped,
    /// Another process wants to take over. If it does not after all, the device can go on.
    HandoverRequested(Request),
    /// The interface was removed.
    InterfaceGone,
    /// The UAPI's socket was removed.
    SocketGone,
}

/// A device with its interface, sockets and UAPI.
#[derive(Debug)]
pub struct Runtime {
    name: String,
    main: MainThread,
    pool: WorkerPool,
}

impl Runtime {
    /// Makes the interface first, for the kernel gives a name once; then the socket. The name is no pattern.
    pub fn create(name: &str, socket_folder: &path::Path, options: Options) -> Result<Self, RuntimeError> {
        if name.contains('%') {
            return Err(TunError::Name { name: name.into() }.into());
        }
        Self::create_with(name, socket_folder, options, Inherited::default())
    }

    /// Does the same with what is there already. Another name than asked for is the interface's own, or that which the kernel made
    /// of `%d` ([`Self::name`]).
    pub fn create_with(
        name: &str,
        socket_folder: &path::Path,
        options: Options,
        inherited: Inherited,
    ) -> Result<Self, RuntimeError> {
        let tun = match inherited.tun {
            Some(file) => Tun::inherit(file, name, options.offload)?,
            None => Tun::create(name, options.offload, options.threads > 1)?,
        };
        let name = &tun.name().map_err(|source| TunError::SetUp {
            name: name.into(),
            source,
        })?;
        tracing::info!(name, offloads = ?tun.offloads(), "interface created");
        let notifier = Notifier::new().map_err(RuntimeError::Notifier)?;
        let path = socket_folder.join(format!("{name}.sock"));
        let listener = match inherited.uapi {
            Some(socket) => Listener::inherit(socket, &path)?,
            None => Listener::bind(&path)?,
        };
        tun.keep(options.keep).map_err(|source| TunError::SetUp {
            name: name.clone(),
            source,
        })?;
        Self::new(name.clone(), shards(options), tun, notifier, listener, options)
    }

    fn new(
        name: String,
        devices: Vec<Device>,
        tun: Tun,
        notifier: Notifier,
        listener: Listener,
        options: Options,
    ) -> Result<Self, RuntimeError> {
        let mut devices = devices.into_iter();
        let first = devices
            .next()
            .unwrap_or_else(|| Device::new(usize::from(DEFAULT_MTU)));
        let pool = WorkerPool::new(devices, &tun).map_err(RuntimeError::Thread)?;
        let main = MainThread::new(
            Shard::new(first, tun, Queue::Used),
            Settings::new(options.offload),
            notifier,
            Server::new(listener),
        );
        Ok(Self { name, main, pool })
    }

    /// Returns the name of its interface when it began.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Carries packets until it ends, or another process has taken over.
    pub fn carry(mut self, stop: BorrowedFd<'_>) -> Result<Exit, RuntimeError> {
        loop {
            match self.run(stop)? {
                End::HandoverRequested(request) => {
                    if request.hand_over(&Transfer::new(None, vec![self.transfer()])) {
                        self.release();
                        return Ok(Exit::HandedOver);
                    }
                }
                End::SocketGone => {
                    self.remove();
                    return Ok(Exit::Ended);
                }
                End::Stopped | End::InterfaceGone => return Ok(Exit::Ended),
            }
        }
    }

    /// Carries packets until `stop` is readable or closed, the interface or the socket is removed, or another process
    /// asks for the device. What was taken from the kernel has been given back to it then.
    pub fn run(&mut self, stop: BorrowedFd<'_>) -> Result<End, RuntimeError> {
        let Self { main, pool, .. } = self;
        main.with_all_shards(pool, |all| {
            all.sockets.share();
            all.use_queues();
        });
        let span = tracing::Span::current();
        let end = thread::scope(|scope| {
            let _stop = pool.stop_on_drop();
            for (number, job) in pool.jobs() {
                let span = span.clone();
                thread::Builder::new()
                    .name(format!("shard {number}"))
                    .spawn_scoped(scope, move || span.in_scope(job))
                    .map_err(RuntimeError::Thread)?;
            }
            main.work(stop, pool)
        });
        // A process that goes on with the sockets of the first shard is to receive everything.
        main.with_all_shards(pool, |all| all.sockets.unshare());
        main.shard.io.flush_interface();
        main.shard.io.flush_network();
        end
    }

    /// Returns what another process needs to go on with it. Nothing here may be used until that process has declined.
    pub fn transfer(&self) -> TransferredDevice<BorrowedFd<'_>> {
        let listener = self.main.server.listener();
        let io = &self.main.shard.io;
        let sockets = io.sockets.as_ref().map(UdpSockets::by_family);
        TransferredDevice {
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

    fn configuration(&self) -> Zeroizing<String> {
        let held = self.pool.lock_all();
        let others = held.iter().map(|guard| &guard.shard.device);
        let devices: Vec<&Device> = [&self.main.shard.device].into_iter().chain(others).collect();
        get::render_whole(&devices, &self.main.settings.ports())
    }

    /// Gives it up to another process: what is in the file system stays.
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

/// Returns a device without key and peers, in as many shards as threads are wanted.
fn shards(options: Options) -> Vec<Device> {
    ShardIndex::all(options.threads)
        .map(|index| {
            let mut device = Device::shard(index, usize::from(DEFAULT_MTU));
            device.set_copy_dscp(options.copy_dscp);
            device.handle_down(Instant::now());
            device
        })
        .collect()
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let log = |shard: &Shard| {
            tracing::info!(name = self.name, drops = ?shard.device.drops(), lost = ?shard.io.lost, "device ended");
        };
        log(&self.main.shard);
        for guard in self.pool.lock_all() {
            log(&guard.shard);
        }
    }
}
