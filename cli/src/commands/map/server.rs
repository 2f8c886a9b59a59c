//! The page's server: on the loopback alone, for browsers of this machine that ask for it by its own address.

use std::{convert::Infallible, io, net::Ipv4Addr, sync::Arc, time::Duration};

use futures::{Stream, stream};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Body, Bytes, Frame},
    header::{self, HeaderName},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{sleep, timeout},
};

use crate::map::{
    Shown,
    page::{self, POLICY},
};

/// So many connections there are at a time. A browser has six of a page, one of them for its events.
const CONNECTIONS: usize = 128;
/// So many pages are sent changes at a time.
const STREAMS: usize = 32;
/// How long the head of a request may take, also that of the next one over a connection.
const HEAD: Duration = Duration::from_secs(20);
/// The head of a request, with everything in it.
const HEAD_SIZE: usize = 16 * 1024;
/// How often a page is sent that nothing has changed, which shows whether it is still there.
const QUIET: Duration = Duration::from_secs(15);
/// After so many milliseconds a page that has lost its connection tries again.
const RETRY: &str = "retry: 1000\n\n";

type Answer = UnsyncBoxBody<Bytes, Infallible>;

/// The server, which listens already.
pub(super) struct Server {
    listener: TcpListener,
    port: u16,
}

/// What all connections share.
struct Door {
    /// What a browser names the server by.
    names: [String; 2],
    pages: watch::Receiver<Shown>,
    streams: Arc<Semaphore>,
}

impl Server {
    /// Listens at this port, or at a free one where it is 0.
    pub(super) async fn bind(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, port })
    }

    /// Returns the address of the page.
    pub(super) fn address(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// Serves the page, for ever.
    pub(super) async fn serve(self, pages: watch::Receiver<Shown>) {
        let door = Arc::new(Door {
            names: ["127.0.0.1", "localhost"].map(|name| authority(name, self.port)),
            pages,
            streams: Arc::new(Semaphore::new(STREAMS)),
        });
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                // No descriptor is free, for now.
                sleep(Duration::from_millis(100)).await;
                continue;
            };
            // One too many is closed.
            let Ok(permit) = connections.clone().try_acquire_owned() else {
                continue;
            };
            let door = door.clone();
            tokio::spawn(async move {
                let answer = service_fn(|request| {
                    let answer = door.answer(&request);
                    async { Ok::<_, Infallible>(answer) }
                });
                let mut http = http1::Builder::new();
                http.timer(TokioTimer::new())
                    .header_read_timeout(HEAD)
                    .max_buf_size(HEAD_SIZE);
                // A browser may go at any time.
                let _ended = http.serve_connection(TokioIo::new(stream), answer).await;
                drop(permit);
            });
        }
    }
}

/// How HTTP names a server (RFC 9110, 4.2.3): without the port that is HTTP's own.
fn authority(name: &str, port: u16) -> String {
    if port == 80 {
        name.to_owned()
    } else {
        format!("{name}:{port}")
    }
}

impl Door {
    fn answer<B>(&self, request: &Request<B>) -> Response<Answer> {
        if let Some((status, why)) = self.refusal(request) {
            return plain(status, why);
        }
        let path = request.uri().path();
        if path == "/events" {
            return self.events();
        }
        match page::at(path) {
            Some(file) => whole(StatusCode::OK, file.media_type, file.text),
            None => plain(StatusCode::NOT_FOUND, "there is no such page"),
        }
    }

    /// Why a request is refused. A name of another site may lead here (DNS rebinding), and then the browser lets that site's scripts
    /// read what is answered; so it is answered to its own names alone. Scripts and frames of other pages are not answered either.
    fn refusal<B>(&self, request: &Request<B>) -> Option<(StatusCode, &'static str)> {
        let headers = request.headers();
        let own = |name: &str| self.names.iter().any(|own| own.eq_ignore_ascii_case(name));
        let host = only(headers, &header::HOST);
        let target = request.uri().authority().map(|authority| authority.as_str());
        if !host.is_some_and(own) || !target.is_none_or(own) {
            let why = "this page is for 127.0.0.1 and localhost alone";
            return Some((StatusCode::MISDIRECTED_REQUEST, why));
        }
        let elsewhere = "this page is not for other pages";
        let from = headers
            .get(header::ORIGIN)
            .map(|origin| origin.to_str().unwrap_or_default());
        if !from.is_none_or(|origin| origin.strip_prefix("http://").is_some_and(own)) {
            return Some((StatusCode::FORBIDDEN, elsewhere));
        }
        let says = |name: &'static str| headers.get(name).and_then(|value| value.to_str().ok());
        let site = says("sec-fetch-site").unwrap_or("none");
        let followed =
            says("sec-fetch-mode") == Some("navigate") && says("sec-fetch-dest") == Some("document");
        if !matches!(site, "none" | "same-origin") && !followed {
            return Some((StatusCode::FORBIDDEN, elsewhere));
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return Some((StatusCode::METHOD_NOT_ALLOWED, "this page is read alone"));
        }
        None
    }

    fn events(&self) -> Response<Answer> {
        let Ok(permit) = self.streams.clone().try_acquire_owned() else {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "too many pages are open");
        };
        let frames = events(self.pages.clone(), permit);
        answer(StatusCode::OK, "text/event-stream", StreamBody::new(frames))
    }
}

/// Returns a header that is there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    value.to_str().ok().filter(|_| values.next().is_none())
}

/// Returns what one page is sent. What is not taken in time is replaced by what is newer, so a slow page costs no memory.
fn events(
    pages: watch::Receiver<Shown>,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
    let begin = (pages, Shown::default(), RETRY.to_owned(), permit);
    stream::unfold(begin, async |(mut pages, mut known, mut text, permit)| {
        loop {
            let now = pages.borrow_and_update().clone();
            text += &now.events_since(&known);
            known = now;
            if !text.is_empty() {
                return Some((
                    Ok(Frame::data(text.into())),
                    (pages, known, String::new(), permit),
                ));
            }
            match timeout(QUIET, pages.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) => text.push_str(":\n\n"),
            }
        }
    })
}

fn plain(status: StatusCode, text: &'static str) -> Response<Answer> {
    whole(status, "text/plain; charset=utf-8", text)
}

fn whole(status: StatusCode, media_type: &'static str, text: &'static str) -> Response<Answer> {
    answer(status, media_type, Full::new(Bytes::from_static(text.as_bytes())))
}

fn answer(
    status: StatusCode,
    media_type: &'static str,
    body: impl Body<Data = Bytes, Error = Infallible> + Send + 'static,
) -> Response<Answer> {
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = status;
    let headers = [
        (header::CONTENT_TYPE, media_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in headers {
        response
            .headers_mut()
            .insert(name, header::HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests;
