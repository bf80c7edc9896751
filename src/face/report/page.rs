//! The page as a whole: its head, what stands at the top, and the order of its parts.
//!
//! Owns what a browser is allowed to do with it, which is nothing but to draw it. Does not
//! know where the numbers come from.

use crate::face::report::changes::Timeline;
use crate::face::report::charts::{charts, dollars};
use crate::face::report::data::{Days, Told, Used};
use crate::face::report::diff::{cut, sizes};
use crate::face::report::html::Html;
use crate::face::report::standing::{schedule, sessions};
use crate::face::turn_view::count;

/// No script, no request, no frame, no form: only styles and shapes that stand in the page.
const HEAD: &str = concat!(
    "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n",
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; ",
    "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'\">\n",
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n",
    "<meta name=\"color-scheme\" content=\"light dark\">\n",
    "<meta name=\"referrer\" content=\"no-referrer\">\n",
    "<meta name=\"robots\" content=\"noindex\">\n<style>\n",
    include_str!("page.css"),
    "</style>\n"
);
/// The parts, as they are led to.
const PARTS: [(&str, &str); 4] = [
    ("days", "Day by day"),
    ("changes", "Changes"),
    ("schedule", "On its own"),
    ("sessions", "Conversations"),
];
/// Characters of a path or a name.
const NAME: usize = 200;

/// The whole page.
pub fn page(told: &Told, timeline: Timeline, days: &Days) -> String {
    let title = format!("What the agent did, {}", said(days));
    let mut out = Html::fixed(HEAD);
    out.push(Html::plain("title", title));
    out.push(Html::fixed(
        "\n</head>\n<body>\n<a class=\"skip\" href=\"#changes\">Skip to the changes</a>\n",
    ));
    out.push(header(told, &timeline, days));
    let parts = PARTS.map(|(id, name)| Html::plain("li", Html::link(id, name)));
    let list = Html::plain("ul", parts);
    out.push(Html::element("nav", &[("aria-label", "Parts of this page")], list));
    let charts = charts(&told.used, &timeline.on, days);
    let parts = [charts, timeline.finish(days.count()), schedule(told), sessions(told, days)];
    out.push(Html::plain("main", parts));
    out.push(Html::fixed("\n</body>\n</html>\n"));
    out.into_page()
}

fn said(days: &Days) -> String {
    let (first, last) = (days.first, days.last.strftime("%-d %B %Y"));
    match days.count() {
        1 => last.to_string(),
        _ if first.year() == days.last.year() => format!("{} – {last}", first.strftime("%-d %B")),
        _ => format!("{} – {last}", first.strftime("%-d %B %Y")),
    }
}

fn header(told: &Told, timeline: &Timeline, days: &Days) -> Html {
    let text = |value: &serde_json::Value| cut(value.as_str().unwrap_or_default(), NAME);
    let about = &told.about;
    let facts = [
        ("Home", text(&about["paths"]["home"])),
        ("Model", text(&about["model"]["name"])),
        ("Made", days.now.strftime("%-d %B %Y, %H:%M %Z").to_string()),
        ("Made by", format!("fledgling {}", text(&about["version"]))),
    ];
    let facts = facts.into_iter().filter(|(_, value)| !value.is_empty());
    let facts = facts.map(|(name, value)| {
        Html::plain("div", [Html::plain("dt", name), Html::plain("dd", Html::plain("bdi", value))])
    });
    let head = Html::from([
        Html::classed("p", "period", said(days)),
        Html::plain("h1", "What the agent did"),
        totals(told, timeline, days),
        Html::classed("dl", "about", facts.collect::<Html>()),
    ]);
    Html::plain("header", head)
}

/// The numbers that matter most.
fn totals(told: &Told, timeline: &Timeline, days: &Days) -> Html {
    let sum = |field: fn(&Used) -> u64| told.used.iter().map(field).sum::<u64>();
    let (added, removed) = timeline.lines;
    let (tokens, cost) = (sum(Used::tokens), sum(|one| one.cost));
    let sessions = told.sessions.iter().filter(|one| days.holds(&one.last)).count();
    let jobs = told.status.as_ref().map_or(0, |status| status.jobs.len());
    let number = |count: u64| Html::from(count.to_string());
    let mut all = vec![
        ("changes", number(timeline.count() as u64)),
        ("lines", sizes(added, removed, count)),
        ("turns", number(sum(|one| one.turns))),
        ("tokens", count(tokens).into()),
    ];
    if cost > 0 {
        all.push(("cost", dollars(cost).into()));
    }
    all.push(("conversations", number(sessions as u64)));
    if jobs > 0 {
        all.push(("jobs", number(jobs as u64)));
    }
    let all = all.into_iter().filter(|(_, value)| *value != Html::default());
    let all = all.map(|(name, value)| {
        Html::plain("div", [Html::plain("dt", name), Html::plain("dd", value)])
    });
    Html::classed("dl", "totals", all.collect::<Html>())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// The colours of a scheme, by their names in the style sheet.
    fn colours(scheme: &str) -> HashMap<String, String> {
        let pairs = scheme.split(';').filter_map(|pair| pair.split_once(": #"));
        pairs
            .map(|(name, value)| {
                (name.trim().trim_start_matches("--").to_owned(), value.to_owned())
            })
            .collect()
    }

    /// How bright a colour is, as WCAG counts it.
    fn brightness(colour: &str) -> f64 {
        let part = |at: usize| {
            let value = f64::from(u8::from_str_radix(&colour[at..at + 2], 16).unwrap()) / 255.0;
            if value <= 0.040_45 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(0) + 0.7152 * part(2) + 0.0722 * part(4)
    }

    #[test]
    fn every_colour_can_be_read_in_both_schemes() {
        let sheet = include_str!("page.css");
        let mut schemes =
            sheet.split(":root {").skip(1).map(|rest| rest.split('}').next().unwrap());
        for name in ["light", "dark"] {
            let colours = colours(schemes.next().unwrap());
            let text = [
                "ink", "dim", "link", "plus", "minus", "owner", "agent", "schedule", "channel",
                "undo", "other", "good", "bad",
            ];
            let on = |paper: &str| text.map(|text| (text, paper.to_owned()));
            let words = ["plus-paper", "minus-paper"].map(|paper| ("ink", paper.to_owned()));
            let signs = [("plus", "plus-paper".to_owned()), ("minus", "minus-paper".to_owned())];
            let hunks = [("dim", "card".to_owned())];
            let all = on("paper").into_iter().chain(on("card")).chain(words).chain(signs);
            for (text, paper) in all.chain(hunks) {
                let [text_is, paper_is] = [text, &paper].map(|one| brightness(&colours[one]));
                let (light, dark) = (text_is.max(paper_is), text_is.min(paper_is));
                let contrast = (light + 0.05) / (dark + 0.05);
                assert!(contrast >= 4.5, "{name}: {text} on {paper} has {contrast:.2}");
            }
        }
    }

    #[test]
    fn days_are_said_as_people_say_them() {
        let said = |now: &str, count| super::said(&Days::until(now.parse().unwrap(), count));
        assert_eq!(said("2026-11-21T12:00[UTC]", 1), "21 November 2026");
        assert_eq!(said("2026-11-21T12:00[UTC]", 30), "23 October – 21 November 2026");
        assert_eq!(said("2026-01-02T12:00[UTC]", 30), "4 December 2025 – 2 January 2026");
    }
}
