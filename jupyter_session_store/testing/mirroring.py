"""What the contract says of making the sessions of a scope equal to what its server has."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import pytest

from ..errors import SessionConflict
from ..paths import claim_of
from ..records import Mirrored, SessionRecord
from ..repository import SessionRepository as Repository
from .samples import OTHER_SCOPES, SCOPE, add, in_event_loops, record, run, server


async def mirrored(repository: Repository, *wanted: SessionRecord) -> Mirrored:
    """Have a repository mirror sessions, and check what it says of it."""
    asked: list[Collection[SessionRecord]] = []

    def ask() -> Collection[SessionRecord]:
        asked.append(wanted)
        return wanted

    result = await repository.mirror(SCOPE, ask)
    assert asked, "what is wanted was not asked for"
    found = {one.session_id: one for one in await repository.find(SCOPE)}
    assert result.stored == found
    for one in wanted:
        if one.session_id not in result.refused:
            assert found[one.session_id].says_the_same(one)
    return result


CHANGES: Final[Sequence[Mapping[str, str | None]]] = (
    {"name": "n", "type": "file"},
    {"path": "new.ipynb", "claim": claim_of(SCOPE, "new.ipynb")},
    {"path": "new.ipynb", "claim": None},
    {"path": None, "claim": None},
    {"kernel_id": "another", "kernel_name": "other", "kernel_model": "{}"},
    {"kernel_model": '{"execution_state": "busy"}'},
    {"kernel_model": None},
    {"server_id": "two"},
)


@in_event_loops
class MirrorContract:
    """``mirror`` and ``mirror_change``."""

    async def test_what_is_missing_is_added(self, repository: Repository) -> None:
        await repository.add(record("a"))
        whole = [record("a"), record("b", version=7), record("c", path=None, kernel_model=None)]
        await mirrored(repository, *whole)
        assert await repository.find(SCOPE) == whole

    async def test_what_is_not_wanted_is_removed(self, repository: Repository) -> None:
        await add(repository, record("a"), record("b"), record("c", kernel_id=None))
        await mirrored(repository, record("b"))
        assert await repository.find(SCOPE) == [record("b")]
        await mirrored(repository)
        assert await repository.find(SCOPE) == []

    @pytest.mark.parametrize("changes", CHANGES, ids=",".join)
    async def test_what_differs_is_changed_and_counted(
        self, repository: Repository, changes: Mapping[str, str | None]
    ) -> None:
        await add(repository, record("a", version=4), record("b"), record("c"))
        before = await repository.find(SCOPE)
        wanted = [record("a", version=5).replace(**changes), record("b"), record("c")]
        result = await mirrored(repository, *wanted)
        assert result.stored["a"].version > before[0].version
        # Nor is it changed once more.
        assert (await mirrored(repository, *wanted)).stored == result.stored
        assert [result.stored["b"], result.stored["c"]] == before[1:]

    async def test_many_kernels_change_at_once(self, repository: Repository) -> None:
        sessions = [record(f"s{i:03}") for i in range(250)]
        await add(repository, *sessions[:200])
        wanted = [
            one.replace(kernel_model=f'{{"id": "{one.session_id}"}}', version=2) for one in sessions
        ]
        await mirrored(repository, *wanted)
        found = await repository.find(SCOPE)
        assert [one.kernel_model for one in found] == [one.kernel_model for one in wanted]

    async def test_an_older_row_is_brought_forward(self, repository: Repository) -> None:
        """As after a failover: what memory has was acknowledged, and then lost."""
        await repository.add(record("a", name="old", version=2))
        result = await mirrored(repository, record("a", name="new", version=9))
        assert result.stored["a"].version > 2

    async def test_a_newer_row_is_not_believed(self, repository: Repository) -> None:
        await repository.add(record("a", name="by hand", version=9))
        result = await mirrored(repository, record("a", version=2))
        assert result.stored["a"].version > 9

    async def test_paths_and_claims_change_hands(self, repository: Repository) -> None:
        one, two, three = record("one"), record("two"), record("three")
        await add(repository, one, two, three)

        def at(session: SessionRecord, other: SessionRecord) -> SessionRecord:
            return session.replace(path=other.path, claim=other.claim, version=2)

        wanted = [at(one, two), at(two, three), at(three, one)]
        await mirrored(repository, *wanted)
        # A claim that one gives up, another takes.
        free = record("free", path=three.path, claim=three.claim)
        rest = [wanted[0], wanted[1].replace(claim=None), wanted[2]]
        await mirrored(repository, free, *rest)
        assert {one.session_id for one in await repository.find(SCOPE, path=three.path)} == {
            "free",
            "two",
        }

    async def test_ids_change_hands(self, repository: Repository) -> None:
        one, two = record("one"), record("two")
        await add(repository, one, two)
        wanted = [
            one.replace(session_id="two", version=2),
            two.replace(session_id="one", version=2),
        ]
        await mirrored(repository, *wanted)
        renamed = wanted[0].replace(session_id="three", version=3)
        await mirrored(repository, renamed, wanted[1])
        assert {one.session_id for one in await repository.find(SCOPE)} == {"one", "three"}

    async def test_one_that_is_refused_stands_in_the_way_of_none(
        self, repository: Repository
    ) -> None:
        elsewhere = OTHER_SCOPES[0]
        assert elsewhere.namespace == SCOPE.namespace
        theirs = record("taken", elsewhere)
        await add(repository, theirs, record("changed"), record("goes"))
        wanted = [record("first"), record("taken"), record("changed", name="n"), record("last")]
        result = await mirrored(repository, *wanted)
        assert {key: type(one) for key, one in result.refused.items()} == {"taken": SessionConflict}
        assert sorted(one.session_id for one in await repository.find(SCOPE)) == [
            "changed",
            "first",
            "last",
        ]
        assert await repository.find(elsewhere) == [theirs]
        # It is stored when nothing is in its way any more.
        await repository.remove(elsewhere, [theirs])
        assert (await mirrored(repository, *wanted)).refused == {}

    async def test_a_claim_that_is_not_to_be_had_stops_no_session(
        self, repository: Repository
    ) -> None:
        """Another scope has none of this one's, unless somebody has edited its row."""
        theirs = record("theirs", OTHER_SCOPES[0], claim=claim_of(SCOPE, "p"))
        await repository.add(theirs)
        for _ in range(2):
            result = await repository.mirror(SCOPE, lambda: [record("a", path="p"), record("b")])
            assert result.refused == {}
            assert [one.claim is None for one in await repository.find(SCOPE)] == [True, False]
        assert await repository.find(theirs.scope) == [theirs]

    async def test_another_scope_is_left_alone(self, repository: Repository) -> None:
        theirs = [record(f"s{i}", scope, path="p") for i, scope in enumerate(OTHER_SCOPES)]
        await add(repository, *theirs)
        await mirrored(repository, record("a", path="p"))
        await mirrored(repository)
        for one in theirs:
            assert await repository.find(one.scope) == [one]

    def test_after_a_renewal_all_is_equal(self, repository: Repository) -> None:
        wanted = [record("a"), record("b", version=3)]
        for _ in range(3):
            repository.renew(server("one"), wanted, timeout=60)
            run(mirrored(repository, *wanted))
        run(repository.remove(SCOPE, wanted[:1]))
        repository.renew(server("one"), wanted, timeout=60)
        run(mirrored(repository, *wanted))
        run(repository.update(SCOPE, "b", {"name": "by hand"}))
        repository.renew(server("one"), wanted, timeout=60)
        run(mirrored(repository, *wanted))
        run(repository.add(record("extra")))
        repository.renew(server("one"), wanted, timeout=60)
        run(mirrored(repository, *wanted))

    @pytest.mark.parametrize("changes", [*CHANGES, {"session_id": "new"}], ids=",".join)
    async def test_a_change_is_made_or_left_to_the_mirror(
        self, repository: Repository, changes: Mapping[str, str | None]
    ) -> None:
        before, other = record("a", version=4), record("b")
        await add(repository, before, other)
        after = before.replace(**changes, version=7)
        stored = await repository.mirror_change(before, after)
        found = {one.session_id: one for one in await repository.find(SCOPE)}
        assert found.pop("b") == other
        assert found.keys() <= {before.session_id, after.session_id}
        if stored is None:
            await mirrored(repository, after, other)
        else:
            assert stored.says_the_same(after)
            assert stored.version > before.version
            assert list(found.values()) == [stored]

    async def test_a_row_that_another_has_changed_is_left_to_the_mirror(
        self, repository: Repository
    ) -> None:
        before = record("a", version=4)
        await repository.add(before)
        await repository.update(SCOPE, "a", {"name": "by hand"})
        by_hand = await repository.find(SCOPE)
        assert (
            await repository.mirror_change(before, before.replace(type="file", version=5)) is None
        )
        assert await repository.find(SCOPE) == by_hand

    async def test_a_row_that_is_not_there_is_left_to_the_mirror(
        self, repository: Repository
    ) -> None:
        theirs = record("a", OTHER_SCOPES[0])
        await repository.add(theirs)
        before = record("a")
        assert await repository.mirror_change(before, before.replace(name="n", version=2)) is None
        assert await repository.find(SCOPE) == []
        assert await repository.find(theirs.scope) == [theirs]

    async def test_a_change_to_a_claimed_path_is_left_to_the_mirror(
        self, repository: Repository
    ) -> None:
        before, holder = record("a"), record("holder")
        await add(repository, before, holder)
        after = before.replace(path=holder.path, claim=holder.claim, version=2)
        assert await repository.mirror_change(before, after) is None
        assert holder in await repository.find(SCOPE)
        await mirrored(repository, after, holder.replace(claim=None, version=2))

    async def test_a_change_to_an_id_that_another_has_is_refused(
        self, repository: Repository
    ) -> None:
        for scope in (SCOPE, OTHER_SCOPES[0]):
            before, taken = record("a"), record("taken", scope, path="p")
            await add(repository, before, taken)
            after = before.replace(session_id="taken", version=2)
            with pytest.raises(SessionConflict):
                await repository.mirror_change(before, after)
            assert await repository.find(SCOPE, session_id="a") == [before]
            assert await repository.find(scope, session_id="taken") == [taken]
            await repository.remove(SCOPE, [before])
            await repository.remove(scope, [taken])
