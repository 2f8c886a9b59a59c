//! The clocks of a machine, which differ after it was suspended and when its time is set.

use std::time::{Duration, Instant, SystemTime};

use nix::time::{ClockId, clock_gettime};

/// The same moment by the clock that shows the time, by one that cannot be set, and by one that stands while the machine is
/// suspended. They cannot be read at once: a busy machine may do something else between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// What the wall clock showed.
    pub wall: SystemTime,
    /// Since the machine started, with the time for which it was suspended (CLOCK_BOOTTIME). By this clock boringtun
    /// counts, too; [`std::time::Instant`] stands while the machine is suspended.
    pub uptime: Duration,
    /// Before and after the others were read.
    pub awake: [Instant; 2],
}

/// Since the machine started. Linux has had this clock since 2.6.39, and an error is none of its answers.
fn uptime() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

impl Moment {
    /// Reads the clocks.
    pub fn now() -> Self {
        let before = Instant::now();
        let uptime = uptime();
        Self {
            wall: SystemTime::now(),
            uptime,
            awake: [before, Instant::now()],
        }
    }

    /// Returns for how long the machine was suspended between then and this moment, at least.
    pub fn suspended_since(self, then: Self) -> Duration {
        let passed = self.uptime.saturating_sub(then.uptime);
        passed.saturating_sub(self.awake[1].saturating_duration_since(then.awake[0]))
    }

    /// Returns how far the wall clock has been set ahead between then and this moment; zero when it was not, or back.
    pub fn set_ahead_since(self, then: Self) -> Duration {
        let passed = self.uptime.saturating_sub(then.uptime);
        self.wall
            .duration_since(then.wall + passed)
            .unwrap_or(Duration::ZERO)
    }
}

/// A machine that is suspended sleeps for longer.
pub(crate) const SUSPENDED: Duration = Duration::from_millis(500);

/// Whether a thread that has something to do may have been suspended with the machine since it looked last, for the price of one
/// clock.
#[derive(Clone, Copy, Debug)]
pub struct Suspicion {
    uptime: Duration,
    awake: Instant,
}

impl Suspicion {
    /// Begins now.
    pub fn new() -> Self {
        Self {
            uptime: uptime(),
            awake: Instant::now(),
        }
    }

    /// Returns whether more time passed for the machine than for this thread until `now`, which was read a moment before; then
    /// the clocks are to be compared in earnest ([`Moment`]), for the thread may only have waited in that moment.
    pub fn arises(&mut self, now: Instant) -> bool {
        let awake = now.saturating_duration_since(self.awake);
        let arises = uptime().saturating_sub(self.uptime) >= awake + SUSPENDED;
        if arises {
            *self = Self::new();
        }
        arises
    }
}

impl Default for Suspicion {
    fn default() -> Self {
        Self::new()
    }
}
