"""What a server does about the schema when it starts.

In an empty database it makes the tables that the migrations make, to the letter, and records them
as theirs. But it is the model that is asked, and not Alembic, which would stay in the memory of
the server: 12 MiB, and a quarter of a second of its start.
"""

from __future__ import annotations

import logging

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    delete,
    func,
    insert,
    inspect,
    select,
)
from sqlalchemy.exc import DBAPIError

from ...errors import SchemaMismatch
from ..engine.backend import backend_of
from ..engine.url import describe
from ..tables import META, METADATA
from . import backup, locks, migrating, versions
from .versions import State

#: As Alembic makes it.
_VERSION: Table = Table(
    versions.VERSION_TABLE,
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name=f"{versions.VERSION_TABLE}_pkc"),
)


def ensure(engine: Engine, auto_upgrade: str, log: logging.Logger | None = None) -> versions.Status:
    """Check that the schema fits, and upgrade it where that is allowed.

    With ``"safe"`` an empty database and a SQLite file that is behind are
    upgraded, with ``"always"`` a server database that is behind, too, with ``"never"``
    none. What does not fit then is a SchemaMismatch. Where another process is upgrading it, that
    is waited for: between two of its revisions, a new database looks like an old one.
    """
    local = backend_of(engine).is_embedded
    may = {
        State.EMPTY: auto_upgrade != "never",
        State.BEHIND: auto_upgrade == "always" or (auto_upgrade == "safe" and local),
    }
    with engine.connect() as connection:
        found = versions.status(connection)
        if not may.get(found.state, True):
            locks.wait_for_migration(connection, log=log)
            found = versions.status(connection)
    if found.usable:
        return found
    if not may.get(found.state, False):
        raise SchemaMismatch(versions.explain(found, describe(engine.url)))
    try:
        if found.state is State.EMPTY:
            create(engine, log)
            found = _look(engine)
        if may.get(found.state, False):
            # Where an older server was faster, or was killed half way.
            migrating.upgrade(engine, log=log)
            found = _look(engine)
    except SchemaMismatch as error:
        lack = versions.describe_lack(found, describe(engine.url))
        raise SchemaMismatch(f"{lack}. {error}") from error
    if not found.usable:
        raise SchemaMismatch(versions.explain(found, describe(engine.url)))
    return found


def _look(engine: Engine) -> versions.Status:
    with engine.connect() as connection:
        return versions.status(connection)


def create(engine: Engine, log: logging.Logger | None = None) -> None:
    """Make the tables under the migration lock, unless another process was faster.

    A SQLite file that has other tables is backed up first. What was killed half way is made
    whole. Raises what :func:`.migrating.refusal` says.
    """
    try:
        with (
            locks.process_lock,
            # Else a connection that hangs here would keep the server from its database for ever.
            migrating.migration_connection(engine, brief=True) as connection,
            locks.migration_lock(connection, log=log),
        ):
            _create(connection, log)
            if not backend_of(connection).is_embedded:
                # Imported late: few databases have one, and most servers find the tables.
                from . import wall

                connection.commit()
                wall.keep(connection, log or logging.getLogger("jupyter_session_store"))
    except DBAPIError as error:
        raise migrating.refusal(error, engine.url) from error


def _create(connection: Connection, log: logging.Logger | None) -> None:
    inspector = inspect(connection)
    is_there = inspector.has_table(_VERSION.name)
    if is_there and connection.scalar(select(func.count()).select_from(_VERSION)):
        return
    half_made = [one for one in METADATA.sorted_tables if inspector.has_table(one.name)]
    for table in half_made:
        if set(table.columns.keys()) - {one["name"] for one in inspector.get_columns(table.name)}:
            # An upgrade was killed in its first revision, where DDL survives: Alembic goes on.
            return
    if backend_of(connection).is_embedded:
        backup.back_up(connection, None, log)
    # First: without it, what is half made would be taken for another program's.
    if not is_there:
        _VERSION.create(connection)
    for table in METADATA.sorted_tables:
        if table not in half_made:
            table.create(connection)
            continue
        for index in sorted(table.indexes, key=lambda one: str(one.name)):
            # To look for one takes PostgreSQL as long as to make a table.
            index.create(connection, checkfirst=True)
    floor = {"name": versions.OLDEST_COMPATIBLE_CODE, "value": str(versions.FLOOR)}
    connection.execute(delete(META).where(META.c.name == floor["name"]))
    connection.execute(insert(META), floor)
    connection.execute(insert(_VERSION), {"version_num": versions.HEAD})
