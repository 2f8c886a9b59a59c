//! The facts that decisions are made upon, kept in place: what changes is entered, nothing is copied for a decision.

use std::{collections::BTreeMap, time::Instant};

use spanwire_crds::translate::Report;
use spanwire_topology::{Leader, Location, LocationName, Mesh, NodeFact, NodeName};

use super::{
    OperatorState,
    records::{MeshNodeRecord, NodeRecord},
};

impl OperatorState {
    /// Enters what a Node says, and returns whether it says something else than before. What cannot be read stays as it
    /// was; so do its agent's part, and whether it is alive, until the next decision enters them.
    pub(super) fn enter_fact(&mut self, name: NodeName, mut fact: NodeFact) -> bool {
        let Some(known) = self.facts.nodes.get_mut(&name) else {
            self.stale.insert(name.clone());
            self.facts.nodes.insert(name, fact);
            return true;
        };
        fact.public_key = known.public_key;
        fact.alive = known.alive;
        fact.doubtful = known.doubtful;
        fact.hop.clone_from(&known.hop);
        fact.carried = known.carried;
        fact.mtu = known.mtu;
        fact.links.clone_from(&known.links);
        fact.released = known.released;
        fact.former.clone_from(&known.former);
        fact.keep(known);
        if self.former.handle(&name, known, &fact) {
            self.stale.insert(name.clone());
        }
        let changed = fact != *known;
        if changed {
            self.urgent |= asks(&fact) != asks(known);
            *known = fact;
        }
        changed
    }

    /// Follows up on a Node that came, changed in more than its fact, or went.
    pub(super) fn note_node(&mut self, name: NodeName, before: Option<&NodeRecord>) {
        let now = self.nodes.get(&name);
        if now.is_none() {
            self.facts.nodes.remove(&name);
            self.former.forget(&name);
            // Another machine may get its name.
            self.liveness.forget(&name);
            self.avoidance.forget(&name);
            self.urgent |= self.liveness.leads(&name);
        }
        let machine = |record: &NodeRecord| (record.uid.clone(), record.boot.clone());
        if now.map(machine) != before.map(machine) {
            self.assignments.unsettle(name.clone());
        }
        self.note_faults(&name);
        self.note_address_of_cni(&name);
        self.stale.insert(name);
    }

    /// Follows up on nodes that have come to seem alive, or not to.
    pub(super) fn note_turned(&mut self) {
        let turned = self.liveness.take_turned();
        self.dirty |= !turned.is_empty();
        self.urgent |= !turned.is_empty();
        self.stale.extend(turned);
        for node in self.liveness.take_vouched() {
            // Of a node whose kubelet speaks for it, too, nothing changes.
            if self.nodes.get(&node).is_some_and(|record| !record.ready) {
                self.dirty = true;
                self.urgent = true;
                self.stale.insert(node);
            }
        }
    }

    /// Follows up on a MeshNode that came, changed or went.
    pub(super) fn note_mesh_node(&mut self, name: NodeName, before: Option<&MeshNodeRecord>) {
        let existed = before.is_some();
        let none = MeshNodeRecord::default();
        let now = self.mesh_nodes.get(&name).unwrap_or(&none);
        if let Some(unretire) = self.unretire.as_mut().filter(|_| !now.retires()) {
            unretire.remove(&name);
        }
        let before = before.unwrap_or(&none);
        let reported = (&now.report, &now.problems) != (&before.report, &before.problems);
        // What its agent writes is a sign of life, what the operator writes is none.
        let heard = (reported || now.seen != before.seen) && self.liveness.heard(&name);
        let counted = before.leads() && !self.appointed.contains_key(&name);
        let unseen = now
            .revision
            .generation
            .filter(|spec| now.seen.is_some_and(|seen| seen < *spec));
        match unseen.filter(|_| now.leads()) {
            Some(generation) if existed && !before.leads() => {
                self.appointed.insert(name.clone(), generation);
            }
            Some(_) if self.appointed.get(&name) > now.seen.as_ref() => {}
            Some(_) | None => drop(self.appointed.remove(&name)),
        }
        let counts = now.leads() && !self.appointed.contains_key(&name);
        let speaks = counts != counted && !now.report.links.is_empty();
        let begins = before.seen.is_none() && now.seen.is_some();
        if before.is_behind() != now.is_behind() {
            self.mute.recheck(name.clone());
        }
        if heard || ((reported || speaks || begins) && self.facts.nodes.contains_key(&name)) {
            self.stale.insert(name.clone());
            self.dirty = true;
        }
        let accepted = now.accepted.as_ref();
        // Another client wrote it, or it was written as decided.
        self.dirty |= self.answers.get(&name) != accepted;
        let is_answered = accepted.is_some();
        self.note_faults(&name);
        let report = self.mesh_nodes.get(&name).map(|record| &record.report);
        let degraded = report.is_some_and(|report| report.degraded.is_some());
        let unanswered = report.is_some_and(|report| !report.silent.is_empty());
        let refused = report.is_some_and(|report| report.lease_refused.is_some());
        let avoids = report.is_some_and(|report| !report.avoided.is_empty());
        self.avoidance.handle_report(&name, avoids);
        for (names, is_one) in [
            (&mut self.degraded, degraded),
            (&mut self.unanswered, unanswered),
            (&mut self.refused, refused),
            (&mut self.answered, is_answered),
        ] {
            if is_one {
                names.insert(name.clone());
            } else {
                names.remove(&name);
            }
        }
        if self.mesh_node_write(&name).is_some() {
            self.dirty = true;
        }
        self.assignments.unsettle(name);
    }

