"""The migrations of this installation: what each declares, and running them under a lock.

Alembic is imported only to do that: a server whose database is current starts without it.
"""

from __future__ import annotations

import io
import logging
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError

from ...errors import (
    ConfigurationError,
    RightMissing,
    SchemaMismatch,
    SessionStoreError,
    StoreUnavailable,
)
from ..engine import cutting
from ..engine.backend import Pooling, backend_of
from ..engine.timeouts import BUSY_TIMEOUT
from ..engine.url import describe, reason_of
from .locks import process_lock

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import Script

#: The kind of a revision that does not say it.
UNDECLARED: Final = "undeclared"
#: What a revision says of itself, beside what Alembic wants.
_DECLARED: Final = ("KIND", "OLDEST_COMPATIBLE_CODE", "DOWNGRADE_LOSES")
_HISTORY: Final = "To list them, run: jupyter session-store history"
#: As Alembic has them: a revision, a number of steps from here, or from a revision.
_TARGET: Final = re.compile(r"(?P<revision>\w*)(?P<steps>[+-]\d+)?")


@dataclass(frozen=True)
class Revision:
    """What a migration declares of itself.

    Code that worked with the revision before works with one that is ``"expanding"``; a
    ``"contracting"`` one takes away what code older than the generation
    `oldest_compatible_code` needs. `downgrade_loses` says in words what data is lost.
    One that is ``"undeclared"`` is as Alembic has written it, and is never run.
    """

    id: str
    previous: str | None
    title: str
    kind: str
    oldest_compatible_code: int | None
    downgrade_loses: str | None


def migrations_folder() -> Path:
    """Return the folder of the migrations: in the installed package, else beside it."""
    package = Path(__file__).parents[2]
    for folder in (package / "migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise SchemaMismatch(
        "The migrations are missing from this installation of jupyter_session_store; "
        "expected them inside the package. Reinstall it: "
        "pip install --force-reinstall jupyter_session_store"
    )


def is_installed() -> bool:
    """Return whether the migrations are those of an installed package, not of a checkout."""
    return migrations_folder().parent == Path(__file__).parents[2]


def known_revisions() -> frozenset[str]:
    """Return the ids of the revisions of this installation, read off the names of their files."""
    versions = migrations_folder() / "versions"
    # Those of releases have numbers, and what Alembic makes up, until it is finished, has not.
    return frozenset(path.name[:4] for path in versions.glob("[0-9][0-9][0-9][0-9]_*.py"))


def revisions() -> list[Revision]:
    """Return the revisions of this installation, the oldest first."""
    from alembic.script import ScriptDirectory

    try:
        scripts = list(ScriptDirectory.from_config(alembic_config()).walk_revisions())
    except Exception as error:
        # Files of others may lie there, and hold anything.
        first, *_ = str(error).splitlines() or [""]
        raise ConfigurationError(
            f"The revisions of this installation cannot be read ({type(error).__name__}: {first}); "
            "expected those that it came with alone. Remove the file that does not belong there: "
            f"ls -lt {shlex.quote(str(migrations_folder() / 'versions'))}"
        ) from error
    return [read_declaration(script) for script in scripts][::-1]


def read_declaration(script: Script) -> Revision:
    """Return what a revision declares, which may be nothing yet."""
    previous = script.down_revision
    kind, floor, loses = (getattr(script.module, name, None) for name in _DECLARED)
    return Revision(
        id=script.revision,
        # Where two lines are merged, it follows several.
        previous=previous if previous is None or isinstance(previous, str) else "+".join(previous),
        title=script.doc,
        kind=kind or UNDECLARED,
        oldest_compatible_code=int(floor) if floor else None,
        downgrade_loses=loses,
    )


def floor_at(revision: str) -> int:
    """Return the generation of code below which none can use a database at a known revision."""
    known = revisions()
    return max(one.oldest_compatible_code or 0 for one in known[: _position(known, revision)])


