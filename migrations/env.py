"""Alembic's environment: for the ``alembic`` command, and for a server that upgrades at start."""

from __future__ import annotations

import logging
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from difflib import get_close_matches
from logging.config import fileConfig
from typing import TYPE_CHECKING, Any, Final, NoReturn

from alembic import context
from alembic.runtime.migration import MigrationContext, RevisionStep
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from traitlets import TraitError

from jupyter_session_store.errors import ConfigurationError, SchemaMismatch, SessionStoreError
from jupyter_session_store.locations import named
from jupyter_session_store.sql.engine import create
from jupyter_session_store.sql.engine.backend import backend_of
from jupyter_session_store.sql.engine.url import describe, parse
from jupyter_session_store.sql.schema import backup, locks, migrating, rights, versions, wall
from jupyter_session_store.sql.tables import METADATA

if TYPE_CHECKING:
    from alembic.script import Script

    from jupyter_session_store.config.settings import Settings

#: The keys of ``-x``, and how each is given.
KEYS: Final = {
    "url": "-x url=env:NAME, -x url=file:PATH, -x url= and a path or a URL without a password",
    "yes": "-x yes=true",
    "through_pooler": "-x through_pooler=true",
}
#: Alembic's commands that write; ``None`` is a caller in this process, which changes the schema.
WRITING: Final = frozenset({None, "upgrade", "downgrade", "stamp", "ensure_version"})
#: How Alembic finds what to run: given the revisions that a database is at.
Steps = Callable[[tuple[str, ...], MigrationContext], Iterable[Any]]

config = context.config
settings: dict[str, Any] = {
    "target_metadata": METADATA,
    "version_table": versions.VERSION_TABLE,
    # The database may be shared with anything: autogenerate sees our tables alone.
    "include_name": lambda name, kind, _parents: kind != "table" or name in METADATA.tables,
    "compare_type": True,
}


def run_offline() -> None:
    """Print the SQL, for ``--sql``: the URL only tells the dialect."""
    url = parse(config.attributes.get("url") or _settings(_arguments()).url)
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
    command, given = _command(), _arguments()
    if command == "revision" and migrating.is_installed():
        _refuse_to_write()
    found = _settings(given)
    with named(found.source):
        engine = create(found.url, found.engine_options, statement_timeout=False)
    # Before it is touched: a default is easily taken for another database.
    logging.getLogger("jupyter_session_store").info("The database: %s", describe(engine.url))
    try:
        if command == "upgrade":
            _refuse_damaged(engine)
        if command in ("upgrade", "downgrade"):
            config.attributes["unlocked"] = migrating.is_unlocked(engine)
            config.attributes["through_pooler"] = "through_pooler" in given
        with migrating.migration_connection(engine) as own:
            migrate(own)
    except DBAPIError as error:
        raise migrating.refusal(error, engine.url) from error
    finally:
        engine.dispose()


def _command() -> str | None:
    """Return the name of Alembic's command, or ``None`` for what runs in another process."""
    command, *_ = getattr(config.cmd_opts, "cmd", None) or (None,)
    return getattr(command, "__name__", None)


def _refuse_to_write() -> None:
    """Refuse to write a revision where the next installation of the package removes it."""
    raise ConfigurationError(
        f"A revision would be written into the installed package ({migrating.migrations_folder()}"
        "), which the next installation replaces; expected a checkout of the project. Nothing "
        "was written. In a checkout, with a database that is at head: alembic -x url=PATH "
        "revision --autogenerate -m '...'"
    )


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
    # Twice: only then has Alembic said how it finds its steps.
    with _silence("alembic.runtime.migration"):
        context.configure(**options)
    steps = _Steps(context.get_context().opts["fn"], log)
    context.configure(**options, fn=steps)
    _look_ahead(connection, steps)
    if not file:
        with _unhidden_interrupt(), _lock(connection, log) as steps.check_lock:
            forget_what_is_lost(connection)
            connection.commit()
            context.run_migrations()
            wall.keep(connection, log or logging.getLogger("jupyter_session_store"))
            steps.tell_grants(connection)
        return
    with context.begin_transaction(), locks.migration_lock(connection, log=log):
        forget_what_is_lost(connection)
        context.run_migrations()
    if steps.leave_tables:
        # Who is using the file now may keep it as it is; the next server sets it.
        with suppress(DBAPIError):
            backend_of(connection).keep_journal(connection)


