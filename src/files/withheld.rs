//! Known secrets, found in whatever passes by and withheld from it.
//!
//! Owns in which ways a value is looked for, and the marker that stands in its place. It
//! keeps accidents from spreading and is no wall: a program that holds a value can write it
//! in ways that nobody looks for, and base64 that is broken into lines is one of them.
//! Knows neither where secrets come from nor who is to be shown what.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::kernel::tool::Action;

/// Shorter values are found everywhere, and are hardly secret.
pub const SHORTEST: usize = 8;

/// The secrets that are known. All clones know the same, also of what is learnt later.
#[derive(Clone, Default)]
pub struct Withheld(Arc<RwLock<Option<Arc<Known>>>>);

/// Finds the secrets of one moment.
struct Known {
    finder: AhoCorasick,
    /// All that is looked for, in order, and the place of each one's secret in `names`.
    written: Vec<(String, usize)>,
    names: Vec<String>,
    longest: usize,
}

/// Says nothing of the values.
impl fmt::Debug for Withheld {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.known();
        out.debug_set().entries(known.iter().flat_map(|known| &known.names)).finish()
    }
}

impl Withheld {
    /// Know these from now on, given by name and value, and no others.
    pub fn learn(&self, secrets: impl IntoIterator<Item = (String, String)>) -> Result<()> {
        let (mut names, mut written) = (Vec::new(), BTreeMap::new());
        for (name, value) in secrets {
            if value.len() >= SHORTEST {
                for text in writings(&value) {
                    written.entry(text).or_insert(names.len());
                }
                // It stands within the strings of JSON, too.
                let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
                names.push(name.replace(|c| !plain(c), "_"));
            }
        }
        let known = if written.is_empty() { None } else { Some(Known::new(names, written)?) };
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = known.map(Arc::new);
        Ok(())
    }

    /// A text with markers in place of values.
    pub fn text(&self, text: String) -> String {
        match self.known() {
            Some(known) => known.text(text),
            None => text,
        }
    }

    /// The same of every string in this, names of fields included.
    pub fn json(&self, value: Value) -> Value {
        match self.known() {
            Some(known) => known.json(value),
            None => value,
        }
    }

    /// The same of what comes in pieces.
    pub fn stream(&self) -> Stream {
        Stream { known: self.known(), held: Vec::new() }
    }

    /// The name of the first secret in this, if there is one.
    pub fn finds(&self, bytes: &[u8]) -> Option<String> {
        let known = self.known()?;
        let found = known.finder.find(bytes)?;
        Some(known.name(found.pattern().as_usize()).to_owned())
    }

    /// A file must not hold what stands in place of a value.
    pub fn check(&self, action: &Action) -> Result<()> {
        let texts = match action {
            Action::Write { content, .. } => vec![content],
            Action::Edit { edits, .. } => {
                edits.iter().flat_map(|edit| [&edit.old, &edit.new]).collect()
            }
            Action::Bash { .. } | Action::Read { .. } => Vec::new(),
        };
        match texts.into_iter().find_map(|text| self.holds_marker(text)) {
            None => Ok(()),
            Some(name) => bail!(
                "not written: the value of the secret {name} was withheld from you, and its marker is not the value; have the program read it from the environment variable {name}, or ask the owner"
            ),
        }
    }

    /// The name of the secret in whose place a marker stands in this text.
    fn holds_marker(&self, text: &str) -> Option<String> {
        let known = self.known()?;
        known.names.iter().find(|name| text.contains(&marker(name))).cloned()
    }

    fn known(&self) -> Option<Arc<Known>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Withholds values from what comes in pieces, wherever it is split.
pub struct Stream {
    known: Option<Arc<Known>>,
    /// What may be the beginning of a value.
    held: Vec<u8>,
}

impl Stream {
    /// Take the next piece: what can be passed on by now.
    pub fn push<'a>(&mut self, piece: &'a [u8]) -> Cow<'a, [u8]> {
        let Some(known) = &self.known else { return Cow::Borrowed(piece) };
        self.held.extend_from_slice(piece);
        let (cleared, taken) = known.clear(&self.held, true);
        self.held.drain(..taken);
        Cow::Owned(cleared)
    }

    /// The same for text, of which every piece is whole characters.
    pub fn push_text(&mut self, piece: &str) -> String {
        // All that is looked for is text itself: no character is split.
        String::from_utf8_lossy(&self.push(piece.as_bytes())).into_owned()
    }

    /// Nothing more comes: what was held back. The next piece begins anew.
    pub fn finish(&mut self) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        // What might have become a longer one may be a value by itself.
        self.known.as_ref().map_or_else(Vec::new, |known| known.clear(&held, false).0)
    }
}

