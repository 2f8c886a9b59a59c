//! The answer to a `get`, which is written step by step: packets have their turn between.

use std::{
    fmt::{self, Write},
    time::{SystemTime, UNIX_EPOCH},
};

use zeroize::Zeroizing;

use crate::{device::Device, id::PeerId, key, peer::Peer, uapi::Ports};

/// So many bytes are written in a step: of some hundred peers, in a millisecond.
const STEP: usize = 64 * 1024;

/// Everything about a device but the closing `errno`, as far as it has been written.
#[derive(Default)]
pub(crate) struct Answer {
    text: Secret,
    /// The first peer that is not written yet; none before anything is.
    next: Option<u32>,
}

impl Answer {
    /// Returns whether it has been begun.
    pub(crate) fn is_begun(&self) -> bool {
        self.next.is_some()
    }

    /// Goes on writing about a device, of which these are all shards; returns the text when that is all of it.
    pub(crate) fn step(&mut self, device: &[&Device], ports: &impl Ports) -> Option<String> {
        self.write(device, ports, false, STEP)
            .expect("writing into a string cannot fail")
            .then(|| std::mem::take(&mut *self.text.0))
    }

    /// Writes so many bytes, and one peer more; returns whether that is all of it.
    fn write(
        &mut self,
        shards: &[&Device],
        ports: &impl Ports,
        whole: bool,
        most: usize,
    ) -> Result<bool, fmt::Error> {
        let Some(tables) = shards.first() else {
            return Ok(true);
        };
        let end = self.text.0.len().saturating_add(most);
        if self.next.is_none() {
            write_device(&mut self.text, tables, ports)?;
        }
        let mut next = self.next.unwrap_or_default();
        while next < tables.end() && self.text.0.len() < end {
            let id = PeerId(next);
            if let Some(peer) = shards.iter().find_map(|shard| shard.peer_at(id)) {
                write_peer(&mut self.text, tables, id, peer, whole)?;
            }
            next += 1;
        }
        self.next = Some(next);
        Ok(next >= tables.end())
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

/// Returns all of it at once.
#[cfg(test)]
pub(crate) fn render(device: &[&Device], ports: &impl Ports) -> String {
    render_with(device, ports, false).to_string()
}

/// The same for a process that goes on with it: before an endpoint that was learned stands the one that was configured (of two
/// lines the last one counts for who does not know that), and there is what was seen of replays.
pub(crate) fn render_whole(device: &[&Device], ports: &impl Ports) -> Zeroizing<String> {
    render_with(device, ports, true)
}

fn render_with(device: &[&Device], ports: &impl Ports, whole: bool) -> Zeroizing<String> {
    let mut answer = Answer::default();
    answer
        .write(device, ports, whole, usize::MAX)
        .expect("writing into a string cannot fail");
    answer.text.0
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

fn write_device(text: &mut Secret, tables: &Device, ports: &impl Ports) -> fmt::Result {
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
