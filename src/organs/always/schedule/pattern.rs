//! The times a crontab pattern means.
//!
//! Owns which instants those are when clocks change: a fixed time that a gap leaves out comes
//! at the end of the gap, one that an overlap repeats comes the first time only, and a pattern
//! with `*` goes by what clocks show, so nothing in a gap and both passes of an overlap. Each
//! fixed time of a list is treated alone. What the fields mean is croner's. Knows no commands.

use anyhow::{Result, anyhow, ensure};
use croner::parser::{CronParser, Seconds, Year};
use croner::{CronPattern, Weekday};
use jiff::civil::{Date, DateTime, date};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// How far ahead a day is looked for: from one 29 February to the next across a year like 2100.
const DAYS: usize = 8 * 366;

const MONTHS: &str = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC";
const WEEKDAYS: &str = "SUN MON TUE WED THU FRI SAT L";

/// Names for patterns.
const NICKNAMES: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// When a job is due, as a line of a crontab says it.
#[derive(Debug, Clone)]
pub struct Pattern {
    /// Which days.
    days: CronPattern,
    /// Which hours of a day, ascending.
    hours: Vec<i8>,
    /// Which minutes of an hour, ascending.
    minutes: Vec<i8>,
    /// Whether it names times of the day rather than an interval.
    fixed: bool,
}

impl Pattern {
    /// Five fields, or a name like `@daily`. One that never comes is an error.
    pub fn parse(spec: &str) -> Result<Self> {
        let spec = spec.trim();
        let spec = if spec.starts_with('@') { nickname(spec)? } else { spec };
        let fields: Vec<&str> = spec.split_whitespace().collect();
        let &[minute, hour, day, month, weekday] = fields.as_slice() else {
            let seconds = if fields.len() == 6 { "; there is no field for seconds" } else { "" };
            return Err(anyhow!(
                "`{spec}` has {} fields where 5 are wanted, minute hour day month weekday{seconds}",
                fields.len()
            ));
        };
        let known =
            [("", minute), ("", hour), ("L W LW", day), (MONTHS, month), (WEEKDAYS, weekday)];
        for (names, field) in known {
            check_names(field, names)?;
        }
        // As in cron(5): days of the month and of the week both restricted mean either, and a
        // field that begins with `*` (also `*/2`) restricts nothing of that kind.
        let both = day.starts_with('*') || weekday.starts_with('*');
        let parser = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .dom_and_dow(both)
            .build();
        let days =
            parser.parse(spec).map_err(|error| anyhow!("`{spec}` is no pattern: {error}"))?;
        let days = days.pattern;
        let values = |all: Vec<u16>| all.into_iter().filter_map(|n| n.try_into().ok()).collect();
        let (hours, minutes) = (values(days.hours.values()), values(days.minutes.values()));
        let fixed = !minute.starts_with('*') && !hour.starts_with('*');
        let pattern = Self { days, hours, minutes, fixed };
        let ever = pattern.later(date(2000, 1, 1).at(0, 0, 0, 0));
        ensure!(ever.is_some(), "`{spec}` never comes: there is no such day in eight years");
        Ok(pattern)
    }

