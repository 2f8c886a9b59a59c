//! The head of a location: its leaders, its settings and what it is established with.

use spanwire_topology::{Generation, HopMode, Leader, Location, Settings};

use super::{endpoint, keepalive, parsed, texts, values};
use crate::{FieldProblem, Head, Hop, SliceLeader, SliceSettings};

impl From<(Generation, &Location)> for Head {
    fn from((generation, location): (Generation, &Location)) -> Self {
        Self {
            mesh_generation: generation.0,
            leaders: location.leaders.iter().map(SliceLeader::from).collect(),
            settings: SliceSettings::from(&location.settings),
            established: texts(&location.established),
            member_slices: Vec::new(),
        }
    }
}

impl From<&Head> for Location {
    /// Returns the location without its members. A leader whose name cannot be read is left out.
    fn from(head: &Head) -> Self {
        Self {
            leaders: head
                .leaders
                .iter()
                .filter_map(|leader| leader.try_into().ok())
                .collect(),
            settings: Settings::from(&head.settings),
            established: values(&head.established),
            ..Self::default()
        }
    }
}

impl From<&Leader> for SliceLeader {
    fn from(leader: &Leader) -> Self {
        Self {
            node: leader.node.to_string(),
            role: leader.role.into(),
        }
    }
}

impl TryFrom<&SliceLeader> for Leader {
    type Error = FieldProblem;

    fn try_from(leader: &SliceLeader) -> Result<Self, FieldProblem> {
        Ok(Self {
            node: parsed("node", &leader.node)?,
            role: leader.role.into(),
        })
    }
}

impl From<&Settings> for SliceSettings {
    fn from(settings: &Settings) -> Self {
        Self {
            mesh: settings.mode.into(),
            endpoint: settings.endpoint.as_ref().map(ToString::to_string),
            cidrs: texts(&settings.cidrs),
            masquerade: settings.masquerade,
            hop: Some(settings.hop)
                .filter(|hop| *hop != HopMode::Cni)
                .map(Hop::from),
            persistent_keepalive: settings.keepalive.map(|seconds| seconds.0),
        }
    }
}

impl From<&SliceSettings> for Settings {
    /// Returns the settings without what cannot be read.
    fn from(settings: &SliceSettings) -> Self {
        Self {
            mode: settings.mesh.into(),
            endpoint: endpoint(settings.endpoint.as_ref()),
            cidrs: values(&settings.cidrs),
            masquerade: settings.masquerade,
            hop: match settings.hop {
                Some(Hop::Vxlan) => HopMode::Vxlan,
                // One of a newer version is taken for the one that every version has.
                Some(Hop::Auto | Hop::Cni | Hop::Unknown) | None => HopMode::Cni,
            },
            keepalive: keepalive(settings.persistent_keepalive),
        }
    }
}
