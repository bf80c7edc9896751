//! A turn as lines to look at: the reply as it streams, a line for each tool call, a line
//! for each thing to know, one at the end.
//!
//! Owns what a turn looks like, alike in every face. Does no output and knows no terminal
//! but its width and colour.

use std::fmt::Display;
use std::future::pending;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep_until};
use unicode_width::UnicodeWidthStr as _;

use crate::face::clean::{clean, line};
use crate::face::markdown::Markdown;
use crate::face::screen::Screen;
use crate::kernel::event::{Changes, End, Event};
use crate::kernel::message::Usage;
use crate::organs::prices::Dollars;

/// A call that runs longer than this is worth a line of its own, and so is a wait for the
/// model.
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
    /// Whether a call is under way, and when it, or else the model, is to be called slow.
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
    pub fn said(&self, by: &dyn Display, text: &str) -> Vec<Shown> {
        self.around(&format!("({by}) {text}"))
    }

    /// Words that were typed here reach the turn.
    pub fn steered(&mut self, text: &str) -> Vec<Shown> {
        self.asked(Duration::ZERO);
        self.said(&"you, read now", text)
    }

    /// What an event adds.
    pub fn event(&mut self, event: &Event) -> Vec<Shown> {
        match event {
            Event::TurnStarted { .. } => {
                self.markdown = Markdown::new(self.screen.width, self.screen.colour);
                self.calling = false;
                self.asked(Duration::ZERO);
                Vec::new()
            }
            // It is not shown, so it makes no wait shorter.
            Event::Thinking { .. } => Vec::new(),
            Event::Text { text } => {
                self.slow = None;
                self.markdown.push(text).into_iter().map(Shown::Said).collect()
            }
            Event::Reply { .. } => {
                self.slow = None;
                self.finish()
            }
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
                let mut end = seconds(Duration::from_millis(*ms));
                if *error {
                    // The call keeps half of the line.
                    end += &format!("  {}", line(reason(tool, text), self.screen.width / 2));
                }
                let line = self.call_line(mark, &preview(tool, &input), &end);
                self.last = Some(Looked { tool: tool.clone(), input, text: text.clone() });
                self.asked(Duration::ZERO);
                vec![line]
            }
            Event::Steered { origin, text } => {
                self.asked(Duration::ZERO);
                self.said(origin, text)
            }
            Event::Retry { wait_ms, why } => {
                let wait = Duration::from_millis(*wait_ms);
                self.asked(wait);
                let wait = seconds(wait);
                self.around(&format!("{why}; trying again in {wait} (Ctrl-C stops)"))
            }
            Event::Notice { text } => self.around(text),
            Event::TurnEnded { end, why, changes, usage, ms, .. } => {
                self.slow = None;
                let mut lines = self.finish();
                match end {
                    End::Done => {}
                    End::Failed => lines.push(self.warning(&format!("The turn failed: {why}."))),
                    End::Interrupted => lines.push(self.warning("Interrupted.")),
                }
                if !changes.left_out.is_empty() {
                    let left_out = format!("Left out of the history: {}", changes.left_out);
                    lines.push(self.warning(&left_out));
                }
                let last = last_line(changes, *usage, Duration::from_millis(*ms));
                lines.push(Shown::Aside(self.screen.dim(&line(&last, self.screen.width))));
                lines
            }
        }
    }

    /// What is to be said though nothing happens: it comes when it is due.
    pub async fn slow(&mut self) -> Vec<Shown> {
        let Some(due) = self.slow else { return pending().await };
        sleep_until(due).await;
        self.slow = None;
        match self.last.as_ref().filter(|_| self.calling) {
            Some(call) => {
                vec![self.call_line("…", &preview(&call.tool, &call.input), "still running")]
            }
            None => self.around("… waiting for the model (Ctrl-C stops)"),
        }
    }

    /// From now on the model is waited for, where somebody looks on; first for so long anyway.
    fn asked(&mut self, anyway: Duration) {
        self.slow = self.screen.terminal.then(|| Instant::now() + anyway + SLOW);
    }

    /// The end of the words so far.
    pub fn finish(&mut self) -> Vec<Shown> {
        self.markdown.finish().into_iter().map(Shown::Said).collect()
    }

    fn call_line(&self, mark: &str, preview: &str, end: &str) -> Shown {
        let room = self.screen.width.saturating_sub(mark.width() + end.width() + 3);
        let shown = format!("{mark} {}  {end}", line(preview, room));
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

/// Why a call failed, out of all that the model was told.
fn reason<'a>(tool: &str, text: &'a str) -> &'a str {
    let note = |line: &&str| line.starts_with('[') && line.ends_with(']');
    let noted = text.lines().rev().find(note).filter(|_| tool == "bash");
    noted.or_else(|| text.lines().next()).unwrap_or_default()
}

