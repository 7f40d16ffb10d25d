# That every byte is where it belongs.
#
# SPDX-License-Identifier: MIT OR Apache-2.0

import json
import os
import subprocess

from harness import Skip, check, check_all_complete, environment, wait_for
from images import MiB, make_patchwork, make_sparse, node, qemu_io, read_at, read_file


def convert(tools, source, source_format, target, target_format):
    info = tools.run('qemu-img', 'info', '-f', source_format, '--output=json', source).stdout
    tools.run('qemu-img', 'create', '-f', target_format, target, json.loads(info)['virtual-size'])
    tools.native('qemu-img', 'convert', '-n', '-W', '-m', 16, '-t', 'none', '-T', 'none',
                 '--image-opts', node(source, tools.aio, source_format),
                 '--target-image-opts', node(target, tools.aio, target_format))
    tools.native('qemu-img', 'compare', '--image-opts', node(source, tools.aio, source_format),
                 node(target, tools.aio, target_format))


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
    result = tools.native('qemu-img', 'compare', '--image-opts', node(images[0], tools.aio),
                          node(images[1], tools.aio),
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


def test_patterns(tools, cache='none'):
    """qemu-io writes and reads patterns, vectors, FUA, flushes, as with aio=threads"""
    outputs, contents = [], []
    for aio in (tools.aio, 'threads'):
        image = tools.path(aio)
        make_sparse(image, MiB)
        result = qemu_io(tools, aio, image, *WRITES, *READS, cache=cache)
        check('failed' not in result.output, f'a pattern is wrong: {result}')
        outputs.append(without_rates(result.output))
        contents.append(read_file(image))
    check(outputs[0] == outputs[1], f'liblaio says {outputs[0]}\nthreads says {outputs[1]}')
    check(contents[0] == contents[1], 'liblaio wrote something else than threads')


def test_buffered_patterns(tools):
    """qemu-io writes and reads patterns through the page cache, as with aio=threads"""
    test_patterns(tools, cache='writeback')


def test_wrong_pattern_is_seen(tools):
    """qemu-io notices a wrong pattern through liblaio"""
    image = tools.path('image')
    make_sparse(image, MiB)
    result = qemu_io(tools, tools.aio, image, 'write -P 1 0 4k', 'read -P 2 0 4k', expect=1)
    check('Pattern verification failed' in result.output, f'not noticed: {result}')


def test_async(tools):
    """qemu-io keeps many aio_write and aio_read in flight, and flushes"""
    image = tools.path('image')
    make_sparse(image, 16 * MiB)
    writes = [f'aio_write -q -P {1 + n % 250} {n * 16}k 16k' for n in range(512)]
    reads = [f'aio_read -q -P {1 + n % 250} {n * 16}k 16k' for n in range(512)]
    result = qemu_io(tools, tools.aio, image, *writes, 'aio_flush', *reads, 'aio_flush', 'flush')
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
        result = qemu_io(tools, tools.aio, image, *commands)
        check('failed' not in result.output, f'{size} bytes: {result}')


def test_end_of_file_in_between(tools):
    """what is missing of a file that became shorter reads as zeros"""
    image = tools.path('image')
    make_sparse(image, 65536, [(0, b'\x5a' * 65536)])
    client = tools.start('qemu-io', '-f', 'raw', '-t', 'none', '-i', tools.aio, image,
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
        env={**environment(), **tools.variables}, stdout=subprocess.PIPE, stderr=subprocess.PIPE))


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
    for aio in (tools.aio, 'threads'):
        result = on_full_file_system(
            tools, mount, tools.tool('qemu-io'), '-f', 'raw', '-t', 'none', '-i', aio, '-c',
            'write -P 1 0 512k', '-c', 'write -P 2 512k 2M', '-c', 'write -P 3 4M 4k', '-c',
            'read -P 1 0 512k', image)
        check(result.output.count('No space left on device') == 2, f'{result}')
        check(aio == 'threads' or result.stats['failed'] > 0, f'liblaio saw no error: {result}')
        outputs.append(without_rates(result.output))
    check(outputs[0] == outputs[1], f'liblaio says {outputs[0]}\nthreads says {outputs[1]}')
