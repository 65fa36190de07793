"""What may be wrong with a database and with the way to it, each thing examined by itself.

Nothing is changed. What cannot be examined is unknown, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Final

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from ..engine import cutting
from ..engine.backend import backend_of
from ..engine.url import describe, sqlite_file
from ..schema import overloads, rights, versions
from ..schema import wall as schema_wall
from . import common, wall
from .connection import connect
from .findings import Examinations, Finding, Outcome, Verdict, failed, reason, unknown

__all__ = ["CONNECTION", "Finding", "Verdict", "examine", "examine_wall"]

#: The finding after which, if it failed, there are no more.
CONNECTION: Final = "connection"

#: The finding that has the statements which give a role what it lacks: once, for all findings.
_SEE_RIGHTS: Final = "See rights."

_TABLES: Final[Mapping[str, Callable[[Connection], Outcome]]] = {
    "rights": common.rights,
    "sessions": common.sessions,
    "strangers": common.unknown_authorities,
}


def _examinations_of(engine: Engine) -> Examinations:
    module = backend_of(engine).examinations
    if module is None:
        # A dialect that another package brings.
        return Examinations({"server": common.server})
    found: Examinations = import_module(f".{module}", __name__).EXAMINATIONS
    return found


def examine(engine: Engine) -> Iterator[Finding]:
    """Yield what is found, one after the other; after a :data:`CONNECTION` that failed, no more.

    The engine's statements have a time-out: an examination that takes longer is given up.
    """
    for name, look in (
        ("database", common.database),
        ("packages", common.packages),
        ("driver", common.driver),
    ):
        yield Finding(name, *look(engine))
    examinations = _examinations_of(engine)
    yield from _file(engine, examinations)
    connected = Finding(CONNECTION, *connect(engine))
    yield connected
    if connected.verdict is Verdict.FAILED:
        return
    compared = examinations.hosts(engine) if examinations.hosts is not None else None
    if compared is not None:
        yield Finding("hosts", *compared)
    for name, examination in examinations.server.items():
        yield _examine(name, engine, examination)
    yield from _tables(engine, examinations)


def examine_wall(engine: Engine) -> Iterator[Finding]:
    """Yield what is found of the wall between users, and of what may go round it.

    Without a wall the first is all, and where an examination would itself run what others have
    made. Only for a database that can have a wall, with its tables.
    """
    for name, look in wall.EXAMINATIONS.items():
        yield _examine(name, engine, look, grants=True)
        with cutting.connected(engine) as connection:
            if not schema_wall.exists(connection) or overloads.find(connection):
                return


def _file(engine: Engine, examinations: Examinations) -> Iterator[Finding]:
    path = sqlite_file(engine.url)
    if path is None or not path.exists():
        return
    for name, look in examinations.file.items():
        try:
            outcome = look(path)
        except Exception as error:
            outcome = _not_examined(error, engine)
        yield Finding(name, *outcome)


def _tables(engine: Engine, examinations: Examinations) -> Iterator[Finding]:
    found: versions.Status | None = None
    elsewhere = examinations.elsewhere
    try:
        with cutting.connected(engine) as connection:
            found = versions.status(connection)
            outcome = common.revision(found, describe(engine.url))
            if found.state is versions.State.EMPTY and elsewhere is not None:
                outcome = elsewhere(connection) or outcome
    except Exception as error:
        outcome = _not_examined(error, engine)
        if _lacks_rights(error, engine):
            outcome = failed(
                f"It may not be read: {reason(error, engine.url)}; expected that servers may. "
                f"{_SEE_RIGHTS}"
            )
    yield Finding("revision", *outcome)
    may = examinations.may_change_schema
    if found is not None and may is not None:
        status = found
        yield _examine("schema rights", engine, lambda c: common.schema_rights(may(c), status))
    if found is not None and not found.usable:
        return
    if found is not None and found.state is versions.State.CURRENT:
        # What a newer release has is not known here.
        yield _examine("keys", engine, common.keys)
    # Those whose revision cannot be told have to be asked for the reason.
    for name, look in {**_TABLES, **examinations.tables}.items():
        yield _examine(name, engine, look)


def _examine(
    name: str, engine: Engine, look: Callable[[Connection], Outcome], *, grants: bool = False
) -> Finding:
    try:
        # One of its own: the last examination may have broken its connection.
        with cutting.connected(engine) as connection:
            outcome = look(connection)
    except Exception as error:
        outcome = _not_examined(error, engine, grants=grants)
    return Finding(name, *outcome)


def _not_examined(error: Exception, engine: Engine, *, grants: bool = False) -> Outcome:
    """Say why something was not examined, with the grants it takes if no other finding has them."""
    text = f"It could not be examined: {reason(error, engine.url)}."
    if cure := backend_of(engine).cure_of(error):
        return unknown(text, cure)
    if not _lacks_rights(error, engine):
        return unknown(text)
    if grants and (missing := rights.find_missing_grants(engine)):
        return unknown(text, missing)
    return unknown(f"{text} {_SEE_RIGHTS}")


def _lacks_rights(error: Exception, engine: Engine) -> bool:
    """Return whether an error is a right on the tables that the role lacks."""
    if not isinstance(error, DBAPIError) or not backend_of(engine).is_denied(error):
        return False
    try:
        with engine.connect() as connection:
            return bool(rights.lacking(connection))
    except Exception:
        # It was to help with an error, which is told.
        return False
