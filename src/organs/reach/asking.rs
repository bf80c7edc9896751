//! Asking for more: a hand asks for its session, whoever may say yes is shown exactly that, and
//! no answer is a no.
//!
//! Owns who may answer, how long is waited, and what can be refused or told at once. The root
//! link is widened by the owner alone; any other by the session that made it, up to what that
//! one may do itself. Knows neither doors nor how a request is shown.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use crate::guard::policy::{Chain, Link, Network};
use crate::kernel::message::Origin;
use crate::kernel::tool::BASH_LIMIT_SECONDS;
use crate::organs::config::LimitSettings;
use crate::organs::host::{Ending, Host};
use crate::organs::lane::What;
use crate::organs::reach::asks::{Asked, Said};
use crate::organs::reach::given::{either, holds, widened};
use crate::organs::reach::grant::resolved;
use crate::organs::reach::item::Item;
use crate::organs::reach::narrow;
use crate::organs::sessions;
use crate::organs::verb::{Answer, Caller};

/// Characters of a reason that are kept: it is read by somebody who is busy.
const REASON: usize = 300;
/// Requests of one session that may wait for an answer at a time.
const OPEN: usize = 5;

/// What is known of a request before anybody answers.
enum Ready {
    /// It can be put to whoever may answer.
    Ask(Asked),
    /// There is nothing to ask.
    Given(Item),
}

impl Host {
    /// Ask for something in the name of the caller's session, and wait for the answer.
    pub(in crate::organs) async fn ask_for(
        &self,
        caller: &Caller,
        (item, why, seconds): (Item, &str, u64),
        answers: &UnboundedSender<Answer>,
    ) -> Result<Value> {
        let Caller::Hand(session) = caller else {
            bail!("asking is for tool calls; give it yourself with: fledgling allow {item}")
        };
        let seconds = seconds.clamp(1, BASH_LIMIT_SECONDS);
        let mut asked = match self.ready(session, item, why)? {
            Ready::Ask(asked) => asked,
            Ready::Given(item) => {
                let text = format!("That is given already: {item}. Nobody had to be asked.");
                return Ok(json!({ "said": text }));
            }
        };
        // From here on no answer is missed.
        let mut changed = self.grants.subscribe();
        asked = self.state.ask(asked, seconds)?;
        let id = asked.id;
        if !self.is_answered(&asked) {
            asked = self.state.settle(id, Said::No, None)?;
            self.tell(&asked);
            bail!("nobody is there to answer, so it is refused: {}. {}", asked.item, way(&asked))
        }
        self.tell(&asked);
        if asked.approver == Origin::Owner {
            self.put_to_chats(&asked);
        }
        let expires = tokio::time::sleep(Duration::from_secs(seconds));
        tokio::pin!(expires);
        while asked.answer.is_none() {
            let left = tokio::select! {
                changed = changed.changed() => { changed.ok().context(Ending)?; false }
                () = &mut expires => true,
                // The tool call is over: there is nobody any more to be told.
                () = answers.closed() => true,
            };
            let now = self.state.asked(id)?.context("the request is gone from state.db")?;
            asked = match now.answer {
                None if left => {
                    let over = self.state.settle(id, Said::Expired, None)?;
                    self.tell(&over);
                    over
                }
                _ => now,
            };
        }
        outcome(&asked, seconds)
    }

    /// Whatever can be said of it without asking anybody.
    fn ready(&self, session: &str, item: Item, why: &str) -> Result<Ready> {
        let reason = why.trim();
        ensure!(!reason.is_empty(), "say what it is needed for, with --why REASON");
        let mut cut: String = reason.chars().take(REASON).collect();
        if cut.len() < reason.len() {
            cut.push('…');
        }
        let mut item = resolved(item);
        self.check_item(&item)?;
        let links = self.links(Some(session))?;
        if let Item::Network(network) = &mut item {
            ensure!(
                *network != Network::None,
                "to be without a network nobody has to ask; use --only with what you start"
            );
            let whole = either(network, &self.chain_of(session)?.network());
            if self.has(session, &Item::Network(network.clone()))? {
                return Ok(Ready::Given(item));
            }
            // What is asked for is said whole, and so is what is given.
            *network = whole;
        }
        if self.has(session, &item)? {
            return Ok(Ready::Given(item));
        }
        if let (Item::Write(path), false) = (&item, links.is_empty()) {
            narrow::keeps_control(path, &self.home().workspace())?;
        }
        let approver = self.approver(session)?;
        self.within(&approver, &item)?;
        let open = self.state.open_asks(session)?.len();
        ensure!(open < OPEN, "{open} requests of this session wait for an answer; wait for those");
        let lasting = item.is_lasting() && links.is_empty();
        let (session, reason) = (session.to_owned(), cut);
        let (at, expires) = (String::new(), String::new());
        let (answer, by, answered) = (None, None, None);
        let id = 0;
        Ok(Ready::Ask(Asked {
            id,
            session,
            approver,
            item,
            reason,
            lasting,
            at,
            expires,
            answer,
            by,
            answered,
        }))
    }

