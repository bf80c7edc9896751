//! Slash commands of the conversation in the terminal, typed in an editor.
//!
//! Owns which of them make sense there and how their answers look in Markdown. They are done
//! without a model. What each asks of the host is said where the terminal's are.

use serde_json::{Value, json};

use crate::face::acp::Acp;
use crate::face::acp::calls::fenced;
use crate::face::acp::prompts::ended;
use crate::face::acp::protocol::Fault;
use crate::face::acp::updates::agent;
use crate::face::commands::{self, COMMANDS};
use crate::face::help;
use crate::face::screen::Screen;
use crate::organs::verb::Verb;

/// What the editor itself does, or a terminal alone can.
const ELSEWHERE: [&str; 6] = ["/new", "/resume", "/edit", "/quit", "/exit", "/last"];

fn offered() -> impl Iterator<Item = (&'static str, &'static str)> {
    COMMANDS.into_iter().filter(|(name, _)| !ELSEWHERE.contains(name))
}

/// The update that says which there are.
pub(super) fn available() -> Value {
    let command = |(name, about): (&str, &str)| {
        let (about, usage) = about.split_once(": /").unwrap_or((about, ""));
        let mut command = json!({"name": &name[1..], "description": about});
        if let Some((_, hint)) = usage.split_once(' ') {
            command["input"] = json!({ "hint": hint });
        }
        command
    };
    let commands: Vec<_> = offered().map(command).collect();
    json!({"sessionUpdate": "available_commands_update", "availableCommands": commands})
}

/// The host's answer, as the agent's words.
pub(super) fn shown(name: &str, asked: &Verb, answer: &Value) -> String {
    if let (Verb::Choose { .. }, Some(model)) = (asked, answer["model"].as_str()) {
        return format!("This conversation now talks to {model}.");
    }
    if let Verb::Stop { .. } = asked {
        let any = answer["stopped"].as_array().is_some_and(|stopped| !stopped.is_empty());
        return if any { "Stopped." } else { "Nothing is running." }.to_owned();
    }
    match commands::shown(name, asked, answer, Screen::PIPE) {
        // Of one line nothing can be taken for Markdown that matters; columns need their place.
        Ok(text) if text.contains('\n') => {
            fenced(&text, if ["/diff", "/show"].contains(&name) { "diff" } else { "" })
        }
        Ok(text) => text,
        Err(error) => complaint(&error),
    }
}

/// What went wrong, with commands as they are typed here.
pub(super) fn complaint(error: &anyhow::Error) -> String {
    commands::complaint(error, Screen::PIPE)
}

impl Acp {
    /// A command was typed.
    pub(super) async fn command(
        &mut self,
        id: &Value,
        session: &str,
        line: &str,
    ) -> Result<(), Fault> {
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = Some(rest.trim()).filter(|rest| !rest.is_empty());
        match self.meant(session, line, name, rest) {
            Ok(Meant::Verb(verb)) => {
                if let Verb::Choose { .. } = verb {
                    // From now on the choice counts, not what the command line named.
                    self.opened(session)?.model = None;
                }
                self.do_command(id, session, name, verb).await;
                return Ok(());
            }
            Ok(Meant::Said(text)) => self.update(session, &agent(&text)),
            Err(error) => self.update(session, &agent(&complaint(&error))),
        }
        self.answer(id, Ok(ended("end_turn")));
        Ok(())
    }

    fn meant(
        &self,
        session: &str,
        line: &str,
        name: &str,
        rest: Option<&str>,
    ) -> anyhow::Result<Meant> {
        let session = || session.to_owned();
        Ok(match (name, rest) {
            (name, _) if ELSEWHERE.contains(&name) => {
                Meant::Said(format!("{name} is for a terminal; here the editor does that."))
            }
            ("/help", Some(topic)) => {
                Meant::Said(help::text(Some(topic), Screen::PIPE, "/help lists them")?)
            }
            ("/help", None) => Meant::Said(overview()),
            ("/stop", _) => Meant::Verb(Verb::Stop { session: Some(session()) }),
            ("/model", Some(model)) => {
                Meant::Verb(Verb::Choose { session: session(), model: model.to_owned() })
            }
            ("/compact", _) if !self.home.transcript(&session()).exists() => {
                Meant::Said("Nothing to summarise yet.".to_owned())
            }
            _ => Meant::Verb(commands::verb(line, rest, &session(), &self.home)?),
        })
    }
}

/// What a command comes to.
enum Meant {
    /// The host is asked.
    Verb(Verb),
    /// This is the answer.
    Said(String),
}

fn overview() -> String {
    let list: Vec<_> = offered().map(|(name, about)| format!("- `{name}` {about}")).collect();
    format!("{}\n\nPages: {}.", list.join("\n"), help::topics().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_have_names_without_a_slash_and_say_what_follows_them() {
        let update = available();
        let list = update["availableCommands"].as_array().unwrap();
        let find = |name: &str| list.iter().find(|one| one["name"] == name);
        assert!(find("new").is_none() && find("quit").is_none());
        let log = find("log").unwrap();
        assert_eq!(log["description"], "list the changes");
        assert_eq!(log["input"]["hint"], "[-n N] [PATH]");
        assert_eq!(find("redo").unwrap()["input"], Value::Null);
        assert!(list.iter().all(|one| !one["description"].as_str().unwrap().is_empty()));
    }
}
