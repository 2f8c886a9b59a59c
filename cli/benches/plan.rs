//! What `kubectl spanwire plan -f` does with 5,000 nodes in 50 locations: reads the YAML, decides, writes. Of files such as people write, and
//! of what `kubectl get nodes -o yaml` writes of nodes with fifty images each.
//!
//! `make bench` shows the goals beside what was measured:
//!
//! | benchmark | goal |
//! |---|---|
//! | plan_of_files | 1 s |
//! | plan_of_a_cluster | 1 s |

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
    let text = nodes().fold(String::new(), |text, node| text + "---\n" + &node);
    bencher.bench(|| planned(black_box(&text)));
}

#[divan::bench(sample_count = 10)]
fn plan_of_a_cluster(bencher: Bencher<'_, '_>) {
    let mut text = "apiVersion: v1\nitems:\n".to_owned();
    for node in nodes() {
        for (index, line) in (node + &said_by_the_kubelet()).lines().enumerate() {
            let _ = writeln!(text, "{}{line}", if index == 0 { "- " } else { "  " });
        }
    }
    text += "kind: List\nmetadata:\n  resourceVersion: \"\"\n";
    bencher.bench(|| planned(black_box(&text)));
}

fn planned(text: &str) -> String {
    let mut found = Found::default();
    documents(&mut found, "nodes.yaml", text).expect("it is YAML");
    let settings = Settings::default();
    let reading = found
        .objects
        .read(&settings, settings.facts(None), &Objects::default());
    let report = report(&reading, &found.objects.published(), false);
    assert_eq!((report.locations.len(), report.nodes.len()), (50, 5000));
    assert!(report.rejected.is_empty(), "{:?}", report.rejected.first());
    report.text(true)
}

fn nodes() -> impl Iterator<Item = String> {
    let all = (0..50).flat_map(|location| (0..100).map(move |index| (location, index)));
    all.map(|(location, index)| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata:\n  name: ip-{location}-{index}\n  labels:\n    \
             topology.kubernetes.io/region: region-{location}\nspec:\n  podCIDRs:\n  - 10.{}.{index}.0/24\nstatus:\n  \
             addresses:\n  - type: InternalIP\n    address: 192.168.{location}.{index}\n",
            100 + location
        )
    })
}

/// The rest of a status.
fn said_by_the_kubelet() -> String {
    let mut text = "  conditions:\n".to_owned();
    for kind in ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"] {
        let _ = writeln!(
            text,
            "  - lastHeartbeatTime: \"2026-01-01T00:00:00Z\"\n    lastTransitionTime: \"2026-01-01T00:00:00Z\"\n    message: kubelet \
             says how it is\n    reason: Kubelet{kind}\n    status: \"{}\"\n    type: {kind}",
            if kind == "Ready" { "True" } else { "False" }
        );
    }
    text += "  images:\n";
    for index in 0..50 {
        let image = format!("registry.example.com/some/team/image-{index}");
        let digest = "0123456789abcdef".repeat(4);
        let _ = writeln!(
            text,
            "  - names:\n    - {image}@sha256:{digest}\n    - {image}:v1.2.3\n    sizeBytes: 123456789"
        );
    }
    for number in ["allocatable", "capacity"] {
        let _ = writeln!(
            text,
            "  {number}:\n    cpu: \"2\"\n    ephemeral-storage: 20959212Ki\n    memory: 7950536Ki\n    pods: \"110\""
        );
    }
    text + "  nodeInfo:\n    architecture: amd64\n    kernelVersion: 6.12.0\n    kubeletVersion: v1.36.0\n    operatingSystem: linux\n"
}
