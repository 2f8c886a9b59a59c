//! Cuts a super-packet into packets, in place.
//!
//! A packet's headers are written right in front of its payload, over the payload of the packet before, which has been
//! used by then: nothing is copied but headers. The price is that packets have to be taken one after the other.

use thiserror::Error;

use crate::offload::{
    checksum,
    headers::{self, Headers, Transport, word},
    vnet::{Gso, Vnet},
};

/// So many bytes behind a packet may be overwritten by the function that is given it.
pub const ROOM: usize = 16;
/// The longest headers that are cut: IPv6 and TCP, each with all the options a kernel puts there.
const LONGEST_HEADERS: usize = 256;

const FIN_PSH: u8 = 0x09;
const CWR: u8 = 0x80;

/// A super-packet contradicts its virtio-net header. No kernel makes one.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("a packet does not match its virtio-net header")]
pub struct SegmentError;

/// The packets of a super-packet.
#[derive(Debug)]
pub struct Segments<'a> {
    /// The super-packet and [`ROOM`] bytes.
    buffer: &'a mut [u8],
    /// The end of the super-packet.
    end: usize,
    cut: Option<Cut>,
    /// Where the payload of the next packet begins.
    next: usize,
    done: bool,
    /// What stood behind the packet given out last.
    saved: [u8; ROOM],
    saved_at: Option<usize>,
}

/// How to cut.
#[derive(Debug)]
struct Cut {
    headers: Headers,
    /// The headers of the whole.
    template: [u8; LONGEST_HEADERS],
    size: usize,
    /// The sum of the pseudo-header without its length.
    base: u16,
    /// Packets made so far.
    count: u16,
}

impl<'a> Segments<'a> {
    /// Prepares to cut the first `length` bytes of `buffer`, which has [`ROOM`] more.
    pub fn new(vnet: &Vnet, buffer: &'a mut [u8], length: usize) -> Result<Self, SegmentError> {
        if buffer.len() < length + ROOM {
            return Err(SegmentError);
        }
        let cut = if vnet.gso == Gso::None {
            if let Some((start, offset)) = vnet.checksum {
                complete(&mut buffer[..length], start.into(), offset.into())?;
            }
            None
        } else {
            Some(Cut::new(vnet, &buffer[..length])?)
        };
        Ok(Self {
            buffer,
            end: length,
            next: cut.as_ref().map_or(0, |cut| cut.headers.total),
            cut,
            done: false,
            saved: [0; ROOM],
            saved_at: None,
        })
    }

    /// Returns the next packet: a slice that begins with it and is [`ROOM`] bytes longer, and its length.
    pub fn next_packet(&mut self) -> Option<(&mut [u8], usize)> {
        if let Some(at) = self.saved_at.take() {
            self.buffer[at..at + ROOM].copy_from_slice(&self.saved);
        }
        if self.done {
            return None;
        }
        let (start, end) = match &mut self.cut {
            None => (0, self.end),
            Some(cut) => {
                let end = (self.next + cut.size).min(self.end);
                let start = self.next - cut.headers.total;
                cut.head(&mut self.buffer[start..end], end == self.end);
                (start, end)
            }
        };
        self.next = end;
        self.done = end == self.end;
        self.saved.copy_from_slice(&self.buffer[end..end + ROOM]);
        self.saved_at = Some(end);
        Some((&mut self.buffer[start..end + ROOM], end - start))
    }
}

