#!/usr/bin/python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs the commands of README.md and docs/*.md in a clean clone and compiles their C. TAP.

usage: tools/check-docs.py [--quick] [--list] [PAGE...]

Each page, or those that are given, has a shell of its own in one clone with an empty HOME, README.md
first: what it installs there is what the others use. The pages are those of the work tree. A block of
code says what it is: sh (commands), console (commands behind "$ ", and what they print), c (a translation
unit), text or xml. With a name behind it, as in "c example.c" or "sh wrapper", it is a file of that name.
Links, and what stands in `code` as a make target, a suite, or a file of the tree, must exist too.

  --quick  leaves out what takes minutes, and keeps what was compiled for the next time
  --list   shows the commands, and runs none
"""

import argparse
import os
import pathlib
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time

try:
    from markdown_it import MarkdownIt
except ImportError:
    sys.exit('check-docs.py: markdown-it-py is missing; type: tools/install-deps.sh check')

ROOT = pathlib.Path(__file__).resolve().parent.parent

# What is not run here, and why. A command that no page has any more is an error, in each of these.
ELSEWHERE = 'another target, which .ci/run or a person starts: '
PLACEHOLDER = 'names what only the reader has: '
NOT_RUN = {
    'make check': ELSEWHERE + 'this is a part of it',
    'make check-qemu': ELSEWHERE + 'it fetches and builds three QEMUs',
    'make check-vm': ELSEWHERE + 'it fetches kernels and boots guests',
    'make soak-vm SECONDS=600': ELSEWHERE + 'twenty minutes of guests',
    'make soak-vm SECONDS=0 SEED=1234': ELSEWHERE + 'as above',
    'make check-vm FULL=1': ELSEWHERE + 'hours of guests',
    'make bench': ELSEWHERE + 'an hour on a machine with nothing else to do',
    "make bench BENCH_ARGS='--into docs/figures/bench'": ELSEWHERE + 'an hour, as above',
    'make bench-scale': ELSEWHERE + 'minutes, as above',
    'tools/under-load.sh --times 3 -- make check': ELSEWHERE + 'hours, on a busy machine',
    'make deb': ELSEWHERE + 'it builds everything twice, and wants the machine to have debhelper',
    'make rpm': ELSEWHERE + 'it builds everything once more, and wants the machine to have rpm',
    'make bench-qemu': ELSEWHERE + 'it builds two QEMUs and measures them',
    'tools/check-vm.sh jobs/backup': 'wants what make check-vm has fetched and built',
    "tools/check-vm.sh --own-engine 'machine/*'": 'wants what make check-vm has fetched and built',
    'tools/check-vm.sh --keep devices/nvme': 'wants what make check-vm has fetched and built',
    'build/vm/python/bin/qmp-shell build/vm/cases/NAME.ENGINE/guest1/look.sock':
        PLACEHOLDER + 'a case that runs',
    'sync; echo 1 > /proc/sys/vm/drop_caches': 'empties the page cache of the whole machine',
    'LD_PRELOAD=/usr/local/lib/x86_64-linux-gnu/liblaio_preload.so qemu-system-x86_64 ...':
        PLACEHOLDER + "a guest's arguments, and a library in /usr/local",
    r"grep -z '^LAIO_\|^LD_PRELOAD' /proc/PID/environ | tr '\0' '\n'": PLACEHOLDER + 'a PID',
    'apt-get install build-essential pkg-config ninja-build flex bison python3-venv dpkg-dev '
    'libglib2.0-dev zlib1g-dev liburing-dev': 'changes the machine; tools/install-deps.sh qemu does so too',
    'qemu/apply.sh TREE': PLACEHOLDER + 'a tree',
    'cd TREE && PKG_CONFIG_PATH=PREFIX/lib/pkgconfig ./configure ... && make': PLACEHOLDER + 'a tree',
    "/usr/bin/python3 -m venv V && V/bin/pip install 'meson>=1.5,<2' setuptools pycotap":
        'wants a package index; qemu/build.sh does so where it has to',
    'PATH=$PWD/V/bin:$PATH ./configure ...': PLACEHOLDER + "QEMU's own options",
}

# What takes minutes, or cannot be had without a network.
SLOW = [
    'make dist',
    """make bench BENCH_ARGS='--rows "hole read 4k" --reps 3'""",
    'qemu/fetch.sh 10.0 $HOME/qemu',
    'qemu/build.sh $HOME/qemu',
    'LAIO_STATS=1 $HOME/qemu/build/qemu-img bench -f raw -t none -i native -c 1000000 -d 1 -s 4096 s.raw',
    'LAIO_SIM_SEED=7 cargo test -p laio-engine --test sim',
    'LAIO_SIM_TAPE=0007 cargo test -p laio-engine --test sim',
    'LAIO_SIM_FIRST=1000000 LAIO_SIM_COUNT=10000 cargo test -p laio-engine --test sim',
    'LAIO_SIM_SECONDS=5 cargo test -p laio-engine --test sim',
]

# What may end by a signal, as the page says, where the QEMU of the machine has the bug.
MAY_CRASH = ['qemu-img bench -t none -i native -d 1 -c 100000 -f raw sparse.raw']

# Seconds for a command, against hangs only.
LIMIT, SLOW_LIMIT = 600, 3600

COMMANDS, OTHERS = ('sh', 'console'), ('c', 'text', 'xml')


class Results:
    def __init__(self):
        self.count = 0
        self.failed = 0

    def ok(self, name, complaint=''):
        """Without a complaint it has passed."""
        self.count += 1
        self.failed += bool(complaint)
        print(f'{"not " if complaint else ""}ok {self.count} - {escaped(name)}', flush=True)
        for line in complaint.splitlines():
            print(f'# {line}', flush=True)

    def skip(self, name, reason):
        self.count += 1
        print(f'ok {self.count} - {escaped(name)} # SKIP {reason}', flush=True)


def escaped(name):
    return name.replace('#', r'\#')


class Page:
    """What a page has: blocks of code, and code and links in its text."""

    def __init__(self, path):
        self.path = path
        self.name = str(path.relative_to(ROOT))
        self.blocks = []
        self.code = []
        self.links = []
        line = 0
        for token in MarkdownIt('commonmark').enable('table').parse(path.read_text()):
            line = token.map[0] + 1 if token.map else line
            if token.type in ('fence', 'code_block'):
                self.blocks.append((line, token.info.split(), token.content))
            for child in token.children or []:
                if child.type == 'code_inline':
                    self.code.append((line, child.content))
                for attribute in ('href', 'src'):
                    if target := child.attrGet(attribute):
                        self.links.append((line, target))

    def commands(self):
        """The commands, and between them the files that they use: (line, command) or (line, name, text)."""
        for line, info, text in self.blocks:
            kind = info[0] if info else ''
            if kind in ('c', 'sh') and len(info) > 1:
                yield line, info[1], text
            elif kind in COMMANDS:
                for number, command in enumerate_commands(text, kind == 'console'):
                    yield line + number, command


def enumerate_commands(text, has_output):
    """A backslash at the end of a line continues it, and a comment is none of the command."""
    start, command = None, ''
    for number, line in enumerate(text.splitlines(), start=1):
        if has_output and not command:
            if not line.startswith('$ '):
                continue
            line = line[2:]
        line = re.sub(r'(^|\s)#\s.*$', '', line).strip()
        if not line:
            continue
        start = start if command else number
        if line.endswith('\\'):
            command += line[:-1].rstrip() + ' '
            continue
        yield start, command + line
        command = ''


class Shell:
    """A bash that keeps its directory and variables from one command to the next."""

    def __init__(self, directory, environment):
        self.directory, self.environment = directory, environment
        self.script, self.output = directory.parent / 'command', directory.parent / 'output'
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            ['bash', '--norc'], cwd=self.directory, env=self.environment, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True, text=True)

    def run(self, command, limit):
        """Its status, or None where there was none in time; and what it printed."""
        if not self.process:
            self.start()
        self.script.write_text(command + '\n')
        self.process.stdin.write(
            f"set -e -o pipefail; . '{self.script}' </dev/null >'{self.output}' 2>&1; set +e; echo 0\n")
        self.process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            ended = selector.select(limit)
        # The end of the file is a failure, for which the shell has ended.
        status = None if not ended else 0 if self.process.stdout.readline() else self.process.wait()
        if status != 0:
            self.stop()
        return status, self.output.read_text(errors='replace')

    def stop(self):
        if self.process:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()
            self.process = None


def make_clone(directory, keep_target):
    """Of what is committed, with the work tree's files in it. Returns the clone and its environment."""
    clone, home, target = directory / 'clone', directory / 'home', directory / 'target'
    for old in [clone, home] + ([] if keep_target else [target]):
        shutil.rmtree(old, ignore_errors=True)
    home.mkdir(parents=True)
    subprocess.run(['git', 'clone', '--quiet', ROOT, clone], check=True)
    names = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'], cwd=ROOT,
                           check=True, capture_output=True, text=True).stdout.split('\0')[:-1]
    for name in names:
        if not os.path.lexists(ROOT / name):
            (clone / name).unlink(missing_ok=True)
        elif name.endswith('/'):
            continue  # a clone within
        elif not (clone / name).exists() or (ROOT / name).read_bytes() != (clone / name).read_bytes():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, clone / name)

    real_home = pathlib.Path.home()
    # Of what make and meson hand on, and of the user's own settings, a newcomer has nothing.
    not_theirs = re.compile(r'LAIO_|MESON|MAKE|MFLAGS|NINJA|BUILD_DIR$|DESTDIR$|PREFIX$|PKG_CONFIG')
    environment = {name: value for name, value in os.environ.items() if not not_theirs.match(name)}
    environment |= {
        'HOME': str(home), 'TMPDIR': str(directory), 'CARGO_TARGET_DIR': str(target),
        'PATH': f'{home}/.local/bin:{os.environ["PATH"]}',
        'CARGO_HOME': os.environ.get('CARGO_HOME', str(real_home / '.cargo')),
        'RUSTUP_HOME': os.environ.get('RUSTUP_HOME', str(real_home / '.rustup')),
    }
    return clone, environment


