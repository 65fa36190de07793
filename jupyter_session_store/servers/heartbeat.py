"""The lease of this server: renewed from a thread of its own, which watches the others' too.

No clock but the observer's own monotonic one decides, and only while the
observer's own renewals succeed: after an outage of the store, or a suspension
of this process, everybody is waited for anew.
"""

from __future__ import annotations

import os
import platform
import random
import socket
import threading
import time
import weakref
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime, timezone
from logging import Logger
from typing import Any, Final

from .._version import __version__
from ..errors import SessionStoreError, StoreUnavailable
from ..records import LIMITS, Scope, ServerRecord, SessionRecord
from ..repository import SessionRepository

#: A lease is renewed this often before it runs out.
RENEWALS_A_LEASE: Final = 3
#: Seconds that one renewal waits for the store.
RENEWAL_TIMEOUT: Final = 10.0
#: Two servers' counts, or one's before and after an eviction, must not be taken for each other.
_FIRST_RENEWALS: Final = 2**30
#: macOS's CLOCK_MONOTONIC goes on during sleep; the one of time.monotonic() does not.
_CLOCK: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


def now() -> float:
    """Return the seconds of a clock that nobody sets, and that goes on while the host sleeps.

    Linux's monotonic clock stands still then, and a laptop that wakes would
    take its lease for a fresh one.
    """
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)


def this_server(namespace: str, server_id: str, lease_seconds: int) -> ServerRecord:
    """Return the record of this process."""
    return ServerRecord(
        namespace=namespace,
        server_id=server_id,
        hostname=socket.gethostname()[: LIMITS["server_id"]],
        pid=os.getpid(),
        version=f"{__version__} (Python {platform.python_version()})",
        started_at=datetime.now(timezone.utc),
        renewals=random.randrange(_FIRST_RENEWALS),  # noqa: S311
        lease_seconds=lease_seconds,
    )


class Watch:
    """Says which servers stopped renewing their leases. For one thread.

    Parameters
    ----------
    own : str
        The id of the observing server, which is not watched.
    """

    def __init__(self, own: str) -> None:
        self._own = own
        self._seen: dict[str, tuple[int, float]] = {}
        self._known: set[str] = set()
        #: Whether a server that was seen is gone: it departed, or another has evicted it.
        self.missed = False

    def forget(self) -> None:
        """Wait for everybody anew: this observer was cut off or suspended."""
        self._seen.clear()

    def dead(self, servers: Collection[ServerRecord], now: float) -> list[ServerRecord]:
        """Return the servers whose renewals stood still for as long as their own leases.

        Parameters
        ----------
        servers : collection of ServerRecord
            All that are registered now.
        now : float
            On the clock of :func:`now`.
        """
        before, self._seen = self._seen, {}
        known, self._known = self._known, {server.server_id for server in servers}
        self.missed = bool(known - self._known)
        dead = []
        for server in servers:
            if server.server_id == self._own:
                continue
            renewals, since = before.get(server.server_id, (None, now))
            if renewals != server.renewals:
                since = now
            if now - since > server.lease_seconds:
                # Whoever comes back after an eviction begins anew.
                dead.append(server)
            else:
                self._seen[server.server_id] = (server.renewals, since)
        return dead


