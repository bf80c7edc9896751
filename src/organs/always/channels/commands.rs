//! What people in a chat say to the host and not to the agent.
//!
//! Owns the words. What looks like a command and is none is for the agent, as a path at the
//! beginning of a message is. Knows nobody and does nothing.

/// A command from a chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Stop what runs.
    Stop,
    /// Take back so many turns.
    Undo(u64),
    /// Begin another conversation, with these words if there are any.
    New(String),
    /// Say how things are.
    Status,
    /// Say what there is to say.
    Help,
    /// Give what the request of this number asks for.
    Yes(i64),
    /// Refuse it.
    No(i64),
    /// A command that lacks something: how it is typed.
    Unclear(&'static str),
}

impl Command {
    /// What was meant, if it was a command. In groups Telegram writes `/stop@name`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let word = word.strip_prefix('/')?;
        let word = word.split_once('@').map_or(word, |(word, _)| word).to_ascii_lowercase();
        let rest = rest.trim();
        let number = |usage, command: fn(i64) -> Self| {
            rest.trim_start_matches('#').parse().map_or(Self::Unclear(usage), command)
        };
        Some(match word.as_str() {
            "stop" => Self::Stop,
            "undo" if rest.is_empty() => Self::Undo(1),
            "undo" => match rest.parse() {
                Ok(turns) if turns > 0 => Self::Undo(turns),
                _ => Self::Unclear("/undo, or /undo 2 for two turns"),
            },
            "new" => Self::New(rest.to_owned()),
            "status" => Self::Status,
            // What Telegram sends when somebody opens the chat.
            "help" | "start" => Self::Help,
            "yes" => number("/yes NUMBER", Self::Yes),
            "no" => number("/no NUMBER", Self::No),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_understood_and_other_words_are_the_agents() {
        for (text, expected) in [
            ("/stop", Some(Command::Stop)),
            (" /Stop@my_bot please", Some(Command::Stop)),
            ("/undo", Some(Command::Undo(1))),
            ("/undo 3", Some(Command::Undo(3))),
            ("/undo 0", Some(Command::Unclear("/undo, or /undo 2 for two turns"))),
            ("/new", Some(Command::New(String::new()))),
            ("/new\nbuy milk\nand  more ", Some(Command::New("buy milk\nand  more".into()))),
            ("/yes 4", Some(Command::Yes(4))),
            ("/no@bot #4", Some(Command::No(4))),
            ("/yes", Some(Command::Unclear("/yes NUMBER"))),
            ("/start", Some(Command::Help)),
            ("/status", Some(Command::Status)),
            ("/etc/hosts is odd", None),
            ("/newer", None),
            ("stop", None),
            ("please /stop", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(Command::parse(text), expected, "{text:?}");
        }
    }
}
