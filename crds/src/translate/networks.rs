//! Which node has which pod networks, by objects of CNIs.
//!
//! | source | object | of it counts |
//! |---|---|---|
//! | Calico | [`BlockAffinity`] | a block that is confirmed and not being given up |
//! | beside it | [`IpamBlock`] | the addresses of a block that other nodes have than that which has the block |
//! | Cilium | [`CiliumNode`] | `spec.ipam.podCIDRs`, and the networks that are allocated of pools |
//! | Pods | [`Pod`] | the addresses of one that has not ended and is not in its host's network |
//!
//! To add a source: a [`PodSource`], a module here, and a line where [kinds that may not exist](SourceObject) are watched.
//!
//! Networks and names are read when the object is decoded: one that has a text in their place is one that cannot be read, it
//! counts as absent, and is named like every other such object.

mod calico;
mod cilium;
mod ipam_block;
mod pods;

use std::{collections::BTreeSet, fmt::Display, str::FromStr};

pub use calico::{BlockAffinity, BlockAffinitySpec};
pub use cilium::{CiliumIpam, CiliumNode, CiliumNodeSpec, CiliumPool, CiliumPools};
pub use ipam_block::{IpamAttributes, IpamBlock, IpamBlockSpec, IpamOwner};
use kube::Resource;
pub use pods::{Pod, PodAddress, PodSpec, PodStatus};
use serde::{Deserialize, Deserializer, de::Error as _};
use spanwire_topology::{NodeName, PodSource, Prefix};

/// What an object says of the pod networks of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeNetworks {
    /// The node.
    pub node: NodeName,
    /// Those of its networks that the object names and that count; there may be none.
    pub networks: BTreeSet<Prefix>,
}

/// An object that says which networks the pods of nodes have.
pub trait NetworkObject: Resource<DynamicType = ()> {
    /// Returns what it says of each node that it is about.
    fn networks(&self) -> Vec<NodeNetworks>;
}

/// Of a kind that is a source of pod networks.
pub trait SourceObject: NetworkObject {
    /// The source that objects of this kind are.
    const SOURCE: PodSource;
}

/// Returns the API version and the kind of the objects of a source.
#[must_use]
pub const fn object_kind(source: PodSource) -> (&'static str, &'static str) {
    match source {
        PodSource::Calico => ("crd.projectcalico.org/v1", "BlockAffinity"),
        PodSource::Cilium => ("cilium.io/v2", "CiliumNode"),
        PodSource::Nodes => ("v1", "Node"),
        PodSource::Pods => ("v1", "Pod"),
    }
}

/// Makes a type a kind of another project, of the cluster's scope.
macro_rules! foreign_kind {
    ($type:ident, $kind:literal, $group:literal, $version:literal, $plural:literal) => {
        impl kube::Resource for $type {
            type DynamicType = ();
            type Scope = kube::core::ClusterResourceScope;

            fn kind((): &()) -> std::borrow::Cow<'_, str> {
                $kind.into()
            }

            fn group((): &()) -> std::borrow::Cow<'_, str> {
                $group.into()
            }

            fn version((): &()) -> std::borrow::Cow<'_, str> {
                $version.into()
            }

            fn plural((): &()) -> std::borrow::Cow<'_, str> {
                $plural.into()
            }

            fn meta(&self) -> &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &self.metadata
            }

            fn meta_mut(&mut self) -> &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
                &mut self.metadata
            }
        }
    };
}
pub(super) use foreign_kind;

/// A text that is read as something else.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Text<T>(T);

impl<'de, T: FromStr<Err: Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const LONGEST: usize = 60;
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|error| {
            let shown: String = text.chars().take(LONGEST).collect();
            D::Error::custom(format!("{shown:?} {error}"))
        })
    }
}

fn text<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    Text::deserialize(deserializer).map(|text| text.0)
}

/// Null, as Go writes an empty list, is none.
fn texts<'de, T, C, D>(deserializer: D) -> Result<C, D::Error>
where
    T: FromStr<Err: Display>,
    C: FromIterator<T>,
    D: Deserializer<'de>,
{
    let texts = Option::<Vec<Text<T>>>::deserialize(deserializer)?;
    Ok(texts.into_iter().flatten().map(|text| text.0).collect())
}
