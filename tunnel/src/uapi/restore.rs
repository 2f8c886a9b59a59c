//! The way back from the answer to a `get`: a device as another process had it.

use std::{
    io,
    net::IpAddr,
    time::{Duration, Instant, UNIX_EPOCH},
};

use crate::{
    device::{Device, Wire},
    id::PeerId,
    key,
    path::Path,
    uapi::{
        Ports, Subject, UapiError,
        line::{self, DeviceLine, PeerLine},
        set_device,
    },
};

/// What a device's configuration says about sockets that are not there yet.
#[derive(Debug, Default)]
pub(crate) struct RestoredPorts {
    pub(crate) port: u16,
    pub(crate) mark: u32,
}

/// Makes a fresh device what the answer says, counters and all. Nothing is sent: peers want a handshake when
/// [`Device::handle_succession`] is called.
pub(crate) fn restore(
    now: Instant,
    answer: &str,
    device: &mut [&mut Device],
) -> Result<RestoredPorts, UapiError> {
    let mut ports = RestoredPorts::default();
    let mut peer: Option<Subject> = None;
    for line in answer.lines() {
        let (key, value) = line
            .split_once('=')
            .ok_or(UapiError::Syntax { length: line.len() })?;
        match &mut peer {
            _ if key == "public_key" => peer = Some(Subject::find(now, line::public_key(value)?, device)?),
            None => set_device(now, DeviceLine::parse(key, value)?, device, &mut ports)?,
            Some(subject) => {
                if !count(key, value, device, subject.id)? {
                    subject.set(now, &PeerLine::parse(key, value)?, device);
                }
            }
        }
    }
    Ok(ports)
}

