//! What goes on without anybody having asked just now, told to whoever looks on.
//!
//! Owns who looks on (the log of `serve`, attached terminals) and the latest faults, for
//! `fledgling status`. Knows nothing of what happens.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::organs::lane::lock;

/// Faults that are remembered, and happenings that nobody has seen.
const FAULTS: usize = 20;

/// What a happening is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The host itself.
    Host,
    /// A turn that nobody in front of a terminal asked for.
    Turn,
    /// A job of the schedule.
    Job,
    /// A reminder.
    Reminder,
    /// A service.
    Service,
    /// A channel: messages and people.
    Channel,
    /// Words for the owner.
    Tell,
    /// The last words of a turn, for the owner: they do not need them who saw the turn.
    Answer,
    /// The budget of unattended turns.
    Budget,
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Host => "host",
            Self::Turn => "turn",
            Self::Job => "job",
            Self::Reminder => "reminder",
            Self::Service => "service",
            Self::Channel => "channel",
            Self::Tell | Self::Answer => "message",
            Self::Budget => "budget",
        })
    }
}

/// Something that went on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happening {
    /// What it is about.
    pub kind: Kind,
    /// Which job, service, channel or session; may be empty.
    pub about: String,
    /// What happened, in a sentence or, for words to the owner, the words.
    pub text: String,
    /// Whether something is wrong.
    pub fault: bool,
    /// Whether it is for the log, and too little to be shown to a person at once.
    #[serde(default)]
    pub quiet: bool,
    /// When, in local time.
    pub at: String,
}

/// Those who look on.
#[derive(Debug, Default)]
pub struct Background {
    watchers: Mutex<Vec<(UnboundedSender<Happening>, bool)>>,
    /// What happened before anybody could look on.
    early: Mutex<VecDeque<Happening>>,
    faults: Mutex<VecDeque<Happening>>,
}

impl Background {
    /// Hear everything from now on, and what happened while nobody looked on. `terminal` says
    /// whether it is shown to a person.
    pub fn watch(&self, terminal: bool) -> UnboundedReceiver<Happening> {
        let (sender, receiver) = unbounded_channel();
        let mut watchers = lock(&self.watchers);
        for happening in std::mem::take(&mut *lock(&self.early)) {
            // A terminal gets words to the owner in another way.
            if !(terminal && matches!(happening.kind, Kind::Tell | Kind::Answer)) {
                let _ = sender.send(happening);
            }
        }
        watchers.push((sender, terminal));
        receiver
    }

    /// Whether a person sees what happens.
    pub fn is_shown(&self) -> bool {
        lock(&self.watchers).iter().any(|(watcher, terminal)| *terminal && !watcher.is_closed())
    }

    /// Tell all who look on.
    pub fn tell(&self, happening: &Happening) {
        if happening.fault {
            self.remember(happening.clone());
        }
        let mut watchers = lock(&self.watchers);
        if watchers.is_empty() {
            let mut early = lock(&self.early);
            early.push_back(happening.clone());
            if early.len() > FAULTS {
                early.pop_front();
            }
        }
        watchers.retain(|(watcher, _)| watcher.send(happening.clone()).is_ok());
    }

    /// Remember something that is wrong, of which everybody is told in another way.
    pub fn remember(&self, fault: Happening) {
        let mut faults = lock(&self.faults);
        faults.push_back(fault);
        if faults.len() > FAULTS {
            faults.pop_front();
        }
    }

    /// The latest faults, oldest first.
    pub fn faults(&self) -> Vec<Happening> {
        lock(&self.faults).iter().cloned().collect()
    }

    /// Nothing more happens: whoever looks on hears that by the channel's end.
    pub fn dismiss(&self) {
        lock(&self.watchers).clear();
    }
}
