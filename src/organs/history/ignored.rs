//! Which paths the owner and the workspace's `.gitignore` files want out of the history.
//!
//! Owns the meaning of those rules: git's own, with one exception. What the owner's exclude
//! file leaves out, no `.gitignore` brings back. libgit2 judges, but must never look into
//! the workspace, where a FIFO of that name would block it: so the rules are handed to it,
//! rewritten for the folder they were found in. Does not know what is in history already,
//! for which no rule counts, and reads nothing of the workspace.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use git2::Repository;

/// More of a `.gitignore` than this does not count.
pub const LIMIT: usize = 64 * 1024;

/// The rules met so far.
pub struct Ignored {
    owner: Repository,
    /// Holds the rules of the folders above the path that was asked about last.
    workspace: Repository,
    rules: BTreeMap<PathBuf, String>,
    /// The folders that `workspace` holds the rules of.
    loaded: RefCell<Vec<PathBuf>>,
}

impl Ignored {
    /// Know the rules of this repository's owner.
    pub fn open(git_dir: &Path) -> Result<Self> {
        let open = || {
            Repository::open_bare(git_dir)
                .with_context(|| format!("cannot open the history {}", git_dir.display()))
        };
        let (owner, workspace) = (open()?, open()?);
        Ok(Self { owner, workspace, rules: BTreeMap::new(), loaded: RefCell::default() })
    }

    /// Take in the `.gitignore` of a folder, which is given relative to the workspace. Those
    /// of all folders above a path must be known before it is asked about.
    pub fn learn(&mut self, folder: &Path, content: &[u8]) {
        self.rules.insert(folder.to_owned(), rewritten(folder, content));
        self.forget_loaded();
    }

    /// Forget what the workspace says, before it is looked through again.
    pub fn clear(&mut self) {
        self.rules.clear();
        self.forget_loaded();
    }

    /// Whether the owner's exclude file leaves this out.
    pub fn by_owner(&self, path: &Path, is_dir: bool) -> bool {
        is_ignored(&self.owner, path, is_dir)
    }

    /// Whether the workspace's `.gitignore` files leave this out. Counts only for what is
    /// not left out by the owner.
    pub fn by_workspace(&self, path: &Path, is_dir: bool) -> bool {
        let above = path.ancestors().skip(1).filter(|folder| self.rules.contains_key(*folder));
        let above: Vec<PathBuf> = above.map(Path::to_owned).collect();
        if above.is_empty() {
            return false;
        }
        let mut loaded = self.loaded.borrow_mut();
        if *loaded != above {
            // Rules that come later win: those of the deepest folder.
            let rules = above.iter().rev().filter_map(|folder| self.rules.get(folder));
            let rules: String = rules.map(String::as_str).collect();
            loaded.clear();
            let load = || {
                self.workspace.clear_ignore_rules()?;
                self.workspace.add_ignore_rule(&rules)
            };
            if load().is_err() {
                return false;
            }
            *loaded = above;
        }
        is_ignored(&self.workspace, path, is_dir)
    }

    fn forget_loaded(&mut self) {
        self.loaded.get_mut().clear();
    }
}

/// As git does, from the top: nothing in an ignored folder can be brought back. libgit2
/// goes upwards, and is content with a rule for the path itself.
fn is_ignored(rules: &Repository, path: &Path, is_dir: bool) -> bool {
    let bytes = path.as_os_str().as_bytes();
    let slashes = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    let folders = slashes.map(|(at, _)| bytes[..=at].to_vec());
    let itself = if is_dir { [bytes, b"/"].concat() } else { bytes.to_vec() };
    // A name that git cannot judge is not ignored; it is refused later, with words.
    let judge = |path: Vec<u8>| rules.is_path_ignored(OsStr::from_bytes(&path)).unwrap_or(false);
    folders.chain([itself]).any(judge)
}

/// The rules of a folder's `.gitignore`, as rules of the workspace's root.
fn rewritten(folder: &Path, content: &[u8]) -> String {
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    let mut lines: Vec<&[u8]> =
        content[..content.len().min(LIMIT)].split(|byte| *byte == b'\n').collect();
    if content.len() > LIMIT {
        lines.pop(); // Half a pattern says something else.
    }
    let mut prefix = b"/".to_vec();
    for part in folder {
        for byte in part.as_bytes() {
            match byte {
                b'*' | b'?' | b'[' | b'\\' => prefix.extend([b'\\', *byte]),
                byte => prefix.push(*byte),
            }
        }
        prefix.push(b'/');
    }
    lines.iter().filter_map(|line| rule(&prefix, line)).collect()
}

