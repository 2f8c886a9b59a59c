//! Which leaders are used: what is to be watched of them, and what follows from it.

use std::{sync::Arc, time::Instant};

use k8s_openapi::jiff::Timestamp;
use spanwire_core::{advice::Heeded, liveness::Judgement};
use spanwire_topology::Reachability;

use super::EventLoop;

impl EventLoop {
    /// Passes on what is to be watched, where that is news.
    pub(super) fn assign(&mut self) {
        let assignment = self.state.assignment();
        self.outlets.assignments.send_if_modified(|known| {
            let is_news = !Arc::ptr_eq(known, &assignment) && **known != *assignment;
            if is_news {
                *known = assignment;
            }
            is_news
        });
    }

    /// Takes which leaders were not used before this process began.
    pub fn remember(&mut self, judgement: Judgement) {
        self.judgement = judgement;
        self.state.handle_reachability(self.reachability());
    }

    /// Other leaders are not to be used from now on. What follows is done at once: it has been waited for long enough.
    pub(super) fn take_judgement(&mut self, judgement: Judgement) {
        let now = Self::now();
        let before = std::mem::replace(&mut self.judgement, judgement);
        self.log_changes(&before);
        let now_used = (
            &self.judgement.lost,
            &self.judgement.forsaken,
            &self.judgement.cut,
        );
        if now_used != (&before.lost, &before.forsaken, &before.cut) {
            self.checkpoint_later(now);
        }
        if self.state.handle_reachability(self.reachability()) {
            self.reconcile_by(now);
        }
        if self.judgement.dead != before.dead {
            self.state.handle_dead(&self.judgement, now);
            self.wake_by_state(now);
        }
        if (&self.judgement.silent, &self.judgement.barren) != (&before.silent, &before.barren) {
            self.state.handle_silent(&self.judgement, Timestamp::now(), now);
            self.wake_by_state(now);
        }
        let avoided = (&self.judgement.idle, &self.judgement.forsaken);
        let (dead, answering) = (&self.judgement.dead, &self.judgement.answering);
        if (avoided, dead, answering) != ((&before.idle, &before.forsaken), &before.dead, &before.answering) {
            self.state.handle_avoided(&self.judgement, Timestamp::now(), now);
            self.wake_by_state(now);
        }
        let now_gone = (&self.judgement.unreached, &self.judgement.unheard);
        if now_gone != (&before.unreached, &before.unheard) {
            if self
                .state
                .handle_unreached(&self.judgement, Timestamp::now(), now)
            {
                self.reconcile_by(now);
            }
            self.wake_by_state(now);
            self.log_troubles();
        }
    }

    /// Wakes up when the state is to be asked again.
    fn wake_by_state(&mut self, now: Instant) {
        let due = self.state.poll_timeout(now);
        self.device_at = self.device_at.into_iter().chain(due).min();
    }

    /// Leaders of other locations say something else.
    pub(super) fn take_advice(&mut self, advice: Heeded) {
        let now = Self::now();
        for (location, leader) in advice.draining.difference(&self.advice.draining) {
            tracing::info!(%leader, %location, "the leader of the location says that its tunnels are about to end; another gets what is for there");
        }
        self.advice = advice;
        tracing::debug!(advice = ?self.advice, "leaders of other locations say something else");
        if self.state.handle_reachability(self.reachability()) {
            self.reconcile_by(now);
        }
    }

    /// The process of the tunnels is about to end, or is not any more.
    pub(super) fn take_draining(&mut self, draining: bool) {
        if self.state.handle_draining(draining) {
            self.reconcile_by(Self::now());
            if draining {
                tracing::info!(
                    "the process of the tunnels is about to end; other leaders of the location take over"
                );
            } else {
                tracing::info!("the process of the tunnels is not about to end any more");
            }
        }
    }

    fn reachability(&self) -> Reachability {
        let mut reachability = Reachability::default();
        for (leader, location) in &self.judgement.lost {
            reachability.observe(leader.clone(), location.clone(), false);
        }
        for (location, leader) in &self.judgement.forsaken {
            reachability.observe_far(location.clone(), leader.clone(), false);
        }
        reachability.observe_answering(self.judgement.answering.clone());
        reachability.observe_advice(self.advice.advice.clone());
        reachability.observe_draining(self.advice.draining.clone());
        reachability.observe_cut(self.judgement.cut.clone());
        reachability
    }

    /// Logs each change. None is a reason to wake anyone: it is what leaders on stand-by are for.
    fn log_changes(&self, before: &Judgement) {
        let now = &self.judgement;
        for (leader, location) in now.lost.difference(&before.lost) {
            self.metrics.failover(location);
            if *leader == self.me {
                tracing::info!(%location, "no tunnel of this node reaches the location; another leader of its own takes what is for there");
            } else {
                tracing::info!(%leader, %location, "the leader of the own location does not answer, or hands nothing on to the location; another takes what is for there");
            }
        }
        for forsaken in now.forsaken.difference(&before.forsaken) {
            let (location, leader) = forsaken;
            if !now.has_failed(forsaken) {
                tracing::info!(%leader, %location, "there is no session with the leader of the location yet; another gets what is for there");
                continue;
            }
            self.metrics.failover(location);
            tracing::info!(%leader, %location, "the leader of the location does not answer, or hands nothing on there; another gets what is for there");
        }
        for location in now.unreached.iter().chain(&now.unheard) {
            if !before.is_gone(location) {
                tracing::info!(%location, "nothing answers from the location any more, by whatever way");
            }
        }
        for location in before.unreached.iter().chain(&before.unheard) {
            if !now.is_gone(location) {
                tracing::info!(%location, "the location answers again, or is no longer asked");
            }
        }
        for node in now.cut.difference(&before.cut) {
            tracing::info!(%node, "the node of this location does not answer; its pods get by another leader what comes out of the tunnel");
        }
        for node in before.cut.difference(&now.cut) {
            tracing::info!(%node, "the node of this location answers again, or no other leader could hand on to it; its pods get directly what comes out of the tunnel");
        }
        for (leader, location) in before.lost.difference(&now.lost) {
            tracing::info!(%leader, %location, "the leader of the own location is used again as published");
        }
        for (location, leader) in before.forsaken.difference(&now.forsaken) {
            tracing::info!(%leader, %location, "the leader of the location is used again as published");
        }
    }
}
