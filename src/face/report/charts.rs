//! What was used, and how much was done, day by day: small charts with the numbers below.
//!
//! Owns the bars. They are drawn as shapes of the page itself, each with its value as a
//! title; a table says the same. Does not know where the numbers come from.

use std::collections::BTreeMap;

use jiff::ToSpan as _;
use jiff::civil::Date;

use crate::face::report::changes::section;
use crate::face::report::data::{Days, Used, date};
use crate::face::report::diff::{cut, wide};
use crate::face::report::html::Html;
use crate::face::turn_view::{count, plural};

/// Bars of a chart at most: beyond, each stands for several days.
const BARS: usize = 92;
/// Units of a drawing that one bar takes with the gap beside it, and without.
const STEP: usize = 10;
const BAR: usize = 8;
/// Units of its height, and the least that a bar has which is not nothing.
const HEIGHT: u64 = 100;
const LEAST: u64 = 2;
/// Names in a list of those who used the most, and characters of one.
const NAMES: usize = 6;
const NAME: usize = 60;

/// What happened on one day, or on a few.
#[derive(Debug, Clone, Copy, Default)]
struct Day {
    changes: u64,
    turns: u64,
    input: u64,
    cached: u64,
    output: u64,
    cost: u64,
}

impl Day {
    fn tokens(self) -> u64 {
        self.input + self.output
    }

    fn add(&mut self, used: &Used) {
        self.turns += used.turns;
        self.input += used.input;
        self.cached += used.cache_read;
        self.output += used.output;
        self.cost += used.cost;
    }
}

/// Money, in millionths of a US dollar, as people say it.
pub fn dollars(cost: u64) -> String {
    let dollars = cost as f64 / 1_000_000.0;
    if cost == 0 || cost >= 1_000_000 {
        format!("{dollars:.2} USD")
    } else {
        format!("{dollars:.4} USD")
    }
}

/// The section with all of it.
pub fn charts(used: &[Used], changes: &BTreeMap<Date, u64>, days: &Days) -> Html {
    let mut on: BTreeMap<Date, Day> = BTreeMap::new();
    for (day, count) in changes {
        on.entry(*day).or_default().changes += count;
    }
    for one in used {
        if let Some(day) = date(&one.day) {
            on.entry(day).or_default().add(one);
        }
    }
    let mut all = Html::plain("h2", "Day by day");
    if on.is_empty() {
        let none = format!("Nothing was done in {}.", plural(days.count() as u64, "day"));
        return section("days", [all, Html::classed("p", "note", none)].into());
    }
    let bars = Bars::new(&on, days);
    let unpriced: u64 = used.iter().map(|one| one.unpriced).sum();
    let mut figures = vec![
        bars.chart("Changes", "", |day| [day.changes, 0], |sum| plural(sum, "commit")),
        bars.chart(
            "Tokens",
            "The light part was read from the provider’s cache.",
            |day| [day.tokens().saturating_sub(day.cached), day.cached.min(day.tokens())],
            |sum| format!("{} tokens", count(sum)),
        ),
    ];
    if used.iter().any(|one| one.cost > 0) {
        let note = match unpriced {
            0 => String::new(),
            some => format!("Without {} tokens of unknown price.", count(some)),
        };
        figures.push(bars.chart("Cost", &note, |day| [day.cost, 0], dollars));
    }
    all.push(Html::classed("div", "figures", figures.into_iter().collect::<Html>()));
    all.push(shares(used));
    all.push(table(&on));
    section("days", all)
}

/// The days in bars.
struct Bars {
    bars: Vec<Day>,
    /// Days in each, and the first of them all.
    each: usize,
    first: Date,
    last: Date,
}

