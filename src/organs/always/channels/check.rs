//! Whether a service keeps to what a channel promises: the judgement behind `fledgling check`.
//!
//! Owns the rules, what a service is given to see whether it keeps them, and what can be said of
//! each from what was heard. What shows only where there is a platform and somebody who writes
//! is said to be untried, never to be fine. Starts nothing.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::organs::always::channels::contract::{Heard, Inbound, Numbering, Outbound, heard};

/// The chat that messages of a check are for: no platform has one.
const CHAT: &str = "fledgling-check";

/// What a channel promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Each line on its standard output is a JSON object.
    Lines,
    /// Events have the fields that they need.
    Fields,
    /// Says what it can do once, and first.
    Hello,
    /// Messages have ids of their own.
    Ids,
    /// What it is given is acknowledged or refused, by its key.
    Answers,
    /// Only what it was given is.
    Keys,
    /// What is given again is answered again.
    Again,
    /// Events and fields that it does not know do not disturb it.
    Unknown,
    /// Numbers of its lines, if it has any, grow.
    Numbers,
    /// Ends when its standard input does.
    End,
}

impl Rule {
    const ALL: [(Self, &str); 10] = [
        (Self::Lines, "prints one JSON object a line, and logs to standard error"),
        (Self::Fields, "gives its events all fields they need"),
        (Self::Hello, "says hello once at most, and first"),
        (Self::Ids, "gives each message an id of its own"),
        (Self::Answers, "answers what it is given with ack or fail and the same key"),
        (Self::Keys, "answers nothing that it was not given"),
        (Self::Again, "answers again when it is given the same again"),
        (Self::Unknown, "is not disturbed by events and fields it does not know"),
        (Self::Numbers, "numbers its lines upwards, if at all"),
        (Self::End, "ends when its standard input does"),
    ];

    /// What is promised.
    pub fn words(self) -> &'static str {
        Self::ALL.iter().find(|(rule, _)| *rule == self).map_or("", |(_, words)| words)
    }
}

/// What can be said about a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It was kept wherever it could be broken.
    Kept,
    /// It could not be seen, and why.
    Untried(String),
    /// It was broken, and how.
    Broken(String),
}

/// A check under way.
#[derive(Debug, Default)]
pub struct Check {
    begun: bool,
    numbering: Numbering,
    lines: usize,
    known: usize,
    last_number: Option<u64>,
    messages: BTreeMap<String, Inbound>,
    /// Acknowledgements that the service is still to be given.
    owed: Vec<String>,
    /// Keys in the order of the messages, with the answers to each.
    given: Vec<&'static str>,
    answers: BTreeMap<String, usize>,
    /// The reason of the last refusal: without its platform a service can do no better.
    refused: Option<String>,
    ended: Option<bool>,
    broken: Vec<(Rule, String)>,
}

impl Check {
    /// The lines that the service is to be given now: at first its task, later the
    /// acknowledgements of what it said.
    pub fn give(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        if !std::mem::replace(&mut self.begun, true) {
            // The third is the first once more, as after a restart; the last comes after an event
            // that the service cannot know and has a field of that kind.
            for key in ["check:1", "check:2", "check:1", "check:3"] {
                if key == "check:3" {
                    let typing = self.numbering.line(&Outbound::Typing { chat: CHAT.to_owned() });
                    lines.push(typing.replace("typing", "an event of a later version"));
                }
                let text = format!("A check by fledgling, \"{key}\":\n\u{e4} \u{1f600} \\");
                let message = Outbound::Message {
                    key: key.to_owned(),
                    chat: CHAT.to_owned(),
                    text,
                    reply_to: None,
                    files: Vec::new(),
                };
                let line = self.numbering.line(&message);
                let unknown = |line: String| line.replacen('{', "{\"later\":{\"x\":null},", 1);
                lines.push(if key == "check:3" { unknown(line) } else { line });
                self.given.push(key);
            }
        }
        let owed = std::mem::take(&mut self.owed);
        lines.extend(owed.into_iter().map(|id| self.numbering.line(&Outbound::Ack { id })));
        lines
    }

