//! What is wrong, put together from everything that can be.

use k8s_openapi::jiff::Timestamp;
use spanwire_host::conflicts;

use super::{CLOCK_TOLERANCE, NodeState};
use crate::{fights::Subject, trouble::Trouble};

impl NodeState {
    /// Takes the present time by the wall clock, and by how many seconds that is behind the API server's (ahead of it, where
    /// negative), where that is known.
    pub fn handle_clock(&mut self, wall: Timestamp, behind: Option<i64>) {
        let created = self
            .created
            .map_or(0, |created| created.as_second() - wall.as_second());
        // A cluster may be as old as it likes.
        let behind = behind.unwrap_or(created.max(0));
        let trouble = (behind.abs() > CLOCK_TOLERANCE).then_some(Trouble::Clock { behind });
        if self.status.clock != trouble {
            self.status.clock = trouble;
            self.gather_troubles();
        }
    }

    /// Takes why the checkpoint could not be written; `None` when it was.
    pub fn handle_stored(&mut self, cause: Option<String>) {
        self.status.storage = cause.map(Trouble::Storage);
        self.gather_troubles();
    }

    /// Takes the first object of which the source shows an older one than is followed, while it does. Returns whether that is news.
    pub fn handle_older(&mut self, first: Option<String>) -> bool {
        let trouble = first.map(Trouble::Older);
        let is_news = self.status.older != trouble;
        if is_news {
            self.status.older = trouble;
            self.gather_troubles();
        }
        is_news
    }

    /// Takes why no leader is watched; `None` when they are.
    pub fn handle_unwatched(&mut self, cause: Option<String>) {
        self.status.unwatched = cause.map(Trouble::Unwatched);
        self.gather_troubles();
    }

    /// Takes what of a target could not be done. Returns whether to try again at once, with a new survey: the machine may have changed
    /// between the survey and the steps, as where a CNI that starts replaces its device, and then what failed is of a machine that
    /// is no more. Until that is known, what was known before stays.
    pub(super) fn handle_undone(&mut self, troubles: Vec<Trouble>) -> bool {
        let is_first = !std::mem::replace(&mut self.status.failed, !troubles.is_empty());
        let may_be_outdated = !troubles.is_empty() && troubles.iter().all(Trouble::may_be_outdated);
        if is_first && may_be_outdated {
            return true;
        }
        self.status.undone = Some(troubles);
        false
    }

    /// Puts together what is wrong; nothing before the first outcome.
    pub(super) fn gather_troubles(&mut self) {
        if let Some(undone) = self.status.undone.clone() {
            let mut troubles = self.own_troubles();
            // What is taken away at once is a part of the fight about it.
            let contested = |trouble: &Trouble| {
                let mut steps = trouble.not_in_effect().into_iter().flatten().peekable();
                steps.peek().is_some() && steps.all(|step| self.fights.is_contested(&Subject::of(step)))
            };
            troubles.extend(undone.into_iter().filter(|trouble| !contested(trouble)));
            if !self.retire {
                troubles.extend(self.fights.lasting().map(Trouble::Fight));
            }
            self.status.troubles = Some(troubles);
        }
    }

    /// What of the plan this machine cannot have.
    fn own_troubles(&self) -> Vec<Trouble> {
        if self.retire {
            return Vec::new();
        }
        let unpublished = self.unpublished.then_some(Trouble::Unpublished);
        let conflicts = self.conflicts.get_or_init(|| conflicts(&self.plan, &self.facts));
        let conflicts = conflicts.iter().cloned().map(Trouble::Conflict);
        let others = [
            self.status.older.clone(),
            self.status.storage.clone(),
            self.status.unwatched.clone(),
            self.status.clock.clone(),
        ];
        let others = others.into_iter().flatten();
        let is_cut_off = self.links().values().any(|up| !up);
        let closed_port = self.closed_port().filter(|_| is_cut_off).cloned();
        let others = others.chain(closed_port.map(Trouble::ClosedPort));
        let troubles = unpublished.into_iter().chain(conflicts).chain(others);
        troubles.chain(self.unreached()).chain(self.stranded()).collect()
    }
}
