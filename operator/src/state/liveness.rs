//! Which nodes are alive, as Leases and kubelets show it; sans I/O.
//!
//! The agent of a leader renews the Lease `spanwire-leader-NODE`. A leader that does not do so in time is taken for
//! silent while others do, until its agent gives a sign of life: a renewal or, once it leads no more, a change of its report. A
//! node that does not lead needs no Lease; one that is left from an earlier time means nothing. A leader that has no Lease yet
//! gets [`GRACE`]. A leader that is not silent although its term is over is late: its kubelet speaks for it.
//!
//! Of a leader the Lease says more than the kubelet: its agent renews it, and it is the agent that leads. So a leader stays
//! one while its kubelet is being upgraded, is dead, or comes and goes, and one whose agent is dead does not become one again
//! since its kubelet came back. Of all other nodes the kubelet speaks.
//!
//! What has gone wrong with this elsewhere, and must not here:
//!
//! * Clocks of different machines differ: what counts is when a renewal was observed here, not what time stands in it.
//! * The API server is away: no Lease can be renewed, and all would expire together. The watch delivers the operator's
//!   own Lease too, every few seconds; when it was silent for [`SILENCE`], every leader gets a full term again.
//! * Leases cannot be written at all, or not by the agents of a location (rights, quotas, webhooks): then all would be silent in
//!   turn, and each would be replaced by the next. So the silence of a leader counts only while others renew ([`Runs`]).
//! * A silent leader is replaced, and then has no Lease to renew: it must not count as silent for ever. Where its agent
//!   reports that its Lease is refused, it comes to lead again only where there is no other node, and counts as silent at once.
//! * A node that asks for a term of years or of no time, or whose Lease cannot be read: the one gets another term, the other is
//!   no renewal.
//! * A Lease that is released, as by an agent that has ceased to lead, is no renewal, and no end either where its node leads
//!   again by then.
//! * With `mesh: Nodes` every node leads, and renews: a renewal may not cost a look at all of them.

mod runs;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::runtime::watcher::Event;
use runs::Runs;
use spanwire_cluster::observed::Observed;
use spanwire_topology::{LocationName, NodeName};

/// How long a leader may have no Lease: time to learn that it leads, and for a slow API server.
pub const GRACE: Duration = Duration::from_secs(60);

/// More than the interval at which the operator renews its own Lease, and less than what is left of any leader's term
/// when it is about to renew.
const SILENCE: Duration = Duration::from_secs(8);

/// The longest term that an agent can ask for; they ask for 40 s. It is the agent that writes it, so a longer one would keep a
/// node that is long dead in the lead.
const LONGEST_TERM: Duration = Duration::from_secs(60);

/// The shortest term: of less, an agent that renews every 10 s would be silent between its renewals.
const SHORTEST_TERM: Duration = Duration::from_secs(30);

/// What the names of the leaders' Leases begin with.
pub const LEASE_PREFIX: &str = spanwire_crds::names::LEADER_LEASE_PREFIX;

/// Now, on this machine's monotonic clock and on the wall.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For what lasts.
    pub monotonic: Instant,
    /// For what is written down.
    pub wall: Timestamp,
}

/// What is known of the Leases of leaders.
#[derive(Debug, Default)]
pub(crate) struct Liveness {
    leases: BTreeMap<NodeName, Renewal>,
    leading: BTreeMap<NodeName, Part>,
    silent: BTreeSet<NodeName>,
    /// Leaders whose term is over, and which are not silent.
    late: BTreeSet<NodeName>,
    runs: Runs,
    listed: Option<BTreeSet<NodeName>>,
    complete: bool,
    /// When the watch last delivered any Lease.
    observed: Option<Instant>,
    /// No term ends before this; `None`: none ends.
    next_end: Option<Instant>,
    /// The nodes that became late, fell silent or came back, until they are taken.
    turned: BTreeSet<NodeName>,
    /// The nodes whose Lease began or ceased to speak for them, until they are taken.
    vouched: BTreeSet<NodeName>,
}

/// The part of a leader.
#[derive(Debug)]
struct Part {
    location: LocationName,
    /// The end of the grace of one that has no Lease that holds.
    grace: Option<Instant>,
}

#[derive(Debug)]
struct Renewal {
    time: Option<Timestamp>,
    term: Duration,
    until: Instant,
}

