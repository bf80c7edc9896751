//! What goes on without a terminal: a schedule, services, and chats with the owner.
//!
//! An organ: without it the loop lives, and answers whoever asks. Only a host that stays
//! (`serve`, or an open conversation) has it running; reminders and words to the owner can be
//! left with any host, and are kept for the next that stays. Knows no terminal.

pub mod background;
pub mod budget;
pub mod channels;
pub mod hot;
pub mod load;
pub mod outbox;
pub mod plan;
pub mod reminders;
pub mod runs;
pub mod schedule;
pub mod services;
pub mod shrink;
pub mod status;
pub mod unattended;
pub mod workers;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::organs::always::background::{Background, Kind};
use crate::organs::always::channels::desk::Desk;
use crate::organs::always::load::Loaded;
use crate::organs::always::runs::Runs;
use crate::organs::always::schedule::clock::Clock;
use crate::organs::always::unattended::Unattended;
use crate::organs::always::workers::Workers;
use crate::organs::host::Host;
use crate::organs::lane::lock;

/// How often what piles up is taken away.
const SWEEP: Duration = Duration::from_secs(24 * 60 * 60);

/// What a host keeps of all this.
#[derive(Default)]
pub struct Always {
    /// What time it is.
    pub clock: Clock,
    /// Who looks on.
    pub background: Background,
    /// Jobs and services that run.
    pub workers: Workers,
    /// Turns that run and are unattended.
    pub unattended: Unattended,
    /// What of the last commit is in force.
    pub loaded: Mutex<Loaded>,
    /// The jobs under way.
    pub runs: Runs,
    /// The services, and the channels among them.
    pub desk: Desk,
    /// Told once it is known what is in force.
    pub ready: Notify,
    /// Told when something may be due sooner than was known.
    pub wake: Notify,
    /// Told when there may be a new commit.
    pub look: Notify,
    /// Told when there are new words to deliver.
    pub mail: Notify,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    /// The one that hears services: it ends by itself, when nothing more comes.
    hearing: Mutex<Option<JoinHandle<()>>>,
}

impl Host {
    /// Run the schedule, the services and the channels until the host ends.
    pub(in crate::organs) fn stay(self: &Arc<Self>) {
        let mut tasks = lock(&self.always.tasks);
        // First, so that services have somebody who hears them.
        if let Some(events) = self.open_desk() {
            *lock(&self.always.hearing) = Some(tokio::spawn(self.clone().keep_desk(events)));
        }
        tasks.push(tokio::spawn(self.clone().keep_loaded()));
        tasks.push(tokio::spawn(self.clone().keep_watching()));
        tasks.push(tokio::spawn(self.clone().keep_time()));
        tasks.push(tokio::spawn(self.clone().keep_swept()));
        drop(tasks);
        if let Err(error) = self.wake_all() {
            self.fault(Kind::Host, "", &format!("What waits cannot be read: {error:#}"));
        }
    }

    /// What piles up goes while the host lives, too: it may live for months.
    async fn keep_swept(self: Arc<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.sweep();
        }
    }

    /// End all that runs without a terminal, and wait for it.
    pub(in crate::organs) async fn stop_staying(&self) {
        let tasks = std::mem::take(&mut *lock(&self.always.tasks));
        for task in tasks {
            task.abort();
        }
        self.always.runs.stop().await;
        self.always.desk.stop().await;
        self.always.mail.notify_one();
        let desk = lock(&self.always.hearing).take();
        if let Some(desk) = desk {
            let _ = desk.await;
        }
        self.always.background.dismiss();
    }
}
