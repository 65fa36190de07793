"""What revision a database is at, how that stands to this code, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

from sqlalchemy import Connection, Select, inspect, literal_column, select, text
from sqlalchemy.exc import DBAPIError

from ..engine.backend import backend_of
from ..tables import META, METADATA, SERVERS, SESSIONS
from .migrating import floor_at, known_revisions

#: The revision that this code was written for: the newest migration.
HEAD: Final = "0002"
#: The generation of this code. A migration that takes something away raises the
#: database's floor (``oldest_compatible_code``) above the code that needs it.
CODE: Final = 1
#: The oldest generation that the newest migration leaves room for.
FLOOR: Final = 1

VERSION_TABLE: Final = "jupyter_session_store_version"
OLDEST_COMPATIBLE_CODE: Final = "oldest_compatible_code"
STOCK_ADOPTED: Final = "stock_sessions_adopted_at"
#: What mends a database that is another's.
ANOTHER: Final = "name another database or schema (c.SessionManager.database_filepath, or --url)"
#: What a database lacks whose floor was deleted, or is no number.
_FLOOR: Final = f"a number as {OLDEST_COMPATIBLE_CODE!r} in {META.name}"


class State(Enum):
    """How a database's schema stands to this code."""

    EMPTY = "empty"
    BEHIND = "behind"
    CURRENT = "current"
    AHEAD_COMPATIBLE = "ahead but compatible"
    AHEAD_INCOMPATIBLE = "ahead and incompatible"
    #: Its revision is recorded, and tables or columns of it, or its floor, are not there.
    DAMAGED = "damaged"
    FOREIGN = "foreign"


@dataclass(frozen=True)
class Status:
    """What was found in a database; the revision is ``None`` where nothing is recorded.

    `oldest_compatible_code` is the floor that the database sets for code. `missing` says what a
    damaged one lacks.
    """

    state: State
    revision: str | None
    oldest_compatible_code: int | None = None
    stock_adopted: bool = False
    missing: tuple[str, ...] = ()
    #: As :attr:`.Backend.cluster_node` has it.
    on_cluster_node: bool = False

    @property
    def is_bare(self) -> bool:
        """Whether there is nothing but the record of a revision."""
        return {*METADATA.tables} <= {*self.missing}

    @property
    def usable(self) -> bool:
        """Whether this code can work with the database as it is."""
        return self.state in (State.CURRENT, State.AHEAD_COMPATIBLE)


def status(connection: Connection) -> Status:
    """Return how the schema stands; two statements where it is current, and no change."""
    version = text(f"SELECT version_num FROM {VERSION_TABLE}")
    try:
        revisions = list(connection.execute(version).scalars())
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        # Each database says in its own way that a table is not there.
        tables = set(inspect(connection).get_table_names())
        if not _has(connection, VERSION_TABLE, {"version_num"}):
            ours = tables & {VERSION_TABLE, *METADATA.tables}
            return Status(State.FOREIGN if ours else State.EMPTY, None)
        # It is there now: another server has migrated since, or it may not be read.
        revisions = list(connection.execute(version).scalars())
    if not revisions:
        return Status(State.EMPTY, None)
    if len(revisions) > 1:
        return Status(State.FOREIGN, ", ".join(sorted(revisions)))
    [revision] = revisions
    try:
        rows = connection.execute(_meta(connection)).all()
    except DBAPIError as error:
        meta = META.name
        if error.connection_invalidated or _has(connection, meta, {"name", "value"}):
            raise
        missing: tuple[str, ...] = _missing(connection, revision)
        # A downgrade to base that was killed leaves it, and so does a hand.
        state = State.FOREIGN
        if meta in missing and revision in known_revisions():
            state = State.DAMAGED
        return Status(state, revision, missing=missing)
    found = _judge(revision, {row.name: row.value for row in rows})
    missing = found.missing
    looked_at = found.state in (State.BEHIND, State.DAMAGED)
    if looked_at or (found.usable and rows[0].found not in (None, _COLUMNS)):
        missing = (*missing, *_missing(connection, revision))
    if rows:
        found = replace(found, on_cluster_node=bool(rows[0].cluster_node))
    return replace(found, state=State.DAMAGED, missing=missing) if missing else found


#: The tables that hold what is stored.
_STORED: Final = (SESSIONS, SERVERS)
_COLUMNS: Final = sum(len(table.columns) for table in _STORED)


