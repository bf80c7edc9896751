//! A fake of a mail server on loopback: a mailbox over IMAP, as far as the shipped channel asks
//! it, and an SMTP server that keeps what it is given. What a server found of a mail is put on
//! top of it by the test, as a real one does (`tests/servers/email` has one).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::BOUND;

/// What opens the mailbox, and what its secret address has.
pub const PASSWORD: &str = "the-password-of-no-mailbox";
pub const SECRET: &str = "a1b2c3d4e5f6g7h8";

/// A running server. Its threads end with the connections.
pub struct Mail {
    shared: Arc<Shared>,
    pub imap: SocketAddr,
    pub smtp: SocketAddr,
}

struct Shared {
    state: Mutex<Inner>,
    happened: Condvar,
}

#[derive(Default)]
struct Inner {
    box_number: u32,
    /// With whether it was read.
    mails: Vec<(u32, Vec<u8>, bool)>,
    logins: usize,
    searches: usize,
    sent: Vec<(String, String)>,
    refusals: Vec<&'static str>,
}

impl Mail {
    pub fn start() -> Self {
        Self::on("127.0.0.1")
    }

    /// Listen on this address.
    pub fn on(address: &str) -> Self {
        let state = Mutex::new(Inner { box_number: 7, ..Inner::default() });
        let shared = Arc::new(Shared { state, happened: Condvar::new() });
        let serve = |speak: fn(&Shared, TcpStream) -> std::io::Result<()>| {
            let listener = TcpListener::bind((address, 0)).expect("a port on loopback");
            let at = listener.local_addr().expect("it is bound");
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let shared = Arc::clone(&shared);
                    std::thread::spawn(move || {
                        let _ = speak(&shared, stream);
                        shared.happened.notify_all();
                    });
                }
            });
            at
        };
        let (imap, smtp) = (serve(imap), serve(smtp));
        Self { shared, imap, smtp }
    }

    /// A mail arrives, of which the server found this. Its number.
    pub fn arrives(&self, found: &str, mail: &str) -> u32 {
        let found = format!("Authentication-Results: mx.home.test; {found}");
        self.arrives_raw(format!("{found}\n{mail}").replace('\n', "\r\n").as_bytes())
    }

    /// A mail arrives as it is.
    pub fn arrives_raw(&self, mail: &[u8]) -> u32 {
        let mut state = self.shared.lock();
        let number = state.mails.last().map_or(1, |(number, ..)| number + 1);
        state.mails.push((number, mail.to_owned(), false));
        number
    }

    /// The mailbox is another one, with the same mails.
    pub fn rebuild(&self) {
        self.shared.lock().box_number += 1;
    }

    /// The next recipient is answered like this, or a login if it is a word.
    pub fn refuse(&self, answer: &'static str) {
        self.shared.lock().refusals.push(answer);
    }

    /// Whether this mail is marked as read.
    pub fn is_read(&self, number: u32) -> bool {
        self.shared.lock().mails.iter().any(|(one, _, read)| *one == number && *read)
    }

    pub fn until_read(&self, number: u32) {
        drop(self.wait("the mark of a mail", |state| {
            state.mails.iter().any(|(one, _, read)| *one == number && *read)
        }));
    }

    /// Wait until the mailbox was looked into twice more: what is there now is known by then.
    pub fn looked(&self) {
        let before = self.shared.lock().searches;
        drop(self.wait("a look", |state| state.searches >= before + 2));
    }

    pub fn logins(&self) -> usize {
        self.shared.lock().logins
    }

    /// Wait until so many mails were sent; all of them, with whom they are for.
    pub fn sent(&self, count: usize) -> Vec<(String, String)> {
        self.wait("mails", |state| state.sent.len() >= count).sent.clone()
    }

    fn wait(&self, what: &str, until: impl Fn(&Inner) -> bool) -> MutexGuard<'_, Inner> {
        let state = self.shared.lock();
        let waited = self.shared.happened.wait_timeout_while(state, BOUND, |state| !until(state));
        let (state, waited) = waited.expect("no test panics with it");
        let sent = format!("{:?}", state.sent);
        if waited.timed_out() {
            drop(state);
            panic!("waited for {what} in vain; sent: {sent}");
        }
        state
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().expect("nothing panics with it")
    }

    fn refusal(&self, is_word: bool) -> Option<&'static str> {
        let mut state = self.lock();
        let fits = |one: &&str| one.starts_with(char::is_numeric) != is_word;
        let at = state.refusals.iter().position(fits)?;
        Some(state.refusals.remove(at))
    }
}

/// The head of a mail, with the empty line.
fn head(mail: &[u8]) -> &[u8] {
    let end = mail.windows(4).position(|four| four == b"\r\n\r\n");
    &mail[..end.map_or(mail.len(), |end| end + 4)]
}

