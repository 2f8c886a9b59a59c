//! The operator and the resources against a real API server: etcd and kube-apiserver of the lab, and nothing else.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cnis;
mod definitions;
mod endpoints;
mod installations;
mod networks;
mod objects;
mod operating;
mod policies;
mod publishing;
mod rights;
mod same_rules;
mod server;
mod unreadable;
