//! What Locations say where Calico's eBPF data path does not know the tunnel, or its own WireGuard is in the way.

use kube::runtime::watcher::Event;
use serde_json::{Value, json};
use spanwire_cluster::{observed::Observed, optional::OptionalEvent};
use spanwire_crds::{Hop, Location, LocationSpec, Mode, translate::FelixConfiguration};
use spanwire_operator::state::Options;

use crate::world::{self, World};

type Felix = Observed<FelixConfiguration>;

fn configuration(name: &str, spec: &Value) -> Felix {
    let object = json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "FelixConfiguration",
        "metadata": {"name": name, "uid": format!("uid of {name}")}, "spec": spec});
    serde_json::from_value(object).unwrap()
}

pub(crate) fn connected_world() -> World {
    let mut world = World::with(Options {
        link: "mesh0".to_owned(),
        ..world::options()
    });
    for change in world::cluster() {
        world.apply(change);
    }
    world.settle();
    let leader = |location: &str| world.leaders()[location][0].clone();
    let (left, right) = (leader("left"), leader("right"));
    world.apply(world::Change::Link(left, "right", true));
    world.apply(world::Change::Link(right, "left", true));
    world.settle();
    world
}

impl World {
    fn felix(&mut self, event: Event<Felix>) {
        self.state.handle_felix(OptionalEvent::Objects(event));
        self.settle();
    }

    fn felix_is(&mut self, name: &str, spec: &Value) {
        self.felix(Event::Apply(configuration(name, spec)));
    }

    fn location_is(&mut self, name: &str, spec: LocationSpec) {
        self.apply(world::Change::Location(Box::new(Location::new(name, spec))));
        self.settle();
    }

    /// What is said of both locations: whether they are Ready and connected.
    fn said(&self) -> [String; 4] {
        [
            ("left", "Ready"),
            ("left", "Connected"),
            ("right", "Ready"),
            ("right", "Connected"),
        ]
        .map(|(location, about)| self.condition(location, about).0)
    }
}

#[test]
fn leaders_on_which_calicos_ebpf_does_not_know_the_tunnel_are_named_with_what_to_set() {
    let mut world = connected_world();
    assert_eq!(world.said(), ["True"; 4]);
    world.felix_is(
        "default",
        &json!({"bpfEnabled": true, "bpfL3IfacePattern": "^spanwire0$"}),
    );
    assert_eq!(world.said(), ["False"; 4], "it is called otherwise here");
    let (_, message) = world.condition("left", "Ready");
    let leader = world.leaders()["left"][0].clone();
    for part in [
        format!("node {leader}: "),
        "bpfL3IfacePattern".to_owned(),
        "^mesh0$".to_owned(),
    ] {
        assert!(message.contains(&part), "{part}: {message}");
    }
    assert!(!message.contains("^spanwire0$"), "{message}");
    // What is set for one node counts there.
    world.felix_is(&format!("node.{leader}"), &json!({"bpfL3IfacePattern": "mesh.*"}));
    let (_, message) = world.condition("left", "Ready");
    assert!(!message.contains(&format!("node {leader}: ")), "{message}");

    world.felix_is(
        "default",
        &json!({"bpfEnabled": true, "bpfL3IfacePattern": "^mesh0$"}),
    );
    assert_eq!(world.said(), ["True"; 4]);
}

#[test]
fn without_ebpf_and_wireguard_or_without_calico_nothing_is_said() {
    let mut world = connected_world();
    world.state.handle_felix(OptionalEvent::Absent);
    let decisions = world.decisions;
    world.felix_is(
        "default",
        &json!({"bpfEnabled": false, "logSeverityScreen": "Info"}),
    );
    world.felix_is("default", &json!({"wireguardEnabled": false}));
    assert_eq!(world.decisions, decisions, "nothing is decided upon that");
    assert_eq!(world.said(), ["True"; 4]);

    world.felix_is("default", &json!({"bpfEnabled": true}));
    assert_eq!(world.said(), ["False"; 4]);
    // An API server that will not say changes nothing.
    world.state.handle_felix(OptionalEvent::Refused);
    world.settle();
    assert_eq!(world.said(), ["False"; 4]);
    // What a list does not have is gone.
    world.felix(Event::Init);
    world.felix(Event::InitDone);
    assert_eq!(world.said(), ["True"; 4]);

    world.felix_is("default", &json!({"bpfEnabled": true}));
    world.state.handle_felix(OptionalEvent::Absent);
    world.settle();
    assert_eq!(world.said(), ["True"; 4], "Calico is gone");
}

#[test]
fn a_configuration_that_cannot_be_read_says_nothing_and_is_named() {
    let mut world = connected_world();
    world.felix_is("default", &json!({"bpfEnabled": true}));
    assert_eq!(world.said(), ["False"; 4]);
    world.felix_is("default", &json!({"bpfEnabled": "yes"}));
    assert_eq!(world.said(), ["True"; 4]);
    let notices = world.take_notices();
    let named = notices.iter().any(|notice| {
        notice.kind == "FelixConfiguration"
            && notice.name == "default"
            && notice.note.contains("spec: cannot be read")
    });
    assert!(named, "{notices:?}");
    world.felix(Event::Delete(configuration("default", &json!({}))));
    assert_eq!(world.said(), ["True"; 4]);
}

#[test]
fn calicos_own_wireguard_is_named_where_the_ports_are_the_same_or_it_takes_what_a_leader_sends_on() {
    let mut world = connected_world();
    // As `kubectl get felixconfiguration default -o json` prints it where kOps or an administrator switches it on.
    let on = |port: Value| {
        json!({"bpfConnectTimeLoadBalancing": "TCP", "bpfLogLevel": "", "floatingIPs": "Disabled", "logSeverityScreen": "Info",
            "reportingInterval": "0s", "wireguardEnabled": true, "wireguardListeningPort": port})
    };
    world.felix_is("default", &on(Value::Null));
    assert_eq!(world.said(), ["False"; 4]);
    let (_, message) = world.condition("left", "Ready");
    for part in [
        "UDP port 51820",
        "wireguardListeningPort",
        "these drop it",
        "set spec.hop",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    world.felix_is("default", &on(json!(51840)));
    let (_, message) = world.condition("left", "Ready");
    let leader = world.leaders()["left"][0].clone();
    assert!(
        message.contains(&format!("node {leader}: Calico's own WireGuard")),
        "{message}"
    );
    assert!(!message.contains("UDP port"), "{message}");
    // With a VXLAN of Spanwire's own it takes none of it.
    world.location_is(
        "left",
        LocationSpec {
            hop: Hop::Vxlan,
            ..LocationSpec::default()
        },
    );
    assert_eq!(world.said(), ["True", "True", "False", "False"]);
    // Where every node leads itself there is nothing to send on.
    world.location_is(
        "right",
        LocationSpec {
            mesh: Mode::Nodes,
            ..LocationSpec::default()
        },
    );
    assert!(!world.condition("right", "Ready").1.contains("Calico"));
    world.location_is("right", LocationSpec::default());
    // Felix sends nothing by it to a node where it is off, and on such a leader nothing at all.
    assert!(world.condition("right", "Ready").1.contains("Calico"));
    let leader = world.leaders()["right"][0].clone();
    for node in ["n4", "n5", "n6"].into_iter().filter(|node| *node != leader) {
        world.felix_is(&format!("node.{node}"), &json!({"wireguardEnabled": false}));
    }
    assert!(!world.condition("right", "Ready").1.contains("Calico"));
}
