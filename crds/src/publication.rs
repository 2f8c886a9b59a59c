//! The mesh as it is published: in LocationSlices, and in the status of Peers.
//!
//! A location has one *head* slice (`NAME-head`: leaders, settings, established) and member slices (`NAME-m1`, …) of at
//! most [`MEMBERS_PER_SLICE`] members. Members stay in the slice they are in, so a changed member changes one slice,
//! a new leader changes the head alone.
//!
//! | from | to | by |
//! |---|---|---|
//! | a mesh, or one location | what is to be published, given what is | [`slices()`], [`location_slices`] |
//! | whatever mixture of publications was seen | the mesh | [`assemble()`] |
//! | the same, seen again and again | the mesh, in proportion to what changed | [`Assembler`] |
//!
//! Each type of the topology that is mirrored in a resource has one pair of `From` and `TryFrom`: `head`, `member`,
//! `peer`, and with their enums [`Role`](crate::Role) and [`Mode`](crate::Mode).

mod assemble;
mod assembler;
mod head;
mod member;
mod peer;
mod slices;
#[cfg(test)]
mod tests;

use std::{fmt::Display, str::FromStr};

pub use assemble::assemble;
pub use assembler::Assembler;
pub use slices::{accepted, location_slices, slices};
use spanwire_topology::{Endpoint, Keepalive};

use crate::FieldProblem;
pub use crate::names::{LOCATION_LABEL, MANAGED_LABEL};

/// How many members a slice is filled up to, as an EndpointSlice is with endpoints.
pub const MEMBERS_PER_SLICE: usize = 100;

fn texts<T: ToString>(items: impl IntoIterator<Item = T>) -> Vec<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

fn values<'a, T: FromStr, C: FromIterator<T>>(texts: impl IntoIterator<Item = &'a String>) -> C {
    texts.into_iter().filter_map(|text| text.parse().ok()).collect()
}

fn parsed<T: FromStr<Err: Display>>(field: &str, text: &str) -> Result<T, FieldProblem> {
    text.parse()
        .map_err(|error: T::Err| FieldProblem::new(field, text, &error.to_string()))
}

fn endpoint(text: Option<&String>) -> Option<Endpoint> {
    text?.parse().ok()
}

fn keepalive(seconds: Option<u16>) -> Option<Keepalive> {
    seconds.filter(|seconds| *seconds > 0).map(Keepalive)
}
