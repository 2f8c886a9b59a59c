//! Leaders that live, and through which nothing gets: others of their location are to lead instead.
//!
//! Agents decide in the data path by which leader they send, and do so at once; a leader that forwards nothing would be tried again
//! and again, and would have no other node to stand by for the one in use. So another becomes the leader when what agents report
//! lasts. One node's word is not enough, for it may be a lie: a node of the leader's own location gets nothing through it to some
//! other location, *and* a leader of that location does not use it.
//!
//! Who does not lead is not asked any more, so nothing shows that it forwards again: it rests for a while, longer each time.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;
use spanwire_crds::translate::Avoided;
use spanwire_topology::{LocationName, Mesh, NodeName};

use super::{Now, OperatorState};

/// For so long in all a leader has to be avoided before another is to lead; agents wait for some seconds before they report it.
const PATIENCE: Duration = Duration::from_secs(30);
/// Agents try such a leader again from time to time, which does not count. One that has not been avoided for so long is taken for one
/// that forwards again.
const GAP: Duration = Duration::from_secs(20);
/// For so long a leader that was replaced is not to lead, the first time.
const REST: Duration = Duration::from_secs(600);
/// So often the rest is doubled at most.
const DOUBLINGS: u32 = 4;
/// After so long without being replaced again, the next time is the first.
const FORGOTTEN: Duration = Duration::from_secs(4 * 3600);

/// Who gets nothing through a leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Witnesses {
    /// A node of its own location.
    near: NodeName,
    /// A leader of another one.
    far: NodeName,
    /// That location.
    towards: LocationName,
}

/// The leaders that are avoided, or were replaced for that.
#[derive(Debug, Default)]
pub(super) struct Avoidance {
    /// Nodes whose agents name leaders that they do not use.
    reporters: BTreeSet<NodeName>,
    /// Those that are avoided, or were until just now, and are not resting.
    blamed: BTreeMap<NodeName, Blame>,
    /// Those that were replaced, until that is forgotten.
    replaced: BTreeMap<NodeName, Rest>,
}

#[derive(Debug)]
struct Blame {
    by: Witnesses,
    standing: Standing,
}

#[derive(Clone, Copy, Debug)]
enum Standing {
    /// The leader is avoided: when another is to lead, if it goes on.
    Avoided { due: Instant },
    /// Just now it is not: when that was long enough to forget it, and for how long it would have to be avoided else.
    Tried { ends: Instant, left: Duration },
}

impl Blame {
    fn begun(by: Witnesses, now: Instant) -> Self {
        let standing = Standing::Avoided { due: now + PATIENCE };
        Self { by, standing }
    }

    /// When something follows from it.
    fn until(&self) -> Instant {
        match self.standing {
            Standing::Avoided { due } => due,
            Standing::Tried { ends, .. } => ends,
        }
    }

    fn is_avoided(&self) -> bool {
        matches!(self.standing, Standing::Avoided { .. })
    }

    fn handle_tried(&mut self, now: Instant) {
        if let Standing::Avoided { due } = self.standing {
            self.standing = Standing::Tried {
                ends: now + GAP,
                left: due.saturating_duration_since(now),
            };
        }
    }

    fn handle_avoided(&mut self, by: Witnesses, now: Instant) {
        self.by = by;
        if let Standing::Tried { left, .. } = self.standing {
            self.standing = Standing::Avoided { due: now + left };
        }
    }
}

#[derive(Debug)]
struct Rest {
    until: Instant,
    /// The same on the wall, once it was decided upon.
    wall: Option<Timestamp>,
    is_over: bool,
    because: Witnesses,
    /// How often it was replaced before.
    before: u32,
}

impl Avoidance {
    /// Takes whether a node names leaders that it does not use.
    pub(super) fn handle_report(&mut self, node: &NodeName, names_any: bool) {
        if names_any {
            self.reporters.insert(node.clone());
        } else {
            self.reporters.remove(node);
        }
    }

    /// Forgets the machine that had this name.
    pub(super) fn forget(&mut self, node: &NodeName) {
        self.blamed.remove(node);
        self.replaced.remove(node);
    }

    /// Takes who is avoided now.
    fn handle_blamed(&mut self, blamed: BTreeMap<NodeName, Witnesses>, now: Instant) {
        for (leader, blame) in &mut self.blamed {
            if !blamed.contains_key(leader) {
                blame.handle_tried(now);
            }
        }
        for (leader, by) in blamed {
            if self.rests(&leader) {
                continue;
            }
            match self.blamed.entry(leader) {
                Entry::Occupied(mut known) => known.get_mut().handle_avoided(by, now),
                Entry::Vacant(new) => {
                    new.insert(Blame::begun(by, now));
                }
            }
        }
    }

