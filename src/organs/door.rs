//! The owner's door: a Unix socket in the home, for other processes of the owner.
//!
//! Owns the socket and the rule that whoever comes through it must show the key that only
//! the owner can read: a socket's mode alone would let in any process of the same user.
//! One request a connection; lines of JSON both ways. Knows no request.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::RwLock;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::organs::history::ask::Ask;
use crate::organs::home::Home;
use crate::organs::host::Host;
use crate::organs::verb::{Answer, Caller, VERSION, Verb, exit};

/// Bytes of one request at most, so that nobody can fill the host's memory.
const REQUEST_LIMIT: u64 = 64 << 20;

/// Until the next try when nobody can be let in.
const RETRY: Duration = Duration::from_millis(100);

/// The first line of a connection.
#[derive(Serialize, Deserialize)]
struct Hello {
    version: u32,
    /// Not `key`: a message has one of its own, beside it.
    door_key: String,
    #[serde(flatten)]
    verb: Verb,
}

/// What every version's first line has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// Let the owner in. The socket goes when the returned guard does.
pub fn open(host: &Arc<Host>, home: &Home) -> Result<Open> {
    let key = home.door_key()?;
    let path = home.file("host.sock");
    // A socket left by a killed host; the lock says that nobody listens on it.
    let _ = std::fs::remove_file(&path);
    let short = Short::to(home)?;
    let listener = UnixListener::bind(short.path())
        .and_then(|listener| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        })
        .with_context(|| format!("cannot listen on {}", path.display()))?;
    let (host, asked) = (host.clone(), Arc::new(RwLock::new(())));
    let unanswered = asked.clone();
    let task = tokio::spawn(async move {
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, host.clone(), key.clone(), unanswered.clone()));
            } else {
                // Too many open files, and whoever knocked still stands there: at once, it
                // would be the same.
                tokio::time::sleep(RETRY).await;
            }
        }
    });
    Ok(Open { path, task, asked })
}

/// The open door.
#[derive(Debug)]
pub struct Open {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
    /// Held for reading by every request until its last word is said.
    asked: Arc<RwLock<()>>,
}

impl Open {
    /// Returns when everything that was asked is answered, to the last word. What comes
    /// afterwards is not begun, so that whoever asks finds the next host.
    pub async fn answered(&self) {
        drop(self.asked.write().await);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(stream: UnixStream, host: Arc<Host>, key: String, asked: Arc<RwLock<()>>) {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader.take(REQUEST_LIMIT)).lines();
    let Ok(Some(line)) = lines.next_line().await else { return };
    let mut held = Some(asked.read().await);
    let mut heeded = false;
    let mut answers = match admit(&line, &key) {
        Ok(verb) => {
            // A watcher never gets a last word.
            if matches!(verb, Verb::Watch { .. } | Verb::Background { .. }) {
                held = None;
            }
            // What takes long ends with whoever asked for it.
            heeded = held.is_none()
                || matches!(verb, Verb::History(Ask::Bisect { .. } | Ask::Replay { .. }));
            host.ask(Caller::Owner, verb)
        }
        Err(why) => refuse(why),
    };
    loop {
        let answer = tokio::select! {
            answer = answers.recv() => answer,
            // Nothing follows a request but its end: a watcher that is gone answers nothing.
            _ = lines.next_line(), if heeded => break,
        };
        let Some(answer) = answer else { break };
        if writer.write_all(line_of(&answer).as_bytes()).await.is_err() {
            break;
        }
    }
    drop(held);
}

/// What is asked for in the first line of a connection, if it is the owner who asks.
fn admit(line: &str, key: &str) -> Result<Verb, String> {
    let odd = |error| format!("the host does not understand the request: {error}");
    // Another version may say all the rest in other words.
    let Version { version } = serde_json::from_str(line).map_err(odd)?;
    if version != VERSION {
        return Err(format!(
            "the host speaks version {VERSION} of the door's protocol, this program {version}: restart the older one"
        ));
    }
    let Hello { door_key, verb, .. } = serde_json::from_str(line).map_err(odd)?;
    if !same(door_key.as_bytes(), key.as_bytes()) {
        return Err(
            "the door's key is wrong: it is in door.key, which only the owner can read".to_owned()
        );
    }
    Ok(verb)
}

fn refuse(why: String) -> UnboundedReceiver<Answer> {
    let (sender, receiver) = unbounded_channel();
    let _ = sender.send(Answer::Refused { why, exit: exit::FAILED });
    receiver
}

/// Compare without telling by the time it takes how much was right.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// Ask the host behind the owner's door. Fails when nobody listens there.
pub async fn ask(home: &Home, verb: Verb) -> io::Result<UnboundedReceiver<Answer>> {
    let door_key = std::fs::read_to_string(home.file("door.key"))?;
    let short = Short::to(home).map_err(io::Error::other)?;
    let mut stream = UnixStream::connect(short.path()).await?;
    let hello = Hello { version: VERSION, door_key, verb };
    stream.write_all(line_of(&hello).as_bytes()).await?;
    Ok(answers(BufReader::new(stream).lines()))
}

/// Answers as they come. The channel closes without a last word when the host ends.
pub fn answers<R>(mut lines: Lines<BufReader<R>>) -> UnboundedReceiver<Answer>
where
    R: AsyncRead + Unpin + Send + 'static,
{
    let (sender, receiver) = unbounded_channel();
    tokio::spawn(async move {
        loop {
            let line = tokio::select! {
                line = lines.next_line() => line,
                // Whoever asked is gone, and the other side is to know.
                () = sender.closed() => return,
            };
            let Ok(Some(line)) = line else { return };
            // A newer host may say things this version does not know.
            let Ok(answer) = serde_json::from_str(&line) else { continue };
            let last = matches!(answer, Answer::Done | Answer::Refused { .. });
            if sender.send(answer).is_err() || last {
                break;
            }
        }
    });
    receiver
}

/// A value as a line of JSON.
pub fn line_of(value: &impl Serialize) -> String {
    // None of the values that cross a door can fail to become JSON: their keys are strings.
    let mut line = serde_json::to_string(value).unwrap_or_default();
    line.push('\n');
    line
}

/// A way to the socket that is short enough for a socket's address, however long the
/// home's path is: through a descriptor of the home's folder.
struct Short(File);

impl Short {
    fn to(home: &Home) -> Result<Self> {
        let path = home.path();
        Ok(Self(File::open(path).with_context(|| format!("cannot open {}", path.display()))?))
    }

    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/host.sock", self.0.as_raw_fd()))
    }
}
