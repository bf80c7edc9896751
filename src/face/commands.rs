//! The commands of the conversation in the terminal.
//!
//! Owns their names, what those that only look ask of the host, and how the answers look.
//! Does nothing by itself.

use anyhow::Result;
use serde_json::Value;

use crate::face::clean::{clean, line, row};
use crate::face::screen::Screen;
use crate::face::turn_view::{Looked, preview, wrapped};
use crate::face::{Refusal, help, views};
use crate::organs::verb::Verb;

/// The commands, with what each does.
pub const COMMANDS: [(&str, &str); 13] = [
    ("/help", "these commands; /help TOPIC for a page"),
    ("/new", "begin another conversation: /new [NAME]"),
    ("/resume", "go back to a conversation: /resume [NAME]"),
    ("/sessions", "list the conversations"),
    ("/model", "show the model, or choose one: /model [SPEC]"),
    ("/last", "show the latest tool call whole"),
    ("/edit", "write a message in $EDITOR"),
    ("/compact", "summarise the conversation to make room"),
    ("/wire", "what went over the wire: /wire [SESSION] [TURN]"),
    ("/usage", "tokens used"),
    ("/self", "paths, limits and rights, as the agent sees them"),
    ("/stop", "stop the running turn, as Ctrl-C does"),
    ("/quit", "leave, as Ctrl-D does"),
];

/// What a command that only looks asks of the host.
pub fn verb(command: &str, rest: Option<&str>, session: &str) -> Result<Verb> {
    let session = session.to_owned();
    Ok(match command {
        "/sessions" | "/resume" => Verb::Sessions,
        "/usage" => Verb::Usage,
        "/self" | "/model" => Verb::About { session: Some(session) },
        "/compact" => Verb::Compact { session },
        "/wire" => {
            let mut words = rest.unwrap_or_default().split_whitespace().peekable();
            let named = words.next_if(|word| word.parse::<u64>().is_err()).map(str::to_owned);
            let turn = words.next().and_then(|word| word.parse().ok());
            Verb::Wire { session: named.or(Some(session)), turn }
        }
        _ => anyhow::bail!("there is no command {command}; /help lists them"),
    })
}

/// The host's answer, as the command that asked for it shows it.
pub fn shown(command: &str, answer: &Value, screen: Screen) -> Result<String> {
    let text = match command {
        "/sessions" | "/resume" => views::sessions_text(answer, screen)?,
        "/usage" => views::usage_text(answer, screen),
        "/model" => clean(answer["model"]["name"].as_str().unwrap_or("no model")),
        "/self" => wrapped(&views::about_text(answer), screen),
        "/wire" => views::wire_text(answer, screen),
        _ => {
            let [before, after] = [0, 1].map(|at| &answer["messages"][at]);
            format!("Summarised: {before} messages are now {after}.")
        }
    };
    Ok(text.trim_end().to_owned())
}

/// A line of a pipe is a message. Refuses one that can only have been meant as a command.
pub fn refuse_command(line: &str) -> Result<()> {
    if COMMANDS.iter().any(|(name, _)| *name == line) {
        let why = format!("{line} is a command of the conversation in a terminal, not of a pipe");
        return Err(Refusal::usage(why).into());
    }
    Ok(())
}

/// `/help`.
pub fn overview(screen: Screen) -> String {
    let commands = COMMANDS.map(|(name, what)| row(&format!("{name:10} {what}"), screen.width));
    let typing = "While a turn runs, what you type steers it. Alt-Enter, or \\ at the end, continues the line.";
    let topics = format!("Topics: {}.", help::topics().join(", "));
    let rest = wrapped(&format!("{topics}\n{typing}"), screen);
    format!("{}\n{rest}", commands.join("\n"))
}

/// `/last`: a call, whole.
pub fn last(call: Option<&Looked>, screen: Screen) -> String {
    let Some(Looked { tool, input, text }) = call else {
        return "No tool was called here yet.".to_owned();
    };
    let mut lines = vec![screen.bold(&line(&preview(tool, input), usize::MAX))];
    for (name, value) in input.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        lines.push(format!("{}: {}", screen.dim(&clean(name)), clean(value.trim_end())));
    }
    lines.push(screen.dim("→"));
    lines.push(clean(text).trim_end().to_owned());
    lines.join("\n")
}
