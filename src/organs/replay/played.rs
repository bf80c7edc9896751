//! A recording that is played as a model: its calls are about the folders of this home.
//!
//! Owns nothing but the exchange of their names. Knows neither scripts nor what is called.

use std::sync::Arc;

use crate::kernel::message::{Assistant, Block};
use crate::kernel::model::{Boxed, Deltas, Failure, Model, Request};
use crate::organs::around::Around;
use crate::organs::home::Home;
use crate::organs::replay::places::{HOME, Places, SCRATCH, WORKSPACE};

/// The model, and the folders here.
pub struct Played {
    model: Arc<dyn Model>,
    here: Places,
}

impl Played {
    /// This model in this home.
    pub fn over(model: Arc<dyn Model>, home: &Home) -> Arc<dyn Model> {
        let (workspace, scratch) = (home.workspace(), home.scratch());
        let here = [(&*workspace, WORKSPACE), (&*scratch, SCRATCH), (home.path(), HOME)];
        Arc::new(Self { model, here: Places::put(here) })
    }

    fn reply(&self, mut reply: Assistant) -> Assistant {
        for block in &mut reply.blocks {
            if let Block::Call(call) = block {
                call.input = self.here.json(call.input.take());
            }
        }
        reply
    }
}

impl Around for Played {
    fn within(&self) -> &dyn Model {
        &*self.model
    }

    fn pass<'a>(
        &'a self,
        request: &'a Request<'a>,
        deltas: Deltas<'a>,
    ) -> Boxed<'a, Result<Assistant, Failure>> {
        Box::pin(async move { self.model.ask(request, deltas).await.map(|said| self.reply(said)) })
    }
}
