//! What keeps a node from doing all of what the mesh asks of it.

use std::{collections::BTreeSet, fmt};

use k8s_openapi::jiff::Timestamp;
use spanwire_host::{ClosedPort, Conflict, OwnershipConflict, Step};
use spanwire_topology::{LocationName, NodeName};

use crate::{fights::Fight, following::PATIENCE};

/// How many steps, or locations, a text names.
const NAMED: usize = 6;

/// A part of what was to be done that is not. Data until it is printed; its text says what to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The cluster publishes nothing of this node any more, and the node keeps to the decision before.
    Unpublished,
    /// The API server shows older objects than those that the node follows, this one first; the node keeps to the newer ones.
    Older(String),
    /// The machine cannot have a part of the plan.
    Conflict(Conflict),
    /// Another program uses what is Spanwire's.
    Ownership(OwnershipConflict),
    /// A location is not reached, and the firewall of this node lets its leaders begin no session.
    ClosedPort(ClosedPort),
    /// Another program takes away what is Spanwire's again and again.
    Fight(Fight),
    /// A step failed.
    Step {
        /// The step.
        step: Step,
        /// The error with its causes.
        cause: String,
    },
    /// The WireGuard device could not be made, and other steps failed for want of it.
    Device {
        /// The step that makes it.
        step: Step,
        /// The error with its causes.
        cause: String,
        /// How many other steps failed.
        others: usize,
    },
    /// All steps were applied, but these are called for again when the machine is read.
    NotInEffect(Vec<Step>),
    /// The removal was applied, but these are still there.
    Left(Vec<Step>),
    /// The machine cannot be worked with, or its state is not known: the error with its causes.
    Machine(String),
    /// The node's key cannot be read or kept.
    Key {
        /// The error with its causes.
        cause: String,
        /// There is a key all the same, until the node boots.
        usable: bool,
    },
    /// The checkpoint cannot be written: the error with its causes.
    Storage(String),
    /// Leaders are not watched: the error with its causes.
    Unwatched(String),
    /// Nothing answers from a location any more.
    Unreached {
        /// The location.
        location: LocationName,
        /// Its leaders that are asked.
        leaders: BTreeSet<NodeName>,
        /// Since when.
        since: Timestamp,
    },
    /// Nothing answers from any other location any more, of which there are several.
    CutOff {
        /// The locations.
        locations: BTreeSet<LocationName>,
        /// Since when.
        since: Timestamp,
    },
    /// No leader of the own location answers any more.
    Stranded {
        /// The leaders.
        leaders: BTreeSet<NodeName>,
        /// Since when.
        since: Timestamp,
    },
    /// The clock is wrong.
    Clock {
        /// By how many seconds it is behind; ahead, where negative.
        behind: i64,
    },
    /// What was found before Spanwire cannot be put back, or a file not be removed: the error with its causes.
    Cleanup(String),
}

