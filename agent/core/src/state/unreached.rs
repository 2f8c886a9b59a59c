//! Locations that this node reaches by no way.
//!
//! They are reported, and their prefixes become `unreachable`, so that who sends there hears of it. That echo requests are not
//! answered is not enough for that: a firewall that has just begun to drop them lets other packets pass. So it has to be
//! [silent](Silence), too, by the counters of WireGuard, to which all counts that comes by the tunnels. It is not reported as over while it may
//! begin again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;
use spanwire_topology::{LocationName, NodeName, Party, TunnelPeer};

use super::NodeState;
use crate::{liveness::Judgement, trouble::Trouble};

/// For so long a location has to be reached again before that is reported: a path that comes and goes would have leaders write to
/// the API server each time.
const CALM: Duration = Duration::from_secs(5);
/// For so long nothing may have come from its leaders, where all ways to it have answered before.
const LISTEN: Duration = Duration::from_millis(200);
/// For so long, where some never did: by then a peer that gets the agent's own requests, and has nothing to send, has sent a keepalive
/// (KEEPALIVE_TIMEOUT, 10 s, whitepaper section 6.1).
const LISTEN_LONG: Duration = Duration::from_secs(12);

/// Each location that is not reached, or was not until just now.
#[derive(Debug, Default)]
pub(super) struct Unreached(BTreeMap<LocationName, Spell>);

#[derive(Clone, Copy, Debug)]
struct Spell {
    since: Timestamp,
    /// When it is over, unless it begins again before.
    over: Option<Instant>,
    silence: Silence,
    /// How long to listen.
    listen: Duration,
    /// It is silent for so long.
    is_silent: bool,
    /// It was, and that is reported.
    is_reported: bool,
}

/// Whether anything comes from the leaders of a location whose echo replies do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Silence {
    /// The counters have not been read since this time.
    Unread(Instant),
    /// So many bytes had been received from them then, and no more have been since.
    Since(Instant, u64),
}

impl Unreached {
    fn handle_observed(&mut self, judgement: &Judgement, wall: Timestamp, now: Instant) {
        let unreached = judgement.unreached.iter().map(|location| (location, LISTEN));
        let unheard = judgement.unheard.iter().map(|location| (location, LISTEN_LONG));
        for (location, listen) in unreached.chain(unheard) {
            let begun = Spell {
                since: wall,
                over: None,
                silence: Silence::Unread(now),
                listen,
                is_silent: false,
                is_reported: false,
            };
            let spell = self.0.entry(location.clone()).or_insert(begun);
            if spell.over.is_some() {
                *spell = Spell {
                    since: spell.since,
                    is_reported: spell.is_reported,
                    ..begun
                };
            }
        }
        for (_, spell) in self.0.iter_mut().filter(|(name, _)| !judgement.is_gone(name)) {
            spell.over.get_or_insert(now + CALM);
        }
    }

    /// Takes how many bytes the leaders of each location have sent here.
    fn handle_received(&mut self, received: impl Fn(&LocationName) -> u64, now: Instant) {
        for (location, spell) in self.0.iter_mut().filter(|(_, spell)| spell.over.is_none()) {
            spell.handle_received(received(location), now);
        }
    }

    /// Returns the locations to which packets are to be refused.
    pub(super) fn refused(&self) -> BTreeSet<LocationName> {
        let is_refused = |spell: &Spell| spell.over.is_none() && spell.is_silent;
        let refused = self.0.iter().filter(|(_, spell)| is_refused(spell));
        refused.map(|(location, _)| location.clone()).collect()
    }

    /// Takes the present time. Returns whether anything is over.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        let before = self.0.len();
        self.0.retain(|_, spell| spell.over.is_none_or(|over| now < over));
        before != self.0.len()
    }

    /// Returns when to read the counters, and to call [`Self::handle_timeout`] again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.0.values().filter_map(Spell::poll_timeout).min()
    }
}

