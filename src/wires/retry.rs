//! The one retry policy, around any model.
//!
//! Owns when a request is sent again and how long is waited: only what may work later,
//! only while nobody has heard a word of the reply, a server's own wish exactly, a
//! bounded number of times. Knows neither which wire it wraps nor what went wrong.

use std::time::Duration;

use crate::kernel::message::Assistant;
use crate::kernel::model::{Boxed, Delta, Deltas, Failure, Model, Request};

/// Attempts after the first: with the waits below about a minute in all.
const RETRIES: u32 = 5;
/// Waits double from here …
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// … up to here.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// A server that asks for more than this is not waited for.
const PATIENCE: Duration = Duration::from_mins(5);

/// A model that is asked again where that may help.
pub struct Retry<M>(pub M);

impl<M: Model> Model for Retry<M> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn window(&self) -> u64 {
        self.0.window()
    }

    fn ask<'a>(
        &'a self,
        request: &'a Request<'a>,
        deltas: Deltas<'a>,
    ) -> Boxed<'a, Result<Assistant, Failure>> {
        Box::pin(async move {
            let mut retry = 0;
            loop {
                let mut heard = false;
                let mut ear = |delta: Delta<'_>| {
                    heard |= matches!(delta, Delta::Text(_) | Delta::Thinking(_));
                    deltas(delta);
                };
                let asked = self.0.ask(request, &mut ear).await;
                let (why, wanted) = match asked {
                    Err(Failure::Transient { message, retry_after }) if !heard => {
                        (message, retry_after)
                    }
                    other => return other,
                };
                let wait = match wait(retry, wanted, fastrand::f64()) {
                    Ok(wait) => wait,
                    Err(end) => {
                        let message = format!("{why}; {end}");
                        return Err(Failure::Transient { message, retry_after: wanted });
                    }
                };
                deltas(Delta::Retry { wait, why: &why });
                tokio::time::sleep(wait).await;
                retry += 1;
            }
        })
    }
}

/// How long to wait before the retry of this number, from 0, or why there is none.
/// `chance` is from 0 to 1: many programs that failed together must not return together.
fn wait(retry: u32, wanted: Option<Duration>, chance: f64) -> Result<Duration, String> {
    if retry >= RETRIES {
        return Err(format!("gave up after {} attempts", RETRIES + 1));
    }
    match wanted {
        Some(wait) if wait > PATIENCE => {
            let minutes = wait.as_secs().div_ceil(60);
            Err(format!("it asks to wait {minutes} minutes: try again then, or use another model"))
        }
        Some(wait) => Ok(wait),
        None => {
            let whole = FIRST_WAIT.saturating_mul(2 << retry).min(LONGEST_WAIT);
            Ok(whole.mul_f64(0.5 + chance / 2.0))
        }
    }
}
