//! Leases that the API server does not take: leaders stay, or pass their part on once.

use std::collections::{BTreeMap, BTreeSet};

use spanwire_crds::Location;

use crate::world::{self, Change, World};

const LEASE: &str = "LeaseRenewed";

/// A cluster in which time passes, and agents follow what is published.
struct Cluster {
    world: World,
    second: u64,
    /// The leaders of each location, and how often they have changed.
    leaders: BTreeMap<String, Vec<String>>,
    changes: usize,
    /// Since when each leader's Lease has been refused.
    failing: BTreeMap<String, u64>,
    /// Agents that say so.
    saying: BTreeSet<String>,
}

impl Cluster {
    /// With fresh Leases and all tunnels up.
    fn new(changes: &[Change]) -> Self {
        let world = World::of(&[world::cluster(), changes.to_vec()].concat());
        let mut cluster = Self {
            world,
            second: 0,
            leaders: BTreeMap::new(),
            changes: 0,
            failing: BTreeMap::new(),
            saying: BTreeSet::new(),
        };
        cluster.pass(100, &[]);
        cluster.changes = 0;
        cluster
    }

    /// So many seconds pass in which the Leases of these nodes are refused.
    fn pass(&mut self, seconds: u64, refused: &[&str]) {
        let is_refused = |node: &str| refused.contains(&node);
        for _ in 0..seconds {
            self.second += 1;
            if self.second.is_multiple_of(10) {
                self.world.renew_where(self.second, |node| !is_refused(node));
            } else {
                self.world.renew_where(self.second, |_| false);
            }
            self.world.settle();
            let leaders = self.world.leaders();
            for (location, nodes) in &leaders {
                // Where a role is about to pass, its leaders are more than seats for some seconds.
                let acting = nodes.iter().take(2).cloned().collect();
                self.changes += usize::from(
                    self.leaders.insert(location.clone(), acting)
                        != Some(nodes[..nodes.len().min(2)].to_vec()),
                );
            }
            let leads = |node: &str| leaders.values().flatten().any(|leader| leader == node);
            let failing: Vec<&&str> = refused.iter().filter(|node| leads(node)).collect();
            self.failing
                .retain(|node, _| failing.iter().any(|failing| **failing == node));
            for node in failing {
                let since = *self.failing.entry((*node).to_owned()).or_insert(self.second);
                if self.second >= since + 20 {
                    self.saying.insert((*node).to_owned());
                }
            }
            self.saying.retain(|node| is_refused(node));
            self.world.follow(&self.saying);
            self.world.settle();
        }
    }

    fn leaders(&self, location: &str) -> Vec<String> {
        self.world.leaders()[location].clone()
    }

    fn restart(&mut self) {
        self.world.restart();
        self.world.settle();
    }
}

fn all() -> Vec<String> {
    (1..=6).map(|number| format!("n{number}")).collect()
}

