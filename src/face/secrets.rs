//! `fledgling secret`: what the owner keeps for models and hands, by name.
//!
//! Owns how a value is given: never on a command line, which other programs and the shell's
//! history see. Never shows one. Does not know where they are kept.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Read as _};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde_json::Value;

use crate::face::clean::row;
use crate::face::screen::{Place, Screen, write};
use crate::face::{Refusal, tty, views};
use crate::files::withheld::SHORTEST;
use crate::organs::host::Settings;
use crate::organs::keys;
use crate::organs::link::{DOOR_VARIABLE, Link};
use crate::organs::verb::{Hidden, Verb, exit};

/// What is to be done with secrets.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Keep one: its value from standard input, or typed without being shown
    Set {
        /// As an environment variable would have it
        name: String,
        /// What must not stand here
        #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true)]
        value: Vec<OsString>,
    },
    /// List their names, where each comes from, and what it is for
    List,
    /// Forget one
    Rm {
        /// Which one
        name: String,
    },
}

/// Do it. The number is the exit code.
pub async fn secret(
    settings: impl FnOnce() -> Result<Settings>,
    command: Command,
    json: bool,
) -> Result<u8> {
    let verb = match command {
        Command::Set { name, value } => {
            let value = Some(Hidden(given(&name, &value)?));
            Verb::Secret { name, value }
        }
        Command::Rm { name } => Verb::Secret { name, value: None },
        Command::List => Verb::Secrets,
    };
    let listed = verb == Verb::Secrets;
    let forgets = matches!(verb, Verb::Secret { value: None, .. });
    let answer = views::once(Link::establish(settings).await?, verb).await?;
    if listed {
        return views::print(&answer, json, |answer, screen| Ok(list(answer, screen)));
    }
    write(Place::Err, &if forgets { forgotten(&answer) } else { kept(&answer) })?;
    Ok(0)
}

/// The value of a secret to be kept.
fn given(name: &str, typed: &[OsString]) -> Result<String> {
    let usage = |why: String| anyhow::Error::from(Refusal::usage(why));
    if !typed.is_empty() {
        return Err(usage(format!(
            "the value must not stand on the command line, where other programs and the shell's history see it; take it for known if it was real, and give the new one on standard input (`fledgling secret set {} < FILE`) or type it when asked",
            if keys::check_name(name).is_ok() { name } else { "NAME" }
        )));
    }
    keys::check_name(name).map_err(|error| usage(error.to_string()))?;
    // The host would say the same: but nobody should be asked in vain.
    if std::env::var_os(DOOR_VARIABLE).is_some() {
        let why = "only the owner may keep secrets; ask for it".to_owned();
        return Err(Refusal { why, exit: exit::FAILED }.into());
    }
    let value = if std::io::stdin().is_terminal() {
        let typed = tty::hidden_line(&format!("value of {name} (not shown): "))?;
        let why = "interrupted; nothing was kept".to_owned();
        typed.ok_or(Refusal { why, exit: exit::INTERRUPTED })?
    } else {
        let mut value = String::new();
        let read = std::io::stdin().read_to_string(&mut value);
        read.with_context(|| format!("cannot read the value of {name} from standard input"))?;
        // What `echo` and editors put behind it.
        let whole = value
            .strip_suffix('\n')
            .map_or(&*value, |line| line.strip_suffix('\r').unwrap_or(line));
        whole.to_owned()
    };
    if value.is_empty() {
        return Err(usage(format!("no value of {name} came; nothing was kept")));
    }
    Ok(value)
}

fn kept(answer: &Value) -> String {
    let name = answer["name"].as_str().unwrap_or_default();
    let is = |field: &str| answer[field] == Value::Bool(true);
    let instead = if is("replaced") { " in place of the one before" } else { "" };
    let mut said = format!("{name} is kept in secrets.toml{instead}, readable by you alone.");
    if is("short") {
        said += &format!(
            " It has less than {SHORTEST} bytes: so short a value cannot be withheld from what the agent sees and keeps."
        );
    }
    if is("given") {
        said += " The environment has one of this name, which is used in its place.";
    }
    said
}

fn forgotten(answer: &Value) -> String {
    let name = answer["name"].as_str().unwrap_or_default();
    let rest = match answer["given"] {
        Value::Bool(true) => "The environment has one of this name, which is used now.",
        _ => "What still holds its value is no longer withheld.",
    };
    format!("{name} is gone from secrets.toml. {rest}")
}

/// A line for each secret.
fn list(answer: &Value, screen: Screen) -> String {
    let rows = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |one: &Value| one["name"].as_str().unwrap_or_default().to_owned();
    let longest = rows.iter().map(|one| name(one).len()).max().unwrap_or_default();
    let line = |one: &Value| {
        let from = match (&one["environment"], &one["file"]) {
            (Value::Bool(true), Value::Bool(true)) => "environment, not secrets.toml",
            (Value::Bool(true), _) => "environment",
            _ => "secrets.toml",
        };
        let models = one["models"].as_array().into_iter().flatten();
        let models: Vec<_> = models.filter_map(Value::as_str).collect();
        let used = match models.as_slice() {
            [] => "no model's key".to_owned(),
            models => format!("key of {}", models.join(", ")),
        };
        row(&format!("{:longest$}  {from:12}  {used}", name(one)), screen.width)
    };
    match rows {
        [] => "No secret yet; `fledgling secret set NAME` keeps one.".to_owned(),
        rows => rows.iter().map(line).collect::<Vec<_>>().join("\n"),
    }
}
