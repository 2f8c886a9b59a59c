//! The liveness of peers and of the locations behind them.

#[cfg(test)]
mod chance;
mod connectivity;
mod detector;
mod sessions;
mod stimulus;

pub use connectivity::Connectivity;
pub use detector::{Detector, Round, Standing, THRESHOLD};
pub use sessions::{FRESH, PATIENCE, SELDOM, Sessions};
pub use stimulus::Stimulus;
