//! What hands may touch, as a table: `fledgling policy` and `/policy`.
//!
//! Owns how it looks, on a narrow screen too. Decides nothing.

use anyhow::Result;
use serde::Deserialize as _;
use serde_json::Value;

use crate::face::clean::clean;
use crate::face::screen::Screen;
use crate::face::wrap::{Style, Wrap};
use crate::organs::reach::root::Row;

/// Columns of the rights, with what stands around them.
const RIGHTS: usize = 9;
/// The rights, in this order, and what they are called.
const TITLES: [(&str, &str); 7] = [
    ("all", "all"),
    ("write", "write"),
    ("read", "read"),
    ("network", "network"),
    ("unix", "sockets"),
    ("secrets", "secrets"),
    ("tools", "tools"),
];
const CHANGE: &str =
    "`fledgling allow` and `deny` change it (/allow, /deny); `fledgling help safety` tells more.";

/// The table.
pub fn text(answer: &Value, screen: Screen) -> Result<String> {
    let rows = Vec::<Row>::deserialize(answer)?;
    let mut wrap = Wrap::new(screen.width, screen.colour);
    wrap.push(Style::PLAIN, "Tool calls may touch this, and nothing else:");
    wrap.end();
    for (right, title) in TITLES {
        let mut title = title;
        let same = |row: &&Row| row.right == right || (right == "secrets" && row.right == "secret");
        for row in rows.iter().filter(same) {
            wrap.begin(&format!("{title:RIGHTS$}"), &" ".repeat(RIGHTS));
            title = "";
            wrap.push(Style::PLAIN, &format!("{} ({})", clean(&row.what), clean(&row.from)));
            wrap.end();
        }
    }
    wrap.push(Style::PLAIN, CHANGE);
    wrap.end();
    Ok(wrap.take().join("\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_fits_a_narrow_screen() {
        let row = |right: &str, what: &str, from: &str| json!({"right": right, "what": what, "from": from});
        let rows = json!([
            row("network", "full", "default"),
            row("write", "/h/workspace", "the workspace: undo covers it"),
            row("write", "/h/scratch", "temporary files"),
        ]);
        let screen = Screen { terminal: true, width: 40, colour: false };
        let text = text(&rows, screen).unwrap();
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
        let begin = "Tool calls may touch this, and nothing\nelse:\nwrite    /h/workspace (the workspace:\n         undo covers it)\n         /h/scratch (temporary files)\nnetwork  full (default)\n";
        assert!(text.starts_with(begin), "{text}");
    }
}
