//! The internet checksum (RFC 1071).

/// Returns the one's complement sum of big-endian 16-bit words; an odd last byte counts as the upper half of a word.
pub fn sum(bytes: &[u8]) -> u16 {
    // The sum does not depend on the byte order it is taken in (RFC 1071, 2B), so words are added as the machine has
    // them, wide enough that no carry is lost: vector instructions do the rest.
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    let total: u64 = words
        .iter()
        .map(|word| u64::from(u32::from_ne_bytes(*word)))
        .sum();
    u16::from_be(fold(total + u64::from(u32::from_ne_bytes(last))))
}

/// Adds two sums. The parts they were taken of begin at even places.
pub fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

/// Writes the checksum of an IPv4 header.
pub fn set_ipv4(header: &mut [u8]) {
    header[10..12].fill(0);
    let checksum = !sum(header);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

fn fold(mut total: u64) -> u16 {
    while total > u64::from(u16::MAX) {
        total = (total >> 16) + (total & u64::from(u16::MAX));
    }
    total as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_rfc_1071_adds_up() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    #[test]
    fn the_checksum_of_a_known_header_is_written() {
        let mut header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xff, 0xff, 0xc0, 0xa8, 0x00, 0x01,
            0xc0, 0xa8, 0x00, 0xc7,
        ];
        set_ipv4(&mut header);
        assert_eq!(header[10..12], [0xb8, 0x61]);
    }

    proptest! {
        #[test]
        fn wide_words_add_up_as_narrow_ones_do(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            let mut want = 0u16;
            for word in bytes.chunks(2) {
                want = add(want, u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]));
            }
            prop_assert_eq!(sum(&bytes), want);
        }
    }
}
