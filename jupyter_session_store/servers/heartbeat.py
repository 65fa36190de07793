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
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from datetime import datetime, timezone
from logging import Logger
from typing import Any, Final

from .._version import __version__
from ..errors import SessionStoreError, StoreUnavailable
from ..records import LIMITS, Scope, ServerRecord, SessionRecord
from ..repository import SessionRepository
from .clock import now
from .observer import LeaseObserver

#: A lease is renewed this often before it runs out.
RENEWALS_A_LEASE: Final = 3
#: Seconds that one renewal waits for the store.
RENEWAL_TIMEOUT: Final = 10.0
#: Two servers' counts, or one's before and after an eviction, must not be taken for each other.
_FIRST_RENEWALS: Final = 2**30


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
    local_sessions : callable
        A bound method that returns the sessions on kernels which this server
        runs itself. Called in the heartbeat's thread.
    on_renewed : callable
        A bound method. It is given, after each renewal, the sessions that this
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
        self.failing = False
        self._took_over = False
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

    def renew_now(self) -> Future[None]:
        """Have the thread renew now; the future has the outcome, or the error."""
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
            if self._stopped or self._local_sessions() is None:
                return
            with self._lock:
                waiting, self._waiting = self._waiting, []
            try:
                self.beat()
            except SessionStoreError as error:
                # The store has logged that it went away.
                self._observer.forget()
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
        local_sessions, on_renewed = self._local_sessions(), self._on_renewed()
        if local_sessions is None or on_renewed is None:
            return
        repository = self._repository
        anew = replace(self.server, renewals=random.randrange(_FIRST_RENEWALS))  # noqa: S311
        servers = repository.renew(anew, local_sessions(), timeout=RENEWAL_TIMEOUT)
        renewed = now()
        if renewed - self._renewed > 2 * self._interval:
            # Suspended, or cut off: so may they have been.
            self._observer.forget()
        self._renewed = renewed
        unfinished: list[SessionRecord] = []
        dead = self._observer.expired(servers, renewed)
        if self._observer.missed:
            # It may have left something, and nobody may have taken that up: who evicted it was
            # perhaps of another authority, and who stopped in order was not evicted at all.
            self._took_over = False
        if dead or not self._took_over:
            unfinished = repository.evict(
                self._scope, dead, self.server.server_id, timeout=RENEWAL_TIMEOUT
            )
            self._took_over = True
            for server in dead:
                self._log.info(
                    "Evicted the server %s (process %s on %s), which had not renewed its lease "
                    "of %d s.",
                    server.server_id,
                    server.pid,
                    server.hostname,
                    server.lease_seconds,
                )
        on_renewed(unfinished)
