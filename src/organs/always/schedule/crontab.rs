//! The file `crontab`, line by line.
//!
//! Owns what is a line of it and what each is called, and that no text whatever stops the good
//! lines from being read: what is wrong is a fault with its number. Does not know who wrote a
//! line, nor what was due before.

use std::collections::{HashMap, HashSet};
use std::fmt;

use anyhow::{Context as _, Result, bail, ensure};
use jiff::tz::TimeZone;

use super::pattern::Pattern;

/// Jobs taken from a file.
const MOST_LINES: usize = 1_000;

/// Faults told of a file.
const MOST_FAULTS: usize = 100;

/// Bytes of a line.
const LONGEST_LINE: usize = 8_192;

/// Characters of a name.
const LONGEST_NAME: usize = 24;

/// Words of a command that do not tell what it is for.
const COMMON: [&str; 24] = [
    "cd", "env", "exec", "bash", "sh", "sudo", "nice", "ionice", "timeout", "flock", "time",
    "nohup", "python", "python3", "node", "uv", "uvx", "npx", "perl", "ruby", "run", "if", "test",
    "set",
];

/// What a crontab says.
#[derive(Debug, Clone, Default)]
pub struct Crontab {
    /// The jobs, in their order.
    pub lines: Vec<Line>,
    /// What could not be read.
    pub faults: Vec<Fault>,
}

/// A job.
#[derive(Debug, Clone)]
pub struct Line {
    /// Which line of the file it is, counted from 1.
    pub number: usize,
    /// When, as written.
    pub spec: String,
    /// The zone as written above it; none is the machine's.
    pub zone: Option<String>,
    /// The zone.
    pub time_zone: TimeZone,
    /// The environment the lines above it give it.
    pub env: Vec<(String, String)>,
    /// What to run in a shell.
    pub command: String,
    /// When.
    pub pattern: Pattern,
    /// What people call it: of letters that a session's name may have.
    pub name: String,
    /// The same as long as zone, times and command are, wherever in the file the line is.
    pub key: String,
}

/// A line that is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which line of the file it is, counted from 1.
    pub number: usize,
    /// How it begins.
    pub line: String,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "line {} ({}): {}", self.number, self.line, self.why)
    }
}

impl Crontab {
    /// Read a file. `system` is the zone of lines that name none.
    pub fn parse(text: &str, system: &TimeZone) -> Self {
        let mut reader = Reader::new(system);
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (index, line) in text.lines().enumerate() {
            if let Err(error) = reader.take(index + 1, line) {
                let why = format!("{error:#}");
                let line = line.trim().chars().take(120).collect();
                reader.crontab.faults.push(Fault { number: index + 1, line, why });
                if reader.crontab.faults.len() == MOST_FAULTS {
                    break;
                }
            }
        }
        reader.crontab
    }
}

/// What is known while a file is read.
struct Reader<'a> {
    crontab: Crontab,
    system: &'a TimeZone,
    /// The zone of the lines that follow, or what is wrong with it.
    zone: Result<Option<(String, TimeZone)>, String>,
    env: Vec<(String, String)>,
    /// The comment directly above.
    comment: Option<String>,
    /// How often a line of this meaning came.
    same: HashMap<String, usize>,
    names: HashSet<String>,
}

impl<'a> Reader<'a> {
    fn new(system: &'a TimeZone) -> Self {
        Self {
            crontab: Crontab::default(),
            system,
            zone: Ok(None),
            env: Vec::new(),
            comment: None,
            same: HashMap::new(),
            names: HashSet::new(),
        }
    }

    fn take(&mut self, number: usize, line: &str) -> Result<()> {
        let comment = self.comment.take();
        let line = line.trim();
        if let Some(said) = line.strip_prefix('#') {
            // A job that was commented out is no name for the next one.
            self.comment = split(said)
                .is_none_or(|(spec, _)| Pattern::parse(&spec).is_err())
                .then(|| said.to_owned());
            return Ok(());
        }
        if line.is_empty() {
            return Ok(());
        }
        ensure!(
            line.len() <= LONGEST_LINE,
            "is longer than {LONGEST_LINE} bytes; put it into a script"
        );
        ensure!(!line.contains('\0'), "has a NUL byte, which no command can have");
        if let Some((name, value)) = setting(line) {
            return self.set(number, name, value);
        }
        let Some((spec, command)) = split(line) else {
            bail!("wants five fields, minute hour day month weekday, and a command");
        };
        let pattern = Pattern::parse(&spec)?;
        let command = command.replace("\\%", "%");
        let first = command.split_whitespace().next().unwrap_or_default();
        ensure!(
            first.contains(|c: char| !"*/,-?0123456789".contains(c)),
            "wants a command after five fields, minute hour day month weekday, and `{first}` is none; there is no field for seconds"
        );
        ensure!(
            self.crontab.lines.len() < MOST_LINES,
            "is left out: {MOST_LINES} jobs are the most"
        );
        let zone = self.zone.clone().map_err(anyhow::Error::msg)?;
        let (zone, time_zone) =
            zone.map_or((None, self.system.clone()), |(name, zone)| (Some(name), zone));
        let name = self.name(comment.as_deref(), &command);
        let key = self.key(zone.as_deref().unwrap_or_default(), &spec, &command);
        let env = self.env.clone();
        let line = Line { number, spec, zone, time_zone, env, command, pattern, name, key };
        self.crontab.lines.push(line);
        Ok(())
    }

