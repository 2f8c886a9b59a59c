//! Both ends over the loopback.

use std::time::Instant;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    spawn,
    task::JoinHandle,
    time::sleep,
};

use super::*;

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const SECOND: Duration = Duration::from_secs(1);

/// A receiver, and where it listens.
fn receiver(token: Token) -> (SocketAddr, JoinHandle<Result<Value, String>>) {
    let listener = std::net::TcpListener::bind((HERE, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    (at, spawn(receiver::take(listener, token, SECOND)))
}

/// Waits until the other end closes; returns how much it has sent before, as far as a little.
async fn closed(stream: &mut TcpStream) -> usize {
    let mut bytes = Vec::new();
    let mut some = stream.take(1000);
    let read = timeout(Duration::from_secs(10), some.read_to_end(&mut bytes));
    // It may be reset.
    let _end = read.await.expect("it is kept open");
    bytes.len()
}

#[tokio::test]
async fn what_is_sent_is_counted_for_as_long_as_was_asked() {
    let token = Token::random().unwrap();
    let (at, receiving) = receiver(token);
    let sent = sender::send(HERE, at, token, SECOND).await.unwrap();
    let received = receiving.await.unwrap().unwrap();
    let bytes = received["bytes"].as_u64().unwrap();
    assert!(bytes > 1_000_000, "{received}");
    assert!(sent["sent"].as_u64() >= Some(bytes), "{sent} {received}");
    let seconds = received["seconds"].as_f64().unwrap();
    assert!((0.9..=1.0).contains(&seconds), "{received}");
}

#[tokio::test]
async fn a_sender_that_ends_early_ends_the_measurement() {
    let token = Token::random().unwrap();
    let (at, receiving) = receiver(token);
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(&token.bytes()).await.unwrap();
    let mut answer = [0; token::LENGTH];
    stream.read_exact(&mut answer).await.unwrap();
    stream.write_all(b"12345").await.unwrap();
    drop(stream);
    let received = receiving.await.unwrap().unwrap();
    assert_eq!(received["bytes"], 5, "without the token");
    assert!(received["seconds"].as_f64() < Some(0.9), "{received}");
}

#[tokio::test]
async fn who_says_nothing_or_the_wrong_thing_is_dropped_and_keeps_nothing_from_the_sender() {
    let token = Token::random().unwrap();
    let (at, receiving) = receiver(token);
    let begun = Instant::now();
    // More than are waited for at a time.
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(TcpStream::connect(at).await.unwrap());
    }
    let mut wrong = TcpStream::connect(at).await.unwrap();
    wrong.write_all(&Token::random().unwrap().bytes()).await.unwrap();
    let mut short = TcpStream::connect(at).await.unwrap();
    short.write_all(&token.bytes()[..15]).await.unwrap();
    for stream in silent.iter_mut().chain([&mut wrong, &mut short]) {
        assert_eq!(closed(stream).await, 0);
    }
    let took = begun.elapsed();
    assert!(SECOND <= took && took < 4 * SECOND, "{took:?}");
    sender::send(HERE, at, token, SECOND).await.unwrap();
    let received = receiving.await.unwrap().unwrap();
    assert!(received["bytes"].as_u64() > Some(0), "{received}");
    let late = TcpStream::connect(at).await;
    assert!(late.is_err(), "it listens when it is over");
}

#[tokio::test]
async fn without_a_sender_it_is_over_in_some_seconds() {
    let begun = Instant::now();
    let (at, receiving) = receiver(Token::random().unwrap());
    let why = receiving.await.unwrap().unwrap_err();
    assert!(why.contains("no sender came within 5 s"), "{why}");
    assert!(begun.elapsed() < 8 * SECOND);
    assert!(TcpStream::connect(at).await.is_err());
}

/// No measurement sends much to what has not asked for it.
#[tokio::test]
async fn a_service_that_is_no_receiver_is_sent_the_token_and_nothing_more() {
    let listener = tokio::net::TcpListener::bind((HERE, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let token = Token::random().unwrap();
    let sending = spawn(sender::send(HERE, at, token, SECOND));
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut begun = [0; token::LENGTH];
    stream.read_exact(&mut begun).await.unwrap();
    assert!(token.is(begun));
    // As `echo` does.
    stream.write_all(&begun).await.unwrap();
    assert_eq!(closed(&mut stream).await, 0);
    let why = sending.await.unwrap().unwrap_err();
    assert!(why.contains("does not take the token"), "{why}");
}

#[tokio::test]
async fn why_nothing_can_be_sent_is_said() {
    let token = Token::random().unwrap();
    let (at, receiving) = receiver(token);
    receiving.abort();
    sleep(Duration::from_millis(100)).await;
    let why = sender::send(HERE, at, token, SECOND).await.unwrap_err();
    assert!(why.contains("refused"), "{why}");
    let foreign = "192.0.2.77".parse().unwrap();
    let why = sender::send(foreign, at, token, SECOND).await.unwrap_err();
    assert!(why.contains("nothing can be sent from 192.0.2.77"), "{why}");
    // It accepts nothing, and its queue is full.
    let full = tokio::net::TcpSocket::new_v4().unwrap();
    full.bind((HERE, 0).into()).unwrap();
    let full = full.listen(0).unwrap();
    let at = full.local_addr().unwrap();
    let _first = TcpStream::connect(at).await.unwrap();
    let why = sender::send(HERE, at, token, SECOND).await.unwrap_err();
    assert!(why.contains("within 2 s"), "{why}");
}

#[test]
fn it_listens_on_one_address_of_the_node_alone() {
    for at in ["0.0.0.0", "::", "127.0.0.1", "::1", "224.0.0.1", "ff02::1"] {
        let why = receiver::listen(at.parse().unwrap()).unwrap_err();
        assert!(why.contains("name one of the node's addresses"), "{at}: {why}");
    }
    let why = receiver::listen("192.0.2.77".parse().unwrap()).unwrap_err();
    assert!(why.contains("cannot listen on 192.0.2.77"), "{why}");
}
