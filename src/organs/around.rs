//! Models around models: what is asked of one goes through the other.
//!
//! Owns that such a model has the name and the window of the one within. Knows nothing of what
//! is done on the way.

use crate::kernel::message::Assistant;
use crate::kernel::model::{Boxed, Deltas, Failure, Model, Request};

/// A model that asks another one, and does something before or after.
pub trait Around: Send + Sync {
    /// The one that is asked.
    fn within(&self) -> &dyn Model;

    /// Ask it; the contract is that of `Model::ask`.
    fn pass<'a>(
        &'a self,
        request: &'a Request<'a>,
        deltas: Deltas<'a>,
    ) -> Boxed<'a, Result<Assistant, Failure>>;
}

impl<T: Around> Model for T {
    fn name(&self) -> &str {
        self.within().name()
    }

    fn window(&self) -> u64 {
        self.within().window()
    }

    fn ask<'a>(
        &'a self,
        request: &'a Request<'a>,
        deltas: Deltas<'a>,
    ) -> Boxed<'a, Result<Assistant, Failure>> {
        self.pass(request, deltas)
    }
}
