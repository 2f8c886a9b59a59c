//! Whom this machine asks for names.

use std::{collections::BTreeSet, fs, net::IpAddr, path::Path};

/// The files that name them, as far as they are there. In a container of the network of its node, the first is what the kubelet
/// has made of its `resolvConf`; the second is that of systemd-resolved, to which a stub on the machine itself leads.
pub(crate) const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Returns the resolvers that files in the format of resolv.conf(5) name, but for those on the machine itself: these ask others in turn, which
/// another of the files names.
pub(crate) fn resolvers(files: &[impl AsRef<Path>]) -> BTreeSet<IpAddr> {
    let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    texts.flat_map(|text| of_text(&text)).collect()
}

fn of_text(text: &str) -> BTreeSet<IpAddr> {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let address = words
            .next()
            .filter(|word| *word == "nameserver")
            .and(words.next())?;
        let (address, _zone) = address.split_once('%').unwrap_or((address, ""));
        address.parse().ok()
    };
    let others = |address: &IpAddr| !address.is_loopback() && !address.is_unspecified();
    text.lines().filter_map(address).filter(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_those_that_the_files_name_and_not_the_machine_itself() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["stub", "resolved", "absent"].map(|name| folder.path().join(name));
        fs::write(
            &files[0],
            "# by systemd-resolved\nnameserver 127.0.0.53\noptions edns0\n",
        )
        .unwrap();
        fs::write(
            &files[1],
            "search example.org\n  nameserver\t10.0.0.2 \nnameserver fd00:1::53\nnameserver fe80::1%eth0\n\
             nameserver ::1\nnameserver 0.0.0.0\n;nameserver 10.0.0.9\nnameservers 10.0.0.8\nnameserver none\nnameserver\n",
        )
        .unwrap();
        let found = resolvers(&files);
        let expected = ["10.0.0.2", "fd00:1::53", "fe80::1"].map(|text| text.parse().unwrap());
        assert_eq!(found, expected.into());
    }
}
