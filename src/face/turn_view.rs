//! A turn as lines to look at: the reply as it streams, a line for each tool call, a line
//! for each thing to know, one at the end.
//!
//! Owns what a turn looks like, alike in every face. Does no output and knows no terminal
//! but its width and colour.

use std::future::pending;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use crate::face::clean::{clean, line};
use crate::face::markdown::Markdown;
use crate::face::screen::Screen;
use crate::kernel::event::{Changes, End, Event};
use crate::kernel::message::{Origin, Usage};

/// A call that runs longer than this is worth a line of its own.
const SLOW: Duration = Duration::from_secs(2);

/// A line, and what it is part of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// The agent's words.
    Said(String),
    /// Everything around them.
    Aside(String),
}

/// A call with what came of it, to be looked at whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// The tool.
    pub tool: String,
    /// Its arguments.
    pub input: Value,
    /// What the model was told.
    pub text: String,
}

/// One turn on its way to a screen.
pub struct TurnView {
    screen: Screen,
    markdown: Markdown,
    /// Whether a call is under way, and when it is to be told that it is slow.
    calling: bool,
    slow: Option<Instant>,
    /// The latest call.
    pub last: Option<Looked>,
}

impl TurnView {
    /// For lines of this screen.
    pub fn new(screen: Screen) -> Self {
        let markdown = Markdown::new(screen.width, screen.colour);
        Self { screen, markdown, calling: false, slow: None, last: None }
    }

    /// The screen has changed.
    pub fn resize(&mut self, screen: Screen) {
        self.screen = screen;
        self.markdown.resize(screen.width);
    }

    /// Words that were not typed here.
    pub fn said(&self, origin: &Origin, text: &str) -> Vec<Shown> {
        self.around(&format!("({origin}) {text}"))
    }

    /// What an event adds.
    pub fn event(&mut self, event: &Event) -> Vec<Shown> {
        match event {
            Event::TurnStarted { .. } => {
                self.markdown = Markdown::new(self.screen.width, self.screen.colour);
                Vec::new()
            }
            Event::Thinking { .. } => Vec::new(),
            Event::Text { text } => self.markdown.push(text).into_iter().map(Shown::Said).collect(),
            Event::Reply { .. } => self.finish(),
            Event::Call { tool, input, .. } => {
                let (tool, input) = (tool.clone(), input.clone());
                self.last = Some(Looked { tool, input, text: String::new() });
                (self.calling, self.slow) = (true, Some(Instant::now() + SLOW));
                Vec::new()
            }
            Event::Result { tool, text, error, ms, .. } => {
                // Whoever comes in the middle of a call hears of its end alone.
                let begun = self.last.take().filter(|_| std::mem::take(&mut self.calling));
                let input = begun.map_or(Value::Null, |begun| begun.input);
                let mark = if *error { "✗" } else { "·" };
                let time = seconds(Duration::from_millis(*ms));
                let line = self.call_line(mark, &preview(tool, &input), &time);
                self.last = Some(Looked { tool: tool.clone(), input, text: text.clone() });
                self.slow = None;
                vec![line]
            }
            Event::Steered { origin, text } => self.said(origin, text),
            Event::Retry { wait_ms, why } => {
                let wait = seconds(Duration::from_millis(*wait_ms));
                self.around(&format!("{why}; trying again in {wait} (Ctrl-C stops)"))
            }
            Event::Notice { text } => self.around(text),
            Event::TurnEnded { end, why, changes, usage, ms, .. } => {
                let mut lines = self.finish();
                match end {
                    End::Done => {}
                    End::Failed => lines.push(self.warning(&format!("The turn failed: {why}."))),
                    End::Interrupted => lines.push(self.warning("Interrupted.")),
                }
                let last = last_line(changes, *usage, Duration::from_millis(*ms));
                lines.push(Shown::Aside(self.screen.dim(&line(&last, self.screen.width))));
                lines
            }
        }
    }

    /// What is to be said though nothing happens: it comes when it is due.
    pub async fn slow(&mut self) -> Vec<Shown> {
        let (Some(due), Some(call)) = (self.slow, &self.last) else { return pending().await };
        sleep_until(due).await;
        self.slow = None;
        vec![self.call_line("…", &preview(&call.tool, &call.input), "still running")]
    }

    /// The end of the words so far.
    pub fn finish(&mut self) -> Vec<Shown> {
        self.markdown.finish().into_iter().map(Shown::Said).collect()
    }

    fn call_line(&self, mark: &str, preview: &str, time: &str) -> Shown {
        let room =
            self.screen.width.saturating_sub(mark.chars().count() + time.chars().count() + 3);
        let shown = format!("{mark} {}  {time}", line(preview, room));
        Shown::Aside(self.screen.dim(&shown))
    }

    fn around(&self, text: &str) -> Vec<Shown> {
        let text = wrapped(text, self.screen);
        text.lines().map(|one| Shown::Aside(self.screen.dim(one))).collect()
    }

    fn warning(&self, text: &str) -> Shown {
        Shown::Aside(self.screen.warn(&wrapped(text, self.screen)))
    }
}

/// A plain text, cleaned, and wrapped where people read it: what a pipe gets is searched.
pub fn wrapped(text: &str, screen: Screen) -> String {
    if !screen.terminal {
        return clean(text);
    }
    let mut markdown = Markdown::new(screen.width, false);
    let mut lines = markdown.push(text);
    lines.extend(markdown.finish());
    lines.join("\n")
}

/// A call in a few words.
pub fn preview(tool: &str, input: &Value) -> String {
    let text = |name: &str| input.get(name).and_then(Value::as_str).unwrap_or_default().trim();
    let detail = match tool {
        "bash" => {
            let command = text("command");
            let more = if command.lines().count() > 1 { " …" } else { "" };
            format!("{}{more}", command.lines().next().unwrap_or_default())
        }
        "edit" => match input.get("edits").and_then(Value::as_array).map_or(0, Vec::len) {
            0 | 1 => text("path").to_owned(),
            count => format!("{} ({count} places)", text("path")),
        },
        "read" | "write" => text("path").to_owned(),
        _ => input.to_string(),
    };
    format!("{tool} {detail}")
}

/// `3 files +40 −2 · 12 s · 4.1k tokens`.
fn last_line(changes: &Changes, usage: Usage, time: Duration) -> String {
    let mut parts = Vec::new();
    if changes.files > 0 {
        let files = plural(changes.files as u64, "file");
        parts.push(format!("{files} +{} −{}", changes.added, changes.removed));
    }
    parts.push(seconds(time));
    parts.push(format!("{} tokens", count(usage.total())));
    parts.join(" · ")
}

/// So many of something.
pub fn plural(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A time as people say it.
pub fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0..10 => format!("{:.1} s", time.as_secs_f64()),
        whole @ 10..120 => format!("{whole} s"),
        whole => format!("{} min {} s", whole / 60, whole % 60),
    }
}

/// A number of tokens, short.
pub fn count(tokens: u64) -> String {
    match tokens {
        0..1_000 => tokens.to_string(),
        1_000..1_000_000 => format!("{:.1}k", tokens as f64 / 1_000.0),
        _ => format!("{:.1}M", tokens as f64 / 1_000_000.0),
    }
}
