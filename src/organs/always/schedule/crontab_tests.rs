//! Crontabs as people and models write them: what is taken, what is a fault, and that nothing
//! whatever stops the good lines from being read. Knows no clock.

use proptest::prelude::*;

use super::*;

fn read(text: &str) -> Crontab {
    Crontab::parse(text, &TimeZone::UTC)
}

#[test]
fn good_lines_are_taken_whatever_is_around_them() {
    let text = "\u{feff}# Daily digest: what the mails say\r\n\
        \t0  9 * * 1-5\tfledgling run --session digest \"sum up\" > log/%F\r\n\
        \r\nnonsense\r\n\
        FOO = \"a b\"\r\n\
        CRON_TZ=Europe/Berlin\r\n\
        30 2,14 * * * echo \\%H  two\r\n\
        CRON_TZ=\r\n\
        TZ=America/New_York\r\n\
        FOO='c'\r\n\
        @daily cd data && ./bin/tidy.sh --all";
    let Crontab { lines, faults } = read(text);
    assert_eq!(lines.len(), 3, "{faults:?}");
    let [digest, echo, tidy] = lines.as_slice() else { unreachable!() };
    assert_eq!((digest.number, digest.spec.as_str()), (2, "0 9 * * 1-5"));
    assert_eq!(digest.command, "fledgling run --session digest \"sum up\" > log/%F");
    assert_eq!((digest.name.as_str(), &digest.zone), ("daily-digest-what-the", &None));
    assert!(digest.env.is_empty());
    assert_eq!(echo.command, "echo %H  two");
    assert_eq!((echo.name.as_str(), echo.zone.as_deref()), ("echo", Some("Europe/Berlin")));
    assert_eq!(echo.time_zone.iana_name(), Some("Europe/Berlin"));
    assert_eq!(echo.env, [("FOO".to_owned(), "a b".to_owned())]);
    assert_eq!((tidy.name.as_str(), tidy.zone.as_deref()), ("tidy", Some("America/New_York")));
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(tidy.env, [pair("TZ", "America/New_York"), pair("FOO", "c")]);
    assert_eq!(faults.len(), 1);
    assert_eq!((faults[0].number, faults[0].line.as_str()), (4, "nonsense"));
}

#[test]
fn a_fault_says_what_is_wrong_and_leaves_the_others_alone() {
    let text = "*/10 * * * * * date\n0 9 31 2 * date\n@reboot bin/x\n0 9 * * *\n61 * * * * a\n\
        CRON_TZ=Europe/Berln\n0 9 * * * late\nCRON_TZ=UTC\n0 9 * * * fine\n@daily\n0 9 * * * a\0b";
    let Crontab { lines, faults } = read(text);
    assert_eq!(lines.iter().map(|line| line.number).collect::<Vec<_>>(), [9]);
    let why: Vec<_> = faults.iter().map(|fault| (fault.number, fault.why.as_str())).collect();
    for (number, part) in [
        (1, "no field for seconds"),
        (2, "never comes"),
        (3, "services/"),
        (4, "and a command"),
        (5, "no pattern"),
        (6, "`Europe/Berln` is no zone"),
        (7, "line 6 names a zone"),
        (10, "and a command"),
        (11, "NUL"),
    ] {
        assert!(why.iter().any(|(n, why)| *n == number && why.contains(part)), "{number}: {why:?}");
    }
}

#[test]
fn a_job_is_the_same_wherever_its_line_is() {
    let before = read("0 9 * * * a\n0 9 * * * a\n0 9 * * * b");
    let after = read("# more\n5 5 * * * new\n\nX=1\n0 9 * * * b\n 0  9 * * *  a\n0 9 * * * a");
    let keys =
        |crontab: &Crontab| crontab.lines.iter().map(|line| line.key.clone()).collect::<Vec<_>>();
    let (before, after) = (keys(&before), keys(&after));
    assert_eq!(before.iter().collect::<HashSet<_>>().len(), 3);
    assert_eq!((&after[1], &after[2], &after[3]), (&before[2], &before[0], &before[1]));
    assert!(!before.contains(&after[0]));
    assert_ne!(keys(&read("CRON_TZ=UTC\n0 9 * * * a"))[0], before[0]);
}

#[test]
fn names_are_short_unique_and_of_plain_letters() {
    let text = "# ------\n0 9 * * * FOO=1 python3 scripts/fetch_news.py\n\
        # 0 8 * * * old\n0 9 * * * sudo /usr/bin/fetch-news\n# Новости\n0 9 * * * bash -c 'x'\n\
        # Anextremelylongwordthatnobodywouldeversay\n@hourly true\n\
        @hourly fledgling run --session news.daily hello\n@hourly ''";
    let crontab = read(text);
    let names: Vec<_> = crontab.lines.iter().map(|line| line.name.as_str()).collect();
    let wanted =
        ["fetch-news", "fetch-news-2", "x", "anextremelylongwordthatn", "news-daily", "job"];
    assert_eq!(names, wanted);
}

#[test]
fn a_file_without_end_has_an_end() {
    let many = read(&"0 9 * * * a\n".repeat(MOST_LINES + 500));
    assert_eq!((many.lines.len(), many.faults.len()), (MOST_LINES, MOST_FAULTS));
    assert!(many.faults[0].why.contains("1000 jobs"));
    let long = read(&format!("0 9 * * * {}\n0 9 * * * b", "a".repeat(LONGEST_LINE)));
    assert_eq!((long.lines.len(), long.faults.len()), (1, 1));
    assert!(long.faults[0].line.len() <= 120);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_text_is_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn nor_one_that_is_nearly_right(
        lines in prop::collection::vec("(#|CRON_TZ=|TZ=|A=)?(@[a-z]{0,8}|([0-9*/,-]{1,3}[ \t]){3,6})?.{0,12}\r?", 0..12),
    ) {
        let crontab = read(&lines.join("\n"));
        let names: HashSet<_> = crontab.lines.iter().map(|line| &line.name).collect();
        let keys: HashSet<_> = crontab.lines.iter().map(|line| &line.key).collect();
        prop_assert_eq!(names.len(), crontab.lines.len());
        prop_assert_eq!(keys.len(), crontab.lines.len());
    }
}
