//! The threads that carry packets beside the main one, one for each shard but the first.
//!
//! A worker waits for its own queue, sockets, mailbox and timers, and has its shard's lock for a turn. Only the main thread
//! wants that lock too, when the configuration changes.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};

use crate::{
    clock::{Moment, Suspicion},
    device::Device,
    runtime::{
        INSPECTION,
        mailbox::Mailbox,
        shard::Shard,
        shard_io::{Queue, ShardIo},
    },
    tun::Tun,
    udp::{MAX_SOCKETS, UdpSockets},
};

/// What a worker waits for; sockets have the numbers from here on.
const MAIL: u64 = 0;
const TUN: u64 = 1;
const NETWORK: u64 = 2;
const MOST_EVENTS: usize = 2 + MAX_SOCKETS;

/// A shard with a thread of its own, while the device runs.
#[derive(Debug)]
pub(super) struct Worker {
    number: usize,
    /// Passed before the lock is taken: a worker that takes one turn after the other would not let the main thread in.
    turnstile: Mutex<()>,
    shard: Mutex<Shard>,
    epoll: Epoll,
    stopping: AtomicBool,
    failed: AtomicBool,
}

impl Worker {
    /// Makes the worker for a shard, on the interface of this queue.
    pub(super) fn new(number: usize, device: Device, tun: &Tun) -> io::Result<Self> {
        let (tun, queue) = match tun.queue() {
            Ok(own) => (own, Queue::Idle),
            Err(error) => {
                tracing::debug!(%error, "no queue of the interface for this worker");
                (tun.try_clone()?, Queue::Shared)
            }
        };
        Ok(Self {
            number,
            turnstile: Mutex::default(),
            shard: Mutex::new(Shard::new(device, tun, queue)),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            stopping: AtomicBool::new(false),
            failed: AtomicBool::new(false),
        })
    }

    fn watch(&self, fd: BorrowedFd<'_>, number: u64) -> io::Result<()> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, number);
        Ok(self.epoll.add(fd, event)?)
    }

    /// Carries packets until it is stopped.
    fn work(&self, mailboxes: &[Mailbox]) -> io::Result<()> {
        let mailbox = &mailboxes[self.number];
        let mut events = [EpollEvent::empty(); MOST_EVENTS];
        let mut patience = EpollTimeout::ZERO;
        let mut inspected = Instant::now();
        let mut suspicion = Suspicion::new();
        // Read after the mailbox was cleared, which may have taken the wake-up that came with a stop.
        while !self.stopping.load(Ordering::Acquire) {
            let count = match self.epoll.wait(&mut events, patience) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            let now = Instant::now();
            let mut shard = self.lock();
            // Before anything is sent: no key outlives a suspension.
            let suspicious = suspicion.arises(now);
            if suspicious {
                mailboxes.iter().for_each(Mailbox::wake);
            }
            if suspicious || now.saturating_duration_since(inspected) >= INSPECTION {
                inspected = now;
                let Shard { device, io, .. } = &mut *shard;
                device.handle_clock(now, Moment::now(), io);
            }
            let mut more = false;
            for event in &events[..count] {
                match event.data() {
                    MAIL => shard.take_mail(now, mailbox, mailboxes),
                    TUN => more = shard.read_tun(now, mailboxes),
                    socket => shard.read_network(now, (socket - NETWORK) as usize, mailboxes),
                }
            }
            let Shard { device, io, .. } = &mut *shard;
            io.flush_interface();
            device.handle_timeout(now, io);
            // What is left of a turn that did not empty the interface goes with the packets of the next.
            if !more {
                shard.flush_network(now);
            }
            if shard.device.take_unasked() {
                mailboxes[0].report_unasked();
            }
            patience = shard.device.poll_timeout().map_or(EpollTimeout::NONE, |due| {
                let left = due.saturating_duration_since(Instant::now()).as_micros();
                EpollTimeout::try_from(left.div_ceil(1000)).unwrap_or(EpollTimeout::MAX)
            });
        }
        Ok(())
    }

    /// Waits for its turn, and takes the shard.
    fn lock(&self) -> MutexGuard<'_, Shard> {
        let turnstile = self.turnstile.lock().unwrap_or_else(PoisonError::into_inner);
        let shard = self.shard.lock().unwrap_or_else(PoisonError::into_inner);
        drop(turnstile);
        shard
    }
}

/// All workers of a device, and the mailboxes of its shards.
#[derive(Debug, Default)]
pub(super) struct WorkerPool {
    workers: Vec<Worker>,
    /// One for each shard; none when there is one shard only.
    mailboxes: Vec<Mailbox>,
}