    /// Takes the present time. Returns the leaders that rest from now on, or whose rest is over.
    fn handle_timeout(&mut self, now: Instant) -> Vec<NodeName> {
        let mut turned = Vec::new();
        self.replaced.retain(|_, rest| now < rest.until + FORGOTTEN);
        for (leader, rest) in &mut self.replaced {
            if !rest.is_over && rest.until <= now {
                rest.is_over = true;
                turned.push(leader.clone());
            }
        }
        self.blamed
            .retain(|_, blame| blame.is_avoided() || now < blame.until());
        for (leader, Blame { by: because, .. }) in self.blamed.extract_if(.., |_, blame| blame.until() <= now)
        {
            let known = self.replaced.get(&leader);
            let before = known.map_or(0, |rest| (rest.before + 1).min(DOUBLINGS));
            turned.push(leader.clone());
            let rest = Rest {
                until: now + REST * 2_u32.pow(before),
                wall: None,
                is_over: false,
                because,
                before,
            };
            self.replaced.insert(leader, rest);
        }
        turned
    }

    /// Returns when to call [`Self::handle_timeout`].
    fn poll_timeout(&self) -> Option<Instant> {
        let blamed = self.blamed.values().map(Blame::until);
        let replaced = self.replaced.values().map(|rest| {
            let forgotten = rest.until + FORGOTTEN;
            if rest.is_over { forgotten } else { rest.until }
        });
        blamed.chain(replaced).min()
    }

    /// Returns whether a leader was replaced, and is not to lead yet.
    pub(super) fn rests(&self, node: &NodeName) -> bool {
        self.replaced.get(node).is_some_and(|rest| !rest.is_over)
    }
}

impl OperatorState {
    /// Whether others on both sides of a leader get nothing through it.
    pub(super) fn is_blamed(&self, leader: &NodeName) -> bool {
        let blame = self.avoidance.blamed.get(leader);
        blame.is_some_and(Blame::is_avoided)
    }

    /// Follows up on what agents report of leaders, upon which is about to be decided.
    pub(super) fn hear_witnesses(&mut self, mesh: &Mesh, now: Now) {
        let blamed = self.blamed(mesh);
        self.avoidance.handle_blamed(blamed, now.monotonic);
        for rest in self.avoidance.replaced.values_mut().filter(|rest| !rest.is_over) {
            let left = rest.until.saturating_duration_since(now.monotonic);
            rest.wall.get_or_insert(now.wall + left);
        }
    }

    /// Takes the present time.
    pub(super) fn notice_avoided(&mut self, now: Instant) {
        let turned = self.avoidance.handle_timeout(now);
        self.dirty |= !turned.is_empty();
        self.stale.extend(turned);
    }

    /// Returns when to call [`Self::notice_avoided`].
    pub(super) fn poll_avoided(&self) -> Option<Instant> {
        self.avoidance.poll_timeout()
    }

    /// The leaders through which nothing gets to some location, as a node of their own and a leader of that one say.
    fn blamed(&self, mesh: &Mesh) -> BTreeMap<NodeName, Witnesses> {
        let leads = |name: &LocationName, node: &NodeName| {
            let location = mesh.locations.get(name);
            location.is_some_and(|location| location.role(node).is_some())
        };
        let mut far = BTreeMap::new();
        for (node, home, avoided) in self.avoided() {
            if avoided.towards.is_none() && leads(home, node) {
                far.entry((&avoided.location, &avoided.leader, home))
                    .or_insert(node);
            }
        }
        let mut blamed = BTreeMap::new();
        for (
            near,
            home,
            Avoided {
                location,
                leader,
                towards,
            },
        ) in self.avoided()
        {
            let Some(towards) = towards.as_ref().filter(|_| location == home && near != leader) else {
                continue;
            };
            let far = far.get(&(home, leader, towards)).filter(|_| leads(home, leader));
            if let Some(far) = far {
                blamed.entry(leader.clone()).or_insert_with(|| Witnesses {
                    near: near.clone(),
                    far: (*far).clone(),
                    towards: towards.clone(),
                });
            }
        }
        blamed
    }

    /// What nodes that are alive report, each with its location: the leaders that they do not use.
    fn avoided(&self) -> impl Iterator<Item = (&NodeName, &LocationName, &Avoided)> {
        let reporters = self.avoidance.reporters.iter();
        let alive = reporters.filter(|node| self.is_alive(node));
        let at_home = alive.filter_map(|node| Some((node, self.assignments.home(node)?)));
        at_home.flat_map(|(node, home)| {
            let record = self.mesh_nodes.get(node).into_iter();
            let avoided = record.flat_map(|record| &record.report.avoided);
            avoided.map(move |avoided| (node, home, avoided))
        })
    }

    /// The same by location.
    pub(super) fn avoided_by_location(&self) -> BTreeMap<&LocationName, Vec<(&NodeName, &Avoided)>> {
        let mut of_locations: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (node, home, avoided) in self.avoided() {
            of_locations.entry(home).or_default().push((node, avoided));
        }
        of_locations
    }

