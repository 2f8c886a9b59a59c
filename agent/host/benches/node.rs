//! A leader and a follower in a mesh of 5,000 nodes in 50 locations: rendered, and compared with what is.
//!
//! Nothing of this may be felt beside the 250 ms that a change may take. `make bench` shows the goals beside what was
//! measured:
//!
//! | benchmark | goal |
//! |---|---|
//! | render_leader | 10 ms |
//! | render_follower | 10 ms |
//! | wireguard_leader | 5 ms |
//! | diff_of_nothing | 5 ms |
//! | diff_from_nothing | 10 ms |

#[path = "large/mesh.rs"]
mod mesh;

use divan::{Bencher, black_box};
use spanwire_host::{Host, HostFacts, diff, render, wireguard};
use spanwire_topology::{Plan, Reachability, plan};

use mesh::{LOCATIONS, cni, links, location, member, mesh, name};

fn main() {
    divan::main();
}

#[divan::bench]
fn render_leader(bencher: Bencher<'_, '_>) {
    let (plan, facts) = node(1);
    bencher.bench(|| render(black_box(&plan), &facts));
}

#[divan::bench]
fn render_follower(bencher: Bencher<'_, '_>) {
    let (plan, facts) = node(2);
    bencher.bench(|| render(black_box(&plan), &facts));
}

#[divan::bench]
fn wireguard_leader(bencher: Bencher<'_, '_>) {
    let (plan, facts) = node(1);
    bencher.bench(|| wireguard(black_box(&plan), &facts));
}

#[divan::bench]
fn diff_of_nothing(bencher: Bencher<'_, '_>) {
    let (plan, facts) = node(1);
    // Rendered twice, since what is read from a machine shares nothing with what is wanted.
    let [actual, wanted] = [(); 2].map(|()| render(&plan, &facts));
    bencher.bench(|| {
        let steps = diff(black_box(&actual), black_box(&wanted));
        assert_eq!(steps, vec![]);
    });
}

#[divan::bench]
fn diff_from_nothing(bencher: Bencher<'_, '_>) {
    let (plan, facts) = node(1);
    let host = render(&plan, &facts);
    bencher.bench(|| diff(&Host::default(), black_box(&host)));
}

/// Node `x` of location 0: 1 leads.
fn node(x: u8) -> (Plan, HostFacts) {
    let facts = HostFacts {
        public_key: member(0, x).public_key,
        links: links(0, x),
        cni: cni(),
        settled: (1..LOCATIONS).map(location).collect(),
        ..HostFacts::default()
    };
    let plan = plan(&mesh(), &name(0, x), &Reachability::default());
    assert!(plan.routes.len() > 9_000, "the others' nodes and pods are routed");
    (plan, facts)
}
