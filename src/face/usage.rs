//! `fledgling usage`: what was used and what it cost, as a table with bars.
//!
//! Owns how it is grouped and how it looks on screens of any width. Knows neither prices nor
//! where the numbers come from.

use anyhow::{Context as _, Result};
use clap::{Args, Parser, ValueEnum};
use jiff::civil::Date;
use serde::{Deserialize as _, Serialize};
use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;

use crate::face::clean::{clean, row};
use crate::face::history::command::refusal;
use crate::face::screen::Screen;
use crate::face::turn_view::{cost, count, wrapped};
use crate::face::{Refusal, views};
use crate::kernel::message::Usage;
use crate::organs::usage::Used;
use crate::organs::verb::Verb;

/// What is to be shown.
#[derive(Debug, Clone, Default, Args)]
pub struct Asked {
    /// What a line is about [default: day]
    #[arg(long)]
    by: Option<By>,
    /// The last so many days alone, today included
    #[arg(long, value_name = "N")]
    days: Option<u64>,
    /// From this day on, as 2026-11-21
    #[arg(long, value_name = "DAY")]
    since: Option<String>,
}

/// What a line is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum By {
    #[default]
    Day,
    Session,
    Origin,
    Model,
}

/// `/usage` in a conversation.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, bin_name = "/usage")]
struct Slash {
    #[command(flatten)]
    asked: Asked,
}

/// What was used, of one kind.
#[derive(Debug, Default, Serialize)]
struct Group {
    #[serde(skip)]
    name: String,
    turns: u64,
    #[serde(flatten)]
    usage: Usage,
    /// The part of it that nobody in front of a terminal asked for.
    unattended: Usage,
}

/// Columns of a bar at most; one of fewer than the least says nothing.
const BAR: (usize, usize) = (6, 40);
/// A bar's last column, in eighths.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
/// Columns of a screen from which there is room for another number.
const ROOMY: [usize; 2] = [56, 70];

/// What follows `/usage`.
pub fn typed(rest: &str) -> Result<Asked> {
    let slash = Slash::try_parse_from(rest.split_whitespace());
    Ok(slash.map_err(|error| refusal(&error))?.asked)
}

impl Asked {
    /// What is asked of the host.
    pub fn verb(&self) -> Result<Verb> {
        let Self { days, since, .. } = self.clone();
        let wrong = since.iter().find(|day| day.parse::<Date>().is_err());
        if let Some(day) = wrong {
            let why = format!("{} is not a day; write it as 2026-11-21", clean(day));
            return Err(Refusal::usage(why).into());
        }
        if days == Some(0) {
            return Err(Refusal::usage("in 0 days nothing is used").into());
        }
        Ok(Verb::Usage { since, days })
    }

    /// Print the host's answer: each of its rows as JSON, or one for each group that is asked for.
    pub fn print(&self, answer: &Value, json: bool) -> Result<u8> {
        let grouped = match self.by.filter(|_| json) {
            Some(by) => self.json(by, answer)?,
            None => answer.clone(),
        };
        views::print(&grouped, json, |answer, screen| self.text(answer, screen))
    }

    fn json(&self, by: By, answer: &Value) -> Result<Value> {
        let groups = self.groups(&read(answer)?).into_iter().map(|group| {
            let mut told = serde_json::to_value(&group)?;
            told[by.name()] = group.name.into();
            Ok(told)
        });
        groups.collect()
    }

    /// A line for each group, with a bar where somebody looks on.
    pub fn text(&self, answer: &Value, screen: Screen) -> Result<String> {
        let used = read(answer)?;
        let groups = self.groups(&used);
        let mut all = Group { name: "all".to_owned(), ..Group::default() };
        for one in &used {
            all.add(one);
        }
        if groups.is_empty() {
            let when = if self.days.is_some() || self.since.is_some() { "then" } else { "yet" };
            return Ok(format!("Nothing was used {when}."));
        }
        let by = self.by.unwrap_or_default().name();
        let mut lines = if screen.terminal {
            bars(by, &groups, &all, screen)
        } else {
            aligned(&columns(by, &groups, &all, [true; 3]), 1)
        };
        lines.extend(unattended(&all).map(|text| wrapped(&text, screen)));
        lines.extend(unpriced(&used).map(|text| wrapped(&text, screen)));
        Ok(lines.join("\n"))
    }

    /// Days as they come, latest first; all else by what it cost.
    fn groups(&self, used: &[Used]) -> Vec<Group> {
        let by = self.by.unwrap_or_default();
        let mut groups: Vec<Group> = Vec::new();
        for one in used {
            let name = match by {
                By::Day => &one.day,
                By::Session => &one.session,
                By::Origin => &one.origin,
                By::Model => &one.model,
            };
            let at = groups.iter().position(|group| group.name == *name).unwrap_or_else(|| {
                groups.push(Group { name: name.clone(), ..Group::default() });
                groups.len() - 1
            });
            groups[at].add(one);
        }
        if by != By::Day {
            let size = |group: &Group| (group.usage.cost, group.usage.total());
            groups.sort_by_key(|group| std::cmp::Reverse(size(group)));
        }
        groups
    }
}

