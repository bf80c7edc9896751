//! How a session begins or goes on: its name, its place, its chain.
//!
//! Owns what the first line of a transcript says. Does not know what is said in it.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::guard::policy::Link;
use crate::kernel::session::{Header, Session};
use crate::organs::checkouts::Place;
use crate::organs::history::{branch, gitdir};
use crate::organs::host::Host;
use crate::organs::reach::narrow;
use crate::organs::reach::root::UNENFORCED;
use crate::organs::sessions;

impl Host {
    /// Make a session when there is none of this name; a new one when none is named. Its
    /// name. It works on the branch, else where its parent does, else in the workspace. Finds
    /// out first whether there is a model to talk to.
    pub(super) async fn create_session(
        &self,
        name: Option<String>,
        parent: Option<String>,
        branch: Option<&str>,
        only: Option<Link>,
        model: Option<&str>,
    ) -> Result<String> {
        branch.map_or(Ok(()), branch::check_name)?;
        // Nothing was chosen for a session that has no name yet.
        let model = self.model_for(name.as_deref().unwrap_or_default(), model).await?;
        let home = &self.settings.home;
        let name = match (name, branch) {
            (None, Some(branch)) => Some(self.session_of(branch)?),
            (name, _) => name,
        };
        let is_there = |name: &String| home.transcript(name).exists();
        if let Some(branch) = branch
            && !name.as_ref().is_some_and(is_there)
        {
            self.begin_branch(branch).await?;
        }
        // From here on nobody else can make one of this name before we do.
        if let Some(name) = name.as_ref().filter(|name| is_there(name)) {
            ensure!(
                only.is_none(),
                "session {name} is there already: what it may touch was settled when it began"
            );
            self.go_on(name, branch).await?;
            return Ok(name.clone());
        }
        let root = match branch {
            Some(branch) => gitdir::checkout(home.path(), branch),
            None => self.folder(parent.as_deref()),
        };
        let chain = self.links(parent.as_deref())?;
        // One that begins in somebody else's chat is never the owner's, whoever begins it.
        let guest = name.as_deref().map(|name| self.guest(name)).transpose()?.flatten();
        let (guest, link) = guest.unzip();
        let (parent, only) = (parent.or(guest), only.or(link.flatten()));
        ensure!(chain.is_empty() && only.is_none() || !self.reach().is_off(), UNENFORCED);
        let chain = narrow::extended(chain, only, self.reach().always(), &home.workspace(), &root)?;
        let chain = if chain.is_empty() { Value::Null } else { serde_json::to_value(chain)? };
        let create = |name: &str| {
            let header = Header {
                session: name.to_owned(),
                parent: parent.clone(),
                chain: chain.clone(),
                root: root.clone(),
                model: model.name().to_owned(),
                instructions: self.sources.described().to_owned(),
            };
            Session::create(&home.transcript(name), header).map(drop)
        };
        let Some(name) = name else { return sessions::create_fresh(create) };
        create(&name)?;
        Ok(name)
    }

    /// See that a session which is there can take another turn, and on this branch if one is
    /// named.
    async fn go_on(&self, name: &str, branch: Option<&str>) -> Result<()> {
        let home = &self.settings.home;
        let path = home.transcript(name);
        let root = sessions::header(&path).map(|header| header.root).unwrap_or_default();
        let own = gitdir::branch_of(home.path(), &root);
        if sessions::ended(&path)? {
            match own.filter(|own| !gitdir::checkout(home.path(), own).exists()) {
                None => bail!("session {name} was ended; start another one"),
                Some(own) => bail!(
                    "session {name} was ended with its branch {own}, which was merged or dropped; begin another session"
                ),
            }
        }
        if let Some(branch) = branch {
            ensure!(
                own == Some(branch),
                "session {name} does not work on the branch {branch}; name another one with --session NAME"
            );
            self.begin_branch(branch).await?;
        }
        self.place_of(name, &root).await.map(drop)
    }

    /// Where a session works.
    pub(super) async fn place_of(&self, name: &str, root: &Path) -> Result<Place> {
        self.place(root).await.with_context(|| {
            format!("session {name} works on a branch that cannot be opened; if it was merged or dropped, begin another session")
        })
    }
}
