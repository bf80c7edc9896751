//! Questions within the conversation, heard, asked and answered one at a time, and what goes on
//! beside it.
//!
//! Owns how they meet the rest of the conversation. What they look like, and which line is an
//! answer, is `asking`'s.

use anyhow::{Context as _, Result};
use tokio::sync::mpsc::UnboundedReceiver;

use super::{Next, Repl};
use crate::face::asking::{self, Meant, Questions, visible};
use crate::face::standing;
use crate::face::turn_view::wrapped;
use crate::organs::always::background::{Happening, Kind};
use crate::organs::link::Link;
use crate::organs::reach::asks::{Asked, Said};
use crate::organs::verb::{Answer, Verb};

impl Repl {
    /// A line that may be an answer.
    pub(super) async fn read(&mut self, line: &str, seen: u64) -> Result<Next> {
        match self.questions.meant(line, seen) {
            Meant::Line => self.line(line).await,
            Meant::Answer(id, said) => self.answer(line, id, said).await,
            Meant::Nothing(why) => {
                self.aside(why);
                Ok(Next::Prompt)
            }
        }
    }

    /// More is asked for, or what was is over.
    pub(super) fn asked(&mut self, asked: &Asked) {
        if self.questions.hear(asked) {
            self.aside(&asking::told(asked));
        }
        self.question();
    }

    fn question(&mut self) {
        let (prompt, own, screen) = (&mut self.prompt, &self.session, self.screen);
        self.questions.next(|asked| prompt.question(asking::question(asked, own, screen)));
    }

    /// A question is answered by this line.
    async fn answer(&mut self, line: &str, id: i64, said: Said) -> Result<Next> {
        if said == Said::No && !["", "n", "no"].contains(&&*line.to_lowercase()) {
            self.aside("That counts as a no, and was not sent as a message.");
        }
        let screen = self.screen;
        let next = self.beside(Verb::Answer { id, said }, move |answer| {
            let answer = answer.context("the running fledgling ended before it was answered; what was asked counts as refused")?;
            Ok(screen.dim(&wrapped(&visible(answer["said"].as_str().unwrap_or_default()), screen)))
        });
        let next = next.await;
        self.question();
        next
    }

    /// Something went on in the background.
    pub(super) fn happened(&self, happening: &Happening) {
        // A turn of this conversation is shown as such.
        let is_seen = happening.kind == Kind::Answer && happening.about == self.session;
        let text = standing::happening(happening, self.screen);
        if let Some(text) = text.filter(|_| !is_seen) {
            self.prompt.print(&text);
        }
    }

    /// Hear this conversation, from now on.
    pub(super) async fn hear(&mut self, session: String) -> Result<()> {
        self.heard = watch(&self.link, &session, !self.prompt.dumb).await?;
        self.session = session;
        self.questions = Questions::default();
        Ok(())
    }
}

/// Hear a session from now on. `answers` says whether its requests can be answered here.
pub(super) async fn watch(
    link: &Link,
    session: &str,
    answers: bool,
) -> Result<UnboundedReceiver<Answer>> {
    let mut heard = link.ask(Verb::Watch { session: session.to_owned(), answers }).await?;
    // The first answer says that nothing is missed any more. None comes from a host that
    // has just ended, which is found out with the next.
    match heard.recv().await {
        Some(Answer::Refused { why, .. }) => anyhow::bail!(why),
        _ => Ok(heard),
    }
}

/// Hear what goes on in the background from now on.
pub(super) async fn background(link: &Link) -> Result<UnboundedReceiver<Answer>> {
    link.ask(Verb::Background { terminal: true }).await
}
