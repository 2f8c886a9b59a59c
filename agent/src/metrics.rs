//! The metrics of the agent.

use std::{collections::BTreeSet, fmt::Debug, hash::Hash, sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::{Registry, Unit},
};
use spanwire_core::liveness::Subject;
use spanwire_host::PeerStats;
use spanwire_topology::{LocationName, NodeName, PeerName};

use crate::prober::Sight;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLocation {
    location: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLeader {
    location: String,
    leader: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPeer {
    peer: String,
}

/// What WireGuard counts of each of the other ends of tunnels.
#[derive(Clone)]
struct Counted<L> {
    handshake: Family<L, Gauge<f64, AtomicU64>>,
    received: Family<L, Counter>,
    sent: Family<L, Counter>,
}

type Measured = Family<OfLeader, Gauge<f64, AtomicU64>>;

/// Everything that `/metrics` shows.
pub struct Metrics {
    registry: Registry,
    /// The decision that this node follows.
    pub generation: Gauge,
    /// Steps applied.
    pub steps: Counter,
    /// Steps that failed.
    pub failures: Counter,
    /// Times that a change by another program was undone.
    pub repairs: Counter,
    /// 1 when there is nothing that could not be done.
    pub ready: Gauge,
    links: Family<OfLocation, Gauge>,
    failovers: Family<OfLocation, Counter>,
    rtt: Measured,
    loss: Measured,
    suspicion: Measured,
    leaders: Counted<OfLeader>,
    attached: Counted<OfPeer>,
    prober: Gauge<f64, AtomicU64>,
    seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("spanwire_agent"),
            generation: Gauge::default(),
            steps: Counter::default(),
            failures: Counter::default(),
            repairs: Counter::default(),
            ready: Gauge::default(),
            links: Family::default(),
            failovers: Family::default(),
            rtt: Family::default(),
            loss: Family::default(),
            suspicion: Family::default(),
            leaders: Counted::default(),
            attached: Counted::default(),
            prober: Gauge::default(),
            // From a millisecond to two seconds.
            seconds: Histogram::new(exponential_buckets(0.001, 2.0, 12)),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register(
            "build",
            "What this agent was built from",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "applied_generation",
            "The decision that this node follows",
            self.generation.clone(),
        );
        registry.register("steps", "Steps applied to the machine", self.steps.clone());
        registry.register("step_failures", "Steps that failed", self.failures.clone());
        registry.register(
            "repairs",
            "Changes by other programs that were undone",
            self.repairs.clone(),
        );
        registry.register("ready", "1 when nothing was left undone", self.ready.clone());
        registry.register(
            "link_up",
            "1 when a leader of the location answers in the tunnel",
            self.links.clone(),
        );
        registry.register(
            "failovers",
            "Times that a leader was given up for another towards the location",
            self.failovers.clone(),
        );
        registry.register_with_unit(
            "leader_rtt",
            "Round-trip time by the leader that is in use towards the location",
            Unit::Seconds,
            self.rtt.clone(),
        );
        registry.register(
            "leader_loss",
            "Share of echo requests to it that were not answered in time, from 0 to 1",
            self.loss.clone(),
        );
        registry.register(
            "leader_suspicion",
            "-log10 of the likelihood that it is as silent as now although it works",
            self.suspicion.clone(),
        );
        self.leaders.register(registry, "leader", "the leader");
        self.attached
            .register(registry, "peer", "the Peer, which is attached here");
        registry.register(
            "prober_cpu_seconds",
            "How much of a processor watching the leaders has used",
            self.prober.clone(),
        );
        registry.register_with_unit(
            "reconcile",
            "Time from the survey of the machine to the verified target",
            Unit::Seconds,
            self.seconds.clone(),
        );
    }

    /// Records how long a reconcile took.
    pub fn reconciled(&self, time: Duration) {
        self.seconds.observe(time.as_secs_f64());
    }

    /// Sets the links to other locations, up or not.
    pub fn links<'a>(&self, links: impl IntoIterator<Item = (String, &'a bool)>) {
        self.links.clear();
        for (location, up) in links {
            self.links
                .get_or_create(&OfLocation { location })
                .set(i64::from(*up));
        }
    }

    /// Counts a leader that was given up for another towards a location.
    pub fn failover(&self, location: &LocationName) {
        let location = location.to_string();
        self.failovers.get_or_create(&OfLocation { location }).inc();
    }

    /// Sets what is known of the leaders that are in use: of other locations through the own tunnels, else of the own one.
    pub fn sight(&self, sight: &Sight, in_use: &BTreeSet<Subject>) {
        self.rtt.clear();
        self.loss.clear();
        self.suspicion.clear();
        self.prober.set(sight.processor.as_secs_f64());
        for seen in sight.seen.iter().filter(|seen| in_use.contains(&seen.subject)) {
            let (Subject::Far(location, leader) | Subject::Through(leader, location)) = &seen.subject else {
                continue;
            };
            let leader = OfLeader::new(location, leader);
            // What never answered is not known to lose anything.
            if let Some(rtt) = seen.rtt {
                self.rtt.get_or_create(&leader).set(rtt.as_secs_f64());
                self.loss.get_or_create(&leader).set(seen.loss);
            }
            self.suspicion.get_or_create(&leader).set(seen.suspicion);
        }
    }

    /// Sets what WireGuard counts of the leaders of other locations, and of Peers that are attached here.
    pub fn tunnels(
        &self,
        leaders: &[(LocationName, NodeName, PeerStats)],
        attached: &[(PeerName, PeerStats)],
    ) {
        let leaders = leaders.iter();
        let leaders = leaders.map(|(location, leader, stats)| (OfLeader::new(location, leader), stats));
        self.leaders.set(leaders);
        let attached = attached.iter();
        let attached = attached.map(|(peer, stats)| {
            (
                OfPeer {
                    peer: peer.to_string(),
                },
                stats,
            )
        });
        self.attached.set(attached);
    }

    /// Returns the text for Prometheus.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String cannot fail");
        text
    }
}

