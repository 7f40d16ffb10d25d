# Images, what is in them, and how QEMU's tools are told to use them.
#
# SPDX-License-Identifier: MIT OR Apache-2.0

import random
import resource

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
    return tools.native('qemu-img', 'bench', '-f', 'raw', '-t', 'none', '-i', tools.aio, '-d', depth,
                        '-c', count, '-s', 4096, *options, image, **run_options)


def node(path, aio, image_format='raw'):
    return (f'driver={image_format},file.driver=file,file.filename={path},'
            f'file.cache.direct=on,file.aio={aio}')


def qemu_io(tools, aio, image, *commands, expect=0, cache='none'):
    arguments = [word for command in commands for word in ('-c', command)]
    run = tools.native if aio != 'threads' and expect == 0 else tools.run
    return run('qemu-io', '-f', 'raw', '-t', cache, '-i', aio, *arguments, image, expect=expect)


def limited_stack():
    """As most systems have it. That of who dies of it is of no interest."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_STACK, (8 * MiB, 8 * MiB))