def upgrade_plan(current: str | None, target: str = "head") -> list[Revision]:
    """Return the revisions that an upgrade would run, in order.

    `current` is ``None`` for a database without our tables. The target is a revision,
    ``"head"``, or a number of steps from here (``"+1"``) or from a revision (``"0001+1"``).
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
    """Return Alembic's configuration for the installed migrations."""
    from alembic.config import Config

    # Not from alembic.ini, which is for the command: it changes the path of modules, for one.
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def upgrade(
    engine: Engine,
    revision: str = "head",
    *,
    from_nothing: bool = False,
    through_pooler: bool | None = None,
    log: logging.Logger | None = None,
) -> None:
    """Upgrade a database with Alembic, in process, under the migration lock.

    A SQLite file that has tables is backed up first: see :mod:`.backup`.
    May be called from any thread; those of one process take turns. A revision that
    fails is undone; MySQL and MariaDB, which cannot, have it repeated by the next upgrade.
    With `from_nothing` a revision that is recorded, and of which no table is left, is forgotten.
    Where a pooler keeps the lock from holding, `through_pooler` says whether to go on without it;
    by default no pooler is looked for.
    Raises what :func:`refusal` says; a ConfigurationError if there is no such revision.
    """
    from alembic import command

    def run(config: Config) -> None:
        config.attributes["from_nothing"] = from_nothing
        command.upgrade(config, revision)

    _run(engine, run, log, through_pooler=through_pooler)


def downgrade(
    engine: Engine,
    revision: str,
    *,
    planned: Sequence[Revision] | None = None,
    through_pooler: bool | None = None,
    log: logging.Logger | None = None,
) -> None:
    """Undo revisions with Alembic, in process, under the migration lock.

    It does not ask: :func:`downgrade_plan` says what data is lost. Where that was `planned`,
    nothing is undone if it would be other revisions once the lock is had. As for
    `through_pooler`, see :func:`upgrade`.
    """
    from alembic import command

    ids = None if planned is None else [one.id for one in planned]

    def run(config: Config) -> None:
        config.attributes["planned"] = ids
        command.downgrade(config, revision)

    _run(engine, run, log, through_pooler=through_pooler)


def _run(
    engine: Engine,
    run: Callable[[Config], None],
    log: logging.Logger | None,
    *,
    through_pooler: bool | None,
) -> None:
    from alembic.util.exc import CommandError

    config = alembic_config()
    try:
        if through_pooler is not None:
            config.attributes["unlocked"] = is_unlocked(engine)
            config.attributes["through_pooler"] = through_pooler
        with process_lock, migration_connection(engine) as connection:
            config.attributes["connection"] = connection
            config.attributes["log"] = log
            run(config)
    except DBAPIError as error:
        raise refusal(error, engine.url) from error
    except CommandError as error:
        raise ConfigurationError(f"{error}. {_HISTORY}") from error


def is_unlocked(engine: Engine) -> bool:
    """Return whether a pooler in between keeps the lock of migrations from holding."""
    if backend_of(engine).is_embedded:
        return False
    with engine.connect() as connection:
        return backend_of(connection).driver.pooling(connection) is Pooling.TRANSACTION


def refusal(error: DBAPIError, url: URL) -> SessionStoreError:
    """Return what an error during a migration becomes: a RightMissing or a StoreUnavailable."""
    reason = f"{describe(url)}: {reason_of(error, url)}"
    backend = backend_of(url)
    if backend.is_denied(error):
        return RightMissing(
            f"This role may not change the schema ({reason}); expected one that may. "
            "Commands take the URL of such a role as: --url env:NAME"
        )
    if backend.is_lock_timeout(error):
        reason += (
            "; expected no transaction that uses the tables for longer than "
            f"{BUSY_TIMEOUT} s, such as a dump. Run it again when that has ended"
        )
    elif cure := backend.cure_of(error):
        reason += f". {cure}"
    return StoreUnavailable(reason)


def sql_script(url: str, start: str | None, target: str, *, downgrade: bool = False) -> str:
    """Return the SQL that would bring a database from one revision to another.

    Nothing is connected to: the URL only says which SQL it is. MariaDB's is
    that of ``mariadb://``, MySQL's that of ``mysql://``. `start` is ``None`` for a
    database without our tables.
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
def migration_connection(engine: Engine, *, brief: bool = False) -> Iterator[Connection]:
    """Yield a connection whose transactions are real ones, as a migration needs.

    Each of its statements takes as long as it takes, unless it hangs, as
    :func:`.cutting.connected` finds it out; where each is `brief`, it has the time of any other.
    """
    with cutting.connected(engine) as connection:
        backend = backend_of(connection)
        if backend.migration_isolation is not None:
            connection.execution_options(isolation_level=backend.migration_isolation)
        # A migration takes as long as it takes, but every server that uses a table waits behind
        # one that waits for it: so it gives up before they do.
        has_limits = backend.driver.set_migration_limits(connection)
        if not brief:
            cutting.spare(connection)
        try:
            yield connection
        finally:
            if has_limits:
                # They end with it.
                connection.invalidate()
