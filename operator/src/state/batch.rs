//! From a decision to a batch of writes: only what differs from what is there, added before removed.

use spanwire_topology::{Decision, Mesh};

use super::{Now, OperatorState, slices::SliceWrites};
use crate::batch::{Batch, Write};

impl OperatorState {
    /// Members first, then who leads them, then what goes; agents can use a member without a leader and not the other
    /// way round. A leader that moves is different: where it is going it is announced as a leader before it arrives, and
    /// where it comes from it stays one until it has left, so that in no mixture its tunnels are gone for a moment and
    /// their sessions with them. Who leads members that stay is waited for by people, and waits for nothing. What agents do not
    /// derive the mesh from follows in any order.
    pub(super) fn batch(&mut self, decision: &Decision, now: Now) -> Batch {
        let SliceWrites {
            appointed: mut first,
            announced,
            members,
            heads,
            removed,
        } = self.slice_writes(&decision.mesh);
        let mut batch = Batch {
            generation: decision.mesh.generation,
            ..Batch::default()
        };
        self.mesh_node_writes(&decision.mesh, &mut batch);
        batch.rest.extend(self.location_writes(&decision.mesh));
        let problems = self.problems(decision);
        let statuses = self.location_status_writes(decision, &problems, now);
        let (followed, others) = self.peer_status_writes(decision, &problems, now);
        batch.rest.extend(statuses);
        let answers = self.answer_writes(&problems, now);
        batch.rest.extend(answers);
        batch.rest.extend(others);
        batch.notices = self.notices(problems);
        let mut leading = heads;
        leading.extend(followed);
        first.extend(announced);
        let phases = [first, members, leading, removed];
        batch.phases = phases.into_iter().filter(|phase| !phase.is_empty()).collect();
        batch
    }

    fn location_writes(&self, mesh: &Mesh) -> Vec<Write> {
        let mut writes = Vec::new();
        for (name, location) in &mesh.locations {
            match self.locations.get(name) {
                None if self.unreadable.contains("Location", name.as_str()) => {}
                None if !location.members.is_empty() => {
                    writes.push(Write::CreateLocation {
                        name: name.to_string(),
                    });
                }
                Some(record) if record.disposable && location.members.is_empty() => {
                    writes.push(Write::DeleteLocation(record.revision.target(name.as_str())));
                }
                None | Some(_) => {}
            }
        }
        writes
    }
}
