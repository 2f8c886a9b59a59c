//! Mesh decisions and per-node plans of Spanwire, as pure functions.
