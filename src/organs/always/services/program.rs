//! One service while it runs: its process, its lines out and in, and how it ended.
//!
//! Owns the two pipes. What the service prints waits in its pipe, and so the service waits,
//! until those who listen have dealt with what came before. What it is given waits for it, but
//! not without end: who does not read is ended. Nothing here wakes up unless the service or
//! somebody who talks to it does something. Knows neither what the lines say nor what comes
//! after the end.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs::{self, File};
use std::future::{Future, pending};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use git2::{ObjectType, Oid};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio::sync::mpsc::{self, UnboundedSender, error::TrySendError};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::files::output::End;
use crate::files::withheld::{Stream, Withheld};
use crate::guard::hand::{Hand, Program};
use crate::guard::policy::Policy;
use crate::kernel::interrupt::interrupt;
use crate::organs::always::services::lines::Cutter;
use crate::organs::always::services::log::Log;
use crate::organs::lane::lock;

/// Bytes of a line that a service prints.
const LINE: usize = 1 << 20;
/// Bytes of its lines that nobody has dealt with yet, and what a line takes besides its text.
const ROOM: usize = 2 << 20;
const EXTRA: usize = 128;
/// Bytes read at once, and what a pipe holds at most.
const PIECE: usize = 1 << 16;
const PIPE: u64 = 1 << 20;
/// What may be the beginning of a secret is held back so long, for the rest of it to come: a
/// line must not wait for the next.
const PAUSE: Duration = Duration::from_millis(100);
/// Lines that wait for a service.
const WAITING: usize = 1024;
/// How long it has to leave by itself once its input has ended, and once it is told to
/// (SIGTERM). Together they are shorter than what a host that starts waits for its
/// predecessor's hands.
const LEAVE: Duration = Duration::from_millis(500);
const GRACE: Duration = Duration::from_secs(1);

/// A service that is to run.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What it is called, which is a name for a file, too.
    pub name: String,
    /// Its executable, relative to the workspace.
    pub path: PathBuf,
    /// What it is made of, in a word, as its file's blob: another stamp is another program.
    pub stamp: String,
    /// The content of its file as the last commit has it: what an unfinished turn has made of it
    /// does not run.
    pub blob: Option<Oid>,
    /// What its hand may do, and the workspace. Another policy by itself counts from the next
    /// start on.
    pub policy: Policy,
}

/// What goes on with services.
#[derive(Debug)]
pub enum Event {
    /// It runs from now on.
    Started {
        /// Which.
        name: String,
        /// The content that its file had then, where that was committed.
        blob: Option<Oid>,
        /// Takes lines for it, until it ends.
        sender: Input,
    },
    /// It printed a line on stdout.
    Line {
        /// Which.
        name: String,
        /// Without its end, and without secrets.
        line: String,
        /// To be dropped when the line is dealt with: until then it takes up room.
        room: Room,
    },
    /// It runs no more, or could not be started.
    Ended {
        /// Which.
        name: String,
        /// In words for people.
        how: String,
        /// How long it had run.
        ran: Duration,
    },
    /// It ended too often.
    Quarantined {
        /// Which.
        name: String,
        /// In words for people.
        why: String,
    },
}

/// Takes lines for a service.
#[derive(Debug, Clone)]
pub struct Input {
    lines: mpsc::Sender<String>,
    full: Arc<Notify>,
}

impl Input {
    /// How many lines more may wait for it.
    pub fn room(&self) -> usize {
        self.lines.capacity()
    }

    /// Have it read this line, which has no end yet. Never waits. False where it will not read
    /// it, as it has ended or is going to be: it has not read so much that it is ended for it.
    pub fn send(&self, line: String) -> bool {
        let sent = self.lines.try_send(line);
        if matches!(sent, Err(TrySendError::Full(_))) {
            self.full.notify_one();
        }
        sent.is_ok()
    }
}

/// Room that a line takes up.
#[derive(Debug)]
pub struct Room {
    _taken: Option<OwnedSemaphorePermit>,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// In words for people.
    pub how: String,
    /// Whether it was told to.
    pub stopped: bool,
    /// Whether it then left by itself, as its input had ended.
    pub left: bool,
}

