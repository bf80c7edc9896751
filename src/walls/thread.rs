//! What a thread or this process gives up for good.
//!
//! Owns the system calls for it. Knows not why they are made.

use std::ffi::{CStr, c_int};
use std::io;
use std::mem;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::ptr;

/// Programs that the calling thread starts gain no privileges by being started.
pub fn give_up_gaining() -> io::Result<()> {
    // SAFETY: takes numbers only.
    match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Make this process opaque to others of the same user: its memory, environment and
/// descriptors hold keys. Children that run another program are not affected.
pub fn hide_from_others() {
    // SAFETY: takes numbers only. It cannot fail with this value.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
}

/// Even root's: with some of them files could be read past Landlock.
pub fn drop_capabilities() -> io::Result<()> {
    // `_LINUX_CAPABILITY_VERSION_3`, and this thread.
    let header: [u32; 2] = [0x2008_0522, 0];
    let none = [[0_u32; 3]; 2];
    // SAFETY: the layout that capset(2) documents, of live values.
    match unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `openat2` with these flags and restrictions.
pub fn open_at(folder: RawFd, name: &CStr, flags: c_int, resolve: u64) -> io::Result<OwnedFd> {
    // SAFETY: all zero is a valid value.
    let mut how: libc::open_how = unsafe { mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.resolve = resolve;
    let (how, size) = (&raw const how, size_of::<libc::open_how>());
    // SAFETY: a string and a structure that live on, with its size.
    match unsafe { libc::syscall(libc::SYS_openat2, folder, name.as_ptr(), how, size) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: opened just now, and nobody else's.
        file => Ok(unsafe { OwnedFd::from_raw_fd(file as RawFd) }),
    }
}

/// Block or unblock all signals in this thread.
pub fn mask(how: c_int) {
    // SAFETY: a signal set of its own.
    unsafe {
        let mut all = mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(how, &raw const all, ptr::null_mut());
    }
}
