//! Chromium without a screen, driven by WebDriver (<https://www.w3.org/TR/webdriver2/>).

use std::path::Path;

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::server::{Process, Server, port, until};

/// Keys, as WebDriver names them.
pub(crate) const TAB: &str = "\u{e004}";
pub(crate) const RIGHT: &str = "\u{e014}";
pub(crate) const HOME: &str = "\u{e011}";
pub(crate) const ESCAPE: &str = "\u{e00c}";

/// A browser with one page; gone when dropped.
pub(crate) struct Browser {
    port: u16,
    session: String,
    _driver: Process,
}

impl Browser {
    pub(crate) async fn start(server: &Server) -> Self {
        let port = port();
        let log = server.file("chromedriver.log");
        let driver = Process::start(Path::new("chromedriver"), &[format!("--port={port}")], &[], &log);
        until("the driver listens", async || {
            TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
        let mut browser = Self {
            port,
            session: String::new(),
            _driver: driver,
        };
        // Root has no sandbox, and /dev/shm may be small.
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ];
        let wanted =
            json!({"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}});
        let wanted = json!({"capabilities": {"alwaysMatch": wanted}});
        let session = browser.ask("POST", "/session", Some(wanted)).await;
        browser.session = format!("/session/{}", session["sessionId"].as_str().unwrap());
        browser
    }

    async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Value {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        let carrier = tokio::spawn(connection);
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", format!("127.0.0.1:{}", self.port))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let answer = sender
            .send_request(request)
            .await
            .unwrap()
            .into_body()
            .collect()
            .await
            .unwrap();
        carrier.abort();
        let mut answer: Value = serde_json::from_slice(&answer.to_bytes()).unwrap();
        let value = answer["value"].take();
        assert!(value["error"].is_null(), "{path}: {value}");
        value
    }

    async fn command(&self, path: &str, body: Value) -> Value {
        self.ask("POST", &format!("{}/{path}", self.session), Some(body))
            .await
    }

    /// Asks for something of Chromium's own.
    async fn devtools(&self, command: &str, params: Value) {
        self.command("goog/cdp/execute", json!({"cmd": command, "params": params}))
            .await;
    }

    /// Shows the page at this address.
    pub(crate) async fn go(&self, address: &str) {
        self.command("url", json!({"url": address})).await;
    }

    /// Has the page be so large, and as one who prefers this scheme of colours has it.
    pub(crate) async fn resize(&self, width: u32, height: u32, scheme: &str) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.devtools("Emulation.setEmulatedMedia", scheme).await;
    }

    /// Evaluates an expression in the page; it may be a promise.
    pub(crate) async fn value(&self, expression: &str) -> Value {
        let script = format!(
            "const done = arguments[0]; Promise.resolve().then(() => ({expression})).then(done, (error) => done(`error: ${{error}}`))"
        );
        self.command("execute/async", json!({"script": script, "args": []}))
            .await
    }

    /// Runs statements in the page.
    pub(crate) async fn run(&self, script: &str) {
        self.command("execute/sync", json!({"script": script, "args": []}))
            .await;
    }

    /// Waits until an expression is true.
    pub(crate) async fn wait(&self, what: &str, expression: &str) {
        until(what, async || {
            (self.value(expression).await == true).then_some(())
        })
        .await;
    }

    /// Presses a key.
    pub(crate) async fn press(&self, key: &str) {
        let keys = json!([{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]);
        let actions = json!({"actions": [{"type": "key", "id": "keyboard", "actions": keys}]});
        self.command("actions", actions).await;
    }

    /// Moves the pointer to this place of the page.
    pub(crate) async fn point(&self, x: f64, y: f64) {
        #[expect(clippy::cast_possible_truncation, reason = "a place on a screen")]
        let to = json!({"type": "pointerMove", "x": x.round() as i64, "y": y.round() as i64, "duration": 0});
        let actions = json!({"actions": [{"type": "pointer", "id": "mouse", "actions": [to]}]});
        self.command("actions", actions).await;
    }

    /// What the browser complains of.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let entries = self.command("se/log", json!({"type": "browser"})).await;
        let entries = entries.as_array().unwrap().iter();
        entries.map(|entry| entry["message"].to_string()).collect()
    }

    /// Ends it, and with it what it has on this machine.
    pub(crate) async fn close(self) {
        self.ask("DELETE", &self.session, None).await;
    }
}
