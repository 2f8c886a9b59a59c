//! Which peers are written to by a way that the routes do not take any more.
//!
//! A peer is written to from the address of this machine that it wrote to last. When another route to it takes precedence, that
//! address may belong to an uplink that packets do not leave by any more, and a provider that filters sources drops them.
//! The kernel's WireGuard looks at the route of every datagram; here the kernel is asked after it said that something has
//! changed (links, addresses, routes, rules, nexthops), and when a peer writes by another way than before.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::{path::Path, rtnetlink::RouteSocket};

/// Changes come in swarms; what is asked after the first of them is asked again after this time.
const PAUSE: Duration = Duration::from_millis(50);
/// Asking takes one part in so many of this thread's time at most.
const SHARE: u32 = 20;

/// Changes to routes, and to ways, that no question followed yet.
#[derive(Debug, Default)]
pub(super) struct RouteChanges {
    changed: bool,
    unasked: bool,
    not_before: Option<Instant>,
}

impl RouteChanges {
    /// Something has changed.
    pub(super) fn handle_change(&mut self) {
        self.changed = true;
    }

    /// Some peer is written to in another way than before.
    pub(super) fn handle_unasked(&mut self) {
        self.unasked = true;
    }

    /// Begins to ask; returns whether something has changed, so that every way has to be asked for.
    pub(super) fn begin(&mut self) -> bool {
        self.unasked = false;
        std::mem::take(&mut self.changed)
    }

    /// Returns whether it is time to ask.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        (self.changed || self.unasked) && self.not_before.is_none_or(|at| at <= now)
    }

    /// Returns when it is time to ask, if that is not now.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.not_before.filter(|_| self.changed || self.unasked)
    }

    /// Returns those of the paths by which the kernel would not send any more: the local address is gone, or what is sent
    /// from it leaves by another interface than the one by which the peer's datagrams came in. Of those that were lost before,
    /// and have no local address, it returns the ones for which there is a route.
    pub(super) fn ask(&mut self, mut paths: BTreeSet<Path>, port: u16, mark: u32) -> BTreeSet<Path> {
        let start = Instant::now();
        match RouteSocket::open() {
            Ok(mut socket) => paths.retain(|path| {
                path.interface != 0
                    && is_asked_for(path.remote, path.local)
                    && has_changed(&mut socket, *path, port, mark)
            }),
            Err(error) => {
                tracing::debug!(%error, "cannot ask for routes");
                paths.clear();
            }
        }
        self.not_before = Some(Instant::now() + PAUSE.max(start.elapsed() * SHARE));
        paths
    }
}

/// A link-local address has its interface in it.
fn is_asked_for(remote: SocketAddr, local: Option<IpAddr>) -> bool {
    match (remote, local) {
        (SocketAddr::V4(_), None | Some(IpAddr::V4(_))) => true,
        (SocketAddr::V6(remote), None | Some(IpAddr::V6(_))) => remote.scope_id() == 0,
        (SocketAddr::V4(_), Some(IpAddr::V6(_))) | (SocketAddr::V6(_), Some(IpAddr::V4(_))) => false,
    }
}

fn has_changed(socket: &mut RouteSocket, path: Path, port: u16, mark: u32) -> bool {
    let way = socket.way_out(path.remote, path.local, port, mark).ok().flatten();
    match path.local {
        // Without any route for a moment the address stays the right one.
        Some(local) => way.is_some_and(|interface| interface != path.interface) || !socket.is_own(local),
        None => way.is_some(),
    }
}
