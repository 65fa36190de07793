"""Cutting a connection whose other end hangs: its host answers, and nobody speaks.

Behind a proxy that was stopped, or on a machine that was paused, a call waits for an
answer that never comes, in a driver that no other thread can interrupt. What can be ended
is the connection. Then the driver raises, and all goes on as with any that turns out dead.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from sqlalchemy import Connection, Engine, event

from . import timeouts
from .backend import backend_of
from .hosts import hosts_of

_KEY: Final = "jupyter_session_store.socket"
#: After so many looks the database is asked whether a migration hangs.
_LOOKS: Final = 10


class StatementWatch:
    """Counts the statements of an engine, and cuts its connections where one is not answered.

    Statements are sent by one thread, and another asks now and then whether one is
    overdue: the one that waits for the outcome.
    """

    def __init__(self, engine: Engine) -> None:
        #: How many statements were sent.
        self.count = 0
        self._began: float | None = None
        #: Seconds that a statement may take, where that is not what a server's may.
        self._longer: float | None = None
        self._driver = backend_of(engine).driver
        self._hosts = hosts_of(engine)
        self._duplicates: weakref.WeakSet[_Duplicate] = weakref.WeakSet()
        self._lock = threading.Lock()
        # Of the dialect: with an event of the engine, what it would be given is put together
        # anew for each statement, which takes 10 µs.
        for name in ("do_execute", "do_execute_no_params", "do_executemany"):
            event.listen(engine, name, self._note)
        # Before those that send statements of their own.
        event.listen(engine, "connect", self._keep, insert=True)
        event.listen(engine, "close", _let_go)

    def begin(self) -> None:
        """Begin to count the seconds until the next answer."""
        self._began = time.monotonic()

    def end(self) -> None:
        """Wait for no answer any more."""
        self._began = None

    @contextmanager
    def longer(self, seconds: float) -> Iterator[None]:
        """Let each statement take so long meanwhile."""
        self._longer = seconds
        try:
            yield
        finally:
            self._longer = None

    def cut_if_overdue(self) -> float:
        """Cut the connection if its statement is overdue; return the seconds until one can be.

        From any thread. What is measured is the last statement that has begun: many of
        them that make progress may take long together.
        """
        limit = self._longer or timeouts.STATEMENT_TIMEOUT + timeouts.ANSWER_MARGIN
        began = self._began
        if began is None:
            return limit
        left = began + limit - time.monotonic()
        if left > 0:
            return left
        self.cut()
        return limit

    def cut(self) -> None:
        """Cut the connections, from any thread; those that cannot be cut stay."""
        if self._hosts is not None:
            self._hosts.leave()
        with self._lock:
            duplicates = list(self._duplicates)
        for duplicate in duplicates:
            duplicate.cut()

    def _note(self, *_: object) -> None:
        self.count += 1
        self._began = time.monotonic()

    def _keep(self, connection: Any, record: Any) -> None:
        self.begin()
        # The socket of a connection that an option makes may be anything, or be hidden.
        with suppress(Exception):
            descriptor = self._driver.descriptor(connection)
            if descriptor is not None:
                record.info[_KEY] = duplicate = _Duplicate(descriptor)
                with self._lock:
                    self._duplicates.add(duplicate)


def spare(connection: Connection) -> None:
    """Let the statements of a connection take as long as they take: it is not cut."""
    _let_go(None, connection)


@contextmanager
def connected(engine: Engine) -> Iterator[Connection]:
    """Yield a connection that is cut if it hangs, however long its statements may take.

    No time tells the one from the other. So the database is asked, on a connection of its own. If
    it waits for this program, which waits for it, it ends the session, whose locks would keep
    others out. Until it has said which session it is, no statement takes long.
    """
    if backend_of(engine).is_embedded:
        with engine.connect() as connection:
            yield connection
        return
    attendant = _Attendant(engine)
    threading.Thread(
        target=attendant.watch, name="jupyter_session_store attendant", daemon=True
    ).start()
    try:
        with engine.connect() as connection:
            attendant.attend(connection)
            yield connection
    finally:
        attendant.end()


class _Attendant:
    """Watches over the connection of an engine, whose statements another thread sends."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # The pool of the engine has no second connection.
        self._other = Engine(engine.pool.recreate(), engine.dialect, engine.url)
        self._session: tuple[Any, ...] | None = None
        self._duplicate: _Duplicate | None = None
        self._ended = threading.Event()
        #: Whether an answer is waited for, and how many looks it was since that began.
        self._is_waiting = False
        self._looks = 0
        # There is no event for the answers to these.
        self._dialect: Any = engine.dialect
        self._sender = threading.get_ident()
        self._former = {name: getattr(self._dialect, name) for name in ("do_commit", "do_rollback")}
        for name, send in self._former.items():
            setattr(self._dialect, name, self._noting(send))
        # Before those that send statements of their own.
        event.listen(engine, "connect", self._keep, insert=True)

    def attend(self, connection: Connection) -> None:
        """Watch over a connection of the engine; one of a pooler is not watched any more."""
        self._note_answer()
        if self._duplicate is None:
            self._keep(connection.connection.dbapi_connection)
        event.listen(connection, "before_cursor_execute", self._note_question)
        event.listen(connection, "after_cursor_execute", self._note_answer)
        self._session = backend_of(connection).driver.session(connection)
        connection.rollback()
        if self._session is None:
            self._ended.set()

    def watch(self) -> None:
        """Look every now and then, until it has ended.

        What is counted are looks, and not seconds: in those the process may have been suspended.
        """
        while not self._ended.wait(timeouts.STATEMENT_TIMEOUT / _LOOKS):
            self._looks += self._is_waiting
            if self._looks < _LOOKS:
                continue
            self._looks = 0
            if self._duplicate is not None and self._is_hanging():
                self._duplicate.cut()
                return

    def end(self) -> None:
        """End the watch."""
        self._ended.set()
        event.remove(self._engine, "connect", self._keep)
        for name, send in self._former.items():
            setattr(self._dialect, name, send)
        if self._duplicate is not None:
            self._duplicate.close()

    def _keep(self, connection: Any, _record: object = None) -> None:
        if threading.get_ident() != self._sender:
            return
        self._note_question()
        # The socket of a connection that an option makes may be anything, or be hidden.
        with suppress(Exception):
            descriptor = backend_of(self._engine).driver.descriptor(connection)
            self._duplicate = None if descriptor is None else _Duplicate(descriptor)

    def _is_hanging(self) -> bool:
        if self._session is None:
            return True
        try:
            with self._other.connect() as connection, _cut_late(connection):
                driver = backend_of(connection).driver
                return driver.end_if_waiting(connection, self._session, timeouts.STATEMENT_TIMEOUT)
        except Exception:
            # The database may be away, or a password not be there any more.
            return False
        finally:
            self._other.dispose()

    def _noting(self, send: Callable[[Any], None]) -> Callable[[Any], None]:
        def send_noted(connection: Any) -> None:
            if threading.get_ident() != self._sender:
                return send(connection)
            self._note_question()
            send(connection)
            self._note_answer()
            return None

        return send_noted

    def _note_question(self, *_: object) -> None:
        self._looks, self._is_waiting = 0, True

    def _note_answer(self, *_: object) -> None:
        self._is_waiting = False