/// Whether a number is in what was asked for, as `3:*` or `1,4`.
fn among(set: &str, number: u32, last: u32) -> bool {
    set.split(',').any(|part| {
        let of = |text: &str| text.parse().unwrap_or(last);
        let (from, to) = part.split_once(':').map_or((of(part), of(part)), |(a, b)| (of(a), of(b)));
        // `9:*` is the last one even where there is no ninth.
        (from.min(to)..=from.max(to)).contains(&number)
    })
}

fn imap(shared: &Shared, mut stream: TcpStream) -> std::io::Result<()> {
    let lines = BufReader::new(stream.try_clone()?);
    stream.write_all(b"* OK here\r\n")?;
    for line in lines.lines() {
        let line = line?;
        let (tag, rest) = line.split_once(' ').unwrap_or_default();
        let words: Vec<_> = rest.split(' ').collect();
        let mut out = Vec::new();
        let mut done = "OK done";
        match words.as_slice() {
            ["CAPABILITY"] => out.extend(b"* CAPABILITY IMAP4rev1\r\n"),
            ["LOGIN", _, password] => {
                shared.lock().logins += 1;
                if password.trim_matches('"') != PASSWORD {
                    done = "NO [AUTHENTICATIONFAILED] Authentication failed.";
                } else if let Some(refusal) = shared.refusal(true) {
                    done = refusal;
                }
            }
            ["SELECT", _] => {
                let state = shared.lock();
                let next = state.mails.last().map_or(1, |(number, ..)| number + 1);
                let (count, number) = (state.mails.len(), state.box_number);
                out.extend(format!("* {count} EXISTS\r\n* OK [UIDVALIDITY {number}] x\r\n* OK [UIDNEXT {next}] x\r\n").bytes());
                done = "OK [READ-WRITE] done";
            }
            ["UID", "SEARCH", which @ ..] => {
                let mut state = shared.lock();
                state.searches += 1;
                let last = state.mails.last().map_or(0, |(number, ..)| *number);
                let set = which.last().expect("a set");
                let unseen = which.contains(&"UNSEEN");
                let mails = state.mails.iter();
                let found = mails
                    .filter(|(number, _, read)| among(set, *number, last) && !(unseen && *read));
                let found: Vec<_> = found.map(|(number, ..)| number.to_string()).collect();
                out.extend(format!("* SEARCH {}\r\n", found.join(" ")).bytes());
            }
            ["UID", "FETCH", number, ..] => {
                let state = shared.lock();
                let found = state.mails.iter().find(|(one, ..)| one.to_string() == **number);
                if let Some((_, mail, _)) = found {
                    let (part, name) = match rest.split_once("HEADER]<0.") {
                        None => (&mail[..], "BODY[]"),
                        Some((_, most)) => {
                            let most = most.split('>').next().unwrap_or_default();
                            let most = most.parse().expect("how many bytes");
                            (&head(mail)[..head(mail).len().min(most)], "BODY[HEADER]<0>")
                        }
                    };
                    let (all, length) = (mail.len(), part.len());
                    out.extend(
                        format!(
                            "* 1 FETCH (UID {number} RFC822.SIZE {all} {name} {{{length}}}\r\n"
                        )
                        .bytes(),
                    );
                    out.extend(part);
                    out.extend(b")\r\n");
                }
            }
            ["UID", "STORE", set, "+FLAGS.SILENT", "(\\Seen)"] => {
                let mut state = shared.lock();
                for (number, _, read) in &mut state.mails {
                    *read |= among(set, *number, u32::MAX);
                }
            }
            _ => done = "BAD what?",
        }
        out.extend(format!("{tag} {done}\r\n").bytes());
        stream.write_all(&out)?;
        shared.happened.notify_all();
    }
    Ok(())
}

fn smtp(shared: &Shared, mut stream: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?);
    stream.write_all(b"220 mx.home.test\r\n")?;
    let mut to = String::new();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let answer = match line.trim_end().to_lowercase().as_str() {
            line if line.starts_with("rcpt to:") => {
                line["rcpt to:".len()..].trim_matches(['<', '>']).clone_into(&mut to);
                shared.refusal(false).unwrap_or("250 fine")
            }
            "data" => {
                stream.write_all(b"354 go on\r\n")?;
                let mut mail = Vec::new();
                while !mail.ends_with(b"\r\n.\r\n") {
                    let mut byte = [0];
                    lines.read_exact(&mut byte)?;
                    mail.push(byte[0]);
                }
                let mail = String::from_utf8_lossy(&mail).replace("\r\n", "\n");
                shared.lock().sent.push((to.clone(), mail));
                "250 taken"
            }
            "quit" => "221 bye",
            _ => "250 fine",
        };
        stream.write_all(format!("{answer}\r\n").as_bytes())?;
        shared.happened.notify_all();
    }
}
