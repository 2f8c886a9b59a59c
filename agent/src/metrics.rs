//! The metrics of the agent.

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLocation {
    location: String,
}

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

    /// Returns the text for Prometheus.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a String cannot fail");
        text
    }
}

#[cfg(test)]
mod tests {
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
        metrics.links([]);
        assert!(!metrics.text().contains("location=\"b\""));
    }
}
