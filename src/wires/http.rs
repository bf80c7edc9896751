//! The one place that talks HTTP: a request goes out, its streamed reply is fed to a wire.
//!
//! Owns the client, its timeouts, TLS and proxies, and what a broken connection means. No
//! redirect is followed: it would carry the key elsewhere. Knows no provider.

use std::error::Error;
use std::io::ErrorKind;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, Url, redirect};
use rustls::{ClientConfig, RootCertStore};
use tokio::time::timeout;

use crate::kernel::message::{Assistant, Message};
use crate::kernel::model::{Boxed, Delta, Deltas, Failure, Model, Request};
use crate::wires::Endpoint;
use crate::wires::fault::{self, Fault};
use crate::wires::picture::recorded;
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
/// Bytes of a body without a stream that are read: a long reply, many times over.
const BODY_LIMIT: usize = 4 * 1024 * 1024;

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
    /// What the key is called where the owner keeps it.
    key_name: Option<String>,
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

    async fn exchange(
        &self,
        body: String,
        messages: &[Message],
        deltas: Deltas<'_>,
    ) -> Result<Assistant, Failure> {
        let peer = self.peer()?;
        deltas(Delta::Sent(&recorded(&body, messages)));
        let request = peer.client.post(peer.url.clone()).headers(peer.headers.clone());
        let response = request.body(body).send().await.map_err(|error| peer.lost(&error))?;
        if !response.status().is_success() {
            return Err(peer.refused(response, deltas).await);
        }
        let kind = header(&response, CONTENT_TYPE.as_str()).unwrap_or_default();
        if kind.starts_with("text/html") {
            let shown = &peer.shown;
            return Err(Failure::Fatal(format!("{shown} is a web page; check the base URL")));
        }
        let mut reply = P::Partial::default();
        let received = if kind.starts_with("application/json") {
            let (name, data) = (String::new(), peer.whole(response, deltas).await?);
            let taken = reply.take(&Event { name, data }, deltas);
            taken.map_err(|fault| fault.failure(&peer.shown))
        } else {
            peer.stream(response, &mut reply, deltas).await
        };
        match received {
            // A connection may break behind the last word of a reply.
            Err(failure @ Failure::Transient { .. }) => {
                reply.finish(&self.endpoint.spec).map_err(|_| failure)
            }
            Err(failure) => Err(failure),
            Ok(()) => reply.finish(&self.endpoint.spec),
        }
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
        Box::pin(self.exchange(P::body(&self.endpoint, request), request.messages, deltas))
    }
}

impl Peer {
    fn new<P: Protocol>(endpoint: &Endpoint) -> Result<Self, String> {
        let url = Url::parse(&endpoint.base_url).ok();
        let mut url =
            url.filter(|url| matches!(url.scheme(), "http" | "https")).ok_or_else(|| {
                let spec = &endpoint.spec;
                format!(
                    "the base URL of {spec} does not begin with http:// or https://; correct it"
                )
            })?;
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
        Ok(Self { client, url, headers, shown, key_name: endpoint.key_name.clone() })
    }

    /// Receive a stream of events, to its end or a little beyond that of the reply.
    async fn stream(
        &self,
        mut response: Response,
        reply: &mut impl Partial,
        deltas: Deltas<'_>,
    ) -> Result<(), Failure> {
        let mut decoder = Decoder::default();
        loop {
            let next = response.chunk();
            let next = if reply.done() {
                timeout(END_GRACE, next).await.unwrap_or(Ok(None))
            } else {
                next.await
            };
            let Some(chunk) = next.map_err(|error| self.lost(&error))? else { break };
            deltas(Delta::Raw(&chunk));
            for event in decoder.feed(&chunk) {
                reply.take(&event, deltas).map_err(|fault| fault.failure(&self.shown))?;
            }
        }
        let last = decoder.finish().map_or(Ok(()), |event| reply.take(&event, deltas));
        last.map_err(|fault| fault.failure(&self.shown))
    }

