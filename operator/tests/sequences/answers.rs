//! What MeshNodes say of what their nodes claim.

use spanwire_operator::batch::Write;

use crate::world::{self, Change, World};

const OWN: &str = "spanwire.dev/internal-ip";

#[test]
fn what_is_not_granted_to_a_node_stands_on_its_mesh_node_until_it_is_mended_and_costs_nothing_else() {
    for (value, expected) in [
        ("192.168.7.77,8.8.8.8", ["8.8.8.8", "is public", "spec.nodeCIDRs"]),
        (
            "192.168.7.77,300.0.0.1",
            ["300.0.0.1", "is no address", "internal-ip"],
        ),
    ] {
        let mut world = World::of(&world::cluster());
        let nodes: Vec<String> = world.members().into_values().flatten().collect();
        assert!(
            nodes.iter().all(|node| world.answer(node).is_none()),
            "where all is granted nothing is written"
        );
        let node = world.members()["left"][0].clone();
        world.apply(Change::Annotate(node.clone(), OWN, value));
        world.settle();
        let (status, message) = world.answer(&node).unwrap();
        assert_eq!(status, "False", "{message}");
        for part in expected {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert_eq!(world.decide_again(), Vec::<Write>::new(), "at rest");
        assert_eq!(
            world.restart(),
            Vec::<Write>::new(),
            "another operator finds it so"
        );
        world.apply(Change::Annotate(node.clone(), OWN, "192.168.7.77"));
        world.settle();
        assert_eq!(world.answer(&node), Some(("True".to_owned(), String::new())));
        assert_eq!(world.decide_again(), Vec::<Write>::new(), "at rest");
        let mut others = nodes.iter().filter(|other| **other != node);
        assert!(others.all(|other| world.answer(other).is_none()));
    }
}

#[test]
fn who_writes_something_else_there_is_corrected() {
    let mut world = World::of(&world::cluster());
    let node = world.members()["left"][0].clone();
    world.apply(Change::Annotate(node.clone(), OWN, "8.8.8.8"));
    world.settle();
    let lie = |world: &World| {
        let mut object = world.mesh_node(&node);
        let conditions = object["status"]["conditions"].take();
        let mut condition = conditions.as_array().unwrap().last().unwrap().clone();
        condition["status"] = "True".into();
        serde_json::from_value(condition).unwrap()
    };
    let said = lie(&world);
    world.put_answer(&node, said);
    world.settle();
    assert_eq!(world.answer(&node).unwrap().0, "False");
}

#[test]
fn of_thousands_of_refused_claims_a_mesh_node_names_a_few() {
    let mut world = World::of(&world::cluster());
    let node = world.members()["left"][0].clone();
    let values: Vec<String> = (0..5_000).map(|number| format!("{number}.bad")).collect();
    for key in ["spanwire.dev/location-cidrs", "spanwire.dev/endpoint", OWN] {
        world.apply(Change::Annotate(node.clone(), key, values.join(",").leak()));
    }
    world.settle();
    let (status, message) = world.answer(&node).unwrap();
    assert_eq!(status, "False");
    assert!(message.len() <= 4096 && message.contains("more"), "{message}");
}
