//! The manual page and the shells' completions, both made of the command line itself.
//!
//! Owns what stands around the commands in the page, and which shells are known. Does not
//! know the commands: they are given, so that neither can lack one.

use std::io;

use anyhow::{Context as _, Result};
use clap::{Command, ValueEnum};
use clap_complete::shells;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::face::screen::{Place, write};
use crate::face::{groups, help};

/// What the command line does not say of itself: files, environment, exit codes, examples.
const REST: &str = include_str!("manual.roff");
const NAME: &str = "fledgling";

/// A shell that completes words.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Shell {
    /// 4 or later
    Bash,
    /// with compinit
    Zsh,
    /// 3 or later
    Fish,
}

/// Print the completions for a shell. The number is the exit code.
pub fn completions(shell: Shell, command: Command) -> Result<u8> {
    write(Place::Out, completing(shell, command).trim_end())?;
    Ok(0)
}

/// Print the manual page. The number is the exit code.
pub fn manual(command: &Command) -> Result<u8> {
    write(Place::Out, page(command).context("cannot write the manual page")?.trim_end())?;
    Ok(0)
}

fn completing(shell: Shell, command: Command) -> String {
    // Topics are words like any other; only a wrong one has an answer of its own.
    let topics = |topic: clap::Arg| topic.value_parser(help::topics());
    let command = command.mut_subcommand("help", |help| help.mut_arg("topic", topics));
    // bash would offer what nobody types, too.
    let shown = command.get_subcommands().filter(|one| !one.is_hide_set());
    let mut command = Command::default()
        .name(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        .args(command.get_arguments())
        .subcommands(shown);
    let mut script = Vec::new();
    match shell {
        Shell::Bash => clap_complete::generate(shells::Bash, &mut command, NAME, &mut script),
        Shell::Zsh => clap_complete::generate(shells::Zsh, &mut command, NAME, &mut script),
        Shell::Fish => clap_complete::generate(shells::Fish, &mut command, NAME, &mut script),
    }
    String::from_utf8_lossy(&script).into_owned()
}

fn page(command: &Command) -> io::Result<String> {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let man = Man::new(command.clone().about("a thin agent that grows into yours"));
    let mut out = Vec::new();
    man.render_name_section(&mut out)?;
    let mut text = Roff::new();
    text.control("SH", ["SYNOPSIS"]);
    text.text([bold(NAME), roman(" [OPTIONS] [COMMAND]")]);
    text.control("SH", ["DESCRIPTION"]);
    text.text([roman(about)]);
    text.control("PP", []);
    text.text([roman("Without a command: a conversation in the terminal, the last one resumed.")]);
    text.to_writer(&mut out)?;
    man.render_options_section(&mut out)?;
    for (title, names) in groups::GROUPS {
        let mut text = Roff::new();
        text.control("SH", [title.to_uppercase().as_str()]);
        text.to_writer(&mut out)?;
        for one in names.iter().filter_map(|name| command.find_subcommand(name)) {
            describe(&format!("{NAME} {}", one.get_name()), one, &mut out)?;
        }
    }
    // Each piece begins with what has apostrophes stay apostrophes.
    let all = ascii(&String::from_utf8_lossy(&out));
    let (begin, mut page) = (all.lines().take(2).collect::<Vec<_>>(), String::new());
    let version = command.get_version().unwrap_or_default();
    let title = format!(".TH FLEDGLING 1 \"\" \"{NAME} {version}\" \"User Commands\"");
    let pieces = all.lines().filter(|line| !begin.contains(line));
    for line in begin.iter().copied().chain([title.as_str()]).chain(pieces) {
        page.extend([line, "\n"]);
    }
    Ok(page + REST)
}

/// The older of those that read pages know other characters by number only.
fn ascii(text: &str) -> String {
    let plain = |one: char| match one {
        one if one.is_ascii() => one.to_string(),
        one => format!("\\[u{:04X}]", u32::from(one)),
    };
    text.chars().map(plain).collect()
}

/// One command, and below it those that it has itself.
fn describe(name: &str, command: &Command, out: &mut Vec<u8>) -> io::Result<()> {
    let said = command.clone().bin_name(name).disable_help_flag(true);
    let usage = said.clone().render_usage().to_string();
    let mut text = Roff::new();
    text.control("SS", [usage.trim_start_matches("Usage: ")]);
    text.text([roman(said.get_about().map(ToString::to_string).unwrap_or_default())]);
    text.to_writer(&mut *out)?;
    let mut options = Vec::new();
    Man::new(said.clone()).render_options_section(&mut options)?;
    // Sections of the page are its groups; a heading of a command stands below it, as it was said.
    let heading = said.get_arguments().find_map(clap::Arg::get_help_heading).unwrap_or_default();
    for line in String::from_utf8_lossy(&options).lines().filter(|line| *line != ".SH OPTIONS") {
        let own = line.starts_with(".SH ").then(|| format!(".PP\n{heading}:"));
        out.extend_from_slice(own.as_deref().unwrap_or(line).as_bytes());
        out.push(b'\n');
    }
    if let Some(after) = said.get_after_help() {
        let mut text = Roff::new();
        text.control("PP", []);
        text.control("nf", []);
        for line in after.to_string().lines() {
            text.text([roman(line)]);
        }
        text.control("fi", []);
        text.to_writer(&mut *out)?;
    }
    said.get_subcommands()
        .filter(|inner| !inner.is_hide_set())
        .try_for_each(|inner| describe(&format!("{name} {}", inner.get_name()), inner, out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        Command::new(NAME)
            .disable_help_subcommand(true)
            .version("1.2.3")
            .about("What it is.")
            .arg(clap::arg!(--safe "Start carefully"))
            .subcommand(Command::new("help").about("Pages").arg(clap::arg!([topic] "Which page…")))
            .subcommand(
                Command::new("agenda")
                    .about("List the reminders")
                    .after_help(".An example")
                    .subcommand(
                        Command::new("rm").about("Cancel one").arg(clap::arg!(<id> "Its number")),
                    ),
            )
            .subcommand(Command::new("image").about("Nobody types this").hide(true))
    }

    #[test]
    fn the_page_has_each_command_and_what_it_has_below_it() {
        let page = page(&command()).unwrap();
        let mut rest = page.as_str();
        for expected in [
            ".TH FLEDGLING 1 ",
            "\\-\\-safe",
            ".SH BEGIN",
            ".SS \"fledgling help [topic]\"",
            "Which page\\[u2026]",
            ".SS \"fledgling agenda ",
            ".nf\n\\&.An example\n.fi",
            ".SS \"fledgling agenda rm <id>\"",
            "Its number",
            ".SH FILES",
        ] {
            let at = rest.find(expected).unwrap_or_else(|| panic!("no {expected}\n{page}"));
            rest = &rest[at..];
        }
        assert!(!page.contains("Nobody types this"));
        assert_eq!(page.matches(".SH OPTIONS").count(), 1);
    }

    #[test]
    fn commands_are_completed_in_every_shell_and_topics_where_it_knows_how() {
        for shell in Shell::value_variants() {
            let script = completing(*shell, command());
            assert!(script.contains("agenda") && !script.contains("image"), "{script}");
            let topics = script.contains("schedule");
            assert_eq!(topics, !matches!(shell, Shell::Fish), "{script}");
        }
    }

    #[test]
    fn the_page_names_every_file_of_a_home() {
        let layout = help::text(Some("layout"), crate::face::screen::Screen::PIPE, "").unwrap();
        let home = layout.split("The rest is the program's").nth(1).unwrap();
        for line in home.lines().filter(|line| line.starts_with("    ")) {
            let name = line.split([' ', ',']).find(|word| !word.is_empty()).unwrap();
            assert!(
                REST.contains(&format!("{name}\n")) || REST.contains(&format!("{name} ")),
                "{name}"
            );
        }
    }
}
