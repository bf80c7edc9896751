//! `fledgling service`: have the system start `fledgling serve` with the owner's session.
//!
//! Owns where the service's file lies and what its name is. A file that somebody else wrote is left alone.

mod manager;
mod unit;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Subcommand;

use crate::face::clean::clean;
use crate::face::screen::{Place, Screen, write};
use crate::face::service::manager::{Manager, done};
use crate::face::turn_view::wrapped;
use crate::organs::config::is_absent;
use crate::organs::home::{Home, write_private};
use crate::organs::keys::Keys;
use crate::organs::link::DOOR_VARIABLE;

/// What is to be done with the service.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start it now and with every session of yours
    Install {
        /// Print what would be written, and change nothing
        #[arg(long)]
        print: bool,
    },
    /// Stop it, and start it no more
    Uninstall,
    /// Show whether it is installed and runs; the exit code is 0 when it does
    Status,
}

/// The service of one home.
#[derive(Debug)]
struct Service {
    manager: Manager,
    home: Home,
    /// As the manager calls it.
    name: String,
    file: PathBuf,
    /// What is to stand in the file.
    text: String,
}

/// Where programs are looked for when nobody says where.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Do it. The number is the exit code.
pub fn service(home: &Home, keys: &Keys, command: &Command) -> Result<u8> {
    let service = Service::of(Manager::here(), home)?;
    let changes = matches!(command, Command::Install { print: false } | Command::Uninstall);
    ensure!(
        !changes || std::env::var_os(DOOR_VARIABLE).is_none(),
        "only the owner may change what the system starts; ask for it"
    );
    match command {
        Command::Install { print: true } => write(Place::Out, service.text.trim_end())?,
        Command::Install { print: false } => service.install(keys)?,
        Command::Uninstall => service.uninstall()?,
        Command::Status => return service.status(),
    }
    Ok(0)
}

impl Service {
    fn of(manager: Manager, home: &Home) -> Result<Self> {
        let user = directories::BaseDirs::new();
        let user = user.context("it is not known where your own files are; set HOME")?;
        let program = std::env::current_exe().context("cannot find the program's own file")?;
        let path = std::env::var("PATH").unwrap_or_else(|_| PATH.to_owned());
        let folder = folder_of(home);
        let (file, log) = (text_of(&program)?, folder.join("logs/serve.log"));
        let program = unit::Program { file, home: text_of(&folder)?, path: &path };
        let name = name(&folder);
        let (name, file, text) = match manager {
            Manager::Systemd => {
                ensure!(
                    !file.contains(['"', '\'', '\\']),
                    "systemd starts no program whose path has a quote or a backslash in it, as {file} has; move it"
                );
                let name = format!("{name}.service");
                let file = user.config_dir().join("systemd/user").join(&name);
                (name, file, unit::unit(program))
            }
            Manager::Launchd => {
                let file = user.home_dir().join(format!("Library/LaunchAgents/{name}.plist"));
                let text = unit::property_list(&name, program, text_of(&log)?);
                (name, file, text)
            }
        };
        Ok(Self { manager, home: home.clone(), name, file, text })
    }

