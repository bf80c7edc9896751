//! The models: each implements the kernel's `Model`.
//!
//! Owns `Endpoint`, what is known of a model before it is asked, and the constructors;
//! every model they give retries by the one policy. Knows nothing of config files or the
//! environment: whoever calls has resolved them.

mod anthropic;
mod fault;
pub mod http;
mod openai;
mod picture;
mod protocol;
pub mod quoted;
mod retry;
pub mod script;
mod sse;
mod turns;

use std::fmt;

use serde::Deserialize;
use serde_json::{Map, Value};

pub use self::fault::is_about_pictures;
use crate::kernel::model::Model;

/// Where a model is and how it is to be asked.
#[derive(Clone)]
pub struct Endpoint {
    /// How the owner calls it, for instance `anthropic:claude-sonnet-5`.
    pub spec: String,
    /// How its server calls it.
    pub model: String,
    /// For Anthropic without `/v1`, for `OpenAI` with it.
    pub base_url: String,
    /// The key, where one is needed.
    pub key: Option<String>,
    /// What the key is called where the owner keeps it, for messages.
    pub key_name: Option<String>,
    /// Further headers; they win over those the wire sets.
    pub headers: Vec<(String, String)>,
    /// Further fields of every request body, for instance `temperature`.
    pub body: Map<String, Value>,
    /// Tokens that fit into a request and its reply.
    pub window: u64,
    /// Tokens a reply may have at most.
    pub output: Option<u64>,
    /// What the limit of the output is called (`OpenAI` only).
    pub output_field: OutputField,
    /// Whether it is shown pictures; else it is told of them.
    pub sees: bool,
}

/// `OpenAI`'s own reasoning models take only the newer name, many other servers only the
/// older one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputField {
    /// `max_tokens`
    #[default]
    MaxTokens,
    /// `max_completion_tokens`
    MaxCompletionTokens,
}

impl fmt::Debug for Endpoint {
    /// Without what may be secret: the key, headers, and anything else in the URL or body.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("spec", &self.spec).finish_non_exhaustive()
    }
}

/// A model that speaks Anthropic's Messages API.
pub fn anthropic(endpoint: Endpoint) -> Box<dyn Model> {
    Box::new(retry::Retry(http::Remote::<anthropic::Anthropic>::new(endpoint)))
}

/// A model that speaks `OpenAI`'s Chat Completions API.
pub fn openai(endpoint: Endpoint) -> Box<dyn Model> {
    Box::new(retry::Retry(http::Remote::<openai::OpenAi>::new(endpoint)))
}

/// A model that plays a script; `file` is what its errors call it. The error names the
/// file, the line and the field.
pub fn script(file: &str, text: &str) -> Result<Box<dyn Model>, String> {
    Ok(Box::new(retry::Retry(script::Script::parse(file, text)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_keeps_its_secrets() {
        let endpoint = Endpoint {
            spec: "openai:gpt".to_owned(),
            model: "gpt".to_owned(),
            base_url: "https://user:sesame@localhost".to_owned(),
            key: Some("sesame".to_owned()),
            key_name: None,
            headers: vec![("authorization".to_owned(), "sesame".to_owned())],
            body: Map::from_iter([("key".to_owned(), Value::from("sesame"))]),
            window: 1,
            output: None,
            output_field: OutputField::default(),
            sees: true,
        };
        assert_eq!(format!("{endpoint:?}"), "Endpoint { spec: \"openai:gpt\", .. }");
    }
}
