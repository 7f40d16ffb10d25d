// SPDX-License-Identifier: MIT OR Apache-2.0

//! The part of `<linux/io_uring.h>` that is used here, written out.
//!
//! By hand, other than Linux AIO's: that header grows with every release, and what it once called
//! reserved it names later, so that a generated file would differ from machine to machine. What is
//! here has not changed since Linux 5.1.

/// Entry of the submission queue. Its unions are the fields that reads, writes and flushes use.
#[repr(C)]
#[derive(Default)]
pub struct io_uring_sqe {
    pub opcode: u8,
    pub flags: u8,
    pub ioprio: u16,
    pub fd: i32,
    pub off: u64,
    pub addr: u64,
    pub len: u32,
    /// Of a read or write: flags of preadv2(2). Of a flush: [`IORING_FSYNC_DATASYNC`].
    pub op_flags: u32,
    pub user_data: u64,
    pub rest: [u64; 3],
}

/// Entry of the completion queue.
#[repr(C)]
pub struct io_uring_cqe {
    pub user_data: u64,
    pub res: i32,
    pub flags: u32,
}

#[repr(C)]
#[derive(Default)]
pub struct io_sqring_offsets {
    pub head: u32,
    pub tail: u32,
    pub ring_mask: u32,
    pub ring_entries: u32,
    pub flags: u32,
    pub dropped: u32,
    pub array: u32,
    pub resv: [u32; 3],
}

#[repr(C)]
#[derive(Default)]
pub struct io_cqring_offsets {
    pub head: u32,
    pub tail: u32,
    pub ring_mask: u32,
    pub ring_entries: u32,
    pub overflow: u32,
    pub cqes: u32,
    pub flags: u32,
    pub resv: [u32; 3],
}

#[repr(C)]
#[derive(Default)]
pub struct io_uring_params {
    pub sq_entries: u32,
    pub cq_entries: u32,
    pub flags: u32,
    pub sq_thread_cpu: u32,
    pub sq_thread_idle: u32,
    pub features: u32,
    pub wq_fd: u32,
    pub resv: [u32; 3],
    pub sq_off: io_sqring_offsets,
    pub cq_off: io_cqring_offsets,
}

const _: () = {
    assert!(size_of::<io_uring_sqe>() == 64);
    assert!(size_of::<io_uring_cqe>() == 16);
    assert!(size_of::<io_sqring_offsets>() == 40);
    assert!(size_of::<io_cqring_offsets>() == 40);
    assert!(size_of::<io_uring_params>() == 120);
};

pub const IORING_OP_READV: u8 = 1;
pub const IORING_OP_WRITEV: u8 = 2;
pub const IORING_OP_FSYNC: u8 = 3;
pub const IORING_FSYNC_DATASYNC: u32 = 1;

/// Both rings in one mapping (Linux 5.4).
pub const IORING_FEAT_SINGLE_MMAP: u32 = 1;
/// No completion is dropped (Linux 5.5).
pub const IORING_FEAT_NODROP: u32 = 2;

pub const IORING_OFF_SQ_RING: i64 = 0;
pub const IORING_OFF_SQES: i64 = 0x1000_0000;

pub const IORING_ENTER_GETEVENTS: u32 = 1;
pub const IORING_REGISTER_EVENTFD: u32 = 4;
