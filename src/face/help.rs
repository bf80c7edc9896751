//! `fledgling help TOPIC`: short pages, which the agent reads to extend itself.
//!
//! Owns the pages and the list of them, which is made of their first lines and so cannot
//! lack one; and the shipped channels, which are pages too, so that a script in a pipe is the
//! file itself. Does not know who reads them.

use anyhow::Result;
use include_dir::{Dir, include_dir};

use crate::face::Refusal;
use crate::face::screen::{Place, Screen, write};
use crate::face::turn_view::wrapped;
use crate::files::edit::likeness;

static PAGES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/src/face/help");
static EXAMPLES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/examples");
/// The shipped channels: how each is set up, and its script; shown as they are.
#[rustfmt::skip]
const CHANNELS: [&str; 10] = [
    "email", "email-script", "irc", "irc-script", "matrix", "matrix-script",
    "telegram", "telegram-script", "webhook", "webhook-script",
];
/// How the topics of scripts end.
const SCRIPT: &str = "-script";
/// Columns of a topic in the list.
const TOPIC: usize = 17;
/// Percent of likeness below which a topic cannot have been meant.
const ALIKE: usize = 40;
/// Topics that are named where one was mistyped.
const NAMED: usize = 2;

/// Print the page on a topic, or the list. The number is the exit code.
pub fn show(topic: Option<&str>) -> Result<u8> {
    let text = text(topic, Screen::of(Place::Out), "`fledgling help` lists the topics")?;
    write(Place::Out, text.trim_end())?;
    Ok(0)
}

/// The page on a topic, or the list where none is named. `listed` says where that is.
pub fn text(topic: Option<&str>, screen: Screen, listed: &str) -> Result<String> {
    let Some(topic) = topic else { return Ok(wrapped(&index(), screen)) };
    if let Some(file) = channel(topic) {
        return Ok(file.to_owned());
    }
    match page(topic) {
        Some(page) if screen.terminal => Ok(wrapped(&unbroken(page), screen)),
        Some(page) => Ok(page.to_owned()),
        None => {
            let why = format!("there is no page on {topic:?}; {}", nearest(topic, listed));
            Err(Refusal::usage(why).into())
        }
    }
}

/// A page whose paragraphs are one line each, to be broken where the screen ends.
fn unbroken(page: &str) -> String {
    let example = |line: &str| line.starts_with("    ");
    let begins = |line: &str| line.is_empty() || line.starts_with("- ") || example(line);
    let mut out = String::new();
    let mut ended = true;
    for line in page.lines() {
        if ended || begins(line) {
            out += &format!("\n{line}");
        } else {
            out += &format!(" {}", line.trim_start());
        }
        ended = line.is_empty() || line.starts_with('#') || example(line);
    }
    out.trim_start().to_owned()
}

fn page(topic: &str) -> Option<&'static str> {
    PAGES.get_file(format!("{topic}.md"))?.contents_utf8()
}

fn channel(topic: &str) -> Option<&'static str> {
    let name = topic.strip_suffix(SCRIPT).unwrap_or(topic);
    let file = if name == topic { "README.md" } else { name };
    let file = CHANNELS.contains(&topic).then(|| format!("{name}/{file}"))?;
    EXAMPLES.get_file(file)?.contents_utf8()
}

/// The topics with what each is about.
fn index() -> String {
    let mut out =
        "fledgling help TOPIC\n\nWritten for the agent: \"you\" is the agent.\n\n".to_owned();
    for topic in topics() {
        let title = page(topic).and_then(|page| page.lines().next()?.split_once(": "));
        let about = title.map(|(_, about)| about.to_owned());
        let about = about.unwrap_or_else(|| match topic.strip_suffix(SCRIPT) {
            Some(name) => format!("the file for services/{name}"),
            None => format!("how the channel {topic} is set up"),
        });
        out += &format!("  {topic:<TOPIC$}{about}\n");
    }
    out
}

/// What there are pages on.
pub fn topics() -> Vec<&'static str> {
    let mut topics = pages();
    topics.extend(CHANNELS);
    topics.sort_unstable();
    topics
}

fn pages() -> Vec<&'static str> {
    PAGES.files().filter_map(|file| file.path().file_stem()?.to_str()).collect()
}

