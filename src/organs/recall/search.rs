//! What is searched in past conversations, and what is shown of a message that has it.
//!
//! Owns how words that people type become a query that cannot be wrong, and the words around a
//! hit. Scripts that are written without spaces are searched sign by sign. Does not know where
//! the messages come from, nor who asks.

use anyhow::{Context as _, Result};
use rusqlite::Row;
use serde::{Deserialize, Serialize};

use crate::organs::recall::Recalled;
use crate::organs::recall::index::{Index, number};

/// Characters that are shown of a message which has what was searched, and of one that is told
/// because of its time.
const AROUND: usize = 300;
const TOLD: usize = 2_000;
/// Of these, so many before the first hit.
const BEFORE: usize = 80;
/// Words that are searched at most: nobody types more.
const TERMS: usize = 40;
/// Stands between signs that are words of their own. It is not visible, and no part of a word.
const BETWEEN: char = '\u{200b}';
/// Stand around a hit on its way out of the database.
const MARKS: [char; 2] = ['\u{2}', '\u{3}'];

/// A message that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The conversation.
    pub session: String,
    /// The turn of it.
    pub turn: u64,
    /// When it was said, in the local time of then.
    pub at: String,
    /// Who said it: `owner`, `agent`, or an origin as transcripts have it.
    pub who: String,
    /// What was said, or the part of it around the first hit.
    pub text: String,
    /// Where the hits are in it, in characters: from, and to.
    pub hits: Vec<(usize, usize)>,
    /// Whether something was left out before and after.
    pub cut: (bool, bool),
    /// Its number.
    #[serde(skip)]
    pub id: i64,
    /// All of it, as it was said.
    #[serde(skip)]
    pub whole: String,
}

/// What is searched, as the database takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expressions {
    /// All of it, in any order.
    all: String,
    /// Some of it, where that is less.
    some: Option<String>,
}

/// What is wanted of the index.
pub struct Query<'a> {
    /// The words; everything when there are none.
    pub words: Option<&'a Expressions>,
    /// Only of these sessions.
    pub sessions: Option<Vec<String>>,
    /// Only since this second.
    pub since: i64,
    /// At most so many messages.
    pub limit: usize,
}

/// What is searched when somebody types this; nothing where no word is in it.
pub fn expressions(query: &str) -> Option<Expressions> {
    let mut terms = Vec::new();
    // Every other piece stands between quotation marks.
    for (number, piece) in query.split('"').enumerate() {
        if number % 2 == 1 {
            terms.push((piece, false));
        } else {
            let words = piece.split_whitespace();
            terms.extend(words.map(|word| (word.trim_end_matches('*'), word.ends_with('*'))));
        }
    }
    terms.retain(|(term, _)| term.chars().any(char::is_alphanumeric));
    let terms = terms.into_iter().map(|(term, begins)| {
        // Nothing within quotation marks has a meaning of its own.
        format!("\"{}\"{}", spread(term), if begins { "*" } else { "" })
    });
    let terms: Vec<_> = terms.take(TERMS).collect();
    let some = (terms.len() > 1).then(|| terms.join(" OR "));
    (!terms.is_empty()).then(|| Expressions { all: terms.join(" AND "), some })
}

/// A text as it is indexed: signs that are written without spaces between words are parted, so
/// that each is found.
pub fn spread(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut before = None;
    for c in text.chars().filter(|c| !['\0', BETWEEN].contains(c) && !MARKS.contains(c)) {
        if before.is_some_and(|before| is_sign(before) || is_sign(c)) {
            out.push(BETWEEN);
        }
        out.push(c);
        before = Some(c);
    }
    out
}

/// Whether this is of a script without spaces between words, or in which words run on: Thai and
/// its neighbours, Chinese, Japanese, Korean.
fn is_sign(c: char) -> bool {
    matches!(c,
        '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}'
        | '\u{3040}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}' | '\u{3400}'..='\u{4dbf}'
        | '\u{4e00}'..='\u{9fff}' | '\u{ac00}'..='\u{d7af}' | '\u{f900}'..='\u{faff}'
        | '\u{ff66}'..='\u{ff9d}' | '\u{20000}'..='\u{3ffff}')
}

