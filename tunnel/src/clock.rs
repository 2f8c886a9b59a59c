//! The clocks of a machine, which differ after it was suspended and when its time is set.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

/// The same moment by the clock that shows the time, and by one that nobody sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// What the wall clock showed.
    pub wall: SystemTime,
    /// Since the machine started, with the time for which it was suspended (CLOCK_BOOTTIME). By this clock boringtun
    /// counts, too; [`std::time::Instant`] stands while the machine is suspended.
    pub uptime: Duration,
}

impl Moment {
    /// Reads both clocks.
    pub fn now() -> Self {
        // Linux has had this clock since 2.6.39, and an error is none of its answers.
        let uptime = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
        Self {
            wall: SystemTime::now(),
            uptime,
        }
    }

    /// Returns how far the wall clock has been set ahead between then and this moment; zero when it was not, or back.
    pub fn set_ahead_since(self, then: Self) -> Duration {
        let passed = self.uptime.saturating_sub(then.uptime);
        self.wall
            .duration_since(then.wall + passed)
            .unwrap_or(Duration::ZERO)
    }
}