impl Known {
    fn new(names: Vec<String>, written: BTreeMap<String, usize>) -> Result<Self> {
        let finder = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            // The faster kind takes megabytes.
            .kind(Some(AhoCorasickKind::ContiguousNFA))
            .build(written.keys())
            .context("the known secrets are too long to be looked for")?;
        let longest = written.keys().map(String::len).max().unwrap_or_default();
        Ok(Self { finder, written: written.into_iter().collect(), names, longest })
    }

    fn name(&self, pattern: usize) -> &str {
        &self.names[self.written[pattern].1]
    }

    fn text(&self, text: String) -> String {
        if !self.finder.is_match(&text) {
            return text;
        }
        String::from_utf8_lossy(&self.clear(text.as_bytes(), false).0).into_owned()
    }

    fn json(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(text)),
            Value::Array(items) => items.into_iter().map(|item| self.json(item)).collect(),
            Value::Object(fields) => {
                let fields = fields.into_iter();
                fields.map(|(name, value)| (self.text(name), self.json(value))).collect()
            }
            Value::Number(number) if self.finder.is_match(&number.to_string()) => {
                Value::String(self.text(number.to_string()))
            }
            other => other,
        }
    }

    /// The bytes with markers in place of values, and how many of them were taken: all, or
    /// where `more` is to come, all before what may be the beginning of a value.
    fn clear(&self, bytes: &[u8], more: bool) -> (Vec<u8>, usize) {
        let mut out = Vec::with_capacity(bytes.len());
        let mut at = 0;
        let mut end = self.end(bytes, at, more);
        while let Some(found) = self.finder.find(Input::new(bytes).range(at..))
            && found.start() < end
        {
            out.extend_from_slice(&bytes[at..found.start()]);
            out.extend_from_slice(marker(self.name(found.pattern().as_usize())).as_bytes());
            at = found.end();
            if at > end {
                end = self.end(bytes, at, more);
            }
        }
        out.extend_from_slice(&bytes[at..end]);
        (out, end)
    }

    /// Where what may become a value begins, not before `from`; the end if nothing may.
    fn end(&self, bytes: &[u8], from: usize, more: bool) -> usize {
        if !more {
            return bytes.len();
        }
        let first = from.max((bytes.len() + 1).saturating_sub(self.longest));
        (first..bytes.len()).find(|at| self.begins(&bytes[*at..])).unwrap_or(bytes.len())
    }

    /// Whether something that is looked for begins like this, and goes on.
    fn begins(&self, tail: &[u8]) -> bool {
        let at = self.written.partition_point(|(text, _)| text.as_bytes() < tail);
        // One of them may be the tail itself.
        let next = self.written[at..].iter().take(2);
        next.into_iter()
            .any(|(text, _)| text.len() > tail.len() && text.as_bytes().starts_with(tail))
    }
}

/// What stands in place of a value.
fn marker(name: &str) -> String {
    format!("[secret {name} withheld]")
}

/// The ways in which a value is looked for. All are text, so that none begins or ends in the
/// middle of a character.
fn writings(value: &str) -> Vec<String> {
    let bytes = value.as_bytes();
    let each = |write: fn(u8) -> String| bytes.iter().copied().map(write).collect::<String>();
    let escaped = json_string(value);
    let html = value.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let html = html.replace('"', "&quot;");
    let mut found = vec![
        value.to_owned(),
        value.chars().rev().collect(),
        each(|byte| format!("{byte:02x}")),
        each(|byte| format!("{byte:02X}")),
        each(|byte| if is_plain(byte) { char::from(byte).into() } else { format!("%{byte:02X}") }),
        each(|byte| if is_plain(byte) { char::from(byte).into() } else { format!("%{byte:02x}") }),
        // A call's arguments are JSON within JSON on one of the wires.
        json_string(&escaped),
        escaped,
        html.replace('\'', "&#39;"),
        html.replace('\'', "&#x27;"),
        // Within quotes of a shell, and without.
        value.replace('\'', r"'\''"),
        value.chars().flat_map(|c| is_special(c).then_some('\\').into_iter().chain([c])).collect(),
    ];
    if value.is_ascii() {
        // UTF-16.
        found.push(value.chars().flat_map(|c| [c, '\0']).collect());
    }
    for last in ["+/", "-_"] {
        found.extend((0..3).map(|before| base64(bytes, last, before)));
    }
    found
}

