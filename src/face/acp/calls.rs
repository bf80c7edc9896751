//! A tool call as editors show it: what kind it is, where it acts, what it changes.
//!
//! Owns how call and result become a tool call of the protocol. What a file held before is
//! known from the history where it is in the workspace, so that it cannot be missed by coming
//! too late. Knows no session.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};

use git2::Commit;
use serde_json::{Value, json};

use crate::face::clean::line;
use crate::face::turn_view::preview;
use crate::organs::history::chronicle::Chronicle;
use crate::organs::history::gitdir;
use crate::organs::history::{archive::MAIN, branch};

/// Columns of a title.
const TITLE: usize = 200;
/// Bytes of a text that are compared.
const LARGEST: u64 = 1 << 20;

/// What a file held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Before {
    /// This.
    Text(String),
    /// There was none.
    Nothing,
    /// Nobody knows, or it is no text to compare.
    Unknown,
}

/// A call that is shown, while its result is to come.
#[derive(Debug, Clone)]
pub struct Shown {
    tool: String,
    input: Value,
    path: Option<PathBuf>,
    /// What the file held that is written.
    before: Before,
}

impl Shown {
    /// A call, in a session that works in this folder. `before` says what a file held.
    pub fn new(
        tool: &str,
        input: &Value,
        root: &Path,
        before: impl FnOnce(&Path, &str) -> Before,
    ) -> Self {
        let files = ["read", "write", "edit"].contains(&tool);
        let path = input["path"].as_str().filter(|_| files).map(|path| root.join(path));
        let written = input["content"].as_str().filter(|_| tool == "write");
        let before = match (&path, written) {
            (Some(path), Some(content)) => before(path, content),
            _ => Before::Unknown,
        };
        Self { tool: tool.to_owned(), input: input.clone(), path, before }
    }

    /// The call as it begins.
    pub fn begun(&self, id: &str) -> Value {
        let kind = match self.tool.as_str() {
            "bash" => "execute",
            "read" => "read",
            "write" | "edit" => "edit",
            _ => "other",
        };
        let mut update = json!({
            "sessionUpdate": "tool_call",
            "toolCallId": id,
            "title": line(&preview(&self.tool, &self.input), TITLE),
            "kind": kind,
            "status": "in_progress",
            "rawInput": self.input,
        });
        if let Some(path) = &self.path {
            update["locations"] = json!([self.location(path)]);
        }
        // What is to be replaced is known at once.
        if self.tool == "edit" {
            update["content"] = self.diffs().into();
        }
        update
    }

    /// The call as it ended.
    pub fn ended(&self, id: &str, text: &str, error: bool) -> Value {
        let diffs = if error { Vec::new() } else { self.diffs() };
        let content = if diffs.is_empty() { vec![words(&fenced(text, ""))] } else { diffs };
        json!({
            "sessionUpdate": "tool_call_update",
            "toolCallId": id,
            "status": if error { "failed" } else { "completed" },
            "content": content,
        })
    }

    fn location(&self, path: &Path) -> Value {
        let number = |name: &str| self.input[name].as_u64().filter(|number| *number > 0);
        let found = || {
            let Before::Text(text) = on_disk(path) else { return None };
            let edit = &self.input["edits"][0];
            // It may be done already.
            let find = |name: &str| text.find(edit[name].as_str().filter(|it| !it.is_empty())?);
            let at = find("old").or_else(|| find("new"))?;
            Some(text[..at].matches('\n').count() as u64 + 1)
        };
        let line = if self.tool == "edit" { found() } else { number("offset") };
        match line {
            Some(line) => json!({"path": path, "line": line}),
            None => json!({"path": path}),
        }
    }

    fn diffs(&self) -> Vec<Value> {
        let Some(path) = &self.path else { return Vec::new() };
        let diff = |old: Option<&str>, new: &str| json!({"type": "diff", "path": path, "oldText": old, "newText": new});
        match self.tool.as_str() {
            "edit" => {
                let edits = self.input["edits"].as_array().into_iter().flatten();
                let pair = |edit: &Value| {
                    Some((edit["old"].as_str()?.to_owned(), edit["new"].as_str()?.to_owned()))
                };
                edits.filter_map(pair).map(|(old, new)| diff(Some(&old), &new)).collect()
            }
            "write" => match (&self.before, self.input["content"].as_str()) {
                (Before::Text(old), Some(new)) => vec![diff(Some(old), new)],
                (Before::Nothing, Some(new)) => vec![diff(None, new)],
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }
}

/// Text as the content of a tool call.
pub fn words(text: &str) -> Value {
    json!({"type": "content", "content": {"type": "text", "text": text}})
}

/// A text that is to be shown as it is, in Markdown.
pub fn fenced(text: &str, language: &str) -> String {
    let mut longest = 2;
    for line in text.lines() {
        let ticks = line.trim_start().bytes().take_while(|byte| *byte == b'`').count();
        longest = longest.max(ticks);
    }
    let fence = "`".repeat(longest + 1);
    format!("{fence}{language}\n{}\n{fence}", text.trim_end_matches('\n'))
}

/// What the history knows of files of a session.
pub struct Past {
    chronicle: Option<Chronicle>,
    root: PathBuf,
}

impl Past {
    /// Of a session that works in this folder of a home.
    pub fn of(home: &Path, root: &Path) -> Self {
        let branch = gitdir::branch_of(home, root).map(branch::reference);
        let chronicle = Chronicle::on(home, branch.as_deref().unwrap_or(MAIN)).ok();
        Self { chronicle, root: root.to_owned() }
    }

    /// What a file holds before a turn that is under way changes it to this.
    pub fn before(&self, path: &Path, new: &str) -> Before {
        let head = self.chronicle.as_ref().and_then(|chronicle| chronicle.head().ok());
        match head.and_then(|head| self.within(&head, path)) {
            Some(before) if before != Before::Nothing => before,
            // It may be one that the history leaves out. What is there already when it is
            // looked at is not what was there before.
            _ => match on_disk(path) {
                Before::Text(text) if text == new => Before::Nothing,
                before => before,
            },
        }
    }

    /// What a file held before this commit.
    pub fn before_commit(&self, commit: Option<&str>, path: &Path) -> Before {
        let found = commit.and_then(|id| self.chronicle.as_ref()?.find(id).ok()?.parent(0).ok());
        found.and_then(|parent| self.within(&parent, path)).unwrap_or(Before::Unknown)
    }

    /// What a file holds in a commit; nothing where it is not the workspace's.
    fn within(&self, commit: &Commit<'_>, path: &Path) -> Option<Before> {
        let path = path.strip_prefix(&self.root).ok()?;
        if !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return None;
        }
        let path: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
        let entry = match commit.tree().ok()?.get_path(&path) {
            Ok(entry) => entry,
            Err(error) if error.code() == git2::ErrorCode::NotFound => {
                return Some(Before::Nothing);
            }
            Err(_) => return None,
        };
        let blob = self.chronicle.as_ref()?.repository().find_blob(entry.id()).ok()?;
        Some(text(blob.content()))
    }
}

fn text(bytes: &[u8]) -> Before {
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.len() as u64 <= LARGEST => Before::Text(text.to_owned()),
        _ => Before::Unknown,
    }
}

