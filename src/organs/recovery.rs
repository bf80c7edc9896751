//! What a killed host left: turns that were under way, messages that wait.
//!
//! Owns what becomes of them before anything else is done. Knows no request.

use anyhow::Result;

use crate::kernel::event::End;
use crate::kernel::message::Usage;
use crate::kernel::session::Session;
use crate::organs::host::Host;

/// What the end of a turn says that a kill cut short.
pub(super) const CUT_SHORT: &str = "the program ended in the middle of it";

impl Host {
    /// Close the turns that a killed host left open: their transcripts, their changes. `alone`
    /// says whether all that they started has ended.
    pub(super) async fn recover(&self, alone: bool) -> Result<()> {
        let unfinished = self.state.unfinished()?;
        if !alone {
            self.notice("Something that an earlier turn started does not end; what it still changes is recorded with the next turn.".to_owned());
        }
        let changes = self.take_in_interrupted(&unfinished, alone).await;
        for ((session, turn), changes) in unfinished.into_iter().zip(changes) {
            let path = self.settings.home.transcript(&session);
            if let Ok(mut transcript) = Session::open(&path)
                && transcript.open_turn() == Some(turn)
            {
                let why = CUT_SHORT;
                // First: after it the turn is over, also for the next start.
                let then = match self.go_on_with(&session, turn) {
                    Ok(true) => "it is gone on with".to_owned(),
                    Ok(false) => "say \"go on\" to continue".to_owned(),
                    Err(error) => format!("it cannot be gone on with: {error:#}"),
                };
                transcript.record_note(&format!("The turn was interrupted: {why}."))?;
                transcript.record_end(End::Interrupted, why, changes, Usage::default())?;
                self.notice(format!(
                    "Turn {turn} of session {session} was interrupted: {why}. What it had finished is kept; {then}."
                ));
            } else if path.exists() {
                // It had ended, but perhaps nobody has its words yet, or has it gone on with.
                if let Err(error) = self.pass_on(&session, turn) {
                    self.notice(format!(
                        "What session {session} said last is not passed on: {error:#}."
                    ));
                }
            }
            // What could not be saved is the next start's to take in.
            if !self.snapshots.writers().owes(&session) {
                self.state.finish(&session)?;
            }
        }
        for (session, _) in self.state.backlog()? {
            self.drop_answered(&session)?;
        }
        for (session, count) in self.state.backlog()? {
            let what = if count == 1 {
                "1 message waits".to_owned()
            } else {
                format!("{count} messages wait")
            };
            self.notice(format!(
                "{what} in session {session} and will be answered with the next one."
            ));
        }
        Ok(())
    }

    /// Drop what waits for a session though it will not be answered any more: a kill left it
    /// in the transcript too, or the session was ended.
    fn drop_answered(&self, session: &str) -> Result<()> {
        let Ok(transcript) = Session::open(&self.settings.home.transcript(session)) else {
            return Ok(());
        };
        let mut waiting = self.state.waiting(session)?;
        waiting.retain(|one| transcript.ended() || transcript.holds(&one.incoming.key));
        waiting.iter().try_for_each(|one| self.state.taken(&one.incoming.key))
    }
}
