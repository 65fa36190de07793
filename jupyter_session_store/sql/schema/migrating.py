"""The migrations of this installation: what each declares, and running them under a lock.

Alembic is imported only to do that: a server whose database is current starts without it.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError

from ...errors import ConfigurationError, SchemaMismatch, SessionStoreError, StoreUnavailable
from ..engine.backend import backend_of
from ..engine.timeouts import BUSY_TIMEOUT
from ..engine.url import describe, reason_of
from .locks import process_lock

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import Script

_HISTORY: Final = "To list them, run: jupyter session-store history"
#: As Alembic has them: a revision, a number of steps from here, or from a revision.
_TARGET: Final = re.compile(r"(?P<revision>\w*)(?P<steps>[+-]\d+)?")


@dataclass(frozen=True)
class Revision:
    """What a migration declares of itself.

    Parameters
    ----------
    id : str
    previous : str or None
        The revision before; ``None`` for the first.
    title : str
        What it does, in a few words.
    kind : str
        ``"expanding"``: code that worked with the revision before works with this
        one. ``"contracting"``: it takes away what such code needs.
    oldest_compatible_code : int
        The oldest generation of code (:data:`.versions.CODE`) that works with it.
    downgrade_loses : str or None
        What data is lost when it is undone, in words; ``None`` if nothing.
    """

    id: str
    previous: str | None
    title: str
    kind: str
    oldest_compatible_code: int
    downgrade_loses: str | None


def migrations_folder() -> Path:
    """Return the folder of the migrations: in the installed package, else beside it.

    Raises
    ------
    SchemaMismatch
        If the installation is not whole.
    """
    package = Path(__file__).parents[2]
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise SchemaMismatch(
        "The migrations are missing from this installation of jupyter_session_store; "
        "expected them inside the package. Reinstall it: "
        "pip install --force-reinstall jupyter_session_store"
    )


def known_revisions() -> frozenset[str]:
    """Return the ids of the revisions of this installation, read off the names of their files.

    Raises
    ------
    SchemaMismatch
        As :func:`migrations_folder`.
    """
    versions = migrations_folder() / "versions"
    return frozenset(path.name.partition("_")[0] for path in versions.glob("[0-9]*_*.py"))


def revisions() -> list[Revision]:
    """Return the revisions of this installation, the oldest first.

    Raises
    ------
    SchemaMismatch
        As :func:`migrations_folder`.
    """
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(alembic_config()).walk_revisions()
    return [_read_declaration(script) for script in scripts][::-1]


def _read_declaration(script: Script) -> Revision:
    previous = script.down_revision
    assert previous is None or isinstance(previous, str), "the revisions are one line"
    module = script.module
    return Revision(
        id=script.revision,
        previous=previous,
        title=script.doc,
        kind=module.KIND,
        oldest_compatible_code=int(module.OLDEST_COMPATIBLE_CODE),
        downgrade_loses=module.DOWNGRADE_LOSES,
    )


def upgrade_plan(current: str | None, target: str = "head") -> list[Revision]:
    """Return the revisions that an upgrade would run, in order.

    Parameters
    ----------
    current : str or None
        The revision of the database; ``None`` if it has none of the tables.
    target : str
        A revision, ``"head"``, or a number of steps from here (``"+1"``) or
        from a revision (``"0001+1"``).

    Returns
    -------
    list of Revision
        Empty if the database is there already.

    Raises
    ------
    ConfigurationError
        If there is no such revision, or it lies behind the database's.
    """
    known = revisions()
    here = _position(known, current)
    there = _target(known, here, target)
    if there < here:
        raise ConfigurationError(
            f"The target {target!r} lies behind the database, which is at revision {current}; "
            f"expected a later one, or head. {_HISTORY}"
        )
    return known[here:there]


def downgrade_plan(current: str | None, target: str) -> list[Revision]:
    """Return the revisions that a downgrade would undo, the newest first.

    As :func:`upgrade_plan`, but that `target` may be ``"base"`` (before the first
    revision), and must not lie ahead of the database's.
    """
    known = revisions()
    here = _position(known, current)
    there = _target(known, here, target)
    if there > here:
        raise ConfigurationError(
            f"The target {target!r} lies ahead of the database, which is at "
            f"{_at(current)}; expected an earlier one, or base. {_HISTORY}"
        )
    return known[there:here][::-1]


def _at(revision: str | None) -> str:
    return "no revision" if revision is None else f"revision {revision}"


def _position(known: list[Revision], current: str | None) -> int:
    """Return how many of the revisions a database has."""
    if current is None:
        return 0
    ids = [revision.id for revision in known]
    if current not in ids:
        raise ConfigurationError(
            f"Revision {current!r} is none of this installation's; expected {_join(ids)}. "
            f"{_HISTORY}"
        )
    return ids.index(current) + 1


def _target(known: list[Revision], here: int, target: str) -> int:
    """Return how many of the revisions a database has at a target."""
    places = {"base": 0, "head": len(known), "": here}
    places |= {revision.id: place for place, revision in enumerate(known, start=1)}
    found = _TARGET.fullmatch(target)
    begin = places.get(found["revision"]) if found and target else None
    place = None if found is None or begin is None else begin + int(found["steps"] or 0)
    if place is None or not 0 <= place <= len(known):
        ids = [revision.id for revision in known]
        raise ConfigurationError(
            f"The target {target!r} is no revision of this installation, and leads to none; "
            f"expected {_join(ids)}, head, base, or a number of steps such as +1 or -1. {_HISTORY}"
        )
    return place


def _join(ids: list[str]) -> str:
    return ids[0] if len(ids) == 1 else f"one of {', '.join(ids)}"


def alembic_config() -> Config:
    """Return Alembic's configuration for the installed migrations.

    Raises
    ------
    SchemaMismatch
        As :func:`migrations_folder`.
    """
    from alembic.config import Config

    # Not from alembic.ini, which is for the command: it changes the path of modules, for one.
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def upgrade(engine: Engine, revision: str = "head", *, log: logging.Logger | None = None) -> None:
    """Upgrade a database with Alembic, in process, under the migration lock.

    A SQLite file that has tables is backed up first: see :mod:`.backup`.
    May be called from any thread; those of one process take turns.

    Parameters
    ----------
    engine : Engine
    revision : str
        As :func:`upgrade_plan` has it.
    log : logging.Logger, optional
        Where it is said that another process's upgrade is waited for, and where
        a backup is; by default this package's own.

    Raises
    ------
    ConfigurationError
        If there is no such revision.
    SchemaMismatch
        If the role that the engine uses may not change the schema.
    StoreUnavailable
        If another process holds the lock for longer than :data:`.locks.LOCK_TIMEOUT`,
        a file cannot be backed up, or the database fails. The revision that was
        being run is undone then; MySQL and MariaDB, which cannot undo it, have it
        repeated by the next upgrade.
    """
    from alembic import command

    _run(engine, lambda config: command.upgrade(config, revision), log)


def downgrade(
    engine: Engine,
    revision: str,
    *,
    planned: Sequence[Revision] | None = None,
    log: logging.Logger | None = None,
) -> None:
    """Undo revisions with Alembic, in process, under the migration lock.

    It does not ask: :func:`downgrade_plan` says what data is lost.

    Parameters
    ----------
    engine : Engine
    revision : str
        As :func:`downgrade_plan` has it.
    planned : sequence of Revision, optional
        What was agreed to: the plan, which nothing but that may become.
    log : logging.Logger, optional
        As :func:`upgrade` has it.

    Raises
    ------
    ConfigurationError, SchemaMismatch, StoreUnavailable
        As :func:`upgrade`; the second also if, once the lock was had, other
        revisions would have been undone than those that were planned.
    """
    from alembic import command

    ids = None if planned is None else [one.id for one in planned]
    _run(engine, lambda config: command.downgrade(config, revision), log, ids)


def _run(
    engine: Engine,
    run: Callable[[Config], None],
    log: logging.Logger | None,
    planned: list[str] | None = None,
) -> None:
    from alembic.util.exc import CommandError

    config = alembic_config()
    try:
        with process_lock, migration_connection(engine) as connection:
            config.attributes["connection"] = connection
            config.attributes["log"] = log
            config.attributes["planned"] = planned
            run(config)
    except DBAPIError as error:
        raise refusal(error, engine.url) from error
    except CommandError as error:
        raise ConfigurationError(f"{error}. {_HISTORY}") from error


def refusal(error: DBAPIError, url: URL) -> SessionStoreError:
    """Return what is raised for an error of the database during a migration.

    Parameters
    ----------
    error : DBAPIError
    url : URL
        Of the database; no password of it is shown.

    Returns
    -------
    SchemaMismatch
        If the role may not do it.
    StoreUnavailable
        For any other reason.
    """
    reason = f"{describe(url)}: {reason_of(error, url)}"
    backend = backend_of(url)
    if backend.is_denied(error):
        return SchemaMismatch(
            f"This role may not change the schema ({reason}); expected one that may. "
            "Commands take the URL of such a role as: --url env:NAME"
        )
    if backend.is_lock_timeout(error):
        reason += (
            "; expected no transaction that uses the tables for longer than "
            f"{BUSY_TIMEOUT} s, such as a dump. Run it again when that has ended"
        )
    return StoreUnavailable(reason)


def sql_script(url: str, start: str | None, target: str, *, downgrade: bool = False) -> str:
    """Return the SQL that would bring a database from one revision to another.

    Nothing is connected to: the URL only says which SQL it is. MariaDB's is
    that of ``mariadb://``, MySQL's that of ``mysql://``.

    Parameters
    ----------
    url : str
        As in ``SessionManager.database_filepath``.
    start : str or None
        The revision that the database is at; ``None`` for one without our tables.
    target : str
        As :func:`upgrade_plan` or :func:`downgrade_plan` has it.
    downgrade : bool
        Whether to go back.

    Returns
    -------
    str
        A script, for the database's own client to run; empty if there is nothing to do.

    Raises
    ------
    ConfigurationError
        As the plan does, or if the URL is not usable.
    """
    from alembic import command

    plan = downgrade_plan(start, target) if downgrade else upgrade_plan(start, target)
    if not plan:
        return ""
    config = alembic_config()
    config.attributes["url"] = url
    config.output_buffer = output = io.StringIO()
    end = (plan[-1].previous or "base") if downgrade else plan[-1].id
    steps = end if start is None else f"{start}:{end}"
    # Alembic keeps its environment in globals of its own.
    with process_lock:
        (command.downgrade if downgrade else command.upgrade)(config, steps, sql=True)
    return output.getvalue()


@contextmanager
def migration_connection(engine: Engine) -> Iterator[Connection]:
    """Yield a connection whose transactions are real ones, as a migration needs."""
    with engine.connect() as connection:
        backend = backend_of(connection)
        if backend.migration_isolation is not None:
            connection.execution_options(isolation_level=backend.migration_isolation)
        # A migration takes as long as it takes, but every server that uses a table waits behind
        # one that waits for it: so it gives up before they do.
        if not backend.driver.set_migration_limits(connection):
            yield connection
            return
        try:
            yield connection
        finally:
            # Its limits end with it.
            connection.invalidate()
