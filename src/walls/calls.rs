//! The system calls that Landlock does not look at, and that a hand must not make.
//!
//! Owns the lists and their reasons. Each refusal is an error that programs know: "permission
//! denied" for sockets, so that they say so; "not implemented" and "not supported" where they
//! have another way.
//! Knows no paths.

use std::collections::BTreeMap;

use anyhow::Result;
use libc::c_long;
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq, Ne};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, sock_filter,
};

use crate::walls::network::Network;

/// Other processes' memory and descriptors, files by number instead of by name, other
/// namespaces (in a new one a process has capabilities again), the kernel's keyrings and
/// programs.
#[rustfmt::skip]
const DENIED: [c_long; 28] = [
    libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd, libc::SYS_kcmp, libc::SYS_open_by_handle_at,
    libc::SYS_unshare, libc::SYS_setns, libc::SYS_chroot, libc::SYS_pivot_root,
    libc::SYS_mount, libc::SYS_umount2, libc::SYS_move_mount, libc::SYS_open_tree,
    libc::SYS_fsopen, libc::SYS_fspick, libc::SYS_fsmount, libc::SYS_mount_setattr,
    libc::SYS_keyctl, libc::SYS_add_key, libc::SYS_request_key, libc::SYS_quotactl,
    libc::SYS_bpf, libc::SYS_perf_event_open, libc::SYS_userfaultfd, libc::SYS_fanotify_init,
    // open_tree_attr (Linux 6.15), file_setattr (6.17): the same numbers everywhere.
    467, 469,
];
/// Attributes that may change who can read a file. Not every file system has them, so that
/// programs do without: `cp -p` sets the mode then.
#[rustfmt::skip]
const ATTRIBUTES: [c_long; 8] = [
    libc::SYS_setxattr, libc::SYS_lsetxattr, libc::SYS_fsetxattr,
    libc::SYS_removexattr, libc::SYS_lremovexattr, libc::SYS_fremovexattr,
    // setxattrat, removexattrat (Linux 6.13): the same numbers everywhere.
    463, 466,
];
/// Memory, semaphores and queues that other programs of the user share by number: nothing but
/// the user keeps a hand from theirs. Given with Unix sockets, which lead to the same programs.
#[rustfmt::skip]
const SHARED: [c_long; 11] = [
    libc::SYS_shmget, libc::SYS_shmat, libc::SYS_shmctl,
    libc::SYS_semget, libc::SYS_semctl, libc::SYS_semop, libc::SYS_semtimedop,
    libc::SYS_msgget, libc::SYS_msgctl, libc::SYS_msgsnd, libc::SYS_msgrcv,
];
/// Which programs do without: their arguments lie where a filter cannot look, or newer machines
/// have no such call.
#[rustfmt::skip]
const ABSENT: &[c_long] = &[
    libc::SYS_clone3,
    libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register,
    #[cfg(target_arch = "x86_64")] libc::SYS_utime,
    #[cfg(target_arch = "x86_64")] libc::SYS_utimes,
    #[cfg(target_arch = "x86_64")] libc::SYS_futimesat,
];
/// The same number everywhere.
pub const FCHMODAT2: c_long = 452;
/// Which the broker makes for its callers (`broker.rs`).
#[rustfmt::skip]
const BROKERED: &[c_long] = &[
    libc::SYS_fchmod, libc::SYS_fchmodat, FCHMODAT2,
    libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_utimensat,
    #[cfg(target_arch = "x86_64")] libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")] libc::SYS_chown,
    #[cfg(target_arch = "x86_64")] libc::SYS_lchown,
];
/// `CLONE_NEW…`: mount, cgroup, UTS, IPC, user, PID and network namespaces.
const NAMESPACES: [u64; 7] =
    [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];
/// What puts characters into a terminal as if they were typed, and what changes a file that was
/// opened to read: its flags, and whether it can be changed (`FS_IOC_FSSETXATTR`,
/// `FS_IOC_ENABLE_VERITY`).
const REQUESTS: [u64; 5] =
    [libc::TIOCSTI, libc::TIOCLINUX, libc::FS_IOC_SETFLAGS, 0x401c_5820, 0x4080_6685];
