//! One run of tests: started, shown, bounded, and read.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use spanwire_e2e::{Bounds, Lab, Outcome, Progress, Selection};

/// A run of tests: where its report is to lie, and its bounds.
#[derive(Debug)]
pub(crate) struct Trial {
    /// Where the report lies; what the tests print lies beside it.
    pub(crate) report: PathBuf,
    /// How many tests run at once.
    pub(crate) at_once: usize,
    /// After which time it is given up.
    pub(crate) limit: Duration,
}

/// So long a test that is interrupted may clean up.
const GRACE: Duration = Duration::from_mins(3);

impl Trial {
    /// Runs the tests of a selection in a lab.
    pub(crate) fn run(&self, lab: &Lab, selection: &Selection) -> Result<Outcome> {
        let folder = self.report.parent().context("a report lies in a folder")?;
        fs::create_dir_all(folder)?;
        if self.report.exists() {
            fs::remove_file(&self.report)?;
        }
        let log = self.report.with_extension("log");
        let bounds = Bounds {
            at_once: self.at_once,
            time: self.limit,
        };
        let output = fs::File::create(&log)?;
        let mut tests = lab
            .kubernetes_tests(selection, bounds, &self.report)?
            .into_command()?
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("cannot start the tests")?;
        let name = self.report.file_stem().unwrap_or_default().to_string_lossy();
        Progress::shown().stage(&format!("tests: {name}"), || self.wait(&mut tests))?;
        Outcome::read(&self.report).with_context(|| format!("what the tests said is in {}", log.display()))
    }

    /// Waits for the end; that tests fail is no error.
    fn wait(&self, tests: &mut Child) -> Result<()> {
        let deadline = Instant::now() + self.limit + GRACE;
        while tests.try_wait()?.is_none() {
            if Instant::now() > deadline {
                tests.kill()?;
                tests.wait()?;
            }
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }
}