    /// Whether a node reports that it does not use a leader.
    pub(super) fn avoids(&self, node: &NodeName, location: &LocationName, leader: &NodeName) -> bool {
        let record = self.mesh_nodes.get(node).filter(|_| self.is_alive(node));
        let mut avoided = record.into_iter().flat_map(|record| &record.report.avoided);
        avoided.any(|one| one.location == *location && one.leader == *leader)
    }

    /// What is said of the nodes of a location that were replaced and are not to lead yet.
    pub(super) fn resting(&self, members: impl Fn(&NodeName) -> bool) -> Vec<String> {
        let replaced = self.avoidance.replaced.iter();
        let resting = replaced.filter(|(node, rest)| !rest.is_over && members(node));
        let text = resting.filter_map(|(node, rest)| {
            let Witnesses { near, far, towards } = &rest.because;
            Some(format!(
                "{node} is not to lead until {:.0} if another can, for {near} and {far} of {towards} got nothing through \
                 it: does a firewall or an uplink of it drop what it forwards?",
                rest.wall?
            ))
        });
        text.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn name<T: std::str::FromStr<Err: std::fmt::Debug>>(text: &str) -> T {
        text.parse().unwrap()
    }

    fn blamed() -> BTreeMap<NodeName, Witnesses> {
        let witnesses = Witnesses {
            near: name("a3"),
            far: name("b1"),
            towards: name("b"),
        };
        [(name("a1"), witnesses)].into()
    }

    #[test]
    fn who_is_avoided_for_long_rests_and_longer_each_time() {
        let (mut avoidance, mut now) = (Avoidance::default(), Instant::now());
        let a1: NodeName = name("a1");
        for minutes in [10, 20, 40, 80, 160, 160] {
            avoidance.handle_blamed(blamed(), now);
            assert_eq!(
                avoidance.handle_timeout(now + PATIENCE - SECOND),
                [""; 0].map(name)
            );
            avoidance.handle_blamed(blamed(), now + SECOND);
            let due = avoidance.poll_timeout().unwrap();
            assert_eq!(due, now + PATIENCE, "it is blamed since the first time");
            assert_eq!(avoidance.handle_timeout(due), std::slice::from_ref(&a1));
            assert!(avoidance.rests(&a1));
            avoidance.handle_blamed(blamed(), due + SECOND);
            let over = avoidance.poll_timeout().unwrap();
            assert_eq!(over, due + minutes * 60 * SECOND);
            assert!(avoidance.handle_timeout(over - SECOND).is_empty());
            assert_eq!(avoidance.handle_timeout(over), std::slice::from_ref(&a1));
            assert!(!avoidance.rests(&a1));
            now = over + SECOND;
        }
        avoidance.handle_blamed(blamed(), now);
        avoidance.handle_timeout(now + PATIENCE);
        let mut renewed = std::mem::take(&mut avoidance);
        renewed.forget(&a1);
        assert!(!renewed.rests(&a1) && renewed.poll_timeout().is_none());
        avoidance.handle_blamed(blamed(), now);
        avoidance.handle_timeout(now + PATIENCE);
        avoidance.handle_timeout(now + PATIENCE + REST);
        let forgotten = avoidance.poll_timeout().unwrap();
        avoidance.handle_timeout(forgotten);
        assert_eq!(avoidance.poll_timeout(), None);
        avoidance.handle_blamed(blamed(), forgotten);
        avoidance.handle_timeout(forgotten + PATIENCE);
        assert_eq!(
            avoidance.poll_timeout(),
            Some(forgotten + PATIENCE + REST),
            "as the first time"
        );
    }

    #[test]
    fn who_is_avoided_for_a_moment_goes_on_and_who_is_tried_in_between_does_not() {
        let a1: NodeName = name("a1");
        let (mut avoidance, now) = (Avoidance::default(), Instant::now());
        avoidance.handle_blamed(blamed(), now);
        avoidance.handle_blamed(BTreeMap::new(), now + 20 * SECOND);
        assert_eq!(avoidance.poll_timeout(), Some(now + 20 * SECOND + GAP));
        assert!(
            avoidance.handle_timeout(now + PATIENCE).is_empty(),
            "not just now"
        );
        let again = now + PATIENCE + SECOND;
        avoidance.handle_blamed(blamed(), again);
        assert!(avoidance.handle_timeout(again).is_empty());
        let due = avoidance.poll_timeout().unwrap();
        assert_eq!(due, again + 10 * SECOND, "it was avoided for twenty seconds");
        assert_eq!(avoidance.handle_timeout(due), [a1]);

        let mut avoidance = Avoidance::default();
        avoidance.handle_blamed(blamed(), now);
        avoidance.handle_blamed(BTreeMap::new(), now + 2 * SECOND);
        avoidance.handle_timeout(now + 2 * SECOND + GAP);
        assert_eq!(avoidance.poll_timeout(), None);
        avoidance.handle_blamed(blamed(), now + PATIENCE);
        assert!(avoidance.handle_timeout(now + PATIENCE + SECOND).is_empty());
        assert!(!avoidance.rests(&name("a1")));
    }
}