impl Liveness {
    /// Handles an event of the watch of Leases; returns whether a leader fell silent or came back.
    pub(crate) fn handle(&mut self, event: Event<Observed<Lease>>, now: Instant) -> bool {
        if self.silent_at(now) {
            for renewal in self.leases.values_mut() {
                renewal.until = renewal.until.max(now + renewal.term);
            }
            for grace in self.leading.values_mut().filter_map(|part| part.grace.as_mut()) {
                *grace = (*grace).max(now + GRACE);
            }
            self.next_end = self.next_end(now);
        }
        self.observed = Some(now);
        let turned = match event {
            Event::Init => {
                self.listed = Some(BTreeSet::new());
                false
            }
            Event::InitApply(lease) | Event::Apply(lease) => self.enter(&lease, now),
            Event::Delete(lease) => {
                if let Some(node) = node_of(&lease) {
                    self.remove(&node, now);
                }
                false
            }
            Event::InitDone => {
                self.complete = true;
                let listed = self.listed.take().unwrap_or_default();
                let gone = |node: &&NodeName| !listed.contains(*node);
                let gone: Vec<NodeName> = self.leases.keys().filter(gone).cloned().collect();
                for node in gone {
                    self.remove(&node, now);
                }
                false
            }
        };
        self.handle_timeout(now) || turned
    }

    pub(crate) const fn complete(&self) -> bool {
        self.complete
    }

    /// Takes over the leaders of a decision, with their locations; these need a Lease. Those of them that are `refused` one come to
    /// lead for want of others.
    pub(crate) fn lead(
        &mut self,
        leaders: &BTreeMap<NodeName, LocationName>,
        refused: &BTreeSet<NodeName>,
        now: Instant,
    ) {
        let relieved = self.leading.extract_if(.., |node, _| !leaders.contains_key(node));
        for (node, _) in relieved {
            self.late.remove(&node);
            self.turned.extend(self.silent.get(&node).cloned());
            self.vouched.insert(node);
        }
        for (node, location) in leaders {
            if let Some(part) = self.leading.get_mut(node) {
                part.location.clone_from(location);
                continue;
            }
            let held = self.leases.get(node).is_some_and(|renewal| renewal.until > now);
            if held {
                self.vouched.insert(node.clone());
            } else if refused.contains(node) {
                self.silent.insert(node.clone());
            }
            let location = location.clone();
            let grace = (!held).then(|| now + GRACE);
            self.leading.insert(node.clone(), Part { location, grace });
        }
        self.runs.lead(leaders);
        self.next_end = self.next_end(now);
    }

    /// Takes a node that does not lead for alive after a change of its report; returns whether it was taken for silent. Of a leader
    /// its Lease says more.
    pub(crate) fn heard(&mut self, node: &NodeName) -> bool {
        !self.leads(node) && self.silent.remove(node)
    }

    /// Forgets what is known of the machine that had this name.
    pub(crate) fn forget(&mut self, node: &NodeName) {
        self.silent.remove(node);
        self.late.remove(node);
        self.expect_end(node);
    }

    /// Whether the node is alive, given whether its kubelet says so.
    pub(crate) fn alive(&self, node: &NodeName, ready: bool) -> bool {
        !self.silent.contains(node) && (ready || self.vouched_for(node))
    }

    /// Whether the node leads.
    pub(crate) fn leads(&self, node: &NodeName) -> bool {
        self.leading.contains_key(node)
    }

    /// Whether the node is silent and leads all the same, until another one is better.
    pub(crate) fn lingers(&self, node: &NodeName) -> bool {
        self.silent.contains(node) && self.leads(node)
    }

    /// The leaders whose Lease is not renewed.
    pub(crate) fn overdue(&self) -> impl Iterator<Item = &NodeName> {
        let silent = self.silent.iter().filter(|node| self.leads(node));
        self.late.iter().chain(silent)
    }

    /// Whether the node leads and holds a Lease.
    fn vouched_for(&self, node: &NodeName) -> bool {
        self.leading.get(node).is_some_and(|part| part.grace.is_none())
    }

    /// Returns the nodes whose Lease began or ceased to speak for them since the last call.
    pub(crate) fn take_vouched(&mut self) -> BTreeSet<NodeName> {
        std::mem::take(&mut self.vouched)
    }

    /// Returns the nodes that became late, fell silent or came back since the last call.
    pub(crate) fn take_turned(&mut self) -> BTreeSet<NodeName> {
        std::mem::take(&mut self.turned)
    }

    /// Returns when a leader may have to be taken for silent.
    pub(crate) const fn poll_timeout(&self) -> Option<Instant> {
        self.next_end
    }

