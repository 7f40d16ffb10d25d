// SPDX-License-Identifier: MIT OR Apache-2.0

use std::ffi::c_int;
use std::os::fd::RawFd;

use libc::iovec;

use super::*;
use crate::errno::Errno;

const FD: RawFd = 7;

fn parts<const N: usize>(buffers: &mut [Vec<u8>; N]) -> [iovec; N] {
    buffers
        .each_mut()
        .map(|buffer| iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() })
}

fn io(kind: c_int, offset: u64, iov: &[iovec]) -> Result<Io, Errno> {
    // SAFETY: the slice is its own vector.
    unsafe { Io::new(kind, 0, FD, offset, (iov.as_ptr(), iov.len() as c_int)) }
}

fn request(kind: c_int, offset: u64, iov: &[iovec]) -> Request {
    let owner = Owner::Coroutine(std::ptr::null_mut());
    Request::new(io(kind, offset, iov).unwrap(), owner, 0, |_| ())
}

fn no_size(_: RawFd) -> Option<u64> {
    panic!("nothing here asks for the size")
}

fn refused(io: Result<Io, Errno>) -> c_int {
    io.err().expect("refused").0
}

#[test]
fn nonsense_is_refused() {
    let mut buffers = [vec![0; 8]];
    let iov = parts(&mut buffers);
    assert_eq!(refused(io(0x4, 0, &iov)), libc::EINVAL);
    assert_eq!(refused(io(aio_type::READ, 0, &[])), libc::EINVAL);
    assert_eq!(refused(io(aio_type::READ, u64::MAX, &iov)), libc::EINVAL);
    assert_eq!(refused(io(aio_type::READ, i64::MAX as u64 - 7, &iov)), libc::EINVAL);
    assert!(io(aio_type::READ, i64::MAX as u64 - 8, &iov).is_ok());
    let huge = iovec { iov_base: iov[0].iov_base, iov_len: usize::MAX };
    assert_eq!(refused(io(aio_type::WRITE, 0, &[huge, huge])), libc::EINVAL);
    assert_eq!(refused(io(aio_type::WRITE, 0, &[huge])), libc::EINVAL);
    // SAFETY: a null vector, and one whose length is never used.
    unsafe {
        let null = (std::ptr::null(), 1);
        assert_eq!(refused(Io::new(aio_type::READ, 0, FD, 0, null)), libc::EINVAL);
        let negative = (iov.as_ptr(), -1);
        assert_eq!(refused(Io::new(aio_type::READ, 0, FD, 0, negative)), libc::EINVAL);
        let fine = (iov.as_ptr(), 1);
        assert_eq!(refused(Io::new(aio_type::READ, 0, -1, 0, fine)), libc::EBADF);
        assert!(Io::new(aio_type::FLUSH, 0, FD, 0, null).is_ok());
    }
}

#[test]
fn results_mean_what_they_mean_in_qemu() {
    let mut buffers = [vec![0; 8]];
    let iov = parts(&mut buffers);
    for kind in [aio_type::READ, aio_type::WRITE, aio_type::ZONE_APPEND] {
        assert_eq!(request(kind, 0, &iov).outcome(8, no_size), Outcome::Done(0));
        let failed = request(kind, 0, &iov).outcome(-5, no_size);
        assert_eq!(failed, Outcome::Done(-libc::EIO));
    }
    let full = Outcome::Done(-libc::ENOSPC);
    assert_eq!(request(aio_type::WRITE, 0, &iov).outcome(0, no_size), full);
    assert_eq!(request(aio_type::WRITE, 0, &iov).outcome(3, no_size), Outcome::Retry);
    assert_eq!(request(aio_type::ZONE_APPEND, 0, &iov).outcome(3, no_size), full);
    assert_eq!(request(aio_type::FLUSH, 0, &[]).outcome(0, no_size), Outcome::Done(0));
}

#[test]
fn a_retry_asks_for_exactly_what_is_left() {
    let mut buffers = [vec![1u8; 4], vec![], vec![2; 6], vec![3; 2]];
    let iov = parts(&mut buffers);
    let request = request(aio_type::READ, 100, &iov);
    assert_eq!(request.outcome(5, no_size), Outcome::Retry);
    // SAFETY: the request is not with any kernel.
    let asked = unsafe { &*request.entry.get() };
    let (rest, count) = asked.vector();
    assert_eq!((asked.offset(), count), (105, 2));
    // SAFETY: two entries, as the line above the last says.
    let rest = unsafe { std::slice::from_raw_parts(rest, 2) };
    assert_eq!(rest[0].iov_base, iov[2].iov_base.wrapping_byte_add(1));
    assert_eq!((rest[0].iov_len, rest[1].iov_len), (5, 2));
    assert_eq!(request.outcome(6, no_size), Outcome::Retry);
    assert_eq!(request.outcome(0, no_size), Outcome::Done(0));
    assert_eq!(buffers.concat(), [1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 0]);
}

/// FAT and other users of the old direct I/O code check the alignment before the end of the
/// file: the rest of an unaligned end gets EINVAL there, and the guest would see an error that
/// it does not see without retries.
#[test]
fn a_misaligned_rest_behind_the_end_of_the_file_is_the_end_of_the_file() {
    for (size, expected) in
        [(Some(105), Outcome::Done(0)), (Some(106), Outcome::Done(-22)), (None, Outcome::Done(-22))]
    {
        let mut buffers = [vec![1u8; 8]];
        let iov = parts(&mut buffers);
        let request = request(aio_type::READ, 100, &iov);
        assert_eq!(request.outcome(5, no_size), Outcome::Retry);
        assert_eq!(request.outcome(-22, |_| size), expected);
        if expected == Outcome::Done(0) {
            assert_eq!(buffers[0], [1, 1, 1, 1, 1, 0, 0, 0]);
        }
    }
    let mut buffers = [vec![1u8; 8]];
    let first_try = request(aio_type::READ, 100, &parts(&mut buffers));
    assert_eq!(first_try.outcome(-22, no_size), Outcome::Done(-22));
}
