//! A recorded conversation: a script that any `script:` model plays, which also tells what the
//! tools answered.
//!
//! Owns its format, made from a transcript and read again. A turn begins with a line
//! `{"recorded": {…}}` (`Head`); then comes what the owner said, `{"owner": …}`, or others did
//! and what was said while the turn ran, `{"said": …, "by": …}`; each reply is a line of the
//! script, and after one with calls comes `{"results": [{"text", "error"}, …]}`, one for each
//! call, in order. Thinking, summaries and remarks of the program are not taken along: a played
//! conversation needs none. Knows neither commits nor how a call is carried out.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::kernel::event::End;
use crate::kernel::message::{Assistant, Call, CallResult, Incoming, Origin, Stop};
use crate::kernel::session::{Entry, Line};
use crate::organs::history::ask::{Answered, Place};
use crate::organs::history::exchange::in_a_line;

/// The version of the format. A higher one is refused.
pub const FORMAT: u32 = 1;
/// The first lines of each recording, for whoever opens it.
const ABOUT: &str =
    "// A recorded conversation. `fledgling --model script:FILE run` plays its replies,
// `fledgling replay FILE` carries its calls out again and compares what they answer.";
/// How answers begin and end that tell of no call that was carried out to its end.
const UNDONE: [(&str, &str, &str); 5] = [
    ("not executed: ", "", "it was not carried out then"),
    ("interrupted: no result was recorded", "", UNKNOWN),
    ("interrupted, but the system", "", INTERRUPTED),
    ("", "[interrupted; everything it started was ended]\n", INTERRUPTED),
    ("cannot read ", ": interrupted", INTERRUPTED),
];
const UNKNOWN: &str = "its answer was not recorded";
const INTERRUPTED: &str = "it was interrupted then";

/// What the first line of a turn says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The version of the format.
    pub format: u32,
    /// The session.
    pub session: String,
    /// The number of the turn.
    pub turn: u64,
    /// The model that replied.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// What the workspace was when it began, where that is known.
    pub commit: Option<String>,
    /// The commit it made, if it made one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<String>,
}

/// A turn on its way from a transcript into a recording.
#[derive(Debug)]
pub struct Told {
    /// Its first line, in which the commit is still to be named.
    pub head: Head,
    /// When it began.
    pub at: String,
    /// The other lines.
    lines: Vec<Value>,
}

impl Told {
    /// Its lines.
    pub fn lines(self) -> Vec<Value> {
        [vec![json!({ "recorded": self.head })], self.lines].concat()
    }
}

/// The text of a recording with these lines.
pub fn text(lines: &[Value]) -> String {
    let lines = lines.iter().map(|line| format!("{line}\n"));
    format!("{ABOUT}\n{}", lines.collect::<String>())
}

/// The turns of a transcript, from a number on.
pub fn told(session: &str, entries: impl IntoIterator<Item = Entry>, from: u64) -> Vec<Told> {
    let mut taking = Taking::default();
    for Entry { at, line } in entries {
        if let Line::User { turn, .. } = &line
            && *turn >= from
            && taking.turns.last().is_none_or(|last| last.head.turn != *turn)
        {
            taking.close();
            let (session, model) = (session.to_owned(), String::new());
            let (format, turn, commit, made) = (FORMAT, *turn, None, None);
            let head = Head { format, session, turn, model, commit, made };
            taking.turns.push(Told { head, at, lines: Vec::new() });
            taking.open = true;
        }
        taking.take(line);
    }
    taking.close();
    taking.turns
}

#[derive(Default)]
struct Taking {
    turns: Vec<Told>,
    /// Whether a turn has begun.
    open: bool,
    /// The words with which it begins, until the first reply.
    asked: Vec<Incoming>,
    /// Whether that has come.
    replied: bool,
    /// The calls that are owed a result, and what came.
    owed: Vec<String>,
    results: HashMap<String, CallResult>,
}

