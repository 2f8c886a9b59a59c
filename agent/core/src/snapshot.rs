//! The published objects of the mesh at one time.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::jiff::Timestamp;
use spanwire_crds::{LocationSlice, MeshNode, Peer};
use spanwire_topology::NodeName;

/// The published objects, complete as far as their source is.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The published decision, by the name of each part.
    pub slices: BTreeMap<String, Arc<LocationSlice>>,
    /// The Peers by name.
    pub peers: BTreeMap<String, Arc<Peer>>,
    /// This node's own object.
    pub node: Option<Arc<MeshNode>>,
}

/// Objects that two snapshots share are not compared.
impl PartialEq for Snapshot {
    fn eq(&self, other: &Self) -> bool {
        same_objects(&self.slices, &other.slices)
            && same_objects(&self.peers, &other.peers)
            && match (&self.node, &other.node) {
                (Some(node), Some(other)) => same(node, other),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            }
    }
}

impl Snapshot {
    /// Returns whether the published decision has the node.
    #[must_use]
    pub fn knows(&self, node: &NodeName) -> bool {
        let mut members = self.slices.values().flat_map(|slice| &slice.spec.members);
        members.any(|member| member.node == node.as_str())
    }

    /// Returns the decision to follow, and whether it is still the one before.
    ///
    /// A node is cleared when it is retired, or when it is gone from the decision *and* its MeshNode is: then its Node
    /// was removed from the cluster. No decision at all, or one without a node whose MeshNode gives it a location, is
    /// a mistake or one half of a change; a mesh is not lost over that. The node's own object is always the newest, so
    /// it can be retired meanwhile.
    #[must_use]
    pub fn or_before(self: Arc<Self>, before: Option<&Self>, me: &NodeName) -> (Arc<Self>, bool) {
        let published = self.knows(me);
        let this = match before {
            Some(before) => self.completed(before),
            None => self,
        };
        // A slice with this node may be among those that vanished.
        let vanished = !published && this.knows(me);
        let (this, unpublished) = this.or_all_before(before, me);
        (this, unpublished || vanished)
    }

    /// Returns the snapshot with the slices that vanished although nothing took them back. The operator changes the heads
    /// that speak of a slice or of a location before it deletes what they speak of. So what is missing was deleted by others,
    /// and holds as it was:
    ///
    /// * a member slice that the head of its location names;
    /// * a head, while there are members of its location, or while another head has the location as established;
    /// * every head, where none at all is left.
    fn completed(self: Arc<Self>, before: &Self) -> Arc<Self> {
        let gone = || {
            let slices = before.slices.iter();
            slices.filter(|(name, _)| !self.slices.contains_key(*name))
        };
        if gone().next().is_none() {
            return self;
        }
        let headless = !self.slices.values().any(|slice| slice.spec.head.is_some());
        let mut slices = self.slices.clone();
        loop {
            let missed = gone().filter(|(name, slice)| {
                !slices.contains_key(*name)
                    && match &slice.spec.head {
                        Some(_) => headless || misses_head(&slices, &slice.spec.location),
                        None => names(&slices, &slice.spec.location, name),
                    }
            });
            let missed: Vec<_> = missed
                .map(|(name, slice)| (name.clone(), Arc::clone(slice)))
                .collect();
            if missed.is_empty() {
                break;
            }
            slices.extend(missed);
        }
        if slices.len() == self.slices.len() {
            return self;
        }
        Arc::new(Self {
            slices,
            peers: self.peers.clone(),
            node: self.node.clone(),
        })
    }

    fn or_all_before(self: Arc<Self>, before: Option<&Self>, me: &NodeName) -> (Arc<Self>, bool) {
        let located = self
            .node
            .as_ref()
            .is_some_and(|node| node.spec.location.is_some());
        let nothing = self.slices.values().all(|slice| slice.spec.members.is_empty());
        match before {
            Some(before) if (nothing || located) && before.knows(me) && !self.knows(me) => {
                let slices = before.slices.clone();
                let (peers, node) = (self.peers.clone(), self.node.clone());
                (Arc::new(Self { slices, peers, node }), true)
            }
            _ => (self, false),
        }
    }

