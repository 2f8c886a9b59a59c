//! The Kubernetes resources of Spanwire and their translation to and from the topology.