    /// The first time after this one, if there is one within years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if self.fixed { self.next_fixed(after, zone) } else { self.next_shown(after, zone) }
    }

    /// All times after this one.
    pub fn times(&self, after: Timestamp, zone: &TimeZone) -> impl Iterator<Item = Timestamp> {
        std::iter::successors(self.next(after, zone), |at| self.next(*at, zone))
    }

    /// How many times there are after the one and until the other. It does not count on
    /// beyond `at_most`.
    pub fn count(
        &self,
        after: Timestamp,
        until: Timestamp,
        zone: &TimeZone,
        at_most: usize,
    ) -> usize {
        self.times(after, zone).take_while(|at| *at <= until).take(at_most).count()
    }

    /// The last time after the one and until the other, without a look at all of them.
    pub fn latest(&self, after: Timestamp, until: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut back = SignedDuration::from_hours(1);
        loop {
            let from = until.checked_sub(back).map_or(after, |from| from.max(after));
            let found = self.times(from, zone).take_while(|at| *at <= until).last();
            if found.is_some() || from <= after {
                return found;
            }
            back = back.saturating_mul(2);
        }
    }

    /// Local times in their order, each at the instant it stands for: that order is also the
    /// instants', so the first one later than `after` is it.
    fn next_fixed(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut local = zone.to_datetime(after);
        loop {
            local = self.later(local)?;
            let at = instant(local, zone)?;
            if at > after {
                return Some(at);
            }
        }
    }

    /// What clocks show, from one change of them to the next: between two, a local time is
    /// one instant.
    fn next_shown(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut offset = zone.to_offset(after);
        let mut local = offset.to_datetime(after);
        for change in zone.following(after) {
            let at = offset.to_timestamp(self.later(local)?).ok()?;
            if at < change.timestamp() {
                return Some(at);
            }
            offset = change.offset();
            let first = offset.to_datetime(change.timestamp());
            local = first.checked_sub(SignedDuration::from_nanos(1)).ok()?;
        }
        offset.to_timestamp(self.later(local)?).ok()
    }

    /// The first local minute of the pattern that begins after this time.
    fn later(&self, local: DateTime) -> Option<DateTime> {
        let mut day = local.date();
        let mut after = (local.hour(), local.minute());
        for _ in 0..DAYS {
            if self.on(day)
                && let Some((hour, minute)) = self.later_that_day(after)
            {
                return Some(day.at(hour, minute, 0, 0));
            }
            day = day.tomorrow().ok()?;
            after = (-1, 0);
        }
        None
    }

    fn later_that_day(&self, (hour, minute): (i8, i8)) -> Option<(i8, i8)> {
        let in_hour = self.minutes.iter().find(|known| **known > minute);
        if self.hours.contains(&hour)
            && let Some(minute) = in_hour
        {
            return Some((hour, *minute));
        }
        let hour = self.hours.iter().find(|known| **known > hour)?;
        Some((*hour, *self.minutes.first()?))
    }

    fn on(&self, day: Date) -> bool {
        let (month, number) = (day.month().unsigned_abs().into(), day.day().unsigned_abs().into());
        let weekday = day.weekday().to_sunday_zero_offset().unsigned_abs();
        let weekday = Weekday::from_days_from_sunday(weekday.into());
        self.days.month_match(month).unwrap_or(false)
            && self.days.day_match(day.year().into(), month, number, weekday).unwrap_or(false)
    }
}

/// The instant a fixed local time stands for.
fn instant(local: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    let found = zone.to_ambiguous_timestamp(local);
    let gap = matches!(found.offset(), jiff::tz::AmbiguousOffset::Gap { .. });
    let at = found.earlier().ok()?;
    if gap { zone.following(at).next().map(|change| change.timestamp()) } else { Some(at) }
}

fn nickname(spec: &str) -> Result<&'static str> {
    ensure!(
        !spec.eq_ignore_ascii_case("@reboot"),
        "`@reboot` is no time; what is to run all the time is an executable in services/"
    );
    let found = NICKNAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(spec));
    found.map(|(_, fields)| *fields).ok_or_else(|| {
        let names = NICKNAMES.map(|(name, _)| name).join(" ");
        anyhow!("`{spec}` is not known; there are {names}")
    })
}

/// Croner takes any name in any field: `MON` as a month would be January.
fn check_names(field: &str, names: &str) -> Result<()> {
    let mut words = field.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty());
    let strange = words.find(|word| {
        // A number may have its letter right behind it, as `5L`.
        !names.split(' ').any(|name| name.eq_ignore_ascii_case(word))
    });
    match strange {
        None => Ok(()),
        Some(word) if names.is_empty() => Err(anyhow!("`{field}` has `{word}` where numbers go")),
        Some(word) => Err(anyhow!("`{field}` has `{word}`, which is none of {names}")),
    }
}

#[cfg(test)]
#[path = "pattern_tests.rs"]
mod tests;
