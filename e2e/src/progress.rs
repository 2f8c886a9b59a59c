//! Reports on standard error what the lab is doing, for people who wait for it.

use std::time::Instant;

/// Reports stages as they pass, on standard error.
#[derive(Debug, Clone)]
pub struct Progress {
    quiet: bool,
    since: Instant,
}

impl Progress {
    /// Reports every stage and how long it took.
    pub fn shown() -> Self {
        Self {
            quiet: false,
            since: Instant::now(),
        }
    }

    /// Reports nothing.
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

    /// Prints a line.
    pub fn say(&self, what: &str) {
        if !self.quiet {
            eprintln!("lab {:6.1}  {what}", self.since.elapsed().as_secs_f64());
        }
    }
}
