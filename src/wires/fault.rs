//! What a server's error means: whether to wait, to shorten, or to give up, and what the
//! owner can do about it.
//!
//! Owns the reading of statuses, error bodies and Retry-After headers. Pure; knows
//! neither how an error arrived nor how often a request is tried.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::kernel::model::Failure;

/// Words by which servers say that a conversation is too long for the model. There is no
/// status of its own for it.
const OVERFLOW: [&str; 9] = [
    "context length",
    "context_length",
    "context size",
    "context window",
    "context limit",
    "maximum context",
    "prompt is too long",
    "input is too long",
    "input token count",
];

/// Words by which servers say that a model takes no pictures, or not this one.
const PICTURES: [&str; 13] = [
    "image input",
    "image_url",
    "image content",
    "image dimensions",
    "image exceeds",
    "image format",
    "images are",
    "process image",
    "load image",
    "support image",
    "unsupported image",
    "multimodal",
    "mmproj",
];

/// What the owner can do about it.
const NO_PICTURES: &str = "; what it is shown may be the reason: `images = false` under [models.NAME] in config.toml has pictures described to it instead";

/// Parts of the names by which servers call, within a stream, what will pass.
const PASSING: [&str; 6] =
    ["overloaded", "rate_limit", "api_error", "server_error", "timeout", "unavailable"];

/// Characters of a server's message that are passed on: it may be a whole page.
const SAID_LIMIT: usize = 600;

/// An error as a server told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The HTTP status, or the one that an error within a stream stands for.
    pub status: u16,
    /// The server's own words.
    pub said: String,
    /// How long it asks us to wait.
    pub retry_after: Option<Duration>,
}

impl Fault {
    /// An error that arrived within a stream, too late for a status of its own.
    pub fn streamed(data: &Value) -> Self {
        let error = &data["error"];
        let kind = ["type", "code"].iter().find_map(|name| error[*name].as_str()).unwrap_or("");
        let status = match error["code"].as_u64() {
            Some(status @ 400..=599) => status as u16,
            _ if PASSING.iter().any(|word| kind.contains(word)) => 503,
            _ => 400,
        };
        Self { status, said: words(data), retry_after: None }
    }

    /// What it means for the request to `url`.
    pub fn failure(self, url: &str) -> Failure {
        let Self { status, said, retry_after } = self;
        let lower = said.to_lowercase();
        let pictures = matches!(status, 400 | 404 | 415 | 422 | 500 | 501)
            && PICTURES.iter().any(|words| lower.contains(words));
        let hint = match status {
            _ if pictures => NO_PICTURES,
            300..=399 => "; redirects are not followed with a key in hand: correct the base URL",
            401 | 403 => "; check the key",
            404 => "; unknown model or wrong base URL",
            _ => "",
        };
        let colon = if said.is_empty() { "" } else { ": " };
        let message = format!("{url} answered {status}{colon}{said}{hint}");
        let said = lower;
        match status {
            _ if pictures => Failure::Fatal(message),
            413 => Failure::Overflow(message),
            400 | 422 | 500 if OVERFLOW.iter().any(|words| said.contains(words)) => {
                Failure::Overflow(message)
            }
            // An empty account is told like a rate limit, but waiting does not fill it.
            429 if said.contains("insufficient_quota") => Failure::Fatal(message),
            408 | 409 | 425 | 429 | 500.. => Failure::Transient { message, retry_after },
            _ => Failure::Fatal(message),
        }
    }
}

/// Whether a failure told like this is because of what a model is shown.
pub fn is_about_pictures(why: &str) -> bool {
    why.ends_with(NO_PICTURES)
}

/// The server's own words in the body of an error.
pub fn said(body: &str) -> String {
    let said = match serde_json::from_str(body) {
        Ok(value) => words(&value),
        Err(_) if body.trim_start().starts_with('<') => return String::new(),
        Err(_) => body.trim().to_owned(),
    };
    said.chars().take(SAID_LIMIT).collect()
}

