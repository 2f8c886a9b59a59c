//! Reads and changes the network state of one Linux machine.
