//! The liveness of peers and of the locations behind them.

mod assignment;
mod attached;
mod backoff;
#[cfg(test)]
mod chance;
mod connectivity;
mod detector;
mod judge;
mod missing;
mod prober;
mod sessions;
mod stimulus;

pub use assignment::Assignment;
pub use attached::{Attached, AttachedPeers};
pub use connectivity::Connectivity;
pub use detector::{Detector, Round, Standing, THRESHOLD};
pub use judge::{Judgement, Subject, Trust};
pub use missing::Missing;
pub use prober::{Prober, Question, Seen, Settings, Way};
pub use sessions::{FRESH, PATIENCE, SELDOM, Sessions};
pub use stimulus::Stimulus;