    /// Returns when the newest of the objects was created, by the API server's clock.
    #[must_use]
    pub fn newest(&self) -> Option<Timestamp> {
        let slices = self.slices.values().map(|slice| &slice.metadata);
        let peers = self.peers.values().map(|peer| &peer.metadata);
        let node = self.node.iter().map(|node| &node.metadata);
        let all = slices.chain(peers).chain(node);
        all.filter_map(|metadata| Some(metadata.creation_timestamp.as_ref()?.0))
            // One that cannot be read stands there as the latest of all.
            .filter(|created| *created != Timestamp::MAX)
            .max()
    }

    /// Returns whether the operator wants every trace of Spanwire removed from this node.
    #[must_use]
    pub fn retire(&self) -> bool {
        self.node.as_ref().is_some_and(|node| node.spec.retire)
    }
}

type Slices = BTreeMap<String, Arc<LocationSlice>>;

/// Returns whether the location has no head, and should have one.
fn misses_head(slices: &Slices, location: &str) -> bool {
    let (mut expected, mut has) = (false, false);
    for slice in slices.values().map(|slice| &slice.spec) {
        let here = slice.location == location;
        has |= here && slice.head.is_some();
        expected |= here && !slice.members.is_empty();
        let established = slice.head.as_ref().map(|head| &head.established);
        expected |= established.is_some_and(|names| names.iter().any(|name| name == location));
    }
    expected && !has
}

/// Returns whether the head of the location names this slice.
fn names(slices: &Slices, location: &str, name: &str) -> bool {
    let here = slices.values().filter(|slice| slice.spec.location == location);
    let mut heads = here.filter_map(|slice| slice.spec.head.as_ref());
    heads.any(|head| head.member_slices.iter().any(|named| named == name))
}

fn same_objects<K: PartialEq>(objects: &BTreeMap<String, Arc<K>>, others: &BTreeMap<String, Arc<K>>) -> bool {
    let pairs = || objects.iter().zip(others);
    objects.len() == others.len()
        && pairs().all(|((name, object), (other_name, other))| name == other_name && same(object, other))
}

fn same<K: PartialEq>(object: &Arc<K>, other: &Arc<K>) -> bool {
    Arc::ptr_eq(object, other) || object == other
}

#[cfg(test)]
mod tests {
    use spanwire_crds::{LocationSliceSpec, MeshNodeSpec, SliceMember};

    use super::*;

    /// A snapshot of these members, and the location in which the own object is, where there is one.
    fn snapshot(members: &[&str], own: Option<Option<&str>>) -> Arc<Snapshot> {
        let member = |name: &&str| SliceMember {
            node: (*name).to_owned(),
            ..SliceMember::default()
        };
        let spec = LocationSliceSpec {
            location: "here".to_owned(),
            members: members.iter().map(member).collect(),
            ..LocationSliceSpec::default()
        };
        let node = own.map(|location| {
            let spec = MeshNodeSpec {
                location: location.map(str::to_owned),
                ..MeshNodeSpec::default()
            };
            Arc::new(MeshNode::new("a", spec))
        });
        let slice = Arc::new(LocationSlice::new("here-m1", spec));
        Arc::new(Snapshot {
            slices: [("here-m1".to_owned(), slice)].into(),
            peers: BTreeMap::new(),
            node,
        })
    }

    #[test]
    fn a_node_goes_by_what_was_decided_until_it_is_gone_from_everything() {
        let me = "a".parse().unwrap();
        let (here, nowhere) = (Some(Some("here")), Some(None));
        let before = snapshot(&["a", "b"], here);
        for (members, own, held) in [
            (&["a", "b"][..], here, false),
            (&["a"], None, false),
            (&["a"], nowhere, false),
            (&["b"], here, true),
            (&["b"], nowhere, false),
            (&["b"], None, false),
            (&[], here, true),
            (&[], nowhere, true),
            (&[], None, true),
        ] {
            let new = snapshot(members, own);
            let (followed, before_still) = Arc::clone(&new).or_before(Some(&before), &me);
            assert_eq!(before_still, held, "{members:?} {own:?}");
            let slices = if held { &before.slices } else { &new.slices };
            assert_eq!((&followed.slices, &followed.node), (slices, &new.node));
            assert!(!new.or_before(None, &me).1, "there is nothing to go by");
        }
        let elsewhere = snapshot(&["b"], here);
        let (_, held) = snapshot(&[], here).or_before(Some(&elsewhere), &me);
        assert!(!held, "it was in no decision yet");
    }

