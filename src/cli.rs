//! The command line: what can be typed, and where it goes.
//!
//! Owns names, help texts and exit codes. Knows nothing of how a command does its work.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::face::Refusal;
use crate::face::clean::clean;
use crate::face::history::command::Folder;
use crate::face::record::{self, Recorder};
use crate::face::rows::Layout;
use crate::face::screen::{Place, Screen, write};
use crate::face::standing::command::Command::Serve;
use crate::face::{
    acp, asking, attached, doctor, drill, groups, help, history, policy, recall, repl, report, run,
    secrets, serve, service, sql, standing, tour, usage, views,
};
use crate::organs::config::Config;
use crate::organs::history::ask::Ask;
use crate::organs::history::{backup, image};
use crate::organs::home::Home;
use crate::organs::host::Settings;
use crate::organs::keys::Keys;
use crate::organs::link::Link;
use crate::organs::models::Catalog;
use crate::organs::reach::asks::Said;
use crate::organs::reach::item::{self, Item};
use crate::organs::reach::narrow;
use crate::organs::recall::Wanted;
use crate::organs::verb::Verb;

/// A thin agent that grows into yours: it acts with bash and files in a workspace of its
/// own on this machine, and every turn is one git commit there.
#[derive(Debug, Parser)]
#[command(version, disable_help_subcommand = true, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    common: Common,
    /// Record the conversation in a file, for `fledgling replay`
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER_HELP: &str = "\
Without a command: a conversation in the terminal, the last one resumed.

Exit codes: 0 done, 1 the turn (or something else) failed, 2 wrong usage,
3 no model to talk to, 130 interrupted.

Environment: ANTHROPIC_API_KEY, OPENAI_API_KEY, OPENROUTER_API_KEY (keys),
ANTHROPIC_BASE_URL (without /v1), OPENAI_BASE_URL (with /v1), FLEDGLING_HOME, NO_COLOR.";

const GRANTS: &str = "\
WHAT is one of
  read PATH…              read and run what is there
  write PATH…             change it, too: undo does not cover it
  network full|none|PORT… TCP to these ports only, anything, or nothing
  unix                    Unix sockets: the SSH agent, Docker, the desktop
  secret NAME…            the secret, in a variable of that name

It is kept in config.toml and holds from the next tool call on.";

const ASKS: &str = "\
WHAT is as for `fledgling allow`, or one of
  steps NUMBER, tokens NUMBER, seconds NUMBER   more of it in a turn
  model SPEC                                    another model for this conversation

It waits for the answer; no answer is a no.";

// Below the options of the commands themselves.
#[derive(Debug, Args)]
#[command(next_display_order = 100)]
struct Common {
    /// The conversation to continue, or to begin under this name
    #[arg(long, global = true, value_name = "NAME")]
    session: Option<String>,
    /// anthropic:NAME, openai:NAME, openrouter:NAME, ollama:NAME, llamacpp:NAME, a name from
    /// config.toml, or script:FILE
    #[arg(long, global = true, value_name = "SPEC")]
    model: Option<String>,
    /// Events as JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
    /// Where the agent lives [default: the platform's folder for program data]
    #[arg(long, global = true, value_name = "DIR", env = "FLEDGLING_HOME")]
    home: Option<PathBuf>,
    /// Start with the built-in instructions, without skills and memory
    #[arg(long, global = true)]
    safe: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
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

impl Cli {
    /// What was typed. Ends the program where that is wrong or a question about usage.
    pub fn read() -> Self {
        let command = Self::command();
        let template = groups::template(&command, Screen::of(Place::Out).width);
        let matches = command.help_template(template).try_get_matches();
        matches.and_then(|matches| Self::from_arg_matches(&matches)).unwrap_or_else(|said| {
            // A file's name may have been typed by a shell, for instance for a `*`.
            let place = if said.use_stderr() { Place::Err } else { Place::Out };
            let _ = write(place, clean(&said.render().to_string()).trim_end());
            std::process::exit(said.exit_code())
        })
    }

