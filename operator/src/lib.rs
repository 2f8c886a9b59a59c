//! The Spanwire operator: decides the mesh and publishes it.
