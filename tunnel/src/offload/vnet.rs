//! The header in front of each packet of a tun with `IFF_VNET_HDR` (`include/uapi/linux/virtio_net.h`).

use thiserror::Error;

/// Its length.
pub const LENGTH: usize = 10;

const NEEDS_CSUM: u8 = 1;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// What a super-packet is to be cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gso {
    /// Nothing: it is one packet.
    None,
    /// TCP segments over IPv4.
    Tcp4,
    /// TCP segments over IPv6.
    Tcp6,
    /// UDP datagrams.
    Udp,
}

/// The header, as the two sides of a tun use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vnet {
    /// How the packet is to be cut.
    pub gso: Gso,
    /// The bytes of payload of each packet but the last.
    pub size: u16,
    /// Where the transport header is, and where in it the checksum is that is still to be computed; the sum of the
    /// pseudo-header stands there.
    pub checksum: Option<(u16, u16)>,
    /// Bytes of all headers. Only a hint to the kernel, and worth nothing coming from it.
    pub headers: u16,
}

/// A header that no kernel writes for the offloads that are switched on.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("no virtio-net header this device asked for")]
pub struct VnetError;

impl Vnet {
    /// One packet, complete.
    pub const PLAIN: Self = Self {
        gso: Gso::None,
        size: 0,
        checksum: None,
        headers: 0,
    };

    /// Reads the header. Its numbers are in the machine's byte order.
    pub fn read(bytes: &[u8; LENGTH]) -> Result<Self, VnetError> {
        let number = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let gso = match bytes[1] & !GSO_ECN {
            GSO_NONE => Gso::None,
            GSO_TCPV4 => Gso::Tcp4,
            GSO_TCPV6 => Gso::Tcp6,
            GSO_UDP_L4 => Gso::Udp,
            _ => return Err(VnetError),
        };
        Ok(Self {
            gso,
            size: number(4),
            checksum: (bytes[0] & NEEDS_CSUM != 0).then(|| (number(6), number(8))),
            headers: number(2),
        })
    }

    /// Returns the header's bytes.
    pub fn write(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        let (start, offset) = self.checksum.unwrap_or((0, 0));
        bytes[0] = if self.checksum.is_some() { NEEDS_CSUM } else { 0 };
        bytes[1] = match self.gso {
            Gso::None => GSO_NONE,
            Gso::Tcp4 => GSO_TCPV4,
            Gso::Tcp6 => GSO_TCPV6,
            Gso::Udp => GSO_UDP_L4,
        };
        for (at, number) in [(2, self.headers), (4, self.size), (6, start), (8, offset)] {
            bytes[at..at + 2].copy_from_slice(&number.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_is_written() {
        for (gso, checksum) in [
            (Gso::None, None),
            (Gso::Tcp4, Some((20, 16))),
            (Gso::Tcp6, Some((40, 16))),
            (Gso::Udp, Some((20, 6))),
        ] {
            let vnet = Vnet {
                gso,
                size: 1368,
                checksum,
                headers: 52,
            };
            assert_eq!(Vnet::read(&vnet.write()), Ok(vnet));
        }
        assert_eq!(Vnet::PLAIN.write(), [0; LENGTH]);
    }

    #[test]
    fn the_bytes_are_those_of_the_kernel() {
        let vnet = Vnet {
            gso: Gso::Tcp6,
            size: 0x1234,
            checksum: Some((40, 16)),
            headers: 72,
        };
        if cfg!(target_endian = "little") {
            assert_eq!(vnet.write(), [1, 4, 72, 0, 0x34, 0x12, 40, 0, 16, 0]);
        }
        // Congestion marks change nothing about how a packet is cut.
        let mut marked = vnet.write();
        marked[1] |= GSO_ECN;
        assert_eq!(Vnet::read(&marked), Ok(vnet));
    }

    #[test]
    fn other_kinds_of_super_packets_are_refused() {
        let mut bytes = Vnet::PLAIN.write();
        bytes[1] = 3;
        assert_eq!(Vnet::read(&bytes), Err(VnetError));
    }
}
