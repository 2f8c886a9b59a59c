//! What tests, benchmarks and the lab share. No product code depends on this crate.
//!
//! [`programs`] is the only way in which they start another program: what `scripts/programs` does not list is refused,
//! so that a program that `scripts/setup` does not install is missed on every machine and not only on a fresh one.

pub mod programs;

/// Makes a command of a listed program, or of one that was built and is named by its path; for tests, which fail with
/// what to do when it is refused.
///
/// # Panics
/// The program is not on the list.
#[must_use]
#[track_caller]
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> std::process::Command {
    programs::command(program).unwrap_or_else(|refused| panic!("{refused}"))
}