impl Taking {
    fn take(&mut self, line: Line) {
        if !self.open {
            return;
        }
        if !matches!(line, Line::Result(_)) {
            self.settle();
        }
        match line {
            Line::User { incoming, .. } if self.replied => {
                self.push(json!({ "said": incoming.text, "by": incoming.origin }));
            }
            Line::User { incoming, .. } => self.asked.push(incoming),
            Line::Assistant(reply) => self.reply(&reply),
            Line::Result(result) => _ = self.results.insert(result.id.clone(), result),
            Line::TurnEnd { end, why, changes, .. } => {
                // The last reply had calls, or none came.
                let waits = !self.owed.is_empty() || !self.replied;
                self.begin();
                if let Some(turn) = self.turns.last_mut() {
                    turn.head.made = changes.commit;
                }
                // Where a script goes on with the next turn's replies, it would play them here.
                // A limit that was reached is reached again by itself.
                let again = why.contains("limit of") || why.ends_with("times in a row");
                if waits && end != End::Done && !again {
                    let why = format!("the recorded turn ended here: {why}");
                    self.push(json!({ "fail": { "fatal": why } }));
                }
                self.close();
            }
            _ => {}
        }
    }

    fn reply(&mut self, reply: &Assistant) {
        self.begin();
        let calls: Vec<_> = reply.calls().collect();
        let planned = calls.iter().map(|call| json!({"name": call.name, "input": call.input}));
        let mut line = json!({ "text": reply.text() });
        self.owed.clear();
        if reply.stop == Stop::Cut {
            line["cut"] = true.into();
        } else {
            if !calls.is_empty() {
                line["calls"] = planned.collect();
            }
            if reply.stop != Stop::End {
                line["stop"] = json!(reply.stop);
            }
            line["usage"] = json!({"input": reply.usage.input, "output": reply.usage.output});
            self.owed.extend(calls.iter().map(|call| call.id.clone()));
        }
        if let Some(turn) = self.turns.last_mut() {
            turn.head.model.clone_from(&reply.model);
        }
        self.push(line);
    }

    /// What was said to begin with: the owner's words in one line, as a script plays them.
    fn begin(&mut self) {
        self.replied = true;
        let (owners, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.asked)
            .into_iter()
            .partition(|one| one.origin == Origin::Owner);
        for one in others {
            self.push(json!({ "said": one.text, "by": one.origin }));
        }
        if !owners.is_empty() {
            let words: Vec<_> = owners.into_iter().map(|one| one.text).collect();
            self.push(json!({ "owner": words.join("\n\n") }));
        }
    }

    /// What came of the calls of a reply, when something else follows.
    fn settle(&mut self) {
        if self.results.is_empty() {
            return;
        }
        let results = self.owed.iter().map_while(|id| self.results.remove(id));
        let results: Vec<_> =
            results.map(|one| json!({"text": one.text, "error": one.error})).collect();
        self.results.clear();
        self.push(json!({ "results": results }));
    }

    fn push(&mut self, line: Value) {
        if let Some(turn) = self.turns.last_mut() {
            turn.lines.push(line);
        }
    }

    fn close(&mut self) {
        if self.open {
            self.settle();
            self.begin();
        }
        *self = Self { turns: std::mem::take(&mut self.turns), ..Self::default() };
    }
}

/// A recording, as it is tried again.
#[derive(Debug)]
pub struct Recording {
    /// Its turns.
    pub turns: Vec<Turn>,
}

/// A turn of it.
#[derive(Debug)]
pub struct Turn {
    /// What its first line says.
    pub head: Head,
    /// The calls, in order.
    pub steps: Vec<Step>,
}

/// A call, and what it was answered.
#[derive(Debug)]
pub struct Step {
    /// Which it is.
    pub place: Place,
    /// The call.
    pub call: Call,
    /// The answer, or why it is not to be carried out again.
    pub answer: Result<Answered, &'static str>,
}

