#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Checks that the arrows between the parts of the Rust code run one way, and that few crates are shipped.

usage: tools/arrows.py [--list] [DIRECTORY]

Compares which modules each module names with what MAY_NAME allows. --list prints what it found.
DIRECTORY is another tree, of which only the modules are looked at, and not the crates.
"""

import pathlib
import re
import subprocess
import sys

# By crate: its directory, and what each part of it may name. A part is a module with all in it that is no
# part itself; `(root)` is lib.rs, which in a crate without that entry only lists the modules.
# engine::x is a part of laio-engine. Tests are left out: they may name anything.
MAY_NAME = {
    'engine': ('engine/src', {
        'c_entry': 'errno first_bound host kernel qiov request state stats wait',
        'state': 'depth errno first_bound host kernel pool queue request stats trace',
        'pool': 'errno request',
        'queue': 'errno kernel',
        'qiov': 'errno request',
        'request': 'errno host kernel',
        # An entry is laid out as an iocb, and who implements the trait is handed on beside it.
        'kernel': 'errno process trace wait kernel::aio kernel::uring',
        'kernel::aio': 'errno kernel process',
        'kernel::uring': 'errno kernel process',
        'host': 'errno wait',
        'stats': '',
        'trace': 'errno',
        'first_bound': 'host',
        'depth': '',
        'process': '',
        'wait': '',
        'errno': '',
    }),
    'laio': ('src', {
        'ffi': 'host event_loop engine::c_entry engine::depth engine::host engine::kernel '
               'engine::qiov engine::request engine::state engine::stats engine::wait',
        'host': 'event_loop engine::errno engine::host',
        'event_loop': 'engine::depth engine::errno engine::host engine::process engine::wait',
    }),
    'preload': ('preload/src', {
        '(root)': 'guard liburing say settings stats takeover',
        'liburing': 'guard stats',
        'stats': 'say settings summary takeover',
        'guard': 'names say stats engine::kernel::aio',
        'takeover': 'say summary engine::c_entry engine::depth engine::errno engine::host '
                    'engine::kernel engine::qiov engine::state',
        'summary': 'engine::stats',
        'settings': 'say engine::depth',
        'names': '',
        'say': '',
    }),
}

# Everything that liblaio.so is made of, but for the standard library.
SHIPPED = {'laio', 'laio-engine', 'libc', 'once_cell', 'probe'}


def without_comments_and_tests(text):
    """The code that users get. Tests come last in a file, or are a file of that name."""
    text = re.sub(r'//.*', '', text)
    return re.split(r'#\[cfg\(test\)\]\s*mod \w+ \{', text)[0]


def uses(text):
    """Yields (path, whether it is handed on) for all that is in use declarations, braces spelt out."""
    def spell(tree, prefix):
        tree = tree.strip()
        head, brace, _ = tree.partition('{')
        if not brace:
            yield prefix + tree
            return
        depth, part = 0, ''
        for letter in tree[len(head) + 1:tree.rindex('}')] + ',':
            depth += (letter == '{') - (letter == '}')
            if letter == ',' and depth == 0:
                if part.strip():
                    yield from spell(part, prefix + head)
                part = ''
            else:
                part += letter

    for pub, tree in re.findall(r'^\s*(pub(?:\([a-z]+\))? )?use ([^;]+);', text, re.M):
        for path in spell(tree, ''):
            yield re.sub(r'\s+', ' ', path), bool(pub)


class Crate:
    """The modules of one crate, and the paths in each."""

    def __init__(self, directory, parts):
        self.parts = parts
        self.texts = {}
        for file in sorted(directory.rglob('*.rs')):
            steps = list(file.relative_to(directory).with_suffix('').parts)
            if steps[0] == 'bin' or 'tests' in steps:
                continue
            if steps[-1] in ('mod', 'lib'):
                steps.pop()
            self.texts[tuple(steps)] = without_comments_and_tests(file.read_text())
        # Names that a module hands on: where they come from.
        self.handed_on = {}
        for module, text in self.texts.items():
            for path, public in uses(text):
                where = self.absolute(path, module)
                if public and where:
                    name = where[-1]
                    if ' as ' in name:
                        where, name = (*where[:-1], name.split(' as ')[0]), name.split(' as ')[1]
                    self.handed_on[(*module, name)] = where

    def absolute(self, path, module):
        """The steps of a path of this crate; None for another's."""
        steps = [step.strip() for step in path.split('::')]
        if steps[0] == 'crate':
            return tuple(steps[1:])
        base = list(module)
        if steps[0] in ('self', 'super'):
            while steps and steps[0] in ('self', 'super'):
                if steps.pop(0) == 'super':
                    base.pop()
            return (*base, *steps)
        if (*base, steps[0]) in self.texts:
            return (*base, *steps)
        return None

    def part(self, steps):
        """The part to which a path leads; None for what is in no module. `(root)` for the crate's root."""
        seen = set()
        while True:
            known = next((steps[:end] for end in range(len(steps), 0, -1)
                          if steps[:end] in self.handed_on), None)
            if known is None or known in seen:
                break
            seen.add(known)
            steps = (*self.handed_on[known], *steps[len(known):])
        module = steps
        while module and module not in self.texts:
            module = module[:-1]
        for end in range(len(module), 0, -1):
            if '::'.join(module[:end]) in self.parts:
                return '::'.join(module[:end])
        return '::'.join(module) or '(root)'

    def arrows(self, engine):
        """Yields (module, its part, the part that it names)."""
        for module, text in self.texts.items():
            mine = self.part(module)
            if mine == '(root)' and mine not in self.parts:
                continue
            paths = {path for path, _ in uses(text)}
            # And those that are written out where they are used.
            paths |= set(re.findall(r'(?<![\w:$])[a-z_]\w*(?:::\w+)+', text))
            for path in paths:
                path = path.split(' as ')[0]
                if path.startswith('laio_engine::'):
                    yield module, mine, 'engine::' + engine.part(tuple(path.split('::')[1:]))
                elif (steps := self.absolute(path, module)) is not None:
                    named = self.part(steps)
                    if named != mine:
                        yield module, mine, named


