//! The liveness of peers and of the locations behind them.

mod connectivity;
mod sessions;
mod stimulus;

pub use connectivity::Connectivity;
pub use sessions::{FRESH, PATIENCE, SELDOM, Sessions};
pub use stimulus::Stimulus;