    /// Two locations, established with each other; `here` has two member slices.
    fn mesh() -> Snapshot {
        let slice = |name: &str, spec: serde_json::Value| {
            let spec: LocationSliceSpec = serde_json::from_value(spec).unwrap();
            (name.to_owned(), Arc::new(LocationSlice::new(name, spec)))
        };
        let members = |location: &str, node: &str| {
            serde_json::json!({
                "location": location, "members": [{"node": node, "generation": 1, "listenPort": 51820}],
            })
        };
        let head = |location: &str, other: &str, slices: &[&str]| {
            serde_json::json!({"location": location, "head": {
                "meshGeneration": 1, "established": [other], "memberSlices": slices,
            }})
        };
        let slices = [
            slice("here-head", head("here", "there", &["here-m1", "here-m2"])),
            slice("here-m1", members("here", "a")),
            slice("here-m2", members("here", "b")),
            slice("there-head", head("there", "here", &["there-m1"])),
            slice("there-m1", members("there", "c")),
        ];
        Snapshot {
            slices: slices.into(),
            ..Snapshot::default()
        }
    }

    /// All orders of so few things.
    fn orders(names: &[String]) -> Vec<Vec<String>> {
        let Some((first, rest)) = names.split_first() else {
            return vec![Vec::new()];
        };
        let mut all = Vec::new();
        for order in orders(rest) {
            for place in 0..=order.len() {
                let mut order = order.clone();
                order.insert(place, first.clone());
                all.push(order);
            }
        }
        all
    }

    #[test]
    fn slices_that_are_deleted_in_any_order_leave_the_last_complete_decision() {
        let whole = mesh();
        let me = "a".parse().unwrap();
        let names: Vec<String> = whole.slices.keys().cloned().collect();
        for order in orders(&names) {
            let (mut published, mut followed) = (whole.clone(), Arc::new(whole.clone()));
            for name in &order {
                published.slices.remove(name);
                (followed, _) = Arc::new(published.clone()).or_before(Some(&followed), &me);
                assert_eq!(*followed, whole, "{order:?} at {name}");
            }
        }
    }

    #[test]
    fn what_the_operator_takes_back_before_it_goes_is_gone() {
        let me = "a".parse().unwrap();
        let edit = |snapshot: &mut Snapshot, name: &str, change: &dyn Fn(&mut spanwire_crds::Head)| {
            let slice = Arc::make_mut(snapshot.slices.get_mut(name).unwrap());
            change(slice.spec.head.as_mut().unwrap());
        };
        // A member slice whose nodes are gone: the head names it no longer.
        let mut next = mesh();
        edit(&mut next, "here-head", &|head| {
            head.member_slices = vec!["here-m1".to_owned()]
        });
        next.slices.remove("here-m2");
        let (followed, _) = Arc::new(next.clone()).or_before(Some(&mesh()), &me);
        assert_eq!(*followed, next);
        // A location: no other has it as established any more.
        let mut next = mesh();
        edit(&mut next, "here-head", &|head| head.established.clear());
        let unlisted = next.clone();
        next.slices.retain(|name, _| name.starts_with("here"));
        let (followed, _) = Arc::new(next.clone()).or_before(Some(&unlisted), &me);
        assert_eq!(*followed, next);
    }

    #[test]
    fn no_slice_at_all_is_no_decision() {
        let before = snapshot(&["a"], None);
        let (followed, held) = Arc::new(Snapshot::default()).or_before(Some(&before), &"a".parse().unwrap());
        assert!(held && followed.slices == before.slices);
    }
}
