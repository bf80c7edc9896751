//! `fledgling doctor`: look at everything the agent needs, and say what is wrong and what
//! to do about it.
//!
//! Owns the checks; changes nothing.

use std::path::Path;

use anyhow::Result;

use crate::face::clean::clean;
use crate::face::run;
use crate::face::screen::{Place, Screen, write};
use crate::kernel::session::Session;
use crate::organs::host::Settings;
use crate::organs::link::Link;
use crate::organs::models::NoModel;
use crate::organs::prompt::{RIGHTS, Sources};
use crate::organs::sessions;

/// Run all checks. The exit code is 0 when nothing is wrong.
pub async fn doctor(settings: impl FnOnce() -> Result<Settings>) -> Result<u8> {
    let screen = Screen::of(Place::Out);
    let mut bad = 0;
    let say = |mark: &str, what: &str, text: &str| {
        write(Place::Out, &format!("{mark} {what:10} {}", clean(text)))
    };
    let note = |what: &str, text: &str| say("note", what, text);
    let mut report = |what: &str, found: Result<String, String>| match found {
        Ok(text) => say("ok  ", what, &text),
        Err(text) => {
            bad += 1;
            say(&screen.warn("BAD "), what, &text)
        }
    };
    let settings = match settings() {
        Ok(settings) => settings,
        Err(error) => {
            report("settings", Err(format!("{error:#}")))?;
            return Ok(1);
        }
    };
    let Settings { home, catalog, safe, model: chosen, .. } = settings.clone();
    report("settings", Ok("config.toml and secrets.toml can be read".to_owned()))?;
    report("home", permissions(&home))?;
    for program in ["bash", "git"] {
        report(program, on_path(program))?;
    }
    let model = async {
        let spec = match chosen {
            Some(spec) => spec,
            None => catalog.default_spec().await?,
        };
        Ok::<_, NoModel>(catalog.model(&spec).await?.name().to_owned())
    };
    match model.await {
        Ok(name) => report("model", Ok(name))?,
        Err(error) => note("model", &error.to_string())?,
    }
    note("hands", RIGHTS)?;
    let link = match Link::establish(|| Ok(settings)).await {
        Ok(link) => link,
        Err(error) => {
            report("host", Err(format!("{error:#}")))?;
            return Ok(1);
        }
    };
    if link.host().is_some() {
        report("host", Ok("no other process hosts this home".to_owned()))?;
        for text in link.take_notices() {
            note("host", &text)?;
        }
        for listed in sessions::list(&home)? {
            if let Err(error) = readable(&home.transcript(&listed.name)) {
                report("session", Err(error))?;
            }
        }
    } else {
        report("host", Ok("another process hosts this home, and answers".to_owned()))?;
    }
    run::leave(&link, false).await?;
    for text in Sources::new(home, safe).prompt().notices {
        note("prompt", &text)?;
    }
    Ok(u8::from(bad > 0))
}

fn permissions(home: &crate::organs::home::Home) -> Result<String, String> {
    use std::os::unix::fs::PermissionsExt as _;
    for name in ["config.toml", "secrets.toml", "door.key"] {
        let path = home.file(name);
        if let Ok(metadata) = std::fs::metadata(&path)
            && metadata.permissions().mode() & 0o077 != 0
        {
            return Err(format!("others may read {0}; run: chmod 600 {0}", path.display()));
        }
    }
    Ok(home.path().display().to_string())
}

fn on_path(program: &str) -> Result<String, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
    found
        .map(|file| file.display().to_string())
        .ok_or_else(|| format!("{program} is not on PATH: install it"))
}

fn readable(path: &Path) -> Result<(), String> {
    let mut session = Session::open(path).map_err(|error| format!("{error:#}"))?;
    let notices = session.take_notices();
    if notices.is_empty() { Ok(()) } else { Err(notices.join("; ")) }
}
