//! Which packets pass where LANs have other MTUs than Ethernet's.

use std::fmt;

use anyhow::Result;
use spanwire_e2e::{Lab, Progress, Scenario, expect::all_reach_all, scenario::Cni, size};

/// Flannel and Calico, with a device of their own.
pub(crate) const CNIS: [Cni; 2] = [Cni::Vxlan, Cni::CalicoVxlan];
/// What has to arrive by TCP on every pair.
const BYTES: u64 = 1 << 20;

/// The MTUs of the internet and of the two LANs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mtus {
    internet: u16,
    lans: [u16; 2],
}

const fn alike(mtu: u16) -> Mtus {
    Mtus {
        internet: mtu,
        lans: [mtu; 2],
    }
}

const fn unequal(lans: [u16; 2]) -> Mtus {
    Mtus { internet: 1500, lans }
}

pub(crate) const MTUS: [Mtus; 5] = [
    alike(1280),
    alike(1400),
    alike(1500),
    alike(9000),
    unequal([9000, 1400]),
];

impl Mtus {
    /// Returns the scenario with these MTUs.
    pub(crate) fn apply(self, mut scenario: Scenario) -> Scenario {
        scenario.network.mtu = self.internet;
        for (location, mtu) in scenario.locations.iter_mut().zip(self.lans) {
            location.mtu = Some(mtu);
        }
        scenario
    }
}

impl fmt::Display for Mtus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b] = self.lans;
        if a == b {
            write!(f, "{a} everywhere")
        } else {
            write!(f, "a {a}, b {b}")
        }
    }
}

/// What passes with some MTUs on some CNI.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub(crate) cni: Cni,
    pub(crate) mtus: Mtus,
    /// Inside a, from a to b and back: what is promised, and what the sender's kernel has found.
    pub(crate) sizes: Vec<size::Size>,
}

/// Fails where a packet of the promised size, or a part of the bytes, does not arrive on some pair.
pub(crate) fn measure(lab: &Lab, cni: Cni, mtus: Mtus) -> Result<Kept> {
    Progress::shown().stage(&format!("{mtus}: every pair"), || {
        all_reach_all(lab)?;
        size::promises_are_kept(lab, &size::all_pairs(lab), BYTES)
    })?;
    let pairs = [("a3", "a1"), ("a3", "b2"), ("b2", "a3")];
    let sizes = pairs.iter().map(|(from, to)| size::between(lab, from, to));
    Ok(Kept {
        cni,
        mtus,
        sizes: sizes.collect::<Result<_>>()?,
    })
}
