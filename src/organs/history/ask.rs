//! What can be asked of the history, and the shapes of the answers.
//!
//! Owns the requests, which the doors carry inside of `Verb::History`, who may make them,
//! and plain data for whoever shows the answers. Knows neither repository nor screen.
//! Paths are relative to the workspace; a commit is named by anything git understands.

use serde::{Deserialize, Serialize};

/// A request about the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// The latest changes: a list of `Logged`, latest first.
    Log {
        /// At most so many.
        limit: usize,
        /// Only those of this file or folder.
        path: Option<String>,
    },
    /// One change: `Shown`.
    Show {
        /// Which.
        rev: String,
        /// Only this file or folder.
        path: Option<String>,
    },
    /// What differs between two states: `Shown` without a change.
    Diff {
        /// The older one; the latest commit when none is named.
        from: Option<String>,
        /// The newer one; the workspace as it is now when none is named.
        to: Option<String>,
        /// Only this file or folder.
        path: Option<String>,
    },
    /// Take changes back by a new commit: `Undone`.
    Undo {
        /// Which.
        what: Which,
        /// What to do where later changes are in the way.
        favour: Option<Favour>,
    },
    /// Put paths back as they were: `Undone`.
    Restore {
        /// In this commit.
        rev: String,
        /// Files and folders; everything when none is named.
        paths: Vec<String>,
    },
    /// Who asked for a line, and what for: a list of `Reason`, the most telling first.
    Why {
        /// The file.
        file: String,
        /// The line, from 1; the whole file when none is named.
        line: Option<usize>,
        /// Whether to tell the whole exchange.
        full: bool,
    },
    /// Find the change that broke something: `Culprit`.
    Bisect {
        /// What succeeds where all is well.
        #[serde(flatten)]
        test: Test,
        /// A commit in which all was well; the first one when none is named, or the last one
        /// that the recording is of.
        good: Option<String>,
    },
    /// Carry out again what was recorded, and compare the answers: `Replayed`.
    Replay {
        /// The recording.
        recording: String,
        /// Whether its calls have the network, the secrets and the folders that calls have.
        live: bool,
        /// Whether what it changed itself begins as it is now.
        as_it_is: bool,
    },
    /// Push the history to a git remote or a folder: `Backed`.
    Backup {
        /// Where to; what config.toml says when nothing is named.
        to: Option<String>,
    },
    /// Take over what was done on a branch: `Undone`.
    Merge {
        /// The branch.
        branch: String,
        /// What to do where both sides changed the same.
        favour: Option<Favour>,
    },
    /// Give a branch up.
    Drop {
        /// The branch.
        branch: String,
    },
    /// How the history stands: `Standing`.
    Standing,
}

/// What is tried with each commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Test {
    /// A bash command.
    Command(String),
    /// A recording, the answers of which are to be the same.
    Recording(String),
}

/// What to take back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// So many of the agent's latest turns that are not taken back yet.
    Turns(usize),
    /// This commit.
    Commit(String),
    /// What was taken back last.
    LastUndo,
}

/// What to do where the wanted state and later changes collide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Favour {
    /// What is put back or brought in wins.
    Theirs,
    /// What is there now stays.
    Ours,
    /// Both stay in the file, between marks, for somebody to edit.
    Marks,
}

/// One commit in a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logged {
    /// Its id, short.
    pub id: String,
    /// When, in local time: `2026-11-21 10:36`.
    pub when: String,
    /// In whose name: `owner`, `agent`, `job:NAME`, `channel:NAME`, `unknown` …
    pub who: String,
    /// Its first line.
    pub subject: String,
    /// Files changed.
    pub files: usize,
    /// Lines added.
    pub added: usize,
    /// Lines removed.
    pub removed: usize,
    /// Tokens it took, `1200 in, 34 out`, where it was a turn.
    pub tokens: Option<String>,
    /// What it cost, `0.0123 USD`, where that is known.
    pub cost: Option<String>,
    /// The session and the number of the turn.
    pub turn: Option<(String, u64)>,
    /// Whether it was taken back and not put back since.
    pub undone: bool,
}

/// A change, or what differs, in full.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The commit, when it is about one.
    pub change: Option<Logged>,
    /// What the commit says below its first line, without the trailers.
    pub body: String,
    /// Its trailers.
    pub trailers: Vec<(String, String)>,
    /// The files, by path.
    pub files: Vec<FileDiff>,
}

/// What has become of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDiff {
    /// Its path.
    pub path: String,
    /// What it was: `file`, `executable`, `link`, or nothing.
    pub was: Option<String>,
    /// What it is now, in the same words.
    pub is: Option<String>,
    /// How its content changed.
    pub content: Content,
}

/// How content changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// It did not.
    Same,
    /// Line by line.
    Text(Vec<Hunk>),
    /// A database: schema and rows.
    Database(Vec<TableDiff>),
    /// Something else, or too much of it; sizes in bytes.
    Binary {
        /// Before.
        old: u64,
        /// After.
        new: u64,
    },
}

