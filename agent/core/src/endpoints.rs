//! The endpoint of each WireGuard peer.
//!
//! WireGuard follows a peer that moves (roaming), so an endpoint is given to the device only when
//!
//! * the peer is new in the device: then where it was last heard, else the first candidate;
//! * its configuration has changed, so that the first candidate is another one; once more, a few times, where packets
//!   that were in flight from the former endpoint undo the change ([`INSIST`]);
//! * it has no endpoint although there is a candidate (its DNS name has just been resolved);
//! * it is stale, that is: it has not answered a stimulus for [`PATIENCE`], or, where it never gets one, its session
//!   has ended; then the next candidate.
//!
//! Candidates are the published endpoints in their order, names replaced by the addresses they resolve to, addresses
//! that this node has a route to first.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use spanwire_host::PeerStats;
use spanwire_topology::{DnsName, Endpoint, EndpointHost, Party, PublicKey, TunnelPeer};

use crate::liveness::{PATIENCE, Sessions};

/// How long a candidate is tried for a peer that gets no stimulus.
const TRIAL: Duration = Duration::from_secs(60);

/// How long after a change an endpoint is given again that is found undone: packets of a peer that arrive after the
/// change, but left before the peer knew of it, are to WireGuard a peer that has roamed back. No more often, since a
/// peer that goes on answering from there may have its reasons, and what is sent to a wrong endpoint is lost.
const INSIST: [Duration; 3] = [
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(3),
];

/// The endpoints of all peers.
#[derive(Debug, Default)]
pub struct Endpoints {
    peers: BTreeMap<PublicKey, Peer>,
    names: BTreeMap<DnsName, BTreeSet<IpAddr>>,
}

#[derive(Debug)]
struct Peer {
    party: Party,
    list: Vec<Endpoint>,
    change: Change,
    /// What was last given to the device, and when.
    given: Option<(SocketAddr, Instant)>,
    /// The last change of its configuration, where it had an endpoint before.
    change_from: Option<ChangeFrom>,
    /// Where it was last heard, or its last endpoint given; also before the device was recreated.
    last: Option<SocketAddr>,
}

/// A change that packets in flight may undo.
#[derive(Clone, Copy, Debug)]
struct ChangeFrom {
    endpoint: SocketAddr,
    /// When the device took it.
    at: Option<Instant>,
    /// How many times of [`INSIST`] are over.
    looked: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// The peer is acted upon as published.
    Known,
    /// Its list has changed since.
    Changed,
    /// This process has just started to manage it; the device may have had it before.
    Adopted,
}

impl Endpoints {
    /// Takes the peers that the plan wants, with their endpoints.
    pub fn handle_plan(&mut self, wanted: &BTreeMap<PublicKey, TunnelPeer>) {
        self.peers.retain(|key, _| wanted.contains_key(key));
        for (key, TunnelPeer { party, endpoints, .. }) in wanted {
            let peer = self.peers.entry(*key).or_insert_with(|| Peer {
                party: party.clone(),
                list: endpoints.clone(),
                change: Change::Adopted,
                given: None,
                change_from: None,
                last: None,
            });
            if peer.list != *endpoints {
                peer.list.clone_from(endpoints);
                peer.change = Change::Changed;
                peer.change_from = peer.last.map(ChangeFrom::new);
            }
            peer.party = party.clone();
        }
        let names = self.names();
        self.names.retain(|name, _| names.contains_key(name));
    }

    /// Takes the addresses of a name. Failures are not reported here: the addresses known before stay.
    pub fn handle_resolved(&mut self, name: DnsName, addresses: BTreeSet<IpAddr>) {
        if !addresses.is_empty() {
            self.names.insert(name, addresses);
        }
    }

    /// Takes what the device has now.
    pub fn handle_stats(&mut self, stats: &BTreeMap<PublicKey, PeerStats>, now: Instant) {
        for (key, peer) in &mut self.peers {
            let endpoint = stats.get(key).and_then(|stats| stats.endpoint);
            peer.last = endpoint.or(peer.last);
            if let Some(from) = &mut peer.change_from
                && endpoint != Some(from.endpoint)
            {
                from.handle_looked(now);
            }
        }
    }

    /// Records that the device has taken these, but those of the peers that it `refused`. Those are still to be given.
    pub fn handle_given(
        &mut self,
        given: &BTreeMap<PublicKey, SocketAddr>,
        refused: &BTreeSet<PublicKey>,
        now: Instant,
    ) {
        let names = &self.names;
        for (key, peer) in self.peers.iter_mut().filter(|(key, _)| !refused.contains(key)) {
            peer.handle_given(given.get(key).copied(), now);
            // A list of names none of which is resolved yet is still to be acted upon.
            if peer.list.is_empty() || !addresses(&peer.list, names).is_empty() {
                peer.change = Change::Known;
            }
        }
    }

    /// Returns the names to resolve, and the parties reached by each.
    #[must_use]
    pub fn names(&self) -> BTreeMap<DnsName, BTreeSet<Party>> {
        let mut names: BTreeMap<DnsName, BTreeSet<Party>> = BTreeMap::new();
        for peer in self.peers.values() {
            for endpoint in &peer.list {
                if let EndpointHost::Name(name) = &endpoint.host {
                    names.entry(name.clone()).or_default().insert(peer.party.clone());
                }
            }
        }
        names
    }

