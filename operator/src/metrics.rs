//! What the operator counts.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use crate::state::Sizes;

/// Which write, and what became of it.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct WriteLabels {
    /// Which kind of write.
    pub kind: &'static str,
    /// `done`, `conflict` or `failed`.
    pub result: &'static str,
}

/// The metrics of the operator.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// The decision that was published last.
    pub published_generation: Gauge,
    /// Whether this operator leads.
    pub leading: Gauge,
    /// How long decisions take.
    pub decide_duration: Histogram,
    /// How long it takes until a decision is written.
    pub publish_duration: Histogram,
    /// What was written.
    pub writes: Family<WriteLabels, Counter>,
    /// How many objects are known, as of the last look.
    pub sizes: Arc<Mutex<Sizes>>,
}

impl Metrics {
    /// The metrics, entered into `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            published_generation: Gauge::default(),
            leading: Gauge::default(),
            decide_duration: Histogram::new(exponential_buckets(0.0001, 4.0, 9)),
            publish_duration: Histogram::new(exponential_buckets(0.001, 4.0, 9)),
            writes: Family::default(),
            sizes: Arc::default(),
        };
        let registry = registry.sub_registry_with_prefix("spanwire_operator");
        let help = "The decision that was published last";
        registry.register("published_generation", help, metrics.published_generation.clone());
        registry.register("leading", "Whether this operator leads", metrics.leading.clone());
        let help = "How long decisions take";
        registry.register("decide_duration_seconds", help, metrics.decide_duration.clone());
        let help = "How long it takes until a decision is written";
        registry.register("publish_duration_seconds", help, metrics.publish_duration.clone());
        registry.register("writes", "What was written", metrics.writes.clone());
        registry.register_collector(Box::new(SizesCollector(Arc::clone(&metrics.sizes))));
        metrics
    }

    /// Enters how many objects are known.
    pub fn enter(&self, sizes: Sizes) {
        *self.sizes.lock().unwrap_or_else(PoisonError::into_inner) = sizes;
    }
}

#[derive(Debug)]
struct SizesCollector(Arc<Mutex<Sizes>>);

impl Collector for SizesCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let sizes = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kinds = [
            ("nodes", "Kubernetes nodes known", sizes.nodes),
            ("mesh_nodes", "MeshNodes known", sizes.mesh_nodes),
            ("locations", "Locations known", sizes.locations),
            ("peers", "Peers known", sizes.peers),
            ("location_slices", "LocationSlices known", sizes.slices),
        ];
        for (name, help, size) in kinds {
            let gauge = ConstGauge::new(i64::try_from(size).unwrap_or(i64::MAX));
            let encoder =
                encoder.encode_descriptor(name, help, None, prometheus_client::metrics::MetricType::Gauge)?;
            gauge.encode(encoder)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_promised_is_shown() {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        metrics.published_generation.set(7);
        metrics
            .writes
            .get_or_create(&WriteLabels {
                kind: "slice",
                result: "done",
            })
            .inc();
        metrics.enter(Sizes {
            nodes: 3,
            ..Sizes::default()
        });
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "spanwire_operator_published_generation 7",
            "spanwire_operator_leading 0",
            "spanwire_operator_decide_duration_seconds_count 0",
            "spanwire_operator_publish_duration_seconds_count 0",
            "spanwire_operator_writes_total{kind=\"slice\",result=\"done\"} 1",
            "spanwire_operator_nodes 3",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is not in\n{text}"
            );
        }
    }
}