    /// Takes those leaders for silent whose term is over while others renew, and the others for late; returns whether any
    /// fell silent.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.next_end.is_none_or(|end| end > now) {
            return false;
        }
        if self.silent_at(now) {
            // Until a Lease is observed again; nothing ends without one.
            self.next_end = None;
            return false;
        }
        let over = self.ends().filter(|(_, end)| *end <= now);
        let over: Vec<(NodeName, Instant)> = over.map(|(node, end)| (node.clone(), end)).collect();
        let mut fell_silent = false;
        for (node, end) in over {
            fell_silent |= self.end_term(node, end, now);
        }
        self.next_end = self.next_end(now);
        fell_silent
    }

    /// The term of a leader is over; returns whether it is silent now.
    fn end_term(&mut self, node: NodeName, end: Instant, now: Instant) -> bool {
        let Some(part) = self.leading.get_mut(&node) else {
            return false;
        };
        if part.grace.is_none() {
            part.grace = Some(end);
            self.vouched.insert(node.clone());
        }
        if self
            .runs
            .proof(&part.location, now)
            .is_some_and(|from| from <= now)
        {
            self.runs.fell_silent(&part.location);
            self.late.remove(&node);
            self.turned.insert(node.clone());
            return self.silent.insert(node);
        }
        if self.late.insert(node.clone()) {
            self.turned.insert(node);
        }
        false
    }

    fn silent_at(&self, now: Instant) -> bool {
        self.observed
            .is_none_or(|observed| now.saturating_duration_since(observed) > SILENCE)
    }

    /// Until when each leader is alive.
    fn ends(&self) -> impl Iterator<Item = (&NodeName, Instant)> {
        let heard = self
            .leading
            .iter()
            .filter(|(node, _)| !self.silent.contains(*node));
        heard.filter_map(|(node, part)| Some((node, self.end(node, part.grace)?)))
    }

    /// Returns when a term is over, or the silence of a late leader begins to count.
    fn next_end(&self, now: Instant) -> Option<Instant> {
        let due = |(node, end): (&NodeName, Instant)| {
            if self.late.contains(node) && end <= now {
                self.runs.proof(&self.leading.get(node)?.location, now)
            } else {
                Some(end)
            }
        };
        self.ends().filter_map(due).min()
    }

    fn enter(&mut self, lease: &Observed<Lease>, now: Instant) -> bool {
        let Some(node) = node_of(lease) else {
            return false;
        };
        if let Some(listed) = &mut self.listed {
            listed.insert(node.clone());
        }
        let Some(lease) = &lease.object else {
            return false; // no renewal
        };
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
        if holder.is_none_or(str::is_empty) {
            if !self.leads(&node) {
                self.leases.remove(&node);
            }
            return false;
        }
        let time = spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
        let seconds = u64::try_from(seconds.unwrap_or_default()).unwrap_or_default();
        let term = Duration::from_secs(seconds).clamp(SHORTEST_TERM, LONGEST_TERM);
        let known = self.leases.get(&node);
        if known.is_some_and(|known| known.time == time) {
            return false;
        }
        // When one that is listed at first was renewed is not known.
        let is_renewal = known.is_some() || self.listed.is_none();
        let until = now + term;
        self.leases.insert(node.clone(), Renewal { time, term, until });
        let came_back = self.silent.remove(&node);
        let turned = self.late.remove(&node) || came_back;
        if let Some(part) = self.leading.get_mut(&node) {
            if part.grace.take().is_some() {
                self.vouched.insert(node.clone());
            }
            let proof = is_renewal
                .then(|| self.runs.renewed(&part.location, now))
                .flatten();
            if let Some(proof) = proof.filter(|_| !self.late.is_empty()) {
                self.next_end = Some(self.next_end.map_or(proof, |next| next.min(proof)));
            }
        }
        self.expect_end(&node);
        if turned {
            self.turned.insert(node);
        }
        came_back
    }

    fn remove(&mut self, node: &NodeName, now: Instant) {
        self.leases.remove(node);
        if let Some(part) = self.leading.get_mut(node).filter(|part| part.grace.is_none()) {
            part.grace = Some(now + GRACE);
            self.vouched.insert(node.clone());
        }
        self.expect_end(node);
    }

    /// The term of this node may end before all others.
    fn expect_end(&mut self, node: &NodeName) {
        if let Some(end) = self.leading.get(node).and_then(|part| self.end(node, part.grace)) {
            self.next_end = Some(self.next_end.map_or(end, |next| next.min(end)));
        }
    }

    fn end(&self, node: &NodeName, grace: Option<Instant>) -> Option<Instant> {
        let held = self.leases.get(node).map(|renewal| renewal.until);
        held.into_iter().chain(grace).max()
    }
}

fn node_of(lease: &Observed<Lease>) -> Option<NodeName> {
    let name = lease.metadata.name.as_deref()?;
    spanwire_crds::names::node_of_lease(name)
}

#[cfg(test)]
mod tests;
