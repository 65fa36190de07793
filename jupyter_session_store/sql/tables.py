"""The tables as the newest migration leaves them.

Only Alembic changes the schema; the migrations do not import this module, so
that an old one goes on saying what it said. A test compares the two.

Statements are made of these, and the declarative model in :mod:`.models` is mapped to them: a
server needs no mapper, and the import of one takes 60 ms and 6 MiB.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Final

from sqlalchemy import (
    Column,
    Connection,
    DateTime,
    Dialect,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    event,
    text,
)
from sqlalchemy.types import TypeDecorator, TypeEngine

from .engine.backend import backend_of

#: What a date that no clock wrote is read as, so that one row edited by hand
#: does not fail a whole list.
EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


class UTCDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC, to the microsecond, on every database."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the column's type."""
        return backend_of(dialect).date_time()

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        """Turn an aware datetime into what the driver takes."""
        return None if value is None else backend_of(dialect).date_parameter(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """Turn what the driver gives into an aware datetime in UTC."""
        return to_utc(value)


def to_utc(value: Any) -> datetime:
    """Turn what a driver gives for a date into an aware datetime in UTC."""
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if value.tzinfo is timezone.utc:
            aware: datetime = value
        elif value.tzinfo is None:
            aware = value.replace(tzinfo=timezone.utc)
        else:
            aware = value.astimezone(timezone.utc)
    except (AttributeError, OverflowError, ValueError):
        return EPOCH
    return aware


class ExactText(TypeDecorator[str]):
    """A text that compares and sorts by its code points on every database.

    Its length is in characters; without one the text is long and never compared.
    """

    impl = String
    cache_ok = True

    def __init__(self, length: int | None = None) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the column's type."""
        return backend_of(dialect).exact_text(self.length)


#: Constraints are named, so that a migration can change them.
METADATA: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
SESSIONS: Final = Table(
    "jupyter_sessions",
    METADATA,
    Column("namespace", ExactText(255), primary_key=True, doc="The tenant."),
    Column(
        "session_id",
        ExactText(255),
        primary_key=True,
        doc="As in the REST API; unique in the namespace.",
    ),
    Column(
        "path",
        ExactText(4096),
        doc="As in the REST API; null where the row only names a kernel to look for.",
    ),
    Column(
        "path_digest",
        ExactText(64),
        doc="SHA-256 of the path, in hexadecimal: a key on the path itself would be too long for "
        "MySQL.",
    ),
    Column("name", ExactText(1024), doc="As in the REST API."),
    Column("type", ExactText(255), doc="`notebook`, `console`, `file`, or a client's own."),
    Column(
        "kernel_id", ExactText(255), doc="The kernel that it is on; null where that has no id yet."
    ),
    Column(
        "kernel_name",
        ExactText(255),
        doc="The kernel specification that the kernel was started from.",
    ),
    Column(
        "kernel_model",
        ExactText,
        doc="The last known model of the kernel, as JSON: shown while the kernel cannot be asked.",
    ),
    Column(
        "authority",
        ExactText(255),
        nullable=False,
        doc="What alone can say that the kernel is gone: `server:` and a server's id, or "
        "`gateway:` and a gateway's name.",
    ),
    Column(
        "server_id",
        ExactText(255),
        doc="The server that created the session, has taken it over, or is closing it.",
    ),
    Column("state", ExactText(16), nullable=False, doc="`starting`, `ready` or `closing`."),
    Column(
        "claim",
        ExactText(64),
        doc="The right to the path: SHA-256 of the authority and the path; null where none is "
        "held.",
    ),
    Column(
        "created_at",
        UTCDateTime,
        nullable=False,
        doc="From the clock of the server that wrote it first.",
    ),
    Column(
        "updated_at",
        UTCDateTime,
        nullable=False,
        doc="From the clock of the server that wrote it last.",
    ),
    Column(
        "version",
        Integer,
        server_default=text("1"),
        nullable=False,
        doc="Counts the changes of the row; 1 at first.",
    ),
    UniqueConstraint("namespace", "claim"),
    Index(None, "namespace", "path_digest"),
    Index(None, "namespace", "kernel_id"),
    # For a list. Without the id, by which that is ordered last: three texts of 1,020 bytes do
    # not fit into an index of PostgreSQL.
    Index(None, "namespace", "authority", "created_at"),
)
SERVERS: Final = Table(
    "jupyter_servers",
    METADATA,
    Column("namespace", ExactText(255), primary_key=True, doc="The tenant."),
    Column("server_id", ExactText(255), primary_key=True, doc="Chosen at random at each start."),
    Column("hostname", ExactText(255), doc="The host that it runs on."),
    Column("pid", Integer, doc="Its process on that host."),
    Column("version", ExactText(255), doc="Of this package, and of Python."),
    Column("started_at", UTCDateTime, nullable=False, doc="From its own clock; for people."),
    Column("renewals", Integer, nullable=False, doc="Grows with each renewal of the lease."),
    Column(
        "lease_seconds",
        Integer,
        nullable=False,
        doc="For how many seconds that may stand still before the others hold it for dead.",
    ),
)
META: Final = Table(
    "jupyter_session_store_meta",
    METADATA,
    Column("name", ExactText(64), primary_key=True, doc="Of what is said."),
    Column("value", ExactText(255), nullable=False, doc="What is said."),
)


def _name_storage(table: Table, connection: Connection, **_: object) -> None:
    # Not in the table's definition: there SQLAlchemy imports the dialect of each option.
    dialect = connection.dialect
    for option, value in backend_of(dialect).table_options.items():
        table.dialect_kwargs[f"{dialect.name}_{option}"] = value


for _table in METADATA.tables.values():
    event.listen(_table, "before_create", _name_storage)
