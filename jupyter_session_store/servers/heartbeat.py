"""The lease of this server: renewed from a thread of its own, which observes the others' too.

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
#: Seconds after a failure until the next attempt; twice as many after each further one.
_FIRST_RETRY: Final = 2.0
#: Two servers' counts, or one's before and after an eviction, must not be taken for each other.
_FIRST_RENEWALS: Final = 2**30
#: More than one renewal adds to the count, however often it is repeated after a lost answer.
_REPEATED: Final = 100
#: macOS's CLOCK_MONOTONIC goes on during sleep; the one of time.monotonic() does not.
_CLOCK: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))


def now() -> float:
    """Return the seconds of a clock that cannot be set, and that goes on while the host sleeps.

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


class LeaseObserver:
    """Tells which servers stopped renewing their leases, without a clock that they share.

    For one thread. The server whose id is `own` observes, and is not observed.
    """

    def __init__(self, own: str) -> None:
        self._own = own
        self._seen: dict[str, tuple[int, float]] = {}
        self._known: set[str] = set()
        #: Whether a server that was seen is not registered any more.
        self.missed = False

    def forget(self) -> None:
        """Begin to wait anew for every server: this observer was cut off or suspended."""
        self._seen.clear()

    def expired(
        self, servers: Collection[ServerRecord], moment: float, answered: float | None = None
    ) -> list[ServerRecord]:
        """Return those of all registered servers whose renewals stood still for a lease of theirs.

        They were read after `moment` and before they were `answered`, on the clock of
        :func:`now`. What is not known of that time is to the benefit of the observed.
        """
        answered = moment if answered is None else answered
        before, self._seen = self._seen, {}
        known, self._known = self._known, {server.server_id for server in servers}
        self.missed = bool(known - self._known)
        expired = []
        for server in servers:
            if server.server_id == self._own:
                continue
            renewals, since = before.get(server.server_id, (None, answered))
            if renewals != server.renewals:
                since = answered
            if moment - since > server.lease_seconds:
                # A server that comes back after an eviction begins anew.
                expired.append(server)
            else:
                self._seen[server.server_id] = (server.renewals, since)
        return expired


