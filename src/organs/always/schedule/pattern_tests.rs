//! Patterns against a clock that walks through every minute of a year, where clocks are set
//! forward and back. Knows no job.

use jiff::ToSpan as _;
use proptest::prelude::*;

use super::*;

/// What a pattern means, said without croner.
type Means = fn(DateTime) -> bool;

/// Walks the instants minute by minute. A fixed pattern comes when the highest local time
/// seen so far passes one of its times; another when the local time is one of its times.
fn oracle(
    fixed: bool,
    means: Means,
    from: Timestamp,
    until: Timestamp,
    zone: &TimeZone,
) -> Vec<Timestamp> {
    let mut found = Vec::new();
    let mut high = zone.to_datetime(from);
    let mut at = from;
    while at < until {
        at += 1.minute();
        let local = zone.to_datetime(at);
        if !fixed {
            if means(local) {
                found.push(at);
            }
            continue;
        }
        let mut passed = false;
        while high < local {
            high += 1.minute();
            passed |= means(high);
        }
        if passed {
            found.push(at);
        }
    }
    found
}

fn cases() -> Vec<(&'static str, bool, Means)> {
    vec![
        ("30 2 * * *", true, |t| (t.hour(), t.minute()) == (2, 30)),
        ("30 2,14 * * *", true, |t| t.minute() == 30 && [2, 14].contains(&t.hour())),
        ("15,45 1-3 * * *", true, |t| {
            [15, 45].contains(&t.minute()) && (1..=3).contains(&t.hour())
        }),
        ("0 3 * * *", true, |t| (t.hour(), t.minute()) == (3, 0)),
        ("*/15 * * * *", false, |t| t.minute() % 15 == 0),
        ("@hourly", false, |t| t.minute() == 0),
        ("10 */2 * * *", false, |t| t.minute() == 10 && t.hour() % 2 == 0),
        ("*/20 2 * * *", false, |t| t.minute() % 20 == 0 && t.hour() == 2),
        ("0 9 13 * FRI", true, |t| {
            (t.hour(), t.minute()) == (9, 0)
                && (t.day() == 13 || t.weekday() == jiff::civil::Weekday::Friday)
        }),
        ("0 9 */2 * 7", true, |t| {
            (t.hour(), t.minute()) == (9, 0)
                && t.day() % 2 == 1
                && t.weekday() == jiff::civil::Weekday::Sunday
        }),
        ("5 0 29 feb *", true, |t| (t.month(), t.day(), t.hour(), t.minute()) == (2, 29, 0, 5)),
        ("0 12 * jan-mar mon-fri", true, |t| {
            t.month() <= 3
                && (t.hour(), t.minute()) == (12, 0)
                && (1..=5).contains(&t.weekday().to_monday_one_offset())
        }),
    ]
}

#[test]
fn a_year_in_four_zones_is_as_a_walk_through_its_minutes_says() {
    for name in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"] {
        let zone = TimeZone::get(name).unwrap();
        // The days around each change of the clocks, and a day on which there is none.
        let year: Timestamp = "2028-01-01T00:00:00Z".parse().unwrap();
        let end: Timestamp = "2029-01-01T00:00:00Z".parse().unwrap();
        let changes = zone.following(year).map(|change| change.timestamp());
        let mut starts: Vec<_> =
            changes.take_while(|at| *at < end).map(|at| at - 50.hours()).collect();
        starts.push("2028-02-27T00:00:00Z".parse().unwrap());
        for (spec, fixed, means) in cases() {
            let pattern = Pattern::parse(spec).unwrap();
            assert_eq!(pattern.fixed, fixed, "{spec}");
            for from in &starts {
                let until = *from + 100.hours();
                let wanted = oracle(fixed, means, *from, until, &zone);
                let found: Vec<_> =
                    pattern.times(*from, &zone).take_while(|at| *at <= until).collect();
                assert_eq!(found, wanted, "{spec} in {name}");
            }
        }
    }
}