/// One line of a `.gitignore`, read as git reads it, with the folder's prefix in front.
fn rule(prefix: &[u8], line: &[u8]) -> Option<String> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let line = line.split(|byte| *byte == 0).next().unwrap_or_default();
    if line.starts_with(b"#") {
        return None;
    }
    let line = without_trailing_spaces(line);
    let (negated, pattern) = line.strip_prefix(b"!").map_or((false, line), |rest| (true, rest));
    let (end, pattern) = pattern.strip_suffix(b"/").map_or(("", pattern), |pattern| ("/", pattern));
    let anchored = pattern.contains(&b'/');
    let pattern = pattern.strip_prefix(b"/").unwrap_or(pattern);
    let escapes = pattern.iter().rev().take_while(|byte| **byte == b'\\').count();
    if pattern.is_empty() || escapes % 2 == 1 {
        return None; // Matches nothing.
    }
    let patterns = if anchored { readings(pattern) } else { vec![pattern.to_vec()] };
    let mut rules = String::new();
    for pattern in patterns {
        let anywhere: &[u8] = if anchored { b"" } else { b"**/" };
        let (pattern, exact) = plain(&[prefix, anywhere, &pattern].concat());
        let pattern = pattern + end;
        if !exact && !negated {
            return None; // In doubt a file is kept.
        }
        rules += &format!("{pattern}\n");
        if negated {
            // libgit2 drops an exception when it sees no rule that it is one of, and does
            // not see all: this way there is one.
            rules += &format!("!{pattern}\n");
        }
    }
    Some(rules)
}

/// Up to the first of the spaces at the end that are not escaped.
fn without_trailing_spaces(line: &[u8]) -> &[u8] {
    let (mut end, mut escaped) = (0, false);
    for (at, byte) in line.iter().enumerate() {
        if escaped || *byte != b' ' {
            end = at + 1;
        }
        escaped = !escaped && *byte == b'\\';
    }
    &line[..end]
}

/// Git matches what a pattern begins with literally, and then the rest as a pattern of its
/// own, in which a leading `**` spans folders: `a**/b` is `a*/**/b` and `ab`.
fn readings(pattern: &[u8]) -> Vec<Vec<u8>> {
    let special = |byte: &u8| matches!(byte, b'*' | b'?' | b'[' | b'\\');
    let at = pattern.iter().position(special).unwrap_or(pattern.len());
    let (literal, rest) = pattern.split_at(at);
    let stars = rest.iter().take_while(|byte| **byte == b'*').count();
    let after = &rest[stars..];
    if literal.is_empty() || literal.ends_with(b"/") || stars < 2 {
        return vec![pattern.to_vec()];
    }
    match after {
        [] => vec![[literal, b"*"].concat(), [literal, b"*/**"].concat()],
        [b'/', beyond @ ..] => {
            let mut all = vec![[literal, b"*/**", after].concat()];
            all.extend(readings(&[literal, beyond].concat()));
            all
        }
        _ => vec![pattern.to_vec()],
    }
}

