//! A policy made true: the calling thread, and all it will ever start, confined by the kernel.
//!
//! Owns how each link becomes a layer of Landlock, so that the kernel and nobody else works
//! out what a chain allows, and the order of the steps. The invariant: whatever cannot be
//! enforced to the letter is an error, and then nothing is run. What Landlock does not see is
//! left to the walls below. Knows no tools.
//!
//! Rules name files, not paths: they are made anew when a path has come to mean another file. A
//! path is followed through no symlink then, since a hand may have put one there.
//!
//! Not covered, since the kernel offers nothing for it: looking at names, sizes and times of
//! files that cannot be read.

use std::ffi::CString;
use std::fs::File;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};
use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, NetPort,
    PathBeneath, Ruleset, RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, Scope,
};
use seccompiler::{BpfProgram, apply_filter};

use crate::guard::policy::{Chain, Link, Network, Policy};
use crate::walls::broker::Broker;
use crate::walls::calls;
use crate::walls::thread::{drop_capabilities, give_up_gaining, open_at};

/// Links that a chain has at most. Landlock stacks 16 layers: one is `seal`'s, one is left to
/// programs that confine themselves.
pub const DEPTH: usize = 14;
/// What is enforced, and no less: with an older one a hand could signal the host.
pub const NEEDED: ABI = ABI::V6;
/// What programs expect to be able to open, whatever the chain.
const DEVICES: [&str; 6] =
    ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"];
/// Other processes' memory and environment in there are not to be had.
const PROC: &str = "/proc";

/// The calling thread is confined: whoever starts a process asks for this. It stays in its
/// thread.
#[derive(Debug)]
pub struct Confined {
    seal: Option<OwnedFd>,
    _thread: PhantomData<*const ()>,
}

impl Confined {
    /// What a process below a supervisor restricts itself with, so that it cannot signal that.
    pub fn seal(&self) -> Option<RawFd> {
        self.seal.as_ref().map(OwnedFd::as_raw_fd)
    }
}

/// What confines a chain, kept from call to call for as long as each path in it means the
/// same file: a rule names a file and keeps it from being another, so that its number tells.
#[derive(Debug)]
pub struct Kept {
    starts: bool,
    made: Mutex<Option<Made>>,
}

#[derive(Debug, Clone)]
struct Made {
    /// Device and number of each file that is named; none where nothing is there.
    files: Vec<Option<(u64, u64)>>,
    layers: Arc<[RulesetCreated]>,
    filters: Arc<[BpfProgram]>,
}

impl Kept {
    /// For threads that start processes, or for such as work on files themselves. These do
    /// without `/proc`: there they would be the host, and nothing keeps a process from its own
    /// environment and memory.
    pub fn new(starts: bool) -> Self {
        Self { starts, made: Mutex::default() }
    }

    fn made(&self, links: &[Link], policy: &Policy) -> Result<Made> {
        let paths = links.iter().flat_map(|link| link.read.iter().chain(&link.write));
        let number = |path: &PathBuf| {
            path.symlink_metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
        };
        let files: Vec<_> = paths.chain(&policy.own).map(number).collect();
        let mut kept = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = kept.as_ref().filter(|made| made.files == files) {
            return Ok(made.clone());
        }
        let proc = self.starts.then_some(Path::new(PROC));
        let layers = links.iter().map(|link| layer(link, &policy.own, proc));
        let layers = layers.collect::<Result<_>>()?;
        let filters = calls::filters(&policy.chain.network(), policy.chain.unix())?.into();
        Ok(kept.insert(Made { files, layers, filters }).clone())
    }
}

/// Apply the policy to the calling thread and to all it will start, for good: call it in a
/// thread of the hand's own, never in one that goes back to a pool.
pub fn confine(policy: &Policy, kept: &Kept) -> Result<Confined> {
    give_up_gaining()
        .context("cannot see to it that a tool call gains no privileges, so nothing was run")?;
    let Chain::Links(links) = &policy.chain else {
        return Ok(Confined { seal: None, _thread: PhantomData });
    };
    let depth = links.len();
    ensure!(depth > 0, "nothing says what it may touch, so nothing was run");
    ensure!(
        depth <= DEPTH,
        "agents that each narrowed the next, {depth} in a row: {DEPTH} are the most"
    );
    // While a thread is not confined that is started here.
    let grants = |link: &Link| link.write.iter().chain(&policy.own).cloned().collect();
    let broker = kept.starts.then(|| Broker::start(links.iter().map(grants).collect()));
    let broker = broker.transpose().context("cannot start a thread for the call")?;
    let restricted = kept.made(links, policy).and_then(|made| restrict(&made, broker));
    let seal = restricted.context("cannot confine a tool call, so nothing was run; `fledgling doctor` tells what this machine lacks")?;
    Ok(Confined { seal, _thread: PhantomData })
}