impl Bars {
    fn new(on: &BTreeMap<Date, Day>, days: &Days) -> Self {
        let each = days.count().div_ceil(BARS);
        let mut bars = vec![Day::default(); days.count().div_ceil(each)];
        let last = bars.len() - 1;
        for (day, what) in on {
            // The clock of whoever committed may be ahead of ours.
            let at = usize::try_from(days.at(*day)).unwrap_or_default() / each;
            let bar = &mut bars[at.min(last)];
            bar.changes += what.changes;
            bar.turns += what.turns;
            bar.input += what.input;
            bar.cached += what.cached;
            bar.output += what.output;
            bar.cost += what.cost;
        }
        Self { bars, each, first: days.first, last: days.last }
    }

    /// The day of a bar, or its days.
    fn label(&self, bar: usize) -> String {
        let day = |at: usize| self.first.checked_add((at as i64).days()).unwrap_or(self.last);
        let said = |day: Date| day.strftime("%-d %b").to_string();
        let (from, to) = (bar * self.each, bar * self.each + self.each - 1);
        if self.each == 1 {
            said(day(from))
        } else {
            format!("{} – {}", said(day(from)), said(day(to).min(self.last)))
        }
    }

    /// A chart of something that has two parts, the second of which steps back.
    fn chart(
        &self,
        title: &str,
        note: &str,
        parts: impl Fn(Day) -> [u64; 2],
        said: impl Fn(u64) -> String,
    ) -> Html {
        let values: Vec<_> = self.bars.iter().map(|bar| parts(*bar)).collect();
        let sum = |parts: &[u64; 2]| parts[0] + parts[1];
        let total: u64 = values.iter().map(sum).sum();
        let (peak, most) = values
            .iter()
            .map(sum)
            .enumerate()
            .max_by_key(|(at, value)| (*value, *at))
            .unwrap_or_default();
        let height = |value: u64| match value {
            0 => 0,
            value => (u128::from(value) * u128::from(HEIGHT) / u128::from(most.max(1)))
                .max(LEAST.into()) as u64,
        };
        let shapes =
            values.iter().enumerate().filter(|(_, parts)| sum(parts) > 0).map(|(at, parts)| {
                let whole = height(sum(parts));
                let strong = if parts[1] == 0 { whole } else { height(parts[0]).min(whole) };
                let shape = |class: &str, from: u64, height: u64| match height {
                    0 => Html::default(),
                    _ => rect(
                        class,
                        at * STEP + (STEP - BAR) / 2,
                        HEIGHT - from - height,
                        BAR,
                        height,
                    ),
                };
                let what =
                    Html::plain("title", format!("{}: {}", self.label(at), said(sum(parts))));
                Html::plain(
                    "g",
                    [what, shape("light", strong, whole - strong), shape("strong", 0, strong)],
                )
            });
        let width = self.bars.len() * STEP;
        let label = format!(
            "{title} from {} to {}: {} in all, the most on {}: {}. The table below has the numbers.",
            self.first,
            self.last,
            said(total),
            self.label(peak),
            said(most)
        );
        let view = format!("0 0 {width} {HEIGHT}");
        let attributes = [
            ("viewBox", &*view),
            ("preserveAspectRatio", "none"),
            ("role", "img"),
            ("aria-label", &*label),
        ];
        let drawing = Html::element("svg", &attributes, shapes.collect::<Html>());
        let ends = Html::from([
            Html::plain("span", self.label(0)),
            Html::plain("span", format!("most {}", said(most))),
            Html::plain("span", self.label(self.bars.len() - 1)),
        ]);
        let each = if self.each > 1 {
            format!("Each bar is {}. ", plural(self.each as u64, "day"))
        } else {
            String::new()
        };
        let note = format!("{each}{note}");
        let caption =
            Html::plain("figcaption", [Html::plain("b", title), " ".into(), said(total).into()]);
        let mut figure = Html::from([
            caption,
            drawing,
            Html::element("div", &[("class", "ends"), ("aria-hidden", "true")], ends),
        ]);
        if !note.is_empty() {
            figure.push(Html::classed("p", "note", note));
        }
        Html::plain("figure", figure)
    }
}

