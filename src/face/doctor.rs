//! `fledgling doctor`: look at everything the agent needs, and say what is wrong and what
//! to do about it.
//!
//! Owns the checks; changes nothing.

use std::path::Path;

use anyhow::Result;

use crate::face::clean::clean;
use crate::face::screen::{Place, Screen, write};
use crate::face::{run, views};
use crate::kernel::session::Session;
use crate::organs::home::Home;
use crate::organs::host::Settings;
use crate::organs::link::Link;
use crate::organs::models::Catalog;
use crate::organs::prompt::{RIGHTS, Sources};
use crate::organs::sessions;
use crate::organs::verb::Verb;

/// How one check came out.
enum Found {
    Good(String),
    Note(String),
    Bad(String),
}

/// Run all checks. The exit code is 0 when nothing is wrong.
pub async fn doctor(settings: impl FnOnce() -> Result<Settings>) -> Result<u8> {
    let screen = Screen::of(Place::Out);
    let mut bad = 0;
    let mut report = |what: &str, found: Found| -> Result<()> {
        let (mark, text) = match found {
            Found::Good(text) => ("ok  ", text),
            Found::Note(text) => ("note", text),
            Found::Bad(text) => {
                bad += 1;
                ("BAD ", text)
            }
        };
        let mark = if mark == "BAD " { screen.warn(mark) } else { mark.to_owned() };
        let text = clean(&text).replace('\n', &format!("\n{:16}", ""));
        Ok(write(Place::Out, &format!("{mark} {what:10} {text}"))?)
    };
    let settings = match settings() {
        Ok(settings) => settings,
        Err(error) => {
            report("settings", Found::Bad(format!("{error:#}")))?;
            return Ok(1);
        }
    };
    let home = settings.home.clone();
    let (catalog, safe, chosen) = (settings.catalog.clone(), settings.safe, settings.model.clone());
    let limits = settings.config.limits;
    report("settings", Found::Good(present(&home)))?;
    let made = home.create_root();
    report(
        "home",
        made.as_ref()
            .map_or_else(|error| Found::Bad(format!("{error:#}")), |()| permissions(&home)),
    )?;
    for program in ["bash", "git"] {
        report(program, on_path(program))?;
    }
    report("rights", Found::Note(RIGHTS.to_owned()))?;
    if made.is_err() {
        report("model", own_model(&catalog, chosen).await)?;
        return Ok(1);
    }
    let link = match Link::establish(|| Ok(settings)).await {
        Ok(link) => link,
        Err(error) => {
            report("model", own_model(&catalog, chosen).await)?;
            report("host", Found::Bad(format!("{error:#}")))?;
            return Ok(1);
        }
    };
    let model = match link.host() {
        Some(_) => own_model(&catalog, chosen).await,
        None => hosts_model(&link).await?,
    };
    report("model", model)?;
    match link.host() {
        None => {
            report("host", Found::Good("another process hosts this home, and answers".to_owned()))?;
        }
        Some(host) => {
            report("host", Found::Good("no other process hosts this home".to_owned()))?;
            for text in host.take_notices() {
                report("host", Found::Note(text))?;
            }
            for listed in sessions::list(&home)? {
                if let Err(error) = readable(&home.transcript(&listed.name)) {
                    report("session", Found::Bad(error))?;
                }
            }
        }
    }
    run::leave(&link, false).await?;
    for text in Sources::new(home, safe, limits).prompt().notices {
        report("prompt", Found::Note(text))?;
    }
    Ok(u8::from(bad > 0))
}

/// Which files of settings there are; all that are there could be read.
fn present(home: &Home) -> String {
    let state = |name| if home.file(name).exists() { "can be read" } else { "none yet" };
    ["config.toml", "secrets.toml"].map(|name| format!("{name}: {}", state(name))).join(", ")
}

/// The model that would answer if this process hosted.
async fn own_model(catalog: &Catalog, chosen: Option<String>) -> Found {
    let spec = match chosen {
        Some(spec) => Ok(spec),
        None => catalog.default_spec().await,
    };
    let model = match spec {
        Ok(spec) => catalog.model(&spec).await.map(|model| model.name().to_owned()),
        Err(error) => Err(error),
    };
    model.map_or_else(|error| Found::Note(error.to_string()), Found::Good)
}

/// The model that answers in the process that hosts.
async fn hosts_model(link: &Link) -> Result<Found> {
    let about = views::ask(link, Verb::About { session: None }).await?;
    let text = |name: &str| about["model"][name].as_str().map(str::to_owned);
    Ok(text("name").map_or_else(|| Found::Note(text("none").unwrap_or_default()), Found::Good))
}

fn permissions(home: &Home) -> Found {
    use std::os::unix::fs::PermissionsExt as _;
    for name in ["config.toml", "secrets.toml", "door.key"] {
        let path = home.file(name);
        if let Ok(metadata) = std::fs::metadata(&path)
            && metadata.permissions().mode() & 0o077 != 0
        {
            return Found::Bad(format!("others may read {0}; run: chmod 600 {0}", path.display()));
        }
    }
    Found::Good(home.path().display().to_string())
}

fn on_path(program: &str) -> Found {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
    found.map_or_else(
        || Found::Bad(format!("{program} is not on PATH: install it")),
        |file| Found::Good(file.display().to_string()),
    )
}

fn readable(path: &Path) -> Result<(), String> {
    let mut session = Session::open(path).map_err(|error| format!("{error:#}"))?;
    match session.take_notices() {
        notices if notices.is_empty() => Ok(()),
        notices => Err(notices.join("; ")),
    }
}
