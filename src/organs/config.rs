//! The owner's settings: `config.toml`, read once and early.
//!
//! Owns their names, defaults and the errors a mistake in them gives. Nothing here is
//! ever read from the workspace. Knows no secret values: a key is named, not held.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::kernel::agent::Limits;
use crate::kernel::message::Usage;
use crate::organs::reach::settings::{Confine, HandsSettings};

/// All settings.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The model to use when none is named: `anthropic:NAME`, or a name under `[models]`.
    pub model: Option<String>,
    /// Whether tool calls are confined.
    pub confine: Confine,
    /// What they are given besides the workspace.
    pub hands: HandsSettings,
    /// What a turn may use up.
    pub limits: LimitSettings,
    /// What the history takes in and where it is copied to.
    pub history: HistorySettings,
    /// Models with settings of their own.
    pub models: BTreeMap<String, NamedModel>,
}

/// `[limits]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// Requests to the model in one turn.
    pub steps: u64,
    /// Tokens of one turn, input and output together.
    pub tokens: u64,
    /// Seconds of one turn.
    pub seconds: u64,
    /// Tokens that turns may use up in a day which nobody in front of a terminal asked for.
    pub unattended: u64,
    /// Percent of the model's window that may be full before the conversation is summarised.
    pub fill: u64,
}

impl Default for LimitSettings {
    /// Enough for an hour of steady work, and an end to a loop that goes nowhere.
    fn default() -> Self {
        Self { steps: 200, tokens: 5_000_000, seconds: 3_600, unattended: 500_000, fill: 75 }
    }
}

/// The same call may give the same result this often in a row before a turn is stopped.
const REPEATS: u64 = 5;

impl LimitSettings {
    /// As the loop takes them.
    pub fn limits(&self) -> Limits {
        let time = Duration::from_secs(self.seconds);
        Limits { steps: self.steps, tokens: self.tokens, time, repeats: REPEATS }
    }
}

/// `[history]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HistorySettings {
    /// Larger files are left out, in megabytes: each version of one would be kept for good.
    pub file_mb: u64,
    /// Files and folders of the workspace in which nothing counts as a secret.
    pub secrets_in: Vec<String>,
    /// A git remote or a folder to which the history is pushed after each turn.
    pub backup: Option<String>,
}

impl Default for HistorySettings {
    fn default() -> Self {
        Self { file_mb: 50, secrets_in: Vec::new(), backup: None }
    }
}

/// What a million tokens cost, in US dollars.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Input.
    pub input: f64,
    /// Output.
    pub output: f64,
    /// Input read from the provider's cache; as other input when it is not given.
    pub cache_read: Option<f64>,
    /// Input written to the provider's cache; as other input when it is not given.
    pub cache_write: Option<f64>,
}

impl Price {
    /// What this costs, in US dollars.
    pub fn of(&self, usage: Usage) -> f64 {
        let Usage { input, output, cache_read, cache_write, .. } = usage;
        let plain = input.saturating_sub(cache_read + cache_write);
        let parts = [
            (plain, self.input),
            (output, self.output),
            (cache_read, self.cache_read.unwrap_or(self.input)),
            (cache_write, self.cache_write.unwrap_or(self.input)),
        ];
        parts.iter().map(|(tokens, price)| *tokens as f64 * price / 1e6).sum()
    }
}

/// `[models.NAME]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedModel {
    /// How it is spoken to.
    pub wire: Wire,
    /// What the server calls it.
    pub name: String,
    /// Where it is: without `/v1` for `anthropic`, with it for `openai`.
    pub base_url: Option<String>,
    /// The name of its key in `secrets.toml` or the environment.
    pub key: Option<String>,
    /// Tokens that fit into its window.
    pub window: Option<u64>,
    /// Tokens of one reply at most.
    pub output: Option<u64>,
    /// What it costs.
    pub price: Option<Price>,
    /// Extra headers of each request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// Extra fields of each request's body.
    #[serde(default)]
    pub body: serde_json::Map<String, serde_json::Value>,
}

/// The ways to speak to a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    /// Messages.
    Anthropic,
    /// Chat Completions.
    Openai,
}

impl Config {
    /// Read the file, if there is one. An error names file, line and what was expected.
    pub fn read(path: &Path) -> Result<Self> {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                Self::parse(&text).with_context(|| format!("mistake in {}", path.display()))
            }
            Err(error) if is_absent(&error) => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// What a file says.
    pub fn parse(text: &str) -> Result<Self> {
        let config: Self = toml::from_str(text)?;
        anyhow::ensure!(
            (10..=95).contains(&config.limits.fill),
            "limits.fill must lie between 10 and 95"
        );
        Ok(config)
    }
}

/// Whether a file is not there; not even its folder, perhaps.
pub fn is_absent(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_names_line_and_expectation() {
        let error = Config::parse("model = \"x\"\n[limits]\nstep = 3\n").unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains("unknown field `step`"), "{error}");
        assert!(error.contains("steps"), "{error}");
    }

    #[test]
    fn a_named_model_has_its_own_everything() {
        let text = "[models.m]\nwire = \"openai\"\nname = \"q\"\nbase_url = \"http://h/v1\"\n\
                    key = \"K\"\nwindow = 8192\noutput = 512\nheaders = { A = \"b\" }\n\
                    body = { temperature = 0.5 }\nprice = { input = 3, output = 15 }\n";
        let config = Config::parse(text).unwrap();
        let model = &config.models["m"];
        assert_eq!((model.wire, model.window, model.output), (Wire::Openai, Some(8192), Some(512)));
        assert_eq!(model.body["temperature"], 0.5);
        let usage = Usage { input: 1_000_000, output: 100_000, ..Usage::default() };
        assert!((model.price.unwrap().of(usage) - 4.5).abs() < 1e-9);
    }
}