    /// Do what was asked. The number is the exit code.
    pub async fn run(self, keys: Keys) -> Result<u8> {
        let Self { common, command, record } = self;
        let Common { session, model, json, home, safe } = common;
        match command {
            Some(Command::Sql { file, query, values, bare }) => {
                let layout = match (json, bare) {
                    (true, _) => Layout::Json,
                    (_, true) => Layout::BARE,
                    _ => Layout::readable(),
                };
                let mut out = std::io::stdout().lock();
                return sql::sql(&file, query.as_deref(), &values, layout, &mut out).map(|()| 0);
            }
            Some(Command::Help { topic }) => return help::show(topic.as_deref()),
            Some(Command::Tour { record: file }) => {
                return tour::tour(json, Recorder::to(file.or(record))?).await;
            }
            Some(Command::Image { path, limit }) => return image::as_child(&path, limit),
            _ => {}
        }
        if record.is_some() && !matches!(command, None | Some(Command::Run { .. })) {
            let why = "--record goes with a conversation; `fledgling record SESSION FILE` makes a recording of a past one";
            return Err(Refusal::usage(why).into());
        }
        let home = Home::resolve(home)?;
        let settings = || -> Result<Settings> {
            let config = Config::read(&home.file("config.toml"))?;
            let keys = keys.clone().with_file(&home.file("secrets.toml"))?;
            let catalog = Catalog::new(config.clone(), keys);
            let (home, model, resident) = (home.clone(), model.clone(), false);
            Ok(Settings { home, config, catalog, model, safe, resident })
        };
        let simple = async |verb| views::once(Link::establish(&settings).await?, verb).await;
        match command {
            None => repl::repl(settings()?, session, json, Recorder::to(record)?).await,
            Some(Command::Run { task, branch, only, record: file, files }) => {
                let user = std::env::home_dir();
                let only = narrow::parse(&only, &current()?, user.as_deref())
                    .map_err(|error| usage(&error))?;
                let only = only.map(Box::new);
                let files =
                    files.iter().map(|file| attached::given(file)).collect::<Result<_>>()?;
                let begin = run::Begin { model: model.clone(), branch, only, files };
                let recorder = Recorder::to(file.or(record))?;
                run::run(settings, task, session, begin, (json, recorder)).await
            }
            Some(Command::Record { named, file }) => {
                record::once(Link::establish(settings).await?, named, file).await
            }
            Some(Command::Acp) => acp::acp(settings, session).await,
            Some(Command::History(command)) => {
                let ask = command.ask(&Folder::here(&home))?;
                history::once(Link::establish(settings).await?, ask, json).await
            }
            Some(Command::Report(options)) => report::report(settings, &home, options, json).await,
            Some(Command::Backup { to }) => {
                let ask = Ask::Backup { to: to.as_deref().map(absolute).transpose()? };
                history::once(Link::establish(settings).await?, ask, json).await
            }
            Some(Command::Service { command }) => service::service(&home, &keys, &command),
            Some(Command::Git { arguments }) => history::git(&home, &arguments),
            Some(Command::Init { from: Some(from) }) => {
                history::restore(&home, absolute(&from)?).await?;
                views::init(&Link::establish(settings).await?, &home).await
            }
            Some(Command::Doctor { drill: true }) => drill::drill(settings()?).await,
            Some(Command::Init { from: None }) => {
                views::init(&Link::establish(settings).await?, &home).await
            }
            Some(Command::Policy) => {
                let answer = simple(Verb::Policy { session }).await?;
                views::print(&answer, json, policy::text)
            }
            Some(Command::Allow { what }) => {
                views::said(&simple(Verb::Grant { items: items(&what)?, give: true }).await?)
            }
            Some(Command::Deny { what }) => {
                views::said(&simple(Verb::Grant { items: items(&what)?, give: false }).await?)
            }
            Some(Command::Secret { command }) => secrets::secret(settings, command, json).await,
            Some(Command::Ask { what, why, wait }) => {
                // One by one, so that each is answered for itself.
                for item in items(&what)? {
                    let (why, seconds) = (why.clone(), wait);
                    views::said(&simple(Verb::Ask { item, why, seconds }).await?)?;
                }
                Ok(0)
            }
            Some(Command::Asks) => views::print(&simple(Verb::Asks).await?, json, asking::list),
            Some(Command::Answer { id, said }) => {
                let said = Said::parse(&said).unwrap_or(Said::No);
                views::said(&simple(Verb::Answer { id, said }).await?)
            }
            Some(Command::Standing(Serve)) => serve::serve(settings, json).await,
            Some(Command::Standing(command)) => {
                let verb = command.verb(session, &current()?).map_err(|error| usage(&error))?;
                command.show(&simple(verb).await?, json)
            }
            Some(Command::Sessions) => {
                views::print(&simple(Verb::Sessions).await?, json, views::sessions_text)
            }
            Some(Command::Recall { query, since, limit }) => {
                let wanted = Wanted { query: query.join(" "), session, since, limit };
                recall::show(&simple(Verb::Recall(wanted)).await?, json)
            }
            Some(Command::End { named: session }) => {
                views::ended(&simple(Verb::End { session }).await?)
            }
            Some(Command::Stop { named }) => {
                let session = named.or(session);
                views::stopped(&simple(Verb::Stop { session }).await?)
            }
            Some(Command::Wire { named, turn }) => {
                // `wire 3` is a turn of the latest conversation.
                let (named, turn) = match (named, turn) {
                    (Some(number), None) if number.parse::<u64>().is_ok() => {
                        (None, number.parse().ok())
                    }
                    other => other,
                };
                let session = named.or(session);
                let answer = simple(Verb::Wire { session, turn }).await?;
                views::print(&answer, json, |answer, screen| Ok(views::wire_text(answer, screen)))
            }
            Some(Command::Usage { asked }) => asked.print(&simple(asked.verb()?).await?, json),
            Some(Command::About) => {
                let answer = simple(Verb::About { session }).await?;
                views::print(&answer, json, |answer, _| Ok(views::about_text(answer)))
            }
            Some(Command::Doctor { drill: false }) => doctor::doctor(settings).await,
            Some(
                Command::Sql { .. }
                | Command::Help { .. }
                | Command::Tour { .. }
                | Command::Image { .. },
            ) => Ok(0),
        }
    }
}

/// What was typed after `allow` or `deny`.
fn items(words: &[String]) -> Result<Vec<Item>> {
    item::parse(words, &current()?, std::env::home_dir().as_deref()).map_err(|error| usage(&error))
}

fn current() -> Result<PathBuf> {
    std::env::current_dir().context("the current folder is gone")
}

/// What was typed was wrong.
fn usage(error: &anyhow::Error) -> anyhow::Error {
    Refusal::usage(format!("{error:#}")).into()
}

/// A place as whoever is in another folder has to be told it.
fn absolute(place: &str) -> Result<String> {
    backup::absolute(place, &std::env::current_dir()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_lists_every_command_once_in_a_group() {
        let command = Cli::command();
        let template = groups::template(&command, 80);
        let list = template.split("Options:").next().unwrap();
        let listed = list.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
        let mut listed: Vec<_> = listed.filter(|name| !name.is_empty()).collect();
        let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
        let mut there: Vec<_> = shown.map(clap::Command::get_name).collect();
        listed.sort_unstable();
        there.sort_unstable();
        assert_eq!(listed, there);
        let begin = "\n\nTalk:\n  run       One turn: the task from the argument,";
        assert!(list.contains(begin), "{list}");
        let narrow = groups::template(&command, 40);
        let mut lines = narrow.lines().skip_while(|line| *line != "Begin:");
        assert!(lines.all(|line| line.chars().count() <= 40 || line.contains('{')), "{narrow}");
    }

    /// What pages, skills and the README show as commands of this program is understood by it.
    #[test]
    fn commands_that_are_shown_can_be_typed() {
        let readme = include_str!("../README.md");
        let mut shown = vec![("README", readme.to_owned())];
        shown.extend([("bootstrap", include_str!("../bootstrap.md").to_owned())]);
        shown.extend([("crontab", include_str!("../workspace/crontab").to_owned())]);
        let pipe = Screen { terminal: false, width: 80, colour: false };
        for topic in help::topics() {
            shown.push((topic, help::text(Some(topic), pipe, "").unwrap()));
        }
        for skill in include_dir::include_dir!("$CARGO_MANIFEST_DIR/workspace/skills").dirs() {
            let file = skill.get_file(skill.path().join("SKILL.md")).unwrap();
            shown.push((skill.path().to_str().unwrap(), file.contents_utf8().unwrap().to_owned()));
        }
        let (mut tried, mut wrong) = (0, Vec::new());
        for (place, text) in shown {
            for said in examples(&text) {
                tried += 1;
                if let Some(why) = refused(&said) {
                    wrong.push(format!("{place}: {said}: {why}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        assert!(tried > 120, "{tried}");
    }

    /// Why a command cannot be typed like this.
    fn refused(said: &str) -> Option<String> {
        let Ok(words) = shell_words::split(said) else { return Some("quotes".to_owned()) };
        match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [_, "help", topic] => {
                let known = topic == "TOPIC" || help::topics().contains(&topic);
                (!known).then(|| "no such page".to_owned())
            }
            // It is only named.
            [_, name] | [_, name, "x"] if !name.starts_with('-') => {
                let known = Cli::command().find_subcommand(name).is_some();
                (!known).then(|| "no such command".to_owned())
            }
            _ => {
                let said = Cli::command().try_get_matches_from(words).err()?;
                said.to_string().lines().next().map(str::to_owned)
            }
        }
    }

    /// What stands for something, and what it may stand for.
    const CHOICES: [(&str, &str); 7] = [
        ("yes|always|no", "yes"),
        ("yes|no", "yes"),
        ("full|PORT", "full"),
        ("steps|tokens|seconds", "steps"),
        ("NUMBER", "1"),
        ("[:LINE]", ":7"),
        ("…", "x"),
    ];

    /// Each command of this program in a text, from its name to where it ends, with what
    /// stands for a choice or a number replaced by one.
    fn examples(text: &str) -> Vec<String> {
        let mut all = Vec::new();
        for line in text.lines() {
            for (at, _) in line.match_indices("fledgling ") {
                let before = &line[..at];
                let quoted = before.ends_with('`');
                let typed = before.trim_start_matches(['#', ' ', '$']).is_empty()
                    && (before.starts_with("    ") || before.starts_with("$ "));
                if !quoted && !typed {
                    continue;
                }
                let said = &line[at..];
                // A command in a sentence that goes on in the next line.
                let end = if quoted { said.find('`') } else { Some(said.len()) };
                let Some(end) = end else { continue };
                let said = said[..end].replace(" # ", "  ");
                let said = said.split("  ").next().unwrap_or_default();
                let cut = |end: &str, said: &str| said.split(end).next().unwrap_or("").to_owned();
                let said = [" > ", " < ", " && ", "; ", " | ", " ["]
                    .iter()
                    .fold(said.to_owned(), |said, end| cut(end, &said));
                let plain = CHOICES.iter().fold(said, |said, (any, one)| said.replace(any, one));
                all.push(plain.trim_end().to_owned());
            }
        }
        all
    }
}
