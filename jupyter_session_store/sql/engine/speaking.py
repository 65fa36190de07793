"""Asking hosts whether anybody speaks there, without a log-in, several at once.

A host that hangs is worth no attempt to connect, which nothing can end before its time-out: in
those seconds another host may have become the primary. A question costs nobody anything to wait
for, and is open until it is answered.
"""

from __future__ import annotations

import errno
import selectors
import socket
import struct
import time
from collections.abc import Collection
from contextlib import suppress
from types import TracebackType
from typing import Final

from .places import USUAL_PORT, Place

#: What a client of PostgreSQL asks first: whether the connection may be encrypted. PgBouncer,
#: Pgpool and a server that is starting answer it too.
_QUESTION: Final = struct.pack("!ii", 8, 80877103)
#: Windows has a number of its own.
_UNDER_WAY: Final = frozenset({0, errno.EINPROGRESS, getattr(errno, "WSAEWOULDBLOCK", 0)})
#: Of a host that is not there, of which the network tells late; and of a socket with a full queue.
_NOBODY: Final = frozenset(
    {errno.EAGAIN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT}
)


class Questions:
    """Questions to hosts that have hung; a context manager, which closes those still open."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._asked: dict[Place, socket.socket] = {}

    def __enter__(self) -> Questions:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for place in tuple(self._asked):
            self._end(place)
        self._selector.close()

    def wait(self, places: Collection[Place], seconds: float) -> list[Place]:
        """Return which places answer, as soon as one does, or none after so many seconds.

        A refusal is an answer. So is that of a place that cannot be asked: the driver tells of it.
        """
        answered = [one for one in places if one not in self._asked and self._ask(one)]
        deadline = time.monotonic() + seconds
        while not answered and (left := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                place: Place = key.data
                if self._go_on(place):
                    self._end(place)
                    answered.append(place)
        return answered

    def _ask(self, place: Place) -> bool:
        """Return whether there is an answer at once."""
        try:
            family, address = _address_of(place)
            one = socket.socket(family, socket.SOCK_STREAM)
        except (OSError, ValueError):
            return True
        one.setblocking(False)
        try:
            code = one.connect_ex(address)
        except OSError:
            # Such as a path that is too long.
            code = errno.EINVAL
        if code not in _UNDER_WAY:
            one.close()
            return code not in _NOBODY
        self._asked[place] = one
        self._selector.register(one, selectors.EVENT_WRITE, place)
        return False

    def _go_on(self, place: Place) -> bool:
        """Return whether a place that has something to tell has answered."""
        one = self._asked[place]
        code = one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code in _NOBODY:
            self._end(place)
            return False
        if not code and self._selector.get_key(one).events == selectors.EVENT_WRITE:
            with suppress(OSError):
                one.send(_QUESTION)
            self._selector.modify(one, selectors.EVENT_READ, place)
            return False
        # Whatever it says: it speaks, if only to hang up.
        return True

    def _end(self, place: Place) -> None:
        one = self._asked.pop(place)
        self._selector.unregister(one)
        one.close()


def _address_of(place: Place) -> tuple[int, str | tuple[object, ...]]:
    port = place.port or USUAL_PORT
    if place.host.startswith(("/", "@")) and not place.address:
        path = f"{place.host}/.s.PGSQL.{port}"
        return socket.AF_UNIX, f"\0{path[1:]}" if path[0] == "@" else path
    found = socket.getaddrinfo(
        place.address, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )
    return found[0][0], found[0][4]
