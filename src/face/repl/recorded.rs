//! The conversation in the terminal, recorded while it goes on.
//!
//! Owns when the recording is written anew: whenever a turn has ended. Does not know what is
//! in it.

use anyhow::Result;
use serde_json::Value;

use super::Repl;
use crate::kernel::event::Event;

impl Repl {
    /// Keep what is recorded up to date.
    pub(super) async fn record(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::TurnStarted { session, turn, .. } => self.recorder.began(session, *turn),
            Event::TurnEnded { session, .. } => {
                if let Some(verb) = self.recorder.wants(session) {
                    let recorder = self.recorder.clone();
                    let keep = move |answer: Option<Value>| {
                        answer.map_or(Ok(()), |answer| recorder.keep(&answer))?;
                        Ok(String::new())
                    };
                    self.beside(verb, keep).await?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}
