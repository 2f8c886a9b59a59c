//! How Calico's Felix is configured: with its eBPF data path a packet that is routed to a device which Felix does not know is
//! dropped, and the tunnel is such a device; sans I/O.
//!
//! Felix takes a setting from its environment too, which nothing in the cluster tells.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kube::runtime::watcher::Event;
use regex::Regex;
use spanwire_cluster::{observed::Observed, optional::OptionalEvent, store::ObjectStore, watch::filter_map};
use spanwire_crds::translate::{FelixConfiguration, FelixSpec};
use spanwire_topology::{Decision, LocationName, NodeName};

use super::{OperatorState, status::Degraded};

/// The configuration of all nodes.
const DEFAULT: &str = "default";

/// What is known of Felix.
#[derive(Debug, Default)]
pub(super) struct Felix {
    /// The name of the tunnel's device on nodes.
    link: String,
    /// What to say where it is dropped at.
    text: String,
    objects: ObjectStore<String, Arc<FelixSpec>>,
    /// What follows for all nodes.
    verdict: Verdict,
}

/// On which nodes Felix drops what is routed to the tunnel.
#[derive(Debug, Default, PartialEq, Eq)]
struct Verdict {
    /// On those about which no object says anything.
    others: bool,
    /// On these it is the other way round.
    exceptions: BTreeSet<String>,
}

impl Felix {
    pub(super) fn new(link: String) -> Self {
        Self {
            text: format!(
                "Calico's eBPF data path drops what is routed to {link}, which it does not know: set spec.bpfL3IfacePattern of the \
                 FelixConfiguration {DEFAULT}, and of that of the node if it has one, to match it, as ^{link}$ does"
            ),
            link,
            ..Self::default()
        }
    }

    /// Handles an event; returns whether Felix drops something else than before.
    fn handle(&mut self, event: OptionalEvent<Observed<FelixConfiguration>>) -> bool {
        match event {
            OptionalEvent::Absent => self.objects = ObjectStore::default(),
            // What is known stays.
            OptionalEvent::Refused => return false,
            OptionalEvent::Objects(event) => {
                // One that cannot be read says nothing.
                let gone = match &event {
                    Event::Apply(object) if object.object.is_none() => Some(object.name()),
                    Event::Delete(object) => Some(object.name()),
                    Event::Apply(_) | Event::Init | Event::InitApply(_) | Event::InitDone => None,
                };
                if let Some(name) = gone {
                    self.objects.forget(name.to_owned());
                } else {
                    let read = |object: Observed<FelixConfiguration>| {
                        Some((object.name().to_owned(), Arc::new(object.object?.spec)))
                    };
                    if let Some(event) = filter_map(event, read) {
                        self.objects.handle(event);
                    }
                }
            }
        }
        let verdict = self.judge();
        let changed = verdict != self.verdict;
        self.verdict = verdict;
        changed
    }

    fn judge(&self) -> Verdict {
        let none = FelixSpec::default();
        let spec = |name: &str| self.objects.objects().get(name);
        let default = spec(DEFAULT).map_or(&none, |spec| &**spec);
        let others = drops(&self.link, &none, default);
        let exceptions = self.objects.objects().iter().filter_map(|(name, spec)| {
            let node = name.strip_prefix("node.")?;
            (drops(&self.link, spec, default) != others).then(|| node.to_owned())
        });
        Verdict {
            others,
            exceptions: exceptions.collect(),
        }
    }

    fn drops_on(&self, node: &NodeName) -> bool {
        self.verdict.others != self.verdict.exceptions.contains(node.as_str())
    }
}

