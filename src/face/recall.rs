//! What was found in past conversations, on a screen.
//!
//! Owns how a message that was found looks: when and where it was said and by whom in a line of
//! its own, and the words below it, each line set in, so that no text can pass for such a line.
//! Does not know how it was found.

use anyhow::{Context as _, Result};
use serde::Deserialize as _;
use serde_json::Value;

use crate::face::clean::{clean, json_line, line};
use crate::face::screen::{Place, Screen, write};
use crate::face::turn_view::wrapped;
use crate::face::wrap::{Style, Wrap};
use crate::organs::recall::Recalled;
use crate::organs::recall::search::Found;

/// Messages that are shown when nothing else is said.
pub const LIMIT: usize = 20;
/// What `fledgling recall --help` says besides.
pub const HELP: &str = "\
All words must be in a message, in any order. \"two words\" stand in a row, back* begins like
this. With --session NAME only in that conversation. Without words: all that was said, in order.

    fledgling recall backup script
    fledgling recall '\"do not\" deploy*' --since 30d
    fledgling recall --session telegram --since yesterday";
/// What stands around a hit where it cannot be told by its colour.
const AROUND: [&str; 2] = ["»", "«"];

/// `fledgling recall`: print what was found. Exit code 1 says that nothing was, as grep's does.
pub fn show(answer: &Value, json: bool) -> Result<u8> {
    let recalled = read(answer)?;
    if let Some(said) = &recalled.said {
        write(Place::Err, &wrapped(said, Screen::of(Place::Err)))?;
    }
    let found = !recalled.found.is_empty();
    if json {
        for one in &recalled.found {
            write(Place::Out, &json_line(one)?)?;
        }
    } else {
        let place = if found { Place::Out } else { Place::Err };
        write(place, &shown(&recalled, Screen::of(place)))?;
    }
    Ok(u8::from(!found))
}

/// The same, as a text.
pub fn text(answer: &Value, screen: Screen) -> Result<String> {
    let recalled = read(answer)?;
    let said = recalled.said.as_ref().map(|said| wrapped(said, screen) + "\n");
    Ok(said.unwrap_or_default() + &shown(&recalled, screen))
}

fn read(answer: &Value) -> Result<Recalled> {
    Recalled::deserialize(answer).context("the host's answer is odd")
}

fn shown(recalled: &Recalled, screen: Screen) -> String {
    if recalled.found.is_empty() {
        return "Nothing was found.".to_owned();
    }
    let mut parts = Vec::new();
    if recalled.some {
        parts.push(wrapped("No message has all of this; these have some of it.", screen));
    }
    parts.extend(recalled.found.iter().map(|found| message(found, screen)));
    if recalled.more {
        parts.push(wrapped("There is more: name more words, a day, or a --limit.", screen));
    }
    parts.join("\n")
}

/// One message: its head, then what was said, set in.
fn message(found: &Found, screen: Screen) -> String {
    let Found { session, turn, at, who, cut, .. } = found;
    let when = at.get(..16).unwrap_or(at).replace('T', " ");
    let head = line(&format!("{when} · {who} · {session}, turn {turn}"), screen.width);
    // Others' words are marked as they are for the model.
    let margin = if who == "owner" || who == "agent" { "  " } else { "  | " };
    let mut wrap = Wrap::new(screen.width, screen.colour);
    wrap.begin(margin, margin);
    wrap.push(Style::PLAIN, if cut.0 { "… " } else { "" });
    let (text, hits) = (found.text.chars().collect::<Vec<_>>(), &found.hits);
    let mut at = 0;
    for (from, to) in hits.iter().chain([&(text.len(), text.len())]) {
        // What was withheld on the way may have made it shorter.
        let [from, to] = [from, to].map(|place| (*place).clamp(at, text.len()));
        lines(&mut wrap, Style::PLAIN, &text[at..from], margin);
        let mark = |mark| if screen.colour || from == to { "" } else { mark };
        wrap.push(Style::BOLD, mark(AROUND[0]));
        lines(&mut wrap, Style::BOLD, &text[from..to], margin);
        wrap.push(Style::BOLD, mark(AROUND[1]));
        at = to;
    }
    wrap.push(Style::PLAIN, if cut.1 { " …" } else { "" });
    wrap.end();
    format!("{}\n{}", screen.dim(&head), wrap.take().join("\n"))
}

/// Text with its own line breaks.
fn lines(wrap: &mut Wrap, style: Style, text: &[char], margin: &str) {
    for (number, piece) in clean(&text.iter().collect::<String>()).split('\n').enumerate() {
        if number > 0 {
            wrap.end();
            wrap.begin(margin, margin);
        }
        wrap.push(style, piece);
    }
}
