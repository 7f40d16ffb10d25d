# SPDX-License-Identifier: MIT OR Apache-2.0
"""A guest: its process, the monitor of the emulator (QMP), and a shell inside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from qemu.qmp import EventListener, ExecuteError, QMPClient

from .case import Failure, check

Arguments = Mapping[str, Any]
# What a listener waits for; a hang is for the time limit of the case to end.
CONNECT_SECONDS = 600
# Seconds that an emulator gets to end by itself.
LAST_WORDS = 10


class Guest:
    """`directory` gets its sockets and logs: the console of the guest, what the emulator says, and the
    commands with their answers. `port` is the device that the shell inside is behind, unless that is the
    machine's second serial port."""

    def __init__(
        self, directory: Path, command: Sequence[object], environment: Mapping[str, str], port: str = ''
    ):
        directory.mkdir()
        self.directory = directory
        self.command = [str(word) for word in command]
        self.environment = dict(environment)
        self.port = port
        self.qmp = QMPClient('guest')
        self.events = EventListener()
        self.qmp.register_listener(self.events)
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._number = 0
        self._shell = asyncio.Lock()

    # Its process.

    async def start(self, *, ready: bool = True, incoming: str | None = None) -> None:
        """Starts it, and with `ready` waits for the shell inside."""
        shell = f'{self._socket("shell")},server=on,wait=off'
        command = [
            *self.command,
            *('-qmp', f'unix:{self._socket("qmp")},server=on,wait=off'),
            # One for whoever wants to look into it, since each has room for one client.
            *('-qmp', f'unix:{self._socket("look")},server=on,wait=off'),
            *('-serial', f'file:{self.directory}/console.log'),
            *(
                ('-chardev', f'socket,id=shell,path={shell}', '-device', f'{self.port},chardev=shell')
                if self.port
                else ('-serial', f'unix:{shell}')
            ),
            *(('-incoming', incoming) if incoming else ()),
        ]
        with open(self.directory / 'emulator.log', 'wb') as log:
            log.write((' '.join(command) + '\n').encode())
            log.flush()
            self._process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
            )
        await self._connect()
        if ready:
            await self._line_that('ready')

    async def end(self) -> None:
        """Ends it, whatever it does: by a signal that it obeys, if it still can, because it says then what its
        engine had outstanding."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._process.wait()), LAST_WORDS)
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
        await self._disconnect()

    async def quit(self) -> None:
        """Ends it in order, by the monitor."""
        with contextlib.suppress(EOFError, ConnectionError):
            await self.execute('quit')
        await self.ended()

    async def ended(self) -> None:
        """Waits for the end of its process, which must be a success."""
        check(self._process is not None, 'it has started')
        assert self._process is not None
        status = await self._process.wait()
        await self._disconnect()
        if status != 0:
            raise Failure(f'the emulator ended with {status}: {self.said()}')

    def kill(self) -> None:
        """As a crash of the emulator."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)

    def said(self) -> str:
        """What the emulator has said, but for its own command line."""
        text = (self.directory / 'emulator.log').read_text(errors='replace')
        return text.partition('\n')[2]

    def uses_linux_aio(self) -> bool:
        """Whether it has a ring of io_setup(2), which is a mapping of that name."""
        assert self._process is not None
        return '/[aio]' in Path(f'/proc/{self._process.pid}/maps').read_text()

    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    # The monitor.

    async def execute(self, command: str, arguments: Arguments | None = None) -> Any:
        return await self.qmp.execute(command, dict(arguments or {}))

    async def refused(self, command: str, arguments: Arguments) -> str:
        """Why the command is refused, which it must be."""
        try:
            await self.execute(command, arguments)
        except ExecuteError as error:
            return str(error)
        raise Failure(f'{command} was not refused')

    async def event(self, name: str, **fields: Any) -> dict[str, Any]:
        """The next event of that name, with these fields in its data; others are dropped."""
        while True:
            message = await self.events.get()
            data: dict[str, Any] = {**cast(Arguments, message.get('data', {}))}
            if message['event'] == name and fields.items() <= data.items():
                return data

    async def job(self, command: str, arguments: Arguments, *, until: str = 'concluded') -> str:
        """Starts a block job, waits until it is in that state, and says its name. One that is at its end
        must not have failed, and is dismissed."""
        name = f'job{self._next()}'
        extra = {} if command.startswith('snapshot-') else {'auto-dismiss': False}
        await self.execute(command, {**arguments, 'job-id': name, **extra})
        await self.job_state(name, until)
        return name

    async def job_state(self, name: str, until: str = 'concluded', *, fails: bool = False) -> None:
        """Waits until the job is in that state; at its end it has failed, or not, as is said here."""
        while True:
            jobs = {job['id']: job for job in await self.execute('query-jobs')}
            state = jobs[name]['status'] if name in jobs else 'gone'
            if state == 'concluded':
                error = jobs[name].get('error')
                await self.execute('job-dismiss', {'id': name})
                check((error is not None) == fails, f'the job {name} ended with the error {error}')
            if state == until:
                return
            check(state not in ('concluded', 'gone'), f'the job {name} is {state}, and not {until}')
            await asyncio.sleep(0.1)

    # The shell inside.

    async def shell(self, command: str, *, status: int | None = 0) -> str:
        """What a command inside prints. Its status must be `status`, unless that is None."""
        async with self._shell:
            number = self._next()
            assert self._writer is not None
            self._writer.write(f'{number} {command}\n'.encode())
            await self._writer.drain()
            await self._line_that(f'<{number}')
            lines = []
            while not (match := re.fullmatch(rf'>{number} (\d+)', line := await self._line())):
                lines.append(line)
        output = '\n'.join(lines).strip()
        if status is not None and int(match[1]) != status:
            raise Failure(f'in the guest, {command!r} ended with {match[1]}:\n{output}')
        return output

    async def rebooted(self) -> None:
        """Waits for the shell after a reset."""
        await self._line_that('ready')

    # The wires.

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _socket(self, name: str) -> str:
        # The way to a socket has 107 bytes, and a directory of tests may be deep.
        return os.path.relpath(self.directory / f'{name}.sock')

    async def _connect(self) -> None:
        assert self._process is not None
        for _ in range(CONNECT_SECONDS * 10):
            check(self._process.returncode is None, f'the emulator does not start: {self.said()}')
            if (self.directory / 'shell.sock').exists():
                break
            await asyncio.sleep(0.1)
        self._reader, self._writer = await asyncio.open_unix_connection(self._socket('shell'))
        self.qmp.logger.setLevel('CRITICAL')
        await self.qmp.connect(self._socket('qmp'))

    async def _disconnect(self) -> None:
        # The peer is gone, and says so in one of several ways.
        with contextlib.suppress(Exception):
            await self.qmp.disconnect()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    async def _line(self) -> str:
        assert self._reader is not None
        raw = await self._reader.readline()
        if not raw:
            raise Failure(f'the shell of the guest is gone; the emulator said: {self.said()}')
        with open(self.directory / 'shell.log', 'ab') as log:
            log.write(raw)
        return raw.decode(errors='replace').rstrip('\r\n')

    async def _line_that(self, line: str) -> None:
        while await self._line() != line:
            pass
