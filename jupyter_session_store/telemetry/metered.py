"""Measuring a repository, whichever it is: how often each verb, how long, and how it ended."""

from __future__ import annotations

import asyncio
import functools
import inspect
import weakref
from collections.abc import Callable, Collection, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from ..errors import InvalidValue, PathClaimed, SchemaMismatch, SessionConflict, StoreUnavailable
from ..records import Departure, Scope, ServerRecord, SessionRecord
from ..repository import SessionRepository
from . import metrics

if TYPE_CHECKING:
    _Contract = SessionRepository
else:
    # Nothing is inherited: a verb with a default in the contract would be found there, and not
    # in the measured repository.
    _Contract = object

VerbT = TypeVar("VerbT", bound=Callable[..., Any])

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


def _measured(verb: VerbT) -> VerbT:
    """Return a method that has the measured repository do a verb of the contract."""
    name = verb.__name__
    # Looked up once, and here: a series that begins at its first event shows no increase by it.
    took = metrics.durations.labels(name).observe
    ended = {outcome: metrics.operations.labels(name, outcome).inc for outcome in metrics.OUTCOMES}

    def note(meter: metrics.Meter, began: float, error: BaseException | None = None) -> None:
        outcome = metrics.OK
        if error is not None:
            kinds = _OUTCOMES.items()
            outcome = next((name for kind, name in kinds if isinstance(error, kind)), metrics.ERROR)
        took(perf_counter() - began)
        ended[outcome]()
        if outcome not in _SILENT:
            meter.up = outcome not in _DOWN

    # Each without a context manager: a request waits for what is done here.
    @functools.wraps(verb)
    async def ask(self: MeteredRepository, *args: Any, **kwargs: Any) -> Any:
        began = perf_counter()
        try:
            answer = await getattr(self._measured, name)(*args, **kwargs)
        except BaseException as error:
            note(self._meter, began, error)
            raise
        note(self._meter, began)
        return answer

    @functools.wraps(verb)
    def ask_blocking(self: MeteredRepository, *args: Any, **kwargs: Any) -> Any:
        began = perf_counter()
        try:
            answer = getattr(self._measured, name)(*args, **kwargs)
        except BaseException as error:
            note(self._meter, began, error)
            raise
        note(self._meter, began)
        return answer

    return cast("VerbT", ask if inspect.iscoroutinefunction(verb) else ask_blocking)


@SessionRepository.register
class MeteredRepository(_Contract):
    """A repository that does what another does, and measures it.

    What is not measured is the other's own method.
    """

    def __init__(self, measured: SessionRepository) -> None:
        self._measured = measured
        #: Told, in the heartbeat's thread, which servers are registered, after each renewal.
        self.on_servers: Callable[[list[ServerRecord]], None] | None = None
        self._meter = metrics.Meter(measured)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Return what is not measured from the measured repository."""
            if name.startswith("_"):
                raise AttributeError(name)
            return getattr(self._measured, name)

    def count(self, sessions: metrics.CountsSessions) -> None:
        """Show how many sessions there are of those that `sessions`, while it is used, counts."""
        self._meter.sessions = weakref.ref(sessions)

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
        self._meter.scope = scope
        self._measured.open(scope, server, timeout=timeout)

    def close(self, departure: Departure | None = None, *, timeout: float = 2.0) -> None:
        """Close it, and keep what it has counted."""
        try:
            self._measured.close(departure, timeout=timeout)
        finally:
            self._meter.close(self._measured.describe())

    add = _measured(SessionRepository.add)
    update = _measured(SessionRepository.update)
    begin_close = _measured(SessionRepository.begin_close)
    move = _measured(SessionRepository.move)
    remove = _measured(SessionRepository.remove)
    mirror = _measured(SessionRepository.mirror)
    mirror_change = _measured(SessionRepository.mirror_change)
    evict = _measured(SessionRepository.evict)
    _find = _measured(SessionRepository.find)
    _renew = _measured(SessionRepository.renew)

    async def find(self, scope: Scope, **criteria: str | None) -> list[SessionRecord]:
        """Find, and note how many there are where all are asked for."""
        found = await self._find(scope, **criteria)
        if not criteria and scope == self._meter.scope:
            self._meter.stored = sum(not one.is_placeholder for one in found)
        return found

    def renew(
        self, server: ServerRecord, held: Collection[SessionRecord], *, timeout: float
    ) -> list[ServerRecord]:
        """Renew; count whether the server was still registered, and note how many sessions are."""
        outcome = metrics.FAILED
        try:
            servers = self._renew(server, held, timeout=timeout)
            # One that was registered counts on from where it was.
            anew = any(
                (one.server_id, one.renewals) == (server.server_id, server.renewals)
                for one in servers
            )
            outcome = metrics.REGISTERED if anew else metrics.RENEWED
        finally:
            metrics.renewals.labels(outcome).inc()
        stored = self._measured.describe().sessions
        if stored is not None:
            self._meter.stored = stored
        if self.on_servers is not None:
            self.on_servers(servers)
        return servers
