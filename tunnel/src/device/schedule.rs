//! Which peer has something to do when. Looking costs as much as is due, however many peers there are.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::{device::ShardIndex, id::PeerId, peer::Peer};

/// Each may agree on keys, which takes as long as a hundred packets. They have their turn after so many.
const STEP: usize = 4;

/// So late is no peer that has to wait for others.
const LATE: Duration = Duration::from_secs(10);

/// Returns how many peers of a shard may be called while all threads wait.
pub(super) fn calls(index: ShardIndex) -> usize {
    (STEP / index.count()).max(1)
}

/// The moments at which peers are to be looked at, one for each peer at most. That moment stands with the peer as well
/// ([`Peer::scheduled`]): nearly every packet puts off what was due or changes nothing, and then nothing is done here until the
/// moment has come.
#[derive(Debug, Default)]
pub(super) struct Schedule(BTreeSet<(Instant, PeerId)>);

impl Schedule {
    /// Has a peer looked at at this moment, unless it will be earlier.
    pub(super) fn note(&mut self, id: PeerId, at: Option<Instant>, scheduled: &mut Option<Instant>) {
        let Some(at) = at.filter(|at| scheduled.is_none_or(|before| *at < before)) else {
            return;
        };
        self.forget(id, scheduled.replace(at));
        self.0.insert((at, id));
    }

    /// Has a peer looked at before others whose moment has come.
    pub(super) fn note_first(&mut self, now: Instant, id: PeerId, scheduled: &mut Option<Instant>) {
        self.note(id, now.checked_sub(LATE), scheduled);
    }

    /// Has a peer looked at when its protocol wants to be.
    pub(super) fn note_peer(&mut self, now: Instant, id: PeerId, peer: &mut Peer) {
        let at = peer.noise.as_ref().and_then(|noise| noise.poll_timeout(now));
        self.note(id, at, &mut peer.scheduled);
    }

    /// Does not look at a peer at the moment that was noted last.
    pub(super) fn forget(&mut self, id: PeerId, scheduled: Option<Instant>) {
        if let Some(at) = scheduled {
            self.0.remove(&(at, id));
        }
    }

    /// Takes whose moment has come, those first that are late, at most [`STEP`]. The rest, and what these note for now, is left
    /// for the next time.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<PeerId> {
        let mut due = Vec::new();
        while let Some((_, id)) = self.0.first().filter(|(at, _)| *at <= now && due.len() < STEP) {
            due.push(*id);
            self.0.pop_first();
        }
        due
    }

    /// Returns the first moment.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_peer_is_looked_at_once_and_at_its_earliest_moment() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut schedule = Schedule::default();
        let (one, other) = (PeerId(1), PeerId(2));
        let (mut of_one, mut of_other) = (None, None);
        schedule.note(one, Some(after(9)), &mut of_one);
        schedule.note(other, Some(after(5)), &mut of_other);
        schedule.note(one, Some(after(3)), &mut of_one);
        schedule.note(one, Some(after(7)), &mut of_one);
        schedule.note(one, None, &mut of_one);
        assert_eq!(
            (schedule.next(), of_one, schedule.0.len()),
            (Some(after(3)), Some(after(3)), 2)
        );
        assert_eq!(schedule.take_due(after(2)), []);
        assert_eq!(schedule.take_due(after(5)), [one, other]);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn thousands_that_are_due_at_once_are_taken_step_by_step() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        for id in 0..1000 {
            schedule.note(PeerId(id), Some(now), &mut None);
        }
        let mut taken = Vec::new();
        while schedule.next().is_some_and(|at| at <= now) {
            let step = schedule.take_due(now);
            assert!((1..=STEP).contains(&step.len()));
            taken.extend(step);
        }
        assert_eq!(taken, (0..1000).map(PeerId).collect::<Vec<_>>());
    }

    #[test]
    fn a_peer_that_is_gone_is_not_looked_at() {
        let now = Instant::now();
        let mut schedule = Schedule::default();
        let mut scheduled = None;
        schedule.note(PeerId(1), Some(now), &mut scheduled);
        schedule.forget(PeerId(1), scheduled);
        assert_eq!(schedule.take_due(now), []);
    }
}
