//! Answers to those who ask what is going on.

use std::collections::BTreeMap;

use serde_saphyr::to_string;
use spanwire_host::{Host, diff};

use super::Worker;
use crate::{
    machine::chain,
    serve::{Answer, Question},
    snapshot::Snapshot,
};

impl Worker {
    /// Answers a question.
    pub async fn answer(&mut self, question: Question) -> Answer {
        match question {
            Question::Health => (true, "ok\n".to_owned()),
            Question::Ready => self.ready(),
            Question::Metrics => (true, self.metrics.text()),
            Question::Snapshot => (true, self.snapshot.as_deref().map(documents).unwrap_or_default()),
            Question::Plan => (true, self.agent.plan().to_string()),
            Question::Wanted => (true, self.wanted().to_string()),
            Question::Actual => self.actual(|actual, _| actual.to_string()).await,
            Question::Diff => {
                let steps = |actual: &Host, wanted: &Host| {
                    diff(actual, wanted)
                        .iter()
                        .map(|step| format!("{step}\n"))
                        .collect()
                };
                self.actual(steps).await
            }
        }
    }

    fn ready(&self) -> Answer {
        match (self.reconciled_at, &self.snapshot) {
            (Some(_), _) => (true, "ok\n".to_owned()),
            (None, None) => (false, "waiting for the first snapshot of the mesh\n".to_owned()),
            (None, Some(_)) => (false, "the machine has not been looked at yet\n".to_owned()),
        }
    }

    fn wanted(&self) -> Host {
        self.agent.wanted(BTreeMap::new())
    }

    async fn actual(&mut self, text: impl FnOnce(&Host, &Host) -> String) -> Answer {
        let wanted = self.wanted();
        match self.machine.actual(&wanted).await {
            Ok(Some(actual)) => (true, text(&actual, &wanted)),
            Ok(None) => (true, String::new()),
            Err(error) => (false, format!("{}\n", chain(&error))),
        }
    }
}

/// The snapshot as documents that the file source reads.
fn documents(snapshot: &Snapshot) -> String {
    let slices = snapshot.slices.values().map(|slice| to_string(slice.as_ref()));
    let peers = snapshot.peers.values().map(|peer| to_string(peer.as_ref()));
    let node = snapshot.node.iter().map(|node| to_string(node.as_ref()));
    let texts = slices.chain(peers).chain(node).filter_map(Result::ok);
    texts.collect::<Vec<_>>().join("---\n")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use spanwire_crds::{LocationSlice, LocationSliceSpec, MeshNode, MeshNodeSpec};

    use super::*;

    #[test]
    fn a_snapshot_is_shown_as_the_documents_that_make_it() {
        let slice = LocationSlice::new(
            "a-0",
            LocationSliceSpec {
                location: "a".into(),
                ..Default::default()
            },
        );
        let node = MeshNode::new(
            "a1",
            MeshNodeSpec {
                retire: true,
                ..Default::default()
            },
        );
        let snapshot = Snapshot {
            slices: [("a-0".to_owned(), Arc::new(slice))].into(),
            peers: BTreeMap::new(),
            node: Some(Arc::new(node)),
        };
        let path = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
        std::fs::write(path.path(), documents(&snapshot)).unwrap();
        let read = crate::source::file::read([path.path().to_owned()].iter(), &"a1".parse().unwrap());
        assert_eq!(read.unwrap(), snapshot);
    }
}
