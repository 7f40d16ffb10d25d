// SPDX-License-Identifier: MIT OR Apache-2.0

//! The C API with the built-in host and real files: any calls in any order, with arguments good and
//! bad, from within completions too, of a state over each interface of the kernel. Whatever is accepted
//! completes exactly once.

#![no_main]

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::os::fd::AsRawFd;
use std::ptr;

use laio::ffi::*;
use laio_engine::host::{AioContext, LinuxAioState};
use laio_engine::kernel::LaioKernel;
use laio_engine::qiov::QEMUIOVector;
use laio_engine::{LaioStats, depth};
use libfuzzer_sys::fuzz_target;

const STATES: usize = 2;
/// What each is over. An input is run twice, the second time with the two changed over.
const KERNELS: [LaioKernel; STATES] = [LaioKernel::LinuxAio, LaioKernel::IoUring];
const BUFFER: usize = 64;
const MOST_REQUESTS: usize = 200;

/// A call's worth of bytes at a time; zeros when there are none left.
struct Input<'a> {
    bytes: RefCell<&'a [u8]>,
}

impl Input<'_> {
    fn byte(&self) -> u8 {
        let mut bytes = self.bytes.borrow_mut();
        let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
        *bytes = rest;
        *first
    }

    fn is_empty(&self) -> bool {
        self.bytes.borrow().is_empty()
    }
}

struct Job {
    fuzzer: *const Fuzzer<'static>,
    buffer: [u8; BUFFER],
    iov: [libc::iovec; 3],
    accepted: Cell<bool>,
    completed: Cell<u32>,
}

struct Fuzzer<'a> {
    input: Input<'a>,
    loops: [*mut AioContext; STATES],
    states: [Cell<*mut LinuxAioState>; STATES],
    kernels: [LaioKernel; STATES],
    attached: [Cell<bool>; STATES],
    plugs: [Cell<u32>; STATES],
    files: [c_int; 4],
    jobs: RefCell<Vec<*mut Job>>,
    nested: Cell<u32>,
    replaced: Cell<bool>,
}

unsafe extern "C" fn on_complete(opaque: *mut c_void, _result: c_int) {
    // SAFETY: a job, which lives until the end of the run.
    let job = unsafe { &*opaque.cast::<Job>() };
    // SAFETY: as above.
    let fuzzer = unsafe { &*job.fuzzer };
    job.completed.set(job.completed.get() + 1);
    assert_eq!(job.completed.get(), 1, "a request completes twice");
    fuzzer.nested.set(fuzzer.nested.get() + 1);
    if fuzzer.nested.get() < 12 && !fuzzer.input.is_empty() {
        fuzzer.call();
    }
    fuzzer.nested.set(fuzzer.nested.get() - 1);
}

