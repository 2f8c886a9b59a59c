//! Whether anything of the cluster crosses the internet segment in the open, or is sent to a location's router for another location.

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;

/// UDP that begins like a WireGuard message (whitepaper section 5.4: type 1 to 4 and three zero bytes).
pub const WIREGUARD: &str = "(udp and udp[8] >= 1 and udp[8] <= 4 and udp[9:2] = 0 and udp[11] = 0)";

/// Packets of the cluster in the open: those of flannel's VXLAN, of Calico's and of Spanwire's own, and those with the address of a pod or of two nodes; but not
/// those to and from the API server, which is reached past the mesh, and not messages of WireGuard, which nodes send each other
/// where plain routing works, nor the ICMP errors (type 3) about such a message.
fn plain() -> String {
    format!(
        "udp port 8472 or udp port 4789 or udp port 51830 or (ip and not tcp port 6443 and (net 10.244.0.0/16 or \
         (src net 192.168.0.0/16 and dst net 192.168.0.0/16 and not {WIREGUARD} and not \
         (icmp[0] = 3 and icmp[17] = 17 and (icmp[28:2] = 51820 or icmp[30:2] = 51820)))))"
    )
}

/// Where what a location sends in the open is seen.
#[derive(Debug, Clone)]
pub struct Watch {
    segment: String,
    filter: String,
}

impl Watch {
    /// The internet.
    pub fn internet() -> Self {
        Self {
            segment: "internet".to_owned(),
            filter: plain(),
        }
    }

    /// What a location hands to its router for pods and nodes of another one, whatever becomes of it there.
    pub fn router_of(lab: &Lab, location: &str, other: &str) -> Result<Self> {
        let links = lab.network(location)?.run(["ip", "-j", "link", "show", "lan"])?;
        let links: serde_json::Value = serde_json::from_str(&links)?;
        let router = links[0]["address"].as_str().context("the router's address")?;
        let found = lab.layout().locations.iter().find(|found| found.name == other);
        let (lan, length) = found.with_context(|| format!("no location {other}"))?.lans[0];
        Ok(Self {
            segment: location.to_owned(),
            filter: format!(
                "ether dst {router} and (dst net 10.244.0.0/16 or dst net {lan}/{length}) and not (udp dst port 51820)"
            ),
        })
    }

    /// Nothing is seen while something runs.
    pub fn nothing<T>(&self, lab: &Lab, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let (result, seen) = lab.capture(&self.segment, &self.filter, run)?;
        let lines: Vec<_> = seen.lines().filter(|line| !line.trim().is_empty()).collect();
        ensure!(
            lines.is_empty(),
            "{} lines of plaintext on {}, the first:\n{}",
            lines.len(),
            self.segment,
            lines[..lines.len().min(12)].join("\n")
        );
        Ok(result)
    }

    /// All of these words are seen while something runs: the inverse, without which a capture proves nothing.
    pub fn something<T>(&self, lab: &Lab, words: &[String], run: impl FnOnce() -> Result<T>) -> Result<T> {
        let (result, seen) = lab.capture(&self.segment, &self.filter, run)?;
        let missing = words.iter().find(|word| !seen.contains(word.as_str()));
        ensure!(
            missing.is_none(),
            "the capture on {} does not see {missing:?} in plaintext, which there must be:\n{seen}",
            self.segment
        );
        Ok(result)
    }

    /// Returns when what has these words was seen in the open while something ran, as seconds since the epoch.
    pub fn times<T>(&self, lab: &Lab, words: &str, run: impl FnOnce() -> Result<T>) -> Result<(T, Vec<f64>)> {
        let (result, seen) = lab.capture(&self.segment, &self.filter, run)?;
        // What was wrapped stands in a line of its own, behind that of what it was wrapped in.
        let mut last = 0.0;
        let mut times = Vec::new();
        for line in seen.lines() {
            let first = line.split_whitespace().next().unwrap_or_default();
            last = first.parse().unwrap_or(last);
            if line.contains(words) {
                times.push(last);
            }
        }
        Ok((result, times))
    }
}

/// Nothing of the cluster is seen in the open on the internet while something runs.
pub fn nothing_plain<T>(lab: &Lab, run: impl FnOnce() -> Result<T>) -> Result<T> {
    Watch::internet().nothing(lab, run)
}

/// An echo request is seen in the open while something runs that sends some.
pub fn something_plain<T>(lab: &Lab, run: impl FnOnce() -> Result<T>) -> Result<T> {
    Watch::internet().something(lab, &["ICMP echo request".to_owned()], run)
}
