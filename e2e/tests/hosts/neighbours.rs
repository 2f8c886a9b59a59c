//! What neighbours do to hosts does not cut the mesh, and nothing leaves in plaintext meanwhile.

use std::{
    path::Path,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use spanwire_e2e::{
    FOREIGN_MARK, Lab, Profile, Progress,
    advertise::learned_default,
    ask::Everyone,
    defences::{Names, Trial, leader_and_follower},
    expect::{SOON, all_reach_all, answers, by_role, condition, leader, node_ip, pod_ip},
    plaintext::{Watch, nothing_plain, something_plain},
    plugin_says, wait_until,
};

use crate::PROGRAM;

/// How long after the start agents drop plaintext at the latest.
const SETTLED: Duration = Duration::from_secs(35);

/// When all was ready; never in a lab that was kept.
static READY: OnceLock<Instant> = OnceLock::new();

pub(crate) fn plaintext_before(lab: &Lab) -> Result<()> {
    // From a pod, from a host that marks its packets, and from a guest whose packets are marked.
    something_plain(lab, || lab.ping_all())?;
    let far = pod_ip(lab, "b1")?.to_string();
    let mark = FOREIGN_MARK.to_string();
    something_plain(lab, || {
        lab.node("c1")?
            .finish(["ping", "-n", "-c", "2", "-W", "1", "-m", &mark, &far])
    })?;
    something_plain(lab, || {
        lab.guest_of("c1")?
            .finish(["ping", "-n", "-c", "2", "-W", "1", &far])
    })
    .map(drop)
}

pub(crate) fn installs(lab: &Lab) -> Result<()> {
    lab.install_spanwire(&Progress::shown())?;
    lab.wait_mesh_ready()?;
    READY.get_or_init(Instant::now);
    Ok(())
}

/// Waits for what is left of the time after which captures may see no plaintext.
pub(crate) fn settled(_: &Lab) -> Result<()> {
    let passed = READY.get().map_or(SETTLED, Instant::elapsed);
    thread::sleep(SETTLED.saturating_sub(passed));
    Ok(())
}

/// What agents get along with is no finding: of all neighbours the Node alone that is left over is one. Firewalls that would drop
/// packets of the mesh are shown to let them through.
pub(crate) fn diagnosed(lab: &Lab) -> Result<()> {
    wait_until(
        "diagnose names the Node that is left over, and nothing else",
        SOON,
        || {
            let said = plugin_says(lab, 4, &["diagnose", "-o", "json"])?;
            let found: Value = serde_json::from_str(&said)?;
            let found: Vec<&Value> = found.as_array().context("a list")?.iter().collect();
            let faults = found.iter().filter(|finding| finding["severity"] != "Note");
            let about = |finding: &Value| finding["object"].as_str().unwrap_or_default().to_owned();
            let others = faults.filter(|finding| {
                let evidence = finding["evidence"].as_str().unwrap_or_default();
                about(finding) != "meshnode a3-old" && !evidence.contains("a3-old")
            });
            let others: Vec<_> = others.collect();
            ensure!(others.is_empty(), "diagnose finds {others:#?}");
            let named = found
                .iter()
                .any(|finding| about(finding) == "meshnode a3-old" && finding["reason"] == "ClaimRejected");
            ensure!(named, "a3-old is not named: {said}");
            Ok(true)
        },
    )?;
    for (from, to) in [("a3", "b2"), ("b3", "c2"), ("a2", "c1")] {
        let way = plugin_says(lab, 0, &["explain", from, to])?;
        ensure!(
            way.contains("its firewall: accepted") && !way.contains("dropped by"),
            "{from} to {to}:\n{way}"
        );
    }
    Ok(())
}

/// What an administrator forbids is not opened, and `explain` says where and by which rule a packet ends.
pub(crate) fn forbidden(lab: &Lab) -> Result<()> {
    let (from, to) = (node_ip(lab, "a3")?.to_string(), node_ip(lab, "b3")?.to_string());
    let forbids = format!(
        "nft 'add table ip forbids; add chain ip forbids f {{ type filter hook forward priority 5; }}' && \
         nft 'add rule ip forbids f ip saddr {from} ip daddr {to} drop comment \"of the site\"'"
    );
    let leader = leader(lab, "b")?;
    let node = lab.node(&leader)?;
    node.sh(&forbids)?;
    let lost = !answers(&lab.node("a3")?, node_ip(lab, "b3")?)?;
    let explained = plugin_says(lab, 4, &["explain", "a3", "b3"]);
    node.run(["nft", "delete", "table", "ip", "forbids"])?;
    let explained = explained?;
    ensure!(lost, "nothing is forbidden:\n{explained}");
    for said in [
        format!("is dropped by the firewall of {leader}"),
        "(ip forbids) \"of the site\"".to_owned(),
    ] {
        ensure!(explained.contains(&said), "{said}:\n{explained}");
    }
    plugin_says(lab, 0, &["explain", "a3", "b3"]).map(drop)
}

pub(crate) fn all_answer(lab: &Lab) -> Result<()> {
    nothing_plain(lab, || {
        all_reach_all(lab)?;
        Everyone::start(lab, Path::new(PROGRAM))?.all_answer()
    })
}

pub(crate) fn advertised(lab: &Lab) -> Result<()> {
    for name in ["c1", "c2"] {
        wait_until(&format!("{name} has the route of its router"), SOON, || {
            Ok(learned_default(&lab.node(name)?)?.is_some())
        })?;
    }
    Ok(())
}

pub(crate) fn stale_node(lab: &Lab) -> Result<()> {
    let address = node_ip(lab, "a3")?.to_string();
    let has = |node: &str| -> Result<bool> {
        let found = lab.get(&["meshnode", node])?;
        Ok(found["spec"]["addresses"].to_string().contains(&address))
    };
    ensure!(has("a3")?, "a3 does not have {address}");
    ensure!(!has("a3-old")?, "a3-old has {address}");
    Ok(())
}

pub(crate) fn marked(lab: &Lab) -> Result<()> {
    let mark = FOREIGN_MARK.to_string();
    nothing_plain(lab, || {
        for to in ["a1", "a3", "b1", "b3"] {
            for far in [pod_ip(lab, to)?, node_ip(lab, to)?].map(|ip| ip.to_string()) {
                let few = ["-n", "-c", "3", "-i", "0.2", "-W", "1"];
                let ping = ["ping"].into_iter().chain(few);
                lab.guest_of("c1")?.finish(ping.clone().chain([far.as_str()]))?;
                // What a program of the host marks like this reaches whom it is for.
                let words = ping.clone().chain(["-m", mark.as_str(), far.as_str()]);
                lab.node("c1")?.run(words)?;
                // That of the tunnel alone means something else; it may be lost, and not be seen.
                lab.node("c1")?.finish(ping.chain(["-m", "8192", far.as_str()]))?;
            }
        }
        Ok(())
    })
}

/// flannel's tunnel to c1 ends at the internet address of a router: of what goes there no address is a member's.
fn to_external_vtep(lab: &Lab) -> Result<Trial> {
    let names = Names::default();
    Ok(Trial {
        nodes: leader_and_follower(lab, "a", names)?.into(),
        far: "c1".to_owned(),
        names,
        watch: Watch::internet(),
    })
}

pub(crate) fn dead(lab: &Lab) -> Result<()> {
    to_external_vtep(lab)?.each_holds_alone(lab)
}

pub(crate) fn inverse(lab: &Lab) -> Result<()> {
    to_external_vtep(lab)?.without_all_of_them_plaintext_is_seen(lab)
}

/// Makes a node the leader of its location.
fn lead(lab: &Lab, node: &str) -> Result<()> {
    let location = &lab.node_layout(node)?.location;
    let others = lab
        .layout()
        .nodes()
        .filter(|other| other.location == *location && other.name != node);
    for other in others {
        lab.kubectl(["annotate", "node", &other.name, "spanwire.dev/leader-"])?;
    }
    lab.kubectl([
        "annotate",
        "--overwrite",
        "node",
        node,
        "spanwire.dev/leader=true",
    ])?;
    wait_until(&format!("{node} leads"), SOON, || {
        Ok(leader(lab, location)? == node)
    })
}

pub(crate) fn on_leaders(lab: &Lab) -> Result<()> {
    nothing_plain(lab, || {
        for leaders in [["a2", "b2", "c1"], ["a3", "b3", "c2"], ["a2", "b1", "c1"]] {
            leaders.iter().try_for_each(|node| lead(lab, node))?;
            let all =
                all_reach_all(lab).and_then(|()| Everyone::start(lab, Path::new(PROGRAM))?.all_answer());
            all.with_context(|| format!("with {leaders:?} as leaders"))?;
        }
        Ok(())
    })
}

pub(crate) fn come_and_go(lab: &Lab) -> Result<()> {
    let visits = [
        ("a1", Profile::Docker),
        ("b1", Profile::WideLan),
        ("b1", Profile::Firewalld),
        ("c1", Profile::NoIpv6),
        ("a3", Profile::VpnRules),
        ("b2", Profile::VpnRules),
        ("b2", Profile::ForeignMarks),
    ];
    for (node, profile) in visits {
        nothing_plain(lab, || {
            lab.neighbour_comes(node, profile)?;
            let with = all_reach_all(lab).with_context(|| format!("with {profile:?} on {node}"));
            lab.neighbour_goes(node, profile)?;
            with?;
            all_reach_all(lab).with_context(|| format!("after {profile:?} on {node}"))
        })?;
    }
    // A VPN that is started again puts its rules before those of the mesh once more.
    nothing_plain(lab, || {
        for _ in 0..3 {
            lab.neighbour_goes("a2", Profile::VpnRules)?;
            lab.neighbour_comes("a2", Profile::VpnRules)?;
        }
        all_reach_all(lab)
    })?;
    wait_until(
        "nothing of Spanwire is left in a firewall that is gone",
        SOON,
        || {
            let rules = lab
                .node("a1")?
                .run(["nft", "list", "chain", "ip", "filter", "FORWARD"])?;
            ensure!(!rules.contains("spanwire"), "{rules}");
            Ok(true)
        },
    )?;
    lab.wait_mesh_ready()
}

/// The node follows: what a leader that has such a network does not hand on is lost for all that send by it.
pub(crate) fn clash(lab: &Lab) -> Result<()> {
    let follower = by_role(lab, "a")?.pop().context("nodes")?;
    let far = lab.get(&["node", "b1"])?;
    let network = far["spec"]["podCIDR"].as_str().context("b1 has pods")?.to_owned();
    let own = network.replace(".0/", ".9/");
    let node = lab.node(&follower)?;
    nothing_plain(lab, || {
        node.sh(&format!(
            "ip link add clash0 type veth peer name clash1 && ip link set clash0 up && ip link set clash1 up && \
             ip addr add {own} dev clash0"
        ))?;
        let said = wait_until("the node says what is in the way", SOON, || {
            let (status, message) = condition(lab, &["meshnode", &follower], "Ready")?;
            ensure!(
                status == "False" && message.contains("clash0") && message.contains(&network),
                "{status}: {message}"
            );
            Ok(true)
        });
        let matrix = lab.ping_all()?;
        let explained = plugin_says(lab, 4, &["explain", &follower, &network.replace(".0/24", ".1")]);
        node.run(["ip", "link", "del", "clash0"])?;
        said?;
        let explained = explained?;
        ensure!(
            explained.contains(&format!(
                "the kernel of {follower} does not do what its agent plans"
            )),
            "{explained}"
        );
        for (from, unreached) in &matrix.unreached {
            let expected = match from.as_str() {
                near if near == follower => "b1",
                "b1" => follower.as_str(),
                _ => "",
            };
            ensure!(
                *unreached == [expected],
                "more is cut than {follower} from b1:\n{matrix}"
            );
        }
        ensure!(!matrix.complete(), "nothing is in the way:\n{matrix}");
        all_reach_all(lab)
    })?;
    lab.wait_mesh_ready()
}