#[test]
fn a_whole_year_has_each_daily_time_once_a_day() {
    for name in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"] {
        let zone = TimeZone::get(name).unwrap();
        let year = date(2027, 1, 1).to_zoned(zone.clone()).unwrap().timestamp() - 1.second();
        let end = date(2028, 1, 1).to_zoned(zone.clone()).unwrap().timestamp() - 1.second();
        for spec in ["30 2 * * *", "0 2 * * *", "59 1 * * *", "0 0 * * *", "30 14 * * *"] {
            let pattern = Pattern::parse(spec).unwrap();
            assert_eq!(pattern.count(year, end, &zone, 1_000), 365, "{spec} in {name}");
        }
        let lists = Pattern::parse("30 2,14 * * *").unwrap();
        assert_eq!(lists.count(year, end, &zone, 1_000), 730, "{name}");
        let hourly = Pattern::parse("@hourly").unwrap().count(year, end, &zone, 10_000);
        // Lord Howe's clocks go from two to half past, and later from two back to half past one.
        let wanted = if name == "Australia/Lord_Howe" { 8759 } else { 8760 };
        assert_eq!(hourly, wanted, "{name}");
    }
}

#[test]
fn what_never_comes_or_means_something_else_is_an_error_that_says_so() {
    let why = |spec: &str| Pattern::parse(spec).unwrap_err().to_string();
    assert!(why("0 9 31 2 *").contains("never comes"));
    assert!(why("*/5 * * * * *").contains("no field for seconds"));
    assert!(why("@reboot").contains("services/"));
    assert!(why("@fortnightly").contains("@weekly"));
    assert!(why("0 0 * MON *").contains("none of JAN"));
    for spec in [
        "",
        "0 9 * *",
        "60 * * * *",
        "* 24 * * *",
        "0 0 * * 8",
        "a * * * *",
        ", * * * *",
        "1 2 3 4 5 6 7",
    ] {
        assert!(Pattern::parse(spec).is_err(), "{spec}");
    }
    for spec in [
        "@daily",
        "@MIDNIGHT",
        "@yearly",
        "0 0 L * *",
        "0 9 * * 5L",
        "0 9 * * mon#1",
        "0 9 15W * *",
    ] {
        Pattern::parse(spec).unwrap();
    }
}

#[test]
fn a_year_of_minutes_is_not_looked_at_one_by_one() {
    let pattern = Pattern::parse("* * * * *").unwrap();
    let zone = TimeZone::get("Europe/Berlin").unwrap();
    let from: Timestamp = "2026-11-21T12:00:30Z".parse().unwrap();
    let until: Timestamp = "2027-11-21T12:00:30Z".parse().unwrap();
    assert_eq!(pattern.count(from, until, &zone, 500), 500);
    assert_eq!(pattern.latest(from, until, &zone).unwrap(), until - 30.seconds());
    let rare = Pattern::parse("0 0 29 2 *").unwrap();
    assert_eq!(rare.latest(from, until, &zone), None);
    let until = from + (24 * 366 * 8).hours();
    assert_eq!(
        rare.latest(from, until, &zone),
        rare.times(from, &zone).take_while(|at| *at <= until).last()
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn times_ascend_and_are_counted_right(
        minute in "(\\*|\\*/7|[0-5]|[1-5][0-9]|0,30|10-20)",
        hour in "(\\*|\\*/3|[0-9]|1[0-9]|2[0-3]|1-3|2,14)",
        weekday in "(\\*|[0-7]|1-5|mon,sun)",
        zone in prop::sample::select(vec!["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"]),
        from in 1_700_000_000_i64..1_900_000_000,
    ) {
        let pattern = Pattern::parse(&format!("{minute} {hour} * * {weekday}")).unwrap();
        let zone = TimeZone::get(zone).unwrap();
        let from = Timestamp::from_second(from).unwrap();
        let times: Vec<_> = pattern.times(from, &zone).take(60).collect();
        prop_assert!(times[0] > from && times.is_sorted_by(|a, b| a < b));
        let until = times[59];
        prop_assert_eq!(pattern.count(from, until, &zone, 100), 60);
        prop_assert_eq!(pattern.latest(from, until, &zone), Some(until));
        prop_assert_eq!(pattern.latest(from, until - 1.second(), &zone), Some(times[58]));
    }

    #[test]
    fn no_text_is_too_strange(spec in "(@?[a-z]{0,7}|([0-9*/,#LW?+-]{1,4} ){4,6}|.{0,30})") {
        let _ = Pattern::parse(&spec);
    }
}
