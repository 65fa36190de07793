"""Sessions in SQLite, PostgreSQL, MySQL or MariaDB, through SQLAlchemy."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Callable, Collection, Hashable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from datetime import datetime, timezone
from logging import Logger
from types import MappingProxyType
from typing import Any, Final, TypeVar

from sqlalchemy import Connection

from ..authorities import server_of
from ..errors import (
    ConfigurationError,
    PathClaimed,
    SchemaMismatch,
    SessionConflict,
    StoreUnavailable,
    StoreUnusable,
)
from ..paths import claim_of, path_digest
from ..records import (
    CLOSING,
    Closing,
    Departure,
    Mirrored,
    Move,
    Scope,
    ServerRecord,
    SessionRecord,
    StoreDescription,
)
from ..repository import SessionRepository
from .database import Database
from .engine import factory as engines
from .engine import timeouts
from .queries import last_on_kernel, leases, mirroring, session_queries
from .schema import versions
from .worker import Worker, WorkerTimeout

T = TypeVar("T")

#: Seconds that a request waits for its turn and its answer together: each is bounded by the
#: statement time-out, so that what is answered with a failure does not happen afterwards.
REQUEST_TIMEOUT: Final = 2.0 * timeouts.STATEMENT_TIMEOUT


class SQLAlchemySessionRepository(SessionRepository):
    """The contract on one connection that a daemon thread of its own works.

    Each verb is one statement that commits by itself; the exceptions are said
    in :mod:`.queries`. Parameters as :class:`.SessionRepository` has them; `options`
    are those of :func:`.engine.create`.
    """

    def __init__(
        self, url: str, *, options: Mapping[str, Any], auto_upgrade: str, log: Logger
    ) -> None:
        self._log = log
        self._database = Database(engines.create(url, options), auto_upgrade, log)
        self._worker: Worker | None = None
        self._warned_unknown: set[str] = set()
        self._evictions = 0
        self._neighbours = leases.Neighbours()

    @classmethod
    def default_url(cls, data_dir: str) -> str:
        """Return a file in Jupyter's data directory."""
        return os.path.join(data_dir, "jupyter_session_store.db")

    @classmethod
    def validate_url(cls, url: str) -> None:
        """Refuse what :func:`.engine.check` refuses."""
        engines.check(url)

    def open(self, scope: Scope, server: ServerRecord, *, timeout: float) -> None:
        """Check the schema, upgrade it where that is allowed, adopt a stock file."""
        database = self._database
        database.serve(scope, server)
        if server_of(scope.authority) is None:
            self._neighbours.shared = scope
        worker = Worker(
            "jupyter_session_store",
            database.release,
            database.cut_if_overdue,
            idle_seconds=self.connection_idle_seconds,
        )
        self._worker = worker
        # A repository that is dropped without being closed leaves no thread behind.
        weakref.finalize(self, worker.stop, 0.0).atexit = False
        checked = worker.submit(lambda: self._database.run(lambda _connection: None))
        try:
            worker.wait(checked, timeout)
        except SchemaMismatch:
            self.close()
            raise
        except StoreUnusable as error:
            self.close()
            raise ConfigurationError(f"The session store cannot be used: {error.reason}") from None
        except StoreUnavailable:
            # Said in the log already; the first request that reaches it checks it.
            return
        except FutureTimeoutError:
            self._database.report_failure(
                StoreUnavailable(
                    f"{self._database.name} did not answer within {timeout:g} s; the server "
                    "starts without it"
                )
            )

    def close(self, departure: Departure | None = None, *, timeout: float = 2.0) -> None:
        """End the thread and the connection, whatever the database does."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        departed: Future[None] | None = None
        # Where this is collected, its finalizer may have stopped the worker before.
        with suppress(StoreUnavailable):
            if departure is not None:
                departed = worker.submit(self._make_departure(departure, timeout))
            worker.submit(self._database.close)
        if not worker.stop(timeout):
            # It would wait for ever for a database that hangs.
            self._database.cut()
        if departed is not None and not departed.done():
            self._log.warning(
                "The sessions of this server stay in the store: %s did not answer within %g s.",
                self._database.name,
                timeout,
            )

    async def find(self, scope: Scope, **criteria: str | None) -> list[SessionRecord]:
        """One statement."""
        if None in criteria.values():
            return []
        return await self._run(lambda c: session_queries.find(c, scope, criteria), writes=False)

    async def add(self, record: SessionRecord) -> None:
        """One statement, and one more to tell why it was refused."""

        def unit(connection: Connection) -> session_queries.Added:
            return session_queries.add(connection, record)

        outcome = await self._run(unit)
        if outcome is session_queries.Added.ID_TAKEN:
            raise SessionConflict(record.session_id)
        if outcome is session_queries.Added.PATH_CLAIMED:
            raise PathClaimed(record.path)

    async def update(
        self,
        scope: Scope,
        session_id: str,
        changes: Mapping[str, Any],
        *,
        expected: Mapping[str, str | int] = MappingProxyType({}),
    ) -> SessionRecord | None:
        """One statement; one more where the path is claimed, or RETURNING is missing."""
        values = _values(scope, changes)
        return await self._run(
            lambda c: session_queries.update(c, scope, session_id, values, expected)
        )

    async def begin_close(self, scope: Scope, session_id: str, server_id: str) -> Closing | None:
        """One statement, or two where RETURNING is missing."""
        values = {"state": CLOSING, "updated_at": _now(), "server_id": server_id}
        return await self._run(lambda c: last_on_kernel.begin_close(c, scope, session_id, values))

    async def move(
        self,
        scope: Scope,
        session_id: str,
        kernel_id: str,
        changes: Mapping[str, Any],
    ) -> Move | None:
        """One statement; one more where the path is claimed, or RETURNING is missing."""
        values = _values(scope, changes)
        return await self._run(
            lambda c: last_on_kernel.move(c, scope, session_id, kernel_id, values)
        )

    async def remove(self, scope: Scope, records: Collection[SessionRecord]) -> int:
        """One statement for each 500 sessions."""
        if not records:
            return 0
        return await self._run(lambda c: session_queries.remove(c, scope, records))

    async def mirror(
        self, scope: Scope, wanted: Callable[[], Collection[SessionRecord]]
    ) -> Mirrored:
        """No statement if the last renewal has found what is wanted; one if rows differ.

        Where rows are missing, or are too many, or the database refuses any: one transaction.
        """
        found = self._neighbours.own_versions(scope)
        records = {one.session_id: one for one in wanted()}
        if found is not None and found.keys() == records.keys():
            changed = [
                mirroring.newer_than(found[key], one)
                for key, one in records.items()
                if found[key] != one.version
            ]
            if not changed or await self._run(lambda c: mirroring.try_change(c, scope, changed)):
                return Mirrored(records | {one.session_id: one for one in changed})
        return await self._run(lambda c: mirroring.mirror(c, scope, wanted))

    async def mirror_change(
        self, before: SessionRecord, after: SessionRecord
    ) -> SessionRecord | None:
        """One statement; more where the row is not as `before` has it, or the claim is taken."""
        if await self._run(lambda c: mirroring.try_overwrite(c, before, after)):
            return after
        return await super().mirror_change(before, after)

    def renew(
        self, server: ServerRecord, held: Collection[SessionRecord], *, timeout: float
    ) -> list[ServerRecord]:
        """Two statements, and one more for servers that are new."""
        return self._wait(lambda c: leases.renew(c, server, held, self._neighbours), timeout)

    def evict(
        self, scope: Scope, servers: Collection[ServerRecord], by: str, *, timeout: float
    ) -> list[SessionRecord]:
        """One transaction, and one statement to look for rows of an unknown authority."""

        def unit(connection: Connection) -> tuple[list[SessionRecord], list[str]]:
            evicted, unfinished = leases.evict(connection, scope, servers, by)
            # Here, on the worker's thread: the caller may have given up.
            self._evictions += evicted
            return unfinished, leases.with_unknown_authority(connection, scope)

        unfinished, unknown = self._wait(unit, timeout)
        new = sorted(set(unknown) - self._warned_unknown)
        if new:
            self._warned_unknown.update(new)
            self._log.warning(
                "Sessions in the store have an authority that is neither a server nor a gateway, "
                "and are left alone: %s. If nobody needs them, delete their rows.",
                ", ".join(new),
            )
        return unfinished

    @property
    def identity(self) -> Hashable | None:
        """The database; one in memory is nobody else's."""
        return self._database.identity

    def describe(self) -> StoreDescription:
        """Say which database it is, what it was sent, and whether it takes no writes."""
        database = self._database
        return StoreDescription(
            database.name,
            database.statements,
            self._evictions,
            database.fails_writes,
            self._neighbours.number_of_sessions,
            database.host,
            self._neighbours.unfinished,
        )

    async def revision(self) -> str | None:
        """Two statements."""
        found = await self._run(versions.status, writes=False)
        return found.revision

    def _wait(self, unit: Callable[[Connection], T], timeout: float) -> T:
        worker, database = self._worker, self._database
        if worker is None:
            raise StoreUnavailable("it is not open")
        # It begins in time; that it ends later does no harm.
        deadline = time.monotonic() + timeout + timeouts.STATEMENT_TIMEOUT
        call = worker.submit(lambda: database.run(unit, deadline, writes=True))
        try:
            return worker.wait(call, timeout)
        except FutureTimeoutError:
            call.cancel()
            error = StoreUnavailable(f"the database did not answer within {timeout:g} s")
            # If the store came back in the last seconds of the wait, the fault is over.
            database.report_failure(error, turn=deadline - 2 * timeouts.STATEMENT_TIMEOUT)
            raise error from None

    async def _run(self, unit: Callable[[Connection], T], *, writes: bool = True) -> T:
        worker = self._worker
        if worker is None:
            raise StoreUnavailable("it is not open")
        database = self._database
        deadline = time.monotonic() + REQUEST_TIMEOUT
        try:
            return await worker.run(
                lambda: database.run(unit, deadline, writes=writes), REQUEST_TIMEOUT
            )
        except WorkerTimeout as error:
            # Any other fault was told where it happened; once more could be after it is over.
            database.report_failure(error, turn=deadline - timeouts.STATEMENT_TIMEOUT)
            raise

    def _make_departure(self, departure: Departure, timeout: float) -> Callable[[], None]:
        database, log = self._database, self._log
        # Nothing begins after close() has returned and said that the sessions stay.
        deadline = time.monotonic() + timeout + timeouts.STATEMENT_TIMEOUT

        def depart() -> None:
            try:
                count = database.run(lambda c: leases.depart(c, departure), deadline, writes=True)
            except Exception as error:
                log.warning("The sessions of this server stay in the store: %s", error)
            else:
                log.debug("Removed %d sessions whose kernels were shut down.", count)

        return depart


def _values(scope: Scope, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that change with what a caller changes."""
    values: dict[str, Any] = {**changes, "updated_at": _now()}
    if "path" in changes:
        values["path_digest"] = path_digest(changes["path"])
        values["claim"] = claim_of(scope, changes["path"])
    return values


def _now() -> datetime:
    return datetime.now(timezone.utc)