impl WorkerPool {
    pub(super) fn new(devices: impl IntoIterator<Item = Device>, tun: &Tun) -> io::Result<Self> {
        let workers: Vec<_> = (1..)
            .zip(devices)
            .map(|(number, device)| Worker::new(number, device, tun))
            .collect::<io::Result<_>>()?;
        let mailboxes: Vec<_> = (0..=workers.len())
            .filter(|_| !workers.is_empty())
            .map(|_| Mailbox::new())
            .collect::<io::Result<_>>()?;
        for worker in &workers {
            worker.watch(mailboxes[worker.number].as_fd(), MAIL)?;
        }
        Ok(Self { workers, mailboxes })
    }

    pub(super) fn mailboxes(&self) -> &[Mailbox] {
        &self.mailboxes
    }

    /// Takes every worker's shard: they wait until these guards are dropped.
    pub(super) fn lock_all(&self) -> Vec<ShardGuard<'_>> {
        let lock = |worker| ShardGuard {
            worker,
            shard: Worker::lock(worker),
        };
        self.workers.iter().map(lock).collect()
    }

    /// Wakes all workers, so that they see what was changed while their shards were taken.
    pub(super) fn wake(&self) {
        for mailbox in self.mailboxes.iter().skip(1) {
            mailbox.wake();
        }
    }

    /// Returns what the workers are to run, one in each thread.
    pub(super) fn jobs(&self) -> impl Iterator<Item = (usize, impl FnOnce() + Send + '_)> {
        self.workers.iter().map(move |worker| {
            worker.stopping.store(false, Ordering::Release);
            let job = move || {
                let _guard = ExitGuard {
                    worker,
                    main: &self.mailboxes[0],
                };
                if let Err(error) = worker.work(&self.mailboxes) {
                    tracing::error!(%error, "waiting for packets failed, the worker ends");
                }
            };
            (worker.number, job)
        })
    }

    /// Returns a guard that stops all workers when it is dropped, also by a panic.
    pub(super) fn stop_on_drop(&self) -> StopGuard<'_> {
        StopGuard(self)
    }

    /// Returns whether a worker ended without being stopped.
    pub(super) fn has_failed(&self) -> bool {
        self.workers
            .iter()
            .any(|worker| worker.failed.load(Ordering::Acquire))
    }
}

/// Wakes the main thread when a worker ends that was not stopped.
struct ExitGuard<'a> {
    worker: &'a Worker,
    main: &'a Mailbox,
}

impl Drop for ExitGuard<'_> {
    fn drop(&mut self) {
        if !self.worker.stopping.load(Ordering::Acquire) {
            self.worker.failed.store(true, Ordering::Release);
            self.main.wake();
        }
    }
}

/// See [`WorkerPool::stop_on_drop`].
pub(super) struct StopGuard<'a>(&'a WorkerPool);

impl Drop for StopGuard<'_> {
    fn drop(&mut self) {
        for worker in &self.0.workers {
            worker.stopping.store(true, Ordering::Release);
        }
        self.0.wake();
    }
}

/// The shard of a worker that waits meanwhile.
pub(super) struct ShardGuard<'a> {
    worker: &'a Worker,
    pub(super) shard: MutexGuard<'a, Shard>,
}

impl ShardGuard<'_> {
    /// Returns its two halves.
    pub(super) fn split(&mut self) -> (&mut Device, WorkerIo<'_>) {
        let worker = self.worker;
        let Shard { device, io, .. } = &mut *self.shard;
        (device, WorkerIo { worker, io })
    }
}

/// The kernel's side of a worker that waits meanwhile.
pub(super) struct WorkerIo<'a> {
    worker: &'a Worker,
    pub(super) io: &'a mut ShardIo,
}

impl WorkerIo<'_> {
    /// Receives by other sockets from now on. Those that are closed the epoll forgets by itself.
    pub(super) fn listen(&mut self, sockets: UdpSockets) {
        self.io.listen(sockets);
        for (number, socket) in (NETWORK..).zip(self.io.sockets()) {
            if let Err(error) = self.worker.watch(socket.as_fd(), number) {
                tracing::error!(%error, "watching a socket failed, a worker receives nothing from it");
            }
        }
    }

    /// Has the kernel give packets to this thread's own queue, if it has one and there are peers.
    pub(super) fn use_queue(&mut self, main: &Tun) {
        if self.io.queue != Queue::Idle {
            return;
        }
        let tun = &self.io.tun;
        let used = tun
            .put_into_use()
            .and_then(|()| self.worker.watch(tun.as_fd(), TUN));
        self.io.queue = Queue::Used;
        if let Err(error) = used {
            tracing::error!(%error, "attaching a queue of the interface failed, a worker shares that of the first thread");
            self.io.queue = Queue::Shared;
            if let Ok(shared) = main.try_clone() {
                self.io.tun = shared;
            }
        }
    }
}