impl Trouble {
    /// Returns the kind of the trouble, from a closed list.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unpublished => "Unpublished",
            Self::Older(_) => "Older",
            Self::Conflict(_) => "Conflict",
            Self::Ownership(_) => "OwnershipConflict",
            Self::ClosedPort(_) => "WireGuardPortClosed",
            Self::Fight(_) => "Contested",
            Self::Step { .. } => "StepFailed",
            Self::Device { .. } => "NoDevice",
            Self::NotInEffect(_) => "NotInEffect",
            Self::Left(_) => "NotRemoved",
            Self::Machine(_) => "MachineUnreadable",
            Self::Key { .. } => "NoKey",
            Self::Storage(_) => "NotStored",
            Self::Unwatched(_) => "Unwatched",
            Self::Unreached { .. } => "Unreached",
            Self::CutOff { .. } => "CutOff",
            Self::Stranded { .. } => "Stranded",
            Self::Clock { .. } => "Clock",
            Self::Cleanup(_) => "CleanupFailed",
        }
    }

    /// Returns whether it may be no more than that the machine changed since it was surveyed. A device that takes seconds to be made is
    /// not tried a second time for that.
    pub(crate) fn may_be_outdated(&self) -> bool {
        let has_failed = matches!(self, Self::Step { step, .. } if !matches!(step, Step::AddWireGuard(..)));
        has_failed || self.not_in_effect().is_some()
    }

    /// Returns the steps that had no effect, where that is the trouble.
    pub(crate) fn not_in_effect(&self) -> Option<&[Step]> {
        #[expect(clippy::wildcard_enum_match_arm, reason = "all others are other troubles")]
        match self {
            Self::NotInEffect(steps) => Some(steps),
            _ => None,
        }
    }

    /// Returns whether packets of the mesh may be lost, or not be protected, for that.
    #[must_use]
    pub fn stops_traffic(&self) -> bool {
        match self {
            // What a node that is to lead lacks without a key is a conflict of its own.
            Self::Unpublished
            | Self::Older(_)
            | Self::Clock { .. }
            | Self::Key { .. }
            | Self::Storage(_)
            | Self::Unwatched(_)
            | Self::Cleanup(_)
            | Self::Left(_) => false,
            Self::Conflict(conflict) => conflict.stops_traffic(),
            Self::Ownership(_)
            | Self::ClosedPort(_)
            | Self::Fight(_)
            | Self::Step { .. }
            | Self::Device { .. }
            | Self::NotInEffect(_)
            | Self::Unreached { .. }
            | Self::CutOff { .. }
            | Self::Stranded { .. }
            | Self::Machine(_) => true,
        }
    }

    /// Returns whether it lies elsewhere, as far as is known: this node does all that it is to do.
    #[must_use]
    pub fn is_elsewhere(&self) -> bool {
        matches!(
            self,
            Self::Unreached { .. } | Self::CutOff { .. } | Self::Stranded { .. }
        )
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unpublished => f.write_str(
                "no LocationSlice has this node any more; it goes on as it was decided before. Are the LocationSlices \
                 deleted, and does the operator run? To clear the node uninstall the chart, or run `spanwire-agent \
                 cleanup` on it",
            ),
            Self::Older(first) => write!(
                f,
                "the API server shows an older {first} than this node follows; the node keeps to what is newer until that is \
                 shown, for {} seconds at most, and follows the older one then. Does the API server lag behind, or was it \
                 restored from a backup?",
                PATIENCE.as_secs()
            ),
            Self::Conflict(conflict) => conflict.fmt(f),
            Self::Ownership(conflict) => conflict.fmt(f),
            Self::ClosedPort(closed) => closed.fmt(f),
            Self::Fight(fight) => fight.fmt(f),
            Self::Step { step, cause } => write!(f, "{step}: {cause}"),
            Self::Device { step, cause, others } => {
                write!(f, "{step}: {cause}; and {others} steps that need the device")
            }
            Self::NotInEffect(steps) => write!(f, "applied, but not so when read again: {}", texts(steps)),
            Self::Left(steps) => write!(f, "still there: {}", texts(steps)),
            Self::Key { cause, usable: true } => write!(
                f,
                "{cause}; this node goes on with the key of its running device, which is lost when it boots"
            ),
            Self::Key { cause, usable: false } => write!(f, "{cause}; without a key this node cannot lead"),
            Self::Storage(cause) => write!(
                f,
                "{cause}; after a boot this node would begin with what was decided before that, until it reaches the API \
                 server"
            ),
            Self::Unwatched(cause) => write!(
                f,
                "{cause}; until then leaders are not watched, and are used as published whether they answer or not"
            ),
            Self::Unreached {
                location,
                leaders,
                since,
            } => {
                let leaders: Vec<&str> = leaders.iter().map(NodeName::as_str).collect();
                write!(
                    f,
                    "location {location} has not been reached since {since:.0}: of its leaders ({}) none answers any more, by \
                     whatever way; do they run, does UDP pass between the locations, and do nodes answer echo requests (ping)?",
                    leaders.join(", ")
                )
            }
            Self::CutOff { locations, since } => {
                let mut names: Vec<&str> = locations.iter().map(LocationName::as_str).collect();
                let others = names.len().saturating_sub(NAMED);
                names.truncate(NAMED);
                let more = if others > 0 { format!(" and {others} more") } else { String::new() };
                write!(
                    f,
                    "no other location has been reached since {since:.0}: neither from {}{more} does any leader answer, by whatever \
                     way, so look here first: does the uplink of this node and of the leaders beside it work, and does their \
                     firewall let UDP out and echo requests (ping) in?",
                    names.join(" nor from ")
                )
            }
            Self::Stranded { leaders, since } => {
                let leaders: Vec<&str> = leaders.iter().take(NAMED).map(NodeName::as_str).collect();
                write!(
                    f,
                    "no leader of its own location has answered this node since {since:.0}: neither {} by the hop, nor anything through \
                     them; do they run, do they answer echo requests (ping), and does the network between the nodes carry what the \
                     CNI sends?",
                    leaders.join(" nor ")
                )
            }
            Self::Clock { behind } => {
                let (direction, meanwhile) = if *behind > 0 {
                    (
                        "behind",
                        "nodes that have heard it before refuse the handshakes that it begins, some minutes long or until \
                         it is set right, and certificates may seem not to be valid yet",
                    )
                } else {
                    (
                        "ahead of",
                        "once it is set right, nodes refuse the handshakes that it begins until they have not heard it for \
                         some minutes",
                    )
                };
                write!(
                    f,
                    "this node's clock is about {} {direction} the cluster's: {meanwhile}; is its time synchronised?",
                    rough(behind.unsigned_abs())
                )
            }
            Self::Machine(cause) | Self::Cleanup(cause) => f.write_str(cause),
        }
    }
}

