//! From a decision to LocationSlices: those of locations that changed, added before removed.

use std::collections::{BTreeMap, BTreeSet};

use spanwire_crds::{LocationSliceSpec, Role, SliceLeader, publication};
use spanwire_topology::{Leader, Location, LocationName, Mesh, NodeName};

use super::{OperatorState, records::SliceRecord};
use crate::batch::Write;

/// What is known of the published LocationSlices beside their content.
#[derive(Debug, Default)]
pub(super) struct Publication {
    /// The slices of each location, by the name that they give of it.
    slices: BTreeMap<String, BTreeSet<String>>,
    /// The slices in which each member sits.
    seats: BTreeMap<String, BTreeSet<String>>,
    /// The locations whose slices are as they are to be, as they were decided then.
    clean: BTreeMap<LocationName, Location>,
    /// What the last decision writes: the slices as they will be, `None` for those that go.
    expected: BTreeMap<String, Option<LocationSliceSpec>>,
    /// The last decision waits for members to arrive before it goes on.
    held_back: bool,
}

impl Publication {
    /// Whether the last decision waits for a part of it to be written.
    pub(super) const fn held_back(&self) -> bool {
        self.held_back
    }

    /// Follows a change of a slice; returns whether it is what the last decision writes.
    pub(super) fn handle_slice(
        &mut self,
        name: &str,
        before: Option<&LocationSliceSpec>,
        now: Option<&LocationSliceSpec>,
    ) -> bool {
        for spec in before.into_iter().chain(now) {
            self.clean
                .retain(|location, _| location.as_str() != spec.location);
        }
        if let Some(spec) = before {
            remove(&mut self.slices, &spec.location, name);
            for member in &spec.members {
                remove(&mut self.seats, &member.node, name);
            }
        }
        if let Some(spec) = now {
            insert(&mut self.slices, &spec.location, name);
            for member in &spec.members {
                insert(&mut self.seats, &member.node, name);
            }
        }
        self.expected
            .get(name)
            .is_some_and(|expected| expected.as_ref() == now)
    }
}

fn insert(map: &mut BTreeMap<String, BTreeSet<String>>, key: &str, slice: &str) {
    match map.get_mut(key) {
        Some(slices) => {
            slices.insert(slice.to_owned());
        }
        None => {
            map.insert(key.to_owned(), [slice.to_owned()].into());
        }
    }
}

fn remove(map: &mut BTreeMap<String, BTreeSet<String>>, key: &str, slice: &str) {
    if let Some(slices) = map.get_mut(key) {
        slices.remove(slice);
        if slices.is_empty() {
            map.remove(key);
        }
    }
}

/// Writes of slices, in the order in which they have to be done.
#[derive(Debug, Default)]
pub(super) struct SliceWrites {
    /// Heads that name other leaders, and need no other write before them: these are waited for.
    pub(super) appointed: Vec<Write>,
    /// Heads that name a leader that is on its way from one location to another, or that establish.
    pub(super) announced: Vec<Write>,
    pub(super) members: Vec<Write>,
    pub(super) heads: Vec<Write>,
    pub(super) removed: Vec<Write>,
}

impl OperatorState {
    /// Takes what was established from the Locations, too: LocationSlices can be deleted by mistake. Where no head at all is left, a location
    /// that had only that is named by those that were established with it.
    pub(super) fn restore_established(&self, mesh: &mut Mesh) {
        let slices = self.slices.objects();
        let is_headless = !slices.values().any(|record| record.spec.head.is_some());
        let mut restore = |name: &LocationName, other: &LocationName| {
            let location = mesh.locations.entry(name.clone()).or_default();
            location.established.insert(other.clone());
        };
        for (name, record) in self.locations.objects() {
            let established = record.status.iter().flat_map(|status| &status.established);
            for other in established.filter_map(|other| other.parse().ok()) {
                restore(name, &other);
                if is_headless {
                    restore(&other, name);
                }
            }
        }
    }

