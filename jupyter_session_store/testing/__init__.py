"""The conformance suite: what every repository, ours or a plugin's, inherits and passes.

For the author of a repository::

    from jupyter_session_store.testing import PersistentRepositoryContract


    class TestMyRepository(PersistentRepositoryContract):
        @pytest.fixture
        def make_repository(self, tmp_path):
            url = f"myscheme://{tmp_path}/sessions"
            return lambda: MyRepository(
                url, options={}, auto_upgrade="safe", log=logging.getLogger()
            )

A repository that forgets all when it is closed inherits ``RepositoryContract``
instead. Needs pytest, and no plugin of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from ..errors import PathClaimed
from ..records import CLOSING, STARTING, Departure, Scope
from ..repository import SessionRepository
from .closing import ClosingContract
from .leases import LeaseContract
from .samples import AWKWARD, OTHER_SCOPES, SCOPE, record, run, server
from .storing import StoringContract

__all__ = [
    "AWKWARD",
    "OTHER_SCOPES",
    "SCOPE",
    "PersistentRepositoryContract",
    "RepositoryContract",
    "record",
    "run",
    "server",
]


class RepositoryContract(StoringContract, ClosingContract, LeaseContract):
    """The contract of :class:`.SessionRepository`, verb by verb."""

    @pytest.fixture
    def make_repository(self) -> Callable[[], SessionRepository]:
        """Return a function that makes a repository, each time on the same empty store."""
        raise NotImplementedError("override the fixture make_repository")

    @pytest.fixture
    def repository(
        self, make_repository: Callable[[], SessionRepository]
    ) -> Iterator[SessionRepository]:
        """Return an open repository on an empty store."""
        repository = make_repository()
        repository.open(SCOPE, server("one"), timeout=60)
        yield repository
        repository.close(timeout=10)


class PersistentRepositoryContract(RepositoryContract):
    """The contract of a repository whose sessions outlive it: what others see of it."""

    def test_a_departure_removes_what_does_not_run_on(
        self, make_repository: Callable[[], SessionRepository]
    ) -> None:
        other = Scope("tenant", "server:two")
        leaving = make_repository()
        leaving.open(SCOPE, server("one"), timeout=60)
        leaving.renew(server("two"), [], timeout=60)

        async def fill() -> None:
            await leaving.add(record("stays", kernel_id="runs"))
            await leaving.add(record("goes"))
            await leaving.add(record("idle", kernel_id=None))
            await leaving.add(record("others", other))

        run(fill())
        leaving.close(Departure(SCOPE, "one", frozenset({"runs", "elsewhere"})), timeout=10)
        looking = make_repository()
        looking.open(SCOPE, server("one"), timeout=60)
        try:
            assert [r.session_id for r in run(looking.find(SCOPE))] == ["stays"]
            assert [r.session_id for r in run(looking.find(other))] == ["others"]
        finally:
            looking.close(Departure(SCOPE, "one", frozenset()), timeout=10)
        last = make_repository()
        last.open(SCOPE, server("one"), timeout=60)
        try:
            assert run(last.find(SCOPE)) == []
            assert len(run(last.find(other))) == 1
        finally:
            last.close(timeout=10)

    @pytest.mark.parametrize("state", [STARTING, CLOSING])
    def test_who_leaves_something_unfinished_is_left_to_its_lease(
        self, make_repository: Callable[[], SessionRepository], state: str
    ) -> None:
        gateway = Scope(SCOPE.namespace, "gateway:g")
        for unfinished in (True, False):
            leaving = make_repository()
            leaving.open(gateway, server("one"), timeout=60)
            half = record("half", gateway, state=state, server_id="one")
            if unfinished:
                run(leaving.add(half))
            else:
                run(leaving.remove(gateway, [half]))
            leaving.close(Departure(gateway, "one", None), timeout=10)
            looking = make_repository()
            looking.open(gateway, server("two"), timeout=60)
            servers = looking.renew(server("two"), [], timeout=60)
            assert ("one" in {s.server_id for s in servers}) is unfinished
            looking.close(timeout=10)

    def test_two_repositories_share_one_store(
        self, make_repository: Callable[[], SessionRepository]
    ) -> None:
        first, second = make_repository(), make_repository()
        first.open(SCOPE, server("one"), timeout=60)
        second.open(SCOPE, server("two"), timeout=60)

        async def check() -> None:
            await first.add(record("a", path="p", kernel_id="k"))
            assert await second.find(SCOPE) == await first.find(SCOPE)
            with pytest.raises(PathClaimed):
                await second.add(record("b", path="p"))
            await second.add(record("c", kernel_id="k"))
            closings = await asyncio.gather(
                first.begin_close(SCOPE, "a", "one"), second.begin_close(SCOPE, "c", "one")
            )
            assert [closing is not None and closing.last for closing in closings].count(True) == 1

        try:
            run(check())
        finally:
            first.close(timeout=10)
            second.close(timeout=10)
