"""Measuring a repository, whichever it is: how often each verb, how long, and how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from time import perf_counter
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from ..errors import InvalidValue, PathClaimed, SchemaMismatch, SessionConflict, StoreUnavailable
from ..records import Closing, Departure, Move, Scope, ServerRecord, SessionRecord
from ..repository import SessionRepository
from . import metrics

if TYPE_CHECKING:
    _Contract = SessionRepository
else:
    # Nothing is inherited: a verb with a default in the contract would be found there, and not
    # in the measured repository.
    _Contract = object

_OUTCOMES: Final[Mapping[type[BaseException], str]] = {
    StoreUnavailable: metrics.UNAVAILABLE,
    SchemaMismatch: metrics.SCHEMA_MISMATCH,
    SessionConflict: metrics.CONFLICT,
    PathClaimed: metrics.CLAIMED,
    InvalidValue: metrics.INVALID,
    asyncio.CancelledError: metrics.CANCELLED,
}
_DOWN: Final = frozenset({metrics.UNAVAILABLE, metrics.SCHEMA_MISMATCH})
#: What says nothing of the store.
_SILENT: Final = frozenset({metrics.CANCELLED, metrics.ERROR})


class _Verb:
    """The series of a verb, looked up once."""

    __slots__ = ("ended", "took")

    def __init__(self, name: str) -> None:
        self.took = metrics.durations.labels(name).observe
        self.ended = {
            outcome: metrics.operations.labels(name, outcome).inc for outcome in metrics.OUTCOMES
        }


_VERBS: Final = {name: _Verb(name) for name in metrics.VERBS}


class _Measured:
    """Measures one call of a verb."""

    __slots__ = ("_began", "_meter", "_verb")

    def __init__(self, meter: metrics.Meter, verb: str) -> None:
        self._meter = meter
        self._verb = _VERBS[verb]

    def __enter__(self) -> None:
        self._began = perf_counter()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._verb.took(perf_counter() - self._began)
        outcome = metrics.OK if error is None else _outcome_of(error)
        self._verb.ended[outcome]()
        if outcome not in _SILENT:
            self._meter.up = outcome not in _DOWN


def _outcome_of(error: BaseException) -> str:
    for kind, outcome in _OUTCOMES.items():
        if isinstance(error, kind):
            return outcome
    return metrics.ERROR


@SessionRepository.register
class MeteredRepository(_Contract):
    """A repository that does what another does, and measures it.

    What is not measured is the other's own method.

    Parameters
    ----------
    measured : SessionRepository
    """

    def __init__(self, measured: SessionRepository) -> None:
        self._measured = measured
        self._meter = metrics.Meter(measured)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Return what is not measured from the measured repository."""
            if name.startswith("_"):
                raise AttributeError(name)
            return getattr(self._measured, name)

    @classmethod
    def default_url(cls, data_dir: str) -> str:
        """Refuse: the class of the measured repository is asked instead."""
        raise NotImplementedError

    @classmethod
    def validate_url(cls, url: str) -> None:
        """Refuse: the class of the measured repository is asked instead."""
        raise NotImplementedError

    def open(self, scope: Scope, server: ServerRecord, *, timeout: float) -> None:
        """Open it; not measured, since a store that is away is no error then."""
        self._measured.open(scope, server, timeout=timeout)

    def close(self, departure: Departure | None = None, *, timeout: float = 2.0) -> None:
        """Close it, and keep what it has counted."""
        try:
            self._measured.close(departure, timeout=timeout)
        finally:
            self._meter.close(self._measured.describe())

    async def find(self, scope: Scope, **criteria: str | None) -> list[SessionRecord]:
        """Find, and note how many there are where all are asked for."""
        with _Measured(self._meter, "find"):
            found = await self._measured.find(scope, **criteria)
        if not criteria:
            self._meter.listed = len(found)
        return found

    async def add(self, record: SessionRecord) -> None:
        """Add."""
        with _Measured(self._meter, "add"):
            await self._measured.add(record)

    async def update(
        self,
        scope: Scope,
        session_id: str,
        changes: Mapping[str, str | None],
        *,
        expected: Mapping[str, str] = MappingProxyType({}),
    ) -> SessionRecord | None:
        """Update."""
        with _Measured(self._meter, "update"):
            return await self._measured.update(scope, session_id, changes, expected=expected)

    async def begin_close(self, scope: Scope, session_id: str, server_id: str) -> Closing | None:
        """Begin to close."""
        with _Measured(self._meter, "begin_close"):
            return await self._measured.begin_close(scope, session_id, server_id)

    async def move(
        self,
        scope: Scope,
        session_id: str,
        kernel_id: str,
        changes: Mapping[str, str | None],
    ) -> Move | None:
        """Move."""
        with _Measured(self._meter, "move"):
            return await self._measured.move(scope, session_id, kernel_id, changes)

    async def remove(self, scope: Scope, records: Collection[SessionRecord]) -> int:
        """Remove."""
        with _Measured(self._meter, "remove"):
            return await self._measured.remove(scope, records)

    def renew(
        self, server: ServerRecord, held: Collection[SessionRecord], *, timeout: float
    ) -> list[ServerRecord]:
        """Renew, and count whether the server was still registered."""
        outcome = metrics.FAILED
        try:
            with _Measured(self._meter, "renew"):
                servers = self._measured.renew(server, held, timeout=timeout)
            # One that was registered counts on from where it was.
            anew = any(
                (one.server_id, one.renewals) == (server.server_id, server.renewals)
                for one in servers
            )
            outcome = metrics.REGISTERED if anew else metrics.RENEWED
        finally:
            metrics.renewals.labels(outcome).inc()
        return servers

    def evict(
        self, scope: Scope, servers: Collection[ServerRecord], by: str, *, timeout: float
    ) -> list[SessionRecord]:
        """Evict."""
        with _Measured(self._meter, "evict"):
            return self._measured.evict(scope, servers, by, timeout=timeout)
