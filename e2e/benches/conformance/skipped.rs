//! What is left out of the wider set, and why.

/// A label of tests, and why those that have it are left out.
const LABELS: [(&str, &str); 13] = [
    ("Alpha", "of a feature that is off where it is not asked for"),
    (
        "Disruptive",
        "restarts programs of a node over SSH, which the lab's nodes do not have",
    ),
    (
        "Feature:IPv6DualStack",
        "wants IPv6 beside IPv4, which this lab does not have",
    ),
    (
        "Feature:KubeProxyNFAcct",
        "counts with nfacct, which this kernel does not have",
    ),
    ("Feature:LoadBalancer", "wants a cloud that makes load balancers"),
    (
        "Feature:NetworkPolicy",
        "wants a CNI that enforces policies: flannel does not, and the imitations do not",
    ),
    (
        "Feature:Networking-DNS",
        "asks a name of the internet, of which the lab has none",
    ),
    ("Feature:Networking-IPv4", "asks a host of the internet"),
    ("Feature:Networking-IPv6", "asks a host of the internet"),
    ("Feature:Networking-Performance", "measures, and judges nothing"),
    (
        "Feature:OffByDefault",
        "of a feature that is off where it is not asked for",
    ),
    (
        "Feature:PerformanceDNS",
        "measures a DNS with ten thousand services",
    ),
    (
        "Feature:SCTPConnectivity",
        "wants SCTP, which this kernel does not have",
    ),
];

/// A part of the names of tests, and why those that have it are left out.
const NAMES: [(&str, &str); 1] = [(
    r"DNS configMap",
    "changes the configuration of the DNS for one whose upstream servers it asks; the lab's has none",
)];

/// Returns an expression about labels that is true of the wider set.
pub(crate) fn labels() -> String {
    let without = LABELS.iter().map(|(label, _)| format!(" && !/^{label}$/"));
    format!("sig-network && !Conformance{}", without.collect::<String>())
}

/// Returns patterns of names that are not in the wider set.
pub(crate) fn names() -> Vec<String> {
    NAMES.iter().map(|(name, _)| (*name).to_owned()).collect()
}

/// Returns what is left out, with the reasons, as a list.
pub(crate) fn reasons() -> String {
    let all = LABELS.iter().chain(&NAMES);
    all.map(|(what, why)| format!("* `{what}`: {why}\n")).collect()
}