class Heartbeat:
    """Keeps a server's lease, from a daemon thread of its own.

    A stalled event loop does not let the lease lapse. The thread refers to its
    callbacks weakly, so that it keeps nobody alive.

    Parameters
    ----------
    repository : SessionRepository
        Open.
    scope : Scope
    server : ServerRecord
        This one.
    held : callable
        A bound method: returns the sessions on kernels that this server runs
        itself. Called in the heartbeat's thread.
    after : callable
        A bound method: given, after each renewal, the sessions that this
        server has to finish for evicted ones. Called in the heartbeat's thread.
    log : logging.Logger

    Attributes
    ----------
    server : ServerRecord
    failing : bool
        Whether the last renewal failed.
    """

    def __init__(
        self,
        repository: SessionRepository,
        scope: Scope,
        server: ServerRecord,
        *,
        held: Callable[[], list[SessionRecord]],
        after: Callable[[list[SessionRecord]], None],
        log: Logger,
    ) -> None:
        self._repository = repository
        self._scope = scope
        self.server = server
        self._held: Any = weakref.WeakMethod(held)
        self._after: Any = weakref.WeakMethod(after)
        self._log = log
        self._watch = Watch(server.server_id)
        self._interval = server.lease_seconds / RENEWALS_A_LEASE
        self._renewed = now()
        self.failing = False
        self._released = False
        self._wake = threading.Event()
        self._stopped = False
        self._waiting: list[Future[None]] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(
            target=self._run, name="jupyter_session_store heartbeat", daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Let the thread end after what it does now; does not wait for it."""
        self._stopped = True
        self._wake.set()

    def join(self, timeout: float) -> None:
        """Wait `timeout` seconds at most for the thread's end."""
        if self._thread is not threading.current_thread() and self._thread.ident is not None:
            self._thread.join(max(0.0, timeout))

    @property
    def age(self) -> float:
        """The seconds since the last renewal, or since the start if there was none."""
        return now() - self._renewed

    @property
    def overdue(self) -> bool:
        """Whether the lease has run out: others may have evicted this server."""
        return self.age > self.server.lease_seconds

    def hurry(self) -> Future[None]:
        """Renew now; the future ends with the renewal, or with its error."""
        future: Future[None] = Future()
        with self._lock:
            self._waiting.append(future)
        self._wake.set()
        return future

    def _run(self) -> None:
        while True:
            # A little early each time, so that servers that start together do not stay together.
            self._wake.wait(self._interval * random.uniform(0.9, 1.0))  # noqa: S311
            self._wake.clear()
            if self._stopped or self._held() is None:
                return
            with self._lock:
                waiting, self._waiting = self._waiting, []
            try:
                self.beat()
            except SessionStoreError as error:
                # The store has logged that it went away.
                self._watch.forget()
                self.failing = True
                for future in waiting:
                    future.set_exception(error)
            except Exception:
                self._log.exception("The session store's heartbeat failed; it goes on.")
                self.failing = True
                unavailable = StoreUnavailable("the lease of this server cannot be renewed")
                for future in waiting:
                    future.set_exception(unavailable)
            else:
                self.failing = False
                for future in waiting:
                    future.set_result(None)

    def beat(self) -> None:
        """Renew the lease, evict who let theirs run out, and hand over what they left.

        Raises
        ------
        SessionStoreError
            If the store could not be asked.
        """
        held, after = self._held(), self._after()
        if held is None or after is None:
            return
        repository = self._repository
        anew = replace(self.server, renewals=random.randrange(_FIRST_RENEWALS))  # noqa: S311
        servers = repository.renew(anew, held(), timeout=RENEWAL_TIMEOUT)
        renewed = now()
        if renewed - self._renewed > 2 * self._interval:
            # Suspended, or cut off: so may they have been.
            self._watch.forget()
        self._renewed = renewed
        unfinished: list[SessionRecord] = []
        dead = self._watch.dead(servers, renewed)
        if self._watch.missed:
            # It may have left something, and nobody may have taken that up: who evicted it was
            # perhaps of another authority, and who stopped in order was not evicted at all.
            self._released = False
        if dead or not self._released:
            unfinished = repository.evict(
                self._scope, dead, self.server.server_id, timeout=RENEWAL_TIMEOUT
            )
            self._released = True
            for server in dead:
                self._log.info(
                    "Evicted the server %s (process %s on %s), which had not renewed its lease "
                    "of %d s.",
                    server.server_id,
                    server.pid,
                    server.hostname,
                    server.lease_seconds,
                )
        after(unfinished)
