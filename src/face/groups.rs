//! The commands in `--help`, in groups.
//!
//! Owns which command stands in which group, and how the list looks. What each does is said
//! where it is defined.

use clap::Command;

use crate::face::wrap::{Style, Wrap};

/// The groups, and the commands in the order in which somebody new may need them.
const GROUPS: [(&str, &[&str]); 7] = [
    ("Begin", &["tour", "init", "doctor", "help"]),
    ("Talk", &["run", "acp", "sessions", "recall", "stop", "end"]),
    (
        "On its own, and from chats",
        &[
            "serve", "service", "status", "at", "agenda", "tell", "pair", "people", "services",
            "check",
        ],
    ),
    (
        "See and undo what it did",
        &[
            "log", "show", "diff", "why", "undo", "redo", "restore", "bisect", "record", "replay",
            "report",
        ],
    ),
    ("Branches and copies", &["merge", "drop", "backup", "git"]),
    ("What it may touch", &["policy", "allow", "deny", "ask", "asks", "answer", "secret"]),
    ("Look inside", &["self", "usage", "wire", "sql"]),
];
/// Columns of the names, with what stands around them.
const NAMES: usize = 12;

/// What `--help` says, with the list of commands in groups.
pub fn template(command: &Command, width: usize) -> String {
    let list = list(command, width);
    format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n{list}\nOptions:\n{{options}}{{after-help}}"
    )
}

fn list(command: &Command, width: usize) -> String {
    let mut wrap = Wrap::new(width, false);
    for (title, names) in GROUPS {
        wrap.push(Style::PLAIN, &format!("{title}:"));
        wrap.end();
        for name in names {
            let about = command.find_subcommand(name).and_then(Command::get_about);
            wrap.begin(&format!("  {name:<10}"), &" ".repeat(NAMES));
            wrap.push(Style::PLAIN, &about.map(ToString::to_string).unwrap_or_default());
            wrap.end();
        }
        wrap.end();
    }
    wrap.take().join("\n")
}
