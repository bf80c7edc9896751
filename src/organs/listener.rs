//! What hears a turn: the lane's watchers and the wire log.
//!
//! Owns that a turn's end is told last of all, and that no notice names a secret. Knows
//! nobody who watches.

use std::sync::Arc;

use anyhow::{Context as _, Result};

use crate::files::withheld::Withheld;
use crate::kernel::border::Listener;
use crate::kernel::event::Event;
use crate::kernel::message::{Origin, Usage};
use crate::organs::lane::{Lane, What};
use crate::organs::wirelog::Recorder;

/// Hears one turn.
pub struct Heard<'a> {
    lane: &'a Lane,
    keys: Arc<[String]>,
    /// Gone once it failed: a full disk is told once, not with each piece of a reply.
    recorder: Option<Recorder>,
    /// What the turn used, known at its end.
    pub usage: Usage,
    /// Whether somebody spoke in it who is not in front of a terminal, nor an agent.
    pub joined: bool,
    /// The turn's last event, held back until everything about the turn is settled.
    last: Option<Event>,
    withheld: Withheld,
}

impl<'a> Heard<'a> {
    /// What answers the messages with these keys.
    pub fn new(
        lane: &'a Lane,
        keys: Arc<[String]>,
        recorder: Recorder,
        withheld: Withheld,
    ) -> Self {
        let (recorder, usage) = (Some(recorder), Usage::default());
        Self { lane, keys, recorder, usage, joined: false, last: None, withheld }
    }

    /// Everything about the turn is settled: tell its last event.
    pub fn end(&mut self) {
        if let Some(event) = self.last.take() {
            self.tell(event);
        }
    }

    fn tell(&self, event: Event) {
        self.lane.tell(&self.keys, &What::Event(event));
    }

    fn record(&mut self, what: impl FnOnce(&mut Recorder) -> Result<()>) {
        let Some(recorder) = &mut self.recorder else { return };
        if let Err(error) = what(recorder).context("the wire log is incomplete") {
            self.recorder = None;
            self.tell(Event::Notice { text: format!("{error:#}.") });
        }
    }
}

impl Listener for Heard<'_> {
    fn event(&mut self, event: Event) {
        if let Event::Steered { origin, .. } = &event {
            self.joined |= matches!(origin, Origin::Other(_));
        }
        match event {
            Event::TurnEnded { usage, .. } => {
                self.usage = usage;
                self.last = Some(event);
            }
            // It may name files.
            Event::Notice { text } => {
                let text = self.withheld.text(text);
                self.tell(Event::Notice { text });
            }
            event => self.tell(event),
        }
    }

    fn sent(&mut self, body: &str) {
        self.record(|recorder| recorder.sent(body));
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.record(|recorder| recorder.raw(bytes));
    }
}
