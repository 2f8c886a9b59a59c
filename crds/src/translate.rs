//! From Kubernetes objects to facts. Every translation is total: what cannot be read is set aside and reported, the
//! rest of the object counts.

mod cloud;
mod cni;
mod felix;
mod location;
pub mod networks;
mod node;
mod peer;
mod report;

use std::{collections::BTreeSet, fmt::Display, str::FromStr};

pub use cni::{NodeAddressOfCni, Seeker, addresses_of_cnis};
pub use felix::{FelixConfiguration, FelixSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
pub use location::location;
pub use node::{
    CONTROL_PLANE, Node, NodeAddress, NodeCondition, NodeInfo, NodeOptions, NodeSpec, NodeStatus, boot, node,
};
pub use peer::peer;
pub use report::{Attached, Avoided, Report, report};
use spanwire_topology::{Created, Keepalive};

use crate::FieldProblem;

/// What became of an object, and what of it could not be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Translated<T> {
    /// The fact.
    pub fact: T,
    /// What was set aside.
    pub problems: Vec<FieldProblem>,
}

fn created(metadata: &ObjectMeta) -> Created {
    let time = metadata.creation_timestamp.as_ref();
    Created(time.map_or(0, |time| time.0.as_second()))
}

/// Returns how many different values there are.
fn distinct(texts: &[String]) -> usize {
    texts.iter().collect::<BTreeSet<_>>().len()
}

fn keepalive(seconds: Option<u16>) -> Option<Keepalive> {
    seconds.filter(|seconds| *seconds > 0).map(Keepalive)
}

/// Reads values of fields and collects what cannot be read.
#[derive(Default)]
struct Fields {
    problems: Vec<FieldProblem>,
}

impl Fields {
    fn one<T: FromStr<Err: Display>>(&mut self, field: &str, text: &str) -> Option<T> {
        let refused = |error: T::Err| {
            self.problems
                .push(FieldProblem::new(field, text, &error.to_string()));
        };
        text.parse().map_err(refused).ok()
    }

    fn list<T: FromStr<Err: Display>, C: FromIterator<T>>(&mut self, field: &str, texts: &[String]) -> C {
        texts.iter().filter_map(|text| self.one(field, text)).collect()
    }
}