impl Fuzzer<'_> {
    fn call(&self) {
        let which = self.input.byte();
        let index = usize::from(which >> 7);
        let state = self.states[index].get();
        // SAFETY: handles are NULL or valid; the vectors and buffers live until the end of the run.
        unsafe {
            match which & 15 {
                0..=5 => self.submit(state),
                6 => {
                    laio_loop_poll(self.loops[index], false);
                }
                7 => {
                    laio_state_io_plug(state);
                    if !state.is_null() {
                        self.plugs[index].set(self.plugs[index].get() + 1);
                    }
                }
                8 => laio_state_io_unplug(state, self.input.byte().into()),
                9 => self.detach_or_attach(index),
                10 => self.check_stats(state),
                11 => {
                    // Refused, unless the depth is sensible.
                    laio_set_max_submit_depth(self.input.byte().into());
                    assert!((1..=64).contains(&laio_max_submit_depth()));
                }
                12 => self.wrong_calls(index),
                13 => self.co_submit(state),
                14 => {
                    laio_loop_poll(self.loops[index], true);
                }
                _ => self.replace(index),
            }
        }
    }

    unsafe fn submit(&self, state: *mut LinuxAioState) {
        if self.jobs.borrow().len() >= MOST_REQUESTS {
            return;
        }
        let job = Box::into_raw(Box::new(Job {
            fuzzer: ptr::from_ref(self).cast(),
            buffer: [self.input.byte(); BUFFER],
            iov: [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; 3],
            accepted: Cell::new(false),
            completed: Cell::new(0),
        }));
        self.jobs.borrow_mut().push(job);
        let shape = self.input.byte();
        // SAFETY: the job is leaked until the end of the run; parts lie within its buffer.
        unsafe {
            let base: *mut u8 = (&raw mut (*job).buffer).cast();
            for part in 0..3 {
                (*job).iov[part] = libc::iovec {
                    iov_base: base.add(part * 20).cast(),
                    iov_len: usize::from(shape >> part & 3) * 5,
                };
            }
            let iov: *const libc::iovec = (&raw const (*job).iov).cast();
            let iov = if shape == 255 { ptr::null() } else { iov };
            let count = c_int::from(self.input.byte() % 5) - 1;
            let kinds = [1, 2, 8, 0x400, 3, -1, 0, 0x10];
            let kind = kinds[usize::from(self.input.byte() % 8)];
            let fd = self.files[usize::from(self.input.byte() % 4)];
            let offset = match self.input.byte() {
                255 => u64::MAX,
                254 => i64::MAX as u64,
                byte => u64::from(byte),
            };
            let answer = laio_state_submit(
                state,
                fd,
                offset,
                iov,
                count.min(3),
                kind,
                u32::from(self.input.byte()),
                u64::from(self.input.byte()),
                Some(on_complete),
                job.cast(),
            );
            assert!(answer <= 0);
            (*job).accepted.set(answer == 0);
        }
    }

    unsafe fn co_submit(&self, state: *mut LinuxAioState) {
        if self.nested.get() > 3 {
            return;
        }
        let mut buffer = [0u8; BUFFER];
        let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: BUFFER };
        // SAFETY: zeros are valid for it.
        let mut qiov: QEMUIOVector = unsafe { std::mem::zeroed() };
        qiov.iov = &raw mut iov;
        qiov.niov = 1;
        qiov.rest.size = BUFFER - usize::from(self.input.byte() / 128);
        let kind = [1, 2, 8][usize::from(self.input.byte() % 3)];
        let fd = self.files[usize::from(self.input.byte() % 4)];
        // SAFETY: all of it lives across the call, which ends with the request.
        unsafe { laio_state_co_submit(state, fd, 0, &raw mut qiov, kind, 0, 0) };
    }

    unsafe fn detach_or_attach(&self, index: usize) {
        // A completion must not: it runs within the service of the loop.
        if self.nested.get() > 0 || self.states[index].get().is_null() {
            return;
        }
        // SAFETY: valid handles.
        unsafe {
            if self.attached[index].replace(!self.attached[index].get()) {
                laio_detach_aio_context(self.states[index].get(), self.loops[index]);
            } else {
                laio_attach_aio_context(self.states[index].get(), self.loops[index]);
            }
        }
    }

    unsafe fn check_stats(&self, state: *mut LinuxAioState) {
        let mut stats = LaioStats { size: size_of::<LaioStats>(), ..LaioStats::default() };
        // SAFETY: a place for the statistics; a NULL state is refused.
        unsafe { laio_state_get_stats(state, &raw mut stats) };
        assert_eq!(stats.submitted, stats.completed + stats.in_queue + stats.in_flight);
    }

    /// What every function has to refuse.
    unsafe fn wrong_calls(&self, index: usize) {
        let null = ptr::null_mut();
        // SAFETY: NULLs are refused.
        unsafe {
            laio_attach_aio_context(null, self.loops[index]);
            laio_attach_aio_context(self.states[index].get(), ptr::null_mut());
            laio_detach_aio_context(null, self.loops[index]);
            laio_detach_aio_context(self.states[index].get(), ptr::null_mut());
            laio_cleanup(null);
            assert!(laio_init_kernel(3, ptr::null_mut()).is_null());
            assert_eq!(laio_state_kernel(null), LaioKernel::Auto as u32);
            laio_state_io_plug(null);
            laio_state_io_unplug(null, 0);
            laio_state_get_stats(null, ptr::null_mut());
            laio_state_get_stats(self.states[index].get(), ptr::null_mut());
            let mut no_size = LaioStats::default();
            laio_state_get_stats(self.states[index].get(), &raw mut no_size);
            assert!(laio_set_host_ops(ptr::null()) < 0);
            laio_version(); // That of the crate around it here.
            assert!(!laio_loop_poll(ptr::null_mut(), true));
            laio_loop_free(ptr::null_mut());
            if self.attached[index].get() {
                // It serves a state.
                laio_loop_free(self.loops[index]);
            }
        }
    }

    unsafe fn replace(&self, index: usize) {
        // Slow, so once a run.
        if self.nested.get() > 0 || self.replaced.replace(true) {
            return;
        }
        // SAFETY: a valid handle, forgotten here.
        unsafe {
            let state = self.states[index].replace(ptr::null_mut());
            // Cleaning up detaches, and tells owners, who come back here.
            self.attached[index].set(false);
            if !state.is_null() {
                laio_cleanup(state);
            }
            self.plugs[index].set(0);
            let kernel = self.kernels[index] as u32;
            self.states[index].set(laio_init_kernel(kernel, ptr::null_mut()));
            assert!(!self.states[index].get().is_null(), "no {:?}", self.kernels[index]);
            assert_eq!(laio_state_kernel(self.states[index].get()), kernel);
            laio_attach_aio_context(self.states[index].get(), self.loops[index]);
            self.attached[index].set(true);
        }
    }
}