/// `3 files +40 −2 · 12 s · 4.1k tokens · $0.02`.
fn last_line(changes: &Changes, usage: Usage, time: Duration) -> String {
    let mut parts = Vec::new();
    if changes.files > 0 {
        let Changes { added, removed, .. } = changes;
        // Not every file has lines to count.
        let lines =
            if added + removed > 0 { format!(" +{added} −{removed}") } else { String::new() };
        parts.push(format!("{}{lines}", plural(changes.files as u64, "file")));
    }
    parts.push(seconds(time));
    parts.push(format!("{} tokens", count(usage.total())));
    // What costs nothing, and what nobody knows the price of, says nothing.
    parts.extend((usage.cost > 0).then(|| cost(usage)));
    parts.join(" · ")
}

/// What was paid: `$0.02`, and `$0.02+` where the price of a part of it is not known.
pub fn cost(usage: Usage) -> String {
    format!("{}{}", Dollars(usage.cost), if usage.unpriced > 0 { "+" } else { "" })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::message::Origin;

    const SCREEN: Screen = Screen { terminal: true, width: 40, colour: false };

    fn started() -> Event {
        let (session, text) = (String::new(), String::new());
        Event::TurnStarted { session, turn: 1, origin: Origin::Owner, text }
    }

    /// Whether something is said though nothing happens, and what.
    async fn idle(view: &mut TurnView) -> Option<Vec<Shown>> {
        tokio::time::timeout(Duration::from_secs(60), view.slow()).await.ok()
    }

    fn aside(text: &str) -> Vec<Shown> {
        vec![Shown::Aside(text.to_owned())]
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_the_model_is_told_once_and_only_where_somebody_looks() {
        let waiting = aside("… waiting for the model (Ctrl-C stops)");
        let mut view = TurnView::new(SCREEN);
        assert_eq!(idle(&mut view).await, None);
        view.event(&started());
        assert_eq!(idle(&mut view).await.as_ref(), Some(&waiting));
        assert_eq!(idle(&mut view).await, None);
        let retry = Event::Retry { wait_ms: 30_000, why: "busy".to_owned() };
        view.event(&retry);
        let begun = Instant::now();
        assert_eq!(idle(&mut view).await.as_ref(), Some(&waiting));
        assert!(begun.elapsed() >= Duration::from_secs(32));
        view.event(&retry);
        view.event(&Event::Text { text: "a".to_owned() });
        assert_eq!(idle(&mut view).await, None);
        let mut view = TurnView::new(Screen { terminal: false, ..SCREEN });
        view.event(&started());
        assert_eq!(idle(&mut view).await, None);
    }

    #[test]
    fn a_call_that_failed_says_why_within_the_width() {
        let mut view = TurnView::new(SCREEN);
        let mut failed = |tool: &str, input: Value, text: &str| {
            let (id, tool, text) = (String::new(), tool.to_owned(), text.to_owned());
            view.event(&Event::Call { id: id.clone(), tool: tool.clone(), input });
            view.event(&Event::Result { id, tool, text, error: true, ms: 0 })
        };
        let command = serde_json::json!({ "command": "false" });
        let text = "[odd]\nx\n[exit code 1]\n";
        assert_eq!(failed("bash", command, text), aside("✗ bash false  0.0 s  [exit code 1]"));
        let path = serde_json::json!({ "path": "a/path/that/is/rather/long.txt" });
        let text = "cannot read it: no such file\nmore";
        let shown = failed("read", path, text);
        assert_eq!(shown, aside("✗ read a/p…  0.0 s  cannot read it: no …"));
    }

    #[test]
    fn what_the_history_leaves_out_is_said_before_the_last_line() {
        let left_out = "config (it holds what looks like a GitHub token)".to_owned();
        let ended = Event::TurnEnded {
            session: String::new(),
            turn: 1,
            end: End::Done,
            why: String::new(),
            changes: Changes { left_out, ..Changes::default() },
            usage: Usage::default(),
            ms: 0,
        };
        let said = "Left out of the history: config (it\nholds what looks like a GitHub token)";
        let shown = TurnView::new(SCREEN).event(&ended);
        assert_eq!(shown, [aside(said), aside("0.0 s · 0 tokens")].concat());
    }

    #[test]
    fn files_without_lines_show_none() {
        let changes = |added| Changes { files: 1, added, ..Changes::default() };
        let shown = |added| last_line(&changes(added), Usage::default(), Duration::ZERO);
        assert_eq!(shown(0), "1 file · 0.0 s · 0 tokens");
        assert_eq!(shown(1), "1 file +1 −0 · 0.0 s · 0 tokens");
    }

    #[test]
    fn what_it_cost_is_told_where_it_is_known() {
        let shown = |cost, unpriced| {
            let usage = Usage { input: 4_100, cost, unpriced, ..Usage::default() };
            last_line(&Changes::default(), usage, Duration::ZERO)
        };
        assert_eq!(shown(0, 4_100), "0.0 s · 4.1k tokens");
        assert_eq!(shown(20_000, 0), "0.0 s · 4.1k tokens · $0.02");
        assert_eq!(shown(20_000, 7), "0.0 s · 4.1k tokens · $0.02+");
    }
}
