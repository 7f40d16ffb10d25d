# Which engine and which kernel it is, and the crash that there is none of.
#
# SPDX-License-Identifier: MIT OR Apache-2.0

import ctypes
import errno
import os
import platform
import signal
import struct
import subprocess

from harness import check
from images import (DEPTHS, MiB, bench, limited_stack, make_hole, make_patchwork, make_sparse,
                    node)


# Which engine it is


def test_uses_laio(tools):
    """the tools use liblaio, and for aio=threads they do not"""
    image = tools.path('image')
    make_sparse(image, 8 * MiB)
    stats = bench(tools, 4, 10000, image).stats
    check(stats['submitted'] >= 10000, f'too few requests through liblaio: {stats}')
    result = tools.run('qemu-img', 'bench', '-f', 'raw', '-t', 'none', '-i', 'threads', '-c', 1000,
                       image)
    check(result.stats is None, f'liblaio was used for aio=threads: {result}')


def test_link_mode(tools):
    """the tools need what their link mode says, and libaio in neither"""
    for tool in ('qemu-img', 'qemu-io', 'qemu-nbd', 'qemu-storage-daemon'):
        dynamic = subprocess.run(['readelf', '-d', tools.tool(tool)], check=True, text=True,
                                 stdout=subprocess.PIPE).stdout
        needed = [line for line in dynamic.splitlines() if '(NEEDED)' in line]
        check(not any('libaio.so' in line for line in needed), f'{tool} still needs libaio')
        shared = any('[liblaio.so.' in line for line in needed)
        expected = os.path.basename(tools.directory) == 'shared'
        check(shared == expected, f'{tool} needs {needed}')


