//! The name of the Peer of this machine, and by what a later run knows it to be this machine's.

use ring::hmac;
use spanwire_topology::PeerName;

/// Returns the name that a machine with this host name has.
///
/// # Errors
/// Where it makes no name, with what to do.
pub fn name_of(host: &str) -> Result<PeerName, String> {
    let plain = |c: char| {
        if c.is_ascii_alphanumeric() || c == '.' {
            c.to_ascii_lowercase()
        } else {
            '-'
        }
    };
    let name: String = host.chars().map(plain).collect();
    let name = name.trim_matches(['-', '.']);
    let parsed = name.parse();
    parsed.map_err(|_| format!("the host name {host:?} makes no name of a Peer; give one with --name"))
}

/// Returns what stands for the machine with this machine ID in a label. The ID itself is not for others (machine-id(5)), so it is
/// the key of a hash, as `sd_id128_get_machine_app_specific` has it.
#[must_use]
pub fn machine(id: &str) -> Option<String> {
    let id = id.trim();
    if id.is_empty() {
        return None;
    }
    let key = hmac::Key::new(hmac::HMAC_SHA256, id.as_bytes());
    let tag = hmac::sign(&key, b"kubectl spanwire connect");
    Some(
        tag.as_ref()
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_becomes_a_name() {
        for (host, name) in [
            ("laptop", "laptop"),
            ("Anna_Laptop.local", "anna-laptop.local"),
            ("-x.", "x"),
        ] {
            assert_eq!(name_of(host).unwrap().as_str(), name);
        }
        assert!(name_of("").unwrap_err().contains("--name"));
        assert!(name_of("___").is_err());
    }

    #[test]
    fn a_machine_is_known_again_without_its_id() {
        let one = machine("0123456789abcdef0123456789abcdef\n").unwrap();
        assert_eq!(machine("0123456789abcdef0123456789abcdef"), Some(one.clone()));
        assert_eq!(one.len(), 32);
        assert!(!one.contains("0123456789"));
        assert_ne!(machine("1123456789abcdef0123456789abcdef"), Some(one));
        assert_eq!(machine("\n"), None);
    }
}
