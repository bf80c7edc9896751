//! The command line: where what is typed goes.
//!
//! Owns what a command is given and its exit code. What can be typed is beside it, and how a
//! command does its work below.

mod typed;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{CommandFactory as _, FromArgMatches as _, Parser};

use self::typed::{AFTER_HELP, Command, Common};
use crate::face::Refusal;
use crate::face::clean::clean;
use crate::face::history::command::Folder;
use crate::face::record::{self, Recorder};
use crate::face::rows::Layout;
use crate::face::screen::{Place, Screen, write};
use crate::face::standing::command::Command::Serve;
use crate::face::{
    acp, asking, attached, doctor, drill, groups, help, history, manual, policy, recall, repl,
    report, run, secrets, serve, service, sql, tour, views,
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
            Some(Command::Completions { shell }) => {
                return manual::completions(shell, Self::command());
            }
            Some(Command::Man) => return manual::manual(&Self::command()),
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
                | Command::Image { .. }
                | Command::Completions { .. }
                | Command::Man,
            ) => Ok(0),
        }
    }
}

/// What was typed after `allow` or `deny`.
fn items(words: &[String]) -> Result<Vec<Item>> {
    item::parse(words, &current()?, std::env::home_dir().as_deref()).map_err(|error| usage(&error))
}

fn current() -> Result<PathBuf> {
    std::env::current_dir()
        .context("cannot tell the current folder: it is gone; change to one that exists")
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
        let begin = "\n\nTalk:\n  run         One turn: the task from the argument,";
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
