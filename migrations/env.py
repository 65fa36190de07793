"""Alembic's environment: for the ``alembic`` command, and for a server that upgrades at start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from logging.config import fileConfig
from typing import TYPE_CHECKING, Any

from alembic import context
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from traitlets import TraitError

from jupyter_session_store.errors import ConfigurationError, SchemaMismatch, SessionStoreError
from jupyter_session_store.sql.engine import create
from jupyter_session_store.sql.engine.backend import backend_of
from jupyter_session_store.sql.engine.url import describe, parse
from jupyter_session_store.sql.models import Base
from jupyter_session_store.sql.schema import backup, locks, migrating, versions

if TYPE_CHECKING:
    from jupyter_session_store.config.settings import Settings

#: How Alembic finds what to run: given the revisions that a database is at.
Steps = Callable[[tuple[str, ...], MigrationContext], Iterable[Any]]

config = context.config
settings: dict[str, Any] = {
    "target_metadata": Base.metadata,
    "version_table": versions.VERSION_TABLE,
    # The database may be shared with anything: autogenerate sees our tables alone.
    "include_name": lambda name, kind, _parents: kind != "table" or name in Base.metadata.tables,
    "compare_type": True,
}


def run_offline() -> None:
    """Print the SQL, for ``--sql``: the URL only tells the dialect."""
    url = parse(config.attributes.get("url") or _settings().url)
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
    engine = create(found.url, found.engine_options, statement_timeout=False)
    # Before it is touched: a default is easily taken for another database.
    logging.getLogger("jupyter_session_store").info("The database: %s", describe(engine.url))
    try:
        if _is_upgrade():
            _refuse_damaged(engine)
        with migrating.migration_connection(engine) as own:
            migrate(own)
    except DBAPIError as error:
        raise migrating.refusal(error, engine.url) from error
    finally:
        engine.dispose()


def _is_upgrade() -> bool:
    """Return whether this is the command ``alembic upgrade``."""
    command, *_ = getattr(config.cmd_opts, "cmd", None) or (None,)
    return getattr(command, "__name__", None) == "upgrade"


def _refuse_damaged(engine: Engine) -> None:
    """Refuse what Alembic would take for upgraded, by the record of a revision alone."""
    with engine.connect() as connection:
        found = versions.status(connection)
    if found.state is not versions.State.DAMAGED:
        return
    if not found.is_bare:
        raise SchemaMismatch(versions.explain(found, describe(engine.url)))
    config.attributes["from_nothing"] = True


def migrate(connection: Connection) -> None:
    """Run the migrations under the lock.

    On SQLite the lock is one transaction around all of them, which Alembic has
    to believe is its own; elsewhere each has its own, so that one may leave it
    (``CREATE INDEX CONCURRENTLY``), and the lock is the session's.
    """
    # A server has its own log; the command's is this package's, as alembic.ini says.
    log = config.attributes.get("log")
    file = backend_of(connection).is_embedded
    options: dict[str, Any] = {"connection": connection, **settings}
    if file:
        options |= {"transactional_ddl": True, "render_as_batch": True}
    else:
        options["transaction_per_migration"] = True
    context.configure(**options)
    # Again, now that Alembic has said how it finds its steps.
    steps = _Steps(context.get_context().opts["fn"], log)
    context.configure(**options, fn=steps)
    if not file:
        with _unhidden_interrupt(), locks.migration_lock(connection, log=log):
            forget_what_is_lost(connection)
            connection.commit()
            context.run_migrations()
        return
    with context.begin_transaction(), locks.migration_lock(connection, log=log):
        forget_what_is_lost(connection)
        context.run_migrations()
    if steps.leave_tables:
        # Who is using the file now may keep it as it is; the next server sets it.
        with suppress(DBAPIError):
            backend_of(connection).keep_journal(connection)


@contextmanager
def _unhidden_interrupt() -> Iterator[None]:
    """Raise an interrupt as it was: at the end of a block in autocommit Alembic hides it.

    It commits there on the connection that the interrupt has ended.
    """
    try:
        yield
    except PendingRollbackError as error:
        hidden: BaseException | None = error
        while isinstance(hidden, Exception):
            hidden = hidden.__context__
        raise hidden or error from None


def forget_what_is_lost(connection: Connection) -> None:
    """Forget a revision of which no table is left, if that was asked for.

    A downgrade to base leaves it where it was killed at its end.
    """
    if not config.attributes.get("from_nothing"):
        return
    if not Base.metadata.tables.keys() & set(inspect(connection).get_table_names()):
        connection.exec_driver_sql(f"DELETE FROM {versions.VERSION_TABLE}")


class _Steps:
    """What Alembic asks, under the lock, for the steps that it will take.

    Only then is it known whether there are any; a stamp, and a look, are none.
    """

    def __init__(self, steps: Steps, log: logging.Logger | None) -> None:
        self._steps = steps
        self._log = log
        self.leave_tables = False

    def __call__(self, heads: tuple[str, ...], migration: MigrationContext) -> list[Any]:
        taken = list(self._steps(heads, migration))
        revisions = [step for step in taken if isinstance(step, RevisionStep)]
        if not revisions:
            return taken
        _refuse_what_was_not_planned([step.revision.revision for step in revisions], heads)
        connection = migration.connection
        assert connection is not None
        if backend_of(connection).is_embedded:
            backup.back_up(connection, "+".join(heads), self._log)
            last = revisions[-1]
            self.leave_tables = last.is_upgrade or last.revision.down_revision is not None
        return taken


def _refuse_what_was_not_planned(found: list[str], heads: tuple[str, ...]) -> None:
    planned: list[str] | None = config.attributes.get("planned")
    if planned is None or found == planned:
        return
    at = "+".join(heads) or "no revision"
    raise SchemaMismatch(
        f"The database is at revision {at} now, where {', '.join(found)} would be undone; "
        f"expected to undo {', '.join(planned)}, as was planned before another process changed "
        "it. Nothing was changed. Run the same command again."
    )


def _settings() -> Settings:
    # Imported late: a server that upgrades gives its connection, and has read its own settings.
    from jupyter_session_store.config.settings import Settings

    arguments: dict[str, Any] = context.get_x_argument(as_dictionary=True)
    if arguments.keys() - {"url"}:
        # Not what stands there is shown, which may be a URL.
        raise ConfigurationError(
            "alembic was given an argument -x that is not known here; expected "
            "-x url=env:NAME, -x url=file:PATH, or -x url= and a path or a URL without a password."
        )
    if "url" in arguments:
        return Settings.from_argument(arguments["url"])
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