@contextmanager
def _silence(name: str) -> Iterator[None]:
    """Keep a logger from saying for the first time what it says again."""
    logger = logging.getLogger(name)
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = False


def _lock(
    connection: Connection, log: logging.Logger | None
) -> AbstractContextManager[Callable[[], None]]:
    """Hold the lock, but where a pooler keeps it from holding: there it would never be released."""
    if config.attributes.get("unlocked"):
        return nullcontext(lambda: None)
    return locks.migration_lock(connection, log=log, changes=_command() in WRITING)


def _look_ahead(connection: Connection, steps: _Steps) -> None:
    """Refuse, or ask about, what is about to be run: nobody waits for an answer under the lock."""
    unlocked, command = config.attributes.get("unlocked"), _command()
    if not unlocked and command != "downgrade":
        return
    heads = context.get_context().get_current_heads()
    found = steps.find(heads, context.get_context())
    runs = found or config.attributes.get("from_nothing")
    if runs and unlocked and not config.attributes.get("through_pooler"):
        _refuse_unlocked(connection)
    if found and command == "downgrade":
        config.attributes["planned"] = [one.id for one in found]
        _agree_to_lose(connection, found)
    connection.rollback()


def _refuse_unlocked(connection: Connection) -> NoReturn:
    direct, through = "--url env:DIRECT_URL", "--through-pooler"
    if _command() is not None:
        direct, through = "-x url=env:DIRECT_URL", "-x through_pooler=true"
    raise ConfigurationError(
        f"Between this process and {describe(connection.engine.url)} is a pooler in transaction "
        "mode, through which the lock that keeps two upgrades apart does not hold; expected the "
        f"server itself. Nothing was changed. Name it: {direct}. If there is no way to it, and "
        f"nothing else upgrades meanwhile: {through}"
    )


def _agree_to_lose(connection: Connection, undone: Sequence[migrating.Revision]) -> None:
    """Ask before data is lost; without a terminal it takes ``-x yes=true``."""
    if not any(one.downgrade_loses for one in undone):
        return
    lines = rights.losses(connection, undone)
    # An open transaction would keep others waiting for as long as the answer takes.
    connection.rollback()
    count = f"{len(undone)} revision{'s' if len(undone) != 1 else ''}"
    question = f"Undo {count} of {describe(connection.engine.url)}?"
    told = "".join(f"{line}\n" for line in lines)
    if "yes" in _arguments():
        sys.stderr.write(told)
        return
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"{told}{question} There is no terminal to ask at; expected -x yes=true. Nothing was "
            "changed."
        )
    sys.stderr.write(f"{told}{question} [y/N] ")
    sys.stderr.flush()
    answer = ""
    with suppress(KeyboardInterrupt):
        answer = sys.stdin.readline()
    if answer.strip().lower() not in ("y", "yes"):
        raise ConfigurationError("It was not confirmed. Nothing was changed.")


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
    if not METADATA.tables.keys() & set(inspect(connection).get_table_names()):
        connection.exec_driver_sql(f"DELETE FROM {versions.VERSION_TABLE}")


