//! The short commands: ask the host one thing and print what it answers.
//!
//! Owns how lists look. Knows nothing of where the answers come from.

use anyhow::{Context as _, Result};
use serde::Deserialize as _;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::face::clean::{clean, json_line, row};
use crate::face::screen::{Place, Screen, write};
use crate::face::turn_view::{plural, wrapped};
use crate::face::{Refusal, run};
use crate::kernel::event::Event;
use crate::organs::home::Home;
use crate::organs::link::Link;
use crate::organs::reach::root::Row;
use crate::organs::sessions::Listed;
use crate::organs::verb::{Answer, Verb};

/// Ask one thing, as all that this process does.
pub async fn once(mut link: Link, verb: Verb) -> Result<Value> {
    loop {
        let answered = aloud(&link, verb.clone()).await;
        run::leave(&link, false).await?;
        if let Some(value) = answered? {
            return Ok(value);
        }
        link.again().await?;
    }
}

/// Ask one thing.
pub async fn ask(link: &Link, verb: Verb) -> Result<Value> {
    aloud(link, verb).await?.context("the host ended before it answered; try again")
}

/// The answer, and what the host had to say before.
async fn aloud(link: &Link, verb: Verb) -> Result<Option<Value>> {
    notices(link)?;
    let aside = |notice: &str| _ = write(Place::Err, &clean(notice));
    answer(&mut link.ask(verb).await?, aside).await
}

/// What the host had to say.
pub fn notices(link: &Link) -> Result<()> {
    let notices = link.take_notices();
    Ok(notices.iter().try_for_each(|notice| write(Place::Err, &clean(notice)))?)
}

/// The one thing that comes as an answer; none when the host ended before it came. What
/// there is to know on the way goes to `aside`.
pub async fn answer(
    answers: &mut UnboundedReceiver<Answer>,
    mut aside: impl FnMut(&str),
) -> Result<Option<Value>> {
    let mut value = Value::Null;
    while let Some(answer) = answers.recv().await {
        match answer {
            Answer::Value(answer) => value = answer,
            Answer::Refused { why, exit } => return Err(Refusal { why, exit }.into()),
            Answer::Done => return Ok(Some(value)),
            Answer::Event(Event::Notice { text }) => aside(&text),
            Answer::Event(_) | Answer::Asked(_) | Answer::Happened(_) => {}
        }
    }
    Ok(None)
}

/// `fledgling init`.
pub async fn init(link: &Link, home: &Home) -> Result<u8> {
    notices(link)?;
    let (root, workspace) = (home.path().display(), home.workspace());
    let text = format!("home       {root}\nworkspace  {}", workspace.display());
    write(Place::Out, &clean(&text))?;
    run::leave(link, false).await?;
    Ok(0)
}

/// A list of conversations.
pub fn sessions_text(answer: &Value, screen: Screen) -> Result<String> {
    let list: Vec<Listed> =
        serde_json::from_value(answer.clone()).context("the host's list is odd")?;
    let longest = list.iter().map(|one| one.name.len()).max().unwrap_or_default();
    let shown = |one: &Listed| {
        let state = match (one.running, one.ended, &one.parent) {
            (Some(seconds), ..) => format!(" [running for {seconds} s]"),
            (_, true, _) => " [ended]".to_owned(),
            (_, _, Some(parent)) => format!(" [from {parent}]"),
            _ => String::new(),
        };
        let turns = plural(one.turns, "turn");
        let text = format!("{:longest$}  {}  {turns:>9}{state}  {}", one.name, one.last, one.about);
        row(&text, screen.width)
    };
    match list.as_slice() {
        [] => Ok("No conversation yet.".to_owned()),
        list => Ok(list.iter().map(shown).collect::<Vec<_>>().join("\n")),
    }
}

/// What the host says it has done.
pub fn said(answer: &Value) -> Result<u8> {
    write(
        Place::Out,
        &wrapped(answer["said"].as_str().unwrap_or_default(), Screen::of(Place::Out)),
    )?;
    Ok(0)
}

/// `fledgling end`.
pub fn ended(answer: &Value) -> Result<u8> {
    let name = answer.get("ended").and_then(Value::as_str).unwrap_or_default();
    let dropped = match answer.get("dropped").and_then(Value::as_u64).unwrap_or_default() {
        0 => String::new(),
        1 => " 1 message that waited was dropped.".to_owned(),
        count => format!(" {count} messages that waited were dropped."),
    };
    write(Place::Err, &clean(&format!("Session {name} is ended; its transcript stays.{dropped}")))?;
    Ok(0)
}

/// `fledgling stop`.
pub fn stopped(answer: &Value) -> Result<u8> {
    let stopped = answer["stopped"].as_array().into_iter().flatten();
    let names: Vec<&str> = stopped.filter_map(Value::as_str).collect();
    let text = match names.as_slice() {
        [] => "Nothing was running.".to_owned(),
        names => format!("Stopped: {}.", names.join(", ")),
    };
    write(Place::Err, &clean(&text))?;
    Ok(0)
}

/// Requests and raw replies.
pub fn wire_text(answer: &Value, screen: Screen) -> String {
    let mut lines = Vec::new();
    for exchange in answer.as_array().into_iter().flatten() {
        let text = |name: &str| exchange[name].as_str().unwrap_or_default();
        lines.push(screen.bold(&format!("→ turn {}, {}", exchange["turn"], clean(text("at")))));
        let request = serde_json::from_str::<Value>(text("request"))
            .and_then(|body| serde_json::to_string_pretty(&body))
            .unwrap_or_else(|_| text("request").to_owned());
        lines.push(clean(&request));
        lines.push(screen.bold("←"));
        lines.push(clean(text("reply")).trim_end().to_owned());
    }
    if lines.is_empty() {
        return "Nothing went over the wire in that turn.".to_owned();
    }
    lines.join("\n")
}

/// The harness as a session sees it.
pub fn about_text(answer: &Value) -> String {
    fields(answer, "").join("\n")
}

/// A line for each field, those of an object in it below its name.
fn fields(value: &Value, indent: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        let rows = Vec::<Row>::deserialize(value).ok().filter(|rows| !rows.is_empty());
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let below = value.is_object() || rows.is_some();
        let shown = if below { String::new() } else { format!(" {shown}") };
        lines.push(clean(&format!("{indent}{}:{shown}", name.replace('_', " "))));
        for Row { right, what, from } in rows.unwrap_or_default() {
            lines.push(clean(&format!("{indent}  {right} {what} ({from})")));
        }
        lines.extend(fields(value, &format!("{indent}  ")));
    }
    lines
}

/// Print an answer: as text, or as one JSON object a line.
pub fn print(
    answer: &Value,
    json: bool,
    text: impl FnOnce(&Value, Screen) -> Result<String>,
) -> Result<u8> {
    match (json, answer) {
        (true, Value::Array(rows)) => {
            for row in rows {
                write(Place::Out, &json_line(row)?)?;
            }
        }
        (true, answer) => write(Place::Out, &json_line(answer)?)?,
        (false, answer) => write(Place::Out, &text(answer, Screen::of(Place::Out))?)?,
    }
    Ok(0)
}
