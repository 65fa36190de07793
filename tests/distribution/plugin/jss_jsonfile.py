"""Sessions in a JSON file, as a package of another maker would keep them: without SQLAlchemy."""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from datetime import datetime, timezone
from logging import Logger
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from jupyter_session_store.errors import (
    ConfigurationError,
    PathClaimed,
    SessionConflict,
    StoreUnavailable,
)
from jupyter_session_store.records import (
    CLOSING,
    READY,
    SERVER_AUTHORITY,
    STARTING,
    Closing,
    Departure,
    Move,
    Scope,
    ServerRecord,
    SessionRecord,
    authority_of,
    claim_of,
)
from jupyter_session_store.repository import SessionRepository

SCHEME = "jsonfile://"

T = TypeVar("T")
Sessions = dict[tuple[str, str], SessionRecord]
Servers = dict[tuple[str, str], ServerRecord]


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
        self._executor: ThreadPoolExecutor | None = None

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
        try:
            self.renew(server, (), timeout=timeout)
        except StoreUnavailable as error:
            self._log.warning("%s", error)

    def close(self, departure: Departure | None = None, *, timeout: float = 2.0) -> None:
        """Remove what the departure says, and end the thread."""
        executor, self._executor = self._executor, None
        if executor is None:
            return
        if departure is not None:
            try:
                executor.submit(self._depart, departure).result(timeout)
            except (OSError, TimeoutError):
                self._log.warning("The sessions of this server stay in %s.", self._file.name)
        executor.shutdown(wait=True)

    async def find(self, scope: Scope, **criteria: str | None) -> list[SessionRecord]:
        """Compare every session of the scope."""
        return await self._run(lambda sessions: _find(sessions, scope, criteria), write=False)

    async def add(self, record: SessionRecord) -> None:
        """Add a session, and its claim."""

        def unit(sessions: Sessions) -> None:
            key = (record.namespace, record.session_id)
            there = sessions.get(key)
            if there is None:
                if _is_claimed(sessions, record):
                    raise PathClaimed(record.path)
                sessions[key] = record
            elif not there.is_repeated_by(record):
                raise SessionConflict(record.session_id)

        await self._run(unit)

    async def update(
        self,
        scope: Scope,
        session_id: str,
        changes: Mapping[str, Any],
        *,
        expected: Mapping[str, str | int] = MappingProxyType({}),
    ) -> SessionRecord | None:
        """Change a session that is as expected."""

        def unit(sessions: Sessions) -> SessionRecord | None:
            there = sessions.get((scope.namespace, session_id))
            if any(getattr(there, name, None) != value for name, value in expected.items()):
                return None
            return _update(sessions, scope, session_id, changes)

        return await self._run(unit)

    async def begin_close(self, scope: Scope, session_id: str, server_id: str) -> Closing | None:
        """Mark a session, and count the others on its kernel."""

        def unit(sessions: Sessions) -> Closing | None:
            record = _update(
                sessions, scope, session_id, {"state": CLOSING, "server_id": server_id}
            )
            if record is None:
                return None
            on_kernel = _find(sessions, scope, {"kernel_id": record.kernel_id})
            return Closing(record, last=not any(other.keeps_kernel_alive for other in on_kernel))

        return await self._run(unit)

    async def move(
        self,
        scope: Scope,
        session_id: str,
        kernel_id: str,
        changes: Mapping[str, Any],
    ) -> Move | None:
        """Change a session, and count the others on the kernel that it leaves."""

        def unit(sessions: Sessions) -> Move | None:
            there = sessions.get((scope.namespace, session_id))
            if there is None or there.scope != scope or there.kernel_id != kernel_id:
                return None
            record = _update(sessions, scope, session_id, changes)
            assert record is not None
            others = _find(sessions, scope, {"kernel_id": kernel_id})
            return Move(record, last=not any(other.keeps_kernel_alive for other in others))

        return await self._run(unit)

    async def remove(self, scope: Scope, records: Collection[SessionRecord]) -> int:
        """Remove sessions that have the kernel of their record."""

        def unit(sessions: Sessions) -> int:
            count = 0
            for record in records:
                there = sessions.get((scope.namespace, record.session_id))
                if there and there.scope == scope and there.kernel_id == record.kernel_id:
                    del sessions[scope.namespace, record.session_id]
                    count += 1
            return count

        return await self._run(unit)

    def renew(
        self, server: ServerRecord, held: Collection[SessionRecord], *, timeout: float
    ) -> list[ServerRecord]:
        """Count a renewal; write back what an evicted server holds."""

        def unit(sessions: Sessions) -> list[ServerRecord]:
            key = (server.namespace, server.server_id)
            servers = self._load_servers()
            if key in servers:
                renewals = servers[key].renewals + 1
                servers[key] = dataclasses.replace(servers[key], renewals=renewals)
            else:
                servers[key] = server
                for record in held:
                    claim = None if _is_claimed(sessions, record) else record.claim
                    sessions.setdefault(
                        (record.namespace, record.session_id), record.replace(claim=claim)
                    )
            self._save_servers(servers)
            return [one for one in servers.values() if one.namespace == server.namespace]

        return self._wait(unit, timeout)

    def evict(
        self, scope: Scope, servers: Collection[ServerRecord], by: str, *, timeout: float
    ) -> list[SessionRecord]:
        """Take out servers, and release what those that are not registered left."""

        def unit(sessions: Sessions) -> list[SessionRecord]:
            registered = self._load_servers()
            for server in servers:
                if registered.get((scope.namespace, server.server_id)) == server:
                    del registered[scope.namespace, server.server_id]
            self._save_servers(registered)
            ids = {one.server_id for one in registered.values() if one.namespace == scope.namespace}
            return _release(sessions, scope, ids, by)

        return self._wait(unit, timeout)

    def _wait(self, unit: Callable[[Sessions], T], timeout: float) -> T:
        if self._executor is None:
            raise StoreUnavailable("it is not open")
        try:
            return self._executor.submit(self._locked, unit, True).result(timeout)
        except (OSError, TimeoutError, FutureTimeoutError) as error:
            raise StoreUnavailable(f"{self._file.name}: {error}") from error

    async def _run(self, unit: Callable[[Sessions], T], *, write: bool = True) -> T:
        if self._executor is None:
            raise StoreUnavailable("it is not open")
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, self._locked, unit, write)
        except OSError as error:
            raise StoreUnavailable(f"{self._file.name}: {error.strerror}") from error

    def _locked(self, unit: Callable[[Sessions], T], write: bool) -> T:
        with self._lock():
            sessions = self._load()
            result = unit(sessions)
            if write:
                self._save(sessions)
            return result

    def _depart(self, departure: Departure) -> None:
        def unit(sessions: Sessions) -> None:
            running = departure.running
            for record in _find(sessions, departure.scope, {}):
                if running is not None and record.kernel_id not in running:
                    del sessions[record.namespace, record.session_id]
            scope, server_id = departure.scope, departure.server_id
            unfinished = any(
                (one.namespace, one.server_id) == (scope.namespace, server_id)
                and one.state != READY
                for one in sessions.values()
            )
            if not running and not unfinished:
                servers = self._load_servers()
                servers.pop((departure.scope.namespace, departure.server_id), None)
                self._save_servers(servers)

        self._locked(unit, True)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with open(f"{self._file}.lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _load(self) -> Sessions:
        if not self._file.exists():
            return {}
        sessions: Sessions = {}
        for values in json.loads(self._file.read_text()):
            for name in ("created_at", "updated_at"):
                values[name] = datetime.fromisoformat(values[name])
            record = SessionRecord(**values)
            sessions[record.namespace, record.session_id] = record
        return sessions

    @property
    def _servers_file(self) -> Path:
        return self._file.with_suffix(".servers")

    def _load_servers(self) -> Servers:
        if not self._servers_file.exists():
            return {}
        servers: Servers = {}
        for values in json.loads(self._servers_file.read_text()):
            values["started_at"] = datetime.fromisoformat(values["started_at"])
            server = ServerRecord(**values)
            servers[server.namespace, server.server_id] = server
        return servers

    def _save_servers(self, servers: Servers) -> None:
        new = self._servers_file.with_suffix(".new-servers")
        values = [dataclasses.asdict(server) for server in servers.values()]
        new.write_text(json.dumps(values, default=str))
        os.replace(new, self._servers_file)

    def _save(self, sessions: Sessions) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps([record._asdict() for record in sessions.values()], default=str))
        os.replace(new, self._file)


