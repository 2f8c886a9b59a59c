//! What Locations say where Calico may keep its blocks in a kind that is not read.

use spanwire_topology::{PodSource, PodSources};

use crate::{
    networks::{block, world_of, world_without_cni},
    world::World,
};

impl World {
    /// Whether pod networks are known, as the condition says.
    fn knows_networks(&mut self, other_blocks: bool) -> bool {
        self.state.handle_other_blocks(other_blocks);
        self.settle();
        let (status, message) = self.condition("left", "PodNetworks");
        let is_said =
            message.contains("blockaffinities.projectcalico.org") && message.contains("podNetworks");
        assert_eq!(status == "False", is_said, "{message}");
        status == "True"
    }
}

#[test]
fn that_calico_may_keep_its_blocks_where_they_are_not_read_is_said_where_nodes_would_count() {
    let mut world = world_without_cni();
    assert!(world.knows_networks(false));
    assert!(!world.knows_networks(true));
    // Those that are read count.
    world.list_calico(vec![block("n1-a", "n1", "10.245.1.0/26", "confirmed")]);
    assert!(world.knows_networks(true));
    world.list_calico(Vec::new());
    assert!(!world.knows_networks(true));
    assert!(world.knows_networks(false), "its definition is gone");
}

#[test]
fn what_is_named_is_believed_but_for_blocks_of_which_there_are_none() {
    let mut world = world_of(PodSources::only(PodSource::Nodes));
    assert!(world.knows_networks(true));
    let mut world = world_of(PodSources::only(PodSource::Calico));
    world.list_calico(Vec::new());
    assert!(!world.knows_networks(true));
}
