//! The Spanwire lab: a real cluster on one machine, and the tests that run in it.