impl<L: Clone + Eq + Hash> Default for Counted<L> {
    fn default() -> Self {
        Self {
            handshake: Family::default(),
            received: Family::default(),
            sent: Family::default(),
        }
    }
}

impl<L: Clone + Debug + Eq + Hash + EncodeLabelSet + Send + Sync + 'static> Counted<L> {
    fn register(&self, registry: &mut Registry, end: &str, whom: &str) {
        registry.register_with_unit(
            format!("{end}_handshake_age"),
            format!("Time since the last WireGuard handshake with {whom}"),
            Unit::Seconds,
            self.handshake.clone(),
        );
        for (what, help, counter) in [
            ("received", "What came through the tunnel from", &self.received),
            ("sent", "What was sent into the tunnel to", &self.sent),
        ] {
            registry.register_with_unit(
                format!("{end}_{what}"),
                format!("{help} {whom}"),
                Unit::Bytes,
                counter.clone(),
            );
        }
    }

    fn set<'a>(&self, counted: impl Iterator<Item = (L, &'a PeerStats)>) {
        self.handshake.clear();
        self.received.clear();
        self.sent.clear();
        for (end, stats) in counted {
            if let Some(age) = stats.handshake {
                self.handshake.get_or_create(&end).set(age.as_secs_f64());
            }
            self.received.get_or_create(&end).inc_by(stats.received);
            self.sent.get_or_create(&end).inc_by(stats.sent);
        }
    }
}

impl OfLeader {
    fn new(location: &LocationName, leader: &NodeName) -> Self {
        let (location, leader) = (location.to_string(), leader.to_string());
        Self { location, leader }
    }
}

#[cfg(test)]
mod tests {
    use spanwire_core::liveness::{Seen, Trust};

    use super::*;

    #[test]
    fn the_text_names_what_is_counted_with_its_unit() {
        let metrics = Metrics::default();
        metrics.repairs.inc();
        metrics.links([("b".to_owned(), &true)]);
        metrics.reconciled(Duration::from_millis(3));
        let text = metrics.text();
        for line in [
            "spanwire_agent_repairs_total 1",
            "spanwire_agent_link_up{location=\"b\"} 1",
            "spanwire_agent_reconcile_seconds_count 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        metrics.failover(&"b".parse().unwrap());
        let seen = |subject, trust, rtt| Seen {
            subject,
            trust,
            answered: true,
            rtt: Some(Duration::from_millis(rtt)),
            loss: 0.25,
            suspicion: 1.5,
            deaths: 1,
        };
        let far = |leader: &str| Subject::Far("b".parse().unwrap(), leader.parse().unwrap());
        let sight = Sight {
            seen: vec![
                seen(far("b1"), Trust::Sound, 1),
                seen(far("b2"), Trust::Sound, 2),
                seen(far("b3"), Trust::Lost, 3),
            ],
            ..Sight::default()
        };
        // The operator's order is not that of the names, and one that is dead may be all there is.
        metrics.sight(&sight, &[far("b2"), far("b3")].into());
        let stats = PeerStats {
            handshake: Some(Duration::from_secs(71)),
            received: 5,
            sent: 7,
            ..PeerStats::default()
        };
        let tunnels = ["b1", "b2"].map(|leader| ("b".parse().unwrap(), leader.parse().unwrap(), stats));
        let attached = [("laptop".parse().unwrap(), stats)];
        metrics.tunnels(&tunnels, &attached);
        metrics.tunnels(&tunnels, &attached);
        let text = metrics.text();
        for line in [
            "spanwire_agent_failovers_total{location=\"b\"} 1",
            "spanwire_agent_leader_rtt_seconds{location=\"b\",leader=\"b2\"} 0.002",
            "spanwire_agent_leader_loss{location=\"b\",leader=\"b2\"} 0.25",
            "spanwire_agent_leader_suspicion{location=\"b\",leader=\"b3\"} 1.5",
            "spanwire_agent_leader_handshake_age_seconds{location=\"b\",leader=\"b1\"} 71.0",
            "spanwire_agent_leader_received_bytes_total{location=\"b\",leader=\"b1\"} 5",
            "spanwire_agent_leader_sent_bytes_total{location=\"b\",leader=\"b2\"} 7",
            "spanwire_agent_peer_handshake_age_seconds{peer=\"laptop\"} 71.0",
            "spanwire_agent_peer_received_bytes_total{peer=\"laptop\"} 5",
            "spanwire_agent_prober_cpu_seconds 0.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(!text.contains("leader_rtt_seconds{location=\"b\",leader=\"b1\"}"));
        metrics.sight(&Sight::default(), &BTreeSet::new());
        metrics.tunnels(&[], &[]);
        metrics.links([]);
        assert!(!metrics.text().contains(",leader=") && !metrics.text().contains("{peer="));
        assert!(!metrics.text().contains("link_up{location=\"b\""));
    }
}
