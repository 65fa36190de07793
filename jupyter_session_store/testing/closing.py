"""What the contract says of ending a session, of scopes, and of the end of a repository."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from ..errors import ConfigurationError, StoreUnavailable
from ..records import CLOSING, READY, STARTING, Closing, Move, Scope, claim_of
from ..repository import SessionRepository
from .samples import OTHER_SCOPES, SCOPE, record, run


class ClosingContract:
    """``begin_close``, ``move``, ``remove`` and ``close``, and that no verb leaves its scope."""

    def test_the_only_session_on_a_kernel_is_its_last(self, repository: SessionRepository) -> None:
        async def check() -> None:
            await repository.add(record("a"))
            await repository.add(record("b"))
            closing = await repository.begin_close(SCOPE, "a", "one")
            assert closing is not None
            assert closing.last
            assert closing.record.state == CLOSING
            assert closing.record.session_id == "a"
            (a, b) = await repository.find(SCOPE)
            assert (a.state, b) == (CLOSING, record("b"))
            again = await repository.begin_close(SCOPE, "a", "one")
            assert again is not None
            assert again.last

        run(check())

    def test_the_others_on_a_kernel_are_counted(self, repository: SessionRepository) -> None:
        async def check() -> None:
            for session_id, state in (("a", READY), ("b", READY), ("c", STARTING)):
                await repository.add(record(session_id, kernel_id="k", state=state))
            for session_id, last in (("a", False), ("b", False), ("c", True)):
                closing = await repository.begin_close(SCOPE, session_id, "one")
                assert closing is not None
                assert closing.last is last

        run(check())

    def test_a_row_that_only_names_a_kernel_does_not_count(
        self, repository: SessionRepository
    ) -> None:
        """A server leaves one while it starts the kernel that a session is to move to."""

        async def check() -> None:
            await repository.add(record("a", kernel_id="k"))
            await repository.add(record("b", kernel_id="l"))
            for session_id, kernel_id in (("c", "k"), ("d", "l")):
                mark = record(session_id, path=None, kernel_id=kernel_id, state=STARTING)
                await repository.add(mark)
            closing = await repository.begin_close(SCOPE, "a", "one")
            assert closing is not None
            assert closing.last
            move = await repository.move(SCOPE, "b", "l", {"kernel_id": "m"})
            assert move is not None
            assert move.last

        run(check())

    def test_a_reopened_session_counts_again(self, repository: SessionRepository) -> None:
        async def check() -> None:
            await repository.add(record("a", kernel_id="k"))
            await repository.add(record("b", kernel_id="k"))
            await repository.begin_close(SCOPE, "a", "one")
            await repository.update(SCOPE, "a", {"state": READY})
            closing = await repository.begin_close(SCOPE, "b", "one")
            assert closing is not None
            assert not closing.last

        run(check())

    def test_of_many_closers_one_is_last(self, repository: SessionRepository) -> None:
        async def check() -> None:
            for i in range(12):
                await repository.add(record(f"s{i}", kernel_id="k"))
            closings = await asyncio.gather(
                *(repository.begin_close(SCOPE, f"s{i}", "one") for i in range(12))
            )
            assert [closing is not None and closing.last for closing in closings].count(True) == 1

        run(check())

    def test_a_session_without_a_kernel_shares_none(self, repository: SessionRepository) -> None:
        async def check() -> None:
            await repository.add(record("a", kernel_id=None))
            await repository.add(record("b", kernel_id=None))
            closing = await repository.begin_close(SCOPE, "a", "one")
            assert closing is not None
            assert closing.last
            assert await repository.remove(SCOPE, [closing.record]) == 1

        run(check())

    def test_closing_a_missing_session_returns_none(self, repository: SessionRepository) -> None:
        async def check() -> None:
            assert await repository.begin_close(SCOPE, "nobody", "one") is None

        run(check())

    def test_a_move_counts_who_stays(self, repository: SessionRepository) -> None:
        async def check() -> None:
            for session_id, state in (("a", READY), ("b", READY), ("c", READY), ("d", CLOSING)):
                await repository.add(record(session_id, kernel_id="k", state=state))
            # On another kernel, and so of no concern.
            await repository.add(record("e", kernel_id="new"))
            to_new = {"kernel_id": "new", "kernel_name": "other", "kernel_model": None}
            first = await repository.move(SCOPE, "a", "k", {**to_new, "path": "moved"})
            assert first is not None
            assert not first.last
            assert (first.record.kernel_id, first.record.kernel_name) == ("new", "other")
            assert (first.record.path, first.record.claim) == ("moved", claim_of(SCOPE, "moved"))
            assert await repository.find(SCOPE, path="moved") == [first.record]
            closing = await repository.begin_close(SCOPE, "b", "one")
            assert closing is not None
            assert not closing.last
            last = await repository.move(SCOPE, "c", "k", to_new)
            assert last is not None
            assert last.last
            assert last.record.claim == claim_of(SCOPE, "c.ipynb")
            (e,) = await repository.find(SCOPE, session_id="e")
            assert e == record("e", kernel_id="new")

        run(check())

    def test_a_move_from_another_kernel_moves_nothing(self, repository: SessionRepository) -> None:
        async def check() -> None:
            here, beside = record("a", kernel_id="k"), record("b", kernel_id="other")
            await repository.add(here)
            await repository.add(beside)
            assert await repository.move(SCOPE, "a", "other", {"kernel_id": "new"}) is None
            assert await repository.move(SCOPE, "nobody", "k", {"kernel_id": "new"}) is None
            assert await repository.find(SCOPE) == [here, beside]

        run(check())

    def test_a_move_to_a_claimed_path_holds_no_claim(self, repository: SessionRepository) -> None:
        async def check() -> None:
            await repository.add(record("a", kernel_id="k"))
            await repository.add(record("b", kernel_id="k"))
            changes = {"kernel_id": "new", "path": "a.ipynb"}
            move = await repository.move(SCOPE, "b", "k", changes)
            assert move is not None
            assert (move.last, move.record.path, move.record.claim) == (False, "a.ipynb", None)

        run(check())

    def test_of_many_leavers_one_is_last(self, repository: SessionRepository) -> None:
        async def check() -> None:
            for i in range(12):
                await repository.add(record(f"s{i}", kernel_id="k"))

            async def leave(i: int) -> bool:
                left: Closing | Move | None
                if i % 2:
                    left = await repository.begin_close(SCOPE, f"s{i}", "one")
                else:
                    left = await repository.move(SCOPE, f"s{i}", "k", {"kernel_id": f"k{i}"})
                assert left is not None
                return left.last

            assert (await asyncio.gather(*map(leave, range(12)))).count(True) == 1

        run(check())

    def test_sessions_are_removed_and_their_claims_freed(
        self, repository: SessionRepository
    ) -> None:
        async def check() -> None:
            records = [record(f"s{i}") for i in range(5)]
            for each in records:
                await repository.add(each)
            assert await repository.remove(SCOPE, []) == 0
            assert await repository.remove(SCOPE, records[:1]) == 1
            assert await repository.remove(SCOPE, records[:3]) == 2
            assert await repository.find(SCOPE) == records[3:]
            await repository.add(record("new", path="s0.ipynb"))

        run(check())

    def test_a_session_that_moved_on_is_not_removed(self, repository: SessionRepository) -> None:
        async def check() -> None:
            for session_id in ("a", "b", "c"):
                await repository.add(record(session_id))
            await repository.update(SCOPE, "a", {"kernel_id": "k2"})
            await repository.update(SCOPE, "b", {"kernel_id": None})
            assert await repository.remove(SCOPE, [record("a")]) == 0
            assert await repository.remove(SCOPE, [record("b")]) == 0
            assert await repository.remove(SCOPE, [record("c", kernel_id=None)]) == 0
            assert await repository.remove(SCOPE, [record(i) for i in "abc"]) == 1

        run(check())

    # ------------------------------------------------------------------------ scope

    @pytest.mark.parametrize("other", OTHER_SCOPES, ids=repr)
    def test_no_verb_leaves_its_scope(self, repository: SessionRepository, other: Scope) -> None:
        async def check() -> None:
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
                closing = await repository.begin_close(scope, session_id, "one")
                assert closing is not None
                assert closing.last

        run(check())

    # ------------------------------------------------------------------ open, close

    def test_a_closed_repository_is_unavailable(self, repository: SessionRepository) -> None:
        repository.close()
        repository.close()
        verbs: list[Callable[[], Awaitable[object]]] = [
            lambda: repository.find(SCOPE),
            lambda: repository.add(record("a")),
            lambda: repository.update(SCOPE, "a", {"name": "n"}),
            lambda: repository.begin_close(SCOPE, "a", "one"),
            lambda: repository.move(SCOPE, "a", "k", {"kernel_id": "new"}),
            lambda: repository.remove(SCOPE, [record("a")]),
        ]

        async def check(verb: Callable[[], Awaitable[object]]) -> None:
            with pytest.raises(StoreUnavailable):
                await verb()

        for verb in verbs:
            run(check(verb))

    def test_a_repository_serves_one_loop_after_another(
        self, repository: SessionRepository
    ) -> None:
        run(repository.add(record("a")))
        assert run(repository.find(SCOPE)) == [record("a")]

    def test_a_cancelled_caller_does_no_harm(self, repository: SessionRepository) -> None:
        async def check() -> None:
            tasks = [asyncio.ensure_future(repository.find(SCOPE)) for _ in range(10)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await repository.add(record("a"))
            assert await repository.find(SCOPE) == [record("a")]

        run(check())

    def test_a_wrong_url_is_refused(self, make_repository: Callable[[], SessionRepository]) -> None:
        with pytest.raises(ConfigurationError):
            type(make_repository()).validate_url("nonsense-jss-scheme://somewhere")
