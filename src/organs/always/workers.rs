//! Jobs and services as those who ask the host: what each may touch, and for whom it works.
//!
//! Owns the names by which they are told from sessions (`job:NAME`, `service:NAME`: no session
//! can be called so) and their chains while they run. A job or service works for the session
//! that wrote it, or for the owner, and never has more than that one. Knows nothing of what
//! they do.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::{Arc, Mutex};

use crate::guard::policy::Link;
use crate::organs::lane::lock;

/// How the name of a job begins.
pub const JOB: &str = "job:";

/// A job or a service while it runs.
#[derive(Debug, Clone, Default)]
pub struct Worker {
    /// The session for which it works; the owner's own where none is named.
    pub session: Option<String>,
    /// All links by which it may do less than the root.
    pub links: Vec<Link>,
    /// Variables beside the usual ones.
    pub env: Vec<(OsString, OsString)>,
}

/// Those that run now, by their names.
#[derive(Debug, Default)]
pub struct Workers(Arc<Mutex<HashMap<String, Arc<Worker>>>>);

/// Keeps a worker known. Dropping it lets it go.
#[derive(Debug)]
pub struct Known {
    name: String,
    worker: Arc<Worker>,
    workers: Arc<Mutex<HashMap<String, Arc<Worker>>>>,
}

impl Workers {
    /// Know this one from now on.
    pub fn begin(&self, name: &str, worker: Worker) -> Known {
        let worker = Arc::new(worker);
        lock(&self.0).insert(name.to_owned(), worker.clone());
        Known { name: name.to_owned(), worker, workers: self.0.clone() }
    }

    /// The one of this name.
    pub fn get(&self, name: &str) -> Option<Arc<Worker>> {
        lock(&self.0).get(name).cloned()
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        let mut workers = lock(&self.workers);
        // One of the same name may be known by now that may do less.
        if workers.get(&self.name).is_some_and(|one| Arc::ptr_eq(one, &self.worker)) {
            workers.remove(&self.name);
        }
    }
}