    /// Answer a request. What was done, for whoever answered.
    pub(in crate::organs) async fn settle(
        &self,
        caller: &Caller,
        id: i64,
        said: Said,
    ) -> Result<Value> {
        let asked = self.open_ask(id)?;
        let by = match caller {
            Caller::Owner => Origin::Owner,
            Caller::Hand(own) => Origin::Agent(own.clone()),
        };
        match said {
            Said::No => {}
            Said::Expired => bail!("a request expires by itself"),
            Said::Always => {
                ensure!(by == Origin::Owner, "only the owner gives something for good");
                ensure!(asked.lasting, "that cannot be given for good; answer with yes or no");
            }
            Said::Yes => self.within(&by, &asked.item)?,
        }
        if said != Said::No {
            // The name that was shown is what is given, whatever has become of it since.
            self.check_item(&asked.item)?;
            if let Item::Model(spec) = &asked.item {
                self.model(spec).await?;
                self.open_ask(id)?;
                self.state.choose(&asked.session, spec)?;
            }
            if said == Said::Always {
                self.keep(std::slice::from_ref(&asked.item), true)?;
            }
        }
        let asked = self.state.settle(id, said, Some(&by))?;
        self.granted_anew();
        self.tell(&asked);
        let text = match said {
            Said::Yes => format!(
                "Given to conversation {}: {}. {} {}",
                asked.session,
                asked.item,
                since(&asked),
                asked.item.cost()
            ),
            Said::Always => format!("Given for good: {}. {}", asked.item, asked.item.cost()),
            Said::No | Said::Expired => format!("Refused: {}.", asked.item),
        };
        Ok(json!({ "said": text, "ask": asked }))
    }

    fn open_ask(&self, id: i64) -> Result<Asked> {
        let asked = self.state.asked(id)?;
        let asked = asked
            .with_context(|| format!("there is no request {id}; `fledgling asks` lists them"))?;
        if let Some(answer) = asked.answer {
            bail!("request {id} is over already: {}", answer.word());
        }
        let late =
            asked.expires.parse::<jiff::Timestamp>().is_ok_and(|at| jiff::Timestamp::now() > at);
        ensure!(!late, "request {id} has expired");
        Ok(asked)
    }

    /// Whether this hand is the one that may answer.
    pub(in crate::organs) fn may_answer(&self, own: &str, id: i64) -> Result<bool> {
        let asked = self.state.asked(id)?;
        Ok(asked.is_some_and(|asked| asked.approver == Origin::Agent(own.to_owned())))
    }

    /// The requests that a caller may know of.
    pub(in crate::organs) fn asks(&self, caller: &Caller) -> Result<Vec<Asked>> {
        let mut asks = self.state.asks()?;
        asks.retain(|asked| self.reaches(caller, &asked.session));
        Ok(asks)
    }

    /// Whose yes a session needs: the owner's, or that of the session which narrowed it.
    fn approver(&self, session: &str) -> Result<Origin> {
        let depth = self.links(Some(session))?.len();
        for above in self.conversations(session).skip(1) {
            if self.links(Some(&above))?.len() < depth {
                return Ok(Origin::Agent(above));
            }
        }
        Ok(Origin::Owner)
    }

    /// See that whoever gives it has it.
    fn within(&self, giver: &Origin, item: &Item) -> Result<()> {
        let Origin::Agent(above) = giver else { return Ok(()) };
        ensure!(
            matches!(item, Item::Model(_)) || self.has(above, item)?,
            "{item} is more than session {above} may do itself; it has to ask first"
        );
        Ok(())
    }

    /// Whether a session has this already.
    pub(in crate::organs) fn has(&self, session: &str, item: &Item) -> Result<bool> {
        let limits = self.limits_of(Some(session))?;
        Ok(match item {
            Item::Steps(number) => limits.steps >= *number,
            Item::Tokens(number) => limits.tokens >= *number,
            Item::Seconds(number) => limits.seconds >= *number,
            Item::Model(spec) => self.known_spec(session)?.as_ref() == Some(spec),
            item => {
                let scratch = self.home().scratch();
                let own = scratch.canonicalize().unwrap_or(scratch);
                holds(&self.chain_of(session)?, &[own], item)
            }
        })
    }