def test_no_statistics_unless_asked(tools):
    """nothing is printed without LAIO_STATS=1"""
    image = tools.path('image')
    make_sparse(image, MiB)
    result = subprocess.run([tools.tool('qemu-img'), 'bench', '-f', 'raw', '-t', 'none', '-i',
                             'native', '-c', '100', image], text=True, check=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    check(result.stderr == '', f'on standard error: {result.stderr}')


# The crash


def test_million_over_a_hole(tools):
    """1,000,000 requests over a hole at depth 1, 2, 3, 8, 31 and 64"""
    image = tools.path('image')
    make_hole(image)
    for depth in DEPTHS:
        result = bench(tools, depth, 1000000, image, preexec_fn=limited_stack)
        check(result.stats['completed'] >= 1000000, f'depth {depth}: {result}')


def test_resumed_by_completion_bh(tools):
    """at the bound completion_bh resumes the work"""
    image = tools.path('image')
    make_hole(image)
    stats = bench(tools, 1, 100000, image).stats
    check(stats['at_bound'] > 0, f'the bound was never reached: {stats}')
    # The eventfd is readable as well, so in QEMU's event loop its handler and completion_bh take
    # turns; and the bound is met several times before control is back in the event loop.
    check(stats['bh_resumptions'] >= stats['at_bound'] // 10,
          f'something else than completion_bh resumed the work: {stats}')


# The kernel


# The numbers of io_setup(2) on machines that people have; io_uring_setup(2)'s is the same on all.
IO_SETUP = {'x86_64': 206, 'aarch64': 0, 'riscv64': 0}
IO_URING_SETUP = 425


def refuse(system_call, error):
    """Makes a system call fail in this process, as a container's seccomp profile does."""
    libc = ctypes.CDLL(None, use_errno=True)
    load, jump_if_equal, answer = 0x20, 0x15, 0x06
    program = b''.join(struct.pack('HBBI', *line) for line in (
        (load, 0, 0, 0), (jump_if_equal, 0, 1, system_call), (answer, 0, 0, 0x50000 | error),
        (answer, 0, 0, 0x7fff0000)))
    code = ctypes.create_string_buffer(program)
    filter_program = struct.pack('HxxxxxxP', 4, ctypes.addressof(code))
    no_new_privs, set_seccomp, with_filter = 38, 22, 2
    if libc.prctl(no_new_privs, 1, 0, 0, 0) or libc.prctl(set_seccomp, with_filter, filter_program):
        raise OSError(ctypes.get_errno(), 'prctl')


def refuse_io_setup():
    """As when fs.aio-max-nr is reached."""
    refuse(IO_SETUP[platform.machine()], errno.EAGAIN)


def check_kernels(result, **expected):
    found = {name: result.stats[name] for name in expected}
    check(found == expected, f'the states are on {found}, and not on {expected}: {result}')


def test_no_aio_context(tools):
    """when no AIO context is left the tool says why"""
    image = tools.path('image')
    make_sparse(image, MiB)
    # QEMU then refuses the image, or goes on with its threads, by generation.
    with tools.environment(LAIO_KERNEL='linux-aio'):
        result = tools.run('qemu-io', '-f', 'raw', '-t', 'none', '-i', 'native', '-c', 'read 0 4k',
                           image, expect=None, preexec_fn=refuse_io_setup)
    check(result.returncode in (0, 1), f'{result}')
    check('fs.aio-max-nr: Resource temporarily unavailable' in result.output,
          f'the reason is missing: {result}')


def test_io_uring_without_aio_context(tools):
    """when no AIO context is left, requests go through io_uring"""
    image = tools.path('image')
    make_sparse(image, MiB)
    result = tools.native('qemu-io', '-f', 'raw', '-t', 'none', '-i', 'native', '-c',
                          'write -P 7 0 4k', '-c', 'read -P 7 0 4k', image,
                          preexec_fn=refuse_io_setup)
    check_kernels(result, on_linux_aio=0, on_io_uring=1)


def on_io_uring(test):
    """The same test with the library on io_uring."""
    def run(tools):
        with tools.environment(LAIO_KERNEL='io_uring'):
            test(tools)
    run.__doc__ = f'{test.__doc__}, on io_uring'
    return run


def test_hole_on_io_uring(tools):
    """200,000 requests over a hole at depth 1, 2, 3, 8, 31 and 64, on io_uring"""
    image = tools.path('image')
    make_hole(image)
    with tools.environment(LAIO_KERNEL='io_uring'):
        for depth in DEPTHS:
            result = bench(tools, depth, 200000, image, preexec_fn=limited_stack)
            check(result.stats['completed'] >= 200000, f'depth {depth}: {result}')


# aio=io_uring


def aio_io_uring(test):
    """The same test with the other of QEMU's options."""
    def run(tools):
        tools.aio = 'io_uring'
        test(tools)
    run.__doc__ = f'{test.__doc__}, with aio=io_uring'
    return run


def test_aio_io_uring_is_io_uring(tools):
    """aio=io_uring is liblaio on io_uring, whatever LAIO_KERNEL says"""
    image = tools.path('image')
    make_sparse(image, MiB)
    for kernel in ('auto', 'linux-aio', 'io_uring'):
        with tools.environment(LAIO_KERNEL=kernel):
            result = tools.native('qemu-io', '-f', 'raw', '-t', 'none', '-i', 'io_uring', '-c',
                                  'write -P 7 0 4k', '-c', 'read -P 7 0 4k', image,
                                  preexec_fn=refuse_io_setup)
        check('failed' not in result.output, f'{result}')
        check_kernels(result, on_linux_aio=0, on_io_uring=1)


def test_io_uring_denied(tools):
    """when io_uring is denied, aio=io_uring says why, and is not Linux AIO instead"""
    image = tools.path('image')
    make_sparse(image, MiB)
    # As with QEMU's own: it refuses the image, or goes on with its threads, by generation.
    result = tools.run('qemu-io', '-f', 'raw', '-t', 'none', '-i', 'io_uring', '-c', 'read 0 4k',
                       image, expect=None,
                       preexec_fn=lambda: refuse(IO_URING_SETUP, errno.EPERM))
    check(result.returncode in (0, 1), f'{result}')
    check('nable to use' in result.output and 'kernel.io_uring_disabled' in result.output
          and 'Operation not permitted' in result.output, f'the reason is missing: {result}')
    check(not result.stats or result.stats['states'] == 0, f'a state was made: {result}')


def test_both_in_one_loop(tools):
    """aio=native and aio=io_uring side by side in one event loop"""
    images = [tools.path('a'), tools.path('b')]
    make_patchwork(images[0], 32 * MiB, seed=4)
    make_sparse(images[1], 32 * MiB)
    nodes = [node(images[0], 'native'), node(images[1], 'io_uring')]
    for command in (['convert', '-n', '-W', '-m', '16', '-t', 'none', '-T', 'none', '--image-opts',
                     nodes[0], '--target-image-opts', nodes[1]],
                    ['compare', '--image-opts', *nodes]):
        result = tools.native('qemu-img', *command)
        check_kernels(result, states=2, on_linux_aio=1, on_io_uring=1)


def test_io_uring_left_alone(tools):
    """aio=io_uring is QEMU's own, and works"""
    image = tools.path('image')
    make_sparse(image, 8 * MiB)
    result = tools.run('qemu-img', 'bench', '-f', 'raw', '-t', 'none', '-i', 'io_uring', '-d', 8,
                       '-c', 10000, image)
    check(result.stats is None, f'liblaio was used: {result}')


def test_own_io_uring_overflows(tools):
    """QEMU's own aio=io_uring overflows the stack at depth 1, on the same hole"""
    image = tools.path('image')
    make_hole(image)
    result = tools.run('qemu-img', 'bench', '-f', 'raw', '-t', 'none', '-i', 'io_uring', '-d', 1,
                       '-c', 1000000, '-s', 4096, image, expect=None, preexec_fn=limited_stack)
    check(result.stats is None, f'this is liblaio: {result}')
    check(result.returncode == -signal.SIGSEGV, f'it lives: {result}')