class Heartbeat:
    """Keeps a server's lease, from a daemon thread of its own.

    A stalled event loop does not let the lease lapse.

    The callbacks are bound methods, called in the thread, which refers to them
    weakly, so that it keeps nobody alive. `local_sessions` returns the sessions
    on kernels that this server runs itself. `on_renewed` is given, after each
    renewal, what :meth:`.SessionRepository.evict` has returned: the sessions that
    this server is starting or closing, those of evicted servers included.
    """

    def __init__(
        self,
        repository: SessionRepository,
        scope: Scope,
        server: ServerRecord,
        *,
        local_sessions: Callable[[], list[SessionRecord]],
        on_renewed: Callable[[list[SessionRecord]], None],
        log: Logger,
    ) -> None:
        self._repository = repository
        self._scope = scope
        self.server = server
        self._local_sessions: Any = weakref.WeakMethod(local_sessions)
        self._on_renewed: Any = weakref.WeakMethod(on_renewed)
        self._log = log
        self._observer = LeaseObserver(server.server_id)
        self._interval = server.lease_seconds / RENEWALS_A_LEASE
        self._renewed = now()
        #: When the store went away, on the clock of :func:`now`; ``None`` while it is there.
        self.failing_since: float | None = None
        self._retry = _FIRST_RETRY
        self._noted = float("-inf")
        #: Whether the store failed again soon after a renewal, which had succeeded.
        self._in_vain = False
        self._took_over = False
        #: The counts that a new registration may have begun with, since the last answered renewal.
        self._new_counts: list[int] = []
        self._ended: set[str] = set()
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
        """The seconds since the last renewal was sent, or since the start if there was none."""
        return now() - self._renewed

    @property
    def overdue(self) -> bool:
        """Whether the lease has run out: others may have evicted this server."""
        return self.age > self.server.lease_seconds

    @property
    def failing(self) -> bool:
        """Whether the store is away: nothing has succeeded there since something failed."""
        return self.failing_since is not None

    @property
    def away_seconds(self) -> float | None:
        """For how long the store has been away; ``None`` while it is there."""
        since = self.failing_since
        return None if since is None else now() - since

    def note_failure(self) -> None:
        """Hold the store for away until a renewal succeeds, which is tried soon.

        Less soon each time, if renewals succeed and what is done after them fails.
        """
        if self.failing_since is not None:
            return
        self.failing_since, last, self._noted = now(), self._noted, now()
        self._in_vain = self._noted - last < 2 * self._interval
        self._retry = 2 * self._retry if self._in_vain else _FIRST_RETRY
        self._wake.set()

    def note_ended(self, server_ids: Collection[str]) -> None:
        """Evict servers at the next renewal, which is made now: their processes have ended."""
        self._ended.update(server_ids)
        self._wake.set()

    def renew_now(self) -> Future[None]:
        """Have the thread renew now; the future has the outcome, or the error."""
        future: Future[None] = Future()
        with self._lock:
            self._waiting.append(future)
        self._wake.set()
        return future

    def _run(self) -> None:
        while True:
            pause = min(self._retry, self._interval) if self.failing else self._interval
            # A little early each time, so that servers that start together do not stay together.
            # Much earlier while the store is away, which all servers may notice in one moment.
            earliest = 0.5 if self.failing else 0.9
            woken = self._wake.wait(pause * random.uniform(earliest, 1.0))  # noqa: S311
            self._wake.clear()
            if self._stopped or self._local_sessions() is None:
                return
            in_vain, self._in_vain = self._in_vain, False
            if woken and in_vain and not self._waiting:
                continue
            with self._lock:
                waiting, self._waiting = self._waiting, []
            try:
                self.beat()
            except SessionStoreError as error:
                # The store has logged that it went away.
                self._observer.forget()
                self._fail(waiting, error)
            except Exception:
                self._log.exception("The session store's heartbeat failed; it goes on.")
                self._fail(waiting, cannot_be_renewed())
            else:
                for future in waiting:
                    future.set_result(None)

    def _fail(self, waiting: list[Future[None]], error: SessionStoreError) -> None:
        if self.failing_since is None:
            self.failing_since, self._retry = now(), _FIRST_RETRY
        else:
            self._retry *= 2
        for future in waiting:
            future.set_exception(error)

    def beat(self) -> None:
        """Renew the lease, evict who let theirs run out, and hand over what they left."""
        local_sessions, on_renewed = self._local_sessions(), self._on_renewed()
        if local_sessions is None or on_renewed is None:
            return
        repository = self._repository
        anew = replace(self.server, renewals=random.randrange(_FIRST_RENEWALS))  # noqa: S311
        self._new_counts.append(anew.renewals)
        # The others see the count of this renewal some time between the two.
        sent = now()
        servers = repository.renew(anew, local_sessions(), timeout=RENEWAL_TIMEOUT)
        answered = now()
        if answered - self._renewed > 2 * self._interval:
            # Suspended, or cut off: so may they have been.
            self._observer.forget()
        self._renewed = sent
        unfinished: list[SessionRecord] = []
        dead = self._observer.expired(servers, sent, answered)
        ended = frozenset(self._ended)
        silent = {server.server_id for server in dead}
        others = ended - silent - {self.server.server_id}
        dead += [one for one in servers if one.server_id in others]
        registered_anew = any(
            0 <= one.renewals - count < _REPEATED
            for one in servers
            if one.server_id == anew.server_id
            for count in self._new_counts
        )
        if self._observer.missed or ended or registered_anew:
            # It may have left something, and nobody may have taken that up: who evicted it was
            # perhaps of another authority, and who stopped in order was not evicted at all.
            self._took_over = False
        self._new_counts.clear()
        if dead or not self._took_over or repository.describe().unfinished:
            # It may be more than this server is really starting or closing now.
            unfinished = repository.evict(
                self._scope, dead, self.server.server_id, timeout=RENEWAL_TIMEOUT
            )
            self._took_over = True
            for server in dead:
                self._log.info(
                    "Evicted the server %s (process %s on %s), which %s.",
                    server.server_id,
                    server.pid,
                    server.hostname,
                    f"had not renewed its lease of {server.lease_seconds} s"
                    if server.server_id in silent
                    else "has ended: its kernels go on here",
                )
        self._ended -= ended
        self.failing_since = None
        on_renewed(unfinished)


def cannot_be_renewed() -> StoreUnavailable:
    """Return the error of a lease that was not renewed."""
    return StoreUnavailable("the lease of this server cannot be renewed")