/// Run it until it ends, or until `told` is done: then its input ends, it is told to end, and
/// it is ended, in this order.
pub async fn run(
    wanted: &Wanted,
    log: &Arc<Mutex<Log>>,
    events: &UnboundedSender<Event>,
    told: impl Future<Output = ()>,
) -> Result<Ended> {
    let Wanted { name, path, policy, .. } = wanted;
    executable(&policy.workspace, path)?;
    if let Some(blob) = wanted.blob {
        let content = fs::read(policy.workspace.join(path))
            .with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(
            Oid::hash_object(ObjectType::Blob, &content)? == blob,
            "{} has changed since the last commit; it runs once that is committed",
            path.display()
        );
    }
    let command = Path::new(".").join(path);
    let command = command.to_str().context("the name of a service has to be text")?;
    let command = format!("exec {}", shell_words::quote(command));
    let (to_read, write) = io::pipe().context("cannot make a pipe")?;
    let (read, to_write) = io::pipe().context("cannot make a pipe")?;
    let [input, stdout] = [OwnedFd::from(to_read), to_write.into()].map(File::from);
    let (lines, waiting) = mpsc::channel(WAITING);
    let sender = Input { lines, full: Arc::default() };
    let full = sender.full.clone();
    let from = pipe::Receiver::from_owned_fd(read.into()).context("cannot read from a pipe")?;
    let mut ears = Ears::new(wanted, log, events);
    let mut feeding = Box::pin(feed(pipe::Sender::from_owned_fd(write.into())?, waiting));

    let hand = Hand::new(policy.clone());
    let (interrupter, interrupt) = interrupt();
    let stderr = log.clone();
    let hear = move |bytes: &[u8]| lock(&stderr).hear(bytes);
    let program = Program { command, input, stdout, grace: GRACE };
    let mut keeping = pin!(hand.keep(program, interrupt, hear));
    // Where nobody listens any more, nobody needs to be told.
    let _ = events.send(Event::Started { name: name.clone(), blob: wanted.blob, sender });
    let mut listening = Box::pin(ears.listen(&from));
    let over = tokio::select! {
        biased;
        ended = &mut keeping => Over::Ended(ended),
        () = told => Over::Told,
        () = full.notified() => Over::Deaf,
        never = &mut listening => match never {},
        never = &mut feeding => match never {},
    };
    // That ends its input.
    drop(feeding);
    let mut left = true;
    if !matches!(over, Over::Ended(_)) {
        let leaves = beside(keeping.as_mut(), &mut listening);
        left = tokio::time::timeout(LEAVE, leaves).await.is_ok();
        if !left {
            interrupter.raise();
            // What the system does not let go of is not waited for without end.
            let _ = beside(keeping, &mut listening).await;
        }
    }
    drop(listening);
    ears.drain(from);
    Ok(match over {
        Over::Ended(ended) => Ended { how: in_words(ended?), stopped: false, left },
        Over::Told => Ended { how: "stopped".to_owned(), stopped: true, left },
        Over::Deaf => {
            let how = format!("ended, as it did not read the {WAITING} lines that waited for it");
            Ended { how, stopped: false, left }
        }
    })
}

/// Why it is over.
enum Over {
    Ended(Result<End>),
    Told,
    Deaf,
}

/// What the first comes to, while the second goes on.
async fn beside<T>(
    first: Pin<&mut impl Future<Output = T>>,
    second: &mut (impl Future<Output = Infallible> + Unpin),
) -> T {
    tokio::select! {
        biased;
        done = first => done,
        never = second => match never {},
    }
}

fn executable(workspace: &Path, path: &Path) -> Result<()> {
    let shown = path.display();
    let metadata = workspace.join(path).metadata();
    let metadata = metadata.with_context(|| format!("cannot run {shown}"))?;
    ensure!(metadata.is_file(), "cannot run {shown}: it is not a file");
    let runs = metadata.permissions().mode() & 0o111 != 0;
    ensure!(runs, "cannot run {shown}: it is not executable; `chmod +x {shown}` makes it so");
    Ok(())
}