fn rect(class: &str, x: usize, y: u64, width: usize, height: u64) -> Html {
    let numbers = [x.to_string(), y.to_string(), width.to_string(), height.to_string()];
    let [x, y, width, height] = &numbers;
    let attributes = [("class", class), ("x", x), ("y", y), ("width", width), ("height", height)];
    Html::element("rect", &attributes, Html::default())
}

/// Who used the most.
fn shares(used: &[Used]) -> Html {
    let lists: [(&str, fn(&Used) -> &str); 3] = [
        ("By model", |one| &one.model),
        ("By conversation", |one| &one.session),
        ("By origin", |one| &one.origin),
    ];
    let lists = lists.into_iter().map(|(title, name)| {
        let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for one in used {
            let sum = sums.entry(name(one)).or_default();
            *sum = (sum.0 + one.tokens(), sum.1 + one.cost);
        }
        sums.retain(|name, sum| !name.is_empty() && sum.0 > 0);
        share(title, sums.into_iter().collect())
    });
    let lists: Html = lists.collect();
    if lists == Html::default() { lists } else { Html::classed("div", "figures", lists) }
}

fn share(title: &str, mut sums: Vec<(&str, (u64, u64))>) -> Html {
    sums.sort_by_key(|(_, sum)| std::cmp::Reverse(*sum));
    let most = sums.first().map_or(1, |(_, sum)| sum.0.max(1));
    let more = sums.len().saturating_sub(NAMES);
    let rows = sums.iter().take(NAMES).map(|(name, (tokens, cost))| {
        let width = (u128::from(*tokens) * 100 / u128::from(most)).max(1) as usize;
        let bar = rect("strong", 0, 0, width, 1);
        let attributes =
            [("viewBox", "0 0 100 1"), ("preserveAspectRatio", "none"), ("aria-hidden", "true")];
        let cost = if *cost > 0 { format!(" · {}", dollars(*cost)) } else { String::new() };
        let value = format!("{}{cost}", count(*tokens));
        Html::plain(
            "li",
            [
                Html::element("bdi", &[("class", "name")], cut(name, NAME)),
                " ".into(),
                Html::classed("span", "value", value),
                Html::element("svg", &attributes, bar),
            ],
        )
    });
    let rows: Html = rows.collect();
    if rows == Html::default() {
        return rows;
    }
    let mut list = Html::from([Html::plain("h3", title), Html::classed("ul", "shares", rows)]);
    if more > 0 {
        list.push(Html::classed("p", "note", format!("and {more} more")));
    }
    Html::classed("div", "share", list)
}

/// The numbers.
fn table(on: &BTreeMap<Date, Day>) -> Html {
    let priced = on.values().any(|day| day.cost > 0);
    let names = ["Day", "Changes", "Turns", "Input", "of it cached", "Output", "Cost"];
    let shown = if priced { names.len() } else { names.len() - 1 };
    let head = names[..shown].iter().map(|name| Html::element("th", &[("scope", "col")], *name));
    let head = Html::plain("thead", Html::plain("tr", head.collect::<Html>()));
    let rows = on.iter().rev().map(|(date, day)| {
        let numbers = [day.changes, day.turns, day.input, day.cached, day.output];
        let mut cells = vec![Html::element("th", &[("scope", "row")], date.to_string())];
        cells.extend(numbers.map(|number| Html::plain("td", number.to_string())));
        cells.push(Html::plain("td", dollars(day.cost)));
        cells.truncate(shown);
        Html::plain("tr", cells.into_iter().collect::<Html>())
    });
    let body = Html::plain("tbody", rows.collect::<Html>());
    let table = Html::classed("table", "numbers", [head, body]);
    let summary = Html::plain("summary", "The numbers as a table");
    Html::plain("details", [summary, wide("Numbers day by day", table)])
}
