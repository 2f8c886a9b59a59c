//! `connect`: this machine is a Peer until a signal ends that.

mod registration;
mod session;

use std::{fs, path::Path, time::Duration};

use anyhow::{anyhow, bail, ensure};
use spanwire_topology::{Mesh, PeerName, Prefix};

use self::{registration::Registration, session::Session};
use super::{
    peer::accepted,
    until::{Stop, say},
};
use crate::{
    answer::Answer,
    args::ConnectArgs,
    cluster::{Access, Reach, explained},
    connect::{
        clash::{check, clashes, machine_networks, of_others},
        identity,
    },
    keypair::KeyPair,
    machine::{self, Machine},
    objects::{Kind, Objects},
    peer::free_address,
};

const KINDS: [Kind; 2] = [Kind::Peer, Kind::LocationSlice];
/// How long the API server is waited for at the end.
const FAREWELL: Duration = Duration::from_secs(10);

pub(super) async fn run(reach: &Reach, args: &ConnectArgs) -> anyhow::Result<Answer> {
    let mut stop = Stop::listen()?;
    let mut machine = Machine::open(Path::new(machine::FOLDER), args.tunnel.as_deref()).await?;
    let access = reach.connect().await?;
    let mut registration = None;
    let ended = tokio::select! {
        ended = connected(&access, &mut machine, args, &mut registration) => ended,
        () = stop.wait() => Ok(()),
    };
    let left = leave(&mut machine, registration).await;
    if let (Err(_), Err(left)) = (&ended, &left) {
        say(&format!("{left:#}"));
    }
    ended.and(left)?;
    Ok(Answer::default())
}

/// Is a Peer for as long as nothing goes wrong.
async fn connected(
    access: &Access,
    machine: &mut Machine,
    args: &ConnectArgs,
    registration: &mut Option<Registration>,
) -> anyhow::Result<()> {
    if machine.clean().await? {
        say("removed what a run that did not end by itself had left on this machine");
    }
    let name = match &args.name {
        Some(name) => name.clone(),
        None => {
            let host = nix::unistd::gethostname()?;
            identity::name_of(&host.to_string_lossy()).map_err(|problem| anyhow!(problem))?
        }
    };
    let own = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let own = identity::machine(&own);
    registration::remove_left(access, machine, &name, own.as_deref()).await?;
    let objects = access.objects(&KINDS).await?;
    access.may_watch(&KINDS).await?;
    let (services, taken) = services(access.service_cidrs().await, args)?;
    let allowed = addresses(machine, args, &objects, &name, &taken).await?;

    let pair = KeyPair::generate()?;
    machine.set_key(pair.of_device());
    let peer = registration.insert(Registration::new(access, &name, &pair.public));
    machine.remember(&peer.remembered())?;
    peer.create(&allowed, args.location.as_ref(), own.as_deref())
        .await?;
    say(&format!(
        "peer.spanwire.dev/{name} created, with {}",
        crate::table::joined(&allowed)
    ));
    let mesh = accepted(access, &name, &allowed).await?.published();
    let mut session = Session::begin(access, machine, &name, pair.public, services, mesh).await?;
    session.go_on().await
}

/// Removes everything, on this machine first: that needs no API server.
async fn leave(machine: &mut Machine, registration: Option<Registration>) -> anyhow::Result<()> {
    let closed = machine.close().await;
    if let Some(registration) = registration {
        let deleted = tokio::time::timeout(FAREWELL, registration.delete()).await;
        let deleted = deleted.unwrap_or_else(|_| bail!("the API server does not answer"));
        let name = registration.name();
        match deleted {
            Ok(was_there) => {
                machine.forget();
                if was_there {
                    say(&format!("peer.spanwire.dev/{name} deleted"));
                }
            }
            Err(error) => bail!(
                "peer {name} is still there: {error:#}\nthe next `kubectl spanwire connect` of this machine deletes it, or `kubectl \
                 spanwire peer remove {name}`"
            ),
        }
    }
    closed
}

/// Returns the networks of services that are to be reached, and all of which no address may be taken.
fn services(
    known: Result<Vec<Prefix>, kube::Error>,
    args: &ConnectArgs,
) -> anyhow::Result<(Vec<Prefix>, Vec<Prefix>)> {
    match args.service_cidr.as_deref() {
        None => Ok((Vec::new(), known.unwrap_or_default())),
        Some([]) => {
            let known =
                known.map_err(|error| explained(error, "list servicecidrs of networking.k8s.io", false))?;
            ensure!(
                !known.is_empty(),
                "this API server does not say which networks services have; name them: --service-cidr 10.96.0.0/12"
            );
            Ok((known.clone(), known))
        }
        Some(named) => Ok((named.to_vec(), [named, &known.unwrap_or_default()].concat())),
    }
}

/// Returns the addresses that this machine is to have, none of these networks of services among them.
async fn addresses(
    machine: &mut Machine,
    args: &ConnectArgs,
    objects: &Objects,
    name: &PeerName,
    services: &[Prefix],
) -> anyhow::Result<Vec<Prefix>> {
    let mesh = objects.published();
    let own = machine.other_addresses().await?;
    let allowed = match &args.allowed_ip[..] {
        [] => {
            let networks = [&machine_networks(&own), services].concat();
            vec![free_address(objects, args.pool, &networks).map_err(|problem| anyhow!(problem))?]
        }
        given => given.to_vec(),
    };
    check(&allowed, &mesh, name, &own).map_err(|problem| anyhow!(problem))?;
    let v6 = allowed.iter().find(|address| address.address().is_ipv6());
    if let Some(v6) = v6.filter(|_| !machine.ipv6) {
        bail!(
            "this machine cannot have {v6}: IPv6 is switched off (net.ipv6.conf.default.disable_ipv6); take an IPv4 address with \
             --allowed-ip"
        );
    }
    refuse_clash(&mesh, name, services, &own)?;
    Ok(allowed)
}

fn refuse_clash(
    mesh: &Mesh,
    name: &PeerName,
    services: &[Prefix],
    own: &crate::connect::clash::Addresses,
) -> anyhow::Result<()> {
    let all = [&of_others(mesh, name), services].concat();
    match clashes(&all, own).first() {
        None => Ok(()),
        Some(clash) => bail!(
            "{}: it would not reach its own network any more. Connect from another network, or have that network taken out of the mesh",
            clash.text(mesh)
        ),
    }
}
