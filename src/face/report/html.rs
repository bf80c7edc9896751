//! Markup that can only be made escaped.
//!
//! Owns the one way from text to a page: text becomes text, whatever stands in it, and what
//! nobody would see, or what would reorder a line, is spelled out. Names of elements and
//! attributes are this program's own. Does not know what a page is about.

use crate::files::visible::invisible;

/// Where joiners begin to mean something: in no script before Hebrew do they.
const JOINED: char = '\u{590}';

/// A piece of a page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Html(String);

impl Html {
    /// Markup that stands in the program.
    pub fn fixed(markup: &'static str) -> Self {
        Self(markup.to_owned())
    }

    /// An element.
    pub fn element(
        name: &'static str,
        attributes: &[(&'static str, &str)],
        inside: impl Into<Self>,
    ) -> Self {
        let Self(mut out) = Self::void(name, attributes);
        out += &inside.into().0;
        out += &format!("</{name}>");
        Self(out)
    }

    /// An element that holds nothing, as HTML knows a few.
    pub fn void(name: &'static str, attributes: &[(&'static str, &str)]) -> Self {
        let mut out = format!("<{name}");
        for (attribute, value) in attributes {
            out += &format!(" {attribute}=\"");
            escape(value, &mut out);
            out.push('"');
        }
        out.push('>');
        Self(out)
    }

    /// An element without attributes.
    pub fn plain(name: &'static str, inside: impl Into<Self>) -> Self {
        Self::element(name, &[], inside)
    }

    /// An element of a class.
    pub fn classed(name: &'static str, class: &str, inside: impl Into<Self>) -> Self {
        Self::element(name, &[("class", class)], inside)
    }

    /// A link to another place of the page: there are no others.
    pub fn link(place: &str, inside: impl Into<Self>) -> Self {
        Self::element("a", &[("href", &format!("#{place}"))], inside)
    }

    /// Put more behind it.
    pub fn push(&mut self, more: impl Into<Self>) {
        self.0 += &more.into().0;
    }

    /// Its bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The page, once it is whole.
    pub fn into_page(self) -> String {
        self.0
    }
}

impl From<&str> for Html {
    fn from(text: &str) -> Self {
        let mut out = String::with_capacity(text.len());
        escape(text, &mut out);
        Self(out)
    }
}

impl From<String> for Html {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl<const COUNT: usize> From<[Html; COUNT]> for Html {
    fn from(pieces: [Html; COUNT]) -> Self {
        pieces.into_iter().collect()
    }
}

impl FromIterator<Html> for Html {
    fn from_iter<T: IntoIterator<Item = Html>>(pieces: T) -> Self {
        pieces.into_iter().fold(Self::default(), |mut all, piece| {
            all.0 += &piece.0;
            all
        })
    }
}

fn escape(text: &str, out: &mut String) {
    let mut before = '\0';
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            // Unicode has a picture of each of these.
            '\0'..='\u{1f}' => out.extend(char::from_u32(0x2400 + u32::from(c))),
            '\u{7f}' => out.push('␡'),
            '\u{200c}'..='\u{200d}' if before >= JOINED => out.push(c),
            _ if is_unseen(c) => out.push_str(&format!("⟨U+{:04X}⟩", u32::from(c))),
            _ => out.push(c),
        }
        before = c;
    }
}

fn is_unseen(c: char) -> bool {
    let breaks = matches!(c, '\u{200c}'..='\u{200d}' | '\u{2028}'..='\u{2029}');
    c.is_control() || invisible(c) || breaks
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_stays_text() {
        for (text, shown) in [
            ("<script>alert('x')</script>", "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;"),
            ("\"><img onerror=x>&amp;", "&quot;&gt;&lt;img onerror=x&gt;&amp;amp;"),
            ("a\tb\nc\rd\0e\u{7f}f\x1b[2J", "a\tb\nc␍d␀e␡f␛[2J"),
            ("exe.\u{202e}gpj", "exe.⟨U+202E⟩gpj"),
            ("a\u{200d}b é\u{85}\u{2028}\u{feff}", "a⟨U+200D⟩b é⟨U+0085⟩⟨U+2028⟩⟨U+FEFF⟩"),
            ("👩\u{200d}👧 ❤\u{fe0f} می\u{200c}خ", "👩\u{200d}👧 ❤\u{fe0f} می\u{200c}خ"),
        ] {
            assert_eq!(Html::from(text).into_page(), shown, "{text:?}");
        }
        let link = Html::link("x\" onclick=\"y", [Html::from("<"), Html::plain("b", "&")]);
        let shown = "<a href=\"#x&quot; onclick=&quot;y\">&lt;<b>&amp;</b></a>";
        assert_eq!(link.into_page(), shown);
    }

    proptest! {
        #[test]
        fn no_text_opens_or_closes_anything(text in any::<String>()) {
            let shown = Html::from(text.as_str()).into_page();
            prop_assert!(!shown.contains(['<', '>', '"', '\'']));
            prop_assert!(!shown.chars().any(|c| c.is_control() && c != '\n' && c != '\t'));
            prop_assert!(!shown.chars().any(invisible));
        }
    }
}
