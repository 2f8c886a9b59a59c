//! The mesh as it is published: in LocationSlices, and in the status of Peers.
//!
//! A location has one *head* slice (`NAME-head`: leaders, settings, established) and member slices (`NAME-m1`, …) of at
//! most [`MEMBERS_PER_SLICE`] members. Members stay in the slice they are in, so a changed member changes one slice,
//! a new leader changes the head alone.
//!
//! [`slices()`] says what is to be published, given what is; [`assemble()`] puts the mesh together again, from whatever
//! mixture of publications was seen.

mod assemble;
mod slices;
#[cfg(test)]
mod tests;

use std::str::FromStr;

pub use assemble::assemble;
pub use slices::{accepted, slices};

/// How many members a slice is filled up to, as an EndpointSlice is with endpoints.
pub const MEMBERS_PER_SLICE: usize = 100;

/// The label of a LocationSlice with the name of its location, and of nothing else.
pub const LOCATION_LABEL: &str = "spanwire.dev/location";

/// The label of a Location that the operator created, and deletes again when no node mentions it and nobody changed it.
pub const MANAGED_LABEL: &str = "spanwire.dev/managed";

fn texts<T: ToString>(items: impl IntoIterator<Item = T>) -> Vec<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

fn values<'a, T: FromStr, C: FromIterator<T>>(texts: impl IntoIterator<Item = &'a String>) -> C {
    texts.into_iter().filter_map(|text| value(text)).collect()
}

fn value<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}
