//! When the history is backed up: when the owner asks, and after turns.
//!
//! Owns that there is one backup at a time, that none holds up the end of this process for
//! long, and that the next start tells of one that failed. Knows neither git nor what a
//! backup is.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Mutex, Notify};

use crate::kernel::interrupt::interrupt;
use crate::organs::config::is_absent;
use crate::organs::history::ask::Backed;
use crate::organs::history::backup;
use crate::organs::host::Host;
use crate::organs::verb::Answer;

/// The file that says that the last backup failed, in the home.
const FAILED: &str = "backup.failed";
/// How long a backup under way is waited for when this process ends.
const PATIENCE: Duration = Duration::from_secs(30);

/// The backups of a host.
#[derive(Default)]
pub(super) struct Backups {
    /// Held by the one that is under way.
    one: Arc<Mutex<()>>,
    /// Whether another one is due.
    again: AtomicBool,
    /// Told when this process will not wait any longer.
    stop: Notify,
}

impl Host {
    /// Back up at once, until the asker goes.
    pub(super) async fn back_up(
        self: &Arc<Self>,
        to: Option<String>,
        answers: &UnboundedSender<Answer>,
    ) -> Result<Backed> {
        let usual = self.settings.config.history.backup.clone();
        let to = to.or_else(|| usual.clone()).context(
            "nowhere to back up to: name a git remote or a folder, or set backup under [history] in config.toml",
        )?;
        let one = self.backups.one.lock().await;
        let backed = self.push(&to, answers.closed()).await;
        drop(one);
        // A turn that ended meanwhile left its own to this one, which may be one elsewhere.
        if self.backups.again.swap(false, Ordering::AcqRel) {
            self.back_up_soon();
        }
        let backed = backed?;
        if usual == Some(to) {
            let failed = self.home().file(FAILED);
            fs::remove_file(failed)
                .or_else(|error| if is_absent(&error) { Ok(()) } else { Err(error) })?;
        }
        Ok(backed)
    }

    /// After a turn: push to where config.toml says, if it does. Nobody waits for it but the
    /// end of this process.
    pub(super) fn back_up_soon(self: &Arc<Self>) {
        let Some(to) = self.settings.config.history.backup.clone() else { return };
        let host = self.clone();
        // Taken here, so that whoever ends this process waits.
        let Ok(one) = self.backups.one.clone().try_lock_owned() else {
            // The one under way may have begun before this turn's commit: once more after it.
            self.backups.again.store(true, Ordering::Release);
            return;
        };
        tokio::spawn(async move {
            let _one = one;
            loop {
                host.backups.again.store(false, Ordering::Release);
                let failed = host.home().file(FAILED);
                let kept = match host.push(&to, std::future::pending()).await {
                    Ok(_) if failed.exists() => fs::remove_file(&failed),
                    Ok(_) => Ok(()),
                    Err(error) => fs::write(&failed, format!("{error:#}\n")),
                };
                // It is told by the next start; a disk that is full tells itself elsewhere.
                let _ = kept;
                if !host.backups.again.load(Ordering::Acquire) {
                    return;
                }
            }
        });
    }

    /// Push, unless it is not wanted any more.
    async fn push(&self, to: &str, unwanted: impl Future<Output = ()>) -> Result<Backed> {
        let (home, hands, to) = (self.home().clone(), self.hands.clone(), to.to_owned());
        let (interrupter, interrupt) = interrupt();
        let reach = self.reach().clone();
        let push = move || backup::backup(&home, &to, &reach, &hands, &interrupt);
        let mut pushing = tokio::task::spawn_blocking(push);
        // Git may repeat what it was told, and what it says is kept.
        let clear = |error| anyhow!(self.withheld.text(format!("{error:#}")));
        let why = tokio::select! {
            pushed = &mut pushing => return pushed.context("it was broken off")?.map_err(clear),
            () = unwanted => "whoever asked for it went away",
            () = self.backups.stop.notified() => "the program ended, and it took too long",
        };
        interrupter.raise();
        pushing.await.context("it was broken off")?.context(why)
    }

    /// Returns when no backup is under way: a remote may hang, so in time it is broken off.
    pub(super) async fn backed_up(&self) {
        if tokio::time::timeout(PATIENCE, self.backups.one.lock()).await.is_err() {
            self.backups.again.store(false, Ordering::Release);
            self.backups.stop.notify_one();
            let _ = self.backups.one.lock().await;
        }
    }

    /// Whether a backup is under way.
    pub fn backs_up(&self) -> bool {
        self.backups.one.try_lock().is_err()
    }

    /// Why the last backup failed, if it did.
    pub(super) fn backup_failure(&self) -> Option<String> {
        let said = fs::read_to_string(self.home().file(FAILED)).ok()?;
        Some(format!("The last backup failed: {}", said.trim_end()))
    }
}
