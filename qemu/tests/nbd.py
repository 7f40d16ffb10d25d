# Servers and their clients, in several threads, reopened, cut off and killed.
#
# SPDX-License-Identifier: MIT OR Apache-2.0

import concurrent.futures
import functools
import os
import signal
import tempfile

from harness import Skip, Tools, check, check_all_complete, daemon, wait_for
from images import MiB, make_patchwork, make_sparse, node, read_at


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
        # One that does not poll, one as QEMU has them, and one that polls for long.
        poll = (0, 32768, 5000000)[n % 3]
        arguments += ['--object', f'iothread,id=io{n},poll-max-ns={poll}']
    for n in range(number):
        arguments += [
            '--blockdev', f'driver=file,node-name=f{n},filename={tools.path(f"image{n}")},'
            f'aio={tools.aio},cache.direct=on',
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
            'aio': tools.aio, 'cache': {'direct': True}, **options}
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
                                 url(tools, 0), '--target-image-opts', node(target, tools.aio))
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
    server = tools.start('qemu-nbd', '-f', 'raw', '--cache=none', f'--aio={tools.aio}', '-t', '-x', 'e0',
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
