//! A hand: carries out one action of the model, in a thread that it confines first.
//!
//! Owns the life of a call. The invariant: every action runs in a fresh thread (a confined
//! thread stays confined, so a pool's thread must never be one), and its end is waited for.
//! Knows neither models nor sessions.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::oneshot::{self, error::RecvError};

use crate::guard::file;
use crate::guard::output::Output;
use crate::guard::policy::{self, Policy};
use crate::guard::supervisor::{self, End, Link, Shell};
use crate::kernel::interrupt::Interrupt;
use crate::kernel::model::Boxed;
use crate::kernel::tool::{Action, Hands, Outcome};

/// How long an interrupted call is waited for. It takes no longer than 100 ms, unless the
/// system does not let go of it: a network file system that hangs must not hang the turn.
const GIVE_UP: Duration = Duration::from_secs(1);

/// Acts under one policy.
#[derive(Debug, Clone)]
pub struct Hand {
    policy: Arc<Policy>,
}

impl Hand {
    /// A hand that may do what the policy says.
    pub fn new(policy: Policy) -> Self {
        Self { policy: Arc::new(policy) }
    }

    async fn try_act(&self, action: Action, interrupt: Interrupt) -> Result<Outcome> {
        let (leash, link) = supervisor::leash()?;
        let (policy, stopped) = (self.policy.clone(), interrupt.clone());
        let mut outcome = in_thread(move || carry_out(&policy, action, link, &stopped))?;
        tokio::select! {
            biased;
            outcome = &mut outcome => return finished(outcome),
            () = interrupt.wait() => drop(leash),
        }
        let outcome = tokio::time::timeout(GIVE_UP, outcome).await;
        finished(outcome.context("interrupted, but the system does not let go of it yet")?)
    }
}

impl Hands for Hand {
    fn act<'a>(&'a self, action: Action, interrupt: Interrupt) -> Boxed<'a, Outcome> {
        Box::pin(async move { self.try_act(action, interrupt).await.unwrap_or_else(failed) })
    }
}

/// Do it in a thread of its own. The sender is dropped when the thread panics.
fn in_thread(
    work: impl FnOnce() -> Outcome + Send + 'static,
) -> Result<oneshot::Receiver<Outcome>> {
    let (sender, receiver) = oneshot::channel();
    let hand = thread::Builder::new().name("hand".to_owned());
    // Nobody may listen any more; then nobody needs to be told.
    hand.spawn(move || _ = sender.send(work())).context("cannot start a thread for the call")?;
    Ok(receiver)
}

fn finished(outcome: Result<Outcome, RecvError>) -> Result<Outcome> {
    outcome.context("the call failed inside the harness, which is a bug in it")
}

fn carry_out(policy: &Policy, action: Action, link: Link, interrupt: &Interrupt) -> Outcome {
    let workspace = policy.workspace.as_path();
    let done = policy::confine(policy).and_then(|()| match action {
        Action::Bash { command, timeout } => bash(policy, &command, timeout, link),
        Action::Read { path, offset, limit } => {
            file::read(workspace, &path, offset, limit, interrupt)
        }
        Action::Write { path, content } => file::write(workspace, &path, content.as_bytes()),
        Action::Edit { path, edits } => file::edit(workspace, &path, &edits),
    });
    done.unwrap_or_else(failed)
}

fn failed(error: anyhow::Error) -> Outcome {
    Outcome::failed(format!("{error:#}"))
}

fn bash(policy: &Policy, command: &str, timeout: Duration, link: Link) -> Result<Outcome> {
    let mut output = Output::new(&policy.scratch);
    let shell = Shell { command, dir: &policy.workspace, env: &policy.env, timeout };
    let ended = supervisor::run(&shell, link, &mut |bytes| output.push(bytes));
    let mut text = output.finish();
    let (mut notes, mut error) = (Vec::new(), true);
    match ended {
        Ok(End::Exited { code, stragglers }) => {
            error = code != 0;
            match code {
                0 if text.is_empty() => notes.push("no output".to_owned()),
                0 => {}
                code => notes.push(format!("exit code {code}")),
            }
            if stragglers > 0 {
                notes.push(format!("background processes ended with the call: {stragglers}"));
            }
        }
        Ok(End::Killed(signal)) => notes.push(format!("killed by signal {signal}")),
        Ok(End::TimedOut) => notes.push(format!(
            "timed out after {} s; everything it started was ended",
            timeout.as_secs()
        )),
        Ok(End::Interrupted) => {
            notes.push("interrupted; everything it started was ended".to_owned());
        }
        Err(error) => notes.push(format!("{error:#}")),
    }
    for note in notes {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(&format!("[{note}]\n"));
    }
    Ok(Outcome { text, error, wrote: Vec::new() })
}
