// SPDX-License-Identifier: MIT OR Apache-2.0

//! Which process this is.
//!
//! A PID does not tell: in namespaces of their own, parent and child can both be number 1. What
//! tells is memory that the kernel clears in every new process (MADV_WIPEONFORK, Linux 4.14), made
//! by fork(2) or by clone(2) itself. A child that shares its parent's memory shares this too, and
//! also the AIO contexts: it is the same process in what matters here.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

/// What the kernel clears in every new process.
struct Page {
    /// This process's number; 0 in a process that has not asked.
    number: AtomicU64,
    /// See [`own_words`].
    own: [AtomicU64; OWN_WORDS],
}

const OWN_WORDS: usize = 2;

/// The page; null before the first [`Process::current`].
static PAGE: AtomicPtr<Page> = AtomicPtr::new(ptr::null_mut());
/// Numbers that no process has had: a child goes on where its parent was when it forked.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A process, among this one and those that it descends from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Process(u64);

impl Process {
    /// The calling process.
    pub fn current() -> Self {
        let number = &page().number;
        match number.load(Ordering::Relaxed) {
            0 => Self::first_asked(number),
            known => Self(known),
        }
    }

    #[cold]
    fn first_asked(number: &AtomicU64) -> Self {
        let fresh = NEXT.fetch_add(1, Ordering::Relaxed);
        match number.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => Self(fresh),
            Err(known) => Self(known),
        }
    }

    /// A number that is not 0, and that none of those processes shares.
    pub fn number(self) -> u64 {
        self.0
    }

    /// Whether it is the calling process.
    #[inline]
    pub fn is_current(self) -> bool {
        // SAFETY: there is a process, so `current` has set the page, which is never unmapped.
        let page = unsafe { &*PAGE.load(Ordering::Relaxed) };
        page.number.load(Ordering::Relaxed) == self.0
    }
}

/// Words of whoever has a use for them: what stands in them is this process's alone. They are 0 at
/// first, also in every child.
pub fn own_words() -> &'static [AtomicU64] {
    &page().own
}

fn page() -> &'static Page {
    let mut page = PAGE.load(Ordering::Acquire);
    if page.is_null() {
        let mine = map_page();
        match PAGE.compare_exchange(ptr::null_mut(), mine, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => page = mine,
            // Another thread was first. Mine stays, unused: this happens once in a process at most.
            Err(first) => page = first,
        }
    }
    // SAFETY: mapped by one of the two, and never unmapped.
    unsafe { &*page }
}

/// A page that is 0, also in every child.
fn map_page() -> *mut Page {
    const SIZE: usize = 4096;
    const { assert!(size_of::<Page>() <= SIZE) };
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping; only its own memory is advised on.
    unsafe {
        let page = libc::mmap(ptr::null_mut(), SIZE, protection, flags, -1, 0);
        assert_ne!(page, libc::MAP_FAILED, "no memory for one page");
        if libc::madvise(page, SIZE, libc::MADV_WIPEONFORK) != 0 {
            // An old kernel: at least fork(2) can be seen.
            libc::pthread_atfork(None, None, Some(wipe));
        }
        page.cast()
    }
}

unsafe extern "C" fn wipe() {
    // SAFETY: mapped, and never unmapped.
    if let Some(page) = unsafe { PAGE.load(Ordering::Relaxed).as_ref() } {
        page.own.iter().chain([&page.number]).for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `child` in a child made by `fork`, and returns its status.
    fn status_of(fork: impl FnOnce() -> libc::c_long, child: impl FnOnce() -> bool) -> i32 {
        let pid = fork();
        if pid == 0 {
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(i32::from(!child())) };
        }
        let mut status = -1;
        // SAFETY: writes one status.
        unsafe { libc::waitpid(pid as libc::pid_t, &mut status, 0) };
        status
    }

    #[test]
    fn a_child_is_another_process_and_so_is_its_child() {
        let parent = Process::current();
        assert_eq!(parent, Process::current());
        // SAFETY: the child only looks and exits.
        let fork = || libc::c_long::from(unsafe { libc::fork() });
        // SAFETY: a raw clone(2) that is a fork, without libc's handlers.
        let raw = || unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
        let in_child = || {
            let child = Process::current();
            let grandchild = || Process::current() != parent && Process::current() != child;
            !parent.is_current()
                && child.is_current()
                && status_of(raw, grandchild) == 0
                && child.is_current()
        };
        assert_eq!(status_of(fork, in_child), 0);
        assert_eq!(status_of(raw, in_child), 0);
        assert!(parent.is_current());
    }
}
