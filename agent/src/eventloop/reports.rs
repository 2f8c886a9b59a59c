//! What the loop reports: status, Lease, metrics and logs.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::jiff::Timestamp;
use spanwire_core::Outcome;
use spanwire_crds::conditions::is_of_agent;

use super::EventLoop;

impl EventLoop {
    /// Reports what is new.
    pub(super) fn report(&mut self) {
        let links = self.state.links().iter();
        self.metrics
            .links(links.map(|(location, up)| (location.to_string(), up)));
        let generation = i64::try_from(self.state.mesh().generation.0).unwrap_or(i64::MAX);
        self.metrics.generation.set(generation);
        if self.is_expectant {
            return;
        }
        let owner = self
            .snapshot
            .as_ref()
            .and_then(|snapshot| snapshot.node.as_ref()?.metadata.uid.clone());
        let owner = owner.filter(|_| self.state.leads());
        self.outlets.owner.send_if_modified(|known| {
            let changed = *known != owner;
            *known = owner;
            changed
        });
        let Some(status) = self.state.poll_status(Timestamp::now()) else {
            return;
        };
        let mut observed = self.state.observed_status().cloned();
        if let Some(observed) = &mut observed {
            // What others say there is no reason to repeat the report.
            observed.conditions.retain(is_of_agent);
        }
        let pair = (Some(status.clone()), observed);
        let is_new = pair.0 != pair.1 && pair != self.last_reported;
        // What was to be written meanwhile may be written yet, and may not be heard of: a watch of an API server that lost its
        // power is silent for minutes.
        let is_taken_back = self.last_given.as_ref().is_some_and(|given| **given != status);
        if is_new || is_taken_back {
            let status = Arc::new(status);
            self.last_given = Some(Arc::clone(&status));
            self.outlets.status.send_replace(Some(status));
        }
        self.last_reported = pair;
    }

    /// Counts an outcome, and how long it took from the survey on.
    pub(super) fn count(&self, outcome: &Outcome, time: Duration) {
        self.metrics.steps.inc_by(outcome.applied as u64);
        self.metrics.failures.inc_by(outcome.failed as u64);
        self.metrics
            .repairs
            .inc_by(u64::from(!outcome.repaired.is_empty()));
        self.metrics.reconciled(time);
    }

    /// Logs each trouble when it begins, and the end of the last.
    pub(super) fn log_troubles(&mut self) {
        let troubles = self.state.troubles().unwrap_or_default();
        self.metrics.ready.set(i64::from(troubles.is_empty()));
        let mut texts = BTreeSet::new();
        for trouble in troubles {
            let text = trouble.to_string();
            if !self.logged.contains(&text) {
                // What lies elsewhere is a warning there.
                if trouble.is_elsewhere() {
                    tracing::info!(reason = trouble.reason(), "{text}");
                } else {
                    tracing::warn!(reason = trouble.reason(), "{text}");
                }
            }
            texts.insert(text);
        }
        if texts.is_empty() && !self.logged.is_empty() {
            tracing::info!("nothing is left undone any more");
        }
        self.logged = texts;
    }
}
