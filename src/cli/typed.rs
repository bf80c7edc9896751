//! What can be typed: the commands with their options, and the words that explain them.
//!
//! Owns names and help texts alone; where a command goes is said beside it.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::face::manual::Shell;
use crate::face::{history, recall, report, secrets, service, standing, usage};

pub(super) const AFTER_HELP: &str = "\
Without a command: a conversation in the terminal, the last one resumed.

Exit codes: 0 done, 1 the turn (or something else) failed, 2 wrong usage,
3 no model to talk to, 130 interrupted.

Environment: ANTHROPIC_API_KEY, OPENAI_API_KEY, OPENROUTER_API_KEY (keys),
ANTHROPIC_BASE_URL (without /v1), OPENAI_BASE_URL (with /v1), FLEDGLING_HOME, NO_COLOR.";

pub(super) const GRANTS: &str = "\
WHAT is one of
  read PATH…              read and run what is there
  write PATH…             change it, too: undo does not cover it
  network full|none|PORT… TCP to these ports only, anything, or nothing
  unix                    Unix sockets: the SSH agent, Docker, the desktop
  secret NAME…            the secret, in a variable of that name

It is kept in config.toml and holds from the next tool call on.";

pub(super) const COMPLETIONS: &str = "\
bash  fledgling completions bash > ~/.local/share/bash-completion/completions/fledgling
zsh   fledgling completions zsh > DIR/_fledgling, where DIR is one of your $fpath
fish  fledgling completions fish > ~/.config/fish/completions/fledgling.fish";

pub(super) const ASKS: &str = "\
WHAT is as for `fledgling allow`, or one of
  steps NUMBER, tokens NUMBER, seconds NUMBER   more of it in a turn
  model SPEC                                    another model for this conversation

It waits for the answer; no answer is a no.";

