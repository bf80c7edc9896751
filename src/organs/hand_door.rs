//! A hand's door: how a command that an agent typed in bash reaches the host.
//!
//! Owns a folder with a FIFO for each running turn; whoever can reach the folder is a hand
//! of that turn's session, and of no other. It needs no socket, no inherited descriptor
//! and no key, so it works from a Python subprocess, from a setsid child and where sockets
//! are denied. A request is a file; its name, written to `requests`, announces it; the
//! answers come through a FIFO that the asker made. Knows no request.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Interest};
use tokio::net::unix::pipe;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::organs::door::{answers, line_of};
use crate::organs::host::Host;
use crate::organs::verb::{Answer, Caller, Verb};

/// Bytes of one request at most: a message is text that somebody could read.
const REQUEST_LIMIT: u64 = 1 << 20;
/// Bytes of a request's name at most.
const NAME_LIMIT: usize = 64;
/// The FIFO in which requests are announced.
const REQUESTS: &str = "requests";

/// The host's side of one hand's door. Dropping it shuts the door.
#[derive(Debug)]
pub struct HandDoor {
    folder: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl HandDoor {
    /// Open a door for the hands of a session's turn.
    pub fn open(host: Arc<Host>, session: &str) -> Result<Self> {
        let folder = host.home().doors().join(format!("{session}-{:08x}", fastrand::u32(..)));
        let made = fs::DirBuilder::new().mode(0o700).create(&folder);
        made.with_context(|| format!("cannot create {}", folder.display()))?;
        let path = folder.join(REQUESTS);
        let receiver = make_fifo(&path)
            // Open for both, so that it never ends when an asker goes.
            .and_then(|()| pipe::OpenOptions::new().read_write(true).open_receiver(&path))
            .with_context(|| format!("cannot open {}", path.display()))?;
        let task = tokio::spawn(listen(receiver, host, session.to_owned(), folder.clone()));
        Ok(Self { folder, task })
    }

    /// The folder: what a hand must be able to reach.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for HandDoor {
    fn drop(&mut self) {
        self.task.abort();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

async fn listen(mut receiver: pipe::Receiver, host: Arc<Host>, session: String, folder: PathBuf) {
    let (mut name, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = receiver.read(&mut piece).await {
        for byte in &piece[..length] {
            if *byte != b'\n' {
                // One byte too many is enough to tell that it is no name of ours.
                if name.len() <= NAME_LIMIT {
                    name.push(*byte);
                }
                continue;
            }
            let name = String::from_utf8(std::mem::take(&mut name)).unwrap_or_default();
            // Only names of our own making: nothing that leads out of the folder.
            let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric());
            if plain && (1..=NAME_LIMIT).contains(&name.len()) {
                tokio::spawn(serve(host.clone(), session.clone(), folder.join(name)));
            }
        }
    }
}

async fn serve(host: Arc<Host>, session: String, request: PathBuf) {
    let Ok(mut replies) = open_replies(&request.with_extension("replies")) else { return };
    let mut answers = match read_request(&request) {
        Ok(verb) => host.ask(Caller::Hand(session), verb),
        Err(error) => {
            let why = format!("the host cannot read the request: {error:#}");
            let refused = Answer::Refused { why, exit: 1 };
            let _ = replies.write_all(line_of(&refused).as_bytes()).await;
            return;
        }
    };
    let _ = fs::remove_file(&request);
    loop {
        let answer = tokio::select! {
            answer = answers.recv() => answer,
            // The asker is gone: dropping the answers tells the host.
            _ = replies.ready(Interest::ERROR) => return,
        };
        let Some(answer) = answer else { return };
        if replies.write_all(line_of(&answer).as_bytes()).await.is_err() {
            return;
        }
    }
}

fn read_request(path: &Path) -> Result<Verb> {
    let file = no_links(OpenOptions::new().read(true)).open(path)?;
    anyhow::ensure!(file.metadata()?.is_file(), "it is not a file");
    let mut text = String::new();
    file.take(REQUEST_LIMIT + 1).read_to_string(&mut text)?;
    anyhow::ensure!(text.len() as u64 <= REQUEST_LIMIT, "it is larger than {REQUEST_LIMIT} bytes");
    Ok(serde_json::from_str(&text)?)
}

fn open_replies(path: &Path) -> io::Result<pipe::Sender> {
    let file = no_links(OpenOptions::new().write(true)).open(path)?;
    if !file.metadata()?.file_type().is_fifo() {
        return Err(io::Error::other("not a FIFO"));
    }
    pipe::Sender::from_file(file)
}

/// A hand may put anything into the folder: never follow it elsewhere, never hang on it.
fn no_links(options: &mut OpenOptions) -> &mut OpenOptions {
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
}

/// Ask the host from inside a hand.
pub fn ask(folder: &Path, verb: &Verb) -> Result<UnboundedReceiver<Answer>> {
    let name = format!("{:x}x{:016x}", std::process::id(), fastrand::u64(..));
    let request = folder.join(&name);
    let replies = request.with_extension("replies");
    let put = || -> io::Result<pipe::Receiver> {
        fs::write(&request, line_of(verb))?;
        make_fifo(&replies)?;
        // Open for both: the host may open its end later than we read.
        let receiver = pipe::OpenOptions::new().read_write(true).open_receiver(&replies)?;
        // Without waiting: a door nobody listens at any more has no reader.
        let mut requests = no_links(OpenOptions::new().write(true)).open(folder.join(REQUESTS))?;
        requests.write_all(format!("{name}\n").as_bytes())?;
        Ok(receiver)
    };
    let receiver = put().with_context(|| {
        format!(
            "the host's door {} does not answer: the turn that opened it is over, or this is a try in which nobody is asked (bisect, replay)",
            folder.display()
        )
    })?;
    // The open end is all that is needed: nothing is left behind when we are killed.
    let lines = BufReader::new(Unlinked { receiver, path: replies }).lines();
    Ok(answers(lines))
}

/// A FIFO that is removed with its reader.
struct Unlinked {
    receiver: pipe::Receiver,
    path: PathBuf,
}

impl tokio::io::AsyncRead for Unlinked {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        std::pin::Pin::new(&mut self.receiver).poll_read(cx, buffer)
    }
}

impl Drop for Unlinked {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn make_fifo(path: &Path) -> io::Result<()> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is a NUL-terminated string that outlives the call.
    let made = unsafe { libc::mkfifo(path.as_ptr(), 0o600) };
    if made == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Clear away the doors a killed host left.
pub fn sweep(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let _ = fs::remove_dir_all(entry.path());
    }
}
