//! Before the first prompt: somebody who has no model yet is welcomed, and everybody is
//! told which conversation goes on.
//!
//! Owns the first conversation of all, in which a key is taken, checked and kept, or the
//! tour begins. Knows no provider but by the table of models.

use std::time::Duration;

use anyhow::Result;

use crate::face::clean::{clean, line};
use crate::face::screen::{Place, Screen, write};
use crate::face::tty::hidden_line;
use crate::face::turn_view::{plural, wrapped};
use crate::kernel::message::{Message, Origin};
use crate::kernel::model::{Delta, Failure, Request};
use crate::organs::home::Home;
use crate::organs::host::Settings;
use crate::organs::keys;
use crate::organs::link::Link;
use crate::organs::models::{Catalog, NoModel, PROVIDERS, Provider, WAYS};
use crate::organs::prompt::RIGHTS;
use crate::organs::sessions;

/// How long the check of a key may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(30);

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
        Some(error @ (NoModel::Absent(_) | NoModel::Unusable(_))) => return Err(error.into()),
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
                say(&format!("It works: {}. {kept}", clean(&model)))?;
                return Ok(Welcome::Ready);
            }
            Err(why) => say(&screen.warn(&clean(&format!("That did not work: {why}"))))?,
        }
    }
}

/// Say what there is to say before the first prompt. Answers the session that goes on: the
/// one named, else the latest, else a new one.
pub fn opening(link: &Link, home: &Home, named: Option<String>, screen: Screen) -> Result<String> {
    let version = env!("CARGO_PKG_VERSION");
    let mut lines = vec![
        format!("{} {version}  /help for commands", screen.bold("fledgling")),
        screen.warn(&wrapped(RIGHTS, screen)),
    ];
    let attached = "Another process hosts this home; this terminal is attached to it.";
    let mut said = link.take_notices();
    said.extend(link.host().is_none().then(|| attached.to_owned()));
    let session = sessions::chosen(home, named)?;
    if let Some(one) = sessions::list(home)?.into_iter().find(|one| one.name == session) {
        let begun = format!("Resuming {session} ({}, {}", one.last, plural(one.turns, "turn"));
        let about = line(&one.about, screen.width / 2);
        said.push(format!("{begun}: {about}). /new begins another."));
    }
    lines.extend(said.iter().map(|text| screen.dim(&wrapped(text, screen))));
    write(Place::Out, &lines.join("\n"))?;
    Ok(session)
}

async fn check(catalog: &Catalog, provider: &str) -> Result<String, String> {
    let model = catalog.model(provider).await.map_err(|error| error.to_string())?;
    let messages = [Message::User { origin: Origin::Owner, text: "Say ok.".to_owned() }];
    let request = Request { system: "Answer in one word.", tools: &[], messages: &messages };
    let mut deltas = |delta: Delta<'_>| {
        if let Delta::Retry { why, .. } = delta {
            // A terminal that is gone ends the program at the next prompt.
            let _ = write(Place::Out, &clean(&format!("{why}; trying again (Ctrl-C leaves)")));
        }
    };
    match tokio::time::timeout(PATIENCE, model.ask(&request, &mut deltas)).await {
        // A full answer is not needed to know that the key is good.
        Ok(Ok(_) | Err(Failure::Overflow(_))) => Ok(model.name().to_owned()),
        Ok(Err(failure)) => Err(failure.to_string()),
        Err(_) => Err(format!("no answer in {} seconds", PATIENCE.as_secs())),
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
