//! What goes wrong with leaders and the networks around them, how it is put right, and what packets notice of it.

use std::{thread, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    expect::{PodPath, SOON, leader, node_ip, pid, pinging_on, pod_paths},
    lab::Lab,
    layout::API_PORT,
    ping::PingReport,
    transfer::{Transfer, TransferReport},
    wait_until,
};

/// What has come no more for so long has not come back.
const SILENT: Duration = Duration::from_secs(1);

/// Something that goes wrong.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// What it is, in a few words.
    pub name: &'static str,
    inflict: fn(&Lab, &Roles) -> Result<()>,
    mend: fn(&Lab, &Roles) -> Result<()>,
}

/// The name of the fault that [`is_of_no_use`] shows.
const FORWARDS_NOTHING: &str = "the leader forwards nothing";

/// Everything that [`Fault::suffer`] can do.
pub const FAULTS: [Fault; 9] = [
    Fault {
        name: "the tunnel's process is killed",
        inflict: |lab, roles| tunnel(lab, roles, "-KILL"),
        mend: |_, _| Ok(()),
    },
    Fault {
        name: "the tunnel's process hangs",
        inflict: |lab, roles| tunnel(lab, roles, "-STOP"),
        mend: |lab, roles| tunnel(lab, roles, "-CONT"),
    },
    Fault {
        name: FORWARDS_NOTHING,
        // A drop in the hook that forwards would be seen by its agent, and mended.
        inflict: |lab, roles| {
            let devices = "{ \"spanwire0\", \"flannel.1\" }";
            let drop = format!("iifname {devices} oifname {devices} drop");
            let chain = format!("chain out {{ type filter hook postrouting priority 0; {drop}; }}");
            filter(lab, &roles.leader, &chain)
        },
        mend: |lab, roles| unfilter(lab, &roles.leader),
    },
    Fault {
        name: "the leader's link is gone",
        inflict: |lab, roles| {
            let chains = both_ways("iifname \"eth0\" drop", "oifname \"eth0\" drop");
            filter(lab, &roles.leader, &chains)
        },
        mend: |lab, roles| unfilter(lab, &roles.leader),
    },
    Fault {
        name: "a pair of leaders is cut",
        inflict: |lab, roles| {
            let (from, to) = pair(lab, roles)?;
            filter(lab, &roles.leader, &both_ways(&from, &to))
        },
        mend: |lab, roles| unfilter(lab, &roles.leader),
    },
    Fault {
        name: "a pair of leaders is cut in one direction",
        inflict: |lab, roles| {
            let (_, to) = pair(lab, roles)?;
            filter(lab, &roles.leader, &both_ways("continue", &to))
        },
        mend: |lab, roles| unfilter(lab, &roles.leader),
    },
    Fault {
        name: "a follower does not reach its leader",
        inflict: |lab, roles| {
            let address = node_ip(lab, &roles.leader)?;
            let (from, to) = (
                format!("ip saddr {address} drop"),
                format!("ip daddr {address} drop"),
            );
            filter(lab, &roles.follower, &both_ways(&from, &to))
        },
        mend: |lab, roles| unfilter(lab, &roles.follower),
    },
    Fault {
        name: "the leader loses power",
        inflict: |lab, roles| lab.crash(&roles.leader),
        mend: |lab, roles| lab.reboot(&roles.leader),
    },
    Fault {
        name: "the leader loses power while there is no API server",
        inflict: |lab, roles| {
            lab.control_plane().stop_service("kube-apiserver")?;
            lab.crash(&roles.leader)
        },
        mend: |lab, roles| {
            lab.control_plane().start_service("kube-apiserver")?;
            lab.reboot(&roles.leader)
        },
    },
];

/// The leader reaches all other leaders, and does not hear of anything new. It takes longer than the others until something
/// comes of it: a Lease has to expire.
pub const NO_API_SERVER: Fault = Fault {
    name: "the leader does not reach the API server",
    inflict: |lab, roles| {
        let [from, to] = ["sport", "dport"].map(|port| format!("tcp {port} {API_PORT} drop"));
        filter(lab, &roles.leader, &both_ways(&from, &to))
    },
    mend: |lab, roles| unfilter(lab, &roles.leader),
};

/// Who does what when it happens, in location `b`, to which the others send.
#[derive(Debug, Clone)]
pub struct Roles {
    /// The leader of `b` to which that of `a` sends: the active one, but for a while after a fault.
    pub leader: String,
    /// The other leader of `b`.
    pub standby: String,
    /// A node of `b` that leads nothing.
    pub follower: String,
    /// The active leader of `a`.
    pub far: String,
}

