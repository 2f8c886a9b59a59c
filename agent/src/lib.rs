//! The Spanwire node agent: makes a node do what the mesh asks of it.
