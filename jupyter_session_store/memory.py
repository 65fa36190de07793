"""Sessions in this process's memory: the second implementation, which keeps the contract honest."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from logging import Logger
from types import MappingProxyType
from typing import Any

from .authorities import authority_kind, server_of
from .errors import ConfigurationError, PathClaimed, SessionConflict, StoreUnavailable
from .paths import claim_of, path_digest
from .records import (
    CLOSING,
    READY,
    STARTING,
    Closing,
    Departure,
    Move,
    Scope,
    ServerRecord,
    SessionRecord,
    StoreDescription,
)
from .repository import SessionRepository

MEMORY = ":memory:"


class MemorySessionRepository(SessionRepository):
    """Sessions that end with the process, for tests and for servers that keep none.

    Nothing waits: each verb runs on the event loop without giving it up.
    Parameters as :class:`.SessionRepository` has them; `options` must be empty.
    """

    def __init__(
        self, url: str, *, options: Mapping[str, Any], auto_upgrade: str, log: Logger
    ) -> None:
        if options:
            raise ConfigurationError(
                f"The repository 'memory' takes no engine_options, but {sorted(options)} are "
                "set. Remove them, or set c.PersistentSessionManager.repository = 'sqlalchemy'."
            )
        self._rows: dict[tuple[str, str], SessionRecord] = {}
        self._servers: dict[tuple[str, str], ServerRecord] = {}
        # A lease is renewed from another thread than the event loop's.
        self._lock = threading.RLock()
        #: With which it was opened; ``None`` while it is not open.
        self._scope: Scope | None = None
        self._server_id: str | None = None
        self._evictions = 0

    @classmethod
    def default_url(cls, data_dir: str) -> str:
        """Return ``:memory:``, the only one."""
        return MEMORY

    @classmethod
    def validate_url(cls, url: str) -> None:
        """Refuse all but ``:memory:``."""
        if url != MEMORY:
            raise ConfigurationError(
                "c.SessionManager.database_filepath must be ':memory:' with the repository "
                "'memory'. Remove it, or set c.PersistentSessionManager.repository = "
                "'sqlalchemy'."
            )

    def open(self, scope: Scope, server: ServerRecord, *, timeout: float) -> None:
        """Allow use."""
        self._scope, self._server_id = scope, server.server_id
        self.renew(server, (), timeout=timeout)

    def close(self, departure: Departure | None = None, *, timeout: float = 2.0) -> None:
        """Do what a departure asks, and forget everything."""
        with self._lock:
            if departure is not None and self._scope is not None:
                self._depart(departure)
            self._scope = None
            self._forget()

    def _depart(self, departure: Departure) -> None:
        for key, record in list(self._rows.items()):
            if departure.removes(record):
                del self._rows[key]
        if not departure.keeps_registration(self._rows.values()):
            self._servers.pop((departure.scope.namespace, departure.server_id), None)

    def _forget(self) -> None:
        self._rows.clear()
        self._servers.clear()

    async def find(self, scope: Scope, **criteria: str | None) -> list[SessionRecord]:
        """Compare every session of the scope."""
        with self._lock:
            return self._find(scope, criteria)

    def _find(self, scope: Scope, criteria: Mapping[str, str | None]) -> list[SessionRecord]:
        self._refuse_if_closed()
        if None in criteria.values():
            return []
        found = [
            record
            for record in self._rows.values()
            if record.scope == scope
            and all(_equals(record, name, value) for name, value in criteria.items())
        ]
        return sorted(found, key=lambda record: (record.created_at, record.session_id))

    async def add(self, record: SessionRecord) -> None:
        """Keep a session."""
        with self._lock:
            self._add(record)

    def _add(self, record: SessionRecord) -> None:
        self._refuse_if_closed()
        key = (record.namespace, record.session_id)
        present = self._rows.get(key)
        if present is not None:
            if not present.is_repeated_by(record):
                raise SessionConflict(record.session_id)
            return
        if self._is_claimed(record):
            raise PathClaimed(record.path)
        self._rows[key] = record

    async def update(
        self,
        scope: Scope,
        session_id: str,
        changes: Mapping[str, Any],
        *,
        expected: Mapping[str, str | int] = MappingProxyType({}),
    ) -> SessionRecord | None:
        """Replace a session."""
        with self._lock:
            record = self._get(scope, session_id)
            if any(getattr(record, name, None) != value for name, value in expected.items()):
                return None
            return self._change(scope, session_id, changes)

    def _change(
        self, scope: Scope, session_id: str, changes: Mapping[str, Any]
    ) -> SessionRecord | None:
        record = self._get(scope, session_id)
        if record is None:
            return None
        changed = record.replace(
            **{"version": record.version + 1, **changes}, updated_at=datetime.now(timezone.utc)
        )
        if "path" in changes:
            path = changes["path"]
            changed = changed.replace(claim=claim_of(scope, path))
            if self._is_claimed(changed, but=record):
                changed = changed.replace(claim=None)
        key = (scope.namespace, changed.session_id)
        if changed.session_id != session_id and key in self._rows:
            raise SessionConflict(changed.session_id)
        del self._rows[scope.namespace, session_id]
        self._rows[key] = changed
        return changed

    async def begin_close(self, scope: Scope, session_id: str, server_id: str) -> Closing | None:
        """Mark, and count."""
        with self._lock:
            record = self._change(scope, session_id, {"state": CLOSING, "server_id": server_id})
            if record is None:
                return None
            return Closing(record, last=self._is_unused(scope, record.kernel_id))

    async def move(
        self, scope: Scope, session_id: str, kernel_id: str, changes: Mapping[str, Any]
    ) -> Move | None:
        """Change, and count."""
        with self._lock:
            record = self._get(scope, session_id)
            if record is None or record.kernel_id != kernel_id:
                return None
            changed = self._change(scope, session_id, changes)
            assert changed is not None
            return Move(changed, last=self._is_unused(scope, kernel_id))

    def _is_unused(self, scope: Scope, kernel_id: str | None) -> bool:
        return not any(r.keeps_kernel_alive for r in self._find(scope, {"kernel_id": kernel_id}))

    async def remove(self, scope: Scope, records: Collection[SessionRecord]) -> int:
        """Forget sessions."""
        count = 0
        with self._lock:
            for record in records:
                present = self._get(scope, record.session_id)
                if present is not None and present.kernel_id == record.kernel_id:
                    del self._rows[scope.namespace, record.session_id]
                    count += 1
        return count

    def renew(
        self, server: ServerRecord, held: Collection[SessionRecord], *, timeout: float
    ) -> list[ServerRecord]:
        """Count, and list."""
        with self._lock:
            self._refuse_if_closed()
            registered = self._servers.get(server.key)
            if registered is None:
                self._servers[server.key] = server
                for record in held:
                    with suppress(SessionConflict):
                        claim = None if self._is_claimed(record) else record.claim
                        self._add(record.replace(claim=claim))
            else:
                renewals = registered.renewals + 1
                self._servers[server.key] = dataclasses.replace(registered, renewals=renewals)
            return [s for s in self._servers.values() if s.namespace == server.namespace]

    def evict(
        self, scope: Scope, servers: Collection[ServerRecord], by: str, *, timeout: float
    ) -> list[SessionRecord]:
        """Forget servers, and what only they had."""
        with self._lock:
            self._refuse_if_closed()
            for server in servers:
                mine = server.namespace == scope.namespace
                if mine and self._servers.get(server.key) == server:
                    del self._servers[server.key]
                    self._evictions += 1
            for key, record in list(self._rows.items()):
                if record.namespace == scope.namespace and self._is_left(record):
                    unstarted = record.state == STARTING and record.kernel_id is None
                    if unstarted or authority_kind(record.authority) == "server":
                        del self._rows[key]
                    elif record.state == CLOSING:
                        self._rows[key] = record.replace(state=READY, version=record.version + 1)
                    elif record.state == STARTING and record.scope == scope:
                        self._rows[key] = record.replace(server_id=by, version=record.version + 1)
            return self._unfinished(scope, by)

    def describe(self) -> StoreDescription:
        """Say that it is memory."""
        with self._lock:
            sessions = [one for one in self._rows.values() if one.scope == self._scope]
            return StoreDescription(
                "memory of this process",
                evictions=self._evictions,
                sessions=sum(not one.is_placeholder for one in sessions),
                unfinished=len(self._unfinished(self._scope, self._server_id)),
            )

    def _unfinished(self, scope: Scope | None, server_id: str | None) -> list[SessionRecord]:
        return [
            one
            for one in self._rows.values()
            if (one.scope, one.server_id) == (scope, server_id) and one.state in (STARTING, CLOSING)
        ]

    def _is_left(self, record: SessionRecord) -> bool:
        server_id = server_of(record.authority)
        if server_id is None:
            server_id = record.server_id
        return (record.namespace, server_id) not in self._servers

    def _get(self, scope: Scope, session_id: str) -> SessionRecord | None:
        self._refuse_if_closed()
        record = self._rows.get((scope.namespace, session_id))
        return record if record is not None and record.scope == scope else None

    def _is_claimed(self, record: SessionRecord, but: SessionRecord | None = None) -> bool:
        return record.claim is not None and any(
            other.claim == record.claim and other.namespace == record.namespace
            for other in self._rows.values()
            if other is not but
        )

    def _refuse_if_closed(self) -> None:
        if self._scope is None:
            raise StoreUnavailable("it is not open")


def _equals(record: SessionRecord, name: str, value: str | None) -> bool:
    if name == "path":
        return path_digest(record.path) == path_digest(value)
    return bool(getattr(record, name) == value)
