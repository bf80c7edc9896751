//! `fledgling serve`: a host without a terminal, and its log.
//!
//! Owns how it waits for a home that another process hosts, what a signal means, and how what
//! goes on is logged. Knows nothing of what goes on.

use std::fmt;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;
use tracing::{info, warn};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

use crate::face::screen::{Place, Screen};
use crate::face::standing;
use crate::organs::always::background::Happening;
use crate::organs::host::Settings;
use crate::organs::link::{DOOR_VARIABLE, Link};
use crate::organs::verb::{Answer, Verb};

/// Turns and jobs under way have so long to end by themselves after SIGTERM. A service manager
/// waits longer before it kills.
const PATIENCE: Duration = Duration::from_secs(30);

/// Host until somebody says stop. The number is the exit code.
pub async fn serve(settings: impl FnOnce() -> Result<Settings>, json: bool) -> Result<u8> {
    let is_call = std::env::var_os(DOOR_VARIABLE).is_some();
    anyhow::ensure!(!is_call, "serve is not for tool calls: your owner starts it in a shell");
    let mut settings = settings()?;
    log(json);
    settings.resident = true;
    let home = settings.home.path().display().to_string();
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot catch SIGHUP")?;
    let told = async || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = hangup.recv() => "SIGHUP",
        }
    };
    let mut told = told;
    let mut link = tokio::select! {
        link = Link::establish(move || Ok(settings)) => link?,
        _ = told() => return Ok(0),
    };
    loop {
        let mut heard = link.ask(Verb::Background { terminal: false }).await?;
        let own = link.host().is_some();
        if own {
            info!(%home, pid = std::process::id(), "hosts; the schedule, services and channels run");
            link.warning().into_iter().for_each(|text| warn!("{text}"));
            link.take_notices().into_iter().for_each(|text| info!("{text}"));
        } else {
            info!(%home, "another fledgling runs in this home; waiting until it ends");
        }
        let signal = tokio::select! {
            () = pass_on(&mut heard, own, json) => None,
            signal = told() => Some(signal),
        };
        match signal {
            // It was another process that hosted, and it has ended.
            None => link.again().await?,
            Some(_) if !own => return Ok(0),
            Some(signal) => {
                info!(
                    "{signal}: what runs has {} s to end; once more ends it at once",
                    PATIENCE.as_secs()
                );
                tokio::select! {
                    () = link.wind_down(PATIENCE) => {}
                    _ = told() => {}
                }
                link.stop_all().await;
                while let Ok(answer) = heard.try_recv() {
                    tell(&answer, json);
                }
                info!("ended");
                return Ok(0);
            }
        }
    }
}

/// Log what goes on until the host ends.
async fn pass_on(heard: &mut UnboundedReceiver<Answer>, own: bool, json: bool) {
    while let Some(answer) = heard.recv().await {
        if own {
            tell(&answer, json);
        }
    }
}

fn tell(answer: &Answer, json: bool) {
    let Answer::Happened(happening) = answer else { return };
    let Happening { kind, about, text, fault, .. } = happening;
    let (kind, line) = (kind.to_string(), standing::sentence(happening));
    match (json, *fault) {
        (true, true) => warn!(kind, about, "{text}"),
        (true, false) => info!(kind, about, "{text}"),
        (false, true) => warn!("{line}"),
        (false, false) => info!("{line}"),
    }
}

fn log(json: bool) {
    let colour = Screen::of(Place::Err).colour;
    let lines = tracing_subscriber::fmt().with_target(false).with_writer(std::io::stderr);
    // Somebody who embeds this may have set one up.
    if json {
        let _ = lines.json().with_writer(std::io::stdout).try_init();
    } else {
        let _ = lines.with_timer(Local).with_ansi(colour).try_init();
    }
}

/// Local time to the second, as everything else is told to people.
struct Local;

impl FormatTime for Local {
    fn format_time(&self, out: &mut Writer<'_>) -> fmt::Result {
        write!(out, "{}", jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S"))
    }
}
