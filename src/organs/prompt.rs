//! What the model is told around the conversation: who it is, where it is, what skills
//! and memories it has.
//!
//! Owns the caps of each part and reads the files anew each turn, leniently: nothing in
//! the workspace can keep a turn from starting. Byte for byte the same as long as the
//! files are, so that providers' prompt caches hit. Knows no model.

use std::path::{Path, PathBuf};

use crate::kernel::border::Prompt;
use crate::organs::home::{BOOTSTRAP, Home};

/// Bytes of `bootstrap.md` that are sent: about 4,000 tokens of each request.
const BOOTSTRAP_LIMIT: usize = 16_000;
/// Bytes of the skills' index.
const SKILLS_LIMIT: usize = 8_000;
/// Bytes of `memory/MEMORY.md`.
const MEMORY_LIMIT: usize = 8_000;
/// Bytes of one skill's description in the index.
const DESCRIPTION_LIMIT: usize = 200;

/// What hands may touch today, in the words of every place that says it.
pub const RIGHTS: &str =
    "Tools run with the owner's full rights: this version does not confine them yet.";

/// Where the parts of a prompt come from.
#[derive(Debug, Clone)]
pub struct Sources {
    home: Home,
    safe: bool,
}

impl Sources {
    /// Those of a home. With `safe` the embedded bootstrap, no skills and no memory.
    pub fn new(home: Home, safe: bool) -> Self {
        Self { home, safe }
    }

    /// Where the instructions of a session come from, for its first line.
    pub fn described(&self) -> &'static str {
        if self.safe { "embedded bootstrap (--safe)" } else { "workspace/bootstrap.md" }
    }

    /// The system prompt as it is now.
    pub fn prompt(&self) -> Prompt {
        let mut notices = Vec::new();
        let mut system = self.bootstrap(&mut notices);
        system.push_str(&self.facts());
        if !self.safe {
            let skills = self.skills(&mut notices);
            if !skills.is_empty() {
                let intro = "\n\n# Skills\nRead one before you do what it is about.\n";
                system.push_str(intro);
                system.push_str(&cut(skills, SKILLS_LIMIT, "the skills' index", &mut notices));
            }
            let path = self.home.workspace().join("memory/MEMORY.md");
            if let Some(memory) = read(&path, "memory/MEMORY.md", &mut notices) {
                system.push_str("\n\n# Memory (memory/MEMORY.md)\n");
                system.push_str(&cut(memory, MEMORY_LIMIT, "memory/MEMORY.md", &mut notices));
            }
        }
        Prompt { system, notices }
    }

    fn bootstrap(&self, notices: &mut Vec<String>) -> String {
        if self.safe {
            return BOOTSTRAP.trim_end().to_owned();
        }
        let path = self.home.workspace().join("bootstrap.md");
        if let Some(text) = read(&path, "bootstrap.md", notices) {
            return cut(text, BOOTSTRAP_LIMIT, "bootstrap.md", notices);
        }
        notices.push("bootstrap.md is missing or empty: the one built in is used.".to_owned());
        BOOTSTRAP.trim_end().to_owned()
    }

    fn facts(&self) -> String {
        let (workspace, scratch) = (self.home.workspace(), self.home.scratch());
        format!(
            "\n\n# Where you are\nWorkspace (and HOME): {}\nTMPDIR: {}\n{RIGHTS}\n\
             `fledgling self` tells your limits, model and session; `fledgling help` lists pages on extending yourself.",
            workspace.display(),
            scratch.display(),
        )
    }

    fn skills(&self, notices: &mut Vec<String>) -> String {
        let folder = self.home.workspace().join("skills");
        let mut index = Vec::new();
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let mut folders: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        folders.sort();
        for folder in folders {
            let file = folder.join("SKILL.md");
            let Some(name) = folder.file_name().map(|name| name.to_string_lossy().into_owned())
            else {
                continue;
            };
            let shown = format!("skills/{name}/SKILL.md");
            if !file.is_file() {
                continue;
            }
            let Some(text) = read(&file, &shown, notices) else { continue };
            match front_matter(&text) {
                Some(description) => {
                    let description: String = description.chars().take(DESCRIPTION_LIMIT).collect();
                    index.push(format!("- {shown}: {description}"));
                }
                None => notices.push(format!(
                    "{shown} has no description in its front matter: it is left out of the index."
                )),
            }
        }
        index.join("\n")
    }
}

/// A text file, trimmed at its end; `None` when there is nothing in it. Anything else
/// than a readable regular file is told.
fn read(path: &Path, shown: &str, notices: &mut Vec<String>) -> Option<String> {
    let metadata = std::fs::metadata(path).ok()?;
    if !metadata.is_file() {
        notices.push(format!("{shown} is not a file: it is left out."));
        return None;
    }
    match std::fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let text = text.trim_start_matches('\u{FEFF}').trim_end();
            (!text.trim().is_empty()).then(|| text.to_owned())
        }
        Err(error) => {
            notices.push(format!("{shown} cannot be read: {error}."));
            None
        }
    }
}

fn cut(mut text: String, limit: usize, what: &str, notices: &mut Vec<String>) -> String {
    if text.len() > limit {
        notices.push(format!("{what} has {} bytes: only the first {limit} are sent.", text.len()));
        let end = (0..=limit).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push_str("\n[cut: this part is longer than what is sent]");
    }
    text
}

/// The description in an Agent Skills front matter: `---`, `key: value` lines, `---`. A
/// value may be quoted, or go on in indented lines.
fn front_matter(text: &str) -> Option<String> {
    let mut lines = text.lines().skip_while(|line| line.trim().is_empty());
    (lines.next()?.trim_end() == "---").then_some(())?;
    let head: Vec<&str> = lines.take_while(|line| line.trim_end() != "---").collect();
    let start = head.iter().position(|line| line.starts_with("description:"))?;
    let first = head[start]["description:".len()..].trim();
    let more = head[start + 1..].iter().take_while(|line| line.starts_with([' ', '\t']));
    let first = if matches!(first, ">" | "|" | ">-" | "|-") { "" } else { first };
    let whole =
        std::iter::once(first).chain(more.map(|line| line.trim())).collect::<Vec<_>>().join(" ");
    let whole = whole.trim().trim_matches(['"', '\'']).trim();
    (!whole.is_empty()).then(|| whole.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_are_found_as_people_write_them() {
        for (text, expected) in [
            ("---\nname: a\ndescription: Does it.\n---\nbody", Some("Does it.")),
            ("---\ndescription: \"Quoted: yes\"\nname: a\n---\n", Some("Quoted: yes")),
            ("---\ndescription: >-\n  Two\n  lines.\nname: x\n---\n", Some("Two lines.")),
            ("---\nname: a\n---\ndescription: in the body\n", None),
            ("description: no front matter", None),
            ("---\ndescription:\n---\n", None),
        ] {
            assert_eq!(front_matter(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_cut_falls_between_characters_and_is_told() {
        let mut notices = Vec::new();
        let text = cut("ä".repeat(10), 7, "x", &mut notices);
        assert!(text.starts_with("äää\n[cut"), "{text}");
        assert_eq!(notices, ["x has 20 bytes: only the first 7 are sent."]);
    }
}
