//! What can be typed about the history, in a shell and in the conversation alike.
//!
//! Owns the names and options of these commands, and what a typed path means. Does not
//! know how the answers look.

use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Parser, Subcommand};

use crate::face::Refusal;
use crate::organs::history::ask::{Ask, Favour, Test, Which};
use crate::organs::history::gitdir;
use crate::organs::home::Home;
use crate::organs::replay::recording::Recording;
use crate::organs::verb::exit;

/// The latest commit.
const LATEST: &str = "HEAD";
/// Digits of a number of turns at most: longer ones are the beginning of a commit's id.
const COUNT_DIGITS: usize = 4;

/// Bytes of a recording at most: as text in a request it still fits through the owner's door.
const LONGEST: u64 = 30 << 20;

/// A command about the history.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the latest changes, of everything or of one file
    Log {
        /// How many
        #[arg(short = 'n', value_name = "N", default_value_t = 20)]
        limit: usize,
        /// Only those of this file or folder
        path: Option<String>,
    },
    /// Show one change: why it was made, and every line
    Show {
        /// Which commit
        #[arg(default_value = LATEST, hide_default_value = true)]
        rev: String,
        /// Only this file or folder
        path: Option<String>,
    },
    /// Show what differs: since the latest commit, since REV, or between two
    Diff {
        /// Commits, the older one first; a third word is a path
        #[arg(value_name = "REV", num_args = 0..=3)]
        revs: Vec<String>,
        /// Only this file or folder
        #[arg(last = true)]
        path: Option<String>,
    },
    /// Take back the agent's latest turn, the last N, or one commit
    Undo {
        /// How many turns, or which commit
        #[arg(value_name = "N|REV", default_value = "1")]
        what: String,
        #[command(flatten)]
        favour: Favours,
    },
    /// Put back what was taken back last
    Redo {
        #[command(flatten)]
        favour: Favours,
    },
    /// Put files back as they were in a commit
    Restore {
        /// Which commit
        rev: String,
        /// Files and folders [default: everything]
        #[arg(value_name = "PATH")]
        paths: Vec<String>,
    },
    /// Tell who asked for a file or a line, in which words, and what for
    Why {
        /// The file, and the number of a line
        #[arg(value_name = "FILE[:LINE]")]
        place: String,
        /// Tell the whole exchange
        #[arg(long)]
        full: bool,
    },
    /// Find the change that broke something: COMMAND is tried on earlier states
    Bisect {
        /// A commit in which all was well [default: the first]
        #[arg(long, value_name = "REV")]
        good: Option<String>,
        /// Find the change since which this recording is answered otherwise
        #[arg(long, value_name = "FILE", conflicts_with = "command")]
        replay: Option<PathBuf>,
        /// Succeeds where all is well; exit code 125 means that it cannot be told
        #[arg(last = true, required_unless_present = "replay")]
        command: Vec<String>,
    },
    /// Carry out again what was recorded, on a copy, and show what is answered otherwise
    Replay {
        /// The recording
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Let its calls have the network, secrets and folders that calls have
        #[arg(long)]
        live: bool,
        /// Put nothing back that it changed itself
        #[arg(long)]
        as_it_is: bool,
    },
    /// Take over what was done on a branch
    Merge {
        /// The branch
        #[arg(value_name = "NAME")]
        branch: String,
        #[command(flatten)]
        favour: Favours,
    },
    /// Give a branch up
    Drop {
        /// The branch
        #[arg(value_name = "NAME")]
        branch: String,
    },
}

/// What to do where later changes are in the way.
#[derive(Debug, Args)]
#[group(multiple = false)]
#[command(
    next_help_heading = "Where later changes are in the way (else nothing is done, and they are shown)"
)]
pub struct Favours {
    /// What is put back or brought in wins
    #[arg(long)]
    theirs: bool,
    /// What is there now stays
    #[arg(long)]
    ours: bool,
    /// Both stay in the file, between marks, for you to edit
    #[arg(long)]
    marks: bool,
}

impl Favours {
    fn chosen(&self) -> Option<Favour> {
        let all =
            [(self.theirs, Favour::Theirs), (self.ours, Favour::Ours), (self.marks, Favour::Marks)];
        all.into_iter().find_map(|(chosen, favour)| chosen.then_some(favour))
    }
}

