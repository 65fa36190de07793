"""What the contract says of ending a session, of scopes, and of the end of a repository."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ..errors import ConfigurationError, StoreUnavailable
from ..paths import claim_of
from ..records import CLOSING, READY, STARTING, Scope
from ..repository import SessionRepository as Repository
from .samples import OTHER_SCOPES, SCOPE, add, in_event_loops, record, run, there


@in_event_loops
class ClosingContract:
    """``begin_close``, ``move``, ``remove`` and ``close``, and that no verb leaves its scope."""

    async def test_the_only_session_on_a_kernel_is_its_last(self, repository: Repository) -> None:
        await add(repository, record("a"), record("b"))
        closing = there(await repository.begin_close(SCOPE, "a", "one"))
        assert closing.last
        assert closing.record.state == CLOSING
        assert closing.record.session_id == "a"
        (a, b) = await repository.find(SCOPE)
        assert (a.state, b) == (CLOSING, record("b"))
        assert there(await repository.begin_close(SCOPE, "a", "one")).last

    async def test_the_others_on_a_kernel_are_counted(self, repository: Repository) -> None:
        for session_id, state in (("a", READY), ("b", READY), ("c", STARTING)):
            await repository.add(record(session_id, kernel_id="k", state=state))
        for session_id, last in (("a", False), ("b", False), ("c", True)):
            assert there(await repository.begin_close(SCOPE, session_id, "one")).last is last

    async def test_a_row_that_only_names_a_kernel_does_not_count(
        self, repository: Repository
    ) -> None:
        """A server leaves one while it starts the kernel that a session is to move to."""
        await add(repository, record("a", kernel_id="k"), record("b", kernel_id="l"))
        for session_id, kernel_id in (("c", "k"), ("d", "l")):
            await repository.add(record(session_id, path=None, kernel_id=kernel_id, state=STARTING))
        assert there(await repository.begin_close(SCOPE, "a", "one")).last
        assert there(await repository.move(SCOPE, "b", "l", {"kernel_id": "m"})).last

    async def test_a_reopened_session_counts_again(self, repository: Repository) -> None:
        await add(repository, record("a", kernel_id="k"), record("b", kernel_id="k"))
        await repository.begin_close(SCOPE, "a", "one")
        await repository.update(SCOPE, "a", {"state": READY})
        assert not there(await repository.begin_close(SCOPE, "b", "one")).last

    async def test_of_many_closers_one_is_last(self, repository: Repository) -> None:
        await add(repository, *(record(f"s{i}", kernel_id="k") for i in range(12)))
        closings = await asyncio.gather(
            *(repository.begin_close(SCOPE, f"s{i}", "one") for i in range(12))
        )
        assert [there(closing).last for closing in closings].count(True) == 1

    async def test_a_session_without_a_kernel_shares_none(self, repository: Repository) -> None:
        await add(repository, record("a", kernel_id=None), record("b", kernel_id=None))
        closing = there(await repository.begin_close(SCOPE, "a", "one"))
        assert closing.last
        assert await repository.remove(SCOPE, [closing.record]) == 1

    async def test_closing_a_missing_session_returns_none(self, repository: Repository) -> None:
        assert await repository.begin_close(SCOPE, "nobody", "one") is None

    async def test_a_move_counts_who_stays(self, repository: Repository) -> None:
        for session_id, state in (("a", READY), ("b", READY), ("c", READY), ("d", CLOSING)):
            await repository.add(record(session_id, kernel_id="k", state=state))
        # On another kernel, and so of no concern.
        await repository.add(record("e", kernel_id="new"))
        to_new = {"kernel_id": "new", "kernel_name": "other", "kernel_model": None}
        first = there(await repository.move(SCOPE, "a", "k", {**to_new, "path": "moved"}))
        assert not first.last
        assert (first.record.kernel_id, first.record.kernel_name) == ("new", "other")
        assert (first.record.path, first.record.claim) == ("moved", claim_of(SCOPE, "moved"))
        assert await repository.find(SCOPE, path="moved") == [first.record]
        assert not there(await repository.begin_close(SCOPE, "b", "one")).last
        last = there(await repository.move(SCOPE, "c", "k", to_new))
        assert last.last
        assert last.record.claim == claim_of(SCOPE, "c.ipynb")
        (e,) = await repository.find(SCOPE, session_id="e")
        assert e == record("e", kernel_id="new")

    async def test_a_move_from_another_kernel_moves_nothing(self, repository: Repository) -> None:
        here, beside = record("a", kernel_id="k"), record("b", kernel_id="other")
        await add(repository, here, beside)
        assert await repository.move(SCOPE, "a", "other", {"kernel_id": "new"}) is None
        assert await repository.move(SCOPE, "nobody", "k", {"kernel_id": "new"}) is None
        assert await repository.find(SCOPE) == [here, beside]

    async def test_a_move_to_a_claimed_path_holds_no_claim(self, repository: Repository) -> None:
        await add(repository, record("a", kernel_id="k"), record("b", kernel_id="k"))
        changes = {"kernel_id": "new", "path": "a.ipynb"}
        move = there(await repository.move(SCOPE, "b", "k", changes))
        assert (move.last, move.record.path, move.record.claim) == (False, "a.ipynb", None)

    async def test_of_many_leavers_one_is_last(self, repository: Repository) -> None:
        await add(repository, *(record(f"s{i}", kernel_id="k") for i in range(12)))

        async def leave(i: int) -> bool:
            if i % 2:
                return there(await repository.begin_close(SCOPE, f"s{i}", "one")).last
            return there(await repository.move(SCOPE, f"s{i}", "k", {"kernel_id": f"k{i}"})).last

        assert (await asyncio.gather(*map(leave, range(12)))).count(True) == 1

    async def test_sessions_are_removed_and_their_claims_freed(
        self, repository: Repository
    ) -> None:
        records = [record(f"s{i}") for i in range(5)]
        await add(repository, *records)
        assert await repository.remove(SCOPE, []) == 0
        assert await repository.remove(SCOPE, records[:1]) == 1
        assert await repository.remove(SCOPE, records[:3]) == 2
        assert await repository.find(SCOPE) == records[3:]
        await repository.add(record("new", path="s0.ipynb"))

    async def test_a_session_that_moved_on_is_not_removed(self, repository: Repository) -> None:
        await add(repository, *map(record, "abc"))
        await repository.update(SCOPE, "a", {"kernel_id": "k2"})
        await repository.update(SCOPE, "b", {"kernel_id": None})
        assert await repository.remove(SCOPE, [record("a")]) == 0
        assert await repository.remove(SCOPE, [record("b")]) == 0
        assert await repository.remove(SCOPE, [record("c", kernel_id=None)]) == 0
        assert await repository.remove(SCOPE, [record(i) for i in "abc"]) == 1

    # ------------------------------------------------------------------------ scope

    @pytest.mark.parametrize("other", OTHER_SCOPES, ids=repr)
    async def test_no_verb_leaves_its_scope(self, repository: Repository, other: Scope) -> None:
        mine = record("a", kernel_id="k", path="p")
        await repository.add(mine)
        for criteria in ({}, {"session_id": "a"}, {"path": "p"}, {"kernel_id": "k"}):
            assert await repository.find(other, **criteria) == []
        assert await repository.update(other, "a", {"name": "n"}) is None
        assert await repository.update(other, "a", {"session_id": "b"}) is None
        assert await repository.begin_close(other, "a", "one") is None
        assert await repository.move(other, "a", "k", {"kernel_id": "new"}) is None
        assert await repository.remove(other, [mine]) == 0
        assert await repository.remove(other, [mine, record("b", kernel_id="k")]) == 0
        assert await repository.find(SCOPE) == [mine]
        # Nor does a session of one count in the other.
        await repository.add(record("x", other, kernel_id="k", path="p"))
        for scope, session_id in ((SCOPE, "a"), (other, "x")):
            assert there(await repository.begin_close(scope, session_id, "one")).last

    # ------------------------------------------------------------------ open, close

    def test_a_closed_repository_is_unavailable(self, repository: Repository) -> None:
        repository.close()
        repository.close()
        verbs: list[Coroutine[Any, Any, object]] = [
            repository.find(SCOPE),
            repository.add(record("a")),
            repository.update(SCOPE, "a", {"name": "n"}),
            repository.begin_close(SCOPE, "a", "one"),
            repository.move(SCOPE, "a", "k", {"kernel_id": "new"}),
            repository.remove(SCOPE, [record("a")]),
        ]
        for verb in verbs:
            with pytest.raises(StoreUnavailable):
                run(verb)

    def test_a_repository_serves_one_loop_after_another(self, repository: Repository) -> None:
        run(repository.add(record("a")))
        assert run(repository.find(SCOPE)) == [record("a")]

    async def test_a_cancelled_caller_does_no_harm(self, repository: Repository) -> None:
        tasks = [asyncio.ensure_future(repository.find(SCOPE)) for _ in range(10)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await repository.add(record("a"))
        assert await repository.find(SCOPE) == [record("a")]

    def test_a_wrong_url_is_refused(self, make_repository: Callable[[], Repository]) -> None:
        with pytest.raises(ConfigurationError):
            type(make_repository()).validate_url("nonsense-jss-scheme://somewhere")
