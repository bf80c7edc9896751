//! `fledgling report`: one page that tells what the agent did, to be opened in a browser.
//!
//! Owns where the page goes and who opens it. The page needs no network and holds no script;
//! only its owner may read the file. Does not know how the page looks.

mod changes;
mod charts;
mod data;
mod diff;
mod html;
mod page;
mod standing;

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use jiff::Zoned;
use serde_json::json;

use crate::face::clean::{clean, json_line};
use crate::face::report::changes::Timeline;
use crate::face::report::data::{Days, Told};
use crate::face::screen::{Place, write};
use crate::face::{Refusal, run};
use crate::guard::supervisor;
use crate::organs::history::ask::{Ask, Shown};
use crate::organs::home::Home;
use crate::organs::host::Settings;
use crate::organs::link::{DOOR_VARIABLE, Link};
use crate::organs::verb::Verb;

/// The page's name where nobody names it.
const NAME: &str = "fledgling-report.html";
/// What opens a file in the program that its owner likes.
const OPENER: &str = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
/// So long an opener may take to say that it cannot. Some are the browser itself, and stay.
const PATIENCE: Duration = Duration::from_secs(3);

/// What can be typed.
#[derive(Debug, Args)]
pub struct Options {
    /// Where the page is written; - for standard output
    /// [default: fledgling-report.html in the current folder]
    file: Option<PathBuf>,
    /// Open it in the browser
    #[arg(long)]
    open: bool,
    /// How many days it reaches back
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3660))]
    days: u32,
}

/// Make the page. The number is the exit code.
pub async fn report(
    settings: impl FnOnce() -> Result<Settings>,
    home: &Home,
    options: Options,
    json: bool,
) -> Result<u8> {
    let Options { file, open, days } = options;
    let piped = file.as_deref() == Some(Path::new("-"));
    if open && (piped || std::env::var_os(DOOR_VARIABLE).is_some()) {
        let why = "only a page in a file can be opened, and only by the owner";
        return Err(Refusal::usage(why).into());
    }
    // Before the work, which may take a while.
    let file = if piped { None } else { Some(target(home, file)?) };
    let link = Link::establish(settings).await?;
    let made = make(&link, &Days::until(Zoned::now(), days)).await;
    run::leave(&link, json).await?;
    let (page, count) = made?;
    let Some(file) = file else {
        write(Place::Out, page.trim_end())?;
        return Ok(0);
    };
    put(&file, &page).with_context(|| format!("cannot write {}", file.display()))?;
    if json {
        let said = json!({ "file": file, "changes": count, "bytes": page.len() });
        write(Place::Out, &json_line(&said)?)?;
    } else {
        write(Place::Out, &clean(&file.display().to_string()))?;
    }
    if open {
        show(&file)?;
    }
    Ok(0)
}

/// The page, and how many changes it tells.
async fn make(link: &Link, days: &Days) -> Result<(String, usize)> {
    let told = Told::ask(link, days).await?;
    let (logged, more) = data::changes(link, days).await?;
    let count = logged.len();
    let mut timeline = Timeline::new(more);
    // One by one, so that no more than one is held: some are large.
    for change in logged {
        let ask = Ask::Show { rev: change.id.clone(), path: None };
        let shown: Shown = data::read(link, Verb::History(ask)).await?;
        // That of the list is right about what is taken back, for all of them at once.
        timeline.add(&Shown { change: Some(change), ..shown });
    }
    Ok((page::page(&told, timeline, days), count))
}

/// The file to write: what a named link leads to, but never what one leads to that nobody
/// named, since others may have put it there. Such a page must not become a part of the next
/// commit, either.
fn target(home: &Home, named: Option<PathBuf>) -> Result<PathBuf> {
    let current = std::env::current_dir().context("the current folder is gone")?;
    let inside = |folder: PathBuf| folder.canonicalize().is_ok_and(|one| current.starts_with(one));
    let Some(file) = named.map(|file| current.join(file)) else {
        let temporary = inside(home.workspace());
        return Ok(if temporary { std::env::temp_dir() } else { current }.join(NAME));
    };
    match file.canonicalize() {
        Ok(there) => {
            ensure!(there.is_file(), "{} is no file; name one to write", there.display());
            Ok(there)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(file),
        Err(error) => Err(error).with_context(|| format!("cannot write {}", file.display())),
    }
}

/// Write it beside its place, for its owner alone, and put it there.
fn put(file: &Path, page: &str) -> std::io::Result<()> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let beside = file.with_file_name(format!(".{name}.{:08x}", fastrand::u32(..)));
    let mut new = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&beside)?;
    let done = new.write_all(page.as_bytes()).and_then(|()| fs::rename(&beside, file));
    done.inspect_err(|_| _ = fs::remove_file(&beside))
}

/// Have the system open it.
fn show(file: &Path) -> Result<()> {
    match supervisor::start_apart(OPENER, &[file.as_os_str()], PATIENCE) {
        Ok(Some(status)) if !status.success() => {
            bail!("{OPENER} could not open the page ({status}); open {} by hand", file.display())
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            bail!("there is no {OPENER} on PATH; open {} by hand", file.display())
        }
        Err(error) => Err(error).with_context(|| format!("cannot run {OPENER}")),
    }
}