    /// Returns the endpoints to give to the device now. `stats` has the peers that are in it.
    #[must_use]
    pub fn poll_endpoints(
        &self,
        stats: &BTreeMap<PublicKey, PeerStats>,
        sessions: &Sessions,
        routable: &dyn Fn(IpAddr) -> bool,
        now: Instant,
    ) -> BTreeMap<PublicKey, SocketAddr> {
        let choose = |(key, peer): (&PublicKey, &Peer)| {
            let candidates = self.candidates(&peer.list, routable);
            let stale = peer.stale(key, sessions, now);
            let address = peer.choose(stats.get(key), &candidates, stale, now)?;
            Some((*key, address))
        };
        self.peers.iter().filter_map(choose).collect()
    }

    /// Returns when the device should be polled again, because a change may have been undone. What is due already has
    /// been seen, and waits for the device to take it.
    #[must_use]
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let due = |peer: &Peer| peer.change_from?.due().filter(|due| *due > now);
        self.peers.values().filter_map(due).min()
    }

    /// Returns the last endpoints of these peers, for recreating them.
    #[must_use]
    pub fn last<'a>(&self, keys: impl IntoIterator<Item = &'a PublicKey>) -> BTreeMap<PublicKey, SocketAddr> {
        let last = |key: &PublicKey| Some((*key, self.peers.get(key)?.last?));
        keys.into_iter().filter_map(last).collect()
    }

    fn candidates(&self, list: &[Endpoint], routable: &dyn Fn(IpAddr) -> bool) -> Vec<SocketAddr> {
        let mut candidates = addresses(list, &self.names);
        candidates.sort_by_key(|candidate| !routable(candidate.ip()));
        candidates
    }
}

fn addresses(list: &[Endpoint], names: &BTreeMap<DnsName, BTreeSet<IpAddr>>) -> Vec<SocketAddr> {
    let each = |Endpoint { host, port }: &Endpoint| {
        let addresses: Vec<IpAddr> = match host {
            EndpointHost::Address(address) => vec![*address],
            EndpointHost::Name(name) => names.get(name).into_iter().flatten().copied().collect(),
        };
        let port = *port;
        addresses
            .into_iter()
            .map(move |address| SocketAddr::new(address, port))
    };
    list.iter().flat_map(each).collect()
}

impl ChangeFrom {
    fn new(endpoint: SocketAddr) -> Self {
        Self {
            endpoint,
            at: None,
            looked: 0,
        }
    }

    /// Returns when to check whether it has been undone.
    fn due(&self) -> Option<Instant> {
        Some(self.at? + *INSIST.get(self.looked)?)
    }

    fn handle_looked(&mut self, now: Instant) {
        while self.is_due(now) {
            self.looked += 1;
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due().is_some_and(|due| now >= due)
    }
}

impl Peer {
    /// Records that the device has taken this, or that it has been read and needs nothing.
    fn handle_given(&mut self, address: Option<SocketAddr>, now: Instant) {
        match &mut self.change_from {
            Some(from) if self.change == Change::Changed => from.at = address.map(|_| now),
            Some(from) => from.handle_looked(now),
            None => {}
        }
        if let Some(address) = address {
            self.given = Some((address, now));
            self.last = Some(address);
        }
    }

    /// Returns what was given, where that is undone and it is time to insist.
    fn undone(&self, present: SocketAddr, now: Instant) -> Option<SocketAddr> {
        let (from, (given, _)) = (self.change_from?, self.given?);
        (from.is_due(now) && from.endpoint == present).then_some(given)
    }

    fn choose(
        &self,
        stats: Option<&PeerStats>,
        candidates: &[SocketAddr],
        stale: bool,
        now: Instant,
    ) -> Option<SocketAddr> {
        let first = candidates.first().copied();
        let endpoint = match stats {
            Some(stats) => stats.endpoint,
            None if self.change == Change::Changed => return first,
            None => return self.last.or(first),
        };
        let Some(present) = endpoint else {
            return self.last.or(first);
        };
        let given = self.given.map(|(address, _)| address);
        let wanted = match self.change {
            Change::Changed if first != given => first?,
            Change::Changed | Change::Known | Change::Adopted if stale => {
                next(candidates, given.unwrap_or(present))?
            }
            Change::Changed | Change::Known | Change::Adopted => self.undone(present, now)?,
        };
        (wanted != present).then_some(wanted)
    }

    fn stale(&self, key: &PublicKey, sessions: &Sessions, now: Instant) -> bool {
        let tried = |wait| self.given.is_none_or(|(_, at)| now >= at + wait);
        match self.party {
            Party::Leader(..) => {
                sessions
                    .silence(key, now)
                    .is_some_and(|silence| silence >= PATIENCE)
                    && tried(PATIENCE)
            }
            Party::Peer(_) => !sessions.fresh(key, Duration::ZERO) && tried(TRIAL),
        }
    }
}

/// Returns the candidate after `present`, round and round; the first where `present` is none of them.
fn next(candidates: &[SocketAddr], present: SocketAddr) -> Option<SocketAddr> {
    let position = candidates.iter().position(|candidate| *candidate == present);
    let index = position.map_or(0, |position| (position + 1) % candidates.len());
    candidates.get(index).copied()
}

#[cfg(test)]
mod tests;
