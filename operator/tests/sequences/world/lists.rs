//! Lists that are complete and lack what there was, and what is published then.

use std::collections::BTreeMap;

use kube::runtime::watcher::Event;
use spanwire_crds::{SliceMember, translate::Node};
use spanwire_operator::batch::Write;

use super::{World, now};

impl World {
    /// A list of Nodes that is complete and has none.
    pub(crate) fn list_no_nodes(&mut self) {
        self.state.handle_node(Event::Init);
        self.state.handle_node(Event::InitDone);
    }

    pub(crate) fn list_nodes(&mut self) {
        self.state.handle_node(Event::Init);
        for node in self.nodes.values() {
            let node: Node = serde_json::from_value(node.clone()).unwrap();
            self.state.handle_node(Event::InitApply(node));
        }
        self.state.handle_node(Event::InitDone);
    }

    /// Somebody deleted all MeshNodes, and with them what was reported.
    pub(crate) fn list_no_mesh_nodes(&mut self) {
        self.mesh_nodes.clear();
        self.reports.clear();
        self.state.handle_mesh_node(Event::Init);
        self.state.handle_mesh_node(Event::InitDone);
    }

    /// Somebody deleted all LocationSlices.
    pub(crate) fn list_no_slices(&mut self) {
        self.slices.clear();
        self.state.handle_slice(Event::Init);
        self.state.handle_slice(Event::InitDone);
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
        self.begin_anew();
        let batch = self.state.decide(now(self.second))?;
        Some(batch.phases.into_iter().flatten().collect())
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
}
