//! The answer to a `get`.

use std::{
    fmt::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use zeroize::Zeroizing;

use crate::{device::Device, id::PeerId, key, peer::Peer, uapi::Ports};

/// Returns everything about a device, of which these are all shards, but the closing `errno`.
pub(crate) fn render(device: &[&Device], ports: &impl Ports) -> String {
    render_with(device, ports, false)
}

/// The same for a process that goes on with it: before an endpoint that was learned stands the one that was configured (of two
/// lines the last one counts for who does not know that), and there is what was seen of replays.
pub(crate) fn render_whole(device: &[&Device], ports: &impl Ports) -> String {
    render_with(device, ports, true)
}

fn render_with(device: &[&Device], ports: &impl Ports, whole: bool) -> String {
    let mut text = Secret::default();
    if let Some(first) = device.first() {
        write(&mut text, first, device, ports, whole).expect("writing into a string cannot fail");
    }
    std::mem::take(&mut *text.0)
}

/// Text with keys in it: what it grows out of is wiped.
#[derive(Default)]
struct Secret(Zeroizing<String>);

/// Room for the line that an answer to a client ends with.
const CLOSING: usize = 16;

impl Write for Secret {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let needed = self.0.len() + more.len() + CLOSING;
        if needed > self.0.capacity() {
            let mut larger = Zeroizing::new(String::with_capacity(2 * needed));
            larger.push_str(&self.0);
            self.0 = larger;
        }
        self.0.push_str(more);
        Ok(())
    }
}

fn write(
    text: &mut Secret,
    tables: &Device,
    shards: &[&Device],
    ports: &impl Ports,
    whole: bool,
) -> fmt::Result {
    if let Some(key) = tables.private_key() {
        writeln!(text, "private_key={key}")?;
    }
    if ports.listen_port() != 0 {
        writeln!(text, "listen_port={}", ports.listen_port())?;
    }
    if ports.fwmark() != 0 {
        writeln!(text, "fwmark={}", ports.fwmark())?;
    }
    if tables.is_eager() {
        writeln!(text, "eager=true")?;
    }
    let mut peers: Vec<_> = shards.iter().flat_map(|shard| shard.peers()).collect();
    peers.sort_by_key(|(id, _)| *id);
    for (id, peer) in peers {
        write_peer(text, tables, id, peer, whole)?;
    }
    Ok(())
}

fn write_peer(text: &mut Secret, tables: &Device, id: PeerId, peer: &Peer, whole: bool) -> fmt::Result {
    writeln!(text, "public_key={}", peer.public)?;
    match &peer.preshared {
        Some(key) => writeln!(text, "preshared_key={key}")?,
        None => writeln!(text, "preshared_key={:064}", 0)?,
    }
    writeln!(text, "protocol_version=1")?;
    let configured = peer
        .configured
        .filter(|_| whole && peer.endpoint != peer.configured);
    let learned = whole && peer.configured.is_none();
    for endpoint in configured.into_iter().chain(peer.endpoint) {
        writeln!(
            text,
            "{}={endpoint}",
            if learned { "learned_endpoint" } else { "endpoint" }
        )?;
    }
    let handshake = peer
        .last_handshake
        .unwrap_or(UNIX_EPOCH)
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    writeln!(text, "last_handshake_time_sec={}", handshake.as_secs())?;
    writeln!(text, "last_handshake_time_nsec={}", handshake.subsec_nanos())?;
    writeln!(text, "tx_bytes={}", peer.tx_bytes)?;
    writeln!(text, "rx_bytes={}", peer.rx_bytes)?;
    writeln!(text, "persistent_keepalive_interval={}", peer.keepalive)?;
    if let Some(group) = tables.group(id) {
        writeln!(text, "group={group}")?;
    }
    if let Some(newest) = peer.newest().filter(|_| whole) {
        write!(text, "newest_initiation=")?;
        key::encode(&newest, text)?;
        writeln!(text)?;
    }
    for prefix in tables.allowed_ips().of(id) {
        writeln!(text, "allowed_ip={prefix}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_never_grows_where_its_last_line_is_added() {
        let mut text = Secret::default();
        for length in 1..2000 {
            text.write_str("x").unwrap();
            assert_eq!(text.0.len(), length);
            assert!(text.0.capacity() - length >= CLOSING);
        }
    }
}
