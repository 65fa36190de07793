"""What this server knows of shared sessions, for when the store forgets it.

A database that fails over may lose what it acknowledged last. Each server remembers the newest
version of every shared session that it wrote or read, and for a while those that it deleted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..paths import path_key
from ..records import STARTING, SessionRecord
from ..servers.heartbeat import now

#: Seconds for which a deleted session is remembered.
_DELETED_SECONDS: Final = 600.0


@dataclass
class Differences:
    """How what the store has is behind what this server remembers."""

    #: Sessions that it does not have.
    missing: list[SessionRecord] = field(default_factory=list)
    #: Sessions that it has in an older version, and the newest that is remembered.
    older: list[tuple[SessionRecord, SessionRecord]] = field(default_factory=list)
    #: Sessions that it has, and that this server deleted.
    undeleted: list[SessionRecord] = field(default_factory=list)
    #: Of those that are missing, the ones of which it is not known whether they were lost.
    unknown: list[SessionRecord] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.missing or self.older or self.undeleted)


class RememberedSessions:
    """The shared sessions that this server has seen. For the tasks of one event loop."""

    def __init__(self) -> None:
        self._newest: dict[str, SessionRecord] = {}
        #: With the time of the deletion, the oldest first.
        self._deleted: dict[str, tuple[SessionRecord, float]] = {}

    def __len__(self) -> int:
        return len(self._newest) + len(self._deleted)

    def kernel_ids(self) -> set[str]:
        """Return the kernels of all sessions that are remembered."""
        return {one.kernel_id for one in self._newest.values() if one.kernel_id is not None}

    def newest(self, session_id: str) -> SessionRecord | None:
        """Return a session as it was last known."""
        return self._newest.get(session_id)

    def note(self, record: SessionRecord) -> None:
        """Note a session as the store has it now; one that is only being started is not noted."""
        if record.state != STARTING:
            self._newest[record.session_id] = record
            self._deleted.pop(record.session_id, None)

    def forget(self, session_id: str) -> None:
        """Forget a session: it is known to be no more, or to have another id."""
        self._newest.pop(session_id, None)

    def note_deleted(self, record: SessionRecord) -> None:
        """Note that this server has deleted a session."""
        newest = self._newest.pop(record.session_id, record)
        if newest.kernel_id != record.kernel_id:
            # It has moved since: then nothing was deleted.
            self._newest[record.session_id] = newest
            return
        self._deleted.pop(record.session_id, None)
        self._deleted[record.session_id] = (newest, now())

    def compare(self, found: Collection[SessionRecord], criteria: Mapping[str, Any]) -> Differences:
        """Compare what a look for `criteria` has found with what is remembered; note the rest."""
        differences = Differences()
        self._forget_old_deletions()
        for record in found:
            session_id = record.session_id
            newest = self._newest.get(session_id)
            deleted = self._deleted.get(session_id)
            if deleted is not None and deleted[0].outdates(record):
                differences.undeleted.append(record)
            elif newest is None or not is_older(record, newest):
                self.note(record)
            elif record.says_the_same(newest):
                self._newest[session_id] = record
            else:
                differences.older.append((record, newest))
        ids = {record.session_id for record in found}
        differences.missing = [
            one
            for one in self._candidates(criteria)
            if one.session_id not in ids and _equals(one, criteria)
        ]
        return differences

    def _candidates(self, criteria: Mapping[str, Any]) -> Collection[SessionRecord]:
        if "session_id" not in criteria:
            return self._newest.values()
        one = self._newest.get(criteria["session_id"])
        return () if one is None else (one,)

    def _forget_old_deletions(self) -> None:
        oldest = now() - _DELETED_SECONDS
        while self._deleted:
            session_id, (_, when) = next(iter(self._deleted.items()))
            if when > oldest:
                return
            del self._deleted[session_id]


def is_older(record: SessionRecord, newest: SessionRecord) -> bool:
    """Return whether a record is an earlier version of a session, and not another of its id."""
    return record.created_at == newest.created_at and record.version < newest.version


def _equals(record: SessionRecord, criteria: Mapping[str, Any]) -> bool:
    for name, value in criteria.items():
        if value is None:
            return False
        if name == "path":
            if record.path is None or path_key(record.path) != path_key(value):
                return False
        elif getattr(record, name) != value:
            return False
    return True
