//! Times as people say them: `tomorrow 09:00`, `in 20 minutes`, `monday 8:30`, ISO.
//!
//! Owns what such words mean, and how the time they meant is said back. A time of day is never
//! guessed: a day alone is an error that asks for one. Knows nothing of what is due then.

use anyhow::{Context as _, Result, bail, ensure};
use jiff::civil::{Date, DateTime, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, ToSpan as _, Zoned};

const EXAMPLES: &str = "say it like `in 20 minutes`, `tomorrow 09:00` or `2026-12-24 18:00`";

/// The longest text that is looked at.
const LONGEST: usize = 100;

/// The time a text means, which is still to come.
pub fn parse(text: &str, now: &Zoned) -> Result<Zoned> {
    let text = text.trim();
    ensure!(!text.is_empty(), "a time is wanted; {EXAMPLES}");
    ensure!(text.len() <= LONGEST, "that is too long for a time; {EXAMPLES}");
    let at = exact(text, now).transpose().unwrap_or_else(|| words(text, now))?;
    ensure!(at > *now, "`{text}` is {}, which is over; {EXAMPLES}", said(&at, now));
    Ok(at)
}

/// A time as it is said to people, and how far off it is.
pub fn said(at: &Zoned, now: &Zoned) -> String {
    let seconds = if at.second() == 0 { "" } else { ":%S" };
    let shown = at.strftime(&format!("%a %-d %b %Y %H:%M{seconds} %Z")).to_string();
    let left = at.timestamp().as_second() - now.timestamp().as_second();
    let far = far(left.unsigned_abs());
    if left < 0 { format!("{shown} ({far} ago)") } else { format!("{shown} (in {far})") }
}

/// A number of seconds in its two largest units.
fn far(seconds: u64) -> String {
    if seconds < 60 {
        return format!("{seconds} s");
    }
    let minutes = (seconds + 30) / 60;
    let (days, hours, minutes) = (minutes / 1440, minutes / 60 % 24, minutes % 60);
    let some = |n: u64, unit: &str| if n == 0 { String::new() } else { format!(" {n} {unit}") };
    match (days, hours) {
        (0, 0) => format!("{minutes} min"),
        (0, _) => format!("{hours} h{}", some(minutes, "min")),
        (1, _) => format!("1 day{}", some(hours, "h")),
        _ => format!("{days} days{}", some(hours, "h")),
    }
}

/// A time in ISO's way, with or without offset and zone.
fn exact(text: &str, now: &Zoned) -> Result<Option<Zoned>> {
    if let Ok(day) = text.parse::<Date>()
        && !text.contains([':', 'T', 't', ' '])
    {
        bail!("{} {day} is a day; at what time? `{day} 09:00`", day.strftime("%A"));
    }
    if let Ok(at) = text.parse::<Zoned>() {
        return Ok(Some(at));
    }
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(Some(at.to_zoned(now.time_zone().clone())));
    }
    let Ok(local) = text.parse::<DateTime>() else { return Ok(None) };
    local
        .to_zoned(now.time_zone().clone())
        .map(Some)
        .context("that is beyond all calendars; name an earlier time")
}

fn words(text: &str, now: &Zoned) -> Result<Zoned> {
    let lower = text.to_lowercase().replace(',', " ");
    let mut words: Vec<&str> = lower.split_whitespace().collect();
    words.retain(|word| !["at", "on", "o'clock"].contains(word));
    if words.first() == Some(&"in") {
        let spans = spans(&words[1..]);
        let spans = spans.with_context(|| format!("`{text}` is not understood; {EXAMPLES}"))?;
        let at = spans.into_iter().try_fold(now.clone(), |at, span| at.checked_add(span).ok());
        return at
            .with_context(|| format!("`{text}` is beyond all calendars; name an earlier time"));
    }
    // Another zone, at the end.
    let zone = words.last().filter(|word| word.contains('/') || **word == "utc");
    let zone = zone.and_then(|name| TimeZone::get(name).ok());
    let now = match zone {
        Some(zone) => {
            words.pop();
            now.with_time_zone(zone)
        }
        None => now.clone(),
    };
    let (day, rest) = day(&words, now.date());
    let time = time(rest, day.is_some_and(|day| day.says == Says::Tonight));
    let Some(time) = time else {
        match day {
            Some(Day { date, .. }) if rest.is_empty() => {
                bail!("`{text}` is {}; at what time? `{text} 09:00`", date.strftime("%A %-d %B %Y"))
            }
            Some(_) => bail!("`{}` in `{text}` is no time of day; {EXAMPLES}", rest.join(" ")),
            None => bail!("`{text}` is not understood; {EXAMPLES}"),
        }
    };
    on(day, time, &now)
        .with_context(|| format!("`{text}` is beyond all calendars; name an earlier time"))
}

