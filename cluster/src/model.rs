//! The kinds that are watched. To watch another kind, add a line to the table below; each program names the kinds that
//! it [watches](crate::watch::Watches).

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Resource, runtime::watcher::Event};
use serde::de::DeserializeOwned;
use spanwire_crds::{Location, LocationSlice, MeshNode, Peer, translate::Node};

/// A kind that is watched.
pub trait Watched:
    Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug + Send + 'static
{
    /// People write its objects, so one that cannot be decoded must not hide the others.
    const GUARDED: bool;

    /// Returns an event of this kind as one of any.
    fn event(event: Event<Self>) -> WatchEvent;
}

macro_rules! watched {
    ($($(#[$doc:meta])* $variant:ident($kind:ty), guarded: $guarded:literal;)+) => {
        /// An event of a watch, by kind.
        #[derive(Debug)]
        pub enum WatchEvent {
            $($(#[$doc])* $variant(Event<$kind>),)+
        }

        $(impl Watched for $kind {
            const GUARDED: bool = $guarded;

            fn event(event: Event<Self>) -> WatchEvent {
                WatchEvent::$variant(event)
            }
        })+
    };
}

watched! {
    /// Of Nodes, of which only what is used is decoded.
    Node(Node), guarded: false;
    /// Of MeshNodes.
    MeshNode(MeshNode), guarded: false;
    /// Of Locations.
    Location(Location), guarded: true;
    /// Of Peers.
    Peer(Peer), guarded: true;
    /// Of LocationSlices.
    Slice(LocationSlice), guarded: false;
    /// Of Leases.
    Lease(Lease), guarded: false;
}
