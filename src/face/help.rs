//! `fledgling help TOPIC`: short pages, which the agent reads to extend itself.
//!
//! Owns the pages and the list of them, which is made of their first lines and so cannot
//! lack one. Does not know who reads them.

use std::io::Write as _;

use anyhow::{Context as _, Result, bail};
use include_dir::{Dir, include_dir};

static PAGES: Dir<'_> = include_dir!("$CARGO_MANIFEST_DIR/src/face/help");

/// Print the page on a topic, or the list. The number is the exit code.
pub fn show(topic: Option<&str>) -> Result<u8> {
    std::io::stdout().write_all(text(topic)?.as_bytes()).context("cannot print the page")?;
    Ok(0)
}

/// The page on a topic, or the list where none is named.
pub fn text(topic: Option<&str>) -> Result<String> {
    let Some(topic) = topic else { return Ok(index()) };
    let Some(page) = page(topic) else {
        let near = nearest(topic).map_or(String::new(), |near| format!(" (did you mean {near}?)"));
        bail!("there is no help on {topic:?}{near}; `fledgling help` lists the topics")
    };
    Ok(page.to_owned())
}

/// The page on a topic.
pub fn page(topic: &str) -> Option<&'static str> {
    PAGES.get_file(format!("{topic}.md"))?.contents_utf8()
}

/// The topics with what each is about.
pub fn index() -> String {
    let mut out = "fledgling help TOPIC\n\n".to_owned();
    for topic in topics() {
        let title = page(topic).and_then(|page| page.lines().next()).unwrap_or_default();
        let about = title.split_once(": ").map_or("", |(_, about)| about);
        out += &format!("  {topic:<10}{about}\n");
    }
    out
}

fn topics() -> Vec<&'static str> {
    let stems = PAGES.files().filter_map(|file| file.path().file_stem()?.to_str());
    let mut topics: Vec<_> = stems.collect();
    topics.sort_unstable();
    topics
}

/// The topic that a mistyped word most likely means.
fn nearest(word: &str) -> Option<&'static str> {
    let word = word.to_lowercase();
    let near = topics().into_iter().map(|topic| (distance(&word, topic), topic)).min()?;
    // Half of the letters wrong is another word.
    (near.0 * 2 < near.1.len()).then_some(near.1)
}

/// How many letters must be added, removed or replaced to get from one word to the other.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (number, c) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = number + 1;
        for (column, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(c != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_in_the_index_and_short() {
        let index = index();
        for topic in [
            "config", "context", "door", "history", "layout", "memory", "models", "safety",
            "scripts", "sessions", "skills", "sql", "tools",
        ] {
            assert!(topics().contains(&topic), "{topic}");
        }
        for topic in topics() {
            let page = page(topic).unwrap();
            assert!(page.starts_with(&format!("# {topic}: ")), "{topic}");
            assert!((10..=40).contains(&page.lines().count()), "{topic}");
            assert!(page.lines().all(|line| line.chars().count() <= 92), "{topic}");
            let about = page.lines().next().unwrap().split_once(": ").unwrap().1;
            assert!(index.contains(&format!("  {topic:<10}{about}\n")), "{topic}");
        }
    }

    #[test]
    fn pages_refer_to_pages_that_are_there() {
        for topic in topics() {
            let page = page(topic).unwrap();
            for named in page.split("`fledgling help ").skip(1) {
                let named = named.split('`').next().unwrap();
                assert!(super::page(named).is_some(), "{topic} names {named}");
            }
        }
    }

    #[test]
    fn a_mistyped_topic_finds_the_nearest() {
        for (word, near) in [("skill", "skills"), ("Model", "models"), ("confg", "config")] {
            let error = text(Some(word)).unwrap_err().to_string();
            assert!(error.contains(&format!("(did you mean {near}?)")), "{error}");
        }
        let error = text(Some("xyzzy")).unwrap_err().to_string();
        assert!(!error.contains("did you mean"), "{error}");
        assert!(page("../help").is_none());
    }

    #[test]
    fn the_newborn_workspace_costs_little_of_each_request() {
        let bootstrap = include_str!("../../bootstrap.md");
        assert!(bootstrap.len() < 2_000, "{} bytes", bootstrap.len());
        assert!(bootstrap.split_whitespace().count() < 330);
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
