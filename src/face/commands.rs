//! The commands of the conversation in the terminal.
//!
//! Owns their names, what those that only look ask of the host, and how the answers look.
//! Does nothing by itself.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::face::clean::{clean, line, row};
use crate::face::history::Look;
use crate::face::screen::Screen;
use crate::face::turn_view::{Looked, preview, wrapped};
use crate::face::{Refusal, asking, help, history, policy, recall, standing, usage, views};
use crate::organs::home::Home;
use crate::organs::reach::item;
use crate::organs::recall::Wanted;
use crate::organs::verb::Verb;

/// The commands, with what each does.
pub const COMMANDS: [(&str, &str); 34] = [
    ("/new", "begin another conversation: /new [NAME]"),
    ("/resume", "go back to a conversation: /resume [NAME]"),
    ("/sessions", "list the conversations"),
    ("/recall", "search past conversations: /recall WORDS"),
    ("/model", "show the model, or choose one: /model [SPEC]"),
    ("/edit", "write a message in $EDITOR"),
    ("/compact", "summarise the conversation to make room"),
    ("/stop", "stop the running turn, as Ctrl-C does"),
    ("/quit", "leave, as Ctrl-D does"),
    ("/log", "list the changes: /log [-n N] [PATH]"),
    ("/show", "one change in full: /show [REV] [PATH]"),
    ("/diff", "what differs: /diff [REV [REV]] [-- PATH]"),
    ("/why", "who asked for it: /why FILE[:LINE] [--full]"),
    ("/undo", "take back the latest turn: /undo [N|REV]"),
    ("/redo", "put back what was taken back last"),
    ("/restore", "files as they were: /restore REV [PATH…]"),
    ("/bisect", "what broke it: /bisect -- COMMAND"),
    ("/replay", "do answers stay as recorded: /replay FILE"),
    ("/merge", "take over a branch: /merge NAME"),
    ("/drop", "give a branch up: /drop NAME"),
    ("/status", "what runs by itself: jobs, services, channels, budget"),
    ("/agenda", "the reminders to come"),
    ("/pair", "let somebody talk from a chat: /pair CODE"),
    ("/people", "who is paired"),
    ("/services", "a service's log: /services NAME"),
    ("/help", "these commands; /help TOPIC for a page"),
    ("/last", "show the latest tool call whole"),
    ("/wire", "what went over the wire: /wire [SESSION] [TURN]"),
    ("/usage", "what was used, and its cost: /usage [--by model]"),
    ("/policy", "what tool calls may touch, and who said so"),
    ("/allow", "let them touch more: /allow read|write PATH, …"),
    ("/deny", "take it back: /deny read|write PATH, …"),
    ("/asks", "what tool calls asked for, and the answers"),
    ("/self", "paths, limits and rights, as the agent sees them"),
];

/// The groups of the commands, each with the first of its commands.
const GROUPS: [(&str, &str); 4] = [
    ("Talk", "/new"),
    ("See and undo what it did (each has --help)", "/log"),
    ("On its own, and from chats", "/status"),
    ("Look around", "/help"),
];

/// What a command that only looks, or changes no conversation, asks of the host. `rest` is
/// what follows it in its line.
pub fn verb(line: &str, rest: Option<&str>, session: &str, home: &Home) -> Result<Verb> {
    let session = session.to_owned();
    let command = line.split_whitespace().next().unwrap_or_default();
    Ok(match command {
        "/sessions" | "/resume" => Verb::Sessions,
        "/usage" => usage::typed(rest.unwrap_or_default())?.verb()?,
        "/recall" => {
            let query = rest.context("what is searched? /recall WORDS")?.to_owned();
            Verb::Recall(Wanted { query, session: None, since: None, limit: recall::LIMIT })
        }
        "/asks" => Verb::Asks,
        "/status" => Verb::Status,
        "/agenda" => Verb::Agenda,
        "/people" => Verb::People,
        "/pair" => {
            let code = rest.context("which code? /pair CODE; the chat says it")?.to_owned();
            Verb::Pair { code, person: None, only: None, answers: false }
        }
        "/services" => match rest {
            Some(name) => Verb::Service { name: name.to_owned(), restart: false },
            None => Verb::Status,
        },
        "/self" | "/model" => Verb::About { session: Some(session) },
        "/compact" => Verb::Compact { session },
        "/policy" => Verb::Policy { session: Some(session) },
        "/allow" | "/deny" => {
            let words = shell_words::split(rest.unwrap_or_default())?;
            let user = std::env::home_dir();
            let items = item::parse(&words, &home.workspace(), user.as_deref())?;
            Verb::Grant { items, give: command == "/allow" }
        }
        "/wire" => {
            let mut words = rest.unwrap_or_default().split_whitespace().peekable();
            let named = words.next_if(|word| word.parse::<u64>().is_err()).map(str::to_owned);
            let turn = words.next().and_then(|word| word.parse().ok());
            Verb::Wire { session: named.or(Some(session)), turn }
        }
        "/secret" => anyhow::bail!(
            "what is typed here is kept among the lines before; in a shell, `fledgling secret set NAME` asks for a secret without showing or keeping it, and this conversation learns of it at once"
        ),
        _ if COMMANDS.iter().any(|(name, _)| *name == command) => {
            Verb::History(history::command::typed(line, &home.workspace())?)
        }
        _ => anyhow::bail!("there is no command {command}; /help lists them"),
    })
}

