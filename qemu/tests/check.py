#!/usr/bin/env python3
# Tests QEMU's tools on liblaio: check.py LABEL=DIR..., each DIR holding one build of the four.
# LAIO_TEST_DIR is where test files go; O_DIRECT must work there.
#
# SPDX-License-Identifier: MIT OR Apache-2.0

import concurrent.futures
import ctypes
import errno
import functools
import json
import os
import platform
import random
import resource
import signal
import struct
import subprocess
import sys
import tempfile

from harness import Skip, Tools, check, check_all_complete, daemon, environment, main, wait_for

MiB = 1 << 20
DEPTHS = (1, 2, 3, 8, 31, 64)


def make_sparse(path, size, data=()):
    """A file of `size` bytes that is a hole but for the (offset, bytes) of `data`."""
    with open(path, 'wb') as image:
        image.truncate(size)
        for offset, content in data:
            image.seek(offset)
            image.write(content)


def make_patchwork(path, size, seed):
    """Random data and holes of all sizes, at any offset."""
    rng = random.Random(seed)
    data, offset = [], 0
    while offset < size:
        length = min(rng.choice((512, 4096, 5000, 65536, 100000, MiB)), size - offset)
        if rng.random() < 0.5:
            data.append((offset, rng.randbytes(length)))
        offset += length
    make_sparse(path, size, data)


def read_at(path, offset, length):
    with open(path, 'rb') as image:
        image.seek(offset)
        return image.read(length)


