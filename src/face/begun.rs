//! Which questions a typed line can be the answer to: those that stood on the screen when its
//! first character was typed.
//!
//! Owns that count alone: whatever was on its way when a question came answers none. Knows
//! neither questions nor answers.

use std::sync::Mutex;

use crate::organs::lane::lock;

/// The line being typed, and the questions before it.
#[derive(Debug, Default)]
pub struct Begun(Mutex<Line>);

#[derive(Debug, Default)]
struct Line {
    /// Questions on the screen.
    shown: u64,
    /// How many there were when the line was begun; none while it is empty.
    begun: Option<u64>,
}

impl Begun {
    /// One more question is on the screen.
    pub fn shown(&self) {
        lock(&self.0).shown += 1;
    }

    /// The line looks like this now.
    pub fn drawn(&self, text: &str) {
        let mut line = lock(&self.0);
        let shown = line.shown;
        line.begun = if text.is_empty() { None } else { line.begun.or(Some(shown)) };
    }

    /// Enter was pressed on it: an empty one is begun and done at once.
    pub fn entered(&self, text: &str) {
        let mut line = lock(&self.0);
        if text.is_empty() {
            line.begun = Some(line.shown);
        }
    }

    /// How many questions the line that is done may be an answer to.
    pub fn take(&self) -> u64 {
        lock(&self.0).begun.take().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(begun: &Begun, text: &str) {
        (0..=text.len()).for_each(|end| begun.drawn(&text[..end]));
    }

    #[test]
    fn what_was_begun_before_a_question_is_no_answer_to_it() {
        let begun = Begun::default();
        typed(&begun, "y");
        begun.shown();
        typed(&begun, "");
        typed(&begun, "ye");
        begun.shown();
        begun.drawn("yes");
        begun.entered("yes");
        assert_eq!(begun.take(), 1);
        assert_eq!(begun.take(), 0, "nothing was typed since");
        begun.drawn("");
        begun.entered("");
        begun.shown();
        assert_eq!(begun.take(), 2, "Enter came before the third");
        typed(&begun, "y");
        assert_eq!(begun.take(), 3);
    }
}
