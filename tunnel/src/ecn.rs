//! Congestion marks through a tunnel (RFC 6040): the outer header has those of the packet inside, and marks that the
//! outer header gets on the way come out inside.

use crate::offload::{checksum, headers};

/// The sender does not understand marks.
pub const NONE: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CONGESTED: u8 = 3;

/// Returns a packet's mark, which its outer header gets too ("normal mode", section 4.1).
pub fn of(packet: &[u8]) -> u8 {
    class(packet) & 3
}

/// Returns a packet's traffic class: DSCP and mark.
pub fn class(packet: &[u8]) -> u8 {
    match *packet {
        [version, tos, ..] if version >> 4 == 4 => tos,
        [version, class, ..] if version >> 4 == 6 => version << 4 | class >> 4,
        _ => NONE,
    }
}

/// Brings the outer header's mark into a packet that came through (section 4.2); `false` when it has to be dropped.
pub fn decapsulate(outer: u8, packet: &mut [u8]) -> bool {
    let mark = match (of(packet), outer) {
        (NONE, CONGESTED) => return false,
        (ECT_0, ECT_1) => ECT_1,
        (ECT_0 | ECT_1, CONGESTED) => CONGESTED,
        _ => return true,
    };
    if packet[0] >> 4 == 6 {
        packet[1] = packet[1] & !0x30 | mark << 4;
        return true;
    }
    packet[1] = packet[1] & !3 | mark;
    let length = usize::from(packet[0] & 15) * 4;
    if (headers::IPV4..=packet.len()).contains(&length) {
        checksum::set_ipv4(&mut packet[..length]);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(mark: u8) -> Vec<u8> {
        let mut packet = vec![
            0x45,
            0xb8 | mark,
            0,
            20,
            0,
            1,
            0,
            0,
            64,
            17,
            0,
            0,
            10,
            0,
            0,
            1,
            10,
            0,
            0,
            2,
        ];
        checksum::set_ipv4(&mut packet);
        packet
    }

    fn v6(mark: u8) -> Vec<u8> {
        let mut packet = vec![0; 40];
        packet[..2].copy_from_slice(&[0x6b, 0x85 | mark << 4]);
        packet
    }

    #[test]
    fn marks_come_out_as_the_table_of_rfc_6040_has_them() {
        // Rows: the inner mark; columns: the outer mark, none, ECT(1), ECT(0), CE.
        let table = [
            (NONE, [Some(NONE), Some(NONE), Some(NONE), None]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CONGESTED)]),
            (ECT_0, [Some(ECT_0), Some(ECT_1), Some(ECT_0), Some(CONGESTED)]),
            (CONGESTED, [Some(CONGESTED); 4]),
        ];
        for (inner, row) in table {
            for (outer, want) in (0..).zip(row) {
                for make in [v4, v6] {
                    let mut packet = make(inner);
                    assert_eq!(of(&packet), inner);
                    let kept = decapsulate(outer, &mut packet);
                    assert_eq!(kept.then(|| packet.clone()), want.map(make), "{inner} {outer}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_packet_has_no_mark() {
        assert_eq!([of(&[]), of(&[0x45]), of(&[0xff, 0xff])], [NONE; 3]);
        assert_eq!([class(&v4(1)), class(&v6(1))], [0xb9, 0xb9]);
    }
}
