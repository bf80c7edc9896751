//! Changes as lines of a table.
//!
//! Owns the columns, and which of them go first where there is no room for all. Does not
//! know what the list is for.

use unicode_width::UnicodeWidthStr;

use crate::face::clean::row;
use crate::face::screen::Screen;
use crate::face::turn_view::plural;
use crate::organs::history::ask::Logged;

/// The columns, from the left.
const ID: usize = 0;
const WHEN: usize = 1;
const WHO: usize = 2;
const SUBJECT: usize = 3;
const SIZE: usize = 4;
const COST: usize = 5;
/// Those that can be missed, the least important first.
const GO_FIRST: [usize; 4] = [COST, SIZE, WHEN, WHO];
/// Columns of the screen that a subject needs to tell anything.
const SUBJECT_NEEDS: usize = 24;
/// And that whoever made the change takes at most: names can be long.
const WHO_TAKES: usize = 16;
/// Columns of the screen between two of the table.
const GAP: usize = 2;

/// A line for each change.
pub fn changes(changes: &[Logged], screen: Screen) -> String {
    let table: Vec<_> = changes.iter().map(cells).collect();
    let widest = |column: usize| table.iter().map(|cells| cells[column].width()).max();
    let mut widths: [usize; 6] = std::array::from_fn(|column| widest(column).unwrap_or_default());
    widths[WHO] = widths[WHO].min(WHO_TAKES);
    // How much room the subject has beside the others.
    let room = |widths: &[usize; 6]| {
        let others = widths.iter().enumerate().filter(|(column, _)| *column != SUBJECT);
        let taken = others.map(|(_, width)| if *width > 0 { width + GAP } else { 0 });
        screen.width.saturating_sub(taken.sum())
    };
    for column in GO_FIRST {
        if room(&widths) < SUBJECT_NEEDS.min(widths[SUBJECT]) {
            widths[column] = 0;
        }
    }
    widths[SUBJECT] = widths[SUBJECT].min(room(&widths));
    let lines =
        changes.iter().zip(&table).map(|(change, cells)| line(change, cells, widths, screen));
    lines.collect::<Vec<_>>().join("\n")
}

fn line(change: &Logged, cells: &[String; 6], widths: [usize; 6], screen: Screen) -> String {
    let shown: Vec<_> = (ID..=COST).filter(|column| widths[*column] > 0).collect();
    // Nothing stands behind the last cell that has something in it.
    let last = shown.iter().rposition(|column| !cells[*column].is_empty()).unwrap_or_default();
    let mut line = String::new();
    for (at, column) in shown.into_iter().enumerate().take(last + 1) {
        let cell = row(&cells[column], widths[column]);
        let space = if at == last { 0 } else { widths[column] - cell.width() + GAP };
        line += &match column {
            _ if change.undone => cell,
            ID => screen.bold(&cell),
            SUBJECT => cell,
            _ => screen.dim(&cell),
        };
        line += &" ".repeat(space);
    }
    if change.undone { screen.dim(&line) } else { line }
}

fn cells(change: &Logged) -> [String; 6] {
    let undone = if change.undone { "(undone) " } else { "" };
    let cost = change.cost.clone().or_else(|| change.tokens.clone()).unwrap_or_default();
    let subject = format!("{undone}{}", change.subject);
    // Which of its sessions it was tells little here.
    let who = if change.who.starts_with("agent:") { "agent" } else { &change.who };
    [change.id.clone(), change.when.clone(), who.to_owned(), subject, size(change), cost]
        .map(|cell| row(&cell, usize::MAX))
}

/// `2 files +10 -3`.
pub fn size(change: &Logged) -> String {
    let Logged { files, added, removed, .. } = change;
    let mut size = if *files > 0 { plural(*files as u64, "file") } else { String::new() };
    // Not every file has lines to count.
    for (sign, lines) in [("+", added), ("-", removed)] {
        if *lines > 0 {
            size += &format!(" {sign}{lines}");
        }
    }
    size
}