/// The host's answer, as the line that asked for it shows it.
pub fn shown(line: &str, asked: &Verb, answer: &Value, screen: Screen) -> Result<String> {
    let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    if let Verb::History(ask) = asked {
        return history::text(ask, answer, Look::slash(screen));
    }
    let text = match command {
        "/sessions" | "/resume" => views::sessions_text(answer, screen)?,
        "/usage" => usage::typed(rest)?.text(answer, screen)?,
        "/model" => clean(answer["model"]["name"].as_str().unwrap_or("no model")),
        "/self" => wrapped(&views::about_text(answer), screen),
        "/wire" => views::wire_text(answer, screen),
        "/recall" => recall::text(answer, screen)?,
        "/asks" => asking::list(answer, screen)?,
        "/status" => standing::status(answer, screen)?,
        "/agenda" => standing::agenda(answer, screen),
        "/people" => standing::people(answer, screen),
        "/services" if answer["said"].is_null() => standing::services(answer, screen)?,
        "/policy" => policy::text(answer, screen)?,
        "/allow" | "/deny" | "/pair" | "/services" => {
            wrapped(answer["said"].as_str().unwrap_or_default(), screen)
        }
        _ => {
            let [before, after] = [0, 1].map(|at| &answer["messages"][at]);
            format!("Summarised: {before} messages are now {after}.")
        }
    };
    Ok(text.trim_end().to_owned())
}

/// What went wrong, ready to print: with commands as they are typed here.
pub fn complaint(error: &anyhow::Error, screen: Screen) -> String {
    let said = COMMANDS.iter().fold(format!("{error:#}"), |said, (name, _)| {
        said.replace(&format!("`fledgling {}", &name[1..]), &format!("`{name}"))
    });
    let said = wrapped(&said, screen);
    let is_help = error.downcast_ref::<Refusal>().is_some_and(|refusal| refusal.exit == 0);
    if is_help { said } else { screen.warn(&said) }
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
    let commands = COMMANDS.map(|(name, what)| {
        let group = GROUPS.iter().find(|(_, first)| *first == name);
        let title = group.map(|(title, _)| screen.bold(title) + "\n").unwrap_or_default();
        title + &row(&format!("  {name:9} {what}"), screen.width)
    });
    let typing = "While a turn runs, what you type steers it. Alt-Enter, or \\ at the end, continues the line. @PATH attaches a file.";
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::organs::history::ask::Ask;

    #[test]
    fn the_overview_fits_a_narrow_terminal() {
        let screen = Screen { terminal: true, width: 60, colour: false };
        let overview = overview(screen);
        assert!(overview.lines().all(|line| line.chars().count() <= 60), "{overview}");
        assert!(!overview.contains('…') || overview.contains("[PATH…]"), "{overview}");
        assert!(overview.starts_with("Talk\n  /new      begin another"), "{overview}");
        for (_, first) in GROUPS {
            assert!(COMMANDS.iter().any(|(name, _)| *name == first), "{first}");
        }
    }

    #[test]
    fn commands_about_the_history_take_the_whole_line() {
        let home = Home::resolve(Some("/h".into())).unwrap();
        let asked = |line: &str| verb(line, None, "s", &home);
        let Verb::History(ask) = asked("/why 'a b:3' --full").unwrap() else { panic!() };
        assert_eq!(ask, Ask::Why { file: "a b".to_owned(), line: Some(3), full: true });
        for line in [
            "/log",
            "/show",
            "/diff",
            "/why x",
            "/undo",
            "/redo",
            "/restore x",
            "/bisect -- x",
            "/merge x",
            "/drop x",
        ] {
            assert!(matches!(asked(line), Ok(Verb::History(_))), "{line}");
        }
        let secret = asked("/secret set A").unwrap_err().to_string();
        assert!(secret.contains("`fledgling secret set NAME`"), "{secret}");
        let unknown = asked("/backup").unwrap_err().to_string();
        assert_eq!(unknown, "there is no command /backup; /help lists them");
    }
}