fn restrict(made: &Made, broker: Option<Broker>) -> Result<Option<OwnedFd>> {
    // While the root folder can still be opened.
    let seal = seal()?;
    for layer in made.layers.iter() {
        layer.try_clone()?.restrict_self()?;
    }
    drop_capabilities().context("cannot take the rights of root from it")?;
    made.filters.iter().try_for_each(|filter| apply_filter(filter))?;
    let served = broker.map_or(Ok(()), Broker::serve_this_thread);
    served.context("cannot watch over modes and owners of files")?;
    Ok(seal)
}

fn layer(link: &Link, own: &[PathBuf], proc: Option<&Path>) -> Result<RulesetCreated> {
    let all = AccessFs::from_all(NEEDED);
    let read = AccessFs::from_read(NEEDED);
    // Nobody makes devices.
    let write = all & !(AccessFs::MakeChar | AccessFs::MakeBlock);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(all)?
        .scope(Scope::from_all(NEEDED))?;
    if let Network::Ports(_) = link.network {
        ruleset = ruleset.handle_access(AccessNet::from_all(NEEDED))?;
    }
    let mut ruleset = ruleset.create()?;
    let reads = link.read.iter().map(PathBuf::as_path).chain(proc);
    let writes = link.write.iter().chain(own).map(PathBuf::as_path);
    let writes = writes.chain(DEVICES.map(Path::new));
    let grants = reads.map(|path| (path, read)).chain(writes.map(|path| (path, write)));
    for (path, access) in grants {
        if let Some((file, access)) = open(path, access)? {
            ruleset = ruleset.add_rule(PathBeneath::new(file, access))?;
        }
    }
    if let Network::Ports(ports) = &link.network {
        for port in ports {
            ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
        }
    }
    Ok(ruleset)
}

/// A layer that keeps nothing from a process but signalling who is not below it. Moving files
/// between folders is denied by any layer that does not say otherwise.
fn seal() -> Result<Option<OwnedFd>> {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let ruleset = ruleset.handle_access(AccessFs::Refer)?.scope(Scope::Signal)?.create()?;
    let root = File::open("/").context("cannot open /")?;
    Ok(ruleset.add_rule(PathBeneath::new(root, AccessFs::Refer))?.into())
}

