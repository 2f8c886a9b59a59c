//! How likely it is that a path which works leaves so many probes in a row unanswered.

/// How many probes are remembered, each a little less than the one after it: five minutes at ten a second. Few misses say little
/// about how often one follows another, so it must not be few.
const MEMORY: f64 = 3000.0;
/// Misses and probes that are taken for seen before any were.
const PRIOR: (f64, f64) = (0.25, 10.0);
/// How many misses it takes until what followed them says as much as the rate of misses does.
const PRIOR_AGAIN: f64 = 10.0;
/// However good a path was, a miss may happen.
const LEAST: f64 = 0.000_1;
/// However bad a path was, silence has to mean something at last.
const MOST: f64 = 0.8;

/// How often probes of one path are missed, and how often after a miss.
///
/// Loss comes in bursts, as long as a queue overflows or a radio link is in a shadow, so two misses in a row are more likely than
/// two independent ones (Gilbert 1960, "Capacity of a Burst-Noise Channel"): a chain with the two states answered and missed.
#[derive(Clone, Debug, Default)]
pub(super) struct Odds {
    probes: f64,
    misses: f64,
    /// Probes right after a miss, and those of them that were missed as well.
    after: f64,
    again: f64,
}

impl Odds {
    /// Takes a run of misses that ended with an answer. An answer alone is a run of none.
    pub(super) fn handle_run(&mut self, misses: u32) {
        for miss in 0..misses {
            self.fade();
            self.misses += 1.0;
            if miss > 0 {
                self.after += 1.0;
                self.again += 1.0;
            }
        }
        self.fade();
        if misses > 0 {
            self.after += 1.0;
        }
    }

    fn fade(&mut self) {
        for count in [
            &mut self.probes,
            &mut self.misses,
            &mut self.after,
            &mut self.again,
        ] {
            *count *= 1.0 - 1.0 / MEMORY;
        }
        self.probes += 1.0;
    }

    /// Returns the share of probes that are missed, from 0 to 1.
    pub(super) fn loss(&self) -> f64 {
        if self.probes > 0.0 {
            self.misses / self.probes
        } else {
            0.0
        }
    }

    /// Returns the same as [`Self::suspicion`] for the worst path that works.
    pub(super) fn least_suspicion(run: u32) -> f64 {
        -f64::from(run) * MOST.log10()
    }

    /// Returns -log10 of the likelihood that a path which works misses so many in a row.
    pub(super) fn suspicion(&self, run: u32) -> f64 {
        if run == 0 {
            return 0.0;
        }
        let miss = (self.misses + PRIOR.0) / (self.probes + PRIOR.1);
        let again = (self.again + PRIOR_AGAIN * miss) / (self.after + PRIOR_AGAIN);
        let miss = miss.clamp(LEAST, MOST);
        // Misses that shun each other are unheard of; a few that do are chance.
        let again = again.clamp(miss, MOST);
        -(miss.log10() + f64::from(run - 1) * again.log10())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns how many misses in a row it takes.
    fn misses(odds: &Odds) -> u32 {
        (1..1000).find(|run| odds.suspicion(*run) >= 8.0).unwrap()
    }

    #[test]
    fn a_few_misses_are_enough_on_a_path_without_loss() {
        let mut odds = Odds::default();
        (0..20).for_each(|_| odds.handle_run(0));
        assert_eq!(misses(&odds), 4);
        (0..3000).for_each(|_| odds.handle_run(0));
        assert_eq!(misses(&odds), 3);
        odds.handle_run(2);
        assert_eq!(misses(&odds), 6, "one pair of misses is not taken for a habit");
    }

    #[test]
    fn loss_in_bursts_asks_for_more_misses_than_the_same_loss_spread() {
        let (mut spread, mut bursts) = (Odds::default(), Odds::default());
        for _ in 0..100 {
            for _ in 0..3 {
                (0..8).for_each(|_| spread.handle_run(0));
                spread.handle_run(1);
            }
            (0..26).for_each(|_| bursts.handle_run(0));
            bursts.handle_run(3);
        }
        assert!((spread.loss() - bursts.loss()).abs() < 0.01);
        assert!(misses(&spread) < 10, "{}", misses(&spread));
        assert!(misses(&bursts) > 30, "{}", misses(&bursts));
    }

    #[test]
    fn loss_that_is_over_is_forgotten() {
        let mut odds = Odds::default();
        (0..500).for_each(|_| odds.handle_run(2));
        assert!(misses(&odds) > 20);
        (0..30_000).for_each(|_| odds.handle_run(0));
        assert_eq!(misses(&odds), 3);
    }

    #[test]
    fn silence_means_something_even_on_the_worst_path() {
        let mut odds = Odds::default();
        (0..1000).for_each(|_| odds.handle_run(50));
        assert!(misses(&odds) < 100, "{}", misses(&odds));
    }
}
