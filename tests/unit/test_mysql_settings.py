"""MySQL and MariaDB with settings of an administrator's that no default has."""

from __future__ import annotations

import pytest
from sqlalchemy import Connection

from jupyter_session_store.errors import StoreUnavailable
from jupyter_session_store.sql.doctor import Verdict
from jupyter_session_store.sql.schema import migrating
from jupyter_session_store.sql.schema.versions import State
from jupyter_session_store.testing import SCOPE, record
from tests.cli.doctor_support import another_user, look, mend
from tests.databases import Database, Instance
from tests.databases.mysql import LocalMySQL
from tests.migrations.support import engine_of, opened, status
from tests.system.waiting import until

pytestmark = pytest.mark.only("mysql", reason="the others have no such settings")


async def test_a_binary_log_of_statements(own_server: Instance) -> None:
    """Error 1665: a migration leaves no half of it, and a server says what mends it."""
    if isinstance(own_server, LocalMySQL):
        own_server.options = ["--log-bin=binlog"]
        own_server.restart()
    own_server.admin.execute("SET GLOBAL binlog_format = 'STATEMENT'")
    own_server.admin.execute("SET GLOBAL TRANSACTION ISOLATION LEVEL READ COMMITTED")
    database = own_server.create_database()
    with engine_of(database.url) as engine:
        migrating.upgrade(engine)
        assert status(engine).state is State.CURRENT
        migrating.downgrade(engine, "base")
        assert status(engine).state is State.EMPTY
        migrating.upgrade(engine)
    found = look(database.url)["writes"]
    assert found.verdict is Verdict.FAILED
    with opened(database.url) as repository:
        with pytest.raises(StoreUnavailable, match="SET GLOBAL binlog_format = 'MIXED';"):
            await repository.add(record("a"))
        mend(database, found)
        await repository.add(record("a"))
        assert await repository.find(SCOPE) == [record("a")]
    assert look(database.url)["writes"].verdict is Verdict.OK


async def test_more_connections_than_a_user_may_have(database: Database) -> None:
    """Error 1226, or with the server's own limit 1203."""
    with engine_of(database.url) as engine:
        migrating.upgrade(engine)
    name = database.url.rpartition("/")[2]
    with another_user(database) as url:
        user = url.partition("://")[2].partition(":")[0]
        database.execute(f"GRANT ALL ON {name}.* TO {user}@'%' WITH MAX_USER_CONNECTIONS 1")
        with opened(url) as repository, engine_of(url) as other:
            repository._database.release()
            connections = f"SELECT 1 FROM information_schema.processlist WHERE user = '{user}'"
            # The server counts one that was closed for a moment more.
            until(lambda: not database.rows(connections), why="the connection is there")
            holder = other.connect()
            with pytest.raises(StoreUnavailable, match="MAX_USER_CONNECTIONS 0"):
                await repository.find(SCOPE)
            assert "MAX_USER_CONNECTIONS 0" in look(url)["connection"].cure[0]
            holder.close()


async def test_a_row_that_has_changed_since_it_was_read(database: Database) -> None:
    """Error 1020, where MariaDB keeps a transaction's snapshot strictly: it is repeated."""
    strict = database.rows("SHOW VARIABLES LIKE 'innodb_snapshot_isolation'")
    changed = False

    def unit(connection: Connection) -> str:
        nonlocal changed
        run = connection.exec_driver_sql
        if strict:
            run("SET SESSION innodb_snapshot_isolation = ON")
        run("START TRANSACTION")
        name = str(run("SELECT name FROM jupyter_sessions").scalar_one())
        if not changed:
            changed = True
            database.execute("UPDATE jupyter_sessions SET name = 'other'")
        run("UPDATE jupyter_sessions SET name = CONCAT(name, '!')")
        run("COMMIT")
        return name

    with opened(database.url) as repository:
        await repository.add(record("a", name="first"))
        assert await repository._run(unit) == ("other" if strict else "first")
        [found] = await repository.find(SCOPE)
        assert found.name == "other!"