    /// A line `NAME=value`. `TZ` is for the lines below both their zone and, as any other
    /// name, a variable; `CRON_TZ` is their zone alone, and none when it is empty.
    fn set(&mut self, number: usize, name: &str, value: &str) -> Result<()> {
        if name != "CRON_TZ" {
            self.env.retain(|(known, _)| known != name);
            self.env.push((name.to_owned(), value.to_owned()));
        }
        if name != "CRON_TZ" && name != "TZ" {
            return Ok(());
        }
        self.zone = Ok(None);
        if !value.is_empty() {
            let zone = TimeZone::get(value).with_context(|| {
                // To run them at another time than meant is worse than to say that they do not.
                self.zone =
                    Err(format!("does not run: line {number} names a zone that is not known"));
                format!(
                    "`{value}` is no zone this machine knows; it is to be like Europe/Berlin or UTC"
                )
            })?;
            self.zone = Ok(Some((value.to_owned(), zone)));
        }
        Ok(())
    }

    fn name(&mut self, comment: Option<&str>, command: &str) -> String {
        let said = comment.map(slug).filter(|name| !name.is_empty());
        let name = said.unwrap_or_else(|| telling(command));
        let numbered = (2..).map(|n| format!("{name}-{n}"));
        let mut free = std::iter::once(name.clone()).chain(numbered);
        let name = free.find(|name| !self.names.contains(name)).unwrap_or(name);
        self.names.insert(name.clone());
        name
    }

    fn key(&mut self, zone: &str, spec: &str, command: &str) -> String {
        let meaning = format!("{zone}\n{spec}\n{command}");
        let times = self.same.entry(meaning.clone()).or_default();
        *times += 1;
        // FNV-1a: short, and the same in every version of this program.
        let hash =
            format!("{meaning}\n{times}").bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        format!("{hash:016x}")
    }
}

/// `NAME = value`, where the value may be quoted.
fn setting(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once('=')?;
    let (name, value) = (name.trim_end(), value.trim());
    let mut letters = name.chars();
    let plain = letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && letters.all(|c| c.is_ascii_alphanumeric() || c == '_');
    let unquoted =
        ['"', '\''].iter().find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    plain.then_some((name, unquoted.unwrap_or(value)))
}

/// The times, their fields one space apart, and the command.
fn split(line: &str) -> Option<(String, &str)> {
    let mut rest = line.trim();
    let mut fields = Vec::new();
    let wanted = if rest.starts_with('@') { 1 } else { 5 };
    while fields.len() < wanted {
        let (field, after) = rest.split_once(char::is_whitespace)?;
        fields.push(field);
        rest = after.trim_start();
    }
    (!rest.is_empty()).then(|| (fields.join(" "), rest))
}

/// The first words of a text, in letters that every name may have.
fn slug(text: &str) -> String {
    let text = text.to_ascii_lowercase();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mut name = String::new();
    for word in words {
        let gap = usize::from(!name.is_empty());
        if name.len() + gap + word.len() > LONGEST_NAME {
            if name.is_empty() {
                name = word.chars().take(LONGEST_NAME).collect();
            }
            break;
        }
        name.extend(std::iter::repeat_n('-', gap));
        name.push_str(word);
    }
    name
}

/// The first word of a command that tells what it does: the session it speaks in, or the
/// script or program it runs.
fn telling(command: &str) -> String {
    let inside = command.strip_prefix("cd ").and_then(|rest| rest.split_once("&&"));
    let command = inside.map_or(command, |(_, rest)| rest);
    let words: Vec<&str> = command.split_whitespace().collect();
    let session = words.windows(2).find(|pair| pair[0] == "--session").map(|pair| pair[1]);
    let program = words
        .iter()
        .filter(|word| !word.starts_with('-') && !word.contains('='))
        .find_map(|word| {
            let file = word.rsplit('/').find(|part| !part.is_empty())?;
            let stem = file.split('.').find(|part| !part.is_empty())?;
            (!COMMON.contains(&stem) && stem.contains(|c: char| c.is_ascii_alphabetic()))
                .then_some(stem)
        });
    let name = slug(session.or(program).unwrap_or_default());
    if name.is_empty() { "job".to_owned() } else { name }
}

#[cfg(test)]
#[path = "crontab_tests.rs"]
mod tests;