/// Takes what a `set` has no line for; `false` when it is something else.
fn count(key: &str, value: &str, device: &mut [&mut Device], id: Option<PeerId>) -> Result<bool, UapiError> {
    let number = |key| line::number(value).ok_or(UapiError::InvalidValue { key });
    let peer = id.and_then(|id| device.iter_mut().find_map(|shard| shard.peer_mut(id)));
    let Some(peer) = peer else {
        return Ok(false);
    };
    match key {
        // The one that was learned, behind the one that was configured.
        "endpoint" if peer.configured.is_some() => peer.endpoint = Some(line::endpoint(value)?),
        // The one that was learned where none was configured.
        "learned_endpoint" => peer.endpoint = Some(line::endpoint(value)?),
        "tx_bytes" => peer.tx_bytes = number("tx_bytes")?,
        "rx_bytes" => peer.rx_bytes = number("rx_bytes")?,
        "last_handshake_time_sec" => {
            let since = Duration::from_secs(number("last_handshake_time_sec")?);
            peer.last_handshake = UNIX_EPOCH.checked_add(since).filter(|at| *at > UNIX_EPOCH);
        }
        "last_handshake_time_nsec" => {
            let more = Duration::from_nanos(number("last_handshake_time_nsec")?);
            peer.last_handshake = peer.last_handshake.and_then(|at| at.checked_add(more));
        }
        "newest_initiation" => {
            let newest = key::decode(value).map_err(|_| UapiError::InvalidValue {
                key: "newest_initiation",
            })?;
            peer.remember(newest);
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// Before there is a peer there is no destination to send to.
impl Wire for RestoredPorts {
    fn room(&mut self) -> &mut [u8] {
        &mut []
    }

    fn commit(&mut self, _: Path, _: u8, _: usize) {}

    fn deliver(&mut self, _: &[u8]) {}

    fn is_own(&mut self, _: IpAddr) -> bool {
        false
    }

    fn route_mtu(&mut self, _: Instant, _: IpAddr) -> Option<usize> {
        None
    }
}

impl Ports for RestoredPorts {
    fn listen_port(&self) -> u16 {
        self.port
    }

    fn is_open(&self) -> bool {
        false
    }

    fn set_listen_port(&mut self, port: u16) -> io::Result<()> {
        self.port = port;
        Ok(())
    }

    fn fwmark(&self) -> u32 {
        self.mark
    }

    fn set_fwmark(&mut self, mark: u32) -> io::Result<()> {
        self.mark = mark;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uapi::get;

    fn answer() -> String {
        let [private, alone, known, shared] = ["40", "02", "03", "04"].map(|byte| byte.repeat(32));
        format!(
            "private_key={private}\nlisten_port=51820\nfwmark=8192\neager=true\n\
             public_key={alone}\npreshared_key={none}\nprotocol_version=1\n\
             last_handshake_time_sec=0\nlast_handshake_time_nsec=0\ntx_bytes=0\nrx_bytes=0\n\
             persistent_keepalive_interval=0\n\
             public_key={known}\npreshared_key={shared}\nprotocol_version=1\nendpoint=[fe80::1%3]:5\n\
             last_handshake_time_sec=1700000000\nlast_handshake_time_nsec=999\ntx_bytes=5\n\
             rx_bytes=7\npersistent_keepalive_interval=25\ngroup=paris\nallowed_ip=10.0.0.0/24\nallowed_ip=fd00::/64\n",
            none = "00".repeat(32),
        )
    }

    #[test]
    fn a_device_is_what_it_was() {
        let mut device = Device::new(1420);
        let ports = restore(Instant::now(), &answer(), &mut [&mut device]).unwrap();
        assert_eq!(get::render(&[&device], &ports), answer());
    }

    #[test]
    fn what_was_seen_of_replays_goes_along_with_and_without_a_private_key() {
        let newest = format!("newest_initiation={}\n", "5a".repeat(148));
        for before in ["", "private_key"] {
            let lines = answer().replacen("group=paris\n", &format!("group=paris\n{newest}"), 1);
            let lines: String = lines
                .lines()
                .filter(|line| before.is_empty() || !line.starts_with(before))
                .map(|line| format!("{line}\n"))
                .collect();
            let mut device = Device::new(1420);
            let ports = restore(Instant::now(), &lines, &mut [&mut device]).unwrap();
            assert_eq!(*get::render_whole(&[&device], &ports), lines);
            assert!(
                !get::render(&[&device], &ports).contains("newest"),
                "no client sees it"
            );
        }
    }

    #[test]
    fn an_endpoint_that_was_learned_does_not_become_the_configured_one() {
        let now = Instant::now();
        let mut before = Device::new(1420);
        let ports = restore(now, &answer(), &mut [&mut before]).unwrap();
        let learned = "192.0.2.7:9".parse().ok();
        let peers: Vec<_> = before.peers().map(|(id, peer)| (id, peer.configured)).collect();
        assert!(matches!(peers[..], [(_, None), (_, Some(_))]));
        for (id, _) in &peers {
            before.peer_mut(*id).unwrap().endpoint = learned;
        }
        let mut after = Device::new(1420);
        restore(now, &get::render_whole(&[&before], &ports), &mut [&mut after]).unwrap();
        for (id, configured) in peers {
            let peer = after.peer_mut(id).unwrap();
            assert_eq!((peer.configured, peer.endpoint), (configured, learned));
        }
        assert_eq!(get::render(&[&after], &ports), get::render(&[&before], &ports));
    }

    #[test]
    fn nothing_is_sent_before_it_is_asked_for() {
        let mut device = Device::new(1420);
        let mut ports = restore(Instant::now(), &answer(), &mut [&mut device]).unwrap();
        let now = Instant::now();
        // With no room to write into, a datagram would panic.
        device.handle_timeout(now, &mut ports);
        assert!(device.peers().all(|(_, peer)| [0, 5].contains(&peer.tx_bytes)));
    }

    #[test]
    fn what_no_get_says_is_refused() {
        for wrong in [
            "nonsense",
            "listen_port=x",
            "tx_bytes=1",
            "public_key=1",
            &format!("public_key={}\ntx_bytes=-1", "02".repeat(32)),
            &format!("public_key={}\nbogus=1", "02".repeat(32)),
            &format!("public_key={}\nnewest_initiation=5a", "02".repeat(32)),
            &format!(
                "public_key={}\nnewest_initiation={}",
                "02".repeat(32),
                "5g".repeat(148)
            ),
        ] {
            let mut device = Device::new(1420);
            assert!(
                restore(Instant::now(), wrong, &mut [&mut device]).is_err(),
                "{wrong}"
            );
        }
    }
}
