"""What is different on a node of a cluster whose nodes all take writes; a single server plays one.

Three real nodes are in tests/system/test_galera.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from jupyter_session_store.sql.engine.backend import is_on_cluster_node, note_cluster_node
from jupyter_session_store.sql.repository import SQLAlchemySessionRepository
from jupyter_session_store.testing import SCOPE, record
from tests.databases.database import Database
from tests.migrations.support import opened
from tests.wire import WireTap

pytestmark = pytest.mark.only("mysql", reason="the others have no such nodes")


@pytest.fixture
def tap(database: Database) -> Iterator[WireTap]:
    with WireTap.to(database) as tap:
        yield tap


@pytest.fixture
def repository(database: Database, tap: WireTap) -> Iterator[SQLAlchemySessionRepository]:
    with opened(tap.url(database), SCOPE) as repository:
        yield repository


def play_node(repository: SQLAlchemySessionRepository) -> None:
    repository._database.release()
    note_cluster_node(repository._database.engine, True)


async def test_a_single_server_writes_one_row(
    repository: SQLAlchemySessionRepository,
) -> None:
    await repository._run(lambda connection: _assert_noted(connection, False))
    others = [record("b", kernel_id="k"), record("c", kernel_id="k")]
    for one in (record("a", kernel_id="k"), *others):
        await repository.add(one)
    await repository.begin_close(SCOPE, "a", "one")
    assert (await repository.find(SCOPE))[1:] == others


def _assert_noted(connection: object, expected: bool) -> None:
    assert is_on_cluster_node(connection) is expected  # type: ignore[arg-type]


@pytest.mark.parametrize("verb", ["begin_close", "move"])
async def test_a_node_writes_all_rows_that_it_counts(
    repository: SQLAlchemySessionRepository, tap: WireTap, verb: str
) -> None:
    others = [record("b", kernel_id="k"), record("c", kernel_id="k")]
    elsewhere = record("d", kernel_id="l")
    for one in (record("a", kernel_id="k"), *others, elsewhere):
        await repository.add(one)

    async def leave(session_id: str) -> bool:
        if verb == "move":
            moved = await repository.move(SCOPE, session_id, "k", {"kernel_id": f"of-{session_id}"})
            assert moved is not None
            return moved.last
        closing = await repository.begin_close(SCOPE, session_id, "one")
        assert closing is not None
        return closing.last

    tap.reset()
    assert not await leave("a")
    single = tap.round_trips
    play_node(repository)
    await repository.find(SCOPE)
    tap.reset()
    assert not await leave("b")
    assert tap.round_trips == single
    found = {one.session_id: one for one in await repository.find(SCOPE)}
    # Written, and by nothing that anybody goes by.
    assert found["c"].updated_at > others[1].updated_at
    assert found["c"].replace(updated_at=others[1].updated_at) == others[1]
    assert found["d"] == elsewhere
    assert await leave("c")
