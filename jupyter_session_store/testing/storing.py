"""What the contract says of storing, finding and changing a session."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from ..errors import PathClaimed, SessionConflict
from ..paths import claim_of
from ..records import CLOSING, LIMITS, READY, STARTING, Scope
from ..repository import SessionRepository as Repository
from .samples import AWKWARD, NOW, OTHER_SCOPES, SCOPE, add, in_event_loops, record, there


@in_event_loops
class StoringContract:
    """``find``, ``add`` and ``update``."""

    async def test_an_empty_store_has_no_sessions(self, repository: Repository) -> None:
        assert await repository.find(SCOPE) == []
        assert await repository.find(SCOPE, session_id="nobody") == []

    async def test_what_goes_in_comes_out(self, repository: Repository) -> None:
        whole = record("whole", name="n", state=STARTING)
        bare = record(
            "bare", path=None, type=None, kernel_name=None, kernel_model=None, server_id=None
        )
        await add(repository, whole, bare)
        assert await repository.find(SCOPE, session_id="whole") == [whole]
        assert await repository.find(SCOPE, session_id="bare") == [bare]

    @pytest.mark.parametrize(
        "column", ["session_id", "path", "name", "type", "kernel_id", "kernel_name", "server_id"]
    )
    async def test_texts_are_exact(self, repository: Repository, column: str) -> None:
        for number, text in enumerate(AWKWARD):
            values: dict[str, Any] = {"session_id": f"s{number}", "claim": None, column: text}
            await repository.add(record(**values))
        stored = await repository.find(SCOPE)
        assert sorted(getattr(r, column) for r in stored) == sorted(AWKWARD)
        if column in ("session_id", "path", "name", "type", "kernel_id"):
            for text in AWKWARD:
                (found,) = await repository.find(SCOPE, **{column: text})
                assert getattr(found, column) == text

    @pytest.mark.parametrize("column", ["namespace", "authority"])
    async def test_scopes_are_exact(self, repository: Repository, column: str) -> None:
        scopes = [
            Scope(text, "a") if column == "namespace" else Scope("n", text) for text in AWKWARD
        ]
        for number, scope in enumerate(scopes):
            await repository.add(record(f"s{number}", scope))
        for number, scope in enumerate(scopes):
            assert [r.session_id for r in await repository.find(scope)] == [f"s{number}"]

    @pytest.mark.parametrize("character", ["x", "\u00e9", "\U0001f4d3"])
    async def test_the_longest_texts_are_kept(self, repository: Repository, character: str) -> None:
        longest = {field: character * limit for field, limit in LIMITS.items()}
        longest["kernel_model"] = "k" * LIMITS["kernel_model"]
        scope = Scope(longest.pop("namespace"), longest.pop("authority"))
        stored = record(longest.pop("session_id"), scope, **longest)
        stored.check()
        await repository.add(stored)
        assert await repository.find(scope, path=longest["path"]) == [stored]
        shorter = longest["path"][:-1]
        assert await repository.find(scope, path=shorter) == []

    async def test_every_criterion_must_be_equal(self, repository: Repository) -> None:
        await repository.add(record("a", path="p", type="notebook"))
        await repository.add(record("b", path="q", type="notebook"))
        both = await repository.find(SCOPE, type="notebook")
        assert [r.session_id for r in both] == ["a", "b"]
        (one,) = await repository.find(SCOPE, type="notebook", path="q")
        assert one.session_id == "b"
        assert await repository.find(SCOPE, type="console", path="q") == []

    async def test_none_equals_nothing(self, repository: Repository) -> None:
        await repository.add(record("a", path=None, name=None))
        assert await repository.find(SCOPE, name=None) == []
        assert await repository.find(SCOPE, session_id="a", path=None) == []

    async def test_a_list_is_ordered_by_age_then_id(self, repository: Repository) -> None:
        microsecond = timedelta(microseconds=1)
        for session_id, created_at in (
            ("c", NOW),
            ("a", NOW + microsecond),
            ("B", NOW),
            ("b", NOW),
            ("\u00e9", NOW),
            ("d", NOW - timedelta(days=400)),
        ):
            await repository.add(record(session_id, created_at=created_at))
        found = [r.session_id for r in await repository.find(SCOPE)]
        assert found == ["d", "B", "b", "c", "\u00e9", "a"]

    async def test_adding_again_is_a_success(self, repository: Repository) -> None:
        await add(repository, record("a"), record("a"))
        assert await repository.find(SCOPE) == [record("a")]

    async def test_another_session_of_one_id_is_a_conflict(self, repository: Repository) -> None:
        await repository.add(record("a"))
        with pytest.raises(SessionConflict):
            await repository.add(record("a", kernel_id="another", claim=None))
        for scope in OTHER_SCOPES:
            if scope.namespace == SCOPE.namespace:
                with pytest.raises(SessionConflict):
                    await repository.add(record("a", scope))
            else:
                await repository.add(record("a", scope))
        assert await repository.find(SCOPE) == [record("a")]

    async def test_a_claim_is_held_once(self, repository: Repository) -> None:
        await repository.add(record("a", path="p"))
        with pytest.raises(PathClaimed):
            await repository.add(record("b", path="p"))
        await repository.add(record("c", path="p", claim=None))
        assert [r.session_id for r in await repository.find(SCOPE, path="p")] == ["a", "c"]

    async def test_a_claim_is_of_one_scope(self, repository: Repository) -> None:
        for number, scope in enumerate((SCOPE, *OTHER_SCOPES)):
            await repository.add(record(f"s{number}", scope, path="p"))

    async def test_of_many_claimants_one_wins(self, repository: Repository) -> None:
        outcomes = await asyncio.gather(
            *(repository.add(record(f"s{i}", path="p")) for i in range(20)),
            return_exceptions=True,
        )
        losers = [o for o in outcomes if o is not None]
        assert len(losers) == 19
        assert all(isinstance(loser, PathClaimed) for loser in losers)
        assert len(await repository.find(SCOPE, path="p")) == 1

    # --------------------------------------------------------------------- update

    async def test_an_update_returns_what_is_there_now(self, repository: Repository) -> None:
        await repository.add(record("a"))
        changed = await repository.update(
            SCOPE, "a", {"name": "n", "type": "file", "kernel_id": "k2", "kernel_model": None}
        )
        assert changed is not None
        assert (changed.name, changed.type, changed.kernel_id) == ("n", "file", "k2")
        assert changed.kernel_model is None
        assert changed.created_at == NOW
        assert changed.updated_at > NOW
        assert changed.claim == record("a").claim
        assert await repository.find(SCOPE) == [changed]

    async def test_an_update_may_expect_something(self, repository: Repository) -> None:
        await repository.add(record("a", state=CLOSING, server_id="one"))
        changes = {"state": READY}
        for expected in (
            {"state": READY},
            {"state": CLOSING, "server_id": "two"},
            {"server_id": "One"},
        ):
            assert await repository.update(SCOPE, "a", changes, expected=expected) is None
        assert [r.state for r in await repository.find(SCOPE)] == [CLOSING]
        mine = {"state": CLOSING, "server_id": "one"}
        assert there(await repository.update(SCOPE, "a", changes, expected=mine)).state == READY
        assert await repository.update(SCOPE, "a", changes, expected=mine) is None
        assert await repository.update(SCOPE, "nobody", changes, expected=mine) is None

    async def test_an_update_of_a_missing_session_returns_none(
        self, repository: Repository
    ) -> None:
        await repository.add(record("a"))
        assert await repository.update(SCOPE, "b", {"name": "n"}) is None
        assert await repository.find(SCOPE) == [record("a")]

    async def test_a_rename_takes_the_free_claim(self, repository: Repository) -> None:
        await repository.add(record("a", path="p"))
        renamed = there(await repository.update(SCOPE, "a", {"path": "q "}))
        assert renamed.claim == claim_of(SCOPE, "q ")
        await repository.add(record("b", path="p"))
        with pytest.raises(PathClaimed):
            await repository.add(record("c", path="q "))
        assert [r.session_id for r in await repository.find(SCOPE, path="q ")] == ["a"]
        assert [r.session_id for r in await repository.find(SCOPE, path="p")] == ["b"]

    async def test_a_rename_to_a_claimed_path_holds_no_claim(self, repository: Repository) -> None:
        await add(repository, record("a", path="p"), record("b", path="q"))
        renamed = there(await repository.update(SCOPE, "b", {"path": "p"}))
        assert (renamed.path, renamed.claim) == ("p", None)
        await repository.add(record("c", path="q"))

    async def test_a_rename_to_the_same_path_keeps_the_claim(self, repository: Repository) -> None:
        await repository.add(record("a", path="p"))
        renamed = there(await repository.update(SCOPE, "a", {"path": "p"}))
        assert renamed.claim == claim_of(SCOPE, "p")

    async def test_a_path_can_be_taken_away(self, repository: Repository) -> None:
        await repository.add(record("a", path="p"))
        renamed = there(await repository.update(SCOPE, "a", {"path": None}))
        assert (renamed.path, renamed.claim) == (None, None)

    async def test_an_id_can_be_changed_but_not_to_anothers(self, repository: Repository) -> None:
        await add(repository, record("a"), record("b"))
        with pytest.raises(SessionConflict):
            await repository.update(SCOPE, "a", {"session_id": "b"})
        with pytest.raises(SessionConflict):
            await repository.update(SCOPE, "a", {"session_id": "b", "path": "b.ipynb"})
        assert await repository.update(SCOPE, "a", {"session_id": "A"}) is not None
        assert [r.session_id for r in await repository.find(SCOPE)] == ["A", "b"]
