//! Throughput asked for over HTTP, on a node with an address of its own.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
};

use spanwire_testbed::{Namespace, wait_until};
use tokio::{runtime::Builder, sync::mpsc};

use super::*;
use crate::admin::{serve, tests::free};

const ADDRESS: &str = "192.0.2.1";

/// An admin endpoint on this address; returns where.
fn endpoint(address: &'static str) -> SocketAddr {
    let at = free(address);
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (queries, _unanswered) = mpsc::channel(1);
            serve(at, queries).await.unwrap();
            std::future::pending::<()>().await;
        });
    });
    wait_until("the endpoint", Duration::from_secs(5), || {
        TcpStream::connect(at).is_ok()
    });
    at
}

/// Asks; returns the connection.
fn ask(at: SocketAddr, path: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(at).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    BufReader::new(stream)
}

fn all(mut answer: BufReader<TcpStream>) -> String {
    let mut text = String::new();
    answer.read_to_string(&mut text).unwrap();
    text
}

/// Reads where to send, which is said while the measurement runs.
fn offer(answer: &mut BufReader<TcpStream>) -> Value {
    loop {
        let mut line = String::new();
        assert!(answer.read_line(&mut line).unwrap() > 0);
        if line.starts_with('{') {
            return serde_json::from_str(&line).unwrap();
        }
    }
}

fn on_a_node(test: impl FnOnce() + Send + 'static) {
    let node = Namespace::new();
    node.run(&format!("ip address add {ADDRESS}/32 dev lo; ip link set lo up"));
    node.inside(test);
}

#[test]
fn one_measurement_at_a_time_that_ends_with_its_asker() {
    on_a_node(|| {
        let at = endpoint("127.0.0.1");
        let path = format!("/debug/bench/receive/{ADDRESS}/30");
        let mut first = ask(at, &path);
        let offered = offer(&mut first);
        assert_eq!(offered["token"].as_str().unwrap().len(), 32, "{offered}");
        let port: u16 = offered["port"].as_u64().unwrap().try_into().unwrap();
        let listens = || TcpStream::connect((ADDRESS, port)).is_ok();
        assert!(listens());
        let token = "0".repeat(32);
        for path in [
            path.clone(),
            format!("/debug/bench/send/{ADDRESS}/{ADDRESS}/{port}/{token}/1"),
        ] {
            let busy = all(ask(at, &path));
            assert!(busy.starts_with("HTTP/1.1 503"), "{busy}");
            assert!(busy.contains("busy with another measurement"), "{busy}");
        }
        // One that is about to end is waited for.
        let mut second = ask(at, &path);
        thread::sleep(Duration::from_millis(200));
        drop(first);
        let again = offer(&mut second);
        assert!(!listens(), "the first goes on");
        assert_ne!(offered["token"], again["token"]);
    });
}

#[test]
fn what_cannot_be_read_and_who_may_not_is_said() {
    on_a_node(|| {
        let at = endpoint("127.0.0.1");
        let token = "0".repeat(32);
        for (path, why) in [
            ("receive/x/1".to_owned(), "x is no address"),
            (format!("receive/{ADDRESS}/0"), "0 is no number of seconds"),
            (format!("receive/{ADDRESS}/31"), "from 1 to 30"),
            (format!("send/{ADDRESS}/fd00::1/1/{token}/1"), "two families"),
            (
                format!("send/{ADDRESS}/{ADDRESS}/0/{token}/1"),
                "no number from 1 to 65535",
            ),
            (
                format!("send/{ADDRESS}/{ADDRESS}/65536/{token}/1"),
                "no number from 1 to 65535",
            ),
            (
                format!("send/{ADDRESS}/{ADDRESS}/1/x/1"),
                "not 32 hexadecimal digits",
            ),
            (format!("send/{ADDRESS}/{ADDRESS}/1/{token}/x"), "x is no number"),
        ] {
            let answer = all(ask(at, &format!("/debug/bench/{path}")));
            assert!(
                answer.starts_with("HTTP/1.1 400") && answer.contains(why),
                "{path}: {answer}"
            );
        }
        let open = endpoint(ADDRESS);
        for path in [
            format!("receive/{ADDRESS}/1"),
            format!("send/{ADDRESS}/{ADDRESS}/1/{token}/1"),
        ] {
            let answer = all(ask(open, &format!("/debug/bench/{path}")));
            assert!(
                answer.starts_with("HTTP/1.1 403") && answer.contains("on the loopback"),
                "{answer}"
            );
        }
    });
}