impl Recording {
    /// Read one; an error names the line.
    pub fn parse(text: &str) -> Result<Self> {
        let mut turns: Vec<Turn> = Vec::new();
        let mut number = 0;
        for (line, value) in text.lines().enumerate().map(|(at, line)| (at + 1, line.trim())) {
            if value.is_empty() || value.starts_with("//") || value.starts_with('#') {
                continue;
            }
            let line = || format!("line {line} of the recording");
            let mut value: Value = serde_json::from_str(value).with_context(line)?;
            if let Some(head) = value.get_mut("recorded") {
                let head: Head = serde_json::from_value(head.take()).with_context(line)?;
                ensure!(
                    head.format <= FORMAT,
                    "{} has format {}, made by a newer fledgling; this one reads {FORMAT}",
                    line(),
                    head.format
                );
                turns.push(Turn { head, steps: Vec::new() });
                continue;
            }
            let Some(turn) = turns.last_mut() else {
                bail!(
                    "it does not begin as recordings do; `fledgling record SESSION FILE` makes one"
                )
            };
            if let Some(calls) = value.get_mut("calls") {
                let calls: Vec<Planned> =
                    serde_json::from_value(calls.take()).with_context(line)?;
                turn.steps.extend(calls.into_iter().map(|call| {
                    number += 1;
                    call.step(turn.head.turn, number)
                }));
            }
            if let Some(results) = value.get_mut("results") {
                let results: Vec<Answered> =
                    serde_json::from_value(results.take()).with_context(line)?;
                let owed = turn.steps.iter().rev().take_while(|step| step.answer == Err(UNKNOWN));
                let first = turn.steps.len() - owed.count();
                for (step, answer) in turn.steps[first..].iter_mut().zip(results) {
                    step.answer = carried_out(answer);
                }
            }
        }
        ensure!(!turns.is_empty(), "there is no turn in it");
        Ok(Self { turns })
    }

    /// All calls, in order.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.turns.iter().flat_map(|turn| &turn.steps)
    }
}

fn carried_out(answer: Answered) -> Result<Answered, &'static str> {
    let text = &answer.text;
    let is =
        |(begins, ends, _): &&(&str, &str, _)| text.starts_with(begins) && text.ends_with(ends);
    match UNDONE.iter().find(is) {
        Some((.., why)) if answer.error => Err(why),
        _ => Ok(answer),
    }
}

/// A call as scripts have it.
#[derive(Deserialize)]
struct Planned {
    name: String,
    input: Value,
}

