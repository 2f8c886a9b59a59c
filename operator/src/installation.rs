//! Which installation of Spanwire an operator belongs to.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::api::coordination::v1::Lease;
use spanwire_cluster::observed::Observed;
use spanwire_crds::names::{INSTALLATION_LABEL, INSTALLATION_NAME_LABEL};

/// An installation: a release of the chart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Installation {
    /// Its namespace.
    pub namespace: String,
    /// Its name among those of its namespace; `None`: whatever there is in the namespace, for older versions name no other.
    pub name: Option<String>,
}

impl Installation {
    /// Returns the installation that labels of a head name.
    #[must_use]
    pub fn of_labels(labels: &BTreeMap<String, String>) -> Option<Self> {
        Some(Self {
            namespace: labels.get(INSTALLATION_LABEL)?.clone(),
            name: labels.get(INSTALLATION_NAME_LABEL).cloned(),
        })
    }

    /// Returns the installation whose Lease this is.
    #[must_use]
    pub fn of_lease(lease: &Observed<Lease>) -> Self {
        let labels = lease.metadata.labels.as_ref();
        Self {
            namespace: lease.metadata.namespace.clone().unwrap_or_default(),
            name: labels.and_then(|labels| labels.get(INSTALLATION_NAME_LABEL).cloned()),
        }
    }

    /// Returns the labels that name this installation.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        let name = self.name.clone().map(|name| (INSTALLATION_NAME_LABEL, name));
        let namespace = (INSTALLATION_LABEL, self.namespace.clone());
        let labels = [namespace].into_iter().chain(name);
        labels.map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// Whether what names the other one may be this one's. What an older version wrote names a namespace alone: an upgrade
    /// takes that for its own.
    #[must_use]
    pub fn may_be(&self, other: &Self) -> bool {
        let either_unnamed = self.name.is_none() || other.name.is_none();
        self.namespace == other.namespace && (either_unnamed || self.name == other.name)
    }
}

impl fmt::Display for Installation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "as {name} ")?;
        }
        write!(f, "in the namespace {}", self.namespace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installation_is_its_namespace_and_its_name_and_what_names_none_may_be_any_of_the_namespace() {
        let of = |namespace: &str, name: Option<&str>| Installation {
            namespace: namespace.to_owned(),
            name: name.map(str::to_owned),
        };
        let own = of("a", Some("x"));
        for (other, same) in [
            (of("a", Some("x")), true),
            (of("a", None), true),
            (of("a", Some("y")), false),
            (of("b", Some("x")), false),
            (of("b", None), false),
        ] {
            assert_eq!((own.may_be(&other), other.may_be(&own)), (same, same), "{other}");
            assert_eq!(Installation::of_labels(&other.labels()), Some(other));
        }
        assert_eq!(own.to_string(), "as x in the namespace a");
        assert_eq!(Installation::of_labels(&BTreeMap::new()), None);
    }
}