/// Returns whether Felix drops what is routed to a device. What is set for the node goes before what is set for all. A pattern that
/// cannot be read here may be one that Felix reads: then it is not said.
fn drops(link: &str, node: &FelixSpec, all: &FelixSpec) -> bool {
    let enabled = node.bpf_enabled.or(all.bpf_enabled).unwrap_or(false);
    let patterns = [
        node.bpf_l3_iface_pattern
            .as_ref()
            .or(all.bpf_l3_iface_pattern.as_ref()),
        node.bpf_data_iface_pattern
            .as_ref()
            .or(all.bpf_data_iface_pattern.as_ref()),
    ];
    // Felix knows no device by an empty pattern; in that of the LAN's devices which it has by itself there is no tunnel.
    let mut patterns = patterns
        .into_iter()
        .flatten()
        .filter(|pattern| !pattern.is_empty());
    enabled && patterns.all(|pattern| Regex::new(pattern).is_ok_and(|pattern| !pattern.is_match(link)))
}

impl OperatorState {
    /// Handles what is observed of FelixConfigurations.
    pub fn handle_felix(&mut self, event: OptionalEvent<Observed<FelixConfiguration>>) {
        let faulty = match &event {
            OptionalEvent::Absent => self.unreadable.clear(FelixConfiguration::OBJECT_KIND.1),
            OptionalEvent::Refused => false,
            OptionalEvent::Objects(event) => self.unreadable.handle(event),
        };
        self.dirty |= self.felix.handle(event) || faulty;
    }

    /// The leaders of each location on which Felix drops what is routed to the tunnel.
    pub(super) fn leaders_dropped_by_felix(
        &self,
        decision: &Decision,
    ) -> BTreeMap<LocationName, Vec<Degraded<'_>>> {
        let mut of_locations = BTreeMap::new();
        if self.felix.verdict == Verdict::default() {
            return of_locations;
        }
        for (name, location) in &decision.mesh.locations {
            let leaders = location.leaders.iter();
            let known = leaders.filter_map(|leader| self.facts.nodes.get_key_value(&leader.node));
            let dropped = known
                .map(|(node, _)| node)
                .filter(|node| self.felix.drops_on(node));
            let dropped: Vec<Degraded<'_>> = dropped.map(|node| (node, self.felix.text.as_str())).collect();
            if !dropped.is_empty() {
                of_locations.insert(name.clone(), dropped);
            }
        }
        of_locations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(enabled: Option<bool>, l3: Option<&str>, data: Option<&str>) -> FelixSpec {
        FelixSpec {
            bpf_enabled: enabled,
            bpf_l3_iface_pattern: l3.map(str::to_owned),
            bpf_data_iface_pattern: data.map(str::to_owned),
        }
    }

    #[test]
    fn with_ebpf_a_device_that_no_pattern_matches_is_dropped_at() {
        let none = spec(None, None, None);
        let lan = Some("^(eth|en.*)");
        for (expected, node, all) in [
            (false, &none, spec(None, None, None)),
            (false, &none, spec(Some(false), None, None)),
            (true, &none, spec(Some(true), None, None)),
            (true, &none, spec(Some(true), Some(""), lan)),
            (true, &none, spec(Some(true), Some("^wg0$"), lan)),
            (false, &none, spec(Some(true), Some("^spanwire0$"), lan)),
            // A part of the name is enough, as for Felix.
            (false, &none, spec(Some(true), Some("span"), None)),
            (false, &none, spec(Some(true), None, Some("^(eth.*|spanwire0)$"))),
            // It is not known what Felix makes of it.
            (false, &none, spec(Some(true), Some("("), None)),
            // What is said of the node counts.
            (
                false,
                &spec(Some(false), None, None),
                spec(Some(true), None, None),
            ),
            (true, &spec(Some(true), None, None), spec(None, None, None)),
            (
                false,
                &spec(None, Some("spanwire.*"), None),
                spec(Some(true), Some("^wg0$"), None),
            ),
            (
                true,
                &spec(None, Some("^wg0$"), None),
                spec(Some(true), Some("spanwire.*"), None),
            ),
        ] {
            assert_eq!(drops("spanwire0", node, &all), expected, "{node:?} {all:?}");
        }
    }
}
