//! The threads that carry packets beside the main one, one for each shard but the first.
//!
//! A worker waits for its own queue, sockets, crossings and timers, and has its shard's lock for a turn. Nobody else wants
//! that lock but the main thread, when the configuration changes.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Instant, SystemTime},
};

use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};

use crate::{
    device::Device,
    interface::{
        INSPECTION,
        crossing::Crossing,
        kernel::{Io, Queue},
        shard::Shard,
    },
    tun::Tun,
    udp::{MAX_SOCKETS, Sockets},
};

/// What a worker waits for; sockets have the numbers from here on.
const CROSSING: u64 = 0;
const TUN: u64 = 1;
const NETWORK: u64 = 2;
const MOST_EVENTS: usize = 2 + MAX_SOCKETS;

/// A shard with a thread of its own, while the device runs.
#[derive(Debug)]
pub(super) struct Worker {
    number: usize,
    /// Passed before the lock is taken: a worker that takes one turn after the other would not let the main thread in.
    door: Mutex<()>,
    shard: Mutex<Shard>,
    epoll: Epoll,
    stopping: AtomicBool,
    failed: AtomicBool,
}

impl Worker {
    /// The worker for a shard, on the interface of this queue.
    pub(super) fn new(number: usize, device: Device, tun: &Tun) -> io::Result<Self> {
        let (tun, queue) = match tun.queue() {
            Ok(own) => (own, Queue::Idle),
            Err(error) => {
                tracing::debug!(%error, "one queue of the interface for several threads");
                (tun.try_clone()?, Queue::Shared)
            }
        };
        Ok(Self {
            number,
            door: Mutex::default(),
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

    /// Carries packets until it is told to stop.
    fn work(&self, crossings: &[Crossing]) -> io::Result<()> {
        let crossing = &crossings[self.number];
        let mut events = [EpollEvent::empty(); MOST_EVENTS];
        let mut patience = EpollTimeout::ZERO;
        let mut inspected = Instant::now();
        // Looked at behind whatever may have hushed the bell that came with it.
        while !self.stopping.load(Ordering::Acquire) {
            let count = match self.epoll.wait(&mut events, patience) {
                Ok(count) => count,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            let now = Instant::now();
            let mut shard = self.lock();
            let mut more = false;
            for event in &events[..count] {
                match event.data() {
                    CROSSING => shard.take_crossed(now, crossing),
                    TUN => more = shard.read_tun(now, crossings),
                    socket => shard.read_network(now, (socket - NETWORK) as usize, crossings),
                }
            }
            let Shard { device, io, .. } = &mut *shard;
            io.flush_interface();
            device.handle_timeout(now, io);
            if now.saturating_duration_since(inspected) >= INSPECTION {
                inspected = now;
                device.handle_clock(now, SystemTime::now(), io);
            }
            // What is left of a turn that did not empty the interface goes with the packets of the next.
            if !more {
                io.flush_network();
            }
            patience = device.poll_timeout().map_or(EpollTimeout::NONE, |due| {
                let left = due.saturating_duration_since(Instant::now()).as_micros();
                EpollTimeout::try_from(left.div_ceil(1000)).unwrap_or(EpollTimeout::MAX)
            });
        }
        Ok(())
    }

    /// After whoever came first.
    fn lock(&self) -> MutexGuard<'_, Shard> {
        let door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        let shard = self.shard.lock().unwrap_or_else(PoisonError::into_inner);
        drop(door);
        shard
    }
}

/// All workers of a device, and what crosses between its shards.
#[derive(Debug, Default)]
pub(super) struct Crew {
    workers: Vec<Worker>,
    /// For each shard; none when there is one shard only.
    crossings: Vec<Crossing>,
}

impl Crew {
    pub(super) fn new(devices: impl IntoIterator<Item = Device>, tun: &Tun) -> io::Result<Self> {
        let workers: Vec<_> = (1..)
            .zip(devices)
            .map(|(number, device)| Worker::new(number, device, tun))
            .collect::<io::Result<_>>()?;
        let crossings: Vec<_> = (0..=workers.len())
            .filter(|_| !workers.is_empty())
            .map(|_| Crossing::new())
            .collect::<io::Result<_>>()?;
        for worker in &workers {
            worker.watch(crossings[worker.number].as_fd(), CROSSING)?;
        }
        Ok(Self { workers, crossings })
    }

    pub(super) fn crossings(&self) -> &[Crossing] {
        &self.crossings
    }

    /// Makes all workers wait.
    pub(super) fn hold(&self) -> Vec<Grip<'_>> {
        let hold = |worker| Grip {
            worker,
            shard: Worker::lock(worker),
        };
        self.workers.iter().map(hold).collect()
    }

    /// Lets workers see what was changed while they were held.
    pub(super) fn wake(&self) {
        for crossing in self.crossings.iter().skip(1) {
            crossing.ring();
        }
    }

    /// What the workers are to run, one in each thread.
    pub(super) fn jobs(&self) -> impl Iterator<Item = (usize, impl FnOnce() + Send + '_)> {
        self.workers.iter().map(move |worker| {
            worker.stopping.store(false, Ordering::Release);
            let job = move || {
                let _alarm = Alarm {
                    worker,
                    main: &self.crossings[0],
                };
                if let Err(error) = worker.work(&self.crossings) {
                    tracing::error!(%error, "a thread cannot wait for packets");
                }
            };
            (worker.number, job)
        })
    }

    /// Tells all workers to end when this is dropped, also by a panic.
    pub(super) fn dismissal(&self) -> Dismissal<'_> {
        Dismissal(self)
    }

    /// Whether a worker ended without being told to.
    pub(super) fn has_failed(&self) -> bool {
        self.workers
            .iter()
            .any(|worker| worker.failed.load(Ordering::Acquire))
    }
}

/// Tells the main thread of a worker's end.
struct Alarm<'a> {
    worker: &'a Worker,
    main: &'a Crossing,
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if !self.worker.stopping.load(Ordering::Acquire) {
            self.worker.failed.store(true, Ordering::Release);
            self.main.ring();
        }
    }
}

/// See [`Crew::dismissal`].
pub(super) struct Dismissal<'a>(&'a Crew);

impl Drop for Dismissal<'_> {
    fn drop(&mut self) {
        for worker in &self.0.workers {
            worker.stopping.store(true, Ordering::Release);
        }
        self.0.wake();
    }
}

/// A worker that waits.
pub(super) struct Grip<'a> {
    worker: &'a Worker,
    pub(super) shard: MutexGuard<'a, Shard>,
}

impl Grip<'_> {
    /// Its two halves.
    pub(super) fn split(&mut self) -> (&mut Device, Other<'_>) {
        let worker = self.worker;
        let Shard { device, io, .. } = &mut *self.shard;
        (device, Other { worker, io })
    }
}

/// The kernel's side of a worker that waits.
pub(super) struct Other<'a> {
    worker: &'a Worker,
    pub(super) io: &'a mut Io,
}

impl Other<'_> {
    /// Receives by other sockets from now on. Those that are closed the epoll forgets by itself.
    pub(super) fn listen(&mut self, sockets: Sockets) {
        self.io.listen(sockets);
        for (number, socket) in (NETWORK..).zip(self.io.sockets()) {
            if let Err(error) = self.worker.watch(socket.as_fd(), number) {
                tracing::error!(%error, "a thread cannot wait for datagrams");
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
            tracing::error!(%error, "a thread cannot have a queue of the interface");
            self.io.queue = Queue::Shared;
            if let Ok(shared) = main.try_clone() {
                self.io.tun = shared;
            }
        }
    }
}