impl Planned {
    fn step(self, turn: u64, number: usize) -> Step {
        let call = Call { id: number.to_string(), name: self.name, input: self.input };
        let what = format!("{} {}", call.name, in_a_line(&call));
        Step { place: Place { turn, call: number, what }, call, answer: Err(UNKNOWN) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::event::Changes;
    use crate::kernel::message::{Block, Usage};
    use crate::wires::script;

    fn user(turn: u64, origin: &str, text: &str) -> Line {
        let (key, origin) = (String::new(), Origin::from(origin.to_owned()));
        let (text, images) = (text.to_owned(), Vec::new());
        Line::User { turn, incoming: Incoming { key, origin, text, images } }
    }

    fn reply(text: &str, calls: &[&str], stop: Stop) -> Line {
        let calls = calls.iter().map(|id| {
            let (id, name) = ((*id).to_owned(), "bash".to_owned());
            Block::Call(Call { id, name, input: json!({"command": "ls"}) })
        });
        let opaque = Block::Opaque { wire: "w".to_owned(), value: json!("a thought") };
        let blocks = [opaque, Block::Text(text.to_owned())].into_iter().chain(calls).collect();
        Line::Assistant(Assistant { blocks, stop, model: "m".to_owned(), usage: Usage::default() })
    }

    fn result(id: &str, text: &str) -> Line {
        let error = text.contains("not") || text.contains("interrupted");
        let (id, text, images) = (id.to_owned(), text.to_owned(), Vec::new());
        Line::Result(CallResult { id, text, error, images })
    }

    fn ended(turn: u64, end: End, why: &str) -> Line {
        let (changes, usage) = (Changes::default(), Usage::default());
        Line::TurnEnd { turn, end, why: why.to_owned(), changes, usage }
    }

    fn recorded(lines: Vec<Line>, from: u64) -> String {
        let at = "2026-11-21T10:00:00+00:00".to_owned();
        let entries = lines.into_iter().map(|line| Entry { at: at.clone(), line });
        let turns = told("s", entries, from);
        text(&turns.into_iter().flat_map(Told::lines).collect::<Vec<_>>())
    }

    /// A conversation in which everything happens that can.
    fn eventful() -> Vec<Line> {
        let note = |text: &str| Line::Note { text: text.to_owned() };
        vec![
            user(1, "owner", "first"),
            user(1, "owner", "and this"),
            reply("Well.", &["1", "2"], Stop::End),
            // Given in another order than called.
            result("2", "two"),
            result("1", "one"),
            note("a remark"),
            user(1, "owner", "meanwhile"),
            reply("Done.", &[], Stop::End),
            ended(1, End::Done, ""),
            Line::Summary { text: "short".to_owned(), keep: 0 },
            user(2, "channel:chat/bob", "hello"),
            reply("", &["3", "4"], Stop::End),
            result("3", "half\n[interrupted; everything it started was ended]\n"),
            result("4", "not executed: the turn was stopped"),
            ended(2, End::Interrupted, "interrupted"),
            user(3, "owner", "again"),
            reply("Half a w", &[], Stop::Cut),
            ended(3, End::Failed, "the stream broke"),
            user(4, "owner", "and again"),
            ended(4, End::Failed, "no server"),
            user(5, "owner", "the last"),
            reply("", &["5", "6"], Stop::End),
            result("5", "fine"),
        ]
    }

    #[test]
    fn all_that_can_be_played_is_taken_along_and_plays_in_step() {
        let text = recorded(eventful(), 1);
        let lines: Vec<Value> = text
            .lines()
            .filter(|line| !line.starts_with("//"))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let shown: Vec<_> = lines.iter().filter(|line| line.get("recorded").is_none()).collect();
        assert_eq!(shown[0], &json!({"owner": "first\n\nand this"}));
        assert_eq!(shown[1]["calls"][1], json!({"name": "bash", "input": {"command": "ls"}}));
        assert_eq!(shown[2]["results"][0], json!({"text": "one", "error": false}));
        assert_eq!(shown[3], &json!({"said": "meanwhile", "by": "owner"}));
        assert_eq!(shown[5], &json!({"said": "hello", "by": "channel:chat/bob"}));
        assert_eq!(shown[8]["fail"]["fatal"], "the recorded turn ended here: interrupted");
        assert_eq!(shown[10], &json!({"text": "Half a w", "cut": true}));
        assert_eq!(shown[12]["fail"]["fatal"], "the recorded turn ended here: no server");
        assert!(!text.contains("a thought") && !text.contains("remark"), "{text}");
        assert_eq!(lines.iter().filter(|line| line.get("recorded").is_some()).count(), 5);
        // It is a script, in which the owner says what they said.
        script::Script::parse("f", &text).unwrap();
        let owner = script::owner_lines(&text);
        assert_eq!(owner.len(), 4, "{owner:?}");
    }

    #[test]
    fn what_was_not_carried_out_to_its_end_is_not_carried_out_again() {
        let recording = Recording::parse(&recorded(eventful(), 1)).unwrap();
        let why: Vec<_> = recording.steps().map(|step| step.answer.as_ref().err()).collect();
        let expected = [
            None,
            None,
            Some("it was interrupted then"),
            Some("it was not carried out then"),
            None,
            Some("its answer was not recorded"),
        ];
        assert_eq!(why, expected.each_ref().map(Option::as_ref));
        let places: Vec<_> =
            recording.steps().map(|step| (step.place.turn, step.place.call)).collect();
        assert_eq!(places, [(1, 1), (1, 2), (2, 3), (2, 4), (5, 5), (5, 6)]);
        let later = Recording::parse(&recorded(eventful(), 3)).unwrap();
        assert_eq!(later.turns.iter().map(|turn| turn.head.turn).collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(later.steps().count(), 2);
    }

    #[test]
    fn what_cannot_be_read_names_its_line() {
        let head = r#"{"recorded": {"format": 1, "session": "s", "turn": 1, "commit": null}}"#;
        for (text, why) in [
            ("", "there is no turn in it"),
            ("// a\n{\"text\": \"x\"}", "it does not begin as recordings do"),
            ("nothing", "line 1 of the recording"),
            (&format!("{head}\n{{\"results\": 3}}"), "line 2 of the recording"),
            (&head.replace("1,", "2,"), "has format 2, made by a newer fledgling"),
        ] {
            let error = format!("{:#}", Recording::parse(text).unwrap_err());
            assert!(error.contains(why), "{text}: {error}");
        }
        assert_eq!(Recording::parse(head).unwrap().steps().count(), 0);
    }
}