impl Fuzzer<'_> {
    /// Makes the states that are not there, and attaches all.
    unsafe fn attach_all(&self) {
        for index in 0..STATES {
            // SAFETY: valid handles, or a state that is not there yet.
            unsafe {
                match self.states[index].get() {
                    state if state.is_null() => self.replace(index),
                    state => laio_attach_aio_context(state, self.loops[index]),
                }
            }
            self.replaced.set(false);
        }
    }
}

/// What lasts from run to run: io_destroy(2) takes tens of milliseconds.
struct Lasting {
    file: std::fs::File,
    loops: [*mut AioContext; STATES],
    states: [Cell<*mut LinuxAioState>; STATES],
}

impl Lasting {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("laio-fuzz-{}", std::process::id()));
        let mut options = std::fs::File::options();
        let file = options.read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.expect("a file to work on");
        std::fs::remove_file(&path).expect("a file of our own");
        file.set_len(100).expect("a file of that size");
        Self {
            file,
            loops: std::array::from_fn(|_| laio_loop_new()),
            states: std::array::from_fn(|_| Cell::new(ptr::null_mut())),
        }
    }
}

thread_local! {
    static LASTING: Lasting = Lasting::new();
}

/// All that a run leaves behind completes through the event loop.
unsafe fn finish(fuzzer: &Fuzzer) {
    for index in 0..STATES {
        let state = fuzzer.states[index].get();
        // SAFETY: valid handles.
        unsafe {
            if !fuzzer.attached[index].get() {
                laio_attach_aio_context(state, fuzzer.loops[index]);
            }
            (0..fuzzer.plugs[index].get()).for_each(|_| laio_state_io_unplug(state, 0));
            let mut stats = LaioStats { size: size_of::<LaioStats>(), ..LaioStats::default() };
            loop {
                laio_state_get_stats(state, &raw mut stats);
                if stats.in_queue + stats.in_flight == 0 {
                    break;
                }
                assert!(laio_loop_poll(fuzzer.loops[index], true), "requests are lost");
            }
        }
    }
}

/// All that an input says, to the states in the order of `places`.
fn run(lasting: &Lasting, bytes: &[u8], places: [usize; STATES]) {
    let fd = lasting.file.as_raw_fd();
    let fuzzer = Fuzzer {
        input: Input { bytes: RefCell::new(bytes) },
        loops: lasting.loops,
        states: places.map(|place| Cell::new(lasting.states[place].get())),
        kernels: places.map(|place| KERNELS[place]),
        attached: std::array::from_fn(|_| Cell::new(true)),
        plugs: Default::default(),
        files: [fd, fd, -1, 1_000_000],
        jobs: RefCell::default(),
        nested: Cell::new(0),
        replaced: Cell::new(false),
    };
    // SAFETY: the C API as its header says.
    unsafe {
        fuzzer.attach_all();
        while !fuzzer.input.is_empty() {
            fuzzer.call();
        }
        finish(&fuzzer);
    }
    for (index, place) in places.into_iter().enumerate() {
        let state = fuzzer.states[index].get();
        // SAFETY: valid handles; `finish` has left it attached.
        unsafe { laio_detach_aio_context(state, fuzzer.loops[index]) };
        lasting.states[place].set(state);
    }
    assert_eq!(laio_submit_depth(), 0);
    assert_eq!(laio_set_max_submit_depth(depth::DEFAULT_MAX_DEPTH), 0);
    for job in fuzzer.jobs.take() {
        // SAFETY: from a box, and no request has it any more.
        let job = unsafe { Box::from_raw(job) };
        let expected = u32::from(job.accepted.get());
        assert_eq!(job.completed.get(), expected, "an accepted request did not complete");
    }
}

fuzz_target!(|bytes: &[u8]| LASTING.with(|lasting| {
    run(lasting, bytes, [0, 1]);
    run(lasting, bytes, [1, 0]);
}));
