//! How followers and leaders hand packets to each other where Locations do not say it.

use kube::runtime::watcher::Event;
use spanwire_cluster::optional::SourceEvent;
use spanwire_topology::{HopMode, PodSource, PodSources};

use crate::{
    networks::{cilium_node, world_of},
    world::{self, Change, World, now},
};

impl World {
    fn hop(&self, location: &str) -> HopMode {
        self.mesh().locations[&location.parse().unwrap()].settings.hop
    }

    /// What the condition says of it.
    fn said_of_hop(&self, location: &str) -> Option<String> {
        let (_, message) = self.condition(location, "PodNetworks");
        let (_, said) = message.split_once("; followers and leaders ")?;
        Some(said.to_owned())
    }
}

#[test]
fn with_cilium_it_is_a_vxlan_everywhere_and_the_condition_says_why() {
    let mut world = world_of(PodSources::auto());
    let handle = |world: &mut World, source, event| {
        world.state.handle_networks(source, event, now(0).monotonic);
    };
    handle(&mut world, PodSource::Calico, SourceEvent::Absent);
    let nodes = (1..=6).map(|number| {
        let network = format!("10.0.{number}.0/24");
        Event::InitApply(cilium_node(&format!("n{number}"), &[&network]))
    });
    for event in [Event::Init].into_iter().chain(nodes).chain([Event::InitDone]) {
        handle(&mut world, PodSource::Cilium, SourceEvent::Objects(event));
    }
    world.settle();
    for location in ["left", "right"] {
        assert_eq!(world.hop(location), HopMode::Vxlan, "{location}");
        let said = world.said_of_hop(location).unwrap();
        assert!(said.contains("VXLAN") && said.contains("Cilium"), "{said}");
    }
    // Another CNI is there instead.
    handle(&mut world, PodSource::Cilium, SourceEvent::Absent);
    world.settle();
    assert_eq!(world.hop("left"), HopMode::Cni);
    assert_eq!(world.said_of_hop("left"), None);
}

#[test]
fn in_a_cloud_without_a_device_of_the_cni_it_is_a_vxlan_from_the_first_leaders_on() {
    let mut world = World::with(world::options());
    for change in world::cluster() {
        let node = if let Change::Node(name, Some((_, "left"))) = &change {
            Some(name.clone())
        } else {
            None
        };
        world.apply(change);
        if let Some(node) = node {
            world.is_machine(&node, "azure:///subscriptions/s/virtualMachines/0");
        }
    }
    world.settle();
    assert_eq!(world.hop("left"), HopMode::Vxlan);
    let said = world.said_of_hop("left").unwrap();
    assert!(
        said.contains("spec.hop: Auto") && said.contains("spec.providerID"),
        "{said}"
    );
    assert_eq!(world.hop("right"), HopMode::Cni);
    assert_eq!(world.said_of_hop("right"), None);

    // What a node reports later changes nothing.
    let mut report = world.reported("n1");
    report.cni = Some("flannel-vxlan".to_owned());
    report.hop_addresses = vec!["10.244.1.0".to_owned()];
    world.apply(Change::Report("n1".to_owned(), Box::new(report)));
    world.is_machine("n4", "aws:///eu-central-1a/i-0");
    world.settle();
    assert_eq!(
        (world.hop("left"), world.hop("right")),
        (HopMode::Vxlan, HopMode::Cni)
    );
}

#[test]
fn in_a_cloud_where_the_cni_has_a_device_it_is_that() {
    let mut world = World::with(world::options());
    for change in world::cluster() {
        let node = if let Change::Node(name, _) = &change {
            Some(name.clone())
        } else {
            None
        };
        world.apply(change);
        if let Some(node) = node {
            world.is_machine(&node, "gce://project/zone/node");
        }
    }
    for number in 1..=6 {
        let mut report = world.reported(&format!("n{number}"));
        report.cni = Some("calico-direct".to_owned());
        world.apply(Change::Report(format!("n{number}"), Box::new(report)));
    }
    world.settle();
    assert_eq!(
        (world.hop("left"), world.hop("right")),
        (HopMode::Cni, HopMode::Cni)
    );
    assert_eq!(world.said_of_hop("left"), None);
}