impl Query<'_> {
    /// Ask the index.
    pub fn ask(&self, index: &Index) -> Result<Recalled> {
        let places = self.places(index)?;
        let Some(Expressions { all, some }) = self.words else {
            let mut recalled = self.told(index, places.as_deref())?;
            recalled.found.reverse();
            return Ok(recalled);
        };
        let recalled = self.matching(index, all, places.as_deref(), "words.rowid DESC")?;
        match some {
            Some(some) if recalled.found.is_empty() => {
                let order = "rank, words.rowid DESC";
                let recalled = self.matching(index, some, places.as_deref(), order)?;
                Ok(Recalled { some: !recalled.found.is_empty(), ..recalled })
            }
            _ => Ok(recalled),
        }
    }

    /// The transcripts in which is searched, by number; none for all of them.
    fn places(&self, index: &Index) -> Result<Option<Vec<i64>>> {
        let Some(sessions) = &self.sessions else { return Ok(None) };
        let sql = "SELECT id FROM transcript WHERE session IN (SELECT value FROM json_each(?))";
        let sessions = serde_json::to_string(sessions)?;
        let mut statement = index.db.prepare(sql)?;
        let rows = statement.query_map([sessions], |row| row.get(0)).and_then(Iterator::collect);
        rows.map(Some).context("cannot read recall.db")
    }

    fn matching(
        &self,
        index: &Index,
        words: &str,
        places: Option<&[i64]>,
        order: &str,
    ) -> Result<Recalled> {
        let mut expression = format!("text : ({words})");
        if let Some(places) = places {
            if places.is_empty() {
                return Ok(Recalled::default());
            }
            let places: Vec<_> = places.iter().map(|place| format!("t{place}")).collect();
            expression += &format!(" AND place : ({})", places.join(" OR "));
        }
        let [from, to] = MARKS.map(u32::from);
        let sql = format!(
            "SELECT said.id, session, said.turn, at, who,
                highlight(words, 0, char({from}), char({to}))
            FROM words JOIN said ON said.id = words.rowid
                JOIN transcript ON transcript.id = said.transcript
            WHERE words MATCH ?1 AND words.rowid >= ?2 ORDER BY {order} LIMIT ?3"
        );
        self.rows(index, &sql, &expression, AROUND)
    }

    /// What was said, the latest first.
    fn told(&self, index: &Index, places: Option<&[i64]>) -> Result<Recalled> {
        let within = if places.is_some() {
            "said.transcript IN (SELECT value FROM json_each(?1))"
        } else {
            "?1 = 'null'"
        };
        let sql = format!(
            "SELECT said.id, session, said.turn, at, who, text
            FROM said JOIN transcript ON transcript.id = said.transcript
            WHERE {within} AND said.id >= ?2 ORDER BY said.id DESC LIMIT ?3"
        );
        self.rows(index, &sql, &serde_json::to_string(&places)?, TOLD)
    }

    fn rows(&self, index: &Index, sql: &str, which: &str, shown: usize) -> Result<Recalled> {
        // One more tells whether there is more.
        let values = rusqlite::params![which, number(self.since), self.limit + 1];
        let mut statement = index.db.prepare(sql).context("cannot read recall.db")?;
        let rows = statement.query_map(values, |row| found(row, shown));
        let rows = rows.and_then(Iterator::collect::<rusqlite::Result<Vec<_>>>);
        let mut found = rows.context("cannot read recall.db")?;
        let more = found.len() > self.limit;
        found.truncate(self.limit);
        Ok(Recalled { found, more, ..Recalled::default() })
    }
}

fn found(row: &Row<'_>, shown: usize) -> rusqlite::Result<Found> {
    let marked: String = row.get(5)?;
    let (mut text, mut hits, mut begin) = (Vec::new(), Vec::new(), None);
    for c in marked.chars().filter(|c| *c != BETWEEN) {
        if c == MARKS[0] {
            begin = Some(text.len());
        } else if c == MARKS[1] {
            hits.extend(begin.take().map(|begin| (begin, text.len())));
        } else {
            text.push(c);
        }
    }
    let found = Found {
        id: row.get(0)?,
        session: row.get(1)?,
        turn: row.get(2)?,
        at: row.get(3)?,
        who: row.get(4)?,
        whole: text.iter().collect(),
        ..Found::default()
    };
    Ok(around(found, &text, &hits, shown))
}