    /// Receive a body that is not a stream. Of one that is too long, the beginning.
    async fn whole(&self, mut response: Response, deltas: Deltas<'_>) -> Result<String, Failure> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.lost(&error))? {
            deltas(Delta::Raw(&chunk));
            body.extend_from_slice(&chunk);
            if body.len() > BODY_LIMIT {
                break;
            }
        }
        Ok(String::from_utf8_lossy(&body).into_owned())
    }

    /// What an error status means.
    async fn refused(&self, response: Response, deltas: Deltas<'_>) -> Failure {
        let retry_after = fault::retry_after(|name| header(&response, name), Timestamp::now());
        let status = response.status().as_u16();
        // The status says enough where the body is lost.
        let body = self.whole(response, deltas).await.unwrap_or_default();
        let fault = Fault { status, said: fault::said(&body), retry_after };
        match (status, fault.failure(&self.shown), &self.key_name) {
            (401 | 403, Failure::Fatal(message), Some(name)) => {
                Failure::Fatal(format!("{message} {name}"))
            }
            (_, failure, _) => failure,
        }
    }

    /// What a connection that failed means.
    fn lost(&self, error: &reqwest::Error) -> Failure {
        let shown = &self.shown;
        let mut cause: &dyn Error = error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        let message = if kind == Some(ErrorKind::ConnectionRefused) {
            // Nobody listens there: waiting would only hide it.
            let hint = "start the server, or correct the base URL";
            return Failure::Fatal(format!("{shown} refused the connection; {hint}"));
        } else if error.is_connect() {
            format!("cannot connect to {shown}: {cause}")
        } else if error.is_timeout() {
            format!("{shown} said nothing for {} seconds", IDLE_TIMEOUT.as_secs())
        } else {
            format!("the connection to {shown} was lost: {cause}")
        };
        // Only a new certificate can help.
        if message.contains("invalid peer certificate") {
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

/// Whether a server turns away whoever asks for this without a key.
pub async fn refuses_strangers(url: &str, timeout: Duration) -> bool {
    let asked = async {
        let url = Url::parse(url).ok()?;
        client(&url).ok()?.get(url).timeout(timeout).send().await.ok()
    };
    asked.await.is_some_and(|response| matches!(response.status().as_u16(), 401 | 403))
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
        // A new connection costs nothing here, and small servers close kept ones at the
        // very moment in which they are used again.
        builder = builder.tls_backend_preconfigured(tls).pool_max_idle_per_host(0);
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::kernel::message::Stop;
    use crate::wires::openai::OpenAi;
    use crate::wires::protocol::tests::endpoint;

    /// Ask a server that answers with these bytes and then closes, or holds, the
    /// connection. Gives the request it got, what came of it, and what was heard.
    async fn ask(answer: &str, holds: bool) -> (String, Result<Assistant, Failure>, Vec<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut endpoint = endpoint();
        endpoint.base_url = format!("http://{}/v1/", listener.local_addr().unwrap());
        endpoint.key = Some("sesame".to_owned());
        endpoint.headers = vec![("X-Own".to_owned(), "own".to_owned())];
        let remote = Remote::<OpenAi>::new(endpoint);
        let request = Request { system: "", tools: &[], messages: &[] };
        let mut heard = Vec::new();
        let mut deltas = |delta: Delta<'_>| match delta {
            Delta::Raw(raw) => heard.push(String::from_utf8_lossy(raw).into_owned()),
            other => heard.push(format!("{other:?}")),
        };
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut got = String::new();
            while !got.ends_with('}') {
                let mut bytes = [0; 4096];
                let count = stream.read(&mut bytes).await.unwrap();
                got.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
            (got, holds.then_some(stream))
        };
        let (asked, (got, _stream)) = tokio::join!(remote.ask(&request, &mut deltas), serve);
        (got, asked, heard)
    }

    fn answer(status: &str, kind: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\n{body}")
    }

    #[tokio::test]
    async fn a_streamed_reply_even_if_the_connection_stays_open() {
        let chunk = r#"data: {"choices":[{"delta":{"content":"hi"}}]}"#;
        let body = format!("\r\n{chunk}\n\ndata: [DONE]\n\n");
        let (got, asked, heard) = ask(&answer("200 OK", "text/event-stream", &body), true).await;
        assert!(got.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{got}");
        assert!(got.contains("\r\nauthorization: Bearer sesame\r\nx-own: own\r\n"), "{got}");
        assert!(got.ends_with("\r\n\r\n{\"model\":\"model\",\"stream\":true,\"stream_options\":{\"include_usage\":true}}"));
        assert_eq!(asked.unwrap().stop, Stop::End);
        assert!(heard[0].starts_with("Sent(") && heard.contains(&"Text(\"hi\")".to_owned()));
        assert!(heard.concat().contains("[DONE]"));
    }

    #[tokio::test]
    async fn a_reply_at_once() {
        let reply =
            "\r\n{\"choices\":[{\"message\":{\"content\":\"hi\"},\n\n\"finish_reason\":\"stop\"}]}";
        let (_, asked, _) =
            ask(&answer("200 OK", "application/json; charset=utf-8", reply), false).await;
        assert_eq!(asked.unwrap().text(), "hi");
    }

    #[tokio::test]
    async fn failures() {
        let error =
            "retry-after: 7\r\ncontent-length: 29\r\n\r\n{\"error\":{\"message\":\"later\"}}";
        for (answer, expected, words) in [
            (
                answer("429 Slow", "application/json", error),
                Some(Some(7)),
                "/v1/chat/completions answered 429: later",
            ),
            (answer("401 No", "application/json", error), None, "check the key"),
            (
                answer(
                    "307 There",
                    "text/plain",
                    "location: http://evil.test/\r\ncontent-length: 0\r\n\r\n",
                ),
                None,
                "redirects are not followed",
            ),
            (answer("200 OK", "text/html", "\r\n<html>"), None, "check the base URL"),
            (
                answer("200 OK", "text/event-stream", "content-length: 99\r\n\r\ndata: {}\n\n"),
                Some(None),
                "was lost",
            ),
            (answer("200 OK", "text/event-stream", "\r\ndata: {}\n\n"), Some(None), "was cut"),
            (String::new(), Some(None), "was lost"),
        ] {
            let (_, asked, heard) = ask(&answer, false).await;
            let failure = asked.unwrap_err();
            let wait = match &failure {
                Failure::Transient { retry_after, .. } => {
                    Some(retry_after.map(|wait| wait.as_secs()))
                }
                _ => None,
            };
            let message = failure.to_string();
            assert_eq!(wait, expected, "{message}");
            assert!(message.contains(words), "{message}");
            assert!(!message.contains("sesame"));
            if answer.contains("later") {
                assert!(heard.concat().contains("later"), "error bodies are raw replies too");
            }
        }
    }

    #[tokio::test]
    async fn nobody_there() {
        let mut endpoint = endpoint();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let ask = async |base: String| {
            endpoint.base_url = base;
            let remote = Remote::<OpenAi>::new(endpoint.clone());
            let request = Request { system: "", tools: &[], messages: &[] };
            remote.ask(&request, &mut |_| {}).await.unwrap_err()
        };
        let mut ask = ask;
        let refused = ask(format!("http://user:sesame@{free}")).await;
        assert!(matches!(refused, Failure::Fatal(_)));
        assert_eq!(
            refused.to_string(),
            format!(
                "http://{free}/chat/completions refused the connection; start the server, or correct the base URL"
            )
        );
        let refused = ask(format!("https://{free}/v1")).await.to_string();
        assert!(refused.contains("start the server"), "TLS is set up: {refused}");
        for base in ["localhost:8080/v1", "/v1", "ftp://x"] {
            let failure = ask(base.to_owned()).await;
            assert!(matches!(failure, Failure::Fatal(_)), "{failure}");
            assert!(failure.to_string().contains("base URL of test:model"), "{failure}");
        }
    }

    #[test]
    fn what_is_local() {
        for (url, local) in [
            ("http://localhost:1", true),
            ("http://a.localhost", true),
            ("http://127.8.9.1", true),
            ("http://[::1]:8080", true),
            ("http://0.0.0.0:11434", true),
            ("https://localhost.example.com", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(is_local(&Url::parse(url).unwrap()), local, "{url}");
        }
    }
}
