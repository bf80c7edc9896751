//! Without a prompt: `fledgling run`, which is one turn, and lines from a pipe. The answer
//! is on stdout, everything else on stderr.
//!
//! Owns what such a turn reads and writes. Knows neither where the host is nor how a
//! turn is drawn.

use std::io::{BufRead as _, IsTerminal as _, Read as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::mpsc::{Receiver, channel};

use crate::face::clean::{clean, json_line};
use crate::face::record::Recorder;
use crate::face::screen::{Place, Screen, write};
use crate::face::turn_view::{Shown, TurnView};
use crate::face::{Refusal, asking, commands};
use crate::guard::policy;
use crate::kernel::event::{End, Event};
use crate::organs::host::Settings;
use crate::organs::link::Link;
use crate::organs::reach::asks::Asked;
use crate::organs::sessions;
use crate::organs::verb::{self, Answer, Verb, exit};

/// So long a backup is waited for without a word.
const SILENCE: Duration = Duration::from_secs(2);

/// How a conversation begins.
#[derive(Debug, Default)]
pub struct Begin {
    /// The model to ask.
    pub model: Option<String>,
    /// The branch to work on.
    pub branch: Option<String>,
    /// What it may do at most.
    pub only: Option<Box<policy::Link>>,
    /// Files that go with what is said.
    pub files: Vec<PathBuf>,
}

/// Run the turn. The number is the exit code.
pub async fn run(
    settings: impl FnOnce() -> Result<Settings>,
    given: Option<String>,
    session: Option<String>,
    begin: Begin,
    (json, mut recorder): (bool, Recorder),
) -> Result<u8> {
    let text = task(given, begin.files.is_empty())?;
    let mut link = Link::establish(settings).await?;
    hosting(&link, json)?;
    let code = turn(&mut link, text, session, begin, (json, &mut recorder)).await?;
    leave(&link, json).await?;
    Ok(code)
}

/// Lines from a pipe: each a turn, one after the other. The number is the exit code of the
/// last.
pub async fn lines(
    settings: Settings,
    session: Option<String>,
    json: bool,
    mut recorder: Recorder,
) -> Result<u8> {
    let (home, model) = (settings.home.clone(), settings.model.clone());
    let mut link = Link::establish(move || Ok(settings)).await?;
    hosting(&link, json)?;
    let session = sessions::chosen(&home, session)?;
    let mut code = 0;
    let mut piped = piped();
    loop {
        let bytes = tokio::select! {
            bytes = piped.recv() => bytes,
            () = interrupted() => {
                code = exit::INTERRUPTED;
                break;
            }
        };
        let Some(bytes) = bytes else { break };
        let bytes = bytes.context("cannot read standard input")?;
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        match text.as_str() {
            "" => {}
            "/quit" => break,
            _ => {
                commands::refuse_command(&text)?;
                let begin = Begin { model: model.clone(), ..Begin::default() };
                let (session, how) = (Some(session.clone()), (json, &mut recorder));
                code = turn(&mut link, text, session, begin, how).await?;
            }
        }
    }
    leave(&link, json).await?;
    Ok(code)
}

/// The lines of standard input, read by a thread of its own: while none comes, the door is
/// served and signals count.
fn piped() -> Receiver<std::io::Result<Vec<u8>>> {
    let (sender, lines) = channel(1);
    std::thread::spawn(move || {
        let mut lines = std::io::stdin().lock().split(b'\n');
        while lines.next().is_some_and(|line| sender.blocking_send(line).is_ok()) {}
    });
    lines
}

/// Say what there is to know.
fn hosting(link: &Link, json: bool) -> Result<()> {
    let mut output = Output::new(json);
    link.warning().map_or(Ok(()), |text| output.notice(text))?;
    link.take_notices().into_iter().try_for_each(|text| output.notice(text))
}

/// One turn. The number is its exit code.
async fn turn(
    link: &mut Link,
    text: String,
    session: Option<String>,
    begin: Begin,
    (json, recorder): (bool, &mut Recorder),
) -> Result<u8> {
    let mut output = Output::new(json);
    let key = verb::fresh_key();
    let Begin { model, branch, only, files } = begin;
    let (key_of_it, steer) = (key.clone(), false);
    let verb = Verb::Run { session, text, key: key_of_it, model, steer, branch, only, files };
    loop {
        if let Some(code) = ask(link, verb.clone(), &key, &mut output).await? {
            if let Some((session, turn)) = &output.turn {
                recorder.began(session, *turn);
                recorder.record(link, session).await?;
            }
            return Ok(code);
        }
        if let Some((session, _)) = output.turn {
            anyhow::bail!(
                "the host ended in the middle of the turn; what was finished is kept: continue with --session {session}"
            );
        }
        // The message waits in the inbox under its key: asking again cannot double it.
        link.again().await?;
        Output::new(json).notice("The host ended; this process hosts now.".to_owned())?;
        hosting(link, json)?;
    }
}

/// Before this process ends: wait for what others asked of it, and say so. Ctrl-C stops
/// it all.
pub async fn leave(link: &Link, json: bool) -> Result<()> {
    let Some(host) = link.host() else { return Ok(()) };
    let running = host.running();
    if !running.is_empty() {
        let names = running.join(", ");
        let text = format!("Asked for from elsewhere and still running here: {names}. Waiting.");
        Output::new(json).notice(text)?;
    }
    let waited_for = async {
        tokio::time::sleep(SILENCE).await;
        while !host.backs_up() {
            tokio::time::sleep(SILENCE).await;
        }
        let text = "Waiting for a backup to end, at most half a minute.";
        // Nobody may be there to read it.
        let _ = Output::new(json).notice(text.to_owned());
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = link.settle() => {}
        () = waited_for => {}
        () = interrupted() => tokio::select! {
            () = link.stop_all() => {}
            () = interrupted() => return Err(left().into()),
        }
    }
    let mut output = Output::new(json);
    link.take_notices().into_iter().try_for_each(|text| output.notice(text))
}

/// Leaving was broken off. What was under way is for the next start to put right.
pub fn left() -> Refusal {
    let why = "left before everything was stopped; the next start tells what was cut off";
    Refusal { why: why.to_owned(), exit: exit::INTERRUPTED }
}

/// Ask, and show the answer. The exit code; none when the host ended before its last word.
/// The first Ctrl-C takes back what was said and waits for the last word, a second leaves.
async fn ask(link: &Link, verb: Verb, key: &str, output: &mut Output) -> Result<Option<u8>> {
    // Before anything is said: a signal just after it must find what takes it back.
    let mut stop = Box::pin(interrupted());
    let mut answers = link.ask(verb).await?;
    let mut stopping = false;
    loop {
        let answer = tokio::select! {
            answer = answers.recv() => answer,
            lines = output.view.slow() => {
                output.lines(lines)?;
                continue;
            }
            () = &mut stop => {
                if stopping || !link.is_owners() {
                    return Ok(Some(exit::INTERRUPTED));
                }
                stopping = true;
                stop.set(interrupted());
                link.ask(Verb::TakeBack { key: key.to_owned() }).await?;
                continue;
            }
        };
        match answer {
            None => return Ok(output.ended.or(stopping.then_some(exit::INTERRUPTED))),
            Some(Answer::Event(event)) => output.event(&event)?,
            Some(Answer::Asked(asked)) => output.asked(&asked)?,
            Some(Answer::Refused { why, exit }) => return Err(Refusal { why, exit }.into()),
            Some(Answer::Value(_) | Answer::Happened(_)) => {}
            Some(Answer::Done) => return Ok(Some(output.ended.unwrap_or(exit::FAILED))),
        }
    }
}

/// Resolves at Ctrl-C or when the process is asked to end; counts from this call on, not
/// only from the first look at it.
pub fn interrupted() -> impl Future<Output = ()> + Send {
    use tokio::signal::unix::{SignalKind, signal};
    let handlers = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    async {
        let (Ok(mut interrupt), Ok(mut terminate)) = handlers else {
            // Without handlers the signals end the process, which a next start recovers from.
            return std::future::pending().await;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

/// The task: the argument, and standard input below it when there is any. Files may come without
/// a word.
fn task(argument: Option<String>, needed: bool) -> Result<String> {
    let mut parts: Vec<String> = argument.into_iter().collect();
    // A task on the command line is enough where nobody pipes anything in; an open pipe
    // that never ends is the caller's wish to be read.
    if !std::io::stdin().is_terminal() {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).context("cannot read standard input")?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to() + 1;
            Refusal::usage(format!(
                "stdin is not UTF-8 text (byte {at}): save it as a file and name that in the task"
            ))
        })?;
        parts.push(text.trim_end().to_owned());
        parts.retain(|part| !part.is_empty());
    }
    let task = parts.join("\n\n");
    if needed && task.trim().is_empty() {
        let why = "nothing to do: give the task as an argument or on standard input";
        return Err(Refusal::usage(why).into());
    }
    Ok(task)
}

/// Where a turn's lines go.
pub struct Output {
    json: bool,
    /// Whether words go out as they come, not whole replies.
    streams: bool,
    /// For all but the words.
    asides: Place,
    /// What it looks like.
    pub view: TurnView,
    /// The session, and the turn in it.
    turn: Option<(String, u64)>,
    /// The exit code, once the turn is over.
    pub ended: Option<u8>,
}

impl Output {
    fn new(json: bool) -> Self {
        let out = Screen::of(Place::Out);
        let screen = if out.terminal { out } else { Screen::of(Place::Err) };
        let (view, streams, asides) = (TurnView::new(screen), out.terminal, Place::Err);
        Self { json, streams, asides, view, turn: None, ended: None }
    }

    /// Everything goes to standard output, terminal or not.
    pub fn all_out(json: bool) -> Self {
        let view = TurnView::new(Screen::of(Place::Out));
        Self { streams: true, asides: Place::Out, view, ..Self::new(json) }
    }

    /// Write what an event adds.
    pub fn event(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::TurnStarted { session, turn, .. } => self.turn = Some((session.clone(), *turn)),
            Event::TurnEnded { end, .. } => {
                self.ended = Some(match end {
                    End::Done => 0,
                    End::Failed => exit::FAILED,
                    End::Interrupted => exit::INTERRUPTED,
                });
            }
            _ => {}
        }
        if self.json {
            return Ok(write(Place::Out, &json_line(event)?)?);
        }
        // A pipe gets the last reply whole and as it was written; what was said on the
        // way there is not the answer.
        if let (Event::Reply { text, calls }, false) = (event, self.streams) {
            let place = if *calls == 0 { Place::Out } else { Place::Err };
            if !text.is_empty() {
                write(place, clean(text).trim_end())?;
            }
        }
        let lines = self.view.event(event);
        self.lines(lines)
    }

    /// Write that more is asked for, or what came of it: here nobody can answer.
    fn asked(&mut self, asked: &Asked) -> Result<()> {
        if self.json {
            return Ok(write(Place::Out, &json_line(asked)?)?);
        }
        Ok(write(self.asides, &asking::told(asked))?)
    }

    fn lines(&mut self, lines: Vec<Shown>) -> Result<()> {
        for shown in lines {
            match shown {
                Shown::Said(line) if self.streams => write(Place::Out, &line)?,
                Shown::Aside(line) if !self.json => write(self.asides, &line)?,
                Shown::Said(_) | Shown::Aside(_) => {}
            }
        }
        Ok(())
    }

    fn notice(&mut self, text: String) -> Result<()> {
        self.event(&Event::Notice { text })
    }
}
