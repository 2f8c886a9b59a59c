//! Whether anything of the cluster crosses the internet segment in the open.

use anyhow::{Result, ensure};

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

/// Nothing of the cluster is seen in the open while something runs.
pub fn nothing_plain<T>(lab: &Lab, run: impl FnOnce() -> Result<T>) -> Result<T> {
    let (result, seen) = lab.capture("internet", &plain(), run)?;
    let lines: Vec<_> = seen.lines().filter(|line| !line.trim().is_empty()).collect();
    ensure!(
        lines.is_empty(),
        "{} lines of plaintext on the internet, the first:\n{}",
        lines.len(),
        lines[..lines.len().min(12)].join("\n")
    );
    Ok(result)
}

/// An echo request is seen in the open while something runs that sends some: the inverse, without which a capture proves
/// nothing.
pub fn something_plain<T>(lab: &Lab, run: impl FnOnce() -> Result<T>) -> Result<T> {
    let (result, seen) = lab.capture("internet", &plain(), run)?;
    ensure!(
        seen.contains("ICMP echo request"),
        "the capture sees no echo request in plaintext where there must be some:\n{seen}"
    );
    Ok(result)
}
