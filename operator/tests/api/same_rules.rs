//! What the API server takes is what is read, and the other way round.

use spanwire_topology::{Endpoint, Prefix, PublicKey};

use serde_json::json;

use crate::{definitions::create, server::Server};

/// What people wrote, some of it right.
const ENDPOINTS: [&str; 34] = [
    "https://vpn.example.com:51820",
    "vpn.example.com",
    "VPN.Example.COM.:51820",
    "my_host.dyn.example.net:51820",
    "bücher.example:51820",
    "xn--bcher-kva.example:51820",
    "203.0.113.12:51820/udp",
    "vpn.example.com/wg:51820",
    "me@vpn.example.com:51820",
    "203.0.113.12: 51820",
    " 203.0.113.12:51820 ",
    "[203.0.113.12]:51820",
    "2001:db8::7:51820",
    "2001:db8::7",
    "[2001:db8::7]",
    "[2001:db8::7]:51820",
    "[2001:db8::zz]:51820",
    "[fe80::1%eth0]:51820",
    "[fe80::1]:51820",
    "[::ffff:203.0.113.12]:51820",
    "[::]:51820",
    "0.0.0.0:51820",
    "127.0.0.1:51820",
    "169.254.1.1:51820",
    "224.0.0.1:51820",
    "203.0.113.12:051820",
    "203.0.113.12:0",
    "203.0.113.12:65535",
    "203.0.113.12:65536",
    "localhost:51820",
    "010.0.0.1:51820",
    "256.0.0.1:51820",
    "192.168.2.11:51820",
    "gw:51820",
];

#[tokio::test]
async fn an_annotation_and_a_field_obey_the_same_rules() {
    let server = Server::start().await;
    for (number, text) in ENDPOINTS.iter().enumerate() {
        let name = format!("e{number}");
        let taken = create(&server.client, "Location", &name, json!({"endpoint": text})).await;
        let read = text.parse::<Endpoint>();
        assert_eq!(taken.is_ok(), read.is_ok(), "{text}: {taken:?}, {read:?}");
        if let Err(message) = taken {
            assert!(
                message.contains("spec.endpoint") && message.contains("write "),
                "{text}: {message}"
            );
        }
    }
    for (number, key) in PublicKey::low_order().iter().enumerate() {
        let spec = json!({"publicKey": key.to_string(), "allowedIPs": ["10.99.0.7/32"]});
        let message = create(&server.client, "Peer", &format!("k{number}"), spec)
            .await
            .unwrap_err();
        assert!(
            message.contains("spec.publicKey") && message.contains("wg pubkey"),
            "{key}: {message}"
        );
    }
    let key = PublicKey::new([7; 32]).to_string();
    let networks = [
        ("0.0.0.0/1", Some("name the networks that are meant")),
        ("128.0.0.0/2", Some("name the networks that are meant")),
        ("::/1", Some("name the networks that are meant")),
        ("2000::/3", Some("name the networks that are meant")),
        ("::ffff:0:0/96", Some("write the IPv4 network")),
        ("64:ff9b::/96", Some("write the IPv4 network")),
        ("10.0.0.0/8", None),
        ("fc00::/7", None),
        ("2001:db8::/32", None),
    ];
    for (number, (network, remedy)) in networks.into_iter().enumerate() {
        let spec = json!({"publicKey": key, "allowedIPs": [network]});
        let taken = create(&server.client, "Peer", &format!("n{number}"), spec).await;
        match (taken, remedy) {
            (Ok(_), None) => assert!(!network.parse::<Prefix>().unwrap().is_vast(), "{network}"),
            (Err(message), Some(remedy)) => assert!(message.contains(remedy), "{network}: {message}"),
            (taken, _) => panic!("{network}: {taken:?}"),
        }
    }
    let spec = json!({"nodeCIDRs": ["10.1.0.0/16", "203.0.113.0/28"]});
    let made = create(&server.client, "Location", "nodes", spec).await.unwrap();
    assert_eq!(made["nodeCIDRs"][1], "203.0.113.0/28");
}
