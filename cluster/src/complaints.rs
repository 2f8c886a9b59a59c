//! What is logged of objects that cannot be read; sans I/O.
//!
//! Who may write an object may write it again and again, each time with something else that cannot be read. So an object is
//! named when what is wrong with it changes, and of one kind [`BURST`] lines are logged at once and then one per [`EVERY`].

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

/// So many lines are logged without a pause.
const BURST: u32 = 20;
/// After that there is one more for each such time.
const EVERY: Duration = Duration::from_secs(10);

/// What was logged of the objects of one kind.
#[derive(Debug)]
pub struct Complaints {
    /// By name, what was last found wrong.
    known: BTreeMap<String, String>,
    left: u32,
    since: Option<Instant>,
}

impl Default for Complaints {
    fn default() -> Self {
        Self {
            known: BTreeMap::new(),
            left: BURST,
            since: None,
        }
    }
}

impl Complaints {
    /// Handles what is wrong with an object, nothing where `complaint` is empty; returns whether to log it.
    pub fn handle(&mut self, name: &str, complaint: &str, now: Instant) -> bool {
        if complaint.is_empty() {
            self.known.remove(name);
            return false;
        }
        if self.known.get(name).is_some_and(|known| known == complaint) {
            return false;
        }
        let since = *self.since.get_or_insert(now);
        let gained = now.saturating_duration_since(since).as_secs() / EVERY.as_secs();
        if gained > 0 {
            self.left = self
                .left
                .saturating_add(u32::try_from(gained).unwrap_or(BURST))
                .min(BURST);
            self.since = Some(now);
        }
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        self.known.insert(name.to_owned(), complaint.to_owned());
        true
    }

    /// Handles that an object is gone.
    pub fn forget(&mut self, name: &str) {
        self.known.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_named_when_what_is_wrong_with_it_changes() {
        let now = Instant::now();
        let mut complaints = Complaints::default();
        assert!(!complaints.handle("a", "", now));
        assert!(complaints.handle("a", "x", now));
        assert!(!complaints.handle("a", "x", now));
        assert!(complaints.handle("a", "y", now));
        assert!(!complaints.handle("a", "", now));
        assert!(complaints.handle("a", "y", now), "it was well meanwhile");
        complaints.forget("a");
        assert!(
            complaints.handle("a", "y", now),
            "it is another object of that name"
        );
    }

    #[test]
    fn one_that_changes_all_the_time_fills_no_log_and_hides_no_other_for_long() {
        let start = Instant::now();
        let mut complaints = Complaints::default();
        let lines = (0..10_000).filter(|number| complaints.handle("a", &number.to_string(), start));
        assert_eq!(lines.count(), BURST as usize);
        assert!(!complaints.handle("b", "x", start));
        let later = start + EVERY;
        assert!(complaints.handle("b", "x", later));
        assert!(!complaints.handle("c", "x", later));
        let quiet = later + EVERY * 1000;
        let lines = (0..10_000).filter(|number| complaints.handle("a", &number.to_string(), quiet));
        assert_eq!(lines.count(), BURST as usize);
    }
}
