//! What comes in pieces, cut into lines.
//!
//! Owns how long a line may be. Knows nothing of what stands in it.

/// Lines on their way.
#[derive(Debug)]
pub struct Cutter {
    limit: usize,
    line: Vec<u8>,
    /// Bytes of this line that were left out.
    cut: usize,
}

/// A whole line, without its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// What it says; bytes that are no text are replaced.
    pub text: String,
    /// Bytes at its end that were too many.
    pub cut: usize,
}

impl Cutter {
    /// For lines of so many bytes at most. What a longer one says after that is left out.
    pub fn new(limit: usize) -> Self {
        Self { limit, line: Vec::new(), cut: 0 }
    }

    /// Take the next piece: the lines that end in it.
    pub fn push(&mut self, piece: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        let mut rest = piece;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            self.take(&rest[..end]);
            lines.push(self.line());
            rest = &rest[end + 1..];
        }
        self.take(rest);
        lines
    }

    /// Nothing more comes: a line that has not ended, if there is one.
    pub fn finish(&mut self) -> Option<Line> {
        (!self.line.is_empty()).then(|| self.line())
    }

    fn take(&mut self, bytes: &[u8]) {
        let room = self.limit - self.line.len();
        let (fits, over) = bytes.split_at(bytes.len().min(room));
        self.line.extend_from_slice(fits);
        self.cut += over.len();
    }

    fn line(&mut self) -> Line {
        let bytes = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Line { text, cut: std::mem::take(&mut self.cut) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn line(text: &str, cut: usize) -> Line {
        Line { text: text.to_owned(), cut }
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_the_next_is_whole() {
        let mut cutter = Cutter::new(4);
        assert_eq!(cutter.push(b"one\n\nth"), [line("one", 0), line("", 0)]);
        assert_eq!(cutter.push(b"ree, f"), []);
        assert_eq!(cutter.push(b"our\nfive"), [line("thre", 7)]);
        assert_eq!(cutter.finish(), Some(line("five", 0)));
        assert_eq!(cutter.finish(), None);
    }

    proptest! {
        #[test]
        fn lines_are_the_same_however_they_come(
            text in "[a-cä\n]{0,60}", pieces in prop::collection::vec(1_usize..9, 1..9)
        ) {
            let mut cutter = Cutter::new(1000);
            let (mut lines, mut rest) = (Vec::new(), text.as_bytes());
            for size in pieces.into_iter().cycle().take(60) {
                let (piece, after) = rest.split_at(size.min(rest.len()));
                lines.extend(cutter.push(piece));
                rest = after;
            }
            lines.extend(cutter.push(rest));
            lines.extend(cutter.finish());
            let expected: Vec<_> = text.split_terminator('\n').map(|text| line(text, 0)).collect();
            prop_assert_eq!(lines, expected);
        }
    }
}
