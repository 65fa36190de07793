"""The verbs of the storage contract on this server's memory, which the store mirrors."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from ..records import Scope, SessionRecord
from ..servers.registered_store import RegisteredStore
from .mirror import Mirror


class LocalStore:
    """What the parts ask for sessions that only this server has. For one event loop's tasks.

    No read asks the store, and no change fails because it is away. Each verb is as
    :class:`.SessionRepository` has it, and raises :class:`.StoreUnavailable` only if the
    session manager has been closed.
    """

    def __init__(self, registered: RegisteredStore, mirror: Mirror) -> None:
        self._registered = registered
        self._mirror = mirror
        self._records = mirror.records

    @property
    def is_closed(self) -> bool:
        """Whether the session manager has been closed."""
        return self._registered.is_closed

    @property
    def repository(self) -> LocalStore:
        """The verbs; raises :class:`.StoreUnavailable` if the manager has been closed."""
        self._registered.refuse_if_closed()
        return self

    async def current(self) -> LocalStore:
        """Return the verbs: what is in memory needs no lease."""
        return self.repository

    def kernels_in_memory(self) -> set[str]:
        """Return the kernels of all sessions."""
        return {str(one.kernel_id) for one in self._records.all()}

    async def find(self, scope: Scope, **criteria: str | None) -> list[SessionRecord]:
        """Look into memory."""
        return self._records.find(criteria)

    async def add(self, record: SessionRecord) -> None:
        """Add a session."""
        self._records.add(record)
        await self._mirror.push(self._registered, None, record)

    async def update(
        self,
        scope: Scope,
        session_id: str,
        changes: Mapping[str, Any],
        *,
        expected: Mapping[str, str] = MappingProxyType({}),
    ) -> SessionRecord | None:
        """Change a session."""
        record = self._records.get(session_id)
        if record is None or any(getattr(record, key) != one for key, one in expected.items()):
            return None
        changed = self._records.change(record, changes)
        await self._mirror.push(self._registered, record, changed)
        return changed

    async def remove(self, scope: Scope, records: Collection[SessionRecord]) -> int:
        """Remove sessions, each only if it is on the kernel that its record names."""
        removed = []
        for record in records:
            present = self._records.get(record.session_id)
            if present is not None and present.kernel_id == record.kernel_id:
                self._records.replace(present, None)
                removed.append(present)
        await asyncio.gather(*(self._mirror.push(self._registered, one, None) for one in removed))
        return len(removed)