    /// A line that the service printed.
    pub fn heard(&mut self, line: &str) {
        self.lines += 1;
        let number = serde_json::from_str::<Value>(line).ok();
        let number = number.and_then(|line| line.get("seq").and_then(Value::as_u64));
        if let (Some(last), Some(number)) = (self.last_number, number)
            && number <= last
        {
            self.broken(Rule::Numbers, format!("{number} came after {last}"));
        }
        self.last_number = number.or(self.last_number);
        let heard = heard(line);
        match &heard {
            Heard::NotJson => self.broken(Rule::Lines, format!("it printed {}", shown(line))),
            Heard::Wrong { why, .. } => {
                self.broken(Rule::Fields, format!("{why}: {}", shown(line)));
            }
            Heard::Hello { .. } if self.known > 0 => {
                self.broken(Rule::Hello, "hello came after something else".to_owned());
            }
            Heard::Message(message) => {
                // The same message may come again until it is acknowledged.
                let before = self.messages.insert(message.id.clone(), message.clone());
                if before.is_some_and(|before| before != *message) {
                    self.broken(Rule::Ids, format!("two messages have the id {:?}", message.id));
                }
                self.owed.push(message.id.clone());
            }
            Heard::Ack { key } => self.answered(key),
            Heard::Fail { key, error, .. } => {
                self.refused = Some(error.clone());
                self.answered(key);
            }
            Heard::Hello { .. } | Heard::Unknown => {}
        }
        self.known += usize::from(!matches!(heard, Heard::NotJson | Heard::Unknown));
    }

    /// Whether everything that was given is answered: the standard input can be closed.
    pub fn is_answered(&self) -> bool {
        let times = |key: &str| self.given.iter().filter(|given| **given == key).count();
        let answers = |key: &str| self.answers.get(key).copied().unwrap_or_default();
        self.begun && self.given.iter().all(|key| answers(key) >= times(key))
    }

    /// The standard input was closed; whether the service ended by itself within its time. One
    /// that ended before is not to be told of here.
    pub fn closed(&mut self, ended: bool) {
        self.ended = Some(ended);
    }

    /// What can be said of each rule.
    pub fn report(&self) -> Vec<(Rule, Verdict)> {
        Rule::ALL.iter().map(|(rule, _)| (*rule, self.verdict(*rule))).collect()
    }

    /// What no check without a platform can see.
    pub fn not_tried(&self) -> Vec<&'static str> {
        let mut not = vec!["whether ids stay the same when a message comes again after a restart"];
        if self.messages.is_empty() {
            not.push("messages from the platform: nobody wrote to it meanwhile");
        }
        not.push(match self.refused {
            Some(_) => "delivery: it refused a message to a chat that does not exist, as it should",
            None => "delivery: whether what it acknowledged arrived anywhere",
        });
        not
    }

    fn verdict(&self, rule: Rule) -> Verdict {
        if let Some((_, how)) = self.broken.iter().find(|(broken, _)| *broken == rule) {
            return Verdict::Broken(how.clone());
        }
        let untried = |why: &str| Verdict::Untried(why.to_owned());
        let answers = |key: &str| self.answers.get(key).copied().unwrap_or_default();
        let count = |key: &str, least: usize, what: &str| {
            if answers(key) >= least {
                return Verdict::Kept;
            }
            Verdict::Broken(format!("{what} was never answered"))
        };
        let silent = self.answers.is_empty();
        match rule {
            Rule::Lines if self.lines == 0 => untried("it printed nothing"),
            Rule::Fields | Rule::Hello if self.known == 0 => untried("it had no event to say"),
            Rule::Ids if self.messages.is_empty() => untried("no message came"),
            Rule::Numbers if self.last_number.is_none() => untried("it does not number its lines"),
            Rule::Answers if silent => {
                Verdict::Broken("none of the messages it was given was answered".to_owned())
            }
            Rule::Keys | Rule::Again | Rule::Unknown if silent => untried("it answered nothing"),
            Rule::Answers => match count("check:1", 1, "the first message") {
                Verdict::Kept => count("check:2", 1, "the second message"),
                broken => broken,
            },
            Rule::Again => count("check:1", 2, "the first message, given once more,"),
            Rule::Unknown => count("check:3", 1, "the message after an unknown event"),
            Rule::End => match self.ended {
                Some(true) => Verdict::Kept,
                Some(false) => Verdict::Broken("it went on and had to be ended".to_owned()),
                None => untried("it ended before"),
            },
            _ => Verdict::Kept,
        }
    }

    fn answered(&mut self, key: &str) {
        if !self.given.contains(&key) {
            self.broken(Rule::Keys, format!("it answered {key:?}, which it was not given"));
        }
        *self.answers.entry(key.to_owned()).or_default() += 1;
    }

    fn broken(&mut self, rule: Rule, how: String) {
        self.broken.push((rule, how));
    }
}

