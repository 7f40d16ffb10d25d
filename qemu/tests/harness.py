# Runs QEMU's tools, with time limits and liblaio's statistics, and reports in TAP.
#
# SPDX-License-Identifier: MIT OR Apache-2.0

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import traceback

# Seconds, against hangs only: nothing here is expected to take a tenth of it.
TIME_LIMIT = 300


# What the line of LAIO_STATS=1 says, by the names in laio.h.
STATISTICS = {
    'submitted': r'(\d+) requests in',
    'io_submit_calls': r'(\d+) submissions',
    'deepest_nesting': r'deepest nesting (\d+)',
    'at_bound': r'(\d+) times at the bound',
    'states': r'(\d+) states',
    'on_linux_aio': r'\((\d+) linux-aio, ',
    'on_io_uring': r', (\d+) io_uring\)',
    'completed': r'(\d+) completed',
    'failed': r'(\d+) failed',
    'retried': r'(\d+) retried',
    'in_queue': r'(\d+) in queue',
    'in_flight': r'(\d+) in flight',
    'largest_batch': r'largest batch (\d+)',
    'eagain': r'(\d+) times EAGAIN',
    'bh_resumptions': r'(\d+) times resumed by completion_bh',
}


class Skip(Exception):
    """What the test needs is not there."""


class Result:
    """What a tool that has ended left behind."""

    def __init__(self, args, returncode, stdout, stderr):
        self.args, self.returncode, self.stdout = args, returncode, stdout
        line = re.search(r'^laio\[\d+\]: engine: (.*)\n', stderr, re.M)
        # liblaio's statistics; None if the tool never made a state.
        self.stats = line and {name: int(re.search(pattern, line[1])[1])
                               for name, pattern in STATISTICS.items()}
        self.output = stdout + stderr.replace(line[0] if line else '', '')

    def __str__(self):
        return (f'{" ".join(self.args)[:600]}\n  returned {self.returncode}\n'
                f'  output: {self.output[-600:]}\n  statistics: {self.stats}')


def environment():
    return dict(os.environ, LAIO_STATS='1', LC_ALL='C')


class Tools:
    """QEMU's four tools in a directory, and a directory for a test's files."""

    def __init__(self, directory, scratch):
        self.directory, self.scratch = directory, scratch
        self.variables = {}
        # Which of QEMU's options it is that leads to liblaio.
        self.aio = 'native'

    @contextlib.contextmanager
    def environment(self, **variables):
        """With these environment variables for what is started within."""
        before, self.variables = self.variables, {**self.variables, **variables}
        try:
            yield
        finally:
            self.variables = before

    def path(self, name):
        return os.path.join(self.scratch, name)

    def tool(self, name):
        return os.path.join(self.directory, name)

    def start(self, name, *args, stdin=subprocess.DEVNULL, **options):
        return subprocess.Popen([self.tool(name), *map(str, args)], text=True,
                                env={**environment(), **self.variables},
                                stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                **options)

    def finish(self, process):
        """Waits for a tool; one that hangs fails the test."""
        try:
            out, err = process.communicate(timeout=TIME_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f'hangs: {Result(process.args, "-", out, err)}') from None
        return Result(process.args, process.returncode, out, err)

    def run(self, name, *args, expect=0, **options):
        """Runs a tool to its end. `expect` is its exit status, or None."""
        result = self.finish(self.start(name, *args, **options))
        check(expect is None or result.returncode == expect, f'exit status {expect}: {result}')
        return result

    def native(self, name, *args, **options):
        """As run(), and liblaio must have done the work, all of it, without an error."""
        result = self.run(name, *args, **options)
        check_all_complete(result)
        check(result.stats['failed'] == 0, f'a request failed: {result}')
        return result


def check(condition, message):
    if not condition:
        raise AssertionError(message)


def check_all_complete(result):
    stats = result.stats
    check(stats is not None, f'liblaio was not used: {result}')
    check(stats['submitted'] > 0, f'no request went through liblaio: {result}')
    check(stats['submitted'] == stats['completed'], f'a request was lost: {result}')
    check(stats['in_queue'] == stats['in_flight'] == 0, f'requests are left: {result}')
    check(stats['deepest_nesting'] <= 8, f'above the depth bound: {result}')


class Daemon:
    """A qemu-storage-daemon with a QMP socket."""

    def __init__(self, tools, name, *args):
        self.tools = tools
        self.qmp_path = tools.path(f'{name}.qmp')
        self.process = tools.start(
            'qemu-storage-daemon', *args,
            '--chardev', f'socket,id=qmp,path={self.qmp_path},server=on,wait=off',
            '--monitor', 'chardev=qmp')
        self.stream = None

    def connect(self):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(TIME_LIMIT)
        wait_for(lambda: self.has_ended() or attempt_connect(connection, self.qmp_path),
                 'the QMP socket')
        if self.has_ended():
            raise AssertionError(f'did not start: {self.tools.finish(self.process)}')
        self.stream = connection.makefile('rw')
        connection.close()
        self.answer()
        self.command('qmp_capabilities')

    def has_ended(self):
        return self.process.poll() is not None

    def answer(self):
        line = self.stream.readline()
        check(line, 'the storage daemon closed its QMP socket')
        return json.loads(line)

    def command(self, command, /, **arguments):
        self.stream.write(json.dumps({'execute': command, 'arguments': arguments}) + '\n')
        self.stream.flush()
        answer = self.answer()
        while 'event' in answer:
            answer = self.answer()
        check('error' not in answer, f'{command}: {answer}')
        return answer.get('return')

    def succeeds(self, command, **arguments):
        """False also when the daemon is just ending."""
        try:
            self.command(command, **arguments)
            return True
        except (AssertionError, OSError):
            return False

    def quit(self):
        self.command('quit')
        return self.finish()

    def finish(self):
        return self.tools.finish(self.process)

    def kill(self):
        if not self.has_ended():
            self.process.kill()
            self.process.communicate()


@contextlib.contextmanager
def daemon(tools, *args, name='daemon'):
    started = Daemon(tools, name, *args)
    try:
        started.connect()
        yield started
    finally:
        if started.stream:
            started.stream.close()
        started.kill()


def attempt_connect(connection, path):
    try:
        connection.connect(path)
        return True
    except (FileNotFoundError, ConnectionRefusedError):
        return False


def wait_for(condition, what):
    deadline = time.monotonic() + TIME_LIMIT
    while not condition():
        check(time.monotonic() < deadline, f'waited in vain for {what}')
        time.sleep(0.02)


def main(runs):
    """Runs tests, each for a directory of tools: `runs` are (label, directory, tests)."""
    number, failed = 0, 0
    for label, directory, tests in runs:
        for test in tests:
            number += 1
            scratch = tempfile.mkdtemp(prefix='laio-', dir=os.environ.get('LAIO_TEST_DIR'))
            verdict, remark = 'ok', ''
            try:
                test(Tools(os.path.abspath(directory), scratch))
            except Skip as reason:
                remark = f' # SKIP {reason}'
            except Exception as error:  # pylint: disable=broad-except
                verdict, failed = 'not ok', failed + 1
                if not isinstance(error, AssertionError):
                    error = traceback.format_exc()
                print(''.join(f'# {line}\n' for line in str(error).splitlines()), end='')
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
            print(f'{verdict} {number} - {label}: {test.__doc__}{remark}', flush=True)
    print(f'1..{number}')
    return 1 if failed else 0
