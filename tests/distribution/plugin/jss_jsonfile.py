"""Sessions in a JSON file, as a package of another maker keeps them."""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import json
import os
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from datetime import datetime, timezone
from logging import Logger
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar

from jupyter_session_store.authorities import authority_kind, authority_of
from jupyter_session_store.errors import (
    ConfigurationError,
    InvalidValue,
    PathClaimed,
    SessionConflict,
    StoreUnavailable,
)
from jupyter_session_store.paths import claim_of
from jupyter_session_store.records import (
    CLOSING,
    READY,
    STARTING,
    Closing,
    Departure,
    Move,
    Scope,
    ServerRecord,
    SessionRecord,
    StoreContents,
    StoreDescription,
)
from jupyter_session_store.repository import SessionRepository

T = TypeVar("T")

SCHEME: Final = "jsonfile://"
#: Seconds that a unit of work waits for another process that has the lock.
LOCK_TIMEOUT: Final = 2.0


class State:
    """All that is in the file. A unit of work gets it, and changes it."""

    def __init__(self, text: str) -> None:
        found = json.loads(text) if text else {"sessions": [], "servers": []}
        sessions = [SessionRecord.from_dict(one) for one in found["sessions"]]
        servers = [ServerRecord.from_dict(one) for one in found["servers"]]
        self.sessions = {(one.namespace, one.session_id): one for one in sessions}
        self.servers = {one.key: one for one in servers}

    def to_json(self) -> str:
        """Return the text of the file."""
        sessions = [one.to_dict() for one in self.sessions.values()]
        servers = [one.to_dict() for one in self.servers.values()]
        return json.dumps({"sessions": sessions, "servers": servers}, indent=1)

    def find(self, scope: Scope, criteria: Mapping[str, str | None]) -> list[SessionRecord]:
        """Return the sessions of a scope that equal every criterion; ``None`` equals nothing."""
        found = [
            one
            for one in self.sessions.values()
            if one.scope == scope
            and all(value is not None and one[name] == value for name, value in criteria.items())
        ]
        return sorted(found, key=lambda one: (one.created_at, one.session_id))

    def get(self, scope: Scope, session_id: str) -> SessionRecord | None:
        """Return a session of a scope."""
        found = self.sessions.get((scope.namespace, session_id))
        return found if found is not None and found.scope == scope else None

    def add(self, record: SessionRecord) -> None:
        """Add a session, unless it is there: an add is repeated when its answer was lost."""
        key = (record.namespace, record.session_id)
        present = self.sessions.get(key)
        if present is None:
            if self.is_claimed(record):
                raise PathClaimed(record.path)
            self.sessions[key] = record
        elif not present.is_repeated_by(record):
            raise SessionConflict(record.session_id)

    def change(self, before: SessionRecord, changes: Mapping[str, Any]) -> SessionRecord:
        """Change a session; a new path takes its claim if that is free."""
        counted = {"version": before.version + 1, **changes}
        after = before.replace(**counted, updated_at=datetime.now(timezone.utc))
        if "path" in changes:
            after = after.replace(claim=claim_of(after.scope, after.path))
            if self.is_claimed(after, but=before):
                after = after.replace(claim=None)
        key = (after.namespace, after.session_id)
        if after.session_id != before.session_id and key in self.sessions:
            raise SessionConflict(after.session_id)
        del self.sessions[before.namespace, before.session_id]
        self.sessions[key] = after
        return after

    def is_claimed(self, record: SessionRecord, but: SessionRecord | None = None) -> bool:
        """Return whether another session holds the claim of a record."""
        return record.claim is not None and any(
            (one.namespace, one.claim) == (record.namespace, record.claim)
            for one in self.sessions.values()
            if one is not but
        )

    def is_unused(self, scope: Scope, kernel_id: str | None) -> bool:
        """Return whether no session goes on to use a kernel."""
        on_kernel = self.find(scope, {"kernel_id": kernel_id})
        return not any(one.keeps_kernel_alive for one in on_kernel)

    def release(self, scope: Scope, by: str) -> None:
        """Release what the servers of a namespace that are not registered have left."""
        ids = {one.server_id for one in self.servers.values() if one.namespace == scope.namespace}
        local = {authority_of(server_id) for server_id in ids}
        for key, one in list(self.sessions.items()):
            if one.namespace != scope.namespace:
                continue
            if authority_kind(one.authority) == "server":
                if one.authority not in local:
                    del self.sessions[key]
            elif one.server_id in ids:
                continue
            elif one.state == CLOSING:
                self.sessions[key] = one.replace(state=READY, version=one.version + 1)
            elif one.state == STARTING and one.kernel_id is None:
                del self.sessions[key]
            elif one.state == STARTING and one.scope == scope:
                self.sessions[key] = one.replace(server_id=by, version=one.version + 1)

    def unfinished(self, scope: Scope, server_id: str) -> list[SessionRecord]:
        """Return the sessions that a server is starting or closing."""
        return [
            one
            for one in self.find(scope, {})
            if one.server_id == server_id and one.state in (STARTING, CLOSING)
        ]

    def depart(self, departure: Departure) -> None:
        """Do what a server asks that stops in order."""
        self.sessions = {k: one for k, one in self.sessions.items() if not departure.removes(one)}
        if not departure.keeps_registration(self.sessions.values()):
            self.servers.pop((departure.scope.namespace, departure.server_id), None)


