//! Requests for more on a screen: what is asked for, letter by letter, and what a typed line
//! answers.
//!
//! Owns that the owner sees exactly what would be given, whatever its name holds, and that only
//! a line begun below a question answers it. Gives nothing itself.

use std::collections::VecDeque;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::face::clean::row;
use crate::face::screen::Screen;
use crate::face::turn_view::wrapped;
use crate::files::visible::invisible;
use crate::kernel::message::Origin;
use crate::organs::reach::asks::{Asked, Said};

const LATE: &str = "That came too late: the request is over. It was not sent as a message.";
const PASSING: &str = "That cannot be kept in config.toml: y or Enter.";

/// Text in one line in which every character shows: what does not is escaped as in Rust.
pub fn visible(text: &str) -> String {
    let shown = |c: char| match c {
        '\'' | '"' => c.to_string(),
        // Letters by their class, but with nothing to see.
        c if invisible(c) || c == '\u{2800}' => c.escape_unicode().to_string(),
        c => c.escape_debug().to_string(),
    };
    text.chars().map(shown).collect()
}

/// A question in this conversation: what it is about, its price, and how to answer.
pub fn question(asked: &Asked, own: &str, screen: Screen) -> [String; 3] {
    let Asked { id, session, item, reason, lasting, expires, .. } = asked;
    let of = if session == own { String::new() } else { format!(" of conversation {session}") };
    let what = screen.bold(&format!("Request {id}{of}: {}", visible(&item.to_string())));
    let why = format!("  why, in the agent's words: {}", visible(reason));
    let always = if *lasting { "always + Enter: yes, kept in config.toml. " } else { "" };
    let until = expires.get(11..19).unwrap_or_default();
    let answers = format!(
        "y + Enter: yes, for this conversation. {always}Enter alone, or no answer until {until}: no."
    );
    [format!("{what}\n{why}"), wrapped(item.cost(), screen), wrapped(&answers, screen)]
}

/// A request in a line, for those who cannot answer it here.
pub fn told(asked: &Asked) -> String {
    let Asked { id, session, item, reason, answer, by, .. } = asked;
    let (item, reason) = (visible(&item.to_string()), visible(reason));
    match (answer, by) {
        (None, _) => format!("Request {id} of conversation {session}: {item} ({reason})."),
        (Some(Said::Yes), _) => format!("Request {id} is granted: {item}."),
        (Some(Said::Always), _) => format!("Request {id} is granted for good: {item}."),
        (Some(_), Some(_)) => format!("Request {id} is refused: {item}."),
        (Some(_), None) => format!("Request {id} is refused, as nobody answered: {item}."),
    }
}

/// `fledgling asks`.
pub fn list(answer: &Value, screen: Screen) -> Result<String> {
    let asks: Vec<Asked> = serde_json::from_value(answer.clone()).context(
        "the running fledgling answered in another form than this one knows; end it, and try again",
    )?;
    if asks.is_empty() {
        return Ok("Nothing was asked for yet.".to_owned());
    }
    let shown = |asked: &Asked| {
        let Asked { id, session, approver, item, reason, at, answer, by, .. } = asked;
        let state = match (answer, by) {
            (None, _) if *approver == Origin::Owner => "open".to_owned(),
            (None, _) => format!("open, for {approver}"),
            (Some(said), Some(by)) => format!("{}, by {by}", said.word()),
            (Some(said), None) => said.word().to_owned(),
        };
        let at = at.get(..16).unwrap_or_default().replace('T', " ");
        let (item, reason) = (visible(&item.to_string()), visible(reason));
        row(&format!("{id:>4}  {at}  {session}  [{state}]  {item}  ({reason})"), screen.width)
    };
    Ok(asks.iter().map(shown).collect::<Vec<_>>().join("\n"))
}

/// The questions that wait for an answer in a conversation, in their order.
#[derive(Debug, Default)]
pub struct Questions {
    open: VecDeque<Asked>,
    /// The number under which the first stands on the screen, once it does.
    shown: Option<u64>,
    /// Whether one that stood there is over by itself, and nothing was typed since.
    late: bool,
}

/// What a typed line is.
#[derive(Debug, PartialEq, Eq)]
pub enum Meant {
    /// The answer to this request.
    Answer(i64, Said),
    /// Nothing, for this reason.
    Nothing(&'static str),
    /// No answer: whatever it would be without a question.
    Line,
}

impl Questions {
    /// A request has come, or is over: then, whether it was waiting here.
    pub fn hear(&mut self, asked: &Asked) -> bool {
        let known = self.open.iter().position(|open| open.id == asked.id);
        match (known, asked.answer) {
            (None, None) => self.open.push_back(asked.clone()),
            (Some(at), Some(_)) => {
                self.open.remove(at);
                if at == 0 {
                    self.late = self.shown.take().is_some();
                }
            }
            _ => {}
        }
        known.is_some() && asked.answer.is_some()
    }