/// What a file holds now. What is no plain file is not waited for.
fn on_disk(path: &Path) -> Before {
    let read = || -> std::io::Result<Option<Vec<u8>>> {
        // To open a device may be to change something.
        if !path.metadata()?.is_file() {
            return Ok(None);
        }
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        if !file.metadata()?.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        file.take(LARGEST + 1).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    };
    match read() {
        Ok(bytes) => bytes.map_or(Before::Unknown, |bytes| text(&bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Before::Nothing,
        Err(_) => Before::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(tool: &str, input: &Value, before: Before) -> Shown {
        Shown::new(tool, input, Path::new("/w"), |_, _| before)
    }

    #[test]
    fn calls_have_kind_title_and_place() {
        let bash = shown("bash", &json!({"command": "ls\nls"}), Before::Unknown).begun("1");
        assert_eq!((&bash["kind"], &bash["title"]), (&json!("execute"), &json!("bash ls …")));
        assert_eq!(bash["locations"], Value::Null);
        let read = shown("read", &json!({"path": "a", "offset": 7}), Before::Unknown).begun("2");
        assert_eq!(read["locations"], json!([{"path": "/w/a", "line": 7}]));
        let read = shown("read", &json!({"path": "/etc/x"}), Before::Unknown).begun("2");
        assert_eq!(read["locations"], json!([{"path": "/etc/x"}]));
        let odd = shown("read", &json!("{\"pa"), Before::Unknown).begun("3");
        assert_eq!((&odd["kind"], &odd["status"]), (&json!("read"), &json!("in_progress")));
    }

    #[test]
    fn changes_are_shown_with_old_and_new_text_unless_they_failed() {
        let input = json!({"path": "a", "edits": [{"old": "x", "new": "y"}, {"old": 1}]});
        let edit = shown("edit", &input, Before::Unknown);
        let diff = json!([{"type": "diff", "path": "/w/a", "oldText": "x", "newText": "y"}]);
        assert_eq!(edit.begun("1")["content"], diff);
        assert_eq!(edit.ended("1", "edited", false)["content"], diff);
        let failed = edit.ended("1", "no", true);
        assert_eq!(failed["content"], json!([words("```\nno\n```")]));
        assert_eq!(failed["status"], "failed");
        let input = json!({"path": "a", "content": "new"});
        for (before, old) in
            [(Before::Text("old".to_owned()), json!("old")), (Before::Nothing, Value::Null)]
        {
            let ended = shown("write", &input, before).ended("1", "wrote", false);
            assert_eq!(ended["content"][0]["oldText"], old);
        }
        let ended = shown("write", &input, Before::Unknown).ended("1", "wrote", false);
        assert_eq!(ended["content"], json!([words("```\nwrote\n```")]));
    }

    #[test]
    fn the_line_of_an_edit_is_found_before_it_is_made_and_after() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let input = json!({"path": path, "edits": [{"old": "two", "new": "2"}]});
        for (text, line) in [("one\ntwo\n", json!(2)), ("one\n2\n", json!(2)), ("", Value::Null)] {
            std::fs::write(&path, text).unwrap();
            let begun = shown("edit", &input, Before::Unknown).begun("1");
            assert_eq!(begun["locations"][0]["line"], line, "{text}");
        }
    }

    #[test]
    fn nothing_in_a_text_ends_its_fence() {
        assert_eq!(fenced("a\n", "diff"), "```diff\na\n```");
        assert_eq!(fenced("a\n  ````\n# b", ""), "`````\na\n  ````\n# b\n`````");
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let name = std::ffi::CString::new(folder.path().join("p").to_str().unwrap()).unwrap();
        // SAFETY: the name is a string that ends.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        assert_eq!(on_disk(&folder.path().join("p")), Before::Unknown);
        assert_eq!(on_disk(&folder.path().join("none")), Before::Nothing);
    }
}
