//! Folders that have another name in each home and in each replay, called alike.
//!
//! Owns the words that stand for them in a recording. Not `$WORKSPACE` or the like: that is
//! what commands may call something of their own. Knows neither recordings nor replays.

use std::path::Path;

use serde_json::Value;

/// The folder that the conversation worked in.
pub const WORKSPACE: &str = "@WORKSPACE@";
/// The folder for temporary files.
pub const SCRATCH: &str = "@SCRATCH@";
/// The rest of the home.
pub const HOME: &str = "@HOME@";

/// Texts, and what stands for each. The first that fits counts.
#[derive(Debug, Clone, Default)]
pub struct Places(Vec<(String, String)>);

impl Places {
    /// The words in place of these folders, however they are called.
    pub fn named<'a>(folders: impl IntoIterator<Item = (&'a Path, &'a str)>) -> Self {
        let mut all = Vec::new();
        for (folder, word) in folders {
            let real = folder.canonicalize().ok();
            let names = [Some(folder), real.as_deref()].into_iter().flatten();
            let names = names.filter_map(|name| name.to_str()).filter(|name| *name != "/");
            all.extend(names.map(|name| (name.to_owned(), word.to_owned())));
        }
        // What lies in another of them goes first.
        all.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        Self(all)
    }

    /// These folders in place of the words.
    pub fn put<'a>(folders: impl IntoIterator<Item = (&'a Path, &'a str)>) -> Self {
        let folders = folders.into_iter();
        Self(folders.map(|(to, word)| (word.to_owned(), to.display().to_string())).collect())
    }

    /// Have this stand for something besides.
    pub fn add(&mut self, name: &str, word: &str) {
        self.0.push((name.to_owned(), word.to_owned()));
    }

    /// A text in these words.
    pub fn text(&self, text: &str) -> String {
        let replaced = |text: String, (name, word): &(String, String)| {
            if text.contains(name.as_str()) { text.replace(name.as_str(), word) } else { text }
        };
        self.0.iter().fold(text.to_owned(), replaced)
    }

    /// The same of every string in this.
    pub fn json(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(items) => items.into_iter().map(|item| self.json(item)).collect(),
            Value::Object(fields) => {
                fields.into_iter().map(|(name, value)| (name, self.json(value))).collect()
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_folder_within_another_is_called_by_its_own_word_and_comes_back() {
        let [home, work] = ["/h", "/h/workspace"].map(Path::new);
        let named = Places::named([(home, HOME), (work, WORKSPACE)]);
        let said = json!({"a": ["cat /h/workspace/x /h/y", 3], "b": "/home"});
        let called = json!({"a": ["cat @WORKSPACE@/x @HOME@/y", 3], "b": "@HOME@ome"});
        assert_eq!(named.json(said.clone()), called);
        let put = Places::put([(home, HOME), (work, WORKSPACE)]);
        assert_eq!(put.json(called), said);
    }
}