    fn install(&self, keys: &Keys) -> Result<()> {
        let Self { manager, home, name, file, text } = self;
        let before = self.present()?;
        home.create_root()?;
        // launchd makes no folder for the log.
        let logs = (*manager == Manager::Launchd).then(|| home.file("logs"));
        for folder in file.parent().into_iter().chain(logs.as_deref()) {
            let made = fs::create_dir_all(folder);
            made.with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let written = write_private(file, text.as_bytes());
        written.with_context(|| format!("cannot write {}", file.display()))?;
        let keys = keys.clone().with_file(&home.file("secrets.toml"))?;
        for (name, _) in keys.names().into_iter().filter(|(_, from)| *from == (true, false)) {
            say(&format!(
                "{name} is known from this shell's environment alone, which the service does not see; `fledgling secret set {name}` keeps it for the service, too."
            ))?;
        }
        if *manager == Manager::Launchd && before.is_some() {
            // It fails where nothing is loaded.
            let _ = done(&manager.stopping(name));
        }
        let changed = before.is_some_and(|before| before != *text);
        let steps = manager.starting(name, file, changed);
        if let Some(why) = steps.iter().find_map(|step| done(step).err()) {
            let steps: Vec<_> = steps.iter().map(shell_words::join).collect();
            bail!(
                "the service is written to {}, but it is not enabled: {why}. Where {} runs for you, enable it with\n  {}",
                file.display(),
                manager.title(),
                steps.join("\n  ")
            );
        }
        let log = match manager {
            Manager::Systemd => format!(
                "`journalctl --user -u {name}` shows its log. It ends when you log out, unless you run `loginctl enable-linger` once."
            ),
            Manager::Launchd => format!("Its log is {}.", home.file("logs/serve.log").display()),
        };
        say(&format!("{name} is started, now and with every session of yours. {log}"))
    }

    fn uninstall(&self) -> Result<()> {
        let Self { manager, name, file, .. } = self;
        if self.present()?.is_none() {
            return say(&format!("No service is installed: {} is not there.", file.display()));
        }
        // While the file is there: it says what is to be undone.
        let stopped = done(&manager.stopping(name));
        fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))?;
        if let Err(why) = stopped {
            bail!(
                "{} is removed, so that it starts no more; if it still runs, it could not be stopped: {why}",
                file.display()
            );
        }
        manager.forget();
        say(&format!("{name} is stopped and removed."))
    }

    /// What is known of it, line by line.
    fn status(&self) -> Result<u8> {
        let Some(text) = self.present()? else {
            let file = self.file.display();
            say(&format!(
                "No service is installed: {file} is not there. `fledgling service install` makes it."
            ))?;
            return Ok(1);
        };
        let current = if unit::is_same(&text, &self.text) {
            "yes"
        } else {
            "no: `fledgling service install` writes it anew"
        };
        let row = |what: &str, is: &str| write(Place::Out, &format!("{what:10}  {}", clean(is)));
        row("file", &self.file.display().to_string())?;
        row("up to date", current)?;
        let mut runs = false;
        for (what, question) in self.manager.questions(&self.name) {
            let (yes, is) = self.manager.answer(&question);
            row(what, &is)?;
            runs = yes;
        }
        Ok(u8::from(!runs))
    }

    /// What stands in its file, if that is there.
    fn present(&self) -> Result<Option<String>> {
        let file = self.file.display();
        match fs::read_to_string(&self.file) {
            Ok(text) if unit::is_ours(&text) => Ok(Some(text)),
            Ok(_) => bail!(
                "{file} was not written by `fledgling service install`, and stays as it is; move it elsewhere"
            ),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {file}")),
        }
    }
}

/// The folder of a home by the one path that leads there through no link, so that it is the
/// same service by whatever path it was named. Perhaps only its beginning is there yet.
fn folder_of(home: &Home) -> PathBuf {
    let path = home.path();
    let real =
        |above: &Path| Some(fs::canonicalize(above).ok()?.join(path.strip_prefix(above).ok()?));
    let real = path.ancestors().find_map(real).unwrap_or_else(|| path.to_owned());
    // Without a slash at the end.
    real.components().collect()
}

/// A name for each home; the usual one has the plain name.
fn name(folder: &Path) -> String {
    if Home::resolve(None).is_ok_and(|usual| folder_of(&usual) == folder) {
        return "fledgling".to_owned();
    }
    // FNV-1a: the same in every version of the program.
    let add = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let hash = folder.as_os_str().as_encoded_bytes().iter().fold(0x811c_9dc5, add);
    format!("fledgling-{hash:08x}")
}

fn text_of(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| {
        format!("{} cannot stand in the file of a service: it is no UTF-8", path.display())
    })
}

fn say(text: &str) -> Result<()> {
    Ok(write(Place::Out, &wrapped(text, Screen::of(Place::Out)))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_manager_has_its_own_file() {
        let home = Home::resolve(Some("/no/such/home".into())).unwrap();
        let [systemd, launchd] = [Manager::Systemd, Manager::Launchd]
            .map(|manager| Service::of(manager, &home).unwrap());
        let unit = "systemd/user/fledgling-ffa656c9.service";
        assert!(systemd.file.ends_with(unit), "{systemd:?}");
        let list = "Library/LaunchAgents/fledgling-ffa656c9.plist";
        assert!(launchd.file.ends_with(list), "{launchd:?}");
        let log = "<string>/no/such/home/logs/serve.log</string>";
        assert_eq!(launchd.text.matches(log).count(), 2, "{launchd:?}");
    }

    #[test]
    fn each_home_has_a_name_of_its_own() {
        let usual = Home::resolve(None).unwrap();
        assert_eq!(name(&folder_of(&usual)), "fledgling");
        let temp = tempfile::tempdir().unwrap();
        let of = |path: &str| folder_of(&Home::resolve(Some(temp.path().join(path))).unwrap());
        let before = of("one/");
        fs::create_dir(temp.path().join("one")).unwrap();
        std::os::unix::fs::symlink("one", temp.path().join("same")).unwrap();
        assert_eq!([of("one"), of("one/"), of("same")], [(); 3].map(|()| before.clone()));
        assert_ne!(name(&of("one")), name(&of("two")));
        // It must stay what it is for those who have installed one.
        assert_eq!(name(Path::new("/no/such/home")), "fledgling-ffa656c9");
    }
}