class JSONFileSessionRepository(SessionRepository):
    """The contract on one file, which a lock file beside it guards.

    Its URL is ``jsonfile://`` and an absolute path; it takes no options.
    """

    def __init__(
        self, url: str, *, options: Mapping[str, Any], auto_upgrade: str, log: Logger
    ) -> None:
        self.validate_url(url)
        if options:
            raise ConfigurationError("The repository 'jsonfile' takes no engine_options.")
        self._file = Path(url.removeprefix(SCHEME))
        self._log = log
        # Made by open(): a constructor starts nothing.
        self._executor: ThreadPoolExecutor | None = None
        self._scope: Scope | None = None
        self._evictions = 0
        self._sessions: int | None = None
        self._unfinished: int | None = None

    @classmethod
    def default_url(cls, data_dir: str) -> str:
        """Return a file in Jupyter's data directory."""
        return f"{SCHEME}{data_dir}/sessions.json"

    @classmethod
    def validate_url(cls, url: str) -> None:
        """Refuse all but the scheme and an absolute path."""
        if not url.startswith(f"{SCHEME}/"):
            raise ConfigurationError(
                "c.SessionManager.database_filepath is no URL of the repository 'jsonfile'; "
                f"expected {SCHEME}/absolute/path."
            )

    def open(self, scope: Scope, server: ServerRecord, *, timeout: float) -> None:
        """Start the thread that waits for the lock, and register the server."""
        self._executor = ThreadPoolExecutor(1, "jss_jsonfile")
        self._scope = scope
        try:
            self.renew(server, (), timeout=timeout)
        except StoreUnavailable as error:
            # No error: the next renewal registers the server.
            self._log.warning("%s", error)

    def close(self, departure: Departure | None = None, *, timeout: float = 2.0) -> None:
        """Do what the departure asks, if the file can be written in time, and end the thread."""
        try:
            if departure is not None and self._executor is not None:
                self._wait(lambda state: state.depart(departure), timeout)
        except StoreUnavailable as error:
            self._log.warning("The sessions of this server stay in the store: %s", error)
        finally:
            executor, self._executor = self._executor, None
            if executor is not None:
                executor.shutdown()

    async def find(self, scope: Scope, **criteria: str | None) -> list[SessionRecord]:
        """Compare every session of the scope."""
        return await self._run(lambda state: state.find(scope, criteria), writes=False)

    async def add(self, record: SessionRecord) -> None:
        """Add a session, and its claim."""
        await self._run(lambda state: state.add(record))

    async def update(
        self,
        scope: Scope,
        session_id: str,
        changes: Mapping[str, Any],
        *,
        expected: Mapping[str, str | int] = MappingProxyType({}),
    ) -> SessionRecord | None:
        """Change a session that is as expected."""

        def unit(state: State) -> SessionRecord | None:
            found = state.get(scope, session_id)
            if found is None or any(getattr(found, name) != expected[name] for name in expected):
                return None
            return state.change(found, changes)

        return await self._run(unit)

    async def begin_close(self, scope: Scope, session_id: str, server_id: str) -> Closing | None:
        """Mark a session, and count the others on its kernel."""

        def unit(state: State) -> Closing | None:
            found = state.get(scope, session_id)
            if found is None:
                return None
            marked = state.change(found, {"state": CLOSING, "server_id": server_id})
            return Closing(marked, last=state.is_unused(scope, marked.kernel_id))

        return await self._run(unit)

    async def move(
        self, scope: Scope, session_id: str, kernel_id: str, changes: Mapping[str, Any]
    ) -> Move | None:
        """Change a session, and count the others on the kernel that it leaves."""

        def unit(state: State) -> Move | None:
            found = state.get(scope, session_id)
            if found is None or found.kernel_id != kernel_id:
                return None
            moved = state.change(found, changes)
            return Move(moved, last=state.is_unused(scope, kernel_id))

        return await self._run(unit)

    async def remove(self, scope: Scope, records: Collection[SessionRecord]) -> int:
        """Remove sessions that have the kernel of their record."""

        def unit(state: State) -> int:
            found = [(one, state.get(scope, one.session_id)) for one in records]
            removed = [one for one, there in found if there and there.kernel_id == one.kernel_id]
            for one in removed:
                del state.sessions[scope.namespace, one.session_id]
            return len(removed)

        return await self._run(unit)

    def renew(
        self, server: ServerRecord, held: Collection[SessionRecord], *, timeout: float
    ) -> list[ServerRecord]:
        """Count a renewal; write back what an evicted server holds."""

        def unit(state: State) -> list[ServerRecord]:
            present = state.servers.get(server.key)
            if present is None:
                state.servers[server.key] = server
                for one in held:
                    claim = None if state.is_claimed(one) else one.claim
                    state.sessions.setdefault(
                        (one.namespace, one.session_id), one.replace(claim=claim)
                    )
            else:
                renewals = present.renewals + 1
                state.servers[server.key] = dataclasses.replace(present, renewals=renewals)
            if self._scope is not None:
                found = state.find(self._scope, {})
                self._sessions = sum(not one.is_placeholder for one in found)
                self._unfinished = len(state.unfinished(self._scope, server.server_id))
            return [one for one in state.servers.values() if one.namespace == server.namespace]

        return self._wait(unit, timeout)

    def evict(
        self, scope: Scope, servers: Collection[ServerRecord], by: str, *, timeout: float
    ) -> list[SessionRecord]:
        """Take out servers that have not renewed since, and release what was left behind."""

        def unit(state: State) -> tuple[int, list[SessionRecord]]:
            # Equal, renewals included: else the server has renewed its lease.
            dead = [one for one in servers if state.servers.get(one.key) == one]
            for one in dead:
                del state.servers[one.key]
            state.release(scope, by)
            return len(dead), state.unfinished(scope, by)

        evicted, unfinished = self._wait(unit, timeout)
        self._evictions += evicted
        return unfinished

    @property
    def identity(self) -> Hashable:
        """The file."""
        return (SCHEME, self._file)

    def describe(self) -> StoreDescription:
        """Say which file it is, and what was counted."""
        return StoreDescription(
            f"JSON file {str(self._file)!r}",
            evictions=self._evictions,
            sessions=self._sessions,
            unfinished=self._unfinished,
        )

    def read_all(self, *, timeout: float) -> StoreContents:
        """Read the file, for an operator's command; no thread is there then."""
        return self._do(
            lambda state: StoreContents(state.sessions.values(), state.servers.values()), False
        )

    def _wait(self, unit: Callable[[State], T], timeout: float) -> T:
        """Do a unit of work in the thread, and block until it is done."""
        if self._executor is None:
            raise StoreUnavailable("it is not open")
        work = self._executor.submit(self._do, unit, True)
        try:
            return work.result(timeout)
        except FutureTimeoutError:
            work.cancel()
            raise StoreUnavailable(f"{self._file}: no answer in {timeout:g} s") from None

    async def _run(self, unit: Callable[[State], T], *, writes: bool = True) -> T:
        """Do a unit of work in the thread, while the event loop goes on."""
        if self._executor is None:
            raise StoreUnavailable("it is not open")
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._do, unit, writes)

    def _do(self, unit: Callable[[State], T], writes: bool) -> T:
        """Do a unit of work: wholly or, if it raises, not at all."""
        try:
            with self._locked():
                state = State(self._file.read_text() if self._file.exists() else "")
                result = unit(state)
                if writes:
                    new = self._file.with_suffix(".new")
                    new.write_text(state.to_json())
                    os.replace(new, self._file)
                return result
        except OSError as error:
            raise StoreUnavailable(f"{self._file}: {error.strerror or error}") from error
        except (json.JSONDecodeError, KeyError, TypeError, InvalidValue) as error:
            raise StoreUnavailable(f"{self._file} is damaged: {error}") from error

    @contextmanager
    def _locked(self) -> Iterator[None]:
        deadline = time.monotonic() + LOCK_TIMEOUT
        with open(f"{self._file}.lock", "w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
            yield