def make_hole(path):
    """8 GiB of hole with a little data here and there, whose requests complete later: from their
    completion on each request is made within the completion of the one before. (One piece of data
    is not enough: on a busy machine its last request may be complete when io_submit(2) returns.)"""
    data = random.Random(0).randbytes(MiB // 16)
    make_sparse(path, 8192 * MiB, [(place * 16 * MiB, data) for place in range(16)])


def read_file(path):
    with open(path, 'rb') as image:
        return image.read()


def bench(tools, depth, count, image, *options, **run_options):
    return tools.native('qemu-img', 'bench', '-f', 'raw', '-t', 'none', '-i', 'native', '-d', depth,
                        '-c', count, '-s', 4096, *options, image, **run_options)


def node(path, image_format='raw'):
    return (f'driver={image_format},file.driver=file,file.filename={path},'
            'file.cache.direct=on,file.aio=native')


def qemu_io(tools, aio, image, *commands, expect=0):
    arguments = [word for command in commands for word in ('-c', command)]
    run = tools.native if aio == 'native' and expect == 0 else tools.run
    return run('qemu-io', '-f', 'raw', '-t', 'none', '-i', aio, *arguments, image, expect=expect)


# Which engine it is


def test_uses_laio(tools):
    """the tools use liblaio for native AIO, and nothing else does"""
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


def limited_stack():
    resource.setrlimit(resource.RLIMIT_STACK, (8 * MiB, 8 * MiB))


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


# Data


def convert(tools, source, source_format, target, target_format):
    info = tools.run('qemu-img', 'info', '-f', source_format, '--output=json', source).stdout
    tools.run('qemu-img', 'create', '-f', target_format, target, json.loads(info)['virtual-size'])
    tools.native('qemu-img', 'convert', '-n', '-W', '-m', 16, '-t', 'none', '-T', 'none',
                 '--image-opts', node(source, source_format),
                 '--target-image-opts', node(target, target_format))
    tools.native('qemu-img', 'compare', '--image-opts', node(source, source_format),
                 node(target, target_format))


def test_convert(tools):
    """convert -W -m 16 between raw, qcow2 and vmdk keeps every byte"""
    formats = ['raw', 'qcow2', 'vmdk', 'qcow2', 'raw', 'vmdk', 'raw']
    original = tools.path('0.raw')
    make_patchwork(original, 48 * MiB, seed=1)
    source = original
    for step, (source_format, target_format) in enumerate(zip(formats, formats[1:]), 1):
        target = tools.path(f'{step}.{target_format}')
        convert(tools, source, source_format, target, target_format)
        source = target
    check(read_file(original) == read_file(source), 'the copy is another one')


def test_compare_sees_a_difference(tools):
    """compare finds one changed byte through liblaio"""
    images = [tools.path('a'), tools.path('b')]
    for image in images:
        make_patchwork(image, 8 * MiB, seed=2)
    with open(images[1], 'r+b') as image:
        image.seek(5 * MiB + 123)
        old = image.read(1)
        image.seek(5 * MiB + 123)
        image.write(bytes([old[0] ^ 1]))
    result = tools.native('qemu-img', 'compare', '--image-opts', node(images[0]), node(images[1]),
                          expect=1)
    check('mismatch' in result.output, f'no difference seen: {result}')


WRITES = [
    'write -P 0xa5 0 64k', 'write -P 0x11 4k 512', 'write -P 0x12 70000 3000',
    'writev -P 0x22 128k 512 1k 4k 8k 512', 'write -z 96k 8k', 'write -f -P 0x33 256k 4k',
    'write -P 0x44 1020k 4k', 'write -f -P 0x45 5 7', 'discard 512k 64k', 'flush',
    'write 0 0', 'read 0 0',
]
READS = [
    'read -P 0xa5 12 4084', 'read -P 0x11 4k 512', 'read -P 0xa5 4608 59392', 'read -P 0x12 70000 3000',
    'readv -P 0x22 128k 512 1k 4k 8k 512', 'read -P 0 96k 8k', 'read -P 0x33 256k 4k',
    'read -P 0x44 1020k 4k', 'read -P 0 300k 100k', 'read -P 0xa5 0 5', 'read -P 0x45 5 7',
]


def without_rates(output):
    """qemu-io's output without its times."""
    return [line for line in output.splitlines() if 'ops/sec' not in line]


def test_patterns(tools):
    """qemu-io writes and reads patterns, vectors, FUA, flushes, as with aio=threads"""
    outputs, contents = [], []
    for aio in ('native', 'threads'):
        image = tools.path(aio)
        make_sparse(image, MiB)
        result = qemu_io(tools, aio, image, *WRITES, *READS)
        check('failed' not in result.output, f'a pattern is wrong: {result}')
        outputs.append(without_rates(result.output))
        contents.append(read_file(image))
    check(outputs[0] == outputs[1], f'native says {outputs[0]}\nthreads says {outputs[1]}')
    check(contents[0] == contents[1], 'native wrote something else than threads')


def test_wrong_pattern_is_seen(tools):
    """qemu-io notices a wrong pattern through liblaio"""
    image = tools.path('image')
    make_sparse(image, MiB)
    result = qemu_io(tools, 'native', image, 'write -P 1 0 4k', 'read -P 2 0 4k', expect=1)
    check('Pattern verification failed' in result.output, f'not noticed: {result}')


def test_async(tools):
    """qemu-io keeps many aio_write and aio_read in flight, and flushes"""
    image = tools.path('image')
    make_sparse(image, 16 * MiB)
    writes = [f'aio_write -q -P {1 + n % 250} {n * 16}k 16k' for n in range(512)]
    reads = [f'aio_read -q -P {1 + n % 250} {n * 16}k 16k' for n in range(512)]
    result = qemu_io(tools, 'native', image, *writes, 'aio_flush', *reads, 'aio_flush', 'flush')
    check('failed' not in result.output, f'a pattern is wrong: {result}')
    expected = b''.join(bytes([1 + n % 250]) * 16384 for n in range(512))
    check(read_file(image)[:len(expected)] == expected, 'the file holds something else')


def test_end_of_file(tools):
    """reads across the end of a file are filled with zeros"""
    for size in (10000, 512, 4096 + 512, 65536 + 1):
        image = tools.path(f'eof-{size}')
        make_sparse(image, size, [(0, b'\x5a' * size)])
        # Whole sectors, because QEMU gives others to its threads.
        rounded = (size + 511) // 512 * 512
        commands = [f'read -P 0x5a -s 0 -l {size} 0 {rounded}']
        if rounded > size:
            commands.append(f'read -P 0 -s {size} -l {rounded - size} 0 {rounded}')
        result = qemu_io(tools, 'native', image, *commands)
        check('failed' not in result.output, f'{size} bytes: {result}')


def test_end_of_file_in_between(tools):
    """what is missing of a file that became shorter reads as zeros"""
    image = tools.path('image')
    make_sparse(image, 65536, [(0, b'\x5a' * 65536)])
    client = tools.start('qemu-io', '-f', 'raw', '-t', 'none', '-i', 'native', image,
                         stdin=subprocess.PIPE)
    client.stdin.write('write -P 0x33 0 4096\n')
    client.stdin.flush()
    wait_for(lambda: read_at(image, 0, 4096) == b'\x33' * 4096 or client.poll() is not None,
             'the write')
    # QEMU keeps the size that it saw, and so the kernel's short read is the engine's affair.
    os.truncate(image, 10000)
    # The kernel itself clears what lies behind the end in a buffer that it reads into, so the
    # engine's part shows where it reads nothing.
    client.stdin.write('read -P 0x5a -s 4096 -l 5904 0 65536\n'
                       'read -P 0 -s 10000 -l 55536 0 65536\n'
                       'read -P 0 16384 4096\nreadv -P 0 32768 4096 8192\n')
    client.stdin.flush()
    result = tools.finish(client)
    check_all_complete(result)
    check('failed' not in result.output and result.output.count('read ') == 4, f'{result}')
    check(result.stats['retried'] == 2, f'the reads were not short: {result}')


def on_full_file_system(tools, mount, *command):
    """Runs a command in a namespace of its own, with a tmpfs of 1 MiB at `mount` and a hole of
    8 MiB in it."""
    script = 'mount -t tmpfs -o size=1m none "$0" && truncate -s 8M "$0/image" && exec "$@"'
    return tools.finish(subprocess.Popen(
        ['unshare', '--mount', '--map-root-user', 'sh', '-c', script, mount, *command], text=True,
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE))


def test_no_space(tools):
    """a write to a full file system fails with ENOSPC, as with aio=threads"""
    mount = tools.path('full')
    os.mkdir(mount)
    image = os.path.join(mount, 'image')
    probe = on_full_file_system(tools, mount, 'dd', f'if={image}', 'of=/dev/null', 'bs=4096',
                                'count=1', 'iflag=direct')
    if probe.returncode != 0:
        raise Skip('no tmpfs with O_DIRECT to be had: ' + probe.output.strip().replace('\n', ' '))
    outputs = []
    for aio in ('native', 'threads'):
        result = on_full_file_system(
            tools, mount, tools.tool('qemu-io'), '-f', 'raw', '-t', 'none', '-i', aio, '-c',
            'write -P 1 0 512k', '-c', 'write -P 2 512k 2M', '-c', 'write -P 3 4M 4k', '-c',
            'read -P 1 0 512k', image)
        check(result.output.count('No space left on device') == 2, f'{result}')
        check(aio == 'threads' or result.stats['failed'] > 0, f'liblaio saw no error: {result}')
        outputs.append(without_rates(result.output))
    check(outputs[0] == outputs[1], f'native says {outputs[0]}\nthreads says {outputs[1]}')


def refuse_io_setup():
    """Makes io_setup(2) fail with EAGAIN in this process, as when fs.aio-max-nr is reached."""
    libc = ctypes.CDLL(None, use_errno=True)
    load, jump_if_equal, answer = 0x20, 0x15, 0x06
    io_setup = {'x86_64': 206, 'aarch64': 0, 'riscv64': 0}[platform.machine()]
    program = b''.join(struct.pack('HBBI', *line) for line in (
        (load, 0, 0, 0), (jump_if_equal, 0, 1, io_setup), (answer, 0, 0, 0x50000 | errno.EAGAIN),
        (answer, 0, 0, 0x7fff0000)))
    code = ctypes.create_string_buffer(program)
    filter_program = struct.pack('HxxxxxxP', 4, ctypes.addressof(code))
    no_new_privs, set_seccomp, with_filter = 38, 22, 2
    if libc.prctl(no_new_privs, 1, 0, 0, 0) or libc.prctl(set_seccomp, with_filter, filter_program):
        raise OSError(ctypes.get_errno(), 'prctl')


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
    tools.native('qemu-io', '-f', 'raw', '-t', 'none', '-i', 'native', '-c', 'write -P 7 0 4k', '-c',
                 'read -P 7 0 4k', image, preexec_fn=refuse_io_setup)


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


# NBD


@functools.lru_cache(None)
def iothreads_let_clients_go(directory):
    """Whether the daemon outlives an iothread's client. That of Debian's 7.2 aborts in
    nbd_blockdev_client_closed(), with whichever engine."""
    with tempfile.TemporaryDirectory() as scratch:
        tools = Tools(directory, scratch)
        make_images(tools, 1)
        with daemon(tools, *serving(tools, 1, ['io0'])) as server:
            tools.run('qemu-img', 'info', url(tools, 0), expect=None)
            # An export can be removed once its client has been let go.
            wait_for(lambda: server.has_ended() or server.succeeds('block-export-del', id='e0'),
                     'the end of a client')
            return not server.has_ended() and server.quit().returncode == 0


def served(tools, number, iothreads):
    """Arguments that export `number` images e0, e1, ... from `iothreads` iothreads: from the main
    loop where a client of an iothread could not be let go."""
    if not iothreads_let_clients_go(tools.directory):
        return serving(tools, number, [None], iothreads)
    return serving(tools, number, [f'io{n}' for n in range(iothreads)])


def serving(tools, number, homes, idle_iothreads=0):
    arguments = ['--nbd-server', f'addr.type=unix,addr.path={tools.path("nbd")},max-connections=0']
    for n in range(max(idle_iothreads, len([home for home in homes if home]))):
        arguments += ['--object', f'iothread,id=io{n}']
    for n in range(number):
        arguments += [
            '--blockdev', f'driver=file,node-name=f{n},filename={tools.path(f"image{n}")},'
            'aio=native,cache.direct=on',
            '--blockdev', f'driver=raw,node-name=d{n},file=f{n}',
            '--export', f'type=nbd,id=e{n},node-name=d{n},name=e{n},writable=on'
            + (f',iothread={homes[n % len(homes)]}' if homes[n % len(homes)] else ''),
        ]
    return arguments


def url(tools, n):
    return f'nbd+unix:///e{n}?socket={tools.path("nbd")}'


def exercise(tools, n):
    """A client of export `n`: a benchmark and checked patterns."""
    for write in ([], ['-w', '--pattern', str(n + 1)]):
        tools.run('qemu-img', 'bench', '-f', 'raw', '-c', 20000, '-d', 32, '-s', 4096, *write,
                  url(tools, n))
    commands = [f'write -P {17 + n} 32M 1M', f'read -P {17 + n} 32M 1M', 'write -f -P 9 40M 64k',
                'flush', 'read -P 9 40M 64k', f'read -P {n + 1} 0 64k']
    arguments = [word for command in commands for word in ('-c', command)]
    result = tools.run('qemu-io', '-f', 'raw', *arguments, url(tools, n))
    check('failed' not in result.output, f'export {n}: {result}')


def exercise_all(tools, number):
    with concurrent.futures.ThreadPoolExecutor(number) as clients:
        for client in [clients.submit(exercise, tools, n) for n in range(number)]:
            client.result()


def make_images(tools, number):
    for n in range(number):
        make_sparse(tools.path(f'image{n}'), 64 * MiB + n * MiB)


def test_nbd_iothreads(tools):
    """several exports from several iothreads serve clients at once"""
    if not iothreads_let_clients_go(tools.directory):
        raise Skip('the iothreads of this QEMU abort when a client goes; see the next test')
    make_images(tools, 4)
    with daemon(tools, *served(tools, 4, 3)) as server:
        exercise_all(tools, 4)
        result = server.quit()
    check(result.returncode == 0, f'{result}')
    check_all_complete(result)
    check(result.stats['failed'] == 0, f'a request failed: {result}')
    check(result.stats['states'] >= 3, f'iothreads without a state of their own: {result}')
    for n in range(4):
        check(read_at(tools.path(f'image{n}'), 32 * MiB, MiB) == bytes([17 + n]) * MiB,
              f'image {n} holds something else')


def test_nbd_iothreads_clients_that_stay(tools):
    """several exports from several iothreads serve clients that stay connected"""
    make_images(tools, 4)
    clients = []
    with daemon(tools, *serving(tools, 4, ['io0', 'io1', 'io2'])) as server:
        try:
            for n in range(4):
                commands = [f'aio_write -q -P {n + 1} {k * 64}k 64k' for k in range(256)]
                commands += ['aio_flush', f'read -P {n + 1} 0 16M', 'write -P 119 50M 64k',
                             'sleep 1000000000']
                arguments = [word for command in commands for word in ('-c', command)]
                clients.append(tools.start('qemu-io', '-f', 'raw', *arguments, url(tools, n)))
            for n in range(4):
                wait_for(lambda n=n: read_at(tools.path(f'image{n}'), 50 * MiB, 65536)
                         == bytes([119]) * 65536, f'client {n}')
            check(not server.has_ended(), 'the daemon has ended')
        finally:
            server.kill()
            for client in clients:
                client.kill()
    for n, client in enumerate(clients):
        result = tools.finish(client)
        check('verification failed' not in result.output, f'{result}')
        check(read_at(tools.path(f'image{n}'), 0, 16 * MiB) == bytes([n + 1]) * (16 * MiB),
              f'image {n} holds something else')


def reopen(server, tools, n, **options):
    file = {'driver': 'file', 'node-name': f'f{n}', 'filename': tools.path(f'image{n}'),
            'aio': 'native', 'cache': {'direct': True}, **options}
    server.command('blockdev-reopen', options=[file])


def add_export(server, n, iothread):
    server.command('block-export-add', **{
        'type': 'nbd', 'id': f'e{n}', 'node-name': f'd{n}', 'name': f'e{n}', 'writable': True,
        **({'iothread': iothread} if iothread else {})})


def remove_export(server, name):
    """Cuts off the clients, some of which may only just be leaving, and waits."""
    server.command('block-export-del', id=name, mode='hard')
    wait_for(lambda: name not in [export['id'] for export in server.command('query-block-exports')],
             f'the end of export {name}')


def test_reopen_and_detach(tools):
    """blockdev-reopen, a change of iothread and removal, while idle"""
    make_images(tools, 2)
    with daemon(tools, *served(tools, 2, 2)) as server:
        for discard in ('unmap', 'ignore'):
            exercise_all(tools, 2)
            for n in range(2):
                reopen(server, tools, n, discard=discard)
        exercise_all(tools, 2)
        remove_export(server, 'e0')
        # Another descriptor each time.
        server.command('blockdev-del', **{'node-name': 'd0'})
        for read_only in (True, False):
            reopen(server, tools, 0, **{'read-only': read_only})
        server.command('blockdev-add', **{'driver': 'raw', 'node-name': 'd0', 'file': 'f0'})
        for iothread in ('io1', 'io0', None):
            server.command('x-blockdev-set-iothread', **{'node-name': 'd0', 'iothread': iothread})
        add_export(server, 0, 'io1' if iothreads_let_clients_go(tools.directory) else None)
        exercise_all(tools, 2)
        remove_export(server, 'e1')
        server.command('blockdev-del', **{'node-name': 'd1'})
        server.command('blockdev-del', **{'node-name': 'f1'})
        exercise(tools, 0)
        result = server.quit()
    check(result.returncode == 0, f'{result}')
    check_all_complete(result)
    check(result.stats['failed'] == 0, f'a request failed: {result}')


def busy_client(tools, n):
    """A client that will not end by itself."""
    return tools.start('qemu-img', 'bench', '-f', 'raw', '-c', 2000000000, '-d', 64, '-s', 65536,
                       '-w', '--pattern', '7', url(tools, n))


def wait_until_written(tools, n):
    """Until the client's requests reach the image: some of it is no hole any more."""
    wait_for(lambda: os.stat(tools.path(f'image{n}')).st_blocks > 0, 'the client')


def test_server_killed(tools):
    """a client reports an error when its server is killed with requests in flight"""
    make_images(tools, 1)
    # Here the client uses liblaio as well: it copies from the server to an image.
    target = tools.path('target')
    make_patchwork(tools.path('image0'), 64 * MiB, seed=3)
    make_sparse(target, 64 * MiB)
    with daemon(tools, *served(tools, 1, 1)) as server:
        bench_client = busy_client(tools, 0)
        try:
            # At 1 MiB a second it takes long enough.
            copier = tools.start('qemu-img', 'convert', '-n', '-W', '-m', 16, '-r', MiB, '-f', 'raw',
                                 url(tools, 0), '--target-image-opts', node(target))
            wait_for(lambda: os.stat(target).st_blocks > 0 or copier.poll() is not None, 'convert')
            server.process.kill()
            for client in (bench_client, copier):
                result = tools.finish(client)
                check(result.returncode == 1, f'not an error: {result}')
                check(result.stdout.count('Run completed') == 0, f'{result}')
            # The copier's own requests all came back.
            check_all_complete(result)
        finally:
            bench_client.kill()


def test_client_killed(tools):
    """the server goes on when a client is killed with requests in flight"""
    make_images(tools, 2)
    with daemon(tools, *served(tools, 2, 1)) as server:
        for _ in range(5):
            clients = [busy_client(tools, n) for n in range(2)]
            for n in range(2):
                wait_until_written(tools, n)
            for client in clients:
                client.kill()
                tools.finish(client)
        exercise_all(tools, 2)
        result = server.quit()
    check(result.returncode == 0, f'{result}')
    check_all_complete(result)


def test_exports_taken_away(tools):
    """exports removed and the NBD server stopped with requests in flight"""
    make_images(tools, 2)
    with daemon(tools, *served(tools, 2, 2)) as server:
        clients = [busy_client(tools, n) for n in range(2)]
        for n in range(2):
            wait_until_written(tools, n)
        remove_export(server, 'e0')
        server.command('nbd-server-stop')
        for client in clients:
            result = tools.finish(client)
            check(result.returncode == 1, f'not an error: {result}')
        result = server.quit()
    check(result.returncode == 0, f'{result}')
    check_all_complete(result)


def test_qemu_nbd_terminated(tools):
    """qemu-nbd ends cleanly on SIGTERM with requests in flight"""
    make_images(tools, 1)
    server = tools.start('qemu-nbd', '-f', 'raw', '--cache=none', '--aio=native', '-t', '-x', 'e0',
                         '-k', tools.path('nbd'), tools.path('image0'))
    client = None
    try:
        wait_for(lambda: os.path.exists(tools.path('nbd')) or server.poll() is not None,
                 'the socket')
        exercise(tools, 0)
        before = os.stat(tools.path('image0')).st_mtime_ns
        client = busy_client(tools, 0)
        wait_for(lambda: os.stat(tools.path('image0')).st_mtime_ns != before, 'the client')
        server.send_signal(signal.SIGTERM)
        result = tools.finish(server)
        check(result.returncode == 0, f'{result}')
        check_all_complete(result)
        check(tools.finish(client).returncode == 1, 'the client saw no error')
    finally:
        server.kill()
        if client:
            client.kill()


if __name__ == '__main__':
    sys.exit(main([
        test_uses_laio,
        test_link_mode,
        test_no_statistics_unless_asked,
        test_million_over_a_hole,
        test_resumed_by_completion_bh,
        test_convert,
        test_compare_sees_a_difference,
        test_patterns,
        test_wrong_pattern_is_seen,
        test_async,
        test_end_of_file,
        test_end_of_file_in_between,
        test_no_space,
        test_no_aio_context,
        test_io_uring_without_aio_context,
        test_hole_on_io_uring,
        on_io_uring(test_convert),
        on_io_uring(test_patterns),
        on_io_uring(test_async),
        on_io_uring(test_end_of_file),
        on_io_uring(test_nbd_iothreads),
        test_nbd_iothreads,
        test_nbd_iothreads_clients_that_stay,
        test_reopen_and_detach,
        test_server_killed,
        test_client_killed,
        test_exports_taken_away,
        test_qemu_nbd_terminated,
    ]))
