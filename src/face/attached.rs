//! Files that go with a message: named by an option, or in a typed line by `@PATH`.
//!
//! Owns how a path is told from an address or a name: only what is there is a file. The words
//! stay as they were typed. Knows no host.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::face::Refusal;
use crate::face::clean::clean;

/// Signs that may stand behind a path and are none of it.
const BEHIND: &str = ".,;:!?)]}'\"";

/// A file by the path that somebody gave, as a host takes it.
pub fn given(path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    let real = path.canonicalize();
    let real = real.map_err(|error| Refusal::usage(format!("cannot find {shown}: {error}")))?;
    if !real.is_file() {
        return Err(Refusal::usage(format!("{shown} is not a regular file")).into());
    }
    if real.to_str().is_none() {
        let why = format!("the name of {shown} is not UTF-8; give it another");
        return Err(Refusal::usage(why).into());
    }
    Ok(real)
}

/// The files that a text names which is typed here, and a line that says so.
pub fn here(text: &str) -> (Vec<PathBuf>, Option<String>) {
    let files = mentioned(text, &std::env::current_dir().unwrap_or_default(), &user());
    let names = files.iter().filter_map(|file| file.file_name()?.to_str()).collect::<Vec<_>>();
    let line = (!names.is_empty()).then(|| format!("Attached: {}", clean(&names.join(", "))));
    (files, line)
}

/// The files that a typed text names, each once.
fn mentioned(text: &str, current: &Path, user: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for (at, _) in text.match_indices('@').filter(|(at, _)| begins(text, *at)) {
        let rest = &text[at + 1..];
        let file = candidates(rest).into_iter().find_map(|path| {
            let path = current.join(with_home(&path, user));
            given(&path).ok()
        });
        found.extend(file.filter(|file| !found.contains(file)));
    }
    found
}

/// What is typed of a path behind the last `@`: where that stands, and the path so far.
pub fn begun(typed: &str) -> Option<(usize, &str)> {
    let (at, _) = typed.rmatch_indices('@').find(|(at, _)| begins(typed, *at))?;
    let rest = &typed[at + 1..];
    match rest.strip_prefix('"') {
        Some(quoted) => (!quoted.contains('"')).then_some((at, quoted)),
        None => (!rest.contains(char::is_whitespace)).then_some((at, rest)),
    }
}

/// A path as it is typed behind an `@`; one that goes on has no quotation mark at its end.
pub fn typed(path: &str) -> String {
    if !path.contains(char::is_whitespace) {
        return format!("@{path}");
    }
    let end = if path.ends_with('/') { "" } else { "\"" };
    format!("@\"{path}{end}")
}

/// What a path may become that was begun in this folder: the last name, and all of it.
pub fn paths(base: &Path, word: &str) -> Vec<(String, String)> {
    let (folder, name) = word.split_at(word.rfind('/').map_or(0, |slash| slash + 1));
    let at = base.join(with_home(folder, &user()));
    let entries = std::fs::read_dir(at).into_iter().flatten().flatten();
    let path = |entry: std::fs::DirEntry| {
        let slash = if entry.path().is_dir() { "/" } else { "" };
        let found = entry.file_name().into_string().ok()? + slash;
        let hidden = found.starts_with('.') && !name.starts_with('.');
        let whole = format!("{folder}{found}");
        // A name that a terminal must not see is none to be typed.
        let fits = found.starts_with(name) && !hidden && clean(&found) == found;
        fits.then_some((found, whole))
    };
    let mut found: Vec<_> = entries.filter_map(path).collect();
    found.sort();
    found
}

/// The folder that `~` stands for.
fn user() -> String {
    std::env::var("HOME").unwrap_or_default()
}

/// A path with the user's folder in the place of `~`.
fn with_home(path: &str, user: &str) -> String {
    match path.strip_prefix('~') {
        Some(rest) if rest.starts_with('/') => format!("{user}{rest}"),
        _ => path.to_owned(),
    }
}

/// Whether a word begins there: in an address it does not.
fn begins(text: &str, at: usize) -> bool {
    let before = text[..at].chars().next_back();
    before.is_none_or(|before| before.is_whitespace() || "([{\"'".contains(before))
}

/// What may be meant by the text behind an `@`, the longest first.
fn candidates(rest: &str) -> Vec<String> {
    for quote in ['"', '\''] {
        let inner = rest.strip_prefix(quote).and_then(|rest| rest.split_once(quote));
        if let Some((path, _)) = inner {
            return vec![path.to_owned()];
        }
    }
    // Terminals put a backslash before each space of a path that is dropped on them.
    let (mut word, mut escaped) = (String::new(), false);
    for c in rest.chars() {
        if c.is_whitespace() && !escaped {
            break;
        }
        escaped = c == '\\' && !escaped;
        if !escaped {
            word.push(c);
        }
    }
    let mut all = vec![word.clone()];
    while word.ends_with(|c| BEHIND.contains(c)) {
        word.pop();
        all.push(word.clone());
    }
    all
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_what_is_there_is_a_file() {
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().canonicalize().unwrap();
        for name in ["a.png", "b c.pdf", "example.org"] {
            fs::write(folder.join(name), "x").unwrap();
        }
        fs::create_dir(folder.join("dir")).unwrap();
        let user = folder.to_str().unwrap();
        for (text, expected) in [
            ("@a.png", vec!["a.png"]),
            ("look at @a.png, please (@./a.png)", vec!["a.png"]),
            ("what is in @\"b c.pdf\"? and @'b c.pdf'", vec!["b c.pdf"]),
            ("@b\\ c.pdf and @~/a.png.", vec!["b c.pdf", "a.png"]),
            ("ann@example.org and @ann, @dir @ @gone.png", vec![]),
        ] {
            let expected: Vec<_> = expected.iter().map(|name| folder.join(name)).collect();
            assert_eq!(mentioned(text, &folder, user), expected, "{text}");
        }
        assert!(given(&folder.join("dir")).is_err());
    }

    #[test]
    fn a_path_is_completed_behind_its_sign() {
        assert_eq!(begun("look at @sh"), Some((8, "sh")));
        assert_eq!(begun("@\"a b/c d"), Some((0, "a b/c d")));
        assert_eq!(begun("@\"a b\" and"), None);
        assert_eq!(begun("ann@ex"), None);
        assert_eq!(begun("@a b"), None);
        assert_eq!([typed("a"), typed("a b"), typed("a b/")], ["@a", "@\"a b\"", "@\"a b/"]);
    }
}
