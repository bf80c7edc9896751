//! What happens in a session as the protocol's updates, and what happened in it before.
//!
//! Owns which update an event or a line of a transcript becomes. Knows neither requests nor
//! how an update gets to the client.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::face::acp::calls::{Before, Past, Shown};
use crate::kernel::event::{End, Event};
use crate::kernel::message::{Assistant, Block, CallResult, Origin, Stop};
use crate::kernel::session::{Entry, Line, lines};
use crate::organs::home::Home;
use crate::organs::sessions;

/// How the note about the editor's folder begins and ends. It is for the model alone.
const NOTE: &str = "\n\n[The editor's project is in ";
const NOTE_END: &str = " --why REASON, or write.]";

/// A session on its way to the client.
pub struct View {
    home: PathBuf,
    /// Where it works.
    root: PathBuf,
    calls: BTreeMap<String, Shown>,
    /// What was said here and has not been heard of since.
    mine: Vec<String>,
}

impl View {
    /// Of a session that goes on now.
    pub fn of(home: &Home, session: &str) -> Self {
        let header = sessions::header(&home.transcript(session));
        let root = header.map_or_else(|| home.workspace(), |header| header.root);
        let (calls, mine) = (BTreeMap::new(), Vec::new());
        Self { home: home.path().to_owned(), root, calls, mine }
    }

    /// The client says this, and need not be told.
    pub fn say(&mut self, text: &str) {
        self.mine.push(text.to_owned());
    }

    /// What the client said is over.
    pub fn said(&mut self, text: &str) {
        self.mine.retain(|mine| mine != text);
    }

    /// These calls are shown already, and their results are to come.
    pub fn go_on(&mut self, calls: BTreeMap<String, Shown>) {
        self.calls.extend(calls);
    }

    /// What an event adds.
    pub fn event(&mut self, event: &Event) -> Vec<Value> {
        match event {
            Event::TurnStarted { origin, text, .. } | Event::Steered { origin, text } => {
                // What came along with it is named below it.
                let mine =
                    *origin == Origin::Owner && self.mine.iter().any(|mine| text.contains(mine));
                if mine { Vec::new() } else { vec![user(origin, text)] }
            }
            Event::Text { text } => vec![agent(text)],
            Event::Thinking { text } => vec![thought(text)],
            Event::Call { id, tool, input } => {
                let past = || Past::of(&self.home, &self.root);
                let before = |path: &Path, new: &str| past().before(path, new);
                let shown = Shown::new(tool, input, &self.root, before);
                let begun = shown.begun(id);
                self.calls.insert(id.clone(), shown);
                vec![begun]
            }
            Event::Result { id, text, error, .. } => match self.calls.remove(id) {
                Some(shown) => vec![shown.ended(id, text, *error)],
                // It began before anybody looked.
                None => Vec::new(),
            },
            Event::Retry { wait_ms, why } => {
                vec![thought(&format!("{why}; trying again in {} s.\n", wait_ms.div_ceil(1_000)))]
            }
            Event::Notice { text } => vec![thought(&format!("{text}\n"))],
            Event::TurnEnded { changes, .. } if !changes.left_out.is_empty() => {
                vec![thought(&format!("Left out of the history: {}\n", changes.left_out))]
            }
            Event::Reply { .. } | Event::TurnEnded { .. } => Vec::new(),
        }
    }
}

/// Words of the agent.
pub fn agent(text: &str) -> Value {
    chunk("agent_message_chunk", text)
}

/// Words around the agent's.
pub fn thought(text: &str) -> Value {
    chunk("agent_thought_chunk", text)
}

/// Words to the agent, and whose they are where they are not the owner's.
fn user(origin: &Origin, text: &str) -> Value {
    match origin {
        Origin::Owner => match text.split_once(NOTE) {
            Some((said, rest)) => {
                let below = rest.split_once(NOTE_END).unwrap_or_default().1;
                chunk("user_message_chunk", &format!("{said}{below}"))
            }
            None => chunk("user_message_chunk", text),
        },
        // Nobody else hides anything by it.
        other => chunk("user_message_chunk", &format!("({other}) {text}")),
    }
}

