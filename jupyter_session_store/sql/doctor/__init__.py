"""What may be wrong with a database and with the way to it, each thing examined by itself.

Nothing is changed. What cannot be examined is unknown, and the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

from sqlalchemy import Connection, Engine

from ..engine.factory import describe, sqlite_file
from ..schema import compatibility
from . import general, mysql, postgresql, sqlite
from .connecting import connect
from .findings import Finding, Outcome, Verdict, reason, unknown

__all__ = ["CONNECTION", "Finding", "Verdict", "examine"]

#: The finding after which, if it failed, there are no more.
CONNECTION: Final = "connection"

_Examinations = Mapping[str, Callable[[Connection], Outcome]]

_POSTGRESQL: Final[_Examinations] = {
    "server": general.server,
    "writes": postgresql.writable,
    "encoding": postgresql.encoding,
    "TLS": postgresql.tls,
    "pooler": postgresql.pooler,
    "connections": postgresql.connections,
    "clock": general.clock,
}
_MYSQL: Final[_Examinations] = {
    "server": general.server,
    "writes": mysql.writable,
    "TLS": mysql.tls,
    "pooler": mysql.pooler,
    "connections": mysql.connections,
    "clock": general.clock,
}
_BACKENDS: Final[Mapping[str, _Examinations]] = {
    "sqlite": {"journal": sqlite.journal, "integrity": sqlite.integrity},
    "postgresql": _POSTGRESQL,
    "mysql": _MYSQL,
    "mariadb": _MYSQL,
}
#: For a dialect that another package brings.
_ANY: Final[_Examinations] = {"server": general.server}
_SCHEMA_RIGHTS: Final[Mapping[str, Callable[[Connection], bool | None]]] = {
    "postgresql": postgresql.may_change_schema,
    "mysql": mysql.may_change_schema,
    "mariadb": mysql.may_change_schema,
}
_TABLES: Final[_Examinations] = {
    "rights": general.rights,
    "sessions": general.sessions,
    "strangers": general.strangers,
}
_TABLES_OF_MYSQL: Final[_Examinations] = {
    "collation": mysql.collation,
    "storage engine": mysql.storage_engine,
}


def examine(engine: Engine) -> Iterator[Finding]:
    """Yield what is found, one after the other.

    Parameters
    ----------
    engine : Engine
        Whose statements have a time-out: an examination that takes longer is
        given up.

    Yields
    ------
    Finding
        After one of :data:`CONNECTION` that failed there are no more.
    """
    for name, look in (
        ("database", general.database),
        ("packages", general.packages),
        ("driver", general.driver),
    ):
        yield Finding(name, *look(engine))
    yield from _file(engine)
    connected = Finding(CONNECTION, *connect(engine))
    yield connected
    if connected.verdict is Verdict.FAILED:
        return
    backend = engine.dialect.name
    for name, examination in _BACKENDS.get(backend, _ANY).items():
        yield _examined(name, engine, examination)
    yield from _tables(engine)


def _file(engine: Engine) -> Iterator[Finding]:
    path = sqlite_file(engine.url)
    if path is None or not path.exists():
        return
    for name, look in (
        ("file", sqlite.file),
        ("file system", sqlite.file_system),
        ("disk space", sqlite.disk_space),
    ):
        try:
            outcome = look(path)
        except Exception as error:
            outcome = _not_examined(error, engine)
        yield Finding(name, *outcome)


def _tables(engine: Engine) -> Iterator[Finding]:
    backend = engine.dialect.name
    found: compatibility.Status | None = None
    try:
        with engine.connect() as connection:
            found = compatibility.status(connection)
        outcome = general.revision(found, describe(engine.url))
    except Exception as error:
        outcome = _not_examined(error, engine)
    yield Finding("revision", *outcome)
    if found is not None and backend in _SCHEMA_RIGHTS:
        may = _SCHEMA_RIGHTS[backend]
        yield _examined("schema rights", engine, partial(_schema_rights, may, found))
    if found is not None and not found.usable:
        return
    # Those whose revision cannot be told have to be asked for the reason.
    examinations = {**_TABLES, **(_TABLES_OF_MYSQL if backend in general.MYSQL else {})}
    for name, examination in examinations.items():
        yield _examined(name, engine, examination)


def _schema_rights(
    may: Callable[[Connection], bool | None], found: compatibility.Status, connection: Connection
) -> Outcome:
    return general.schema_rights(may(connection), found)


def _examined(name: str, engine: Engine, examination: Callable[[Connection], Outcome]) -> Finding:
    try:
        # One of its own: the last examination may have broken its connection.
        with engine.connect() as connection:
            outcome = examination(connection)
    except Exception as error:
        outcome = _not_examined(error, engine)
    return Finding(name, *outcome)


def _not_examined(error: Exception, engine: Engine) -> Outcome:
    return unknown(f"It could not be examined: {reason(error, engine.url)}.")