def _find(
    sessions: Sessions, scope: Scope, criteria: Mapping[str, str | None]
) -> list[SessionRecord]:
    found = [
        record
        for record in sessions.values()
        if record.scope == scope
        and all(value is not None and record[name] == value for name, value in criteria.items())
    ]
    return sorted(found, key=lambda record: (record.created_at, record.session_id))


def _release(sessions: Sessions, scope: Scope, ids: set[str], by: str) -> list[SessionRecord]:
    """Release what servers that are not registered left; return what is to be finished."""
    local = {authority_of(server_id) for server_id in ids}
    for key, record in list(sessions.items()):
        if record.namespace != scope.namespace:
            continue
        if record.authority.startswith(SERVER_AUTHORITY):
            if record.authority not in local:
                del sessions[key]
        elif record.server_id in ids:
            continue
        elif record.state == CLOSING:
            sessions[key] = record.replace(state=READY, version=record.version + 1)
        elif record.state == STARTING and record.kernel_id is None:
            del sessions[key]
        elif record.state == STARTING and record.scope == scope:
            sessions[key] = record.replace(server_id=by, version=record.version + 1)
    started = (scope, STARTING, by)
    return [r for r in sessions.values() if (r.scope, r.state, r.server_id) == started]


def _update(
    sessions: Sessions, scope: Scope, session_id: str, changes: Mapping[str, Any]
) -> SessionRecord | None:
    there = sessions.get((scope.namespace, session_id))
    if there is None or there.scope != scope:
        return None
    record = there.replace(
        **{"version": there.version + 1, **changes}, updated_at=datetime.now(timezone.utc)
    )
    if "path" in changes:
        path = changes["path"]
        record = record.replace(claim=None if path is None else claim_of(scope, path))
        if _is_claimed(sessions, record, but=there):
            record = record.replace(claim=None)
    key = (scope.namespace, record.session_id)
    if record.session_id != session_id and key in sessions:
        raise SessionConflict(record.session_id)
    del sessions[scope.namespace, session_id]
    sessions[key] = record
    return record


def _is_claimed(
    sessions: Sessions, record: SessionRecord, but: SessionRecord | None = None
) -> bool:
    return record.claim is not None and any(
        other.claim == record.claim and other.namespace == record.namespace
        for other in sessions.values()
        if other is not but
    )