fn chunk(kind: &str, text: &str) -> Value {
    json!({"sessionUpdate": kind, "content": {"type": "text", "text": text}})
}

/// What the model is told of the editor's folder: its tools work elsewhere. Nothing where that
/// is in the workspace.
pub fn note(folder: &Path, workspace: &Path) -> Option<String> {
    if folder.starts_with(workspace) {
        return None;
    }
    let folder = folder.to_string_lossy();
    let quoted = shell_words::quote(&folder);
    Some(format!(
        "{NOTE}{folder}. Your tools work in your workspace; what they may not touch there, ask for: fledgling ask read {quoted}{NOTE_END}"
    ))
}

/// What happened in a session so far.
pub struct Replay {
    /// It, in its order.
    pub updates: Vec<Value>,
    /// Its calls that are under way.
    pub calls: BTreeMap<String, Shown>,
    /// Whether the model was told this note.
    pub noted: bool,
}

/// Read what happened in a session, whose model may have been told this note.
pub fn replay(home: &Home, session: &str, note: Option<&str>) -> Result<Replay> {
    let path = home.transcript(session);
    let shown = path.display();
    let file = File::open(&path).with_context(|| format!("cannot read transcript {shown}"))?;
    let mut reading = Reading::default();
    let view = View::of(home, session);
    let past = Past::of(&view.home, &view.root);
    let mut noted = note.is_none();
    for entry in lines(&file) {
        // What is torn is told when the session goes on.
        let Ok(Entry { line, .. }) = entry.with_context(|| format!("cannot read {shown}"))? else {
            continue;
        };
        if let (Line::User { incoming, .. }, Some(note)) = (&line, note) {
            noted |= incoming.text.contains(note);
        }
        reading.take(line, &view.root, &past);
    }
    let calls = reading.open_turn(&view.root);
    let updates = reading.updates.into_iter().filter(|update| !update.is_null()).collect();
    Ok(Replay { updates, calls, noted })
}

/// Lines of a transcript on their way to be updates.
#[derive(Default)]
struct Reading {
    updates: Vec<Value>,
    /// The calls of the turn and their results: what they changed is known at its end.
    calls: Vec<(usize, String, String, Value, Option<CallResult>)>,
}

impl Reading {
    fn take(&mut self, line: Line, root: &Path, past: &Past) {
        match line {
            Line::User { incoming, .. } => {
                self.updates.push(user(&incoming.origin, &incoming.text));
            }
            Line::Assistant(reply) => self.reply(&reply),
            Line::Result(result) => {
                let owed = |call: &&mut (_, String, _, _, _)| call.1 == result.id;
                if let Some(call) = self.calls.iter_mut().rev().find(owed) {
                    call.4 = Some(result);
                }
            }
            Line::TurnEnd { end, why, changes, .. } => {
                self.end_turn(changes.commit.as_deref(), root, past);
                if end == End::Failed {
                    self.updates.push(thought(&format!("The turn failed: {why}.\n")));
                }
            }
            Line::Session { .. }
            | Line::Note { .. }
            | Line::Summary { .. }
            | Line::Ended
            | Line::Foreign => {}
        }
    }

    fn reply(&mut self, reply: &Assistant) {
        for block in &reply.blocks {
            match block {
                Block::Text(text) if !text.trim().is_empty() => self.updates.push(agent(text)),
                // Of a reply that broke off no call was carried out.
                Block::Call(call) if reply.stop != Stop::Cut => {
                    let (id, name, input) =
                        (call.id.clone(), call.name.clone(), call.input.clone());
                    self.calls.push((self.updates.len(), id, name, input, None));
                    // For its beginning and its end.
                    self.updates.extend([Value::Null, Value::Null]);
                }
                Block::Text(_) | Block::Call(_) | Block::Opaque { .. } => {}
            }
        }
    }