/// The part of a text that is shown: it begins a little before the first hit, and splits no
/// word unless that is very long.
fn around(found: Found, text: &[char], hits: &[(usize, usize)], shown: usize) -> Found {
    let is_gap = |at: &usize| text[*at].is_whitespace();
    let first = hits.first().map_or(0, |(begin, _)| *begin);
    let mut from = first.saturating_sub(BEFORE).min(text.len().saturating_sub(shown));
    if from > 0 {
        from = (from..first).find(is_gap).map_or(from, |gap| gap + 1);
    }
    let mut to = (from + shown).min(text.len());
    if to < text.len() {
        to = (from + shown / 2..to).rev().find(is_gap).unwrap_or(to);
    }
    let inside = |(begin, end): &(usize, usize)| {
        let hit = ((*begin).max(from) - from, (*end).min(to).saturating_sub(from));
        (hit.0 < hit.1).then_some(hit)
    };
    let hits = hits.iter().filter_map(inside).collect();
    Found { text: text[from..to].iter().collect(), hits, cut: (from > 0, to < text.len()), ..found }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn index() -> (tempfile::TempDir, Index) {
        let folder = tempfile::tempdir().unwrap();
        let index = Index::open(&folder.path().join("recall.db")).unwrap();
        (folder, index)
    }

    /// Which of these texts are found, the latest first, with the hits between brackets.
    fn found(texts: &[&str], query: &str) -> Vec<String> {
        let (_folder, index) = index();
        let session = "INSERT INTO transcript VALUES (1, 's', 1, 1, 1, 1, x'', 1)";
        index.db.execute(session, []).unwrap();
        for (id, text) in texts.iter().enumerate() {
            let row = rusqlite::params![id as i64 + 1, spread(text)];
            index.db.execute("INSERT INTO said VALUES (?, 1, 1, 'at', 'owner', ?)", row).unwrap();
        }
        index.db.execute("INSERT INTO words (words) VALUES ('rebuild')", []).unwrap();
        let words = expressions(query);
        let query = Query { words: words.as_ref(), sessions: None, since: 0, limit: 9 };
        let shown = |one: Found| {
            let mut text: Vec<_> = one.text.chars().map(String::from).collect();
            for (from, to) in one.hits {
                text[from].insert(0, '[');
                text[to - 1].push(']');
            }
            text.concat()
        };
        query.ask(&index).unwrap().found.into_iter().map(shown).collect()
    }

    #[test]
    fn words_phrases_and_beginnings() {
        let texts = ["The backup script, foo_bar.rs", "a script for Backups", "Łódź naïve Übung"];
        assert_eq!(found(&texts, "SCRIPT backup"), ["The [backup] [script], foo_bar.rs"]);
        assert_eq!(
            found(&texts, "backup*"),
            ["a script for [Backups]", "The [backup] script, foo_bar.rs"]
        );
        assert_eq!(found(&texts, "\"backup script\""), ["The [backup script], foo_bar.rs"]);
        assert_eq!(found(&texts, "\"script backup\""), [""; 0]);
        assert_eq!(found(&texts, "foo_bar"), ["The backup script, [foo_bar].rs"]);
        assert_eq!(found(&texts, "foo_b*"), ["The backup script, [foo_bar].rs"]);
        assert_eq!(found(&texts, "bar.rs"), ["The backup script, foo_[bar.rs]"]);
        assert_eq!(found(&texts, "naive ubung"), ["Łódź [naïve] [Übung]"]);
        // Where no message has all, those that have some are told.
        assert_eq!(found(&texts, "backup übung").len(), 2);
        assert_eq!(found(&texts, "t1"), [""; 0], "only what was said is searched");
    }

    #[test]
    fn scripts_without_spaces() {
        let texts = ["明日は東京へ行きます", "학교에서 봐요", "ฉันไปโรงเรียน", "北京的backup脚本"];
        assert_eq!(found(&texts, "東京"), ["明日は[東京]へ行きます"]);
        assert_eq!(found(&texts, "京東"), [""; 0]);
        assert_eq!(found(&texts, "학교"), ["[학교]에서 봐요"]);
        assert_eq!(found(&texts, "โรงเรียน").len(), 1);
        assert_eq!(found(&texts, "backup 脚本"), ["北京的[backup][脚本]"]);
    }

    #[test]
    fn the_words_around() {
        let long = format!("{} needle {}", "before ".repeat(90), "after ".repeat(90));
        let shown = found(&[&long], "needle").pop().unwrap();
        assert!(shown.len() <= AROUND + 2 && shown.starts_with("before "), "{shown}");
        assert!(shown.contains("[needle] after") && shown.ends_with("after"), "{shown}");
        let unbroken = "x".repeat(900);
        assert_eq!(found(&[&unbroken], "x*").pop().unwrap().len(), AROUND + 2);
    }

    #[test]
    fn nothing_to_search_is_told_apart() {
        for query in ["", " \t", "\"\"", "* && ( -", "🔥"] {
            assert_eq!(expressions(query), None, "{query}");
        }
    }

    proptest! {
        #[test]
        fn no_query_is_a_mistake(query in r#"([\x00-\x7f]|[ab"*():^+{} -]|AND|OR|NOT|NEAR|东|\u{200b}){0,24}"#) {
            found(&["some a b text"], &query);
        }
    }
}
