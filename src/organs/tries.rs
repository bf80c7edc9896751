//! What is tried in folders of its own for whoever asks, as long as they wait for it.
//!
//! Owns that it ends with whoever asked, and what a command has to do with that is tried on
//! earlier states. Knows neither sockets nor how a search goes.

use std::sync::Arc;

use anyhow::Result;
use tokio::sync::mpsc::UnboundedSender;

use crate::kernel::event::Event;
use crate::kernel::interrupt::{Interrupt, interrupt};
use crate::organs::asked::blocking;
use crate::organs::history::ask::Culprit;
use crate::organs::history::bisect::{self, Commanded, Search};
use crate::organs::history::chronicle::{Chronicle, Entry};
use crate::organs::host::Host;
use crate::organs::verb::{Answer, Caller};

impl Host {
    /// Find the change since which a command fails.
    pub(super) async fn bisect(
        self: &Arc<Self>,
        caller: &Caller,
        command: String,
        good: Option<String>,
        answers: &UnboundedSender<Answer>,
    ) -> Result<Culprit> {
        let (snapshots, branch) = self.checkout(caller).await?;
        // What it does elsewhere is its session's.
        let writing = match caller {
            Caller::Owner => None,
            Caller::Hand(session) => Some(snapshots.writers().writes(session, true)),
        };
        let home = self.home().clone();
        // No door is there: in its commands `fledgling` reaches nobody, and not the owner's door
        // either.
        // Who asks gets no further by it than in a command of its own.
        let session = match caller {
            Caller::Owner => None,
            Caller::Hand(session) => Some(session.as_str()),
        };
        let mut policy = self.policy(&home.doors().join(".none"), &home.scratch(), session)?;
        policy.workspace = home.workspace();
        let heard = answers.clone();
        self.until_left(answers, move |interrupt| {
            let _writing = writing;
            let chronicle = Chronicle::on(home.path(), &branch)?;
            let repository = chronicle.repository();
            let (policy, command) = (&policy, &*command);
            let search = Search {
                repository,
                branch: &branch,
                trial: &Commanded { repository, policy, command, interrupt },
                good: good.as_deref(),
                interrupt,
                logged: &|commit| chronicle.logged(&Entry::read(commit.clone()), false),
            };
            bisect::bisect(&search, &mut |text| {
                let _ = heard.send(Answer::Event(Event::Notice { text }));
            })
        })
        .await
    }

    /// Returns when nothing is tried any more for whoever has gone.
    pub async fn tried(&self) {
        drop(self.tries.write().await);
    }

    /// Do this on a thread that may block, until the asker goes.
    pub(super) async fn until_left<T: Send + 'static>(
        &self,
        answers: &UnboundedSender<Answer>,
        work: impl FnOnce(&Interrupt) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _trying = self.tries.read().await;
        let (interrupter, interrupt) = interrupt();
        let work = blocking(move || work(&interrupt));
        tokio::pin!(work);
        tokio::select! {
            done = &mut work => return done,
            () = answers.closed() => interrupter.raise(),
        }
        work.await
    }
}
