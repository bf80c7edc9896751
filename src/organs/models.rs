//! Which models there are, and which one to ask when none is named.
//!
//! Owns the table of providers with their defaults, and the order in which a model is
//! found: named, config.toml, a key, a local server. Knows no wire format.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use crate::kernel::model::Model;
use crate::organs::config::{Config, NamedModel, Wire};
use crate::organs::keys::Keys;
use crate::organs::prices::{Known, Priced};
use crate::wires::{self, Endpoint, OutputField};

/// A provider that needs no settings.
#[derive(Debug)]
pub struct Provider {
    /// The first half of a model's name.
    pub name: &'static str,
    wire: Wire,
    base_url: &'static str,
    /// The variable that puts another URL in place of the default.
    base_variable: Option<&'static str>,
    /// The name of its key, when it needs one.
    pub key: Option<&'static str>,
    /// The model when none is named; `None` asks the server what it has.
    pub model: Option<&'static str>,
    window: u64,
    output: Option<u64>,
    /// What this provider calls the limit of output tokens.
    output_field: OutputField,
    /// Whether its models are shown pictures, where nobody says otherwise.
    sees: bool,
}

/// The providers, in the order in which they are tried. The default models were current
/// in November 2026; windows are what every model of the provider's present range has.
pub const PROVIDERS: [Provider; 5] = [
    Provider {
        name: "anthropic",
        wire: Wire::Anthropic,
        base_url: "https://api.anthropic.com",
        base_variable: Some("ANTHROPIC_BASE_URL"),
        key: Some("ANTHROPIC_API_KEY"),
        model: Some("claude-sonnet-5"),
        window: 200_000,
        output: Some(16_000),
        output_field: OutputField::MaxTokens,
        sees: true,
    },
    Provider {
        name: "openai",
        wire: Wire::Openai,
        base_url: "https://api.openai.com/v1",
        base_variable: Some("OPENAI_BASE_URL"),
        key: Some("OPENAI_API_KEY"),
        model: Some("gpt-5.5"),
        window: 272_000,
        output: None,
        output_field: OutputField::MaxCompletionTokens,
        sees: true,
    },
    Provider {
        name: "openrouter",
        wire: Wire::Openai,
        base_url: "https://openrouter.ai/api/v1",
        base_variable: None,
        key: Some("OPENROUTER_API_KEY"),
        model: Some("openrouter/auto"),
        window: 128_000,
        output: None,
        output_field: OutputField::MaxTokens,
        sees: true,
    },
    Provider { name: "ollama", base_url: "http://127.0.0.1:11434/v1", ..LOCAL },
    Provider { name: "llamacpp", base_url: "http://127.0.0.1:8080/v1", ..LOCAL },
];

/// What the local servers have in common.
const LOCAL: Provider = Provider {
    name: "",
    wire: Wire::Openai,
    base_url: "",
    base_variable: None,
    key: None,
    model: None,
    window: OWN_WINDOW,
    output: None,
    output_field: OutputField::MaxTokens,
    sees: false,
};

/// Tokens that a server of the owner's own is taken to hold when it does not say: what the
/// examples start one with.
const OWN_WINDOW: u64 = 32_768;

/// How long a local server may take to say that it is there.
const PROBE: Duration = Duration::from_millis(300);

/// How long a server elsewhere may take to say whether it wants a key.
const ASK: Duration = Duration::from_secs(3);

/// The ways to a model, for a person who has none yet.
pub const WAYS: &str =
    "  1. a hosted model: set ANTHROPIC_API_KEY, OPENAI_API_KEY or OPENROUTER_API_KEY
  2. a local model: start Ollama (port 11434) or llama.cpp's server (port 8080)
  3. neither: `fledgling tour` shows a recorded conversation with real tools";

/// Why there is no model.
#[derive(Debug, thiserror::Error)]
pub enum NoModel {
    /// Nothing was named, and nothing found.
    #[error(
        "no model to talk to; there are three ways to one:\n{WAYS}\nIn a terminal, `fledgling` asks for a key and keeps it."
    )]
    Nothing,
    /// What was named cannot be reached: a key or a server is missing.
    #[error("{0}")]
    Absent(String),
    /// What was named does not exist.
    #[error("{0}")]
    Unusable(String),
}

/// All models that can be reached from here.
#[derive(Debug, Clone)]
pub struct Catalog {
    config: Config,
    /// All clones have the same.
    keys: Arc<RwLock<Keys>>,
    bases: BTreeMap<&'static str, String>,
}

impl Catalog {
    /// Made of the owner's settings, the keys, and the URLs given by the environment.
    pub fn new(config: Config, keys: Keys) -> Self {
        let variables = PROVIDERS.iter().filter_map(|provider| {
            let url = std::env::var(provider.base_variable?).ok()?;
            (!url.trim().is_empty()).then(|| (provider.name, url.trim().to_owned()))
        });
        Self { config, keys: Arc::new(RwLock::new(keys)), bases: variables.collect() }
    }

