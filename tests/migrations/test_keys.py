"""Keys and indexes that are missing although tables and columns are there, and an emptied table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest
from sqlalchemy import Engine

from jupyter_session_store.errors import SchemaMismatch
from jupyter_session_store.sql.doctor import Verdict
from jupyter_session_store.sql.schema import keys, starting
from jupyter_session_store.sql.schema.versions import State
from jupyter_session_store.sql.tables import METADATA

from ..cli.conftest import Run, home, run
from ..cli.doctor_support import look, mend, unwell
from ..databases import Database
from .support import engine_of, opened, status

__all__ = ["home", "run"]

#: What empties the table in which a database says what code it needs, or spoils it.
SPOILT: Final = {
    "emptied": "DELETE FROM jupyter_session_store_meta",
    "no number": "UPDATE jupyter_session_store_meta SET value = 'junk'",
}


@pytest.mark.parametrize("how", SPOILT)
def test_an_emptied_meta_table_is_told_as_damaged(
    database: Database, at_head: Engine, run: Run, how: str
) -> None:
    at_head.dispose()
    database.execute(SPOILT[how])
    assert status(at_head).state is State.DAMAGED
    at_head.dispose()
    lacks = "damaged: it lacks a number as 'oldest_compatible_code' in jupyter_session_store_meta"
    with pytest.raises(SchemaMismatch, match=lacks), opened(database.url):
        pass
    for words, code in ((["check"], 4), (["upgrade"], 4)):
        done = run(*words, url=database.url)
        assert (done.returncode, lacks in done.stderr) == (code, True)
    found = look(database.url)["revision"]
    assert found.verdict is Verdict.FAILED
    *statements, rest = found.cure
    assert rest.startswith("If it is not yours, ")
    for statement in statements:
        database.execute(statement)
    assert unwell(look(database.url)) == {}
    assert run("check", url=database.url).returncode == 0


@pytest.mark.parametrize("name", sorted(METADATA.tables))
def test_a_table_that_was_copied_by_hand(
    database: Database, at_head: Engine, run: Run, name: str
) -> None:
    at_head.dispose()
    for statement in (
        f"CREATE TABLE a_copy AS SELECT * FROM {name}",
        f"DROP TABLE {name}",
        f"ALTER TABLE a_copy RENAME TO {name}",
    ):
        database.execute(statement)
    assert status(at_head).state is State.CURRENT
    at_head.dispose()
    found = look(database.url)["keys"]
    assert found.verdict is Verdict.FAILED
    assert f"the primary key of {name} (" in found.text
    if name == "jupyter_sessions":
        assert "the unique key of jupyter_sessions (namespace, claim)" in found.text
        assert "the index of jupyter_sessions (namespace, path_digest)" in found.text
    done = run("check", url=database.url)
    assert done.returncode == 4
    assert f"lacks the primary key of {name} (" in done.stderr
    assert "run: jupyter session-store doctor" in done.stderr
    mend(database, found)
    assert look(database.url)["keys"].verdict is Verdict.OK
    assert run("check", url=database.url).returncode == 0


def test_an_index_that_is_missing_only_makes_it_slow(
    database: Database, at_head: Engine, run: Run
) -> None:
    at_head.dispose()
    on_table = " ON jupyter_sessions" if database.kind == "mysql" else ""
    database.execute(f"DROP INDEX ix_jupyter_sessions_namespace_kernel_id{on_table}")
    found = look(database.url)
    assert unwell(found) == {"keys": Verdict.WARNING}
    assert "the index of jupyter_sessions (namespace, kernel_id)" in found["keys"].text
    done = run("check", url=database.url)
    assert done.returncode == 0
    assert "lacks the index of jupyter_sessions (namespace, kernel_id)" in done.stdout
    mend(database, found["keys"])
    assert unwell(look(database.url)) == {}


@pytest.mark.only("sqlite", "postgresql", reason="MySQL has no such indexes")
def test_an_index_of_some_rows_is_no_key(database: Database, at_head: Engine) -> None:
    at_head.dispose()
    database.execute("CREATE TABLE a_copy AS SELECT * FROM jupyter_sessions")
    database.execute("DROP TABLE jupyter_sessions")
    database.execute("ALTER TABLE a_copy RENAME TO jupyter_sessions")
    database.execute(
        "CREATE UNIQUE INDEX of_some ON jupyter_sessions (namespace, claim) WHERE claim <> ''"
    )
    assert "the unique key of jupyter_sessions" in look(database.url)["keys"].text


def test_a_look_leaves_the_model_as_it_was(
    database: Database, at_head: Engine, new_database: Callable[[], Database]
) -> None:
    """To tell the statement that makes a key took the key out of the model."""
    at_head.dispose()
    for table in sorted(METADATA.tables):
        database.execute(f"CREATE TABLE a_copy AS SELECT * FROM {table}")
        database.execute(f"DROP TABLE {table}")
        database.execute(f"ALTER TABLE a_copy RENAME TO {table}")
    with at_head.connect() as connection:
        assert len(keys.lacking(connection)) >= len(METADATA.tables)
    at_head.dispose()
    with engine_of(new_database().url) as made:
        starting.ensure(made, "safe")
        with made.connect() as connection:
            assert keys.lacking(connection) == []
