//! What answers behind the leaders of other locations.

use std::{collections::BTreeSet, time::Instant};

use spanwire_topology::LocationName;

use super::{
    super::judge::{Subject, Trust},
    Prober,
    watch::Watch,
};

impl Prober {
    /// Returns the locations of which anything answers behind a leader, and those of which nothing but leaders answers, though it did:
    /// that stays so behind one that has come into use since, until anything answers there.
    pub(super) fn heard_behind(
        &self,
        trust: &dyn Fn(&Subject) -> Trust,
        now: Instant,
    ) -> [BTreeSet<LocationName>; 2] {
        let [mut heard, mut barren] = [BTreeSet::new(), BTreeSet::new()];
        for watch in self.watches.values() {
            let Subject::Behind(location, leader) = &watch.subject else {
                continue;
            };
            let was_barren = self.judgement.barren.contains(location);
            if is_heard(watch, now) {
                heard.insert(location.clone());
            } else if was_barren || watch.trust(now) == Trust::Lost {
                let leader = Subject::Far(location.clone(), leader.clone());
                barren.extend((trust(&leader) != Trust::Lost).then(|| location.clone()));
            }
        }
        barren.retain(|location| !heard.contains(location));
        [heard, barren]
    }

    /// Returns whether this answers, and nothing of its location did.
    pub(super) fn is_barren_no_more(&self, id: u64, now: Instant) -> bool {
        let watch = self.watches.get(&id).filter(|watch| is_heard(watch, now));
        watch.is_some_and(|watch| match &watch.subject {
            Subject::Behind(location, _) => self.judgement.barren.contains(location),
            Subject::Far(..) | Subject::Hop(_) | Subject::Through(..) | Subject::Member(_) => false,
        })
    }
}

fn is_heard(watch: &Watch, now: Instant) -> bool {
    watch.answered && watch.trust(now) != Trust::Lost
}