impl By {
    fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Session => "session",
            Self::Origin => "origin",
            Self::Model => "model",
        }
    }
}

impl Group {
    fn add(&mut self, used: &Used) {
        self.turns += used.turns;
        self.usage += used.usage;
        if used.unattended {
            self.unattended += used.usage;
        }
    }
}

fn read(answer: &Value) -> Result<Vec<Used>> {
    Vec::deserialize(answer).context("the host's answer is odd")
}

/// What it cost, as far as that is known.
fn paid(usage: Usage) -> String {
    match usage {
        Usage { cost: 0, unpriced: 1.., .. } => "?".to_owned(),
        usage => cost(usage),
    }
}

/// The table's cells, the header first and the sum last. The last columns come with room alone:
/// turns; what was read from caches; input and output instead of their sum.
fn columns(by: &str, groups: &[Group], all: &Group, roomy: [bool; 3]) -> Vec<Vec<String>> {
    let [turns, cached, parts] = roomy;
    let chosen = |cells: [String; 7]| -> Vec<String> {
        let shown = [true, true, !parts, parts, parts, cached, turns];
        cells.into_iter().zip(shown).filter_map(|(cell, shown)| shown.then_some(cell)).collect()
    };
    let head = [by, "cost", "tokens", "input", "output", "cached", "turns"];
    let mut rows = vec![chosen(head.map(str::to_owned))];
    rows.extend(groups.iter().chain([all]).map(|Group { name, turns, usage, .. }| {
        let numbers = [usage.total(), usage.input, usage.output, usage.cache_read].map(count);
        let [total, input, output, read] = numbers;
        chosen([clean(name), paid(*usage), total, input, output, read, turns.to_string()])
    }));
    rows
}

