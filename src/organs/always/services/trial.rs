//! `fledgling check`: a service is tried out as a channel before it is trusted with a token.
//!
//! Owns what it is tried with: its own file in a hand that reaches no network and has, for each
//! secret that the file names, a value that is none. Whether it keeps to the contract, `check`
//! says. Knows no platform, and what cannot be seen without one is said.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::guard::policy::{Chain, Network};
use crate::organs::always::channels::check::{Check, Verdict};
use crate::organs::always::services::log::Log;
use crate::organs::always::services::program::{self, Event, Wanted};
use crate::organs::always::services::wanted::phrases;
use crate::organs::host::Host;
use crate::organs::lane::lock;
use crate::organs::reach::narrow;
use crate::organs::sessions;
use crate::organs::verb::Caller;

/// How long a service may take over all that it is given.
const PATIENCE: Duration = Duration::from_secs(15);
/// What stands for a secret: no service should send it anywhere, and none can. It looks like the
/// token of a Telegram bot, since services may refuse at once what does not.
const NO_SECRET: &str = "0:not-a-real-secret-for-a-check";

impl Host {
    /// Try a service out. What can be said of it, and whether it passed.
    pub(in crate::organs) async fn check_service(
        self: &Arc<Self>,
        caller: &Caller,
        name: &str,
    ) -> Result<Value> {
        self.check_overseer(caller)?;
        ensure!(sessions::check_name(name).is_ok(), "a service is named by its file in services/");
        let session = match caller {
            Caller::Owner => None,
            Caller::Hand(own) => Some(own.as_str()),
        };
        let folder = self.folder(session);
        let path = Path::new("services").join(name);
        let text = std::fs::read(folder.join(&path));
        let text = text.with_context(|| {
            let shown = path.display();
            format!("cannot read {shown}; a service is a file there, see `fledgling help services`")
        })?;
        let wanted = self.trial(name, &path, &folder, &String::from_utf8_lossy(&text), session)?;
        // Where nothing is confined, what it changes is at least not the owner's.
        let _writing = self.snapshots.writers().writes(&format!("check:{name}"), true);
        let log = self.home().file("logs").join("check.log");
        // What an earlier check said is none of this one's.
        let _ = std::fs::remove_file(&log);
        let log = Arc::new(Mutex::new(Log::open(&log, &self.withheld)));
        let (check, last) = try_out(&wanted, &log).await?;
        let mut lines = Vec::new();
        let mut passed = true;
        for (rule, verdict) in check.report() {
            let (mark, rest) = match verdict {
                Verdict::Kept => ("ok     ", String::new()),
                Verdict::Untried(why) => ("untried", format!(": {why}")),
                Verdict::Broken(why) => {
                    passed = false;
                    ("BROKEN ", format!(": {why}"))
                }
            };
            lines.push(format!("{mark}  {}{rest}", rule.words()));
        }
        lines.extend(check.not_tried().into_iter().map(|what| format!("untried  {what}")));
        if !passed {
            // First what is to be put right.
            lines.retain(|line| !line.starts_with("untried"));
        }
        if !passed && !last.is_empty() {
            lines.push(format!("The end of what it said on stderr:\n{last}"));
        }
        Ok(json!({ "said": lines.join("\n"), "passed": passed }))
    }

    fn trial(
        &self,
        name: &str,
        path: &Path,
        folder: &Path,
        text: &str,
        session: Option<&str>,
    ) -> Result<Wanted> {
        let mut policy = self.policy(&self.home().doors().join(".none"), folder, session)?;
        if let Chain::Links(links) = &mut policy.chain {
            // As narrow as it will be, and without what it may write: nobody has vouched for it.
            let workspace = self.home().workspace();
            let only = narrow::parse(&phrases(text), &workspace, None)?;
            let always = self.reach().always().collect::<Vec<_>>().into_iter();
            let mut only = narrow::extended(Vec::new(), only, always, &workspace, &workspace)?;
            for link in &mut only {
                link.write.clear();
            }
            links.extend(only);
            for link in links {
                (link.network, link.unix, link.secrets) = (Network::None, false, Some([].into()));
            }
        }
        let keys = self.settings.catalog.keys();
        let names: Vec<_> = keys.names().into_keys().map(str::to_owned).collect();
        policy.env.retain(|(variable, _)| !names.iter().any(|name| *variable == **name));
        // A name in capitals that the file takes from its environment may be that of a secret
        // which nobody has given yet.
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let secrets = words.filter(|word| {
            names.iter().any(|name| name == word)
                || ["_TOKEN", "_KEY", "_SECRET", "_PASSWORD"].iter().any(|end| word.ends_with(end))
        });
        policy.env.extend(secrets.map(|name| (name.into(), NO_SECRET.into())));
        policy.env.push(("FLEDGLING_SERVICE".into(), name.into()));
        let (name, path) = (name.to_owned(), PathBuf::from(path));
        Ok(Wanted { name, path, stamp: String::new(), blob: None, policy })
    }
}

/// Run it, give it what a host would, and hear what it makes of that. With the end of its
/// stderr.
async fn try_out(wanted: &Wanted, log: &Arc<Mutex<Log>>) -> Result<(Check, String)> {
    let (events, mut heard) = mpsc::unbounded_channel();
    let (tell, told) = oneshot::channel::<()>();
    let mut check = Check::default();
    let running = program::run(wanted, log, &events, async {
        let _ = told.await;
    });
    tokio::pin!(running);
    let (mut input, mut tell) = (None, Some(tell));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let ended = loop {
        tokio::select! {
            biased;
            event = heard.recv() => match event {
                Some(Event::Started { sender, .. }) => input = Some(sender),
                Some(Event::Line { line, .. }) => check.heard(&line),
                _ => {}
            },
            ended = &mut running => break ended,
            () = tokio::time::sleep_until(deadline), if tell.is_some() => drop(tell.take()),
        }
        if let Some(input) = &input {
            for line in check.give() {
                input.send(line);
            }
        }
        if check.is_answered() {
            drop(tell.take());
        }
    };
    while let Ok(event) = heard.try_recv() {
        if let Event::Line { line, .. } = event {
            check.heard(&line);
        }
    }
    let was_told = tell.is_none();
    let log = lock(log);
    if let Err(error) = &ended {
        return Ok((check, format!("{error:#}")));
    }
    if was_told {
        check.closed(ended.is_ok_and(|ended| ended.left));
    }
    Ok((check, log.tail()))
}
