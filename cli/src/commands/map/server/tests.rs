use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;

/// A server at a free port, what it shows, and the port.
async fn server() -> (watch::Sender<Shown>, u16) {
    let server = Server::bind(0).await.unwrap();
    let port = server.port;
    let (shown, pages) = watch::channel(Shown::default());
    tokio::spawn(server.serve(pages));
    (shown, port)
}

/// Sends a request, and reads what is answered until the connection ends or nothing comes for a while.
async fn ask(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let request = request.replace("PORT", &port.to_string());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\n{headers}connection: close\r\n\r\n")
}

#[tokio::test]
async fn the_page_is_given_to_its_own_names_alone() {
    let (_shown, port) = server().await;
    for own in ["127.0.0.1:PORT", "localhost:PORT", "LOCALHOST:PORT"] {
        let answer = ask(port, &get("/", &format!("host: {own}\r\n"))).await;
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.contains("<title>"),
            "{own}: {answer}"
        );
        assert!(
            answer.contains(&format!("content-security-policy: {POLICY}\r\n")),
            "{answer}"
        );
    }
    let foreign = [
        "",
        "host: evil.example:PORT\r\n",
        "host: 127.0.0.1\r\n",
        "host: 127.0.0.1:1\r\n",
        "host: 127.0.0.1.evil.example:PORT\r\n",
        "host: 127.0.0.1:PORT\r\nhost: evil.example\r\n",
    ];
    for path in ["/", "/events", "/app.js", "/nothing"] {
        for host in foreign {
            let answer = ask(port, &get(path, host)).await;
            let refused = answer.starts_with("HTTP/1.1 421 ") || answer.starts_with("HTTP/1.1 400 ");
            assert!(refused && !answer.contains("<title>"), "{host}: {answer}");
        }
    }
    let absolute = get("http://evil.example/", "host: 127.0.0.1:PORT\r\n");
    assert!(ask(port, &absolute).await.starts_with("HTTP/1.1 421 "));
}

#[tokio::test]
async fn other_pages_may_lead_here_and_not_read_or_frame_it() {
    let (_shown, port) = server().await;
    let status = async |path: &str, headers: &str| {
        let answer = ask(port, &get(path, &format!("host: 127.0.0.1:PORT\r\n{headers}"))).await;
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(status("/events", "origin: http://evil.example\r\n").await, "403");
    assert_eq!(status("/events", "origin: null\r\n").await, "403");
    assert_eq!(
        status(
            "/app.js",
            "sec-fetch-site: cross-site\r\nsec-fetch-mode: no-cors\r\n"
        )
        .await,
        "403"
    );
    let navigate = "sec-fetch-site: cross-site\r\nsec-fetch-mode: navigate\r\nsec-fetch-dest:";
    assert_eq!(status("/", &format!("{navigate} iframe\r\n")).await, "403");
    assert_eq!(status("/", &format!("{navigate} document\r\n")).await, "200");
    assert_eq!(
        status(
            "/app.js",
            "origin: http://127.0.0.1:PORT\r\nsec-fetch-site: same-origin\r\n"
        )
        .await,
        "200"
    );
    assert_eq!(status("/../Cargo.toml", "").await, "404");
}

#[tokio::test]
async fn the_page_is_read_alone() {
    let (_shown, port) = server().await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let request = get("/", "host: 127.0.0.1:PORT\r\n").replace("GET", method);
        assert!(ask(port, &request).await.starts_with("HTTP/1.1 405 "), "{method}");
    }
    let head = get("/", "host: 127.0.0.1:PORT\r\n").replace("GET", "HEAD");
    let answer = ask(port, &head).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
    let long = get(
        "/",
        &format!("host: 127.0.0.1:PORT\r\nx: {}\r\n", "y".repeat(2 * HEAD_SIZE)),
    );
    assert!(ask(port, &long).await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn so_many_pages_are_told_and_no_more_until_one_goes() {
    let (_shown, port) = server().await;
    let open = async || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let request = format!("GET /events HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        (stream, String::from_utf8_lossy(&head).into_owned())
    };
    let mut pages = Vec::new();
    for _ in 0..STREAMS {
        let (stream, head) = open().await;
        assert_eq!(head, "HTTP/1.1 200");
        pages.push(stream);
    }
    assert_eq!(open().await.1, "HTTP/1.1 503");
    pages.pop();
    let freed = async {
        while open().await.1 != "HTTP/1.1 200" {
            sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(timeout(Duration::from_secs(10), freed).await.is_ok());
}

#[tokio::test]
async fn one_connection_too_many_is_closed() {
    let (_shown, port) = server().await;
    let connect = async || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        held.push(connect().await);
    }
    let mut last = connect().await;
    assert_eq!(last.read(&mut [0]).await.unwrap_or_default(), 0);
    held[0]
        .write_all(format!("GET / HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    assert_eq!(
        held[0].read(&mut [0]).await.unwrap(),
        1,
        "those that are there are served"
    );
}