/// Cells side by side: the first ones to the left, numbers to the right.
fn aligned(rows: &[Vec<String>], left: usize) -> Vec<String> {
    let widths = widths(rows);
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(at, (cell, width))| {
            let space = " ".repeat(width - cell.width());
            if at < left { format!("{cell}{space}") } else { format!("{space}{cell}") }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

fn widths(rows: &[Vec<String>]) -> Vec<usize> {
    let widest = |column: usize| rows.iter().map(|row| row[column].width()).max().unwrap_or(0);
    (0..rows.first().map_or(0, Vec::len)).map(widest).collect()
}

/// The table with a bar in each line, which is as long as what it cost, or as its tokens where
/// all of it is free.
fn bars(by: &str, groups: &[Group], all: &Group, screen: Screen) -> Vec<String> {
    let [some, much] = ROOMY.map(|columns| screen.width >= columns);
    let mut rows = columns(by, groups, all, [some, much, false]);
    let numbers: usize = widths(&rows)[1..].iter().map(|width| width + 2).sum();
    let room = screen.width.saturating_sub(numbers);
    // What is named keeps half of what is left.
    for cells in &mut rows {
        cells[0] = row(&cells[0], (room / 2).max(10).min(room));
    }
    let names = widths(&rows)[0];
    let bar = Some(room.saturating_sub(names + 1).min(BAR.1)).filter(|bar| *bar >= BAR.0);
    let size = |group: &Group| {
        if all.usage.cost > 0 { group.usage.cost } else { group.usage.total() }
    };
    let most = groups.iter().map(size).max().unwrap_or_default();
    let names: Vec<_> = rows.iter_mut().map(|cells| vec![cells.remove(0)]).collect();
    let (names, numbers) = (aligned(&names, 1), aligned(&rows, 0));
    let mut lines = Vec::new();
    for (at, (name, numbers)) in names.iter().zip(numbers).enumerate() {
        // Before the groups stands the header, behind them the sum.
        let group = at.checked_sub(1).and_then(|at| groups.get(at));
        let drawn = bar.map(|width| {
            let drawn = group.map_or_else(String::new, |group| drawn(size(group), most, width));
            let space = " ".repeat(width - drawn.width());
            format!(" {}{space}", screen.style("36", &drawn))
        });
        let space = " ".repeat(widths_of(&names) - name.width());
        let line = format!("{name}{space}{}  {numbers}", drawn.unwrap_or_default());
        lines.push(if at == 0 { screen.bold(&line) } else { line });
    }
    lines
}

fn widths_of(cells: &[String]) -> usize {
    cells.iter().map(|cell| cell.width()).max().unwrap_or_default()
}

/// A bar of so many columns for the most there is. What is there at all can be seen.
fn drawn(size: u64, most: u64, width: usize) -> String {
    let eighths = u128::from(size) * (width as u128 * 8) / u128::from(most.max(1));
    let eighths = (eighths as usize).max(usize::from(size > 0));
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

/// How much of it nobody in front of a terminal asked for.
fn unattended(all: &Group) -> Option<String> {
    let Usage { cost, .. } = all.unattended;
    let share = |part: u64, whole: u64| (part * 100).checked_div(whole).unwrap_or_default();
    let tokens = all.unattended.total();
    let percent = share(tokens, all.usage.total());
    let mut text = format!("Unattended: {} tokens ({percent} %)", count(tokens));
    if cost > 0 {
        text += &format!(", {} ({} %)", paid(all.unattended), share(cost, all.usage.cost));
    }
    (tokens > 0).then_some(text + ".")
}

/// The models of which the price is not known.
fn unpriced(used: &[Used]) -> Option<String> {
    let unpriced = used.iter().filter(|one| one.usage.unpriced > 0);
    let mut models: Vec<_> = unpriced.map(|one| clean(&one.model)).collect();
    models.sort();
    models.dedup();
    (!models.is_empty()).then(|| {
        let models = models.join(", ");
        format!("Not all prices are known ({models}): `fledgling help usage` tells more.")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn used(day: &str, model: &str, [input, cost, unpriced]: [u64; 3]) -> Value {
        let unattended = model == "idle";
        json!({ "day": day, "session": "main", "model": model, "origin": "owner", "turns": 2,
            "unattended": unattended, "input": input, "output": 100, "cache_read": input / 2,
            "cache_write": 0, "cost": cost, "unpriced": unpriced })
    }

    fn answer() -> Value {
        json!([
            used("2026-11-21", "anthropic:claude-sonnet-5", [40_000, 80_000, 0]),
            used("2026-11-20", "anthropic:claude-sonnet-5", [10_000, 20_000, 0]),
            used("2026-11-20", "idle", [1_000, 5_000, 0]),
            used("2026-11-19", "odd", [900, 0, 1_000]),
        ])
    }

    fn shown(words: &str, width: usize) -> String {
        let screen = Screen { terminal: true, width, colour: false };
        typed(words).unwrap().text(&answer(), screen).unwrap()
    }

    #[test]
    fn at_any_width_it_fits_and_tells_cost_and_tokens() {
        for words in ["", "--by model", "--by session", "--by origin"] {
            for width in [20, 30, 40, 60, 80, 200] {
                let text = shown(words, width);
                let table = text.lines().take_while(|line| !line.starts_with("Unattended"));
                for line in table {
                    assert!(line.width() <= width.max(30), "{width}: {line}\n{text}");
                }
                assert!(text.contains("$0.08") || text.contains("$0.10+"), "{text}");
            }
        }
    }

    #[test]
    fn bars_are_as_long_as_what_it_cost() {
        let expected = "\
day                         cost  tokens
2026-11-21 █████████████   $0.08   40.1k
2026-11-20 ████            $0.03   11.2k
2026-11-19                     ?    1.0k
all                       $0.10+   52.3k
Unattended: 1.1k tokens (2 %), $0.0050
(4 %).
Not all prices are known (odd):
`fledgling help usage` tells more.";
        assert_eq!(shown("", 40), expected);
        assert_eq!(drawn(0, 8, 5), "");
        assert_eq!(drawn(1, 1_000, 5), "▏");
        assert_eq!(drawn(5, 8, 1), "▋");
        assert_eq!(drawn(u64::MAX, u64::MAX, 3), "███");
    }

    #[test]
    fn a_pipe_gets_all_columns_and_no_bar() {
        let text = typed("--by model").unwrap().text(&answer(), Screen::PIPE).unwrap();
        let expected = "\
model                         cost  input  output  cached  turns
anthropic:claude-sonnet-5    $0.10  50.0k     200   25.0k      4
idle                       $0.0050   1.0k     100     500      2
odd                              ?    900     100     450      2
all                         $0.10+  51.9k     400   25.9k      8
Unattended: 1.1k tokens (2 %), $0.0050 (4 %).
Not all prices are known (odd): `fledgling help usage` tells more.";
        assert_eq!(text, expected);
    }

    #[test]
    fn groups_as_json() {
        let asked = typed("--by model").unwrap();
        let groups = asked.json(By::Model, &answer()).unwrap();
        assert_eq!((&groups[1]["model"], &groups[1]["cost"]), (&json!("idle"), &json!(5_000)));
        assert_eq!(groups[1]["unattended"]["cost"], 5_000);
        assert_eq!(groups[0]["turns"], 4);
    }

    #[test]
    fn what_is_typed_is_checked() {
        let verb = typed("--since 2026-11-01 --days 7").unwrap().verb().unwrap();
        let since = Some("2026-11-01".to_owned());
        assert_eq!(verb, Verb::Usage { since, days: Some(7) });
        assert!(typed("--since yesterday").unwrap().verb().is_err());
        assert!(typed("--days 0").unwrap().verb().is_err());
        let said = typed("--by colour").unwrap_err().to_string();
        assert!(said.contains("day, session, origin, model"), "{said}");
        let none = typed("--days 3").unwrap().text(&json!([]), Screen::PIPE).unwrap();
        assert_eq!(none, "Nothing was used then.");
    }
}