/// What of the base64 of bytes is the same whatever stands around them, when so many bytes
/// stand before.
fn base64(bytes: &[u8], last: &str, before: usize) -> String {
    let digits: Vec<char> =
        ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(last.chars()).collect();
    let bytes = [&vec![0; before][..], bytes].concat();
    let bit = |at: usize| usize::from(bytes[at / 8] >> (7 - at % 8) & 1);
    let digit = |at: usize| digits[(at * 6..at * 6 + 6).fold(0, |all, at| all << 1 | bit(at))];
    ((before * 8).div_ceil(6)..bytes.len() * 8 / 6).map(digit).collect()
}

fn json_string(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// Whether a byte stands for itself in an address.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// Whether a shell's `printf %q` puts a backslash before it.
fn is_special(c: char) -> bool {
    c.is_ascii() && !c.is_ascii_alphanumeric() && !"-._/:=@%+,".contains(c)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const VALUE: &str = r#"pä&s/w+r?d "1" '<>\"#;

    fn withheld(secrets: &[(&str, &str)]) -> Withheld {
        let known = Withheld::default();
        let secrets = secrets.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        known.learn(secrets).unwrap();
        known
    }

    fn cleared(known: &Withheld, pieces: &[&[u8]]) -> Vec<u8> {
        let mut stream = known.stream();
        let mut out: Vec<u8> =
            pieces.iter().flat_map(|piece| stream.push(piece).into_owned()).collect();
        out.extend(stream.finish());
        out
    }

    #[test]
    fn a_value_is_found_in_the_usual_writings() {
        let known = withheld(&[("KEY", VALUE)]);
        for written in [
            VALUE,
            r#"\><' "1" d?r+w/s&äp"#,
            "70c3a426732f772b723f642022312220273c3e5c",
            "70C3A426732F772B723F642022312220273C3E5C",
            "p%C3%A4%26s%2Fw%2Br%3Fd%20%221%22%20%27%3C%3E%5C",
            "p%c3%a4%26s%2fw%2br%3fd%20%221%22%20%27%3c%3e%5c",
            r#"pä&s/w+r?d \"1\" '<>\\"#,
            r#"pä&s/w+r?d \\\"1\\\" '<>\\\\"#,
            "pä&amp;s/w+r?d &quot;1&quot; &#39;&lt;&gt;\\",
            "pä&amp;s/w+r?d &quot;1&quot; &#x27;&lt;&gt;\\",
            r#"pä&s/w+r?d "1" '\''<>\"#,
            r#"pä\&s/w+r\?d\ \"1\"\ \'\<\>\\"#,
        ] {
            let text = known.text(format!("before {written} after"));
            assert_eq!(text, "before [secret KEY withheld] after", "{written}");
        }
        let utf16: Vec<u8> = "a plain value".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let plain = withheld(&[("KEY", "a plain value")]);
        assert_eq!(cleared(&plain, &[&utf16]), b"[secret KEY withheld]");
    }

    #[test]
    fn base64_is_found_wherever_the_value_stands_in_what_was_written_so() {
        let known = withheld(&[("KEY", "??>>~~ secret value")]);
        // `printf %s user:VALUE | base64`, with 0 to 3 bytes before, in both alphabets.
        for (written, left) in [
            ("Pz8+Pn5+IHNlY3JldCB2YWx1ZQ==", "[secret KEY withheld]Q=="),
            ("YT8/Pj5+fiBzZWNyZXQgdmFsdWU=", "YT[secret KEY withheld]U="),
            ("YWI/Pz4+fn4gc2VjcmV0IHZhbHVl", "YWI[secret KEY withheld]"),
            ("YWJjPz8-Pn5-IHNlY3JldCB2YWx1ZQ", "YWJj[secret KEY withheld]Q"),
            ("YT8_Pj5-fiBzZWNyZXQgdmFsdWU", "YT[secret KEY withheld]U"),
            ("YWI_Pz4-fn4gc2VjcmV0IHZhbHVl", "YWI[secret KEY withheld]"),
        ] {
            assert_eq!(known.text(written.to_owned()), left);
        }
    }

    #[test]
    fn what_is_short_or_not_known_is_left_as_it_is() {
        let none = withheld(&[("PIN", "1234567")]);
        assert!(none.known().is_none());
        assert!(matches!(none.stream().push(b"1234567"), Cow::Borrowed(b"1234567")));
        assert_eq!(none.json(json!("1234567")), json!("1234567"));
        assert_eq!(none.text("1234567".to_owned()), "1234567");
        let known = withheld(&[("KEY", "12345678")]);
        assert_eq!(known.text("1234567 2345678".to_owned()), "1234567 2345678");
    }

    #[test]
    fn the_longer_of_two_values_counts_and_nothing_shows_them() {
        let known = withheld(&[("A", "password"), ("B C\"", "password-and-more")]);
        let text = known.text("password password-and-more".to_owned());
        assert_eq!(text, "[secret A withheld] [secret B_C_ withheld]");
        assert_eq!(known.finds(b"xpassword"), Some("A".to_owned()));
        assert_eq!(known.finds(b"passwor"), None);
        assert_eq!(format!("{known:?}"), r#"{"A", "B_C_"}"#);
    }

    #[test]
    fn strings_and_names_and_numbers_in_json_are_cleared() {
        let known = withheld(&[("KEY", "12345678")]);
        let value = json!({"12345678": ["a 12345678", 12_345_678, 1, null, true]});
        let marker = "[secret KEY withheld]";
        let left = json!({marker: [format!("a {marker}"), marker, 1, null, true]});
        assert_eq!(known.json(value), left);
    }

    #[test]
    fn a_marker_is_known_by_the_name_in_it() {
        let known = withheld(&[("KEY", "12345678")]);
        assert_eq!(known.holds_marker("x [secret KEY withheld] y"), Some("KEY".to_owned()));
        assert_eq!(known.holds_marker("x [secret NAME withheld] y"), None);
    }

    #[test]
    fn clones_learn_together_and_a_stream_that_runs_knows_what_it_knew() {
        let known = withheld(&[]);
        let (clone, mut before) = (known.clone(), known.stream());
        clone.learn([("KEY".to_owned(), "12345678".to_owned())]).unwrap();
        assert_eq!(known.text("12345678".to_owned()), "[secret KEY withheld]");
        assert_eq!(&*before.push(b"12345678"), b"12345678");
        clone.learn([]).unwrap();
        assert_eq!(known.text("12345678".to_owned()), "12345678");
    }

    #[test]
    fn only_what_may_be_a_beginning_is_held_back() {
        let known = withheld(&[("KEY", "sk-12345678")]);
        let mut stream = known.stream();
        assert_eq!(&*stream.push(b"all of it\n"), b"all of it\n");
        assert_eq!(&*stream.push("ä sk-1234567".as_bytes()), "ä ".as_bytes());
        assert_eq!(&*stream.push(b"9 and "), b"sk-12345679 and ");
        assert_eq!(&*stream.push(b"sk-12345678s"), b"[secret KEY withheld]");
        assert_eq!(stream.finish(), b"s");
    }

    proptest! {
        /// Few letters, so that values overlap, repeat, and lie in one another.
        #[test]
        fn every_split_gives_the_same_as_the_whole(
            values in proptest::collection::vec("[ab\\\\ä]{8,12}", 1..4),
            parts in proptest::collection::vec((0..4_usize, "[ab\\\\ä]{0,12}"), 0..8),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
        ) {
            let secrets: Vec<_> = values.iter().map(|value| ("K", value.as_str())).collect();
            let known = withheld(&secrets);
            let value = |at: usize| values.get(at).map_or("", String::as_str);
            let whole: String =
                parts.iter().flat_map(|(at, text)| [text.as_str(), value(*at)]).collect();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(whole.len() + 1)).collect();
            cuts.extend([0, whole.len()]);
            cuts.sort_unstable();
            let pieces: Vec<_> =
                cuts.windows(2).map(|cut| &whole.as_bytes()[cut[0]..cut[1]]).collect();
            let expected = known.text(whole.clone());
            prop_assert_eq!(cleared(&known, &pieces), expected.as_bytes());
            let mut stream = known.stream();
            for piece in pieces {
                stream.push(piece);
                let inner = stream.known.as_ref().unwrap();
                prop_assert!(stream.held.is_empty() || inner.begins(&stream.held));
                prop_assert!(stream.held.len() < inner.longest);
            }
            let mut stream = known.stream();
            let mut text: String =
                whole.split_inclusive('ä').map(|piece| stream.push_text(piece)).collect();
            text.push_str(&String::from_utf8(stream.finish()).unwrap());
            prop_assert_eq!(text, expected);
        }

        #[test]
        fn any_value_is_found_among_any_bytes(
            value in "\\PC{8,40}",
            before in proptest::collection::vec(any::<u8>(), 0..50),
            after in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            prop_assume!(value.len() >= SHORTEST);
            let known = withheld(&[("KEY", &value)]);
            for written in writings(&value) {
                let bytes = [&before[..], written.as_bytes(), &after].concat();
                prop_assert!(known.finds(&bytes).is_some());
            }
        }
    }
}
