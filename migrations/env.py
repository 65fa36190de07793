"""Alembic's environment: for the ``alembic`` command, and for a server that upgrades at start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from logging.config import fileConfig
from typing import TYPE_CHECKING, Any

from alembic import context
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.util.exc import CommandError
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from traitlets import TraitError

from jupyter_session_store.errors import SessionStoreError
from jupyter_session_store.sql import backup, locks, migrating, schema
from jupyter_session_store.sql import engine as engines
from jupyter_session_store.sql.models import Base

if TYPE_CHECKING:
    from jupyter_session_store.settings import Settings

#: How Alembic finds what to run: given the revisions that a database is at.
Steps = Callable[[tuple[str, ...], MigrationContext], Iterable[Any]]

config = context.config
settings: dict[str, Any] = {
    "target_metadata": Base.metadata,
    "version_table": schema.VERSION_TABLE,
    # The database may be shared with anything: autogenerate sees our tables alone.
    "include_name": lambda name, kind, _parents: kind != "table" or name in Base.metadata.tables,
    "compare_type": True,
}


def run_offline() -> None:
    """Print the SQL, for ``--sql``: the URL only tells the dialect."""
    url = engines.parse(config.attributes.get("url") or _settings().url)
    context.configure(
        dialect_name=url.get_backend_name(),
        literal_binds=True,
        transaction_per_migration=True,
        **settings,
    )
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    """Upgrade or downgrade, on the caller's connection if it gave one."""
    connection: Connection | None = config.attributes.get("connection")
    if connection is not None:
        migrate(connection)
        return
    found = _settings()
    engine = engines.create(found.url, found.engine_options)
    try:
        with migrating.migration_connection(engine) as own:
            migrate(own)
    except DBAPIError as error:
        raise migrating.refusal(error, engine.url) from error
    finally:
        engine.dispose()


def migrate(connection: Connection) -> None:
    """Run the migrations under the lock.

    On SQLite the lock is one transaction around all of them, which Alembic has
    to believe is its own; elsewhere each has its own, so that one may leave it
    (``CREATE INDEX CONCURRENTLY``), and the lock is the session's.
    """
    # A server has its own log; the command's is this package's, as alembic.ini says.
    log = config.attributes.get("log")
    if connection.dialect.name == "sqlite":
        options = {"transactional_ddl": True, "render_as_batch": True, **settings}
        context.configure(connection=connection, **options)
        # Again, now that Alembic has said how it finds its steps.
        steps = _after_a_backup(context.get_context().opts["fn"], log)
        context.configure(connection=connection, fn=steps, **options)
        with context.begin_transaction(), locks.migration_lock(connection, log=log):
            context.run_migrations()
    else:
        context.configure(connection=connection, transaction_per_migration=True, **settings)
        with locks.migration_lock(connection, log=log):
            context.run_migrations()


def _after_a_backup(steps: Steps, log: logging.Logger | None) -> Steps:
    """Return what Alembic asks, under the lock, for the steps that it will take.

    Only then is it known whether there are any; a stamp, and a look, are none.
    """

    def found(heads: tuple[str, ...], migration: MigrationContext) -> list[Any]:
        taken = list(steps(heads, migration))
        if any(isinstance(step, RevisionStep) for step in taken):
            assert migration.connection is not None
            backup.back_up(migration.connection, "+".join(heads), log)
        return taken

    return found


def _settings() -> Settings:
    # Imported late: a server that upgrades gives its connection, and has read its own settings.
    from jupyter_session_store.settings import Settings

    arguments = context.get_x_argument(as_dictionary=True)
    if given := arguments.get("url"):
        return Settings.from_argument(given)
    if given := config.get_main_option("sqlalchemy.url"):
        return Settings.from_jupyter(given)
    return Settings.from_jupyter()


if config.config_file_name is not None:
    # Only for the command line: a server's logging is its own.
    fileConfig(config.config_file_name, disable_existing_loggers=False)
    logging.captureWarnings(True)

try:
    if context.is_offline_mode():
        run_offline()
    else:
        run_online()
except (SessionStoreError, TraitError) as error:
    if config.config_file_name is None:
        raise
    # The command prints it, without a traceback that says nothing to who runs it.
    raise CommandError(str(error)) from None