    /// The writes of the slices that are not as they are to be. Only locations are rendered that were decided otherwise
    /// than when their slices were found to be right, or whose slices changed since.
    pub(super) fn slice_writes(&mut self, mesh: &Mesh) -> SliceWrites {
        let wanted = self.wanted(mesh);
        let all = || wanted.iter().flat_map(|(_, slices)| slices);
        let moving = self.moving(all());
        let mut writes = SliceWrites::default();
        let mut expected = BTreeMap::new();
        let still = |record: &SliceRecord| {
            let mut members = record.spec.members.iter();
            members.any(|member| moving.contains(&member.node))
        };
        let names: BTreeSet<&String> = all().map(|(name, _)| name).collect();
        let rendered: BTreeSet<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
        let orphan = |location: &str| !mesh.locations.keys().any(|name| name.as_str() == location);
        let mut clean = Vec::new();
        for (location, slices) in &self.publication.slices {
            if !rendered.contains(location.as_str()) && !orphan(location) {
                continue;
            }
            for name in slices.iter().filter(|name| !names.contains(name)) {
                if let Some(record) = self.slices.get(name)
                    && !still(record)
                {
                    expected.insert(name.clone(), None);
                    writes
                        .removed
                        .push(Write::DeleteSlice(record.revision.target(name)));
                }
            }
        }
        for (location, slices) in &wanted {
            let group = self.publication.slices.get(location.as_str());
            let surplus = group.is_some_and(|group| group.iter().any(|name| !slices.contains_key(name)));
            let mut right = !surplus;
            let stay = |(name, spec): (&String, &LocationSliceSpec)| {
                spec.head.is_some() || self.slices.get(name).is_some_and(|record| record.spec == *spec)
            };
            let members_stay = moving.is_empty() && slices.iter().all(stay);
            for (name, spec) in slices {
                let record = self.slices.get(name);
                let own = record.is_some_and(|record| self.owns(record));
                if own && record.is_some_and(|record| record.spec == *spec) {
                    continue;
                }
                right = false;
                let mut spec = spec.clone();
                if let Some(record) = record {
                    keep(&mut spec, record, &moving);
                }
                if own && record.is_some_and(|record| record.spec == spec) {
                    continue;
                }
                expected.insert(name.clone(), Some(spec.clone()));
                let appoints = members_stay && self.appoints(&spec, record);
                let establishes = self.establishes(&spec, record);
                let write = Write::Slice {
                    version: record.map(|record| record.revision.version()),
                    name: name.clone(),
                    spec,
                };
                if appoints {
                    writes.appointed.push(write);
                } else {
                    writes.push(&moving, establishes, write);
                }
            }
            if right {
                clean.push(location);
            }
        }
        for name in clean {
            if let Some(location) = mesh.locations.get(name) {
                self.publication.clean.insert(name.clone(), location.clone());
            }
        }
        self.publication
            .clean
            .retain(|name, _| mesh.locations.contains_key(name));
        self.publication.expected = expected;
        self.publication.held_back = !moving.is_empty();
        writes
    }

    /// Whether the published leaders of the location of a node are those of the last decision.
    pub(super) fn leaders_are_published(&self, node: &NodeName) -> bool {
        let decided = || {
            let name = self.assignments.home(node)?;
            let leaders = &self.published.as_ref()?.locations.get(name)?.leaders;
            let slices = self.publication.slices.get(name.as_str())?;
            let mut heads = slices
                .iter()
                .filter_map(|slice| self.slices.get(slice)?.spec.head.as_ref());
            let published = &heads.next()?.leaders;
            let same = |(one, other): (&SliceLeader, &Leader)| {
                one.node == other.node.as_str() && one.role == Role::from(other.role)
            };
            Some(published.len() == leaders.len() && published.iter().zip(leaders).all(same))
        };
        decided().unwrap_or_default()
    }

    /// Whether a slice names the installation that published it, where it is to, and that is this one.
    fn owns(&self, record: &SliceRecord) -> bool {
        let is_head = record.spec.head.is_some();
        !is_head || self.installation.is_none() || record.installation == self.installation
    }