/// Lines that belong together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hunk {
    /// The first line's number before and after, from 1; 0 where that side has no line.
    pub start: (u32, u32),
    /// `' '`, `'-'` or `'+'`, and the line without its end.
    pub lines: Vec<(char, String)>,
}

/// What has become of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableDiff {
    /// Its name; or that of an index, a view or a trigger.
    pub name: String,
    /// The statements that made it before and now, where they differ.
    pub schema: Option<(Option<String>, Option<String>)>,
    /// Names of the columns of the rows below.
    pub columns: Vec<String>,
    /// `'-'` or `'+'`, and the values as text; a change of a row is both, one after the other.
    pub rows: Vec<(char, Vec<String>)>,
    /// Rows that differ, those not listed included: removed and added.
    pub count: (u64, u64),
}

/// What came of taking something back, putting something back or bringing something in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undone {
    /// The new commit; none when there was nothing to do.
    pub commit: Option<String>,
    /// The commits that were taken back, latest first.
    pub changes: Vec<Logged>,
    /// Paths that were put back or brought in, each with what was done: `put back`, `removed`.
    pub paths: Vec<(String, String)>,
    /// Paths that were left alone, each with why.
    pub left_alone: Vec<(String, String)>,
    /// Whether it is not done whole, and so does not count as done.
    #[serde(default)]
    pub in_part: bool,
    /// Where later changes are in the way. Nothing was done if there are any and no favour
    /// was asked.
    pub conflicts: Vec<FileDiff>,
    /// Commands of those turns, the effects of which outside of the workspace stay.
    pub commands: Vec<String>,
    /// What has become of the branch that was brought in, where that is to be known.
    #[serde(default)]
    pub said: String,
}

/// Why something is as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The commit.
    pub change: Logged,
    /// How many lines of the file are from it.
    pub lines: usize,
    /// What was asked for, in the words of whoever asked.
    pub asked: Vec<String>,
    /// What was said with the call that made the change, or at the turn's end.
    pub said: String,
    /// The call that made the change, in a line.
    pub call: Option<String>,
    /// The whole exchange, one entry a line, where it was wanted: who and what.
    pub exchange: Vec<(String, String)>,
}

/// What a search for a breaking change found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Culprit {
    /// The first change with which the command fails.
    pub change: Option<Logged>,
    /// Those that could not be tried (exit code 125), among which it may be.
    pub skipped: Vec<Logged>,
    /// How often the command was run.
    pub runs: usize,
    /// The end of what it said there.
    pub output: String,
}

/// What came of a replay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// Calls that were recorded.
    pub calls: usize,
    /// Those that are answered as they were.
    pub same: usize,
    /// Those that are answered otherwise.
    pub differ: Vec<Differing>,
    /// Those that are answered otherwise for another reason than what the workspace is now.
    pub apart: Vec<Differing>,
    /// Those that cannot be replayed.
    pub left: Vec<Left>,
    /// The commit it began with when it was recorded, where that is in this history.
    pub commit: Option<String>,
    /// Paths that were first put back as they were then.
    pub put_back: Vec<String>,
}

/// A call that is answered otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differing {
    /// Which.
    #[serde(flatten)]
    pub place: Place,
    /// What was answered then.
    pub recorded: Answered,
    /// What is answered now.
    pub now: Answered,
    /// How they differ; nothing where that is too much to show.
    pub hunks: Vec<Hunk>,
}

/// A call that cannot be replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Which.
    #[serde(flatten)]
    pub place: Place,
    /// Why.
    pub why: String,
}

/// A call of a recording.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The number of its turn.
    pub turn: u64,
    /// Its own number, from 1 in the recording.
    pub call: usize,
    /// What was called, in a line.
    pub what: String,
}

/// What a call was answered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// In these words.
    pub text: String,
    /// Whether it failed.
    pub error: bool,
}

/// A backup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backed {
    /// Where to.
    pub to: String,
    /// The commit it reaches up to.
    pub commit: String,
}

/// How the history stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Commits.
    pub commits: usize,
    /// Bytes on disk.
    pub bytes: u64,
    /// Objects that are not packed yet.
    pub loose: usize,
    /// What is left out, each with why.
    pub left_out: Vec<String>,
    /// Branches beside the main one.
    pub branches: Vec<String>,
    /// Where backups go after each turn, if anywhere.
    pub backup: Option<String>,
    /// Why the last backup failed, if it did.
    pub failure: Option<String>,
}

impl Ask {
    /// Whether only the owner may ask. Everybody else is held to their own changes.
    pub fn is_owners(&self) -> bool {
        matches!(self, Self::Backup { .. } | Self::Merge { .. } | Self::Drop { .. })
    }
}
