//! What conversations show: bytes kept by what they are, and put before models that are asked.
//!
//! Owns the folder, in which a name is a hash and nothing is ever changed, and how many pictures
//! a request shows. They are on disk before any line of a transcript or row names them. Knows
//! neither how pictures are written on a wire nor where they come from.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use git2::{ObjectType, Oid};

use crate::kernel::message::{Assistant, Image, Message};
use crate::kernel::model::{Boxed, Delta, Deltas, Failure, Model, Request};
use crate::organs::around::Around;
use crate::organs::home::Home;
use crate::wires::is_about_pictures;

/// Pictures that a request shows at most: beyond that a provider wants them smaller.
const SHOWN: usize = 20;
/// The part of a model's window that they may fill, and how few it takes all the same.
const SHARE: u64 = 4;
const FEW: usize = 2;
/// Tokens that each of them takes, about.
pub const TOKENS: u64 = 1_600;
/// Bytes of all that a request shows; as base64, still less than any provider takes.
const BYTES: u64 = 15_000_000;

/// Where the bytes are.
#[derive(Debug, Clone)]
pub struct Pictures(PathBuf);

impl Pictures {
    /// Those of a home.
    pub fn of(home: &Home) -> Self {
        Self(home.media())
    }

    /// Keep these bytes, safe from a power cut, and say under what.
    pub fn keep(&self, bytes: &[u8]) -> Result<String> {
        let hash = Oid::hash_object(ObjectType::Blob, bytes)?.to_string();
        let path = self.0.join(&hash);
        let written = || -> io::Result<()> {
            if let Ok(file) = File::open(&path) {
                // What is about to be named again is not old.
                return file.set_modified(SystemTime::now());
            }
            let temporary = self.0.join(format!(".new-{:016x}", fastrand::u64(..)));
            let mut options = OpenOptions::new();
            let mut file = options.create_new(true).write(true).mode(0o600).open(&temporary)?;
            let done = file.write_all(bytes).and_then(|()| file.sync_all());
            let done = done.and_then(|()| fs::rename(&temporary, &path));
            if done.is_err() {
                let _ = fs::remove_file(&temporary);
            }
            done?;
            File::open(&self.0)?.sync_all()
        };
        written().with_context(|| format!("cannot keep {}", path.display()))?;
        Ok(hash)
    }

    /// The bytes kept under this.
    pub fn read(&self, hash: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path(hash)?)
    }

    /// Where they are. A transcript may come from anybody, and what it names be no hash.
    fn path(&self, hash: &str) -> io::Result<PathBuf> {
        let known = Oid::from_str(hash).is_ok_and(|oid| oid.to_string() == hash);
        known.then(|| self.0.join(hash)).ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Keep what is shown here, and hold it in memory no longer.
    pub async fn keep_all(&self, images: &mut [Image]) -> Result<()> {
        for image in images {
            if let Some(bytes) = image.data.take() {
                let own = self.clone();
                image.hash = tokio::task::spawn_blocking(move || own.keep(&bytes)).await??;
            }
        }
        Ok(())
    }

    /// A conversation with the bytes of those pictures that are shown. Blocks.
    fn filled(&self, mut messages: Vec<Message>, most: usize) -> Vec<Message> {
        // What was lost, as in a home that was brought back from a backup, takes no room.
        let size = |image: &mut Image| {
            self.path(&image.hash).and_then(fs::metadata).map_or(0, |file| file.len())
        };
        let sizes: Vec<_> = images(&mut messages).map(size).collect();
        for image in images(&mut messages).skip(first_shown(&sizes, most)) {
            image.data = self.read(&image.hash).ok().map(Arc::from);
        }
        messages
    }
}

fn images(messages: &mut [Message]) -> impl Iterator<Item = &mut Image> {
    messages.iter_mut().flat_map(|message| match message {
        Message::User { images, .. } => images.iter_mut().collect(),
        Message::Results(results) => {
            results.iter_mut().flat_map(|one| &mut one.images).collect::<Vec<_>>()
        }
        Message::Assistant(_) | Message::Note(_) => Vec::new(),
    })
}

/// How many pictures a model with this window is shown.
pub fn most(window: u64) -> usize {
    SHOWN.min((window / SHARE / TOKENS) as usize).max(FEW)
}