    fn chain_of(&self, session: &str) -> Result<Chain> {
        let (given, narrower) = self.given(Some(session))?;
        let folder = self.folder(Some(session));
        self.reach().chain(&folder, &given, &narrower)
    }

    /// What a session was given, and the links by which it may do less.
    pub(in crate::organs) fn widened(&self, session: &str) -> Result<(Vec<Item>, Vec<Link>)> {
        let of = |name: String| Ok((self.links(Some(&name))?.len(), self.state.granted(&name)?));
        let lineage = self.conversations(session).map(of);
        let lineage = lineage.collect::<Result<Vec<_>>>()?;
        Ok(widened(self.links(Some(session))?, lineage))
    }

    /// A session and those above it: not the job, the service or the person who began the first.
    fn conversations(&self, session: &str) -> impl Iterator<Item = String> {
        sessions::ancestry(self.home(), session).filter(|name| !name.contains(':'))
    }

    /// What a turn of a session may use up.
    pub(in crate::organs) fn limits_of(&self, session: Option<&str>) -> Result<LimitSettings> {
        let mut limits = self.settings.config.limits;
        for item in session.map_or_else(|| Ok(Vec::new()), |name| self.state.granted(name))? {
            match item {
                Item::Steps(number) => limits.steps = limits.steps.max(number),
                Item::Tokens(number) => limits.tokens = limits.tokens.max(number),
                Item::Seconds(number) => limits.seconds = limits.seconds.max(number),
                _ => {}
            }
        }
        Ok(limits)
    }

    /// Whether somebody is there who could answer.
    fn is_answered(&self, asked: &Asked) -> bool {
        let owner = self.shown_in(asked).any(|name| self.lane(&name).is_answered());
        // A hand of the session above may, while its turn runs.
        let above = |name: &String| self.lane(name).busy();
        let owner = owner || asked.approver == Origin::Owner && self.chats_answer();
        owner || matches!(&asked.approver, Origin::Agent(name) if above(name))
    }

    fn tell(&self, asked: &Asked) {
        for name in self.shown_in(asked) {
            self.lane(&name).tell_now(&What::Asked(asked.clone()));
        }
    }

    /// The conversations in which a request is shown: the one that asks, and those above it, as
    /// the owner looks on there while the agent has another work for it.
    fn shown_in(&self, asked: &Asked) -> impl Iterator<Item = String> {
        let above = asked.approver == Origin::Owner;
        let all = sessions::ancestry(self.home(), &asked.session);
        all.take(if above { usize::MAX } else { 1 })
    }
}

/// What the one that asked is told.
fn outcome(asked: &Asked, seconds: u64) -> Result<Value> {
    let Asked { item, answer, by, .. } = asked;
    let who = match by {
        Some(Origin::Agent(name)) => format!("session {name}"),
        _ => "your owner".to_owned(),
    };
    let text = match answer {
        Some(Said::Yes) => {
            format!("Yes, says {who}, for this conversation: {item}. {}", since(asked))
        }
        Some(Said::Always) => format!("Yes, says {who}, for good: {item}. {}", since(asked)),
        Some(Said::No) => {
            bail!("no, says {who}: {item}; do without it, or say what you would do with it")
        }
        _ => bail!("nobody answered within {seconds} s, so it is refused: {item}. {}", way(asked)),
    };
    Ok(json!({ "said": text }))
}

/// From when on it holds.
fn since(asked: &Asked) -> &'static str {
    if asked.item.is_lasting() {
        "It holds from the next tool call on; what runs now keeps what it had."
    } else {
        "It holds from the next turn on."
    }
}

/// What the owner can do about a request that nobody answered.
fn way(asked: &Asked) -> String {
    match (&asked.item, &asked.approver) {
        (_, Origin::Agent(above)) => {
            format!("Session {above}, which narrowed this one, has to be there to answer")
        }
        (Item::Model(_), _) => "Your owner can choose it with: /model".to_owned(),
        (item, _) if !item.is_lasting() => {
            "Your owner can set it under [limits] in config.toml".to_owned()
        }
        (item, _) => {
            let (what, which) = match item {
                Item::Read(path) => ("read", path.display().to_string()),
                Item::Write(path) => ("write", path.display().to_string()),
                item => return format!("Your owner can type: fledgling allow {item}"),
            };
            format!("Your owner can type: fledgling allow {what} {}", shell_words::quote(&which))
        }
    }
}
