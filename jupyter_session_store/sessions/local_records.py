"""The sessions on this server's own kernels, in its memory: the truth about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from ..errors import PathClaimed, SessionConflict
from ..paths import claim_of, path_key
from ..records import SessionRecord


class LocalRecords:
    """The records of one scope. For the tasks of one event loop, but for :meth:`all`."""

    def __init__(self) -> None:
        self._by_id: dict[str, SessionRecord] = {}
        #: By the path's key: a create asks for its path, however many sessions there are.
        self._by_path: dict[str, dict[str, SessionRecord]] = {}
        self._in_order: list[SessionRecord] | None = []
        #: Is given the kernel of each session that is added, changed or removed.
        self.on_change: Callable[[str], None] | None = None

    def __len__(self) -> int:
        return len(self._by_id)

    def all(self) -> list[SessionRecord]:
        """Return all records, in no order; from any thread."""
        return list(self._by_id.values())

    def get(self, session_id: str) -> SessionRecord | None:
        """Return the session of this id; ``None`` if there is none."""
        return self._by_id.get(session_id)

    def find(self, criteria: Mapping[str, Any]) -> list[SessionRecord]:
        """Return the sessions that equal every criterion, as :meth:`.SessionRepository.find`."""
        if not criteria:
            return self._ordered()
        if None in criteria.values():
            return []
        try:
            if "path" in criteria:
                on_path = self._by_path.get(path_key(criteria["path"]), {})
                found = sorted(on_path.values(), key=_order)
            elif "session_id" in criteria:
                record = self._by_id.get(criteria["session_id"])
                found = [] if record is None else [record]
            else:
                found = self._ordered()
        except TypeError:
            # A list, or a dict, equals no text.
            return []
        for name, value in criteria.items():
            if name != "path":
                found = [record for record in found if getattr(record, name) == value]
        return found

    def _ordered(self) -> list[SessionRecord]:
        if self._in_order is None:
            self._in_order = sorted(self._by_id.values(), key=_order)
        return self._in_order.copy()

    def add(self, record: SessionRecord) -> None:
        """Add a session; raises :class:`.SessionConflict`, or :class:`.PathClaimed`."""
        if record.session_id in self._by_id:
            raise SessionConflict(record.session_id)
        if record.claim is not None and self._is_claimed(record):
            raise PathClaimed(record.path)
        self.replace(None, record)

    def change(self, record: SessionRecord, changes: Mapping[str, Any]) -> SessionRecord:
        """Change a session, and return it as it is now; raises :class:`.SessionConflict`.

        A new path takes its claim if it is free, else the session holds none.
        """
        changed = record.replace(
            **changes, updated_at=datetime.now(timezone.utc), version=record.version + 1
        )
        if changed.session_id != record.session_id and changed.session_id in self._by_id:
            raise SessionConflict(changed.session_id)
        if "path" in changes:
            changed = changed.replace(claim=claim_of(changed.scope, changed.path))
            if self._is_claimed(changed, but=record):
                changed = changed.replace(claim=None)
        self.replace(record, changed)
        return changed

    def replace(self, record: SessionRecord | None, by: SessionRecord | None) -> None:
        """Put a record into the place of another; either may be none."""
        if record is not None:
            del self._by_id[record.session_id]
            if record.path is not None:
                key = path_key(record.path)
                del self._by_path[key][record.session_id]
                if not self._by_path[key]:
                    del self._by_path[key]
        self._in_order = None
        if by is not None:
            self._put(by)
        if self.on_change is not None:
            # First the one that it is on now: a crash between the two leaves it on both.
            kernels = dict.fromkeys(one.kernel_id for one in (by, record) if one is not None)
            for kernel_id in filter(None, kernels):
                self.on_change(kernel_id)

    def _put(self, record: SessionRecord) -> None:
        self._by_id[record.session_id] = record
        self._in_order = None
        if record.path is not None:
            self._by_path.setdefault(path_key(record.path), {})[record.session_id] = record

    def _is_claimed(self, record: SessionRecord, but: SessionRecord | None = None) -> bool:
        if record.path is None:
            return False
        on_path = self._by_path.get(path_key(record.path), {})
        return any(other.claim is not None and other is not but for other in on_path.values())


def _order(record: SessionRecord) -> tuple[datetime, str]:
    return (record.created_at, record.session_id)
