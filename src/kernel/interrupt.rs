//! "Stop", as a value: a flag that is raised once and that anything can wait for.
//!
//! Owns the one way in which a running turn is told to end. Knows neither who raises it
//! (Ctrl-C, a door, a limit) nor what ends because of it.

use tokio::sync::watch;

/// The end that waits. Cheap to clone; never lowered once raised.
#[derive(Debug, Clone)]
pub struct Interrupt(watch::Receiver<bool>);

/// The end that raises. Dropping it does not interrupt.
#[derive(Debug)]
pub struct Interrupter(watch::Sender<bool>);

/// A fresh pair.
pub fn interrupt() -> (Interrupter, Interrupt) {
    let (sender, receiver) = watch::channel(false);
    (Interrupter(sender), Interrupt(receiver))
}

impl Interrupter {
    /// Tell everything that waits to end.
    pub fn raise(&self) {
        self.0.send_replace(true);
    }
}

impl Interrupt {
    /// Whether it was raised.
    pub fn raised(&self) -> bool {
        *self.0.borrow()
    }

    /// Returns once it is raised; never, when it cannot be any more.
    pub async fn wait(&self) {
        let mut receiver = self.0.clone();
        if receiver.wait_for(|raised| *raised).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