/// What packets noticed of a fault.
#[derive(Debug)]
pub struct Suffered {
    /// When it happened, and while it lasted.
    pub during: Noticed,
    /// When it was put right.
    pub after: Noticed,
}

/// What packets noticed.
#[derive(Debug)]
pub struct Noticed {
    /// Pings every 10 ms on each path.
    pub paths: Vec<(String, PingReport)>,
    /// A TCP stream on the first of these paths.
    pub transfer: TransferReport,
}

impl Roles {
    /// Returns who does what now.
    ///
    /// # Errors
    /// When `b` has not two leaders and a node that leads nothing.
    pub fn now(lab: &Lab) -> Result<Self> {
        let mut leaders: Vec<String> = Vec::new();
        // One that was relieved stands by for a while.
        wait_until("location b has two leaders", SOON, || {
            let found = lab.get(&["location", "b"])?;
            let names = found["status"]["leaders"].as_array().context("no leaders")?;
            leaders = names
                .iter()
                .filter_map(|name| name.as_str().map(str::to_owned))
                .collect();
            ensure!(leaders.len() == 2, "{leaders:?}");
            Ok(true)
        })?;
        let far = leader(lab, "a")?;
        let links = ["curl", "-sS", "http://127.0.0.1:9477/debug/links"];
        let links = lab.node(&far)?.run(links)?;
        let is_passed_by = |leader: &String| links.contains(&format!("not used: {leader} of b\n"));
        leaders.sort_by_key(is_passed_by);
        let [active, standby] = &leaders[..] else {
            anyhow::bail!("location b has not two leaders: {leaders:?}");
        };
        let mut nodes = lab.node_names().into_iter();
        let follower = nodes.find(|node| node.starts_with('b') && !leaders.contains(node));
        Ok(Self {
            leader: active.clone(),
            standby: standby.clone(),
            follower: follower.context("every node of location b leads")?,
            far,
        })
    }

    /// Returns the pairs of nodes between whose pods packets flow: none of them is the leader to which it happens.
    fn paths(&self) -> [(&str, &str); 4] {
        let far = if self.far == "a1" { "a2" } else { "a1" };
        [
            (&self.far, &self.follower),
            (far, &self.follower),
            (&self.follower, "c2"),
            ("a3", &self.standby),
        ]
    }
}

impl Fault {
    /// Returns the one of [`FAULTS`] that has this name.
    ///
    /// # Errors
    /// There is none.
    pub fn named(name: &str) -> Result<Self> {
        let mut faults = FAULTS.into_iter();
        let found = faults.find(|fault| fault.name == name);
        found.with_context(|| format!("there is no fault {name:?}"))
    }

    /// Lets it happen, for so long, while pods ping each other, and puts it right while they do so again, and go on for so long
    /// afterwards: a node that lost its power boots, and is used again.
    ///
    /// # Errors
    /// When it cannot be made to happen, or a path carried nothing before.
    pub fn suffer(&self, lab: &Lab, roles: &Roles, lasts: Duration, after: Duration) -> Result<Suffered> {
        // There may be no API server to ask while it lasts.
        let paths = pod_paths(lab, &roles.paths())?;
        let during = noticing_on(lab, &paths, || {
            thread::sleep(Duration::from_millis(500));
            (self.inflict)(lab, roles)?;
            thread::sleep(lasts);
            if self.name == FORWARDS_NOTHING {
                is_of_no_use(lab, roles)?;
            }
            Ok(())
        });
        let during = match during {
            Ok(during) => during,
            // In any case: what follows needs a whole lab.
            Err(error) => {
                (self.mend)(lab, roles)?;
                return Err(error.context(self.name));
            }
        };
        let mut mended = false;
        let after = noticing_on(lab, &paths, || {
            mended = true;
            (self.mend)(lab, roles)?;
            thread::sleep(after);
            Ok(())
        });
        if !mended {
            (self.mend)(lab, roles)?;
        }
        let after = after.with_context(|| format!("mending: {}", self.name))?;
        Ok(Suffered { during, after })
    }

    /// Does something while it lasts.
    ///
    /// # Errors
    /// When it cannot be made to happen, or put right, and whatever goes wrong meanwhile.
    pub fn during<T>(&self, lab: &Lab, roles: &Roles, does: impl FnOnce() -> Result<T>) -> Result<T> {
        let done = (self.inflict)(lab, roles).and_then(|()| does());
        // In any case: what follows needs a whole lab.
        let mended = (self.mend)(lab, roles);
        let done = done.with_context(|| self.name)?;
        mended.with_context(|| format!("mending: {}", self.name))?;
        Ok(done)
    }
}

