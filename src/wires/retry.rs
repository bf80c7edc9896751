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
const PATIENCE: Duration = Duration::from_secs(5 * 60);

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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::kernel::message::{Stop, Usage};

    /// Fails as told, one failure a request, speaking before it where told so; then replies.
    struct Flaky(Mutex<Vec<(bool, Failure)>>);

    impl Model for Flaky {
        fn name(&self) -> &'static str {
            "flaky"
        }
        fn window(&self) -> u64 {
            1
        }
        fn ask<'a>(
            &'a self,
            _: &'a Request<'a>,
            deltas: Deltas<'a>,
        ) -> Boxed<'a, Result<Assistant, Failure>> {
            Box::pin(async move {
                let Some((speaks, failure)) = self.0.lock().unwrap().pop() else {
                    let (stop, model, usage) = (Stop::End, String::new(), Usage::default());
                    return Ok(Assistant { blocks: Vec::new(), stop, model, usage });
                };
                if speaks {
                    deltas(Delta::Text("a"));
                }
                Err(failure)
            })
        }
    }

    fn transient(seconds: Option<u64>) -> Failure {
        let retry_after = seconds.map(Duration::from_secs);
        Failure::Transient { message: "busy".to_owned(), retry_after }
    }

    /// What came of a request, and the waits on the way, which also really passed.
    async fn run(failures: Vec<(bool, Failure)>) -> (Result<Assistant, Failure>, Vec<Duration>) {
        let model = Retry(Flaky(Mutex::new(failures)));
        let mut waits = Vec::new();
        let started = tokio::time::Instant::now();
        let request = Request { system: "", tools: &[], messages: &[] };
        let mut deltas = |delta: Delta<'_>| {
            if let Delta::Retry { wait, why } = delta {
                assert_eq!(why, "busy");
                waits.push(wait);
            }
        };
        let asked = model.ask(&request, &mut deltas).await;
        // The paused clock moves in milliseconds.
        let passed = started.elapsed().saturating_sub(waits.iter().sum());
        assert!(passed < Duration::from_millis(10), "{passed:?}");
        (asked, waits)
    }

    #[tokio::test(start_paused = true)]
    async fn waits_grow_and_end() {
        let (asked, waits) = run(vec![(false, transient(None)); 5]).await;
        assert!(asked.is_ok());
        for (wait, longest) in waits.iter().zip([2, 4, 8, 16, 30]) {
            let longest = Duration::from_secs(longest);
            assert!(*wait >= longest / 2 && *wait <= longest, "{wait:?}");
        }
        let (asked, waits) = run(vec![(false, transient(None)); 9]).await;
        assert_eq!(waits.len(), 5);
        assert_eq!(asked.unwrap_err().to_string(), "busy; gave up after 6 attempts");
    }

    #[tokio::test(start_paused = true)]
    async fn a_servers_wish_is_followed_exactly_or_not_at_all() {
        let (asked, waits) = run(vec![(false, transient(Some(77)))]).await;
        assert!(asked.is_ok());
        assert_eq!(waits, [Duration::from_secs(77)]);
        let (asked, waits) = run(vec![(false, transient(Some(3601)))]).await;
        assert!(waits.is_empty());
        assert!(asked.unwrap_err().to_string().contains("asks to wait 61 minutes"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_will_fail_again_or_was_heard_is_not_repeated() {
        for failure in [
            (false, Failure::Fatal("busy".to_owned())),
            (false, Failure::Overflow("busy".to_owned())),
            (true, transient(None)),
        ] {
            let (asked, waits) = run(vec![failure.clone()]).await;
            assert_eq!((asked, waits.len()), (Err(failure.1), 0));
        }
    }
}