/// The pattern for libgit2, and whether it says the same. What libgit2 cannot be told,
/// which is bytes that are not UTF-8 and white space other than spaces, becomes "any
/// character".
fn plain(pattern: &[u8]) -> (String, bool) {
    let mut plain = String::new();
    for chunk in pattern.utf8_chunks() {
        plain += chunk.valid();
        plain.extend(chunk.invalid().iter().map(|_| '\n'));
    }
    let odd = |character: char| {
        character.is_ascii_whitespace() && character != ' ' || character == '\x0b'
    };
    let exact = !plain.contains(odd);
    let plain = plain.replace(odd, "?");
    // One at the end is escaped, else it would not be there.
    match plain.strip_suffix("\\ ") {
        Some(rest) => (format!("{rest}[ ]"), exact),
        None => (plain, exact),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;
    use std::process::{Command, Stdio};

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::organs::history::gitdir::GitDir;

    /// A workspace with these `.gitignore` files, by folder, and these files.
    struct Home(tempfile::TempDir);

    impl Home {
        fn new(exclude: &str, rules: &[(&str, &[u8])], files: &[&str]) -> Self {
            let temp = tempfile::tempdir().unwrap();
            let home = Self(temp);
            fs::create_dir(home.workspace()).unwrap();
            GitDir::open(home.0.path()).unwrap();
            fs::write(home.git_dir().join("info/exclude"), exclude).unwrap();
            for (folder, content) in rules {
                fs::create_dir_all(home.workspace().join(folder)).unwrap();
                fs::write(home.workspace().join(folder).join(".gitignore"), content).unwrap();
            }
            for file in files {
                let file = home.workspace().join(file);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, "").unwrap();
            }
            home
        }

        fn workspace(&self) -> PathBuf {
            self.0.path().join("workspace")
        }

        fn git_dir(&self) -> PathBuf {
            self.0.path().join("history.git")
        }

        /// All files and folders but `.git` and `.gitignore`, with whether it is a folder.
        fn all(&self) -> Vec<(PathBuf, bool)> {
            let (mut all, mut folders) = (Vec::new(), vec![PathBuf::new()]);
            while let Some(folder) = folders.pop() {
                for item in fs::read_dir(self.workspace().join(&folder)).unwrap() {
                    let item = item.unwrap();
                    let path = folder.join(item.file_name());
                    let is_dir = item.file_type().unwrap().is_dir();
                    if item.file_name() != ".git" && item.file_name() != ".gitignore" {
                        folders.extend(is_dir.then(|| path.clone()));
                        all.push((path, is_dir));
                    }
                }
            }
            all.sort();
            all
        }

        /// What plain git ignores of these.
        fn git(&self, paths: &[(PathBuf, bool)]) -> Vec<PathBuf> {
            let mut git = Command::new("git");
            git.args(["check-ignore", "--no-index", "--stdin", "-z"]);
            git.current_dir(self.workspace()).env("GIT_CONFIG_GLOBAL", "/dev/null");
            git.env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", self.0.path());
            let mut git = git.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let mut stdin = git.stdin.take().unwrap();
            for (path, _) in paths {
                stdin.write_all(path.as_os_str().as_bytes()).unwrap();
                stdin.write_all(b"\0").unwrap();
            }
            drop(stdin);
            let said = git.wait_with_output().unwrap().stdout;
            let paths = said.split(|byte| *byte == 0).filter(|path| !path.is_empty());
            paths.map(|path| PathBuf::from(OsStr::from_bytes(path))).collect()
        }

        /// What we ignore of these.
        fn ours(&self, rules: &[(&str, &[u8])], paths: &[(PathBuf, bool)]) -> Vec<PathBuf> {
            let mut ignored = Ignored::open(&self.git_dir()).unwrap();
            for (folder, content) in rules {
                ignored.learn(Path::new(folder), content);
            }
            let paths = paths.iter().filter(|(path, is_dir)| {
                ignored.by_owner(path, *is_dir) || ignored.by_workspace(path, *is_dir)
            });
            paths.map(|(path, _)| path.clone()).collect()
        }
    }

    fn agrees(rules: &[(&str, &[u8])], files: &[&str]) -> Vec<PathBuf> {
        let home = Home::new("", rules, files);
        let all = home.all();
        let ours = home.ours(rules, &all);
        let shown: Vec<_> = rules
            .iter()
            .map(|(folder, rules)| (folder, rules.escape_ascii().to_string()))
            .collect();
        assert_eq!(ours, home.git(&all), "ours (left) and git's, with {shown:?}");
        ours
    }

    #[test]
    fn awkward_patterns_mean_what_git_says() {
        let files = [
            "a",
            "b",
            "ab",
            "a b",
            "a ",
            "b\t",
            "#x",
            "!x",
            "\\",
            "[x]",
            "x",
            "é",
            "*",
            "build/a",
            "build/keep",
            "d/a",
            "d/build/a",
            "d/x/a",
            "d/x/y/a",
            "d/ab/a",
            "d/aX/b",
            "d/a/b",
            "o[d]d/a",
            "o[d]d/b/a",
            "od/a",
            "with space/a",
            "with space/b",
            "s*r/a",
            "star/a",
            "back\\slash/a",
            "t/u/v/w",
            "t/u/w",
            "t/w",
            "new\nline/a",
        ];
        let files: Vec<_> = files.iter().filter(|file| !["d/a"].contains(file)).copied().collect();
        for pattern in [
            "a",
            "/a",
            "a/",
            "/a/",
            "*",
            "!a",
            "*\n!a",
            "*\n!*/",
            "*\n!/d/",
            "**",
            "**/",
            "**/a",
            "/**/a",
            "a/**",
            "d/**/a",
            "d/*/a",
            "d/a*",
            "d/**",
            "d/a**",
            "d/a**/b",
            "d/a**/**/b",
            "a**",
            "\\#x",
            "#x",
            "\\!x",
            "!x",
            "a\\ ",
            "a ",
            "a\\",
            "a b",
            "a\\ b",
            "with space",
            "with space/a",
            "with\\ space/*",
            "[x]",
            "\\[x\\]",
            "[[]x]",
            "\\*",
            "\\\\",
            "é",
            "?",
            "??",
            "[a-b]",
            "[!a]",
            "[^a]",
            "[[:alpha:]]",
            "build\n!build/keep",
            "build/*\n!build/keep",
            "/",
            "//",
            "!",
            "!/",
            "a//",
            "d/",
            "d/x/",
            "x/y",
            "/x/y",
            "a\r",
            "a\\\nb",
            "\u{feff}a",
            "a\0b",
            "*a\n!d/*a",
            "*\n!d\n!d/x\n!d/x/a",
            "t/**/w",
            "t/u/**/w",
            "a[/]b",
            "new?line",
            "a \\ ",
            "a\x0bb",
            " a",
            "*.a",
            "\\a",
            "a\\/",
            "***",
            "*/a",
            "*/*/a",
        ] {
            agrees(&[("", pattern.as_bytes())], &files);
            let folders = ["d", "o[d]d", "with space", "s*r", "back\\slash"];
            agrees(&folders.map(|folder| (folder, pattern.as_bytes())), &files);
        }
        agrees(&[("", b"a\n\xff*\n[\xe9]\nb")], &files);
        // What cannot be said to libgit2 leaves nothing out.
        assert_eq!(rewritten(Path::new(""), b"x\ty\n\xff"), "");
    }

    #[test]
    fn deeper_rules_win_and_reach_no_further_than_their_folder() {
        let files = ["x.log", "a/x.log", "a/b/x.log", "a/b/c/x.log", "ab/x.log"];
        let rules: &[(&str, &[u8])] = &[("", b"*.log"), ("a", b"!*.log"), ("a/b/c", b"x.log")];
        let ignored = agrees(rules, &files);
        assert_eq!(ignored, ["a/b/c/x.log", "ab/x.log", "x.log"].map(PathBuf::from));
    }

    #[test]
    fn the_owner_always_wins() {
        let rules: &[(&str, &[u8])] = &[("", b"!*-wal\n!target/\n!secret\n*.tmp")];
        let home = Home::new("*-wal\n!*-wal/\ntarget/\n", rules, &["x"]);
        let mut ignored = Ignored::open(&home.git_dir()).unwrap();
        ignored.learn(Path::new(""), rules[0].1);
        assert!(ignored.by_owner(Path::new("d/x-wal"), false));
        assert!(!ignored.by_owner(Path::new("x-wal"), true));
        assert!(!ignored.by_owner(Path::new("x-wal/file"), false));
        assert!(ignored.by_owner(Path::new("target"), true));
        assert!(ignored.by_owner(Path::new("target/x"), false));
        assert!(!ignored.by_owner(Path::new("target"), false));
        assert!(ignored.by_workspace(Path::new("d/x.tmp"), false));
        ignored.clear();
        assert!(!ignored.by_workspace(Path::new("d/x.tmp"), false));
    }

    #[test]
    fn too_long_a_file_counts_up_to_its_limit() {
        let content = ["# a comment\n".repeat(LIMIT / 12), "*\n".repeat(4)].concat();
        assert!(!rewritten(Path::new(""), content.as_bytes()[..LIMIT].as_ref()).is_empty());
        let cut = ["a".repeat(LIMIT - 1), "bc".to_owned()].concat();
        assert_eq!(rewritten(Path::new(""), cut.as_bytes()), "");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn any_rules_mean_what_git_says(
            root in vec(
                "!?[ab*?/]{1,6}|!?/?[ab](/[*]{1,2}){1,2}(/[ab])?/?|[\\[\\]ab\\\\! ^-]{1,5}",
                0..4,
            ),
            nested in vec("!?[ab*?/]{1,6}|!?[ab]{1,2}/?", 0..4),
            deep in vec("!?[ab*/]{1,4}", 0..3),
        ) {
            let files = [
                "a/a/a", "a/a/b", "a/b/a/b", "a/b/bb", "b/a", "b/ab/a", "b/b/b/b", "ab", "ba/a",
                "bb/ab", "b/ab/b/b",
            ];
            // Of a bracket that is not closed before an escaped space, libgit2 makes something
            // else than git does.
            prop_assume!(!root.iter().any(|rule| rule.contains('[') && rule.contains("\\ ")));
            let (root, nested, deep) = (root.join("\n"), nested.join("\n"), deep.join("\n"));
            let [root, nested, deep] = [&root, &nested, &deep].map(String::as_bytes);
            agrees(&[("", root), ("a", nested), ("a/b", deep), ("b", deep)], &files);
        }
    }
}
