//! `explain`.

mod ends;

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::{anyhow, ensure};
use spanwire_host::{Protocol, Transport};
use spanwire_topology::{Member, Mesh};

pub(super) use self::ends::{Ends, Named, ends};

use super::{
    live::{ask, ask_ways},
    source::{Source, read_listed},
};
use crate::{
    answer::{Answer, Verdict, formatted},
    args::ExplainArgs,
    cluster::{Access, Reach},
    explain::{Hop, Report, explain},
    findings::Answers,
    objects::{Kind, Objects},
    ways::{Packet, Question},
};

pub(super) async fn run(reach: &Reach, args: &ExplainArgs) -> anyhow::Result<Answer> {
    let transport = transport(args)?;
    let kinds = [Kind::Location, Kind::Peer, Kind::MeshNode, Kind::LocationSlice];
    let Source {
        access,
        objects,
        unlisted,
        ..
    } = read_listed(reach, &args.filename, &kinds).await?;
    let access = access.as_ref();
    let mut notes: Vec<String> = unlisted.iter().map(ToString::to_string).collect();
    let named = Named {
        from: &args.from,
        to: &args.to,
        v6: args.ipv6,
        transport,
    };
    let found = ends(access, &objects, &named, &mut notes).await?;
    let (report, more) = way_of(access, &objects, &found).await?;
    notes.extend(more);
    if transport.is_none() && report.hops().any(Hop::is_in_doubt) {
        let hint =
            "a firewall decides by what is left open here: --protocol and --port say what the packet carries";
        notes.push(hint.to_owned());
    }
    let text = formatted(&report, args.output.map(Into::into), |_| report.text())?;
    Ok(Answer {
        text,
        notes,
        verdict: if unlisted.is_empty() {
            report.verdict()
        } else {
            report.verdict().max(Verdict::Warnings)
        },
    })
}

/// Returns what the packet is to carry, as the flags say it. A port is one of TCP where no protocol is named.
fn transport(args: &ExplainArgs) -> anyhow::Result<Option<Transport>> {
    let protocol = args.protocol.or(args.port.map(|_| Protocol::Tcp));
    let Some(protocol) = protocol else {
        return Ok(None);
    };
    ensure!(
        args.port.is_none() || protocol.has_ports(),
        "packets of {} have no ports: leave --port away, or name tcp or udp",
        protocol.name()
    );
    Ok(Some(Transport {
        protocol,
        source_port: None,
        destination_port: args.port,
    }))
}

/// Returns the way of a packet and of the answer to it, and what is not known of them.
pub(super) async fn way_of(
    access: Option<&Access>,
    objects: &Objects,
    ends: &Ends,
) -> anyhow::Result<(Report, Vec<String>)> {
    let nodes = deciding(&objects.published(), ends.from, ends.to);
    let (answers, mut notes) = match access {
        Some(access) => {
            let (answers, unasked) = ask(access, &nodes).await;
            (answers, unasked.into_iter().collect())
        }
        None => (Answers::new(), Vec::new()),
    };
    for (node, answer) in &answers {
        if let Err(why) = answer {
            notes.push(format!(
                "what {node} observes is not known, and taken for nothing: {why}"
            ));
        }
    }
    let packet = Packet {
        from: ends.from,
        to: ends.to,
        transport: ends.transport,
    };
    let mut report = explain(objects, &answers, packet).map_err(|problem| anyhow!(problem))?;
    if let Some(access) = access {
        // Of those that have just not answered, one note is enough.
        let answering = |question: &Question| answers.get(&question.node).is_some_and(Result::is_ok);
        let questions = report.questions().into_iter().filter(answering);
        let ways = ask_ways(access, questions.collect()).await;
        notes.extend(report.compare(&ways));
    }
    Ok((report, notes))
}

/// Returns who decides about a packet: who has the addresses, and the leaders.
fn deciding(mesh: &Mesh, from: IpAddr, to: IpAddr) -> BTreeSet<String> {
    let holds = |member: &Member| {
        let has = |address: IpAddr| {
            let hosts = member.addresses.contains(&address) || member.overlay.contains(&address);
            hosts || member.prefixes.iter().any(|prefix| prefix.contains(address))
        };
        has(from) || has(to)
    };
    let mut nodes = BTreeSet::new();
    for location in mesh.locations.values() {
        let own = location.members.iter().filter(|(_, member)| holds(member));
        nodes.extend(own.map(|(node, _)| node.to_string()));
        let leaders = location.leaders.iter().take(4);
        nodes.extend(leaders.map(|leader| leader.node.to_string()));
    }
    nodes
}