impl Command {
    /// What is asked by it where paths are typed in this folder.
    pub fn ask(self, folder: &Folder) -> Result<Ask> {
        let within = |path: Option<String>| path.map_or(Ok(None), |path| folder.within(&path));
        Ok(match self {
            Self::Log { limit: 0, .. } => {
                return Err(Refusal::usage(
                    "0 changes are nothing to list; name a number from 1 on",
                )
                .into());
            }
            Self::Log { limit, path } => Ask::Log { limit, path: within(path)? },
            Self::Show { rev, path } => Ask::Show { rev, path: within(path)? },
            Self::Diff { revs, path } => {
                let mut words = revs.into_iter();
                let (from, to, third) = (words.next(), words.next(), words.next());
                if third.is_some() && path.is_some() {
                    return Err(Refusal::usage("diff takes one path at most; leave one out").into());
                }
                Ask::Diff { from, to, path: within(path.or(third))? }
            }
            Self::Undo { what, favour } => {
                Ask::Undo { what: which(what)?, favour: favour.chosen() }
            }
            Self::Redo { favour } => Ask::Undo { what: Which::LastUndo, favour: favour.chosen() },
            Self::Restore { rev, paths } => {
                let paths = paths.iter().map(|path| folder.within(path));
                // The workspace itself is everything, whatever else is named.
                let paths = paths.collect::<Result<Option<Vec<_>>>>()?.unwrap_or_default();
                Ask::Restore { rev, paths }
            }
            Self::Why { place, full } => {
                let (file, line) = file_and_line(&place)?;
                let Some(file) = folder.within(file)? else {
                    return Err(Refusal::usage("why tells about a file, not a folder: name one, for instance `fledgling why crontab`").into());
                };
                Ask::Why { file, line, full }
            }
            Self::Bisect { good, replay: Some(file), .. } => {
                Ask::Bisect { test: Test::Recording(recording(&file)?), good }
            }
            Self::Replay { file, live, as_it_is } => {
                Ask::Replay { recording: recording(&file)?, live, as_it_is }
            }
            Self::Bisect { good, command, replay: None } => {
                // One word is a line of bash as it is; several are a program and its arguments.
                let command = match command.as_slice() {
                    [line] => line.clone(),
                    words => shell_words::join(words),
                };
                Ask::Bisect { test: Test::Command(command), good }
            }
            Self::Merge { branch, favour } => Ask::Merge { branch, favour: favour.chosen() },
            Self::Drop { branch } => Ask::Drop { branch },
        })
    }
}

/// What is in a recording.
fn recording(file: &Path) -> Result<String> {
    let shown = || format!("cannot replay {}", file.display());
    let bytes = std::fs::metadata(file).with_context(shown)?.len();
    ensure!(
        bytes <= LONGEST,
        "cannot replay {}: it has {} MB, and {} are the most; take turns out of it, each from its \"recorded\" line to the next",
        file.display(),
        bytes >> 20,
        LONGEST >> 20
    );
    let text = std::fs::read_to_string(file).with_context(shown)?;
    Recording::parse(&text).with_context(shown)?;
    Ok(text)
}

fn which(what: String) -> Result<Which> {
    if what.len() > COUNT_DIGITS || !what.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Which::Commit(what));
    }
    match what.parse() {
        Ok(0) => {
            Err(Refusal::usage("0 turns are nothing to take back; name a number from 1 on").into())
        }
        Ok(count) => Ok(Which::Turns(count)),
        Err(_) => Ok(Which::Commit(what)),
    }
}

fn file_and_line(place: &str) -> Result<(&str, Option<usize>)> {
    let Some((file, number)) = place.rsplit_once(':') else { return Ok((place, None)) };
    match number.parse() {
        Ok(0) => Err(Refusal::usage("lines are counted from 1").into()),
        Ok(line) => Ok((file, Some(line))),
        Err(_) => Ok((place, None)),
    }
}

/// The line of a conversation, for instance `/undo 2 --ours`.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, bin_name = "", disable_help_subcommand = true)]
struct Slash {
    #[command(subcommand)]
    command: Command,
}

