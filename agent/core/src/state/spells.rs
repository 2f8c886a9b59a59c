//! What is reported once it has lasted, and whose end is reported once that has: a node that boots, or a path that comes and goes,
//! would have agents write to the API server each time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;

/// For so long something has to last before it is reported, or to be over.
const CALM: Duration = Duration::from_secs(5);

/// Everything that is so, or was until just now.
#[derive(Debug)]
pub(super) struct Spells<K>(BTreeMap<K, Spell>);

#[derive(Clone, Copy, Debug)]
struct Spell {
    since: Timestamp,
    /// It lasts, and is reported.
    is_reported: bool,
    /// When that changes, unless it is otherwise again before.
    due: Option<Instant>,
}

impl<K> Default for Spells<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Clone + Ord> Spells<K> {
    /// Takes what is so now.
    pub(super) fn handle_observed(&mut self, observed: &BTreeSet<K>, wall: Timestamp, now: Instant) {
        for key in observed {
            let spell = self.0.entry(key.clone()).or_insert(Spell {
                since: wall,
                is_reported: false,
                due: Some(now + CALM),
            });
            spell.due = spell.due.filter(|_| !spell.is_reported);
        }
        self.0
            .retain(|key, spell| spell.is_reported || observed.contains(key));
        for (_, spell) in self.0.iter_mut().filter(|(key, _)| !observed.contains(*key)) {
            spell.due.get_or_insert(now + CALM);
        }
    }

    /// Takes the present time. Returns whether there is anything else to report.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        let is_due = |spell: &Spell| spell.due.is_some_and(|due| due <= now);
        let is_news = self.0.values().any(is_due);
        self.0.retain(|_, spell| !(is_due(spell) && spell.is_reported));
        for spell in self.0.values_mut().filter(|spell| is_due(spell)) {
            (spell.is_reported, spell.due) = (true, None);
        }
        is_news
    }

    /// Returns when to call [`Self::handle_timeout`] again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.0.values().filter_map(|spell| spell.due).min()
    }

    /// Returns what is to be reported, each with since when it is so.
    pub(super) fn reported(&self) -> impl Iterator<Item = (&K, Timestamp)> {
        let reported = self.0.iter().filter(|(_, spell)| spell.is_reported);
        reported.map(|(key, spell)| (key, spell.since))
    }
}
