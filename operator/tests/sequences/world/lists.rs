//! Lists that are complete and lack what there was, and what is published then.

use std::collections::BTreeMap;

use kube::{ResourceExt as _, runtime::watcher::Event};
use spanwire_crds::{
    LocationSlice, LocationSliceSpec, MeshNodeSpec, MeshNodeStatus, SliceMember, translate::Node,
};
use spanwire_operator::batch::Write;

use super::{World, now};

impl World {
    /// Decisions are made in this second.
    pub(crate) const fn second_is(&mut self, second: u64) {
        self.second = second;
    }

    /// From now on nothing of a Location can be read.
    pub(crate) fn spoil_location(&mut self, name: &str) {
        self.spoilt.insert(name.to_owned());
        self.send_location_as(&serde_json::json!({"metadata": {"name": name, "uid": "u"}, "spec": 4}));
    }

    /// An administrator deletes it.
    pub(crate) fn delete_spoilt_location(&mut self, name: &str) {
        self.spoilt.remove(name);
        self.locations.remove(name);
        let object = serde_json::json!({"metadata": {"name": name, "uid": "u"}, "spec": 4});
        let observed = serde_json::from_value(object).unwrap();
        self.state.handle_location(Event::Delete(observed));
    }

    /// What the agent of a node has reported.
    pub(crate) fn reported(&self, name: &str) -> MeshNodeStatus {
        self.reports[name].clone()
    }

    /// A cloud has named its machine.
    pub(crate) fn is_machine(&mut self, name: &str, provider_id: &str) {
        self.nodes.get_mut(name).unwrap()["spec"]["providerID"] = serde_json::json!(provider_id);
        self.send_node(name);
    }

    /// A list of Nodes that is complete and has none.
    pub(crate) fn list_no_nodes(&mut self) {
        self.state.handle_node(Event::Init);
        self.state.handle_node(Event::InitDone);
    }

    pub(crate) fn list_nodes(&mut self) {
        self.state.handle_node(Event::Init);
        for node in self.nodes.values() {
            let node: Node = serde_json::from_value(node.clone()).unwrap();
            self.state.handle_node(Event::InitApply(node.into()));
        }
        self.state.handle_node(Event::InitDone);
    }

    /// A user deleted all MeshNodes, and with them what was reported.
    pub(crate) fn list_no_mesh_nodes(&mut self) {
        self.mesh_nodes.clear();
        self.reports.clear();
        self.state.handle_mesh_node(Event::Init);
        self.state.handle_mesh_node(Event::InitDone);
    }

    /// A user deleted all LocationSlices.
    pub(crate) fn list_no_slices(&mut self) {
        self.slices.clear();
        self.state.handle_slice(Event::Init);
        self.state.handle_slice(Event::InitDone);
    }

    /// A user deletes a LocationSlice.
    pub(crate) fn delete_slice(&mut self, name: &str) {
        let object = self.slices.remove(name).unwrap();
        self.state.handle_slice(Event::Delete(object.into()));
    }

    pub(crate) fn take_nodes(&mut self) -> BTreeMap<String, serde_json::Value> {
        std::mem::take(&mut self.nodes)
    }

    pub(crate) fn give_nodes(&mut self, nodes: BTreeMap<String, serde_json::Value>) {
        self.nodes = nodes;
        self.list_nodes();
    }

    /// As [`Self::restart`], where nothing is to be decided.
    pub(crate) fn restart_in_doubt(&mut self) -> Option<Vec<Write>> {
        self.replace_operator();
        let batch = self.state.decide(now(self.second))?;
        Some(batch.into_writes().collect())
    }

    pub(crate) fn keys(&self) -> BTreeMap<String, String> {
        let members = self.slices.values().flat_map(|slice| &slice.spec.members);
        let key = |member: &SliceMember| Some((member.node.clone(), member.public_key.clone()?));
        members.filter_map(key).collect()
    }

    pub(crate) fn overlays(&self) -> BTreeMap<String, Vec<String>> {
        let members = self.slices.values().flat_map(|slice| &slice.spec.members);
        let overlay = |member: &SliceMember| (member.node.clone(), member.overlay.clone());
        members.map(overlay).collect()
    }

    pub(crate) fn slices(&self) -> Vec<&str> {
        self.slices.keys().map(String::as_str).collect()
    }

    /// The watch repeats every object as it is.
    pub(crate) fn repeat_everything(&mut self) {
        for object in self.slices.clone().into_values() {
            self.state.handle_slice(Event::Apply(object.into()));
        }
        for object in self.mesh_nodes.clone().into_values() {
            self.state.handle_mesh_node(Event::Apply(object.into()));
        }
        for object in self.locations.clone().into_values() {
            self.state.handle_location(Event::Apply(object.into()));
        }
    }

    /// Another writer changes a slice.
    pub(crate) fn edit_slice(&mut self, name: &str, edit: impl FnOnce(&mut LocationSliceSpec)) {
        let mut object = self.slices[name].clone();
        edit(&mut object.spec);
        self.put_slice(object);
    }

    /// Another writer creates a slice.
    pub(crate) fn add_slice(&mut self, name: &str, location: &str) {
        let spec = LocationSliceSpec {
            location: location.to_owned(),
            ..LocationSliceSpec::default()
        };
        self.put_slice(LocationSlice::new(name, spec));
    }

    fn put_slice(&mut self, mut object: LocationSlice) {
        self.stamp(&mut object.metadata);
        self.slices.insert(object.name_any(), object.clone());
        self.state.handle_slice(Event::Apply(object.into()));
    }

    /// Another writer changes a MeshNode.
    pub(crate) fn edit_mesh_node(&mut self, name: &str, edit: impl FnOnce(&mut MeshNodeSpec)) {
        let mut object = self.mesh_nodes[name].clone();
        edit(&mut object.spec);
        self.put_mesh_node(object);
    }

    /// A user deletes a MeshNode; its agent reports again when there is one.
    pub(crate) fn remove_mesh_node(&mut self, name: &str) {
        let mut object = self.mesh_nodes.remove(name).unwrap();
        self.stamp(&mut object.metadata);
        self.state.handle_mesh_node(Event::Delete(object.into()));
    }
}
