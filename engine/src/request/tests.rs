// SPDX-License-Identifier: MIT OR Apache-2.0

use std::ffi::c_int;
use std::os::fd::RawFd;

use libc::iovec;

use super::*;
use crate::errno::Errno;
use crate::kernel::Files;

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
    Request::new(io(kind, offset, iov).unwrap(), Owner::Coroutine(std::ptr::null_mut()), 0)
}

/// Files of one size, and a limit on it.
#[derive(Clone, Copy)]
struct Sized {
    size: Option<u64>,
    limit: u64,
}

impl Files for Sized {
    fn file_size(&self, _: RawFd) -> Option<u64> {
        self.size
    }

    fn size_limit(&self) -> u64 {
        self.limit
    }
}

const fn of_size(size: Option<u64>) -> Sized {
    Sized { size, limit: u64::MAX }
}

/// Where nothing is known of the file.
const UNKNOWN: &Sized = &of_size(None);

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
        assert_eq!(request(kind, 0, &iov).outcome(8, UNKNOWN), Outcome::Done(0));
        let failed = request(kind, 0, &iov).outcome(-5, UNKNOWN);
        assert_eq!(failed, Outcome::Done(-libc::EIO));
    }
    let full = Outcome::Done(-libc::ENOSPC);
    assert_eq!(request(aio_type::WRITE, 0, &iov).outcome(0, UNKNOWN), full);
    assert_eq!(request(aio_type::WRITE, 0, &iov).outcome(3, UNKNOWN), Outcome::Retry);
    assert_eq!(request(aio_type::ZONE_APPEND, 0, &iov).outcome(3, UNKNOWN), full);
    assert_eq!(request(aio_type::FLUSH, 0, &[]).outcome(0, UNKNOWN), Outcome::Done(0));
}

#[test]
fn a_retry_asks_for_exactly_what_is_left() {
    let mut buffers = [vec![1u8; 4], vec![], vec![2; 6], vec![3; 2]];
    let iov = parts(&mut buffers);
    let request = request(aio_type::READ, 100, &iov);
    assert_eq!(request.outcome(5, UNKNOWN), Outcome::Retry);
    // SAFETY: the request is not with any kernel.
    let asked = unsafe { &*request.entry.get() };
    let (rest, count) = asked.vector();
    assert_eq!((asked.offset(), count), (105, 2));
    // SAFETY: two entries, as the line above the last says.
    let rest = unsafe { std::slice::from_raw_parts(rest, 2) };
    assert_eq!(rest[0].iov_base, iov[2].iov_base.wrapping_byte_add(1));
    assert_eq!((rest[0].iov_len, rest[1].iov_len), (5, 2));
    assert_eq!(request.outcome(6, UNKNOWN), Outcome::Retry);
    assert_eq!(request.outcome(0, UNKNOWN), Outcome::Done(0));
    assert_eq!(buffers.concat(), [1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 0]);
}

/// FAT and other users of the old direct I/O code check the alignment before the end of the
/// file: the rest of an unaligned end gets EINVAL there, and the guest would see an error that
/// it does not see without retries.
#[test]
fn a_misaligned_rest_behind_the_end_of_the_file_is_the_end_of_the_file() {
    let mut buffers = [vec![1u8; 8]];
    let iov = parts(&mut buffers);
    let read = request(aio_type::READ, 100, &iov);
    assert_eq!(read.outcome(5, UNKNOWN), Outcome::Retry);
    assert_eq!(read.outcome(-22, &of_size(Some(105))), Outcome::Done(0));
    assert_eq!(buffers[0], [1, 1, 1, 1, 1, 0, 0, 0]);
    let first_try = request(aio_type::READ, 100, &iov);
    assert_eq!(first_try.outcome(-22, UNKNOWN), Outcome::Done(-22));
}

/// A write made the file grow between the short read and its rest, which begins where the device
/// cannot: the guest got EINVAL.
#[test]
fn a_misaligned_rest_of_a_file_that_has_grown_is_read_again_from_its_start() {
    for (again, size, expected) in [
        // All of it, or more than before, or no more: then the size decides.
        (8, Some(200), Outcome::Done(0)),
        (6, Some(106), Outcome::Retry),
        (5, Some(105), Outcome::Done(0)),
        (3, Some(103), Outcome::Done(0)),
        (5, Some(106), Outcome::Retry),
        (0, None, Outcome::Retry),
        (-22, Some(200), Outcome::Done(-22)),
    ] {
        let mut buffers = [vec![1u8; 4], vec![2; 4]];
        let iov = parts(&mut buffers);
        let read = request(aio_type::READ, 100, &iov);
        assert_eq!(read.outcome(5, UNKNOWN), Outcome::Retry);
        assert_eq!(read.outcome(-22, &of_size(Some(106))), Outcome::Retry);
        // SAFETY: the request is not with any kernel.
        let asked = unsafe { &*read.entry.get() };
        assert_eq!((asked.offset(), asked.vector()), (100, (iov.as_ptr(), 2)));
        assert_eq!(read.outcome(again, &of_size(size)), expected, "{again} of {size:?}");
        match again {
            6 => {
                assert_eq!((asked.offset(), asked.vector().1), (106, 1));
                // SAFETY: one part, as the line above says.
                assert_eq!(unsafe { (*asked.vector().0).iov_len }, 2);
            }
            // What came before the end stays, also if the file has become shorter since.
            3 | 5 if expected == Outcome::Done(0) => {
                assert_eq!(buffers.concat(), [1, 1, 1, 1, 2, 0, 0, 0]);
            }
            _ => {}
        }
    }
}

#[test]
fn beginning_again_ends() {
    let mut buffers = [vec![1u8; 8]];
    let iov = parts(&mut buffers);
    let read = request(aio_type::READ, 100, &iov);
    assert_eq!(read.outcome(5, UNKNOWN), Outcome::Retry);
    assert_eq!(read.outcome(-22, UNKNOWN), Outcome::Retry);
    let tries = (0..100).take_while(|_| read.outcome(5, UNKNOWN) == Outcome::Retry).count();
    assert!((1..20).contains(&tries));
    let write = request(aio_type::WRITE, 100, &iov);
    assert_eq!(write.outcome(5, UNKNOWN), Outcome::Retry);
    assert_eq!(write.outcome(-22, UNKNOWN), Outcome::Retry);
    assert_eq!(write.outcome(5, UNKNOWN), Outcome::Done(-libc::ENOSPC));
}

/// To continue a write beyond RLIMIT_FSIZE raises SIGXFSZ, and ends a process that would have been
/// told ENOSPC.
#[test]
fn a_short_write_is_not_continued_beyond_the_limit() {
    let mut buffers = [vec![1u8; 8]];
    let iov = parts(&mut buffers);
    for (size, limit, expected) in [
        (Some(50), 105, Outcome::Done(-libc::ENOSPC)),
        (Some(50), 106, Outcome::Retry),
        (None, 105, Outcome::Retry),
    ] {
        let write = request(aio_type::WRITE, 100, &iov);
        assert_eq!(write.outcome(5, &Sized { size, limit }), expected);
    }
    let write = request(aio_type::WRITE, 100, &iov);
    assert_eq!(write.outcome(5, UNKNOWN), Outcome::Retry);
    assert_eq!(write.outcome(-i64::from(libc::EFBIG), UNKNOWN), Outcome::Done(-libc::ENOSPC));
    let first_try = request(aio_type::WRITE, 100, &iov);
    let too_big = -i64::from(libc::EFBIG);
    assert_eq!(first_try.outcome(too_big, UNKNOWN), Outcome::Done(-libc::EFBIG));
}
