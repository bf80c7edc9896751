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
    let dollars = |cost: u64| cost as f64 / 1_000_000.0;
    match cost {
        // What costs next to nothing does not cost nothing.
        1..1_000_000 => format!("{:.4} USD", dollars(cost.max(100))),
        cost => format!("{:.2} USD", dollars(cost)),
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
            "The faint part was read from the provider’s cache.",
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
    each: Vec<Day>,
    /// How many days are in each, and the first of them all.
    days: usize,
    first: Date,
    last: Date,
}

impl Bars {
    fn new(on: &BTreeMap<Date, Day>, days: &Days) -> Self {
        let in_each = days.count().div_ceil(BARS);
        let mut each = vec![Day::default(); days.count().div_ceil(in_each)];
        let last = each.len() - 1;
        for (day, what) in on {
            // The clock of whoever committed may be ahead of ours.
            let at = usize::try_from(days.at(*day)).unwrap_or_default() / in_each;
            let bar = &mut each[at.min(last)];
            bar.changes += what.changes;
            bar.turns += what.turns;
            bar.input += what.input;
            bar.cached += what.cached;
            bar.output += what.output;
            bar.cost += what.cost;
        }
        Self { each, days: in_each, first: days.first, last: days.last }
    }

    /// The day of a bar, or its days.
    fn label(&self, bar: usize) -> String {
        let day = |at: usize| self.first.checked_add((at as i64).days()).unwrap_or(self.last);
        let said = |day: Date| day.strftime("%-d %b").to_string();
        let (from, to) = (bar * self.days, bar * self.days + self.days - 1);
        if self.days == 1 {
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
        let values: Vec<_> = self.each.iter().map(|bar| parts(*bar)).collect();
        let sums = values.iter().map(|parts| parts[0] + parts[1]);
        let total = said(sums.clone().sum());
        let (peak, most) = sums.enumerate().max_by_key(|(at, sum)| (*sum, *at)).unwrap_or_default();
        let bars = values.iter().enumerate().filter(|(_, parts)| parts[0] + parts[1] > 0);
        let bars = bars.map(|(at, parts)| {
            let what = format!("{}: {}", self.label(at), said(parts[0] + parts[1]));
            Html::plain("g", [Html::plain("title", what), bar(at, *parts, most)])
        });
        let (first, last) = (self.label(0), self.label(self.each.len() - 1));
        let label = format!(
            "{title} from {first} to {last}: {total} in all, the most on {}: {}. The table below has the numbers.",
            self.label(peak),
            said(most)
        );
        let view = format!("0 0 {} {HEIGHT}", self.each.len() * STEP);
        let drawn = [("viewBox", &*view), ("preserveAspectRatio", "none")];
        let named = [("role", "img"), ("aria-label", &*label)];
        let ends =
            [first, format!("most {}", said(most)), last].map(|end| Html::plain("span", end));
        let mut figure = Html::from([
            Html::plain("figcaption", [Html::plain("b", title), " ".into(), total.into()]),
            Html::element("svg", &[drawn, named].concat(), bars.collect::<Html>()),
            Html::element("div", &[("class", "ends"), ("aria-hidden", "true")], ends),
        ]);
        let days = match self.days {
            1 => String::new(),
            days => format!("Each bar is {}. ", plural(days as u64, "day")),
        };
        if !(days.is_empty() && note.is_empty()) {
            figure.push(Html::classed("p", "note", format!("{days}{note}")));
        }
        Html::plain("figure", figure)
    }
}

/// The bar at this place, as high as its two parts are beside the most there is.
fn bar(at: usize, [strong, light]: [u64; 2], most: u64) -> Html {
    let height = |value: u64| match u128::from(value) * u128::from(HEIGHT) / u128::from(most.max(1))
    {
        0 if value > 0 => LEAST,
        height => height as u64,
    };
    let whole = height(strong + light).max(LEAST);
    let lower = if light == 0 { whole } else { height(strong).min(whole) };
    let shape = |class: &str, from: u64, to: u64| match to - from {
        0 => Html::default(),
        height => rect(class, at * STEP + (STEP - BAR) / 2, HEIGHT - to, BAR, height),
    };
    [shape("light", lower, whole), shape("strong", 0, lower)].into()
}

fn rect(class: &str, x: usize, y: u64, width: usize, height: u64) -> Html {
    let numbers = [x.to_string(), y.to_string(), width.to_string(), height.to_string()];
    let [x, y, width, height] = &numbers;
    let attributes = [("class", class), ("x", x), ("y", y), ("width", width), ("height", height)];
    Html::element("rect", &attributes, Html::default())
}

/// Who used the most.
fn shares(used: &[Used]) -> Html {
    let by = |title, name: fn(&Used) -> &str| {
        let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for one in used {
            let sum = sums.entry(name(one)).or_default();
            *sum = (sum.0 + one.tokens(), sum.1 + one.cost);
        }
        sums.retain(|name, sum| !name.is_empty() && sum.0 > 0);
        share(title, sums.into_iter().collect())
    };
    let lists = Html::from([
        by("By model", |one| &one.model),
        by("By conversation", |one| &one.session),
        by("By origin", |one| &one.origin),
    ]);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn used(day: &str, input: u64, cost: u64) -> Used {
        let (day, model) = (day.to_owned(), "<m>".to_owned());
        let cache_read = input / 2;
        Used { day, model, turns: 1, input, cache_read, cost, unpriced: 7, ..Used::default() }
    }

    fn page(used: &[Used], count: u32) -> String {
        let days = Days::until("2026-11-21T12:00[UTC]".parse().unwrap(), count);
        charts(used, &BTreeMap::new(), &days).into_page()
    }

    #[test]
    fn a_bar_a_day_and_the_same_in_a_table() {
        let page = page(&[used("2026-11-01", 4_000, 12_300), used("2026-11-21", 2, 0)], 30);
        for part in [
            "<title>1 Nov: 4.0k tokens</title>",
            // Half of it cached, above the rest.
            "<rect class=\"light\" x=\"91\" y=\"0\" width=\"8\" height=\"50\"></rect>",
            "<rect class=\"strong\" x=\"91\" y=\"50\" width=\"8\" height=\"50\"></rect>",
            // What is nearly nothing is seen.
            "<title>21 Nov: 2 tokens</title>",
            "<rect class=\"strong\" x=\"291\" y=\"98\" width=\"8\" height=\"2\">",
            "<b>Cost</b> 0.0123 USD",
            "Without 14 tokens of unknown price.",
            "<td>4000</td><td>2000</td><td>0</td><td>0.0123 USD</td>",
            "&lt;m&gt;",
        ] {
            assert!(page.contains(part), "no {part} in {page}");
        }
        assert_eq!(page.matches("<g>").count(), 3);
    }

    #[test]
    fn money_is_nothing_only_where_it_is() {
        let shown = [0, 3, 12_300, 999_999, 1_000_000, 2_345_678].map(dollars);
        let expected = ["0.00", "0.0001", "0.0123", "1.0000", "1.00", "2.35"];
        assert_eq!(shown, expected.map(|one| format!("{one} USD")));
    }

    #[test]
    fn many_days_share_bars_and_no_price_is_no_cost() {
        let page = page(&[used("2026-11-01", 10, 0), used("2026-11-02", 10, 0)], 365);
        assert!(page.contains("Each bar is 4 days.") && !page.contains("Cost"), "{page}");
        assert_eq!(page.matches("<g>").count(), 1, "{page}");
        assert!(super::tests::page(&[], 30).contains("Nothing was done in 30 days."));
        assert!(super::tests::page(&[used("no day", 1, 1)], 30).contains("Nothing was done"));
    }
}
