//! Watching a session: everything that happens in it, until the watcher goes.
//!
//! Owns that nothing is missed between the question and the first answer. Knows neither what
//! happens nor who looks on.

use std::sync::Arc;

use anyhow::Result;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::organs::host::{Ending, Host, Phase};
use crate::organs::lane::{Heard, Lane, What};
use crate::organs::verb::Answer;

impl Host {
    /// Tell a watcher everything that happens in a session, until it goes.
    pub(super) async fn watch_for(
        &self,
        session: &str,
        able: bool,
        answers: &UnboundedSender<Answer>,
    ) -> Result<()> {
        let (lane, mut heard) = self.watch(session, able)?;
        let begun = serde_json::json!({ "running": lane.busy() });
        let _ = answers.send(Answer::Value(begun));
        for asked in self.state.open_asks(session)? {
            let _ = answers.send(Answer::Asked(asked));
        }
        loop {
            let heard = tokio::select! {
                heard = heard.recv() => heard.ok_or(Ending)?,
                () = answers.closed() => return Ok(()),
            };
            let answer = match heard.what {
                What::Event(event) => Answer::Event(event),
                What::Asked(asked) => Answer::Asked(asked),
                What::Failed(..) => continue,
            };
            let _ = answers.send(answer);
        }
    }

    /// Tell a watcher everything that goes on without anybody asking, until it goes. First, on
    /// a terminal, what words the owner has not seen.
    pub(super) async fn watch_background(
        &self,
        terminal: bool,
        answers: &UnboundedSender<Answer>,
    ) -> Result<()> {
        let mut heard = self.always.background.watch(terminal);
        anyhow::ensure!(self.phase() < Phase::Closed, Ending);
        let unread = if terminal { self.unread()? } else { Vec::new() };
        let _ = answers.send(Answer::Value(serde_json::json!({ "unread": unread.len() })));
        for happening in unread {
            let _ = answers.send(Answer::Happened(happening));
        }
        loop {
            let happening = tokio::select! {
                happening = heard.recv() => happening.ok_or(Ending)?,
                () = answers.closed() => return Ok(()),
            };
            let _ = answers.send(Answer::Happened(happening));
        }
    }

    /// The lane of a session, and everything in it from now on, until the host ends.
    pub(super) fn watch(
        &self,
        session: &str,
        answers: bool,
    ) -> Result<(Arc<Lane>, UnboundedReceiver<Heard>)> {
        let lane = self.lane(session);
        let heard = lane.watch(answers);
        // In this order: a host that closes later finds the watcher.
        anyhow::ensure!(self.phase() < Phase::Closed, Ending);
        Ok((lane, heard))
    }
}
