//! Who talks from where: pairing as the owner asks for it, and what follows from it.
//!
//! Owns with whom a session begins and what it may then do, to which chat its words go, and
//! which chats are trusted to answer requests. Rows decide who is known; what is said is `talk`'s.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::guard::policy::{Link, Network};
use crate::organs::always::background::Kind;
use crate::organs::always::channels::pairing::{As, OWNER, Whom};
use crate::organs::always::outbox::Letter;
use crate::organs::always::status::ChannelStatus;
use crate::organs::host::Host;
use crate::organs::reach::asks::Asked;

impl Host {
    /// A request for more that is the owner's to answer is put to the chats that may answer it.
    pub(in crate::organs) fn put_to_chats(&self, asked: &Asked) {
        let posted = self.state.answering_chats().map(|chats| {
            let trusted = |channel: &str| self.is_vouched_for(channel).unwrap_or(false);
            for chat in chats.into_iter().filter(|chat| trusted(&chat.channel)) {
                let text = format!(
                    "Conversation {} asks for: {}\n{}\n/yes {} gives it to that conversation, /no {} refuses it.",
                    asked.session, asked.item, asked.reason, asked.id, asked.id
                );
                let key = format!("ask:{}:{}:{}", asked.id, chat.channel, chat.id);
                let to = Some((chat.channel, chat.id));
                let text = self.withheld.text(text);
                let _ = self.post(&Letter { key, to, text, ..Letter::default() });
            }
        });
        if let Err(error) = posted {
            self.fault(Kind::Channel, "", &format!("{error:#}"));
        }
    }

    /// Whether the service of a channel is the one that the owner trusted with answers: whoever
    /// writes another could have it say yes to itself.
    pub(super) fn is_vouched_for(&self, channel: &str) -> Result<bool> {
        let vouched = self.state.vouched(channel)?;
        Ok(vouched.is_some() && vouched == self.always.desk.blob(channel))
    }

    /// Whether a chat may answer requests, and its channel runs.
    pub(in crate::organs) fn chats_answer(&self) -> bool {
        let chats = self.state.answering_chats().unwrap_or_default();
        chats.iter().any(|chat| self.is_vouched_for(&chat.channel).unwrap_or(false))
    }

    /// The chat to which the words of a session go.
    pub(in crate::organs::always) fn chat_of(
        &self,
        session: &str,
    ) -> Result<Option<(String, String)>> {
        let talk = self.state.talk(session)?.filter(|talk| talk.open);
        Ok(talk.map(|talk| (talk.channel, talk.chat)))
    }

    /// Let somebody talk from a chat.
    pub(in crate::organs) fn pair(
        &self,
        code: &str,
        person: Option<String>,
        only: Option<Link>,
        answers: bool,
    ) -> Result<Value> {
        let owner = person.is_none();
        let links = only.map(|link| serde_json::to_string(&link)).transpose()?;
        let who = As { person: person.unwrap_or_else(|| OWNER.to_owned()), owner, links, answers };
        let paired = self.state.pair(code, who, self.always.clock.now().as_second())?;
        self.always.mail.notify_one();
        let whom = if owner { "You are".to_owned() } else { format!("{} is", paired.who.person) };
        let mut text = format!("{whom} paired in {} as {}.", paired.channel, paired.sender);
        // The service could say anything in anybody's name, so it is this one that is trusted.
        if answers {
            match self.always.desk.blob(&paired.channel) {
                Some(blob) => self.state.vouch(&paired.channel, &blob)?,
                None => text.push_str(" Requests are not answered from there: its service does not run, so that it is not known what to trust. Pair once more when it does."),
            }
        }
        Ok(json!({ "said": text }))
    }

    /// Take that back.
    pub(in crate::organs) fn unpair(&self, channel: &str, person: &str) -> Result<Value> {
        let rows = self.state.people_rows()?.into_iter().filter(|row| row.channel == channel);
        let found = rows.filter(|row| row.sender == person || row.who.person == person);
        let found: Vec<_> = found.collect();
        ensure!(
            !found.is_empty(),
            "nobody is paired in {channel} as {person}; `fledgling people` lists who is"
        );
        for row in found {
            let whom = Whom::Sender { channel: row.channel, sender: row.sender };
            self.state.unpair(&whom)?;
        }
        Ok(
            json!({ "said": format!("{person} is not paired in {channel} any more; what they write gets a code and nothing else.") }),
        )
    }

    /// Who is paired where, and who was given a code.
    pub(in crate::organs) fn people(&self) -> Result<Value> {
        let rows = self.state.people_rows()?.into_iter().map(|row| {
            json!({
                "channel": row.channel, "sender": row.sender, "person": row.who.person,
                "owner": row.who.owner, "answers": row.who.answers,
                "narrowed": row.who.links.is_some(),
            })
        });
        let pending = self.state.pending_pairings(self.always.clock.now().as_second())?;
        Ok(json!({ "people": rows.collect::<Vec<_>>(), "pending": pending }))
    }

    /// The channels there are, for `fledgling status`.
    pub(in crate::organs::always) fn channels(&self) -> Result<Vec<ChannelStatus>> {
        let (people, pending) = (self.state.people_rows()?, self.state.pending_letters()?);
        let mut names = self.always.desk.channels();
        names.extend(people.iter().map(|row| row.channel.clone()));
        names.sort();
        names.dedup();
        let all = names.into_iter().map(|name| {
            let of = people.iter().filter(|row| row.channel == name);
            let waiting = pending.iter().find(|(channel, _)| channel.as_ref() == Some(&name));
            ChannelStatus {
                people: of.map(|row| row.who.person.clone()).collect(),
                waiting: waiting.map_or(0, |(_, count)| *count as usize),
                name,
            }
        });
        Ok(all.collect())
    }

    /// With whom a session begins that is somebody else's than the owner's, and the link by
    /// which it may do less.
    pub(in crate::organs) fn guest(&self, session: &str) -> Result<Option<(String, Option<Link>)>> {
        let Some(talk) = self.state.talk(session)?.filter(|talk| !talk.owner) else {
            return Ok(None);
        };
        let whose = format!("channel:{}/{}", talk.channel, talk.person);
        let lost = || format!("what {} may do in {} cannot be read", talk.person, talk.channel);
        let link = match talk.links {
            _ if talk.group => Some(narrowest()),
            Some(links) => Some(serde_json::from_str(&links).with_context(lost)?),
            None => None,
        };
        Ok(Some((whose, link)))
    }
}

/// What a conversation may do in which others read along: talk.
fn narrowest() -> Link {
    let (read, write) = (Vec::new(), Vec::new());
    let (secrets, tools) = (Some([].into()), Some([].into()));
    Link { read, write, network: Network::None, unix: false, secrets, tools }
}
