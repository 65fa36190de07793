"""What the contract says of counting the changes of a session."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import pytest

from ..errors import SessionConflict
from ..records import CLOSING, READY, STARTING, Scope, SessionRecord
from ..repository import SessionRepository as Repository
from .samples import SCOPE, add, in_event_loops, record, run, server, there

_GATEWAY: Final = Scope(SCOPE.namespace, "gateway:g")


async def _update(repository: Repository, changes: Mapping[str, str | None]) -> SessionRecord:
    return there(await repository.update(SCOPE, "a", changes))


async def _begin_close(repository: Repository) -> SessionRecord:
    return there(await repository.begin_close(SCOPE, "a", "one")).record


async def _move(repository: Repository, changes: Mapping[str, str | None]) -> SessionRecord:
    return there(await repository.move(SCOPE, "a", "k", changes)).record


#: Every change of the session "a", which is on the kernel "k".
_CHANGES: Final[Mapping[str, Callable[[Repository], Awaitable[SessionRecord]]]] = {
    "a name": lambda one: _update(one, {"name": "n"}),
    "the same name": lambda one: _update(one, {"name": None}),
    "a path": lambda one: _update(one, {"path": "new.ipynb"}),
    "a path that is claimed": lambda one: _update(one, {"path": "beside.ipynb"}),
    "an id": lambda one: _update(one, {"session_id": "A"}),
    "a state": lambda one: _update(one, {"state": CLOSING}),
    "a mark": _begin_close,
    "a move": lambda one: _move(one, {"kernel_id": "new"}),
    "a move to where it is": lambda one: _move(one, {"kernel_id": "k"}),
    "a move to a path that is claimed": lambda one: _move(
        one, {"kernel_id": "new", "path": "beside.ipynb"}
    ),
}


async def _versions(repository: Repository, scope: Scope = SCOPE) -> dict[str, int]:
    return {one.session_id: one.version for one in await repository.find(scope)}


@in_event_loops
class VersionContract:
    """The version of a session, which grows by one with each change of it."""

    async def test_a_version_is_stored_as_it_is_given(self, repository: Repository) -> None:
        await add(repository, record("a"), record("b", version=7))
        assert await _versions(repository) == {"a": 1, "b": 7}

    async def test_a_version_may_be_given_and_expected(self, repository: Repository) -> None:
        await add(repository, record("a", version=4))
        given = {"name": "n", "version": 9}
        assert await repository.update(SCOPE, "a", given, expected={"version": 3}) is None
        updated = there(await repository.update(SCOPE, "a", given, expected={"version": 4}))
        assert (updated.name, updated.version) == ("n", 9)
        assert await repository.find(SCOPE) == [updated]

    @pytest.mark.parametrize("change", _CHANGES)
    async def test_each_change_counts_once_and_for_no_other(
        self, repository: Repository, change: str
    ) -> None:
        beside = record("beside", kernel_id="k")
        await add(repository, record("a", kernel_id="k", version=4), beside, record("c"))
        changed = await _CHANGES[change](repository)
        assert changed.version == 5
        found = {one.session_id: one for one in await repository.find(SCOPE)}
        assert found == {changed.session_id: changed, "beside": beside, "c": record("c")}
        again = there(await repository.update(SCOPE, changed.session_id, {"state": READY}))
        assert again.version == 6

    async def test_what_reads_and_what_changes_nothing_does_not_count(
        self, repository: Repository
    ) -> None:
        await add(repository, record("a"), record("b"))
        await repository.find(SCOPE, path="a.ipynb")
        await repository.update(SCOPE, "a", {"name": "n"}, expected={"state": CLOSING})
        await repository.move(SCOPE, "a", "another", {"kernel_id": "new"})
        await repository.remove(SCOPE, [record("a", kernel_id="another")])
        with pytest.raises(SessionConflict):
            await repository.update(SCOPE, "a", {"session_id": "b"})
        assert await _versions(repository) == {"a": 1, "b": 1}

    async def test_adding_again_changes_nothing_whatever_has_counted_since(
        self, repository: Repository
    ) -> None:
        """As after an answer that was lost."""
        half = record("a", state=STARTING)
        await repository.add(half)
        ready = await _update(repository, {"state": READY})
        await repository.add(half)
        await repository.add(half.replace(version=9))
        assert await repository.find(SCOPE) == [ready]
        assert ready.version == 2

    def test_what_an_eviction_changes_counts_once(self, repository: Repository) -> None:
        servers = repository.renew(server("two"), [], timeout=60)
        seen = next(one for one in servers if one.server_id == "two")
        half = record("half", _GATEWAY, server_id="two", state=STARTING)
        closing = record("closing", _GATEWAY, server_id="two", state=CLOSING)
        ready = record("ready", _GATEWAY, server_id="two")
        mine = record("mine", _GATEWAY, server_id="one", state=CLOSING)
        run(add(repository, half, closing, ready, mine))
        for _ in range(2):
            unfinished = repository.evict(_GATEWAY, [seen], "one", timeout=60)
            assert {one.session_id: one.version for one in unfinished} == {"half": 2, "mine": 1}
            found = run(_versions(repository, _GATEWAY))
            assert found == {"half": 2, "closing": 2, "ready": 1, "mine": 1}

    def test_what_comes_back_has_its_version(self, repository: Repository) -> None:
        held = record("a", Scope(SCOPE.namespace, "server:two"), server_id="two", version=3)
        repository.renew(server("two"), [held], timeout=60)
        assert run(repository.find(held.scope)) == [held]