def _meta(connection: Connection) -> Select[Any]:
    """Return the query for what a database says of itself, and how many of our columns it has.

    And whether it is a node of a cluster: here it costs no round trip.
    """
    backend = backend_of(connection)
    counts = [backend.count_columns(one.name, one.columns.keys()) for one in _STORED]
    columns = " + ".join(f"({count})" for count in counts if count) or "NULL"
    node = "NULL" if backend.cluster_node is None else f"({backend.cluster_node})"
    selected: list[Any] = [
        META.c.name,
        META.c.value,
        literal_column(columns).label("found"),
        literal_column(node).label("cluster_node"),
    ]
    return select(*selected)


def _missing(connection: Connection, revision: str) -> tuple[str, ...]:
    """Return the tables and columns that a database of a revision lacks.

    An older one has not all columns yet; each of our tables is as old as the first.
    """
    inspector = inspect(connection)
    missing: list[str] = []
    for name, table in METADATA.tables.items():
        if not inspector.has_table(name):
            missing.append(name)
        elif revision == HEAD or revision not in known_revisions():
            found = {column["name"] for column in inspector.get_columns(name)}
            missing += (f"{name}.{one.name}" for one in table.columns if one.name not in found)
    return tuple(missing)


def _has(connection: Connection, table: str, columns: set[str]) -> bool:
    inspector = inspect(connection)
    if not inspector.has_table(table):
        return False
    return columns <= {column["name"] for column in inspector.get_columns(table)}


def _judge(revision: str, meta: dict[str, str]) -> Status:
    adopted = STOCK_ADOPTED in meta
    try:
        floor = int(meta[OLDEST_COMPATIBLE_CODE])
    except (KeyError, ValueError):
        if revision not in known_revisions():
            return Status(State.FOREIGN, revision, None, adopted)
        # A hand has emptied the table, or a restore has left it out.
        return Status(State.DAMAGED, revision, None, adopted, (_FLOOR,))
    if floor > CODE:
        # First of all: a contracting migration raises the floor before it begins.
        state = State.AHEAD_INCOMPATIBLE
    elif revision == HEAD:
        state = State.CURRENT
    elif revision in known_revisions():
        state = State.BEHIND
    else:
        state = State.AHEAD_COMPATIBLE
    return Status(state, revision, floor, adopted)


def explain(found: Status, database: str) -> str:
    """Return what was found, what is expected and what to run."""
    where = f"The database ({database})"
    expected = f"this code expects revision {HEAD}"
    if found.state in (State.EMPTY, State.BEHIND):
        value = "safe" if found.state is State.EMPTY else "always"
        return (
            f"{describe_lack(found, database)}. Run: jupyter session-store upgrade\n"
            "or let a server do it when it starts: "
            f'c.PersistentSessionManager.auto_upgrade = "{value}"'
        )
    if found.state is State.AHEAD_COMPATIBLE:
        return (
            f"{where} is at revision {found.revision}, newer than this code, which can work "
            f"with it; {expected} or a later one. Nothing to run."
        )
    if found.state is State.AHEAD_INCOMPATIBLE:
        return (
            f"{where} is at revision {found.revision}, which needs code of generation "
            f"{found.oldest_compatible_code} or later; this code is of generation {CODE}. "
            "Run: pip install --upgrade jupyter_session_store"
        )
    if found.state is State.DAMAGED:
        mended = "; ".join(one.rstrip(";") for one in mend_damage(found))
        return (
            f"{where} is at revision {found.revision} and is damaged: it lacks "
            f"{', '.join(found.missing)}. {expected.capitalize()}, whole. Nothing was changed. "
            f"{mended}. If it is not yours, {ANOTHER}."
        )
    at = f"revision {found.revision}" if found.revision else "no revision"
    return (
        f"{where} has tables of these names that jupyter_session_store did not make or no "
        f"longer knows ({at}); {expected}. Nothing was changed. "
        f"To go on, {ANOTHER}, or move those tables away "
        f"({', '.join(sorted((VERSION_TABLE, *METADATA.tables)))})."
    )


def mend_damage(found: Status) -> tuple[str, ...]:
    """Return the statements, or the commands, that mend a database that is damaged."""
    if found.missing == (_FLOOR,):
        meta, name = META.name, OLDEST_COMPATIBLE_CODE
        floor = floor_at(str(found.revision))
        return (
            f"DELETE FROM {meta} WHERE name = '{name}';",
            f"INSERT INTO {meta} (name, value) VALUES ('{name}', '{floor}');",
        )
    return (
        "Restore a backup",
        "Or give up what is left: jupyter session-store downgrade base --yes",
        "And then make the tables anew: jupyter session-store upgrade",
    )


def describe_lack(found: Status, database: str) -> str:
    """Return what an empty database lacks, or one that is behind."""
    has = "holds no session tables"
    if found.state is State.BEHIND:
        has = f"is at revision {found.revision}, which is behind"
    return f"The database ({database}) {has}; this code expects revision {HEAD}"
