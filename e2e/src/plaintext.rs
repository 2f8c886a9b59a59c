//! Whether anything of the cluster crosses the internet segment in the open, or is sent to a location's router for another location.

use anyhow::{Context, Result, ensure};

use crate::{
    lab::Lab,
    layout::{LANS, PODS},
};

/// UDP that begins like a WireGuard message (whitepaper section 5.4: type 1 to 4 and three zero bytes).
pub const WIREGUARD: &str = "(udp and udp[8] >= 1 and udp[8] <= 4 and udp[9:2] = 0 and udp[11] = 0)";

/// The same in IPv6, whose transport headers no filter can name: behind an IPv6 header of 40 bytes.
const WIREGUARD6: &str = "(ip6[6] = 17 and ip6[48] >= 1 and ip6[48] <= 4 and ip6[49:2] = 0 and ip6[51] = 0)";

/// Packets of the cluster in the open: those of flannel's VXLAN, of Calico's and of Spanwire's own, and those with the address of a pod or of two nodes; but not
/// those to and from the API server, which is reached past the mesh, and not messages of WireGuard, which nodes send each other
/// where plain routing works, nor the ICMP errors (type 3; of IPv6 below 128) about such a message.
fn plain() -> String {
    let [[pods, nodes], [pods6, nodes6]] = [0, 1].map(|family| [PODS[family], LANS[family]]);
    format!(
        "udp port 8472 or udp port 4789 or udp port 51830 or (ip and not tcp port 6443 and (net {pods} or \
         (src net {nodes} and dst net {nodes} and not {WIREGUARD} and not \
         (icmp[0] = 3 and icmp[17] = 17 and (icmp[28:2] = 51820 or icmp[30:2] = 51820))))) or \
         (ip6 and not tcp port 6443 and (net {pods6} or \
         (src net {nodes6} and dst net {nodes6} and not {WIREGUARD6} and not \
         (ip6[6] = 58 and ip6[40] < 128 and ip6[54] = 17 and (ip6[88:2] = 51820 or ip6[90:2] = 51820)))))"
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

#[cfg(test)]
mod tests {
    use std::{fs, net::Ipv6Addr};

    use spanwire_testbed::Command;

    use super::*;

    const TCP: u8 = 6;
    const UDP: u8 = 17;
    const ICMPV6: u8 = 58;

    fn ports(from: u16, to: u16) -> Vec<u8> {
        [from.to_be_bytes(), to.to_be_bytes()].concat()
    }

    /// With these ports, and what is in it.
    fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(8 + payload.len()).unwrap();
        [&ports(from, to), &length.to_be_bytes()[..], &[0, 0], payload].concat()
    }

    fn ip6(from: &str, to: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let address = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        let head = [0x60, 0, 0, 0, length[0], length[1], protocol, 64];
        [&head[..], &address(from), &address(to), payload].concat()
    }

    fn ip4(from: [u8; 4], to: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
        let head = [0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0];
        [&head[..], &from, &to, payload].concat()
    }

    /// Whether the filter lets an IP packet through, as `tcpdump` reads it from a file.
    fn is_seen(packet: &[u8]) -> bool {
        let kind: [u8; 2] = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] };
        let frame = [&[2; 12][..], &kind, packet].concat();
        let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
        let mut file = Vec::new();
        // The header of a file, and that of the one packet in it (pcap-savefile(5)): of Ethernet, and at no time.
        for number in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 0xffff, 1, 0, 0] {
            file.extend(number.to_le_bytes());
        }
        file.extend([length, length].concat());
        file.extend(frame);
        let captured = tempfile::NamedTempFile::new().unwrap();
        fs::write(captured.path(), file).unwrap();
        let tcpdump = Command::new("tcpdump").args(["-n", "-r"]).arg(captured.path());
        !tcpdump.arg(plain()).run().trim().is_empty()
    }

    #[test]
    fn plaintext_of_both_families_is_seen_and_the_tunnel_is_not() {
        let hello = [1, 0, 0, 0, 7, 7, 7, 7];
        let nodes =
            |protocol, payload: &[u8]| ip6("fd00:192:168:1::b", "fd00:192:168:2::c", protocol, payload);
        let nodes4 = |protocol, payload: &[u8]| ip4([192, 168, 1, 11], [192, 168, 2, 12], protocol, payload);
        let error = |inner: &[u8]| [&[1, 3, 0, 0, 0, 0, 0, 0], inner].concat();
        let echo = [128, 0, 0, 0, 0, 1, 0, 1];
        let query = udp(5000, 53, b"question");
        let tunnel = udp(51820, 51820, &hello);
        let pods = ("fd00:10:244:1::2", "fd00:10:244:3::2");
        for (packet, seen) in [
            (ip6(pods.0, pods.1, UDP, &query), true),
            (ip6(pods.0, "2001:db8:113::c8", ICMPV6, &echo), true),
            (nodes(ICMPV6, &echo), true),
            (nodes(UDP, &query), true),
            (nodes(ICMPV6, &error(&nodes(UDP, &query))), true),
            (
                ip6(
                    "2001:db8:113::b",
                    "2001:db8:113::c",
                    UDP,
                    &udp(9, 8472, b"inside"),
                ),
                true,
            ),
            (ip4([10, 244, 1, 2], [10, 244, 3, 2], UDP, &query), true),
            (nodes4(UDP, &query), true),
            (nodes(UDP, &tunnel), false),
            (nodes(ICMPV6, &error(&nodes(UDP, &tunnel))), false),
            (nodes(TCP, &[ports(9, 6443), vec![0; 16]].concat()), false),
            (ip6("2001:db8:113::b", "2001:db8:113::c", UDP, &tunnel), false),
            (ip6("fe80::1", "ff02::1", ICMPV6, &echo), false),
            (nodes4(UDP, &tunnel), false),
            (nodes4(TCP, &[ports(9, 6443), vec![0; 16]].concat()), false),
        ] {
            assert_eq!(is_seen(&packet), seen, "{packet:x?}");
        }
    }
}
