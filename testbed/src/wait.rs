//! Waiting for what happens in another process.

use std::{
    thread,
    time::{Duration, Instant},
};

/// How often is looked: short beside the least that a test measures.
const INTERVAL: Duration = Duration::from_millis(20);

/// Waits until something holds and returns how long that took.
///
/// # Panics
/// It does not hold within the limit.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(INTERVAL);
    }
    start.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_at_the_third_look_is_waited_for() {
        let mut looks = 0;
        let took = wait_until("the third look", Duration::from_secs(10), || {
            looks += 1;
            looks == 3
        });
        assert!(looks == 3 && took >= 2 * INTERVAL, "{looks} {took:?}");
    }

    #[test]
    #[should_panic(expected = "not within 1ms: the impossible")]
    fn what_never_holds_fails_with_its_name() {
        wait_until("the impossible", Duration::from_millis(1), || false);
    }
}