    /// The keys to them, and all other secrets there are.
    pub fn keys(&self) -> Keys {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Take up what `secrets.toml` has now.
    pub fn reread(&self, path: &Path) -> Result<()> {
        let keys = self.keys().with_file(path)?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    /// All that must not be told, by name: the secrets, and what the settings of models have
    /// to show to servers.
    pub fn secrets(&self) -> Vec<(String, String)> {
        let keys = self.keys();
        let keys = keys.iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
        let shown = self.config.models.iter().flat_map(|(model, named)| {
            let headers = named.headers.iter().filter(|(header, _)| is_credential(header));
            // Of `Bearer KEY` only the key.
            let key = |value: &str| value.rsplit(' ').next().unwrap_or_default().to_owned();
            headers.map(move |(header, value)| (format!("{header} of {model}"), key(value)))
        });
        keys.chain(shown).collect()
    }

    /// What a secret is for, as far as models need it.
    pub fn users_of(&self, key: &str) -> Vec<String> {
        let providers = PROVIDERS.iter().filter(|provider| provider.key == Some(key));
        let named =
            self.config.models.iter().filter(|(_, named)| named.key.as_deref() == Some(key));
        let providers = providers.map(|provider| provider.name.to_owned());
        providers.chain(named.map(|(name, _)| name.clone())).collect()
    }

    /// The same with one more key.
    #[must_use]
    pub fn with_key(self, name: &str, value: &str) -> Self {
        let mut keys = self.keys();
        keys.insert(name, value);
        Self { keys: Arc::new(RwLock::new(keys)), ..self }
    }

    /// The name of the model to ask when none is named, if that is known without a request.
    pub fn known_spec(&self) -> Option<String> {
        let keys = self.keys();
        let reached = |provider: &&Provider| {
            let has_key = provider.key.is_some_and(|key| keys.get(key).is_some());
            has_key || self.bases.contains_key(provider.name)
        };
        self.config.model.clone().or_else(|| {
            let provider = PROVIDERS.iter().find(reached)?;
            Some(format!("{}:{}", provider.name, provider.model?))
        })
    }

    /// The name of the model to ask when none is named.
    pub async fn default_spec(&self) -> Result<String, NoModel> {
        if let Some(spec) = self.known_spec() {
            return Ok(spec);
        }
        let local = PROVIDERS.iter().filter(|provider| provider.key.is_none());
        for provider in local {
            if listed(provider.base_url, PROBE).await.is_some() {
                return Ok(provider.name.to_owned());
            }
        }
        Err(NoModel::Nothing)
    }

    /// Whether only a URL of the environment speaks for a hosted model, and the server there
    /// lets nobody in without a key.
    pub async fn wants_key(&self) -> bool {
        let keys = self.keys();
        let keyless = |key| keys.get(key).is_none();
        if self.config.model.is_some()
            || !PROVIDERS.iter().filter_map(|provider| provider.key).all(keyless)
        {
            return false;
        }
        let found = PROVIDERS.iter().find(|provider| self.bases.contains_key(provider.name));
        let Some(provider) = found else { return false };
        let version = if provider.wire == Wire::Anthropic { "/v1" } else { "" };
        let url = format!("{}{version}/models", self.base(provider));
        wires::http::refuses_strangers(&url, ASK).await
    }

    /// What is known of the price of a model, by the name that it gives itself.
    pub fn price(&self, name: &str) -> Known {
        Known::of(&self.config, name)
    }

    /// The model of this name: `PROVIDER:NAME`, `PROVIDER`, a name of config.toml, or
    /// `script:FILE`. Its replies say what they cost.
    pub async fn model(&self, spec: &str) -> Result<Arc<dyn Model>, NoModel> {
        let model = self.found(spec).await?;
        let price = self.price(model.name());
        Ok(Priced::over(model, price))
    }

    async fn found(&self, spec: &str) -> Result<Arc<dyn Model>, NoModel> {
        if let Some(file) = spec.strip_prefix("script:") {
            let text = std::fs::read_to_string(file)
                .map_err(|error| unusable(format!("cannot read the script {file}: {error}")))?;
            return wires::script(file, &text).map(Arc::from).map_err(unusable);
        }
        let (wire, endpoint) = match self.config.models.get(spec) {
            Some(named) => self.named(spec, named)?,
            None => self.provided(spec).await?,
        };
        Ok(Arc::from(match wire {
            Wire::Anthropic => wires::anthropic(endpoint),
            Wire::Openai => wires::openai(endpoint),
        }))
    }

    fn named(&self, spec: &str, named: &NamedModel) -> Result<(Wire, Endpoint), NoModel> {
        let provider = provider_of(named.wire);
        let keys = self.keys();
        let key = match &named.key {
            None => None,
            Some(name) => Some(keys.get(name).map(str::to_owned).ok_or_else(|| {
                unusable(format!("model {spec} wants the key {name}, which is neither in secrets.toml nor in the environment"))
            })?),
        };
        let key = key.or_else(|| {
            // A URL of its own gets no key that was meant for somebody else.
            let name = provider.key.filter(|_| named.base_url.is_none())?;
            keys.get(name).map(str::to_owned)
        });
        let endpoint = Endpoint {
            spec: spec.to_owned(),
            model: named.name.clone(),
            base_url: named.base_url.clone().unwrap_or_else(|| self.base(provider)),
            key,
            key_name: named.key.clone().or_else(|| provider.key.map(str::to_owned)),
            headers: named.headers.clone().into_iter().collect(),
            body: named.body.clone(),
            window: named.window.unwrap_or(provider.window),
            output: named.output.or(provider.output),
            output_field: if named.base_url.is_some() {
                OutputField::MaxTokens
            } else {
                provider.output_field
            },
            // What speaks Chat Completions elsewhere may well see nothing, and refuse to look.
            sees: named.images.unwrap_or(named.wire == Wire::Anthropic || named.base_url.is_none()),
        };
        Ok((named.wire, endpoint))
    }

    async fn provided(&self, spec: &str) -> Result<(Wire, Endpoint), NoModel> {
        let (name, model) = spec.split_once(':').unwrap_or((spec, ""));
        let Some(provider) = PROVIDERS.iter().find(|provider| provider.name == name) else {
            let providers: Vec<_> = PROVIDERS.iter().map(|provider| provider.name).collect();
            let named: Vec<_> = self.config.models.keys().map(String::as_str).collect();
            let named = if named.is_empty() { "none".to_owned() } else { named.join(", ") };
            return Err(unusable(format!(
                "unknown model {spec:?}: expected PROVIDER:NAME (PROVIDER one of {}), script:FILE, or a name under [models] in config.toml (there: {named})",
                providers.join(", ")
            )));
        };
        let base_url = self.base(provider);
        let key = provider.key.and_then(|name| self.keys().get(name).map(str::to_owned));
        if let (Some(name), None, false) =
            (provider.key, &key, self.bases.contains_key(provider.name))
        {
            let url = provider
                .base_variable
                .map(|url| format!(", or the URL of your own server in {url}"));
            let url = url.unwrap_or_default();
            return Err(NoModel::Absent(format!(
                "model {spec} needs a key: put {name} into the environment or secrets.toml{url}"
            )));
        }
        // A server of the owner's own is asked what it has; what is hosted is known.
        let own = base_url.starts_with("http://");
        let root = base_url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let model = match (model, provider.model) {
            ("", default) => {
                let listed = if own { listed(&format!("{root}/v1"), PROBE).await } else { None };
                listed.or(default.map(str::to_owned)).ok_or_else(|| {
                    NoModel::Absent(format!(
                        "no server answers at {base_url}; is it running, with a model loaded?"
                    ))
                })?
            }
            (model, _) => model.to_owned(),
        };
        let props = if own { props_of_llamacpp(&root).await } else { None }.unwrap_or_default();
        let context = props.pointer("/default_generation_settings/n_ctx").and_then(Value::as_u64);
        let window = context.unwrap_or(if own { OWN_WINDOW } else { provider.window });
        let sees = props.pointer("/modalities/vision").and_then(Value::as_bool);
        let spec = format!("{name}:{model}");
        Ok((
            provider.wire,
            Endpoint {
                spec,
                model,
                base_url,
                key,
                key_name: provider.key.map(str::to_owned),
                headers: Vec::new(),
                body: serde_json::Map::new(),
                window,
                output: provider.output,
                output_field: provider.output_field,
                sees: sees.unwrap_or(provider.sees),
            },
        ))
    }

    fn base(&self, provider: &Provider) -> String {
        self.bases.get(provider.name).cloned().unwrap_or_else(|| provider.base_url.to_owned())
    }
}

/// Whether a header of this name shows who asks.
fn is_credential(header: &str) -> bool {
    let header = header.to_lowercase();
    ["auth", "key", "token", "secret", "cookie"].iter().any(|part| header.contains(part))
}

/// The provider whose defaults a named model of this wire has.
fn provider_of(wire: Wire) -> &'static Provider {
    let [anthropic, openai, ..] = &PROVIDERS;
    if wire == Wire::Anthropic { anthropic } else { openai }
}

fn unusable(why: impl std::fmt::Display) -> NoModel {
    NoModel::Unusable(why.to_string())
}

/// The first model a server lists.
async fn listed(base_url: &str, timeout: Duration) -> Option<String> {
    let list = wires::http::get(&format!("{base_url}/models"), timeout).await?;
    list.pointer("/data/0/id")?.as_str().map(str::to_owned)
}

/// llama.cpp tells how much context it was started with, and whether it was given eyes.
async fn props_of_llamacpp(root: &str) -> Option<Value> {
    wires::http::get(&format!("{root}/props"), PROBE).await
}
