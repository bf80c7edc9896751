//! The welcome of somebody who has no model yet: a key is taken, checked and kept, or the
//! tour begins.
//!
//! Owns the first conversation of all. Knows no provider but by the table of models.

use anyhow::Result;

use crate::face::clean::clean;
use crate::face::screen::{Place, Screen, write};
use crate::face::tty::hidden_line;
use crate::kernel::message::{Message, Origin};
use crate::kernel::model::{Failure, Request};
use crate::organs::host::Settings;
use crate::organs::keys;
use crate::organs::models::{Catalog, NoModel, PROVIDERS, Provider, WAYS};

/// What came of the welcome.
pub enum Welcome {
    /// There is a model now.
    Ready,
    /// The tour is wanted.
    Tour,
    /// Nothing is.
    Leave,
}

/// See to it that there is a model to talk to.
pub async fn welcome(settings: &mut Settings) -> Result<Welcome> {
    let missing = match &settings.model {
        Some(spec) => settings.catalog.model(spec).await.err(),
        None if settings.catalog.wants_key().await => Some(NoModel::Nothing),
        None => settings.catalog.default_spec().await.err(),
    };
    match missing {
        None => return Ok(Welcome::Ready),
        Some(error @ NoModel::Unusable(_)) => return Err(error.into()),
        Some(NoModel::Nothing) => {}
    }
    let screen = Screen::of(Place::Out);
    let say = |text: &str| write(Place::Out, text);
    let hello = "Welcome. fledgling needs a model to talk to. There are three ways:";
    say(&format!("{}\n{WAYS}\n", screen.bold(hello)))?;
    loop {
        say(
            "Paste an API key (it stays hidden), or press Enter for the tour, or Ctrl-C to leave.",
        )?;
        let Some(key) = hidden_line("key: ")? else { return Ok(Welcome::Leave) };
        let key = key.trim();
        if key.is_empty() {
            return Ok(Welcome::Tour);
        }
        let Some(Provider { name: provider, key: Some(name), .. }) = provider_of(key)? else {
            continue;
        };
        say(&format!("Checking the key with one small request to {provider}…"))?;
        let catalog = settings.catalog.clone().with_key(name, key);
        match check(&catalog, provider).await {
            Ok(model) => {
                keys::store(&settings.home.file("secrets.toml"), name, key)?;
                settings.catalog = catalog;
                let kept = "The key is kept in secrets.toml, readable by you alone.";
                say(&format!("It works: {model}. {kept}"))?;
                return Ok(Welcome::Ready);
            }
            Err(why) => say(&screen.warn(&clean(&format!("That did not work: {why}"))))?,
        }
    }
}

async fn check(catalog: &Catalog, provider: &str) -> Result<String, String> {
    let model = catalog.model(provider).await.map_err(|error| error.to_string())?;
    let messages = [Message::User { origin: Origin::Owner, text: "Say ok.".to_owned() }];
    let request = Request { system: "Answer in one word.", tools: &[], messages: &messages };
    match model.ask(&request, &mut |_| {}).await {
        // A full answer is not needed to know that the key is good.
        Ok(_) | Err(Failure::Overflow(_)) => Ok(model.name().to_owned()),
        Err(failure) => Err(failure.to_string()),
    }
}

/// Whose key it is: by its prefix where that says so, else by asking.
fn provider_of(key: &str) -> Result<Option<&'static Provider>> {
    let known =
        [("sk-ant-", "1", "anthropic"), ("sk-or-", "3", "openrouter"), ("sk-", "2", "openai")];
    let mut found = known.iter().find(|(prefix, ..)| key.starts_with(prefix));
    if found.is_none() {
        write(Place::Out, "Whose key is it? 1 anthropic, 2 openai, 3 openrouter")?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        found = known.iter().find(|(_, number, name)| [*number, *name].contains(&answer.trim()));
    }
    Ok(found.and_then(|(.., name)| PROVIDERS.iter().find(|one| one.name == *name)))
}