/// Says which topics were most likely meant, or where all of them are listed.
fn nearest(word: &str, listed: &str) -> String {
    let word = word.to_lowercase();
    let rated =
        topics().into_iter().map(|topic| (likeness(word.as_bytes(), topic.as_bytes()), topic));
    let mut alike: Vec<_> = rated.filter(|(alike, _)| *alike >= ALIKE).collect();
    alike.sort_by(|one, other| other.cmp(one));
    match alike.iter().take(NAMED).map(|(_, topic)| *topic).collect::<Vec<_>>().as_slice() {
        [] => listed.to_owned(),
        topics => format!("did you mean {}?", topics.join(" or ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tool::{BASH_DEFAULT_SECONDS, BASH_LIMIT_SECONDS, OUTPUT_LIMIT, READ_LINES};
    use crate::organs::config::{Config, LimitSettings};
    use crate::organs::models::PROVIDERS;
    use crate::organs::verb::exit;

    const PIPE: Screen = Screen { terminal: false, width: 50, colour: false };

    #[test]
    fn pages_are_broken_anew_for_a_terminal_and_left_alone_for_a_pipe() {
        for topic in pages() {
            let raw = page(topic).unwrap();
            assert_eq!(text(Some(topic), PIPE, "").unwrap(), raw);
            let shown = text(Some(topic), Screen { terminal: true, ..PIPE }, "").unwrap();
            let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
            assert_eq!(words(&shown), words(raw), "{topic}");
            assert!(shown.lines().all(|line| line.chars().count() <= 50), "{shown}");
        }
        assert_eq!(
            unbroken("# a\nb\nc\n\n- d\n  e\n    f\n    g\nh\n"),
            "# a\nb c\n\n- d e\n    f\n    g\nh"
        );
    }

    #[test]
    fn every_page_is_in_the_index_and_short() {
        let index = index();
        for topic in [
            "asking", "channels", "config", "context", "door", "editors", "history", "layout",
            "memory", "models", "recall", "replay", "safety", "schedule", "scripts", "secrets",
            "services", "sessions", "skills", "sql", "tools", "usage",
        ] {
            assert!(pages().contains(&topic), "{topic}");
        }
        for topic in pages() {
            let page = page(topic).unwrap();
            assert!(page.starts_with(&format!("# {topic}: ")), "{topic}");
            assert!(page.len() < 3_000, "{topic}: {} bytes", page.len());
            assert!((10..=48).contains(&page.lines().count()), "{topic}");
            assert!(page.lines().all(|line| line.chars().count() <= 92), "{topic}");
            let about = page.lines().next().unwrap().split_once(": ").unwrap().1;
            assert!(index.contains(&format!("  {topic:<TOPIC$}{about}\n")), "{topic}");
        }
    }

    #[test]
    fn a_shipped_channel_is_given_byte_for_byte() {
        let listed = index();
        for topic in CHANNELS {
            assert!(listed.contains(&format!("  {topic:<TOPIC$}")), "{topic}");
            let file = channel(topic).unwrap();
            for screen in [PIPE, Screen { terminal: true, ..PIPE }] {
                assert_eq!(text(Some(topic), screen, "").unwrap(), file);
            }
            // `show` writes it with one end of line.
            assert_eq!(format!("{}\n", file.trim_end()), file, "{topic}");
            assert_eq!(topic.ends_with("-script"), file.starts_with("#!"), "{topic}");
        }
    }

    #[test]
    fn a_mistyped_topic_names_the_nearest_and_is_wrong_usage() {
        for (word, near) in [("skill", "skills"), ("Model", "models"), ("confg", "config")] {
            let error = text(Some(word), PIPE, "").unwrap_err();
            assert_eq!(error.downcast_ref::<Refusal>().unwrap().exit, exit::USAGE);
            assert!(error.to_string().contains(&format!("did you mean {near}")), "{error}");
        }
        let error = text(Some("xyzzy"), PIPE, "look there").unwrap_err().to_string();
        assert!(error.ends_with("; look there"), "{error}");
        assert!(page("../help").is_none());
    }

    #[test]
    fn the_page_on_models_knows_the_table_of_providers() {
        let page = page("models").unwrap();
        for provider in &PROVIDERS {
            let named = [Some(provider.name), provider.key, provider.model];
            let missing: Vec<_> =
                named.into_iter().flatten().filter(|name| !page.contains(name)).collect();
            assert!(missing.is_empty(), "{missing:?}");
        }
    }

    #[test]
    fn the_page_on_tools_and_the_one_on_config_know_the_limits() {
        let (tools, config) = (page("tools").unwrap(), page("config").unwrap());
        for limit in [BASH_DEFAULT_SECONDS, BASH_LIMIT_SECONDS, READ_LINES as u64] {
            assert!(tools.contains(&limit.to_string()), "{limit}");
        }
        assert!(tools.contains("30,000") && OUTPUT_LIMIT == 30_000);
        let example: Vec<_> = config.lines().filter_map(|line| line.strip_prefix("    ")).collect();
        let example = example.join("\n").replace("WORK_KEY = \"…\"", "");
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.toml"), example).unwrap();
        let read = Config::read(&folder.path().join("config.toml")).unwrap();
        assert_eq!(read.limits, LimitSettings::default());
        assert_eq!(read.models["work"].key.as_deref(), Some("WORK_KEY"));
    }

    #[test]
    fn the_newborn_workspace_costs_little_of_each_request() {
        let bootstrap = include_str!("../../bootstrap.md");
        assert!(bootstrap.len() < 2_000, "{} bytes", bootstrap.len());
        assert!(bootstrap.split_whitespace().count() < 400);
        let skills = include_dir!("$CARGO_MANIFEST_DIR/workspace/skills");
        for folder in skills.dirs() {
            let name = folder.path().file_name().unwrap().to_str().unwrap();
            let file = folder.get_file(folder.path().join("SKILL.md")).unwrap();
            let text = file.contents_utf8().unwrap();
            let head = text.strip_prefix(&format!("---\nname: {name}\ndescription: "));
            let description = head.unwrap().split_once("\n---\n").unwrap().0;
            assert!(description.len() < 60, "{name}: {description}");
        }
        assert!(skills.dirs().count() >= 3);
    }
}
