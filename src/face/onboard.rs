//! Before the first prompt: somebody who has no model yet is welcomed, and everybody is
//! told which conversation goes on.
//!
//! Owns the first conversation of all, in which a key is taken, checked and kept, or the
//! tour begins. Knows no provider but by the table of models.

use std::fs::File;
use std::io::{Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::mpsc::unbounded_channel;

use crate::face::clean::clean;
use crate::face::clean::line;
use crate::face::screen::{Place, Screen, write};
use crate::face::tty::hidden_line;
use crate::face::turn_view::{plural, wrapped};
use crate::kernel::message::{Message, Origin};
use crate::kernel::model::{Delta, Failure, Request};
use crate::kernel::session::{Line, lines};
use crate::organs::home::Home;
use crate::organs::host::Settings;
use crate::organs::keys;
use crate::organs::link::Link;
use crate::organs::models::{Catalog, NoModel, PROVIDERS, WAYS};
use crate::organs::sessions;

/// How long the check of a key may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of a transcript's end in which its latest question is looked for.
const TAIL: i64 = 256 << 10;

/// Lines shown of the answer to it.
const RECALLED: usize = 5;

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
    let say = |text: &str| write(Place::Out, &wrapped(text, screen));
    let hello = "Welcome. fledgling needs a model to talk to. There are three ways:";
    write(Place::Out, &screen.bold(&wrapped(hello, screen)))?;
    say(&format!("{WAYS}\n"))?;
    loop {
        say(
            "Paste an API key (it stays hidden), or press Enter for the tour, or Ctrl-C to leave.",
        )?;
        let Some(key) = hidden_line("key: ")? else { return Ok(Welcome::Leave) };
        let key = key.trim();
        if key.is_empty() {
            return Ok(Welcome::Tour);
        }
        let Some(provider) = provider_of(key)? else { continue };
        say(&format!("Checking the key with one small request to {provider}…"))?;
        let name = PROVIDERS.iter().find(|one| one.name == provider).and_then(|one| one.key);
        let Some(name) = name else { continue };
        let catalog = settings.catalog.clone().with_key(name, key);
        let worked = match check(&catalog, provider).await {
            Checked::Good(model) => format!("It works: {}. ", clean(&model)),
            Checked::Refused(why) => {
                let why = format!("That did not work: {why}");
                write(Place::Out, &screen.warn(&wrapped(&why, screen)))?;
                continue;
            }
            Checked::Not(why) => {
                let why = format!("The key could not be checked: {why}.");
                write(Place::Out, &screen.warn(&wrapped(&why, screen)))?;
                if !matches!(answer("Keep it unchecked? (y/N)")?.as_str(), "y" | "Y" | "yes") {
                    continue;
                }
                String::new()
            }
        };
        keys::store(&settings.home.file("secrets.toml"), name, Some(key))?;
        settings.catalog = catalog;
        say(&format!("{worked}The key is kept in secrets.toml, readable by you alone."))?;
        return Ok(Welcome::Ready);
    }
}

/// Say what there is to say before the first prompt. Answers the session that goes on: the
/// one named, else the latest, else a new one.
pub fn opening(link: &Link, home: &Home, named: Option<String>, screen: Screen) -> Result<String> {
    let version = env!("CARGO_PKG_VERSION");
    let mut shown = vec![format!("{} {version}  /help for commands", screen.bold("fledgling"))];
    shown.extend(link.warning().map(|text| screen.warn(&wrapped(&text, screen))));
    let attached = "fledgling already runs in another process; this terminal joins it.";
    let mut said =
        link.host().map_or_else(|| vec![attached.to_owned()], |host| host.take_notices());
    let session = match named {
        Some(name) => Some(name),
        None => sessions::latest(home)?,
    };
    let session = session.map_or_else(|| sessions::fresh_name(home), Ok)?;
    sessions::check_name(&session)?;
    if let Some(one) = sessions::list(home)?.into_iter().find(|one| one.name == session) {
        let begun = format!("Resuming {session} ({}, {}", one.last, plural(one.turns, "turn"));
        let about = line(&one.about, screen.width / 2);
        said.push(format!("{begun}: {about}). /new begins another."));
    }
    if let Some(model) = link.host().map(|host| host.known_spec(&session)).transpose()?.flatten() {
        said.insert(0, format!("{model} answers; /model chooses another."));
    }
    shown.extend(said.iter().map(|text| screen.dim(&wrapped(text, screen))));
    shown.extend(recall(&home.transcript(&session), screen));
    write(Place::Out, &shown.join("\n"))?;
    Ok(session)
}