class _Steps:
    """What Alembic asks, under the lock, for the steps that it will take.

    Only then is it known whether there are any; a stamp, and a look, are none.
    """

    def __init__(self, steps: Steps, log: logging.Logger | None) -> None:
        self._steps = steps
        self._log = log
        self._tables: set[str] | None = None
        self.leave_tables = False
        #: Raises what ends the steps if the lock has been lost.
        self.check_lock: Callable[[], None] = lambda: None

    def find(self, heads: tuple[str, ...], migration: MigrationContext) -> list[migrating.Revision]:
        """Return the revisions that would be run or undone, in this order."""
        return [
            migrating.read_declaration(step.revision)
            for step in self._steps(heads, migration)
            if isinstance(step, RevisionStep)
        ]

    def __call__(self, heads: tuple[str, ...], migration: MigrationContext) -> Iterator[Any]:
        for step in self._prepared(heads, migration):
            self.check_lock()
            yield step

    def _prepared(self, heads: tuple[str, ...], migration: MigrationContext) -> list[Any]:
        taken = list(self._steps(heads, migration))
        revisions = [step for step in taken if isinstance(step, RevisionStep)]
        if not revisions:
            return taken
        _refuse_undeclared([step.revision for step in revisions])
        _refuse_what_was_not_planned([step.revision.revision for step in revisions], heads)
        connection = migration.connection
        assert connection is not None
        if backend_of(connection).is_embedded:
            backup.back_up(connection, "+".join(heads), self._log)
            last = revisions[-1]
            self.leave_tables = last.is_upgrade or last.revision.down_revision is not None
        else:
            self._tables = _our_tables(connection)
            if not heads:
                # Alembic has just made it, or could have.
                self._tables.discard(versions.VERSION_TABLE)
        return taken

    def tell_grants(self, connection: Connection) -> None:
        """Say what the role of servers needs on the tables that were made."""
        if self._tables is None:
            return
        made = _our_tables(connection) - self._tables
        if needed := rights.grants_for_servers(connection, made):
            (self._log or logging.getLogger("jupyter_session_store")).info(
                "Servers that log in as another role need on the new tables:%s",
                "".join(f"\n  {statement}" for statement in needed),
            )


def _our_tables(connection: Connection) -> set[str]:
    ours = {versions.VERSION_TABLE, *METADATA.tables}
    return ours & set(inspect(connection).get_table_names())


def _refuse_undeclared(scripts: Sequence[Script]) -> None:
    """Refuse a revision that is as Alembic has written it: it says nothing of what it does."""
    for script in scripts:
        if migrating.read_declaration(script).kind == migrating.UNDECLARED:
            raise ConfigurationError(
                f"The revision {script.revision} does not declare its KIND, "
                "OLDEST_COMPATIBLE_CODE and DOWNGRADE_LOSES; expected one that is finished. "
                "Nothing was changed. Finish it, or remove it: rm "
                f"{shlex.quote(str(script.path))}"
            )


def _refuse_what_was_not_planned(found: list[str], heads: tuple[str, ...]) -> None:
    planned: list[str] | None = config.attributes.get("planned")
    if planned is None or found == planned:
        return
    at, agreed = "+".join(heads) or "no revision", ", ".join(planned) or "nothing"
    raise SchemaMismatch(
        f"The database is at revision {at} now, where {', '.join(found)} would be undone; "
        f"expected to undo {agreed}, as was planned before another process changed it. Nothing "
        "was changed. Run the same command again."
    )


def _arguments() -> dict[str, str]:
    """Return what was given by ``-x``, and refuse what is not known: a slip would be passed over.

    No value is repeated, nor a key that is no name: either may be a URL.
    """
    found: dict[str, str] = {}
    for given in context.get_x_argument():
        key, equals, value = given.partition("=")
        if key not in KEYS:
            _refuse_unknown(key if equals else "")
        if key in found:
            raise ConfigurationError(f"Found -x {key} twice; expected it once.")
        if key != "url" and value != "true":
            raise ConfigurationError(f"-x {key} has another value; expected {KEYS[key]}.")
        found[key] = value
    return found


def _refuse_unknown(key: str) -> NoReturn:
    name = f" {key!r}" if re.fullmatch(r"[A-Za-z][\w-]{0,30}", key) else ""
    near = get_close_matches(key, KEYS, n=1)
    hint = f" Did you mean -x {near[0]}=...?" if name and near else ""
    raise ConfigurationError(
        f"alembic was given an argument -x{name} that is not known here; expected "
        f"{', '.join(KEYS.values())}.{hint}"
    )


def _settings(given: dict[str, str]) -> Settings:
    # Imported late: a server that upgrades gives its connection, and has read its own settings.
    from jupyter_session_store.config.settings import Settings

    if "url" in given:
        return Settings.from_argument(given["url"], source="-x url")
    if configured := config.get_main_option("sqlalchemy.url"):
        return Settings.from_jupyter(configured)
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
