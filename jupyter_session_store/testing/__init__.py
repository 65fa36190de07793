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

        @pytest.fixture
        def unreachable(self, tmp_path):
            return lambda: stopped(tmp_path)  # a context manager: no store within

Without ``unreachable`` what needs it is skipped, with a warning. A repository whose
sessions are in this process's memory, and end when it is closed, inherits
``RepositoryContract`` instead. Needs pytest, and no plugin of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter

import pytest

from ..errors import PathClaimed
from ..records import CLOSING, STARTING, Departure, Scope
from ..repository import SessionRepository
from .closing import ClosingContract
from .leases import LeaseContract
from .mirroring import MirrorContract
from .outages import OutageContract, UnprovenContract
from .samples import AWKWARD, OTHER_SCOPES, SCOPE, add, record, run, server, there
from .storing import StoringContract
from .versions import VersionContract

__all__ = [
    "AWKWARD",
    "OTHER_SCOPES",
    "SCOPE",
    "PersistentRepositoryContract",
    "RepositoryContract",
    "UnprovenContract",
    "record",
    "run",
    "server",
]


MakeRepository = Callable[[], SessionRepository]


class RepositoryContract(
    StoringContract, ClosingContract, LeaseContract, MirrorContract, VersionContract
):
    """The contract of :class:`.SessionRepository`, verb by verb."""

    @pytest.fixture
    def make_repository(self) -> MakeRepository:
        """Return a function that makes a repository, each time on the same empty store."""
        raise NotImplementedError("override the fixture make_repository")

    @pytest.fixture
    def repository(self, make_repository: MakeRepository) -> Iterator[SessionRepository]:
        """Return an open repository on an empty store."""
        with _opened(make_repository) as repository:
            yield repository


class PersistentRepositoryContract(RepositoryContract, OutageContract):
    """The contract of a repository whose sessions outlive it: what others see of it.

    Their store is elsewhere, so it is waited for, and may be away.
    """

    def test_a_departure_removes_what_does_not_run_on(
        self, make_repository: MakeRepository
    ) -> None:
        other = Scope("tenant", "server:two")
        departure = Departure(SCOPE, "one", frozenset({"runs", "elsewhere"}))
        with _opened(make_repository, departure=departure) as leaving:
            leaving.renew(server("two"), [], timeout=60)
            idle, stays = record("idle", kernel_id=None), record("stays", kernel_id="runs")
            run(add(leaving, stays, record("goes"), idle, record("others", other)))
        departure = Departure(SCOPE, "one", frozenset())
        with _opened(make_repository, departure=departure) as looking:
            assert [r.session_id for r in run(looking.find(SCOPE))] == ["stays"]
            assert [r.session_id for r in run(looking.find(other))] == ["others"]
        with _opened(make_repository) as last:
            assert run(last.find(SCOPE)) == []
            assert len(run(last.find(other))) == 1

    @pytest.mark.parametrize("state", [STARTING, CLOSING])
    def test_who_leaves_something_unfinished_is_left_to_its_lease(
        self, make_repository: MakeRepository, state: str
    ) -> None:
        gateway = Scope(SCOPE.namespace, "gateway:g")
        half = record("half", gateway, state=state, server_id="one")
        for unfinished in (True, False):
            departure = Departure(gateway, "one", None)
            with _opened(make_repository, gateway, departure=departure) as leaving:
                run(leaving.add(half) if unfinished else leaving.remove(gateway, [half]))
            with _opened(make_repository, gateway, "two") as looking:
                servers = looking.renew(server("two"), [], timeout=60)
            assert ("one" in {s.server_id for s in servers}) is unfinished

    def test_all_is_read_without_being_opened_or_not_at_all(
        self, make_repository: MakeRepository
    ) -> None:
        sessions = [record(f"s{i}", scope) for i, scope in enumerate((SCOPE, *OTHER_SCOPES))]
        with _opened(make_repository) as repository:
            run(add(repository, *sessions))
            repository.renew(server("two", "another"), [], timeout=60)
            contents = make_repository().read_all(timeout=60)
            if contents is not None:
                key = attrgetter("session_id")
                assert sorted(contents.sessions, key=key) == sorted(sessions, key=key)
                found = {one.key for one in contents.servers}
                assert found == {(SCOPE.namespace, "one"), ("another", "two")}

    def test_two_repositories_share_one_store(self, make_repository: MakeRepository) -> None:
        async def check(first: SessionRepository, second: SessionRepository) -> None:
            await first.add(record("a", path="p", kernel_id="k"))
            assert await second.find(SCOPE) == await first.find(SCOPE)
            with pytest.raises(PathClaimed):
                await second.add(record("b", path="p"))
            await second.add(record("c", kernel_id="k"))
            closings = await asyncio.gather(
                first.begin_close(SCOPE, "a", "one"), second.begin_close(SCOPE, "c", "one")
            )
            assert [there(closing).last for closing in closings].count(True) == 1

        with _opened(make_repository) as first, _opened(make_repository, name="two") as second:
            run(check(first, second))


@contextmanager
def _opened(
    make_repository: MakeRepository,
    scope: Scope = SCOPE,
    name: str = "one",
    departure: Departure | None = None,
) -> Iterator[SessionRepository]:
    """Yield a repository that a server of this name has opened, and close it."""
    repository = make_repository()
    repository.open(scope, server(name), timeout=60)
    try:
        yield repository
    finally:
        repository.close(departure, timeout=10)
