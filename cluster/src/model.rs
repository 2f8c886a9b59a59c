//! The kinds that are watched. To watch another kind, add a line to the table below; each program names the kinds that
//! it [watches](crate::watch::Watches).

use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::watcher::Event;
use spanwire_crds::{Location, LocationSlice, MeshNode, Peer, translate::Node};

use crate::observed::{Observable, Observed};

/// A kind that is watched.
pub trait Watched: Observable {
    /// Returns an event of this kind as one of any.
    fn event(event: Event<Observed<Self>>) -> WatchEvent;
}

macro_rules! watched {
    ($($(#[$doc:meta])* $variant:ident($kind:ty);)+) => {
        /// An event of a watch, by kind.
        #[derive(Debug)]
        pub enum WatchEvent {
            $($(#[$doc])* $variant(Event<Observed<$kind>>),)+
        }

        $(impl Watched for $kind {
            fn event(event: Event<Observed<Self>>) -> WatchEvent {
                WatchEvent::$variant(event)
            }
        })+
    };
}

watched! {
    /// Of Nodes, of which only what is used is decoded.
    Node(Node);
    /// Of MeshNodes.
    MeshNode(MeshNode);
    /// Of Locations.
    Location(Location);
    /// Of Peers.
    Peer(Peer);
    /// Of LocationSlices.
    Slice(LocationSlice);
    /// Of Leases.
    Lease(Lease);
}
