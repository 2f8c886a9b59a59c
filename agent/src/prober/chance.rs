//! Numbers that cannot be guessed.

/// Numbers are fetched from the kernel so many at once.
const AT_ONCE: usize = 512;

/// Numbers from the kernel's generator.
#[derive(Default)]
pub(super) struct Chance {
    bytes: Vec<u8>,
}

impl Chance {
    pub(super) fn number(&mut self) -> u64 {
        if self.bytes.is_empty() {
            self.bytes.resize(AT_ONCE * size_of::<u64>(), 0);
            getrandom::fill(&mut self.bytes).expect("the kernel's generator works once it has been seeded");
        }
        let (mut number, mut bytes) = (
            [0; 8],
            self.bytes
                .split_off(self.bytes.len() - size_of::<u64>())
                .into_iter(),
        );
        number.fill_with(|| bytes.next().unwrap_or_default());
        u64::from_ne_bytes(number)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_number_comes_twice() {
        let mut chance = Chance::default();
        let numbers: BTreeSet<u64> = (0..2000).map(|_| chance.number()).collect();
        assert_eq!(numbers.len(), 2000);
    }
}