// Below the options of the commands themselves.
#[derive(Debug, Args)]
#[command(next_display_order = 100)]
pub(super) struct Common {
    /// The conversation to continue, or to begin under this name
    #[arg(long, global = true, value_name = "NAME")]
    pub(super) session: Option<String>,
    /// anthropic:NAME, openai:NAME, openrouter:NAME, ollama:NAME, llamacpp:NAME, a name from
    /// config.toml, or script:FILE
    #[arg(long, global = true, value_name = "SPEC")]
    pub(super) model: Option<String>,
    /// Events as JSON, one object a line
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Where the agent lives [default: the platform's folder for program data]
    #[arg(long, global = true, value_name = "DIR", env = "FLEDGLING_HOME")]
    pub(super) home: Option<PathBuf>,
    /// Start with the built-in instructions, without skills and memory
    #[arg(long, global = true)]
    pub(super) safe: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// One turn: the task from the argument, from standard input, or both
    #[command(after_help = "Example: fledgling run \"say what changed here\" < changes.diff")]
    Run {
        /// What to do
        task: Option<String>,
        /// Work in a copy of the workspace, on a branch to look at and then merge or drop
        #[arg(long, value_name = "NAME")]
        branch: Option<String>,
        /// Let a new conversation touch only this, for instance "network none" or "write notes"
        #[arg(long, value_name = "WHAT")]
        only: Vec<String>,
        /// Put this file into the workspace's inbox/, and show it to the model if it is a picture
        #[arg(long = "file", value_name = "PATH")]
        files: Vec<PathBuf>,
        /// Record the turn in a file, for `fledgling replay`
        #[arg(long, value_name = "FILE")]
        record: Option<PathBuf>,
    },
    /// A recorded conversation with real tools: needs no key and no network
    Tour {
        /// Record it again, with what the tools answer here
        #[arg(long, value_name = "FILE")]
        record: Option<PathBuf>,
    },
    /// Talk with an editor, which starts this: the Agent Client Protocol on standard input
    #[command(
        after_help = "How Zed, JetBrains, Neovim and Emacs are set up: fledgling help editors"
    )]
    Acp,
    /// Make the home and its workspace, and say where they are
    Init {
        /// Bring it back to life from a backup
        #[arg(long, value_name = "REMOTE|DIR")]
        from: Option<String>,
    },
    #[command(flatten)]
    History(history::command::Command),
    /// Record a conversation of the past, so that it can be played and replayed
    Record {
        /// Which conversation
        #[arg(value_name = "SESSION")]
        named: String,
        /// Where to [default: standard output]
        file: Option<PathBuf>,
    },
    /// Write a page to look at: what changed by whom and why, what it cost, what is to come
    Report(report::Options),
    /// Push the history to a git remote or a folder
    Backup {
        /// Where to [default: what config.toml says]
        #[arg(value_name = "REMOTE|DIR")]
        to: Option<String>,
    },
    /// Run the system's git on the workspace, safe from what lies there
    #[command(disable_help_flag = true)]
    Git {
        /// What git is told
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        arguments: Vec<OsString>,
    },
    /// Show what tool calls may read, change and reach, and who said so
    Policy,
    /// Let tool calls touch more, for good
    #[command(after_help = GRANTS)]
    Allow {
        /// What
        #[arg(required = true, value_name = "WHAT")]
        what: Vec<String>,
    },
    /// Take back what was allowed
    #[command(after_help = GRANTS)]
    Deny {
        /// What
        #[arg(required = true, value_name = "WHAT")]
        what: Vec<String>,
    },
    /// Keep keys and passwords by name; the agent sees none of them
    Secret {
        #[command(subcommand)]
        command: secrets::Command,
    },
    /// In a tool call: ask the owner for more
    #[command(after_help = ASKS)]
    Ask {
        /// What
        #[arg(required = true, value_name = "WHAT")]
        what: Vec<String>,
        /// What it is needed for
        #[arg(long, value_name = "REASON")]
        why: String,
        /// How long an answer is waited for
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        wait: u64,
    },
    /// List what was asked for, and the answers
    Asks,
    /// Answer what was asked for
    Answer {
        /// The number of the request
        id: i64,
        /// yes, for that conversation; always, kept in config.toml; or no
        #[arg(value_parser = ["yes", "always", "no"])]
        said: String,
    },
    #[command(flatten)]
    Standing(standing::command::Command),
    /// List the conversations
    Sessions,
    /// Search what was said in past conversations
    #[command(after_help = recall::HELP)]
    Recall {
        /// Words, "phrases", beginnings* [default: everything that was said]
        query: Vec<String>,
        /// Only since this day: 2026-11-21, today, yesterday, or 7d for seven days ago
        #[arg(long, value_name = "DAY")]
        since: Option<String>,
        /// The most messages
        #[arg(long, value_name = "N", default_value_t = recall::LIMIT)]
        limit: usize,
    },
    /// End a conversation for good; its transcript stays
    End {
        /// Name of the conversation
        #[arg(value_name = "SESSION")]
        named: String,
    },
    /// Stop the running turn of one conversation, or all turns and jobs
    Stop {
        /// Name of the conversation [default: all]
        #[arg(value_name = "SESSION")]
        named: Option<String>,
    },
    /// Show the requests and raw replies of a turn, as they went over the wire
    Wire {
        // Not `session`: clap would take it for the value of `--session` as well.
        /// Which conversation [default: the latest]
        #[arg(value_name = "SESSION")]
        named: Option<String>,
        /// Which turn [default: the latest]
        turn: Option<u64>,
    },
    /// Show what was used and what it cost, by day, conversation, origin or model
    Usage {
        #[command(flatten)]
        asked: usage::Asked,
    },
    /// Show what the agent is told of itself: paths, limits, rights, model
    #[command(name = "self")]
    About,
    /// An SQLite shell
    Sql {
        /// The database; made when there is none
        file: PathBuf,
        /// The statements [default: from standard input]
        #[arg(allow_hyphen_values = true)]
        query: Option<String>,
        /// Values for ?1, ?2 … of the statements: nothing in them needs quoting
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        values: Vec<String>,
        /// Rows without a header, parted by tabs: for scripts
        #[arg(long)]
        bare: bool,
    },
    /// Short pages on how things work here; the agent reads them to extend itself
    Help {
        /// Which page [default: the list]
        topic: Option<String>,
    },
    /// Print what has your shell complete commands, options and topics
    #[command(after_help = COMPLETIONS)]
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Print the manual page: fledgling man | man -l -
    Man,
    /// Print an image of a database; without a limit, put the one on standard input back
    #[command(hide = true)]
    Image {
        /// The database
        path: PathBuf,
        /// The most bytes the image may have
        #[arg(long)]
        limit: Option<u64>,
    },
    /// Have the system keep the agent running in the background
    Service {
        #[command(subcommand)]
        command: service::Command,
    },
    /// Check home, tools and models, and say what is wrong
    Doctor {
        /// Bring a copy to life from the history in a temporary folder, to prove it works
        #[arg(long)]
        drill: bool,
    },
}
