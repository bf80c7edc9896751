//! A session while its host runs: one turn at a time, the rest in line, and who watches.
//!
//! Owns the line (first come, first served), the running turn's interrupter and the
//! watchers. Knows neither transcripts nor models.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::kernel::event::Event;
use crate::kernel::interrupt::{Interrupt, Interrupter, interrupt};
use crate::organs::reach::asks::Asked;

/// What a watcher hears.
#[derive(Debug, Clone)]
pub struct Heard {
    /// The keys of the messages that the turn answers.
    pub keys: Arc<[String]>,
    /// What happened.
    pub what: What,
}

/// What happened in a lane.
#[derive(Debug, Clone)]
pub enum What {
    /// Something in a turn.
    Event(Event),
    /// A request for more, when it comes and when it is over.
    Asked(Asked),
    /// A turn could not be run, and this is why and the exit code it makes.
    Failed(String, u8),
}

/// A turn under way.
#[derive(Debug)]
struct Running {
    since: Instant,
    interrupter: Interrupter,
    interrupt: Interrupt,
    keys: Arc<[String]>,
}

/// One session's lane.
#[derive(Debug, Default)]
pub struct Lane {
    /// Held by whoever runs a turn; fair, so that turns run in the order of asking.
    pub gate: tokio::sync::Mutex<()>,
    /// Whether it was said what of the transcript cannot be read: once is enough.
    told: AtomicBool,
    running: Mutex<Option<Running>>,
    /// Each with whether somebody is there who can answer.
    watchers: Mutex<Vec<(UnboundedSender<Heard>, bool)>>,
}

impl Lane {
    /// Whether this is the first time that the transcript's faults are to be told.
    pub fn first_telling(&self) -> bool {
        !self.told.swap(true, Ordering::Relaxed)
    }

    /// Hear everything from now on. `answers` says whether requests can be answered.
    pub fn watch(&self, answers: bool) -> UnboundedReceiver<Heard> {
        let (sender, receiver) = unbounded_channel();
        lock(&self.watchers).push((sender, answers));
        receiver
    }

    /// Whether a watcher is there who can answer requests.
    pub fn is_answered(&self) -> bool {
        lock(&self.watchers).iter().any(|(watcher, answers)| *answers && !watcher.is_closed())
    }

    /// Tell all watchers.
    pub fn tell(&self, keys: &Arc<[String]>, what: &What) {
        let heard = || Heard { keys: keys.clone(), what: what.clone() };
        lock(&self.watchers).retain(|(watcher, _)| watcher.send(heard()).is_ok());
    }

    /// Tell all watchers something that belongs to the running turn.
    pub fn tell_now(&self, what: &What) {
        let keys = lock(&self.running).as_ref().map(|running| running.keys.clone());
        self.tell(&keys.unwrap_or_else(|| [].into()), what);
    }

    /// Nothing more happens here: whoever watches hears that by the channel's end.
    pub fn dismiss(&self) {
        lock(&self.watchers).clear();
    }

    /// A turn that answers these messages begins: what interrupts it.
    pub fn begin(&self, keys: &Arc<[String]>) -> Interrupt {
        let (interrupter, interrupt) = interrupt();
        let (since, keys) = (Instant::now(), keys.clone());
        let told = interrupt.clone();
        *lock(&self.running) = Some(Running { since, interrupter, interrupt: told, keys });
        interrupt
    }

    /// The turn is over.
    pub fn finish(&self) {
        *lock(&self.running) = None;
    }

    /// Interrupt the running turn. Whether there was one.
    pub fn stop(&self) -> bool {
        self.stop_if(|_| true)
    }

    /// Interrupt the running turn when it answers the message with this key. Whether it does.
    pub fn stop_answering(&self, key: &str) -> bool {
        self.stop_if(|keys| keys.iter().any(|one| one == key))
    }

    fn stop_if(&self, wanted: impl Fn(&[String]) -> bool) -> bool {
        let running = lock(&self.running);
        running.as_ref().filter(|running| wanted(&running.keys)).is_some_and(|running| {
            running.interrupter.raise();
            true
        })
    }

    /// Whether the turn that runs has been told to stop.
    pub fn is_stopping(&self) -> bool {
        lock(&self.running).as_ref().is_some_and(|running| running.interrupt.raised())
    }

    /// Whether a turn runs now.
    pub fn busy(&self) -> bool {
        lock(&self.running).is_some()
    }

    /// Seconds the running turn has taken so far.
    pub fn seconds(&self) -> Option<u64> {
        lock(&self.running).as_ref().map(|running| running.since.elapsed().as_secs())
    }
}

/// A panic elsewhere leaves these values whole: each change is one assignment.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
