//! How long answers take.

use std::time::Duration;

/// However steady answers are, one may be so much later: the other side's processor is busy, or this one's.
const SLACK: f64 = 0.04;
/// An answer is not waited for any longer, however long they take.
const LONGEST: f64 = 2.0;

/// The round-trip time of a path, smoothed as TCP does it (RFC 6298, section 2).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rtt {
    /// In seconds; `None` before the first answer.
    smoothed: Option<f64>,
    deviation: f64,
}

impl Rtt {
    pub(super) fn handle_sample(&mut self, rtt: Duration) {
        let rtt = rtt.as_secs_f64();
        match &mut self.smoothed {
            None => (self.smoothed, self.deviation) = (Some(rtt), rtt / 2.0),
            Some(smoothed) => {
                self.deviation += ((rtt - *smoothed).abs() - self.deviation) / 4.0;
                *smoothed += (rtt - *smoothed) / 8.0;
            }
        }
    }

    /// Returns the round-trip time, once anything is known of it.
    pub(super) fn smoothed(&self) -> Option<Duration> {
        self.smoothed.map(Duration::from_secs_f64)
    }

    /// Returns how long after a probe its answer is late.
    pub(super) fn patience(&self) -> Duration {
        // Before the first answer anything is possible.
        let usual = self
            .smoothed
            .map_or(LONGEST, |smoothed| smoothed + (4.0 * self.deviation).max(SLACK));
        Duration::from_secs_f64(usual.min(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_late_by_how_much_answers_differ() {
        let patience = |samples: &[u64]| {
            let mut rtt = Rtt::default();
            for sample in samples.iter().cycle().take(100) {
                rtt.handle_sample(Duration::from_millis(*sample));
            }
            rtt.patience().as_millis()
        };
        assert_eq!(Rtt::default().patience().as_secs(), 2);
        assert!((40..42).contains(&patience(&[1])));
        assert!((140..142).contains(&patience(&[100])));
        assert!(
            (250..350).contains(&patience(&[50, 150])),
            "{}",
            patience(&[50, 150])
        );
        assert_eq!(patience(&[30_000]), 2000);
    }
}
