//! Where it is known from which pods run on which node.

use std::collections::BTreeSet;

/// A kind of objects that say which networks the pods of a node have. In the order in which they are preferred: a CNI that
/// keeps objects of its own allocates from these, and what stands in the Node beside them is not what its pods have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PodSource {
    /// The blocks of Calico's IPAM: `BlockAffinity` objects.
    Calico,
    /// The networks of `CiliumNode` objects, as Cilium's operator allocates them.
    Cilium,
    /// `spec.podCIDRs` of Nodes.
    Nodes,
    /// The addresses of Pods themselves, as kubelets report them.
    Pods,
}

/// The sources that may count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSources(BTreeSet<PodSource>);

impl PodSource {
    /// All of them, in the order in which they are preferred.
    pub const ORDER: [Self; 4] = [Self::Calico, Self::Cilium, Self::Nodes, Self::Pods];
}

impl PodSources {
    /// All of them may: the first that there is something of counts, for all nodes.
    #[must_use]
    pub fn auto() -> Self {
        Self(PodSource::ORDER.into())
    }

    /// This one counts, whatever there is of others.
    #[must_use]
    pub fn only(source: PodSource) -> Self {
        Self([source].into())
    }

    /// Returns whether this source may count.
    #[must_use]
    pub fn contains(&self, source: PodSource) -> bool {
        self.0.contains(&source)
    }

    /// Returns whether a user has named the source.
    #[must_use]
    pub fn is_named(&self) -> bool {
        self.0.len() == 1
    }

    /// Returns the source that counts: the first of which something was `found`. One for all nodes: where a CNI allocates
    /// by itself, the networks that stand in its Nodes are other pods', or none's.
    #[must_use]
    pub fn choose(&self, found: impl Fn(PodSource) -> bool) -> PodSource {
        let mut sources = self.0.iter().copied();
        let fallback = if self.contains(PodSource::Nodes) {
            Some(PodSource::Nodes)
        } else {
            self.0.last().copied()
        };
        sources
            .find(|source| found(*source))
            .or(fallback)
            .unwrap_or(PodSource::Nodes)
    }
}

/// Nodes alone.
impl Default for PodSources {
    fn default() -> Self {
        Self::only(PodSource::Nodes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_which_there_is_something_counts_and_nodes_where_there_is_nothing() {
        let auto = PodSources::auto();
        let choose = |found: &[PodSource]| auto.choose(|source| found.contains(&source));
        assert_eq!(choose(&PodSource::ORDER), PodSource::Calico);
        assert_eq!(choose(&[PodSource::Nodes, PodSource::Cilium]), PodSource::Cilium);
        assert_eq!(choose(&[PodSource::Nodes]), PodSource::Nodes);
        assert_eq!(choose(&[PodSource::Nodes, PodSource::Pods]), PodSource::Nodes);
        assert_eq!(choose(&[PodSource::Pods]), PodSource::Pods);
        assert_eq!(choose(&[]), PodSource::Nodes);
    }

    #[test]
    fn one_that_is_named_counts_whatever_there_is() {
        for source in PodSource::ORDER {
            let named = PodSources::only(source);
            assert_eq!(named.choose(|_| true), source);
            assert_eq!(named.choose(|_| false), source);
            assert!(named.is_named() && named.contains(source));
        }
        assert!(!PodSources::auto().is_named());
    }
}
