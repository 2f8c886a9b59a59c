//! What one machine should look like for Spanwire, as a pure function of its plan.
//!
//! ```text
//! render(plan, facts of the machine)     -> Host        what the machine should look like
//! wireguard(plan, facts of the machine)  -> Device      its WireGuard device alone
//! diff(actual Host, wanted Host)         -> Vec<Step>   how to get there, adds before removes
//! ```
//!
//! A [`Host`] holds only what Spanwire owns on the machine ([`owned`] says how that is recognised); the kernel crate
//! reads the actual one and applies the steps.

#![forbid(unsafe_code)]

mod conflict;
mod diff;
mod facts;
pub mod fake;
mod firewall;
mod inventory;
mod ipsec;
mod lookup;
mod marking;
mod nft;
mod overtaking;
mod owned;
mod ownership;
mod prefixes;
mod preshared;
mod render;
mod resolve;
mod state;
mod text;

pub use conflict::{ClosedPort, Conflict, Unopened};
pub use diff::diff;
pub use facts::HostFacts;
pub use firewall::{
    ChainName, Direction, Dropper, Elsewhere, Fate, Filter, FilterRule, Judgement, MarkChange, Match, More,
    Pass, Passage, Passing, Place, Protocol, Sample, Stage, State, TableFamily, Transport, Unread, Verdict,
    judge,
};
pub use inventory::{Cni, CniRoute, Encapsulation, Inventory, OtherLink, PeerStats};
pub use ipsec::IpsecPolicy;
pub use lookup::{Packet, lookup};
pub use nft::{AddressRange, NftSet};
pub use overtaking::OtherRule;
pub use owned::{Owned, OwnedError};
pub use ownership::OwnershipConflict;
pub use preshared::PresharedKey;
pub use render::{closed_port, conflicts, render, wireguard};
pub use resolve::{Hop, HopReason, hop_device, hop_in_use, hops_to_leaders, hops_to_members};
pub use state::{
    Device, DeviceKind, Host, LinkName, NftTable, PeerChange, Route, RouteKey, RouteKind, Rule, RuleAction,
    RuleSelector, Step, Sysctl, TableId, Vxlan, VxlanSettings, WireGuard, WireGuardPeer, WireGuardSettings,
};
