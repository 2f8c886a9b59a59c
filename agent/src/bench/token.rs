//! What the sender of a measurement has to know.

use std::{fmt, hint::black_box, str::FromStr};

/// How long it is on the wire, in bytes.
pub(super) const LENGTH: usize = 16;

/// 128 random bits.
#[derive(Clone, Copy)]
pub struct Token(u128);

impl Token {
    pub(super) fn random() -> Result<Self, String> {
        let mut bytes = [0; LENGTH];
        getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
        Ok(Self(u128::from_be_bytes(bytes)))
    }

    pub(super) const fn bytes(self) -> [u8; LENGTH] {
        self.0.to_be_bytes()
    }

    /// Returns what the receiver answers: all bits the other way round, so that who sends back what it gets is no receiver.
    pub(super) const fn answer(self) -> [u8; LENGTH] {
        (!self.0).to_be_bytes()
    }

    /// Compares all bits at once, so that the time says nothing of where they differ.
    pub(super) fn is(self, bytes: [u8; LENGTH]) -> bool {
        black_box(self.0 ^ u128::from_be_bytes(bytes)) == 0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// It is a secret for some seconds, and belongs in no log.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl FromStr for Token {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.len() == 2 * LENGTH && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bits = u128::from_str_radix(text, 16).ok().filter(|_| digits);
        // Not the text, which may be one with a slip in it.
        bits.map(Self).ok_or_else(|| {
            "the token is not 32 hexadecimal digits: write the one that the receiver gave".to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_text_is_read_again_and_nothing_else_is() {
        let token = Token(0x00ff);
        let text = token.to_string();
        assert_eq!(text, "000000000000000000000000000000ff");
        assert!(text.parse::<Token>().unwrap().is(token.bytes()));
        for wrong in [
            "",
            "ff",
            "+00000000000000000000000000000ff",
            &format!("{text}0"),
            "é",
        ] {
            let why = wrong.parse::<Token>().unwrap_err();
            assert!(why.contains("32 hexadecimal digits"), "{wrong}");
        }
        assert_eq!(format!("{token:?}"), "Token");
    }

    #[test]
    fn one_bit_that_differs_is_another_token_wherever_it_is() {
        let token = Token::random().unwrap();
        assert!(token.is(token.bytes()) && !token.is(token.answer()));
        for bit in 0..128 {
            assert!(!token.is((token.0 ^ (1 << bit)).to_be_bytes()), "bit {bit}");
        }
        assert!(!Token::random().unwrap().is(token.bytes()));
    }
}