/// What a line of the conversation asks. Paths are typed as the agent sees them.
pub fn typed(line: &str, workspace: &Path) -> Result<Ask> {
    let words = shell_words::split(line.trim_start_matches('/'));
    let words = words.map_err(|_| {
        Refusal::usage("a quote is opened and not closed; close it, or leave it out")
    })?;
    let slash = Slash::try_parse_from(words).map_err(|error| refusal(&error))?;
    slash.command.ask(&Folder::of(workspace, workspace))
}

/// What clap says of a line of the conversation; the rest of it is about shells.
pub fn refusal(error: &clap::Error) -> Refusal {
    let said = error.render().to_string().replace("Usage:  ", "Usage: /");
    let end = said.find("\n\nFor more information").unwrap_or(said.len());
    let exit = if error.use_stderr() { exit::USAGE } else { 0 };
    Refusal { why: said[..end].trim_end().to_owned(), exit }
}

/// Where paths are typed.
pub struct Folder {
    /// The workspace, as it is called and as it is without symlinks.
    workspace: [PathBuf; 2],
    at: PathBuf,
}

impl Folder {
    /// A folder in the workspace; the workspace itself where it is not in it.
    pub fn of(workspace: &Path, at: &Path) -> Self {
        let real = workspace.canonicalize().unwrap_or_else(|_| workspace.to_owned());
        let workspace = [workspace.to_owned(), real];
        let inside = workspace.iter().any(|root| at.starts_with(root));
        Self { at: if inside { at.to_owned() } else { workspace[0].clone() }, workspace }
    }

    /// Where this process stands: in the workspace, or in the checkout of a branch.
    pub fn here(home: &Home) -> Self {
        let at = std::env::current_dir().unwrap_or_default();
        let branch = gitdir::branch_at(home.path(), &at);
        let root = branch.map(|branch| gitdir::checkout(home.path(), &branch));
        Self::of(&root.unwrap_or_else(|| home.workspace()), &at)
    }

