//! From what is published to what this machine has, again and again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::{anyhow, bail};
use futures::{StreamExt as _, stream::BoxStream};
use spanwire_cluster::{
    model::WatchEvent,
    store::ObjectStore,
    watch::{Watches, enter},
};
use spanwire_crds::{LocationSlice, Peer, publication::Assembler};
use spanwire_host::Host;
use spanwire_topology::{Endpoint, EndpointHost, LocationName, Mesh, PeerName, Prefix, PublicKey};
use tokio::{
    net::lookup_host,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};

use crate::{
    cluster::Access,
    commands::until::say,
    connect::{
        self, Own, Party, Past,
        chooser::{Chooser, Way},
        clash::{clashes, of_others},
        ways,
    },
    machine::{self, Machine},
    showconf::{Attachment, attachments},
};

/// How often the counters of the device are looked at while a leader has not answered yet.
const LOOK: Duration = Duration::from_millis(250);
/// Each so many looks they are looked at in any case.
const REST: u32 = 4;
/// Each so many looks the machine is brought to what it should have, whatever it has.
const REPAIR: u32 = 120;
/// Events that belong together (one decision in several slices) come within milliseconds of each other.
const TOGETHER: Duration = Duration::from_millis(20);
/// How long the answer to a name is waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a complaint is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    Peer,
    Endpoint,
    Clash,
    Machine,
}

/// This machine as a Peer.
pub(super) struct Session<'a> {
    access: &'a Access,
    machine: &'a mut Machine,
    name: PeerName,
    services: Vec<Prefix>,
    own: Own,
    events: BoxStream<'static, WatchEvent>,
    slices: ObjectStore<String, Arc<LocationSlice>>,
    peers: ObjectStore<String, Arc<Peer>>,
    assembler: Assembler,
    mesh: Mesh,
    attachments: Vec<Attachment>,
    choosers: BTreeMap<LocationName, Chooser>,
    /// Where the leaders in use are looked for.
    resolved: BTreeMap<LocationName, SocketAddr>,
    /// What this machine is to have.
    wanted: Host,
    began: Instant,
    /// Where connections to the API server go.
    gates: Vec<SocketAddr>,
    /// What was said last of what is not as it should be, by what it is about.
    complaints: BTreeMap<About, String>,
}

impl<'a> Session<'a> {
    /// Brings this machine into the mesh.
    pub(super) async fn begin(
        access: &'a Access,
        machine: &'a mut Machine,
        name: &PeerName,
        key: PublicKey,
        services: Vec<Prefix>,
        mesh: Mesh,
    ) -> anyhow::Result<Self> {
        let watches = Watches::new(access.client.clone());
        let own = Own {
            public_key: key,
            listen_port: machine::free_port()?,
            mtu: connect::mtu(None),
            addresses: BTreeSet::new(),
            ipv6: machine.ipv6,
        };
        let mut session = Self {
            access,
            machine,
            name: name.clone(),
            services,
            own,
            events: watches.all::<LocationSlice>().all::<Peer>().events(),
            slices: ObjectStore::default(),
            peers: ObjectStore::default(),
            assembler: Assembler::default(),
            mesh,
            attachments: Vec::new(),
            choosers: BTreeMap::new(),
            resolved: BTreeMap::new(),
            wanted: Host::default(),
            began: Instant::now(),
            gates: api_servers(access).await,
            complaints: BTreeMap::new(),
        };
        session.follow().map_err(|problem| anyhow!(problem))?;
        let moved = session.resolve(None).await;
        let endpoints = session.resolved.values().copied();
        let underlay = session.machine.mtu_towards(endpoints.collect::<Vec<_>>()).await?;
        session.own.mtu = connect::mtu(underlay);
        session.apply(&moved).await?;
        say(&format!(
            "by {}, device {}, MTU {}; Ctrl-C ends it",
            session.machine.wireguard(),
            session.machine.owned().link,
            session.own.mtu
        ));
        Ok(session)
    }

    /// Follows what is published, until the Peer is taken away.
    pub(super) async fn go_on(&mut self) -> anyhow::Result<()> {
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = 0;
        let mut due: Option<Instant> = None;
        loop {
            let wake = due.unwrap_or_else(|| Instant::now() + LOOK);
            tokio::select! {
                event = self.events.next() => {
                    // The stream never ends.
                    event.into_iter().for_each(|event| self.handle(event));
                    due.get_or_insert_with(|| Instant::now() + TOGETHER);
                }
                () = sleep_until(wake), if due.is_some() => {
                    due = None;
                    self.published().await?;
                }
                _ = tick.tick() => {
                    looks += 1;
                    if looks % REST == 0 || self.choosers.values().any(|chooser| !chooser.answered()) {
                        self.look(looks % REPAIR == 0).await;
                    }
                }
            }
        }
    }

