"""A migration that has to wait for a table gives up before the servers behind it do."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jupyter_session_store.errors import StoreUnavailable
from jupyter_session_store.sql.engine import timeouts
from jupyter_session_store.sql.schema import migrating
from jupyter_session_store.sql.schema.versions import HEAD

from ..databases import Database
from ..system.faults import number_of_waiting_statements
from ..system.waiting import until
from .support import LATER, SCOPE, opened, record, status
from .test_states import later_code

pytestmark = pytest.mark.only(
    "postgresql", "mysql", reason="a SQLite file has one lock for all, which is waited for"
)


@contextmanager
def dumped(database: Database) -> Iterator[None]:
    """Read a table in a transaction that goes on, as a dump does."""
    with closing(database.connect()) as connection, closing(connection.cursor()) as cursor:
        cursor.execute("BEGIN")
        cursor.execute("SELECT COUNT(*) FROM jupyter_sessions")
        cursor.fetchall()
        yield
        cursor.execute("ROLLBACK")


async def test_servers_go_on_behind_an_upgrade_that_waits(
    database: Database, at_head: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        opened(database.url) as repository,
        later_code(tmp_path, 1, monkeypatch),
        ThreadPoolExecutor(1) as operator,
    ):
        await repository.add(record("a"))
        # An upgrade gives up before who waits behind it does; here much earlier, on a busy machine.
        assert timeouts.BUSY_TIMEOUT < timeouts.STATEMENT_TIMEOUT
        monkeypatch.setattr(timeouts, "BUSY_TIMEOUT", 2)
        with dumped(database):
            upgrade = operator.submit(migrating.upgrade, at_head)
            until(
                lambda: number_of_waiting_statements(database) or upgrade.done(),
                why="the upgrade waits for the dump",
            )
            # They queue behind it.
            await repository.add(record("b"))
            assert len(await repository.find(SCOPE)) == 2
            with pytest.raises(StoreUnavailable) as refused:
                upgrade.result(60)
            assert "longer than 4 s, such as a dump. Run it again when" in str(refused.value)
            assert status(at_head).revision == HEAD
        migrating.upgrade(at_head)
        assert status(at_head).revision == LATER
        await repository.add(record("c"))
        assert len(await repository.find(SCOPE)) == 3
