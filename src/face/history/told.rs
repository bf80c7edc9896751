//! What came of a request about the history, told to whoever made it: what was put back and
//! what was not, why something is as it is, which change broke something.
//!
//! Owns the words. Does not know how any of it is found out or done.

use crate::face::clean::{clean, row};
use crate::face::history::diff::{file, indented};
use crate::face::history::{Look, list};
use crate::face::screen::Screen;
use crate::face::turn_view::{plural, wrapped};
use crate::face::wrap::{Style, Wrap};
use crate::organs::history::ask::{Ask, Culprit, Reason, Undone, Which};

/// Lines of a list that are shown.
const LISTED: usize = 20;

/// What was taken back, put back or brought in, what was not, and what cannot be.
pub fn undone(ask: &Ask, undone: &Undone, look: Look) -> String {
    let screen = look.screen;
    let mut blocks = Vec::new();
    match &undone.commit {
        Some(commit) => {
            let done = match ask {
                Ask::Undo { what: Which::LastUndo, .. } => "Brought back",
                Ask::Undo { .. } => "Taken back",
                Ask::Restore { .. } => "Put back",
                _ => "Brought in",
            };
            let commit = clean(commit);
            let how = match ask {
                Ask::Undo { what: Which::Turns(_), .. } if !undone.in_part => "redo".to_owned(),
                _ => format!("undo {commit}"),
            };
            let how = format!("{}{how} reverses it", look.prompt);
            blocks.push(wrapped(&format!("{done} by commit {commit} ({how})."), screen));
        }
        None if undone.conflicts.is_empty() => blocks.push("There was nothing to do.".to_owned()),
        None => blocks.push("Nothing was done: later changes are in the way.".to_owned()),
    }
    if !undone.changes.is_empty() {
        blocks.push(list::changes(&undone.changes, screen));
    }
    let entries = |pairs: &[(String, String)]| pairs.iter().map(entry).collect::<Vec<_>>();
    blocks.extend(listed("", &entries(&undone.paths), screen));
    blocks.extend(listed("Look at these:", &entries(&undone.left_alone), screen));
    blocks.extend(conflicts(ask, undone, look));
    blocks.extend(Some(wrapped(&undone.said, screen)).filter(|said| !said.is_empty()));
    blocks.extend(listed(
        "What this cannot take back: anything these commands did elsewhere",
        &undone.commands,
        screen,
    ));
    blocks.join("\n\n")
}

/// A path, and what was done to it or why nothing was.
fn entry((path, what): &(String, String)) -> String {
    format!("{path}: {what}")
}

/// A list under its title; nothing where nothing is listed.
pub fn listed(title: &str, entries: &[String], screen: Screen) -> Option<String> {
    let title = Some(screen.bold(&wrapped(title, screen))).filter(|title| !title.is_empty());
    let mut shown = Wrap::new(screen.width, false);
    for entry in entries.iter().take(LISTED) {
        shown.begin("  ", "    ");
        shown.push(Style::PLAIN, &row(entry, usize::MAX));
        shown.end();
    }
    let more = entries.len().saturating_sub(LISTED);
    let more = (more > 0).then(|| screen.dim(&format!("  … and {more} more")));
    let lines: Vec<_> = title.into_iter().chain(shown.take()).chain(more).collect();
    (!entries.is_empty()).then(|| lines.join("\n"))
}

/// Where later changes are in the way, and what can be done about it.
fn conflicts(ask: &Ask, undone: &Undone, look: Look) -> Vec<String> {
    let (conflicts, screen) = (&undone.conflicts, look.screen);
    if conflicts.is_empty() {
        return Vec::new();
    }
    if undone.commit.is_some() {
        let paths: Vec<_> = conflicts.iter().map(|one| one.path.clone()).collect();
        let title = "Later changes were in the way in these files, look at them:";
        return listed(title, &paths, screen).into_iter().collect();
    }
    let command = match ask {
        Ask::Undo { what: Which::Turns(count), .. } => format!("undo {count}"),
        Ask::Undo { what: Which::Commit(rev), .. } => format!("undo {}", clean(rev)),
        Ask::Merge { branch, .. } => format!("merge {}", clean(branch)),
        _ => "redo".to_owned(),
    };
    let comes = if matches!(ask, Ask::Merge { .. }) { "brought in" } else { "put back" };
    let choices = [
        ("theirs", format!("what is {comes} wins")),
        ("ours", "what is there now stays".to_owned()),
        ("marks", "both stay in the file between marks, for you to edit".to_owned()),
    ];
    let signs = format!("What is there now (-), and what would be {comes} (+):");
    let mut blocks = vec![wrapped(&signs, screen)];
    blocks.extend(conflicts.iter().map(|one| file(one, screen)));
    let choices = choices.map(|(option, what)| {
        let typed = format!("{}{command} --{option}", look.prompt);
        format!("  {typed}\n{}", indented(&what, screen))
    });
    blocks.push(format!("{}\n{}", screen.bold("Choose:"), choices.join("\n")));
    blocks
}

/// Who asked for something, and what for.
pub fn reasons(reasons: &[Reason], screen: Screen) -> String {
    if reasons.is_empty() {
        return "No change is known that made it so.".to_owned();
    }
    reasons.iter().map(|one| reason(one, screen)).collect::<Vec<_>>().join("\n\n")
}

fn reason(reason: &Reason, screen: Screen) -> String {
    let Reason { change, lines, asked, said, call, exchange } = reason;
    let narrower = Screen { width: screen.width.saturating_sub(2), ..screen };
    // What nobody asked for has its own subject, for instance a change outside of turns.
    let words = if asked.is_empty() { std::slice::from_ref(&change.subject) } else { asked };
    let mut told = Vec::new();
    for words in words {
        let words = wrapped(words.trim(), narrower);
        let mark = if asked.is_empty() { "  " } else { "> " };
        told.extend(words.lines().map(|line| format!("{}{}", screen.dim(mark), screen.bold(line))));
    }
    let count =
        if *lines > 0 { format!("  {}", plural(*lines as u64, "line")) } else { String::new() };
    let undone = if change.undone { "  (undone)" } else { "" };
    let origin = format!("{}  {}  {}{count}{undone}", change.who, change.when, change.id);
    told.push(screen.dim(&wrapped(&origin, screen)));
    told.extend(call.as_ref().map(|call| wrapped(call, screen)));
    if !said.trim().is_empty() {
        told.push(indented(said, screen));
    }
    for (who, what) in exchange {
        told.push(screen.dim(&format!("{}:", clean(who))));
        told.push(indented(what, screen));
    }
    told.join("\n")
}

/// The change that broke something.
pub fn culprit(culprit: &Culprit, replay: bool, screen: Screen) -> String {
    let runs = plural(culprit.runs as u64, "run");
    let mut blocks = Vec::new();
    match &culprit.change {
        Some(change) => {
            let change = list::changes(std::slice::from_ref(change), screen);
            blocks
                .push(format!("The first change with which it fails, found in {runs}:\n{change}"));
        }
        None if culprit.skipped.is_empty() => {
            blocks.push(format!("No change was found with which it begins to fail ({runs})."));
        }
        None => {}
    }
    if !culprit.skipped.is_empty() {
        let skipped = list::changes(&culprit.skipped, screen);
        blocks.push(format!("It may be one of these, which could not be tried:\n{skipped}"));
    }
    if !culprit.output.trim().is_empty() {
        let output = clean(culprit.output.trim_end());
        let title = if replay { "What differs there:" } else { "What the command said there:" };
        blocks.push(format!("{}\n{output}", screen.bold(title)));
    }
    blocks.join("\n\n")
}
