# SPDX-License-Identifier: MIT OR Apache-2.0
"""What a case is, and the list of all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bench import Bench

Body = Callable[['Bench'], Awaitable[None]]


class Failure(Exception):
    """What was seen is not what has to be."""


class Skip(Exception):
    """The case cannot run here, and why."""


def check(condition: object, what: str) -> None:
    if not condition:
        raise Failure(what)


@dataclass(frozen=True)
class Case:
    """A test. `limit` is in seconds, and only there for hangs. A case that is about the library inside
    of a guest is the same with every engine of the emulator, and runs on one. `kernel` is LAIO_KERNEL of the
    emulator, and `aio` what its disks are opened with."""

    name: str
    body: Body
    limit: float
    short: bool
    inside: bool
    kernel: str
    aio: str = 'native'

    @property
    def theme(self) -> str:
        return self.name.split('/')[0]


CASES: dict[str, Case] = {}


def case(
    name: str,
    *,
    short: bool = False,
    limit: float = 1800,
    inside: bool = False,
    kernel: str = 'linux-aio',
    both_aios: bool = False,
) -> Callable[[Body], Body]:
    """Makes a function a case. `short`: part of the short set. `both_aios`: a second case has the same with
    aio=io_uring."""

    def register(body: Body) -> Body:
        new = Case(name, body, limit, short, inside, kernel)
        add(new)
        if both_aios:
            add(with_io_uring(new))
        return body

    return register


def with_io_uring(plain: Case, short: bool = False) -> Case:
    """The case with aio=io_uring, QEMU's other engine, in place of aio=native."""
    return replace(plain, name=f'{plain.name}-aio-io_uring', short=short, aio='io_uring')


def add(new: Case) -> None:
    if new.name in CASES:
        raise ValueError(f'two cases are called {new.name}')
    CASES[new.name] = new