/// How long a server asks us to wait; `header` looks a header up.
pub fn retry_after<'a>(
    header: impl Fn(&str) -> Option<&'a str>,
    now: Timestamp,
) -> Option<Duration> {
    let number = |name, unit: f64| {
        let seconds = header(name)?.trim().parse::<f64>().ok()? / unit;
        Duration::try_from_secs_f64(seconds).ok()
    };
    let date = || {
        let at = jiff::fmt::rfc2822::parse(header("retry-after")?).ok()?.timestamp();
        Some(Duration::try_from(at.duration_since(now)).unwrap_or_default())
    };
    number("retry-after-ms", 1000.0).or_else(|| number("retry-after", 1.0)).or_else(date)
}

/// The words in an error of any of the shapes that servers use, with its code or type.
fn words(body: &Value) -> String {
    let body = body.get(0).unwrap_or(body);
    let error = body.get("error").unwrap_or(body);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let message = text(error)
        .or_else(|| ["message", "detail"].iter().find_map(|name| text(error.get(name)?)))
        .unwrap_or_else(|| error.to_string());
    // OpenRouter: what the provider behind it said.
    let raw = error.pointer("/metadata/raw").and_then(text).map(|raw| format!(": {raw}"));
    let code = ["code", "type"].iter().find_map(|name| text(error.get(name)?));
    let code = code.map(|code| format!(" ({code})"));
    message + &raw.unwrap_or_default() + &code.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(failure: &Failure) -> &'static str {
        match failure {
            Failure::Transient { .. } => "transient",
            Failure::Overflow(_) => "overflow",
            Failure::Fatal(_) => "fatal",
        }
    }

    #[test]
    fn statuses_and_bodies() {
        let quota = r#"{"error":{"message":"no money","code":"insufficient_quota"}}"#;
        let llama = r#"{"error":{"code":400,"message":"the request exceeds the available context size","type":"exceed_context_size_error"}}"#;
        let code = r#"{"error":{"message":"too long","code":"context_length_exceeded"}}"#;
        let router = r#"{"error":{"message":"Provider returned error","code":400,"metadata":{"raw":"maximum context length is 8"}}}"#;
        for (status, body, expected, words) in [
            (401, r#"{"error":{"message":"bad key"}}"#, "fatal", "401: bad key; check the key"),
            (403, "{}", "fatal", "check the key"),
            (404, r#"{"error":"model 'x' not found"}"#, "fatal", "not found; unknown model or"),
            (404, "<html>no</html>", "fatal", "404; unknown model or wrong base URL"),
            (302, "", "fatal", "correct the base URL"),
            (400, r#"{"message":"bad field"}"#, "fatal", "400: bad field"),
            (400, r#"{"detail":"bad field"}"#, "fatal", "400: bad field"),
            (400, r#"[{"error":{"message":"from a list"}}]"#, "fatal", "from a list"),
            (400, llama, "overflow", "exceed_context_size_error"),
            (400, code, "overflow", "too long (context_length_exceeded)"),
            (400, router, "overflow", "maximum context length is 8"),
            (400, r#"{"error":{"message":"prompt is too long: 9 tokens"}}"#, "overflow", "9"),
            (413, "", "overflow", "413"),
            (500, "image input is not supported - hint: provide the mmproj", "fatal", "images = f"),
            (404, "No endpoints found that support image input", "fatal", "images = false"),
            (429, "slow down", "transient", "429: slow down"),
            (429, quota, "fatal", "no money"),
            (408, "", "transient", "408"),
            (500, "", "transient", "500"),
            (529, "", "transient", "529"),
        ] {
            let fault = Fault { status, said: said(body), retry_after: None };
            let failure = fault.failure("http://host/v1");
            assert_eq!(kind(&failure), expected, "{status} {body}");
            let message = failure.to_string();
            assert!(message.starts_with("http://host/v1 answered"), "{message}");
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn retry_after_in_every_form() {
        let now: Timestamp = "1994-11-06T08:49:00Z".parse().unwrap();
        for (name, value, expected) in [
            ("retry-after", "7", Some(7_000)),
            ("retry-after", " 1.5 ", Some(1_500)),
            ("retry-after-ms", "250", Some(250)),
            ("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT", Some(37_000)),
            ("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("retry-after", "-3", None),
            ("retry-after", "soon", None),
            ("date", "7", None),
        ] {
            let wait = retry_after(|asked| (asked == name).then_some(value), now);
            assert_eq!(wait, expected.map(Duration::from_millis), "{name}: {value}");
        }
    }
}
