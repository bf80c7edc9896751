//! What the model is told around the conversation: who it is, where it is, what skills
//! and memories it has.
//!
//! Owns the caps of each part and reads the files anew each turn, leniently: nothing in
//! the workspace can keep a turn from starting. Byte for byte the same as long as the
//! files are, so that providers' prompt caches hit. Knows no model.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::kernel::border::Prompt;
use crate::organs::config::LimitSettings;
use crate::organs::history::beneath::Root;
use crate::organs::home::{BOOTSTRAP, Home};

/// Bytes of `bootstrap.md` that are sent: about 4,000 tokens of each request.
const BOOTSTRAP_LIMIT: usize = 16_000;
/// Bytes of the skills' index.
const SKILLS_LIMIT: usize = 8_000;
/// Bytes of `memory/MEMORY.md`.
const MEMORY_LIMIT: usize = 8_000;
/// Bytes of a skill in which its front matter must end.
const SKILL_HEAD: usize = 4_000;
/// Bytes of one skill's description in the index.
const DESCRIPTION_LIMIT: usize = 200;

/// Where the parts of a prompt come from.
#[derive(Debug, Clone)]
pub struct Sources {
    home: Home,
    workspace: PathBuf,
    safe: bool,
    limits: LimitSettings,
    /// What hands may touch, in a sentence.
    rights: String,
}

impl Sources {
    /// Those of a home. With `safe` the embedded bootstrap, no skills and no memory.
    pub fn new(home: Home, safe: bool, limits: LimitSettings, rights: String) -> Self {
        Self { workspace: home.workspace(), home, safe, limits, rights }
    }

    /// Those of a session that works in this folder.
    pub fn within(&self, workspace: PathBuf) -> Self {
        Self { workspace, ..self.clone() }
    }

    /// Without anything that the workspace holds.
    pub fn safe(self) -> Self {
        Self { safe: true, ..self }
    }

    /// How much the owner lets a turn use up.
    pub fn limits(&self) -> LimitSettings {
        self.limits
    }

    /// Where the instructions of a session come from, for its first line.
    pub fn described(&self) -> &'static str {
        if self.safe { "embedded bootstrap (--safe)" } else { "workspace/bootstrap.md" }
    }

    /// The system prompt as it is now.
    pub fn prompt(&self) -> Prompt {
        let root = Root::open(&self.workspace).ok();
        let mut reader = Reader { root, notices: Vec::new() };
        let mut system = self.bootstrap(&mut reader);
        system.push_str(&self.facts());
        if !self.safe {
            let skills = self.skills(&mut reader);
            if !skills.is_empty() {
                let intro = "\n\n# Skills\nRead one before you do what it is about.\n";
                system.push_str(intro);
                system.push_str(&skills);
            }
            if let Some(memory) = reader.text("memory/MEMORY.md", MEMORY_LIMIT) {
                system.push_str("\n\n# Memory (memory/MEMORY.md)\n");
                system.push_str(&memory);
            }
        }
        Prompt { system, notices: reader.notices }
    }

    fn bootstrap(&self, reader: &mut Reader) -> String {
        if !self.safe {
            if let Some(text) = reader.text("bootstrap.md", BOOTSTRAP_LIMIT) {
                return text;
            }
            let text = "bootstrap.md is missing or empty: the one built in is used.";
            reader.notices.push(text.to_owned());
        }
        BOOTSTRAP.trim_end().to_owned()
    }

    fn facts(&self) -> String {
        let (workspace, scratch, rights) = (&self.workspace, self.home.scratch(), &self.rights);
        let LimitSettings { steps, tokens, seconds, .. } = self.limits;
        format!(
            "\n\n# Where you are\nWorkspace (and HOME): {}\nTMPDIR: {}\n{rights}\n\
             A turn may take {steps} steps, {tokens} tokens and {seconds} seconds.\n\
             `fledgling self` tells more, such as your model and session; `fledgling help` lists pages on extending yourself.",
            workspace.display(),
            scratch.display(),
        )
    }

    fn skills(&self, reader: &mut Reader) -> String {
        let folder = self.workspace.join("skills");
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        let mut index = String::new();
        for name in names {
            let path = format!("skills/{name}/SKILL.md");
            if !folder.join(&name).join("SKILL.md").exists() {
                continue;
            }
            // The front matter stands at the beginning; the body is read when it is needed.
            let Some(text) = reader.head(&path) else { continue };
            let Some(description) = front_matter(&text) else {
                reader.notices.push(format!(
                    "{path} has no description in its front matter: it is left out of the index."
                ));
                continue;
            };
            let description: String = description.chars().take(DESCRIPTION_LIMIT).collect();
            let line = format!("- {path}: {description}\n");
            if index.len() + line.len() > SKILLS_LIMIT {
                let text = format!(
                    "the skills' index is full ({SKILLS_LIMIT} bytes): {path} and what follows is not in it."
                );
                reader.notices.push(text);
                break;
            }
            index.push_str(&line);
        }
        index.truncate(index.trim_end().len());
        index
    }
}

/// The parts of a prompt that are read from the workspace, and what is to be said of them.
struct Reader {
    /// No link is followed: what is sent to a model lies in the workspace.
    root: Option<Root>,
    notices: Vec<String>,
}

impl Reader {
    /// The beginning of a skill, long enough for its front matter.
    fn head(&mut self, path: &str) -> Option<String> {
        let before = self.notices.len();
        let text = self.text(path, SKILL_HEAD);
        self.notices.truncate(before + usize::from(text.is_none()));
        text
    }

    /// A text file, trimmed at its end and cut to `limit` bytes; `None` when there is
    /// nothing in it. Whatever else it is, is told.
    fn text(&mut self, path: &str, limit: usize) -> Option<String> {
        let (bytes, size) = match self.root.as_ref()?.head(Path::new(path), limit as u64) {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::NotFound => return None,
            Err(error) => {
                let why = match (error.kind(), error.raw_os_error()) {
                    (ErrorKind::InvalidInput, _) => "is not a file".to_owned(),
                    (_, Some(libc::ELOOP)) => "is a link".to_owned(),
                    _ => format!("cannot be read ({error})"),
                };
                self.notices.push(format!("{path} {why}: it is left out."));
                return None;
            }
        };
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_start_matches('\u{FEFF}').trim_end();
        let mut text = Some(text.to_owned()).filter(|text| !text.trim().is_empty())?;
        if size > limit as u64 {
            self.notices.push(format!("{path} has {size} bytes: only the first {limit} are sent."));
            // A character cut in two.
            text.truncate(text.trim_end_matches('\u{FFFD}').len());
            text.push_str("\n[cut: this part is longer than what is sent]");
        }
        Some(text)
    }
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
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x"), "ä".repeat(10)).unwrap();
        std::os::unix::fs::symlink("x", folder.path().join("link")).unwrap();
        let root = Root::open(folder.path()).ok();
        let mut reader = Reader { root, notices: Vec::new() };
        let text = reader.text("x", 7).unwrap();
        assert!(text.starts_with("äää\n[cut"), "{text}");
        assert_eq!(reader.notices, ["x has 20 bytes: only the first 7 are sent."]);
        assert_eq!(reader.text("link", 7), None);
        assert_eq!(reader.notices[1], "link is a link: it is left out.");
    }
}
