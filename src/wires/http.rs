//! The one place that talks HTTP: a request goes out, its streamed reply is fed to a wire.
//!
//! Owns the client, its timeouts, TLS and proxies, and what a broken connection means. No
//! redirect is followed: it would carry the key elsewhere. Knows no provider.

use std::error::Error;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, Url, redirect};
use rustls::{ClientConfig, RootCertStore};

use crate::kernel::message::Assistant;
use crate::kernel::model::{Boxed, Delta, Deltas, Failure, Model, Request};
use crate::wires::Endpoint;
use crate::wires::fault::{self, Fault};
use crate::wires::protocol::{Partial, Protocol};
use crate::wires::sse::{Decoder, Event};

/// A server that cannot be connected to in this time will not be.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which a connection counts as lost. Local models read a long prompt for
/// minutes before they say a word.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// How long the end of the stream is waited for after the reply is complete: only with it
/// can the connection be used again, but some servers never send it.
const END_GRACE: Duration = Duration::from_millis(200);
/// Bytes of an error body that are read.
const ERROR_BODY_LIMIT: usize = 64 * 1024;

/// A model behind HTTP, on the wire `P`.
pub struct Remote<P> {
    endpoint: Endpoint,
    /// Made at the first request: a start that asks nothing pays nothing.
    peer: OnceLock<Peer>,
    protocol: PhantomData<P>,
}

struct Peer {
    client: Client,
    url: Url,
    headers: HeaderMap,
    /// The URL as messages show it: without what may be secret.
    shown: String,
}

impl<P: Protocol> Remote<P> {
    /// A model at this endpoint.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, peer: OnceLock::new(), protocol: PhantomData }
    }

    fn peer(&self) -> Result<&Peer, Failure> {
        if let Some(peer) = self.peer.get() {
            return Ok(peer);
        }
        let peer = Peer::new::<P>(&self.endpoint).map_err(Failure::Fatal)?;
        Ok(self.peer.get_or_init(|| peer))
    }

    async fn exchange(&self, body: String, deltas: Deltas<'_>) -> Result<Assistant, Failure> {
        let peer = self.peer()?;
        deltas(Delta::Sent(&body));
        let request = peer.client.post(peer.url.clone()).headers(peer.headers.clone());
        let mut response = request.body(body).send().await.map_err(|error| peer.lost(&error))?;
        if !response.status().is_success() {
            return Err(peer.refused(response, deltas).await);
        }
        let kind = header(&response, CONTENT_TYPE.as_str()).unwrap_or_default().to_owned();
        if kind.starts_with("text/html") {
            let shown = &peer.shown;
            return Err(Failure::Fatal(format!("{shown} is a web page; check the base URL")));
        }
        let mut whole = kind.starts_with("application/json").then(Vec::new);
        let mut decoder = Decoder::default();
        let mut reply = P::Partial::default();
        let model = &self.endpoint.spec;
        loop {
            let next = response.chunk();
            let next = if reply.done() {
                tokio::time::timeout(END_GRACE, next).await.unwrap_or(Ok(None))
            } else {
                next.await
            };
            let chunk = match next {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) => return reply.finish(model).map_err(|_| peer.lost(&error)),
            };
            deltas(Delta::Raw(&chunk));
            if let Some(whole) = &mut whole {
                whole.extend_from_slice(&chunk);
                continue;
            }
            for event in decoder.feed(&chunk) {
                reply.take(&event, deltas).map_err(|fault| fault.failure(&peer.shown))?;
            }
        }
        let last = match whole {
            Some(body) => {
                let data = String::from_utf8_lossy(&body).into_owned();
                Some(Event { name: String::new(), data })
            }
            None => decoder.finish(),
        };
        if let Some(event) = last {
            reply.take(&event, deltas).map_err(|fault| fault.failure(&peer.shown))?;
        }
        reply.finish(model)
    }
}

impl<P: Protocol> Model for Remote<P> {
    fn name(&self) -> &str {
        &self.endpoint.spec
    }

    fn window(&self) -> u64 {
        self.endpoint.window
    }

    fn ask<'a>(
        &'a self,
        request: &'a Request<'a>,
        deltas: Deltas<'a>,
    ) -> Boxed<'a, Result<Assistant, Failure>> {
        Box::pin(self.exchange(P::body(&self.endpoint, request), deltas))
    }
}

impl Peer {
    fn new<P: Protocol>(endpoint: &Endpoint) -> Result<Self, String> {
        let base = &endpoint.base_url;
        let mut url = Url::parse(base)
            .map_err(|error| format!("the base URL of {} is not a URL: {error}", endpoint.spec))?;
        url.set_path(&P::path(url.path().trim_end_matches('/')));
        let shown = format!("{}{}", url.origin().ascii_serialization(), url.path());
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let own = P::headers(endpoint).into_iter().map(|(name, value)| (name.to_owned(), value));
        for (name, value) in own.chain(endpoint.headers.iter().cloned()) {
            let entry = HeaderName::try_from(&name).ok().zip(HeaderValue::try_from(value).ok());
            let (name, mut value) = entry.ok_or_else(|| {
                format!("{name:?} cannot be sent to {shown} as a header; check the key")
            })?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let client = client(&url).map_err(|error| format!("cannot reach {shown}: {error}"))?;
        Ok(Self { client, url, headers, shown })
    }

    /// What an error status means.
    async fn refused(&self, mut response: Response, deltas: Deltas<'_>) -> Failure {
        let retry_after = fault::retry_after(|name| header(&response, name), Timestamp::now());
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            deltas(Delta::Raw(&chunk));
            body.extend_from_slice(&chunk);
            if body.len() > ERROR_BODY_LIMIT {
                break;
            }
        }
        let said = fault::said(&String::from_utf8_lossy(&body));
        Fault { status, said, retry_after }.failure(&self.shown)
    }

    /// What a connection that failed means.
    fn lost(&self, error: &reqwest::Error) -> Failure {
        let shown = &self.shown;
        let mut cause: &dyn Error = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        let io = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        let message = match io {
            Some(std::io::ErrorKind::ConnectionRefused) => {
                format!("{shown} refused the connection (is the server running?)")
            }
            _ if error.is_connect() => format!("cannot connect to {shown}: {cause}"),
            _ if error.is_timeout() => {
                format!("{shown} said nothing for {} seconds", IDLE_TIMEOUT.as_secs())
            }
            _ => format!("the connection to {shown} was lost: {cause}"),
        };
        // Only a new certificate, or another URL, can help.
        if error.is_builder() || message.contains("invalid peer certificate") {
            return Failure::Fatal(message);
        }
        Failure::Transient { message, retry_after: None }
    }
}

/// What a server on this machine answers to a plain GET, if it answers JSON in time.
pub async fn get(url: &str, timeout: Duration) -> Option<serde_json::Value> {
    let url = Url::parse(url).ok()?;
    let response = client(&url).ok()?.get(url).timeout(timeout).send().await.ok()?;
    let body = response.error_for_status().ok()?.bytes().await.ok()?;
    serde_json::from_slice(&body).ok()
}

fn client(url: &Url) -> reqwest::Result<Client> {
    // Fails only where a provider is installed already, and then there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .user_agent(concat!("fledgling/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(IDLE_TIMEOUT);
    if url.scheme() == "http" {
        // Loading the platform's certificates takes longer than a turn with a local model.
        let roots = RootCertStore::empty();
        let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        builder = builder.tls_backend_preconfigured(tls);
    }
    if is_local(url) { builder.no_proxy() } else { builder }.build()
}

/// Whether the server is on this machine, where no proxy from the environment can reach it.
fn is_local(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || address.is_unspecified(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}
