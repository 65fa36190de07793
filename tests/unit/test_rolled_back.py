"""A statement that the database undid for another's sake is repeated, whichever it is."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import psycopg
import pymysql
import pytest
from sqlalchemy import event

from jupyter_session_store.testing import SCOPE, record, server
from tests.databases.database import Database
from tests.migrations.support import opened

pytestmark = pytest.mark.only("postgresql", "mysql", reason="SQLite has one writer at a time")

#: As the driver says SQLSTATE 40001. Databases with several nodes say it of reads, too.
ROLLED_BACK: Final[dict[str, Exception]] = {
    "postgresql": psycopg.errors.SerializationFailure("restart transaction"),
    "mysql": pymysql.err.OperationalError(1213, "Deadlock found when trying to get lock"),
}


async def test_each_statement_of_a_server(database: Database) -> None:
    """Each is refused twice, and then carried out."""
    refused: Counter[str] = Counter()

    def refuse_twice(_cursor: Any, statement: str, *_more: Any) -> None:
        refused[statement] += 1
        if refused[statement] <= 2:
            raise ROLLED_BACK[database.kind]

    with opened(database.url, SCOPE, server_id="one") as repository:
        for name in ("do_execute", "do_execute_no_params"):
            event.listen(repository._database.engine, name, refuse_twice)
        other = record("other", kernel_id="k")
        for one in (record("a", kernel_id="k"), other):
            await repository.add(one)
        assert len(await repository.find(SCOPE)) == 2
        await repository.update(SCOPE, "a", {"name": "new"})
        moved = await repository.move(SCOPE, "a", "k", {"kernel_id": "l"})
        assert moved is not None
        assert not moved.last
        closing = await repository.begin_close(SCOPE, "a", "one")
        assert closing is not None
        assert closing.last
        assert await repository.remove(SCOPE, [closing.record]) == 1
        assert await repository.find(SCOPE) == [other]
        repository.renew(server("one"), [], timeout=10)
        sent = {statement.split()[0] for statement in refused}
        assert {"SELECT", "INSERT", "UPDATE", "DELETE"} <= sent
        assert min(refused.values()) > 2
