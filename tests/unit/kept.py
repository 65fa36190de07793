"""A store in memory that may be away and outlives its repositories, some of which have faults."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import RLock
from typing import Any, Final

import pytest

from jupyter_session_store.errors import StoreUnavailable
from jupyter_session_store.memory import MemorySessionRepository
from jupyter_session_store.records import (
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
from jupyter_session_store.testing import SCOPE, PersistentRepositoryContract
from jupyter_session_store.testing.outages import Unreachable


@dataclass
class Store:
    """What all repositories of a test share."""

    rows: dict[tuple[str, str], SessionRecord] = field(default_factory=dict)
    servers: dict[tuple[str, str], ServerRecord] = field(default_factory=dict)
    lock: Any = field(default_factory=RLock)
    is_away: bool = False

    @contextmanager
    def away(self) -> Iterator[None]:
        self.is_away = True
        try:
            yield
        finally:
            self.is_away = False


def _waiting(name: str) -> Any:
    """Return a verb that waits for the store, as any does whose store is elsewhere."""

    async def verb(self: KeptRepository, *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0)
        self._reach()
        return await getattr(MemorySessionRepository, name)(self, *args, **kwargs)

    return verb


class KeptRepository(MemorySessionRepository):
    """The contract on a :class:`Store`."""

    def __init__(self, store: Store) -> None:
        super().__init__(
            ":memory:", options={}, auto_upgrade="safe", log=logging.getLogger("tests")
        )
        self._store = store
        self._rows, self._servers, self._lock = store.rows, store.servers, store.lock

    def _reach(self) -> None:
        if self._store.is_away:
            raise StoreUnavailable("it is away")

    def _forget(self) -> None:
        pass

    find = _waiting("find")
    add = _waiting("add")
    update = _waiting("update")
    begin_close = _waiting("begin_close")
    move = _waiting("move")
    remove = _waiting("remove")

    def open(self, scope: Scope, server: ServerRecord, *, timeout: float) -> None:
        try:
            super().open(scope, server, timeout=timeout)
        except StoreUnavailable:
            return

    def close(self, departure: Departure | None = None, *, timeout: float = 2.0) -> None:
        super().close(None if self._store.is_away else departure, timeout=timeout)

    def renew(self, *args: Any, **kwargs: Any) -> list[ServerRecord]:
        self._reach()
        return super().renew(*args, **kwargs)

    def evict(self, *args: Any, **kwargs: Any) -> list[SessionRecord]:
        self._reach()
        return super().evict(*args, **kwargs)

    def read_all(self, *, timeout: float) -> StoreContents:
        self._reach()
        return StoreContents(list(self._rows.values()), list(self._servers.values()))


class Blocks(KeptRepository):
    async def move(self, *args: Any, **kwargs: Any) -> Move | None:
        time.sleep(0.1)  # noqa: ASYNC251
        moved: Move | None = await super().move(*args, **kwargs)
        return moved


class WaitsForNothing(KeptRepository):
    update = MemorySessionRepository.update


class BlocksWhileAway(KeptRepository):
    async def begin_close(self, *args: Any, **kwargs: Any) -> Closing | None:
        if self._store.is_away:
            time.sleep(0.5)  # noqa: ASYNC251
        marked: Closing | None = await super().begin_close(*args, **kwargs)
        return marked


class RaisesTheDriversError(KeptRepository):
    def _reach(self) -> None:
        if self._store.is_away:
            raise ConnectionRefusedError

    def open(self, scope: Scope, server: ServerRecord, *, timeout: float) -> None:
        try:
            super().open(scope, server, timeout=timeout)
        except OSError:
            return


class OpensOnlyWhatIsThere(KeptRepository):
    open = MemorySessionRepository.open


class CountsNoEvictions(KeptRepository):
    def describe(self) -> StoreDescription:
        return replace(super().describe(), evictions=0)


class DescribesNothing(KeptRepository):
    describe = SessionRepository.describe


class ReadsOneNamespace(KeptRepository):
    def read_all(self, *, timeout: float) -> StoreContents:
        found = super().read_all(timeout=timeout)
        return replace(found, sessions=[one for one in found.sessions if one.scope == SCOPE])


class DepartsWithoutAWord(KeptRepository):
    def close(self, departure: Departure | None = None, *, timeout: float = 2.0) -> None:
        super().close(timeout=timeout)


class ClosesOnlyWhatIsThere(KeptRepository):
    def close(self, departure: Departure | None = None, *, timeout: float = 2.0) -> None:
        if departure is not None:
            self._reach()
        super().close(departure, timeout=timeout)


_AWAY: Final = "test_a_store_that_is_away_is_unavailable_and_blocks_nobody"
_OPENING: Final = "test_an_open_and_a_close_while_the_store_is_away_are_no_errors"
_EVICTION: Final = "test_an_eviction_is_counted_once_and_only_if_it_was_one"
_LEFT: Final = "test_who_leaves_something_unfinished_is_left_to_its_lease"
#: What each fault fails, and nothing else: the names of tests.
FAULTS: Final[dict[type[KeptRepository], set[str]]] = {
    KeptRepository: set(),
    Blocks: {"test_a_verb_does_not_block_the_event_loop[move]"},
    WaitsForNothing: {
        "test_a_verb_does_not_block_the_event_loop[update]",
        # Its default is an update.
        "test_a_verb_does_not_block_the_event_loop[mirror_change]",
        _AWAY,
    },
    BlocksWhileAway: {_AWAY},
    RaisesTheDriversError: {_AWAY, _OPENING},
    OpensOnlyWhatIsThere: {_OPENING},
    CountsNoEvictions: {_EVICTION},
    DescribesNothing: {_EVICTION},
    ReadsOneNamespace: {"test_all_is_read_without_being_opened_or_not_at_all"},
    DepartsWithoutAWord: {
        "test_a_departure_removes_what_does_not_run_on",
        f"{_LEFT}[starting]",
        f"{_LEFT}[closing]",
    },
    ClosesOnlyWhatIsThere: {_OPENING},
}


def suite(repository: str, *, unreachable: bool = True) -> type[PersistentRepositoryContract]:
    """Return the conformance suite of a repository, by the name of its class."""
    (kind,) = (one for one in FAULTS if one.__name__ == repository)

    class Suite(PersistentRepositoryContract):
        @pytest.fixture
        def store(self) -> Store:
            return Store()

        @pytest.fixture
        def make_repository(self, store: Store) -> Callable[[], SessionRepository]:
            return lambda: kind(store)

    if unreachable:

        class SuiteWithOutages(Suite):
            @pytest.fixture
            def unreachable(self, store: Store) -> Unreachable:
                return store.away

        return SuiteWithOutages
    return Suite