def check_lists(pages, results):
    """What the lists have is in the pages. Only all pages together can say so."""
    there = {item[1] for page in pages for item in page.commands()}
    marked = [*NOT_RUN, *SLOW, *MAY_CRASH]
    gone = [command for command in marked if command not in there]
    twice = [command for command in marked if marked.count(command) > 1]
    results.ok('the lists of tools/check-docs.py have only what the pages have',
               '\n'.join([f'no page has: {command}' for command in gone]
                         + [f'more than one list has: {command}' for command in twice]))


def anchors(path):
    """As GitHub makes them of headings."""
    for heading in re.findall(r'^#+ (.*)$', path.read_text(), re.MULTILINE):
        yield re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')


def complain_of_links(page):
    for line, target in page.links:
        if re.match(r'[a-z]+:', target):
            continue
        file, _, anchor = target.partition('#')
        path = (page.path.parent / file) if file else page.path
        if not path.exists():
            yield f'{page.name}:{line}: a link to {target}, which is not there'
        elif anchor and anchor not in anchors(path):
            yield f'{page.name}:{line}: a link to {target}, which has no such heading'


def complain_of_names(page):
    """Of what `code` in the text calls a target, a suite, or a file of this tree, and is none."""
    targets = set(re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
    suites = {suite for file in ROOT.glob('**/meson.build')
              for suite in re.findall(r"suite: '([a-z]+)'", file.read_text())}
    directories = {path.name for path in ROOT.iterdir() if path.is_dir()} - {'build', 'target', '.git'}
    for line, code in page.code:
        target = re.match(r'(?:\w+=\S+ )*make ([a-z][a-z-]*)', code)
        if target and target[1] not in targets:
            yield f'{page.name}:{line}: the Makefile has no target {target[1]}'
        for suite in re.findall(r'--suite ([a-z]+)', code):
            if suite not in suites:
                yield f'{page.name}:{line}: there is no suite {suite}'
        for name in re.findall(r'(?<![\w$/.-])[\w.-]+(?:/[\w.*-]+)+/?', code):
            ours = name.split('/')[0] in directories and not name.startswith('include/block/')
            # The second is what is given as --into.
            if ours and not any(list(ROOT.glob(name.rstrip('/') + end)) for end in ('', '.*')):
                yield f'{page.name}:{line}: there is no {name}'


def check_text(page, results):
    unnamed = [f'{page.name}:{line}: say what this block is: ```sh, ```console, ```c, ```text or ```xml'
               for line, info, _ in page.blocks if not info or info[0] not in COMMANDS + OTHERS]
    results.ok(f'{page.name}: blocks, links and names',
               '\n'.join([*unnamed, *complain_of_links(page), *complain_of_names(page)]))
    for line, info, text in page.blocks:
        if info and info[0] == 'c':
            compiled = subprocess.run(
                [os.environ.get('CC', 'cc'), '-x', 'c', '-std=gnu11', '-Wall', '-Wextra', '-Werror', '-fsyntax-only',
                 '-I', ROOT / 'include', '-'], input=text, text=True, capture_output=True, check=False)
            results.ok(f'{page.name}:{line}: this C compiles',
                       '' if compiled.returncode == 0 else compiled.stderr)


def what_is_wrong(command, status, output, limit, seconds):
    if status == 0 or (command in MAY_CRASH and status is not None and status > 128):
        return ''
    how = f'no end after {limit} s' if status is None else f'status {status} after {seconds:.0f} s'
    return '\n'.join([f'{command}', how, *output.splitlines()[-20:]])


def run_page(page, clone, environment, quick, results):
    shell = Shell(clone, environment)
    try:
        for line, command, *file in page.commands():
            name = f'{page.name}:{line}: {command}'
            limit = SLOW_LIMIT if command in SLOW else LIMIT
            if file:
                (clone / command).write_text(file[0])
            elif command in NOT_RUN:
                results.skip(name, NOT_RUN[command])
            elif command in SLOW and quick:
                results.skip(name, 'takes minutes: make check-docs')
            else:
                start = time.monotonic()
                status, output = shell.run(command, limit)
                results.ok(name, what_is_wrong(command, status, output, limit, time.monotonic() - start))
    finally:
        shell.stop()


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split('usage: ')[1].split('\n')[0],
                                     description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--quick', action='store_true', help=argparse.SUPPRESS)
    parser.add_argument('--list', action='store_true', help=argparse.SUPPRESS)
    parser.add_argument('pages', nargs='*', metavar='PAGE', help=argparse.SUPPRESS)
    options = parser.parse_args()

    if not (ROOT / '.git').exists():
        print('1..0 # SKIP this tree is no clone, so that none can be made of it')
        return 0
    everything = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
    pages = [Page(path.resolve()) for path in map(pathlib.Path, options.pages)] or [Page(path) for path in everything]
    if options.list:
        for page in pages:
            for line, command, *_ in page.commands():
                print(f'{page.name}:{line}: {command}')
        return 0

    results = Results()
    if not options.pages:
        check_lists(pages, results)
    for page in pages:
        check_text(page, results)
    build = pathlib.Path(os.environ.get('BUILD_DIR', ROOT / 'build')).absolute()
    clone, environment = make_clone(build / 'check-docs', options.quick)
    for page in pages:
        run_page(page, clone, environment, options.quick, results)
    print(f'1..{results.count}')
    return int(results.failed > 0)


if __name__ == '__main__':
    sys.exit(main())