/// What a rule names, with the rights that it can have. None where nothing is there.
fn open(path: &Path, access: BitFlags<AccessFs>) -> Result<Option<(File, BitFlags<AccessFs>)>> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let opened = open_at(libc::AT_FDCWD, &name, libc::O_PATH, libc::RESOLVE_NO_SYMLINKS);
    let file = match opened.map_err(|error| (error.raw_os_error(), error)) {
        Ok(file) => File::from(file),
        // Nothing that a hand could reach.
        Err((Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES), _)) => return Ok(None),
        Err((Some(libc::ELOOP), _)) => bail!(
            "{} goes through a symlink now; tool calls may touch what it leads to only if the owner names that",
            path.display()
        ),
        Err((_, error)) => {
            return Err(error).with_context(|| format!("cannot open {}", path.display()));
        }
    };
    let is_folder = file.metadata().is_ok_and(|metadata| metadata.is_dir());
    let access = if is_folder { access } else { access & AccessFs::from_file(NEEDED) };
    Ok(Some((file, access)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::io::{self, ErrorKind};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    /// Folders of a small tree, and a file in each.
    const FOLDERS: [&str; 6] = ["a", "a/b", "a/b/c", "a/d", "e", "e/f"];

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for folder in FOLDERS {
            fs::create_dir_all(root.path().join(folder)).unwrap();
            fs::write(root.path().join(folder).join("file"), "x").unwrap();
        }
        root
    }

    fn link() -> Link {
        let (read, write) = (vec!["/usr".into(), "/etc".into()], Vec::new());
        Link { read, write, network: Network::Full, unix: false, secrets: None, tools: None }
    }

    fn policy(links: Vec<Link>) -> Policy {
        Policy {
            workspace: "/".into(),
            scratch: "/".into(),
            env: Vec::new(),
            chain: Chain::Links(links),
            own: Vec::new(),
            held: Arc::new(File::open("/dev/null").unwrap()),
            withheld: crate::files::withheld::Withheld::default(),
        }
    }

    /// What comes of this in a thread that is confined so, and of the same in one that is not.
    fn both<T: Send + 'static>(
        links: Vec<Link>,
        attempt: impl Fn() -> T + Clone + Send + 'static,
    ) -> (T, T) {
        let policy = policy(links);
        let control = attempt.clone();
        let confined = thread::spawn(move || {
            let _confined = confine(&policy, &Kept::new(true)).unwrap();
            attempt()
        });
        (confined.join().unwrap(), thread::spawn(control).join().unwrap())
    }

    /// Confined it is refused, and else it is not.
    fn refused(links: Vec<Link>, attempt: impl Fn() -> io::Result<()> + Clone + Send + 'static) {
        let (confined, control) = both(links, attempt);
        assert!(control.is_ok(), "the control: {control:?}");
        assert_eq!(confined.unwrap_err().kind(), ErrorKind::PermissionDenied);
    }

    fn may_read(path: &Path) -> bool {
        fs::read(path).is_ok()
    }

    fn may_write(path: &Path) -> bool {
        File::options().append(true).open(path).is_ok()
    }

    /// Whether a rule for one of these covers the file.
    fn covers(grants: &[PathBuf], file: &Path) -> bool {
        grants.iter().any(|grant| file.starts_with(grant))
    }

    fn any_network() -> impl Strategy<Value = Network> {
        prop_oneof![
            Just(Network::None),
            Just(Network::Full),
            proptest::collection::btree_set(1_u16..6, 0..4).prop_map(Network::Ports),
        ]
    }

    fn any_names() -> impl Strategy<Value = Option<BTreeSet<String>>> {
        proptest::option::of(proptest::collection::btree_set("[a-c]", 0..3))
    }

    /// A link, with folders by their numbers.
    fn any_link() -> impl Strategy<Value = (Vec<usize>, Vec<usize>, Link)> {
        let folders = || proptest::collection::vec(0..FOLDERS.len(), 0..3);
        let names = (any_names(), any_names());
        (folders(), folders(), any_network(), any::<bool>(), names).prop_map(
            |(read, write, network, unix, (secrets, tools))| {
                (read, write, Link { network, unix, secrets, tools, ..link() })
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        /// What the kernel allows is what every link allows: so no chain is wider than its
        /// beginning.
        #[test]
        fn a_chain_allows_what_all_its_links_allow(
            chain in proptest::collection::vec(any_link(), 1..=DEPTH),
        ) {
            let root = tree();
            let root = root.path().canonicalize().unwrap();
            let paths = |numbers: &[usize]| -> Vec<PathBuf> {
                numbers.iter().map(|number| root.join(FOLDERS[*number])).collect()
            };
            let links: Vec<_> = chain
                .iter()
                .map(|(read, write, link)| {
                    Link { read: paths(read), write: paths(write), ..link.clone() }
                })
                .collect();
            let files: Vec<_> = FOLDERS.map(|folder| root.join(folder).join("file")).into();
            let expected: Vec<_> = files
                .iter()
                .map(|file| {
                    let writes = |link: &Link| covers(&link.write, file);
                    let reads = |link: &Link| covers(&link.read, file) || writes(link);
                    (links.iter().all(reads), links.iter().all(writes))
                })
                .collect();
            let attempt = move || -> Vec<_> {
                files.iter().map(|file| (may_read(file), may_write(file))).collect()
            };
            let (confined, control) = both(links.clone(), attempt);
            prop_assert_eq!(confined, expected);
            prop_assert!(control.iter().all(|control| *control == (true, true)));
            for length in 1..links.len() {
                let [longer, shorter] = [length + 1, length].map(|length| {
                    Chain::Links(links[..length].to_vec())
                });
                let network = longer.network();
                prop_assert_eq!(network.and(&shorter.network()), network);
                prop_assert!(shorter.unix() || !longer.unix());
                for [longer, shorter] in [
                    [longer.secrets(), shorter.secrets()],
                    [longer.tools(), shorter.tools()],
                ] {
                    let narrower = match (longer, shorter) {
                        (_, None) => true,
                        (Some(longer), Some(shorter)) => longer.is_subset(&shorter),
                        (None, Some(_)) => false,
                    };
                    prop_assert!(narrower);
                }
            }
        }
    }

    #[test]
    fn a_chain_ends_at_its_depth() {
        let (confined, _) = both(vec![link(); DEPTH], || may_read(Path::new("/etc/passwd")));
        assert!(confined);
        let error = confined_error(vec![link(); DEPTH + 1]);
        assert!(error.contains("14 are the most"), "{error}");
        let error = confined_error(Vec::new());
        assert!(error.contains("nothing was run"), "{error}");
    }

    fn confined_error(links: Vec<Link>) -> String {
        let policy = policy(links);
        thread::spawn(move || format!("{:#}", confine(&policy, &Kept::new(true)).unwrap_err()))
            .join()
            .unwrap()
    }

    #[test]
    fn a_grant_that_has_become_a_symlink_is_an_error() {
        let root = tree();
        let grant = root.path().canonicalize().unwrap().join("e/f");
        fs::remove_dir_all(&grant).unwrap();
        std::os::unix::fs::symlink("/etc", &grant).unwrap();
        let error = confined_error(vec![Link { read: vec![grant], ..link() }]);
        assert!(error.contains("goes through a symlink now"), "{error}");
    }

    #[test]
    fn files_do_not_get_in_or_out() {
        let root = tree();
        let root = root.path().canonicalize().unwrap();
        let inside = vec![Link { write: vec![root.join("a")], ..link() }];
        let at = |path: &str| root.join(path);
        let (from, to) = (at("e/file"), at("a/linked"));
        let (confined, _) = both(inside.clone(), move || fs::hard_link(&from, &to).is_ok());
        assert!(!confined, "a hardlink into the folder");
        let (from, to) = (at("e/f/file"), at("a/moved"));
        let moved = move || match fs::rename(&from, &to) {
            Ok(()) => fs::rename(&to, &from).is_ok(),
            Err(_) => false,
        };
        assert_eq!(both(inside.clone(), moved), (false, true));
        std::os::unix::fs::symlink(at("e"), at("a/way")).unwrap();
        let way = at("a/way/file");
        refused(inside.clone(), move || fs::read(&way).map(drop));
        let longer = at("e/file");
        refused(inside, move || File::options().write(true).open(&longer)?.set_len(0));
    }

    #[test]
    fn the_network_is_what_the_link_says() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connect = move || TcpStream::connect(address).map(drop);
        let speak = || UdpSocket::bind("127.0.0.1:0").map(drop);
        let ports = |port| Network::Ports([port].into());
        for network in [Network::None, ports(1), Network::Ports(BTreeSet::new())] {
            refused(vec![Link { network: network.clone(), ..link() }], connect);
            refused(vec![Link { network, ..link() }], speak);
        }
        let own = vec![Link { network: ports(address.port()), ..link() }];
        assert!(both(own.clone(), connect).0.is_ok());
        refused(own.clone(), || TcpListener::bind("127.0.0.1:0").map(drop));
        // SAFETY: numbers only; the descriptor is closed with the thread's process.
        refused(own, || match unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 262) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        });
        assert!(both(vec![link()], connect).0.is_ok() && both(vec![link()], speak).0.is_ok());
    }

    #[test]
    fn unix_sockets_are_to_be_allowed() {
        let root = tree();
        let path = root.path().join("socket");
        let _listener = UnixListener::bind(&path).unwrap();
        let connect = move || UnixStream::connect(&path).map(drop);
        refused(vec![link()], connect.clone());
        assert!(both(vec![Link { unix: true, ..link() }], connect).0.is_ok());
        assert!(both(vec![link()], || UnixStream::pair().is_ok()).0);
        refused(vec![link()], || std::os::unix::net::UnixDatagram::pair().map(drop));
    }
}
