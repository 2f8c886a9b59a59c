//! Waiting until something holds.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

/// Waits until something holds; the error says what did not.
pub fn wait_until(what: &str, timeout: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        let last = match holds() {
            Ok(true) => return Ok(()),
            Ok(false) => String::new(),
            Err(error) => format!(": {error:#}"),
        };
        ensure!(
            Instant::now() < deadline,
            "{what}: not within {} s{last}",
            timeout.as_secs_f64()
        );
        thread::sleep(Duration::from_millis(100));
    }
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn the_error_says_what_did_not_hold_and_why() {
        let error = wait_until("the door is open", Duration::ZERO, || bail!("it is locked")).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("the door is open") && text.contains("it is locked"),
            "{text}"
        );
    }

    #[test]
    fn what_holds_after_a_failure_is_enough() {
        let mut tries = 0;
        let later = || {
            tries += 1;
            if tries < 3 { bail!("not yet") } else { Ok(true) }
        };
        wait_until("the third try", Duration::from_secs(10), later).unwrap();
    }
}
