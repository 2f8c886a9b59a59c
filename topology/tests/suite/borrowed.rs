//! What holds where nodes have addresses out of the networks of others.

use proptest::prelude::*;
use spanwire_topology::{Facts, Mesh, Severity, decide, lint};

use crate::{
    arbitrary::{lending, link, messy_lending},
    properties::judge,
    walk,
};

fn without(mut facts: Facts) -> Facts {
    for node in facts.nodes.values_mut() {
        node.borrowed.clear();
    }
    facts
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_nodes_borrow_the_mesh_is_sound_and_nothing_else_is_less(before in messy_lending(), after in messy_lending()) {
        let old = decide(&before, &Mesh::default()).mesh;
        let new = decide(&after, &old).mesh;
        for mesh in [&old, &new] {
            let errors = lint(mesh).into_iter().filter(|found| found.severity() == Severity::Error);
            prop_assert_eq!(errors.collect::<Vec<_>>(), vec![]);
        }
        prop_assert_eq!(&decide(&after, &new).mesh, &new);
        let bare = decide(&without(after), &decide(&without(before), &Mesh::default()).mesh).mesh;
        for (name, location) in &bare.locations {
            prop_assert_eq!(&location.settings.cidrs, &new.locations[name].settings.cidrs);
            for (node, member) in location.members.iter() {
                let with = &new.locations[name].members[node];
                prop_assert!(with.prefixes.is_superset(&member.prefixes), "{}", node);
                prop_assert_eq!(&with.addresses, &member.addresses);
            }
        }
    }

    #[test]
    fn packets_for_borrowed_addresses_arrive_where_their_pods_are(before in lending(), after in lending(), links in any::<bool>()) {
        let (mut before, mut after) = (before, after);
        if links {
            link(&mut before);
            link(&mut after);
        }
        let old = decide(&before, &Mesh::default()).mesh;
        judge(&old, walk::pairs(&old))?;
        let new = decide(&after, &old).mesh;
        judge(&new, walk::pairs(&new))?;
    }
}