@contextmanager
def _cut_late(connection: Connection) -> Iterator[None]:
    """Cut a connection that is not given back in time: the one that asks may hang itself."""
    driver = backend_of(connection).driver
    descriptor = driver.descriptor(connection.connection.dbapi_connection)
    if descriptor is None:
        yield
        return
    duplicate = _Duplicate(descriptor)
    timer = threading.Timer(timeouts.STATEMENT_TIMEOUT, duplicate.cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        duplicate.close()


def _let_go(_connection: object, record: Any) -> None:
    duplicate: _Duplicate | None = record.info.pop(_KEY, None)
    if duplicate is not None:
        duplicate.close()


class _Duplicate:
    """A duplicate of a connection's socket.

    The driver may close its own at any time, in another thread, and its number may be
    another file's by the time at which the connection is cut. No such number is used.
    """

    def __init__(self, descriptor: int) -> None:
        self._lock = threading.Lock()
        self._descriptor: int | None = os.dup(descriptor)

    def cut(self) -> None:
        """Shut the connection down in both directions: whoever waits for it wakes up."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is None:
                return
            with suppress(OSError), socket.socket(fileno=descriptor) as duplicate:
                duplicate.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the duplicate, without which the connection would stay open."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
            if descriptor is not None:
                os.close(descriptor)

    def __del__(self) -> None:
        # Of a connection that the pool has dropped without closing it.
        self.close()
