//! What the lab is doing, told to whoever waits for it.

use std::time::Instant;

/// Tells stages as they pass, on standard error.
#[derive(Debug, Clone)]
pub struct Progress {
    quiet: bool,
    since: Instant,
}

impl Progress {
    /// Tells every stage and how long it took.
    pub fn told() -> Self {
        Self {
            quiet: false,
            since: Instant::now(),
        }
    }

    /// Tells nothing.
    pub fn quiet() -> Self {
        Self {
            quiet: true,
            since: Instant::now(),
        }
    }

    /// Runs a stage.
    pub fn stage<T, E>(&self, what: &str, run: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let start = Instant::now();
        let result = run();
        let end = if result.is_ok() { "" } else { "  FAILED" };
        self.say(&format!(
            "{what:<44} {:5.1} s{end}",
            start.elapsed().as_secs_f64()
        ));
        result
    }

    /// Says something.
    pub fn say(&self, what: &str) {
        if !self.quiet {
            eprintln!("lab {:6.1}  {what}", self.since.elapsed().as_secs_f64());
        }
    }
}
