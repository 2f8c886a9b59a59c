//! What stands between a node and plaintext, taken away piece by piece while its agent does not run.

use std::{net::IpAddr, thread, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::{
    expect::{FAST, SOON, all_reach_all, by_role, node_ip, pid, pod_ip},
    lab::Lab,
    layout::Layout,
    machine::Machine,
    ping::Ping,
    plaintext::Watch,
    wait::wait_until,
};

/// How long nodes send without one of them: a hundred requests of each kind.
const MEANWHILE: Duration = Duration::from_secs(1);

/// The names of Spanwire's things on the nodes of a lab.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    /// Its device, which leaders have.
    pub link: &'static str,
    /// Its tables of routes.
    pub tables: [u32; 2],
    /// Its nft table.
    pub nft_table: &'static str,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            link: "spanwire0",
            tables: [51830, 51831],
            nft_table: "spanwire",
        }
    }
}

impl Names {
    /// What takes away each of them, of the families of a lab: the rules, all but the kernel's own, as networkd does it; the
    /// routes; the nft table.
    #[must_use]
    pub fn removals(&self, layout: &Layout) -> [String; 3] {
        let [table, back] = self.tables;
        let mut rules =
            "ip rule flush; ip rule add lookup main pref 32766; ip rule add lookup default pref 32767"
                .to_owned();
        // A follower has the first table alone.
        let mut routes =
            format!("ip route flush table {table}; ip route flush table {back} 2>/dev/null || true");
        if layout.outside.iter().any(IpAddr::is_ipv6) {
            rules += "; ip -6 rule flush; ip -6 rule add lookup main pref 32766";
            routes += &format!(
                "; ip -6 route flush table {table}; ip -6 route flush table {back} 2>/dev/null || true"
            );
        }
        [rules, routes, format!("nft delete table inet {}", self.nft_table)]
    }
}

/// Who sends to whom, where it would be seen.
#[derive(Debug)]
pub struct Trial {
    /// The nodes that send.
    pub nodes: Vec<String>,
    /// The node of another location for which it is.
    pub far: String,
    /// The names of Spanwire's things.
    pub names: Names,
    /// Where plaintext would be seen.
    pub watch: Watch,
}

/// Returns the leader of a location, and a node of it that follows.
pub fn leader_and_follower(lab: &Lab, location: &str, names: Names) -> Result<[String; 2]> {
    let nodes = by_role(lab, location)?;
    let leader = nodes.first().context("a leader")?.clone();
    let follows = |node: &&String| {
        let device = ["ip", "link", "show", names.link];
        let found = lab.node(node).and_then(|node| node.finish(device));
        found.is_ok_and(|found| found.code != 0)
    };
    let follower = nodes.iter().find(follows).context("every node has the device")?;
    Ok([leader, follower.clone()])
}

/// Runs something while the agent of a node does not.
pub fn without_agent<T>(lab: &Lab, host: &Machine<'_>, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let agent = pid(lab, host.name(), "spanwire-agent")?;
    host.run(["kill", "-STOP", &agent])?;
    let done = act();
    host.run(["kill", "-CONT", &agent])?;
    done
}

impl Trial {
    /// Without an agent each of the three may be taken away, and nothing leaves in plaintext, from pods and from the hosts.
    pub fn each_holds_alone(&self, lab: &Lab) -> Result<()> {
        self.wait_settled(lab)?;
        for what in self.names.removals(lab.layout()) {
            let tried = self.watch.nothing(lab, || self.without(lab, &[&what]));
            tried.with_context(|| format!("without an agent: {what}"))?;
            all_reach_all(lab).with_context(|| format!("after {what}"))?;
        }
        Ok(())
    }

    /// Waits until the nodes drop plaintext, which they do half a minute after the locations were established.
    fn wait_settled(&self, lab: &Lab) -> Result<()> {
        let far = format!("{{ {} }}", pod_ip(lab, &self.far)?);
        for node in &self.nodes {
            let get = [
                "nft",
                "get",
                "element",
                "inet",
                self.names.nft_table,
                "settled4",
                &far,
            ];
            wait_until(&format!("{node} drops plaintext"), SOON, || {
                Ok(lab.node(node)?.finish(get)?.code == 0)
            })?;
        }
        Ok(())
    }

    /// With all of them taken away the plaintext of each node is seen, from its pod and from itself.
    pub fn without_all_of_them_plaintext_is_seen(&self, lab: &Lab) -> Result<()> {
        let removals = self.names.removals(lab.layout());
        let removals: Vec<&str> = removals.iter().map(String::as_str).collect();
        let far = [pod_ip(lab, &self.far)?, node_ip(lab, &self.far)?];
        let mut seen = Vec::new();
        for node in &self.nodes {
            for from in [pod_ip(lab, node)?, node_ip(lab, node)?] {
                let to = if from == node_ip(lab, node)? {
                    far[1]
                } else {
                    far[0]
                };
                seen.push(format!("{from} > {to}: ICMP echo request"));
            }
        }
        self.watch
            .something(lab, &seen, || self.without(lab, &removals))?;
        all_reach_all(lab)
    }

    /// All nodes send, while something is taken from them and nothing puts it back.
    fn without(&self, lab: &Lab, removals: &[&str]) -> Result<()> {
        let mut pings = Vec::new();
        for name in &self.nodes {
            let (host, pod) = (lab.node(name)?, lab.pod_on(name)?);
            for to in [pod_ip(lab, &self.far)?, node_ip(lab, &self.far)?] {
                pings.push(Ping::start(&pod, to, FAST)?);
                pings.push(Ping::start(&host, to, FAST)?);
            }
        }
        self.taken(lab, &self.nodes, removals)?;
        for ping in pings {
            let sent = ping.finish()?.sent;
            ensure!(sent > 20, "only {sent} requests were sent");
        }
        Ok(())
    }

    fn taken(&self, lab: &Lab, nodes: &[String], removals: &[&str]) -> Result<()> {
        let Some((node, others)) = nodes.split_first() else {
            thread::sleep(MEANWHILE);
            return Ok(());
        };
        let host = lab.node(node)?;
        without_agent(lab, &host, || {
            removals.iter().try_for_each(|what| host.sh(what).map(drop))?;
            self.taken(lab, others, removals)
        })
    }
}