def check_modules(root, show):
    crates = {name: Crate(root / directory, parts)
              for name, (directory, parts) in MAY_NAME.items()}
    for name, crate in crates.items():
        found = sorted(set(crate.arrows(crates['engine'])))
        if not found:
            yield f'{name} has no modules'
        for module, mine, named in found:
            source = '::'.join((name, *module))
            if show:
                print(f'{source} -> {named}')
            if mine not in crate.parts:
                yield f'{source} is in no part that is known here: give it a place'
            elif named not in crate.parts[mine].split():
                yield f'{source} names {named}, which is not among what {mine} may name'
        used = {(mine, named) for _, mine, named in found}
        for part, allowed in crate.parts.items():
            for named in allowed.split():
                if (part, named) not in used:
                    yield f'{name}::{part} may name {named}, and does not: take it out of the list'


def check_allowed():
    """What is allowed has no circle itself, but between a module and what is in it."""
    graph = {}
    for name, (_, parts) in MAY_NAME.items():
        for part, named in parts.items():
            graph[f'{name}::{part}'] = [
                other if other.startswith('engine::') else f'{name}::{other}'
                for other in named.split()
                if not (other.startswith(f'{part}::') or part.startswith(f'{other}::'))]
    done = set()

    def follow(part, way):
        if part in way:
            yield 'a circle is allowed: ' + ' -> '.join((*way[way.index(part):], part))
        elif part not in done:
            for other in graph.get(part, ()):
                yield from follow(other, (*way, part))
            done.add(part)

    for part in graph:
        yield from follow(part, ())


def tree(package):
    """The crates that a package is built of for its users."""
    command = ['cargo', 'tree', '--locked', '--package', package, '--edges', 'normal', '--prefix', 'none']
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {line.split()[0] for line in printed.splitlines() if line}


def check_crates():
    shipped = tree('laio')
    if shipped != SHIPPED:
        yield f'liblaio.so is made of {sorted(shipped)}, and not of {sorted(SHIPPED)}'
    above = tree('laio-engine') & {'laio', 'laio-preload', 'xtask'}
    if above:
        yield f'laio-engine stands on {sorted(above)}, which are above it'


def main(arguments):
    show = '--list' in arguments
    directories = [argument for argument in arguments if argument != '--list']
    if len(directories) > 1 or any(argument.startswith('-') for argument in directories):
        print(__doc__.strip())
        return 0 if arguments in (['-h'], ['--help']) else 2
    here = pathlib.Path(__file__).resolve().parent.parent
    wrong = [*check_allowed(), *check_modules(pathlib.Path(*directories or [here]), show)]
    if not directories:
        wrong += check_crates()
    for line in wrong:
        print(f'arrows.py: {line}', file=sys.stderr)
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