    /// Ask the first of them, unless that is done. `ask` prints it and gives its number.
    pub fn next(&mut self, ask: impl FnOnce(&Asked) -> u64) {
        if let (Some(first), None) = (self.open.front(), self.shown) {
            self.shown = Some(ask(first));
        }
    }

    /// What a line is that was begun below so many questions.
    pub fn meant(&mut self, line: &str, seen: u64) -> Meant {
        let (word, late) = (line.to_lowercase(), std::mem::take(&mut self.late));
        let (Some(first), Some(shown)) = (self.open.front(), self.shown) else {
            let too_late = late && ["y", "yes", "always"].contains(&&*word);
            return if too_late { Meant::Nothing(LATE) } else { Meant::Line };
        };
        if seen < shown || line.starts_with('/') {
            return Meant::Line;
        }
        let said = match &*word {
            "y" | "yes" => Said::Yes,
            "always" if first.lasting => Said::Always,
            "always" => return Meant::Nothing(PASSING),
            _ => Said::No,
        };
        let id = first.id;
        self.open.pop_front();
        self.shown = None;
        Meant::Answer(id, said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::organs::reach::item::Item;

    fn asked(id: i64, lasting: bool) -> Asked {
        Asked {
            id,
            session: "s".to_owned(),
            approver: Origin::Owner,
            item: Item::Read("/a".into()),
            reason: "r".to_owned(),
            lasting,
            at: "2026-11-21T10:00:00+00:00".to_owned(),
            expires: "2026-11-21T10:01:00+00:00".to_owned(),
            answer: None,
            by: None,
            answered: None,
        }
    }

    #[test]
    fn whatever_does_not_show_is_escaped() {
        for (text, shown) in [
            ("/a b/é 日 'x' \"y\"", "/a b/é 日 'x' \"y\""),
            ("a\nb\tc\r", r"a\nb\tc\r"),
            ("\u{1b}]52;c;aGk=\u{7}", r"\u{1b}]52;c;aGk=\u{7}"),
            ("\u{9b}31m\u{202e}gpj\u{2066}", r"\u{9b}31m\u{202e}gpj\u{2066}"),
            ("a\u{a0}b\u{3164}\u{200d}\u{feff}", r"a\u{a0}b\u{3164}\u{200d}\u{feff}"),
            (r"\u{1b}", r"\\u{1b}"),
            ("e\u{301}\u{fe0f}\u{e0041}\u{2800}", r"e\u{301}\u{fe0f}\u{e0041}\u{2800}"),
        ] {
            assert_eq!(visible(text), shown, "{text:?}");
        }
    }

    #[test]
    fn a_question_fits_its_request() {
        let screen = Screen { terminal: true, width: 200, colour: false };
        let [what, price, answers] = question(&asked(3, true), "s", screen);
        assert_eq!(what, "Request 3: read /a\n  why, in the agent's words: r");
        assert_eq!(price, Item::Read("/a".into()).cost());
        assert!(answers.contains("always + Enter") && answers.contains("10:01:00"), "{answers}");
        let [_, _, answers] = question(&asked(3, false), "s", screen);
        assert!(!answers.contains("always"), "{answers}");
    }

    #[test]
    fn questions_are_answered_one_by_one_and_only_from_below_them() {
        let mut questions = Questions::default();
        assert_eq!(questions.meant("y", 9), Meant::Line);
        assert!(!questions.hear(&asked(1, true)) && !questions.hear(&asked(2, false)));
        assert!(!questions.hear(&asked(1, true)), "twice is once");
        assert_eq!(questions.meant("y", 9), Meant::Line, "it is not shown yet");
        questions.next(|first| {
            assert_eq!(first.id, 1);
            5
        });
        questions.next(|_| panic!("it is shown already"));
        assert_eq!(questions.meant("y", 4), Meant::Line);
        assert_eq!(questions.meant("", 4), Meant::Line);
        assert_eq!(questions.meant("/policy", 5), Meant::Line);
        assert_eq!(questions.meant("Always", 5), Meant::Answer(1, Said::Always));
        assert_eq!(questions.meant("y", 5), Meant::Line, "the next is not shown yet");
        questions.next(|_| 6);
        assert_eq!(questions.meant("y", 5), Meant::Line);
        assert_eq!(questions.meant("always", 6), Meant::Nothing(PASSING));
        let over = Asked { answer: Some(Said::Expired), ..asked(2, false) };
        assert!(questions.hear(&over) && !questions.hear(&over));
        assert_eq!(questions.meant("y", 6), Meant::Nothing(LATE));
        assert_eq!(questions.meant("y", 6), Meant::Line);
        for line in ["", "n", "what?"] {
            questions.hear(&asked(3, true));
            questions.next(|_| 7);
            assert_eq!(questions.meant(line, 7), Meant::Answer(3, Said::No), "{line:?}");
        }
    }
}