/// Returns a time in words that stay the same while it varies by little.
fn rough(seconds: u64) -> String {
    match seconds {
        0..120 => "a minute".to_owned(),
        120..7_200 => format!("{} minutes", seconds / 60),
        7_200..172_800 => format!("{} hours", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Returns the first few steps as text, for a log line.
#[must_use]
pub fn texts(steps: &[Step]) -> String {
    let mut texts: Vec<String> = steps.iter().take(NAMED).map(ToString::to_string).collect();
    if steps.len() > NAMED {
        texts.push(format!("and {} more", steps.len() - NAMED));
    }
    texts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_cut() {
        let steps = vec![Step::DeleteNft; NAMED + 2];
        assert!(texts(&steps).ends_with("nft delete; and 2 more"));
        assert_eq!(texts(&steps[..1]), "nft delete");
    }

    #[test]
    fn a_wrong_clock_is_described_by_direction_and_rough_size() {
        let text = |behind| Trouble::Clock { behind }.to_string();
        assert!(
            text(3 * 86_400 + 5).starts_with("this node's clock is about 3 days behind the cluster's: nodes")
        );
        assert!(
            text(-3_599).starts_with("this node's clock is about 59 minutes ahead of the cluster's: once")
        );
        assert_eq!(text(7_201), text(7_300));
    }

    #[test]
    fn a_trouble_is_data_until_it_is_printed() {
        let step = || Step::DeleteNft;
        let cause = || "the kernel refused it".to_owned();
        let device = Trouble::Device {
            step: step(),
            cause: cause(),
            others: 2,
        };
        for (trouble, reason, text) in [
            (
                Trouble::Step {
                    step: step(),
                    cause: cause(),
                },
                "StepFailed",
                "nft delete: the kernel refused it",
            ),
            (
                device,
                "NoDevice",
                "nft delete: the kernel refused it; and 2 steps that need the device",
            ),
            (
                Trouble::NotInEffect(vec![step()]),
                "NotInEffect",
                "applied, but not so when read again: nft delete",
            ),
            (
                Trouble::Left(vec![step()]),
                "NotRemoved",
                "still there: nft delete",
            ),
        ] {
            assert_eq!((trouble.reason(), trouble.to_string().as_str()), (reason, text));
        }
    }
}