impl Spell {
    /// Takes how many bytes the leaders have sent. One that answers no echo requests and sends something lives; whether it does so
    /// still is known after the longer time.
    fn handle_received(&mut self, received: u64, now: Instant) {
        self.silence = match self.silence {
            Silence::Since(_, before) if received > before => {
                (self.listen, self.is_silent, self.is_reported) = (LISTEN_LONG, false, false);
                Silence::Since(now, received)
            }
            // With a peer that is recreated its counter begins again.
            Silence::Since(since, before) => Silence::Since(since, before.min(received)),
            Silence::Unread(_) => Silence::Since(now, received),
        };
        if self.due() <= now {
            (self.is_silent, self.is_reported) = (true, true);
        }
    }

    /// Returns when to read the counters again; of what is silent they are read now and then anyway.
    fn due(&self) -> Instant {
        match self.silence {
            Silence::Unread(since) => since,
            Silence::Since(since, _) => since + self.listen,
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.over.or((!self.is_silent).then(|| self.due()))
    }
}

impl NodeState {
    /// Takes which locations nothing answers from any more, with the present time. Returns whether this node has to change for it.
    pub fn handle_unreached(&mut self, judgement: &Judgement, wall: Timestamp, now: Instant) -> bool {
        self.unreached.handle_observed(judgement, wall, now);
        self.gather_troubles();
        self.handle_refused()
    }

    /// Takes the counters of the device's peers. Returns whether this node has to change for them.
    pub(super) fn listen_to_unreached(&mut self, now: Instant) -> bool {
        if self.unreached.0.is_empty() {
            return false;
        }
        let peers = self.plan.tunnel.iter().flat_map(|tunnel| &tunnel.peers);
        let received = |location: &LocationName| {
            let is_leader = |peer: &TunnelPeer| matches!(&peer.party, Party::Leader(of, _) if of == location);
            let leaders = peers.clone().filter(|(_, peer)| is_leader(peer));
            let received = leaders.filter_map(|(key, _)| Some(self.peers.get(key)?.received));
            received.sum()
        };
        self.unreached.handle_received(received, now);
        self.gather_troubles();
        self.handle_refused()
    }

    fn handle_refused(&mut self) -> bool {
        self.handle_reachability(self.reachability.clone())
    }

    /// Returns the locations to which packets are refused.
    #[must_use]
    pub fn refused(&self) -> &BTreeSet<LocationName> {
        self.reachability.unreached()
    }

    /// What is not reached of that with which this location is established. Before that no traffic waits for it.
    /// Where that is all of several, it is more likely that this node, or all of its location, is cut off.
    pub(super) fn unreached(&self) -> Vec<Trouble> {
        let location = self.plan.location.as_ref();
        let established = location.and_then(|location| Some(&self.mesh.locations.get(location)?.established));
        let is_so =
            |(name, _): &(&LocationName, &Spell)| established.is_some_and(|known| known.contains(*name));
        let probes = &self.plan.probes;
        let reported = || self.unreached.0.iter().filter(|(_, spell)| spell.is_reported);
        let lasting: Vec<(&LocationName, &Spell)> = reported().filter(is_so).collect();
        let asked: BTreeSet<&LocationName> = probes.far.iter().map(|far| &far.location).collect();
        let reported: BTreeSet<&LocationName> = reported().map(|(name, _)| name).collect();
        let all = asked.is_subset(&reported);
        let since = lasting.iter().map(|(_, spell)| spell.since).max();
        if let Some(since) = since.filter(|_| all && lasting.len() > 1) {
            let locations = lasting.into_iter().map(|(name, _)| name.clone()).collect();
            return vec![Trouble::CutOff { locations, since }];
        }
        let unreached = lasting.into_iter().map(|(name, spell)| {
            let leaders = probes.far.iter().chain(&probes.through);
            let leaders = leaders.filter(|far| far.location == *name);
            Trouble::Unreached {
                location: name.clone(),
                leaders: leaders
                    .map(|far| far.node.clone())
                    .collect::<BTreeSet<NodeName>>(),
                since: spell.since,
            }
        });
        unreached.collect()
    }
}
