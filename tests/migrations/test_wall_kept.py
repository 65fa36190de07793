"""What upgrades and downgrades do about the wall between users."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command

from jupyter_session_store.sql.schema import migrating, starting, wall
from jupyter_session_store.sql.schema.versions import HEAD

from ..cli.support import fill, server, session
from ..cli.walls import Walled, answer, walled
from ..databases import Database
from .support import LATER, alembic, engine_of, release

pytestmark = pytest.mark.only("postgresql", reason="others have no policies for rows")

SEEN = "SELECT DISTINCT namespace FROM jupyter_sessions ORDER BY 1"
SERVERS = "SELECT DISTINCT namespace FROM jupyter_servers ORDER BY 1"
#: A revision that makes a table anew, as one may that changes it for good.
REBUILDING = '''"""Make the table of servers anew."""
from alembic import op

revision = "{revision}"
down_revision = "{previous}"

KIND = "expanding"
OLDEST_COMPATIBLE_CODE = "1"
DOWNGRADE_LOSES = None


def upgrade():
    op.execute("ALTER TABLE jupyter_servers RENAME TO old_servers")
    op.execute("CREATE TABLE jupyter_servers (LIKE old_servers INCLUDING DEFAULTS)")
    op.execute("INSERT INTO jupyter_servers SELECT * FROM old_servers")
    op.execute("DROP TABLE old_servers")
    op.execute("ALTER TABLE jupyter_servers ADD PRIMARY KEY (namespace, server_id)")
    op.execute("ALTER TABLE jupyter_sessions ADD COLUMN note varchar(20)")


def downgrade():
    op.execute("ALTER TABLE jupyter_sessions DROP COLUMN note")
'''


@pytest.fixture
def house(database: Database) -> Iterator[Walled]:
    with walled(database) as made:
        made.build()
        yield made


def let_in(house: Walled) -> Database:
    """Make a role that may have the namespaces of one user, and rows of two."""
    name = house.name("ada")
    ada = house.role(name)
    house.admin.execute(
        f"GRANT {house.group} TO {name};"
        f"INSERT INTO jupyter_session_store_wall VALUES ('{name}', 'hub:ada/', 'prefix')"
    )
    put(house)
    return ada


def put(house: Walled) -> None:
    names = ("hub:ada/", "hub:bob/")
    fill(house.owner.url, [session(n, i) for i, n in enumerate(names)], map(server, names))


def stands(house: Walled) -> bool:
    with engine_of(house.owner.url) as engine, engine.connect() as connection:
        return wall.look(connection).stands


@pytest.fixture
def rebuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function that installs a release whose only later revision makes a table anew."""
    migrations = release(tmp_path / "later")
    text = REBUILDING.format(revision=LATER, previous=HEAD)
    (migrations / "versions" / f"{LATER}_rebuild.py").write_text(text)
    return lambda: monkeypatch.setattr(migrating, "migrations_folder", lambda: migrations)


@pytest.mark.parametrize("by", ["command", "alembic"])
def test_an_upgrade_that_makes_a_table_anew_keeps_the_wall(
    house: Walled, rebuild: Callable[[], None], by: str, caplog: pytest.LogCaptureFixture
) -> None:
    ada = let_in(house)
    rebuild()
    with engine_of(house.owner.url) as engine, caplog.at_level(logging.INFO):
        if by == "alembic":
            alembic(command.upgrade, engine, "head")
        else:
            migrating.upgrade(engine)
    assert "stands on the new tables, too." in caplog.text
    assert "Servers that log in as another role need" not in caplog.text
    assert stands(house)
    for query in (SEEN, SERVERS):
        assert answer(ada, query) == [("hub:ada/",)]
        assert len(answer(house.owner, query)) == 2
    # Once more there is nothing to do.
    caplog.clear()
    with engine_of(house.owner.url) as engine, caplog.at_level(logging.INFO):
        migrating.upgrade(engine)
        migrating.downgrade(engine, HEAD)
    assert stands(house)
    assert "The wall" not in caplog.text


def test_an_upgrade_that_may_not_keep_it_says_what_to_run(
    house: Walled, rebuild: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    ada = let_in(house)
    rebuild()
    # Another's now, so that it cannot be mended by this role.
    house.admin.execute("ALTER TABLE jupyter_session_store_wall OWNER TO CURRENT_USER")
    with engine_of(house.owner.url) as engine, caplog.at_level(logging.INFO):
        migrating.upgrade(engine)
    assert "has gaps since this change of the schema, and could not be mended" in caplog.text
    assert "Run: jupyter session-store wall --apply" in caplog.text
    # Nobody has rights on the new table: nothing is open.
    assert answer(ada, SERVERS) == "42501"


@pytest.mark.parametrize("by", ["upgrade", "start"])
def test_a_downgrade_to_base_keeps_what_was_granted(
    house: Walled, by: str, caplog: pytest.LogCaptureFixture
) -> None:
    ada = let_in(house)
    with engine_of(house.owner.url) as engine, caplog.at_level(logging.INFO):
        migrating.downgrade(engine, "base")
        assert answer(ada, SEEN) == "42P01"
        assert len(answer(house.owner, "SELECT * FROM jupyter_session_store_wall")) == 1
        if by == "upgrade":
            migrating.upgrade(engine)
        else:
            starting.ensure(engine, "safe")
    assert stands(house)
    assert "stands on the new tables, too." in caplog.text
    put(house)
    assert answer(ada, SEEN) == [("hub:ada/",)]


def test_without_a_wall_nothing_is_made(database: Database) -> None:
    with walled(database) as house, engine_of(house.owner.url) as engine:
        migrating.downgrade(engine, "base")
        starting.ensure(engine, "safe")
        migrating.upgrade(engine)
        with closing(database.connect()):
            rows = database.rows("SELECT count(*) FROM pg_policy")
        assert rows == [(0,)]
