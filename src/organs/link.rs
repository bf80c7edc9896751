//! The way from a command to the host: in this process, behind the owner's door, or behind
//! a hand's.
//!
//! Owns who becomes the host: whoever comes first takes the lock and hosts for its own
//! lifetime; everybody else goes through the door. Knows no request.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::organs::door;
use crate::organs::hand_door;
use crate::organs::host::{Host, Settings};
use crate::organs::reach::root::OFF;
use crate::organs::reach::settings::Confine;
use crate::organs::verb::{Answer, Caller, Verb};

/// The variable that tells a command it runs inside a hand, and where its door is.
pub const DOOR_VARIABLE: &str = "FLEDGLING_DOOR";

/// A way to a host.
pub enum Link {
    /// This process is the host.
    Own(Arc<Host>, door::Open),
    /// Another process is.
    Door(Box<Settings>),
    /// This process runs inside a hand.
    Hand(PathBuf),
}

/// A host that has just taken the lock may need this long before its door is open, and a
/// client this long before it has read its answer.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);

impl Link {
    /// Find the host, or become it.
    pub async fn establish(settings: impl FnOnce() -> Result<Settings>) -> Result<Self> {
        if let Some(folder) = std::env::var_os(DOOR_VARIABLE) {
            return Ok(Self::Hand(folder.into()));
        }
        Self::outside(settings()?).await
    }

    async fn outside(settings: Settings) -> Result<Self> {
        let home = settings.home.clone();
        let started = tokio::time::Instant::now();
        // The folder must be there for its lock.
        home.create_root()?;
        loop {
            if let Some(lock) = home.lock()? {
                let host = Host::open(settings, lock).await?;
                let open = door::open(&host, &home)?;
                if host.stays() {
                    host.stay();
                }
                return Ok(Self::Own(host, open));
            }
            let probe = async {
                Ok::<_, io::Error>(
                    door::ask(&home, Verb::Usage { since: None, days: None }).await?.recv().await,
                )
            };
            let why = match tokio::time::timeout(PATIENCE, probe).await {
                Ok(Ok(Some(Answer::Refused { why, .. }))) => anyhow::bail!(why),
                Ok(Ok(Some(_))) => return Ok(Self::Door(Box::new(settings))),
                // It is starting, or ending: then the lock is free in a moment.
                Ok(Ok(None)) => "it hung up".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("nothing came for {} s", PATIENCE.as_secs()),
            };
            anyhow::ensure!(
                started.elapsed() < PATIENCE,
                "another process hosts {} (it holds host.lock) but its door host.sock does not answer: {why}; end that process and try again",
                home.path().display()
            );
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Ask the host. A channel that closes without a last word means that the host ended.
    pub async fn ask(&self, verb: Verb) -> Result<UnboundedReceiver<Answer>> {
        match self {
            Self::Own(host, _) => Ok(host.ask(Caller::Owner, verb)),
            Self::Door(settings) => match door::ask(&settings.home, verb).await {
                // It ended since it was found.
                Err(error) if is_gone(&error) => Ok(unbounded_channel().1),
                asked => Ok(asked?),
            },
            Self::Hand(folder) => hand_door::ask(folder, &verb),
        }
    }

    /// After the host ended: find the next one, or become it.
    pub async fn again(&mut self) -> Result<()> {
        match self {
            Self::Door(settings) => *self = Self::outside((**settings).clone()).await?,
            Self::Own(..) => {}
            Self::Hand(folder) => anyhow::bail!("the host behind {} ended", folder.display()),
        }
        Ok(())
    }

    /// Before this process ends: wait until everything is answered that others asked of it.
    pub async fn settle(&self) {
        let Self::Own(host, open) = self else { return };
        host.idle().await;
        // A turn may just have begun; a client that no longer reads is not waited for.
        while tokio::time::timeout(PATIENCE, open.answered()).await.is_err()
            && !host.running().is_empty()
        {
            host.idle().await;
        }
        host.settled().await;
    }

    /// Before this process ends: begin nothing more, and wait so long for what runs.
    pub async fn wind_down(&self, patience: Duration) {
        if let Self::Own(host, _) = self {
            host.wind_down(patience).await;
        }
    }

    /// Before this process ends: stop every turn in it, and tell those who asked.
    pub async fn stop_all(&self) {
        if let Self::Own(host, _) = self {
            host.stop_all().await;
            self.settle().await;
        }
    }

    /// Whether requests come to the host as the owner's.
    pub fn is_owners(&self) -> bool {
        !matches!(self, Self::Hand(_))
    }

    /// What has to be said at every start: that tool calls are not confined, or are not run.
    pub fn warning(&self) -> Option<String> {
        match self {
            Self::Own(host, _) => host.reach().warning(),
            Self::Door(settings) => {
                Some(OFF).filter(|_| settings.config.confine == Confine::Off).map(str::to_owned)
            }
            Self::Hand(_) => None,
        }
    }

    /// What there is to know about the host, once, when it is this process.
    pub fn take_notices(&self) -> Vec<String> {
        self.host().map(|host| host.take_notices()).unwrap_or_default()
    }

    /// The host, when it is this process.
    pub fn host(&self) -> Option<&Arc<Host>> {
        match self {
            Self::Own(host, _) => Some(host),
            Self::Door(_) | Self::Hand(_) => None,
        }
    }
}

/// Whether nobody is behind the door any more.
fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound};
    matches!(error.kind(), BrokenPipe | ConnectionRefused | ConnectionReset | NotFound)
}