    /// A typed path, relative to the workspace; nothing when it is the workspace itself. The
    /// file need not be there any more.
    fn within(&self, typed: &str) -> Result<Option<String>> {
        let mut whole = PathBuf::new();
        for part in self.at.join(typed).components() {
            match part {
                Component::ParentDir => _ = whole.pop(),
                Component::CurDir => {}
                part => whole.push(part),
            }
        }
        let Some(path) = self.workspace.iter().find_map(|root| whole.strip_prefix(root).ok())
        else {
            let workspace = self.workspace[0].display();
            let why =
                format!("{typed} is not in the workspace {workspace}, and only that has a history");
            return Err(Refusal::usage(why).into());
        };
        let Some(path) = path.to_str() else {
            let why = format!(
                "{} is not UTF-8, and such names cannot be asked for; use `fledgling git`",
                path.display()
            );
            return Err(Refusal::usage(why).into());
        };
        Ok(Some(path).filter(|path| !path.is_empty()).map(str::to_owned))
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    fn ask(line: &str) -> Ask {
        typed(line, Path::new("/h/workspace")).unwrap()
    }

    fn refused(line: &str) -> String {
        let error = typed(line, Path::new("/h/workspace")).unwrap_err();
        assert_eq!(error.downcast_ref::<Refusal>().unwrap().exit, exit::USAGE, "{line}");
        error.to_string()
    }

    fn some(text: &str) -> Option<String> {
        (!text.is_empty()).then(|| text.to_owned())
    }

    #[test]
    fn lines_mean_what_they_say() {
        let diff = |from: &str, to: &str, path: &str| Ask::Diff {
            from: some(from),
            to: some(to),
            path: some(path),
        };
        let undo = |what, favour| Ask::Undo { what, favour };
        let commit = |rev: &str| Which::Commit(rev.to_owned());
        for (line, meant) in [
            ("/log", Ask::Log { limit: 20, path: None }),
            ("/log -n 3 'my books.txt'", Ask::Log { limit: 3, path: some("my books.txt") }),
            ("/log .", Ask::Log { limit: 20, path: None }),
            ("/show", Ask::Show { rev: "HEAD".to_owned(), path: None }),
            ("/show a1b2 ./bin/../x", Ask::Show { rev: "a1b2".to_owned(), path: some("x") }),
            ("/diff", diff("", "", "")),
            ("/diff a", diff("a", "", "")),
            ("/diff a b", diff("a", "b", "")),
            ("/diff a b c", diff("a", "b", "c")),
            ("/diff a -- b", diff("a", "", "b")),
            ("/diff -- /h/workspace/b/", diff("", "", "b")),
            ("/undo", undo(Which::Turns(1), None)),
            ("/undo 12 --ours", undo(Which::Turns(12), Some(Favour::Ours))),
            ("/undo 12345", undo(commit("12345"), None)),
            ("/undo HEAD~2 --marks", undo(commit("HEAD~2"), Some(Favour::Marks))),
            ("/redo --theirs", undo(Which::LastUndo, Some(Favour::Theirs))),
            ("/restore a", Ask::Restore { rev: "a".to_owned(), paths: Vec::new() }),
            ("/restore a b .", Ask::Restore { rev: "a".to_owned(), paths: Vec::new() }),
            (
                "/restore a b \"c d\"",
                Ask::Restore { rev: "a".to_owned(), paths: vec!["b".to_owned(), "c d".to_owned()] },
            ),
            ("/why a:b:7", Ask::Why { file: "a:b".to_owned(), line: Some(7), full: false }),
            ("/why a:b --full", Ask::Why { file: "a:b".to_owned(), line: None, full: true }),
            (
                "/bisect --good a -- test -e 'a b'",
                Ask::Bisect { test: Test::Command("test -e 'a b'".to_owned()), good: some("a") },
            ),
            (
                "/bisect -- 'make && ./run'",
                Ask::Bisect { test: Test::Command("make && ./run".to_owned()), good: None },
            ),
            ("/merge b", Ask::Merge { branch: "b".to_owned(), favour: None }),
            ("/drop b", Ask::Drop { branch: "b".to_owned() }),
        ] {
            assert_eq!(ask(line), meant, "{line}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_in_a_few_words() {
        assert_eq!(refused("/undo 0"), "0 turns are nothing to take back; name a number from 1 on");
        assert_eq!(refused("/log -n 0"), "0 changes are nothing to list; name a number from 1 on");
        assert_eq!(refused("/why a:0"), "lines are counted from 1");
        assert_eq!(
            refused("/why ."),
            "why tells about a file, not a folder: name one, for instance `fledgling why crontab`"
        );
        assert_eq!(
            refused("/why 'a"),
            "a quote is opened and not closed; close it, or leave it out"
        );
        assert_eq!(refused("/diff a b c -- d"), "diff takes one path at most; leave one out");
        assert_eq!(
            refused("/log ../x"),
            "../x is not in the workspace /h/workspace, and only that has a history"
        );
        assert_eq!(
            refused("/restore"),
            "error: the following required arguments were not provided:\n  <REV>\n\n\
             Usage: /restore <REV> [PATH]..."
        );
        assert_eq!(
            refused("/undo --ours --theirs"),
            "error: the argument '--ours' cannot be used with '--theirs'\n\n\
             Usage: /undo --ours [N|REV]"
        );
    }

    #[test]
    fn paths_are_typed_where_one_stands() {
        let temp = tempfile::tempdir().unwrap();
        let real = temp.path().join("real");
        std::fs::create_dir_all(real.join("bin")).unwrap();
        let called = temp.path().join("called");
        std::os::unix::fs::symlink(&real, &called).unwrap();
        let real = real.canonicalize().unwrap();
        let inside = Folder::of(&called, &real.join("bin"));
        assert_eq!(inside.within("books").unwrap(), some("bin/books"));
        assert_eq!(inside.within("../gone").unwrap(), some("gone"));
        assert_eq!(inside.within(called.join("x").to_str().unwrap()).unwrap(), some("x"));
        assert_eq!(inside.within("..").unwrap(), None);
        assert!(inside.within("../../real2").is_err());
        let outside = Folder::of(&called, Path::new("/"));
        assert_eq!(outside.within("bin/books").unwrap(), some("bin/books"));
        assert!(outside.within("/etc/passwd").is_err());
        // Never the same as everything.
        let odd = real.join(OsStr::from_bytes(b"od\xffd"));
        assert!(Folder::of(&called, &odd).within("x").is_err());
        assert!(Folder::of(&called, &odd).within(".").is_err());
    }
}