/// The first of pictures of these sizes that is shown, of which there are no more than `most`.
/// Half of them go at once when it becomes too much: with each that goes, all that a provider has
/// cached behind it is lost.
fn first_shown(sizes: &[u64], most: usize) -> usize {
    let (mut first, mut bytes) = (0, 0);
    for (at, size) in sizes.iter().enumerate() {
        bytes += size;
        if at + 1 - first > most || bytes > BYTES {
            while first < at && (at + 1 - first > most / 2 || bytes > BYTES / 2) {
                bytes -= sizes[first];
                first += 1;
            }
        }
    }
    first
}

/// A model that is shown the pictures of a conversation.
pub struct Sighted {
    model: Arc<dyn Model>,
    pictures: Pictures,
}

impl Sighted {
    /// This model, with the pictures of a home.
    pub fn over(model: Arc<dyn Model>, home: &Home) -> Arc<dyn Model> {
        Arc::new(Self { model, pictures: Pictures::of(home) })
    }
}

impl Around for Sighted {
    fn within(&self) -> &dyn Model {
        &*self.model
    }

    fn pass<'a>(
        &'a self,
        request: &'a Request<'a>,
        deltas: Deltas<'a>,
    ) -> Boxed<'a, Result<Assistant, Failure>> {
        if request.messages.iter().all(|message| shows(message) == 0) {
            return self.model.ask(request, deltas);
        }
        Box::pin(async move {
            let (pictures, messages) = (self.pictures.clone(), request.messages.to_vec());
            let most = most(self.window());
            let filled = tokio::task::spawn_blocking(move || pictures.filled(messages, most)).await;
            let messages = filled.map_err(|error| Failure::Fatal(error.to_string()))?;
            let shown = Request { messages: &messages, ..*request };
            match self.model.ask(&shown, &mut |delta| deltas(delta)).await {
                // One that a provider cannot read would be the end of the conversation.
                Err(Failure::Fatal(why)) if is_about_pictures(&why) => {
                    let why = &format!("{why}; asked again without pictures");
                    deltas(Delta::Retry { wait: Duration::ZERO, why });
                    self.model.ask(request, deltas).await
                }
                asked => asked,
            }
        })
    }
}

/// How many pictures come with a message.
pub fn shows(message: &Message) -> usize {
    match message {
        Message::User { images, .. } => images.len(),
        Message::Results(results) => results.iter().map(|result| result.images.len()).sum(),
        Message::Assistant(_) | Message::Note(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn bytes_are_kept_once_and_privately() {
        let temp = tempfile::tempdir().unwrap();
        let pictures = Pictures(temp.path().to_owned());
        let hash = pictures.keep(b"bytes").unwrap();
        assert_eq!(pictures.keep(b"bytes").unwrap(), hash);
        assert_eq!(pictures.read(&hash).unwrap(), b"bytes");
        let mode = fs::metadata(temp.path().join(&hash)).unwrap().permissions().mode();
        assert_eq!((mode & 0o777, fs::read_dir(temp.path()).unwrap().count()), (0o600, 1));
        let lost = Pictures(temp.path().join("gone"));
        assert!(lost.keep(b"x").unwrap_err().to_string().starts_with("cannot keep "));
    }

    #[test]
    fn what_is_no_hash_leads_nowhere() {
        let temp = tempfile::tempdir().unwrap();
        let pictures = Pictures(temp.path().join("media"));
        fs::create_dir(&pictures.0).unwrap();
        fs::write(temp.path().join("private"), "x").unwrap();
        let private = temp.path().join("private").to_str().unwrap().to_owned();
        for hash in ["../private", &private, "", ".", "abc"] {
            assert_eq!(pictures.read(hash).unwrap_err().kind(), ErrorKind::NotFound, "{hash}");
        }
    }

    #[test]
    fn the_latest_are_shown_and_the_first_of_them_changes_seldom() {
        let mut changes = 0;
        for count in 0..100 {
            let first = first_shown(&vec![1; count], SHOWN);
            assert!((count - first) <= SHOWN && (first == 0 || count - first >= SHOWN / 2));
            changes += usize::from(first != first_shown(&vec![1; count + 1], SHOWN));
        }
        assert_eq!(changes, 8);
        assert_eq!(first_shown(&[BYTES / 2, BYTES / 4, BYTES / 4], SHOWN), 0);
        assert_eq!(first_shown(&[BYTES / 2, BYTES / 4, BYTES / 4, 9], SHOWN), 2);
        assert_eq!(first_shown(&[1, BYTES * 2], SHOWN), 1);
        assert_eq!([8_192, 32_768, 200_000].map(most), [2, 5, SHOWN]);
    }
}
