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

    #[test]
    fn no_slice_at_all_is_no_decision() {
        let before = snapshot(&["a"], None);
        let (followed, held) = Arc::new(Snapshot::default()).or_before(Some(&before), &"a".parse().unwrap());
        assert!(held && followed.slices == before.slices);
    }
}