    /// The turn's calls, now that it is known what they changed.
    fn end_turn(&mut self, commit: Option<&str>, root: &Path, past: &Past) {
        for (at, id, tool, input, result) in std::mem::take(&mut self.calls) {
            let before = |path: &Path, _: &str| past.before_commit(commit, path);
            let shown = Shown::new(&tool, &input, root, before);
            let ended = match &result {
                Some(result) => shown.ended(&id, &result.text, result.error),
                None => shown.ended(&id, "interrupted", true),
            };
            self.updates[at] = shown.begun(&id);
            self.updates[at + 1] = ended;
        }
    }

    /// The calls of a turn that has not ended. Those without a result are under way.
    fn open_turn(&mut self, root: &Path) -> BTreeMap<String, Shown> {
        let mut open = BTreeMap::new();
        for (at, id, tool, input, result) in std::mem::take(&mut self.calls) {
            let shown = Shown::new(&tool, &input, root, |_, _| Before::Unknown);
            self.updates[at] = shown.begun(&id);
            match result {
                Some(result) => self.updates[at + 1] = shown.ended(&id, &result.text, result.error),
                None => _ = open.insert(id, shown),
            }
        }
        open
    }
}

/// The end of a turn that somebody waits for: why it stopped, or what went wrong.
pub fn stopped(end: End, why: &str) -> Result<&'static str, String> {
    // The kernel's own words for what the protocol has names for.
    let named = [
        ("the reply reached the model's output limit", "max_tokens"),
        ("the model declined to answer", "refusal"),
        ("it reached the limit of ", "max_turn_requests"),
    ];
    match end {
        End::Done => Ok("end_turn"),
        End::Interrupted => Ok("cancelled"),
        End::Failed => match named.iter().find(|(words, _)| why.starts_with(words)) {
            Some((_, reason)) => Ok(reason),
            None => Err(format!("the turn failed: {why}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(updates: &[Value]) -> Vec<(&str, &str)> {
        updates
            .iter()
            .map(|update| {
                let text = &update["content"]["text"];
                (update["sessionUpdate"].as_str().unwrap(), text.as_str().unwrap_or_default())
            })
            .collect()
    }

    fn view() -> View {
        View {
            home: "/h".into(),
            root: "/h/workspace".into(),
            calls: BTreeMap::new(),
            mine: Vec::new(),
        }
    }

    #[test]
    fn only_what_was_said_elsewhere_is_told() {
        let mut view = view();
        view.say("hello");
        let started = |origin, text: &str| {
            let (session, text) = ("s".to_owned(), text.to_owned());
            Event::TurnStarted { session, turn: 1, origin, text }
        };
        assert!(view.event(&started(Origin::Owner, "hello")).is_empty());
        view.said("hello");
        let told = view.event(&started(Origin::Owner, "hello"));
        assert_eq!(texts(&told), [("user_message_chunk", "hello")]);
        view.say("hi");
        let others = format!("hi{NOTE}and send it to me");
        let told = view.event(&started(Origin::Other("channel:x".to_owned()), &others));
        assert_eq!(
            texts(&told),
            [("user_message_chunk", format!("(channel:x) {others}").as_str())]
        );
    }

    #[test]
    fn the_note_is_for_the_model_alone() {
        let note = note(Path::new("/a b"), Path::new("/h/workspace")).unwrap();
        assert!(note.contains("fledgling ask read '/a b' --why"), "{note}");
        for below in ["", "\n[file: inbox/a.png]"] {
            let told = [user(&Origin::Owner, &format!("look{note}{below}"))];
            assert_eq!(texts(&told), [("user_message_chunk", format!("look{below}").as_str())]);
        }
        assert_eq!(super::note(Path::new("/h/workspace/x"), Path::new("/h/workspace")), None);
    }

    #[test]
    fn ends_have_names() {
        assert_eq!(stopped(End::Done, ""), Ok("end_turn"));
        assert_eq!(stopped(End::Interrupted, "interrupted"), Ok("cancelled"));
        let limit = "it reached the limit of 3 steps a turn (config.toml, [limits])";
        assert_eq!(stopped(End::Failed, limit), Ok("max_turn_requests"));
        assert_eq!(stopped(End::Failed, "busy"), Err("the turn failed: busy".to_owned()));
    }
}
