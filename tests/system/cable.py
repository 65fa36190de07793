"""A cable to a host of its own: a process that passes connections on, until it is cut.

Seen from outside, a host whose cable is cut has gone silent: what was connected hangs, and what
connects is not answered. To cut a network of its own would take privileges. What this one leaves
out: the system goes on to acknowledge what it got, so no time-out of TCP's own ends a connection.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final

_CUT: Final = b"-"
_MEND: Final = b"+"
_FREEZE: Final = b"/"
_COUNT: Final = b"?"


class Cable:
    """Ports of 127.0.0.1 that lead to others; each pair is the one and the other.

    Nothing of it outlives this process.
    """

    def __init__(self, *pairs: tuple[int, int]) -> None:
        words = [f"{here}:{there}" for here, there in pairs]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._answer()

    def cut(self) -> None:
        """Pass nothing on, neither of connections that there are nor of new ones."""
        self._ask(_CUT)

    def mend(self) -> None:
        """Pass on again. What there was is closed: nothing that was given up arrives late."""
        self._ask(_MEND)

    def freeze(self) -> None:
        """Pass nothing more on of the connections that there are, for good; new ones are well."""
        self._ask(_FREEZE)

    def connections(self) -> list[int]:
        """Return how many connections each pair has passed on, in order."""
        return [int(word) for word in self._ask(_COUNT).split()]

    def close(self) -> None:
        """End all connections."""
        self._process.communicate()

    def _ask(self, what: bytes) -> bytes:
        assert self._process.stdin is not None
        self._process.stdin.write(what)
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the cable's process has ended"
        return line


class _Passing:
    """What passes connections on, in the process of the cable."""

    def __init__(self, pairs: Sequence[tuple[int, int]]) -> None:
        self._pairs = pairs
        self._counts = [0] * len(pairs)
        self._open = asyncio.Event()
        self._open.set()
        self._ended = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Listen, say so, and pass on until the input ends."""
        for number, (here, _) in enumerate(self._pairs):
            await asyncio.start_server(partial(self._connect, number), "127.0.0.1", here)
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), self._obey)
        self._say()
        await self._ended.wait()
        # With its connections, whatever they wait for.
        os._exit(0)

    def _obey(self) -> None:
        order = os.read(sys.stdin.fileno(), 1)
        if order == _CUT:
            self._open.clear()
        elif order == _MEND:
            for connection in self._connections:
                connection.cancel()
            self._pass_new_ones()
        elif order == _FREEZE:
            self._open.clear()
            self._pass_new_ones()
        elif not order:
            self._ended.set()
            return
        self._say()

    def _pass_new_ones(self) -> None:
        self._open = asyncio.Event()
        self._open.set()

    def _say(self) -> None:
        print(*self._counts, flush=True)

    async def _connect(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task, is_open, writers = asyncio.current_task(), self._open, [writer]
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        try:
            await is_open.wait()
            there = await asyncio.open_connection("127.0.0.1", self._pairs[number][1])
            writers.append(there[1])
            self._counts[number] += 1
            await asyncio.gather(_pump(reader, there[1], is_open), _pump(there[0], writer, is_open))
        except OSError:
            writer.close()
        except asyncio.CancelledError:
            for one in writers:
                one.transport.abort()


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_open: asyncio.Event
) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            await is_open.wait()
            writer.write(data)
            await writer.drain()
    # Nor does anybody hear that the other side has left.
    await is_open.wait()
    writer.close()


if __name__ == "__main__":
    _words = [word.partition(":") for word in sys.argv[1:]]
    asyncio.run(_Passing([(int(here), int(there)) for here, _, there in _words]).run())
