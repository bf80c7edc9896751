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
use crate::organs::prices::{Dollars, Price};
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
    /// What models cost, where the program does not know it or is wrong.
    pub prices: BTreeMap<String, Price>,
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
    /// What one turn may cost.
    pub cost: Option<Dollars>,
    /// Tokens that turns may use up in a day which nobody in front of a terminal asked for.
    pub unattended: u64,
    /// What such turns may cost in a day.
    pub unattended_cost: Option<Dollars>,
    /// Percent of the model's window that may be full before the conversation is summarised.
    pub fill: u64,
}

impl Default for LimitSettings {
    /// Enough for an hour of steady work, and an end to a loop that goes nowhere.
    fn default() -> Self {
        let (cost, unattended_cost) = (None, None);
        Self {
            steps: 200,
            tokens: 5_000_000,
            seconds: 3_600,
            cost,
            unattended: 500_000,
            unattended_cost,
            fill: 75,
        }
    }
}

/// The same call may give the same result this often in a row before a turn is stopped.
const REPEATS: u64 = 5;
/// What unattended turns may cost in a day when the owner does not say: nobody finds out the
/// next month what a schedule cost.
const UNATTENDED_COST: Dollars = Dollars(5_000_000);

impl LimitSettings {
    /// As the loop takes them.
    pub fn limits(&self) -> Limits {
        let time = Duration::from_secs(self.seconds);
        let cost = self.cost.map(|cost| cost.0);
        Limits { steps: self.steps, tokens: self.tokens, cost, time, repeats: REPEATS }
    }

    /// What unattended turns may cost in a day.
    pub fn a_day(&self) -> Dollars {
        self.unattended_cost.unwrap_or(UNATTENDED_COST)
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
    /// Whether it is shown pictures.
    pub images: Option<bool>,
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
        assert_eq!(model.price.unwrap().output, Dollars(15_000_000));
    }
}
