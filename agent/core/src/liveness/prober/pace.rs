//! How often what is watched is asked, so that all of it together stays below the ceiling.

use std::time::{Duration, Instant};

use super::super::{detector::Standing, judge::Subject};
use super::{Prober, watch::Watch};

/// How much of what may be sent in a second is for members of the own location, of which there may be hundreds: so the leaders are asked as
/// often as without them.
const SHARE_OF_MEMBERS: f64 = 0.1;
/// How often the leaders of a location that no way reaches are asked, and for how long since none answers. All that is sent
/// there waits for the first answer, and an outage of some seconds is the most frequent one.
const HASTE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(30));

impl Prober {
    /// Returns how often everything is asked now, but for members of the own location, and for what is asked in haste.
    #[must_use]
    pub fn interval(&self) -> Duration {
        let least = (self.watches.len() - self.members) as f64 / self.rate_of_leaders();
        self.settings.interval.max(Duration::from_secs_f64(least))
    }

    /// Returns how often this is asked now.
    pub(super) fn interval_of(&self, watch: &Watch, now: Instant) -> Duration {
        if watch.is_member() && !watch.is_doubtful_member() {
            self.interval_of_members()
        } else if self.is_urgent(watch, now) {
            self.haste
        } else {
            self.interval()
        }
    }

    /// Returns how often leaders are to be asked of locations that have just come to be reached by no way: as often as what all else
    /// is asked leaves of the ceiling.
    pub(super) fn hasty_interval(&self) -> Duration {
        let (mut hasty, mut others) = (0, 0);
        for watch in self.watches.values().filter(|watch| !watch.is_member()) {
            let questions = if self.is_missed(watch) {
                &mut hasty
            } else {
                &mut others
            };
            *questions += watch.cost();
        }
        let interval = self.interval();
        let left = self.rate_of_leaders() - f64::from(others) / interval.as_secs_f64();
        let least = Duration::from_secs_f64(f64::from(hasty) / left.max(1.0));
        least.max(HASTE.0).min(interval)
    }

    /// Returns how often each member of the own location is asked, while it answers.
    fn interval_of_members(&self) -> Duration {
        let least = self.members as f64 / (self.settings.rate() * SHARE_OF_MEMBERS);
        self.settings.interval.max(Duration::from_secs_f64(least))
    }

    /// How many questions may be sent in a second, besides those to members of the own location.
    fn rate_of_leaders(&self) -> f64 {
        let share = if self.members > 0 { SHARE_OF_MEMBERS } else { 0.0 };
        self.settings.rate() * (1.0 - share)
    }

    /// Whether it is a leader that answered before, of a location that no way reaches.
    fn is_missed(&self, watch: &Watch) -> bool {
        self.missed_since(watch).is_some()
    }

    fn is_urgent(&self, watch: &Watch, now: Instant) -> bool {
        self.missed_since(watch)
            .is_some_and(|since| now < since + HASTE.1)
    }

    /// Since when no way reaches the location of a leader that answered before.
    fn missed_since(&self, watch: &Watch) -> Option<Instant> {
        let (Subject::Far(location, _), Standing::Lost) = (&watch.subject, watch.detector.standing()) else {
            return None;
        };
        self.silent.get(location).copied()
    }
}
