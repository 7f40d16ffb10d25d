// SPDX-License-Identifier: MIT OR Apache-2.0

//! The C header and the Rust side agree: bindgen's reading of `include/laio.h` (committed, and
//! checked against a fresh one by CI) lays the types out as Rust does.

#[allow(non_camel_case_types, non_snake_case, non_upper_case_globals, dead_code)]
#[allow(clippy::all, clippy::undocumented_unsafe_blocks)]
#[path = "header.rs"]
mod header;

use std::mem::offset_of;

use laio_engine::LaioStats;
use laio_engine::kernel::LaioKernel;
use laio_engine::qiov::{QEMUIOVector, QEMUIOVectorRest};
use laio_engine::request::{REQ_FUA, aio_type};

use crate::host::LaioHostOps;

/// Compares the two structs of one name, field by field. Leaving one out does not compile.
macro_rules! same_layout {
    ($name:ident { $($field:ident),+ $(,)? }) => {
        // Never called: names each field, on both sides.
        let _exhaustive = |ours: &$name, theirs: &header::$name| {
            let $name { $($field: _),+ } = ours;
            let header::$name { $($field: _),+ } = theirs;
        };
        assert_eq!(size_of::<$name>(), size_of::<header::$name>());
        assert_eq!(align_of::<$name>(), align_of::<header::$name>());
        $(assert_eq!(
            offset_of!($name, $field),
            offset_of!(header::$name, $field),
            concat!(stringify!($name), ".", stringify!($field)),
        );)+
    };
}

#[test]
fn statistics() {
    same_layout!(LaioStats {
        size,
        submitted,
        completed,
        failed,
        retried,
        io_submit_calls,
        largest_batch,
        eagain,
        at_bound,
        bh_resumptions,
        deepest_nesting,
        in_queue,
        in_flight,
        kernel,
        reserved,
    });
}

#[test]
fn host_ops() {
    same_layout!(LaioHostOps {
        size,
        bh_new,
        bh_schedule,
        bh_cancel,
        bh_delete,
        set_event_notifier,
        coroutine_self,
        coroutine_yield,
        coroutine_entered,
        coroutine_wake,
        defer_begin,
        defer_call,
        defer_end,
        current_aio_context,
        linux_aio_state,
        aio_max_batch,
        context_acquire,
        context_release,
        error_set,
        log,
    });
}

/// Ours is flat where QEMU's has a union of two structs.
#[test]
fn vector() {
    type Union = header::QEMUIOVector__bindgen_ty_1;
    type Local = header::QEMUIOVector__bindgen_ty_1__bindgen_ty_1;
    type Sized = header::QEMUIOVector__bindgen_ty_1__bindgen_ty_2;

    assert_eq!(size_of::<QEMUIOVector>(), size_of::<header::QEMUIOVector>());
    assert_eq!(offset_of!(QEMUIOVector, iov), offset_of!(header::QEMUIOVector, iov));
    assert_eq!(offset_of!(QEMUIOVector, niov), offset_of!(header::QEMUIOVector, niov));
    assert_eq!(offset_of!(QEMUIOVector, rest), offset_of!(header::QEMUIOVector, __bindgen_anon_1));
    assert_eq!(size_of::<QEMUIOVectorRest>(), size_of::<Union>());
    assert_eq!(offset_of!(QEMUIOVectorRest, nalloc), offset_of!(Local, nalloc));
    assert_eq!(offset_of!(QEMUIOVectorRest, local_iov_base), offset_of!(Local, local_iov));
    assert_eq!(offset_of!(QEMUIOVectorRest, size), offset_of!(Sized, size));
    let local_size = offset_of!(Local, local_iov) + offset_of!(libc::iovec, iov_len);
    assert_eq!(offset_of!(QEMUIOVectorRest, size), local_size);
}

#[test]
fn constants() {
    assert_eq!(header::QEMU_AIO_READ as i32, aio_type::READ);
    assert_eq!(header::QEMU_AIO_WRITE as i32, aio_type::WRITE);
    assert_eq!(header::QEMU_AIO_FLUSH as i32, aio_type::FLUSH);
    assert_eq!(header::QEMU_AIO_ZONE_APPEND as i32, aio_type::ZONE_APPEND);
    assert_eq!(header::BDRV_REQ_FUA, REQ_FUA);
    assert_eq!(header::LaioKernel_LAIO_KERNEL_AUTO, LaioKernel::Auto as u32);
    assert_eq!(header::LaioKernel_LAIO_KERNEL_LINUX_AIO, LaioKernel::LinuxAio as u32);
    assert_eq!(header::LaioKernel_LAIO_KERNEL_IO_URING, LaioKernel::IoUring as u32);
}