/// The latest question of a conversation with its answer: a few lines, ready to print.
pub fn recall(transcript: &Path, screen: Screen) -> Option<String> {
    let mut file = File::open(transcript).ok()?;
    // A shorter file is read from its beginning.
    let _ = file.seek(SeekFrom::End(-TAIL));
    let (mut question, mut reply) = (String::new(), String::new());
    // What cannot be read is told when the session is opened.
    for entry in lines(&file).flatten().flatten() {
        match entry.line {
            Line::User { incoming, .. } => (question, reply) = (incoming.text, String::new()),
            Line::Assistant(said) if !said.text().is_empty() => reply = said.text(),
            _ => {}
        }
    }
    let question = line(&question, screen.width.saturating_sub(2));
    let reply = wrapped(reply.trim(), screen);
    let mut shown: Vec<_> = reply.lines().take(RECALLED).collect();
    if reply.lines().count() > RECALLED {
        shown[RECALLED - 1] = "…";
    }
    let text = format!("> {question}\n{}", shown.join("\n"));
    (!question.is_empty()).then(|| screen.dim(text.trim_end()))
}

/// What came of the check of a key.
enum Checked {
    /// This model answers.
    Good(String),
    /// The key, or what it was used for, was refused.
    Refused(String),
    /// Nobody was there to say.
    Not(String),
}

async fn check(catalog: &Catalog, provider: &str) -> Checked {
    let model = match catalog.model(provider).await {
        Ok(model) => model,
        Err(error) => return Checked::Refused(error.to_string()),
    };
    let messages =
        [Message::User { origin: Origin::Owner, text: "Say ok.".to_owned(), images: Vec::new() }];
    let request = Request { system: "Answer in one word.", tools: &[], messages: &messages };
    // A person who waits decides sooner than the policy of retries.
    let (tell, mut told) = unbounded_channel();
    let mut deltas = |delta: Delta<'_>| {
        if let Delta::Retry { why, .. } = delta {
            // Nobody listens any more once there is an answer.
            let _ = tell.send(why.to_owned());
        }
    };
    let asked = tokio::select! {
        asked = tokio::time::timeout(PATIENCE, model.ask(&request, &mut deltas)) => asked,
        Some(why) = told.recv() => return Checked::Not(why),
    };
    match asked {
        // A full answer is not needed to know that the key is good.
        Ok(Ok(_) | Err(Failure::Overflow(_))) => Checked::Good(model.name().to_owned()),
        Ok(Err(Failure::Transient { message, .. })) => Checked::Not(message),
        Ok(Err(failure)) => Checked::Refused(failure.to_string()),
        Err(_) => Checked::Not(format!("no answer in {} seconds", PATIENCE.as_secs())),
    }
}

/// Ask the person, and read a line.
fn answer(question: &str) -> Result<String> {
    write(Place::Out, question)?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(answer.trim().to_owned())
}

/// Whose key it is: by its prefix where that says so, else by asking.
fn provider_of(key: &str) -> Result<Option<&'static str>> {
    let known = [("sk-ant-", "anthropic"), ("sk-or-", "openrouter"), ("sk-", "openai")];
    if let Some((_, provider)) = known.iter().find(|(prefix, _)| key.starts_with(prefix)) {
        return Ok(Some(provider));
    }
    Ok(match answer("Whose key is it? 1 anthropic, 2 openai, 3 openrouter")?.as_str() {
        "1" | "anthropic" => Some("anthropic"),
        "2" | "openai" => Some("openai"),
        "3" | "openrouter" => Some("openrouter"),
        _ => None,
    })
}