/// Returns what packets between pods notice while something is done.
///
/// # Errors
/// When that fails, or a path carried nothing before.
pub fn noticing(lab: &Lab, roles: &Roles, run: impl FnOnce() -> Result<()>) -> Result<Noticed> {
    noticing_on(lab, &pod_paths(lab, &roles.paths())?, run)
}

fn noticing_on(lab: &Lab, paths: &[PodPath<'_>], run: impl FnOnce() -> Result<()>) -> Result<Noticed> {
    let (from, to, address) = paths[0];
    let transfer = Transfer::start(&lab.pod_on(from)?, &lab.pod_on(to)?, address)?;
    let ((), paths) = pinging_on(lab, paths, run)?;
    Ok(Noticed {
        paths,
        transfer: transfer.finish()?,
    })
}

impl Noticed {
    /// Returns the longest time without an answer on any path, that at the end included.
    pub fn gap(&self) -> Duration {
        let gaps = self
            .paths
            .iter()
            .map(|(_, report)| report.longest_gap.max(report.silence));
        gaps.max().unwrap_or_default()
    }

    /// Returns how many requests were never answered, on all paths.
    pub fn lost(&self) -> u64 {
        self.paths.iter().map(|(_, report)| report.lost()).sum()
    }

    /// Asserts that every path carried packets again, and the stream flowed, before it was put right.
    ///
    /// # Errors
    /// With all paths, when one of them, or the stream, was silent in the end.
    pub fn recovered(&self) -> Result<()> {
        let silent = self.paths.iter().any(|(_, report)| report.silence > SILENT);
        ensure!(!silent, "a path was silent in the end: {:?}", self.paths);
        let stands = self.transfer.silence > SILENT;
        ensure!(
            !stands,
            "the TCP stream stood still in the end: {:?}",
            self.transfer
        );
        Ok(())
    }
}

/// Asserts that the far leader does not use one that answers, and says why.
fn is_of_no_use(lab: &Lab, roles: &Roles) -> Result<()> {
    let links = ["curl", "-sS", "http://127.0.0.1:9477/debug/links"];
    let links = lab.node(&roles.far)?.run(links)?;
    let said = format!("forwards nothing: {} of b\n", roles.leader);
    ensure!(links.contains(&said), "{} does not say so: {links}", roles.far);
    Ok(())
}

fn tunnel(lab: &Lab, roles: &Roles, signal: &str) -> Result<()> {
    let pid = pid(lab, &roles.leader, "spanwire-tunnel")?;
    lab.node(&roles.leader)?.run(["kill", signal, &pid]).map(drop)
}

/// Returns what drops the datagrams of WireGuard between the leader and the one of `a`, as the leader sees them: those from
/// there, and those to there.
fn pair(lab: &Lab, roles: &Roles) -> Result<(String, String)> {
    let far = lab.get(&["meshnode", &roles.far])?;
    let key = far["status"]["publicKey"].as_str().context("it has no key")?;
    let endpoints = lab
        .node(&roles.leader)?
        .run(["wg", "show", "spanwire0", "endpoints"])?;
    let endpoint = endpoints.lines().find_map(|line| line.strip_prefix(key));
    let endpoint = endpoint.with_context(|| format!("{} has no peer {}", roles.leader, roles.far))?;
    let (address, port) = endpoint.trim().rsplit_once(':').context("no endpoint")?;
    Ok((
        format!("ip saddr {address} udp sport {port} drop"),
        format!("ip daddr {address} udp dport {port} drop"),
    ))
}

fn both_ways(from: &str, to: &str) -> String {
    format!(
        "chain from {{ type filter hook prerouting priority -450; {from}; }}\n\
         chain to {{ type filter hook postrouting priority 450; {to}; }}"
    )
}

fn filter(lab: &Lab, node: &str, chains: &str) -> Result<()> {
    let table = format!("table inet fault {{\n{chains}\n}}\n");
    let cmd = lab.node(node)?.cmd(["nft", "-f", "-"])?;
    cmd.input(table).run().map(drop)
}

fn unfilter(lab: &Lab, node: &str) -> Result<()> {
    let nft = ["nft", "delete", "table", "inet", "fault"];
    lab.node(node)?.run(nft).map(drop)
}
