//! What is asked of the host from the conversation in the terminal, while that goes on.
//!
//! Owns that what was said is said again where a host ended without a last word on it. What
//! happens because of it is heard by watching, elsewhere.

use anyhow::Result;
use serde_json::Value;

use super::{Next, Repl};
use crate::face::turn_view::wrapped;
use crate::face::{attached, commands, views};
use crate::organs::verb::{self, Verb};

/// What was said to a host that ended without a last word on it. Its key makes it safe to
/// say it again.
pub(super) struct Unheard {
    pub(super) verb: Verb,
    /// How many hosts had ended before it was said.
    pub(super) hosts: usize,
}

impl Repl {
    /// Say something: it begins a turn, or steers the one that runs.
    pub(super) async fn say(&mut self, text: String) -> Result<Next> {
        let key = verb::fresh_key();
        let (session, model) = (Some(self.session.clone()), self.model.clone());
        self.mine.push(text.clone());
        let (files, line) = attached::here(&text);
        line.iter().map(String::as_str).for_each(|line| self.aside(line));
        let (steer, branch, only) = (true, None, None);
        self.send(Verb::Run { session, text, key, model, steer, branch, only, files }).await
    }

    /// Ask for a turn. What happens in it is heard by watching; here only a refusal counts,
    /// and a host that ends without a last word: then it is asked for again.
    pub(super) async fn send(&self, verb: Verb) -> Result<Next> {
        let (lost, hosts, again) = (self.lost.clone(), self.hosts, verb.clone());
        self.beside(verb, move |answer| {
            if answer.is_none() {
                let _ = lost.send(Unheard { verb: again, hosts });
            }
            Ok(String::new())
        })
        .await
    }

    /// Ask the host while the conversation goes on, and tell what the answer is shown as.
    pub(super) async fn beside<S>(&self, verb: Verb, shown: S) -> Result<Next>
    where
        S: FnOnce(Option<Value>) -> Result<String> + Send + 'static,
    {
        let mut answers = self.link.ask(verb).await?;
        let (tell, screen, busy) = (self.tell.clone(), self.screen, self.prompt.busy.clone());
        tokio::spawn(async move {
            let aside = |text: &str| _ = tell.send(screen.dim(&wrapped(text, screen)));
            let told = views::answer(&mut answers, aside).await.and_then(shown);
            drop(busy);
            let text = told.unwrap_or_else(|error| commands::complaint(&error, screen));
            if !text.is_empty() {
                // Nobody is left to be told when the conversation is over.
                let _ = tell.send(text);
            }
        });
        Ok(Next::Later)
    }
}