impl Cut {
    fn new(vnet: &Vnet, packet: &[u8]) -> Result<Self, SegmentError> {
        let v6 = match packet.first().ok_or(SegmentError)? >> 4 {
            4 => false,
            6 => true,
            _ => return Err(SegmentError),
        };
        let transport = match (vnet.gso, v6) {
            (Gso::Tcp4, false) | (Gso::Tcp6, true) => Transport::Tcp,
            (Gso::Udp, _) => Transport::Udp,
            (Gso::None | Gso::Tcp4 | Gso::Tcp6, _) => return Err(SegmentError),
        };
        let network: usize = vnet.checksum.ok_or(SegmentError)?.0.into();
        let least = if v6 {
            headers::IPV6
        } else {
            usize::from(packet[0] & 15) * 4
        };
        // Only IPv6 may have more between its own header and the transport's.
        if network < least || (!v6 && (network != least || network < headers::IPV4)) {
            return Err(SegmentError);
        }
        let length = match transport {
            Transport::Udp => headers::UDP,
            Transport::Tcp => usize::from(packet.get(network + 12).ok_or(SegmentError)? >> 4) * 4,
        };
        let total = network + length;
        if (transport == Transport::Tcp && length < headers::TCP)
            || total > packet.len()
            || total > LONGEST_HEADERS
            || vnet.size == 0
        {
            return Err(SegmentError);
        }
        let mut template = [0; LONGEST_HEADERS];
        template[..total].copy_from_slice(&packet[..total]);
        let headers = Headers {
            v6,
            transport,
            network,
            total,
        };
        let base = if v6 && network > headers::IPV6 {
            // A routing header may name another destination than the IP header; the kernel's own sum knows it.
            let at = network + headers.checksum_offset();
            let all = (packet.len() - network) as u16;
            checksum::add(word(packet, at) as u16, !all)
        } else {
            headers.pseudo_sum(packet, 0)
        };
        Ok(Self {
            headers,
            template,
            size: vnet.size.into(),
            base,
            count: 0,
        })
    }

    /// Writes the headers of the next packet; its payload stands behind them.
    fn head(&mut self, packet: &mut [u8], last: bool) {
        let Headers {
            v6,
            transport,
            network,
            total,
        } = self.headers;
        packet[..total].copy_from_slice(&self.template[..total]);
        if !v6 {
            let id = (word(packet, 4) as u16).wrapping_add(self.count);
            packet[4..6].copy_from_slice(&id.to_be_bytes());
        }
        if transport == Transport::Tcp {
            let before = usize::from(self.count) * self.size;
            let sequence = sequence(packet, network).wrapping_add(before as u32);
            packet[network + 4..network + 8].copy_from_slice(&sequence.to_be_bytes());
            let flags = &mut packet[network + 13];
            if !last {
                *flags &= !FIN_PSH;
            }
            if self.count > 0 {
                *flags &= !CWR;
            }
        }
        let length = packet.len();
        self.headers.set_length(packet, length);
        let at = network + self.headers.checksum_offset();
        packet[at..at + 2].fill(0);
        let sum = checksum::add(
            checksum::add(self.base, (length - network) as u16),
            checksum::sum(&packet[network..]),
        );
        put_checksum(&mut packet[at..at + 2], sum, transport == Transport::Udp);
        self.count = self.count.wrapping_add(1);
    }
}

/// Returns a TCP header's sequence number.
pub(crate) fn sequence(packet: &[u8], network: usize) -> u32 {
    u32::from_be_bytes([
        packet[network + 4],
        packet[network + 5],
        packet[network + 6],
        packet[network + 7],
    ])
}

/// Computes a checksum that the kernel left to the packet's sender.
fn complete(packet: &mut [u8], start: usize, offset: usize) -> Result<(), SegmentError> {
    let at = start + offset;
    if at + 2 > packet.len() {
        return Err(SegmentError);
    }
    let sum = checksum::sum(&packet[start..]);
    // In UDP, whose checksum is at 6, a zero says that there is none.
    put_checksum(&mut packet[at..at + 2], sum, offset == 6);
    Ok(())
}

fn put_checksum(place: &mut [u8], sum: u16, udp: bool) {
    let checksum = match !sum {
        0 if udp => u16::MAX,
        checksum => checksum,
    };
    place.copy_from_slice(&checksum.to_be_bytes());
}