    fn note_faults(&mut self, name: &NodeName) {
        let of_node = self
            .nodes
            .get(name)
            .is_some_and(|record| !record.problems.is_empty());
        let of_report = self
            .mesh_nodes
            .get(name)
            .is_some_and(|record| !record.problems.is_empty());
        if of_node || of_report {
            self.faulty.insert(name.clone());
        } else {
            self.faulty.remove(name);
        }
    }

    /// What was published was changed by another writer, so what is taken from it where there is no report is taken again.
    pub(super) fn suspect_reports(&mut self) {
        let unreported = |name: &&NodeName| self.report(name).is_none();
        let names = self.facts.nodes.keys().filter(unreported).cloned();
        let names: Vec<NodeName> = names.collect();
        self.stale.extend(names);
    }

    /// Enters the agent's part of the facts, and whether the nodes are alive, where that may have changed.
    pub(super) fn refresh(&mut self, previous: &Mesh, now: Instant) {
        for name in std::mem::take(&mut self.stale) {
            self.listen_to(&name, now);
            self.enter_former(&name, now);
            let record = self.nodes.get(&name);
            let lingers = self.liveness.lingers(&name);
            let alive = record
                .is_some_and(|record| (lingers && record.ready) || self.liveness.alive(&name, record.ready));
            let refused = self.refused.contains(&name) && !self.liveness.leads(&name);
            let doubtful = lingers || refused || self.avoidance.rests(&name);
            let counts = self.counts(&name);
            let published = self.report(&name).is_none().then(|| published(&name, previous));
            let Some(fact) = self.facts.nodes.get_mut(&name) else {
                continue;
            };
            match published {
                Some(report) => report.complete(fact),
                None => {
                    if let Some(record) = self.mesh_nodes.get(&name) {
                        record.report.complete(fact);
                    }
                }
            }
            if !counts {
                fact.links.clear();
            }
            fact.alive = alive;
            fact.doubtful = doubtful;
        }
    }

    /// Takes over the leaders of a decision.
    pub(super) fn appoint(&mut self, mesh: &Mesh, now: Instant) {
        self.liveness.lead(&leaders(mesh), &self.refused, now);
        // Whether a refused Lease counts depends on whether the node leads.
        self.stale.extend(self.refused.iter().cloned());
    }

    /// Takes over the leaders that an operator before this one has published. One whose Lease is refused, while those of others in its
    /// location are not, was silent for that one already.
    pub(super) fn succeed(&mut self, previous: &Mesh, now: Instant) {
        let is_one = |leader: &Leader| self.refused.contains(&leader.node);
        let locations = previous.locations.values();
        let refused = locations.filter(|location| !location.leaders.iter().all(is_one));
        let refused = refused.flat_map(|location| location.leaders.iter().filter(|leader| is_one(leader)));
        let refused = refused.map(|leader| leader.node.clone()).collect();
        self.liveness.lead(&leaders(previous), &refused, now);
    }

    /// Whether what an agent reports of its links is of the part that its node has now. A report that is left from an earlier
    /// time, of an agent that is gone, would have the role move to where there is no tunnel.
    fn counts(&self, name: &NodeName) -> bool {
        let leads = self.mesh_nodes.get(name).is_some_and(MeshNodeRecord::leads);
        leads && !self.appointed.contains_key(name)
    }

    /// What the agent of a node reports, where it does. One that follows its MeshNode and names no key has none, as where its disk is full
    /// or its key is damaged, so its node has no tunnel and cannot lead.
    fn report(&self, name: &NodeName) -> Option<&Report> {
        let record = self.mesh_nodes.get(name);
        let reports = |record: &&MeshNodeRecord| {
            record.seen.is_some() || record.report.retired || record.report.public_key.is_some()
        };
        record.filter(reports).map(|record| &record.report)
    }
}

/// Returns who leads, and which location.
fn leaders(mesh: &Mesh) -> BTreeMap<NodeName, LocationName> {
    let of_location = |(name, location): (&LocationName, &Location)| {
        let nodes = location.leaders.iter().map(|leader| leader.node.clone());
        nodes.map(|node| (node, name.clone())).collect::<Vec<_>>()
    };
    mesh.locations.iter().flat_map(of_location).collect()
}

/// What people ask of a node. Its region comes with the node, from who made it.
fn asks(fact: &NodeFact) -> impl PartialEq {
    (
        &fact.location,
        &fact.leader,
        &fact.endpoints,
        &fact.cidrs,
        &fact.keepalive,
        &fact.listen_port,
        &fact.cordoned,
    )
}

/// What an agent reported last, as far as it was published; for a node whose MeshNode, or whose report, has been deleted.
fn published(node: &NodeName, previous: &Mesh) -> Report {
    let known = previous
        .locations
        .values()
        .filter_map(|location| location.members.get(node))
        .max_by_key(|member| member.generation);
    known.map_or_else(Report::default, |member| Report {
        public_key: member.public_key,
        hop: member.hop.clone(),
        mtu: member.mtu,
        ..Report::default()
    })
}