/// The beginning of a line.
fn shown(line: &str) -> String {
    format!("{:?}", line.chars().take(100).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(check: &Check, rule: Rule) -> Verdict {
        check.report().into_iter().find(|(of, _)| *of == rule).unwrap().1
    }

    fn key(line: &str) -> Option<String> {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(line.get("seq").is_some());
        Some(line.get("key")?.as_str()?.to_owned())
    }

    /// A check of a service that answers as it is told to.
    fn check(answer: impl Fn(&str) -> Option<String>) -> Check {
        let mut check = Check::default();
        for line in check.give() {
            if let Some(line) = key(&line).and_then(|key| answer(&key)) {
                check.heard(&line);
            }
        }
        check
    }

    fn ack(key: &str) -> String {
        format!(r#"{{"event":"ack","key":"{key}"}}"#)
    }

    #[test]
    fn a_good_service_keeps_all_rules() {
        let mut check = Check::default();
        check.heard(r#"{"event":"hello","limit":400,"seq":1}"#);
        let lines = check.give();
        let numbers: Vec<_> = lines
            .iter()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap())
            .collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
        assert!(!check.is_answered());
        check.heard(r#"{"id":1,"chat":2,"from":3,"text":"hi","seq":2}"#);
        assert_eq!(check.give(), [r#"{"seq":6,"event":"ack","id":"1"}"#]);
        for key in lines.iter().filter_map(|line| key(line)) {
            check.heard(&format!(r#"{{"event":"fail","key":"{key}","error":"no such chat"}}"#));
        }
        assert!(check.is_answered());
        check.closed(true);
        for (rule, verdict) in check.report() {
            assert_eq!(verdict, Verdict::Kept, "{}", rule.words());
        }
        assert!(check.not_tried().iter().any(|what| what.starts_with("delivery: it refused")));
    }

    #[test]
    fn what_cannot_be_seen_is_untried_and_silence_is_no_answer() {
        let mut check = check(|_| None);
        check.closed(false);
        let untried = |rule| matches!(verdict(&check, rule), Verdict::Untried(_));
        for rule in [Rule::Lines, Rule::Fields, Rule::Hello, Rule::Ids, Rule::Keys, Rule::Again] {
            assert!(untried(rule), "{}", rule.words());
        }
        assert!(untried(Rule::Unknown) && untried(Rule::Numbers));
        for rule in [Rule::Answers, Rule::End] {
            assert!(matches!(verdict(&check, rule), Verdict::Broken(_)), "{}", rule.words());
        }
        assert!(matches!(verdict(&Check::default(), Rule::End), Verdict::Untried(_)));
    }

    #[test]
    fn each_rule_can_be_broken_alone() {
        let good = |extra: &[&str]| {
            let mut check = check(|key| Some(ack(key)));
            for line in extra {
                check.heard(line);
            }
            check.closed(true);
            check
        };
        let message = r#"{"id":1,"chat":2,"from":3,"text":"hi","seq":4}"#;
        let other = r#"{"id":2,"chat":2,"from":3,"text":"hi","seq":4}"#;
        let no_third = check(|key| (key != "check:3").then(|| ack(key)));
        let no_second = check(|key| (key != "check:2").then(|| ack(key)));
        let mut deduplicating = check(|_| None);
        for key in ["check:1", "check:2", "check:3"] {
            deduplicating.heard(&ack(key));
        }
        for (check, rule) in [
            (good(&["starting up"]), Rule::Lines),
            (good(&[r#"{"id":1,"from":3,"text":"hi"}"#]), Rule::Fields),
            (good(&[r#"{"event":"hello"}"#]), Rule::Hello),
            (good(&[message, r#"{"id":"1","chat":2,"from":3,"text":"ho"}"#]), Rule::Ids),
            (good(&[r#"{"event":"ack","key":"other"}"#]), Rule::Keys),
            (good(&[message, other]), Rule::Numbers),
            (no_third, Rule::Unknown),
            (no_second, Rule::Answers),
            (deduplicating, Rule::Again),
        ] {
            for (of, verdict) in check.report() {
                let broken = matches!(verdict, Verdict::Broken(_));
                assert_eq!(broken, of == rule, "{}: {verdict:?}", of.words());
            }
        }
    }
}