    /// The slices of every location that may not be published as decided.
    fn wanted(&self, mesh: &Mesh) -> Vec<(LocationName, BTreeMap<String, LocationSliceSpec>)> {
        let unclean = |(name, location): &(&LocationName, &Location)| {
            self.publication.clean.get(*name) != Some(*location)
        };
        let render = |(name, location): (&LocationName, &Location)| {
            let group = self.publication.slices.get(name.as_str()).into_iter().flatten();
            let published = group.filter_map(|slice| Some((slice.as_str(), &self.slices.get(slice)?.spec)));
            let slices = publication::location_slices(name, location, mesh.generation, published);
            (name.clone(), slices)
        };
        mesh.locations.iter().filter(unclean).map(render).collect()
    }

    /// Whether a head establishes a pair and can be published before the members: that the tunnel is the only way to a
    /// location is to be known before there is any of its nodes. Its leaders have to be members already, for agents can use a
    /// member without a leader and not the other way round.
    fn establishes(&self, spec: &LocationSliceSpec, record: Option<&SliceRecord>) -> bool {
        let Some(head) = &spec.head else {
            return false;
        };
        let published = record.and_then(|record| record.spec.head.as_ref());
        let known = |name: &String| published.is_some_and(|head| head.established.contains(name));
        !head.established.iter().all(known) && self.seats(&head.leaders)
    }

    /// Whether a head names other leaders than the published one. Where the members of the location stay as they are, it
    /// needs to wait for no other write: what follows it is of other locations.
    fn appoints(&self, spec: &LocationSliceSpec, record: Option<&SliceRecord>) -> bool {
        let published = record.and_then(|record| record.spec.head.as_ref());
        let heads = spec.head.as_ref().zip(published);
        heads.is_some_and(|(head, published)| head.leaders != published.leaders && self.seats(&head.leaders))
    }

    /// Whether these are published as members.
    fn seats(&self, leaders: &[SliceLeader]) -> bool {
        let mut leaders = leaders.iter();
        leaders.all(|leader| self.publication.seats.contains_key(&leader.node))
    }

    /// The members that are to sit in a slice that does not have them yet, and sit in another one.
    fn moving<'a>(
        &self,
        wanted: impl Iterator<Item = (&'a String, &'a LocationSliceSpec)>,
    ) -> BTreeSet<String> {
        let mut moving = BTreeSet::new();
        for (name, spec) in wanted {
            for member in &spec.members {
                let seats = self.publication.seats.get(&member.node);
                if seats.is_some_and(|slices| !slices.contains(name)) {
                    moving.insert(member.node.clone());
                }
            }
        }
        moving
    }
}

impl SliceWrites {
    fn push(&mut self, moving: &BTreeSet<String>, early: bool, write: Write) {
        let Write::Slice { spec, .. } = &write else {
            return;
        };
        let phase = match &spec.head {
            Some(head) if early || head.leaders.iter().any(|leader| moving.contains(&leader.node)) => {
                &mut self.announced
            }
            Some(_) => &mut self.heads,
            None => &mut self.members,
        };
        phase.push(write);
    }
}

/// Keeps members that have not arrived in their new slice, as members and, if they are, as leaders.
fn keep(spec: &mut LocationSliceSpec, record: &SliceRecord, moving: &BTreeSet<String>) {
    if let (Some(head), Some(published)) = (&mut spec.head, &record.spec.head) {
        for leader in &published.leaders {
            let here = head.leaders.iter().any(|wanted| wanted.node == leader.node);
            if moving.contains(&leader.node) && !here {
                head.leaders.push(SliceLeader {
                    node: leader.node.clone(),
                    role: Role::Standby,
                });
            }
        }
    }
    for member in &record.spec.members {
        let here = spec.members.iter().any(|wanted| wanted.node == member.node);
        if moving.contains(&member.node) && !here {
            spec.members.push(member.clone());
        }
    }
    spec.members.sort_by(|a, b| a.node.cmp(&b.node));
}