/// All kinds of sockets but streams.
const NO_STREAM: [u64; 5] = [2, 3, 4, 5, 6];
/// The part of a socket's kind that is no flag.
const KIND: u64 = 0xf;
const TCP: u64 = libc::IPPROTO_TCP as u64;
/// `MSG_FASTOPEN`, and where it stands among the arguments: connects past port rules.
const FAST_OPEN: u64 = 0x2000_0000;
const SENDING: [(c_long, u8); 3] =
    [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)];

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// What leaves a thread, and all it will start, no more than this of the network, and Unix
/// sockets or none.
pub fn filters(network: &Network, unix: bool) -> Result<Vec<BpfProgram>> {
    let all = |calls: &[c_long]| calls.iter().map(|call| (*call, Vec::new())).collect::<Rules>();
    let mut rules = all(&DENIED);
    for flag in NAMESPACES {
        add(&mut rules, libc::SYS_clone, [(0, Qword, MaskedEq(flag), flag)])?;
    }
    for request in REQUESTS {
        add(&mut rules, libc::SYS_ioctl, [(1, Dword, Eq, request)])?;
    }
    // Another process' limits: with them it can be ended, the host too, without a signal.
    let others = [(0, Dword, Ne, 0), (2, Qword, Ne, 0)];
    add(&mut rules, libc::SYS_prlimit64, others)?;
    Ok(vec![
        filter(rules, libc::EPERM)?,
        filter(all(ABSENT), libc::ENOSYS)?,
        filter(all(&ATTRIBUTES), libc::EOPNOTSUPP)?,
        filter(sockets(network, unix)?, libc::EACCES)?,
        #[cfg(target_arch = "x86_64")]
        no_x32(),
    ])
}

fn sockets(network: &Network, unix: bool) -> Result<Rules> {
    let mut rules = Rules::new();
    let [inet, inet6, netlink] =
        [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK].map(|family| family as u64);
    let mut families = vec![netlink];
    if *network != Network::None {
        families.extend([inet, inet6]);
    }
    if unix {
        families.push(libc::AF_UNIX as u64);
    } else {
        // A pair that keeps messages apart can be pointed at any socket that has a name.
        // The raw kind is another word for it.
        for kind in [libc::SOCK_DGRAM, libc::SOCK_RAW].map(|kind| kind as u64) {
            add(&mut rules, libc::SYS_socketpair, [(1, Dword, MaskedEq(KIND), kind)])?;
        }
        rules.extend(SHARED.map(|call| (call, Vec::new())));
    }
    add(&mut rules, libc::SYS_socket, families.into_iter().map(|family| (0, Dword, Ne, family)))?;
    // To ask which addresses this machine has, and nothing else.
    add(&mut rules, libc::SYS_socket, [(0, Dword, Eq, netlink), (2, Dword, Ne, 0)])?;
    if let Network::Ports(_) = network {
        for family in [inet, inet6] {
            for kind in NO_STREAM {
                let other = [(0, Dword, Eq, family), (1, Dword, MaskedEq(KIND), kind)];
                add(&mut rules, libc::SYS_socket, other)?;
            }
            let other = [(0, Dword, Eq, family), (2, Dword, Ne, 0), (2, Dword, Ne, TCP)];
            add(&mut rules, libc::SYS_socket, other)?;
        }
        for (call, flags) in SENDING {
            add(&mut rules, call, [(flags, Dword, MaskedEq(FAST_OPEN), FAST_OPEN)])?;
        }
        // Another protocol may be put above TCP, too, which connects by itself.
        for option in [libc::TCP_FASTOPEN_CONNECT, libc::TCP_ULP].map(|option| option as u64) {
            let set = [(1, Dword, Eq, TCP), (2, Dword, Eq, option)];
            add(&mut rules, libc::SYS_setsockopt, set)?;
        }
        // Landlock sees a port that is named, not one that the kernel picks.
        rules.insert(libc::SYS_listen, Vec::new());
    }
    Ok(rules)
}

/// A call of which all these arguments are so.
fn add(
    rules: &mut Rules,
    call: c_long,
    conditions: impl IntoIterator<Item = (u8, SeccompCmpArgLen, SeccompCmpOp, u64)>,
) -> Result<()> {
    let conditions = conditions.into_iter();
    let conditions =
        conditions.map(|(at, length, is, value)| SeccompCondition::new(at, length, is, value));
    let rule = SeccompRule::new(conditions.collect::<Result<_, _>>()?)?;
    rules.entry(call).or_default().push(rule);
    Ok(())
}

fn filter(rules: Rules, error: i32) -> Result<BpfProgram> {
    let refused = SeccompAction::Errno(error as u32);
    let arch = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refused, arch)?;
    Ok(filter.try_into()?)
}

/// The same calls have other numbers there, which no list above has.
#[cfg(target_arch = "x86_64")]
fn no_x32() -> BpfProgram {
    by_number(libc::BPF_JGE, &[0x4000_0000], libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32)
}

/// Answers so what the broker is to do.
pub fn brokered(answer: u32) -> BpfProgram {
    by_number(libc::BPF_JEQ, BROKERED, answer)
}

/// Answers calls so whose number compares so with one of these.
fn by_number(compares: u32, numbers: &[c_long], answer: u32) -> BpfProgram {
    let step = |code, jt, k| sock_filter { code: code as u16, jt, jf: 0, k };
    let test = |(at, number): (usize, &c_long)| {
        // Past the tests that are left, and the leave.
        step(libc::BPF_JMP | compares | libc::BPF_K, (numbers.len() - at) as u8, *number as u32)
    };
    // The call's number comes first in `seccomp_data`.
    let mut program = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0)];
    program.extend(numbers.iter().enumerate().map(test));
    program.push(step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW));
    program.push(step(libc::BPF_RET | libc::BPF_K, 0, answer));
    program
}
