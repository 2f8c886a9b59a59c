//! The Spanwire lab: a real cluster on one machine, and the tests that run in it.
//!
//! A [`Scenario`] says what the cluster consists of. [`Lab::up`] makes it: every node is a set of namespaces with
//! its own containerd, kubelet, kube-proxy and CNI; every location is a LAN behind a router; the routers meet
//! on an *internet* that drops private addresses. A lab outlives the process that made it, so [`Lab::attach`]
//! finds it again and [`Lab::down`] removes it, whatever became of its maker.
//!
//! * `scenario`, `layout`: what the user wants, and the addresses that follow from it. `profile`: what neighbours do to hosts.
//! * `net`: namespaces, segments, routers. `node`: one machine. `pki`, `images`, `cluster`, `calico`, `cloud`, `chart`:
//!   what runs on it.
//! * `lab`: a lab that is up, its data and clients; `objects`, `up`, `machine`, `credentials`, `ping`, `transfer`, `status`, `disturb`: what is done with it.
//! * `conformance`: Kubernetes' own tests of it.
//! * `expect`, `reach`, `size`, `ask`, `fault`, `plaintext`, `defences`, `traces`, `repair`, `mesh`, `logs`, `suite`: what
//!   tests say. `load`, `report`: what benches say.
//! * `store`, `cgroup`: where everything is found again.

mod calico;
mod cgroup;
mod chart;
mod cloud;
mod cluster;
mod command;
mod conformance;
mod credentials;
mod disturb;
mod images;
mod lab;
mod laptop;
mod layout;
mod limits;
mod logs;
mod machine;
mod mesh;
mod net;
mod node;
mod objects;
mod ping;
mod pki;
mod plugin;
mod profile;
mod progress;
mod status;
mod stolen;
mod store;
mod transfer;
mod up;
mod wait;

pub mod advertise;
pub mod ask;
pub mod defences;
pub mod expect;
pub mod fault;
pub mod forward;
pub mod load;
pub mod plaintext;
pub mod reach;
pub mod repair;
pub mod report;
pub mod scenario;
pub mod size;
pub mod suite;
pub mod traces;

pub use command::{Cmd, Finished};
pub use conformance::{Bounds, Outcome, Selection};
pub use credentials::{Answer, Credentials, Holder};
pub use lab::Lab;
pub use laptop::Laptop;
pub use layout::{Layout, LocationLayout, NodeLayout};
pub use logs::Provoked;
pub use machine::{Background, Machine};
pub use ping::{Matrix, Ping, PingReport};
pub use plugin::{connect, plugin, plugin_runs, plugin_says};
pub use profile::{FOREIGN_MARK, Profile};
pub use progress::Progress;
pub use scenario::Scenario;
pub use status::{NodeStatus, Status};
pub use transfer::{Transfer, TransferReport};
pub use up::{Options, Spanwire, tools};
pub use wait::wait_until;
