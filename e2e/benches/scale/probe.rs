//! How long an annotation takes to the WireGuard device of a far node.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use spanwire_crds::{Leaders, Location, LocationSpec};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::{Instant, sleep},
};

use crate::{nodes, simulated, tracked::Tracked};

const LOOKS: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(120);

/// The location whose leader moves. It has no standby, so that each leader is a new peer of all others.
pub(crate) const LOCATION: &str = "l1";

/// How long an annotation took, from when it was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    /// Until the API server had answered.
    pub(crate) answered: Duration,
    /// Until a watch showed the decision.
    pub(crate) published: Duration,
    /// Until the far node's device had the peer.
    pub(crate) arrived: Duration,
}

/// The nodes of that location, which become its leader in turn. One that led stays a peer until nothing uses it, which takes
/// as long as locations are added: so the next one is another node each time.
#[derive(Clone)]
pub(crate) struct Probe {
    client: Client,
    tracked: Tracked,
    device: PathBuf,
    turns: Vec<u32>,
    turn: usize,
}

impl Probe {
    /// With what is published, a device, and the nodes of the location.
    pub(crate) fn new(client: Client, tracked: Tracked, device: PathBuf, members: &[u32]) -> Result<Self> {
        ensure!(members.len() >= 2, "the location has too few nodes");
        Ok(Self {
            client,
            tracked,
            device,
            turns: members.to_vec(),
            turn: 0,
        })
    }

    /// Makes the next node the leader.
    pub(crate) async fn once(&mut self) -> Result<Arrival> {
        let before = self.turns[self.turn];
        self.turn = (self.turn + 1) % self.turns.len();
        let next = self.turns[self.turn];
        // The annotation of the old one goes first: it stays the leader as the incumbent.
        nodes::set_leader(&self.client, before, false).await?;
        self.wait(next, false)
            .await
            .context("the node was a peer before")?;
        let start = Instant::now();
        nodes::set_leader(&self.client, next, true).await?;
        let answered = start.elapsed();
        self.wait(next, true).await?;
        let arrived = start.elapsed();
        // The agent has heard of it by a watch of its own, perhaps a moment earlier.
        let published = self.tracked.led_by(LOCATION, &nodes::name(next));
        let published = published.map_or(arrived, |at| at.saturating_duration_since(start));
        Ok(Arrival {
            answered,
            published,
            arrived,
        })
    }

    /// Creates the location and makes its first node the leader.
    pub(crate) async fn begin(&self) -> Result<()> {
        let spec = LocationSpec {
            leaders: Leaders {
                standby: 0,
                ..Leaders::default()
            },
            ..LocationSpec::default()
        };
        let location = Location::new(LOCATION, spec);
        // The operator may have created it for its first node.
        let params = PatchParams::apply("bench").force();
        Api::<Location>::all(self.client.clone())
            .patch(LOCATION, &params, &Patch::Apply(&location))
            .await?;
        nodes::set_leader(&self.client, self.turns[0], true).await?;
        self.wait(self.turns[0], true).await
    }

    async fn wait(&self, node: u32, there: bool) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while self.has(node).await.unwrap_or(false) != there {
            ensure!(
                Instant::now() < end,
                "{} was {} peer for {} s",
                nodes::name(node),
                if there { "no" } else { "a" },
                PATIENCE.as_secs()
            );
            sleep(LOOKS).await;
        }
        Ok(())
    }

    /// Returns whether the device has a peer with the key of this node, by the protocol of wg(8).
    async fn has(&self, node: u32) -> Result<bool> {
        Ok(peers(&self.device).await?.contains(&simulated::key(node)))
    }
}

/// Returns the keys of all peers of a device.
pub(crate) async fn peers(device: &PathBuf) -> Result<Vec<[u8; 32]>> {
    let mut stream = UnixStream::connect(device).await?;
    stream.write_all(b"get=1\n\n").await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let keys = answer.lines().filter_map(|line| line.strip_prefix("public_key="));
    Ok(keys.filter_map(unhex).collect())
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    for (place, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(key)
}
