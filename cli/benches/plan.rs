//! What `kubectl spanwire plan -f` does with 5,000 nodes in 50 locations: reads the YAML, decides, writes.
//!
//! `make bench` shows the goals beside what was measured:
//!
//! | benchmark | goal |
//! |---|---|
//! | plan_of_files | 1 s |

use std::fmt::Write as _;

use divan::{Bencher, black_box};
use spanwire_cli::{
    files::{Found, documents},
    objects::Objects,
    plan::report,
    settings::Settings,
};

fn main() {
    divan::main();
}

#[divan::bench(sample_count = 10)]
fn plan_of_files(bencher: Bencher<'_, '_>) {
    let text = text();
    bencher.bench(|| {
        let mut found = Found::default();
        documents(&mut found, "nodes.yaml", black_box(&text)).expect("it is YAML");
        let settings = Settings::default();
        let reading = found
            .objects
            .read(&settings, settings.facts(None), &Objects::default());
        let report = report(&reading, &found.objects.published(), false);
        assert_eq!((report.locations.len(), report.nodes.len()), (50, 5000));
        assert!(report.rejected.is_empty(), "{:?}", report.rejected.first());
        report.text(true)
    });
}

fn text() -> String {
    let mut text = String::new();
    for location in 0..50 {
        for index in 0..100 {
            let _ = write!(
                text,
                "---\napiVersion: v1\nkind: Node\nmetadata:\n  name: ip-{location}-{index}\n  labels:\n    \
                 topology.kubernetes.io/region: region-{location}\nspec:\n  podCIDRs:\n  - 10.{}.{index}.0/24\nstatus:\n  \
                 addresses:\n  - type: InternalIP\n    address: 192.168.{location}.{index}\n",
                100 + location
            );
        }
    }
    text
}