    fn handle(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Slice(event) => enter(&mut self.slices, event),
            WatchEvent::Peer(event) => enter(&mut self.peers, event),
            WatchEvent::Node(_)
            | WatchEvent::MeshNode(_)
            | WatchEvent::Location(_)
            | WatchEvent::Lease(_) => {}
        }
    }

    /// Acts upon what is published.
    async fn published(&mut self) -> anyhow::Result<()> {
        if !self.slices.complete() || !self.peers.complete() {
            return Ok(());
        }
        let name = &self.name;
        let Some(peer) = self.peers.get(&name.to_string()) else {
            bail!("the Peer {name} was deleted: this machine is not in the mesh any more");
        };
        if peer.spec.public_key != self.own.public_key.to_string() {
            bail!(
                "the Peer {name} has the key of another now, so this machine is not in the mesh any more; give one of them another name \
                 with --name"
            );
        }
        let conditions = peer.status.iter().flat_map(|status| &status.conditions);
        let mut refused = conditions.filter(|condition| condition.status == "False");
        let refused = refused.next().map(|condition| condition.message.clone());
        self.mesh = self
            .assembler
            .assemble(self.slices.objects(), self.peers.objects())
            .clone();
        let followed = self.follow();
        self.complain(
            About::Peer,
            refused.or_else(|| followed.err()).unwrap_or_default(),
        );
        let moved = self.resolve(None).await;
        self.bring(&moved).await;
        Ok(())
    }

    /// Takes over the locations and their leaders. What cannot be known now stays as it was.
    fn follow(&mut self) -> Result<(), String> {
        let found = attachments(&self.mesh, &self.name)?;
        let peer = self.mesh.peers.get(&self.name);
        let peer = peer.ok_or_else(|| format!("no Peer {} is accepted", self.name))?;
        let hosts = peer.allowed_ips.iter().filter(|prefix| prefix.is_host());
        self.own.addresses = hosts.copied().collect();
        self.attachments = found;
        for attachment in &mut self.attachments {
            if peer.home.as_ref() == Some(&attachment.location) {
                attachment.allowed_ips.extend(&self.services);
            }
        }
        let now = self.began.elapsed();
        let names: BTreeSet<_> = self.attachments.iter().map(|it| it.location.clone()).collect();
        self.choosers.retain(|location, _| names.contains(location));
        self.resolved.retain(|location, _| names.contains(location));
        for attachment in &self.attachments {
            let (location, ways) = (&attachment.location, ways(attachment));
            if let Some(chooser) = self.choosers.get_mut(location) {
                if chooser.publish(ways, now) {
                    let way = chooser.way();
                    say(&format!(
                        "location {location}: by {} now, as is published",
                        at(way)
                    ));
                    self.resolved.remove(location);
                }
            } else if let Some(chooser) = Chooser::new(ways, now) {
                self.choosers.insert(location.clone(), chooser);
            }
        }
        let mut closed = self.attachments.iter().filter(|it| it.ways.is_empty());
        let complaint = closed.next().map(|Attachment { location, .. }| {
            format!(
                "no leader of the location {location} has an endpoint, so this machine cannot reach it; a leader behind NAT needs \
                 spanwire.dev/endpoint, or attach to another location with --location"
            )
        });
        self.complain(About::Endpoint, complaint.unwrap_or_default());
        Ok(())
    }

    /// Looks at the counters of the device, and tries another leader where one does not answer.
    async fn look(&mut self, repair: bool) {
        let revived = match self.machine.revive().await {
            Ok(revived) => revived,
            Err(error) => return self.complain(About::Machine, format!("{error:#}")),
        };
        if revived {
            say("the process that carries the packets had ended, and is started again");
        }
        let counters = match self.machine.counters().await {
            Ok(counters) => counters,
            Err(error) => return self.complain(About::Machine, format!("{error:#}")),
        };
        let gone = counters.is_empty() && !self.attachments.is_empty();
        let counters: BTreeMap<PublicKey, _> = counters.into_iter().collect();
        let now = self.began.elapsed();
        let (mut given_up, mut again) = (BTreeSet::new(), Vec::new());
        for (location, chooser) in &mut self.choosers {
            let before = chooser.clone();
            let stats = counters.get(&before.way().key).copied().unwrap_or_default();
            let lost = chooser.look(&stats, now);
            if lost {
                given_up.insert(location.clone());
            }
            if chooser.is_to_hurry(now) {
                again.push(chooser.way().key);
            }
            if lost && (before.answered() || before.turn() == 0) {
                let (old, new) = (at(before.way()), at(chooser.way()));
                say(&format!(
                    "location {location}: {old} does not answer, trying {new}"
                ));
            } else if chooser.answered() && !before.answered() {
                say(&format!(
                    "location {location}: connected by {}",
                    at(chooser.way())
                ));
            }
        }
        if repair {
            // Where its name is not answered for now, it stays where it was.
            let found = api_servers(self.access).await;
            self.gates = if found.is_empty() {
                std::mem::take(&mut self.gates)
            } else {
                found
            };
        }
        if !given_up.is_empty() || revived || repair || gone {
            let moved = self.resolve(Some(&given_up)).await;
            self.bring(&moved).await;
        }
        for key in again {
            let begun = self.machine.begin_again(&self.wanted, key).await;
            if let Err(error) = begun {
                self.complain(About::Machine, format!("{error:#}"));
            }
        }
    }

    /// Finds out where the leaders in use are that are not known yet, and those that are `again` to be looked for; returns whose
    /// place is another now.
    async fn resolve(&mut self, again: Option<&BTreeSet<LocationName>>) -> BTreeSet<PublicKey> {
        let mut moved = BTreeSet::new();
        for (location, chooser) in &self.choosers {
            let known = self.resolved.contains_key(location);
            if known && again.is_none_or(|again| !again.contains(location)) {
                continue;
            }
            let way = chooser.way();
            // Where a name is not answered for, a leader stays where it was.
            if let Some(address) = addresses(&way.endpoint, chooser.turn()).await {
                self.resolved.insert(location.clone(), address);
                moved.insert(way.key);
            }
        }
        moved
    }

    /// Brings this machine to what it is to have; says what went wrong, which is tried again.
    async fn bring(&mut self, moved: &BTreeSet<PublicKey>) {
        let failed = self.apply(moved).await.err();
        let complaint = failed.map(|error| format!("{error:#}"));
        self.complain(About::Machine, complaint.unwrap_or_default());
    }

    async fn apply(&mut self, moved: &BTreeSet<PublicKey>) -> anyhow::Result<()> {
        let mut past: BTreeSet<Past> = self.resolved.values().map(|to| Past::Leader(*to)).collect();
        past.extend(self.gates.iter().copied().map(Past::ApiServer));
        let own = self.machine.other_addresses().await?;
        let mut mesh: BTreeSet<Prefix> = of_others(&self.mesh, &self.name).into_iter().collect();
        mesh.extend(&self.services);
        let clashes = clashes(&mesh, &own);
        let complaint = clashes.first().map(|clash| {
            let text = clash.text(&self.mesh);
            format!("{text}, so it is not reached by the mesh")
        });
        self.complain(About::Clash, complaint.unwrap_or_default());
        let clashing: BTreeSet<Prefix> = clashes.iter().map(|clash| clash.prefix).collect();
        mesh.retain(|prefix| !clashing.contains(prefix));
        let party = |attachment: &Attachment| {
            let location = &attachment.location;
            let chosen = self.choosers.get(location).map(|chooser| chooser.way().key);
            let first = attachment.leaders.first().map(|(_, key)| *key);
            let allowed = attachment.allowed_ips.iter().copied();
            chosen.or(first).map(|key| Party {
                key,
                endpoint: self.resolved.get(location).copied(),
                allowed_ips: allowed.filter(|prefix| !clashing.contains(prefix)).collect(),
                mtu: attachment.mtu,
            })
        };
        let parties: Vec<Party> = self.attachments.iter().filter_map(party).collect();
        let wanted = connect::host(self.machine.owned(), &self.own, &parties, &mesh, &past);
        self.wanted.clone_from(&wanted);
        self.machine.set(wanted, moved).await
    }

    /// Says it, unless that was said last; nothing where it is nothing.
    fn complain(&mut self, about: About, complaint: String) {
        let last = self.complaints.entry(about).or_default();
        if *last != complaint {
            if !complaint.is_empty() {
                say(&complaint);
            }
            *last = complaint;
        }
    }
}

fn at(way: &Way) -> String {
    format!("{} at {}", way.leader, way.endpoint)
}

/// Returns one of the addresses of an endpoint, another one each `turn`.
async fn addresses(endpoint: &Endpoint, turn: usize) -> Option<SocketAddr> {
    match &endpoint.host {
        EndpointHost::Address(address) => Some(SocketAddr::new(*address, endpoint.port)),
        EndpointHost::Name(name) => {
            let found = timeout(PATIENCE, lookup_host((name.as_str(), endpoint.port))).await;
            let found: Vec<SocketAddr> = found.ok()?.ok()?.collect();
            found.get(turn.checked_rem(found.len())?).copied()
        }
    }
}

/// Returns where connections to the API server go.
async fn api_servers(access: &Access) -> Vec<SocketAddr> {
    let (host, port) = &access.gate;
    let found = timeout(PATIENCE, lookup_host((host.as_str(), *port))).await;
    found.ok().and_then(Result::ok).into_iter().flatten().collect()
}
