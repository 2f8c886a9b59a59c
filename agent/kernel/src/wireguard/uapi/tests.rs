use std::collections::BTreeSet;

use spanwire_host::PresharedKey;
use spanwire_topology::PublicKey;

use super::*;
use crate::wireguard::PeerUpdate;

#[test]
fn changes_are_said_in_the_words_of_the_protocol() {
    let changes = [
        Change::Device {
            private_key: PrivateKey::new([0xab; 32]),
            listen_port: 51_820,
            mark: 0x2000,
        },
        Change::Peer(PeerUpdate {
            key: PublicKey::new([1; 32]),
            endpoint: Some("[2001:db8::1]:51820".parse().unwrap()),
            keepalive: Some(None),
            group: Some(Some("paris".parse().unwrap())),
            preshared: Some(PresharedKey::new([0xcd; 32])),
            add: ["10.0.0.0/24", "fd00::/64"]
                .map(|text| text.parse().unwrap())
                .into(),
        }),
        Change::Peer(PeerUpdate {
            key: PublicKey::new([2; 32]),
            endpoint: None,
            keepalive: None,
            group: Some(None),
            preshared: Some(None),
            add: BTreeSet::new(),
        }),
        Change::RemovePeer(PublicKey::new([3; 32])),
    ];
    let expected = format!(
        "set=1\nprivate_key={}\nlisten_port=51820\nfwmark=8192\n\
         public_key={}\nendpoint=[2001:db8::1]:51820\npersistent_keepalive_interval=0\n\
         preshared_key={}\nallowed_ip=10.0.0.0/24\nallowed_ip=fd00::/64\ngroup=paris\n\
         public_key={}\npreshared_key={:064}\ngroup=\npublic_key={}\nremove=true\n\n",
        "ab".repeat(32),
        "01".repeat(32),
        "cd".repeat(32),
        "02".repeat(32),
        0,
        "03".repeat(32),
    );
    assert_eq!(request(&changes).as_str(), expected);
}