/// A day, as a word said it.
#[derive(Debug, Clone, Copy)]
struct Day {
    date: Date,
    /// What the word says of times of that day.
    says: Says,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Nothing,
    /// A week later will do when the time is over on that day.
    Weekly,
    /// Midnight is the one at its end.
    Today,
    /// So it is, and hours are those after noon.
    Tonight,
}

/// The day the first words name, and what follows.
fn day<'a>(words: &'a [&'a str], today: Date) -> (Option<Day>, &'a [&'a str]) {
    let after = |days: i8, says: Says, taken: usize| {
        let date = today.checked_add(i64::from(days).days()).unwrap_or(today);
        (Some(Day { date, says }), &words[taken..])
    };
    match *words {
        ["today", ..] => after(0, Says::Today, 1),
        ["tonight", ..] => after(0, Says::Tonight, 1),
        ["tomorrow", ..] => after(1, Says::Nothing, 1),
        ["day", "after", "tomorrow", ..] => after(2, Says::Nothing, 3),
        ["the", "day", "after", "tomorrow", ..] => after(2, Says::Nothing, 4),
        _ => {
            let (named, says) = match words.first() {
                Some(&"next") => (1, Says::Nothing),
                Some(&"this") => (1, Says::Weekly),
                _ => (0, Says::Weekly),
            };
            if let Some(wanted) = words.get(named).and_then(|word| weekday(word)) {
                let away = today.weekday().until(wanted);
                let away = if away == 0 && says == Says::Nothing { 7 } else { away };
                return after(away, says, named + 1);
            }
            match words.first().map(|word| word.parse()) {
                Some(Ok(date)) => (Some(Day { date, says: Says::Nothing }), &words[1..]),
                _ => (None, words),
            }
        }
    }
}

fn weekday(word: &str) -> Option<Weekday> {
    const ALL: [(&str, Weekday); 7] = [
        ("monday", Weekday::Monday),
        ("tuesday", Weekday::Tuesday),
        ("wednesday", Weekday::Wednesday),
        ("thursday", Weekday::Thursday),
        ("friday", Weekday::Friday),
        ("saturday", Weekday::Saturday),
        ("sunday", Weekday::Sunday),
    ];
    let known = |(name, _): &&(&str, Weekday)| word.len() >= 3 && name.starts_with(word);
    ALL.iter().find(known).map(|(_, day)| *day)
}

/// The time of day, if these words name one.
fn time(words: &[&str], evening: bool) -> Option<Time> {
    match words {
        ["noon" | "midday"] => return Some(Time::constant(12, 0, 0, 0)),
        ["midnight"] => return Some(Time::midnight()),
        _ => {}
    }
    let whole = words.concat();
    let digits = whole.trim_end_matches(|c: char| c.is_alphabetic() || c == '.');
    let half = match &whole[digits.len()..] {
        "" | "h" => None,
        "am" | "a.m." => Some(0),
        "pm" | "p.m." => Some(12),
        _ => return None,
    };
    let mut numbers = digits.split(':').map(|number| {
        let plain = (1..=2).contains(&number.len()) && number.bytes().all(|c| c.is_ascii_digit());
        if plain { number.parse::<i8>().ok() } else { None }
    });
    let hour = numbers.next()??;
    let minute = numbers.next().unwrap_or(Some(0))?;
    let second = numbers.next().unwrap_or(Some(0))?;
    if numbers.next().is_some() {
        return None;
    }
    let hour = match half {
        Some(half) => (1..=12).contains(&hour).then_some(hour % 12 + half)?,
        None if evening && (5..12).contains(&hour) => hour + 12,
        None => hour,
    };
    Time::new(hour, minute, second, 0).ok()
}

/// That time of that day; the next such time where the words leave a choice.
fn on(day: Option<Day>, time: Time, now: &Zoned) -> Result<Zoned> {
    let (date, step) = match day {
        None => (now.date(), 1),
        Some(Day { date, says: Says::Weekly }) => (date, 7),
        Some(Day { date, says: Says::Today | Says::Tonight }) if time == Time::midnight() => {
            (date.tomorrow()?, 0)
        }
        Some(Day { date, .. }) => (date, 0),
    };
    let zone = now.time_zone();
    let at = date.to_datetime(time).to_zoned(zone.clone())?;
    if at > *now || step == 0 {
        return Ok(at);
    }
    Ok(date.checked_add(i64::from(step).days())?.to_datetime(time).to_zoned(zone.clone())?)
}

/// `20 minutes`, `1h30m`, `half an hour`, `2 days and 3 hours`.
fn spans(words: &[&str]) -> Option<Vec<Span>> {
    if words == ["half", "an", "hour"] {
        return Some(vec![30.minutes()]);
    }
    let joined = words.join(" ");
    let mut rest = joined.as_str();
    let mut spans = Vec::new();
    while !rest.is_empty() {
        let one = ["an ", "a "].iter().find_map(|one| rest.strip_prefix(one));
        let digits = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        let number =
            if one.is_some() { 1 } else { rest[..rest.len() - digits.len()].parse().ok()? };
        let unit = one.unwrap_or(digits).trim_start();
        rest = unit.trim_start_matches(char::is_alphabetic);
        let span = match &unit[..unit.len() - rest.len()] {
            "s" | "sec" | "secs" | "second" | "seconds" => Span::new().try_seconds(number),
            "m" | "min" | "mins" | "minute" | "minutes" => Span::new().try_minutes(number),
            "h" | "hr" | "hrs" | "hour" | "hours" => Span::new().try_hours(number),
            "d" | "day" | "days" => Span::new().try_days(number),
            "w" | "week" | "weeks" => Span::new().try_weeks(number),
            "month" | "months" => Span::new().try_months(number),
            "year" | "years" => Span::new().try_years(number),
            _ => return None,
        };
        spans.push(span.ok()?);
        rest = rest.trim_start();
        rest = rest.strip_prefix("and ").unwrap_or(rest).trim_start();
    }
    (!spans.is_empty()).then_some(spans)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A Saturday evening.
    fn now() -> Zoned {
        "2026-11-21T19:40:00+01:00[Europe/Berlin]".parse().unwrap()
    }

    fn means(text: &str) -> String {
        parse(text, &now()).map_or_else(
            |error| format!("{error:#}"),
            |at| at.strftime("%a %Y-%m-%d %H:%M %:z").to_string(),
        )
    }

    #[test]
    fn what_people_say_means_what_they_mean() {
        for (text, wanted) in [
            ("in 20 minutes", "Sat 2026-11-21 20:00 +01:00"),
            ("in 1 h 30 min", "Sat 2026-11-21 21:10 +01:00"),
            ("in 1h30m", "Sat 2026-11-21 21:10 +01:00"),
            ("In half an hour", "Sat 2026-11-21 20:10 +01:00"),
            ("in an hour and 5 minutes", "Sat 2026-11-21 20:45 +01:00"),
            ("in 2 days, 3 hours", "Mon 2026-11-23 22:40 +01:00"),
            ("in a week", "Sat 2026-11-28 19:40 +01:00"),
            ("in 5 months", "Wed 2027-04-21 19:40 +02:00"),
            ("tomorrow 09:00", "Sun 2026-11-22 09:00 +01:00"),
            ("Tomorrow at 9", "Sun 2026-11-22 09:00 +01:00"),
            ("tomorrow at noon", "Sun 2026-11-22 12:00 +01:00"),
            ("day after tomorrow 7:15pm", "Mon 2026-11-23 19:15 +01:00"),
            ("today 23:00", "Sat 2026-11-21 23:00 +01:00"),
            ("tonight at 9", "Sat 2026-11-21 21:00 +01:00"),
            ("tonight 22:30", "Sat 2026-11-21 22:30 +01:00"),
            ("tonight midnight", "Sun 2026-11-22 00:00 +01:00"),
            ("midnight", "Sun 2026-11-22 00:00 +01:00"),
            ("noon", "Sun 2026-11-22 12:00 +01:00"),
            ("12am", "Sun 2026-11-22 00:00 +01:00"),
            ("12 pm", "Sun 2026-11-22 12:00 +01:00"),
            ("09:00", "Sun 2026-11-22 09:00 +01:00"),
            ("at 20:00:00", "Sat 2026-11-21 20:00 +01:00"),
            ("monday 8:30", "Mon 2026-11-23 08:30 +01:00"),
            ("on Mon, 8:30 a.m.", "Mon 2026-11-23 08:30 +01:00"),
            ("saturday 20:00", "Sat 2026-11-21 20:00 +01:00"),
            ("this saturday 9:00", "Sat 2026-11-28 09:00 +01:00"),
            ("next saturday 20:00", "Sat 2026-11-28 20:00 +01:00"),
            ("next friday 17:00", "Fri 2026-11-27 17:00 +01:00"),
            ("2026-12-24 18:00", "Thu 2026-12-24 18:00 +01:00"),
            ("2026-12-24T18:00", "Thu 2026-12-24 18:00 +01:00"),
            ("2026-12-24 at 6pm", "Thu 2026-12-24 18:00 +01:00"),
            ("2026-07-01T18:00:00Z", "`2026-07-01T18:00:00Z` is Wed 1 Jul 2026 20:00 CEST"),
            ("2026-12-24T18:00:00-05:00", "Fri 2026-12-25 00:00 +01:00"),
            ("2026-12-24T18:00:00+00:00[Europe/London]", "Thu 2026-12-24 18:00 +00:00"),
            ("tomorrow 09:00 America/New_York", "Sun 2026-11-22 09:00 -05:00"),
            ("2026-12-24 18:00 utc", "Thu 2026-12-24 18:00 +00:00"),
        ] {
            assert!(means(text).starts_with(wanted), "{text}: {}", means(text));
        }
    }

    #[test]
    fn what_is_not_a_time_to_come_is_an_error_that_helps() {
        for (text, wanted) in [
            ("", "a time is wanted"),
            ("2026-12-24", "Thursday 2026-12-24 is a day; at what time?"),
            ("tomorrow", "Sunday 22 November 2026; at what time? `tomorrow 09:00`"),
            ("friday", "at what time?"),
            ("today 18:00", "Sat 21 Nov 2026 18:00 CET (1 h 40 min ago), which is over"),
            ("tomorrow at lunch", "`lunch` in"),
            ("tomorrow 25:00", "`25:00` in"),
            ("13pm", "not understood"),
            ("soon", "`in 20 minutes`, `tomorrow 09:00` or `2026-12-24 18:00`"),
            ("in", "not understood"),
            ("in 20", "not understood"),
            ("in 0 minutes", "which is over"),
            ("in 9999 years", "beyond all calendars"),
            ("in 99999999999999999999 s", "not understood"),
            ("next week", "not understood"),
        ] {
            assert!(means(text).contains(wanted), "{text}: {}", means(text));
        }
        assert!(means(&"9".repeat(200)).contains("too long"));
    }

    #[test]
    fn a_time_is_said_with_its_zone_and_how_far_off_it_is() {
        let told = |text: &str| said(&parse(text, &now()).unwrap(), &now());
        assert_eq!(told("tomorrow 9am"), "Sun 22 Nov 2026 09:00 CET (in 13 h 20 min)");
        assert_eq!(told("in 20 s"), "Sat 21 Nov 2026 19:40:20 CET (in 20 s)");
        assert_eq!(told("tomorrow 21:00 UTC"), "Sun 22 Nov 2026 21:00 UTC (in 1 day 2 h)");
        assert_eq!(told("in 1 year"), "Sun 21 Nov 2027 19:40 CET (in 365 days)");
    }

    #[test]
    fn a_time_that_clocks_leave_out_is_the_one_after_it() {
        let now = "2027-03-27T12:00:00+01:00[Europe/Berlin]".parse().unwrap();
        let at = parse("tomorrow 2:30", &now).unwrap();
        assert_eq!(said(&at, &now), "Sun 28 Mar 2027 03:30 CEST (in 14 h 30 min)");
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "((in|at|next|today|tonight|[0-9]{1,9}|[a-z]{1,7}|[:.T+-]|am|\\PC{0,4}) ?){0,6}") {
            if let Ok(at) = parse(&text, &now()) {
                prop_assert!(at > now());
                said(&at, &now());
            }
        }
    }
}