fn refs(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

fn location(name: &str, spec: &serde_json::Value) -> Change {
    let object = serde_json::json!({
        "apiVersion": "spanwire.dev/v1alpha1", "kind": "Location", "metadata": {"name": name}, "spec": spec,
    });
    let object: Location = serde_json::from_value(object).unwrap();
    Change::Location(Box::new(object))
}

#[test]
fn where_no_lease_can_be_renewed_no_leader_changes_and_a_condition_says_why() {
    let mut cluster = Cluster::new(&[]);
    let (before, all) = (cluster.world.leaders(), all());
    cluster.pass(600, &refs(&all));
    for name in ["left", "right"] {
        let (status, message) = cluster.world.condition(name, LEASE);
        assert_eq!(status, "False");
        for leader in &before[name] {
            let text = format!("the Lease of leader {leader} is not renewed: leases is forbidden");
            assert!(message.contains(&text), "{message}");
        }
        assert_eq!(cluster.world.condition(name, "Ready").0, "True");
    }
    for lifetime in [30, 130] {
        cluster.restart();
        cluster.pass(lifetime, &refs(&all));
    }
    assert!(cluster.world.find_condition("left", LEASE).is_some());
    cluster.pass(200, &[]);
    assert_eq!((cluster.changes, cluster.world.leaders()), (0, before));
    assert_eq!(cluster.world.find_condition("left", LEASE), None);
}

#[test]
fn where_leases_are_deleted_and_cannot_be_created_no_leader_changes() {
    let mut cluster = Cluster::new(&[]);
    let (before, all) = (cluster.world.leaders(), all());
    cluster.world.delete_leases();
    cluster.pass(300, &refs(&all));
    cluster.pass(100, &[]);
    assert_eq!((cluster.changes, cluster.world.leaders()), (0, before));
}

#[test]
fn without_leases_a_leader_is_replaced_when_its_kubelet_is_silent() {
    let mut cluster = Cluster::new(&[]);
    let (leaders, all) = (cluster.leaders("left"), all());
    cluster.pass(100, &refs(&all));
    cluster.world.apply(Change::Ready(leaders[0].clone(), false));
    cluster.pass(2, &refs(&all));
    assert_eq!(cluster.leaders("left")[0], leaders[1]);
    assert!(!cluster.leaders("left").contains(&leaders[0]));
}

#[test]
fn where_the_leases_of_one_location_are_refused_its_leaders_stay() {
    let mut cluster = Cluster::new(&[]);
    let before = cluster.world.leaders();
    cluster.pass(600, &["n1", "n2", "n3"]);
    cluster.restart();
    cluster.pass(300, &["n1", "n2", "n3"]);
    cluster.pass(200, &[]);
    assert_eq!((cluster.changes, cluster.world.leaders()), (0, before));
}

#[test]
fn where_the_leases_of_a_location_with_one_leader_are_refused_one_other_node_is_tried() {
    let mut cluster = Cluster::new(&[location("left", &serde_json::json!({"leaders": {"standby": 0}}))]);
    let first = cluster.leaders("left");
    cluster.pass(600, &["n1", "n2", "n3"]);
    let second = cluster.leaders("left");
    assert_eq!((first.len(), second.len(), cluster.changes), (1, 1, 1));
    assert_ne!(first, second);
    cluster.pass(200, &[]);
    assert_eq!((cluster.leaders("left"), cluster.changes), (second, 1));
}

#[test]
fn a_leader_whose_lease_alone_is_refused_is_replaced_once_also_where_it_is_preferred() {
    for preferred in [false, true] {
        let mut cluster = Cluster::new(&[]);
        let leaders = cluster.leaders("left");
        if preferred {
            let annotate = Change::Annotate(leaders[0].clone(), "spanwire.dev/leader", "true");
            cluster.world.apply(annotate);
        }
        cluster.pass(600, &[&leaders[0]]);
        let now = cluster.leaders("left");
        assert_eq!(
            (now.len(), &now[0], cluster.changes),
            (2, &leaders[1], 1),
            "{now:?}"
        );
        assert!(!now.contains(&leaders[0]), "{now:?}");
        let (_, message) = cluster.world.condition("left", LEASE);
        assert_eq!(
            message,
            format!("node {} could not renew one: leases is forbidden", leaders[0])
        );
        cluster.restart();
        cluster.pass(300, &[&leaders[0]]);
        assert_eq!((cluster.leaders("left"), cluster.changes), (now.clone(), 1));
        cluster.pass(100, &[]);
        assert_eq!(cluster.world.find_condition("left", LEASE), None);
        assert_eq!(
            cluster.leaders("left")[0] == leaders[0],
            preferred,
            "it leads again where a person wants it"
        );
    }
}

#[test]
fn where_the_leases_of_all_but_one_are_refused_that_one_leads_and_the_standby_changes_no_more() {
    let mut cluster = Cluster::new(&[]);
    let leaders = cluster.leaders("left");
    let refused = ["n1", "n2", "n3"].into_iter().filter(|node| *node != leaders[1]);
    let refused: Vec<&str> = refused.collect();
    cluster.pass(200, &refused);
    let (now, changes) = (cluster.leaders("left"), cluster.changes);
    assert_eq!(now[0], leaders[1]);
    assert!(now.len() == 2 && changes <= 2, "{now:?}");
    cluster.pass(600, &refused);
    assert_eq!((cluster.leaders("left"), cluster.changes), (now, changes));
}

#[test]
fn a_leader_whose_lease_is_refused_stands_by_where_there_is_no_other_node() {
    let mut cluster = Cluster::new(&[Change::Node("n3".to_owned(), None)]);
    let leaders = cluster.leaders("left");
    assert_eq!(leaders.len(), 2);
    cluster.pass(600, &[&leaders[0]]);
    let passed = vec![leaders[1].clone(), leaders[0].clone()];
    assert_eq!((cluster.leaders("left"), cluster.changes), (passed.clone(), 1));
    let (_, message) = cluster.world.condition("left", LEASE);
    assert!(message.contains("leads on while its node is Ready"), "{message}");
    cluster.restart();
    cluster.pass(100, &[&leaders[0]]);
    cluster.pass(100, &[]);
    assert_eq!((cluster.leaders("left"), cluster.changes), (passed, 1));
}

#[test]
fn a_node_that_leads_itself_goes_on_without_its_lease() {
    let mut cluster = Cluster::new(&[location("left", &serde_json::json!({"mesh": "Nodes"}))]);
    let before = cluster.leaders("left");
    assert_eq!(before.len(), 3);
    for second in 0..60 {
        cluster.pass(10, &["n1", "n2"]);
        assert_eq!(cluster.leaders("left").len(), 3, "after {second}0 seconds");
    }
    cluster.world.apply(Change::Ready("n1".to_owned(), false));
    cluster.pass(1, &["n1", "n2"]);
    assert_eq!(cluster.leaders("left").len(), 2);
}
