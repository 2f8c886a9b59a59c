//! Answers of the admin endpoint.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use serde_saphyr::to_string;
use spanwire_core::{Snapshot, encryption::Watch};
use spanwire_host::{Host, Judgement, Place, diff};
use spanwire_kernel::{Judged, Packet, ReadError, Way};
use spanwire_topology::Family;
use tokio::sync::oneshot;

use super::EventLoop;
use crate::{
    admin::{Query, Request, Response},
    causes::chain,
    encryption::count,
    reconciler::Job,
};

impl EventLoop {
    /// Answers a request, or has it answered.
    pub(super) fn answer(&self, (request, answer): Query) {
        let response = match request {
            Request::Health => (true, "ok\n".to_owned()),
            Request::Ready => self.ready(),
            Request::Metrics => return self.measure(answer),
            Request::Links => return self.links(answer),
            Request::Snapshot => (true, self.snapshot.as_deref().map(documents).unwrap_or_default()),
            Request::Plan => (true, self.state.plan().to_string()),
            Request::Wanted => (true, self.state.host().to_string()),
            Request::Actual => return self.read(answer, |actual, _| actual.to_string()),
            Request::Diff => return self.read(answer, steps),
            Request::Way(packet) => return self.find_way(answer, packet),
            Request::Encryption(seconds) => match self.state.watch() {
                Some(watch) => return count_for(watch, seconds, answer),
                None => (false, "the mesh does not know this node\n".to_owned()),
            },
        };
        // The client may have gone.
        let _gone = answer.send(response);
    }

    fn ready(&self) -> Response {
        match (self.reconciled_at, &self.snapshot) {
            (Some(_), _) => (true, "ok\n".to_owned()),
            (None, None) => (false, "waiting for the first snapshot of the mesh\n".to_owned()),
            (None, Some(_)) => (false, "the machine has not been reconciled yet\n".to_owned()),
        }
    }

    /// Has the machine read after the jobs that the reconciler has already, and answers with a text of it.
    fn read(
        &self,
        answer: oneshot::Sender<Response>,
        text: impl FnOnce(&Host, &Host) -> String + Send + 'static,
    ) {
        let wanted = self.state.host();
        let (sender, receiver) = oneshot::channel();
        let job = Job::Read {
            wanted: Arc::clone(&wanted),
            answer: sender,
        };
        self.pass_on(job, receiver, answer, move |actual| match actual {
            Some(actual) => (true, text(&actual, &wanted)),
            None => (true, String::new()),
        });
    }

    /// Answers with the way of a packet.
    fn find_way(&self, answer: oneshot::Sender<Response>, packet: Packet) {
        let (sender, receiver) = oneshot::channel();
        let job = Job::FindWay {
            packet,
            hop: self.state.hop_device(Family::of(packet.source)),
            answer: sender,
        };
        self.pass_on(job, receiver, answer, move |way| match way {
            Some((way, judged)) => (true, format!("{}\n", described(packet, &way, judged.as_ref()))),
            None => (false, "the machine has not been worked with yet\n".to_owned()),
        });
    }

    /// Has the reconciler do a job, and answers with what comes of it.
    fn pass_on<T: Send + 'static>(
        &self,
        job: Job,
        receiver: oneshot::Receiver<Result<T, ReadError>>,
        answer: oneshot::Sender<Response>,
        response: impl FnOnce(T) -> Response + Send + 'static,
    ) {
        // If the reconciler has ended, the receiver says so.
        let _ended = self.outlets.jobs.send(job);
        tokio::spawn(async move {
            let response = match receiver.await {
                Ok(Ok(found)) => response(found),
                Ok(Err(error)) => (false, format!("{}\n", chain(&error))),
                Err(_) => (false, "the reconciler has ended\n".to_owned()),
            };
            let _gone = answer.send(response);
        });
    }
}

/// Answers with what is encrypted, once that has been counted; no longer than the client waits for it.
fn count_for(watch: Watch, seconds: u64, mut answer: oneshot::Sender<Response>) {
    tokio::spawn(async move {
        let response = tokio::select! {
            found = count(&watch, Duration::from_secs(seconds)) => match found {
                Ok(found) => (true, format!("{found}\n")),
                Err(why) => (false, format!("{why}\n")),
            },
            () = answer.closed() => return,
        };
        let _gone = answer.send(response);
    });
}

/// Returns the way of a packet in JSON: `{"here": true}`, `{"nowhere": WHY}`, or how it leaves; what firewalls do with it; and what it was taken
/// to carry.
fn described(packet: Packet, way: &Way, judged: Option<&Judged>) -> Value {
    let mut described = match way {
        Way::Here => json!({"here": true}),
        Way::Nowhere(why) => json!({"nowhere": why}),
        Way::Out(out) => json!({
            "device": out.device.as_str(),
            "tunnel": out.tunnel,
            "via": out.via,
            "table": out.table,
            "mtu": out.mtu,
            "peer": out.peer.map(|key| key.to_string()),
        }),
    };
    if let Some(judged) = judged {
        described["firewall"] = ruling(judged);
    }
    if let Some(transport) = packet.transport {
        described["packet"] = transport.to_string().into();
    }
    described
}

fn ruling(judged: &Judged) -> Value {
    let placed = |verdict: &str, place: &Place| {
        json!({
            "verdict": verdict,
            "by": place.to_string(),
            "hook": place.stage.to_string(),
            "family": place.chain.family.to_string(),
            "table": place.chain.table,
            "chain": place.rule.as_ref().map_or(&place.chain.chain, |rule| &rule.chain),
            "rule": place.rule.as_ref().filter(|_| !place.is_legacy).map(|rule| rule.handle),
            "legacy": place.is_legacy,
            "own": place.is_own,
        })
    };
    match judged {
        Ok(Judgement::Accepted) => json!({"verdict": "accepted"}),
        Ok(Judgement::Dropped(place)) => placed("dropped", place),
        Ok(Judgement::Unknown(place)) => placed("unknown", place),
        Err(why) => json!({"verdict": "unknown", "why": why}),
    }
}

fn steps(actual: &Host, wanted: &Host) -> String {
    let steps = diff(actual, wanted);
    steps.iter().map(|step| format!("{step}\n")).collect()
}

/// Returns the snapshot as documents that the file source reads.
fn documents(snapshot: &Snapshot) -> String {
    let slices = snapshot.slices.values().map(|slice| to_string(slice.as_ref()));
    let peers = snapshot.peers.values().map(|peer| to_string(peer.as_ref()));
    let node = snapshot.node.iter().map(|node| to_string(node.as_ref()));
    let texts = slices.chain(peers).chain(node).filter_map(Result::ok);
    texts.collect::<Vec<_>>().join("---\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

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