fn in_words(ended: End) -> String {
    let End::Exited { status, .. } = ended else { return "ended from outside".to_owned() };
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (_, Some(signal)) => format!("killed by signal {signal}"),
        _ => "ended".to_owned(),
    }
}

/// Give it line after line. What it reads ends when this is dropped.
async fn feed(mut to: pipe::Sender, mut lines: mpsc::Receiver<String>) -> Infallible {
    while let Some(mut line) = lines.recv().await {
        line.push('\n');
        // It fails once the program has ended, which is noticed elsewhere.
        if to.write_all(line.as_bytes()).await.is_err() {
            break;
        }
    }
    // Its input ends when nobody has anything to say to it any more.
    drop(to);
    pending().await
}

/// Hears what a service prints on stdout.
struct Ears<'a> {
    name: &'a str,
    withheld: &'a Withheld,
    passing: Stream,
    cutter: Cutter,
    /// Lines for which there was no room yet.
    waiting: VecDeque<String>,
    room: Arc<Semaphore>,
    log: &'a Mutex<Log>,
    events: &'a UnboundedSender<Event>,
}

impl<'a> Ears<'a> {
    fn new(wanted: &'a Wanted, log: &'a Mutex<Log>, events: &'a UnboundedSender<Event>) -> Self {
        let withheld = &wanted.policy.withheld;
        let passing = withheld.stream();
        let (name, cutter) = (wanted.name.as_str(), Cutter::new(LINE));
        let (waiting, room) = (VecDeque::new(), Arc::new(Semaphore::new(ROOM)));
        Self { name, withheld, passing, cutter, waiting, room, log, events }
    }

    /// Pass on line after line, each when there is room for it.
    async fn listen(&mut self, from: &pipe::Receiver) -> Infallible {
        let mut piece = Vec::new();
        loop {
            while let Some(line) = self.waiting.front() {
                let takes = (line.len() + EXTRA).min(ROOM) as u32;
                let room = self.room.clone().acquire_many_owned(takes).await.ok();
                self.pass(room);
            }
            let more = from.readable();
            if piece.is_empty() {
                // What is wrong is said by the reading that follows.
                let _ = more.await;
            } else if tokio::time::timeout(PAUSE, more).await.is_err() {
                piece = Vec::new();
                self.hear(&[], true);
                continue;
            }
            piece.resize(PIECE, 0);
            match from.try_read(&mut piece) {
                Ok(count @ 1..) => self.hear(&piece[..count], false),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => pending().await,
            }
        }
    }

    /// It has ended: what is left in its pipe, which is not much, finds room.
    fn drain(mut self, from: pipe::Receiver) {
        let mut rest = Vec::new();
        if let Ok(from) = from.into_nonblocking_fd() {
            // A process elsewhere may have got hold of the pipe: what is there by now counts.
            let _ = File::from(from).take(PIPE).read_to_end(&mut rest);
        }
        self.hear(&rest, true);
        self.waiting.extend(self.cutter.finish().map(|line| self.withheld.text(line.text)));
        while !self.waiting.is_empty() {
            self.pass(None);
        }
    }

    /// It said this, and nothing more for now where that is `all`.
    fn hear(&mut self, piece: &[u8], all: bool) {
        let mut passed = self.passing.push(piece).into_owned();
        if all {
            passed.extend(self.passing.finish());
        }
        for line in self.cutter.push(&passed) {
            if line.cut > 0 {
                let words = format!("a line of its output was too long by {} bytes", line.cut);
                lock(self.log).say(&words);
            }
            // Once more: something may have been learnt since it runs.
            self.waiting.push_back(self.withheld.text(line.text));
        }
    }

    fn pass(&mut self, room: Option<OwnedSemaphorePermit>) {
        let Some(line) = self.waiting.pop_front() else { return };
        let (name, room) = (self.name.to_owned(), Room { _taken: room });
        let _ = self.events.send(Event::Line { name, line, room });
    }
}
